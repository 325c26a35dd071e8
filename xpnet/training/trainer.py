"""The trainer: the one object that changes.

It owns batching, placement, the position in the run and the reading of metrics; the mathematics of
a step is :func:`xpnet.step.make_train_step`.

    trainer = Trainer([Dense(256), ReLU(), Dense(10)], backend="cupy")
    trainer.fit((x, y), epochs=10, validation=(x_val, y_val))
    probabilities = trainer.predict(x_test)
"""

import copy
import inspect
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Never, cast

import numpy as np

from xpnet.backends import Backend
from xpnet.data import Shuffle
from xpnet.data.files import naming
from xpnet.errors import CheckpointError, ConfigError, DataError, TrainingError
from xpnet.nn import Layer, Sequential
from xpnet.nn.fit import check_batches, check_codes, check_output
from xpnet.nn.losses import Loss, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import Adam, Optimizer
from xpnet.optim.schedules import Constant, Schedule
from xpnet.parallel import ALONE, Comm, Share, shared_by_all
from xpnet.parallel.settings import Parallel
from xpnet.step import AnyBatch, Rows, StepInputs, TrainState, dropout_keys
from xpnet.step.mixed_precision import Mixed, Narrow
from xpnet.training import class_weights as weights
from xpnet.training.arguments import (
    check_epochs,
    checked_settings,
    not_assignable,
    refuse_more,
    refuse_of_fit,
    refuse_unknown,
    warn_that_all_is_done,
    warn_that_all_is_frozen,
)
from xpnet.training.callbacks import (
    Callback,
    EpochMetrics,
    check_callbacks,
    common,
    named,
    overridden,
    steps_between,
)
from xpnet.training.class_weights import ClassWeights
from xpnet.training.cursor import STEP, TRIAL, WHOLE, Cursor
from xpnet.training.display import facts
from xpnet.training.early_stopping import EarlyStopping
from xpnet.training.early_stopping import early_stopping as stopping
from xpnet.training.engine import Engine
from xpnet.training.failure import not_finite
from xpnet.training.given import given_to
from xpnet.training.held_out import check_fraction, divided
from xpnet.training.loader import Loader
from xpnet.training.memory import memory_errors
from xpnet.training.monitoring import check_monitored, watched
from xpnet.training.own_metrics import Metric, Validated, check_metrics, joined, values
from xpnet.training.parameters import read_only, with_assigned
from xpnet.training.placement import Placement
from xpnet.training.predicting import EVALUATION_BATCH, Evaluation, Predicting
from xpnet.training.ranks import NotFiniteError, check_ranks, ranks_of
from xpnet.training.snapshot import Position, check_length, resumed
from xpnet.training.sources import label_for
from xpnet.training.step_choice import Step
from xpnet.training.threads import (
    ONE,
    Threads,
    ThreadsSetting,
    checked,
    choose,
    limited,
    settled,
)

if TYPE_CHECKING:
    from xpnet.training.start import Start

__all__ = ["Evaluation", "Position", "Trainer"]

ASSIGNABLE = ("threads", "chosen_threads", "params")  # of the public attributes
OF_A_FIT = ("_batch", "_batches", "_began", "_check_rows", "_metrics")  # what a copy does without


class _Kept(NamedTuple):
    """A copy of all that training changes, to go back to."""

    position: Position
    state: TrainState  # on the host
    schedule: Mapping[str, Any]
    epochs: int  # records of the history


class Trainer(Predicting):
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

    ``comm`` are the ranks that train together, such as :func:`xpnet.parallel.join` returns them,
    and ``parallel`` is how (:class:`~xpnet.parallel.settings.Parallel`): each rank makes the same
    trainer and calls ``fit`` with the same data, of which it takes its rows of each batch. None is
    this process alone, however it was started. ``fit`` is called on all ranks at once; all else,
    such as ``evaluate``, ``predict`` and ``save``, asks nothing of the others.

    ``class_weights`` are those of the loss: "balanced", one for each class, or a mapping of some
    labels to theirs, where the others weigh 1. ``classes`` are the labels that the classes had in
    ``fit``, sorted, and None where they were indices 0..K-1.

    The same seed gives the same first weights, batches and dropout on every backend.

    Settings stay as they are given, for a step is made from them; only ``threads`` may be assigned,
    for the next ``fit``, and ``params``. A copy, or what is pickled, is a trainer of its own at the
    same position, which goes on bit for bit as this one would, also in another process. That of one
    of several ranks trains alone.
    """

    model: Sequential
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    batch_size: int
    seed: int
    clip: Clip
    step: Step
    accumulate: int
    mixed: Mixed | None
    comm: Comm
    parallel: Parallel
    history: list[EpochMetrics]
    stopped: str | None  # why training ended before its last epoch
    failed: BaseException | None
    epochs: int
    steps_per_epoch: int
    rows: int
    updates_before: int  # of the rule, in the training that this one started from
    callbacks: list[Callback]
    class_weights: ClassWeights | None
    classes: tuple[Any, ...] | None  # the labels of the classes; None where these are indices

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
        mixed: Mixed | Narrow | None = None,
        threads: ThreadsSetting = "auto",
        class_weights: ClassWeights | None = None,
        comm: Comm | None = None,
        parallel: Parallel = Parallel(),
        **unknown: Never,
    ) -> None:
        refuse_unknown(unknown, _settings())
        settings = checked_settings(
            model,
            loss=loss,
            optimizer=optimizer,
            schedule=schedule,
            clip=clip,
            batch_size=batch_size,
            seed=seed,
            accumulate=accumulate,
            mixed=mixed,
            step=step,
            threads=threads,
        )
        self._set(**vars(settings))
        ranks, parallel = check_ranks(comm, parallel, settings.batch_size)
        self._set(comm=ranks, parallel=parallel)
        self._ranks = ranks_of(ranks, parallel)
        self._placement = Placement(backend, device, dtype, ranks)
        self.threads = settings.threads  # checked: no more than there are cores
        self._set(loss=weights.given(settings.loss, class_weights), class_weights=class_weights)
        check_output(self.model, self.loss)

        self._cursor = Cursor(Position())
        self._set(history=[], stopped=None, failed=None, callbacks=[])
        self._set(epochs=0, steps_per_epoch=0, rows=0, classes=None)
        self._columns: tuple[str, ...] | None = None  # of x, where it was a table
        self._metrics: dict[str, Metric] = {}  # of this fit
        self._class_weights: tuple[float, ...] | None = None  # counted, if they are balanced
        self._schedule_state = self.schedule.init()
        self._callback_states: dict[str, Mapping[str, Any]] = {}
        self._engine: Engine | None = None
        self._kept: _Kept | None = None
        self._recorded_threads: Mapping[str, int] = {}
        self._recorded_algorithms: Mapping[str, str] = {}
        self.chosen_threads: Threads | None = None  # None before the first step
        self._restored: Mapping[str, np.ndarray] | None = None  # until the sizes are known
        self._has_weights = self._fitted = False
        self._set(updates_before=0)
        if self.backend is not None and self.model.input_shape is not None:
            self._prepare(self.model.input_shape)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            super().__setattr__(name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse what would have no effect: the steps are made, and keep their own count."""
        if not name.startswith("_") and name not in ASSIGNABLE:
            raise not_assignable(name, _settings(), dir(self))
        super().__setattr__(name, checked(value) if name == "threads" else value)

    def __getstate__(self) -> dict[str, Any]:
        self._repair()
        state = {k: v for k, v in vars(self).items() if k not in OF_A_FIT}
        state |= {"callbacks": [], "failed": None, "_kept": None}
        state |= {"comm": ALONE, "_ranks": ranks_of(ALONE, self.parallel)}
        state["history"] = [dict(record) for record in self.history]
        return {**state, "_callback_states": self._states()}

    def __copy__(self) -> "Trainer":
        return copy.deepcopy(self)

    # -- training ---------------------------------------------------------------------------------

    def fit(
        self,
        data: Any,
        *more: Never,
        epochs: int,
        validation: Any = None,
        validation_fraction: float | None = None,
        early_stopping: EarlyStopping | int | None = None,
        metrics: Mapping[str, Metric] | None = None,
        callbacks: Iterable[Callback] = (),
        label: str | int | None = None,
        **unknown: Never,
    ) -> list[EpochMetrics]:
        """Train until ``epochs`` epochs are done in all, and return the history.

        ``data`` and ``validation`` are (x, y), (x, y, sample_weight), a Loader, a StreamedDataset
        or any form of :mod:`xpnet.training.sources`: a table whose column ``label`` is y and whose
        others are numbers, an iterable of batches, a DataLoader or Dataset of PyTorch, which are
        all read once into memory, or a function that returns one of these for an epoch. Where x is
        a table whose columns have names, those of later tables are found by them. The labels
        of a classification may be texts, whole numbers or booleans: their distinct values, sorted,
        are :attr:`classes`, as many as the model has outputs
        (:mod:`xpnet.training.class_labels`).

        ``validation_fraction`` of the rows are held out as the validation, stratified by class: by
        the seed, so they are the same ones on every backend and when a fit is repeated or resumed.
        ``early_stopping`` is an :class:`EarlyStopping`, or a patience in epochs (True: 10), which
        watches the validation's loss and puts the best weights back at the end. ``metrics`` are
        functions (y_true, y_pred) of the whole validation, by the names that the callbacks and
        :class:`Plateau` may monitor them by (:func:`xpnet.training.own_metrics.values`): "f1" is
        val_f1 in the history.

        Called again with more epochs, or after :meth:`restore`, training continues from where it
        is; callbacks take up the states of those before them. After an interruption, be it Ctrl-C
        or an error, it continues bit for bit as if there had been none.
        The history has one record per epoch: loss and accuracy over its steps, and after it, if
        there is a validation, val_loss and val_accuracy.

        Warns (XpnetWarning) where an earlier call has done all epochs. Raises DataError for data
        that does not fit and for a label that the training does not have, ConfigError for arguments
        that do not go together, TrainingError when the loss is not finite or a metric fails.
        """
        refuse_more(more, "fit((x, y), epochs=...)")
        refuse_of_fit(unknown, inspect.signature(self.fit).parameters, _settings())
        check_fraction(validation_fraction, validation)
        validated = validation is not None or validation_fraction is not None
        watching = [*check_callbacks(callbacks), *stopping(early_stopping, validated=validated)]
        own = check_metrics({} if metrics is None else metrics)
        if own and not validated:
            msg = "metrics are of a validation, and there is none"
            raise ConfigError(
                msg,
                python="pass validation_fraction=0.1 or validation=...",
                command="hold out rows as a validation",
            )
        # A loss that is not finite is found and explained below; a warning would say less.
        quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")
        with memory_errors(self), quiet, self._cursor.deferring():
            return self._fit(data, label, epochs, validation, validation_fraction, watching, own)

    def _fit(
        self,
        data: Any,
        label: str | int | None,
        epochs: int,
        validation: Any,
        fraction: float | None,
        callbacks: list[Callback],
        metrics: dict[str, Metric],
    ) -> list[EpochMetrics]:
        epochs = check_epochs(epochs)
        self._repair()
        loader, checks = self._ranks.all_of(lambda: self._loaders(data, label, validation))
        of_fit = {"epochs": epochs, "validation_fraction": fraction, "metrics": [*metrics]}
        of_fit |= {"callbacks": common(callbacks)}
        self._ranks.compare(lambda: given_to(self, loader, checks, of_fit))
        accuracy = () if self.loss.predicts == "value" else ("accuracy",)
        known = {"loss": 0.0} | dict.fromkeys([*accuracy, *metrics], 0.0)
        check_monitored(callbacks, known)
        watched(known, self.schedule.monitor)
        if fraction is not None:
            loader, checks = divided(loader, fraction, self.seed, self.loss, self.classes)
        check_batches(self.model, loader.rows, self.batch_size, self.accumulate)
        self._weigh_named()
        if weights.is_balanced(self.loss) and self._class_weights is None:
            self._class_weights = shared_by_all(self.comm, lambda: self._counted(loader))
        self._follow_weights()
        steps_per_epoch = math.ceil(loader.rows / self.batch_size)
        check_length(epochs, steps_per_epoch)
        first = self._ranks.is_first
        if first and self._fitted and epochs <= self.position.epoch:
            warn_that_all_is_done(self.position.epoch)
        if first and self._is_frozen and type(self) is Trainer:  # a run says what is frozen
            warn_that_all_is_frozen()
        self._set(epochs=epochs, rows=loader.rows, steps_per_epoch=steps_per_epoch)
        self._set(stopped=None, failed=None)
        self._metrics = metrics
        callbacks = self._ranks.callbacks(callbacks)
        self._take_up(sorted(callbacks, key=lambda callback: callback.saves))
        self._fitted = False
        begun: list[Callback] = []
        try:
            self._keep(agreed=True)
            for callback in self.callbacks:
                callback.on_train_begin(self)
                begun.append(callback)
            self._choose_threads(loader)
            with limited(self.engine.backend, self.chosen_threads):
                self._train(loader.shared(self.engine.share), checks)
        except BaseException as error:
            self._set(failed=error)
            self._repair()
            raise
        finally:
            for callback in reversed(begun):
                callback.on_train_end(self)
        self._fitted = True
        return self.history

    def _loaders(
        self, data: Any, label: str | int | None, validation: Any
    ) -> tuple[Loader, Loader | None]:
        loader, checks = self._labelled(data, label, training=True, learn=True), None
        if validation is not None:
            with naming("validation"):
                checks = self._labelled(validation, label_for(validation, label))
        return loader, checks

    def _counted(self, loader: Loader) -> tuple[float, ...]:
        return weights.counted(self.loss, loader.targets(), self.model.output_shape[-1])

    def _train(self, loader: Loader, checks: Loader | None) -> None:
        over = self._ranks.agree(self)
        while self.position.epoch < self.epochs and not over:
            over = not self._train_epoch(loader)
            if not over:
                self._end_epoch(checks)
                over = self._ranks.agree(self)

    def _choose_threads(self, loader: Loader) -> None:
        """Measure how many threads are the fastest, unless that is known or nothing is left."""
        known = self._settled_threads() or self._ranks.threads() or self.chosen_threads
        self.chosen_threads = known
        steps = self.epochs * self.steps_per_epoch - self.position.step
        if self.chosen_threads is None and steps > 0:
            batch = loader.sample(min(self.batch_size, loader.rows))
            # At a learning rate of 0 the weights stay, however often the step is taken.
            still = self.engine.coefficients(0.0, self.position.step + 1 + self.updates_before)
            inputs = self._inputs(self.engine)._replace(coefficients=still)
            engine, self._cursor.phase = self.engine, TRIAL
            self.chosen_threads = choose(engine, batch, inputs, steps)
            self._cursor.phase = WHOLE

    def stop(self, reason: str) -> None:
        """End training after the current step, or after the epoch when asked at its end.

        Where one of several ranks asks for it, all stop after the same step: the one after which a
        callback looks that asks at every step, and else within about 0.2 seconds
        (:mod:`xpnet.training.ranks`).
        """
        self._set(stopped=reason)

    def _train_epoch(self, loader: Loader) -> bool:
        """Take the steps that are left of the epoch; say whether it came to its end."""
        engine, cursor, self._began = self.engine, self._cursor, time.perf_counter()
        if self._kept is None or self._kept.position != self.position:
            self._keep(agreed=True)
        shuffle = Shuffle(self.seed, self.position.epoch)
        self._batches = lambda: self._batches_of(loader, shuffle)
        self._check_rows = lambda: loader.shared(Share()).check_finite(EVALUATION_BATCH)
        hooks = overridden(self.callbacks, "on_step_end")
        for batches in self._at_once(self._batches()):
            n, self._batch = len(batches), batches[-1]
            cursor.phase = STEP
            engine.train_many(batches, [self._inputs(engine, ahead) for ahead in range(n)])
            cursor.advance(steps=n)
            if self._ranks.after_step(self, hooks):
                return False
        return True

    def _batches_of(self, loader: Loader, shuffle: Shuffle) -> Iterator[AnyBatch]:
        """The batches that are left of an epoch."""
        where: Any = self.batch_size, shuffle, self.position.batch
        rows = loader.rows_of_batches(*where) if self.engine.step.gathers else None
        return loader.batches(*where, reuse=True) if rows is None else rows

    def _at_once(self, batches: Iterator[AnyBatch]) -> Iterator[list[AnyBatch]]:
        """Those that are taken at once: as many as the step takes, where nobody looks in between.

        A batch that is not Rows may be written over when the next one is made.
        """
        best, whole = self.engine.step.at_once(self.batch_size), self.rows // self.batch_size
        callbacks = [c for c in self.callbacks if overridden([c], "on_step_end")]
        for batch in batches:
            n = 1
            if best > 1 and isinstance(batch, Rows) and self.position.batch + best <= whole:
                free = self._ranks.steps_left(self.position.step) >= best
                free = free and all(steps_between(c, self) >= best for c in callbacks)
                n = best if free else 1
            yield [batch, *islice(batches, n - 1)]

    def _keep(self, *, agreed: bool = False) -> None:
        """Keep a copy of the state, for :meth:`_repair` and to explain a failure.

        ``agreed``: all ranks keep that of the first.
        """
        state = self.engine.host_state()
        state = self._ranks.same_state(self.engine, state) if agreed else state
        self._kept = _Kept(self.position, state, self._schedule_state, len(self.history))

    def _repair(self) -> None:
        """Go back to the state that was kept, where a step was interrupted that writes over it."""
        if self._cursor.torn and self._engine is not None and self._kept is not None:
            position, state, schedule, epochs = self._kept
            self._engine.go_back(state)
            self._schedule_state = schedule
            del self.history[epochs:]
            self._cursor.arrive(position)

    def _inputs(self, engine: Engine, ahead: int = 0) -> StepInputs:
        """The numbers of the step at this position, or of one that comes so many steps later."""
        step = self._cursor.position.step + ahead
        keys = dropout_keys(self.seed, step, self.model.n_random)
        update = step + 1 + self.updates_before
        rows = None if engine.share.is_whole else self._rows_in(self._cursor.position.batch + ahead)
        return StepInputs(step, engine.coefficients(self._lr(step), update, ahead), keys, rows)

    @property
    def _rows_of_step(self) -> int | None:
        return None if self.engine.share.is_whole else self._rows_in(self.position.batch - 1)

    def _rows_in(self, batch: int) -> int:
        return min(self.batch_size, self.rows - batch * self.batch_size)

    def _lr(self, step: int) -> float:
        state, base, per_epoch = self._schedule_state, self.optimizer.lr, self.steps_per_epoch
        return self.schedule.lr(state, base, step, self.epochs * per_epoch, per_epoch)

    def _end_epoch(self, checks: Loader | None) -> None:
        means = self._ranks.read(self)  # waits for the device, so the time is taken after it
        seconds = time.perf_counter() - self._began
        first = 0 if self._kept is None else self._kept.position.batch
        done = max(self.rows - first * self.batch_size, 0)
        record = {
            "epoch": self.position.epoch + 1,
            "step": self.position.step,
            "lr": self._lr(self.position.step - 1),
            **means,
            "seconds": seconds,
            "rows_per_second": done / seconds,
        }
        if checks is not None:
            seen, share = Validated(self.engine.backend), self._ranks.validation
            with naming("validation"):
                result = self._evaluate(checks, *([seen] if self._metrics else []), share=share)
            record["val_loss"] = result.loss
            if result.accuracy is not None:
                record["val_accuracy"] = result.accuracy
            if self._metrics:
                whole = joined(self._ranks.batches(seen.parts))
                record |= shared_by_all(
                    self.comm, lambda: values(self._metrics, *whole, self.loss, self.classes)
                )
        for add in overridden(self.callbacks, "on_record"):
            add(self, record)
        record = self.comm.bcast(record)
        value = watched(record, self.schedule.monitor)
        schedule_state = self.schedule.observe(self._schedule_state, value)
        engine, self._cursor.phase = self.engine, STEP
        engine.zero()
        self.history.append(record)
        self._schedule_state = schedule_state
        self._cursor.arrive(Position(self.position.epoch + 1, 0, self.position.step))
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
        if (bad_step := self._ranks.first_bad(bad_step)) >= 0:
            if not self._ranks.together:
                raise NotFiniteError(bad_step)
            assert self._kept is not None
            engine, cursor, batches = self.engine, self._cursor, self._batches
            cursor.phase = TRIAL
            engine.set_state(self._kept.state)
            cursor.position = self._kept.position
            check = partial(shared_by_all, self.comm, self._check_rows)
            raise not_finite(engine, cursor, batches(), self._inputs, bad_step, check)
        return {"loss": loss} if accuracy is None else {"loss": loss, "accuracy": accuracy}

    @property
    def _is_frozen(self) -> bool:
        """Whether no weight and no statistic will change."""
        entries = self.engine.params_layout.entries
        still = bool(entries) and all(entry.frozen for entry in entries)
        return still and not self.engine.stats_layout.size

    @property
    def _has_learnt(self) -> bool:
        return self._has_weights or self.position.step > 0

    # -- state ------------------------------------------------------------------------------------

    @property
    def position(self) -> Position:
        """Where the training is."""
        return self._cursor.position

    @property
    def backend(self) -> Backend | None:
        """Where it trains; None while that is still to be chosen, by the first data."""
        return self._placement.backend

    @property
    def engine(self) -> Engine:
        """The model and its state on the backend, as soon as both are known.

        Raises TrainingError before that.
        """
        self._repair()
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
    def params(self) -> Mapping[str, np.ndarray]:
        """Host copies of the parameters and the running statistics, by name.

        They are there as soon as the sizes are known: before the first ``fit`` of a model that was
        built, they are its first weights. To change some of them, assign a mapping from their names
        to arrays of the same shape, of any library; what the optimizer remembers stays.

        Raises TrainingError while the sizes are not known, and on assignment DataError for a name
        that is not there, another shape or a value that is not finite: then none of them changes.

        >>> from xpnet.nn import Dense
        >>> model = Sequential([Dense(1)]).build((2,))
        >>> trainer = Trainer(model, "mean_squared_error", backend="numpy")
        >>> {name: weights.shape for name, weights in trainer.params.items()}
        {'0.dense.W': (2, 1), '0.dense.b': (1,)}
        >>> trainer.params = {"0.dense.W": [[2.0], [3.0]]}
        >>> trainer.predict([[1.0, 10.0]]).tolist()
        [[32.0]]
        """
        return read_only(self.engine.tensors())

    @params.setter
    def params(self, some: Mapping[str, Any]) -> None:
        self.engine.load_tensors(with_assigned(self.engine.tensors(), some))
        self._has_weights = True
        self._keep()

    def snapshot(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return all that a resumed training needs: named host arrays, and JSON data."""
        self._repair()
        meta = {
            "position": self.position._asdict(),
            "schedule": dict(self._schedule_state),
            "monitor": self.schedule.monitor,
            "callbacks": {name: dict(state) for name, state in self._states().items()},
            "history": [dict(record) for record in self.history],
            "backend": self.engine.backend.describe(),
            "threads": self._threads_by_backend(),
        }
        if self.comm.size > 1:
            meta["ranks"] = self.comm.size  # for information
        if algorithms := self.engine.algorithms:
            meta["algorithms"] = dict(algorithms)
        if self._class_weights is not None:
            meta["class_weights"] = list(self._class_weights)
        if self._columns is not None:
            meta["columns"] = list(self._columns)
        if self.classes is not None:
            meta["classes"] = list(self.classes)
        if not self._has_learnt:
            meta["trained"] = False
        if self.updates_before:
            meta["updates_before"] = self.updates_before
        return self.engine.tensors(), meta

    def restore(self, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Take back a snapshot, of any backend; the next :meth:`fit` goes on from there.

        Raises CheckpointError if it is not a snapshot or, once the model's sizes are known, if it
        does not fit.
        """
        found = resumed(meta, self.schedule)
        self._set(classes=found.classes)
        self._weigh_named()
        if weights.is_balanced(self.loss) and found.class_weights is not None:
            self._class_weights = found.class_weights
        self._follow_weights()
        if self._engine is None and self.model.input_shape is not None:
            self._prepare(self.model.input_shape)
        if self._engine is not None:
            self._engine.load_tensors(tensors)
        self._restored = tensors if self._engine is None else None
        self._cursor, self._schedule_state = Cursor(found.position), found.schedule
        self._set(history=found.history, callbacks=[], updates_before=found.updates_before)
        self._callback_states = dict(found.callbacks)
        self._columns = found.columns
        self._recorded_threads, self._kept = found.threads, None
        self._recorded_algorithms = found.algorithms
        self._has_weights, self._fitted = meta.get("trained") is not False, False
        if self._engine is not None:
            self._engine.prefer(found.algorithms)
            self.chosen_threads = self._settled_threads()

    def save(self, path: str | Path) -> Path:
        """Write the model and its training to one file, and return its path.

        :func:`xpnet.load` makes the same trainer of it, which predicts and trains on bit for bit.
        It is a safetensors file, of which any program can read the weights, with the settings
        and the state of the training as JSON: no code. ``path`` is a file, or a folder for a file
        ``model.safetensors`` in it; what ends in a slash is made. The file is replaced
        atomically: after an error or a power failure it is the old one or the new one.

        Of several ranks the first writes it, and the others, which may but need not call this, do
        not wait for it.

        Raises TrainingError while the model has no sizes, ConfigError for a class that is not
        registered, before anything is written, and CheckpointError where it cannot be written.
        """
        from xpnet.training.saved import file_at, save

        return save(path, self) if self._ranks.is_first else file_at(path)

    def start_from(
        self,
        source: Any,
        *,
        optimizer_state: bool = False,
        new_head: bool = False,
        report: Callable[[str], None] | None = print,
    ) -> "Start":
        """Start from the weights of another training, layer by layer: fine-tuning.

        ``source`` is a Trainer, a Run, a file that one of them saved, or the folder of a run. A
        layer is taken where its name, such as ``0.dense``, and its shapes are those of the source;
        the last one begins anew where it has another number of outputs, or with ``new_head``. A
        model without sizes is built for the inputs of a trainer or of what one saved. The settings
        are those of this trainer: the learning rate, the layers to ``freeze``. With
        ``optimizer_state`` the moments and the count of updates of the same rule go on as well.
        ``report``, unless None, is called with each line of what was taken and begins anew.

        Raises ConfigError for layers that do not fit, CheckpointError for what cannot be read, and
        TrainingError once this trainer has trained.

        >>> from xpnet.nn import Dense, Tanh
        >>> x, y = np.eye(4), np.array([0, 1, 2, 3])
        >>> digits = Trainer([Dense(8), Tanh(), Dense(4)], backend="numpy")
        >>> _ = digits.fit((x, y), epochs=1)
        >>> layers = [Dense(8), Tanh(), Dense(2)]
        >>> two = Trainer(layers, optimizer=Adam(1e-4, freeze=["0.dense"]), backend="numpy")
        >>> _ = two.start_from(digits)
        weights of the given trainer: 0.dense
        the last layer, 2.dense, begins anew: 2 outputs, and 4 there
        the optimizer begins anew
        frozen: 0.dense
        """
        from xpnet.training.start import source_of, start

        if self.position != Position() or self.history:
            msg = "this trainer has trained already, so its history is not that of the source"
            raise TrainingError(msg, python="make another Trainer, and start that one")
        found = source_of(source)
        if self.model.input_shape is None and found.inputs is not None:
            self._prepare(found.inputs)
        started, tensors = start(self, found, optimizer_state=optimizer_state, new_head=new_head)
        self.engine.load_tensors(tensors)
        self._set(updates_before=found.updates if optimizer_state else 0)
        self._has_weights = True
        self._keep()
        lines = [*started.lines]
        if found.encoded and type(self) is Trainer:
            lines.append(f"not taken: the preprocessing of {found.name}; encode rows as it does")
        if report is not None:
            for line in lines:
                report(line)
        return started

    def _threads_by_backend(self) -> dict[str, int]:
        chosen = self.chosen_threads
        if chosen is None or chosen.number is None:
            return {}
        return {self.engine.backend.name: chosen.number}

    def _settled_threads(self) -> Threads | None:
        ordered = self.parallel.reduce == "ordered"
        recorded = {} if ordered or self.comm.size > 1 else self._recorded_threads
        return settled(self.engine.backend, self.threads, recorded, ONE if ordered else None)

    def _states(self) -> dict[str, Mapping[str, Any]]:
        """The states of the callbacks, also of those that took part earlier."""
        return {**self._callback_states, **{name: c.state() for name, c in named(self.callbacks)}}

    def _take_up(self, callbacks: list[Callback]) -> None:
        """Let callbacks go on where those of the same names were."""
        states = self._states()
        for name, callback in named(callbacks):
            try:
                if name in states:
                    callback.restore(states[name])
            except (LookupError, TypeError, ValueError, OverflowError) as error:
                msg = f"the checkpoint has a state that {name} cannot take back: {error}"
                raise CheckpointError(msg) from error
        self._set(callbacks=callbacks)
        self._callback_states = states

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
        return f"{self.model.summary()}\n\n{facts(self, *self._where).text()}"

    def _repr_html_(self) -> str:  # what a notebook shows
        return self.model._repr_html_() + facts(self, *self._where).html()

    def __repr__(self) -> str:
        where = self.backend or self._placement.name
        of = self.comm.size
        rank = "" if of == 1 else f", comm=<rank {self.comm.rank} of {of}>"
        made = f"{self.model!r}, {self.loss!r}, {self.optimizer!r}, backend={where!r}{rank}"
        return f"Trainer({made})"

    @property
    def _where(self) -> tuple[str, str | None]:
        """Where it trains, and what takes the steps."""
        return str(self._placement), None if self._engine is None else self._engine.step.note

    # -- preparation -------------------------------------------------------------------------------

    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Build the model and its engine for examples of ``shape``, once."""
        if self._engine is None:
            if self.model.input_shape != shape:
                self._set(model=self.model.build(shape))
            check_output(self.model, self.loss)
            backend = self._placement.resolve()
            check_codes(self.model, self.mixed.dtype if self.mixed else backend.dtype_name)
            self._engine = self._made_engine(backend)
            self._engine.prefer(self._recorded_algorithms)
            self.chosen_threads = self._settled_threads()
            if self._restored is not None:
                self._engine.load_tensors(self._restored)
                self._restored = None
        elif self.model.input_shape != shape:
            msg = f"the model takes examples of shape {self.model.input_shape}; got {shape}"
            raise DataError(msg)

    def _made_engine(self, backend: Backend, **more: Any) -> Engine:
        return Engine(
            backend,
            self.model,
            self._weighted_loss(),
            self.optimizer,
            self.clip,
            seed=self.seed,
            step=self.step,
            accumulate=self.accumulate,
            mixed=self.mixed,
            comm=self.comm,
            parallel=self.parallel,
            **more,
        )

    def _weigh_named(self) -> None:
        """Give the loss the class weights of a mapping, as soon as the classes are known."""
        loss, named = self.loss, self.class_weights
        K = None if self.model.input_shape is None else self.model.output_shape[-1]
        if not isinstance(named, Mapping) or (self.classes is None and K is None):
            return
        found = weights.by_class(named, self.classes or range(K or 0))
        self._set(loss=replace(cast(Any, loss), class_weights=found))

    def _follow_weights(self) -> None:
        """Have an engine whose step has the class weights, as constants, that are known now."""
        engine, may_differ = self._engine, isinstance(self.class_weights, Mapping)
        may_differ = may_differ or weights.is_balanced(self.loss)
        if engine is not None and may_differ and engine.loss != self._weighted_loss():
            made = self._made_engine(engine.backend)
            made.set_state(engine.host_state())
            made.prefer(engine.algorithms)
            self._engine = made

    def _weighted_loss(self) -> Loss:
        return weights.weighted(self.loss, self._class_weights, self.model.output_shape[-1])


def _settings() -> list[str]:
    return [name for name in inspect.signature(Trainer).parameters if name != "unknown"]
