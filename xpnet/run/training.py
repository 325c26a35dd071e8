"""Training into a run folder, from the beginning or from where it was left."""

import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from xpnet.backends import Resolved, resolve
from xpnet.callbacks import Callback, Checkpointing, EarlyStopping, HistoryFile, StopOnSignal
from xpnet.checkpoint import Checkpoint, CheckpointFolder, RunLock, preflight
from xpnet.config import Config, parse_duration
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.params import layouts
from xpnet.run.examples import Examples, load_examples
from xpnet.run.folder import RunFolder, load_run, make_trainer
from xpnet.run.scores import scores
from xpnet.schema import dump
from xpnet.trainer import Trainer

__all__ = ["Outcome", "train"]

# What may differ when a run goes on: how long, where, and how often it is saved. The data may lie
# elsewhere; that it is the same is told by its fingerprint.
MAY_CHANGE = (
    *("epochs", "backend", "device", "compile", "accumulate", "checkpoint", "early_stopping"),
    *("data.source", "data.test", "data.data_dir", "data.placement"),
)


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    folder: RunFolder
    stopped: str | None  # why before the last epoch, if so
    interrupted: bool
    test: Mapping[str, Any] | None  # scores on the test part; None if interrupted or without one


def train(
    config: Config,
    out: str | Path,
    *,
    resume: bool = False,
    progress: Callback | None = None,
    report: Callable[[str], None] = print,
    warn: Callable[[str], None] | None = None,
) -> Outcome:
    """Train as ``config`` says into the folder ``out``, and score the result on the test part.

    With ``resume`` the run goes on from its newest good checkpoint, or begins where there is none.
    ``report`` is called with each line meant for the user, ``warn`` (else ``report``) with those
    that tell of trouble.

    Raises ConfigError, DataError or BackendError before anything is written, CheckpointError where
    the folder is in use, holds another run or cannot be written.
    """
    folder, warn = RunFolder(out), warn or report
    if not resume:
        _check_new(folder)
    elif folder.config_path.exists():
        _check_same(config, folder)
    chosen = resolve(config.backend, config.device, config.dtype)
    report(f"backend {chosen.backend.name} on {chosen.backend.device_name} ({chosen.reason})")
    examples = load_examples(config)
    report(_describe(examples))
    trainer = make_trainer(config, examples.preparation, chosen.backend)
    n_params = layouts(trainer.model)[0].size
    report(f"model {_chain(trainer)}: {n_params:,} parameters, {config.dtype}")
    with ExitStack() as stack:
        _open(folder, trainer, stack, warn)
        if not resume:  # another training may have come and gone since it was last asked
            _check_new(folder)
        checkpoints = CheckpointFolder(folder.checkpoint_path, config.checkpoint.keep)
        _go_on(trainer, examples, checkpoints, warn)
        if resume:
            report(_position(trainer, config))
        record = _record(config, chosen, examples, n_params, folder.read_json(folder.run_path))
        folder.write_config(config)
        folder.write_json(folder.run_path, {**record, "status": "training"})
        interrupted = _fit(config, trainer, examples, checkpoints, folder, record, progress, warn)
        if trainer.stopped and not interrupted:
            report(f"stopped: {trainer.stopped}")
        test = None if interrupted else _test(folder, chosen, examples, warn)
    return Outcome(folder, trainer.stopped, interrupted, test)


def _fit(
    config: Config,
    trainer: Trainer,
    examples: Examples,
    checkpoints: CheckpointFolder,
    folder: RunFolder,
    record: dict[str, Any],
    progress: Callback | None,
    warn: Callable[[str], None],
) -> bool:
    """Train, and record how it ended; say whether a signal ended it."""
    began, signals = time.monotonic(), StopOnSignal()
    callbacks = [
        *([progress] if progress else []),
        HistoryFile(folder.history_path, warn),
        *_early_stopping(config),
        signals,
        _checkpointing(config, checkpoints, examples, warn),
    ]
    feed, backend = examples.preparation.feed, trainer.engine.backend
    status = "finished"
    try:
        checks = None if examples.validation is None else feed(backend, examples.validation)
        trainer.fit(
            feed(backend, examples.train, config.data.placement),
            epochs=config.epochs,
            validation=checks,
            callbacks=callbacks,
        )
        status = trainer.stopped or status
    except BaseException as error:
        status = f"failed: {error}"
        raise
    finally:
        seconds = round(record["seconds"] + time.monotonic() - began, 3)
        try:
            folder.write_json(folder.run_path, {**record, "seconds": seconds, "status": status})
        except CheckpointError as error:  # a full disk shall not hide how it ended
            warn(str(error))
    return trainer.stopped is not None and signals.received is not None


def _check_new(folder: RunFolder) -> None:
    if folder.exists():
        msg = f"{str(folder.path)!r} already holds a run: add --resume to go on, or choose --out"
        raise CheckpointError(msg)


def _open(
    folder: RunFolder, trainer: Trainer, stack: ExitStack, warn: Callable[[str], None]
) -> None:
    """Make the folder, be its only writer, and see that it has room."""
    size = sum(t.nbytes for t in trainer.snapshot()[0].values())
    preflight(folder.path, 6 * size)
    lock = stack.enter_context(RunLock(folder.path))
    if lock.taken_over:
        warn(lock.taken_over)


def _go_on(
    trainer: Trainer,
    examples: Examples,
    checkpoints: CheckpointFolder,
    warn: Callable[[str], None],
) -> None:
    """Restore the newest good checkpoint, if there is any."""
    found: Checkpoint | None = checkpoints.newest()
    for message in checkpoints.skipped:
        warn(f"passed over: {message}")
    if found is None:
        if checkpoints.skipped:
            msg = f"no checkpoint in {checkpoints.path} can be read; move it away to start again"
            raise CheckpointError(msg)
        return
    if found.meta.get("fingerprint") != examples.fingerprint:
        msg = "the data has changed since this run began: resume with the same data, "
        msg += "or train into another folder"
        raise DataError(msg)
    trainer.restore(found.tensors, found.meta)


def _position(trainer: Trainer, config: Config) -> str:
    epoch, batch, step = trainer.position
    if step == 0:
        return "no checkpoint to go on from yet: beginning"
    if epoch >= config.epochs:
        return f"all {epoch} epochs are done; go further with --set epochs={2 * epoch}"
    return f"going on after step {step}: epoch {epoch + 1}, batch {batch + 1}"


def _check_same(config: Config, folder: RunFolder) -> None:
    """Refuse to go on with another network, data or optimizer."""
    ours, theirs = _flat(dump(config)), _flat(dump(folder.config()))
    for key in sorted({*ours, *theirs}):
        free = key in MAY_CHANGE or key.partition(".")[0] in MAY_CHANGE
        if free or ours.get(key) == theirs.get(key):
            continue
        if (key, ours.get(key)) == ("batch_size", "auto"):
            continue
        msg = f"cannot resume with {key} = {ours.get(key)!r}: {str(folder.path)!r} was trained "
        msg += f"with {theirs.get(key)!r}; choose another --out"
        raise ConfigError(msg)


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flat.update(_flat(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return flat


def _early_stopping(config: Config) -> list[Callback]:
    settings = config.early_stopping
    if not settings.patience:
        return []
    return [EarlyStopping(settings.patience, settings.monitor, settings.min_delta)]


def _checkpointing(
    config: Config,
    checkpoints: CheckpointFolder,
    examples: Examples,
    warn: Callable[[str], None],
) -> Checkpointing:
    settings = config.checkpoint
    preparation = examples.preparation
    return Checkpointing(
        checkpoints,
        every_steps=settings.every_steps,
        every_seconds=parse_duration(settings.every) if settings.every else math.inf,
        monitor=config.early_stopping.monitor,
        meta={
            "preparation": preparation.meta(),
            "fingerprint": examples.fingerprint,
            "config": dump(config),
        },
        tensors=preparation.tensors(),
        report=warn,
    )


def _record(
    config: Config,
    chosen: Resolved,
    examples: Examples,
    n_params: int,
    earlier: Mapping[str, Any],
) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {
        **chosen.backend.describe(),
        "reason": chosen.reason,
        "xpnet": metadata.version("xpnet"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "seed": config.seed,
        "parameters": n_params,
        "train_rows": len(examples.train),
        "validation_rows": len(examples.validation or ()),
        "test_rows": len(examples.test or ()),
        "fingerprint": examples.fingerprint,
        "started": earlier.get("started", now),
        "seconds": earlier.get("seconds", 0.0),
    }


def _test(
    folder: RunFolder, chosen: Resolved, examples: Examples, warn: Callable[[str], None]
) -> Mapping[str, Any] | None:
    """Score the checkpoint that would be used from now on, and keep the report."""
    if examples.test is None:
        return None
    name, device = chosen.backend.name, chosen.backend.device_name
    run = load_run(folder.path, backend=name, device=device)
    for message in run.folder.skipped:
        warn(f"passed over: {message}")
    result = scores(run, examples.test)
    folder.write_json(folder.report_path, result)
    return result


def _describe(examples: Examples) -> str:
    parts = {"train": examples.train, "validation": examples.validation, "test": examples.test}
    rows = ", ".join(f"{len(p):,} {name}" for name, p in parts.items() if p is not None)
    classes = examples.preparation.classes
    kind = f"{len(classes)} classes" if classes else "regression"
    shape = "x".join(map(str, examples.train.feature_shape))
    return f"data {examples.train.name}: {rows}; {shape} features, {kind}"


def _chain(trainer: Trainer) -> str:
    """The widths of the layers, such as 64-128-10."""
    model = trainer.model
    shapes = [model.input_shape or (), *model.shapes()]
    widths = ["x".join(map(str, shape)) for shape in shapes]
    return "-".join(w for i, w in enumerate(widths) if i == 0 or w != widths[i - 1])
