"""A trained model as an ONNX model: from raw rows to classes, by the portable functions themselves.

There is no table of layers here. What ``predict`` calls, encoding, layers and the loss's reading of
their output, is called with symbols (:mod:`xpnet.interop.onnx.symbols`), and what they record is
the graph. Its inputs are::

    x           (N, ...)      the rows as the model takes them: of arrays, images, or a table whose
                              columns are all numbers, in the run's order, NaN where one is missing
    NAME        (N, 1)        of another table, an input for each column: numbers, float64; dates,
                              float64 seconds since 1970, UTC; categories and booleans, texts

and its outputs, for a batch of any size::

    label          (N,)       the class, as it was named in training: a text, a whole number or a
                              boolean; its index where there are no names
                   (N, J)     of several labels, 1 or 0 for each
    probabilities  (N, K)     of classes, or of several labels
    logits         (N, J)     what the last layer gives, where the loss takes logits
    output         (N, J)     what it gives where that is neither this nor a probability
    prediction     (N, J)     of a regression, in the units of the data, float64 as ``predict`` does

A text of a category has to be spelled as in training; one that training did not have is none of
those it had, and an empty text is a missing value, as in a file.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from xpnet.data import Columns, Encoder
from xpnet.data.columns import MISSING
from xpnet.data.encoder import Category
from xpnet.data.values import spellings
from xpnet.errors import ConfigError
from xpnet.interop.onnx.fuse import fused
from xpnet.interop.onnx.metadata import describe
from xpnet.interop.onnx.simplify import simplify
from xpnet.interop.onnx.symbols import Symbol, built, mapped, scalar, symbol
from xpnet.nn import Layer, Sequential
from xpnet.nn.layout import merge
from xpnet.registry import name_of
from xpnet.run.preprocessing import Preprocessing
from xpnet.run.trained_run import Run
from xpnet.settings import dump
from xpnet.split_vector import SplitVector
from xpnet.training.trainer import Trainer

if TYPE_CHECKING:
    import onnx

__all__ = ["forward_model"]

OUTPUTS = ("label", "probabilities", "logits", "output", "prediction")
LARGEST = 2**31 - 2**24  # bytes of weights; the rest is the graph's
TEXTS = ("category", "boolean")  # the kinds of columns whose values are texts


def forward_model(source: Trainer | Run, *, fuse: bool = True) -> "onnx.ModelProto":
    """Return what ``source.predict`` computes, from raw rows on, as an ONNX model.

    With ``fuse`` what ONNX has an operator for becomes that operator.
    It computes in the dtype of the trainer, and encodes in float64, as ``predict`` does. Raises
    ConfigError for 2 GiB of weights, and, naming it, for a layer that is no Array API code;
    TrainingError for a model that has learnt nothing.
    """
    trainer = source.trainer if isinstance(source, Run) else source
    trainer.check_trained()
    preprocessing = source.preprocessing if isinstance(source, Run) else None
    engine, given = trainer.engine, dict[str, Symbol]()
    dtype = engine.backend.dtype_name
    found = engine.tensors()
    weights = {
        name: value
        for name, value in ((k.partition("/")[2], v) for k, v in found.items())
        if f"params/{name}" in found or f"stats/{name}" in found
    }
    _check_size(sum(value.nbytes for value in weights.values()))
    x = _rows(preprocessing, engine.model.input_shape or (), dtype, given, {*weights, *OUTPUTS})
    made = {name: symbol(value.shape, dtype) for name, value in weights.items()}
    output = _output(trainer, x, made)
    outputs = _outputs(trainer, preprocessing, output)
    model = simplify(_with_weights(built(given | made, outputs), weights), largest=2**24)
    if fuse:
        model = simplify(fused(model))  # which takes out the copies
    about = _about(source, trainer, preprocessing)
    describe(model, {"kind": "model", "version": 1, **about})
    return model


def _check_size(size: int) -> None:
    if size > LARGEST:
        msg = f"the weights have {size:,} bytes; an ONNX file has less than 2 GiB, {2**31:,}"
        raise ConfigError(
            msg,
            python='export with form="torch", which has no such limit',
            command="export with --format torch, which has no such limit",
        )


def _rows(
    preprocessing: Preprocessing | None,
    shape: tuple[int, ...],
    dtype: str,
    given: dict[str, Symbol],
    taken: set[str],
) -> Symbol:
    """The model's input, from inputs of the graph, which are put into ``given``.

    No input has a name that is ``taken``.
    """
    if preprocessing is None:
        given["x"] = symbol(("N", *shape), dtype)
        return given["x"]
    encoder, columns = preprocessing.encoder, preprocessing.columns
    if not isinstance(encoder, Encoder):
        given["x"] = x = symbol(("N", *preprocessing.feature_shape), dtype)
        return _narrowed(encoder.scaled(x), dtype)
    if columns is None or all(kind == "number" for kind in columns.kinds):
        given["x"] = x = symbol(("N", encoder.features), "float64")
        numbers = x if encoder.numbers == (*range(encoder.features),) else _picked(x, encoder)
        parts = encoder.parts(numbers, lambda j: x[:, j : j + 1], _no_category)
        return _joined(list(parts), dtype)
    features = _names(columns, taken)
    used = {*encoder.numbers, *(j for j, _ in encoder.cycles)}
    used |= {c.feature for c in encoder.categories}
    for j, name in enumerate(features):
        if j in used:
            kind = "utf8" if columns.kinds[j] in TEXTS else "float64"
            given[name] = symbol(("N", 1), kind)
    first = next(iter(given.values()))
    xp = first.__array_namespace__()
    numbers = (
        xp.concat([given[features[j]] for j in encoder.numbers], axis=1)
        if encoder.numbers
        else xp.zeros((first.shape[0], 1), dtype=xp.float64)
    )

    def rows(category: Category) -> Symbol:
        texts = xp.squeeze(given[features[category.feature]], axis=1)
        return mapped(texts, _codes(category, columns), category.size + 1)

    parts = encoder.parts(numbers, lambda j: given[features[j]], rows)
    return _joined(list(parts), dtype)


def _no_category(category: Category) -> Symbol:
    raise AssertionError(category)  # all columns are numbers


def _picked(x: Symbol, encoder: Encoder) -> Symbol:
    xp = x.__array_namespace__()
    return xp.take(x, scalar(np.asarray(encoder.numbers, np.int64)), axis=1)


def _joined(parts: list[Symbol], dtype: str) -> Symbol:
    """The blocks of columns side by side, rounded once."""
    xp = parts[0].__array_namespace__()

    def joined(some: list[Symbol]) -> Symbol:
        return some[0] if len(some) == 1 else xp.concat(some, axis=1)

    alike = [[*group] for _, group in groupby(parts, key=lambda part: part.dtype)]
    return joined([_narrowed(joined(group), dtype) for group in alike])


def _narrowed(x: Symbol, dtype: str) -> Symbol:
    xp = x.__array_namespace__()
    return xp.astype(x, getattr(xp, dtype))


def _names(columns: Columns, taken: set[str]) -> list[str]:
    """The name of the input of each feature: its column's, unless that is taken."""
    names: list[str] = []
    for j in columns.features:
        name = columns.shown(j)
        names.append(f"{name} (column {j})" if name in {*names, *taken} else name)
    return names


def _codes(category: Category, columns: Columns) -> dict[str, int]:
    """The row of the category's table for each text that stands for one of its values."""
    found = spellings(columns.levels[category.feature])
    return dict.fromkeys(sorted(MISSING), category.size) | found


def _output(trainer: Trainer, x: Symbol, weights: Mapping[str, Symbol]) -> Symbol:
    """What the layers give; an error says which of them cannot be recorded."""
    engine = trainer.engine
    variables = merge(
        *(
            layout.split(SplitVector(tuple(weights[e.name] for e in layout.entries)))
            for layout in (engine.params_layout, engine.stats_layout)
        )
    )
    try:
        return engine.model.forward(variables, x)[0]
    except Exception as error:  # a layer of one's own may do anything
        i, layer = _culprit(engine.model, variables, x)
        msg = f"layer {i} ({name_of(layer)}) cannot be exported: {error}"
        raise ConfigError(
            msg,
            python="write its forward in functions of array_namespace(x)",
            command="write its forward in functions of array_namespace(x)",
        ) from error


def _culprit(model: Sequential, variables: Any, x: Symbol) -> tuple[int, Layer]:
    """The first layer whose forward fails."""
    for i, layer in enumerate(model.layers):
        try:
            x = replace(model, layers=(layer,)).forward(variables[i : i + 1], x)[0]
        except Exception:
            return i, layer
    return len(model.layers) - 1, model.layers[-1]


def _outputs(
    trainer: Trainer, preprocessing: Preprocessing | None, output: Any
) -> dict[str, Symbol]:
    """What the model gives, by name."""
    loss = trainer.loss
    read = loss.predict(output)
    if loss.predicts == "value":
        return {"prediction": _answers(preprocessing, read)}
    found = {}
    if loss.takes != "margins":  # which have no probabilities
        found["probabilities"] = _answers(preprocessing, read)
    if loss.takes in ("logits", "margins"):
        found["logits" if loss.takes == "logits" else "output"] = output
    return {"label": _labels(trainer, preprocessing, output), **found}


def _labels(trainer: Trainer, preprocessing: Preprocessing | None, output: Any) -> Symbol:
    """The class of each row, as ``predict_classes`` has it."""
    xp = output.__array_namespace__()
    names = preprocessing.classes if preprocessing else trainer.classes
    if trainer.loss.predicts != "binary":
        at = xp.argmax(preprocessing.ranked(output) if preprocessing else output, axis=-1)
    elif preprocessing and names is not None:
        at = xp.argmax(preprocessing.ranked(output), axis=-1)
    else:
        at = xp.astype(output > 0.0, xp.int64)
        at = at[:, 0] if at.shape[1:] == (1,) else at
    return at if names is None else xp.take(scalar(np.asarray(names)), at, axis=0)


def _answers(preprocessing: Preprocessing | None, read: Symbol) -> Symbol:
    """What ``predict`` makes of it."""
    return read if preprocessing is None else preprocessing.answers(read)


def _with_weights(model: "onnx.ModelProto", weights: Mapping[str, np.ndarray]) -> "onnx.ModelProto":
    """The model with arrays for the inputs of these names."""
    from onnx import numpy_helper

    graph = model.graph
    inputs = [i for i in graph.input if i.name not in weights]
    used = {name for node in graph.node for name in node.input}
    del graph.input[:]
    graph.input.extend(inputs)
    graph.initializer.extend(
        numpy_helper.from_array(np.ascontiguousarray(value), name)
        for name, value in weights.items()
        if name in used
    )
    return model


def _about(
    source: Trainer | Run, trainer: Trainer, preprocessing: Preprocessing | None
) -> dict[str, Any]:
    """What a program that uses the model may want to know."""
    loss = {"name": name_of(trainer.loss), **dump(trainer.loss)}
    found: dict[str, Any] = {"loss": loss, "step": trainer.position.step}
    if preprocessing is None or not isinstance(source, Run):
        return found | {"classes": trainer.classes}
    columns = preprocessing.columns
    return found | {
        "task": preprocessing.task,
        "classes": preprocessing.classes,
        "targets": preprocessing.targets,
        "columns": preprocessing.feature_names,
        "kinds": columns.kinds if columns else None,
        "fingerprint": source.fingerprint,
    }
