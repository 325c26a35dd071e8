"""The forward and backward steps of each kind of layer, from numbers already computed."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from xpnet import ops
from xpnet.explanation import table_steps
from xpnet.explanation.model import Step, Tensor
from xpnet.explanation.softmax_steps import jacobian_steps, softmax_step
from xpnet.explanation.source import IN_CODE, code_of, formula_code
from xpnet.nn import (
    Activation,
    BatchNorm,
    Dense,
    Dropout,
    Embedding,
    FeatureScale,
    Flatten,
    GroupNorm,
    Layer,
    LayerNorm,
    LogSoftmax,
    RMSNorm,
    Softmax,
    layer_name,
)
from xpnet.nn.normalization import Norm

__all__ = ["Pass", "backward_steps", "forward_steps"]


class Pass(NamedTuple):
    """One layer's arrays in one training step, all on the host."""

    layer: Layer
    place: str
    params: Mapping[str, np.ndarray]
    x: np.ndarray
    y: np.ndarray
    residuals: Any
    dy: np.ndarray
    dx: np.ndarray
    grads: Mapping[str, np.ndarray]
    slopes: np.ndarray  # the backward pass of ones: ∂y/∂x of an element-wise layer
    jacobian: np.ndarray | None  # (N, K, K) of a softmax


def forward_steps(p: Pass) -> list[Step]:
    """Return the forward steps of a layer."""
    table: Table = {
        Dense: _dense,
        Embedding: table_steps.embedding,
        FeatureScale: table_steps.feature_scale,
        Flatten: _flatten,
        Dropout: _dropout,
    }
    return _of(p, table, _forward_other)


def backward_steps(p: Pass) -> list[Step]:
    """Return the backward steps of a layer, in the order of computation."""
    table: Table = {
        Dense: _dense_backward,
        Embedding: table_steps.embedding_backward,
        FeatureScale: table_steps.feature_scale_backward,
        Flatten: _flatten_backward,
        Dropout: _dropout_backward,
        **dict.fromkeys((LayerNorm, BatchNorm, GroupNorm, RMSNorm), _norm_backward),
    }
    return _of(p, table, _backward_other)


Table = dict[type[Layer], Callable[[Pass], Iterator[Step]]]


def _of(p: Pass, table: Table, other: Callable[[Pass], Iterator[Step]]) -> list[Step]:
    return list(table.get(type(p.layer), other)(p))


def _dense(p: Pass) -> Iterator[Step]:
    bias = "b" in p.params
    operands = [Tensor("x", "ni", p.x), Tensor("W", "ij", p.params["W"])]
    if bias:
        operands.append(Tensor("b", "j", p.params["b"]))
    yield Step(
        p.place,
        "Dense: a weighted sum of the inputs",
        "forward",
        "z_nj = Σ_i x_ni W_ij" + (" + b_j" if bias else ""),
        "$z = x W + b$" if bias else "$z = x W$",
        'einsum("ni,ij->nj", x, W)' + (" + b[None, :]" if bias else ""),
        (code_of(ops.dense),),
        tuple(operands),
        Tensor("z", "nj", p.y),
        ("x", "W"),
        "b" if bias else "",
        column_formula="z_jn = Σ_i W_ji x_in" + (" + b_j" if bias else ""),
        column_matrix="$z = W x + b$" if bias else "$z = W x$",
        column_einsum='einsum("ji,in->jn", W, x)' + (" + b[:, None]" if bias else ""),
    )


def _dense_backward(p: Pass) -> Iterator[Step]:
    dz, x, W = Tensor("dz", "nj", p.dy), Tensor("x", "ni", p.x), Tensor("W", "ij", p.params["W"])
    backward = ops.dense_backward
    yield Step(
        p.place,
        "Dense: the gradient of the weights",
        "backward",
        "dW_ij = Σ_n x_ni dz_nj",
        "$dW = xᵀ dz$",
        'einsum("ni,nj->ij", x, dz)',
        (code_of(backward, "dW"),),
        (x, dz),
        Tensor("dW", "ij", p.grads["W"]),
        ("x", "dz"),
        note="$∂z_ns/∂W_ij = x_ni δ_sj$: a weight affects one output only, so $δ_sj$ removes the "
        "sum over $s$, and the sum over the examples $n$ remains.",
        column_formula="dW_ji = Σ_n dz_jn x_in",
        column_matrix="$dW = dz xᵀ$",
        column_einsum='einsum("jn,in->ji", dz, x)',
    )
    if "b" in p.grads:
        yield Step(
            p.place,
            "Dense: the gradient of the bias",
            "backward",
            "db_j = Σ_n dz_nj",
            "$db$ = the sum of the rows of $dz$",
            'einsum("nj->j", dz)',
            (code_of(backward, "db"),),
            (dz,),
            Tensor("db", "j", p.grads["b"]),
            ("dz",),
            column_matrix="$db$ = the sum of the columns of $dz$",
        )
    yield Step(
        p.place,
        "Dense: the gradient of the input",
        "backward",
        "dx_ni = Σ_j dz_nj W_ij",
        "$dx = dz Wᵀ$",
        'einsum("nj,ij->ni", dz, W)',
        (code_of(backward, "dx"),),
        (dz, W),
        Tensor("dx", "ni", p.dx),
        ("dz", "W"),
        note="The layer before receives it; training skips it for the first layer.",
        column_formula="dx_in = Σ_j W_ji dz_jn",
        column_matrix="$dx = Wᵀ dz$",
        column_einsum='einsum("ji,jn->in", W, dz)',
    )


def _flatten(p: Pass) -> Iterator[Step]:
    letters = "n" + "pqrstuvw"[: p.x.ndim - 1]
    yield Step(
        p.place,
        "Flatten: each example becomes a vector",
        "forward",
        f"x_ni = x_{letters} in row major order",
        "",
        "",
        (code_of(Flatten.forward),),
        (Tensor("x", letters, p.x),),
        Tensor("x", "ni", p.y),
    )


def _flatten_backward(p: Pass) -> Iterator[Step]:
    letters = "n" + "pqrstuvw"[: p.x.ndim - 1]
    yield Step(
        p.place,
        "Flatten: the gradient takes the shape of the input",
        "backward",
        f"dx_{letters} = dx_ni in row major order",
        "",
        "",
        (code_of(Flatten.backward),),
        (Tensor("dx", "ni", p.dy),),
        Tensor("dx", letters, p.dx),
    )


def _dropout(p: Pass) -> Iterator[Step]:
    mask = p.residuals if p.residuals is not None else np.ones_like(p.x)
    yield Step(
        p.place,
        "Dropout: random elements are set to 0",
        "forward",
        "y_nj = x_nj m_nj",
        "$y = x ∘ m$",
        'einsum("nj,nj->nj", x, m)',
        (code_of(ops.dropout),),
        (Tensor("x", "nj", p.x), Tensor("m", "nj", mask)),
        Tensor("y", "nj", p.y),
        ("x", "m"),
        note=""
        if p.residuals is not None
        else "Dropout acts in training only; here nothing is dropped.",
    )


def _dropout_backward(p: Pass) -> Iterator[Step]:
    mask = p.residuals if p.residuals is not None else np.ones_like(p.x)
    yield Step(
        p.place,
        "Dropout: the gradient, with the same mask",
        "backward",
        "dx_nj = dy_nj m_nj",
        "$dx = dy ∘ m$",
        'einsum("nj,nj->nj", dy, m)',
        (code_of(ops.dropout_backward),),
        (Tensor("dy", "nj", p.dy), Tensor("m", "nj", mask)),
        Tensor("dx", "nj", p.dx),
        ("dy", "m"),
    )


def _forward_other(p: Pass) -> Iterator[Step]:
    """Yield the step of an activation, a normalisation or a custom layer."""
    layer, name = p.layer, layer_name(p.layer)
    z, a = Tensor("z", "nj", p.x), Tensor("a", "nj", p.y)
    formula, einsum, title, note = "a = f(z)", "", f"{name}: its own function", ""
    along_last = getattr(layer, "axis", -1) in (-1, p.x.ndim - 1)
    if isinstance(layer, Softmax) and along_last and p.x.ndim == 2:
        yield softmax_step(p.place, p.x, p.y)
        return
    if isinstance(layer, Softmax | LogSoftmax):
        z, title = Tensor("z", "ns", p.x), "Softmax: every output depends on every input"
        a = Tensor("a", "nk", p.y)
        if isinstance(layer, LogSoftmax):
            title, a = f"Log-s{title[1:]}", a._replace(name="l")
            if along_last:
                formula = "l_nk = z_nk - log Σ_s exp z_ns"
                einsum = 'z - log(einsum("ns->n", exp(z)))[:, None]'
    elif isinstance(layer, Norm):
        operands = (z._replace(name="x"), *_gamma_beta(p))
        shift, what = " + β_j", "mean 0 and variance 1, then γ and β"
        normalize: Callable = ops.normalize
        if isinstance(layer, RMSNorm):
            shift, what, normalize = "", "mean square 1, then γ", ops.rms_normalize
        formula = f"y_nj = γ_j x̂_nj{shift}, x̂_nj = {layer.formula[0]}"
        title = f"{type(layer).__name__}: {what}"
        codes = code_of(normalize), code_of(type(layer).forward, "return")
        result = a._replace(name="y")
        yield Step(p.place, title, "forward", formula, "", "", codes, operands, result)
        return
    elif text := _text(layer):
        title, formula = f"{name}: applied to each element", f"a_nj = {text[0]}"
        note = IN_CODE if text is UNNAMED else ""
    code = formula_code(type(layer), "value", "forward")
    yield Step(p.place, title, "forward", formula, "", einsum, (code,), (z,), a, note=note)


UNNAMED = "f(z_nj)", "f′(z_nj)"


def _text(layer: Layer) -> tuple[str, str] | None:
    """f and f' of an element-wise layer in index letters, from its class if that has them."""
    if formula := getattr(layer, "formula", None):
        return formula
    return UNNAMED if isinstance(layer, Activation) and layer.elementwise else None


def _gamma_beta(p: Pass) -> tuple[Tensor, ...]:
    names = {"γ": "gamma", "β": "beta"}
    return tuple(Tensor(k, "j", p.params[v]) for k, v in names.items() if v in p.params)


def _backward_other(p: Pass) -> Iterator[Step]:
    layer, name = p.layer, layer_name(p.layer)
    code = (formula_code(type(layer), "backward_value", "backward"),)
    along_last = getattr(layer, "axis", -1) in (-1, p.x.ndim - 1)
    if isinstance(layer, Softmax) and along_last and p.jacobian is not None:
        yield from jacobian_steps(p.place, p.y, p.dy, p.jacobian, p.dx)
        return
    da, dz = Tensor("da", "nj", p.dy), Tensor("dz", "nj", p.dx)
    if isinstance(layer, LogSoftmax) and along_last:
        formula = "dz_ns = dl_ns - exp(l_ns) Σ_k dl_nk"
        operands = (Tensor("dl", "ns", p.dy), Tensor("l", "ns", p.y))
        einsum = 'dl - exp(l) * einsum("nk->n", dl)[:, None]'
        title = "Log-softmax: the vector times its Jacobian δ_ks - a_ns"
        dz = dz._replace(letters="ns")
        yield Step(p.place, title, "backward", formula, "", einsum, code, operands, dz)
        return
    text = _text(layer)
    if text is None or p.grads:
        title, formula = f"{name}: its own adjoint", "dz = da J"
        if text:
            formula = f"dz_nj = da_nj g_nj, g_nj = {text[1]}"
        yield from _parameters_of_other(p, code)
        yield Step(p.place, title, "backward", formula, "", "", code, (da,), dz)
        return
    yield Step(
        p.place,
        f"{name}: its Jacobian is diagonal, so the product is element by element",
        "backward",
        f"dz_nj = da_nj g_nj, g_nj = {text[1]}",
        "$dz = da ∘ g$",
        'einsum("nj,nj->nj", da, g)',
        code,
        (da, Tensor("g", "nj", p.slopes)),
        dz,
        ("da", "g"),
        note="$g_nj = ∂a_nj/∂z_nj$. An output depends on its own input only: there is no sum.",
    )


def _parameters_of_other(p: Pass, code: tuple) -> Iterator[Step]:
    """Yield a step for each parameter of a layer that is not known here."""
    da, z = Tensor("da", "nj", p.dy), Tensor("z", "nj", p.x)
    for key, gradient in p.grads.items():
        title = f"{layer_name(p.layer)}: the gradient of {key}"
        symbol = {"alpha": "α", "beta": "β", "gamma": "γ"}.get(key, key)
        formula = f"d{symbol} = ∂C/∂{symbol}"
        result = Tensor(f"d{symbol}", "ijk"[: gradient.ndim], gradient)
        yield Step(p.place, title, "backward", formula, "", "", code, (da, z), result, note=IN_CODE)


def _norm_backward(p: Pass) -> Iterator[Step]:
    layer: Any = p.layer
    x_hat, dy = Tensor("x̂", "nj", p.residuals[0]), Tensor("dy", "nj", p.dy)
    gamma = _gamma_beta(p)[0]
    rms = type(layer) is RMSNorm
    own = code_of(RMSNorm.backward, "grads") if rms else code_of(layer._affine_gradients)
    yield Step(
        p.place, "Normalisation: the gradient of γ", "backward",
        "dγ_j = Σ_n dy_nj x̂_nj", "", 'einsum("nj,nj->j", dy, x̂)', (own,),
        (dy, x_hat), Tensor("dγ", "j", p.grads["gamma"]), ("dy", "x̂"),
    )  # fmt: skip
    if "beta" in p.grads:
        yield Step(
            p.place, "Normalisation: the gradient of β", "backward",
            "dβ_j = Σ_n dy_nj", "", 'einsum("nj->j", dy)', (own,),
            (dy,), Tensor("dβ", "j", p.grads["beta"]), ("dy",),
        )  # fmt: skip
    function: Callable = ops.rms_normalize_backward if rms else ops.normalize_backward
    formula = f"dx_nj = {layer.formula[1]}"
    # Two residuals mean batch normalisation with running statistics, which are constants.
    if type(layer) is BatchNorm and len(p.residuals) == 2:
        function, formula = ops.normalize_fixed_backward, "dx_nj = ⟨γ_j dy_nj|√(v + ε)⟩"
    through = "the mean square" if rms else "the mean and the variance"
    yield Step(
        p.place, f"Normalisation: through x, {through}", "backward", formula, "", "",
        (code_of(function),), (dy, gamma, x_hat), Tensor("dx", "nj", p.dx),
    )  # fmt: skip
