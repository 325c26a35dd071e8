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
    return (Reason(text, "J_nks = δ_ks", ""),)


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
        "Softmax divides by a sum over all logits. The numbers are those of the first row, where "
        f"$s = {s}$ is the label" + f", and $k = {k}$ the likeliest other class" * (k != s) + ".",
        "a_nk = ⟨exp z_nk|S_n⟩, S_n = Σ_s exp z_ns",
        f"⟨exp({number(z[k])})|{total}⟩ = {a_k}" if small else "",
    )
    yield Reason(
        "The quotient rule: the derivative of the numerator times the denominator, minus the "
        "reverse, over the square of the denominator.",
        "⟨∂a_nk|∂z_ns⟩ = ⟨S_n ∂(exp z_nk)/∂z_ns - exp z_nk ∂S_n/∂z_ns|S_n²⟩",
        "",
    )
    yield Reason(
        "Case $k = s$. Both the numerator and the sum have the derivative $exp z_ns$.",
        "J_nss = ⟨S_n exp z_ns - exp z_ns exp z_ns|S_n²⟩ = a_ns (1 - a_ns)",
        f"{a_s} (1 - {a_s}) = {number(a[s] * (1 - a[s]))}",
    )
    yield Reason(
        "Case $k ≠ s$. The numerator does not contain $z_ns$, but the sum does: this is why the "
        "matrix is full.",
        "J_nks = ⟨0 - exp z_nk exp z_ns|S_n²⟩ = -a_nk a_ns",
        f"-{a_k} · {a_s} = {number(-a[k] * a[s])}" if k != s else "",
    )
    yield Reason(
        "Both cases in one, with $δ_ks = 1$ where $k = s$, else 0.",
        "J_nks = a_nk (δ_ks - a_ns)",
        "",
    )
    yield Reason(
        "The vector times this matrix. Of the sum over $k$, $δ_ks$ leaves one term.",
        "Σ_k da_nk J_nks = Σ_k da_nk a_nk (δ_ks - a_ns) = a_ns (da_ns - Σ_k da_nk a_nk)",
        f"{a_s} ({number(da[s])} - {_n(inner)}) = {number(a[s] * (da[s] - inner))}" * finite,
    )
    yield Reason(
        "With cross-entropy, $da_nk = -v_nk / (D a_nk)$, so $da_nk a_nk = -v_nk / D$: what was "
        "divided by cancels.",
        "dz_ns = ⟨(Σ_k v_nk) a_ns - v_ns|D⟩",
        f"⟨{number(float(v.sum()))} · {a_s} - {v_s}|{number(D)}⟩ = "
        f"{number((float(v.sum()) * a[s] - v[s]) / (D or 1.0))}",
    )


def _of_sigmoid(p: LossPass, z: np.ndarray, a: np.ndarray, da: np.ndarray) -> Iterator[Reason]:
    D, y = float(p.denominator), p.target.reshape(p.output.shape)[0]
    weight = float(p.loss.positive_weight)  # type: ignore[attr-defined]
    s = int(np.asarray(y).argmax())
    a_s, da_s, y_s = map(_n, (a[s], da[s], y[s]))
    yield Reason(
        "The sigmoid takes one logit, so an output depends on its own input only. The numbers are "
        f"those of the first row, $s = {s}$.",
        "a_nk = ⟨1|1 + exp(-z_nk)⟩",
        f"⟨1|1 + exp({number(-z[s])})⟩ = {a_s}",
    )
    yield Reason("Case $k ≠ s$. $a_nk$ does not contain $z_ns$.", "J_nks = 0", "")
    yield Reason(
        "Case $k = s$. The quotient rule with the numerator 1, whose derivative is 0.",
        "J_nss = ⟨0 + exp(-z_ns)|(1 + exp(-z_ns))²⟩ = a_ns (1 - a_ns)",
        f"{a_s} (1 - {a_s}) = {number(a[s] * (1 - a[s]))}",
    )
    yield Reason(
        "Both cases in one, with $δ_ks = 1$ where $k = s$, else 0: the matrix is diagonal.",
        "J_nks = δ_ks a_nk (1 - a_nk)",
        "",
    )
    yield Reason(
        "The vector times this matrix. Of the sum over $k$, $δ_ks$ leaves one term.",
        "Σ_k da_nk J_nks = da_ns a_ns (1 - a_ns)",
        f"{da_s} · {a_s} (1 - {a_s}) = {number(da[s] * a[s] * (1 - a[s]))}" * math.isfinite(da[s]),
    )
    fused = ((1 - y[s]) * a[s] - weight * y[s] * (1 - a[s])) / (D or 1.0)
    yield Reason(
        "With cross-entropy, $da_nk$ divides by $a_nk$ and by $1 - a_nk$, which cancel.",
        "dz_ns = ⟨(1 - y_ns) a_ns - p y_ns (1 - a_ns)|D⟩",
        f"⟨(1 - {y_s}) {a_s} - {_n(weight)} · {y_s} (1 - {a_s})|{number(D)}⟩ = {number(fused)}",
    )


def _n(x: float) -> str:
    """A number in a formula: a negative one is in parentheses."""
    text = number(float(x))
    return f"({text})" if text.startswith("-") else text
