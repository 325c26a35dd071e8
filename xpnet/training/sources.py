"""Rows of data in other forms than arrays: tables, batches, data sets of PyTorch, functions.

=============================  ====================================================================
a table with ``label=``        of pandas, polars, pyarrow, or anything that speaks Arrow
batches                        an iterable of (x, y) or (x, y, sample_weight), such as a generator
``torch.utils.data``           a DataLoader, or a Dataset of rows (x, y) or (x, y, sample_weight)
a function                     called for each epoch: with its number from 0, where it takes one
=============================  ====================================================================

All but a function are read once, into memory on the host, and the trainer makes its own batches of
the rows, shuffled by its seed. A DataLoader's batch_size, shuffle and drop_last so mean nothing,
and its data set is read in its own order. What draws anew each time it is read would be frozen: a
data set whose first rows differ when they are read again is refused, and so is a DataLoader that
draws with replacement; a function is what gives other rows for every epoch.
"""

import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from xpnet.backends import backend_of
from xpnet.data import StreamedDataset
from xpnet.data.dataset import refuse_sparse
from xpnet.data.files import naming
from xpnet.data.tables.memory import labelled_numbers, named_numbers, numbers_in, speaks_arrow
from xpnet.errors import ConfigError, DataError
from xpnet.training.loader import Loader, uneven
from xpnet.training.memory import host_memory, in_words
from xpnet.training.placement import FORMS
from xpnet.training.renewed_loader import RenewedRows

__all__ = ["Rows", "features", "label_for", "rows_of"]

Parts = Callable[[Any, str], tuple[np.ndarray, ...]]  # of a batch or a row, which the text names

TRIED = 8  # rows of a data set that are read twice
STACKED = 1024  # rows of a data set that are put together at once
LOOK_EVERY = 2**26  # bytes between two looks at the memory
NAMES = ("x", "y", "the sample weights")


class Rows(NamedTuple):
    """Rows as loaders take them."""

    data: Any  # (x, y), (x, y, weight), RenewedRows, a Loader or a stream
    columns: tuple[str, ...] | None = None  # the names of those of x, where it was a table


def rows_of(
    data: Any,
    *,
    label: str | int | None = None,
    columns: tuple[str, ...] | None = None,
    epoch: int | None = None,
) -> Rows:
    """Return the rows of ``data``.

    ``label`` names the column of y in a table, and ``columns`` those of x, if they are known. A
    function is called once, or gives RenewedRows where ``epoch`` is the first that it is called
    for. Raises DataError for anything else, ConfigError for a label without a table.
    """
    if _is_function(data):
        return _of_function(data, label, columns, epoch)
    if speaks_arrow(data):
        if label is None:
            names = ", ".join(map(repr, list(getattr(data, "columns", ()))[:10]))
            msg = "a table needs the name of the column to learn"
            remedy = f"label=..., of {names}" if names else "label=..."
            raise DataError(msg, python=remedy, command="name it with --label")
        x, y, found = labelled_numbers(data, "data", label, columns)
        return Rows((x, y), found)
    if label is not None:
        msg = f"label={label!r} names a column of a table; got {type(data).__name__}"
        collected = "call its collect() first" if hasattr(data, "collect") else "leave label out"
        raise ConfigError(msg, python=collected)
    if isinstance(data, tuple) or _is_pair(data):
        if not data or not _is_table(data[0]):
            return Rows(data)
        numbers, of_x = named_numbers(data[0], "x", columns)
        return Rows((numbers, *data[1:]), of_x)
    if isinstance(data, Loader | StreamedDataset | RenewedRows):
        return Rows(data)
    return Rows(_gathered(data))


def _of_function(
    function: Callable[..., Any],
    label: str | int | None,
    columns: tuple[str, ...] | None,
    epoch: int | None,
) -> Rows:
    call = _caller(function)

    def rows(number: int, columns: tuple[str, ...] | None) -> Rows:
        made = call(number)
        named = label if epoch is not None or speaks_arrow(made) else None
        found = rows_of(made, label=named, columns=columns)
        if epoch is None:
            return found
        if not isinstance(found.data, tuple | list) or len(found.data) not in (2, 3):
            msg = f"a function gives the rows of an epoch; got {type(made).__name__}"
            raise DataError(msg, python="pass it as it is, or (x, y) of an epoch")
        return Rows(tuple(found.data), found.columns)

    first = rows(epoch or 0, columns)
    if epoch is None:
        return first
    # The columns of later tables come in the order of the first.
    renewed = RenewedRows(lambda n: rows(n, first.columns).data, epoch, first.data)
    return Rows(renewed, first.columns)


def label_for(validation: Any, label: str | int | None) -> str | int | None:
    """Return the label of a validation, which need not be a table where the training is one."""
    return label if speaks_arrow(validation) or _is_function(validation) else None


def features(x: Any, columns: Sequence[str] | None) -> Any:
    """Return rows to predict as an array, in the order of their data set; arrays as they are.

    Of a table they are the ``columns``, in that order, where these are known; of batches or rows
    (x, y) they are x. Raises DataError for a table without one of the columns.
    """
    if _is_table(x):
        return named_numbers(x, "x", columns)[0]
    if speaks_arrow(x):
        return x
    if isinstance(x, tuple | list | Loader | StreamedDataset) or _refused(x):
        return x
    if _is_function(x):
        return features(x(), columns)
    return _gathered(x, _only_x)[0] if _is_source(x) else x


def _is_table(x: Any) -> bool:
    """Whether it is a table of columns with names, and not one of its columns."""
    return speaks_arrow(x) and (hasattr(x, "columns") or hasattr(x, "schema"))


def _is_pair(data: Any) -> bool:
    """Whether a list is [x, y] or [x, y, weight]; raises DataError where it may be batches, too."""
    if not isinstance(data, list) or len(data) not in (2, 3):
        return False
    if all(isinstance(part, tuple) and all(hasattr(p, "shape") for p in part) for part in data):
        msg = f"a list of {len(data)} tuples may be (x, y) or batches: pass tuple(data) for the "
        raise DataError(msg + "first, iter(data) for the second")
    return True


def _caller(function: Callable[..., Any]) -> Callable[[int], Any]:
    """A function of the number of an epoch, from one that takes that or nothing."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of C, without a signature
        return lambda epoch: function()
    for given in ((), (0,)):
        try:
            signature.bind(*given)
        except TypeError:
            continue
        return function if given or _takes_epoch(signature) else lambda epoch: function()
    msg = "a function of data takes nothing, or the number of the epoch; got one that takes "
    raise DataError(msg + str(signature))


def _takes_epoch(signature: inspect.Signature) -> bool:
    """Whether the first parameter is an epoch: an optional one of another name is not."""
    first = next(iter(signature.parameters.values()), None)
    return first is not None and first.name == "epoch" and first.kind == first.POSITIONAL_OR_KEYWORD


def _is_function(data: Any) -> bool:
    return callable(data) and not hasattr(data, "__iter__") and not hasattr(data, "__getitem__")


def _refused(data: Any) -> bool:
    return isinstance(data, str | bytes | dict) or hasattr(data, "shape") or data is None


def _by_row(data: Any) -> bool:
    """Whether it is a data set of rows by their numbers."""
    if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
        return False
    return _of_torch(data, "Dataset") or not hasattr(data, "__iter__")


def _is_source(data: Any) -> bool:
    return not _refused(data) and (_by_row(data) or isinstance(data, Iterable))


def _gathered(data: Any, parts: Parts | None = None) -> tuple[np.ndarray, ...]:
    """The rows of batches or a data set of rows, read once."""
    parts = parts or _parts
    if isinstance(data, type):
        msg = f"{data.__name__} is a class, and no data"
        raise DataError(msg, python=f"pass an object of it, {data.__name__}(...)")
    if (_by_row(data) or isinstance(data, list)) and not len(data):
        msg = f"the {type(data).__name__} has no rows"
        raise DataError(msg)
    if _of_torch(data, "DataLoader"):
        return _collected(_in_order(data), parts)
    if _of_torch(data, "IterableDataset"):
        return _collected(_stacked(iter(data), parts), _as_they_are)
    if not _is_source(data):
        msg = f"{FORMS}; got {type(data).__name__}"
        raise DataError(msg)
    if _by_row(data):
        _check_same_again(data)
        rows = (data[i] for i in range(len(data)))
        return _collected(_stacked(rows, parts), _as_they_are)
    return _collected(data, parts)


def _of_torch(data: Any, name: str) -> bool:
    """Whether this is an object of a class of torch.utils.data; PyTorch need not be there."""
    return any(
        c.__name__ == name and c.__module__.startswith("torch.utils.data")
        for c in type(data).__mro__
    )


def _in_order(loader: Any) -> Iterable[Any]:
    """The batches of a DataLoader in the order of its data set, without PyTorch's random numbers.

    Raises DataError where it draws rows with replacement, or its data set draws their values.
    """
    utils = sys.modules["torch.utils.data"]
    sampler = getattr(loader, "sampler", None)
    again = getattr(sampler, "replacement", False)
    if again or isinstance(sampler, utils.WeightedRandomSampler):
        msg = f"the DataLoader draws its rows anew for every epoch, by {type(sampler).__name__}, "
        msg += "and data is read once"
        raise DataError(msg, python="pass lambda: loader, or (x, y, sample_weight)")
    if _of_torch(loader.dataset, "IterableDataset"):
        return loader
    _check_same_again(loader.dataset)
    plain = type(sampler) in (utils.RandomSampler, utils.SequentialSampler)
    if not plain or getattr(sampler, "num_samples", None) not in (None, len(loader.dataset)):
        return loader
    if type(loader.batch_sampler) not in (utils.BatchSampler, type(None)):
        return loader
    return utils.DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=sys.modules["torch"].Generator(),
    )


def _check_same_again(dataset: Any) -> None:
    """Raise DataError where the first rows differ on being read again."""
    for i in range(min(TRIED, len(dataset))):
        once, again = (_leaves(dataset[i]) for _ in range(2))
        if len(once) != len(again) or not all(map(_same, once, again)):
            msg = f"row {i} of the {type(dataset).__name__} is another each time that it is read "
            msg += "(a random transform?), and data is read once"
            remedy = "pass lambda: dataset, which is read for every epoch, or leave the transform "
            raise DataError(
                msg,
                python=remedy + "out and use Loader(..., augment=Augment(...))",
                command="set data.augment",
            )


def _leaves(row: Any) -> list[np.ndarray]:
    parts = row if isinstance(row, tuple | list) else (row,)
    if isinstance(row, dict):  # which is refused by _parts
        return []
    return [_on_host(part, name) for name, part in zip(NAMES, parts, strict=False)]


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f" == b.dtype.kind)


def _stacked(rows: Iterator[Any], of: Parts) -> Iterator[tuple[np.ndarray, ...]]:
    """Batches of rows (x, y) that come one by one."""
    number = 0
    while some := list(islice(rows, STACKED)):
        parts = [of(row, f"row {number + i} of the data set") for i, row in enumerate(some)]
        if len({tuple(p.shape for p in row) for row in parts}) > 1:
            i = next(i for i, r in enumerate(parts) if _shapes(r) != _shapes(parts[0]))
            msg = f"row {number + i} of the data set has the shapes {_shapes(parts[i])}; those "
            raise DataError(msg + f"before have {_shapes(parts[0])}")
        yield tuple(map(np.stack, zip(*parts, strict=True)))
        number += len(some)


def _shapes(parts: Sequence[np.ndarray]) -> str:
    return ", ".join(str(part.shape) for part in parts)


def _collected(batches: Iterable[Any], parts: Parts) -> tuple[np.ndarray, ...]:
    """The rows of all batches; a copy, for a generator may fill one buffer again and again."""
    columns: list[list[np.ndarray]] = []
    taken = looked = 0
    for number, batch in enumerate(batches):
        where = f"batch {number}"
        arrays = parts(batch, where)
        lengths = [len(a) if a.ndim else -1 for a in arrays]
        if min(lengths) < 0 or len(set(lengths)) > 1:
            msg = f"{where}: all parts must have the same number of rows; the shapes are "
            remedy = "an iterable gives batches, so pass rows as (x, y)" if min(lengths) < 0 else ""
            raise DataError(msg + _shapes(arrays), python=remedy)
        columns = columns or [[] for _ in arrays]
        _check_like([column[0] for column in columns if column], arrays, where)
        for column, array in zip(columns, arrays, strict=True):
            column.append(array)
        taken += sum(array.nbytes for array in arrays)
        if taken - looked >= LOOK_EVERY:
            looked = taken
            _check_room(taken, where)
    if not columns:
        msg = "there is no batch: a generator gives its batches once, and this may have given them"
        raise DataError(msg, python="pass a list of them, or the function that makes the generator")
    return tuple(map(np.concatenate, columns))


def _check_like(first: Sequence[np.ndarray], arrays: Sequence[np.ndarray], where: str) -> None:
    if first and len(arrays) != len(first):
        msg = f"{where} has {len(arrays)} parts; those before have {len(first)}"
        raise DataError(msg)
    for name, a, b in zip(NAMES, first, arrays, strict=False):
        if a.shape[1:] != b.shape[1:]:
            msg = f"{where}: rows of {name} have the shape {b.shape[1:]}; those before have "
            raise DataError(msg + str(a.shape[1:]))
        if (a.dtype.kind in "OSU") != (b.dtype.kind in "OSU"):  # else numbers would become texts
            msg = f"{where}: {name} holds {b.dtype}; the batches before have {a.dtype}"
            raise DataError(msg)


def _check_room(taken: int, where: str) -> None:
    if taken > (free := host_memory()):
        msg = f"{where}: the rows so far take {in_words(taken)}, to put them together takes as "
        msg += f"much again, and {in_words(free)} are free"
        raise DataError(msg, python="write the rows to a file, and stream it")


def _parts(batch: Any, where: str) -> tuple[np.ndarray, ...]:
    """The parts of a batch or a row as host arrays."""
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        got = type(batch).__name__
        if isinstance(batch, tuple | list):
            got += f" of {len(batch)}"
        msg = f"{where} must be (x, y) or (x, y, sample_weight); got a {got}"
        raise DataError(msg)
    with naming(where):
        return tuple(_on_host(part, name) for name, part in zip(NAMES, batch, strict=False))


def _only_x(batch: Any, where: str) -> tuple[np.ndarray, ...]:
    """The x of a batch or a row, which may be x alone."""
    if isinstance(batch, dict):
        return _parts(batch, where)  # which refuses it
    with naming(where):
        return (_on_host(batch[0] if isinstance(batch, tuple | list) else batch, "x"),)


def _as_they_are(batch: Any, where: str) -> tuple[np.ndarray, ...]:
    return batch


def _on_host(part: Any, name: str) -> np.ndarray:
    """A copy on the host of an array of any library, a table of numbers, or plain values."""
    refuse_sparse(name, part)
    if hasattr(part, "detach"):
        try:
            return np.array(part.detach().cpu().numpy())
        except TypeError as error:  # bfloat16
            msg = f"{name} of dtype {part.dtype} is none of NumPy's"
            raise DataError(msg, python="convert it to float32") from error
    backend = None if isinstance(part, np.ndarray) else backend_of(part)
    try:
        return np.array(numbers_in(part, name)) if backend is None else backend.to_host(part)
    except ValueError as error:
        if isinstance(error, DataError):
            raise
        msg = f"{name} is no array: {uneven(error) or ' '.join(str(error).split())}"
        raise DataError(msg) from error
