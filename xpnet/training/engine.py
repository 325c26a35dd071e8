"""A built model on one backend: its training state, and the steps that use it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from xpnet.backends import Backend
from xpnet.errors import CheckpointError, DataError
from xpnet.nn import Sequential
from xpnet.nn.layout import Layout, initialize, layouts, merge
from xpnet.nn.losses import Loss
from xpnet.optim.clipping import Clip
from xpnet.optim.groups import frozen, grouped
from xpnet.optim.optimizers import Optimizer
from xpnet.parallel import ALONE, WHOLE, Comm, Share
from xpnet.parallel.across import Across
from xpnet.parallel.settings import Parallel
from xpnet.split_vector import SplitVector
from xpnet.step import (
    AnyBatch,
    Batch,
    BatchGradient,
    StepInputs,
    Totals,
    TrainState,
    gathered,
    make_evaluate_step,
    make_gradient,
    make_predict_step,
    zero_totals,
)
from xpnet.step.data_parallel import make_shared_gradient, meetings
from xpnet.step.microbatch import accumulated
from xpnet.step.mixed_precision import CANDIDATES, Mixed, candidates, first_scale, first_skipped
from xpnet.training.nonfinite import first_nonfinite
from xpnet.training.rows_apart import check_rows_apart
from xpnet.training.step_choice import Step, StepRequest, choose_step
from xpnet.typing import Array

__all__ = ["Engine", "Metrics"]

# Names of totals in a checkpoint. They are part of the format, and older than the fields.
STORED = {"correct": "hits", "counted": "count"}


class Metrics(NamedTuple):
    """What the totals say: means since they were last zeroed, weighted by the rows' weights."""

    loss: float
    accuracy: float | None  # None for regression
    bad_step: int  # the first step whose loss was not finite, or -1


class Engine:
    """The train, evaluate and predict steps of ``model`` on ``backend``, and the state they use.

    ``step`` says who takes the train step (:mod:`xpnet.training.step_choice`); with ``accumulate``
    the gradient of a batch is accumulated over that many micro-batches; ``mixed`` computes it in a
    narrower dtype; ``alpha`` is the penalty of :func:`~xpnet.step.make_gradient`. The ranks of
    ``comm`` share each batch as ``parallel`` says: a step is given this rank's rows, and
    ``StepInputs.rows``, and all ranks have the same state after it. The state begins
    with ``seed``'s first weights. The attribute ``optimizer`` is the rule that makes the updates:
    the one given, or what its groups of parameters make of it.

    A copy, or what is pickled, has the state as host arrays, makes its steps anew, and shares no
    batch with other ranks.
    """

    def __init__(
        self,
        backend: Backend,
        model: Sequential,
        loss: Loss,
        optimizer: Optimizer,
        clip: Clip = Clip(),
        *,
        seed: int = 0,
        step: Step = "auto",
        accumulate: int = 1,
        mixed: Mixed | None = None,
        alpha: float = 0.0,
        comm: Comm = ALONE,
        parallel: Parallel = Parallel(),
    ) -> None:
        options: Any = {"seed": seed, "step": step, "accumulate": accumulate, "mixed": mixed}
        options |= {"alpha": alpha, "parallel": parallel}  # a copy is of no rank
        self._made_by = partial(type(self), backend, model, loss, optimizer, clip, **options)
        layout = layouts(model)[0]
        optimizer, left_out = grouped(optimizer, layout), frozen(optimizer, layout)
        model = replace(model, frozen=left_out) if left_out else model
        self.backend, self.model, self.loss, self.optimizer = backend, model, loss, optimizer
        self.params_layout, self.stats_layout = layouts(model)
        first = initialize(model, seed)
        pairs = zip(layouts(model), first, strict=True)
        params, stats = (_vector(backend, layout, flat) for layout, flat in pairs)
        # A library that compiles does so for each operation and shape, unless it is asked once.
        at_once = backend.jit if backend.jit_by_default else backend.bound
        self._all_finite, self._zero_totals = at_once(_all_finite), backend.bound(zero_totals)
        self._copy = backend.bound(_copy)
        slots = at_once(optimizer.init)(params)
        with backend.active():
            scale = first_scale(mixed, params) if mixed else None
            skipped = first_skipped(mixed, params) if mixed else None
        self.state = TrainState(params, stats, slots, self._zero_totals(params), scale, skipped)
        self._skipped_by: tuple[int, int] | None = None  # how many steps, when last looked

        self.share, self.parallel, across = WHOLE, parallel, None
        if comm.size > 1 or parallel.reduce == "ordered":
            tensors = map(Layout.split, (self.params_layout, self.stats_layout), first)
            check_rows_apart(model, merge(*tensors))
            parts = parallel.parts if parallel.reduce == "ordered" else None
            self.share = Share(comm.rank, comm.size, parts, accumulate)
            moves = backend.staging() if parts is None else (backend.to_host, backend.place)
            across = Across(comm, self.share, *moves, backend.active, parallel)
        self.request = StepRequest(
            backend, model, loss, optimizer, clip, mixed, accumulate, alpha, across
        )
        self._asked, self.step = step, choose_step(step, self.request)
        self._algorithms: Mapping[str, str] = {}  # of an earlier step
        jit = backend.jit if self.step.kind == "jit" else backend.bound
        self._evaluate = jit(make_evaluate_step(model, loss))
        self._predict = jit(make_predict_step(model, loss))
        gradient = make_gradient(model, loss)
        self._gradient = jit(gradient)
        if across is not None:
            at_once = backend.bound if meetings(model, across) else at_once
            self._step_gradient = make_shared_gradient(model, loss, across, at_once)
            return
        if accumulate > 1:
            gradient = accumulated(gradient, accumulate, summed=loss.reduction == "sum")
        self._step_gradient = at_once(gradient)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._made_by, (), (self.host_state(), dict(self.algorithms))

    def __setstate__(self, state: tuple[TrainState, Mapping[str, str]]) -> None:
        host, algorithms = state
        self.set_state(host)
        self.prefer(algorithms)

    @property
    def nbytes(self) -> int:
        """How many bytes the state has, and so a checkpoint's tensors."""
        floats = (1 + len(self.state.slots)) * self.params_layout.size + self.stats_layout.size
        floats += len(Totals._fields) - 1 + (0 if self.state.scale is None else 3)
        return floats * np.dtype(self.backend.dtype_name).itemsize + 4  # and the number of a step

    def coefficients(self, lr: float, t: int, ahead: int = 0) -> Any:
        """Return what the rule's step t = 1, 2, ... takes, steps that are left out not counted.

        With a loss scale the device counts these; the host looks once in a few steps. ``ahead``, of
        these fewer than CANDIDATES, are the steps before this one that are still to be taken.
        """
        skipped = self.state.skipped
        if skipped is None:
            return self.optimizer.coefficients(lr, t)
        if self._skipped_by is None or not 0 <= t - self._skipped_by[1] < CANDIDATES:
            self._skipped_by = int(self.backend.to_host(skipped)), t - ahead
        known, at = self._skipped_by
        return candidates(self.optimizer, lr, t, known, t - at)

    @property
    def algorithms(self) -> Mapping[str, str]:
        """The algorithms that steps were taken with, by what they are for: the bits depend on them.

        Only the fused step of CuPy has any.
        """
        return {**self._algorithms, **self.step.algorithms}

    def prefer(self, algorithms: Mapping[str, str]) -> None:
        """Take steps with the algorithms of another engine, where they are those of this GPU."""
        self._algorithms = dict(algorithms)
        self.step.prefer(self._algorithms)

    def train(self, batch: AnyBatch, inputs: StepInputs) -> Array:
        """Take one step; return the batch's loss, a 0-d array that nobody has waited for."""
        self.state, cost = self.step.train(self.state, batch, inputs)
        return cost

    def train_many(self, batches: Sequence[AnyBatch], inputs: Sequence[StepInputs]) -> None:
        """Take as many steps as ``step.at_once`` says, of batches of one size, or one step."""
        if len(batches) == 1:
            self.train(batches[0], inputs[0])
        else:
            self.state, _ = self.step.train.many(self.state, batches, inputs)  # type: ignore[attr-defined]

    def gradient(
        self, batch: Batch, keys: tuple[tuple[int, int], ...] = (), params: Array | None = None
    ) -> BatchGradient:
        """Return the loss of a batch and its gradient (P,) in training mode; the state stays.

        ``params`` (P,), as the backend keeps them, are those of the state by default. ``keys`` are
        :func:`xpnet.step.dropout_keys`, for a model that draws. The whole batch is taken at once in
        the backend's dtype, and nothing is clipped; what is frozen has a gradient of zero.
        """
        params = self.state.params if params is None else params
        return self._gradient(params, self.state.stats, batch, keys)

    def gradient_of_step(
        self,
        batch: AnyBatch,
        keys: tuple[tuple[int, int], ...],
        before: Array,
        rows: int | None = None,
    ) -> Array:
        """Return the gradient (P,) of the step taken last, before clipping.

        ``batch``, ``keys`` and ``rows`` are those of the step, ``before`` are the parameters (P,)
        before it. Where ranks share the batch, all of them ask at once.
        A fused step has it still: then it may be a buffer, which the next step writes over, and is
        not finite in a step that overflowed. Otherwise it is computed again, in micro-batches like
        the step, in the backend's dtype.
        """
        kept = getattr(self.step.train, "gradient", None)
        if kept is not None and (found := kept()) is not None:
            return found
        with self.backend.active():
            whole = gathered(batch)
            shared = {} if rows is None else {"rows": rows}
            return self._step_gradient(before, self.state.stats, whole, keys, **shared).gradient

    def evaluate(
        self,
        batches: Iterable[Batch],
        each: Callable[[Batch, Array, Array], None] = lambda batch, output, predictions: None,
        *,
        shared: bool = False,
    ) -> Metrics:
        """Return loss and accuracy of the model as it is.

        ``each`` is given every batch, the model's output and what that predicts. ``shared``: each
        rank has some of the batches or of their rows, perhaps none, and all get the same numbers.
        Raises DataError where no row counts.
        """
        totals = self._zero_totals(self.state.params)
        for batch in batches:
            totals, output, predicted = self._evaluate(
                totals, self.state.params, self.state.stats, batch
            )
            each(batch, output, predicted)
        numbers = self._numbers(totals)
        across = self.request.across
        if shared and across is not None:
            of_ranks = across.comm.allgather(tuple(numbers))
            numbers = Totals(*map(sum, zip(*of_ranks, strict=True)))
            numbers = numbers._replace(bad_step=max(found[-1] for found in of_ranks))
        if not numbers.denominator:
            msg = "no row counts in this evaluation: its labels are ignored, or weigh 0"
            raise DataError(msg)
        return self._metrics(numbers)

    def predictions(self, batches: Iterable[Batch]) -> Iterator[np.ndarray]:
        """Yield the predictions for each batch's x as a host array."""
        for batch in batches:
            predicted = self._predict(self.state.params, self.state.stats, batch.x)
            yield self.backend.to_host(predicted)

    def read(self) -> Metrics:
        """Return the means over the steps since :meth:`zero`; waits for the device."""
        return self._metrics(self._numbers(self.state.totals))

    def zero(self) -> None:
        """Begin new totals."""
        self.state = self.state._replace(totals=self._zero_totals(self.state.params))

    def finite(self) -> bool:
        """Say whether the parameters are finite; waits for the device."""
        return self.is_finite(self.state.params)

    def is_finite(self, x: Array) -> bool:
        """Say whether all of an array is finite; waits for the device."""
        return bool(self.backend.to_host(self._all_finite(x)))

    def _numbers(self, totals: Totals) -> Totals:
        """The totals as Python's floats; waits for the device."""
        return Totals(*(float(self.backend.to_host(total)) for total in totals))

    def _metrics(self, numbers: Totals) -> Metrics:
        loss, denominator, correct, count, bad_step = numbers
        accuracy = None if self.loss.predicts == "value" else correct / (count or 1.0)
        if self.loss.reduction == "sum":  # each batch has added its 1
            denominator = 1.0
        return Metrics(loss / (denominator or 1.0), accuracy, int(bad_step))

    def first_nonfinite(self, batch: AnyBatch, inputs: StepInputs) -> str | None:
        """Name the first array with a NaN or an infinity in the step that this batch would take.

        With a loss scale, gradients that overflow are no fault: such a step is skipped. Where ranks
        share the batch, all of them ask at once and are told the same.
        """
        with self.backend.active():
            return first_nonfinite(self, gathered(batch), inputs)

    def host_state(self) -> TrainState:
        """Return a copy of the state in host arrays, each vector flat."""
        return _map(self.backend.to_host, self.state)

    def set_state(self, host: TrainState) -> None:
        """Place a copy of a host state."""
        backend = self.backend
        placed = _map(lambda x: _placed(backend, x), host._replace(params=(), stats=(), slots=()))
        self._skipped_by = None
        self.state = placed._replace(
            params=_vector(backend, self.params_layout, host.params),
            stats=_vector(backend, self.stats_layout, host.stats),
            slots=tuple(_vector(backend, self.params_layout, slot) for slot in host.slots),
        )

    def weights(self) -> tuple[Array, Array]:
        """Return a copy of the parameters and the statistics, on the device."""
        return self._copy(self.state.params), self._copy(self.state.stats)

    def set_weights(self, weights: tuple[Array, Array]) -> None:
        """Continue from a copy of these; the moments of the rule stay."""
        params, stats = map(self._copy, weights)
        self.state = self.state._replace(params=params, stats=stats)

    def go_back(self, host: TrainState) -> None:
        """Place a host state where a step was interrupted, with a step that knows nothing of it."""
        known = self.algorithms
        self.step = choose_step(self._asked, self.request)
        self.prefer(known)
        self.set_state(host)

    @contextmanager
    def rehearsal(self) -> Iterator[None]:
        """Forget the steps that are taken within: at its end the state is as it was."""
        host = self.host_state()
        try:
            yield
        finally:
            self.set_state(host)

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the state as named host arrays, such as ``params/0.dense.W``."""
        host = self.host_state()
        named = {f"params/{k}": v for k, v in self.params_layout.named(host.params).items()}
        named |= {f"stats/{k}": v for k, v in self.stats_layout.named(host.stats).items()}
        for slot, flat in zip(self.optimizer.slots, host.slots, strict=True):
            named |= {f"slots/{slot}/{k}": v for k, v in self.params_layout.named(flat).items()}
        if host.scale is not None:
            named["scale"] = host.scale
        if host.skipped is not None:
            named["skipped"] = np.asarray(host.skipped)
        totals = host.totals._asdict().items()
        return named | {_total(k): np.asarray(v) for k, v in totals}

    def load_tensors(self, tensors: Mapping[str, np.ndarray]) -> None:
        """Take back :meth:`tensors`, of any backend.

        Raises CheckpointError where a tensor is missing, has another shape or kind, or where the
        model's are not finite.
        """
        slots = tuple(
            _flat(tensors, self.params_layout, f"slots/{slot}/") for slot in self.optimizer.slots
        )
        params = _flat(tensors, self.params_layout, "params/")
        stats = _flat(tensors, self.stats_layout, "stats/")
        totals = Totals(*(_tensor(tensors, _total(k), ()) for k in Totals._fields))
        scale = None if self.state.scale is None else _tensor(tensors, "scale", (2,))
        skipped = None
        if self.state.skipped is not None:  # which earlier versions did not count
            skipped = _tensor({"skipped": np.zeros((), np.int32), **tensors}, "skipped", ())
        if not np.isfinite(params).all() or not np.isfinite(stats).all():
            msg = "the checkpoint's model has values that are not finite"
            raise CheckpointError(msg)
        self.set_state(TrainState(params, stats, slots, totals, scale, skipped))


def _copy(x: Array) -> Array:
    return array_namespace(x).asarray(x, copy=True)


def _all_finite(x: Array) -> Array:
    xp = array_namespace(x)
    return xp.all(xp.isfinite(x))


def _placed(backend: Backend, host: Any) -> Array:
    """A copy on the device, for a step to write into."""
    kind = "int32" if np.asarray(host).dtype.kind == "i" else backend.dtype_name
    return backend.place(np.array(host, dtype=kind))


def _vector(backend: Backend, layout: Layout, flat: np.ndarray) -> Array:
    """A copy of a flat vector on the device, as the backend keeps it."""
    if not backend.splits or not layout.entries:
        return _placed(backend, flat)
    return SplitVector(tuple(_placed(backend, t) for t in layout.tensors(flat)))


def _total(field: str) -> str:
    return f"totals/{STORED.get(field, field)}"


def _flat(tensors: Mapping[str, np.ndarray], layout: Layout, prefix: str) -> np.ndarray:
    named = {e.name: _tensor(tensors, prefix + e.name, e.shape) for e in layout.entries}
    return layout.join_named(named, np.zeros(0))


def _tensor(tensors: Mapping[str, np.ndarray], name: str, shape: tuple[int, ...]) -> np.ndarray:
    found = tensors.get(name)
    if found is None or tuple(found.shape) != tuple(shape):
        got = "none" if found is None else tuple(found.shape)
        msg = f"the checkpoint does not fit the model: {name} must have shape {shape}; got {got}"
        raise CheckpointError(msg)
    kind = "i" if name in ("totals/bad_step", "skipped") else "f"
    if found.dtype.kind != kind:
        msg = f"the checkpoint does not fit the model: {name} cannot be {found.dtype}"
        raise CheckpointError(msg)
    return found


def _map(f: Callable[[Array], Array], state: TrainState) -> TrainState:
    totals = Totals(*(f(total) for total in state.totals))
    scale = None if state.scale is None else f(state.scale)
    skipped = None if state.skipped is None else f(state.skipped)
    slots = tuple(map(f, state.slots))
    return TrainState(f(state.params), f(state.stats), slots, totals, scale, skipped)
