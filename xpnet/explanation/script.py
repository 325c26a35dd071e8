"""Python to copy: the numbers of an explanation again, with NumPy alone."""

import textwrap

import numpy as np

from xpnet.explanation.loss_steps import LossPass
from xpnet.explanation.output import Output
from xpnet.explanation.wording import fits
from xpnet.nn.losses import MeanSquaredError

__all__ = ["script"]

MOST_NUMBERS = 40  # logits that are written out; further rows are left out
MOST_CLASSES = 128
WIDTH = 76
DIGITS = 10
SOFTMAX = """\
m = z - z.max(axis=1, keepdims=True)  # cancels in a; no exp overflows
e = np.exp(m)
a = e / e.sum(axis=1, keepdims=True)
l = m - np.log(e.sum(axis=1, keepdims=True))  # log a
t = v > 0
loss = -(v[t] * l[t]).sum() / D
da = np.zeros(a.shape)
da[t] = -v[t] / (D * a[t])
J = a[:, :, None] * (np.eye(K) - a[:, None, :])  # a_nk (δ_ks - a_ns)
dz = np.einsum("nk,nks->ns", da, J)  # the vector times the matrix
fused = (v.sum(axis=1, keepdims=True) * a - v) / D  # no matrix"""
SIGMOID = """\
a = 1 / (1 + np.exp(-z))
loss = (p * y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)).sum() / D
da = ((1 - y) / (1 - a) - p * y / a) / D
J = np.eye(K) * (a * (1 - a))[:, None, :]  # δ_ks a_nk (1 - a_nk)
dz = np.einsum("nk,nks->ns", da, J)  # the vector times the matrix
fused = ((1 - y) * a - p * y * (1 - a)) / D  # no matrix"""
SQUARES = """\
loss = ((z - y) ** 2).sum() / D
dz = 2 * (z - y) / D"""


def script(
    out: Output, p: LossPass, x: np.ndarray, W: np.ndarray, b: np.ndarray | None, z: np.ndarray
) -> str:
    """Return the lines; "" for a loss whose formula NumPy has no line for, or too many classes.

    x (N, I), W (I, K), b (K,) and z (N, K) are those of the last dense layer, on the host. They
    set the names z, a, da, J, dz, fused and loss; where x is small, dW too.
    """
    N, K = z.shape
    body = {"softmax": SOFTMAX, "sigmoid": SIGMOID}.get(out.name, SQUARES)
    if K > MOST_CLASSES or (out.name == "identity" and type(p.loss) is not MeanSquaredError):
        return ""
    n = max(1, min(N, MOST_NUMBERS // K))
    lines = ["import numpy as np", ""]
    if n < N:
        lines.append(f"# the first {n} of {N} rows, and their part of the loss")
    small = n == N and all(map(fits, (x, W, z)))
    if small:
        lines += [_assigned("x", x), _assigned("W", W)]
        lines += [] if b is None else [_assigned("b", b)]
        lines.append("z = x @ W" + ("" if b is None else " + b"))
    else:
        lines.append(_assigned("z", z[:n]))
    lines += [*_target(out, p, n), f"K, D = {K}, {_number(float(p.denominator) or 1.0)}", body]
    lines += ["dW = x.T @ dz"] if small else []
    shown = "a, da, J, dz, fused, loss" if out.name != "identity" else "dz, loss"
    lines.append(f'print({shown}, sep="\\n\\n")')
    return "\n".join(lines) + "\n"


def _target(out: Output, p: LossPass, n: int) -> list[str]:
    if out.name != "softmax":
        y = p.target.reshape(p.output.shape)[:n]
        weight = getattr(p.loss, "positive_weight", None)
        return [_assigned("y", y)] + ([f"p = {_number(weight)}"] if weight is not None else [])
    assert p.v is not None
    v = p.v[:n]
    if ((v == 0) | (v == 1)).all() and (v.sum(axis=1) == 1).all():
        labels = ", ".join(map(str, v.argmax(axis=1)))
        return textwrap.wrap(f"v = np.eye({v.shape[1]})[[{labels}]]  # y as a row", WIDTH)
    return [_assigned("v", v)]


def _assigned(name: str, values: np.ndarray) -> str:
    """Return lines that assign an array, with the digits that reproduce what is shown."""
    rows = np.atleast_2d(values)
    texts = [f"[{', '.join(map(_number, row))}]" for row in rows]
    inner = ", ".join(texts)
    if values.ndim == 1:
        inner = inner[1:-1]
    line = f"{name} = np.array([{inner}])"
    if len(line) <= WIDTH:
        return line
    parts = [
        textwrap.fill(f"{text},", WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 5)
        for text in texts
    ]
    return "\n".join([f"{name} = np.array([", *parts, "])"])


def _number(x: float) -> str:
    return repr(float(f"{float(x):.{DIGITS}g}"))
