"""Training into a run folder, from the beginning or from where it was left."""

import math
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from xpnet.backends import Backend, Resolved, resolve
from xpnet.callbacks import Callback, Checkpointing, EarlyStopping, HistoryFile, StopOnSignal
from xpnet.checkpoint import Checkpoint, CheckpointFolder, RunLock, preflight
from xpnet.config import Config, parse_duration
from xpnet.engine import Engine
from xpnet.errors import CheckpointError, ConfigError, DataError
from xpnet.memory import fitting_batch, footprint
from xpnet.params import layouts
from xpnet.run.examples import Examples, load_examples
from xpnet.run.folder import RunFolder, load_run, make_trainer
from xpnet.run.scores import scores
from xpnet.schema import dump
from xpnet.step import Batch, StepInputs, dropout_keys
from xpnet.trainer import Trainer

__all__ = ["Outcome", "train"]

# What may differ when a run goes on: how long, where, and how often it is saved.
MAY_CHANGE = {"epochs", "backend", "device", "compile", "checkpoint", "early_stopping"}


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
) -> Outcome:
    """Train as ``config`` says into the folder ``out``, and score the result on the test part.

    With ``resume`` the run goes on from its newest good checkpoint, or begins where there is none.
    ``report`` is called with each line meant for the user.

    Raises ConfigError, DataError or BackendError before anything is written, CheckpointError where
    the folder is in use, holds another run or cannot be written.
    """
    folder = RunFolder(out)
    if folder.exists() and not resume:
        msg = f"{str(folder.path)!r} already holds a run: add --resume to go on, or choose --out"
        raise CheckpointError(msg)
    if folder.config_path.exists():
        _check_same(config, folder)
    chosen = resolve(config.backend, config.device, config.dtype)
    report(f"backend {chosen.backend.name} on {chosen.backend.device_name} ({chosen.reason})")
    examples = load_examples(config)
    report(_describe(examples))
    config = _with_batch_size(config, folder, chosen.backend, examples, report)
    trainer = make_trainer(config, examples.preparation, chosen.backend)
    n_params = layouts(trainer.model)[0].size
    report(f"model {_chain(trainer)}: {n_params:,} parameters, {config.dtype}")
    with ExitStack() as stack:
        _open(folder, trainer, stack, report)
        checkpoints = CheckpointFolder(folder.checkpoint_path, config.checkpoint.keep)
        _go_on(trainer, examples, checkpoints, report)
        began = time.time()
        folder.write_config(config)
        record = _record(config, chosen, examples, n_params)
        folder.write_json(folder.run_path, {**record, "status": "training"})
        signals = StopOnSignal()
        callbacks = [
            *([progress] if progress else []),
            HistoryFile(folder.history_path),
            *_early_stopping(config),
            signals,
            _checkpointing(config, checkpoints, examples, report),
        ]
        feed = examples.preparation.feed
        checks = examples.validation
        try:
            trainer.fit(
                feed(chosen.backend, examples.train, config.data.placement),
                epochs=config.epochs,
                validation=None if checks is None else feed(chosen.backend, checks),
                callbacks=callbacks,
            )
        except BaseException as error:
            record["status"] = f"failed: {error}"
            folder.write_json(folder.run_path, record)
            raise
        interrupted = signals.received is not None
        record["status"] = trainer.stopped or "finished"
        record["seconds"] = round(time.time() - began, 3)
        folder.write_json(folder.run_path, record)
        if trainer.stopped:
            report(f"stopped: {trainer.stopped}")
        test = None if interrupted else _test(folder, chosen, examples)
    return Outcome(folder, trainer.stopped, interrupted, test)


def _with_batch_size(
    config: Config,
    folder: RunFolder,
    backend: Backend,
    examples: Examples,
    report: Callable[[str], None],
) -> Config:
    """Fill in ``batch_size = "auto"``: as this run began with, or the largest that fits."""
    if config.batch_size != "auto":
        return config
    if folder.config_path.exists():
        return replace(config, batch_size=folder.config().batch_size)
    preparation = examples.preparation
    model = config.model.model(preparation.feature_shape, preparation.outputs, config.loss)
    need = footprint(model, config.optimizer, 8 if config.dtype == "float64" else 4)
    xp, where = backend.xp, backend.device
    targets = xp.int32 if config.loss.predicts == "class" else backend.dtype

    def attempt(rows: int) -> None:
        engine = Engine(backend, model, config.loss, config.optimizer, config.clip)
        x = xp.zeros((rows, *preparation.feature_shape), dtype=backend.dtype, device=where)
        shape = (rows,) if config.loss.predicts == "class" else (rows, preparation.outputs)
        y = xp.zeros(shape, dtype=targets, device=where)
        keys = dropout_keys(config.seed, 0, model.n_random)
        coefficients = config.optimizer.coefficients(config.optimizer.lr, 1)
        backend.synchronize(engine.train(Batch(x, y), StepInputs(0, coefficients, keys)))

    size = fitting_batch(need, backend, len(examples.train), attempt)
    report(f"batch size {size:,} is the largest that fits")
    return replace(config, batch_size=size)


def _open(
    folder: RunFolder, trainer: Trainer, stack: ExitStack, report: Callable[[str], None]
) -> None:
    """Make the folder, be its only writer, and see that it has room."""
    size = sum(t.nbytes for t in trainer.snapshot()[0].values())
    preflight(folder.path, 6 * size)
    lock = stack.enter_context(RunLock(folder.path))
    if lock.taken_over:
        report(lock.taken_over)


def _go_on(
    trainer: Trainer,
    examples: Examples,
    checkpoints: CheckpointFolder,
    report: Callable[[str], None],
) -> None:
    """Restore the newest good checkpoint, if there is any."""
    found: Checkpoint | None = checkpoints.newest()
    for message in checkpoints.skipped:
        report(f"passed over: {message}")
    if found is None:
        if checkpoints.skipped:
            msg = f"no checkpoint in {checkpoints.path} can be read; move it away to start again"
            raise CheckpointError(msg)
        return
    if found.meta["fingerprint"] != examples.fingerprint:
        msg = "the data has changed since this run began: resume with the same data, "
        msg += "or train into another folder"
        raise DataError(msg)
    trainer.restore(found.tensors, found.meta)
    epoch, batch, step = trainer.position
    report(f"resuming at epoch {epoch + 1}, batch {batch + 1} (after step {step})")


def _check_same(config: Config, folder: RunFolder) -> None:
    """Refuse to go on with another network, data or optimizer."""
    ours, theirs = _flat(dump(config)), _flat(dump(folder.config()))
    for key in sorted({*ours, *theirs}):
        if key.partition(".")[0] in MAY_CHANGE or ours.get(key) == theirs.get(key):
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
    report: Callable[[str], None],
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
        tensors=preparation.scaler.tensors(),
        report=report,
    )


def _record(config: Config, chosen: Resolved, examples: Examples, n_params: int) -> dict[str, Any]:
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
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _test(folder: RunFolder, chosen: Resolved, examples: Examples) -> Mapping[str, Any] | None:
    """Score the checkpoint that would be used from now on, and keep the report."""
    if examples.test is None:
        return None
    name, device = chosen.backend.name, chosen.backend.device_name
    result = scores(load_run(folder.path, backend=name, device=device), examples.test)
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
