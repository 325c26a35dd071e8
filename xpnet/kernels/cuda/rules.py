"""The kernel of each loss and of each update rule, and the constants it takes."""

from collections.abc import Callable, Mapping
from typing import Any

from xpnet.errors import UnsupportedError
from xpnet.nn.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    Loss,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from xpnet.optim.optimizers import SGD, Adagrad, Adam, AdamW, Lion, Optimizer, RMSProp
from xpnet.typing import Array

__all__ = [
    "ELEMENTWISE",
    "REDUCTIONS",
    "ROWS",
    "check_rules",
    "loss_setting",
    "smoothing",
    "update_kernel",
]

# The enums in loss.cu.
REDUCTIONS = {"mean": 0, "mean_count": 1, "sum": 2}
ROWS = (SoftmaxCrossEntropy, CrossEntropy)  # losses that share a kernel with a warp per row
ELEMENTWISE: dict[type[Loss], int] = {MeanSquaredError: 0, Huber: 1, BinaryCrossEntropy: 2}


def check_rules(loss: Loss, optimizer: Optimizer) -> None:
    """Raise UnsupportedError for a loss or an update rule without a kernel."""
    if type(optimizer) not in RULES:
        msg = f"the optimizer {type(optimizer).__name__} has no kernel"
        raise UnsupportedError(msg)
    if type(loss) not in ROWS and type(loss) not in ELEMENTWISE:
        msg = f"the loss {type(loss).__name__} has no kernel"
        raise UnsupportedError(msg)
    if loss.reduction not in REDUCTIONS:
        msg = f"the reduction {loss.reduction!r} has no kernel"
        raise UnsupportedError(msg)


def loss_setting(loss: Loss) -> float:
    """Return the delta of Huber's loss, or the positive weight of the binary cross-entropy."""
    if isinstance(loss, Huber):
        return loss.delta
    return loss.positive_weight if isinstance(loss, BinaryCrossEntropy) else 0.0


def smoothing(loss: SoftmaxCrossEntropy | CrossEntropy, n_classes: int) -> tuple[float, float]:
    """Return the factor and the offset of label smoothing: t = factor y + offset."""
    return 1.0 - loss.label_smoothing, loss.label_smoothing / n_classes


Slots = Mapping[str, Array]


def _sgd(o: SGD, slots: Slots) -> tuple[Any, ...]:
    return slots.get("v"), o.momentum, int(o.nesterov)


def _rmsprop(o: RMSProp, slots: Slots) -> tuple[Any, ...]:
    r, m, v = slots["r"], slots.get("m"), slots.get("v")
    return r, m, v, o.alpha, 1.0 - o.alpha, o.eps, o.momentum


def _adagrad(o: Adagrad, slots: Slots) -> tuple[Any, ...]:
    return slots["r"], o.eps


def _adam(o: Adam, slots: Slots) -> tuple[Any, ...]:
    return slots["m"], slots["v"], o.beta1, 1.0 - o.beta1, o.beta2, 1.0 - o.beta2


def _lion(o: Lion, slots: Slots) -> tuple[Any, ...]:
    return slots["m"], o.beta1, 1.0 - o.beta1, o.beta2, 1.0 - o.beta2


# rule -> kernel, what makes its last arguments, whether weight decay is part of the gradient
RULES: dict[type[Optimizer], tuple[str, Callable[..., tuple[Any, ...]], bool]] = {
    SGD: ("sgd", _sgd, True),
    RMSProp: ("rmsprop", _rmsprop, True),
    Adagrad: ("adagrad", _adagrad, True),
    Adam: ("adam", _adam, True),
    AdamW: ("adam", _adam, False),
    Lion: ("lion", _lion, False),
}


def update_kernel(
    optimizer: Optimizer, slots: tuple[Array, ...]
) -> tuple[str, tuple[Any, ...], float]:
    """Return the kernel of a rule, its last arguments, and the weight decay in the gradient."""
    kernel, last, coupled = RULES[type(optimizer)]
    named = dict(zip(optimizer.slots, slots, strict=True))
    return kernel, last(optimizer, named), optimizer.weight_decay if coupled else 0.0
