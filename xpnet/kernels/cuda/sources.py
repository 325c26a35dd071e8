"""The kernels' C sources, and what each kernel takes.

One translation unit holds them all, for one floating type and what layers store. CuPy hands it to
NVRTC; the tests also hand it to nvcc, and to g++ behind a header that stands in for a GPU.
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
# What layers store in mixed precision -> the dtype of such arrays; CuPy has no bfloat16.
STORED = {"float16": "float16", "bfloat16": "uint16"}
DTYPES = {"int": "int32", "unsigned": "uint32", "unsigned long long": "uint64"}
MOST_RANDOM = 64  # begin.cu


def now(dtype: str) -> np.ndarray:
    """Return begin.cu's Now, by value: CuPy passes a NumPy array of one element so."""
    names = ("step_size", "eps", "keep"), ("cost", "x", "y", "weight")
    reals, addresses = [(n, dtype) for n in names[0]], [(n, "uint64") for n in names[1]]
    fields = [*reals, ("step", "int32"), *addresses, ("keys", "int32", (2 * MOST_RANDOM,))]
    return np.zeros((), np.dtype(fields, align=True))


class Parameter(NamedTuple):
    """A parameter of a kernel."""

    dtype: str  # a NumPy dtype's name, "real", "act" or "Now"
    pointer: bool
    name: str


def source(dtype: str, narrow: str | None = None) -> str:
    """Return the kernels in C for ``"float32"`` or ``"float64"``.

    ``narrow`` is "float16" or "bfloat16" where layers store that, beside float32.
    """
    defined = f"#define {narrow.upper()}\n" if narrow else ""
    return f"typedef {C_NAMES[dtype]} real;\n{defined}{_text()}"


@cache
def _text() -> str:
    folder = resources.files("xpnet.kernels.cuda")
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in FILES)


@cache
def signatures() -> dict[str, tuple[Parameter, ...]]:
    """Return what each kernel takes, read from the sources.

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

    ``stored`` is the dtype of what layers store, where that is not ``dtype``.

    Raises TypeError for what the kernel does not take: a GPU would read other bytes, silently.
    """
    wanted = signatures()[kernel]
    if len(given) != len(wanted):
        msg = f"{kernel} takes {len(wanted)} arguments; got {len(given)}"
        raise TypeError(msg)
    types = {"real": dtype, "act": stored or dtype}
    return [_argument(kernel, p, x, types) for p, x in zip(wanted, given, strict=True)]


def _argument(kernel: str, parameter: Parameter, x: Any, types: dict[str, str]) -> Any:
    wanted = types.get(parameter.dtype, parameter.dtype)
    if wanted == "Now":
        if not isinstance(x, np.ndarray) or x.dtype != now(types["real"]).dtype or x.shape:
            msg = f"{kernel} takes sources.now() as {parameter.name}; got {x!r}"
            raise TypeError(msg)
        return x
    if not parameter.pointer:
        return np.dtype(wanted).type(x)
    if x is None:
        return np.uint64(0)
    if str(x.dtype) != wanted or not x.flags.c_contiguous:
        msg = f"{kernel} takes a contiguous {wanted} array as {parameter.name}; got {x.dtype}"
        raise TypeError(msg)
    return x
