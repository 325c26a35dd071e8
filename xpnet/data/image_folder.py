"""Folders of images: which files are read, in which order, and of which class each is.

FOLDER/class/image.png, or FOLDER/train/class/image.png with test and val beside train; a folder of
images without classes can be predicted. Nothing outside the folder is read, and what is skipped is
counted.
"""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from xpnet.data.files import existing
from xpnet.data.parts import Part, part_of
from xpnet.errors import DataError

__all__ = ["SUFFIXES", "Found", "find_images", "folder_parts", "is_images"]

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp")
SHOWN = 5
LAYOUT = "put the images of each class into a folder of its own, FOLDER/CLASS/IMAGE.png"


class Found(NamedTuple):
    """Image files in the order in which they are read; ``classes`` is None without labels."""

    files: list[Path]
    classes: list[str] | None  # the folder that each file is in
    notes: tuple[str, ...]


def is_images(path: str | Path) -> bool:
    """Return whether a path is a folder, or has the suffix of an image."""
    path = Path(path)
    return path.suffix.lower() in SUFFIXES or path.is_dir()


def find_images(path: Path, part: Part = "train", labelled: bool = True, only: str = "") -> Found:
    """Return the images of a part of a folder, sorted by class and name, or one image file.

    Without labels, all images in the folder. ``only`` is what is said of the parts beside their
    names. Raises DataError where there are no images.
    """
    if not path.is_dir():
        if labelled:
            msg = f"{path}: one image has no label; {LAYOUT}"
            raise DataError(msg)
        return Found([existing(path)], None, ())
    skipped: Counter[str] = Counter()
    if not labelled:
        files = _images(path, path, skipped)
        if not files:
            raise _no_images(path)
        return Found(files, None, _said(skipped, []))
    parts = folder_parts(path)
    if part not in parts:
        msg = f"{path}: no folder for a {part} part with folders of classes"
        raise DataError(msg)
    found = _by_class(parts[part], path, skipped)
    if part != "train" or len(parts) == 1:
        return found
    named = ", ".join(f"{part} {folder.name}" for part, folder in parts.items())
    return found._replace(notes=(f"folders of parts: {named}{only}", *found.notes))


def folder_parts(path: Path) -> dict[Part, Path]:
    """Return the folder of each part; a folder that is not divided is the training part."""
    named: dict[Part, Path] = {}
    for folder in _folders(path):
        part = part_of(folder.name)
        if part is None or not any(_has_images(inner) for inner in _folders(folder)):
            continue
        if part in named:
            msg = f"{path}: {named[part].name} and {folder.name} are both the {part} part"
            raise DataError(msg)
        named[part] = folder
    if "train" not in named:
        return {"train": path}
    order: tuple[Part, ...] = ("train", "validation", "test")
    return {part: named[part] for part in order if part in named}


def _by_class(folder: Path, root: Path, skipped: Counter[str]) -> Found:
    found = {inner.name: _images(inner, root, skipped) for inner in _folders(folder)}
    empty = [name for name, files in found.items() if not files]
    found = {name: files for name, files in found.items() if files}
    for entry in _entries(folder):
        if not entry.is_dir(follow_symlinks=False):
            loose = _kind(entry, root) or "images outside the folders of classes"
            skipped[loose] += 1
    if not found:
        if skipped["images outside the folders of classes"]:
            msg = f"{folder}: its images have no labels; {LAYOUT}"
            raise DataError(msg)
        raise _no_images(folder)
    for name in found:
        if name.encode("utf-8", "ignore").decode("utf-8") != name:
            msg = f"{folder}: the name of the folder {name!a} is not UTF-8; rename it"
            raise DataError(msg)
    if all(part_of(name) for name in found):
        msg = f"{folder}: {_listed([*found])} have no folders of classes; {LAYOUT}, in each of them"
        raise DataError(msg)
    if len(found) == 1 and any(_has_images(i) for i in _folders(folder / next(iter(found)))):
        msg = f"{folder}: all images are in {next(iter(found))}; name {folder / next(iter(found))}"
        raise DataError(msg)
    files = [file for of_class in found.values() for file in of_class]
    classes = [name for name, of_class in found.items() for _ in of_class]
    return Found(files, classes, _said(skipped, empty))


def _images(folder: Path, root: Path, skipped: Counter[str]) -> list[Path]:
    """Return the images in a folder and the folders in it, by name; count what else there is."""
    files: list[Path] = []
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            files += [] if entry.name.startswith(".") else _images(Path(entry), root, skipped)
        elif kind := _kind(entry, root):
            skipped[kind] += 1
        else:
            files.append(Path(entry))
    return files


def _has_images(folder: Path) -> bool:
    """Return whether there is an image in a folder or in a folder in it."""
    entries = _entries(folder)
    if any(_is_image(e.name) and not e.is_dir(follow_symlinks=False) for e in entries):
        return True
    return any(_has_images(inner) for inner in _folders(folder))


def _kind(entry: "os.DirEntry[str]", root: Path) -> str:
    """Return why a file is skipped, "" if it is read."""
    if entry.name.startswith("."):
        return "hidden files"
    if entry.is_symlink() and not _leads_inside(Path(entry), root):
        return "links out of the folder or to folders"
    if not _is_image(entry.name) or not entry.is_file():
        return "files that are no images"
    return ""


def _leads_inside(link: Path, root: Path) -> bool:
    """Return whether a link leads to what is no folder and in ``root``."""
    try:
        target = link.resolve()
        return not target.is_dir() and target.is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link to itself
        return False


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES)


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        msg = f"{folder}: cannot be read: {error.strerror}"
        raise DataError(msg) from error


def _folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, by name, without hidden ones and links."""
    entries = [e for e in _entries(folder) if e.is_dir(follow_symlinks=False)]
    return [Path(entry) for entry in entries if not entry.name.startswith(".")]


def _no_images(path: Path) -> DataError:
    return DataError(f"{path}: is a folder without images ({' '.join(SUFFIXES)}); name a file")


def _said(skipped: Counter[str], empty: list[str]) -> tuple[str, ...]:
    """Say what was not read."""
    said = []
    if skipped:
        said.append("skipped: " + ", ".join(f"{n:,} {kind}" for kind, n in skipped.items()))
    if empty:
        said.append(f"folders without images, which are no classes: {_listed(empty)}")
    return tuple(said)


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (", ..." if len(names) > SHOWN else "")
