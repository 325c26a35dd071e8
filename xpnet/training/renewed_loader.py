"""Batches of rows that are others in every epoch."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from xpnet.backends import Backend
from xpnet.data import Shuffle
from xpnet.data.files import naming
from xpnet.data.streamed_dataset import Check
from xpnet.errors import DataError
from xpnet.nn.losses import check_weights
from xpnet.step import Batch, Rows
from xpnet.training.loader import Loader

__all__ = ["RenewedLoader", "RenewedRows"]


class RenewedRows(NamedTuple):
    """Rows that are others in every epoch: ``first`` are those of ``epoch``."""

    of: Callable[[int], Any]  # (x, y) or (x, y, weight) of an epoch, counted from 0
    epoch: int
    first: tuple[Any, ...]

    def changed(
        self, first: tuple[Any, ...], change: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    ) -> "RenewedRows":
        """Return the rows with each tuple of a later epoch changed."""
        return RenewedRows(lambda epoch: change(self.of(epoch)), self.epoch, first)


class RenewedLoader(Loader):
    """The rows that a function returns for each epoch.

    Raises DataError where they are not as many, or of another shape, as those of the first.
    """

    def __init__(self, backend: Backend, rows: RenewedRows) -> None:
        super().__init__(backend, *rows.first)
        self._rows = rows._replace(first=())  # which are placed
        self._check: Check | None = None

    def checked(self, check: Check) -> Loader:
        self._check = check
        return super().checked(check)

    def batches(
        self,
        batch_size: int,
        shuffle: Shuffle | None = None,
        start: int = 0,
        *,
        reuse: bool = False,
    ) -> Iterator[Batch]:
        self._renew(shuffle)
        return super().batches(batch_size, shuffle, start, reuse=reuse)

    def rows_of_batches(
        self, batch_size: int, shuffle: Shuffle, start: int = 0
    ) -> Iterator[Rows] | None:
        self._renew(shuffle)
        return super().rows_of_batches(batch_size, shuffle, start)

    def _renew(self, shuffle: Shuffle | None) -> None:
        """Take the rows of this epoch, if they are those of another one."""
        if shuffle is None or (epoch := shuffle.epoch) == self._rows.epoch:
            return
        with naming(f"the rows of epoch {epoch + 1}"):
            new = Loader(self.backend, *self._rows.of(epoch))
            shapes = [{k: tuple(v.shape) for k, v in a.items()} for a in (new.arrays, self.arrays)]
            if shapes[0] != shapes[1]:
                msg = f"the shapes are {shapes[0]}; those of the epoch before are {shapes[1]}"
                raise DataError(msg)
            if self._check is not None:
                new.checked(self._check)
            if (weight := new.weights()) is not None:
                check_weights(weight, new.rows)
        self.arrays, self.resident = new.arrays, new.resident
        self._rows = self._rows._replace(epoch=epoch)
