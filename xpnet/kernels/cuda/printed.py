"""Kernels printed from traced formulas.

A formula becomes a function of a C++ struct, and a FRAME of the ``.cu`` files becomes a kernel that
calls it: the frame has the loops, the sums and the loads, the struct what differs from one
activation, loss or rule to the next. Numbers of a formula are parameters of the kernel, so one text
serves every setting. A kernel's name ends with a hash of its text.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from typing import NamedTuple

from xpnet.errors import UnsupportedError
from xpnet.kernels import formulas
from xpnet.kernels.cuda.sources import MOST_NUMBERS, Kernel, declared, listed
from xpnet.kernels.formulas import ElementLoss, Elementwise
from xpnet.kernels.printing import C, printed
from xpnet.kernels.tracing import Formula, traced
from xpnet.optim.clipping import Clip

__all__ = ["activation", "clip_factor", "derivative", "element_loss", "update"]

VALUE, DERIVATIVE = traced(lambda z: z, "z"), traced(lambda da, kept: da, "da", "kept")


class Method(NamedTuple):
    """A function of a struct: its head, the code, and the numbers in it."""

    code: str
    numbers: tuple[tuple[str, float], ...]


def method(
    head: str,
    formula: Formula,
    ends: Sequence[str],
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    prefix: str = "",
) -> Method:
    """Write a formula as a function; each of ``ends`` takes one of its outputs."""
    code = printed(formula, C, prefix)
    outputs = [end.format(x) for end, x in zip(ends, code.outputs, strict=True)]
    body = "\n    ".join([*before, *code.statements, *outputs, *after])
    numbers = tuple((f"{prefix}k{i}", x) for i, x in enumerate(code.numbers))
    return Method(f"  __device__ {head} const {{\n    {body}\n  }}\n", numbers)


def kernel(
    frame: str,
    file: str,
    methods: Sequence[Method],
    slots: Sequence[str] | None = None,
    label: str = "",
) -> Kernel:
    """Return a frame of a file as a kernel that calls these functions, and updates these slots."""
    numbers = [pair for m in methods for pair in m.numbers]
    fields = [f"  real {name};\n" for name, _ in numbers]
    if slots is not None:
        fields.insert(0, f"  enum {{ SLOTS = {len(slots)} }};\n  real* slots[SLOTS + 1];\n")
    body = "".join(["{\n", *fields, *(m.code for m in methods), "};\n"])
    struct = f"{label or frame}_of_{_hash(body)}"
    given = declared(file, "FRAME")[frame].removeprefix("F f, ")
    head = ", ".join(
        [given, *(f"real* {s}" for s in slots or ()), *(f"real {n}" for n, _ in numbers)]
    )
    held = [name for name, _ in numbers]
    if slots is not None:
        held.insert(0, f"{{{', '.join(slots)}}}")
    passed = ", ".join([f"{struct}{{{', '.join(held)}}}", *(p.name for p in listed(given))])
    call = f"({head}) {{\n  {frame}({passed});\n}}\n"
    name = f"{label or frame}_{_hash(body + call)}"
    texts = (f"struct {struct} {body}", f"KERNEL {name}{call}")
    return Kernel(name, label or frame, file, texts, tuple(x for _, x in numbers))


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:10]


@lru_cache(maxsize=256)
def activation(frame: str, f: Elementwise | None) -> Kernel:
    """Return a frame that computes a = f(z), f being the identity if it is None."""
    formula = VALUE if f is None else f.value
    code = method("real operator()(real z)", formula, ["return {};"])
    return kernel(frame, _file(frame), [code])


@lru_cache(maxsize=256)
def derivative(frame: str, f: Elementwise | None) -> Kernel:
    """Return a frame that computes dz = f'(kept) da."""
    formula = DERIVATIVE if f is None else f.derivative
    code = method("real operator()(real da, real kept)", formula, ["return {};"])
    return kernel(frame, _file(frame), [code])


def _file(frame: str) -> str:
    return "normalization.cu" if "norm" in frame else "elementwise.cu"


@lru_cache(maxsize=64)
def element_loss(element: ElementLoss) -> Kernel:
    """Return the kernel of an element-wise loss."""
    outputs = element.value.outputs
    ends = ["e = {};", "de = {};", "return {};"]
    if element.correct is None:
        formula = Formula(("z", "y"), (*outputs, 0.0))
    else:
        formula = Formula(("z", "y"), (*outputs, *element.correct.outputs))
    code = method("real operator()(real z, real y, real& e, real& de)", formula, ends)
    return kernel("elementwise_loss", "elementwise_loss.cu", [code])


@lru_cache(maxsize=64)
def clip_factor(clip: Clip) -> Kernel:
    """Return the kernel of the factor that clips the norm of a gradient."""
    assert clip.norm is not None
    square, factor = formulas.squared_gradient(clip, divided=True), formulas.norm_factor(clip.norm)
    methods = [
        method("real square(real g, real denominator)", square, ["return {};"]),
        method("real factor(real norm)", factor, ["return {};"], prefix="f"),
    ]
    return kernel("clip_factor", "update.cu", methods)


@lru_cache(maxsize=64)
def update(formula: Formula, label: str) -> Kernel:
    """Return the kernel of an update rule; its last arguments are the slots.

    Raises UnsupportedError if the rule has more coefficients than a kernel takes.
    """
    slots = [name for name in formula.inputs if name.startswith("slot_")]
    numbers = [name for name in formula.inputs if name.startswith("c_")]
    if len(numbers) > MOST_NUMBERS:
        msg = f"it has {len(numbers)} coefficients; a kernel takes {MOST_NUMBERS}"
        raise UnsupportedError(msg)
    sources = {name: f"slot[{i}]" for i, name in enumerate(slots)}
    sources |= {name: f"c[{i}]" for i, name in enumerate(numbers)}
    used = formula.used()
    before = [f"real {name} = {at};" for name, at in sources.items() if name in used]
    places = ["p", *(f"slot[{i}]" for i in range(len(slots)))]
    ends = [f"real next{i} = {{}};" for i in range(len(places))]
    after = [f"{place} = next{i};" for i, place in enumerate(places)]
    head = "void operator()(real& p, real g, real* slot, real denominator, real factor,\n"
    head += "                             const real* c)"
    code = method(head, formula, ends, before, after)
    label = re.sub(r"\W", "_", label.lower())
    return kernel("update", "update.cu", [code], slots, label)
