"""From the loss to dC/dz on both ways: through the Jacobian step by step, and fused.

The steps of the way that training of the model does not go are computed by the functions that a
model of the other kind is trained with, and put between its own.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from xpnet import ops
from xpnet.explanation.loss_steps import (
    PLACE,
    LossPass,
    cross_entropy_steps,
    fused_gradient,
    probability_gradient,
)
from xpnet.explanation.model import Step, Tensor, TwoWays
from xpnet.explanation.output import (
    Output,
    jacobian,
    sigmoid_da,
    sigmoid_losses,
    vector_times_jacobian,
)
from xpnet.explanation.softmax_steps import jacobian_steps, product_step, softmax_step
from xpnet.explanation.source import code_of
from xpnet.explanation.wording import number
from xpnet.nn import Sigmoid
from xpnet.nn.losses import BinaryCrossEntropy, Loss, SoftmaxCrossEntropy
from xpnet.registry import name_of

__all__ = ["OtherWay", "on_way", "other_way", "own_way", "two_ways"]

Host = Callable[[Any], np.ndarray]
Name = Literal["jacobian", "fused"]


class OtherWay(NamedTuple):
    """The steps of the way that training does not go, by where they belong."""

    function: tuple[Step, ...] = ()  # before the loss
    value: tuple[Step, ...] = ()  # before the loss's own value
    gradient: tuple[Step, ...] = ()  # before the loss's own gradient
    fused: tuple[Step, ...] = ()  # before the gradients of the last dense layer


def on_way(steps: Iterable[Step], way: Name, *, trained: bool = True) -> tuple[Step, ...]:
    """Return the steps, marked as being on one of the two ways."""
    return tuple(dataclasses.replace(step, way=way, trained=trained) for step in steps)


def own_way(other: OtherWay) -> Name | None:
    """Return the way that training goes, given the other one; None where there is one only."""
    return "fused" if other.gradient else "jacobian" if other.fused else None


def other_way(out: Output, p: LossPass, host: Host) -> OtherWay:
    """Return the steps of the way that training of this model does not go."""
    if out.name == "identity":
        return OtherWay()
    if not _fuses(p.loss):
        step = fused_gradient(p._replace(a=host(out.a), gradient=host(out.fused)))
        return OtherWay(fused=on_way([step], "fused", trained=False))
    make = _through_softmax if out.name == "softmax" else _through_sigmoid
    parts = make(p, host(out.a), host(out.da), host(out.J), host(out.backward(out.da, out.a)))
    return OtherWay(*(on_way(steps, "jacobian", trained=False) for steps in parts))


def _fuses(loss: Loss) -> bool:
    return isinstance(loss, SoftmaxCrossEntropy | BinaryCrossEntropy)


def _through_softmax(
    p: LossPass, a: np.ndarray, da: np.ndarray, J: np.ndarray, dz: np.ndarray
) -> Iterable[Iterable[Step]]:
    assert p.v is not None
    of_a = p._replace(output=a, a=None, log_a=None, gradient=da, losses=ops.cross_entropy(a, p.v))
    yield [softmax_step(PLACE, p.output, a)]
    yield cross_entropy_steps(of_a)
    yield [probability_gradient(of_a), *jacobian_steps(PLACE, a, da, J, dz)]


ROUNDINGS = 100  # units in the last place that are called rounding
FROM_LOGITS = "Training computes this loss from logits, and never in this form."


def _through_sigmoid(
    p: LossPass, a: np.ndarray, da: np.ndarray, J: np.ndarray, dz: np.ndarray
) -> Iterable[Iterable[Step]]:
    loss: Any = p.loss
    of_a, of_y = Tensor("a", "nk", a), Tensor("y", "nk", p.target.reshape(a.shape))
    of_p = Tensor("p", "", np.asarray(float(loss.positive_weight)))
    yield [Step(
        PLACE, "Sigmoid: every output has its own input", "forward",
        f"a_nk = {Sigmoid.formula[0].replace('_nj', '_nk')}", "", "1 / (1 + exp(-z))",
        (code_of(ops.sigmoid),), (Tensor("z", "nk", p.output),), of_a,
    )]  # fmt: skip
    yield [Step(
        PLACE, "Cross-entropy of each probability", "forward",
        "e_nk = -p y_nk log a_nk - (1 - y_nk) log (1 - a_nk)", "",
        "-p * y * log(a) - (1 - y) * log(1 - a)", (code_of(sigmoid_losses),),
        (of_a, of_y, of_p), Tensor("e", "nk", sigmoid_losses(a, of_y.values, loss.positive_weight)),
        note=FROM_LOGITS,
    )]  # fmt: skip
    formula = "J_nks = δ_ks a_nk (1 - a_nk)"
    yield [
        Step(
            PLACE, "Cross-entropy: a gradient for every probability", "backward",
            "da_nk = ⟨1|D⟩ (⟨1 - y_nk|1 - a_nk⟩ - ⟨p y_nk|a_nk⟩)", "",
            "((1 - y) / (1 - a) - p * y / a) / D", (code_of(sigmoid_da),),
            (of_y, of_a, of_p, Tensor("D", "", p.denominator)), Tensor("da", "nk", da),
            note=FROM_LOGITS,
        ),
        Step(
            PLACE, "Sigmoid: its Jacobian, which is diagonal", "backward", formula, "",
            'einsum("ks,nk,nk->nks", δ, a, 1 - a)', (code_of(jacobian),),
            (of_a, Tensor("δ", "ks", np.eye(a.shape[-1]))), Tensor("J", "nks", J),
            note="$J_nks = ∂a_nk/∂z_ns$ is 0 where $k ≠ s$: each output has its own input only.",
        ),
        product_step(
            PLACE, "Sigmoid: the vector times the Jacobian", formula, ops.sigmoid_backward, da, J,
            dz, "Of the sum over $k$ one term is left, $k = s$. So the product with the diagonal, "
            "element by element, is all of it: $dz_ns = da_ns a_ns (1 - a_ns)$.",
        ),
    ]  # fmt: skip


def two_ways(out: Output, p: LossPass, host: Host) -> tuple[TwoWays | None, str]:
    """Return dz on both ways with what is between them; or None, and why there is one way only."""
    if out.name == "identity":
        name = name_of(p.loss)
        return None, (
            f"{name} takes the outputs of the dense layer as they are, so there is no function, "
            "and no Jacobian, between them: $dz$ is the gradient of the loss itself. The question "
            "is about softmax and sigmoid with a cross-entropy."
        )
    through, fused = host(vector_times_jacobian(out)), host(out.fused)
    losses = _losses(out, p, host)
    difference = float(np.abs(through - fused).max())
    return TwoWays(
        "softmax" if out.name == "softmax" else "sigmoid",
        "fused" if _fuses(p.loss) else "jacobian", through, fused, losses, difference,
        _difference(difference, fused, host(out.a), losses),
    ), ""  # fmt: skip


def _losses(out: Output, p: LossPass, host: Host) -> tuple[float, float]:
    """C from the probabilities and from the logits."""
    loss: Any = p.loss
    a, D = host(out.a), float(p.denominator) or 1.0
    if out.name == "sigmoid":
        y = p.target.reshape(a.shape)
        return float(sigmoid_losses(a, y, loss.positive_weight).sum() / D), float(p.value)
    assert p.v is not None
    of_logits = ops.negative_log_likelihood(host(out.log_a), p.v)
    return float(ops.cross_entropy(a, p.v).sum() / D), float(of_logits.sum() / D)


def _difference(
    difference: float, fused: np.ndarray, a: np.ndarray, losses: tuple[float, float]
) -> str:
    """Say what the difference is, and where it is not rounding."""
    if np.isfinite(difference):
        if not difference:
            return "Both ways give the same $dz$ to the last digit."
        small = ROUNDINGS * np.finfo(fused.dtype).eps * max(1.0, float(np.abs(fused).max()))
        rounding = ", which is rounding" if difference <= small else ""
        return f"Both ways give the same $dz$ up to {number(difference)}{rounding}."
    least, value = number(float(a.min())), number(losses[1])
    return (
        f"A probability has rounded to {'0' if least == '0' else '1'}, so $da$ divides by 0, and "
        f"infinity times 0 is no number: through the Jacobian $dz$ is nan and the loss "
        f"{number(losses[0])}. The fused form divides by no probability: its $dz$ and the loss "
        f"from the logits, {value}, are right. This is why training takes logits."
    )
