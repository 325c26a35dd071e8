"""Reading a data set from a file in any known format."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from xpnet.data.arrays import read_npy_table, read_npz_table
from xpnet.data.csv_file import Header, read_csv_table
from xpnet.data.dataset import Dataset
from xpnet.data.files import existing, memory_errors
from xpnet.data.idx import read_idx_table
from xpnet.data.labels import Labels, Table, check_finite, encode, targets
from xpnet.data.parquet import ParquetRows, read_parquet_table
from xpnet.data.row_file import RowFile
from xpnet.data.stored import open_stored
from xpnet.errors import DataError

__all__ = ["Task", "open_rows", "read", "streamable"]

Task = Literal["classification", "regression"]
STREAMABLE = (".npy", ".npz", ".idx", "ubyte", ".parquet")


def read(
    path: str | Path,
    *,
    label: str | int | None = "auto",
    header: Header = "auto",
    delimiter: str | None = None,
    task: Task = "classification",
    classes: Sequence[str] | None = None,
) -> Dataset:
    """Read a data set; the suffix of ``path`` determines its format.

    ==================== ======================================= ==============================
    suffix               features                                labels with ``label="auto"``
    ==================== ======================================= ==============================
    .csv .tsv (or .gz)   every other column, float64             column label, class, target or
                                                                 y of the header, else the last
    .parquet             every other column                      as .csv
    .npy                 every other column                      the last column
    .npz                 array x, X, data or features            array y, label(s) or target(s)
    .idx -ubyte (or .gz) the array                               the file beside it with labels
                                                                 for images in its name
    ==================== ======================================= ==============================

    ``label`` chooses another column (by name or position), array or file; None reads rows without
    labels. ``header`` and ``delimiter`` override what is inferred from a text file. ``classes`` are
    those of a trained model: labels are looked up among them. Regression targets are float64.

    Raises DataError that names the file and the location in it, BackendError without pyarrow.
    """
    path = existing(path)
    with memory_errors(path):
        table = _read_table(path, label, header, delimiter)
        check_finite(table)
    y, names = None, None if classes is None else tuple(classes)
    if table.labels is not None:
        if task == "regression":
            y, names = targets(table.labels, table.location), None
        elif isinstance(table.labels, Labels):
            y, names = encode(table.labels, classes, table.location)
        else:
            msg = f"{table.location(0)}: class labels must be (N,); got {table.labels.shape}"
            raise DataError(msg)
    return Dataset(table.x, y, names, path.name.partition(".")[0], table.feature_names)


def streamable(path: str | Path) -> bool:
    """Return whether the rows of a file with this name can be streamed."""
    return str(path).lower().endswith(STREAMABLE)


def open_rows(
    path: str | Path, label: str | int | None = "auto", names: Sequence[str] | None = None
) -> RowFile:
    """Open a file to stream its rows; ``label`` as in :func:`read`.

    ``names`` selects columns by name, in this order, if the columns have names. Raises DataError
    for a format, or a compression, that can only be read as a whole.
    """
    path = existing(path)
    if not streamable(path):
        msg = f"{path}: cannot be streamed; known: {' '.join(STREAMABLE)}, without .gz"
        raise DataError(
            msg,
            python="save it as one of them, or read(path)",
            command="save it as one of them, or --set data.stream=no",
        )
    if path.suffix.lower() == ".parquet":
        return ParquetRows(path, label, names)
    return open_stored(path, label)


def _read_table(
    path: Path, label: str | int | None, header: Header, delimiter: str | None
) -> Table:
    name = path.name.lower()
    if re.search(r"\.(csv|tsv)(\.gz)?$", name):
        tabs = "\t" if ".tsv" in name else None
        return read_csv_table(path, label, header, delimiter or tabs)
    if re.search(r"(\.idx|ubyte)(\.gz)?$", name):
        return read_idx_table(path, label)
    if name.endswith(".npy"):
        return read_npy_table(path, label)
    if name.endswith(".npz"):
        return read_npz_table(path, label)
    if name.endswith(".parquet"):
        return read_parquet_table(path, label)
    msg = f"{path}: unknown format; known: .csv .tsv .npy .npz .parquet .idx and -ubyte"
    raise DataError(msg)
