"""One training step on a backend, an operation at a time, each held to NumPy's float64.

Two libraries round differently, and training makes such differences grow: a ReLU's input on the
other side of 0 by 1e-9 is enough. So each operation is repeated by the reference *on the very
operands that the backend had*. What differs then is the operation, not its history.
"""

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from xpnet.backends import Backend
from xpnet.check.parity.compare import TOLERANCES, Difference, difference
from xpnet.nn import Params, Sequential, layer_name
from xpnet.nn.losses import Loss, quotient
from xpnet.step import Batch
from xpnet.typing import Array

__all__ = ["Fault", "Key", "Results", "Rounding", "Walk", "lift"]

Key = tuple[str, str]  # layer such as "0.dense", tensor such as "output" or "dW"
# (tensors by name, whatever else the next operation needs)
Results = tuple[dict[str, Any], Any]

EPS = {name: float(np.finfo(name).eps) for name in TOLERANCES}
SLACK = 30.0  # another library may add in another order


class Fault(NamedTuple):
    """An operation that does not do what the reference does with the same operands."""

    layer: str
    tensor: str
    what: str
    difference: Difference | None = None  # None where there is no value to compare

    def __str__(self) -> str:
        return f"{self.layer} {self.tensor}: {self.what}"


class Rounding:
    """What an operation may round in the dtype under test: some times what NumPy's own loses."""

    def __init__(self, operation: Callable[..., Results], host: Any, dtype: str) -> None:
        self.operation, self.host, self.dtype = operation, host, dtype

    def __call__(self, tensor: str) -> float:
        """Return the most that an entry of one of the results may lose; inf if NumPy overflows."""
        return self._lost.get(tensor, 0.0)

    @cached_property
    def _lost(self) -> dict[str, float]:
        narrow = lift(self.host, np.asarray, "float32")
        factor = SLACK * EPS[self.dtype] / EPS["float32"]
        lost = {}
        rough, _ = self.operation(*narrow)
        fine, _ = self.operation(*lift(narrow, np.asarray))
        for tensor, value in fine.items():
            most = float(np.max(np.abs(value - np.asarray(rough[tensor])), initial=0.0))
            overflow = math.inf if self.dtype == "float32" else 0.0
            lost[tensor] = factor * most if np.isfinite(most) else overflow
        return lost


class Walk:
    """The tensors of one training step on ``backend``, in the order of computation.

    ``faults`` are the operations that differ from the reference's beyond ``tolerance``; after one
    that fails altogether, the walk goes on with the reference's result.
    """

    def __init__(
        self,
        backend: Backend,
        model: Sequential,
        loss: Loss,
        tolerance: float | None = None,
        *,
        check: bool = True,
    ) -> None:
        self.backend, self.model, self.loss, self.check = backend, model, loss, check
        self.tolerance = TOLERANCES[backend.dtype_name] if tolerance is None else tolerance
        self.tensors: dict[Key, np.ndarray] = {}
        self.rounding: dict[Key, Rounding] = {}
        self.gradients: list[dict[str, np.ndarray]] = []
        self.stats: list[dict[str, np.ndarray]] = []
        self.faults: list[Fault] = []
        self.names = [f"{i}.{layer_name(layer)}" for i, layer in enumerate(model.layers)]

    def step(self, params: Sequence[Params], batch: Batch, keys: Sequence[Any] = ()) -> None:
        """Go forward, through the loss and back, as :func:`xpnet.step.gradients` does."""
        self.tensors, self.rounding, self.faults = {}, {}, []
        x, residuals, pairs = batch.x, [], iter(keys)
        for name, layer, p in zip(self.names, self.model.layers, params, strict=True):
            pair = next(pairs, None) if layer.random else None
            named, kept = self.do(name, _forward(layer, pair), p, x)
            x = named["output"]
            residuals.append(kept)
        gradient = self._loss(x, batch)
        self._backward(params, residuals, gradient)
        for name, layer, p, kept in zip(
            self.names, self.model.layers, params, residuals, strict=True
        ):
            self.do(name, _track(layer), p, kept)
        self.stats = self._by_layer("new ")

    def _loss(self, output: Array, batch: Batch) -> Array:
        loss, name = self.loss, f"loss ({type(self.loss).__name__})"
        named, _ = self.do(name, _cost(loss), output, batch.y, batch.weight)
        self.do(name, lambda z: ({"prediction": loss.predict(z)}, None), output)
        if loss.predicts != "value":
            self.do(name, lambda z, y: ({"correct": loss.correct(z, y)[0]}, None), output, batch.y)
        return named["doutput"]

    def _backward(self, params: Sequence[Params], residuals: list[Any], gradient: Array) -> None:
        trained = [any(v.trained for v in vs.values()) for vs in self.model.variables()]
        first = trained.index(True) if True in trained else len(trained)
        for i in reversed(range(first, len(trained))):
            backward = _backward(self.model.layers[i], input_gradient=i > first)
            named, _ = self.do(self.names[i], backward, params[i], residuals[i], gradient)
            gradient = named.get("dx")
        self.gradients = self._by_layer("d")

    def _by_layer(self, prefix: str) -> list[dict[str, np.ndarray]]:
        return [
            {
                tensor.removeprefix(prefix): value
                for (layer, tensor), value in self.tensors.items()
                if layer == name and tensor.startswith(prefix)
            }
            for name in self.names
        ]

    def do(self, layer: str, operation: Callable[..., Results], *operands: Any) -> Results:
        """Run an operation on the backend and on the reference, and compare what they make."""
        if not self.check:
            named, kept = operation(*operands)
            self.tensors |= {(layer, k): np.asarray(v) for k, v in named.items()}
            return named, kept
        host = lift(operands, self.backend.to_host)
        wanted, rest = operation(*host)
        try:
            named, kept = operation(*operands)
            found = {k: np.asarray(lift(v, self.backend.to_host, None)) for k, v in named.items()}
        except Exception as error:  # a library under test may raise anything
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            self.faults.append(Fault(layer, next(iter(wanted), "track"), what))
            return self._replaced(layer, wanted, rest)
        rounding = Rounding(operation, host, self.backend.dtype_name)
        for tensor, value in found.items():
            self.rounding[layer, tensor] = rounding
            fault = self.judge(layer, tensor, value, wanted[tensor], rounding)
            if fault is not None:
                self.faults.append(fault)
                if fault.difference is None:
                    return self._replaced(layer, wanted, rest)
        self.tensors |= {(layer, k): v for k, v in found.items()}
        return named, kept

    def judge(
        self,
        layer: str,
        tensor: str,
        found: np.ndarray,
        wanted: Any,
        rounding: Rounding,
    ) -> Fault | None:
        """Say what is wrong with a result: its shape, its dtype, or a value."""
        wanted = np.asarray(wanted)
        if found.shape != wanted.shape:
            return Fault(layer, tensor, f"has shape {found.shape}, not {wanted.shape}")
        if wanted.dtype.kind == "f" and found.dtype.name != self.backend.dtype_name:
            what = f"has dtype {found.dtype.name}, not {self.backend.dtype_name}"
            return Fault(layer, tensor, what)
        worst = difference(found, wanted)
        if worst.error > self.tolerance:
            if math.isinf(rounding(tensor)):
                return None
            # Terms that cancel leave their rounding: NumPy's own says how much that is here.
            worst = difference(found, wanted, floor=rounding(tensor) / self.tolerance)
        if worst.error <= self.tolerance:
            return None
        what = f"{list(worst.place)} is {worst.found:.9g}, not {worst.expected:.9g}"
        return Fault(layer, tensor, what, worst)

    def _replaced(self, layer: str, wanted: dict[str, Any], rest: Any) -> Results:
        self.tensors |= {(layer, k): np.asarray(v) for k, v in wanted.items()}
        return lift(wanted, self._place), lift(rest, self._place)

    def _place(self, x: Any) -> Array:
        return self.backend.asarray(np.array(x))


def lift(tree: Any, to: Callable[[Any], Any], dtype: str | None = "float64") -> Any:
    """Map ``to`` over the arrays in nested tuples, lists and dicts; floats become ``dtype``."""
    if isinstance(tree, dict):
        return {k: lift(v, to, dtype) for k, v in tree.items()}
    if isinstance(tree, tuple | list):
        return type(tree)(lift(v, to, dtype) for v in tree)
    if not hasattr(tree, "dtype"):
        return tree
    array = to(tree)
    is_host_float = isinstance(array, np.ndarray | np.generic) and array.dtype.kind == "f"
    return array.astype(dtype) if is_host_float and dtype is not None else array


def _forward(layer: Any, keys: Any) -> Callable[..., Results]:
    def forward(p: Params, x: Array) -> Results:
        y, residuals = layer.forward(p, x, train=True, keys=keys)
        return {"output": y}, residuals

    return forward


def _backward(layer: Any, *, input_gradient: bool) -> Callable[..., Results]:
    def backward(p: Params, residuals: Any, dy: Array) -> Results:
        dx, grads = layer.backward(p, residuals, dy, input_gradient=input_gradient)
        named = {f"d{k}": v for k, v in grads.items()}
        return {**named, "dx": dx} if input_gradient else named, None

    return backward


def _track(layer: Any) -> Callable[..., Results]:
    def track(p: Params, residuals: Any) -> Results:
        return {f"new {k}": v for k, v in layer.track(p, residuals).items()}, None

    return track


def _cost(loss: Loss) -> Callable[..., Results]:
    def cost(output: Array, y: Array, weight: Array | None) -> Results:
        sums = loss.sums(output, y, weight)
        doutput = quotient(sums.gradient, sums.denominator)
        return {"C": quotient(sums.loss, sums.denominator), "doutput": doutput}, None

    return cost
