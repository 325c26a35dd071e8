"""A PyTorch module or state dict as an xpnet model, ready to explain, check and train further."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xpnet.errors import ConfigError, DataError, require
from xpnet.interop.imported import Imported, Part, assemble
from xpnet.interop.pytorch.modules import NAMES, host, part_of
from xpnet.nn import (
    BatchNorm,
    Dense,
    Embedding,
    Flatten,
    GroupNorm,
    Layer,
    LogSoftmax,
    PReLU,
    Sequential,
    Shape,
    Softmax,
)
from xpnet.nn.losses import Loss
from xpnet.registry import name_of

__all__ = ["from_torch"]

COUNTER = "num_batches_tracked"  # which PyTorch uses for momentum=None only


def from_torch(
    source: Any,
    model: Sequential | Iterable[Layer] | None = None,
    *,
    loss: Loss | str | None = None,
    input_shape: Sequence[int] | None = None,
    **settings: Any,
) -> Imported:
    """Return a trainer with the weights of a PyTorch model, which predicts at once.

    ``source`` is an ``nn.Sequential``, nested or not, of modules that xpnet has; or, with ``model``
    as its layers, a state dict: a mapping of tensors or arrays, a ``.safetensors`` file in
    PyTorch's names, or a ``.pt`` or ``.pth`` file, of which only weights are loaded. The arrays of
    a state dict are matched with the layers in order, and must have their shapes.
    ``input_shape`` of one example is that of the first layer with weights if it is None; ``loss``
    follows the last layer. ``settings`` are those of :class:`~xpnet.Trainer`; the backend is NumPy
    and the dtype that of the weights unless they say otherwise. Parameters that
    require no gradient are frozen.

    Raises ConfigError, naming the module or the keys, for what cannot be read; DataError for
    weights that are not finite numbers.
    """
    notes: list[str] = []
    if isinstance(source, str | Path):
        source = _file(Path(source))
    if isinstance(source, Mapping):
        parts = _of_state(source, model)
    elif hasattr(source, "named_children") and hasattr(source, "state_dict"):
        if model is not None:
            msg = "a module has its own layers"
            raise ConfigError(msg, python="omit model, or pass module.state_dict()")
        parts = list(_of_module(source, ""))
        notes = _tied(source)
    else:
        msg = "from_torch takes a module, a state dict or the path of one; "
        msg += f"got {type(source).__name__}"
        raise ConfigError(msg)
    shape = _input_shape(parts) if input_shape is None else tuple(input_shape)
    if input_shape is None and isinstance(parts[0].layer, Flatten):
        notes.append(f"examples are taken flat, {shape}: for others give input_shape=, as (28, 28)")
    trainer = assemble(parts, shape, loss, notes, settings)
    _check_axes(trainer.model)
    return trainer


def _check_axes(model: Sequential) -> None:
    """Raise ConfigError where PyTorch's features are another axis than xpnet's, the last."""
    shapes = [model.input_shape or (), *model.shapes()]
    for i, (layer, shape) in enumerate(zip(model.layers, shapes, strict=False)):
        second = isinstance(layer, BatchNorm | GroupNorm | Softmax | LogSoftmax)
        second = second or (isinstance(layer, PReLU) and layer.per == "feature")
        if second and len(shape) != 1:
            msg = f"layer {i} ({name_of(layer)}) gets examples of shape {shape}, and PyTorch may "
            msg += "mean another axis than the last: flatten before it"
            raise ConfigError(msg)
        if isinstance(layer, Embedding) and shape != (1,):
            msg = f"layer {i} (embedding) has one table for one code per row; got shape {shape}"
            raise ConfigError(msg)


def _of_module(module: Any, name: str) -> Iterator[Part]:
    """The parts of a module; a Sequential is those of its children."""
    hooked = any(getattr(module, f"_forward{kind}_hooks", None) for kind in ("", "_pre"))
    if hooked:
        msg = f"module {name or 'given'!r} has hooks, which may change what it computes"
        raise ConfigError(msg, python="remove them, or export it with torch.onnx")
    if type(module).__name__ == "Sequential":
        for child_name, child in module.named_children():
            yield from _of_module(child, f"{name}.{child_name}".lstrip("."))
    else:
        yield part_of(module, name or "the module")


def _tied(module: Any) -> list[str]:
    """Say which parameters are one tensor: xpnet trains each by itself."""
    first: dict[int, str] = {}
    notes = []
    for name, parameter in module.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if other != name:
            notes.append(f"{name} and {other} were one tensor, and are trained apart from here on")
    return notes


def _file(path: Path) -> Mapping[str, Any]:
    """Read the state dict in a file, without running what is in it."""
    try:
        if path.suffix == ".safetensors":
            from safetensors import SafetensorError, safe_open

            try:
                with safe_open(path, "numpy") as file:
                    _check_foreign(path, file.metadata() or {})
                    names = list(file.keys())
                    return {name: file.get_tensor(name) for name in names}
            except (SafetensorError, TypeError) as error:
                msg = f"{path} cannot be read: {error}"
                raise DataError(msg) from None
        torch = require("torch", "torch", f"reading {path.suffix or path.name} files")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror or error}"
        raise DataError(msg) from None
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        _raise_unreadable(path, error)
    except Exception as error:
        if type(error).__name__ != "UnpicklingError":
            raise
        _raise_unreadable(path, error)
    if not isinstance(found, Mapping):
        msg = f"{path} holds a {type(found).__name__}: save model.state_dict() instead"
        raise DataError(msg)
    return _weights_in(found, path)


def _weights_in(found: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The state dict in what a training has saved with it, such as {"model": ..., "epoch": 3}."""

    def is_state(value: Any) -> bool:
        whole = isinstance(value, Mapping) and bool(value)
        return whole and all(hasattr(v, "shape") for v in value.values())

    states = {name: value for name, value in found.items() if is_state(value)}
    if not states or is_state(found):
        return found
    if len(states) > 1:
        named = ", ".join(map(repr, states))
        msg = f"{path} has several state dicts ({named}): save the one that is meant alone"
        raise ConfigError(msg)
    return next(iter(states.values()))


def _check_foreign(path: Path, metadata: Mapping[str, str]) -> None:
    if "xpnet" in metadata:
        msg = f"{path} is a model or checkpoint of xpnet's, not a state dict of PyTorch's"
        command = "it needs no import: give it as it is"
        raise ConfigError(msg, python="read it with xpnet.load", command=command)
    if "xpnet_step" in metadata:
        msg = f"{path} is a state that an exported step has trained"
        remedy = "xpnet adopt RUN FILE --out DIR"
        raise ConfigError(msg, python=remedy, command=remedy)


def _raise_unreadable(path: Path, error: Exception) -> None:
    from xpnet.errors import XpnetError

    if isinstance(error, XpnetError):
        raise error
    msg = f"{path} is not a file of weights alone, which is what is loaded"
    remedy = "torch.save(model.state_dict(), path)"
    raise DataError(msg, python=remedy, command=remedy) from error


def _of_state(state: Mapping[str, Any], model: Sequential | Iterable[Layer] | None) -> list[Part]:
    """Match the arrays of a state dict with the layers in order."""
    groups: dict[str, dict[str, Any]] = {}
    for key, value in state.items():
        prefix, _, leaf = str(key).rpartition(".")
        if leaf != COUNTER:
            groups.setdefault(prefix, {})[leaf] = value
    if model is None:
        found = ", ".join(f"{k}.weight" for k in list(groups)[:3])
        msg = f"a state dict ({found}, ...) does not say what is between its layers"
        raise ConfigError(
            msg,
            python="give model=, such as [Dense(64), ReLU(), Dense(10)]",
            command="--model FILE.toml",
        )
    layers = list(model.layers if isinstance(model, Sequential) else model)
    left, parts = list(groups), []
    missing: list[str] = []
    for i, layer in enumerate(layers):
        names = NAMES.get(type(layer))
        if names is None:
            parts.append(Part(layer))
            continue
        wanted = [k for k, v in names.items() if v != "b" or getattr(layer, "bias", True)]
        if not left:
            missing += [f"{i}.{k}" for k in wanted]
            continue
        prefix = left.pop(0)
        group = groups[prefix]
        name = f"{prefix}." if prefix else ""
        missing += [name + k for k in wanted if k not in group]
        extra = [k for k in group if k not in wanted]
        if extra and not any(k not in group for k in wanted):
            _raise_keys(layer, [], [name + k for k in extra])
        if missing:
            _raise_keys(layer, missing, [name + k for k in extra])
        arrays = {names[k]: host(group[k], name + k) for k in wanted}
        if "W" in arrays:
            arrays["W"] = arrays["W"].T
        _check_shape(layer, arrays, name)
        parts.append(Part(layer, arrays, source=f"{prefix} ({name_of(layer)})"))
    unexpected = [f"{p}.{k}".lstrip(".") for p in left for k in groups[p]]
    if missing or unexpected:
        _raise_keys(None, missing, unexpected)
    return parts


def _check_shape(layer: Layer, arrays: Mapping[str, np.ndarray], name: str) -> None:
    if isinstance(layer, Dense):
        W = arrays["W"]
        if W.ndim != 2 or W.shape[1] != layer.units:
            msg = f"size mismatch for {name}weight: copying a param with shape {W.T.shape}, the "
            msg += f"layer has {layer.units} units"
            raise ConfigError(msg)
    if isinstance(layer, PReLU) and layer.per == "layer" and arrays["alpha"].shape != (1,):
        msg = f"size mismatch for {name}weight: {arrays['alpha'].shape} is a slope per feature"
        raise ConfigError(
            msg, python="PReLU(per='feature')", command="name a model whose PReLU is per feature"
        )


def _raise_keys(layer: Layer | None, missing: list[str], unexpected: list[str]) -> None:
    where = "" if layer is None else f" at layer {name_of(layer)}"
    parts = [f"the state dict does not fit the model{where}"]
    for what, keys in (("Missing", missing), ("Unexpected", unexpected)):
        if keys:
            parts.append(f"{what} key(s) in state_dict: " + ", ".join(f'"{k}"' for k in keys))
    raise ConfigError(". ".join(parts))


def _input_shape(parts: Sequence[Part]) -> Shape:
    """The shape of an example, from the first layer that has one."""
    for part in parts:
        layer, arrays = part.layer, part.arrays
        if isinstance(layer, Dense):
            return (arrays["W"].shape[0],)
        if "E0" in arrays:
            return (1,)
        for name in ("gamma", "s"):
            if name in arrays:
                return (len(arrays[name]),)
        if "alpha" in arrays and len(arrays["alpha"]) > 1:
            return (len(arrays["alpha"]),)
    msg = "the shape of an example is not known from the weights: give input_shape=, as (784,)"
    raise ConfigError(msg)
