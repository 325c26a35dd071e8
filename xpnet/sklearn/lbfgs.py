"""L-BFGS: SciPy's, on the flat vector of parameters, with xpnet's gradient of the whole batch."""

import warnings
from typing import Any

import numpy as np
import scipy.optimize
from sklearn.exceptions import ConvergenceWarning

from xpnet.step import Batch, make_gradient
from xpnet.training.engine import Engine

__all__ = ["minimize"]


def minimize(
    engine: Engine, batch: Batch, *, alpha: float, max_iter: int, max_fun: int, tol: float, verbose: int
) -> tuple[float, int]:
    """Change the engine's parameters to those that L-BFGS finds; return the loss and iterations.

    ``tol`` is SciPy's ``gtol``, and the loss has the penalty of
    :func:`~xpnet.step.make_gradient`. The search is in float64 on the host; the gradient is
    computed where the engine is, in its dtype. Warns (ConvergenceWarning) where ``max_iter`` or
    ``max_fun`` ends it.

    Byrd, Lu, Nocedal and Zhu, "A limited memory algorithm for bound constrained optimization",
    SIAM J. Sci. Comput. 16, 1995.
    """
    backend, layout = engine.backend, engine.params_layout
    gradient = make_gradient(engine.model, engine.loss, alpha)
    _, stats = engine.weights()
    like = engine.state.params

    def placed(flat: np.ndarray) -> Any:
        named = layout.named(flat.astype(backend.dtype_name))
        return layout.join_named({k: backend.place(np.array(v)) for k, v in named.items()}, like)

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        found = gradient(placed(flat), stats, batch)
        loss = float(backend.to_host(found.loss)) / float(backend.to_host(found.denominator))
        return loss, np.asarray(backend.to_host(found.gradient), dtype=np.float64)

    shown = 0

    def show(intermediate_result: Any) -> None:
        nonlocal shown
        shown += 1
        print(f"Iteration {shown}, loss = {intermediate_result.fun:.8f}")

    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        result = scipy.optimize.minimize(
            loss_and_gradient,
            backend.to_host(like).astype(np.float64),
            method="L-BFGS-B",
            jac=True,
            callback=show if verbose else None,
            options={"maxiter": max_iter, "maxfun": max_fun, "gtol": tol},
        )
    if result.status != 0:
        msg = f"L-BFGS has not converged (status {result.status}: {result.message}) after "
        msg += f"{result.nit} iterations: raise max_iter or max_fun, or scale the data"
        warnings.warn(msg, ConvergenceWarning, stacklevel=2)
    engine.set_weights((placed(result.x), stats))
    return float(result.fun), min(int(result.nit), max_iter)
