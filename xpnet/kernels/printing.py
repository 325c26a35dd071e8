"""A traced formula as statements of Python, for Numba, or of C, for CUDA.

Numbers of the formula become variables ``k0``, ``k1``, ..., which the kernel loads: the code of
leaky ReLU is the same for every slope, and is compiled once. Only 0, 1 and a few like them are
written out. An operation whose result is used once is written where it is used, so that what only
one branch of a choice needs is computed only there.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from xpnet.errors import UnsupportedError
from xpnet.kernels.tracing import BOOLEAN, Formula, Symbol

__all__ = ["C", "NUMBA", "Language", "Printed", "printed"]

WRITTEN_OUT = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
TWICE = ("min", "max", "sign")  # they mention their operands more than once
MOST_NUMBERS = 24  # of one formula


class Language(NamedTuple):
    """How a language writes what differs between the two."""

    literal: str  # a number that is written out
    functions: dict[str, str]
    choice: str
    logic: dict[str, str]
    real: str  # what begins the statement of a number
    boolean: str
    end: str


NUMBA = Language(
    literal="real({})",
    functions={"abs": "abs", "isnan": "math.isnan", "isfinite": "math.isfinite", "pow": "pow"}
    | {n: f"math.{n}" for n in ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh",
                                "erf", "floor", "isinf")},
    choice="({1} if {0} else {2})",
    logic={"not": "not {0}", "and": "{0} and {1}", "or": "{0} or {1}"},
    real="", boolean="", end="",
)  # fmt: skip
C = Language(
    literal="(real){}",
    functions={"abs": "fabs", "isnan": "isnan", "isfinite": "isfinite", "isinf": "isinf"}
    | {n: n for n in ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh", "erf", "floor",
                      "pow")},
    choice="({0} ? {1} : {2})",
    logic={"not": "!{0}", "and": "{0} && {1}", "or": "{0} || {1}"},
    real="real ", boolean="bool ", end=";",
)  # fmt: skip


class Printed(NamedTuple):
    """The statements of one element, and the expressions of the formula's outputs after them."""

    statements: tuple[str, ...]
    outputs: tuple[str, ...]
    numbers: tuple[float, ...]  # the values of k0, k1, ... so far


def printed(
    formula: Formula,
    language: Language,
    prefix: str = "",
    known: Mapping[int, str] | None = None,
    numbers: list[float] | None = None,
) -> Printed:
    """Write a formula; the kernel defines each input, and k0, k1, ...

    Of several formulas in one kernel each has its ``prefix`` of variables, and all share
    ``numbers``, which grows. ``known`` has the names of symbols, by their ids, that the kernel has
    computed before. Raises UnsupportedError for a formula of too many numbers.
    """
    numbers = [] if numbers is None else numbers
    return _Printer(formula, language, prefix, dict(known or {}), numbers).printed()


class _Printer:
    def __init__(
        self,
        formula: Formula,
        language: Language,
        prefix: str,
        names: dict[int, str],
        numbers: list[float],
    ) -> None:
        self.formula, self.language, self.prefix = formula, language, prefix
        self.numbers, self.names = numbers, names
        self.uses: Counter = Counter(id(x) for x in formula.outputs)
        self.order = [x for x in formula.order(names) if id(x) not in names]
        for symbol in self.order:
            for operand in symbol.operands:
                self.uses[id(operand)] += 2 if symbol.operation in TWICE else 1

    def printed(self) -> Printed:
        statements: list[str] = []
        language = self.language
        for symbol in self.order:
            if symbol.operation == "input" or self.uses[id(symbol)] < 2:
                continue
            name = f"{self.prefix}v{len(statements)}"
            kind = language.boolean if symbol.operation in BOOLEAN else language.real
            statements.append(f"{kind}{name} = {self.expression(symbol)}{language.end}")
            self.names[id(symbol)] = name
        outputs = tuple(self.of(x) for x in self.formula.outputs)
        if len(self.numbers) > MOST_NUMBERS:
            msg = f"it has {len(self.numbers)} numbers; a kernel takes {MOST_NUMBERS}"
            raise UnsupportedError(msg)
        return Printed(tuple(statements), outputs, tuple(self.numbers))

    def of(self, x: Any) -> str:
        """An operand: a variable, a number, or an expression in parentheses."""
        if not isinstance(x, Symbol):
            return self.number(x)
        if id(x) in self.names:
            return self.names[id(x)]
        return str(x.operands[0]) if x.operation == "input" else self.expression(x)

    def number(self, x: float) -> str:
        if x in WRITTEN_OUT:
            return self.language.literal.format(repr(x))
        if x not in self.numbers:
            self.numbers.append(x)
        return f"k{self.numbers.index(x)}"

    def expression(self, symbol: Symbol) -> str:
        operation, language = symbol.operation, self.language
        words = [self.of(x) for x in symbol.operands]
        if operation in ("max", "min"):
            return self.extreme(symbol, words)
        if operation == "where":
            return language.choice.format(*words)
        if operation == "sign":  # 0 and NaN stay as they are
            zero, (x,) = self.number(0.0), words
            negative = language.choice.format(f"{x} < {zero}", self.number(-1.0), x)
            return language.choice.format(f"{x} > {zero}", self.number(1.0), negative)
        if operation == "neg":
            return f"(-{words[0]})"
        if operation in language.logic:
            return f"({language.logic[operation].format(*words)})"
        if operation in language.functions:
            return f"{language.functions[operation]}({', '.join(words)})"
        return f"({words[0]} {operation} {words[1]})"

    def extreme(self, symbol: Symbol, words: list[str]) -> str:
        """The larger or smaller of two; NaN if either is, as in the standard."""
        beyond, choice = "<=" if symbol.operation == "max" else ">=", self.language.choice
        (a, b), (x, y) = symbol.operands, words
        if not isinstance(b, Symbol):
            return choice.format(f"{x} {beyond} {y}", y, x)
        if not isinstance(a, Symbol):
            return choice.format(f"{y} {beyond} {x}", x, y)
        return choice.format(f"{y} == {y}", choice.format(f"{x} {beyond} {y}", y, x), y)
