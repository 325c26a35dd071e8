"""``xpnet import FILE OUT``: a network of another library, as a saved model of xpnet."""

from pathlib import Path

from xpnet.errors import ConfigError, DataError
from xpnet.interop.imported import Imported
from xpnet.interop.onnx.read import from_onnx
from xpnet.interop.pytorch.read import from_torch
from xpnet.run.trained_run import load
from xpnet.training.trainer import Trainer

__all__ = ["import_file"]

STATES = (".pt", ".pth", ".bin", ".safetensors")


def import_file(
    file: str | Path, output: str | Path, *, like: str | Path | None = None, loss: str | None = None
) -> list[str]:
    """Save the network in ``file`` as a trainer at ``output``; return lines on what was read.

    ``like`` is a run or a saved model whose layers those of a state dict are. Raises ConfigError
    for what cannot be read, DataError where there is no such file.
    """
    path = Path(file)
    if not path.is_file():
        msg = f"no file {str(path)!r}"
        raise DataError(msg)
    trainer = _read(path, like, loss)
    saved = trainer.save(output)
    names = [*map(repr, trainer.model.layers)]
    return [
        *trainer.notes,
        f"{saved}: {', '.join(names)}; loss {trainer.loss!r}",
    ]


def _read(path: Path, like: str | Path | None, loss: str | None) -> Imported:
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        if like is not None:
            msg = "an ONNX model has its own layers"
            raise ConfigError(msg, python="omit like", command="omit --like")
        return from_onnx(path, loss=loss)
    if suffix not in STATES:
        msg = f"{path.name!r} is neither an ONNX model (*.onnx) nor a state dict of PyTorch's ("
        msg += f"{', '.join(f'*{s}' for s in STATES)})"
        raise ConfigError(msg)
    if like is None:
        msg = f"{path.name}, a state dict, does not say what is between its layers"
        raise ConfigError(
            msg,
            python="pass like, a run or a saved model that has the layers",
            command="add --like RUN, a run or a saved model that has the layers, or export ONNX",
        )
    model = load(like, backend="numpy", device="cpu")
    trainer = model if isinstance(model, Trainer) else model.trainer
    return from_torch(path, trainer.model, loss=loss or trainer.loss)
