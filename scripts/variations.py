"""The same training asked for in other ways, which must not change a bit: cases of faults.py."""

import contextlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType
from typing import Any

import numpy as np
from training import LostError, Tally, Training, timeless

from xpnet.nn import BatchNorm, Dense, Dropout, ReLU, Softmax
from xpnet.nn.losses import CrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.schedules import Plateau
from xpnet.training.callbacks import Callback
from xpnet.training.early_stopping import EarlyStopping
from xpnet.training.trainer import Trainer

__all__ = ["interrupted_fits", "orders", "parts"]

EPOCHS = 3
LAYERS = [Dense(8), BatchNorm(), ReLU(), Dropout(0.2), Dense(3)]
OPTIONS: dict[str, Any] = {"batch_size": 8, "schedule": Plateau(patience=0)}
TRAINERS: dict[str, Callable[[], Trainer]] = {
    "numpy, fused": lambda: Trainer(LAYERS, backend="numpy", **OPTIONS),
    "numpy, portable": lambda: Trainer(LAYERS, backend="numpy", step="portable", **OPTIONS),
    "numpy, fused, clipping, accumulation": lambda: Trainer(
        [Dense(8), ReLU(), Dense(3), Softmax()],
        CrossEntropy(),
        backend="numpy",
        clip=Clip(norm=0.5),
        accumulate=2,
        **OPTIONS,
    ),
    "torch": lambda: Trainer(LAYERS, backend="torch", device="cpu", **OPTIONS),
    "jax": lambda: Trainer(LAYERS, backend="jax", device="cpu", **OPTIONS),
}


def orders(training: Training, count: int, draw: random.Random) -> None:
    """Give the settings of a run in ``count`` random orders."""
    for n in range(count):
        settings = draw.sample(training.settings, len(training.settings))
        out = training.folder / f"order-{n}"
        replace(training, settings=tuple(settings)).start(out).succeeds()
        training.tally.counts["orders of the settings"] += 1
        training.same(out)


def parts(training: Training, count: int, draw: random.Random) -> None:
    """Train in parts of random lengths, each with a cold or a warm cache of compiled kernels."""
    epochs = next(int(s[7:]) for s in training.settings if s.startswith("epochs="))
    for n in range(count):
        out, cache = training.folder / f"parts-{n}", training.folder / f"cache-{n}"
        ends = sorted(draw.sample(range(1, epochs), draw.randint(1, 2)))
        for part, end in enumerate([*ends, epochs]):
            cold = part == 0 or draw.random() < 0.2
            if cold:
                cache = training.folder / f"cache-{n}-{part}"
            training.start(out, f"epochs={end}", NUMBA_CACHE_DIR=str(cache)).succeeds()
            training.tally.counts["parts of a training, each a process"] += 1
            training.tally.counts["cold caches of kernels"] += cold
        training.same(out)


class _Error(Exception):
    """What a user's callback raises."""


class _Raising(Callback):
    """Raise at the n-th call of any hook; 0 never."""

    def __init__(self, n: int) -> None:
        self.left = n

    def _call(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            raise _Error

    on_train_begin = on_step_end = on_epoch_end = on_train_end = _call


def interrupted_fits(
    count: int,
    draw: random.Random,
    tally: Tally,
    trainers: dict[str, Callable[[], Trainer]] = TRAINERS,
) -> None:
    """Interrupt ``fit`` in Python ``count`` times by Ctrl-C or an error, and call it again.

    What comes out must equal an undisturbed ``fit``: weights, moments, totals, history.
    """
    data, checks = _data(60), _data(20)

    def fit(trainer: Trainer, *more: Callback) -> None:
        callbacks = [EarlyStopping(20), *more]
        trainer.fit(data, epochs=EPOCHS, validation=checks, callbacks=callbacks)

    made = _importable(trainers, tally)
    for name, make in made.items():
        whole = make()
        fit(whole)  # it may have compiled: the next one tells how long it takes
        began = time.monotonic()
        fit(make())
        seconds = time.monotonic() - began
        share = count // len(made) // (1 if name.startswith("numpy") else 10)  # far quicker
        done = 0
        while done < share:
            done += _interrupted(make(), fit, seconds, draw, (name, whole), tally)


def _interrupted(
    trainer: Trainer,
    fit: Callable[..., None],
    seconds: float,
    draw: random.Random,
    straight: tuple[str, Trainer],
    tally: Tally,
) -> int:
    """Train with up to five interruptions, compare, and return how many there were."""
    interruptions = 0
    for _ in range(5):
        if trainer.position.epoch == EPOCHS:
            break
        try:
            if draw.random() < 0.3:
                fit(trainer, _Raising(draw.randint(1, 30)))
            else:
                with _alarm(draw.uniform(0.0, seconds)):
                    fit(trainer)
        except (KeyboardInterrupt, _Error):
            interruptions += 1
    if trainer.position.epoch < EPOCHS:
        fit(trainer)
    tally.counts["interruptions of fit in Python"] += interruptions
    name, whole = straight
    if found := _differences(whole, trainer):
        msg = f"fit interrupted and called again ({name}): {len(found)} differences: {found[0]}"
        raise LostError(msg)
    tally.counts["fits compared"] += 1
    return interruptions


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Raise KeyboardInterrupt after that time, wherever the block then is."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _data(rows: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(rows).normal(size=(rows, 5)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int32) + (x[:, 1] > 1)


def _importable(
    trainers: dict[str, Callable[[], Trainer]], tally: Tally
) -> dict[str, Callable[[], Trainer]]:
    from xpnet.backends import backend_class

    found = {}
    for name, make in trainers.items():
        library = name.partition(",")[0]
        if backend_class(library).probe().version is None:
            tally.not_run.append(f"interruptions of fit on {library}: it is not installed")
        else:
            found[name] = make
    return found


def _differences(one: Trainer, other: Trainer) -> list[str]:
    """Return what differs between two trainings, except in their times."""
    (a, meta), (b, other_meta) = one.snapshot(), other.snapshot()
    found = [name for name in a.keys() | b.keys() if a[name].tobytes() != b[name].tobytes()]
    found += [k for k in ("position", "schedule") if meta[k] != other_meta[k]]
    same = timeless(meta["history"]) == timeless(other_meta["history"])
    return found if same else [*found, "history"]
