"""The training step as an ONNX model: ``make_train_step`` called with symbols.

Inputs are the state, named as in a checkpoint (``params/0.dense.W``, ``slots/m/0.dense.W``,
``totals/loss``, ...), the batch and the step's number; outputs the new state, ``new/`` before each
name, and the loss::

    x        (N, ...)      float         the rows, as the model takes them: preprocessed
    y        (N,) or (N, J)              class indices, int64, or targets
    weight   (N,)          float         where it was asked for
    step     ()            int64         0, 1, ...: how many steps were taken before
    lr       ()            float         where the learning rate is an input, not the schedule's
    keys     (R, 2)        int32         with dropout: two for each of the R random layers

The schedule and the coefficients of the rule are in the graph, as functions of ``step``
(:mod:`xpnet.interop.onnx.coefficients`). Keys come from outside, for xpnet draws them with NumPy's
Philox: :func:`xpnet.step.dropout_keys` returns the ones that xpnet itself would take; any other
random int32 numbers are as good for training, on another curve.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from xpnet.errors import ConfigError, DataError
from xpnet.interop.onnx.coefficients import Column, Table, learning_rates, tables
from xpnet.interop.onnx.fuse import fused
from xpnet.interop.onnx.metadata import describe, described
from xpnet.interop.onnx.simplify import simplify
from xpnet.interop.onnx.symbols import Symbol, built, entry, scalar, symbol
from xpnet.nn.layout import Layout
from xpnet.optim.schedules import Constant
from xpnet.split_vector import SplitVector
from xpnet.step import Batch, StepInputs, Totals, TrainState, make_predict_step, make_train_step
from xpnet.training.class_weights import is_balanced
from xpnet.training.engine import Engine
from xpnet.training.trainer import Trainer

if TYPE_CHECKING:
    import onnx

__all__ = ["NEW", "about", "predict_model", "refuse", "step_model"]

NEW = "new/"  # before the name of a state's tensor among the outputs
CONTINUING = 20_000  # updates that a rule whose coefficients never settle is exported for
LearningRate = Literal["schedule", "input"]


def step_model(
    trainer: Trainer,
    *,
    epochs: int | None = None,
    rows: int | None = None,
    targets: int | None = None,
    weight: bool = False,
    learning_rate: LearningRate = "schedule",
    fuse: bool = True,
) -> "onnx.ModelProto":
    """Return the step that ``trainer`` takes as an ONNX model, for batches of any size.

    ``epochs`` and the ``rows`` of an epoch are those of the schedule, by default of the trainer's
    ``fit``. ``targets`` is how many columns y has: none, (N,), by default for class indices.
    ``weight`` gives the batch an input of sample weights. ``fuse`` takes ONNX's own operators for
    what several nodes compute, of which an older opset may lack some.
    Raises ConfigError for what a step on its own cannot be.
    """
    refuse(trainer.mixed, trainer.accumulate)
    _check_class_weights(trainer)
    engine = trainer.engine
    per_epoch = -(-(rows or trainer.rows) // trainer.batch_size)
    total = (epochs or trainer.epochs) * per_epoch
    rates = None
    if learning_rate == "schedule":
        if not total and not isinstance(trainer.schedule, Constant):
            msg = "how long the schedule is depends on epochs and rows, which are not known"
            raise ConfigError(msg, python="pass epochs and rows")
        base = engine.request.optimizer.lr
        rates = learning_rates(trainer.schedule, base, total, per_epoch)
    dtype = engine.backend.dtype_name
    made = _Graph(engine, dtype, fuse=fuse)
    batch = made.batch(trainer, targets, weight=weight)
    inputs = made.numbers(rates, total or CONTINUING)
    state, cost = make_train_step(engine.model, engine.loss, engine.optimizer, trainer.clip)(
        made.state(), batch, inputs
    )
    return made.built(state, cost, _described(trainer, engine, total, per_epoch, rates))


def predict_model(trainer: Trainer) -> "onnx.ModelProto":
    """Return the predictions for x by parameters that are inputs, too, as an ONNX model.

    Its output ``probabilities`` has them, or the values of a regression.
    """
    engine = trainer.engine
    made = _Graph(engine, engine.backend.dtype_name)
    params = made.vector("params", engine.params_layout)
    stats = made.vector("stats", engine.stats_layout)
    x = made.input("x", ("N", *(engine.model.input_shape or ())))
    output = make_predict_step(engine.model, engine.loss)(params, stats, x)
    return made.model({"probabilities": output})


def refuse(mixed: object, accumulate: int) -> None:
    """Raise ConfigError where the step of a trainer is no function of a whole batch."""
    if mixed is not None:
        msg = "the exported step computes in one dtype; the trainer's has mixed precision, whose "
        msg += "loss scale follows the overflows of a device"
        raise ConfigError(
            msg,
            python="make another Trainer with mixed=None and restore its snapshot",
            command="train without mixed",
        )
    if accumulate > 1:
        msg = f"the exported step takes a batch whole; the trainer accumulates {accumulate}"
        msg += " micro-batches, whose number of rows the graph does not know"
        raise ConfigError(msg, python="pass accumulate=1", command="train with --set accumulate=1")


def _check_class_weights(trainer: Trainer) -> None:
    named = isinstance(trainer.class_weights, Mapping) and not trainer.position.step
    balanced = is_balanced(trainer.loss) and "class_weights" not in trainer.snapshot()[1]
    if named or balanced:
        msg = f"class_weights={trainer.class_weights!r} are those of the loss from the first fit on"
        raise ConfigError(msg, python="fit first, or give a number for each class")


class _Graph:
    """The inputs of the graph, by name."""

    def __init__(self, engine: Engine, dtype: str, *, fuse: bool = True) -> None:
        self.engine, self.dtype, self.fuse = engine, dtype, fuse
        self.inputs: dict[str, Symbol] = {}

    def input(self, name: str, shape: tuple[int | str, ...], dtype: str | None = None) -> Symbol:
        self.inputs[name] = made = symbol(shape, dtype or self.dtype)
        return made

    def vector(self, prefix: str, layout: Layout) -> Any:
        tensors = [self.input(f"{prefix}/{e.name}", e.shape) for e in layout.entries]
        return SplitVector(tuple(tensors)) if tensors else scalar(np.zeros(0, self.dtype))

    def state(self) -> TrainState:
        params = self.vector("params", self.engine.params_layout)
        stats = self.vector("stats", self.engine.stats_layout)
        slots = [
            self.vector(f"slots/{slot}", self.engine.params_layout)
            for slot in self.engine.optimizer.slots
        ]
        totals = [
            self.input(name, (), "int32" if name == "totals/bad_step" else None)
            for name in _total_names(self.engine)
        ]
        return TrainState(params, stats, tuple(slots), Totals(*totals))

    def batch(self, trainer: Trainer, targets: int | None, *, weight: bool) -> Batch:
        shape = self.engine.model.input_shape or ()
        x = self.input("x", ("N", *shape))
        outputs = self.engine.model.output_shape[-1]
        if self.engine.loss.predicts == "class" and targets is None:
            y = self.input("y", ("N",), "int64")
        else:
            columns = outputs if targets is None else targets
            y = self.input("y", ("N", columns) if columns else ("N",))
        if weight:
            return Batch(x, y, self.input("weight", ("N",)))
        xp = x.__array_namespace__()
        return Batch(x, y, xp.ones((x.shape[0],), dtype=x.dtype))

    def numbers(self, rates: np.ndarray | None, last: int) -> StepInputs:
        """The numbers of the step, from its own number."""
        step = self.input("step", (), "int64")
        if rates is None:
            lr = self.input("lr", ())
        else:
            lr = _taken(rates.astype(self.dtype), step, goes_on=False)
        table = tables(self.engine.optimizer, self.dtype, last)
        coefficients = table.kind(*(_coefficient(c, table, step, lr) for c in table.columns))
        n = self.engine.model.n_random
        keys: tuple[Any, ...] = ()
        if n:
            drawn = self.input("keys", (n, 2), "int32")
            keys = tuple((drawn[i, 0], drawn[i, 1]) for i in range(n))
        xp = step.__array_namespace__()
        return StepInputs(xp.astype(step, xp.int32), coefficients, keys)

    def built(self, state: TrainState, cost: Symbol, about: dict[str, Any]) -> "onnx.ModelProto":
        outputs = {"loss": cost}
        outputs |= _named("params", self.engine.params_layout, state.params)
        outputs |= _named("stats", self.engine.stats_layout, state.stats)
        for slot, vector in zip(self.engine.optimizer.slots, state.slots, strict=True):
            outputs |= _named(f"slots/{slot}", self.engine.params_layout, vector)
        outputs |= dict(zip(_total_names(self.engine), state.totals, strict=True))
        made = self.model({k if k == "loss" else NEW + k: x for k, x in outputs.items()})
        describe(made, about)
        return made

    def model(self, outputs: dict[str, Symbol]) -> "onnx.ModelProto":
        made = simplify(built(self.inputs, outputs))
        return simplify(fused(made)) if self.fuse else made  # which takes out the copies


def about(model: "onnx.ModelProto") -> dict[str, Any]:
    """Return what :func:`step_model` wrote into a model: its state's names, its seed, and more.

    Raises DataError if it is no training step of xpnet.
    """
    found = described(model)
    if found.get("kind") != "training step":
        msg = "the ONNX model is no training step of xpnet's"
        raise DataError(msg, python="make one with step_model(trainer)")
    return found


def _total_names(engine: Engine) -> list[str]:
    return [name for name in engine.tensors() if name.startswith("totals/")]


def _named(prefix: str, layout: Layout, vector: Any) -> dict[str, Symbol]:
    tensors = vector.tensors if isinstance(vector, SplitVector) else ()
    return {f"{prefix}/{e.name}": t for e, t in zip(layout.entries, tensors, strict=True)}


def _coefficient(column: Column, table: Table, step: Symbol, lr: Any) -> Any:
    """One coefficient: a number where it never changes, else what the graph computes."""
    goes_on = table.ends is None
    if not column.per_lr.any():
        if len(column.fixed) == 1:
            return float(column.fixed[0])
        return _taken(column.fixed, step, goes_on=goes_on)
    value: Any = lr
    if (column.per_lr != 1.0).any():
        value = lr * _taken(column.per_lr, step, goes_on=goes_on)
    return value + _taken(column.fixed, step, goes_on=goes_on) if column.fixed.any() else value


def _taken(table: np.ndarray, step: Symbol, *, goes_on: bool) -> Symbol:
    """What a table has at a step; beyond its end the last entry, or an error of the runtime."""
    if len(table) == 1:
        return scalar(table[0])
    xp = step.__array_namespace__()
    return entry(table, xp.minimum(step, scalar(np.int64(len(table) - 1))) if goes_on else step)


def _described(
    trainer: Trainer, engine: Engine, total: int, per_epoch: int, rates: np.ndarray | None
) -> dict[str, Any]:
    """What a program that trains with the model may want to know."""
    return {
        "kind": "training step",
        "version": 1,
        "state": list(engine.tensors()),
        "seed": trainer.seed,
        "random_layers": engine.model.n_random,
        "batch_size": trainer.batch_size,
        "steps": total if rates is not None and len(rates) > 1 else None,
        "steps_per_epoch": per_epoch or None,
        "step": trainer.position.step,
        "optimizer": repr(trainer.optimizer),
        "loss": repr(trainer.loss),
        "schedule": repr(trainer.schedule) if rates is not None else "an input, lr",
    }
