"""Files and folders that their author has divided into training, validation and test rows."""

from pathlib import Path
from typing import Any, NamedTuple

from xpnet.data.archive import Archive
from xpnet.data.dataset import Dataset
from xpnet.data.files import reading
from xpnet.data.image_folder import folder_parts
from xpnet.data.parts import Part
from xpnet.data.read import read
from xpnet.data.wanted import Task, Wanted

__all__ = ["Parts", "parts_of", "read_parts"]


class Parts(NamedTuple):
    """The parts of a data set; all rows are the first where it is not divided."""

    train: Dataset
    validation: Dataset | None = None
    test: Dataset | None = None


def read_parts(source: Any, **options: Any) -> Parts:
    """Read all parts of what :func:`read` reads; ``options`` are those of it.

    The columns and classes are those of the training part. Raises DataError as :func:`read`, also
    for a label of another part that is not among the classes.
    """
    train = read(source, **options)
    wanted = Wanted(options.get("label", "auto"), options.get("like"), array=options.get("array"))
    options |= {"like": train.columns, "classes": train.classes}
    if train.y is not None:  # what "auto" has found holds for all parts
        options["task"] = _task(train)
    others = [part for part in parts_of(source, wanted) if part != "train"]
    return Parts(train, **{part: read(source, part=part, **options) for part in others})


def _task(dataset: Dataset) -> Task:
    if dataset.multilabel:
        return "multilabel"
    return "regression" if dataset.classes is None else "classification"


def parts_of(source: Any, wanted: Wanted | None = None) -> list[Part]:
    """Return the parts of a file, folder or table: one that is not divided is a training part."""
    if not isinstance(source, str | Path):
        return ["train"]
    path, wanted = Path(source), wanted or Wanted()
    if path.is_dir():
        return ["train"] if wanted.label is None else [*folder_parts(path)]
    if path.suffix.lower() != ".npz":
        return ["train"]
    with reading(path) as file:
        return [*Archive(file, path).parts(wanted)[0]]
