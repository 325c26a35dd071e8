"""The sample in a terminal: an image in half blocks with the likeliest classes, or a row."""

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from xpnet.explanation import wording
from xpnet.explanation.model import Example
from xpnet.explanation.terminal_layout import flowed

__all__ = ["example"]

MOST_PIXELS = 32  # of a side; larger images are averaged
BAR = 24  # columns
HALVES = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}


def example(shown: Example) -> Iterator[Any]:
    """Yield the sample as people know it; nothing of rows without an image and without names."""
    from rich.text import Text

    if shown.columns:
        parts = [
            Text.assemble((f"{name} ", "dim"), value or "missing")
            for name, value in shown.columns[: wording.MOST_COLUMNS]
        ]
        more = len(shown.columns) - len(parts)
        yield from flowed([*parts, Text(f"and {more} more", "dim")] if more else parts, 3)
    if shown.picture is None:
        return
    picture = _half_blocks(shown.picture)
    width = len(picture[0])
    most = max((p for _, p in shown.answers), default=1.0)
    label = max((len(name) for name, _ in shown.answers), default=0)
    answers = [
        f"{name:<{label}}  {wording.number(p):>7}  {'█' * round(BAR * p / (most or 1.0)) or '▏'}"
        for name, p in shown.answers[: len(picture)]
    ]
    for line, answer in itertools.zip_longest(picture, answers, fillvalue=""):
        yield Text(f"   {line:<{width}}   {answer}".rstrip())


def _half_blocks(picture: np.ndarray) -> list[str]:
    """Return lines of an image, two rows of pixels each; light is what is above the middle."""
    grey = picture.mean(axis=2) if picture.ndim == 3 else picture
    step = -(-max(grey.shape) // MOST_PIXELS)
    H, W = (n // step * step for n in grey.shape)
    grey = grey[:H, :W].reshape(H // step, step, W // step, step).mean(axis=(1, 3))
    light = grey > (grey.min() + grey.max()) / 2
    light = np.vstack([light, np.zeros((len(light) % 2, light.shape[1]), bool)])
    pairs = zip(light[::2].tolist(), light[1::2].tolist(), strict=True)
    return ["".join(HALVES[pair] for pair in zip(*rows, strict=True)) for rows in pairs]
