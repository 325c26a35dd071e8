"""The data of an explanation, which every renderer reads and none computes.

Values are host float64 arrays, copies of what the real functions returned.
"""

import dataclasses
import importlib
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from xpnet.errors import ConfigError
from xpnet.explanation.notation import columns, indices

__all__ = [
    "Beside",
    "Bridge",
    "Code",
    "Convention",
    "Example",
    "Explanation",
    "Format",
    "Letter",
    "Nudge",
    "Playground",
    "Reason",
    "Step",
    "Tensor",
    "TwoWays",
    "Way",
    "Ways",
]

Convention = Literal["rows", "column", "both"]
Format = Literal["terminal", "markdown", "latex", "html"]  # each a module that renders


class Code(NamedTuple):
    """Lines of a function of xpnet, exactly as in its file."""

    function: str  # such as "dense_backward"
    path: str  # within the package, such as "xpnet/ops/dense.py"
    line: int  # of the first line of the text
    text: str


class Tensor(NamedTuple):
    """An array with a name and an index letter per axis."""

    name: str
    letters: str
    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def column(self) -> "Tensor":
        """Return it with each sample as a column: a matrix is transposed."""
        if len(self.letters) != 2:
            return self
        return Tensor(self.name, self.letters[::-1], self.values.T)


@dataclass(frozen=True)
class Step:
    """One operation of a training step.

    ``einsum`` is a Python expression of the operands' names and NumPy's functions that evaluates to
    the result; empty if the formula is not a sum of products. In ``matrix`` and ``note``, formulas
    are between dollar signs. ``product`` names the operands whose product, summed over ``summed``,
    plus the operand ``added``, is the result.
    """

    place: str  # such as "0 dense"
    title: str
    direction: Literal["forward", "backward"]
    formula: str  # in the notation of xpnet.explanation.notation
    matrix: str  # the formula without index letters, such as "$z = x W + b$"; may be empty
    einsum: str
    code: tuple[Code, ...]
    operands: tuple[Tensor, ...]
    result: Tensor
    product: tuple[str, ...] = ()
    added: str = ""
    note: str = ""
    column_formula: str = ""
    column_matrix: str = ""
    column_einsum: str = ""
    way: Literal["", "jacobian", "fused"] = ""  # of the two from the loss to dz, if it is on one
    trained: bool = True  # False: training of this model goes the other way

    @property
    def summed(self) -> str:
        """The index letters that are summed over."""
        return indices(self.formula)

    def column(self) -> "Step":
        """Return this step for samples as columns, as in textbooks."""
        einsum = self.column_einsum or _column_einsum(self.einsum)
        operands = tuple(t.column() for t in self.operands)
        if self.column_einsum:  # W before x, as in the formula
            order = re.findall(r"\w+", einsum)
            operands = tuple(sorted(operands, key=lambda t: order.index(t.name)))
        return dataclasses.replace(
            self,
            formula=self.column_formula or columns(self.formula),
            matrix=self.column_matrix or self.matrix,
            einsum=einsum,
            operands=operands,
            result=self.result.column(),
        )


def _column_einsum(text: str) -> str:
    """Reverse each pair of index letters in an einsum's string, and swap broadcast axes."""
    reverse = lambda m: re.sub(r"\b([a-z])([a-z])\b", r"\2\1", m[0])  # noqa: E731
    text = re.sub(r'"[^"]*"', reverse, text)
    swap = {"[:, None]": "[None, :]", "[None, :]": "[:, None]"}
    return re.sub(r"\[:, None\]|\[None, :\]", lambda m: swap[m[0]], text)


class Way(NamedTuple):
    """One way to compute the gradient."""

    name: str
    formula: str
    einsum: str  # empty if it is not a single expression
    dz: np.ndarray  # (N, K)
    dW: np.ndarray  # (I, K)  # noqa: N815
    exact: bool = True  # False for finite differences and for the wrong product
    function: str = ""  # the function of xpnet that computes it, if any
    seen: tuple[np.ndarray, np.ndarray] | None = None  # which entries were computed, if not all

    def differences(self, dz: np.ndarray, dW: np.ndarray) -> tuple[float, float]:
        """Return the largest absolute differences from dz and from dW; NaN if an entry is NaN."""
        of_dz, of_dW = np.abs(self.dz - dz), np.abs(self.dW - dW)
        if self.seen is not None:
            of_dz, of_dW = of_dz[self.seen[0]], of_dW[self.seen[1]]
        return float(of_dz.max(initial=0.0)), float(of_dW.max(initial=0.0))


@dataclass(frozen=True)
class Ways:
    """dC/dz and dC/dW of the output layer, computed five ways and once wrongly."""

    function: str  # the output function: softmax, sigmoid or identity
    a: np.ndarray  # (N, K) the output function's values
    da: np.ndarray  # (N, K)
    jacobian: np.ndarray  # (N, K, K)
    trained: tuple[np.ndarray, np.ndarray]  # dz and dW as training computes them
    ways: tuple[Way, ...]
    wrong: Way  # da times the diagonal of J, element by element
    why: str
    entries: tuple[int, int]  # entries of dW that loops and differences computed, and all

    @property
    def spread(self) -> float:
        """The largest difference of an exact way from the gradients of training."""
        with np.errstate(all="ignore"):
            differences = [w.differences(*self.trained) for w in self.ways if w.exact]
        return float(np.max(differences))


class Beside(NamedTuple):
    """An output function with its loss, on the first row of the batch, for comparison."""

    name: str  # such as "sigmoid + mean squared error"
    formula: str
    y: np.ndarray  # (K,)
    a: np.ndarray  # (K,)
    da: np.ndarray  # (K,)
    jacobian: np.ndarray  # (K, K)
    dz: np.ndarray  # (K,) the vector times the matrix
    diagonal: np.ndarray  # (K,) the element-wise product with the diagonal

    @property
    def is_diagonal(self) -> bool:
        """Whether the Jacobian is 0 off its diagonal."""
        return not np.any(self.jacobian - np.diag(np.diag(self.jacobian)))


@dataclass(frozen=True)
class Bridge:
    """The dense layer before the output, in both conventions."""

    rows: tuple[Tensor, ...]  # x, W, b, z, dz, dW as the code has them
    column: tuple[Tensor, ...]
    pairs: tuple[tuple[str, str, str], ...]  # what, in rows, in columns
    difference: float  # the largest between the two conventions, of z and dW


@dataclass(frozen=True)
class TwoWays:
    """dC/dz through the Jacobian, step by step, and by the fused form, which never forms it."""

    function: Literal["softmax", "sigmoid"]
    trained: Literal["jacobian", "fused"]  # the way that training of this model goes
    jacobian: np.ndarray  # (N, K) dz = da J
    fused: np.ndarray  # (N, K) dz
    losses: tuple[float, float]  # C from the probabilities, and from the logits
    difference: float  # the largest between the two dz; NaN where one is no number
    text: str  # what the difference is, in words


class Letter(NamedTuple):
    """What a letter of the formulas means."""

    kind: Literal["size", "index", "array"]
    symbol: str  # a formula, such as "da_nk"
    meaning: str  # in words, with formulas between dollar signs
    shape: str  # such as "(N, K) = (1, 3)"; of a size its value, of an index its range


class Reason(NamedTuple):
    """A line of the derivation of J and of dz."""

    text: str  # in words, with formulas between dollar signs
    formula: str
    numbers: str  # the same with the numbers of the first row, a formula; may be empty
    name: str = ""  # of the line, in a word or two, formulas between dollar signs


class Nudge(NamedTuple):
    """What moves when one logit of the playground rises a little."""

    function: Literal["softmax", "sigmoid"]
    s: int  # the logit
    by: float
    a: np.ndarray  # (K,) before
    jacobian: np.ndarray  # (K, K), whose column s says what moves
    predicted: np.ndarray  # (K,) J_ks by
    actual: np.ndarray  # (K,) the change of a


@dataclass(frozen=True)
class Example:
    """The first row of the batch as people know it, and what the model says of it."""

    text: str  # which row, and why it was chosen
    picture: np.ndarray | None = None  # (H, W) or (H, W, 3) from 0, black, to 1; None: no image
    columns: tuple[tuple[str, str], ...] = ()  # of a table: name, and value as it was written
    label: str = ""  # the class, or the value
    answers: tuple[tuple[str, float], ...] = ()  # classes and probabilities, the likeliest first


class Playground(NamedTuple):
    """The initial state of the page's playground: one row of logits and its label."""

    logits: np.ndarray  # (K,)
    label: int
    classes: tuple[str, ...]
    loss: float
    softmax: np.ndarray
    jacobian: np.ndarray
    gradient: np.ndarray
    wrong: np.ndarray
    low: float = -10.0  # the range of the sliders, which has all logits
    high: float = 10.0
    note: str = ""  # whose logits these are, if they are not simply those of the first row


@dataclass(frozen=True)
class Explanation:
    """An explained training step: everything that a renderer shows."""

    title: str
    setting: tuple[tuple[str, str], ...]  # such as ("backend", "numpy 2.4")
    convention: Convention
    steps: tuple[Step, ...]  # in the letters of the code: batches of rows
    ways: Ways
    beside: tuple[Beside, Beside]
    bridge: Bridge
    playground: Playground
    two_ways: TwoWays | None = None  # None: the loss has no such split, see `one_way`
    one_way: str = ""  # why there is a single way, in words
    legend: tuple[Letter, ...] = ()
    derivation: tuple[Reason, ...] = ()
    nudges: tuple[Nudge, ...] = ()  # of softmax and of the sigmoid, on the playground's logits
    example: Example | None = None  # None where the rows are synthetic
    script: str = ""  # lines of Python with NumPy that give the numbers shown

    @property
    def opening(self) -> int:
        """The index of the step to open on: the vector times the Jacobian, if there is one."""
        backward = [i for i, step in enumerate(self.steps) if step.direction == "backward"]
        through = [i for i in backward if self.steps[i].way == "jacobian"]
        return through[-1] if through else backward[0]

    def shown(self) -> list[tuple[Step, Step | None]]:
        """Return the steps in the chosen convention, each with its column form or None."""
        if self.convention == "column":
            return [(step.column(), None) for step in self.steps]
        both = self.convention == "both"
        return [(step, step.column() if both else None) for step in self.steps]

    def render(self, form: Format = "terminal") -> str:
        """Return it as text; that for a terminal has 80 columns. Raises ConfigError."""
        if form not in get_args(Format):
            msg = f"form must be one of {', '.join(get_args(Format))}; got {form!r}"
            raise ConfigError(msg)
        return importlib.import_module(f"xpnet.explanation.{form}").render(self)

    def __str__(self) -> str:
        return self.render()
