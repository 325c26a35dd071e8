"""A data set in host memory, its validation and its fingerprint."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xpnet.data.columns import Columns
from xpnet.errors import DataError
from xpnet.typing import Array

__all__ = ["Dataset", "check", "chunks", "fingerprint", "refuse_sparse"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """N rows of features and, if they are known, their labels or targets.

    ``x`` (N, ...) has any real dtype; images stay uint8 until they are scaled. ``y`` is one of

    - int32 (N,), the index of each row's class in ``classes``;
    - float64 (N,) or (N, J), the targets of a regression, with ``classes`` None;
    - float64 (N, J), 0 or 1 for each of several labels, with ``multilabel`` and ``classes`` None;
    - None, for rows to predict.

    The features of a table, whose ``columns`` have kinds, are in raw units, (N, C): numbers as they
    are, booleans and categories as codes of their levels (-1: a value that is not among them),
    dates as seconds since 1970, and NaN for a missing value.

    Raises DataError if x and y or the weights differ in length or if there are no rows.

    >>> flowers = Dataset(np.zeros((3, 4)), np.array([0, 1, 0]), ("rose", "tulip"), "flowers")
    >>> len(flowers), flowers.feature_shape, len(flowers.take([0, 2]))
    (3, (4,), 2)
    """

    x: np.ndarray
    y: np.ndarray | None
    classes: tuple[str, ...] | None
    name: str
    columns: Columns | None = None  # of the table that it was read from
    weight: np.ndarray | None = None  # (N,) float64
    targets: tuple[str, ...] | None = None  # the names of several label columns
    multilabel: bool = False

    def __post_init__(self) -> None:
        refuse_sparse("x", self.x)
        if self.x.ndim < 2 or self.x.size == 0:
            msg = f"{self.name}: features must be (rows, features...), at least one of each; "
            raise DataError(msg + f"got shape {self.x.shape}")
        if self.y is not None and (self.y.ndim == 0 or len(self.y) != len(self.x)):
            msg = f"{self.name}: {len(self.x)} rows of features but labels of shape {self.y.shape}"
            raise DataError(msg)
        if self.weight is not None and self.weight.shape != (len(self.x),):
            msg = f"{self.name}: {len(self.x)} rows of features but weights of shape "
            raise DataError(msg + str(self.weight.shape))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The shape of one row of features."""
        return self.x.shape[1:]

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """The names of the columns, if the file has any."""
        return None if self.columns is None else self.columns.feature_names

    @property
    def labelled(self) -> bool:
        """Whether there are labels or targets."""
        return self.y is not None

    def take(self, indices: Array) -> "Dataset":
        """Return the rows at ``indices`` (n,), in that order, as a copy."""
        y, weight = (None if a is None else a[indices] for a in (self.y, self.weight))
        return replace(self, x=self.x[indices], y=y, weight=weight)


def refuse_sparse(name: str, x: Any) -> None:
    """Raise DataError for a sparse matrix, of SciPy or any library that names it alike."""
    kind = type(x)  # a table may have a column of such a name
    if hasattr(kind, "nnz") or hasattr(kind, "nse") or getattr(x, "is_sparse", False) is True:
        dense = next((n for n in ("toarray", "todense", "to_dense") if hasattr(x, n)), "toarray")
        msg = f"{name} is a sparse {kind.__name__}; pass {name}.{dense}(), a dense array"
        raise DataError(msg)


def chunks(x: np.ndarray, nbytes: int = 2**22) -> Iterator[slice]:
    """Yield slices of rows of about ``nbytes`` each, to bound the size of temporary arrays."""
    rows = max(1, nbytes * len(x) // max(1, x.nbytes))
    for start in range(0, len(x), rows):
        yield slice(start, start + rows)


def check(
    dataset: Dataset,
    *,
    n_classes: int | None = None,
    feature_shape: tuple[int, ...] | None = None,
    missing: bool = False,
) -> None:
    """Raise DataError that names the first value that would silently spoil training.

    Features (NaN apart, where values may be ``missing``) and targets must be finite, and rows of
    features of ``feature_shape``; labels must be
    whole numbers in 0 ... ``n_classes`` - 1. This is checked once on the host because no device
    does: CuPy wraps around an index that is out of range, and JAX turns it into NaN.
    """
    name, x, y = dataset.name, dataset.x, dataset.y
    if feature_shape is not None and dataset.feature_shape != tuple(feature_shape):
        msg = f"{name}: features of shape {dataset.feature_shape}; expected {tuple(feature_shape)}"
        raise DataError(msg)
    _check_finite(name, "x", x, missing=missing)
    if y is None:
        return
    if n_classes is None:
        _check_finite(name, "y", y)
        return
    if y.dtype.kind not in "iu" or y.ndim != 1:
        msg = f"{name}: labels must be whole numbers of shape (N,); got {y.dtype} of {y.shape}"
        raise DataError(msg)
    outside = (y < 0) | (y >= n_classes)
    if outside.any():
        row = int(outside.argmax())
        msg = (
            f"{name}: y[{row}] is {y[row]}; labels of {n_classes} classes are 0 to {n_classes - 1}"
        )
        raise DataError(msg)


def _check_finite(name: str, letter: str, values: np.ndarray, *, missing: bool = False) -> None:
    if values.dtype.kind != "f":
        return
    for rows in chunks(values):
        bad = np.isinf(values[rows]) if missing else ~np.isfinite(values[rows])
        if bad.any():
            index = [int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape)]
            index[0] += rows.start
            msg = f"{name}: {letter}{index} is {values[tuple(index)]}; it must be a finite number"
            raise DataError(msg)


def fingerprint(dataset: Dataset) -> str:
    """Return the hexadecimal SHA-256 of the classes, x, y and weights: dtype, shape and bytes.

    Equal fingerprints mean equal data, whatever file it came from; the name is not included.
    """
    digest = hashlib.sha256(repr(dataset.classes).encode())
    for array in (dataset.x, dataset.y, dataset.weight):
        if array is None:
            continue
        digest.update(f"{array.dtype.str} {array.shape}".encode())
        for rows in chunks(array):
            digest.update(np.ascontiguousarray(array[rows]).data)
    return digest.hexdigest()
