"""Public data sets by name: one is part of the package, two are found on disk or downloaded."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from xpnet.cache import cache_folder
from xpnet.data.dataset import Dataset
from xpnet.data.idx import read_idx
from xpnet.data.read import read
from xpnet.errors import DataError
from xpnet.settings import did_you_mean

__all__ = ["NAMES", "load_named"]

DIGITS = tuple("0123456789")
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
FILES = {  # name -> shape of the array
    "train-images-idx3-ubyte": (60_000, 28, 28),
    "train-labels-idx1-ubyte": (60_000,),
    "t10k-images-idx3-ubyte": (10_000, 28, 28),
    "t10k-labels-idx1-ubyte": (10_000,),
}


@dataclass(frozen=True)
class Source:
    """Where to download a data set in the layout of MNIST; ``sha256`` is of the .gz files."""

    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    sha256: tuple[str, str, str, str]  # in the order of FILES


SOURCES = {
    "mnist": Source(
        DIGITS,
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": Source(
        CLOTHES,
        ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
}
NAMES = ("digits", *SOURCES)


def load_named(
    name: str, data_dir: str | Path | None = None, *, download: bool = True
) -> tuple[Dataset, Dataset | None]:
    """Return the training part and the test part, or None if the data set has no test part.

    - ``digits``: 1797 images of 8 x 8, as rows of 64 values 0 ... 16; it is part of the package.
    - ``mnist`` and ``fashion-mnist``: 60,000 and 10,000 images (28, 28) of values 0 ... 255. The
      four IDX files, .gz or not, are searched for in ``data_dir``, in the folder XPNET_DATA_DIR
      (in the subfolder ``name`` of each first) and in the cache (or XPNET_CACHE_DIR). If they are
      not found, they are downloaded to the cache and their SHA-256 is checked.

    Raises DataError if the name is unknown, or the files are damaged or cannot be found.
    """
    if name == "digits":
        return replace(read(Path(__file__).with_name("digits.npz")), columns=None), None
    if name not in SOURCES:
        msg = f"unknown data set {name!r}; {did_you_mean(name, NAMES)}"
        raise DataError(msg)
    if data_dir is not None and not Path(data_dir).is_dir():
        msg = f"{data_dir}: no such folder to look for {name} in"
        raise DataError(msg)
    searched = []
    for folder in _folders(name, data_dir):
        found = _find(folder)
        if found is not None:
            return _load(name, found)
        searched.append(str(folder))
    if not download:
        raise _not_found(name, searched, "downloads are off")
    return _load(name, _download(name, searched))


def _folders(name: str, data_dir: str | Path | None) -> Iterator[Path]:
    """Yield the folders to search, lazily: the default cache is known only to pooch."""
    for root in (data_dir, os.environ.get("XPNET_DATA_DIR")):
        if root:
            yield Path(root) / name
            yield Path(root)
    yield cache_folder() / name


def _find(folder: Path) -> list[Path] | None:
    """Return the four files in a folder, None if it has none; DataError if some are missing."""
    candidates = [(folder / f, folder / f"{f}.gz") for f in FILES]
    found = [next((p for p in pair if p.is_file()), None) for pair in candidates]
    paths = [p for p in found if p is not None]
    if 0 < len(paths) < len(FILES):
        missing = [pair[1].name for pair, p in zip(candidates, found, strict=True) if p is None]
        msg = f"{folder}: has {paths[0].name} but lacks {', '.join(missing)}"
        raise DataError(msg)
    return paths or None


def _load(name: str, paths: list[Path]) -> tuple[Dataset, Dataset]:
    arrays = [read_idx(path) for path in paths]
    for path, array, shape in zip(paths, arrays, FILES.values(), strict=True):
        if array.shape != shape or array.dtype != np.uint8:
            msg = f"{path}: {array.dtype} of shape {array.shape}; {name} has uint8 of {shape}"
            raise DataError(msg)
        if array.ndim == 1 and (largest := array.max()) > 9:
            row = int(array.argmax())
            msg = f"{path}: row {row}: label {largest}; {name} has the classes 0 to 9"
            raise DataError(msg)
    classes = SOURCES[name].classes
    x, y, x_test, y_test = arrays
    train = Dataset(x, y.astype(np.int32), classes, name)
    return train, Dataset(x_test, y_test.astype(np.int32), classes, f"{name} test")


def _download(name: str, searched: list[str]) -> list[Path]:
    import pooch

    source, paths = SOURCES[name], []
    for file, sha256 in zip(FILES, source.sha256, strict=True):
        for mirror in source.mirrors:
            try:
                path = pooch.retrieve(
                    mirror + file + ".gz",
                    known_hash=f"sha256:{sha256}",
                    fname=file + ".gz",
                    path=cache_folder() / name,
                    downloader=pooch.HTTPDownloader(timeout=30),
                )
            except (OSError, ValueError) as error:  # no connection or no space; wrong checksum
                reason = f"{mirror}: {type(error).__name__}"
            else:
                paths.append(Path(path))
                break
        else:
            raise _not_found(name, searched, f"the download failed ({reason})")
    return paths


def _not_found(name: str, searched: list[str], reason: str) -> DataError:
    return DataError(
        f"{name}: not in {', '.join(searched)}, and {reason}",
        python="name the folder of its four IDX files with data_dir= or XPNET_DATA_DIR",
        command="name the folder of its four IDX files with --data-dir or XPNET_DATA_DIR",
    )
