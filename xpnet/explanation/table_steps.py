"""The steps of the layers for tables: embeddings of codes, and factors of the features."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from xpnet import ops
from xpnet.explanation.model import Step, Tensor
from xpnet.explanation.source import code_of

if TYPE_CHECKING:
    from xpnet.explanation.layer_steps import Pass

__all__ = ["embedding", "embedding_backward", "feature_scale", "feature_scale_backward"]


def feature_scale(p: "Pass") -> Iterator[Step]:
    """Yield the step of the factors."""
    yield Step(
        p.place, "Feature scale: each feature times its factor", "forward",
        "y_nj = s_j x_nj", "$y = x diag(s)$", 'einsum("nj,j->nj", x, s)',
        (code_of(ops.feature_scale),),
        (Tensor("x", "nj", p.x), Tensor("s", "j", p.params["s"])), Tensor("y", "nj", p.y),
        ("x", "s"),
    )  # fmt: skip


def feature_scale_backward(p: "Pass") -> Iterator[Step]:
    """Yield the gradients of the factors and of the input."""
    dy, x, s = Tensor("dy", "nj", p.dy), Tensor("x", "nj", p.x), Tensor("s", "j", p.params["s"])
    backward = ops.feature_scale_backward
    yield Step(
        p.place, "Feature scale: the gradient of the factors", "backward",
        "ds_j = Σ_n x_nj dy_nj", "", 'einsum("nj,nj->j", x, dy)', (code_of(backward, "ds"),),
        (x, dy), Tensor("ds", "j", p.grads["s"]), ("x", "dy"),
    )  # fmt: skip
    yield Step(
        p.place, "Feature scale: the gradient of the input", "backward",
        "dx_nj = s_j dy_nj", "$dx = dy diag(s)$", 'einsum("nj,j->nj", dy, s)',
        (code_of(backward, "return"),), (dy, s), Tensor("dx", "nj", p.dx), ("dy", "s"),
    )  # fmt: skip


def embedding(p: "Pass") -> Iterator[Step]:
    """Yield the inputs that pass, and the rows that each code reads."""
    rest = p.x.shape[1] - len(p.params)
    if rest:
        x = Tensor("x", "nj", p.x[:, :rest])
        yield Step(
            p.place, "Embedding: the inputs that are no codes", "forward", "y_nj = x_nj", "", "",
            (code_of(ops.embedding),), (x,), Tensor("y", "nj", p.y[:, :rest]),
        )  # fmt: skip
    for title, h, E, columns, _ in _tables(p):
        yield Step(
            p.place, f"{title}: a row of its table", "forward",
            "y_nj = Σ_v h_nv E_vj", "$y = h E$", 'einsum("nv,vj->nj", h, E)',
            (code_of(ops.embedding),), (h, E), Tensor("y", "nj", p.y[:, columns]), ("h", "E"),
            note="$h_nv = 1$ where $v$ is the code of example $n$, else 0. The code reads the row "
            "of $E$ and multiplies nothing.",
        )  # fmt: skip


def embedding_backward(p: "Pass") -> Iterator[Step]:
    """Yield the gradient of each table, and of the inputs that pass."""
    for title, h, _, columns, dE in _tables(p):
        dy = Tensor("dy", "nj", p.dy[:, columns])
        yield Step(
            p.place, f"{title}: the gradient of its table", "backward",
            "dE_vj = Σ_n h_nv dy_nj", "$dE = hᵀ dy$", 'einsum("nv,nj->vj", h, dy)',
            (code_of(ops.summed_by_level),), (h, dy), Tensor("dE", "vj", dE), ("h", "dy"),
        )  # fmt: skip
    rest = p.x.shape[1] - len(p.params)
    yield Step(
        p.place, "Embedding: the gradient of the inputs that are no codes", "backward",
        "dx_nj = dy_nj", "", "", (code_of(ops.embedding_backward, "dx"),),
        (Tensor("dy", "nj", p.dy[:, :rest]),), Tensor("dx", "nj", p.dx),
        note="A code is a name, and has no derivative: its columns of $dx$ are 0.",
    )  # fmt: skip


def _tables(p: "Pass") -> Iterator[tuple[str, Tensor, Tensor, slice, np.ndarray]]:
    """Yield of each code its title, one-hot rows, table, the columns of y, and the gradient."""
    start = p.x.shape[1] - len(p.params)
    for i, (name, E) in enumerate(p.params.items()):
        stop = start + E.shape[1]
        h = ops.one_hot(p.residuals[i], len(E), p.x)
        title = f"Embedding, code {i + 1} of {len(p.params)}"
        columns = slice(start, stop)
        yield title, Tensor("h", "nv", h), Tensor("E", "vj", E), columns, p.grads[name]
        start = stop
