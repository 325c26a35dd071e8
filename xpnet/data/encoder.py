"""The map from the raw columns of a table to a model's input, fitted to the training rows alone.

The inputs are, in this order: numbers and dates, scaled; whether a value was missing; the cycles of
dates; categories, one-hot or as -1 and 1; and the codes of categories with many values, which an
embedding takes (xpnet/nn/embedding.py).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from array_api_compat import array_namespace

from xpnet.data.cycles import CYCLES, cycle
from xpnet.data.dataset import chunks
from xpnet.data.scaling import Scaler, too_large
from xpnet.errors import CheckpointError, DataError
from xpnet.typing import Array

__all__ = ["MAX_TABLE", "Category", "Encoder", "encoder_of", "filled"]

MAX_TABLE = 2**27  # entries of the table of one category


class Category(NamedTuple):
    """How one category becomes inputs."""

    name: str  # of the column
    feature: int
    size: int  # its levels
    codes: tuple[int, ...]  # of the levels that occur in the training rows; size: missing
    way: Literal["two", "one_hot", "embedding"]

    @property
    def width(self) -> int:
        """The number of its inputs."""
        return len(self.codes) if self.way == "one_hot" else 1

    @property
    def table(self) -> np.ndarray:
        """The inputs (size + 2, width) of each code, of a missing value and of an unseen one."""
        table = np.zeros((self.size + 2, self.width), np.float32)
        values: dict[str, Any] = {
            "two": [[-1], [1]],
            "one_hot": np.eye(len(self.codes)),
            "embedding": np.arange(1, len(self.codes) + 1)[:, None],
        }
        table[list(self.codes)] = values[self.way]
        return table

    def rows(self, column: np.ndarray) -> np.ndarray:
        """Return the row of :attr:`table` for each value of the column."""
        missing = np.isnan(column)
        with np.errstate(invalid="ignore"):
            known = (column >= 0) & (column < self.size) & (column == np.floor(column))
            rows = np.where(known, column, self.size + 1)
        return np.where(missing, self.size, rows).astype(np.intp)


@dataclass(frozen=True, eq=False)
class Encoder:
    """Rows of raw features (n, C) to the input (n, D) of a model; made by ``fit_encoder``."""

    features: int  # C
    numbers: tuple[int, ...]  # the features that are scaled: numbers and dates
    fill: np.ndarray  # float64, their medians, which stand for missing values
    scaler: Scaler
    missing: tuple[int, ...]  # the features that have an input for "is missing"
    cycles: tuple[tuple[int, str], ...]  # date features, with the names of their cycles
    categories: tuple[Category, ...]  # those with embeddings last
    names: tuple[str, ...]  # of the D inputs, for people

    @property
    def output_shape(self) -> tuple[int]:
        """The shape (D,) of a row of the model's input."""
        return (len(self.names),)

    @property
    def embeddings(self) -> tuple[int, ...]:
        """How many codes each of the last inputs has, which are codes, 0 for an unseen value."""
        return tuple(len(c.codes) + 1 for c in self.categories if c.way == "embedding")

    @cached_property
    def _tables(self) -> list[np.ndarray]:
        return [category.table for category in self.categories]

    def apply(self, x: np.ndarray, dtype: str | np.dtype = "float32") -> np.ndarray:
        """Return the input (n, D) for the rows ``x`` (n, C), in ``dtype``; never NaN.

        Each number is computed in float64 and rounded once, a block of rows at a time. Raises
        DataError if the rows have another shape or overflow ``dtype``.
        """
        if x.shape[1:] != (self.features,):
            msg = f"features of shape {x.shape[1:]}; the encoder was fitted to ({self.features},)"
            raise DataError(msg)
        out = np.empty((len(x), len(self.names)), dtype)
        if max(self.embeddings, default=0) - 1 > 2.0 ** (np.finfo(dtype).nmant + 1):
            msg = f"{max(self.embeddings):,} values of a category are too many for {out.dtype}"
            raise DataError(msg, python='dtype="float32"', command="--set dtype=float32")
        for rows in chunks(x, 2**18):
            self._fill(x[rows], out[rows])
        return out

    def _fill(self, x: np.ndarray, out: np.ndarray) -> None:
        end = 0
        numbers = x[:, self.numbers]
        found = self.parts(
            numbers if numbers.dtype.kind == "f" else numbers.astype(np.float64),
            lambda j: x[:, j : j + 1],
            lambda category: category.rows(x[:, category.feature]),
        )
        try:
            with np.errstate(over="raise"):
                for part in found:
                    out[:, end : end + part.shape[1]] = part
                    end += part.shape[1]
        except FloatingPointError:
            raise too_large(out.dtype) from None

    def parts(
        self,
        numbers: Array,
        column: Callable[[int], Array],
        rows: Callable[[Category], Array],
    ) -> Iterator[Array]:
        """Yield the input as blocks of columns (n, d), in order, of arrays of any library.

        ``numbers`` (n, len(self.numbers)) and ``column(j)`` (n, 1), the feature j, are of a
        floating dtype, NaN where a value is missing; ``rows`` returns the rows (n,) of a
        category's table.
        """
        xp = array_namespace(numbers)
        if self.numbers:
            gaps = xp.isnan(numbers)
            yield self.scaler.scaled(xp.where(gaps, xp.asarray(self.fill), numbers))
        if self.missing:
            if self.missing != self.numbers:
                at = [self.numbers.index(j) for j in self.missing]
                gaps = xp.take(gaps, xp.asarray(np.asarray(at)), axis=1)
            yield xp.astype(gaps, numbers.dtype)
        for j, name in self.cycles:
            yield cycle(name, column(j))
        for category, table in zip(self.categories, self._tables, strict=True):
            yield xp.take(xp.asarray(table), rows(category), axis=0)

    def unseen(self, x: np.ndarray) -> dict[str, int]:
        """Return how many rows of ``x`` have a value that no training row had, by column."""
        found = {}
        for category in self.categories:
            known = np.zeros(category.size + 2, bool)
            known[[*category.codes, category.size]] = True
            if count := int((~known[category.rows(x[:, category.feature])]).sum()):
                found[category.name] = count
        return found

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays to save with a model, by name."""
        return {**self.scaler.tensors(), "encoder.fill": self.fill}

    def meta(self) -> dict[str, Any]:
        """Return the rest as JSON data, for :func:`encoder_of`."""
        return {
            "features": self.features,
            "numbers": list(self.numbers),
            "missing": list(self.missing),
            "cycles": [list(cycle) for cycle in self.cycles],
            "categories": [{**c._asdict(), "codes": list(c.codes)} for c in self.categories],
            "names": list(self.names),
        }


def filled(x: np.ndarray, fill: np.ndarray) -> np.ndarray:
    """Return ``x`` (n, C) with the value of ``fill`` (C,) for each NaN."""
    if x.dtype.kind != "f" or not (gaps := np.isnan(x)).any():
        return x
    return np.where(gaps, fill, x)


def encoder_of(meta: Any, tensors: Mapping[str, np.ndarray]) -> Encoder:
    """Build an encoder from its :meth:`~Encoder.meta` and tensors; raises CheckpointError."""
    try:
        categories = [
            Category(str(c["name"]), c["feature"], c["size"], tuple(c["codes"]), c["way"])
            for c in meta["categories"]
        ]
        encoder = Encoder(
            meta["features"],
            tuple(meta["numbers"]),
            np.asarray(tensors["encoder.fill"], np.float64),
            Scaler.from_tensors(tensors),
            tuple(meta["missing"]),
            tuple((j, str(name)) for j, name in meta["cycles"]),
            tuple(categories),
            tuple(map(str, meta["names"])),
        )
        problem: object = _problem(encoder)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        problem = error
    if problem:
        msg = f"the checkpoint's encoder is invalid: {problem}"
        raise CheckpointError(msg)
    return encoder


def _problem(encoder: Encoder) -> str:
    """Say what contradicts itself, or ""."""
    known, count = range(encoder.features), len(encoder.numbers)
    categories = encoder.categories
    if not {*encoder.missing} <= {*encoder.numbers}:
        return f"features {encoder.missing} that may be missing, and the numbers {encoder.numbers}"
    used = [*encoder.numbers, *(j for j, _ in encoder.cycles)]
    used += [c.feature for c in categories]
    if not all(type(j) is int and j in known for j in used):
        return f"features {used[:10]} of {encoder.features}"
    if encoder.fill.shape != (count,) or not np.isfinite(encoder.fill).all():
        return f"medians of shape {encoder.fill.shape} for {count} numbers"
    if encoder.scaler.shift.shape not in ((), (count,)):
        return f"a scaler of shape {encoder.scaler.shift.shape} for {count} numbers"
    if unknown := [name for _, name in encoder.cycles if name not in CYCLES]:
        return f"the cycle {unknown[0]!r}"
    for c in categories:
        n = len(c.codes)
        whole = type(c.size) is int and all(type(k) is int and 0 <= k <= c.size for k in c.codes)
        fits = {"two": n == 2, "one_hot": 1 < n <= MAX_TABLE / (c.size + 1), "embedding": n > 1}
        if not whole or c.size > MAX_TABLE or len({*c.codes}) < n or not fits.get(c.way, False):
            return f"the category {c.name!r} with codes {c.codes[:10]}"
    ways = [c.way == "embedding" for c in categories]
    width = count + len(encoder.missing) + 2 * len(encoder.cycles)
    width += sum(c.width for c in categories)
    if ways != sorted(ways) or not width or width != len(encoder.names):
        return f"{len(encoder.names)} names of {width} inputs"
    return ""
