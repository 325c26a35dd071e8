"""A model, or its training step, written to a file for other programs: ``xpnet export``."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from xpnet.errors import ConfigError
from xpnet.interop.onnx.export_step import export_step, write_step
from xpnet.interop.onnx.model import forward_model
from xpnet.interop.onnx.opset import NEWEST, with_opset
from xpnet.interop.pytorch.export import write_torch
from xpnet.run.trained_run import Run, load
from xpnet.settings import PositiveInt, convert
from xpnet.storage.durable import write_output
from xpnet.training.memory import in_words
from xpnet.training.trainer import Trainer

if TYPE_CHECKING:
    import onnx

__all__ = ["Form", "export"]

Form = Literal["onnx", "html", "torch"]
TYPES = {
    1: "float32",
    6: "int32",
    7: "int64",
    8: "text",
    9: "boolean",
    11: "float64",
}  # of TensorProto


class Estimator(Protocol):
    """One of :mod:`xpnet.sklearn`."""

    def to_trainer(self) -> Trainer: ...


Source = Trainer | Run | str | Path


def export(
    source: Source | Estimator,
    path: str | Path,
    *,
    train: bool = False,
    form: Form | None = None,
    epochs: int | None = None,
    rows: int | None = None,
    lr_input: bool = False,
    trained: bool = False,
    runtime: str | None = None,
    opset: int | None = None,
) -> list[str]:
    """Write a trained model to ``path``, replacing it; return lines on what was written.

    ``source`` is a trainer, a run, an estimator of :mod:`xpnet.sklearn`, or the path of a run or a
    saved model, which ``path`` must not be. ``form`` is by default told by the name:

    - "onnx", the model from raw rows to classes or values (:mod:`xpnet.interop.onnx.model`), or
      with ``train`` its training step (:mod:`xpnet.interop.onnx.step`), with the schedule of
      ``epochs`` of ``rows`` rows, or with the learning rate as an input (``lr_input``).
      Older runtimes take an earlier ``opset`` (:mod:`xpnet.interop.onnx.opset`);
    - "html", with ``train``: a page that trains in a browser, on the first ``rows`` of the run's
      data, from its first weights or those that were ``trained``; ``runtime`` is the folder or
      address of onnxruntime-web;
    - "torch", safetensors in the names of PyTorch; the lines are the source that loads it.

    Raises ConfigError for what the form does not have, BackendError where onnx and ndonnx are not
    installed, and TrainingError for a model that has learnt nothing.
    """
    source = _given(source, path)
    path = Path(path)
    convert(Form | None, form, "form")
    for name, number in (("epochs", epochs), ("rows", rows), ("opset", opset)):
        convert(PositiveInt | None, number, name)
    form = form or _form(path)
    options: dict[str, object] = {
        "epochs": epochs,
        "rows": rows,
        "lr_input": lr_input,
        "trained": trained,
    }
    options["runtime"] = runtime
    given = [name for name, value in options.items() if value]
    if not train and given:
        msg = f"{given[0]} is for the training step"
        raise ConfigError(msg, python="pass train=True", command="add --train")
    if opset is not None and form != "onnx":
        msg = f"opset is for the form onnx, not {form}"
        raise ConfigError(msg, python="omit opset", command="omit --opset")
    if form == "torch":
        if train:
            msg = "the form torch has weights alone"
            raise ConfigError(msg, python="omit train", command="omit --train")
        return write_torch(_loaded(source), path).splitlines()
    if not train:
        if form == "html":
            msg = "a page trains"
            raise ConfigError(msg, python="pass train=True", command="add --train")
        loaded = _loaded(source)
        makers = [partial(forward_model, loaded, fuse=fuse) for fuse in (True, False)]
        return _written(with_opset(makers, NEWEST if opset is None else opset), path)
    named = source
    if isinstance(source, str | Path) and Path(source).is_file():
        source = _loaded(source)  # perhaps a trainer
    if isinstance(source, Trainer):
        if form == "html" or trained or runtime:
            what = "this is" if isinstance(named, Trainer) else f"{named} is"
            msg = f"{what} a model that was saved without a run, and a page has its data in itself"
            raise ConfigError(
                msg,
                python="train with xpnet.train(data, start_from=...), and export that run",
                command=f"xpnet train FILE --from {named}, and export that run",
            )
        return write_step(
            source, path, epochs=epochs, rows=rows, lr_input=lr_input, opset=opset or NEWEST
        )
    folder = source.folder.path if isinstance(source, Run) else source
    return export_step(
        folder,
        path,
        form,
        epochs=epochs,
        rows=rows,
        lr_input=lr_input,
        trained=trained,
        runtime=runtime,
        opset=opset or NEWEST,
    )


def _given(source: object, path: object) -> Source:
    """What is exported; raises ConfigError if it is none, or the path no path or the source's."""
    source = source.to_trainer() if hasattr(source, "to_trainer") else source
    if not isinstance(source, Trainer | Run | str | Path):
        msg = f"export takes a Trainer, a Run or the path of one; got {type(source).__name__}"
        raise ConfigError(msg)
    if not isinstance(path, str | Path):
        msg = f"path must name a file, as text or a Path; got {path!r}"
        raise ConfigError(msg)
    if isinstance(source, Trainer | Run):
        return source
    if Path(path).exists() and Path(source).exists() and Path(path).samefile(source):
        msg = f"{path} is what would be exported, and would be replaced"
        raise ConfigError(msg, python="choose another path", command="choose another FILE")
    return source


def _form(path: Path) -> Form:
    suffix = path.suffix.lower()
    if suffix in (".html", ".htm"):
        return "html"
    if suffix == ".safetensors":
        return "torch"
    if suffix != ".onnx":
        msg = f"the name {path.name!r} does not tell the form of the file"
        raise ConfigError(
            msg,
            python="end it in .onnx, .html or .safetensors, or pass form=...",
            command="end it in .onnx, .html or .safetensors, or add --format",
        )
    return "onnx"


def _loaded(source: Source) -> Trainer | Run:
    if isinstance(source, Trainer | Run):
        return source
    return load(source, backend="numpy", device="cpu")


def _written(model: "onnx.ModelProto", path: Path) -> list[str]:
    """Write the model, and say what it takes and gives."""
    data = model.SerializeToString()
    write_output(path, [data])
    opset = next(o.version for o in model.opset_import if not o.domain)
    graph = model.graph
    return [
        f"{path}: {len(graph.node)} nodes, {in_words(len(data))}, opset {opset}",
        *(f"input  {_described(value)}" for value in graph.input),
        *(f"output {_described(value)}" for value in graph.output),
    ]


def _described(value: "onnx.ValueInfoProto") -> str:
    tensor = value.type.tensor_type
    shape = [d.dim_param or str(d.dim_value) for d in tensor.shape.dim]
    return f"{value.name}  {TYPES[tensor.elem_type]} ({', '.join(shape)}{',' * (len(shape) == 1)})"
