"""dC/dz and dC/dW of the output layer, computed five ways and once wrongly."""

from collections.abc import Callable

import numpy as np
from array_api_compat import array_namespace, device

from xpnet.backends import Backend
from xpnet.explanation.model import Way, Ways
from xpnet.explanation.output import Head, Output, vector_times_jacobian
from xpnet.nn import LAYERS
from xpnet.nn.losses import Loss
from xpnet.ops.dense import dense, dense_backward
from xpnet.random import generator
from xpnet.typing import Array

__all__ = ["five_ways"]

LOOP_BUDGET = 400_000  # products in Python loops: about a second
DIFFERENCES_BUDGET = 100  # entries perturbed
UNSEEN = -1.7e308  # stands for an entry that was not computed
h = 1e-3  # extrapolated to 0, see `_differences`


def five_ways(out: Output, head: Head, loss: Loss, backend: Backend, seed: int = 0) -> Ways:
    """Compute the gradients of the output layer in each way, on ``backend``.

    ``out`` is that of ``head`` and ``loss``. Of a large dW, finite differences and Python loops
    compute a sample drawn by ``seed``.
    """
    host = backend.to_host
    xp = array_namespace(head.z)
    dz_matrix = vector_times_jacobian(out)
    eye = xp.eye(out.J.shape[-1], dtype=out.J.dtype, device=device(out.J))
    diagonal = xp.sum(out.J * eye, axis=-1)  # (N, K)

    def way(name: str, formula: str, einsum: str, dz: Array, function: str = "") -> Way:
        dW = dense_backward(dz, head.x, head.params["W"], input_gradient=False)[1]
        return Way(name, formula, einsum, host(dz), host(dW), function=function)

    product = way(
        "product form", out.product, "", out.backward(out.da, out.a), out.backward.__name__
    )
    matrix = way(
        "vector times Jacobian", f"dz_ns = Σ_k da_nk J_nks, {out.J_formula}",
        'einsum("nk,nks->ns", da, J)', dz_matrix,
    )  # fmt: skip
    fused = way("fused", out.fused_formula, "", out.fused, out.fused_function)
    wrong = way(
        "elementwise: wrong", "dz_ns = da_ns J_nss", 'einsum("ns,nss->ns", da, J)',
        out.da * diagonal,
    )._replace(exact=False)  # fmt: skip
    trained = host(head.dz), host(head.dW)
    a, da, J, x = host(out.a), host(out.da), host(out.J), host(head.x)
    loops, n_loops = _loops(out, a, da, x, seed)
    differences, n_differences = _by_differences(head, loss, backend, seed)
    visited = min(n_loops, n_differences)
    if out.name != "softmax":
        wrong = wrong._replace(name="elementwise: right", exact=True)
    ways = loops, matrix, product, fused, differences
    why = _why(out.name, da, J, wrong.dz, trained[0])
    return Ways(out.name, a, da, J, trained, ways, wrong, why, (visited, trained[1].size))


def _loops(out: Output, a: np.ndarray, da: np.ndarray, x: np.ndarray, seed: int) -> tuple[Way, int]:
    """Compute the triple sum in Python loops, entry by entry: the formula itself."""
    (N, K), I = da.shape, x.shape[1]  # noqa: E741
    dz, dW = np.full((N, K), UNSEEN), np.full((I, K), UNSEEN)
    for n, s in _some(dz.shape, LOOP_BUDGET // K, seed):
        dz[n, s] = sum(da[n, k] * out.component(a[n], k, s) for k in range(K))
    places = _some(dW.shape, max(1, LOOP_BUDGET // (N * K * K)), seed)
    for i, j in places:
        total = 0.0
        for n in range(N):
            for k in range(K):
                for s in range(K):
                    dz_by_dW = x[n, i] if s == j else 0.0  # x_ni δ_sj
                    total += da[n, k] * out.component(a[n], k, s) * dz_by_dW
        dW[i, j] = total
    formula = "dW_ij = Σ_n Σ_k Σ_s da_nk J_nks x_ni δ_sj"
    einsum = 'einsum("nk,nks,ni,sj->ij", da, J, x, eye)'
    seen = dz != UNSEEN, dW != UNSEEN
    return Way("loops over n, k and s", formula, einsum, dz, dW, seen=seen), len(places)


def _by_differences(head: Head, loss: Loss, backend: Backend, seed: int) -> tuple[Way, int]:
    """Perturb each z and W and measure the change of the cost, without any derivative."""
    host = backend.to_host

    def cost_of_output(z: np.ndarray) -> float:
        output = backend.asarray(z)
        if loss.output_layer != "identity":
            output, _ = LAYERS[loss.output_layer]().forward({}, output)
        return float(host(loss(output, head.target)[0]))

    def cost_of_weights(weights: np.ndarray) -> float:
        return cost_of_output(host(dense(head.x, backend.asarray(weights), head.params.get("b"))))

    z, W = host(head.z), host(head.params["W"])
    places = _some(W.shape, DIFFERENCES_BUDGET, seed)
    dz = _differences(cost_of_output, z, _some(z.shape, DIFFERENCES_BUDGET, seed))
    dW = _differences(cost_of_weights, W, places)
    formula = "dz_ns = ⟨C(z_ns + h) - C(z_ns - h)|2h⟩"
    seen = dz != UNSEEN, dW != UNSEEN
    way = Way("finite differences", formula, "", dz, dW, exact=False, seen=seen)
    return way, len(places)


def _differences(
    cost: Callable[[np.ndarray], float], at: np.ndarray, places: list[tuple[int, ...]]
) -> np.ndarray:
    """Return central differences at h and h/2, extrapolated to h = 0, with an error of O(h⁴)."""
    out = np.full(at.shape, UNSEEN)
    for place in places:

        def moved(by: float, place: tuple[int, ...] = place) -> float:
            there = at.copy()
            there[place] += by
            return cost(there)

        wide = (moved(h) - moved(-h)) / (2 * h)
        narrow = (moved(h / 2) - moved(-h / 2)) / h
        out[place] = (4 * narrow - wide) / 3
    return out


def _some(shape: tuple[int, ...], most: int, seed: int) -> list[tuple[int, ...]]:
    """Return all indices of an array, or ``most`` of them drawn by ``seed``."""
    size = int(np.prod(shape))
    chosen = np.arange(size)
    if size > most:
        chosen = np.sort(generator(seed, "sample", 4).choice(size, max(most, 1), replace=False))
    return [tuple(int(k) for k in np.unravel_index(n, shape)) for n in chosen]


def _why(function: str, da: np.ndarray, J: np.ndarray, wrong: np.ndarray, right: np.ndarray) -> str:
    if function != "softmax":
        return (
            f"Here the element-wise product is correct: the {function}'s Jacobian is diagonal, "
            "$J_nks = 0$ where $k ≠ s$, so the sum over $k$ has one term."
        )
    if not np.isfinite(wrong).all():
        return (
            "A probability has rounded to 0 here, so $da$ is infinite and products with it are not "
            "numbers: another reason to compute the loss from logits."
        )
    difference = np.abs(wrong - right)
    largest = float(np.abs(right).max())
    share = f" ({difference.max() / largest:.0%} of the largest entry)" if largest else ""
    n = int(difference.max(axis=-1).argmax())
    text = (
        "The product with the diagonal keeps the term $k = s$ of $Σ_k da_nk J_nks$ and drops "
        "all others. Softmax's Jacobian is full, since every logit affects every probability. The "
        f"error here is up to {difference.max():.4g}{share}. "
    )
    if np.count_nonzero(da[n]) == 1:
        text += (
            "With a single label, $da$ is nonzero at that class only, so the product is 0 for all "
            "other classes: their weights would never be updated. "
        )
    return text + (
        "This can be checked without a second formula: adding a constant to all logits changes "
        "nothing, so each row of $dz$ must sum to 0. It sums to "
        f"{_near_zero(right[n].sum())}; that of the product sums to {wrong[n].sum():.4g}."
    )


def _near_zero(x: float) -> str:
    return "0" if abs(x) < 1e-12 else f"{x:.2g}"
