"""Where an estimator computes, and its rows there: dense, sparse, or of another array library."""

import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import sklearn
from scipy import sparse

from xpnet.backends import Backend, backend_of, get_backend, resolve
from xpnet.data import Shuffle
from xpnet.prefetch import Empty
from xpnet.step import Batch
from xpnet.training.loader import Loader
from xpnet.typing import Array

__all__ = [
    "AT_ONCE",
    "DrawnOrder",
    "SparseRows",
    "backend_for",
    "floats",
    "host",
    "loader",
    "owner_of",
    "parts",
    "some",
]

AT_ONCE = 4096  # rows of a prediction, or of an evaluation by L-BFGS


@functools.lru_cache(maxsize=8)
def _resolved(name: str, device: str, dtype: str) -> Backend:
    return get_backend("numpy", "cpu", dtype) if not name else resolve(name, device, dtype).backend


def backend_for(X: Any, name: str | None, device: str, dtype: str) -> Backend:
    """Return the backend that is named, else that of ``X``; for data of the host NumPy's.

    Raises BackendError where it or its device is missing.
    """
    if name is not None or device != "auto":
        return _resolved(name or "auto", device, dtype)
    return backend_of(X, dtype) or _resolved("", "cpu", dtype)


def owner_of(X: Any) -> Backend | None:
    """Return the backend of an array that scikit-learn leaves where it is; None for other data."""
    return backend_of(X) if sklearn.get_config()["array_api_dispatch"] else None


def floats(X: Any) -> list[Any]:
    """Return the dtypes that ``X`` may have; another is converted to the first of them."""
    if (owner := owner_of(X)) is None:
        return [np.float64, np.float32]
    known = owner.xp.__array_namespace_info__().dtypes(device=owner.device, kind="real floating")
    return [known[name] for name in ("float64", "float32") if name in known]


def host(x: Any) -> np.ndarray:
    """Return an array, of whatever library, as NumPy's."""
    owner = backend_of(x)
    return np.asarray(x) if owner is None else owner.to_host(x)


def some(X: Any, rows: np.ndarray) -> Any:
    """Return the rows of those numbers."""
    if (owner := backend_of(X)) is None:
        return X[rows]
    return owner.xp.take(X, owner.asarray(rows, dtype="int32"), axis=0)


def parts(X: Any, backend: Backend) -> Iterator[Array]:
    """Yield the rows in order, AT_ONCE at a time, on the backend."""
    for start in range(0, X.shape[0], AT_ONCE):
        part = X[start : min(start + AT_ONCE, X.shape[0]), :]
        yield backend.asarray(_dense(part), backend.dtype_name)


def _dense(X: Any) -> Any:
    return X.toarray() if sparse.issparse(X) else X


class _Drawn(NamedTuple):
    """An order of rows in the place of a :class:`~xpnet.data.Shuffle`."""

    rows: np.ndarray

    def order(self, n: int) -> np.ndarray:
        return self.rows


class DrawnOrder(Loader):
    """Rows in the order that ``random`` draws for an epoch, or as they are where it is None.

    It shuffles the order of the epoch before, as scikit-learn does. An epoch that is repeated, to
    explain a failure, has its order again.
    """

    def __init__(self, backend: Backend, *arrays: Any, random: Any = None, **more: Any) -> None:
        super().__init__(backend, *arrays, **more)
        self.random, self.epoch = random, -1
        self.order = np.arange(self.rows)

    def _drawn(self, shuffle: Shuffle | None) -> Any:
        if shuffle is None or self.random is None:
            return None
        if shuffle.epoch != self.epoch:
            moved = np.arange(self.rows)
            self.random.shuffle(moved)
            self.epoch, self.order = shuffle.epoch, self.order[moved]
        return _Drawn(self.order)

    def batches(
        self, batch_size: int, shuffle: Shuffle | None = None, start: int = 0, **more: Any
    ) -> Iterator[Batch]:
        return super().batches(batch_size, self._drawn(shuffle), start, **more)

    def rows_of_batches(self, *given: Any, **more: Any) -> None:
        return None  # the order may be another, or none


class SparseRows(DrawnOrder):
    """The rows of a CSR matrix, of which a batch is dense at a time; those of y are resident."""

    def __init__(
        self, backend: Backend, X: Any, y: Any = None, weight: Any = None, *, random: Any = None
    ) -> None:
        first = [None if array is None else array[:1] for array in (y, weight)]
        super().__init__(backend, _dense(X[:1]), *first, random=random, resident=False)
        self.matrix, self.rows = X, X.shape[0]
        self.order = np.arange(self.rows)
        named = ("y", y), ("sample weights", weight)
        self.others = {name: array for name, array in named if array is not None}

    def _on_host(self, name: str) -> np.ndarray | None:
        return self.others.get(name)

    def batches(
        self, batch_size: int, shuffle: Shuffle | None = None, start: int = 0, **more: Any
    ) -> Iterator[Batch]:
        for rows in self._prepared(batch_size, self._drawn(shuffle), start):
            placed = {k: self.backend.place(v) for k, v in rows.items()}
            yield Batch(placed["x"], placed.get("y"), placed.get("sample weights"))

    def _stay_as_stored(self) -> set[str]:
        return set()  # what is in self.others is as it was given

    def _gathered(
        self, batch_size: int, shuffle: Shuffle | None, start: int, empty: Empty
    ) -> Iterator[dict[str, np.ndarray]]:
        for rows in self._rows_of_each(batch_size, shuffle, start):
            yield {"x": _dense(self.matrix[rows]), **{k: v[rows] for k, v in self.others.items()}}


def loader(
    backend: Backend, X: Any, y: Any = None, weight: Any = None, *, random: Any = None
) -> Loader:
    """Return the loader of rows and targets; ``random``, if there is one, orders each epoch."""
    kind = SparseRows if sparse.issparse(X) else DrawnOrder
    return kind(backend, X, y, weight, random=random)
