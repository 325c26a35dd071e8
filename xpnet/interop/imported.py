"""A chain of layers with its arrays, as the readers of other formats find it, made a trainer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from xpnet.errors import ConfigError, DataError
from xpnet.nn import Layer, LogSoftmax, Sequential, Shape, Sigmoid, Softmax
from xpnet.nn.losses import (
    LOSSES,
    BinaryCrossEntropy,
    Loss,
    MeanSquaredError,
    NegativeLogLikelihood,
    SoftmaxCrossEntropy,
)
from xpnet.nn.sequential import variable_name
from xpnet.optim.optimizers import OPTIMIZERS, Adam
from xpnet.registry import name_of
from xpnet.settings import build_named
from xpnet.training.class_labels import unless_indices
from xpnet.training.trainer import Trainer

__all__ = ["Imported", "Part", "assemble"]

WIDER = {"float16": "float32", "float32": "float32", "float64": "float64"}


@dataclass(frozen=True, eq=False)
class Part:
    """One layer, its arrays by xpnet's names, and which of them training leaves as they are."""

    layer: Layer
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    frozen: tuple[str, ...] = ()
    source: str = ""  # what it was called where it comes from


class Imported(Trainer):
    """A trainer whose weights come from elsewhere; ``notes`` says what was read differently."""

    _notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the import chose, cut or moved, a sentence each."""
        return self._notes

    def summary(self) -> str:
        """Return the trainer's summary, and the notes below it."""
        return "\n".join([super().summary(), *(f"note       {note}" for note in self._notes)])


def assemble(
    parts: Sequence[Part],
    input_shape: Shape,
    loss: Loss | str | None,
    notes: Sequence[str],
    settings: Mapping[str, Any],
    classes: tuple[Any, ...] | None = None,
) -> Imported:
    """Return a trainer of the parts, whose weights are theirs.

    ``loss`` None follows the last layer. A last Softmax or Sigmoid becomes part of a loss that
    contains it. ``classes`` are the names of the classes, which are kept if there are as many.
    Raises ConfigError if the parts do not fit each other, DataError for weights that are not
    finite.
    """
    parts, chosen, said = _with_loss(list(parts), loss)
    frozen = [variable_name(i, p.layer, name) for i, p in enumerate(parts) for name in p.frozen]
    model = Sequential([p.layer for p in parts]).build(input_shape)
    arrays = {
        variable_name(i, p.layer, name): value
        for i, p in enumerate(parts)
        for name, value in p.arrays.items()
    }
    _check_complete(model, arrays, parts)
    dtype, narrow = _dtype(arrays)
    given: dict[str, Any] = {"backend": "numpy", "dtype": dtype, **settings}
    rule = given.pop("optimizer", Adam())
    rule = build_named(OPTIMIZERS, rule, "optimizer") if isinstance(rule, str) else rule
    rule = replace(rule, freeze=(*rule.freeze, *frozen)) if frozen else rule
    trainer = Imported(model, chosen, rule, **given)
    trainer.params = arrays
    trainer._notes = (*notes, *said, *narrow)
    outputs = trainer.model.output_shape[-1]
    count = {"class": outputs, "binary": 2 if outputs == 1 else 0}.get(chosen.predicts)
    if classes is not None and len({*classes}) == len(classes) == count:
        trainer._set(classes=unless_indices(classes))
    return trainer


def _dtype(arrays: Mapping[str, np.ndarray]) -> tuple[str, list[str]]:
    """The dtype that holds all weights, and a note where it is wider than theirs."""
    if not arrays:
        return "float32", []
    found = np.result_type(*arrays.values()).name
    if found not in WIDER:
        msg = f"the weights are {found}: only floating-point weights can be trained"
        raise DataError(msg)
    wider = WIDER[found]
    return wider, [] if wider == found else [f"the weights are {found}, computed with in {wider}"]


def _check_complete(model: Sequential, arrays: Mapping[str, Any], parts: Sequence[Part]) -> None:
    for i, (part, layer) in enumerate(zip(parts, model.layers, strict=True)):
        for name, variable in layer.variables().items():
            value = arrays[variable_name(i, layer, name)]
            where = part.source or f"layer {i} ({name_of(layer)})"
            if value.shape != variable.shape:
                msg = f"{where}: {name} must have shape {variable.shape}; got {value.shape}"
                raise ConfigError(msg)
            if not np.isfinite(value).all():
                msg = f"{where}: {name} has numbers that are not finite: export the model again"
                raise DataError(msg)


def _with_loss(parts: list[Part], loss: Loss | str | None) -> tuple[list[Part], Loss, list[str]]:
    """The parts without what the loss contains, the loss, and what to say of it."""
    while parts and parts[-1].layer.passes and not parts[-1].arrays and len(parts) > 1:
        if name_of(parts[-1].layer) != "identity":
            break
        parts.pop()
    last = parts[-1].layer if parts else None
    chosen = build_named(LOSSES, loss, "loss") if isinstance(loss, str) else loss
    if isinstance(last, Softmax) and last.axis in (-1, 1):
        chosen = chosen or SoftmaxCrossEntropy()
        if chosen.takes == "logits" and chosen.predicts == "class":
            note = f"the last softmax is part of the loss, {name_of(chosen)}, and of predict"
            return parts[:-1], chosen, [note]
    if isinstance(last, Sigmoid):
        chosen = chosen or BinaryCrossEntropy()
        if isinstance(chosen, BinaryCrossEntropy):
            note = f"the last sigmoid is part of the loss, {name_of(chosen)}, and of predict"
            return parts[:-1], chosen, [note]
    if chosen is not None:
        return parts, chosen, []
    if isinstance(last, LogSoftmax) and last.axis in (-1, 1):
        note = "the loss is negative_log_likelihood, and predict gives probabilities, not their "
        return parts, NegativeLogLikelihood(), [f"{note}logarithms"]
    note = "the loss is mean_squared_error, for the outputs are numbers: for logits give loss="
    return parts, MeanSquaredError(), [f"{note}'softmax_cross_entropy' or 'binary_cross_entropy'"]
