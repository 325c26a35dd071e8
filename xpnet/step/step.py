"""One step of training, as a pure function: the whole of it fits on this page.

    state, cost = train_step(state, batch, inputs)

The state passed in is gone; use the one returned. A backend may compile the function as it is.
Everything that changes from step to step comes in as an argument (``inputs``), never as a constant
that a compiler would freeze.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from array_api_compat import array_namespace, device

from xpnet.nn import Params, Sequential
from xpnet.nn.layout import layouts, merge
from xpnet.nn.losses import Loss, Sums, quotient
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import Optimizer
from xpnet.random import generator
from xpnet.typing import Array

__all__ = [
    "Batch",
    "BatchGradient",
    "StepInputs",
    "Totals",
    "TrainState",
    "add",
    "dropout_keys",
    "gradients",
    "layer_dtype",
    "make_gradient",
    "make_evaluate_step",
    "make_predict_step",
    "make_train_step",
    "output_gradient",
    "zero_totals",
]


KEY_BLOCK = 256  # steps whose keys are drawn at once; part of the format, as random.PURPOSES is


class Totals(NamedTuple):
    """Sums over the steps since the last reading, each a 0-d array on the device."""

    loss: Array  # Σ ℓ
    denominator: Array  # Σ D
    correct: Array  # Σ of the weights of the rows whose prediction is correct
    counted: Array  # Σ of the weights of all rows but those of an ignored label
    bad_step: Array  # int32: the first step whose loss was not finite, or -1


class TrainState(NamedTuple):
    """All that training changes."""

    params: Array  # (P,) trained parameters
    stats: Array  # (S,) running statistics
    slots: tuple[Array, ...]  # the optimizer's moments, (P,) each
    totals: Totals
    scale: Array | None = None  # (2,) the loss scale of mixed precision, and steps since it changed
    skipped: Array | None = None  # 0-d, the steps that overflowed so far, if there is a loss scale


class Batch(NamedTuple):
    """N examples: x (N, ...), y (N,) or (N, J), and weights (N,) or None."""

    x: Array
    y: Array
    weight: Array | None = None


class StepInputs(NamedTuple):
    """The Python numbers of one step."""

    step: int
    coefficients: Any  # of Optimizer.coefficients
    keys: tuple[tuple[int, int], ...] = ()  # two int32 per random layer
    rows: int | None = None  # of the whole batch, where the ranks share it

    @property
    def shared(self) -> dict[str, int]:
        """What a gradient is given besides where the ranks share a batch."""
        return {} if self.rows is None else {"rows": self.rows}


def dropout_keys(seed: int, step: int, n_random: int) -> tuple[tuple[int, int], ...]:
    """Draw the two int32 keys of each random layer at one step."""
    if n_random == 0:
        return ()
    block, i = divmod(step, KEY_BLOCK)
    return _key_block(seed, block, n_random)[i]


@functools.lru_cache(maxsize=4)
def _key_block(seed: int, block: int, n_random: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The keys of many steps at once: to begin at a position costs more than to draw."""
    size = (KEY_BLOCK, n_random, 2)
    draws = generator(seed, "dropout", block).integers(-(2**31), 2**31, size=size)
    return tuple(tuple((a, b) for a, b in step) for step in draws.tolist())


def zero_totals(like: Array) -> Totals:
    """Return totals of nothing, in the dtype and place of ``like``."""
    xp = array_namespace(like)

    def zero() -> Array:  # one buffer each: a donated state may not hold the same one twice
        return xp.zeros((), dtype=like.dtype, device=device(like))

    bad_step = xp.full((), -1, dtype=xp.int32, device=device(like))
    return Totals(zero(), zero(), zero(), zero(), bad_step)


def gradients(
    model: Sequential,
    loss: Loss,
    params: Sequence[Params],
    batch: Batch,
    *,
    keys: Sequence[Any] = (),
    scale: Array | float = 1.0,
    divided: bool = True,
    input_gradient: bool = False,
) -> tuple[Sums, Array, list[Any], Array | None, list[dict[str, Array]]]:
    """Forward, loss, backward in training mode: backpropagation.

    Returns the loss sums, the output, the residuals, dC/dx (None unless ``input_gradient``) and
    dC/dparameters, a mapping per layer, both times ``scale`` and, unless ``divided``, times the
    loss's denominator. The loss is taken in the dtype of ``batch.x``, the layers compute in that of
    ``params``.
    """
    xp = array_namespace(batch.x)
    narrow = layer_dtype(params, batch.x)
    x = xp.astype(batch.x, narrow, copy=False)
    output, residuals = model.forward(params, x, train=True, keys=keys)
    output = xp.astype(output, batch.x.dtype, copy=False)
    sums = loss.sums(output, batch.y, batch.weight)
    doutput = xp.astype(output_gradient(sums, scale, divided=divided), narrow, copy=False)
    dx, grads = model.backward(params, residuals, doutput, input_gradient=input_gradient)
    return sums, output, residuals, dx, grads


def output_gradient(sums: Sums, scale: Array | float = 1.0, *, divided: bool = True) -> Array:
    """Return dC/doutput times the loss scale; not ``divided``, that of the sum of the losses."""
    doutput = quotient(sums.gradient, sums.denominator) if divided else sums.gradient
    # Its exact type: an entry of a NumPy array of float64 is a float, too, and a scale.
    return doutput if type(scale) is float and scale == 1.0 else doutput * scale


def layer_dtype(params: Sequence[Params], x: Array) -> Any:
    """Return the dtype that the layers compute in: that of their parameters, else that of x."""
    return next((array.dtype for layer in params for array in layer.values()), x.dtype)


class BatchGradient(NamedTuple):
    """What a step takes from a batch."""

    loss: Array  # Σ ℓ, 0-d
    denominator: Array  # D, 0-d
    correct: Array | float
    counted: Array | float
    gradient: Array  # dC/dparams (P,)
    stats: Array  # (S,) the statistics after the batch


def make_gradient(
    model: Sequential, loss: Loss, alpha: float = 0.0, *, divided: bool = True
) -> Callable[..., BatchGradient]:
    """Return ``(params, stats, batch, keys, scale) -> BatchGradient`` on flat vectors.

    Unless ``divided`` the gradient is that of Σ ℓ, of a part of a batch.

    ``alpha`` α adds ½ α Σ W² to Σ ℓ, of the parameters with two or more dimensions: the penalty of
    scikit-learn's MLPClassifier, which D divides like the losses.
    """
    params_layout, stats_layout = layouts(model)

    def gradient(
        params: Array,
        stats: Array,
        batch: Batch,
        keys: Sequence[Any] = (),
        scale: Array | float = 1.0,
    ) -> BatchGradient:
        tensors = merge(params_layout.split(params), stats_layout.split(stats))
        sums, output, residuals, _, grads = gradients(
            model, loss, tensors, batch, keys=keys, scale=scale, divided=divided
        )
        if alpha:
            sums, grads = _penalized(alpha, sums, tensors, grads, scale)
        correct, counted = _correct(loss, output, batch)
        grad = params_layout.join(grads, params)
        stats = stats_layout.join(model.track(tensors, residuals), stats)
        return BatchGradient(sums.loss, sums.denominator, correct, counted, grad, stats)

    return gradient


def _penalized(
    alpha: float,
    sums: Sums,
    params: Sequence[Params],
    grads: Sequence[Params],
    scale: Array | float,
) -> tuple[Sums, list[dict[str, Array]]]:
    """Add ½ α Σ W² to the losses and α W / D to the gradient; a batch where D is 0 has neither."""
    xp = array_namespace(sums.loss)
    counts = xp.astype(sums.denominator != 0.0, sums.loss.dtype)
    factor, squares, whole = quotient(alpha * counts, sums.denominator) * scale, 0.0, []
    for layer, of_layer in zip(params, grads, strict=True):
        whole.append(dict(of_layer))
        for name, grad in of_layer.items():
            if len(grad.shape) > 1:
                W = layer[name]
                whole[-1][name] = grad + factor * W
                squares = squares + xp.sum(W * W)
    return sums._replace(loss=sums.loss + 0.5 * alpha * counts * squares), whole


def make_train_step(
    model: Sequential,
    loss: Loss,
    optimizer: Optimizer,
    clip: Clip = Clip(),
    gradient: Callable[..., BatchGradient] | None = None,
    jit: Callable[[Callable], Callable] = lambda update: update,
) -> Callable[[TrainState, Batch, StepInputs], tuple[TrainState, Array]]:
    """Return the train step of a built model; its second result is the batch's loss, 0-d.

    ``gradient`` stands in for :func:`make_gradient`'s, to take it otherwise, such as in parts.
    ``jit`` compiles the update, ``(state, gradient, inputs) -> (state, cost)``, where the step is
    not compiled as a whole.
    """
    gradient = gradient or make_gradient(model, loss)

    def train_step(state: TrainState, batch: Batch, inputs: StepInputs) -> tuple[TrainState, Array]:
        g = gradient(state.params, state.stats, batch, inputs.keys, **inputs.shared)
        return update(state, g, inputs)

    @jit
    def update(state: TrainState, g: BatchGradient, inputs: StepInputs) -> tuple[TrainState, Array]:
        grad = clip.apply(g.gradient)  # (P,)
        params, slots = optimizer.update(state.params, grad, state.slots, inputs.coefficients)
        totals = add(state.totals, g, inputs.step)
        return TrainState(params, g.stats, slots, totals), quotient(g.loss, g.denominator)

    return train_step


def make_evaluate_step(
    model: Sequential, loss: Loss
) -> Callable[[Totals, Array, Array, Batch], tuple[Totals, Array, Array]]:
    """Return ``(totals, params, stats, batch) -> (totals, output, predictions)``; no dropout."""
    output_of = _make_forward(model)

    def evaluate_step(
        totals: Totals, params: Array, stats: Array, batch: Batch
    ) -> tuple[Totals, Array, Array]:
        output = output_of(params, stats, batch.x)
        sums = loss.sums(output, batch.y, batch.weight)
        correct, counted = _correct(loss, output, batch)
        g = BatchGradient(sums.loss, sums.denominator, correct, counted, params, stats)
        return add(totals, g, 0), output, loss.predict(output)

    return evaluate_step


def _correct(loss: Loss, output: Array, batch: Batch) -> tuple[Array | float, Array | float]:
    if loss.predicts == "value":
        return 0.0, 0.0
    return loss.correct(output, batch.y, batch.weight)


def make_predict_step(model: Sequential, loss: Loss) -> Callable[[Array, Array, Array], Array]:
    """Return ``(params, stats, x) -> predictions``: probabilities, or values for regression."""
    output_of = _make_forward(model)

    def predict_step(params: Array, stats: Array, x: Array) -> Array:
        return loss.predict(output_of(params, stats, x))

    return predict_step


def _make_forward(model: Sequential) -> Callable[[Array, Array, Array], Array]:
    params_layout, stats_layout = layouts(model)

    def forward(params: Array, stats: Array, x: Array) -> Array:
        variables = merge(params_layout.split(params), stats_layout.split(stats))
        return model.forward(variables, x)[0]

    return forward


def add(totals: Totals, g: BatchGradient, step: int) -> Totals:
    """Return the totals with one more batch."""
    xp = array_namespace(g.loss)
    good = xp.isfinite(g.loss) | (totals.bad_step >= 0)
    return Totals(
        totals.loss + g.loss,
        totals.denominator + g.denominator,
        totals.correct + g.correct,
        totals.counted + g.counted,
        xp.where(good, totals.bad_step, step),
    )
