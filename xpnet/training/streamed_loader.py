"""Batches of a data set that stays in its file."""

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from xpnet.backends import Backend
from xpnet.data import Augment, Shuffle, StreamedDataset
from xpnet.data.streamed_dataset import Check
from xpnet.prefetch import Empty, new_array
from xpnet.step import Batch
from xpnet.training.loader import Loader, Transform, batch_of

__all__ = ["StreamedLoader"]

READ_AT_ONCE = 4096  # rows of a stream whose targets alone are needed


class StreamedLoader(Loader):
    """The rows of a data set that stays in its file.

    ``target_transform`` acts on rows of y. Without ``augment`` the transforms are done once for
    each window that is read, so that a batch is no more than a gather out of it.
    """

    def __init__(
        self,
        backend: Backend,
        dataset: StreamedDataset,
        *,
        transform: Transform | None = None,
        target_transform: Transform | None = None,
        augment: Augment = Augment(),
    ) -> None:
        targets, dtype = dataset.targets, backend.dtype_name

        def placeable(y: np.ndarray) -> np.ndarray:
            y = y if targets is None else targets(y)
            return backend.as_host(y if target_transform is None else target_transform(y))

        self.dataset = replace(dataset, targets=None if targets is None else placeable)
        if not augment:
            whole_windows = transform or (lambda x: x.astype(dtype))
            self.dataset = replace(self.dataset, transform=whole_windows, dtype=dtype)
            transform = None
        first = self.dataset.take([0])
        options: Any = {"resident": False, "transform": transform, "augment": augment}
        super().__init__(backend, first.x, first.y, **options)
        self.rows = len(dataset)

    def checked(self, check: Check) -> Loader:
        self._targets()  # there are any
        checked = copy.copy(self)
        checked.dataset = replace(self.dataset, check=check)
        return checked

    def targets(self) -> Iterator[np.ndarray]:
        for _, y in self.dataset.batches(READ_AT_ONCE, None, 0):
            assert y is not None
            yield y

    def batches(
        self,
        batch_size: int,
        shuffle: Shuffle | None = None,
        start: int = 0,
        *,
        reuse: bool = False,
    ) -> Iterator[Batch]:
        if self.augment or not self.backend.owns(np.empty(0)):
            return super().batches(batch_size, shuffle, start)
        # A batch of NumPy is placed by doing nothing, for which no thread is needed.
        return map(batch_of, self._gathered(batch_size, shuffle, start, new_array))

    def _gathered(
        self, batch_size: int, shuffle: Shuffle | None, start: int, empty: Empty
    ) -> Iterator[dict[str, np.ndarray]]:
        stay = self._stay_as_stored()

        def kept(name: str, *of: Any) -> np.ndarray:
            return empty(name, *of) if name in stay else new_array(name, *of)

        for x, y in self.dataset.batches(batch_size, shuffle, start, kept, self.share):
            yield {"x": x} if y is None else {"x": x, "y": y}

    def _stay_as_stored(self) -> set[str]:
        return self.arrays.keys() - ({"x"} if self.augment else set())  # others were transformed
