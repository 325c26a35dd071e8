"""The steps of each loss: its target, its value and its gradient."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from xpnet import ops
from xpnet.explanation.model import Code, Step, Tensor
from xpnet.explanation.source import IN_CODE, code_of, formula_code
from xpnet.nn.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Loss,
    MeanSquaredError,
    NegativeLogLikelihood,
    SoftmaxCrossEntropy,
    quotient,
)
from xpnet.typing import Array

__all__ = [
    "PLACE",
    "LossPass",
    "LossSteps",
    "cross_entropy_steps",
    "fused_gradient",
    "loss_steps",
    "probability_gradient",
    "run_loss",
]

PLACE = "loss"


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
    if isinstance(loss, SoftmaxCrossEntropy | CrossEntropy | NegativeLogLikelihood):
        v = loss._targets(output, target, None)[0]
    if isinstance(loss, NegativeLogLikelihood):
        log_a = host(output)
    if isinstance(loss, SoftmaxCrossEntropy):
        log_a, a = host(ops.log_softmax(output)), host(ops.softmax(output))
    return LossPass(
        loss, host(output), host(target), host(value), host(gradient), host(terms.losses),
        host(sums.denominator), None if v is None else host(v), log_a, a,
    )  # fmt: skip


class LossSteps(NamedTuple):
    """The steps of a loss."""

    target: list[Step]
    value: list[Step]  # of each example or element
    cost: list[Step]
    gradient: list[Step]


def loss_steps(p: LossPass) -> LossSteps:
    """Return the steps of a loss, in the order of computation."""
    if p.v is None:
        value = _elementwise(p)
        return LossSteps(
            [], [value], [_mean(p, "e", value.result.letters)], [_elementwise_backward(p)]
        )
    return LossSteps(
        [_target(p)],
        [*cross_entropy_steps(p)],
        [_mean(p, "ℓ", "n")],
        [_cross_entropy_backward(p)],
    )


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


def cross_entropy_steps(p: LossPass) -> Iterator[Step]:
    """Yield the steps to the loss of each example, from what the loss takes."""
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
    if p.a is not None:
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
        (code_of(ops.negative_log_likelihood),),
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
    if p.a is not None:
        return fused_gradient(p)
    if p.log_a is None:
        return probability_gradient(p)
    assert p.v is not None
    return Step(
        PLACE,
        "Negative log-likelihood: a gradient for every log-probability",
        "backward",
        "dl_nk = ⟨-v_nk|D⟩",
        "",
        "-v / D",
        (code_of(ops.negative_log_likelihood_backward), _divide()),
        (Tensor("v", "nk", p.v), Tensor("D", "", p.denominator)),
        Tensor("dl", "nk", p.gradient),
    )


def probability_gradient(p: LossPass) -> Step:
    """Return the step to da, from the probabilities that are the output of ``p``."""
    assert p.v is not None
    return Step(
        PLACE,
        "Cross-entropy: a gradient for every probability",
        "backward",
        "da_nk = ⟨-v_nk|D a_nk⟩",
        "",
        "-v / a / D",
        (code_of(ops.cross_entropy_backward), _divide()),
        (Tensor("v", "nk", p.v), Tensor("a", "nk", p.output), Tensor("D", "", p.denominator)),
        Tensor("da", "nk", p.gradient),
        note="$da = ∂C/∂a$. There is no sum: each $a_nk$ occurs in one term of $ℓ_n$ only.",
    )


def fused_gradient(p: LossPass) -> Step:
    """Return the step to dz without a Jacobian, from the probabilities ``p.a``."""
    assert p.v is not None
    assert p.a is not None
    return Step(
        PLACE,
        "Softmax and cross-entropy fused: the Jacobian cancels",
        "backward",
        "dz_ns = ⟨(Σ_k v_nk) a_ns - v_ns|D⟩",
        "",
        '(einsum("nk->n", v)[:, None] * a - v) / D',
        (code_of(ops.softmax_cross_entropy_backward), _divide()),
        (Tensor("a", "ns", p.a), Tensor("v", "ns", p.v), Tensor("D", "", p.denominator)),
        Tensor("dz", "ns", p.gradient),
        note="$Σ_k da_nk J_nks$ with $da_nk = -v_nk / (D a_nk)$: $a_nk$ cancels, which leaves "
        "$(a - y) / D$ if the rows of $y$ sum to 1.",
    )


EINSUM: dict[type[Loss], tuple[str, str]] = {
    MeanSquaredError: ("(z - y) ** 2", "2 * (z - y) / D"),
}


def _elementwise(p: LossPass) -> Step:
    formula, note = _formula(p.loss)
    operands = _output_and_target(p)
    result = Tensor("e", operands[0].letters[: p.losses.ndim], p.losses)
    return Step(
        PLACE,
        "The loss of each element",
        "forward",
        f"{result.name}_{result.letters} = {formula[0]}",
        "",
        EINSUM.get(type(p.loss), ("", ""))[0],
        (formula_code(type(p.loss), "value", "terms"),),
        operands,
        result,
        note=note,
    )


def _elementwise_backward(p: LossPass) -> Step:
    formula, note = _formula(p.loss)
    title = "The gradient of each element's loss"
    if isinstance(p.loss, BinaryCrossEntropy):
        title = "Sigmoid and cross-entropy fused: the Jacobian cancels"
        note = "$a (1 - a)$ of the Jacobian cancels with what $da$ is divided by, and $1 - a_nj = "
        note += "σ(-z_nj)$: $(a - y) / D$ is left if $p = 1$."
    return Step(
        PLACE,
        title,
        "backward",
        f"dz_nj = ⟨{formula[1]}|D⟩",
        "",
        EINSUM.get(type(p.loss), ("", ""))[1],
        (formula_code(type(p.loss), "backward_value", "terms"), _divide()),
        (*_output_and_target(p), Tensor("D", "", p.denominator)),
        Tensor("dz", "nj", p.gradient),
        note=note,
    )


def _formula(loss: Loss) -> tuple[tuple[str, str], str]:
    """The value and the derivative in index letters, and a note where a class gives none."""
    formula = getattr(loss, "formula", None)
    return formula or ("e(z_nj, y_nj)", "∂e_nj/∂z_nj"), "" if formula else IN_CODE


def _output_and_target(p: LossPass) -> tuple[Tensor, Tensor]:
    target = p.target.reshape(p.output.shape) if p.target.size == p.output.size else p.target
    return Tensor("z", "nj", p.output), Tensor("y", "nj"[: target.ndim], target)
