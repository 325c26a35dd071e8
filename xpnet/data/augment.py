"""Data augmentation: random changes to the training rows."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from xpnet.data.batches import Shuffle
from xpnet.errors import ConfigError
from xpnet.random import generator
from xpnet.settings import Checked, NonNegativeFloat, NonNegativeInt

__all__ = ["Augment", "Some"]


class Some(NamedTuple):
    """Some rows of a batch of ``rows``, by their positions."""

    rows: int
    positions: np.ndarray


@dataclass(frozen=True)
class Augment(Checked):
    """Random changes to the rows of a training batch, which depend on (seed, epoch, batch) alone.

    >>> Augment(shift=1).move_images(np.eye(3)[None], np.random.default_rng(0))[0]
    array([[0., 1., 0.],
           [0., 0., 1.],
           [0., 0., 0.]])
    """

    shift: NonNegativeInt = 0  # by at most so many pixels each way; the border is 0
    flip: bool = False  # mirror left to right, with probability 1/2
    noise: NonNegativeFloat = 0.0  # standard deviation, added after scaling

    def __bool__(self) -> bool:
        return any(vars(self).values())  # the defaults are 0 and False

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ConfigError if rows of ``shape`` are not images, but images are to be moved."""
        if (self.shift or self.flip) and len(shape) < 2:
            msg = f"data.augment moves images (height, width); got rows of shape {shape}"
            raise ConfigError(
                msg,
                python="pass shift=0 and flip=False, or rows that are images",
                command="--set data.augment.shift=0 --set data.augment.flip=false, or save images",
            )

    def generator(self, shuffle: Shuffle, batch: int) -> np.random.Generator:
        """Return the generator of one batch."""
        return generator(shuffle.seed, "augment", shuffle.epoch, batch)

    def move_images(
        self, x: np.ndarray, rng: np.random.Generator, of: Some | None = None
    ) -> np.ndarray:
        """Return images (n, H, W, ...), shifted and flipped.

        ``of`` says which ones of a batch they are, whose numbers are drawn for all of it: an image
        is changed in the same way whoever has the others.
        """
        N, own = of or (len(x), slice(None))
        if self.shift:
            edges = [(0, 0), (self.shift, self.shift), (self.shift, self.shift)]
            wide = np.pad(x, edges + [(0, 0)] * (x.ndim - 3))
            windows = np.lib.stride_tricks.sliding_window_view(wide, x.shape[1:3], axis=(1, 2))
            down, right = rng.integers(0, 2 * self.shift + 1, (2, N))
            # The axes of the window come last, after the channels.
            moved = windows[np.arange(len(x)), down[own], right[own]]
            x = np.moveaxis(moved, (-2, -1), (1, 2))
        if self.flip:
            flipped = rng.random(N)[own] < 0.5
            x = np.where(flipped.reshape(-1, *[1] * (x.ndim - 1)), x[:, :, ::-1], x)
        return x

    def add_noise(
        self, x: np.ndarray, rng: np.random.Generator, of: Some | None = None
    ) -> np.ndarray:
        """Return scaled rows with noise added; ``of`` is as for :meth:`move_images`."""
        if not self.noise:
            return x
        N, own = of or (len(x), slice(None))
        noise = rng.standard_normal((N, *x.shape[1:]), np.float32)[own] * np.float32(self.noise)
        return x + noise.astype(x.dtype, copy=False)
