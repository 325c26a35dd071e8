"""Two comparisons: sigmoid with softmax, and textbook columns with the code's rows."""

import numpy as np
from array_api_compat import array_namespace

from xpnet.backends import Backend
from xpnet.explanation.model import Beside, Bridge, Playground, Tensor
from xpnet.explanation.output import Head, jacobian
from xpnet.nn import Activation, Sigmoid, Softmax
from xpnet.nn.losses import CrossEntropy, Loss, MeanSquaredError
from xpnet.ops.dense import dense

__all__ = ["beside", "bridge"]


def beside(play: Playground, backend: Backend) -> tuple[Beside, Beside]:
    """Return sigmoid + MSE and softmax + cross-entropy on the same logits and label."""
    z = backend.asarray(play.logits[None, :])
    one_hot = np.eye(len(play.logits))[play.label]
    y = backend.asarray(one_hot[None, :])
    return (
        _beside("sigmoid + mean squared error", "J_ks = δ_ks a_k (1 - a_k)", Sigmoid(),
                MeanSquaredError(), z, y, backend),
        _beside("softmax + cross-entropy", "J_ks = a_k (δ_ks - a_s)", Softmax(),
                CrossEntropy(), z, y, backend),
    )  # fmt: skip


def _beside(
    name: str, formula: str, layer: Activation, loss: Loss, z: object, y: object, backend: Backend
) -> Beside:
    host = backend.to_host
    a, kept = layer.forward({}, z)
    da = loss(a, y)[1]
    dz = layer.backward({}, kept, da)[0]
    J = host(jacobian(layer, kept, a))[0]
    return Beside(
        name, formula, host(y)[0], host(a)[0], host(da)[0], J, host(dz)[0],
        host(da)[0] * np.diag(J),
    )  # fmt: skip


def bridge(head: Head, backend: Backend) -> Bridge:
    """Compute the last dense layer with samples as columns and compare it with the rows."""
    host = backend.to_host
    xp = array_namespace(head.x)
    W_col, x_col = xp.matrix_transpose(head.params["W"]), xp.matrix_transpose(head.x)
    z_col = W_col @ x_col  # (J, N)
    dW_col = xp.matrix_transpose(head.dz) @ x_col.T  # (J, I)
    b = head.params.get("b")
    if b is not None:
        z_col = z_col + b[:, None]
    z = dense(head.x, head.params["W"], b)
    difference = max(
        float(np.abs(host(z_col).T - host(z)).max()),
        float(np.abs(host(dW_col).T - host(head.dW)).max()),
    )
    rows = [Tensor("x", "ni", host(head.x)), Tensor("W", "ij", host(head.params["W"]))]
    if b is not None:
        rows.append(Tensor("b", "j", host(b)))
    rows += [Tensor("z", "nj", host(z)), Tensor("dz", "nj", host(head.dz))]
    rows.append(Tensor("dW", "ij", host(head.dW)))
    pairs = (
        ("samples", "$x$ (N, I), a row each", "$x$ (I, N), a column each"),
        ("weights", "$W$ (I, J)", "$W$ (J, I), the transpose"),
        ("forward", "$z = x W + b$", "$z = W x + b$"),
        ("softmax", "$dz = da J$", "$dz = Jᵀ da = J da$, since $J = Jᵀ$"),
        ("gradient of $W$", "$dW = xᵀ dz$", "$dW = dz xᵀ$"),
        ("gradient of $b$", "$db$ = the sum of the rows of $dz$",
         "$db$ = the sum of the columns of $dz$"),
        ("gradient of $x$", "$dx = dz Wᵀ$", "$dx = Wᵀ dz$"),
    )  # fmt: skip
    return Bridge(tuple(rows), tuple(t.column() for t in rows), pairs, difference)
