"""How a trainer reads data: any form of it, the labels of its classes, and whether it fits."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np

from xpnet.data import StreamedDataset
from xpnet.data.columns import listed
from xpnet.data.tables.memory import numbers_in
from xpnet.errors import DataError
from xpnet.nn import Sequential
from xpnet.nn.fit import check_reachable
from xpnet.nn.losses import Loss, check_weights
from xpnet.training.class_labels import as_labels, coded, looked_up
from xpnet.training.loader import Loader, on_host
from xpnet.training.placement import Placement, check_labelled
from xpnet.training.renewed_loader import RenewedRows
from xpnet.training.snapshot import Position
from xpnet.training.sources import rows_of
from xpnet.training.streamed_loader import StreamedLoader

__all__ = ["Reading"]


class Reading(ABC):
    """The part of a trainer that turns data into loaders."""

    model: Sequential
    loss: Loss
    classes: tuple[Any, ...] | None  # the labels of the classes; None where these are indices
    _placement: Placement
    _columns: tuple[str, ...] | None  # the names of those of x, where it was a table

    @property
    @abstractmethod
    def position(self) -> Position:
        """Where the training is."""

    @property
    @abstractmethod
    def _has_learnt(self) -> bool:
        """Whether the weights are more than random."""

    @abstractmethod
    def _set(self, **values: Any) -> None:
        """Set attributes that a user may not assign."""

    @abstractmethod
    def _prepare(self, shape: tuple[int, ...]) -> None:
        """Build the model and its engine for examples of ``shape``, once."""

    def _loader(self, data: Any) -> Loader:
        """A loader of data in any form."""
        return self._placement.loader(data)

    def _built_for(self, data: Any) -> Loader:
        """A loader, for whose examples the model is built."""
        loader = self._loader(data)
        takes = self.model.input_shape
        if takes and takes == tuple(loader.arrays["x"].shape) != loader.example_shape:
            msg = f"x is a single example, of shape {takes}, and not rows of such examples"
            raise DataError(msg, python="give it as one row, x[None]")
        self._prepare(loader.example_shape)
        return loader

    def _coded(self, arrays: tuple[Any, ...], learn: bool = False) -> tuple[Any, ...]:
        """Arrays (x, y, ...) with class indices for labels, which are learnt or looked up."""
        x, y, *weight = arrays
        y = as_labels(y, self.loss)
        named = self._has_learnt and self.classes is not None  # as the weights have them
        learn = learn and self.position.step == 0 and not named  # anew, if a fit was refused
        if self.classes is not None and not learn:
            return x, looked_up(y, self.classes, getattr(self.loss, "ignore_label", None)), *weight
        found = coded(y, self.loss, lambda: self._outputs(x))
        if learn:
            self._set(classes=found.classes)
        if found.classes is None:
            return x, y, *weight
        if not learn:
            msg = "the model was trained on class indices; got labels "
            msg += listed([*map(repr, found.classes)])
            raise DataError(msg, python="pass the index of each label's class")
        return x, found.y, *weight

    def _outputs(self, x: Any) -> int:
        model = self.model
        if model.input_shape is None:
            rows = numbers_in(x, "x")
            rows = rows if hasattr(rows, "shape") else on_host(rows, "x")
            model = model.build(tuple(rows.shape[1:]))
        return model.output_shape[-1]

    def _rows(self, data: Any, label: str | int | None, learn: bool) -> Any:
        """Data in any form as a loader takes it; ``learn`` columns and labels, ask for epochs."""
        known = self._columns if self._has_learnt or not learn else None
        epoch = self.position.epoch if learn else None
        rows = rows_of(data, label=label, columns=known, epoch=epoch)
        if learn and known is None:
            self._columns = rows.columns
        check_labelled(found := rows.data)
        if isinstance(found, RenewedRows):
            return found.changed(self._coded(found.first, learn), self._coded)
        if isinstance(found, Loader | StreamedDataset):
            return found
        return self._coded(tuple(found), learn)

    def _labelled(
        self,
        data: Any,
        label: str | int | None = None,
        *,
        training: bool = False,
        learn: bool = False,
    ) -> Loader:
        """A loader with targets and weights that fit the loss and the model."""
        loader = self._built_for(self._rows(data, label, learn))
        outputs = self.model.output_shape[-1]

        def check(y: np.ndarray, row_name: Callable[[int], str]) -> None:
            self.loss.check_target(y, outputs, row_name)
            if training:
                check_reachable(self.model, self.loss, y, row_name)

        if (weight := loader.weights()) is not None:
            check_weights(weight, loader.rows)
        checked = loader.checked(check)
        ignored = getattr(self.loss, "ignore_label", None)
        if ignored is not None and not isinstance(checked, StreamedLoader):
            y = next(checked.targets())
            if y.ndim == 1 and (y == ignored).all():
                msg = f"all {len(y)} labels are {ignored}, the ignored one, so no row counts"
                raise DataError(msg)
        return checked
