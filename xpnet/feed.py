"""Examples on their way to a backend: placed once where they fit, else prefetched by a thread."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from xpnet.backends import Backend
from xpnet.errors import DataError
from xpnet.step import Batch
from xpnet.typing import Array

__all__ = ["Feed"]


class Feed:
    """N examples (x, y, weight) that come as batches on the device of ``backend``.

    ``resident=True`` places them all at once and gathers each batch on the device;
    ``resident=False`` leaves them on the host, where one thread gathers, transforms and places the
    next batches while the device works; None chooses by the device's free memory. Arrays that are
    already on the device stay there. ``transform`` acts on rows of x on the host.

    Raises DataError where x, y and weight do not have the same number of rows, or none.
    """

    def __init__(
        self,
        backend: Backend,
        x: Any,
        y: Any = None,
        weight: Any = None,
        *,
        resident: bool | None = None,
        transform: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        self.backend = backend
        arrays = {"x": x, "y": y, "sample weights": weight}
        self.arrays = {k: _array(backend, v) for k, v in arrays.items() if v is not None}
        lengths = {k: v.shape[0] if v.shape else 0 for k, v in self.arrays.items()}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            rows = ", ".join(f"{k} has {n}" for k, n in lengths.items())
            msg = f"each example needs a row in every array, and there must be one; {rows}"
            raise DataError(msg)
        self.rows = lengths["x"]
        self.transform = transform
        x = self.arrays["x"]
        on_device = backend.owns(x) and not isinstance(x, np.ndarray)
        self.resident = on_device or (self._fits() if resident is None else resident)
        if self.resident:
            self.arrays = {k: self._place(k, v) for k, v in self.arrays.items()}

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example of x."""
        return tuple(self.arrays["x"].shape[1:])

    def batches(
        self,
        batch_size: int,
        order: np.ndarray | None = None,
        start: int = 0,
        *,
        reuse: bool = False,
    ) -> Iterator[Batch]:
        """Yield batches from number ``start`` on, the last one ragged.

        ``order`` (N,) is the order of the rows; None leaves them as they are. With ``reuse`` a
        batch may be written over by the next but one.
        """
        starts = range(start * batch_size, self.rows, batch_size)
        if not self.resident:
            from xpnet.data import prefetch

            if self.backend.streams and all(
                isinstance(v, np.ndarray) for v in self.arrays.values()
            ):
                hosts = (self._gather(s, batch_size, order, self._host) for s in starts)
                return map(_batch, self.backend.stream(prefetch(hosts, depth=2)))
            placed = (self._gather(s, batch_size, order, self._place) for s in starts)
            return map(_batch, prefetch(placed, depth=2))
        # The standard leaves a slice past the end open.
        slices = (slice(s, min(s + batch_size, self.rows)) for s in starts)
        if order is None:
            return (_batch({k: v[rows, ...] for k, v in self.arrays.items()}) for rows in slices)
        if reuse and all(isinstance(v, np.ndarray) for v in self.arrays.values()):
            return self._reused(starts, batch_size, order)
        placed = self.backend.asarray(order, dtype="int32")
        return (self._take(placed[rows]) for rows in slices)

    def _take(self, indices: Array) -> Batch:
        xp = self.backend.xp
        return _batch({k: xp.take(v, indices, axis=0) for k, v in self.arrays.items()})

    def _reused(self, starts: range, size: int, order: np.ndarray) -> Iterator[Batch]:
        """Gather into two batches in turn, so that an epoch allocates nothing."""
        order = order.astype(np.intp)  # once, rather than in every take
        slots = [
            {
                k: np.empty((min(size, self.rows), *v.shape[1:]), v.dtype)
                for k, v in self.arrays.items()
            }
            for _ in range(2)
        ]
        whole = [_batch(slot) for slot in slots]
        sources = [[(v.take, slot[k]) for k, v in self.arrays.items()] for slot in slots]
        for n, s in enumerate(starts):
            rows = order[s : s + size]
            full = len(rows) == size
            for take, out in sources[n % 2]:
                # The indices are in range; any other mode than "raise" writes to `out` directly.
                take(rows, 0, out if full else out[: len(rows)], "clip")
            slot = slots[n % 2]
            yield whole[n % 2] if full else _batch({k: v[: len(rows)] for k, v in slot.items()})

    def _gather(
        self, start: int, size: int, order: np.ndarray | None, take: Callable[[str, Any], Any]
    ) -> dict[str, Any]:
        rows: Any = slice(start, start + size)
        rows = rows if order is None else order[rows]
        return {k: take(k, v[rows]) for k, v in self.arrays.items()}

    def _place(self, name: str, host: Any) -> Array:
        return self.backend.asarray(*self._transformed(name, host))

    def _host(self, name: str, host: Any) -> np.ndarray:
        return self.backend.as_host(*self._transformed(name, host))

    def _transformed(self, name: str, host: Any) -> tuple[Any, str | None]:
        """The rows as the model sees them, and the dtype to place them in."""
        if name == "x" and self.transform is not None:
            host = self.transform(host)
        # x and weights are numbers to compute with, also where a file holds integers.
        return host, None if name == "y" else self.backend.dtype_name

    def _fits(self) -> bool:
        free = self.backend.free_memory()
        itemsize = int(self.backend.dtype_name.removeprefix("float")) // 8
        needed = sum(int(np.prod(v.shape)) * itemsize for v in self.arrays.values())
        return free is None or needed < free / 2


def _array(backend: Backend, x: Any) -> Any:
    """An array of the backend's library as it is; anything else as NumPy sees it."""
    if backend.owns(x) or isinstance(x, np.ndarray):
        return x
    if hasattr(x, "__dlpack__"):
        return backend.asarray(x)  # raises: it belongs to another library
    return np.asarray(x)


def _batch(arrays: dict[str, Array]) -> Batch:
    return Batch(arrays["x"], arrays.get("y"), arrays.get("sample weights"))
