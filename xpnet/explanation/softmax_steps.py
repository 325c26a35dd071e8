"""The steps of a softmax: its outputs, its Jacobian, and the vector times the Jacobian."""

from collections.abc import Callable

import numpy as np

from xpnet import ops
from xpnet.explanation.model import Step, Tensor
from xpnet.explanation.source import code_of

__all__ = ["jacobian_steps", "product_step", "softmax_step"]


def softmax_step(place: str, z: np.ndarray, a: np.ndarray) -> Step:
    """Return the step from logits (N, K) to probabilities."""
    return Step(
        place, "Softmax: every output depends on every input", "forward",
        "a_nk = ⟨exp z_nk|Σ_s exp z_ns⟩", "", 'exp(z) / einsum("ns->n", exp(z))[:, None]',
        (code_of(ops.softmax),), (Tensor("z", "ns", z),), Tensor("a", "nk", a),
    )  # fmt: skip


def jacobian_steps(
    place: str, a: np.ndarray, da: np.ndarray, J: np.ndarray, dz: np.ndarray
) -> tuple[Step, Step]:
    """Return the steps of softmax's Jacobian (N, K, K), and of the vector times it."""
    formula = "J_nks = a_nk (δ_ks - a_ns)"
    matrix = Step(
        place, "Softmax: its Jacobian", "backward", formula, "",
        'einsum("nk,ks->nks", a, δ) - einsum("nk,ns->nks", a, a)',
        (code_of(ops.softmax_jacobian, "return"),),
        (Tensor("a", "nk", a), Tensor("δ", "ks", np.eye(a.shape[-1]))), Tensor("J", "nks", J),
        note="$J_nks = ∂a_nk/∂z_ns$, a matrix for each example, is formed here for illustration.",
    )  # fmt: skip
    product = product_step(
        place, "Softmax: the vector times the Jacobian", formula, ops.softmax_backward, da, J, dz,
        "The code computes $dz_ns = a_ns (da_ns - Σ_k da_nk a_nk)$: the same without the matrix.",
    )  # fmt: skip
    return matrix, product


def product_step(
    place: str, title: str, jacobian: str, function: Callable,
    da: np.ndarray, J: np.ndarray, dz: np.ndarray, note: str,
) -> Step:  # fmt: skip
    """Return the step of the vector times the Jacobian, whose formula is ``jacobian``."""
    return Step(
        place, title, "backward", f"dz_ns = Σ_k da_nk J_nks, {jacobian}", "$dz = da J$",
        'einsum("nk,nks->ns", da, J)', (code_of(function),),
        (Tensor("da", "nk", da), Tensor("J", "nks", J)), Tensor("dz", "ns", dz), ("da", "J"),
        note=note, column_matrix="$dz = Jᵀ da$, and $Jᵀ = J$",
    )  # fmt: skip
