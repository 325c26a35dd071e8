"""Loops over the elements of matrices and vectors, printed around the formulas of a network.

Matrices are (N, J) and contiguous, and a result may overwrite an input. Each function returns the
text of a kernel, and the numbers that the kernel's formula takes; beside each kernel stands which
arrays of a row it expects.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from xpnet.kernels.formulas import ElementLoss, Elementwise, norm_factor, squared_gradient
from xpnet.kernels.printing import NUMBA, Printed, printed
from xpnet.kernels.tracing import Formula, Symbol
from xpnet.optim.clipping import Clip

__all__ = ["Loop", "along_rows", "element_loss", "map_backward", "map_forward", "norm", "update"]


class Loop(NamedTuple):
    """The text of a kernel, and the numbers in its row."""

    text: str
    numbers: tuple[float, ...] = ()


def _text(lines: Iterable[str]) -> str:
    return "\n".join(["def kernel(row):", *(f"    {line}" for line in lines), ""])


def _numbers(numbers: Sequence[float]) -> list[str]:
    return [f"k{i} = number(row, {i})" for i in range(len(numbers))]


def _vectors(*names: str) -> list[str]:
    return [f"{name} = vector(row, {i})" for i, name in enumerate(names)]


def _deep(lines: Iterable[str], depth: int) -> list[str]:
    return [f"{'    ' * depth}{line}" for line in lines]


MATRIX = ["N, J = size(row, 0), size(row, 1)"]
EACH = ["for n in range(N):", "    for j in range(J):", "        i = n * J + j"]


def map_forward(f: Elementwise | None, *, bias: bool, keeps_z: bool) -> Loop:
    """a = f(x + b), and z = x + b if that is kept. Arrays: x, b, z, a."""
    code = printed(f.value, NUMBA) if f else Printed((), ("z",), ())
    lines = [*MATRIX, *_vectors("x", "b", "z_", "a")]
    lines += [*_numbers(code.numbers), *EACH]
    body = ["z = x[i] + b[j]" if bias else "z = x[i]", *["z_[i] = z"] * keeps_z]
    body += [*code.statements, f"a[i] = {code.outputs[0]}"]
    return Loop(_text([*lines, *_deep(body, 2)]), code.numbers)


def map_backward(f: Elementwise | None, *, bias: bool) -> Loop:
    """da *= f'(kept); with a bias db = Σ_n da_n and then out = β out + α db.

    Arrays: da, kept, db, out, and (α, β) as float64. With β = 0 ``out`` may be uninitialised.
    """
    code = printed(f.derivative, NUMBA) if f else Printed((), ("da",), ())
    lines = [*MATRIX, "da_, kept_ = vector(row, 0), vector(row, 1)", *_numbers(code.numbers)]
    if bias:
        lines += ["db, out, pair = vector(row, 2), vector(row, 3), doubles(row, 4)"]
        lines += ["for j in range(J):", "    db[j] = real(0.0)"]
    body = ["da = da_[i]"]
    if f:
        body += ["kept = kept_[i]", *code.statements]
        body += [f"dz = {code.outputs[0]}", "da_[i] = dz"]
    body += [f"db[j] += {'dz' if f else 'da'}"] * bias
    lines += [*EACH, *_deep(body, 2)]
    lines += ["give(db, out, J, pair)"] * bias
    return Loop(_text(lines), code.numbers)


def element_loss(
    formulas: ElementLoss, reduction: str, *, bias: bool, weighted: bool, divided: bool = True
) -> Loop:
    """dz from outputs z, after adding the bias b, and targets y; dz may be z. Adds to the sums.

    ``divided`` says whether dz is divided by D, and C set. Arrays: z, b, dz, y, weight (N,), sums.
    """
    numbers: list[float] = []
    code = printed(formulas.value, NUMBA, numbers=numbers)
    correct = (
        printed(formulas.correct, NUMBA, prefix="c", numbers=numbers) if formulas.correct else None
    )
    lines = [*MATRIX, *_vectors("z_", "b", "dz", "y_", "weight", "sums"), *_numbers(numbers)]
    lines += ["loss = weights = right = real(0.0)", "for n in range(N):"]
    lines += [f"    s = {'weight[n]' if weighted else 'real(1.0)'}", "    for j in range(J):"]
    body = ["i = n * J + j", "z = z_[i] + b[j]" if bias else "z = z_[i]", "y = y_[i]"]
    body += [*code.statements, f"loss += {code.outputs[0]} * s", f"dz[i] = {code.outputs[1]} * s"]
    if correct:
        body += [*correct.statements, f"right += {correct.outputs[0]} * s"]
    lines += [*_deep(body, 2), "    weights += s * real(J)", "count = real(N * J)"]
    if correct:
        lines += ["sums[CORRECT] += right", "sums[COUNT] += weights"]
    rest = f"{DIVISORS[reduction]}, loss, sums"
    lines += [f"finish(dz, N * J, {rest})" if divided else f"add_up({rest})"]
    return Loop(_text(lines), tuple(numbers))


DIVISORS = {"mean": "weights", "mean_count": "count", "sum": "real(1.0)"}


def norm(clip: Clip, *, divided: bool = False) -> Loop:
    """factor = what clips the norm of g (P,), each component clipped before.

    ``divided``: g is divided by D first. Arrays: g, factor, D (1,).
    """
    assert clip.norm is not None
    numbers: list[float] = []
    square = printed(squared_gradient(clip, divided=divided), NUMBA, numbers=numbers)
    factor = printed(norm_factor(clip.norm), NUMBA, prefix="n", numbers=numbers)
    lines = ["P = size(row, 0)", "g_, factor = vector(row, 0), vector(row, 1)", *_numbers(numbers)]
    lines += ["denominator = vector(row, 2)[0]"] * divided
    lines += ["total = real(0.0)", "for i in range(P):"]
    body = ["g = g_[i]", *square.statements, f"total += {square.outputs[0]}"]
    lines += [*_deep(body, 1), "norm = math.sqrt(total)", *factor.statements]
    return Loop(_text([*lines, f"factor[0] = {factor.outputs[0]}"]), tuple(numbers))


def update(formula: Formula) -> Loop:
    """p and the slots after an update.

    Arrays: p, g, factor, the coefficients (float64), slots, and D (1,) where g is divided by it.
    """
    code, used = printed(formula, NUMBA), formula.used()
    slots = [name for name in formula.inputs if name.startswith("slot_")]
    numbers = [name for name in formula.inputs if name.startswith("c_")]
    lines = ["P = size(row, 0)", "p_, g_, c = vector(row, 0), vector(row, 1), doubles(row, 3)"]
    lines += [f"{name}_ = vector(row, {4 + i})" for i, name in enumerate(slots)]
    lines += [f"{name} = real(c[{i}])" for i, name in enumerate(numbers) if name in used]
    lines += ["factor = vector(row, 2)[0]"] * ("factor" in used)
    lines += [f"denominator = vector(row, {4 + len(slots)})[0]"] * ("denominator" in used)
    lines += [*_numbers(code.numbers), "for i in range(P):"]
    body = [f"{name} = {name}_[i]" for name in ("p", "g", *slots) if name in used]
    body += [*code.statements]
    # All values before the first store: a slot's new value may need the old one of another.
    body += [f"new{i} = {x}" for i, x in enumerate(code.outputs)]
    body += [f"{name}_[i] = new{i}" for i, name in enumerate(("p", *slots))]
    return Loop(_text([*lines, *_deep(body, 1)]), code.numbers)


def along_rows(formula: Formula, names: Sequence[str | None], *, keeps: bool = False) -> Loop:
    """A formula with sums along rows, as a loop over them with a pass for each sum after another.

    ``names`` are those of the outputs, None where one is not stored. Arrays: the inputs, the
    stored outputs, and for each total its sums (J,) and where they go; then (α, β) for those.
    ``keeps`` says that no output overwrites an input: the first one may then keep what a pass
    computed for a later one.
    """
    return _Rows(formula, names, keeps=keeps).loop()


EXPENSIVE = ("exp", "expm1", "log", "log1p", "tanh", "erf", "sqrt", "pow")


class _Rows:
    def __init__(self, formula: Formula, names: Sequence[str | None], *, keeps: bool) -> None:
        self.formula, self.names, self.keeps = formula, names, keeps
        self.known: dict[int, str] = {}
        self.numbers: list[float] = []
        self.depths: dict[int, int] = {}
        self.order = formula.order()
        for x in self.order:
            operands = [self.depths.get(id(y), 0) for y in x.operands]
            self.depths[id(x)] = max(operands, default=0) + (x.operation in REDUCTIONS)
        self.inputs = [x for x in self.order if x.operation == "input"]
        self.count = 0

    def loop(self) -> Loop:
        outputs = list(zip(self.names, self.formula.outputs, strict=True))
        totals = [(f"t{i}", x) for i, (_, x) in enumerate(outputs) if _is_total(x)]
        stored = [(name, x) for name, x in outputs if name and not _is_total(x)]
        body = ["at = n * J"]
        body += [f"{x} = {x}_[n]" for x in self.inputs if x.level == "row" and str(x) != "width"]
        deepest = max(self.depths.values(), default=0)
        for depth in range(1, deepest + 1):
            body += self.reduction(depth, stored)
        body += self.last(stored, totals)
        lines = ["R, J = size(row, 0), size(row, 1)", "width = real(J)"]
        arrays = [*self.formula.inputs, *(name for name, _ in stored)]
        lines += _vectors(*(f"{name}_" for name in arrays))
        lines += _numbers(self.numbers)
        for i, (name, _) in enumerate(totals):
            at = len(arrays) + 2 * i
            lines += [f"{name}, {name}_out = vector(row, {at}), vector(row, {at + 1})"]
            lines += ["for j in range(J):", f"    {name}[j] = real(0.0)"]
        lines += ["for n in range(R):", *_deep(body, 1)]
        pair = f"doubles(row, {len(arrays) + 2 * len(totals)})"
        lines += [f"give({name}, {name}_out, J, {pair})" for name, _ in totals]
        return Loop(_text(lines), tuple(self.numbers))

    def reduction(self, depth: int, stored: list) -> list[str]:
        """A pass that computes the sums and maxima of this depth."""
        found = [x for x in self.order if x.operation in REDUCTIONS and self.depths[id(x)] == depth]
        operands = [x.operands[0] for x in found]
        lines = [*self.by_row(operands)]
        accumulators = [f"s{depth}_{i}" for i in range(len(found))]
        start = {"row_sum": "real(0.0)", "row_max": "real(-np.inf)"}
        lines += [f"{s} = {start[x.operation]}" for s, x in zip(accumulators, found, strict=True)]
        body, values = self.elements(operands)
        for s, x, value in zip(accumulators, found, values, strict=True):
            body.append(f"{s}v = {value}")
            if x.operation == "row_sum":
                body.append(f"{s} += {s}v")
            else:  # a NaN is the largest
                body.append(f"{s} = {s}v if {s} <= {s}v or {s}v != {s}v else {s}")
            self.known[id(x)] = s
            body += self.kept(x.operands[0], f"{s}v", stored)
        return [*lines, "for j in range(J):", *_deep(body, 1)]

    def kept(self, operand: Any, value: str, stored: list) -> list[str]:
        """Keep what a later pass needs again, and is expensive, where the first output will be."""
        if not (self.keeps and isinstance(operand, Symbol) and operand.operation in EXPENSIVE):
            return []
        self.keeps, name = False, stored[0][0]
        self.known[id(operand)] = f"{name}_[at + j]"
        return [f"{name}_[at + j] = {value}"]

    def last(self, stored: list, totals: list) -> list[str]:
        """The pass that writes the outputs."""
        elements = [x for _, x in stored if x.level == "element"]
        rows = [(name, x) for name, x in stored if x.level == "row"]
        wanted = [*elements, *(x.operands[0] for _, x in totals)]
        lines = self.by_row([*wanted, *(x for _, x in rows)])
        lines += [f"{name}_[n] = {self.known[id(x)]}" for name, x in rows]
        body, values = self.elements(wanted)
        # All values before the first store: an output may overwrite an input.
        body += [f"o{i} = {value}" for i, value in enumerate(values)]
        names = [name for name, x in stored if x.level == "element"]
        body += [f"{name}_[at + j] = o{i}" for i, name in enumerate(names)]
        body += [f"{name}[j] += o{len(names) + i}" for i, (name, _) in enumerate(totals)]
        return [*lines, "for j in range(J):", *_deep(body, 1)]

    def by_row(self, wanted: list[Any]) -> list[str]:
        """Compute what is one number of a row before the loop over its elements."""
        formula = Formula((), tuple(x for x in wanted if isinstance(x, Symbol)))
        found = [x for x in formula.order(self.known) if x.level == "row"
                 and x.operation != "input" and id(x) not in self.known]  # fmt: skip
        lines = []
        for x in found:
            code = self.printed([x])
            name = f"q{len(self.known)}"
            lines += [*code.statements, f"{name} = {code.outputs[0]}"]
            self.known[id(x)] = name
        return lines

    def elements(self, wanted: list[Any]) -> tuple[list[str], list[str]]:
        """The statements of one element, and the expressions of what is wanted."""
        code = self.printed(wanted)
        formula = Formula((), tuple(wanted))
        needed = [x for x in formula.order(self.known) if x.operation == "input"]
        lines = [f"{x} = {x}_[at + j]" for x in needed if x.level == "element"]
        lines += [f"{x} = {x}_[j]" for x in needed if x.level == "column"]
        return [*lines, *code.statements], list(code.outputs)

    def printed(self, wanted: list[Any]) -> Printed:
        self.count += 1
        return printed(
            Formula((), tuple(wanted)), NUMBA, f"p{self.count}_", self.known, self.numbers
        )


REDUCTIONS = ("row_sum", "row_max")


def _is_total(x: Any) -> bool:
    return isinstance(x, Symbol) and x.operation == "total"
