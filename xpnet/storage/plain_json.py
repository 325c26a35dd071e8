"""JSON for files and for other programs: one encoding of what JSON does not have."""

import dataclasses
import json
import math
from collections.abc import Mapping
from os import PathLike, fspath
from typing import Any

__all__ = ["decoded", "encoded", "json_text"]

# JSON has no such numbers. The JSON mapping of Protocol Buffers writes them like this, and float()
# in Python and Number() in JavaScript read them.
NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def encoded(value: Any) -> Any:
    """Return ``value`` as what JSON has: dicts, lists, texts, numbers, booleans and None.

    NaN and infinities become the strings "NaN", "Infinity" and "-Infinity", mappings, dataclasses
    and named tuples dicts, sequences lists, paths texts. Anything else remains.

    >>> encoded({"loss": math.nan, "best": (1, 0.5)})
    {'loss': 'NaN', 'best': [1, 0.5]}
    """
    if isinstance(value, float) and not math.isfinite(value):
        return str(value).replace("inf", "Infinity").replace("nan", "NaN")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {key: encoded(item) for key, item in value.items()}
    if isinstance(value, PathLike):
        return fspath(value)
    return [encoded(item) for item in value] if isinstance(value, list | tuple) else value


def decoded(value: Any) -> Any:
    """Return parsed JSON with the floats that :func:`encoded` has made texts of.

    >>> decoded(["-Infinity", {"loss": "NaN"}])
    [-inf, {'loss': nan}]
    """
    if isinstance(value, str):
        return NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: decoded(item) for key, item in value.items()}
    return [decoded(item) for item in value] if isinstance(value, list) else value


def json_text(value: Any, indent: int | None = None) -> str:
    """Return ``value`` as JSON in printable ASCII, which acts on no terminal and fits any encoding.

    Raises TypeError for what is no data, ValueError for a structure that contains itself.

    >>> print(json_text("a\\x1b\\x7f\\u202e"))
    "a\\u001b\\u007f\\u202e"
    """
    return json.dumps(encoded(value), indent=indent, allow_nan=False)
