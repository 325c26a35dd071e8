"""Which rows of a batch are whose: those whose position in it is the rank's, modulo the ranks."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

__all__ = ["WHOLE", "Piece", "Share", "micro_batch_rows"]


def micro_batch_rows(rows: int, parts: int) -> list[tuple[int, int]]:
    """Return the first row of each micro-batch and the row after its last.

    >>> micro_batch_rows(7, 3), micro_batch_rows(2, 3)
    ([(0, 2), (2, 4), (4, 7)], [(0, 1), (1, 2)])
    """
    parts = min(parts, rows)
    return [(rows * i // parts, rows * (i + 1) // parts) for i in range(parts)]


class Piece(NamedTuple):
    """Some rows of a batch that one rank has: the positions ``first``, ``first + stride``, ..."""

    first: int
    stride: int
    begin: int  # where they are among the rank's rows
    end: int


@dataclass(frozen=True)
class Share:
    """The part of every batch that one rank of ``size`` takes.

    Position i of a batch belongs to the rank i modulo ``size``, so that the shares are as equal as
    they can be, and the same rows make a batch whatever the number of ranks. With ``parts`` a batch
    consists of so many parts, the positions of each modulo ``parts``, and part p belongs to rank p
    modulo ``size``: then the parts are the same ones for every number of ranks. Each of its
    ``micro_batches`` is shared in this way.
    """

    rank: int = 0
    size: int = 1
    parts: int | None = None
    micro_batches: int = 1

    @property
    def is_whole(self) -> bool:
        """Whether a batch is this rank's as it is."""
        return self.size == 1 and self.parts is None

    def pieces(self, rows: int) -> list[list[Piece]]:
        """Return this rank's pieces of a batch of so many rows: of each micro-batch, its parts.

        >>> Share(1, 2).pieces(5)
        [[Piece(first=1, stride=2, begin=0, end=2)]]
        >>> [[len(range(p.begin, p.end)) for p in m] for m in Share(0, 2, 4, 2).pieces(10)]
        [[2, 1], [1, 1]]
        """
        pieces: list[list[Piece]] = []
        stride, begin = self.parts or self.size, 0
        for low, high in micro_batch_rows(rows, self.micro_batches):
            pieces.append([])
            for part in range(self.rank, stride, self.size):
                first = part + stride * max(0, -(-(low - part) // stride))
                count = len(range(first, high, stride))
                pieces[-1].append(Piece(first, stride, begin, begin + count))
                begin += count
        return pieces

    def positions(self, rows: int) -> np.ndarray:
        """Return this rank's positions (m,) in a batch of so many rows, piece after piece.

        >>> Share(1, 2).positions(5).tolist(), Share(1, 2, parts=4).positions(8).tolist()
        ([1, 3], [1, 5, 3, 7])
        """
        found = [p.first + p.stride * np.arange(p.end - p.begin)
                 for pieces in self.pieces(rows) for p in pieces]  # fmt: skip
        return np.concatenate([np.zeros(0, np.int64), *found])

    def owns(self, positions: np.ndarray) -> np.ndarray:
        """Return which positions in a batch (n,) are this rank's, (n,) bool.

        >>> Share(1, 2, parts=4).owns(np.arange(6)).tolist()
        [False, True, False, True, False, True]
        """
        return positions % (self.parts or self.size) % self.size == self.rank

    def order(self, order: np.ndarray, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Return this rank's part of an epoch's order, and where each batch begins in it.

        ``order`` (N,) is cut into batches of ``batch_size``, the last one ragged. The second array
        has one entry more than there are batches.

        >>> rows, begins = Share(1, 2).order(np.array([7, 5, 3, 1, 0]), 3)
        >>> rows.tolist(), begins.tolist()
        ([5, 0], [0, 1, 2])
        """
        whole, left = divmod(len(order), batch_size)
        own, last = self.positions(batch_size), self.positions(left)
        starts = batch_size * np.arange(whole)[:, None]
        at = np.concatenate([(starts + own).ravel(), whole * batch_size + last])
        counts = [len(own)] * whole + [len(last)] * (left > 0)
        return order[at], np.cumsum([0, *counts])


WHOLE = Share()
