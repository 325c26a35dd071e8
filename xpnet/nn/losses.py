"""Losses: each returns its value together with its gradient, the exact derivative of that value.

    value, doutput = SoftmaxCrossEntropy(label_smoothing=0.1)(logits, target)

C = Σ ℓ / D. The reduction names the denominator D, which value and gradient share:

    "mean"        the sum of the weights that count (sample weight times class weight)
    "mean_count"  the number of rows (or elements) that count, whatever their weights
    "sum"         1, however many batches C is reported for: an epoch's is the sum over its rows
    "none"        no reduction: the value has one entry per row (or element), and the gradient is
                  that of their sum

A batch in which nothing counts has value 0 and gradient 0.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple

from array_api_compat import array_namespace, device

from xpnet.errors import ConfigError, DataError
from xpnet.ops import regression as ops
from xpnet.ops.activations import sigmoid
from xpnet.ops.cross_entropy import (
    balanced_weights,
    cross_entropy,
    cross_entropy_backward,
    negative_log_likelihood,
    negative_log_likelihood_backward,
    one_hot,
    smooth,
    softmax_cross_entropy,
    softmax_cross_entropy_backward,
)
from xpnet.ops.softmax import softmax
from xpnet.registry import name_of, register
from xpnet.settings import Checked, Fraction, NonNegativeFloat, PositiveFloat
from xpnet.typing import Array

__all__ = [
    "LOSSES",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "ElementwiseLoss",
    "Hinge",
    "Huber",
    "Loss",
    "MeanSquaredError",
    "NegativeLogLikelihood",
    "Poisson",
    "SoftmaxCrossEntropy",
    "SquaredHinge",
    "Sums",
    "Takes",
    "Terms",
    "check_weights",
    "quotient",
]

Reduction = Literal["mean", "mean_count", "sum", "none"]
# "numbers" may be anything; "values" are to come near the targets, and so are "rates", which are
# not negative; "margins" need both signs, and "logits" all numbers.
Takes = Literal[
    "numbers", "values", "rates", "margins", "logits", "probabilities", "log-probabilities"
]
OUTPUT_LAYERS = {
    "rates": "softplus", "probabilities": "softmax", "log-probabilities": "log_softmax"
}  # fmt: skip


class Terms(NamedTuple):
    """A loss before it is reduced."""

    losses: Array  # weighted ℓ: (N,) for rows, (N, J) for elements
    gradient: Array  # of Σ ℓ with respect to the output
    weights: Array  # what each entry of `losses` adds to the denominator of "mean"
    counted: Array  # 1 where an entry counts, 0 where it is ignored


class Sums(NamedTuple):
    """A loss reduced but not yet divided: C = loss / denominator, dC = gradient / denominator."""

    loss: Array  # 0-d
    denominator: Array  # 0-d; 0 where nothing counts
    gradient: Array


def quotient(x: Array, denominator: Array) -> Array:
    """Return x / D, or x / 1 if D is 0: where nothing counts, x is 0, and 0 / 0 would be NaN."""
    xp = array_namespace(denominator)
    return x / xp.where(denominator == 0.0, 1.0, denominator)


NO_REMEDY: Mapping[str, str] = MappingProxyType({})
ROUNDED = 0.01  # how far the sum of probabilities may be from 1: those of bfloat16 are, by this
LOSSES: dict[str, type["Loss"]] = {}  # by the names that they are registered by


@dataclass(frozen=True)
class Loss(Checked, ABC):
    """Base class of the losses.

    A subclass defines :meth:`terms`; :meth:`predict` if the output is not yet what a user reads,
    and :meth:`correct` if a prediction is either correct or not.
    """

    table: ClassVar[dict[str, type["Loss"]]] = LOSSES

    reduction: Reduction = "mean"

    reason: ClassVar[str] = ""  # why the loss takes what it takes, after its name
    targets: ClassVar[str] = "finite numbers"  # those that it takes, in words
    remedy: ClassVar[Mapping[str, str]] = NO_REMEDY  # for others, as of an XpnetError
    # What a prediction is: one of several classes, yes or no per column, or numbers.
    predicts: ClassVar[Literal["class", "binary", "value"]] = "class"

    @property
    def takes(self) -> Takes:
        """What the model's outputs are to the loss: :mod:`xpnet.nn.fit` checks the last layer."""
        return "numbers"

    @property
    def output_layer(self) -> str:
        """The name of the layer that makes of any numbers what the loss takes."""
        return OUTPUT_LAYERS.get(self.takes, "identity")

    @abstractmethod
    def terms(self, output: Array, target: Array, weight: Array | None = None) -> Terms:
        """Return the weighted losses of a batch and the gradient of their sum."""

    def predict(self, output: Array) -> Array:
        """Turn the model's output into what a user reads: probabilities or values."""
        return output

    def wrong(self, target: Array) -> Array:
        """Return where a finite target is not one that the loss takes: of its shape, or (N,)."""
        return target != target

    def check_target(
        self, target: Array, n_outputs: int, row_name: Callable[[int], str] = "row {}".format
    ) -> None:
        """Check targets once, on the host, before training: a device would not.

        CuPy wraps an out-of-range label around to another class, and JAX turns it into NaN. Raises
        DataError with the first invalid row and what ``row_name`` calls it.
        """
        if getattr(target.dtype, "kind", "f") in "OSUMm":  # objects, texts and dates
            msg = f"{name_of(self)} takes {self.targets}; got {target.dtype}"
            raise DataError(msg)
        finite = array_namespace(target).isfinite(target)
        _refuse(target, ~finite, "{row} is not finite: {value}", row_name)
        msg = f"{name_of(self)} takes {self.targets}; {{row}} is {{value}}"
        _refuse(target, self.wrong(target), msg, row_name, self.remedy)

    def correct(
        self, output: Array, target: Array, weight: Array | None = None
    ) -> tuple[Array, Array | float]:
        """Return Σ s over the predictions that are correct, and over all that count; 0-d floats.

        s is the weight of a row, or 1; the quotient is the accuracy.
        """
        msg = f"{type(self).__name__} has no notion of a correct prediction"
        raise TypeError(msg)

    def __call__(
        self, output: Array, target: Array, weight: Array | None = None
    ) -> tuple[Array, Array]:
        """Return C (0-d, or one entry per loss for ``"none"``) and dC/doutput.

        ``output`` is (N, K); ``target`` as the class says; ``weight`` (N,) weights the rows.
        Raises DataError if the shapes do not fit.
        """
        if self.reduction == "none":
            terms = self.terms(output, target, weight)
            return terms.losses, terms.gradient
        sums = self.sums(output, target, weight)
        value = quotient(sums.loss, sums.denominator)
        return value, quotient(sums.gradient, sums.denominator)

    def sums(self, output: Array, target: Array, weight: Array | None = None) -> Sums:
        """Return Σ ℓ, D and d Σ ℓ: what the batches of an epoch, or micro-batches, add up."""
        losses, gradient, weights, counted = self.terms(output, target, weight)
        xp = array_namespace(losses)
        if self.reduction == "mean":
            denominator = xp.sum(weights)
        elif self.reduction == "mean_count":
            denominator = xp.sum(counted)
        else:
            denominator = xp.ones((), dtype=losses.dtype, device=device(losses))
        return Sums(xp.sum(losses), denominator, gradient)


@dataclass(frozen=True)
class _ClassificationLoss(Loss):
    """The targets of cross-entropy: integer class indices (N,), or rows (N, K) of any weights.

    ``class_weights`` "balanced" are n / (K n_k) for n_k rows of class k: a trainer counts those of
    the training, ignored ones left out, and the loss alone those of the batch it is given.
    """

    class_weights: tuple[NonNegativeFloat, ...] | Literal["balanced"] | None = None
    label_smoothing: Fraction = 0.0
    ignore_label: int | None = None
    targets = "class indices (N,), or rows (N, K) of probabilities, whose sum is 1"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.class_weights is not None and not any(self.class_weights):
            msg = f"class_weights are all 0, so no row would count; got {self.class_weights}"
            raise ConfigError(msg)

    def _targets(
        self, output: Array, target: Array, weight: Array | None
    ) -> tuple[Array, Array, Array]:
        """Return v (N, K), the weights (N,) and which rows count (N,); v_nk = s_n w_k t_nk."""
        xp = array_namespace(output)
        N, K = output.shape
        if target.shape == (N,):
            y = one_hot(target, K, output)
            if self.ignore_label is None:
                counted = xp.ones((N,), dtype=output.dtype, device=device(output))
            else:
                counted = xp.astype(target != self.ignore_label, output.dtype)
        elif target.shape == (N, K):
            y = xp.astype(target, output.dtype, copy=False)
            counted = xp.ones((N,), dtype=output.dtype, device=device(output))
        else:
            msg = f"{type(self).__name__}: output is {output.shape}, so the target must be "
            msg += f"{(N,)} class indices or {(N, K)} rows; got {tuple(target.shape)}"
            raise DataError(msg)
        v = smooth(y, self.label_smoothing) if self.label_smoothing else y
        if self.ignore_label is not None:
            v = v * counted[:, None]
        weights = counted
        if self.class_weights is not None:
            w = self._class_weights(output, y, counted)
            v = v * w
            # The weight of a row is the average of w over its classes: w[label] for one class.
            total = xp.sum(y, axis=-1)
            weights = counted * xp.sum(y * w, axis=-1) / xp.where(total == 0.0, 1.0, total)
        if weight is not None:
            _check_weight(weight, N)
            v = v * weight[:, None]
            weights = weights * weight
        return v, weights, counted

    def _class_weights(self, output: Array, y: Array, counted: Array) -> Array:
        xp = array_namespace(output)
        if self.class_weights == "balanced":
            return balanced_weights(xp.sum(y * counted[:, None], axis=0))
        self._check_class_weights(output.shape[-1])
        return xp.asarray(self.class_weights, dtype=output.dtype, device=device(output))

    def _check_class_weights(self, K: int) -> None:
        count = len(self.class_weights or ())
        if count != K:
            msg = f"class_weights has {count} entries for {K} classes: give one per class"
            raise DataError(msg)

    def wrong(self, target: Array) -> Array:
        """Return which rows are not probabilities: from 0 on, with a sum of about 1."""
        xp = array_namespace(target)
        sums = xp.sum(target, axis=-1, dtype=xp.float64)
        return xp.any(target < 0, axis=-1) | (xp.abs(sums - 1.0) > ROUNDED)

    def check_target(
        self, target: Array, n_outputs: int, row_name: Callable[[int], str] = "row {}".format
    ) -> None:
        """Check that class indices are whole numbers 0..K-1, or the ignored label.

        Rows (N, K) must be probabilities, though the loss itself is defined for others.
        """
        if self.class_weights not in (None, "balanced"):
            self._check_class_weights(n_outputs)
        if len(target.shape) != 1:
            super().check_target(target, n_outputs, row_name)
            return
        xp = array_namespace(target)
        if not xp.isdtype(target.dtype, "integral"):
            if xp.isdtype(target.dtype, "real floating"):
                _refuse(target, ~xp.isfinite(target), "{row} is not finite: {value}", row_name)
            msg = f"class labels must be whole numbers 0..{n_outputs - 1}; got {target.dtype}"
            raise DataError(msg, python="y.astype(int), where they are")
        outside = (target < 0) | (target >= n_outputs)
        if self.ignore_label is not None:
            outside &= target != self.ignore_label
        msg = f"{{row}} is {{value}}; the model has classes 0..{n_outputs - 1}"
        _refuse(target, outside, msg, row_name, what="label")

    def correct(
        self, output: Array, target: Array, weight: Array | None = None
    ) -> tuple[Array, Array | float]:
        """Add up the rows whose largest output is the target's class, but for ignored rows.

        The first of equal outputs counts as the largest. Class weights are the loss's alone.
        """
        xp = array_namespace(output)
        predicted = xp.argmax(output, axis=-1)
        label = target if len(target.shape) == 1 else xp.argmax(target, axis=-1)
        correct = xp.astype(predicted == xp.astype(label, predicted.dtype), output.dtype)
        if self.ignore_label is None or len(target.shape) != 1:
            return _added_up(correct, weight)
        counted = xp.astype(target != self.ignore_label, output.dtype)
        return _added_up(correct, counted if weight is None else counted * weight)


@register("softmax_cross_entropy")
class SoftmaxCrossEntropy(_ClassificationLoss):
    """C = -1/D Σ_n s_n Σ_k w_k t_nk log softmax(z)_nk, from logits z (N, K).

    The target is class indices (N,) or rows (N, K) whose sums need not be 1; t is the target
    after label smoothing, t = (1 - ε) y + ε/K. w are ``class_weights`` and s the sample
    weights. Rows of class ``ignore_label`` do not count. The gradient is the fused form
    dz = ((Σ_k v_nk) a - v) / D with v = s w t.

    >>> import numpy as np
    >>> value, dz = SoftmaxCrossEntropy()(np.array([[0.0, np.log(3.0)]]), np.array([1]))
    >>> value.round(4), dz
    (np.float64(0.2877), array([[ 0.25, -0.25]]))
    """

    takes = "logits"
    reason = "it contains the softmax, and its gradient softmax(z) - y is that of logits z"

    def terms(self, output: Array, target: Array, weight: Array | None = None) -> Terms:
        v, weights, counted = self._targets(output, target, weight)
        losses, log_a = softmax_cross_entropy(output, v)
        return Terms(losses, softmax_cross_entropy_backward(log_a, v), weights, counted)

    def predict(self, output: Array) -> Array:
        return softmax(output)


@register("cross_entropy")
class CrossEntropy(_ClassificationLoss):
    """C = -1/D Σ_n s_n Σ_k w_k t_nk log a_nk, from probabilities a (N, K).

    Its gradient is its own adjoint, da = -v / (D a), so that a softmax layer before it composes
    by the chain rule. Prefer :class:`SoftmaxCrossEntropy` for training: where a rounds to 0, the
    loss here is infinite, as its formula says. The options are the same.
    """

    takes = "probabilities"
    reason = "it is the -log a of a label's probability a, and rows of other sums have no meaning"

    def terms(self, output: Array, target: Array, weight: Array | None = None) -> Terms:
        v, weights, counted = self._targets(output, target, weight)
        losses = cross_entropy(output, v)
        return Terms(losses, cross_entropy_backward(output, v), weights, counted)


@register("negative_log_likelihood")
class NegativeLogLikelihood(_ClassificationLoss):
    """C = -1/D Σ_n s_n Σ_k w_k t_nk l_nk, from log-probabilities l (N, K), as of LogSoftmax.

    PyTorch's NLLLoss, here with the options of the other cross-entropies and with rows as targets.
    After LogSoftmax it is :class:`SoftmaxCrossEntropy`, in two layers.
    """

    takes = "log-probabilities"
    reason = "it is the -l of a label's log-probability l, and falls without end for other numbers"

    def terms(self, output: Array, target: Array, weight: Array | None = None) -> Terms:
        v, weights, counted = self._targets(output, target, weight)
        losses = negative_log_likelihood(output, v)
        return Terms(losses, negative_log_likelihood_backward(output, v), weights, counted)

    def predict(self, output: Array) -> Array:
        return array_namespace(output).exp(output)


@dataclass(frozen=True)
class ElementwiseLoss(Loss):
    """A loss per element: output and target are (N, J); a target (N,) is a single column.

    Its value and its derivative are functions of arrays of any shape and real floating dtype, by
    the Array API alone, and without a Python branch on what is in an array: then they are also
    compiled. One that ``predicts`` "binary" takes targets 0 and 1, and an output above 0 for 1.
    """

    predicts: ClassVar[Literal["class", "binary", "value"]] = "value"
    # e and de/dz in index letters, for `explain`; without them it shows the code alone.
    formula: ClassVar[tuple[str, str] | None] = None

    @abstractmethod
    def value(self, z: Array, y: Array, /) -> Array:
        """Return the loss e of each element, of output z and target y, all of one shape."""

    @abstractmethod
    def backward_value(self, z: Array, y: Array, /) -> Array:
        """Return de/dz of each element."""

    def terms(self, output: Array, target: Array, weight: Array | None = None) -> Terms:
        xp = array_namespace(output)
        target = _columns(output, target)
        losses, gradient = self.value(output, target), self.backward_value(output, target)
        counted = xp.ones_like(losses)
        if weight is None:
            return Terms(losses, gradient, counted, counted)
        _check_weight(weight, output.shape[0])
        weights = _by_row(weight, output) * counted
        return Terms(losses * weights, gradient * weights, weights, counted)

    def correct(
        self, output: Array, target: Array, weight: Array | None = None
    ) -> tuple[Array, Array | float]:
        """Add up the elements of a binary loss that are on the right side of 0.

        Of several columns each element counts by itself: the accuracy is 1 - the Hamming loss.
        """
        if self.predicts != "binary":
            return super().correct(output, target, weight)
        xp = array_namespace(output)
        correct = (output > 0.0) == (_columns(output, target) > 0.5)
        return _added_up(xp.astype(correct, output.dtype), weight)


@register("binary_cross_entropy")
class BinaryCrossEntropy(ElementwiseLoss):
    """C = 1/D Σ_nj s_n (p y softplus(-z) + (1 - y) softplus(z)), from logits z (N, J).

    Targets y in [0, 1]; one column for two classes, or one per label. ``positive_weight`` p
    weights the positive part. "mean" divides by the sum of the elements' weights.
    """

    positive_weight: PositiveFloat = 1.0
    predicts = "binary"
    takes = "logits"
    reason = "it contains the sigmoid, and its gradient σ(z) - y is that of logits z"
    targets = "targets from 0 to 1, and has no minimum for others"
    remedy = MappingProxyType({"python": "two classes are 0 and 1"})
    formula = (
        "p y_nj softplus(-z_nj) + (1 - y_nj) softplus(z_nj)",
        "(1 - y_nj) σ(z_nj) - p y_nj σ(-z_nj)",
    )

    def value(self, z: Array, y: Array) -> Array:
        return ops.binary_cross_entropy(z, y, self.positive_weight)

    def backward_value(self, z: Array, y: Array) -> Array:
        return ops.binary_cross_entropy_backward(z, y, self.positive_weight)

    def wrong(self, target: Array) -> Array:
        return (target < 0) | (target > 1)

    def predict(self, output: Array) -> Array:
        return sigmoid(output)


@register("mean_squared_error")
class MeanSquaredError(ElementwiseLoss):
    """C = 1/D Σ_nj s_n (z_nj - y_nj)²; "mean" divides by the sum of the elements' weights.

    There is no factor 1/2, as in PyTorch, Keras and JAX.
    """

    takes = "values"
    formula = "(z_nj - y_nj)²", "2 (z_nj - y_nj)"
    value = staticmethod(ops.squared_error)
    backward_value = staticmethod(ops.squared_error_backward)


@register("huber")
class Huber(ElementwiseLoss):
    """C = 1/D Σ_nj s_n h(z_nj - y_nj), h(r) = r²/2 where |r| <= δ, else δ (|r| - δ/2)."""

    delta: PositiveFloat = 1.0
    takes = "values"
    formula = (
        "½ r_nj² where |r_nj| ≤ δ, else δ (|r_nj| - ½ δ), r_nj = z_nj - y_nj",
        "clip(z_nj - y_nj, -δ, δ)",
    )

    def value(self, z: Array, y: Array) -> Array:
        return ops.huber(z, y, self.delta)

    def backward_value(self, z: Array, y: Array) -> Array:
        return ops.huber_backward(z, y, self.delta)


@register("poisson")
class Poisson(ElementwiseLoss):
    """C = 1/D Σ_nj s_n (exp z_nj - y_nj z_nj): counts y of rate exp z, as of a log-linear model.

    Without ``log_input`` the model's output is the rate itself, which must be positive:
    z - y log(z + ε). The constant log y! is left out. PyTorch's PoissonNLLLoss; Nelder and
    Wedderburn, "Generalized linear models", J. R. Stat. Soc. A 135, 1972. A prediction is the rate.
    """

    log_input: bool = True
    eps: PositiveFloat = 1e-8
    reason = "it contains the exponential of log-rates, or without log_input the log of rates"
    targets = "counts"
    remedy = MappingProxyType(
        {"python": "leave them unscaled", "command": "--set data.target_scaling=none"}
    )
    formula = "exp z_nj - y_nj z_nj", "exp z_nj - y_nj"

    @property
    def takes(self) -> Takes:
        return "logits" if self.log_input else "rates"

    def value(self, z: Array, y: Array) -> Array:
        return ops.poisson(z, y, log_input=self.log_input, eps=self.eps)

    def backward_value(self, z: Array, y: Array) -> Array:
        return ops.poisson_backward(z, y, log_input=self.log_input, eps=self.eps)

    def predict(self, output: Array) -> Array:
        return array_namespace(output).exp(output) if self.log_input else output

    def wrong(self, target: Array) -> Array:
        return target < 0


@dataclass(frozen=True)
class _Hinge(ElementwiseLoss):
    predicts = "binary"
    takes = "margins"
    reason = "an output above 0 means one class and one below it the other"
    targets = "targets 0 and 1, or -1 and 1"

    def predict(self, output: Array) -> Array:
        """Return 1 where the output is above 0, else 0: a hinge estimates no probability."""
        return array_namespace(output).astype(output > 0.0, output.dtype)

    def wrong(self, target: Array) -> Array:
        # 0 and -1 both mean the other class, and a target that has both means something else.
        other = 0 if (target == 0).any() else -1
        return (target != 1) & (target != other)


@register("hinge")
class Hinge(_Hinge):
    """C = 1/D Σ_nj s_n max(1 - t_nj z_nj, 0), t = 1 where the target is 1, else -1.

    Targets are 1 and 0, or 1 and -1; one column for two classes, or one per label. Keras's Hinge;
    Cortes and Vapnik, "Support-vector networks", Machine Learning 20, 1995. With decay of the
    weights it makes a linear model a support vector machine.
    """

    formula = (
        "max(1 - t_nj z_nj, 0), t_nj = 1 where y_nj > 0, else -1",
        "(-t_nj where t_nj z_nj < 1, else 0)",
    )
    value, backward_value = staticmethod(ops.hinge), staticmethod(ops.hinge_backward)


@register("squared_hinge")
class SquaredHinge(_Hinge):
    """C = 1/D Σ_nj s_n max(1 - t_nj z_nj, 0)², t = 1 where the target is 1, else -1.

    Targets as in :class:`Hinge`. Keras's SquaredHinge and the loss of scikit-learn's LinearSVC;
    Lee and Mangasarian, "SSVM: a smooth support vector machine", Comput. Optim. Appl. 20, 2001.
    """

    formula = (
        "max(1 - t_nj z_nj, 0)², t_nj = 1 where y_nj > 0, else -1",
        "-2 t_nj max(1 - t_nj z_nj, 0)",
    )
    value = staticmethod(ops.squared_hinge)
    backward_value = staticmethod(ops.squared_hinge_backward)


def _refuse(
    target: Array,
    wrong: Array,
    problem: str,
    row_name: Callable[[int], str],
    remedy: Mapping[str, str] = NO_REMEDY,
    what: str = "target",
) -> None:
    """Raise DataError for the first row with a wrong target, if there is one."""
    if wrong.any():
        row = int(wrong.nonzero()[0][0])
        place = f"the {what} of {row_name(row)}"
        raise DataError(problem.format(row=place, value=target[row]), **remedy)


def _columns(output: Array, target: Array) -> Array:
    """The target in the shape and dtype of the output."""
    xp = array_namespace(output)
    if len(target.shape) == 1 and output.shape[1:] == (1,):
        target = target[:, None]
    if target.shape != output.shape:
        msg = f"output is {tuple(output.shape)}, but the target is {tuple(target.shape)}"
        raise DataError(msg)
    return xp.astype(target, output.dtype, copy=False)


def check_weights(weight: Array, N: int) -> None:
    """Check the sample weights of N rows on the host: one for each, none negative, not all 0."""
    _check_weight(weight, N)
    wrong = ~(array_namespace(weight).isfinite(weight) & (weight >= 0))
    if wrong.any():
        row = int(wrong.nonzero()[0][0])
        msg = f"sample weights must be finite and >= 0; that of row {row} is {weight[row]}"
        raise DataError(msg)
    if not (weight > 0).any():
        msg = f"all {N} sample weights are 0, so no row counts"
        raise DataError(msg)


def _added_up(correct: Array, weight: Array | None) -> tuple[Array, Array | float]:
    """Σ s correct and Σ s of entries (N,) or (N, J), s = 1 without weights (N,)."""
    xp = array_namespace(correct)
    if weight is None:
        return xp.sum(correct), float(math.prod(correct.shape))
    each = math.prod(correct.shape[1:])
    return xp.sum(correct * _by_row(weight, correct)), xp.sum(weight) * float(each)


def _by_row(weight: Array, like: Array) -> Array:
    """Weights (N,) in a shape that multiplies the rows of ``like``."""
    return array_namespace(weight).reshape(weight, (-1,) + (1,) * (len(like.shape) - 1))


def _check_weight(weight: Array, N: int) -> None:
    if weight.shape != (N,):
        msg = f"sample weights must be one per row, {(N,)}; got {tuple(weight.shape)}"
        raise DataError(msg)
