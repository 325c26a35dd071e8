"""Norms by layer, once an epoch: does this layer learn, do the gradients vanish or explode?

An epoch's record gets them as ``record["norms"]["0.dense"]``, a mapping with, for the parameters θ
of the layer and its last whole batch B, which the step θ → θ′ is taken with:

    weights     ‖θ′‖           how large the parameters are
    gradient    ‖∂C_B/∂θ‖      what backpropagation brings to the layer, before clipping
    update      ‖θ′ − θ‖       how far the step moves it, by learning rate, rule, clipping, decay

‖·‖ is the Euclidean norm over all parameters of the layer, weights, bias and so on together.

How to read them: a gradient that is orders of magnitude smaller in the first layers than in the
last one vanishes, one that grows there from epoch to epoch explodes. update / weights says whether
a layer learns: about 1e-3 a step is usual, 1e-6 stands still, 1e-1 is torn about. A frozen layer
has a gradient and an update of 0. √Σ gradient² over the layers is what ``clip.norm`` bounds.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from array_api_compat import array_namespace

from xpnet.nn.layout import Entry, Layout
from xpnet.split_vector import SplitVector
from xpnet.training.callbacks import MANY, Callback, EpochMetrics
from xpnet.typing import Array

__all__ = ["NAMES", "Norms"]

NAMES = ("weights", "gradient", "update")
DIGITS = 6  # that are kept: the history is in every checkpoint
APART = 40  # steps between two measurements, each of which may take the time of one


class Norms(Callback):
    """Add to the record of an epoch the norms of weights, gradient and update of each layer.

    They are those of its last whole batch (:mod:`xpnet.training.norms` has the formulas), with
    weights of rows and classes, dropout, augmentation and micro-batches as that step takes them. Of
    epochs of fewer than 40 steps every k-th is measured, from the first on, so that 40 steps are
    between two measurements; the records of the others have no norms.

    Nothing is changed by it: the bits of a training are those without. A measurement copies the
    parameters once and takes one transfer of three numbers a layer. The gradient is that which a
    fused step leaves behind; other steps compute it once more, so that one step in an epoch costs
    the gradient twice. In mixed precision it then has the rounding of the fused step, and is not
    finite where that overflows and is skipped, or else none. Where there is no memory for it,
    ``report`` is called with a line, and the training goes on without.
    """

    on_all_ranks = True

    def __init__(self, report: Callable[[str], None] = print) -> None:
        self.report = report
        # The number of the step that is measured next, and the parameters before it.
        self._before: tuple[int, Array] | None = None
        self._found: tuple[int, Any] | None = None  # after which step, and the norms (L, 3)
        self._layout: Layout | None = None
        self._at: int | None = None  # the last whole batch; None where nothing is measured

    def on_train_begin(self, trainer: Any) -> None:
        backend, layout = trainer.engine.backend, trainer.engine.params_layout
        if layout is not self._layout:  # else what was compiled still serves
            self._layout, self._layers = layout, (layers := _layers(layout))
            jit = backend.jit if backend.jit_by_default else backend.bound
            self._measure = jit(lambda *vectors: _norms([*layers.values()], *vectors))
        self._to_host = backend.to_host
        self._every = -(-APART // trainer.steps_per_epoch)
        self._at = max(trainer.rows // trainer.batch_size, 1) - 1
        if self._before is not None and self._before[0] == trainer.position.step:
            self._take(trainer)  # which Ctrl-C had prevented
        self._before = None
        self._look(trainer)

    def steps_between(self, trainer: Any) -> int:
        if self._before is not None:
            return 1
        left = 0 if self._at is None else self._at - trainer.position.batch
        return left if left > 0 else MANY

    def on_step_end(self, trainer: Any) -> None:
        batch = trainer.position.batch
        if batch == self._at:
            self._look(trainer)
        elif self._before is not None:
            self._take(trainer)

    def on_record(self, trainer: Any, record: EpochMetrics) -> None:
        _, batch, step = trainer.position
        if self._found is None or self._at is None:
            return
        if self._found[0] == step - batch + self._at + 1:
            rows = zip(self._layers, self._on_host(), strict=True)
            record["norms"] = {name: dict(zip(NAMES, row, strict=True)) for name, row in rows}

    def on_epoch_end(self, trainer: Any, record: EpochMetrics) -> None:
        self._found = None
        self._look(trainer)

    def state(self) -> Mapping[str, Any]:
        """Return what was measured in an epoch whose record is still to be made."""
        return {} if self._found is None else {"step": self._found[0], "norms": self._on_host()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._found = None
        if state:
            norms = [[float(norm) for norm in row] for row in state["norms"]]
            self._found = int(state["step"]), norms

    def _look(self, trainer: Any) -> None:
        """Keep a copy of the parameters if the next step is to be measured."""
        epoch, batch, step = trainer.position
        if batch == self._at and epoch % self._every == 0 and self._layers:
            with self._if_it_fits(trainer):
                self._before = step + 1, trainer.engine.weights()[0]

    def _take(self, trainer: Any) -> None:
        """Measure the step that has been taken."""
        assert self._before is not None
        with self._if_it_fits(trainer):
            step, before = self._before
            vectors = before, trainer.engine.state.params, trainer.gradient_of_step(before)
            self._found = step, self._measure(*vectors)
            self._before = None

    @contextmanager
    def _if_it_fits(self, trainer: Any) -> Iterator[None]:
        """Within it, where memory runs out, nothing is measured from there on."""
        try:
            yield
        except Exception as error:
            # Other ranks would wait for this one.
            if trainer.comm.size > 1 or not trainer.engine.backend.out_of_memory(error):
                raise
            self._at = self._before = self._found = None
            self.report("no memory for the norms of layers: training continues without them")

    def _on_host(self) -> list[list[float]]:
        """The norms that were measured; waits for the device once."""
        assert self._found is not None
        step, norms = self._found
        if not isinstance(norms, list):
            rows = self._to_host(norms).tolist()
            norms = [[float(f"{norm:.{DIGITS}g}") for norm in row] for row in rows]
            self._found = step, norms
        return norms


def _layers(layout: Layout) -> dict[str, list[Entry]]:
    """The layers that have parameters, with their entries, which are neighbours."""
    layers: dict[str, list[Entry]] = {}
    for entry in layout.entries:
        layers.setdefault(entry.name.rpartition(".")[0], []).append(entry)
    return layers


def _norms(layers: Sequence[Sequence[Entry]], before: Array, after: Array, grad: Array) -> Array:
    """The norms (L, 3) of the layers, of the vectors (P,) before and after a step."""
    update, norms, first = after - before, list[Array](), 0
    for entries in layers:
        tensors = slice(first, first + len(entries))
        of_weights, of_gradient, of_update = (
            _of(v, entries, tensors) for v in (after, grad, update)
        )
        norms += [_norm(of_weights), _scaled_norm(of_gradient), _norm(of_update)]
        first = tensors.stop
    xp = array_namespace(*norms)
    return xp.reshape(xp.stack(norms), (-1, len(NAMES)))


def _of(v: Array, entries: Sequence[Entry], tensors: slice) -> list[Array]:
    """What a vector has of a layer, flat."""
    if isinstance(v, SplitVector):
        return [array_namespace(t).reshape(t, (-1,)) for t in v.tensors[tensors]]
    return [v[entries[0].start : entries[-1].stop]]


def _norm(parts: Sequence[Array]) -> Array:
    """√Σ x², by the dot product of the library, which is faster than its norm."""
    return array_namespace(*parts).sqrt(sum(x @ x for x in parts))


def _scaled_norm(parts: Sequence[Array]) -> Array:
    """The same where x² may be too small or too large for the dtype: gradients vanish."""
    xp = array_namespace(*parts)
    largest = functools.reduce(xp.maximum, [xp.max(xp.abs(x)) for x in parts])
    scale = xp.where(largest > 0.0, largest, 1.0)
    return scale * _norm([x / scale for x in parts])
