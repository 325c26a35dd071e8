"""``xpnet export RUN FILE --train``: the step of a run, or the page, written to a file."""

from functools import partial
from pathlib import Path

from xpnet.errors import ConfigError
from xpnet.interop.onnx.html import render
from xpnet.interop.onnx.opset import NEWEST, with_opset
from xpnet.interop.onnx.step import about, refuse, step_model
from xpnet.run.trained_run import load_run, make_trainer
from xpnet.storage.durable import write_output
from xpnet.training.memory import in_words
from xpnet.training.trainer import Trainer

__all__ = ["export_step"]


def export_step(
    run: str | Path,
    output: Path,
    form: str,
    *,
    epochs: int | None = None,
    rows: int | None = None,
    lr_input: bool = False,
    trained: bool = False,
    runtime: str | None = None,
    opset: int = NEWEST,
) -> list[str]:
    """Write the step of a run as ``form``, "onnx" or "html"; return lines on what was written.

    The step goes on from the run's checkpoint; the page begins with its first weights, or with
    those that were ``trained``. Raises ConfigError for what the form does not have.
    """
    options = {"rows": rows, "trained": trained, "runtime": runtime}
    foreign = [k for k, v in options.items() if v] if form == "onnx" else ["lr_input"] * lr_input
    if foreign:
        option = f"--{foreign[0].replace('_', '-')}"
        msg = f"{foreign[0]} is not for the form {form}"
        raise ConfigError(
            msg,
            python=f"omit {foreign[0]}, or name another file",
            command=f"leave {option} out, or name another FILE",
        )
    found = load_run(run, backend="numpy", device="cpu", which="last")
    if form == "html":
        page = render(found, runtime=runtime, rows=rows, epochs=epochs, trained=trained)
        write_output(output, [page.encode()])
        carried = "open it in a browser; it needs no network"
        if runtime is None or "://" in runtime:
            carried = "it loads onnxruntime-web from the network; --runtime DIR puts it into it"
        return [f"{output}: {in_words(len(page.encode()))}; {carried}"]
    refuse(found.config.mixed, found.config.accumulate)
    if found.trainer.updates_before:
        msg = f"{run} keeps the optimizer's state of another run, whose updates an exported step "
        msg += "does not count"
        raise ConfigError(msg, python="start without optimizer_state")
    config, record = found.config, found.folder.read_json(found.folder.run_path)
    if "train_rows" not in record:
        msg = f"{run} has no run.json, which says how many rows an epoch has"
        raise ConfigError(msg, python="give the folder of a run")
    trainer = make_trainer(config, found.preprocessing, "numpy")
    trainer.restore(*found.trainer.snapshot())
    (line,) = write_step(
        trainer,
        output,
        epochs=epochs or int(config.epochs),
        rows=int(record["train_rows"]),
        weight=config.data.columns.weight is not None,
        lr_input=lr_input,
        opset=opset,
    )
    checkpoint = "" if found.checkpoint is None else f"; its state is in {found.checkpoint.path}"
    return [line + checkpoint]


def write_step(
    trainer: Trainer,
    output: Path,
    *,
    epochs: int | None = None,
    rows: int | None = None,
    weight: bool = False,
    lr_input: bool = False,
    opset: int = NEWEST,
) -> list[str]:
    """Write the step of a trainer as an ONNX model; return a line on what was written."""
    make = partial(
        step_model,
        trainer,
        epochs=epochs,
        rows=rows,
        targets=_targets(trainer),
        weight=weight,
        learning_rate="input" if lr_input else "schedule",
    )
    model = with_opset([partial(make, fuse=fuse) for fuse in (True, False)], opset)
    write_output(output, [model.SerializeToString()])
    return [f"{output}: {len(model.graph.node)} nodes, step {about(model)['step']}"]


def _targets(trainer: Trainer) -> int | None:
    """How many columns y has: None are class indices, 0 one number for each row."""
    outputs = trainer.model.output_shape[-1]
    if trainer.loss.predicts == "class":
        return None
    return 0 if outputs == 1 else outputs
