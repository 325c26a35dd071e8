"""LIBSVM and SVMlight: a label, then the features that are not zero, as ``index:value``.

https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/ has many.
"""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np

from xpnet.data import files
from xpnet.data.tables.dialect import Dialect
from xpnet.data.tables.lines import Lines
from xpnet.data.tables.table import RawTable
from xpnet.data.tables.values import converted, inferred
from xpnet.errors import DataError

__all__ = ["read_libsvm"]


def read_libsvm(path: Path) -> RawTable:
    """Read all features, float64, named by their indices; the first column is the label.

    Indices count from 1; where one is 0, from 0.
    """
    import pyarrow as pa

    lines, labels = Lines(path), list[str]()
    at, columns, values = array("q"), array("q"), array("d")
    for n, text in enumerate(lines.rows("#")):
        label, *pairs = text.partition("#")[0].split()
        if ":" in label:
            msg = f"{lines.where}: begins with {label[:40]!r}; the label must be first"
            raise DataError(msg)
        labels.append(label)
        last = -1
        for pair in pairs:
            index, value = _pair(pair, lines)
            if index <= last:
                msg = f"{lines.where}: index {index} after {last}; they must increase"
                raise DataError(msg)
            last = index
            at.append(n)
            columns.append(index)
            values.append(value)
    first = 0 if 0 in columns else 1
    width = max(columns, default=0) + 1 - first
    if len(labels) * (width + 1) * 8 > files.MAX_BYTES:
        msg = f"{path}: {len(labels)} rows of {width} features are more than {files.MAX_BYTES} "
        raise DataError(msg + "bytes, as zeros are stored, too; keep fewer features")
    x = np.zeros((width, len(labels)))
    x[np.asarray(columns) - first, np.asarray(at)] = values
    texts = pa.array(labels, pa.string())
    label_column = converted(texts, inferred(texts, Dialect()), Dialect())
    names = ("label", *(str(j + first) for j in range(width)))
    table = pa.Table.from_arrays([label_column, *map(pa.array, x)], names=list(names))
    notes = ("indices count from 0",) if not first else ()
    return RawTable(table, names, lines.location(names), notes=notes)


def _pair(pair: str, lines: Lines) -> tuple[int, float]:
    index, colon, value = pair.partition(":")
    if index == "qid":
        msg = f"{lines.where}: {pair[:40]!r}: queries, as for ranking, are not read; remove them"
        raise DataError(msg)
    if not colon or not index.isdecimal() or len(index) > 18 or Dialect().kind(value) != "number":
        msg = f"{lines.where}: {pair[:40]!r} is not index:value"
        raise DataError(msg)
    return int(index), float(value)
