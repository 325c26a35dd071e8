"""Why J is what it is, and dz: from the quotient rule, with the numbers of the first row."""

import math
from collections.abc import Iterator

import numpy as np

from xpnet.explanation.loss_steps import LossPass
from xpnet.explanation.model import Reason
from xpnet.explanation.output import Output
from xpnet.explanation.wording import number

__all__ = ["derivation"]

LARGEST_EXPONENT = 300.0  # of exp, of which a ratio is shown


def derivation(
    out: Output, p: LossPass, z: np.ndarray, a: np.ndarray, da: np.ndarray
) -> tuple[Reason, ...]:
    """Return the lines of the derivation; z, a, da (N, K) are on the host."""
    if out.name == "softmax":
        return tuple(_of_softmax(p, z[0], a[0], da[0]))
    if out.name == "sigmoid":
        return tuple(_of_sigmoid(p, z[0], a[0], da[0]))
    text = "There is no function between the dense layer and the loss, so $a = z$."
    return (Reason(text, "J_ks = δ_ks", "", "identity"),)


def _of_softmax(p: LossPass, z: np.ndarray, a: np.ndarray, da: np.ndarray) -> Iterator[Reason]:
    assert p.v is not None
    v, D = p.v[0], float(p.denominator)
    s = int(v.argmax())
    others = np.delete(np.arange(len(a)), s)
    k = int(others[a[others].argmax()]) if len(others) else s
    a_k, a_s, v_s = map(_n, (a[k], a[s], v[s]))
    inner = float(da[da != 0] @ a[da != 0])
    finite = bool(np.isfinite(da).all())
    small = np.abs(z).max() < LARGEST_EXPONENT
    total = number(float(np.exp(z).sum())) if small else ""
    yield Reason(
        "Softmax divides by a sum over all logits. This is for one example, without its $n$; the "
        f"numbers are those of the first, where $s = {s}$ is the label"
        + f" and $k = {k}$ the likeliest other class" * (k != s)
        + ".",
        "a_k = ⟨exp z_k|S⟩, S = Σ_s exp z_s",
        f"⟨exp({number(z[k])})|{total}⟩ = {a_k}" if small else "",
        "softmax",
    )
    yield Reason(
        "The quotient rule: the derivative of the numerator times the denominator, minus the "
        "reverse, over the square of the denominator.",
        "⟨∂a_k|∂z_s⟩ = ⟨S ∂(exp z_k)/∂z_s - exp z_k ∂S/∂z_s|S²⟩",
        "",
        "quotient rule",
    )
    yield Reason(
        "Case $k = s$. Both the numerator and the sum have the derivative $exp z_s$.",
        "J_ss = ⟨S exp z_s - exp z_s exp z_s|S²⟩ = a_s (1 - a_s)",
        f"{a_s} (1 - {a_s}) = {number(a[s] * (1 - a[s]))}",
        "$k = s$",
    )
    yield Reason(
        "Case $k ≠ s$. The numerator does not contain $z_s$, but the sum does: this is why the "
        "matrix is full.",
        "J_ks = ⟨0 - exp z_k exp z_s|S²⟩ = -a_k a_s",
        f"-{a_k} · {a_s} = {number(-a[k] * a[s])}" if k != s else "",
        "$k ≠ s$",
    )
    yield Reason(
        "Both cases in one, with $δ_ks = 1$ where $k = s$, else 0.",
        "J_ks = a_k (δ_ks - a_s)",
        "",
        "both",
    )
    yield Reason(
        "The vector times this matrix. Of the sum over $k$, $δ_ks$ leaves one term.",
        "dz_s = Σ_k da_k a_k (δ_ks - a_s) = a_s (da_s - Σ_k da_k a_k)",
        f"{a_s} ({number(da[s])} - {_n(inner)}) = {number(a[s] * (da[s] - inner))}" * finite,
        "da J",
    )
    yield Reason(
        "With cross-entropy, $da_k = -v_k / (D a_k)$, so $da_k a_k = -v_k / D$: what was "
        "divided by cancels.",
        "dz_s = ⟨(Σ_k v_k) a_s - v_s|D⟩",
        f"⟨{number(float(v.sum()))} · {a_s} - {v_s}|{number(D)}⟩ = "
        f"{number((float(v.sum()) * a[s] - v[s]) / (D or 1.0))}",
        "cross-entropy",
    )


def _of_sigmoid(p: LossPass, z: np.ndarray, a: np.ndarray, da: np.ndarray) -> Iterator[Reason]:
    D, y = float(p.denominator), p.target.reshape(p.output.shape)[0]
    weight = float(p.loss.positive_weight)  # type: ignore[attr-defined]
    s = int(np.asarray(y).argmax())
    a_s, da_s, y_s = map(_n, (a[s], da[s], y[s]))
    yield Reason(
        "The sigmoid takes one logit, so an output depends on its own input only. This is for one "
        f"example, without its $n$; the numbers are those of the first, with $s = {s}$.",
        "a_k = ⟨1|1 + exp(-z_k)⟩",
        f"⟨1|1 + exp({number(-z[s])})⟩ = {a_s}",
        "sigmoid",
    )
    yield Reason("Case $k ≠ s$. $a_k$ does not contain $z_s$.", "J_ks = 0", "", "$k ≠ s$")
    yield Reason(
        "Case $k = s$. The quotient rule with the numerator 1, whose derivative is 0.",
        "J_ss = ⟨0 + exp(-z_s)|(1 + exp(-z_s))²⟩ = a_s (1 - a_s)",
        f"{a_s} (1 - {a_s}) = {number(a[s] * (1 - a[s]))}",
        "$k = s$",
    )
    yield Reason(
        "Both cases in one, with $δ_ks = 1$ where $k = s$, else 0: the matrix is diagonal.",
        "J_ks = δ_ks a_k (1 - a_k)",
        "",
        "both",
    )
    yield Reason(
        "The vector times this matrix. Of the sum over $k$, $δ_ks$ leaves one term.",
        "dz_s = Σ_k da_k J_ks = da_s a_s (1 - a_s)",
        f"{da_s} · {a_s} (1 - {a_s}) = {number(da[s] * a[s] * (1 - a[s]))}" * math.isfinite(da[s]),
        "da J",
    )
    fused = ((1 - y[s]) * a[s] - weight * y[s] * (1 - a[s])) / (D or 1.0)
    yield Reason(
        "With cross-entropy, $da_k$ divides by $a_k$ and by $1 - a_k$, which cancel.",
        "dz_s = ⟨(1 - y_s) a_s - p y_s (1 - a_s)|D⟩",
        f"⟨(1 - {y_s}) · {a_s} - {_n(weight)} · {y_s} (1 - {a_s})|{number(D)}⟩ = {number(fused)}",
        "cross-entropy",
    )


def _n(x: float) -> str:
    """A number in a formula: a negative one is in parentheses."""
    text = number(float(x))
    return f"({text})" if text.startswith("-") else text
