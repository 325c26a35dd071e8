"""Reading a data set from a file in any known format, or from a table in memory."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from xpnet.data.archive import read_npz_table
from xpnet.data.arrays import read_npy_table
from xpnet.data.columns import Columns, MissingLabels, RowNumbers, number
from xpnet.data.dataset import Dataset
from xpnet.data.files import existing, memory_errors
from xpnet.data.idx import read_idx_table
from xpnet.data.image_folder import is_images
from xpnet.data.images import read_image_table
from xpnet.data.kinds import giveaways
from xpnet.data.labels import Table, check_finite, check_weights, without_missing
from xpnet.data.outcomes import outcomes
from xpnet.data.parts import Part
from xpnet.data.row_file import RowFile
from xpnet.data.stored import open_stored
from xpnet.data.table_file import TableRows
from xpnet.data.table_rows import table_of
from xpnet.data.tables import STREAMABLE, Header, TextFormat, is_table, of_arrow, read_table
from xpnet.data.wanted import Column, Label, Task, Wanted, refuse_kinds
from xpnet.errors import DataError, how_to_import

__all__ = ["Task", "open_rows", "read", "streamable"]

AS_IT_IS = TextFormat()  # found out
STORED = (".npy", ".npz", ".idx", "ubyte")


def read(
    source: Any,
    *,
    label: Label = "auto",
    header: Header = "auto",
    text: TextFormat = AS_IT_IS,
    task: Task | Literal["auto"] = "auto",
    classes: Sequence[str] | None = None,
    like: Columns | None = None,
    missing_labels: MissingLabels = "refuse",
    row_numbers: RowNumbers = "drop",
    ignore: Sequence[Column] = (),
    numeric: Sequence[Column] = (),
    category: Sequence[Column] = (),
    weight: Column | None = None,
    array: str | None = None,
    part: Part = "train",
    image_size: Sequence[int] | None = None,
) -> Dataset:
    """Read a data set from a file, whose suffix determines its format, or from a table in memory.

    ==================== ======================================= ==============================
    suffix               features                                labels with ``label="auto"``
    ==================== ======================================= ==============================
    tables: .csv .tsv    every other column                      column label, class, target or
    .txt .data .parquet                                          y, else the last
    .feather .jsonl ...
    .npy                 every other column                      the last column
    .npz                 array x, data, features, images or      array y, label(s) or target(s),
                         inputs, or such with train              also with train
    .idx -ubyte (or .gz) the array                               the file beside it with labels
                                                                 for images in its name
    a folder, .png .jpg  the images in it, or the one image:     the folder that an image is in
    .bmp .gif .webp      uint8 (N, height, width), and 3
                         colours if not all are grey
    ==================== ======================================= ==============================

    A table in memory is one of pandas, polars, pyarrow or another library that speaks Arrow.
    ``label`` chooses another column (by name or position), several of them, an array or a file;
    None reads rows without labels. ``header`` and ``text`` override what is inferred from a text
    file. ``ignore``, ``numeric`` and ``category`` name columns whose kind is not to be guessed
    (xpnet/data/kinds.py), ``weight`` the one with the weights of the rows.

    ``array`` chooses the features of an .npz file. Images have one size, or are resized to
    ``image_size``, height and width. An archive or folder may be divided into parts, such as
    x_train, y_train, x_test and y_test, or FOLDER/train and FOLDER/test: ``part`` says which is
    read, and :func:`read_parts` reads all of them.

    The ``task`` "auto" is what the labels are: classes where they are texts, true or false, or few
    whole numbers, else the targets of a regression, float64; several columns of 0 and 1 are a
    one-hot class, or several labels of a row. ``classes`` are those of a trained model: labels are
    looked up among them.

    ``like`` are the columns of a table that was read before, by which those of this one are found.
    Columns that number the rows are left out unless ``row_numbers`` is "keep"; rows without a label
    are an error unless ``missing_labels`` is "drop". ``columns`` of the result has all of that.

    Raises DataError that names the file and the location in it.
    """
    of_columns = (tuple(ignore), tuple(numeric), tuple(category), weight)
    wanted = Wanted(label, like, row_numbers, missing_labels, *of_columns, array, part, image_size)
    if isinstance(source, str | Path):
        path = Path(source) if is_images(source) else existing(source)
        name = path.resolve().name if path.is_dir() else path.name.partition(".")[0]
        name += "" if part == "train" else f" {part}"
        with memory_errors(path):
            return _data_set(_read_table(path, wanted, header, text), name, task, classes, wanted)
    table = table_of(of_arrow(source), "table", wanted)
    return _data_set(table, "table", task, classes, wanted)


def _data_set(
    table: Table,
    name: str,
    task: Task | Literal["auto"],
    classes: Sequence[str] | None,
    wanted: Wanted,
) -> Dataset:
    if wanted.missing_labels == "drop":
        table = without_missing(table)
    if table.weight is not None:
        check_weights(table.weight, table.location)
    columns, names = table.columns, None if classes is None else tuple(classes)
    if not (columns and columns.kinds):
        check_finite(table)
    if table.labels is None:
        return Dataset(table.x, None, names, name, columns, table.weight)
    found = outcomes(table, task, classes)
    if columns is not None and wanted.like is None:
        columns = columns.noting(*found.notes, *giveaways(table.x, found.y, columns))
    return Dataset(
        table.x, found.y, found.classes, name, columns, table.weight, found.targets,
        multilabel=found.task == "multilabel",
    )  # fmt: skip


def streamable(path: str | Path) -> bool:
    """Return whether the rows of a file with this name can be streamed."""
    return str(path).lower().endswith((*STORED, *STREAMABLE))


def open_rows(
    path: str | Path,
    label: Label = "auto",
    like: Columns | None = None,
    row_numbers: RowNumbers = "drop",
    *,
    header: Header = "auto",
    text: TextFormat = AS_IT_IS,
    task: Task | Literal["auto"] = "auto",
    missing_labels: MissingLabels = "refuse",
    ignore: Sequence[Column] = (),
    numeric: Sequence[Column] = (),
    category: Sequence[Column] = (),
    weight: Column | None = None,
    array: str | None = None,
    part: Part = "train",
    image_size: Sequence[int] | None = None,
) -> RowFile:
    """Open a file to stream its rows; the arguments are those of :func:`read`.

    Rows without a label and weights are for rows in memory. Raises DataError for them, and for a
    format, or a compression, that can only be read as a whole.
    """
    path = existing(path)
    if not streamable(path):
        known = " ".join((*STORED, *STREAMABLE))
        msg = f"{path}: cannot be streamed; known: {known}, not compressed"
        raise DataError(
            msg,
            python="save it as one of them, or read(path)",
            command="save it as one of them, or --set data.stream=no",
        )
    of_columns = (tuple(ignore), tuple(numeric), tuple(category), weight)
    wanted = Wanted(label, like, row_numbers, missing_labels, *of_columns, array, part, image_size)
    if wanted.missing_labels == "drop" or wanted.weight is not None:
        msg = f"{path}: weights, and missing labels that are dropped, are for rows in memory"
        raise DataError(msg, python="read(path)", command="--set data.stream=no")
    if str(path).lower().endswith(STREAMABLE):
        return TableRows(path, wanted, _as_in_the_run(text, like), header, task)
    refuse_kinds(path, wanted)
    return open_stored(path, wanted)


def _as_in_the_run(text: TextFormat, like: Columns | None) -> TextFormat:
    """Return how a text file is written, its dates in the order of those of the run."""
    return text if like is None or text.dates != "auto" else replace(text, dates=like.dates)


def _read_table(path: Path, wanted: Wanted, header: Header, text: TextFormat) -> Table:
    name = path.name.lower()
    if not is_table(path) and not name.endswith(".npy"):
        refuse_kinds(path, wanted)
    if is_images(path):
        return read_image_table(path, wanted)
    if re.search(r"(\.idx|ubyte)(\.gz)?$", name):
        return read_idx_table(path, wanted)
    if name.endswith(".npy"):
        return read_npy_table(path, wanted)
    if name.endswith(".npz"):
        return read_npz_table(path, wanted)
    if is_table(path):
        raw = read_table(path, _as_in_the_run(text, wanted.like), header, wanted.is_header)
        numbers = [name for name in raw.names or () if number(name) is not None]
        if header == "auto" and wanted.like is None and len(numbers) > 1:
            note = f"the first row ({numbers[0]}, {numbers[1]}, ...) is taken for a header: "
            note += "data.header = 'no' reads it as values"
            raw = replace(raw, notes=(note, *raw.notes))
        return table_of(raw, path, wanted)
    if remedy := how_to_import(path):
        msg = f"{path} is a model, not a table"
        raise DataError(msg, **remedy)
    msg = f"{path}: unknown format; known: .csv .tsv .txt .data .parquet .feather .jsonl .arff "
    raise DataError(msg + ".libsvm .npy .npz .idx and -ubyte")
