"""Loaders: batches on the device, from arrays placed there once or prefetched by a thread."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from xpnet.backends import Backend
from xpnet.backends.backend import foreign
from xpnet.data import Augment, Shuffle
from xpnet.data.augment import Some
from xpnet.data.dataset import refuse_sparse
from xpnet.data.files import one_line
from xpnet.data.streamed_dataset import Check
from xpnet.data.tables.memory import numbers_in
from xpnet.errors import BackendError, DataError
from xpnet.parallel import ALONE, WHOLE, Comm, Share, shared_by_host
from xpnet.prefetch import Empty, new_array
from xpnet.step import Batch, Ordered, Rows
from xpnet.typing import Array

__all__ = ["Loader", "Transform", "batch_of", "on_host", "uneven"]

Transform = Callable[[np.ndarray], np.ndarray]


class Loader:
    """N examples (x, y, weight) that come as batches on the device of ``backend``.

    ``resident=True`` places them all at once and gathers each batch on the device;
    ``resident=False`` leaves them on the host, where one thread gathers, transforms and places the
    next batches while the device works; None chooses by the device's free memory. Arrays that are
    already on the device stay there. ``transform`` acts on rows of x on the host. ``augment`` makes
    the rows of shuffled batches a little different every time, so they come from the host. Where
    all ranks of ``comm`` make the same loader at once, what is placed is transformed once for those
    of a host, which share its memory.

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
        transform: Transform | None = None,
        augment: Augment = Augment(),
        comm: Comm = ALONE,
    ) -> None:
        if not isinstance(backend, Backend):
            msg = f"a Loader is for a Backend; got {type(backend).__name__}"
            raise BackendError(msg, python="Loader(xpnet.backends.get_backend('numpy'), x, y)")
        self.backend = backend
        arrays = {"x": x, "y": y, "sample weights": weight}
        for name, array in arrays.items():
            refuse_sparse(name, array)
        arrays = {name: numbers_in(array, name) for name, array in arrays.items()}
        given = {k: v for k, v in arrays.items() if v is not None or k == "x"}
        self.arrays = {k: _array(backend, v, k) for k, v in given.items()}
        lengths = {k: v.shape[0] if v.shape else 0 for k, v in self.arrays.items()}
        if len(set(lengths.values())) > 1 or 0 in lengths.values():
            rows = ", ".join(f"{k} has {n}" for k, n in lengths.items())
            msg = f"all arrays must have the same number of rows, at least one; {rows}"
            raise DataError(msg)
        self.rows, self.share = lengths["x"], WHOLE
        self.transform, self.augment = transform, augment
        augment.check(self.example_shape)
        x = self.arrays["x"]
        on_device = backend.owns(x) and not isinstance(x, np.ndarray)
        self.resident = on_device or (self._fits() if resident is None else resident)
        self.resident = all(comm.allgather(self.resident and not augment))
        self.fixed = not backend.owns(x)  # else it stays what the caller has
        if not self.resident:
            self.arrays = {k: self._kept_on_host(v) for k, v in self.arrays.items()}
        elif comm.size == 1 or on_device:
            self.arrays = {k: self._place(k, v) for k, v in self.arrays.items()}
        else:
            new = {k: self.arrays[k] for k in self.arrays.keys() - self._stay_as_stored()}
            ready = shared_by_host(comm, lambda: {k: self._ready(k, v) for k, v in new.items()})
            self.arrays = {k: backend.place(v) for k, v in {**self.arrays, **ready}.items()}

    @property
    def example_shape(self) -> tuple[int, ...]:
        """The shape of one example of x."""
        return tuple(self.arrays["x"].shape[1:])

    def weights(self) -> np.ndarray | None:
        """Return the sample weights on the host; None without."""
        return self._on_host("sample weights")

    def _on_host(self, name: str) -> np.ndarray | None:
        v = self.arrays.get(name)
        return v if v is None or isinstance(v, np.ndarray) else self.backend.to_host(v)

    def check_finite(self, batch_size: int) -> None:
        """Raise DataError, with the row, where what the batches hold is not finite."""
        for number, batch in enumerate(self.batches(batch_size)):
            for name, values in zip(("x", "y", "the sample weights"), batch, strict=True):
                host = np.zeros(0) if values is None else self.backend.to_host(values)
                wrong = np.flatnonzero(~np.isfinite(host).all(axis=tuple(range(1, host.ndim))))
                if wrong.size:
                    of = self._some(batch_size, number)
                    at = wrong[0] if of is None else of.positions[wrong[0]]
                    msg = f"row {number * batch_size + at} of {name} is not finite"
                    raise DataError(msg)

    def sample(self, rows: int) -> Batch:
        """Return a batch of so many rows that are at hand, over and over where these are fewer."""
        indices = np.arange(rows) % self.arrays["x"].shape[0]
        if self.resident:
            return self._take(Rows(self._ordered(indices), 0, rows))
        return batch_of(
            {k: self.backend.place(self._ready(k, v[indices])) for k, v in self.arrays.items()}
        )

    def checked(self, check: Check) -> "Loader":
        """Return the loader, once its targets are checked; those of a stream are as they are read.

        Raises DataError where there are none.
        """
        check(self._targets(), "row {}".format)
        return self

    def shared(self, share: Share) -> "Loader":
        """Return a loader of the rows of every batch that belong to one rank, where they are.

        They come in the order of :meth:`xpnet.parallel.Share.positions`; there may be none.
        ``rows`` stays the number of all. The loader itself is returned for a share that is whole.
        """
        if share.is_whole and self.share.is_whole:
            return self
        shared = copy.copy(self)
        shared.share = share
        return shared

    def take(self, rows: np.ndarray) -> "Loader":
        """Return a loader of some of the rows, by their indices (n,), where these rows are."""
        taken, place = copy.copy(self), self.backend.asarray
        take = self.backend.bound(self.backend.xp.take)
        taken.rows = len(rows)
        taken.arrays = {
            k: v[rows] if isinstance(v, np.ndarray) else take(v, place(rows, dtype="int32"), axis=0)
            for k, v in self.arrays.items()
        }
        return taken

    def _targets(self) -> np.ndarray:
        y = self._on_host("y")
        if y is None:
            msg = "training and evaluation need targets; got none"
            raise DataError(msg)
        return y

    def targets(self) -> Iterator[np.ndarray]:
        """Yield the targets in parts, on the host; of a stream, by reading all of it."""
        yield self._targets()

    def batches(
        self,
        batch_size: int,
        shuffle: Shuffle | None = None,
        start: int = 0,
        *,
        reuse: bool = False,
    ) -> Iterator[Batch]:
        """Yield batches from number ``start`` on, the last one ragged.

        Without ``shuffle`` the rows come as they are. With ``reuse`` a batch may be written over by
        the next but one.
        """
        if not self.resident:
            prepared = partial(self._prepared, batch_size, shuffle, start)
            return map(batch_of, self.backend.stream(prepared))
        if shuffle is None and self.share.is_whole:
            if start == 0 and self.rows <= batch_size:
                return iter((batch_of(self.arrays),))
            slices = self._rows_of_each(batch_size, None, start)
            return (batch_of({k: v[rows, ...] for k, v in self.arrays.items()}) for rows in slices)
        if reuse and all(isinstance(v, np.ndarray) for v in self.arrays.values()):
            return self._reused(*self._order(batch_size, shuffle, start))
        return map(self._take, self._rows_of(batch_size, shuffle, start))

    def _take(self, rows: Rows) -> Batch:
        with self.backend.active():
            return rows.gathered()

    def rows_of_batches(
        self, batch_size: int, shuffle: Shuffle, start: int = 0
    ) -> Iterator[Rows] | None:
        """Yield the same batches as :meth:`batches`, for a step that gathers the rows itself.

        Returns None where that cannot be: the data set is not on the device.
        """
        return self._rows_of(batch_size, shuffle, start) if self.resident else None

    def _rows_of(self, batch_size: int, shuffle: Shuffle | None, start: int) -> Iterator[Rows]:
        order, begins = self._order(batch_size, shuffle, start)
        ordered = self._ordered(order)
        return (Rows(ordered, begin, end) for begin, end in pairwise(begins))

    def _ordered(self, order: np.ndarray) -> Ordered:
        placed = self.backend.asarray(order, dtype="int32")
        return Ordered(batch_of(self.arrays), placed, self.fixed)

    def _order(
        self, batch_size: int, shuffle: Shuffle | None, start: int
    ) -> tuple[np.ndarray, list[int]]:
        """The rows of an epoch that are this rank's, and where each batch begins and ends."""
        order = np.arange(self.rows) if shuffle is None else shuffle.order(self.rows)
        if self.share.is_whole:
            return order, [*range(start * batch_size, self.rows, batch_size), self.rows]
        order, begins = self.share.order(order, batch_size)
        return order, begins[start:].tolist()

    def _some(self, batch_size: int, number: int) -> Some | None:
        """Which rows of a batch are this rank's; None if all are."""
        rows = min(batch_size, self.rows - number * batch_size)
        return None if self.share.is_whole else Some(rows, self.share.positions(rows))

    def _rows_of_each(
        self, batch_size: int, shuffle: Shuffle | None, start: int
    ) -> Iterator[slice | np.ndarray]:
        """Yield the rows of each batch, all that are this rank's."""
        if shuffle is None and self.share.is_whole:
            # The standard leaves a slice past the end open.
            starts = range(start * batch_size, self.rows, batch_size)
            return (slice(s, min(s + batch_size, self.rows)) for s in starts)
        order, begins = self._order(batch_size, shuffle, start)
        return (order[begin:end] for begin, end in pairwise(begins))

    def _reused(self, order: np.ndarray, begins: list[int]) -> Iterator[Batch]:
        """Gather into two buffers in turn, so that an epoch allocates nothing."""
        size = int(np.diff(begins).max(initial=0))
        slots = [
            {k: np.empty((size, *v.shape[1:]), v.dtype) for k, v in self.arrays.items()}
            for _ in range(2)
        ]
        whole = [batch_of(slot) for slot in slots]
        sources = [[(_taking(v), slot[k]) for k, v in self.arrays.items()] for slot in slots]
        for n, (begin, end) in enumerate(pairwise(begins)):
            rows = order[begin:end]
            full = len(rows) == size
            for take, out in sources[n % 2]:
                take(rows, 0, out if full else out[: len(rows)], "clip")
            slot = slots[n % 2]
            yield whole[n % 2] if full else batch_of({k: v[: len(rows)] for k, v in slot.items()})

    def _gathered(
        self, batch_size: int, shuffle: Shuffle | None, start: int, empty: Empty
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the rows of each batch as they are stored; what stays so is in ``empty``."""
        stay = self._stay_as_stored()
        for rows in self._rows_of_each(batch_size, shuffle, start):
            yield {
                k: _gathered_into(partial(empty, k), v, rows) if k in stay else v[rows]
                for k, v in self.arrays.items()
            }

    def _prepared(
        self, batch_size: int, shuffle: Shuffle | None, start: int, empty: Empty = new_array
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yield the rows of each batch, transformed and ready to be placed, in ``empty``."""
        change = self.arrays.keys() - self._stay_as_stored()
        gathered = self._gathered(batch_size, shuffle, start, empty)
        for number, rows in enumerate(gathered, start):
            rng = None
            if shuffle is not None and self.augment:
                rng = self.augment.generator(shuffle, number)
                of = self._some(batch_size, number)
                rows["x"] = self.augment.move_images(rows["x"], rng, of)
            rows |= {k: self._ready(k, rows[k], out=partial(empty, k)) for k in change}
            if rng is not None:
                rows["x"] = self.augment.add_noise(rows["x"], rng, of)
            yield rows

    def _stay_as_stored(self) -> set[str]:
        """Return which arrays have rows that are placed as they are stored."""
        dtypes = {k: np.dtype(v.dtype) for k, v in self.arrays.items()}
        placed = {k: self._dtype(k) or self.backend.default_dtype(v) for k, v in dtypes.items()}
        changed = {"x"} if self.transform is not None or self.augment else set()
        return {k for k, v in dtypes.items() if v == placed[k]} - changed

    def _place(self, name: str, x: Any) -> Array:
        return self.backend.asarray(*self._transformed(name, x))

    def _ready(self, name: str, x: np.ndarray, **options: Any) -> np.ndarray:
        return self.backend.as_host(*self._transformed(name, x), **options)

    def _kept_on_host(self, x: Any) -> np.ndarray:
        return x if isinstance(x, np.ndarray) else self.backend.to_host(x)

    def _transformed(self, name: str, x: Any) -> tuple[Any, str | None]:
        """The rows as the model sees them, and the dtype to place them in."""
        if name == "x" and self.transform is not None:
            x = self.transform(x)
        return x, self._dtype(name)

    def _dtype(self, name: str) -> str | None:
        # x and weights are numbers to compute with, also where a file holds integers.
        return None if name == "y" else self.backend.dtype_name

    def _fits(self) -> bool:
        free = self.backend.free_memory()
        if free is None:
            return True
        itemsize = int(self.backend.dtype_name.removeprefix("float")) // 8
        needed = sum(int(np.prod(v.shape)) * itemsize for v in self.arrays.values())
        return needed < free / 2


def _gathered_into(empty: Callable[..., np.ndarray], v: np.ndarray, rows: Any) -> np.ndarray:
    """Gather rows, by a slice or indices, into what ``empty`` makes of a shape and a dtype."""
    if isinstance(rows, slice):
        found = v[rows]
        np.copyto(out := empty(found.shape, v.dtype), found)
        return out
    return _taking(v)(rows, 0, empty((len(rows), *v.shape[1:]), v.dtype), "clip")


def _taking(v: np.ndarray) -> Callable[..., np.ndarray]:
    """Return ``v.take``, or what does the same for rows that are not one block of memory."""
    if v.flags.c_contiguous:
        # The indices are in range; any other mode than "raise" writes to `out` directly.
        return v.take

    def take(rows: np.ndarray, axis: int, out: np.ndarray, mode: str) -> np.ndarray:
        np.copyto(out, v[rows])  # `v.take` would copy all of v first, each time
        return out

    return take


def _array(backend: Backend, x: Any, name: str) -> Any:
    """An array of the backend's library as it is; anything else as NumPy sees it.

    Raises DataError, with its name, for what holds no real numbers.
    """
    if backend.owns(x) and not isinstance(x, np.ndarray):
        return x
    if foreign(x):
        return backend.asarray(x)  # raises: it belongs to another library
    return on_host(x, name)


def on_host(x: Any, name: str) -> np.ndarray:
    """Return numbers as an array of NumPy; raises DataError, with ``name``, for anything else."""
    if x is None:
        msg = f"{name} must be an array of real numbers; got None"
        raise DataError(msg)
    try:
        host = np.asarray(x)
        objects = host.dtype.kind == "O" and not any(isinstance(v, str | bytes) for v in host.flat)
        host = host.astype(np.float64) if objects else host
    except (TypeError, ValueError) as error:
        msg = f"{name} must be an array of real numbers: {uneven(error) or one_line(error)}"
        pair = uneven(error) and isinstance(x, tuple)
        raise DataError(msg, python="pass x alone, and not (x, y)" if pair else "") from None
    if host.dtype.kind not in "buif" and host.size:
        msg = f"{name} must be an array of real numbers; got {host.dtype}"
        raise DataError(msg)
    return host


def uneven(error: Exception) -> str:
    """Return what is wrong where NumPy made no array of parts of different shapes; else ""."""
    # It has no class of error for that.
    return "its parts have different shapes" if "inhomogeneous" in str(error) else ""


def batch_of(arrays: dict[str, Array]) -> Batch:
    """Return named arrays as a batch."""
    return Batch(arrays["x"], arrays.get("y"), arrays.get("sample weights"))
