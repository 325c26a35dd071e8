"""The steps of each loss: its target, its value and its gradient."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xpnet import ops
from xpnet.explanation.formulas import LOSS_FORMULAS
from xpnet.explanation.model import Code, Step, Tensor
from xpnet.explanation.source import code_of
from xpnet.nn.losses import (
    LOSSES,
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    Loss,
    MeanSquaredError,
    SoftmaxCrossEntropy,
    quotient,
)
from xpnet.typing import Array

__all__ = ["LossPass", "loss_steps", "run_loss"]


class LossPass(NamedTuple):
    """A loss and its arrays in one training step, all on the host."""

    loss: Loss
    output: np.ndarray  # logits, probabilities or values (N, K)
    target: np.ndarray
    value: np.ndarray  # C, ()
    gradient: np.ndarray  # dC/doutput (N, K)
    losses: np.ndarray  # (N,) or (N, K)
    denominator: np.ndarray  # D, ()
    v: np.ndarray | None  # (N, K) of a cross-entropy
    log_a: np.ndarray | None
    a: np.ndarray | None  # softmax, if the loss takes logits


def run_loss(
    loss: Loss, output: Array, target: Array, host: Callable[[Array], np.ndarray]
) -> LossPass:
    """Compute the loss as training does; return its arrays on the host."""
    value, gradient = loss(output, target)
    sums, terms = loss.sums(output, target), loss.terms(output, target)
    v: Any = None
    log_a = a = None
    if isinstance(loss, SoftmaxCrossEntropy | CrossEntropy):
        v = loss._targets(output, target, None)[0]
    if isinstance(loss, SoftmaxCrossEntropy):
        log_a, a = host(ops.log_softmax(output)), host(ops.softmax(output))
    return LossPass(
        loss, host(output), host(target), host(value), host(gradient), host(terms.losses),
        host(sums.denominator), None if v is None else host(v), log_a, a,
    )  # fmt: skip


def loss_steps(p: LossPass) -> tuple[list[Step], list[Step]]:
    """Return the forward and the backward steps of a loss."""
    if p.v is None:
        return list(_elementwise(p)), [_elementwise_backward(p)]
    forward = [_target(p), *_cross_entropy(p), _mean(p, "ℓ", "n")]
    return forward, [_cross_entropy_backward(p)]


PLACE = "loss"


def _divide() -> Code:
    return code_of(quotient, "return")


def _target(p: LossPass) -> Step:
    loss: Any = p.loss
    formula, note = "v_nk = y_nk", "The target is given as rows of weights."
    operand = Tensor("y", "nk", p.target)
    code = [code_of(ops.one_hot, "return")]
    if p.target.ndim == 1:
        formula, operand = "v_nk = 1 where y_n = k, else 0", Tensor("y", "n", p.target)
        note = "The label as a one-hot row: a single 1."
    if loss.label_smoothing:
        code.append(code_of(ops.smooth))
        note += f" Label smoothing spreads {loss.label_smoothing:g} of it evenly over all classes."
    if loss.class_weights is not None:
        note += " It is multiplied by the class weights."
    result = Tensor("v", "nk", p.v if p.v is not None else p.target)
    return Step(
        PLACE, "The target", "forward", formula, "", "", tuple(code), (operand,), result, note=note
    )


def _cross_entropy(p: LossPass) -> Iterator[Step]:
    assert p.v is not None
    v, losses = Tensor("v", "nk", p.v), Tensor("ℓ", "n", p.losses)
    if p.log_a is None:
        yield Step(
            PLACE,
            "Cross-entropy of each example",
            "forward",
            "ℓ_n = -Σ_k v_nk log a_nk",
            "",
            '-einsum("nk,nk->n", v, log(a))',
            (code_of(ops.cross_entropy),),
            (v, Tensor("a", "nk", p.output)),
            losses,
        )
        return
    log_a = Tensor("l", "nk", p.log_a)
    yield Step(
        PLACE,
        "Log-softmax: the logarithm first, so that no logit overflows",
        "forward",
        "l_nk = log a_nk = z_nk - log Σ_s exp z_ns",
        "",
        'z - log(einsum("ns->n", exp(z)))[:, None]',
        (code_of(ops.log_softmax),),
        (Tensor("z", "ns", p.output),),
        log_a,
    )
    yield Step(
        PLACE,
        "Cross-entropy of each example",
        "forward",
        "ℓ_n = -Σ_k v_nk l_nk",
        "",
        '-einsum("nk,nk->n", v, l)',
        (code_of(ops.softmax_cross_entropy, "return"),),
        (v, log_a),
        losses,
        ("v", "l"),
    )


def _mean(p: LossPass, name: str, letters: str) -> Step:
    return Step(
        PLACE,
        "The cost: one number for the batch",
        "forward",
        f"C = ⟨Σ_{letters} {name}_{letters}|D⟩",
        "",
        f'einsum("{letters}->", {name}) / D',
        (code_of(Loss.sums, "return"), _divide()),
        (Tensor(name, letters, p.losses), Tensor("D", "", p.denominator)),
        Tensor("C", "", p.value),
        note=f'$D$ is the denominator of reduction "{p.loss.reduction}".',
    )


def _cross_entropy_backward(p: LossPass) -> Step:
    assert p.v is not None
    D = Tensor("D", "", p.denominator)
    if p.a is None:
        return Step(
            PLACE,
            "Cross-entropy: a gradient for every probability",
            "backward",
            "da_nk = ⟨-v_nk|D a_nk⟩",
            "",
            "-v / a / D",
            (code_of(ops.cross_entropy_backward), _divide()),
            (Tensor("v", "nk", p.v), Tensor("a", "nk", p.output), D),
            Tensor("da", "nk", p.gradient),
            note="There is no sum: each $a_nk$ occurs in one term of $ℓ_n$ only.",
        )
    return Step(
        PLACE,
        "Softmax and cross-entropy fused: the Jacobian cancels",
        "backward",
        "dz_ns = ⟨(Σ_k v_nk) a_ns - v_ns|D⟩",
        "",
        '(einsum("nk->n", v)[:, None] * a - v) / D',
        (code_of(ops.softmax_cross_entropy_backward), _divide()),
        (Tensor("a", "ns", p.a), Tensor("v", "ns", p.v), D),
        Tensor("dz", "ns", p.gradient),
        note="$Σ_k da_nk J_nks$ with $da_nk = -v_nk / (D a_nk)$: $a_nk$ cancels, which leaves "
        "$(a - y) / D$ if the rows of $y$ sum to 1.",
    )


FUNCTIONS: dict[type[Loss], tuple[Callable, Callable]] = {
    MeanSquaredError: (ops.squared_error, ops.squared_error_backward),
    Huber: (ops.huber, ops.huber_backward),
    BinaryCrossEntropy: (
        ops.binary_cross_entropy,
        ops.binary_cross_entropy_backward,
    ),
}
EXPRESSIONS = {"mean_squared_error": ("(z - y) ** 2", "2 * (z - y) / D")}


def _elementwise_parts(p: LossPass) -> tuple[str, tuple[Tensor, Tensor], tuple[str, str]]:
    name = next(n for n, cls in LOSSES.items() if cls is type(p.loss))
    target = p.target.reshape(p.output.shape)
    operands = Tensor("z", "nj", p.output), Tensor("y", "nj", target)
    return name, operands, EXPRESSIONS.get(name, ("", ""))


def _elementwise(p: LossPass) -> Iterator[Step]:
    name, operands, (einsum, _) = _elementwise_parts(p)
    yield Step(
        PLACE,
        "The loss of each element",
        "forward",
        f"e_nj = {LOSS_FORMULAS[name].value}",
        "",
        einsum,
        (code_of(FUNCTIONS[type(p.loss)][0]),),
        operands,
        Tensor("e", "nj", p.losses),
    )
    yield _mean(p, "e", "nj")


def _elementwise_backward(p: LossPass) -> Step:
    name, operands, (_, einsum) = _elementwise_parts(p)
    return Step(
        PLACE,
        "The gradient of each element's loss",
        "backward",
        f"dz_nj = ⟨{LOSS_FORMULAS[name].derivative}|D⟩",
        "",
        einsum,
        (code_of(FUNCTIONS[type(p.loss)][1]), _divide()),
        (*operands, Tensor("D", "", p.denominator)),
        Tensor("dz", "nj", p.gradient),
    )
