"""Reading a data set from a file in any known format."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from xpnet.data.arrays import read_npy_table, read_npz_table
from xpnet.data.columns import Columns, MissingLabels, RowNumbers, Wanted
from xpnet.data.csv_file import Header, read_csv_table
from xpnet.data.dataset import Dataset
from xpnet.data.files import existing, memory_errors
from xpnet.data.idx import read_idx_table
from xpnet.data.labels import Labels, Table, check_finite, encode, targets, without_missing
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
    like: Columns | None = None,
    missing_labels: MissingLabels = "refuse",
    row_numbers: RowNumbers = "drop",
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

    ``like`` are the columns of a table that was read before, by which those of this one are found.
    Columns that number the rows are left out unless ``row_numbers`` is "keep"; rows without a label
    are an error unless ``missing_labels`` is "drop". ``columns`` of the result has all of that.

    Raises DataError that names the file and the location in it, BackendError without pyarrow.
    """
    path = existing(path)
    with memory_errors(path):
        wanted = Wanted(label, like, row_numbers, missing_labels)
        table = _read_table(path, wanted, header, delimiter)
        if missing_labels == "drop":
            table = without_missing(table)
        check_finite(table)
    y, names = None, None if classes is None else tuple(classes)
    if table.labels is not None:
        if task == "regression":
            y, names = targets(table.labels, table.location), None
        elif isinstance(table.labels, Labels):
            y, names = encode(table.labels, classes, table.location, table.columns)
        else:
            msg = f"{table.location(0)}: class labels must be (N,); got {table.labels.shape}"
            raise DataError(msg)
    return Dataset(table.x, y, names, path.name.partition(".")[0], table.columns)


def streamable(path: str | Path) -> bool:
    """Return whether the rows of a file with this name can be streamed."""
    return str(path).lower().endswith(STREAMABLE)


def open_rows(
    path: str | Path,
    label: str | int | None = "auto",
    like: Columns | None = None,
    row_numbers: RowNumbers = "drop",
) -> RowFile:
    """Open a file to stream its rows; ``label``, ``like`` and ``row_numbers`` as in :func:`read`.

    Raises DataError for a format, or a compression, that can only be read as a whole.
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
        return ParquetRows(path, Wanted(label, like, row_numbers))
    return open_stored(path, Wanted(label, like, row_numbers))


def _read_table(path: Path, wanted: Wanted, header: Header, delimiter: str | None) -> Table:
    name = path.name.lower()
    if re.search(r"\.(csv|tsv)(\.gz)?$", name):
        tabs = "\t" if ".tsv" in name else None
        return read_csv_table(path, wanted, header, delimiter or tabs)
    if re.search(r"(\.idx|ubyte)(\.gz)?$", name):
        return read_idx_table(path, wanted)
    if name.endswith(".npy"):
        return read_npy_table(path, wanted)
    if name.endswith(".npz"):
        return read_npz_table(path, wanted)
    if name.endswith(".parquet"):
        return read_parquet_table(path, wanted)
    msg = f"{path}: unknown format; known: .csv .tsv .npy .npz .parquet .idx and -ubyte"
    raise DataError(msg)
