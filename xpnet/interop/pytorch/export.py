"""A trained model in PyTorch's names, and the source of the ``nn.Sequential`` that loads them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xpnet import nn
from xpnet.errors import ConfigError
from xpnet.interop.pytorch.modules import NAMES
from xpnet.nn.losses import Loss
from xpnet.nn.sequential import variable_name
from xpnet.registry import name_of
from xpnet.run.trained_run import Run
from xpnet.training.trainer import Trainer

__all__ = ["to_torch_source", "to_torch_state", "write_torch"]

# Layers that PyTorch has not, as modules that compute the same.
FEATURE_SCALE = '''class FeatureScale(nn.Module):
    """y = s x, a trained factor per feature."""

    def __init__(self, features):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))

    def forward(self, x):
        return x * self.weight
'''
# Of these PyTorch has the features on the second axis, xpnet on the last.
SECOND_AXIS = (nn.BatchNorm, nn.GroupNorm, nn.PReLU)


def to_torch_state(source: Trainer | Run) -> dict[str, np.ndarray]:
    """Return host arrays by the names of ``nn.Sequential``: "0.weight" (out, in), "0.bias", ...

    Raises ConfigError, naming it, for a layer that PyTorch has not.
    """
    trainer = source if isinstance(source, Trainer) else source.trainer
    params, state = trainer.params, {}
    for i, layer in enumerate(trainer.model.layers):
        _module(i, layer, trainer.model)
        for theirs, ours in NAMES.get(type(layer), {}).items():
            value = params.get(variable_name(i, layer, ours))
            if value is not None:
                turned = value.T if ours == "W" else value
                state[f"{i}.{theirs}"] = np.ascontiguousarray(turned)
        if isinstance(layer, nn.BatchNorm):
            state[f"{i}.num_batches_tracked"] = np.asarray(trainer.position.step, np.int64)
    return state


def to_torch_source(source: Trainer | Run) -> str:
    """Return Python source that makes ``net``, an ``nn.Sequential`` that loads the state.

    It begins with comments on what its inputs and outputs are. Raises ConfigError, naming it, for a
    layer that PyTorch has not.
    """
    trainer = source if isinstance(source, Trainer) else source.trainer
    layers = trainer.model.layers
    lines = ["import torch", "from torch import nn", ""]
    if any(isinstance(layer, nn.FeatureScale) for layer in layers):
        lines += ["", FEATURE_SCALE, ""]
    lines += [f"# Its outputs are {_outputs(trainer.loss)}."]
    if isinstance(source, Run):
        lines += [
            "# Its inputs are rows as the run encodes and scales them, not those of the file."
        ]
    lines += ["net = nn.Sequential("]
    lines += [f"    {_module(i, layer, trainer.model)}," for i, layer in enumerate(layers)]
    dtype = next((v.dtype.name for v in trainer.params.values()), "float32")
    return "\n".join([*lines, f"){'.double()' if dtype == 'float64' else ''}"]) + "\n"


def write_torch(source: Trainer | Run, path: str | Path) -> str:
    """Write the state as a safetensors file, and return the source that loads it."""
    from safetensors.numpy import save

    from xpnet.storage.durable import write_output

    code = to_torch_source(source)
    write_output(path, [save(to_torch_state(source))])
    load = "from safetensors.torch import load_file\n\n"
    return f"{load}{code}net.load_state_dict(load_file({str(path)!r}))\nnet.eval()\n"


def _outputs(loss: Loss) -> str:
    if loss.takes == "logits":
        link = "softmax(dim=-1)" if loss.predicts == "class" else "sigmoid()"
        return f"logits: xpnet's probabilities are net(x).{link}"
    if loss.takes == "log-probabilities":
        return "log-probabilities: xpnet's probabilities are net(x).exp()"
    return "probabilities" if loss.takes == "probabilities" else "those of the last layer"


def _module(i: int, layer: nn.Layer, model: nn.Sequential) -> str:
    """The source of the module of layer i; raises ConfigError if there is none."""
    make = SOURCES.get(type(layer))
    if make is None:
        msg = f"layer {i} ({name_of(layer)}) is not one that PyTorch has: export ONNX instead"
        raise ConfigError(msg)
    shapes = [model.input_shape or (), *model.shapes()]
    per_feature = isinstance(layer, SECOND_AXIS) and getattr(layer, "per", "feature") == "feature"
    if per_feature and len(shapes[i]) != 1:
        msg = f"layer {i} ({name_of(layer)}) has its features on the last axis of {shapes[i]}, and "
        msg += "PyTorch's on the second: put Flatten before it"
        raise ConfigError(msg)
    return make(layer)


def _dense(d: Any) -> str:
    return f"nn.Linear({d.inputs}, {d.units}{'' if d.bias else ', bias=False'})"


def _prelu(p: Any) -> str:
    return f"nn.PReLU({1 if p.per == 'layer' else p.features})"


SOURCES: Mapping[type[nn.Layer], Callable[[Any], str]] = {
    nn.Dense: _dense,
    nn.BatchNorm: lambda n: f"nn.BatchNorm1d({n.features}, eps={n.eps}, momentum={n.momentum})",
    nn.LayerNorm: lambda n: f"nn.LayerNorm({n.features}, eps={n.eps})",
    nn.GroupNorm: lambda n: f"nn.GroupNorm({n.groups}, {n.features}, eps={n.eps})",
    nn.RMSNorm: lambda n: f"nn.RMSNorm({n.features}, eps={n.eps})",
    nn.PReLU: _prelu,
    nn.FeatureScale: lambda s: f"FeatureScale({s.features})",
    nn.Dropout: lambda d: f"nn.Dropout({d.rate})",
    nn.Flatten: lambda f: "nn.Flatten()",
    nn.Identity: lambda a: "nn.Identity()",
    nn.ReLU: lambda a: "nn.ReLU()",
    nn.LeakyReLU: lambda a: f"nn.LeakyReLU({a.slope})",
    nn.Sigmoid: lambda a: "nn.Sigmoid()",
    nn.Tanh: lambda a: "nn.Tanh()",
    nn.GELU: lambda a: "nn.GELU()",
    nn.GELUTanh: lambda a: "nn.GELU(approximate='tanh')",
    nn.SiLU: lambda a: "nn.SiLU()",
    nn.Softplus: lambda a: "nn.Softplus()",
    nn.ELU: lambda a: f"nn.ELU({a.alpha})",
    nn.SELU: lambda a: "nn.SELU()",
    nn.CELU: lambda a: f"nn.CELU({a.alpha})",
    nn.Mish: lambda a: "nn.Mish()",
    nn.HardSigmoid: lambda a: "nn.Hardsigmoid()",
    nn.HardSwish: lambda a: "nn.Hardswish()",
    nn.Softsign: lambda a: "nn.Softsign()",
    nn.Softmax: lambda a: f"nn.Softmax(dim={a.axis})",
    nn.LogSoftmax: lambda a: f"nn.LogSoftmax(dim={a.axis})",
}
