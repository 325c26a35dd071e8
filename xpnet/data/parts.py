"""The parts into which the author of an archive or of a folder has divided the rows."""

import re
from collections.abc import Iterable
from typing import Literal

__all__ = ["PARTS", "Part", "folded", "part_of", "twin"]

Part = Literal["train", "validation", "test"]
# The words for each in the names of arrays and folders.
PARTS: dict[Part, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SEPARATORS = re.compile(r"[-_. ]")
TRAIN = re.compile("training|train")


def folded(name: str) -> str:
    """Return a name without capitals and separators, by which it is found.

    >>> folded("X_Train")
    'xtrain'
    """
    return SEPARATORS.sub("", name.lower())


def part_of(word: str) -> Part | None:
    """Return the part that a word names.

    >>> part_of("Valid"), part_of("cats")
    ('validation', None)
    """
    return next((part for part, words in PARTS.items() if word.lower() in words), None)


def twin(name: str, part: Part, names: Iterable[str]) -> str | None:
    """Return which of ``names`` is that of another part, given that of the training part.

    >>> twin("X_train", "test", ["X_train", "x_TEST"]), twin("x", "test", ["test_x"])
    ('x_TEST', 'test_x')
    """
    known = {folded(other): other for other in reversed([*names])}
    plain = folded(name)
    for word in PARTS[part]:
        swapped = TRAIN.sub(word, plain)
        for candidate in (swapped,) if swapped != plain else (plain + word, word + plain):
            if candidate in known:
                return known[candidate]
    return None
