"""One training step on a backend, an operation at a time, each held to NumPy's float64.

Two libraries round differently, and training makes such differences grow: a ReLU's input on the
other side of 0 by 1e-9 is enough. So each operation is repeated by the reference *on the very
operands that the backend had*. What differs then is the operation, not its history.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from xpnet.backends import Backend
from xpnet.check.parity.around import AroundBackend, recorder
from xpnet.check.parity.compare import TOLERANCES, Difference, difference
from xpnet.check.parity.module import ModuleBackend
from xpnet.check.parity.operations import said
from xpnet.nn import Params, Sequential, layer_name
from xpnet.nn.losses import Loss
from xpnet.step import Batch
from xpnet.step.trace import Operation, Place, Results, trace
from xpnet.typing import Array

__all__ = ["CheckedStep", "Fault", "Key", "Rounding", "lift"]

Key = tuple[str, str]  # layer such as "0.dense", tensor such as "output" or "dW"

EPS = {name: float(np.finfo(name).eps) for name in TOLERANCES}
SLACK = 30.0  # another library may add in another order


class Fault(NamedTuple):
    """An operation that does not do what the reference does with the same operands."""

    layer: str
    tensor: str
    what: str
    difference: Difference | None = None  # None where there is no value to compare
    uses: tuple[str, ...] = ()  # the functions and operators that the formula asks for

    def __str__(self) -> str:
        return f"{self.layer} {self.tensor}: {self.what}"


class Rounding:
    """What an operation may round in the dtype under test: some times what NumPy's own loses."""

    def __init__(self, operation: Operation, host: Any, dtype: str) -> None:
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


class CheckedStep:
    """The tensors of one training step on ``backend``, in the order of computation.

    ``faults`` are the operations that differ from the reference's by more than ``tolerance``; after
    one that fails altogether, the step continues with the reference's result.
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

    def take(self, params: Sequence[Params], batch: Batch, keys: Sequence[Any] = ()) -> None:
        """Trace the step on ``batch``, before the update."""
        self.tensors, self.rounding, self.faults = {}, {}, []
        with self.backend.active():
            for _ in trace(self.model, self.loss, params, batch, keys, do=self._do):
                pass
        self.gradients = self._by_layer("d")
        self.stats = self._by_layer("new ")

    def _by_layer(self, prefix: str) -> list[dict[str, np.ndarray]]:
        return [
            {
                tensor.removeprefix(prefix): value
                for (layer, tensor), value in self.tensors.items()
                if layer == name and tensor.startswith(prefix)
            }
            for name in self.names
        ]

    def _do(self, place: Place, operation: Operation, *operands: Any) -> Results:
        """Run an operation on the backend and on the reference, and compare what they make."""
        layer = f"loss ({place.name})" if place.layer is None else self.names[place.layer]
        if not self.check:
            named, kept = operation(*operands)
            self.tensors |= {(layer, k): np.asarray(v) for k, v in named.items()}
            return named, kept
        host = lift(operands, self.backend.to_host)
        expected, rest = operation(*host)
        try:
            named, kept = operation(*operands)
            actual = {k: np.asarray(lift(v, self.backend.to_host, None)) for k, v in named.items()}
        except Exception as error:  # a library under test may raise anything
            raised = Fault(layer, next(iter(expected), "track"), said(error))
            faults = [raised, *self._beside(raised, operation, operands, expected)]
            self.faults += [fault._replace(uses=_used(operation, host)) for fault in faults]
            return self._replaced(layer, expected, rest)
        rounding = Rounding(operation, host, self.backend.dtype_name)
        self.rounding |= {(layer, tensor): rounding for tensor in actual}
        faults = self._judged(layer, actual, expected, rounding)
        self.faults += [fault._replace(uses=_used(operation, host)) for fault in faults]
        if any(fault.difference is None for fault in faults):
            return self._replaced(layer, expected, rest)
        self.tensors |= {(layer, k): v for k, v in actual.items()}
        if isinstance(self.backend, ModuleBackend) and self.backend.lazy:
            return lift((named, kept), self.backend.computed)
        return named, kept

    def _beside(
        self, raised: Fault, operation: Operation, operands: Any, expected: dict[str, Any]
    ) -> list[Fault]:
        """What else is wrong, with NumPy in the stead of what raises."""
        if not isinstance(self.backend, ModuleBackend):
            return []
        again = AroundBackend.of(self.backend)
        try:
            held = lift(operands, lambda x: again.place(self.backend.to_host(x)), None)
            with again.standing_in():
                named, _ = operation(*held)
                actual = {k: np.asarray(lift(v, again.to_host, None)) for k, v in named.items()}
        except Exception:  # a library under test may raise anything, and has
            return []
        others = [
            raised._replace(what=why) for why in again.stood_in.values() if why != raised.what
        ]
        host = lift(operands, self.backend.to_host)
        rounding = Rounding(operation, host, self.backend.dtype_name)
        return [*others, *self._judged(raised.layer, actual, expected, rounding)]

    def _judged(
        self,
        layer: str,
        actual: dict[str, np.ndarray],
        expected: dict[str, Any],
        rounding: Rounding,
    ) -> list[Fault]:
        """Judge results until one has another shape or dtype."""
        faults: list[Fault] = []
        for tensor, value in actual.items():
            fault = self.judge(layer, tensor, value, expected[tensor], rounding)
            faults += [fault] if fault else []
            if fault and fault.difference is None:
                break
        return faults

    def judge(
        self,
        layer: str,
        tensor: str,
        actual: np.ndarray,
        expected: Any,
        rounding: Rounding,
    ) -> Fault | None:
        """Say what is wrong with a result: its shape, its dtype, or a value."""
        expected = np.asarray(expected)
        if actual.shape != expected.shape:
            return Fault(layer, tensor, f"has shape {actual.shape}, not {expected.shape}")
        if expected.dtype.kind == "f" and actual.dtype.name != self.backend.dtype_name:
            what = f"has dtype {actual.dtype.name}, not {self.backend.dtype_name}"
            return Fault(layer, tensor, what)
        worst = difference(actual, expected)
        if worst.error > self.tolerance:
            if math.isinf(rounding(tensor)):
                return None
            # Terms that cancel leave their rounding: NumPy's own says how much that is here.
            worst = difference(actual, expected, floor=rounding(tensor) / self.tolerance)
        if worst.error <= self.tolerance:
            return None
        what = f"{list(worst.place)} is {worst.actual:.9g}, not {worst.expected:.9g}"
        return Fault(layer, tensor, what, worst)

    def _replaced(self, layer: str, expected: dict[str, Any], rest: Any) -> Results:
        self.tensors |= {(layer, k): np.asarray(v) for k, v in expected.items()}
        return lift(expected, self._place), lift(rest, self._place)

    def _place(self, x: Any) -> Array:
        return self.backend.asarray(np.array(x))


def _used(operation: Operation, host: tuple[Any, ...]) -> tuple[str, ...]:
    """The functions that an operation asks for; what is known of them where it is not portable."""
    asked = recorder()
    with suppress(Exception):  # a layer of one's own may take NumPy's arrays alone
        operation(*lift(host, asked.place, None))
    return tuple(sorted(asked.called))


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
