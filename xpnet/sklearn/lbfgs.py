"""L-BFGS on the flat vector of all weights: SciPy's, with xpnet's gradient.

Liu and Nocedal, "On the limited memory BFGS method for large scale optimization", Mathematical
Programming 45, 1989; SciPy's L-BFGS-B without bounds.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
from sklearn.exceptions import ConvergenceWarning

from xpnet.step import make_gradient
from xpnet.training.engine import Engine
from xpnet.training.loader import Loader

__all__ = ["Minimum", "minimize"]


class Minimum(NamedTuple):
    """Where L-BFGS came to."""

    weights: np.ndarray  # (P,) float64
    loss: float
    curve: list[float]  # after each iteration
    iterations: int


def minimize(
    engine: Engine,
    loader: Loader,
    rows: int,
    *,
    max_iter: int,
    max_fun: int,
    tol: float,
    report: Callable[[str], None] | None = None,
) -> Minimum:
    """Minimise the engine's loss over all rows, ``rows`` of them at a time, from its weights.

    The search is in float64 on the host; the gradient is computed where the engine is, in its
    dtype. Warns (ConvergenceWarning) where it ends for another reason than ``tol``, the largest
    element of the gradient.
    """
    start = engine.host_state()
    curve: list[float] = []

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        engine.set_state(start._replace(params=flat.astype(engine.backend.dtype_name)))
        return value_and_gradient(engine, loader, rows)

    def observe(intermediate_result: scipy.optimize.OptimizeResult) -> None:
        curve.append(float(intermediate_result.fun))
        if report is not None:
            report(f"Iteration {len(curve)}, loss = {curve[-1]:.8f}")

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        found = scipy.optimize.minimize(
            objective,
            start.params.astype(np.float64),
            method="L-BFGS-B",
            jac=True,
            callback=observe,
            options={"maxfun": max_fun, "maxiter": max_iter, "gtol": tol},
        )
    iterations = min(int(found.nit), max_iter)
    if found.status != 0:
        msg = f"lbfgs failed to converge after {iterations} iteration(s) (status={found.status}): "
        msg += f"{found.message}. Scale the data"
        if iterations == max_iter:
            msg += f", or increase the number of iterations (max_iter={max_iter})"
        warnings.warn(msg, ConvergenceWarning, stacklevel=5)
    return Minimum(found.x, float(found.fun), curve, iterations)


def value_and_gradient(engine: Engine, loader: Loader, rows: int) -> tuple[float, np.ndarray]:
    """Return C and dC/dparams (P,) of all rows as float64 on the host, the penalty once in it."""
    gradient = engine.backend.bound(make_gradient(engine.model, engine.loss))
    to_host, state = engine.backend.to_host, engine.state
    loss, denominator, total = 0.0, 0.0, np.zeros(engine.params_layout.size)
    for batch in loader.batches(rows):
        part = gradient(state.params, state.stats, batch)
        D = float(to_host(part.denominator))
        loss, denominator = loss + float(to_host(part.loss)), denominator + D
        total += D * to_host(part.gradient)
    if alpha := engine.request.alpha:
        for place, W in _weights(engine, np.asarray(to_host(state.params), np.float64)):
            loss += 0.5 * alpha * float(W @ W)
            total[place] += alpha * W
    return loss / denominator, total / denominator


def _weights(engine: Engine, flat: np.ndarray) -> Sequence[tuple[slice, np.ndarray]]:
    entries = [e for e in engine.params_layout.entries if len(e.shape) > 1]
    return [(slice(e.start, e.stop), flat[e.start : e.stop]) for e in entries]
