"""``xpnet show RUN``: the layers of a run or a saved model, its history, scores and settings."""

from typing import Any

from xpnet.cli.output import add_column, add_row, print_json, say, show
from xpnet.errors import CheckpointError
from xpnet.nn import Sequential
from xpnet.registry import name_of
from xpnet.run import Run
from xpnet.run.config import Config, table_of, to_toml
from xpnet.run.overview import Overview, number

__all__ = ["show_run", "show_saved"]


def show_saved(run: Run, path: str, epochs: int, *, as_json: bool) -> None:
    """Print what is in one file: a run, or a model that was saved without one."""
    trainer, config = run.trainer, None if run.checkpoint is None else run.config
    if as_json:
        kind = "model" if config is None else "run"
        document: dict[str, Any] = {"kind": kind, "path": path, "layers": _layers(trainer.model)}
        document |= {"epochs": len(trainer.history), "history": trainer.history[-epochs:]}
        print_json({**document, "config": _table(config)})
        return
    say(*(trainer if config is None else trainer.model).summary().splitlines())
    if config is not None:
        say("")
        if columns := run.preprocessing.columns:
            say(*columns.lines(run.preprocessing.classes))
    _say_epochs(trainer.history[-epochs:], len(trainer.history))
    if config is not None:
        say("", *to_toml(config).split("\n")[:-1])


def show_run(run: Run | None, seen: Overview, epochs: int, *, as_json: bool) -> None:
    """Print a run folder; ``run`` is None while it has no checkpoint yet."""
    if seen.config is None:
        raise CheckpointError(seen.note)
    last, total = seen.history[-epochs:], seen.epochs
    columns = None if run is None else run.preprocessing.columns
    lines = columns.lines(run.preprocessing.classes) if run and columns else []
    if as_json:
        document: dict[str, Any] = {"kind": "run", **seen.row(), "columns": lines}
        document |= {"layers": None if run is None else _layers(run.trainer.model)}
        document |= {"history": last, "test": seen.report, "record": seen.record}
        print_json({**document, "config": _table(seen.config)})
        return
    if run is None:
        say("no checkpoint yet: the layers are shown once there is one", "")
    else:
        say(*run.trainer.model.summary().splitlines(), "", *lines)
    _say_epochs(last, total)
    _say_record(seen)
    say("", *to_toml(seen.config).split("\n")[:-1])


def _say_record(seen: Overview) -> None:
    record = seen.record
    if {"backend", "version", "device", "dtype"} <= record.keys():
        say("{backend} {version} on {device}, {dtype}".format_map(record))
    if {"ranks", "engine"} <= record.keys():
        say(f"{record['engine']}")
    if record.get("threads") and "threads_reason" in record:
        say("threads {threads}: {threads_reason}".format_map(record))
    if seen.status in ("training", "interrupted") and record.get("status") == "training":
        say(f"status {seen.status}: {seen.note}")
    elif "status" in record:
        say(f"status {record['status']}")
    for key in ("seconds", "started"):
        if key in record:
            say(f"{key} {record[key]}")
    for key in ("loss", "accuracy", "r2"):
        if (value := number(seen.report.get(key))) is not None:
            say(f"test {key} {value:.4f}")


def _say_epochs(shown: list[dict[str, Any]], total: int) -> None:
    if shown:
        say(f"last {len(shown)} of {total} epochs")
        show(_history(shown))


def _history(epochs: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    known = ("epoch", "lr", "loss", "accuracy", "val_loss", "val_accuracy", "seconds")
    names = [name for name in known if name in epochs[-1]]
    table = Table()
    for name in names:
        add_column(table, name, justify="right")
    for record in epochs:
        cells = [record.get(name, "") for name in names]
        add_row(table, *(f"{c:.4g}" if isinstance(c, float) else c for c in cells))
    return table


def _table(config: Config | None) -> dict[str, Any] | None:
    return None if config is None else table_of(config)


def _layers(model: Sequential) -> list[dict[str, Any]]:
    """The layers as data; shapes are those of one example."""
    rows = zip(model.layers, model.shapes(), model.variables(), strict=True)
    return [
        {
            "layer": name_of(layer),
            "output_shape": shape,
            "arrays": {name: variable.shape for name, variable in variables.items()},
        }
        for layer, shape, variables in rows
    ]
