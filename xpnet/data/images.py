"""Images of any of the usual formats, read with Pillow into one array.

All images have one size, or are resized to one that is given. They are grey if all of them are,
else red, green and blue; what changes a pixel (an orientation, a background, fewer bits) is said.
"""

import functools
import itertools
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpnet.data import files
from xpnet.data.arrays import guarded
from xpnet.data.columns import Columns
from xpnet.data.image_folder import find_images
from xpnet.data.labels import Labels, Table
from xpnet.data.wanted import Wanted, only_train
from xpnet.errors import DataError, require
from xpnet.prefetch import prefetch

__all__ = ["Mode", "read_image_table"]

# PPM, EPS, TIFF and others that Pillow knows are not opened, whatever a file's suffix.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")
MAX_PIXELS = 2**30 // 12  # of one image: Pillow's limit, about 89 million
GREY, DEEP, COLOUR = "L", "I;16", "RGB"  # Pillow's names
Mode = str
WORDS = {GREY: "grey", DEEP: "grey of 16 bits", COLOUR: "colour"}
LARGE, MOST_THREADS = 2**16, 8  # pixels on average from which threads are worth it
ORIENTED = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")  # in an image's info
ORIENTATION = 0x0112
FOLDER = "the folder"  # what the labels are called


class _Header(NamedTuple):
    """What an image is, before its pixels are read."""

    height: int
    width: int
    mode: Mode
    said: tuple[str, ...]  # what is done to it


def read_image_table(path: Path, wanted: Wanted) -> Table:
    """Read a folder of images with their classes, or without; or one image without.

    x is uint8 (N, height, width) of grey images or (N, height, width, 3), and uint16 of grey ones
    of 16 bits. Raises DataError that names the image, BackendError without Pillow.
    """
    if wanted.label not in (None, "auto", FOLDER):
        msg = f"{path}: the label of an image is the folder that it is in; got {wanted.label!r}"
        raise DataError(msg, python='label="auto"', command="leave --label out")
    found = find_images(path, wanted.part, wanted.label is not None, only_train(wanted))
    require("PIL", "images", "reading images")
    known = wanted.like.arrays[0] if wanted.like and wanted.like.arrays else None
    x, mode, notes = _read(found.files, known, wanted.image_size)
    columns = Columns(
        (), arrays=(mode, FOLDER if found.classes else ""), notes=(*notes, *found.notes)
    )
    labels = None
    if found.classes is not None:
        labels = Labels.of(np.array(found.classes))
    return Table(x, labels, lambda row: str(found.files[row]), columns)


def _read(
    paths: list[Path], known: Mode | None, size: Sequence[int] | None
) -> tuple[np.ndarray, Mode, list[str]]:
    """Return the images, their mode and what is to be said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of metadata; and what is too large is an error
        warnings.filterwarnings("error", "Image size", Warning)
        headers = [_header(path) for path in paths]
        height, width = _size(paths, headers, size)
        mode = _mode(paths, headers, known if known in WORDS else None)
        shape = (len(paths), height, width, *((3,) if mode == COLOUR else ()))
        x = _allocated(paths[0], shape, np.dtype(np.uint16 if mode == DEEP else np.uint8))
        one = functools.partial(_pixels, mode=mode, size=(height, width), resize=size is not None)
        large = sum(h.height * h.width for h in headers) > LARGE * len(headers)
        with _in_order(one, paths, _cores() if large else 1) as images:
            for row, image in zip(x, images, strict=True):
                row[...] = image
    counts = Counter(said for header in headers for said in header.said)
    notes = [f"images: {len(paths):,} of {height} x {width}, {WORDS[mode]}"]
    if mode == GREY and (coloured := sum(h.mode == COLOUR for h in headers)):
        notes.append(f"colour, read as grey as the images of the run: {coloured:,}")
    if resized := sum(h[:2] != (height, width) for h in headers):
        notes.append(f"resized to {height} x {width}, whatever their proportions: {resized:,}")
    return x, mode, [*notes, *(f"{said}: {n:,}" for said, n in sorted(counts.items()))]


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image, whose pixels are not read yet; all that can go wrong is a DataError."""
    from PIL import Image

    with files.reading(path) as file:
        where = str(path)
        image = guarded(lambda: Image.open(file, formats=FORMATS), where, "not an image")
        if image.width * image.height > MAX_PIXELS:
            msg = f"{where}: {image.height} x {image.width} pixels are more than {MAX_PIXELS}"
            raise DataError(msg)
        yield image


def _header(path: Path) -> _Header:
    with _opened(path) as image:
        return guarded(lambda: _describe(image), path, "not an image")


def _describe(image: Any) -> _Header:
    width, height = image.size
    said = []
    if _is_oriented(image):
        orientation = image.getexif().get(ORIENTATION, 1)
        if orientation in range(2, 9):
            said.append("turned or mirrored as their EXIF data say")
        if orientation in range(5, 9):
            width, height = height, width
    if getattr(image, "is_animated", False):
        said.append("animated, of which the first frame is read")
    if _is_transparent(image):
        said.append("transparent, laid on white")
    raw = str(image.tile[0][3]) if image.tile else ""
    mode = _mode_of(image)
    if "16" in raw and mode == COLOUR:
        said.append("of 16 bits a colour, of which 8 are read")
    return _Header(height, width, mode, tuple(said))


def _is_oriented(image: Any) -> bool:
    """Return whether an image may be on its side; to ask its EXIF data, all of it is read."""
    return any(key in image.info for key in ORIENTED)


def _is_transparent(image: Any) -> bool:
    return "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa")


def _mode_of(image: Any) -> Mode:
    if image.mode.startswith("I"):
        return DEEP
    if image.mode == "P":
        order, colours = image.palette.getdata()
        table = np.frombuffer(bytes(colours), np.uint8)
        table = table[: len(table) // len(order) * len(order)].reshape(-1, len(order))[:, :3]
        return GREY if (table == table[:, :1]).all() else COLOUR
    return GREY if image.mode in ("1", "L", "LA", "La") else COLOUR


def _size(paths: list[Path], headers: list[_Header], size: Sequence[int] | None) -> tuple[int, int]:
    """Return the height and width of all images; DataError names one that has others."""
    if size is not None:
        if len(size) != 2 or min(size) < 1:
            msg = f"image_size is height and width, both at least 1; got {list(size)}"
            raise DataError(msg, python="image_size=[H, W]", command="--set data.image_size=[H,W]")
        return size[0], size[1]
    height, width = headers[0][:2]
    for path, header in zip(paths, headers, strict=True):
        if header[:2] != (height, width):
            msg = (
                f"{path}: {header.height} x {header.width} pixels (height x width), where "
                f"{paths[0]} has {height} x {width}; give all images one size"
            )
            given = f"[{height}, {width}]"
            raise DataError(
                msg,
                python=f"image_size={given} resizes them",
                command=f"--set data.image_size={given.replace(' ', '')} resizes them",
            )
    return height, width


def _mode(paths: list[Path], headers: list[_Header], known: Mode | None) -> Mode:
    """Return the mode in which all images are read: that of a run if it is ``known``."""
    expected = known or headers[0].mode
    for path, header in zip(paths, headers, strict=True):
        if (header.mode == DEEP) != (expected == DEEP):
            whose = "the images of the run are" if known else f"{paths[0]} is"
            msg = f"{path}: is {WORDS[header.mode]}, where {whose} {WORDS[expected]}; "
            raise DataError(msg + "save all of them with as many bits")
    if known is not None:
        return known
    return COLOUR if any(header.mode == COLOUR for header in headers) else expected


def _allocated(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    nbytes = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if nbytes > files.MAX_BYTES:
        msg = (
            f"{path}: {shape[0]:,} images of {shape[1]} x {shape[2]} pixels take {nbytes:,} bytes, "
            f"more than {files.MAX_BYTES:,}; make them smaller"
        )
        raise DataError(msg, python="image_size=[H, W]", command="--set data.image_size=[H,W]")
    return np.empty(shape, dtype)


@contextmanager
def _in_order(
    read: Callable[[Path], np.ndarray], paths: list[Path], threads: int
) -> Iterator[Iterable[np.ndarray]]:
    """Give ``read(path)`` for each path, in order, from some threads; Pillow runs beside Python."""
    if threads == 1:
        yield map(read, paths)
        return
    streams = [prefetch(map(read, paths[k::threads]), depth=2) for k in range(threads)]
    turns = itertools.cycle(streams)
    try:
        yield (next(turn) for turn, _ in zip(turns, paths, strict=False))
    finally:
        for stream in streams:
            stream.close()  # type: ignore[attr-defined]  # a generator, whose thread ends then


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return min(MOST_THREADS, len(affinity(0)) if affinity else os.cpu_count() or 1)


def _pixels(path: Path, mode: Mode, size: tuple[int, int], resize: bool) -> np.ndarray:
    """Return the pixels of an image, (height, width) or (height, width, 3)."""
    with _opened(path) as image:
        if resize:  # a JPEG is decoded at a fraction of its size, as large as twice this one
            image.draft(None, (2 * max(size), 2 * max(size)))
        x = guarded(lambda: _converted(image, mode, size if resize else None), path, "damaged")
    if x.shape[:2] != size:
        msg = f"{path}: its orientation is told after its pixels; save it again"
        raise DataError(msg)
    return x


def _converted(image: Any, mode: Mode, size: tuple[int, int] | None) -> np.ndarray:
    """Return the pixels upright, on white, in a mode and of a size."""
    from PIL import Image, ImageOps

    image.load()
    if _is_oriented(image):
        image = ImageOps.exif_transpose(image)
    if mode != DEEP and _is_transparent(image):
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image.convert("RGBA"))
        image = ground
    if mode != DEEP:
        image = image.convert(mode)
    elif size is not None:
        image = image.convert("F")  # 16 bits are not resized by every version of Pillow
    if size is not None and image.size != size[::-1]:
        image = image.resize(size[::-1], Image.Resampling.LANCZOS, reducing_gap=3.0)
    x = np.asarray(image)
    return x if mode != DEEP else np.clip(np.rint(x), 0, 2**16 - 1)
