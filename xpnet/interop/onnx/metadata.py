"""What xpnet says of an ONNX model in the model itself: JSON, in the metadata ``xpnet``."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

__all__ = ["describe", "described"]

KEY = "xpnet"


def describe(model: "onnx.ModelProto", about: Mapping[str, Any]) -> None:
    """Write ``about``, JSON data, into a model."""
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(about)


def described(model: "onnx.ModelProto") -> dict[str, Any]:
    """Return what :func:`describe` wrote into a model; {} for a model of others."""
    texts = {entry.key: entry.value for entry in model.metadata_props}
    try:
        found = json.loads(texts.get(KEY, "{}"))
    except ValueError:  # an entry of others
        return {}
    return found if isinstance(found, dict) else {}
