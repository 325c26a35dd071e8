"""NumPy's .npz files: which of their arrays holds what, and the arrays.

Arrays are found by the names that people give them: x and y, those of scikit-learn's data sets
(data, target), of Keras (x_train, y_train, x_test, y_test) and of MedMNIST (train_images,
train_labels, val_images, ...). Without such names, as np.savez(file, x, y) writes arr_0 and arr_1,
the shapes tell, which is a guess and is said.
"""

import io
import zipfile
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from xpnet.data.arrays import guarded, labels_of, npy_header, read_npy, real
from xpnet.data.columns import Columns
from xpnet.data.files import check_declared_size, reading
from xpnet.data.labels import Table
from xpnet.data.parts import PARTS, Part, folded, twin
from xpnet.data.wanted import Wanted, only_train
from xpnet.errors import DataError

__all__ = ["Archive", "Arrays", "read_npz_table"]

FEATURES = ("x", "data", "features", "images", "inputs")
LABELS = ("y", "labels", "label", "target", "targets")
SHOWN = 10


class Arrays(NamedTuple):
    """The names of the arrays of one part."""

    x: str
    y: str | None


def read_npz_table(path: Path, wanted: Wanted) -> Table:
    """Read the features and the labels of a part of an archive; without labels, those of a row."""
    with reading(path) as file:
        archive = Archive(file, path)
        (x_key, y_key), columns = archive.find(wanted)
        where = f"{path}[{x_key}]"
        x = real(archive.read(x_key), where)
        if y_key is None:
            return Table(x, None, lambda row: f"{where}: row {row}", columns)
        y = archive.read(y_key)
    beside = f"{path}[{y_key}]"
    return Table(x, labels_of(y, len(x), beside), lambda row: f"{beside}: row {row}", columns)


def _rank(words: tuple[str, ...], name: str) -> int:
    """Return 0 for the words of the part that a name is of, 1 for those of none, else 2."""
    if words == ("",):
        return 1
    return 0 if name.startswith(words) or name.endswith(words) else 2


class Archive:
    """The arrays of an archive, by name."""

    def __init__(self, file: io.BufferedIOBase, path: Path) -> None:
        self._zip = guarded(lambda: zipfile.ZipFile(file), path, "not an .npz archive")
        self.path = path
        self.names = [name.removesuffix(".npy") for name in self._zip.namelist()]

    def find(self, wanted: Wanted) -> tuple[Arrays, Columns]:
        """Return the arrays of the part that is wanted, with what is to be said of them.

        Raises DataError that lists the arrays.
        """
        parts, guess = self.parts(wanted)
        if (arrays := parts.get(wanted.part)) is None:
            msg = f"{self.path}: no arrays of a {wanted.part} part; {self._held()}"
            raise DataError(msg)
        first = parts["train"]
        named = (first.x, first.y or "")
        return arrays, Columns((), arrays=named, guess=guess, notes=self._notes(parts, wanted))

    def parts(self, wanted: Wanted) -> tuple[dict[Part, Arrays], str]:
        """Return the arrays of each part, and why those are the labels, where it is a guess."""
        ours = wanted.like and wanted.like.arrays
        x = wanted.array or (ours and ours[0]) or ""
        chosen = "" if wanted.label in (None, "auto") else str(wanted.label)
        y = chosen or (ours and ours[1]) or ""
        guess = "" if y in self.names else "by its name"
        if wanted.array and x not in self.names:
            raise self._missing(what="features", keys=(x,))
        known = ours and ours[0] in self.names and wanted.label == "auto"
        of_run = ours[1] if ours and known else ""
        if (asked := chosen or of_run) and asked not in self.names:
            raise self._missing(what="labels", keys=(asked,))
        x = x if x in self.names else self._by_name(FEATURES)
        y = y if y in self.names else self._by_name(LABELS, beside=x)
        if not x and not y:
            x, y = self._by_shape()
            guess = "by its shape"
        if not x:
            raise self._missing(what="features", keys=FEATURES)
        if wanted.label is None:
            y = ""
        elif not y:
            raise self._missing(what="labels", keys=LABELS)
        return {"train": Arrays(x, y or None), **self._others(x, y)}, guess

    def _others(self, x: str, y: str) -> dict[Part, Arrays]:
        """Return the arrays of the other parts, which are named as those of the first."""
        found: dict[Part, Arrays] = {}
        for part in ("validation", "test"):
            other = twin(x, part, self.names)
            labels = twin(y, part, self.names) if y else None
            if other and other != x and bool(y) == bool(labels):
                found[part] = Arrays(other, labels)
        return found

    def _by_name(self, keys: tuple[str, ...], beside: str = "") -> str:
        """Return the array of such a name: of the training part, of no part, or of another.

        The labels are of the part of the features that they are ``beside``.
        """
        known = {folded(name): name for name in reversed(self.names)}
        orders = [PARTS["train"], ("",), PARTS["test"], PARTS["validation"]]
        if beside:
            orders.sort(key=lambda words: _rank(words, folded(beside)))
        for words in orders:
            for key in keys:
                for spelled in (s for word in words for s in (key + word, word + key)):
                    if spelled in known:
                        return known[spelled]
        return ""

    def _by_shape(self) -> tuple[str, str]:
        """Return the only array of rows and the only one with a label for each, or none."""
        shapes = {name: self._shape(name) for name in self.names if "/" not in name}
        flat = {n: s for n, s in shapes.items() if len(s) == 1 or s[1:] == (1,)}
        rows = [n for n, s in shapes.items() if len(s) > 1 and n not in flat]
        if len(rows) != 1:
            return "", ""
        labels = [n for n, s in flat.items() if s[0] == shapes[rows[0]][0]]
        return rows[0], labels[0] if len(labels) == 1 else ""

    def _shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array, () if it holds no numbers or texts."""
        try:
            info = self.entry(name)
            with self._zip.open(info) as file:
                stream = cast(io.BufferedIOBase, file)
                return npy_header(stream, info.file_size, name, in_memory=False, objects=True)[0]
        except (DataError, OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile):
            return ()

    def _notes(self, parts: dict[Part, Arrays], wanted: Wanted) -> tuple[str, ...]:
        """Say what the parts are, and what is not used."""
        if wanted.label is None or wanted.part != "train":
            return ()
        said = []
        if len(parts) > 1:
            named = "; ".join(f"{part} {', '.join(map(str, a))}" for part, a in parts.items())
            said.append(f"arrays of the archive: {named}{only_train(wanted)}")
        used = {name for arrays in parts.values() for name in arrays}
        if unused := [repr(name) for name in self.names if name not in used]:
            said.append(f"arrays that are not used: {', '.join(unused[:SHOWN])}")
        return tuple(said)

    def _missing(self, what: str, keys: tuple[str, ...]) -> DataError:
        setting = "label" if what == "labels" else "array"
        return DataError(
            f"{self.path}: no array of {what} (any of {', '.join(keys)}); {self._held()}",
            python=f'pass {setting}="NAME"',
            command=f"--set data.{setting}=NAME",
        )

    def _held(self) -> str:
        return f"it holds {', '.join(map(repr, self.names[:SHOWN])) or 'nothing'}"

    def entry(self, name: str) -> zipfile.ZipInfo:
        """Return the entry of the array that was passed to np.savez as ``name``."""
        stored = name + ".npy"
        return self._zip.getinfo(stored if stored in self._zip.namelist() else name)

    def read(self, name: str) -> np.ndarray:
        """Return an array; raises DataError if it is damaged, or too large."""
        where, info = f"{self.path}[{name}]", self.entry(name)
        known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        if info.compress_type not in known or info.flag_bits & 1:
            msg = f"{where}: encrypted, or compressed in another way than np.savez_compressed does"
            raise DataError(msg)
        deflated = info.compress_type == zipfile.ZIP_DEFLATED
        check_declared_size(where, info.file_size, info.compress_size, compressed=deflated)

        def whole() -> np.ndarray:
            with self._zip.open(info) as file:
                return read_npy(cast(io.BufferedIOBase, file), info.file_size, where)

        return guarded(whole, where, "cannot be read")
