"""Tables to compare whole libraries on: what each asks, and its seeded splits as CSV files.

A table comes from a folder of files or from scikit-learn. All peers get the same two files: one of
the training rows, and one of the test rows without their labels.
"""

import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np

from xpnet.errors import BackendError, ConfigError
from xpnet.settings import did_you_mean

__all__ = [
    "SHORT",
    "TABLES",
    "Split",
    "Table",
    "installed",
    "tables_named",
    "write_split",
]

Task = Literal["classification", "regression"]
TEST = 0.25  # of the rows
SHORT = ("iris", "sonar", "penguins", "mpg")
REPEATED = 3  # fits, with seeds of their own, of a table that has a split of its own


@dataclass(frozen=True)
class Table:
    """A table and the question asked of it.

    ``source`` is a file below the folder of tables, or the name of scikit-learn's ``load_NAME``.
    ``ignore`` are columns that give the answer away or name the row.
    """

    name: str
    source: str
    task: Task = "classification"
    label: int = -1  # position of the label column
    header: bool = False
    ignore: tuple[str, ...] = ()
    train_rows: int | None = None  # the usual split of the table: its first rows

    @property
    def is_file(self) -> bool:
        """Whether the table is a file."""
        return "." in self.source

    def frame(self, folder: Path) -> tuple[Any, list[str]]:
        """Return a data frame, texts as in the file, and the names of its label columns.

        Raises ConfigError where there is no such file.
        """
        return _frame(self, folder)

    def splits(self, count: int, folder: Path) -> "Iterator[Split]":
        """Yield ``count`` splits, of seeds 0, 1, ...: a quarter of the rows for testing.

        Stratified for classes. A table with a usual split has that one, at most three times.
        """
        frame, labels = self.frame(folder)
        rows = np.arange(len(frame))
        if self.train_rows is not None:
            for seed in range(min(count, REPEATED)):
                yield Split(self, seed, rows[: self.train_rows], rows[self.train_rows :])
            return
        selection = installed("sklearn.model_selection")
        classes = frame[labels[0]] if self.task == "classification" else None
        for seed in range(count):
            train, test = selection.train_test_split(
                rows, test_size=TEST, random_state=seed, stratify=classes
            )
            yield Split(self, seed, np.sort(train), np.sort(test))


_NUMERIC = ("wine", "wheat-seeds", "glass", "new-thyroid", "sonar", "ecoli")
_WINES = tuple(
    Table(f"{colour}-{'grades' if task == 'classification' else 'values'}",
          f"wine-quality/winequality-{colour}.csv", task)
    for colour in ("red", "white") for task in ("classification", "regression")
)  # fmt: skip
_ALL: tuple[Table, ...] = (
    Table("iris", "tables/iris.csv", header=True),
    *(Table(name, f"tables/{name}.csv") for name in _NUMERIC),
    Table("penguins", "tables/penguins.csv", label=0, header=True),
    Table("titanic", "tables/titanic.csv", label=0, header=True, ignore=("alive",)),
    *(Table(name, f"tables/{name}.csv") for name in ("breast-cancer", "german", "horse-colic")),
    Table("letter", "letter/letter-recognition.data", label=0, train_rows=16_000),
    Table("breast_cancer", "breast_cancer"),
    Table("digits", "digits"),
    *_WINES,
    Table("mpg", "tables/mpg.csv", "regression", label=0, header=True, ignore=("name",)),
    Table("abalone", "tables/abalone.csv", "regression"),
    Table("auto_imports", "tables/auto_imports.csv", "regression"),
    Table("diabetes", "diabetes", "regression"),
    Table("linnerud", "linnerud", "regression"),
)
# scikit-learn's iris and wine are among the files.
TABLES = {table.name: table for table in _ALL}


def installed(module: str) -> ModuleType:
    """Import what a comparison needs besides xpnet; raises BackendError where it is not there."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = {"sklearn": "scikit-learn"}.get(module.partition(".")[0], module.partition(".")[0])
        msg = f"not installed ({error}): pip install {name}"
        raise BackendError(msg) from None


def tables_named(names: Sequence[str], tables: Mapping[str, Table] = TABLES) -> list[Table]:
    """Return those of the tables that have these names, all for none; raises ConfigError."""
    for name in names:
        if name not in tables:
            msg = f"unknown table {name!r}; {did_you_mean(name, tables)}"
            raise ConfigError(msg)
    return [tables[name] for name in names or tables]


@functools.lru_cache(maxsize=2)
def _frame(table: Table, folder: Path) -> tuple[Any, list[str]]:
    if not table.is_file:
        datasets = installed("sklearn.datasets")
        loaded = getattr(datasets, f"load_{table.source}")(as_frame=True)
        return loaded.frame, list(loaded.frame.columns[loaded.data.shape[1] :])
    pandas = installed("pandas")
    path = folder / table.source
    if not path.is_file():
        msg = f"no table {str(path)!r}: name the folder that holds it by --data"
        raise ConfigError(msg)
    quote = "'" if path.read_bytes()[:1] == b"'" else '"'
    header = 0 if table.header else None
    frame = pandas.read_csv(path, header=header, dtype=str, keep_default_na=False, quotechar=quote)
    frame = frame.replace("?", "")  # one sign of what is missing, which all peers know
    frame.columns = [str(c) if table.header else f"column_{c + 1}" for c in frame.columns]
    label = frame.columns[table.label]
    return frame.drop(columns=list(table.ignore)), [label]


class Split(NamedTuple):
    """A table's rows to train on and to test on, as row numbers."""

    table: Table
    seed: int
    train: np.ndarray
    test: np.ndarray


def write_split(split: Split, folder: Path, into: Path) -> Any:
    """Write ``train.csv``, and ``test.csv`` without labels; return the labels of the test rows."""
    frame, labels = split.table.frame(folder)
    frame.iloc[split.train].to_csv(into / "train.csv", index=False)
    test = frame.iloc[split.test]
    test.drop(columns=labels).to_csv(into / "test.csv", index=False)
    y = test[labels].to_numpy()
    return y[:, 0].astype(str) if split.table.task == "classification" else y.astype(float)
