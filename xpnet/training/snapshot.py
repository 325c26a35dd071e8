"""What a checkpoint's data must be before a training continues from it.

The digests of a checkpoint tell that nothing happened to it. They do not tell who made it, so its
content is checked like any other input.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from xpnet.errors import CheckpointError, ConfigError
from xpnet.optim.schedules import Schedule

__all__ = ["Position", "Resumed", "check_length", "resumed"]

LARGEST = 2**31 - 1  # steps are counted in int32 on the device


class Position(NamedTuple):
    """Where a run is: ``batch`` batches into ``epoch``, after ``step`` steps in all."""

    epoch: int = 0
    batch: int = 0
    step: int = 0


def check_length(epochs: int, steps_per_epoch: int) -> None:
    """Raise ConfigError if a training has more steps than can be counted."""
    if epochs * steps_per_epoch > LARGEST:
        msg = f"{epochs} epochs of {steps_per_epoch} steps are more than {LARGEST} steps: "
        msg += "lower epochs, or raise batch_size"
        raise ConfigError(msg)


class Resumed(NamedTuple):
    """The JSON data of a snapshot, checked."""

    position: Position
    schedule: dict[str, Any]
    history: list[dict[str, Any]]
    callbacks: dict[str, dict[str, Any]]  # by the names of xpnet.training.callbacks.named
    threads: dict[str, int]  # by the name of the backend, if one was chosen
    algorithms: dict[str, str]  # by what they are for, where the step chose any
    class_weights: tuple[float, ...] | None  # those that were counted
    columns: tuple[str, ...] | None  # of x, where it was a table
    classes: tuple[Any, ...] | None  # the labels of the classes, where they are no indices
    updates_before: int = 0  # in a training whose optimizer this one goes on with


def resumed(meta: Mapping[str, Any], schedule: Schedule) -> Resumed:
    """Check the JSON data of a snapshot and split it up; raises CheckpointError if invalid.

    >>> from xpnet.optim.schedules import Constant
    >>> resumed({"position": {"epoch": -1}}, Constant())
    Traceback (most recent call last):
    xpnet.errors.CheckpointError: cannot resume from the checkpoint: invalid position {'epoch': -1}
    """
    checks = {
        "position": _is_position,
        "schedule": lambda value: _is_like(value, schedule.init()),
        "history": lambda value: isinstance(value, list) and all(map(_is_record, value)),
        "callbacks": lambda value: _is_table(value) and all(map(_is_table, value.values())),
        "threads": lambda value: _is_table(value) and all(map(_is_count, value.values())),
        "algorithms": lambda value: _is_table(value) and _are_texts([*value.values()]),
        "class_weights": lambda value: value is None or _are_weights(value),
        "updates_before": _is_count,
        "columns": lambda value: value is None or _are_texts(value),
        "classes": lambda value: value is None or _are_labels(value),
    }
    if not isinstance(meta, Mapping):
        msg = f"cannot resume from {type(meta).__name__}: pass what snapshot returned"
        raise CheckpointError(msg)
    # Earlier versions did not choose some.
    meta = {"threads": {}, "algorithms": {}, "updates_before": 0, **meta}
    for key, is_good in checks.items():
        if not is_good(meta.get(key)):
            shown = " ".join(str(meta.get(key)).split())[:80]
            msg = f"cannot resume from the checkpoint: invalid {key} {shown}"
            raise CheckpointError(msg)
    position = Position(**meta["position"])
    history = list(meta["history"])
    # What a schedule remembers is of the value that it watched.
    watched = meta.get("monitor", "loss") == schedule.monitor
    state = meta["schedule"] if watched else dict(schedule.init())
    weights = meta.get("class_weights")
    counted = None if weights is None else tuple(map(float, weights))
    names, labels = (meta.get(key) for key in ("columns", "classes"))
    columns = None if names is None else tuple(names)
    classes = None if labels is None else tuple(labels)
    shared = meta["callbacks"], meta["threads"], meta["algorithms"], counted
    before = meta["updates_before"]
    return Resumed(position, state, history, *shared, columns, classes, before)


def _is_position(value: Any) -> bool:
    return (
        _is_table(value)
        and value.keys() == set(Position._fields)
        and all(map(_is_count, value.values()))
    )


def _is_record(value: Any) -> bool:
    return (
        _is_table(value)
        and _is_count(value.get("epoch"))
        and _is_count(value.get("step"))
        and all(type(n) in (int, float) for key, n in value.items() if key != "norms")
        and _are_norms(value.get("norms", {}))
    )


def _are_norms(value: Any) -> bool:
    """Whether it is a number for each name, for each layer."""
    return _is_table(value) and all(
        _is_table(layer) and all(type(norm) in (int, float) for norm in layer.values())
        for layer in value.values()
    )


def _are_weights(value: Any) -> bool:
    return isinstance(value, list) and all(
        type(w) in (int, float) and 0 <= w < math.inf for w in value
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(type(text) is str for text in value)


def _are_labels(value: Any) -> bool:
    if not isinstance(value, list) or len(value) < 2:
        return False
    kinds = {type(label) for label in value}
    return len(kinds) == 1 and kinds <= {str, int, bool} and len(set(value)) == len(value)


def _is_like(value: Any, first: Mapping[str, Any]) -> bool:
    """Whether it has the keys of ``first``, counts for its counts and numbers for its None."""
    return (
        _is_table(value)
        and value.keys() == first.keys()
        and all(
            _is_count(n) if _is_count(first[key]) else n is None or type(n) in (int, float)
            for key, n in value.items()
        )
    )


def _is_table(value: Any) -> bool:
    return isinstance(value, dict)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST
