"""The trainer: the one object that changes.

It owns batching, placement, the position in the run and the reading of metrics; the mathematics of
a step is :func:`xpnet.step.make_train_step`.

    trainer = Trainer([Dense(256), ReLU(), Dense(10)], backend="cupy")
    trainer.fit((x, y), epochs=10, validation=(x_val, y_val))
    probabilities = trainer.predict(x_test)
"""

import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, NamedTuple, Never

import numpy as np

from xpnet.backends import Backend
from xpnet.data import Shuffle, StreamedDataset
from xpnet.errors import CheckpointError, ConfigError, DataError, TrainingError
from xpnet.nn import Layer, Sequential
from xpnet.nn.fit import check_batches, check_output, check_reachable
from xpnet.nn.losses import LOSSES, Loss, SoftmaxCrossEntropy, check_weights
from xpnet.nn.summary import Table
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS, Adam, Optimizer
from xpnet.optim.schedules import SCHEDULES, Constant, Schedule
from xpnet.settings import OneOf, convert, did_you_mean
from xpnet.step import Batch, StepInputs, dropout_keys
from xpnet.step.mixed_precision import Mixed
from xpnet.training.callbacks import Callback, EpochMetrics, overridden
from xpnet.training.engine import Engine, Metrics
from xpnet.training.loader import Loader
from xpnet.training.memory import footprint, shortage
from xpnet.training.placement import Placement
from xpnet.training.snapshot import Position, check_length, resumed
from xpnet.training.step_choice import Step
from xpnet.training.threads import Threads, ThreadsSetting, checked, choose, limited, settled
from xpnet.typing import Array

__all__ = ["Evaluation", "Position", "Trainer"]

EVALUATION_BATCH = 1024  # rows; without a backward pass there is room for more than in training


class Evaluation(NamedTuple):
    """A pass over labelled examples without training."""

    loss: float
    accuracy: float | None  # None for regression
    predictions: np.ndarray  # probabilities (N, K), or values


class Trainer:
    """Train ``model`` on a backend.

    ``model`` is a :class:`~xpnet.nn.Sequential` or a list of layers; sizes are inferred from
    the data. ``loss``, ``optimizer`` and ``schedule`` are objects or names. ``backend`` is a name,
    a Backend or None, which follows the data: arrays of CuPy, PyTorch or JAX are trained on where
    they are, host data as ``resolve("auto", device)`` chooses. ``dtype`` None follows arrays that
    are trained on where they are, and is float32 otherwise. ``step`` is "auto", "portable", "fused"
    or "jit" (:mod:`xpnet.training.step_choice`). The gradient of a batch is accumulated over
    ``accumulate`` micro-batches; ``mixed`` computes it in float16 or bfloat16. ``threads`` is how
    many the library computes with on a CPU within ``fit`` and, after it, evaluation and prediction:
    "auto" finds it by measuring (:mod:`xpnet.training.threads`).

    The same seed gives the same first weights, batches and dropout on every backend.
    """

    def __init__(
        self,
        model: Sequential | Iterable[Layer],
        loss: Loss | str = SoftmaxCrossEntropy(),
        optimizer: Optimizer | str = Adam(),
        *,
        backend: Backend | str | None = None,
        device: str = "auto",
        dtype: str | None = None,
        batch_size: int = 128,
        seed: int = 0,
        schedule: Schedule | str = Constant(),
        clip: Clip = Clip(),
        step: Step = "auto",
        accumulate: int = 1,
        mixed: Mixed | None = None,
        threads: ThreadsSetting = "auto",
        **unknown: Never,
    ) -> None:
        _refuse(unknown)
        self.model = model if isinstance(model, Sequential) else Sequential(tuple(model))
        self.loss: Loss = convert(Annotated[Loss, OneOf(LOSSES)], loss, "loss")
        rule: Any = Annotated[Optimizer, OneOf(OPTIMIZERS)]
        self.optimizer: Optimizer = convert(rule, optimizer, "optimizer")
        rule = Annotated[Schedule, OneOf(SCHEDULES)]
        self.schedule: Schedule = convert(rule, schedule, "schedule")
        if self.loss.reduction == "none":
            msg = "a loss with reduction='none' has no single value to train on; use 'mean'"
            raise ConfigError(msg)
        check_output(self.model, self.loss)
        if batch_size < 1 or accumulate < 1 or seed < 0:
            msg = "batch_size and accumulate must be >= 1 and seed >= 0; "
            msg += f"got {batch_size}, {accumulate} and {seed}"
            raise ConfigError(msg)
        self._placement = Placement(backend, device, dtype)
        self.batch_size, self.seed, self.clip, self.step = batch_size, seed, clip, step
        self.accumulate, self.mixed, self.threads = accumulate, mixed, checked(threads)

        self.position = Position()
        self.history: list[EpochMetrics] = []
        self.stopped: str | None = None  # why training ended before its last epoch
        self.failed: BaseException | None = None
        self.epochs = self.steps_per_epoch = self.rows = 0
        self.callbacks: list[Callback] = []
        self._schedule_state = self.schedule.init()
        self._engine: Engine | None = None
        self._recorded_threads: Mapping[str, int] = {}
        self.chosen_threads: Threads | None = None  # None before the first step
        self._restored: tuple[Mapping[str, np.ndarray], Mapping[str, Any]] | None = None
        if self.backend is not None and self.model.input_shape is not None:
            self._prepare(self.model.input_shape)

    # -- training ---------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        *,
        epochs: int,
        validation: Any = None,
        callbacks: Iterable[Callback] = (),
    ) -> list[EpochMetrics]:
        """Train until ``epochs`` epochs are done in all, and return the history.

        ``data`` and ``validation`` are (x, y), (x, y, sample_weight), a Loader or a
        StreamedDataset. Called again with more epochs, or after :meth:`restore`, training continues
        from where it is.
        The history has one record per epoch: loss and accuracy over its steps, and after it, if
        there is a validation, val_loss and val_accuracy.

        Raises DataError for data that does not fit, TrainingError when the loss is not finite.
        """
        # A loss that is not finite is found and explained below; a warning would say less.
        with self._memory_errors(), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            return self._fit(data, epochs, validation, list(callbacks))

    def _fit(
        self, data: Any, epochs: int, validation: Any, callbacks: list[Callback]
    ) -> list[EpochMetrics]:
        if epochs < 1:
            msg = f"epochs must be >= 1; got {epochs}"
            raise ConfigError(msg)
        loader = self._labelled(data, training=True)
        check_batches(self.model, loader.rows, self.batch_size, self.accumulate)
        checks = None if validation is None else self._labelled(validation)
        self.epochs, self.rows = epochs, loader.rows
        self.steps_per_epoch = math.ceil(loader.rows / self.batch_size)
        check_length(epochs, self.steps_per_epoch)
        self.callbacks, self.stopped, self.failed = callbacks, None, None
        self._restore_callbacks()
        begun: list[Callback] = []
        try:
            for callback in self.callbacks:
                callback.on_train_begin(self)
                begun.append(callback)
            self._choose_threads(loader)
            with limited(self.engine.backend, self.chosen_threads):
                self._train(loader, checks)
        except BaseException as error:
            self.failed = error
            raise
        finally:
            for callback in begun:
                callback.on_train_end(self)
        return self.history

    def _train(self, loader: Loader, checks: Loader | None) -> None:
        while self.position.epoch < self.epochs and self.stopped is None:
            if self._train_epoch(loader):
                self._end_epoch(checks)

    def _choose_threads(self, loader: Loader) -> None:
        """Measure how many threads are the fastest, unless that is known or nothing is left."""
        self.chosen_threads = self._settled_threads() or self.chosen_threads
        steps = self.epochs * self.steps_per_epoch - self.position.step
        if self.chosen_threads is None and steps > 0:
            batch = loader.sample(min(self.batch_size, loader.rows))
            # At a learning rate of 0 the weights stay, however often the step is taken.
            still = self.engine.coefficients(0.0, self.position.step + 1)
            inputs = self._inputs()._replace(coefficients=still)
            self.chosen_threads = choose(self.engine, batch, inputs, steps)

    def stop(self, reason: str) -> None:
        """End training after the current step, or after the epoch when asked at its end."""
        self.stopped = reason

    def _train_epoch(self, loader: Loader) -> bool:
        """Take the steps that are left of the epoch; say whether it came to its end."""
        self._epoch_began, self._epoch_from = time.perf_counter(), self.position
        shuffle = Shuffle(self.seed, self.position.epoch)
        self._batches = lambda: loader.batches(
            self.batch_size, shuffle, start=self.position.batch, reuse=True
        )
        self._epoch_state = self.engine.host_state()
        hooks = overridden(self.callbacks, "on_step_end")
        for batch in self._batches():
            self.engine.train(batch, self._inputs())
            self._advance()
            for hook in hooks:
                hook(self)
            if self.stopped is not None and self.position.batch < self.steps_per_epoch:
                return False
        return True

    def _advance(self) -> None:
        epoch, batch, step = self.position
        self.position = Position(epoch, batch + 1, step + 1)

    def _inputs(self) -> StepInputs:
        """The numbers of the step at this position."""
        step = self.position.step
        keys = dropout_keys(self.seed, step, self.model.n_random)
        return StepInputs(step, self.engine.coefficients(self._lr(step), step + 1), keys)

    def _lr(self, step: int) -> float:
        state, base, per_epoch = self._schedule_state, self.optimizer.lr, self.steps_per_epoch
        return self.schedule.lr(state, base, step, self.epochs * per_epoch, per_epoch)

    def _end_epoch(self, checks: Loader | None) -> None:
        means = self.read()  # waits for the device, so the time is taken after it
        seconds = time.perf_counter() - self._epoch_began
        done = max(self.rows - self._epoch_from.batch * self.batch_size, 0)
        record = {
            "epoch": self.position.epoch + 1,
            "step": self.position.step,
            "lr": self._lr(self.position.step - 1),
            **means,
            "seconds": seconds,
            "samples_per_second": done / seconds,
        }
        if checks is not None:
            result = self.engine.evaluate(checks.batches(EVALUATION_BATCH))
            record["val_loss"] = result.loss
            if result.accuracy is not None:
                record["val_accuracy"] = result.accuracy
        self.history.append(record)
        watched = record.get("val_loss", record["loss"])
        self._schedule_state = self.schedule.observe(self._schedule_state, watched)
        self.engine.zero()
        self.position = Position(self.position.epoch + 1, 0, self.position.step)
        for callback in self.callbacks:
            callback.on_epoch_end(self, record)

    def read(self) -> EpochMetrics:
        """Return loss and accuracy of this epoch so far; waits for the device.

        Raises TrainingError, naming epoch, step and layer, where a loss or the weights are not
        finite, so that what is saved after it can be resumed.
        """
        loss, accuracy, bad_step = self.engine.read()
        if bad_step < 0 and not self.engine.finite():
            bad_step = self.position.step  # the loss that would come next
        if bad_step >= 0:
            self._explain_failure(bad_step)
        return {"loss": loss} if accuracy is None else {"loss": loss, "accuracy": accuracy}

    def _explain_failure(self, bad_step: int) -> None:
        """Repeat the epoch up to the bad step, which the positions make possible, and look in."""
        self.engine.set_state(self._epoch_state)
        self.position, where = self._epoch_from, None
        for batch in self._batches():
            # A gradient that is not finite spoils the weights, and so the loss of the step after.
            if self.position.step >= bad_step - 1:
                where = self.engine.first_nonfinite(batch, self._inputs())
            if where or self.position.step == bad_step:
                break
            self.engine.train(batch, self._inputs())
            self._advance()
        else:  # the last update of the epoch
            where = self.engine.first_nonfinite(batch, self._inputs())
        epoch, _, step = self.position
        msg = f"training is not finite from epoch {epoch + 1}, step {step + 1} on; "
        if where is None:
            msg += "repeated by the portable formulas, that step is finite"
        else:
            msg += f"first in {where}"
        raise TrainingError(
            msg,
            python="lower the lr of the optimizer, pass clip=Clip(norm=1.0), or check the data",
            command="lower optimizer.lr, set clip.norm, or check the data",
        )

    # -- prediction -------------------------------------------------------------------------------

    def evaluate(self, data: Any) -> Evaluation:
        """Return loss, accuracy and predictions for (x, y), (x, y, weight) or a Loader."""
        parts: list[np.ndarray] = []
        to_host = self.engine.backend.to_host
        metrics = self.score(data, lambda batch, output, told: parts.append(to_host(told)))
        return Evaluation(metrics.loss, metrics.accuracy, np.concatenate(parts))

    def score(self, data: Any, each: Callable[[Batch, Array, Array], None]) -> Metrics:
        """Return loss and accuracy; ``each`` is given every batch, its output and its predictions.

        These are on the device, and nothing is kept of them here: it is for data of any size.
        """
        with self._memory_errors():
            loader = self._labelled(data)
            with limited(self.engine.backend, self.chosen_threads):
                return self.engine.evaluate(loader.batches(EVALUATION_BATCH), each)

    def predict(self, x: Any) -> np.ndarray:
        """Return probabilities (N, K), or values for regression, as a host array."""
        parts = list(self.predictions(x))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def predictions(self, x: Any) -> Iterator[np.ndarray]:
        """Yield the same by batches, for x (N, ...), a Loader or a StreamedDataset of any size."""
        with self._memory_errors():
            x = x if isinstance(x, Loader | StreamedDataset) else (x,)
            loader = self._built_for(self._placement.loader(x))
            parts = self.engine.predictions(loader.batches(EVALUATION_BATCH))
            while True:
                with limited(self.engine.backend, self.chosen_threads):  # not while others compute
                    part = next(parts, None)
                if part is None:
                    return
                yield part

    # -- state ------------------------------------------------------------------------------------

    @property
    def backend(self) -> Backend | None:
        """Where it trains; None while that is still to be chosen, by the first data."""
        return self._placement.backend

    @property
    def engine(self) -> Engine:
        """The model and its state on the backend, as soon as both are known.

        Raises TrainingError before that.
        """
        shape = self.model.input_shape
        if self._engine is None and shape is not None and not self._placement.follows_data:
            self._prepare(shape)
        if self._engine is None:
            msg = "the model has no sizes yet: call fit, or build the model with its input shape"
            if shape is not None:
                msg = "the backend is chosen from the data: call fit first, or name one, such as "
                msg += "Trainer(model, backend='numpy')"
            raise TrainingError(msg)
        return self._engine

    @property
    def params(self) -> dict[str, np.ndarray]:
        """Host copies of the parameters and the running statistics, by name."""
        named = {k.partition("/"): v for k, v in self.engine.tensors().items()}
        return {k[2]: v for k, v in named.items() if k[0] in ("params", "stats")}

    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return all that a resumed training needs: named host arrays, and JSON data."""
        meta = {
            "position": self.position._asdict(),
            "schedule": dict(self._schedule_state),
            "callbacks": {type(c).__name__: dict(c.state()) for c in self.callbacks},
            "history": [dict(record) for record in self.history],
            "backend": self.engine.backend.describe(),
            "threads": self._threads_by_backend(),
        }
        return self.engine.tensors(), meta

    def restore(self, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Take back a snapshot, of any backend; the next :meth:`fit` goes on from there.

        Raises CheckpointError if it is not a snapshot or, once the model's sizes are known, if it
        does not fit.
        """
        found = resumed(meta, self.schedule)
        self._restored = (tensors, found.callbacks)
        self.position, self._schedule_state = found.position, found.schedule
        self.history, self._recorded_threads = found.history, found.threads
        if self._engine is not None:
            self._engine.load_tensors(tensors)
            self.chosen_threads = self._settled_threads()
        elif self.model.input_shape is not None:
            self._prepare(self.model.input_shape)

    def _threads_by_backend(self) -> dict[str, int]:
        chosen = self.chosen_threads
        if chosen is None or chosen.number is None:
            return {}
        return {self.engine.backend.name: chosen.number}

    def _settled_threads(self) -> Threads | None:
        return settled(self.engine.backend, self.threads, self._recorded_threads)

    def _restore_callbacks(self) -> None:
        states = self._restored[1] if self._restored else {}
        for callback in self.callbacks:
            name = type(callback).__name__
            try:
                if name in states:
                    callback.restore(states[name])
            except (LookupError, TypeError, ValueError, OverflowError) as error:
                msg = f"the checkpoint has a state that {name} cannot take back: {error}"
                raise CheckpointError(msg) from error
        self._restored = None

    # -- display ----------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return the layers of the model, and what trains them, where and how far.

        >>> from xpnet.nn import Dense
        >>> print(Trainer([Dense(3)], backend="numpy").summary())
           layer  output shape  arrays  parameters
        ------------------------------------------
        0  dense  ?             ?                ?
        ------------------------------------------
           total                                 ?
        <BLANKLINE>
        loss       SoftmaxCrossEntropy()
        optimizer  Adam()
        schedule   Constant()
        batch      128 rows
        runs on    numpy
        step       auto, chosen when the model is built
        trained    0 epochs; 0 steps
        """
        return f"{self.model.summary()}\n\n{self._facts().text()}"

    def _repr_html_(self) -> str:  # what a notebook shows
        return self.model._repr_html_() + self._facts().html()

    def __repr__(self) -> str:
        where = self.backend or self._placement.name
        return f"Trainer({self.model!r}, {self.loss!r}, {self.optimizer!r}, backend={where!r})"

    def _facts(self) -> Table:
        epoch, batch, step = self.position
        parts = f" in {self.accumulate} micro-batches" if self.accumulate > 1 else ""
        part = f", {batch} batches of the next" if batch else ""
        taken = f"{self.step}, chosen when the model is built"
        if self._engine is not None:
            taken = self._engine.step.note
        threads = self.chosen_threads
        rows = [
            ("loss", repr(self.loss)),
            ("optimizer", repr(self.optimizer)),
            ("schedule", repr(self.schedule)),
            *([] if self.clip == Clip() else [("clip", repr(self.clip))]),
            *([] if self.mixed is None else [("mixed", repr(self.mixed))]),
            ("batch", f"{self.batch_size} rows{parts}"),
            ("runs on", str(self._placement)),
            ("step", taken),
            *([] if threads is None else [("threads", str(threads))]),
            ("trained", f"{epoch} epochs{part}; {step} steps"),
        ]
        return Table([rows], "<<")

    @contextmanager
    def _memory_errors(self) -> Iterator[None]:
        """Turn running out of memory into a TrainingError that says what a step takes."""
        try:
            yield
        except Exception as error:
            backend, model = self.backend, self.model
            if backend is None or model.input_shape is None or not backend.out_of_memory(error):
                raise
            need = footprint(model, self.optimizer, np.dtype(backend.dtype_name).itemsize)
            rows = -(-self.batch_size // self.accumulate)
            raise TrainingError(shortage(need, rows, backend.free_memory())) from error

    # -- preparation -------------------------------------------------------------------------------

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Build the model and its engine for examples of ``shape``, once."""
        if self._engine is None:
            if self.model.input_shape != shape:
                self.model = self.model.build(shape)
            check_output(self.model, self.loss)
            self._engine = Engine(
                self._placement.resolve(),
                self.model,
                self.loss,
                self.optimizer,
                self.clip,
                seed=self.seed,
                step=self.step,
                accumulate=self.accumulate,
                mixed=self.mixed,
            )
            self.chosen_threads = self._settled_threads()
            if self._restored is not None:
                self._engine.load_tensors(self._restored[0])
        elif self.model.input_shape != shape:
            msg = f"the model takes examples of shape {self.model.input_shape}; got {shape}"
            raise DataError(msg)

    def _built_for(self, loader: Loader) -> Loader:
        """The loader, for whose examples the model is built."""
        self._prepare(loader.example_shape)
        return loader

    def _labelled(self, data: Any, *, training: bool = False) -> Loader:
        """A loader with targets and weights that fit the loss and the model."""
        loader = self._built_for(self._placement.labelled(data))
        outputs = self.model.output_shape[-1]

        def check(y: np.ndarray, row_name: Callable[[int], str]) -> None:
            self.loss.check_target(y, outputs, row_name)
            if training:
                check_reachable(self.model, self.loss, y, row_name)

        if (weight := loader.weights()) is not None:
            check_weights(weight, loader.rows)
        return loader.checked(check)


def _refuse(unknown: Mapping[str, object]) -> None:
    """Raise ConfigError for arguments that the trainer does not have."""
    for name in unknown:
        if name == "compile":
            msg = "compile is now step: step='portable' for compile=False, step='jit' for True"
            raise ConfigError(msg)
        known = [p for p in inspect.signature(Trainer).parameters if p != "unknown"]
        msg = f"Trainer has no argument {name!r}; {did_you_mean(name, known)}"
        raise ConfigError(msg)
