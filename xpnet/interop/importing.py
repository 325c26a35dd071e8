"""``xpnet import FILE OUT``: a network of another library, as a saved model of xpnet."""

from pathlib import Path

from xpnet.errors import ConfigError, DataError
from xpnet.interop.imported import Imported
from xpnet.interop.onnx.read import from_onnx
from xpnet.interop.pytorch.read import from_torch
from xpnet.run.trained_run import load
from xpnet.training.trainer import Trainer

__all__ = ["import_file"]

OTHERS = (".onnx", ".pt", ".pth", ".bin", ".html")  # the names of other forms
STATES = (".pt", ".pth", ".bin", ".safetensors")


def import_file(
    file: str | Path, output: str | Path, *, like: str | Path | None = None, loss: str | None = None
) -> list[str]:
    """Save the network in ``file`` as a trainer at ``output``; return lines on what was read.

    ``like`` is a run or a saved model whose layers those of a state dict are. Raises ConfigError
    for what cannot be read or would be replaced, DataError where there is no such file.
    """
    path = Path(file)
    if not path.is_file():
        name = str(path)
        msg = f"{name!r} is a folder, not a file" if path.is_dir() else f"no file {name!r}"
        raise DataError(msg)
    _check_output(path, Path(output))
    trainer = _read(path, like, loss)
    saved = trainer.save(output)
    names = [*map(repr, trainer.model.layers)]
    return [
        *trainer.notes,
        f"{saved}: {', '.join(names)}; loss {trainer.loss!r}",
    ]


def _check_output(path: Path, output: Path) -> None:
    if output.suffix.lower() in OTHERS:
        msg = f"{output.name!r} is no name for a model of xpnet's: end it in .safetensors"
        raise ConfigError(msg)
    if output.exists() and output.samefile(path):
        msg = f"{output} is what would be imported, and would be replaced"
        raise ConfigError(msg, python="choose another output", command="choose another OUT")


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
    shape = trainer.model.input_shape or ()
    return from_torch(
        path,
        trainer.model,
        loss=loss or trainer.loss,
        input_shape=shape if len(shape) > 1 else None,  # which flat weights do not say
    )
