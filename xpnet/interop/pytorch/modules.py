"""PyTorch's modules, one by one, as layers with their arrays, and a state dict for given layers.

    nn.Linear      weight (out, in), bias           Dense        W (in, out), b
    nn.BatchNorm1d weight, bias, running_mean/_var  BatchNorm    gamma, beta, mean, var
    nn.LayerNorm, GroupNorm, RMSNorm                the same     gamma, beta
    nn.PReLU       weight                           PReLU        alpha
    nn.Embedding   weight                           Embedding    E0

https://docs.pytorch.org/docs/stable/nn.html
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from xpnet import nn
from xpnet.errors import ConfigError, DataError
from xpnet.interop.imported import Part

__all__ = ["NAMES", "host", "part_of"]

# layer -> the variables of xpnet, by PyTorch's names, in its order
NAMES: Mapping[type[nn.Layer], Mapping[str, str]] = {
    nn.Dense: {"weight": "W", "bias": "b"},
    nn.BatchNorm: {"weight": "gamma", "bias": "beta", "running_mean": "mean", "running_var": "var"},
    nn.LayerNorm: {"weight": "gamma", "bias": "beta"},
    nn.GroupNorm: {"weight": "gamma", "bias": "beta"},
    nn.RMSNorm: {"weight": "gamma"},
    nn.PReLU: {"weight": "alpha"},
    nn.Embedding: {"weight": "E0"},
    nn.FeatureScale: {"weight": "s"},
}


def host(tensor: Any, name: str) -> np.ndarray:
    """Return a tensor of any library as a host array of its own; bfloat16 becomes float32."""
    if getattr(tensor, "is_meta", False):
        msg = f"{name} is on the device meta, and has no numbers: load the weights first"
        raise DataError(msg)
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":
            tensor = tensor.float()
        tensor = tensor.numpy()
    array = np.array(tensor)
    if array.dtype.name == "bfloat16":
        array = array.astype(np.float32)
    if array.dtype.kind not in "fiu":
        msg = f"{name} must be an array of numbers; got {array.dtype}"
        raise DataError(msg)
    return array


def part_of(module: Any, name: str) -> Part:
    """Return the layer of one PyTorch module; raises ConfigError, naming it, for another one."""
    kind = type(module).__name__
    if kind not in MODULES or not type(module).__module__.startswith("torch.nn."):
        msg = f"module {name!r}, a {kind}, is not one that xpnet has"
        remedy = "export it with torch.onnx and use from_onnx, or give its state_dict() and model="
        raise ConfigError(msg, python=remedy)
    try:
        layer = MODULES[kind](module)
    except ConfigError as error:
        msg = f"module {name!r}, a {kind}: {error}"
        raise ConfigError(msg) from None
    arrays, frozen = {}, []
    for theirs, ours in NAMES.get(type(layer), {}).items():
        tensor = getattr(module, theirs, None)
        if tensor is None:
            if ours == "b":
                continue
            size = _features(module)
            arrays[ours] = np.ones(size, np.float32) * (ours == "gamma")
            frozen.append(ours)
            continue
        value = host(tensor, f"{name}.{theirs}")
        arrays[ours] = value.T if ours == "W" else value
        if not tensor.requires_grad and not theirs.startswith("running_"):
            frozen.append(ours)
    return Part(layer, arrays, tuple(frozen), name)


def _features(module: Any) -> int:
    for name in ("num_features", "num_channels"):
        if hasattr(module, name):
            return int(getattr(module, name))
    return int(module.normalized_shape[-1])


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise ConfigError(what)


def _linear(m: Any) -> nn.Layer:
    return nn.Dense(m.out_features, bias=m.bias is not None)


def _batch_norm(m: Any) -> nn.Layer:
    _must(m.track_running_stats, "without running statistics it predicts from the batch")
    _must(m.momentum is not None, "momentum=None is a cumulative average, which xpnet has not")
    return nn.BatchNorm(eps=m.eps, momentum=m.momentum)


def _layer_norm(m: Any) -> nn.Layer:
    _must(len(m.normalized_shape) == 1, "it normalises more than the last axis")
    return nn.LayerNorm(eps=m.eps)


def _rms_norm(m: Any) -> nn.Layer:
    _must(len(m.normalized_shape) == 1, "it normalises more than the last axis")
    eps = m.eps
    if eps is None:  # PyTorch's default: that of the dtype of its input
        dtype = "float32" if m.weight is None else str(m.weight.dtype).removeprefix("torch.")
        _must(dtype in ("float32", "float64"), f"its eps is that of {dtype}: give it one")
        eps = float(np.finfo(dtype).eps)
    return nn.RMSNorm(eps=eps)


def _gelu(m: Any) -> nn.Layer:
    return nn.GELUTanh() if m.approximate == "tanh" else nn.GELU()


def _prelu(m: Any) -> nn.Layer:
    return nn.PReLU(per="layer" if m.num_parameters == 1 else "feature")


def _softmax(layer: type[nn.Layer]) -> Callable[[Any], nn.Layer]:
    def made(m: Any) -> nn.Layer:
        _must(m.dim in (-1, 1), f"dim must be 1 or -1; got {m.dim}")
        return layer()

    return made


def _softplus(m: Any) -> nn.Layer:
    _must(m.beta == 1, f"beta must be 1; got {m.beta}")
    _must(m.threshold >= 15, f"above threshold {m.threshold} it is not softplus")
    return nn.Softplus()


def _flatten(m: Any) -> nn.Layer:
    _must((m.start_dim, m.end_dim) == (1, -1), "it must flatten all axes but the first")
    return nn.Flatten()


def _embedding(m: Any) -> nn.Layer:
    _must(m.max_norm is None, "max_norm changes the table in the forward pass")
    _must(m.padding_idx is None, "padding_idx keeps a row from training")
    return nn.Embedding(sizes=(m.num_embeddings,), width=m.embedding_dim)


MODULES: Mapping[str, Callable[[Any], nn.Layer]] = {
    "Linear": _linear,
    "BatchNorm1d": _batch_norm,
    "LayerNorm": _layer_norm,
    "RMSNorm": _rms_norm,
    "GroupNorm": lambda m: nn.GroupNorm(groups=m.num_groups, eps=m.eps),
    "GELU": _gelu,
    "PReLU": _prelu,
    "Softmax": _softmax(nn.Softmax),
    "LogSoftmax": _softmax(nn.LogSoftmax),
    "Softplus": _softplus,
    "Flatten": _flatten,
    "Embedding": _embedding,
    "Dropout": lambda m: nn.Dropout(m.p),
    "Identity": lambda m: nn.Identity(),
    "ReLU": lambda m: nn.ReLU(),
    "LeakyReLU": lambda m: nn.LeakyReLU(m.negative_slope),
    "Sigmoid": lambda m: nn.Sigmoid(),
    "Tanh": lambda m: nn.Tanh(),
    "ELU": lambda m: nn.ELU(m.alpha),
    "SELU": lambda m: nn.SELU(),
    "CELU": lambda m: nn.CELU(m.alpha),
    "SiLU": lambda m: nn.SiLU(),
    "Mish": lambda m: nn.Mish(),
    "Hardsigmoid": lambda m: nn.HardSigmoid(),
    "Hardswish": lambda m: nn.HardSwish(),
    "Softsign": lambda m: nn.Softsign(),
}
