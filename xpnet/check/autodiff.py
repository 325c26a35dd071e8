"""The derivatives that PyTorch and JAX compute by themselves, as oracles for ours.

Both run our own forward pass and differentiate it in their own way; no formula is written twice.
"""

from collections.abc import Callable, Mapping

import numpy as np

from xpnet.backends import get_backend
from xpnet.backends.backend import Backend
from xpnet.errors import require
from xpnet.typing import Array

__all__ = ["AUTODIFF", "Cost"]

# (tensors to differentiate with respect to, what places other host arrays) -> a 0-d cost
Cost = Callable[[Mapping[str, Array], Callable[[np.ndarray], Array]], Array]
Tensors = Mapping[str, np.ndarray]


def torch_gradients(cost: Cost, tensors: Tensors) -> dict[str, np.ndarray]:
    """Return the gradient of ``cost`` at float64 ``tensors`` by PyTorch's autograd."""
    torch = require("torch", "torch", "PyTorch's own gradient")
    backend = get_backend("torch", "cpu", "float64")
    placed = {name: backend.asarray(t).requires_grad_() for name, t in tensors.items()}
    # `a /= sum(a)` writes to the result of exp, which autograd has saved.
    with torch.autograd.graph.allow_mutation_on_saved_tensors():
        value = cost(placed, backend.asarray)
        found = torch.autograd.grad(value, list(placed.values()), allow_unused=True)
    pairs = zip(placed.items(), found, strict=True)
    return {name: _host(backend, t if g is None else g, g is None) for (name, t), g in pairs}


def jax_gradients(cost: Cost, tensors: Tensors) -> dict[str, np.ndarray]:
    """Return the gradient of ``cost`` at float64 ``tensors`` by ``jax.grad``."""
    jax = require("jax", "jax", "JAX's own gradient")
    before = jax.config.jax_enable_x64
    backend = get_backend("jax", "cpu", "float64")  # turns 64-bit types on
    try:
        placed = {name: backend.asarray(t) for name, t in tensors.items()}
        found = jax.jit(jax.grad(lambda ts: cost(ts, backend.asarray)))(placed)
        return {name: _host(backend, g) for name, g in found.items()}
    finally:
        jax.config.update("jax_enable_x64", before)


def _host(backend: Backend, x: Array, unused: bool = False) -> np.ndarray:
    host = backend.to_host(x)
    return np.zeros_like(host) if unused else host


AUTODIFF: dict[str, Callable[[Cost, Tensors], dict[str, np.ndarray]]] = {
    "torch": torch_gradients,
    "jax": jax_gradients,
}
