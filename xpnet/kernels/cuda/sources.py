"""The kernels' C sources, and the parameters of each kernel.

One translation unit holds them all, for one floating type and one type that layers store. CuPy
passes it to NVRTC; the tests also pass it to nvcc, and to g++ with a header that emulates a GPU.
"""

import re
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "FILES",
    "MOST_RANDOM",
    "STORED",
    "Parameter",
    "arguments",
    "now",
    "signatures",
    "source",
]

FILES = (
    "common.cuh", "narrow.cuh", "begin.cu", "activation.cu", "softmax.cu", "normalization.cu",
    "loss.cu", "optimizer.cu",
)  # fmt: skip
C_NAMES = {"float32": "float", "float64": "double"}
# dtype that layers store in mixed precision -> dtype of the arrays; CuPy has no bfloat16.
STORED = {"float16": "float16", "bfloat16": "uint16"}
DTYPES = {"int": "int32", "unsigned": "uint32", "unsigned long long": "uint64"}
MOST_RANDOM = 64  # begin.cu


def now(dtype: str) -> np.ndarray:
    """Return the struct Now of begin.cu; CuPy passes a NumPy array of one element by value."""
    reals = [(name, dtype) for name in ("step_size", "eps", "keep")]
    addresses = [(name, "uint64") for name in ("cost", "x", "y", "weight")]
    fields = [*reals, ("step", "int32"), *addresses, ("keys", "int32", (2 * MOST_RANDOM,))]
    return np.zeros((), np.dtype(fields, align=True))


class Parameter(NamedTuple):
    """A parameter of a kernel."""

    dtype: str  # a NumPy dtype's name, "real", "act" or "Now"
    pointer: bool
    name: str


def source(dtype: str, narrow: str | None = None) -> str:
    """Return the kernels in C for ``"float32"`` or ``"float64"``.

    ``narrow`` is "float16" or "bfloat16" if layers store that beside float32.
    """
    defined = f"#define {narrow.upper()}\n" if narrow else ""
    return f"typedef {C_NAMES[dtype]} real;\n{defined}{_text()}"


@cache
def _text() -> str:
    folder = resources.files("xpnet.kernels.cuda")
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in FILES)


@cache
def signatures() -> dict[str, tuple[Parameter, ...]]:
    """Return the parameters of each kernel, parsed from the sources.

    >>> [p.name for p in signatures()["copied"]]
    ['from', 'to', 'n', 'unless']
    """
    text = _text().replace("\\\n", "")
    for name, value in re.findall(r"#define (\w+) (const [^\n]+)", text):
        text = re.sub(rf"\b{name}\b", value, text)
    kernels = re.findall(r"^KERNEL (\w+)\(([^)]*)\)", text, flags=re.MULTILINE)
    return {name: tuple(map(_parameter, listed.split(","))) for name, listed in kernels}


def _parameter(text: str) -> Parameter:
    kind, star, name = re.fullmatch(r"\s*(?:const )?([\w ]+?)(\*?) (\w+)\s*", text).groups()  # type: ignore[union-attr]
    return Parameter(DTYPES.get(kind, kind), bool(star), name)


def arguments(
    kernel: str, given: tuple[Any, ...], dtype: str, stored: str | None = None
) -> list[Any]:
    """Return the arguments of a launch: arrays as they are, 0 for None, numbers in their C type.

    ``stored`` is the dtype that layers store, if not ``dtype``.

    Raises TypeError for what the kernel does not take: a GPU would silently read other bytes.
    """
    expected = signatures()[kernel]
    if len(given) != len(expected):
        msg = f"{kernel} takes {len(expected)} arguments; got {len(given)}"
        raise TypeError(msg)
    types = {"real": dtype, "act": stored or dtype}
    return [_argument(kernel, p, x, types) for p, x in zip(expected, given, strict=True)]


def _argument(kernel: str, parameter: Parameter, x: Any, types: dict[str, str]) -> Any:
    dtype = types.get(parameter.dtype, parameter.dtype)
    if dtype == "Now":
        if not isinstance(x, np.ndarray) or x.dtype != now(types["real"]).dtype or x.shape:
            msg = f"{kernel} takes sources.now() as {parameter.name}; got {x!r}"
            raise TypeError(msg)
        return x
    if not parameter.pointer:
        return np.dtype(dtype).type(x)
    if x is None:
        return np.uint64(0)
    if str(x.dtype) != dtype or not x.flags.c_contiguous:
        msg = f"{kernel} takes a contiguous {dtype} array as {parameter.name}; got {x.dtype}"
        raise TypeError(msg)
    return x
