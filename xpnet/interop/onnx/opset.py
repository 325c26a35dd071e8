"""A model for an older runtime: in an earlier opset, by onnx's own converter, and compared.

Which release of onnxruntime takes which opset: https://onnxruntime.ai/docs/reference/compatibility
"""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from xpnet.errors import ConfigError, first_line, require

if TYPE_CHECKING:
    import onnx

__all__ = ["NEWEST", "OLDEST", "with_opset"]

OLDEST, NEWEST = 15, 21  # the converter has no way further back for Shape; 21 is what is recorded
ROWS = 5
TOLERANCE = 1e-5
FLOATS = {1: "float32", 11: "float64"}  # of TensorProto
INTEGERS = {6: "int32", 7: "int64"}


def with_opset(makers: Sequence[Callable[[], "onnx.ModelProto"]], opset: int) -> "onnx.ModelProto":
    """Return a model in ``opset``: of the first of the makers whose model can be had in it.

    What each makes computes the same, with other operators. The converted model is checked by onnx,
    and gives in onnxruntime what the first one gives, for rows that are drawn.
    Raises ConfigError with the reason if there is none, BackendError without onnxruntime.
    """
    if not OLDEST <= opset <= NEWEST:
        msg = f"opset must be from {OLDEST} to {NEWEST}; got {opset}"
        raise ConfigError(msg)
    expected, problem = makers[0](), ""
    if opset == NEWEST:
        return expected
    for i, make in enumerate(makers):
        try:
            found = _converted(make() if i else expected, opset)
            _compare(expected, found)
        except ConfigError as error:
            problem = problem or error.message
        else:
            return found
    msg = f"the model cannot be written in opset {opset}: {problem}"
    raise ConfigError(
        msg, python="pass a later opset, or none", command="give a later --opset, or none"
    )


def _converted(model: "onnx.ModelProto", opset: int) -> "onnx.ModelProto":
    """The model in an earlier opset, in the format that is of the same age."""
    import onnx
    from onnx import helper, version_converter

    try:
        made = version_converter.convert_version(model, opset)
    except Exception as error:  # it has no classes of its own
        absent = re.search(r"No Previous Version of (\w+) exists", str(error))
        reason = str(error).rpartition("failed: ")[2].splitlines()[0]
        raise ConfigError(f"it has no {absent[1]}" if absent else reason) from error
    ages = [(row[2], row[3]) for row in helper.VERSION_TABLE if row[2] >= opset]
    for domain in made.opset_import:
        if domain.domain == "ai.onnx.ml":
            domain.version = min(domain.version, min(ages)[1])
    made.ir_version = min(model.ir_version, helper.find_min_ir_version_for(made.opset_import))
    made.producer_name, made.producer_version = model.producer_name, model.producer_version
    del made.metadata_props[:]
    made.metadata_props.extend(model.metadata_props)
    graph = made.graph
    del graph.input[:], graph.output[:], graph.value_info[:]  # it loses the names of lengths
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    try:
        onnx.checker.check_model(made, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConfigError(first_line(error)) from error
    return made


def _compare(expected: "onnx.ModelProto", found: "onnx.ModelProto") -> None:
    """Raise ConfigError where onnxruntime makes something else of the two."""
    ort = require("onnxruntime", "onnx", "comparing a model of another opset")
    given, results = _drawn(expected), []
    for model in (expected, found):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            session = ort.InferenceSession(model.SerializeToString(), options)
            results.append(session.run(None, given))
        except Exception as error:  # its classes are private
            msg = f"onnxruntime: {first_line(error)}"
            raise ConfigError(msg) from error
    for output, a, b in zip(expected.graph.output, *results, strict=True):
        floats = np.asarray(a).dtype.kind == "f"
        near = floats and np.allclose(a, b, TOLERANCE, TOLERANCE, equal_nan=True)
        if not (near or np.array_equal(a, b)):
            msg = f"{output.name} would be another"
            raise ConfigError(msg)


def _drawn(model: "onnx.ModelProto") -> dict[str, np.ndarray]:
    """Rows for the inputs of a model: positive numbers, 0 and 1, texts that it knows."""
    rng, texts = np.random.default_rng(0), [""]
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "keys_strings":
                texts += [text.decode() for text in attribute.strings]

    def values(kind: int, shape: tuple[int, ...]) -> Any:
        if kind in FLOATS:
            return rng.uniform(0.1, 2.0, shape).astype(FLOATS[kind])
        if kind in INTEGERS:
            return rng.integers(0, 2, shape).astype(INTEGERS[kind])
        return rng.choice(np.asarray(texts, object), shape)

    return {
        value.name: np.asarray(
            values(
                value.type.tensor_type.elem_type,
                tuple(d.dim_value or ROWS for d in value.type.tensor_type.shape.dim),
            )
        )
        for value in model.graph.input
    }
