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

from xpnet.errors import UnsupportedError
from xpnet.kernels import formulas
from xpnet.kernels.cuda.sources import MOST_NUMBERS, Kernel, declared, listed
from xpnet.kernels.formulas import ElementLoss, Elementwise
from xpnet.kernels.printing import C, printed
from xpnet.kernels.tracing import Formula, traced
from xpnet.optim.clipping import Clip

__all__ = [
    "activation",
    "clip_factor",
    "cross_entropy",
    "derivative",
    "element_loss",
    "labelled_rows",
    "update",
]

VALUE, DERIVATIVE = traced(lambda z: z, "z"), traced(lambda da, kept: da, "da", "kept")


class Struct:
    """The functions of a kernel, printed, and the numbers in them."""

    def __init__(self) -> None:
        self.functions: list[str] = []
        self.numbers: list[float] = []

    def add(
        self,
        head: str,
        formula: Formula,
        ends: Sequence[str] = ("return {};",),
        before: Sequence[str] = (),
        after: Sequence[str] = (),
    ) -> "Struct":
        """Print a formula as a function; each of ``ends`` takes one of its outputs."""
        code = printed(formula, C, numbers=self.numbers)
        outputs = [end.format(x) for end, x in zip(ends, code.outputs, strict=True)]
        body = "\n    ".join([*before, *code.statements, *outputs, *after])
        self.functions.append(f"  __device__ {head} const {{\n    {body}\n  }}\n")
        return self


def kernel(
    frame: str,
    file: str,
    functions: Struct,
    slots: Sequence[str] | None = None,
    label: str = "",
    bounds: str = "1024",
) -> Kernel:
    """Return a frame of a file as a kernel that calls these functions, and updates these slots.

    ``bounds`` are those of CUDA: the most threads of a block and, behind a comma, how many blocks
    are to be resident. With fewer of both, a thread may have more registers.
    """
    label = label or frame
    names = [f"k{i}" for i in range(len(functions.numbers))]
    fields, values = [f"  real {name};\n" for name in names], list(names)
    if slots is not None:
        fields.insert(0, f"  enum {{ SLOTS = {len(slots)} }};\n  real* slots[SLOTS + 1];\n")
        values.insert(0, f"{{{', '.join(slots)}}}")
    body = "".join(["{\n", *fields, *functions.functions, "};\n"])
    given = declared(file, "FRAME")[frame].removeprefix("F f, ")
    head = ", ".join([given, *(f"real* {x}" for x in slots or ()), *(f"real {x}" for x in names)])
    struct = f"{label}_of_{_hash(body)}"
    passed = ", ".join([f"{struct}{{{', '.join(values)}}}", *(p.name for p in listed(given))])
    call = f"({head}) {{\n  {frame}({passed});\n}}\n"
    name = f"{label}_{_hash(body + call)}"
    texts = (f"struct {struct} {body}", f"KERNEL_OF({bounds}) {name}{call}")
    return Kernel(name, label, file, texts, tuple(functions.numbers))


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:10]


@lru_cache(maxsize=256)
def activation(frame: str, f: Elementwise | None) -> Kernel:
    """Return a frame that computes a = f(z), f being the identity if it is None."""
    formula = VALUE if f is None else f.value
    return kernel(frame, _file(frame), Struct().add("real operator()(real z)", formula))


@lru_cache(maxsize=256)
def derivative(frame: str, f: Elementwise | None) -> Kernel:
    """Return a frame that computes dz = f'(kept) da."""
    formula = DERIVATIVE if f is None else f.derivative
    functions = Struct().add("real operator()(real da, real kept)", formula)
    # A block of 1024 threads that shares a multiprocessor has 32 registers for each of them.
    alone = re.search(r"\b(exp|log|tanh|erf|pow|sin|cos)", functions.functions[0])
    return kernel(frame, _file(frame), functions, bounds="1024,1" if alone else "1024")


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
    functions = Struct().add("real operator()(real z, real y, real& e, real& de)", formula, ends)
    return kernel("elementwise_loss", "elementwise_loss.cu", functions)


@lru_cache(maxsize=64)
def cross_entropy(held: int, *, block: bool) -> Kernel:
    """Return a kernel of the softmax cross-entropy; cross_entropy.cu says what these are."""
    return _of_rows("cross_entropy", held=held, block=block)


@lru_cache(maxsize=64)
def labelled_rows(held: int, *, packed: bool, block: bool) -> Kernel:
    """Return a kernel of it for long rows with labels; labelled_rows.cu says what these are."""
    return _of_rows("labelled_rows", held=held, block=block, V="WIDE" if packed else 1)


def _of_rows(frame: str, **constants: str | int) -> Kernel:
    functions = Struct()
    written = ", ".join(f"{name.upper()} = {x:d}" if isinstance(x, int) else f"{name} = {x}"
                        for name, x in constants.items())  # fmt: skip
    functions.functions.append(f"  enum {{ {written} }};\n")
    many = constants["held"] == 1 or (frame == "cross_entropy" and not constants["block"])
    return kernel(frame, f"{frame}.cu", functions, label="softmax_cross_entropy",
                  bounds="1024,1" if many else "512")  # fmt: skip


@lru_cache(maxsize=64)
def clip_factor(clip: Clip, *, apart: bool = False) -> Kernel:
    """Return the kernel of the factor that clips the norm of a gradient, its tensors ``apart``."""
    assert clip.norm is not None
    square, factor = formulas.squared_gradient(clip, divided=True), formulas.norm_factor(clip.norm)
    functions = _places(apart).add("real square(real g, real denominator)", square)
    return kernel("clip_factor", "update.cu", functions.add("real factor(real norm)", factor))


def _places(apart: bool) -> Struct:
    """The functions of a kernel on the gradient, with where its tensors are: common.cuh."""
    functions = Struct()
    functions.functions.append(f"  typedef {'Apart' if apart else 'Flat'} Places;\n")
    return functions


@lru_cache(maxsize=64)
def update(formula: Formula, label: str, *, apart: bool = False) -> Kernel:
    """Return the kernel of an update rule; its last arguments are the slots.

    ``apart`` says whether the tensors of the gradient are. Raises UnsupportedError if the rule has
    more coefficients than a kernel takes.
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
    functions = _places(apart).add(head, formula, ends, before, after)
    label = re.sub(r"\W", "_", label.lower())
    return kernel("update", "update.cu", functions, slots, label)
