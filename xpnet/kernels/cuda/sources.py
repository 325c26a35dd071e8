"""The kernels' C sources, and the parameters of each kernel.

A translation unit holds the kernels that a network needs, written by hand or printed
(:mod:`xpnet.kernels.cuda.printed`), for one floating type and one type that layers store. CuPy
passes it to NVRTC; the tests also pass it to nvcc, and to g++ with a header that emulates a GPU.
"""

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from struct import Struct, calcsize
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "FILES",
    "MOST_NUMBERS",
    "MOST_RANDOM",
    "MOST_WORDS",
    "PACK",
    "STORED",
    "WRITTEN",
    "Kernel",
    "Parameter",
    "arguments",
    "contained",
    "declared",
    "given",
    "listed",
    "now",
    "parameters",
    "source",
    "text",
]

# In the order of a translation unit: the first two in each, a header before what includes it.
FILES = (
    "common.cuh", "narrow.cuh", "rows.cuh", "totals.cuh", "begin.cu", "state.cu", "ranks.cu",
    "dropout.cu", "softmax.cu", "elementwise.cu", "normalization.cu", "cross_entropy.cu",
    "labelled_rows.cu", "elementwise_loss.cu", "update.cu",
)  # fmt: skip
C_NAMES = {"float32": "float", "float64": "double"}
# dtype that layers store in mixed precision -> dtype of the arrays; CuPy has no bfloat16.
STORED = {"float16": "float16", "bfloat16": "uint16"}
DTYPES = {"int": "int32", "unsigned": "uint32", "unsigned long long": "uint64"}
PACK = 16  # bytes that a thread loads or stores at once, and that tensor cores like
MOST_RANDOM = 64  # begin.cu
MOST_WORDS = 448  # begin.cu
MOST_NUMBERS = 8  # common.cuh


class Kernel(NamedTuple):
    """A kernel of a file, or one that is printed around what a file has."""

    name: str
    label: str  # the name for people
    file: str
    printed: tuple[str, ...] = ()  # the struct of a formula, and the kernel
    numbers: tuple[float, ...] = ()  # its last arguments


class Parameter(NamedTuple):
    """A parameter of a kernel."""

    kind: str  # its C type without const and *
    pointer: bool
    name: str
    constant: bool = False  # whether the kernel only reads what it points to

    @property
    def dtype(self) -> str:
        """A NumPy dtype's name, "real", "act" or "Given"."""
        return DTYPES.get(self.kind, self.kind)


def given() -> np.ndarray:
    """Return the struct Given of begin.cu; CuPy passes a NumPy array of one element by value."""
    return np.zeros((), [("words", "uint64", (MOST_WORDS,))])


def now(dtype: str, numbers: int, keys: int) -> Struct:
    """Return the layout of begin.cu's Now, with so many coefficients and keys behind it.

    In order: the addresses of the loss, x, x as stored, y, weights and order; the step and the
    skipped steps;
    the coefficients and the keys.
    """
    layout = f"=6Q2i{numbers}{'f' if dtype == 'float32' else 'd'}{keys}i"
    return Struct(f"{layout}{-calcsize(layout) % 8}x")


def source(kernels: Iterable[Kernel], dtype: str, narrow: str | None = None) -> str:
    """Return these kernels in C for ``"float32"`` or ``"float64"``.

    ``narrow`` is "float16" or "bfloat16" if layers store that beside float32.
    """
    kernels = list(kernels)
    needed = {"common.cuh", "narrow.cuh"}
    for kernel in kernels:
        needed |= {kernel.file, *re.findall(r'^#include "(.+)"', text(kernel.file), re.MULTILINE)}
    files = [text(name) for name in FILES if name in needed]
    printed = dict.fromkeys(part for kernel in kernels for part in kernel.printed)
    defined = f"#define {narrow.upper()}\n" if narrow else ""
    body = re.sub(r"^#include .*\n", "", "\n".join([*files, *printed]), flags=re.MULTILINE)
    return f"typedef {C_NAMES[dtype]} real;\n{defined}{body}"


def contained(kernels: Iterable[Kernel]) -> list[Kernel]:
    """Return all kernels in the source of these: a file comes as a whole."""
    kernels = list(kernels)
    files = {kernel.file for kernel in kernels}
    return [k for k in WRITTEN.values() if k.file in files] + [k for k in kernels if k.printed]


@cache
def text(file: str) -> str:
    """Return one of the files."""
    return (resources.files("xpnet.kernels.cuda") / file).read_text(encoding="utf-8")


@cache
def declared(file: str, kind: str) -> dict[str, str]:
    """Return the parameters of each ``"KERNEL"`` or ``"FRAME"`` in a file, macros written out."""
    included = re.findall(r'^#include "(.+)"', text(file), re.MULTILINE)
    whole = "\n".join(map(text, (*included, file))).replace("\\\n", "")
    found = dict(re.findall(rf"^{kind} (\w+)\(([^)]*)\)", whole, re.MULTILINE))
    for name, value in re.findall(r"^#define (\w+) +(\w[^\n]* \*?\w+)$", whole, re.MULTILINE):
        found = {kernel: re.sub(rf"\b{name}\b", value, given) for kernel, given in found.items()}
    return {kernel: re.sub(r"\s+", " ", given) for kernel, given in found.items()}


def _written() -> dict[str, Kernel]:
    return {k: Kernel(k, k, file) for file in FILES for k in declared(file, "KERNEL")}


# The kernels that are written by hand.
WRITTEN = _written()


@cache
def parameters(kernel: Kernel) -> tuple[Parameter, ...]:
    """Return the parameters of a kernel, parsed from its text.

    >>> [p.name for p in parameters(WRITTEN["copied"])]
    ['from', 'to', 'n', 'unless']
    """
    if kernel.printed:
        found = re.search(r"^KERNEL_OF\S+ \w+\(([^)]*)\)", kernel.printed[-1], re.MULTILINE)
        assert found is not None
        return listed(found[1])
    return listed(declared(kernel.file, "KERNEL")[kernel.name])


def listed(given: str) -> tuple[Parameter, ...]:
    """Parse a list of parameters."""
    return tuple(map(_parameter, given.split(",")))


def _parameter(written: str) -> Parameter:
    pattern = r"\s*(const )?([\w ]+?)(\*?) (?:__restrict__ )?(\w+)\s*"
    const, kind, star, name = re.fullmatch(pattern, written).groups()  # type: ignore[union-attr]
    return Parameter(kind, bool(star), name, bool(const))


def arguments(
    kernel: Kernel, given: tuple[Any, ...], dtype: str, stored: str | None = None
) -> list[Any]:
    """Return the arguments of a launch: arrays as they are, 0 for None, numbers in their C type.

    ``given`` are those before the kernel's own numbers; ``stored`` is the dtype that layers store,
    if not ``dtype``. Raises TypeError for what the kernel does not take: a GPU would silently read
    other bytes.
    """
    expected, given = parameters(kernel), (*given, *kernel.numbers)
    if len(given) != len(expected):
        msg = f"{kernel.name} takes {len(expected)} arguments; got {len(given)}"
        raise TypeError(msg)
    types = {"real": dtype, "act": stored or dtype}
    return [_argument(kernel.name, p, x, types) for p, x in zip(expected, given, strict=True)]


def _argument(kernel: str, parameter: Parameter, x: Any, types: dict[str, str]) -> Any:
    dtype = types.get(parameter.dtype, parameter.dtype)
    if dtype == "Given":
        if not isinstance(x, np.ndarray) or x.dtype != given().dtype or x.shape:
            msg = f"{kernel} takes sources.given() as {parameter.name}; got {x!r}"
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
