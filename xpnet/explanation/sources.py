"""What can be explained, as Python and the command line name it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xpnet.errors import ConfigError
from xpnet.explanation.chosen import Sample, check_sample
from xpnet.explanation.data_subject import given_rows, of_config, of_run, of_trainer
from xpnet.explanation.subject import Subject, of_sizes, tiny
from xpnet.run import Run, load
from xpnet.run.plain_run import is_saved, plain_run
from xpnet.training.trainer import Trainer

__all__ = ["subject_of"]

MOST_ROWS = 10**6
OWN = {
    "python": "omit loss, activation and seed",
    "command": "omit --loss, --activation and --seed",
}


def subject_of(
    source: Any,
    batch: int | None = None,
    sample: Sample | None = None,
    label: int | None = None,
    loss: str | None = None,
    activation: str | None = None,
    seed: int | None = None,
    x: Any = None,
    y: Any = None,
) -> Subject:
    """Return the subject that ``source`` names.

    That is None, widths, a recipe, a file, a run or its folder, a saved model or a Trainer. ``x``
    and ``y`` are rows for a run or a trainer. A Subject is returned as it is. Raises ConfigError,
    CheckpointError or DataError.
    """
    options = (batch, sample, label, loss, activation, seed)
    if isinstance(source, Subject):
        if options != (None,) * 6 or x is not None:
            msg = "a Subject has its own rows, loss and weights: omit the options"
            raise ConfigError(msg)
        return source
    sample = check_sample(sample)
    _check_numbers(batch, sample, seed)
    path = source if isinstance(source, str | Path) else None
    saved = path is not None and (Path(path).is_dir() or is_saved(path))
    if saved or isinstance(source, Run | Trainer):
        if (loss, activation, seed) != (None, None, None):
            whose = "trainer" if isinstance(source, Trainer) else "run"
            msg = f"a {whose} has its own loss, activation and seed"
            raise ConfigError(msg, **OWN)
        found = load(path, backend="numpy", device="cpu") if path is not None else source
        return _of_trained(found, path, batch, sample, label, x, y)
    if x is not None or y is not None:
        msg = "rows of your own are for a trained run or a Trainer"
        raise ConfigError(msg, python="omit x and y", command="omit the FILE of rows")
    if path is not None:
        return of_config(str(path), batch or 1, sample, loss, activation, label, seed)
    if not isinstance(source, Sequence | None):
        msg = "explain takes widths such as [784, 128, 10], a recipe, a TOML file, a run folder, "
        msg += f"a Run, a Trainer or a Subject; got {type(source).__name__}"
        raise ConfigError(msg)
    _refuse_choice(sample)
    if source is None and batch in (None, 1):
        return tiny(loss, activation, label, seed)
    return of_sizes((3, 3) if source is None else source, batch or 1, loss, activation, label, seed)


def _of_trained(
    found: Any,
    path: Any,
    batch: int | None,
    sample: Sample | None,
    label: int | None,
    x: Any,
    y: Any,
) -> Subject:
    if x is None and y is not None:
        msg = "y is the labels of rows x, which are missing"
        raise ConfigError(msg, python="pass x, too")
    if isinstance(found, Trainer) and x is None:
        _refuse_choice(sample)
        return of_trainer(found, batch, label)
    if isinstance(found, Trainer) and isinstance(x, str | Path):
        found = plain_run(path or "trainer", found)
    if isinstance(found, Trainer):
        return of_trainer(found, batch, label, sample=sample, x=x, y=y)
    part = None if x is None else given_rows(found, x, y)
    return of_run(found, batch, sample, label, part=part)


def _check_numbers(batch: int | None, sample: Sample | None, seed: int | None) -> None:
    number = 0 if sample is None or isinstance(sample, str) else sample
    batch = 1 if batch is None else batch
    if not (1 <= batch <= MOST_ROWS and number >= 0 and 0 <= (seed or 0) < 2**63):
        msg = f"batch must be 1 to {MOST_ROWS}, sample >= 0 and seed 0 to 2^63 - 1; "
        msg += f"got {batch}, {number} and {seed or 0}"
        raise ConfigError(msg)


def _refuse_choice(sample: Sample | None) -> None:
    if sample:
        msg = "synthetic rows have no sample to choose"
        raise ConfigError(msg, python="omit sample", command="omit --sample")
