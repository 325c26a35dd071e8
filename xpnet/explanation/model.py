"""What an explanation is: plain data that every renderer reads and none computes.

Values are host float64 arrays, copies of what the real functions returned.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from xpnet.explanation.notation import columns, indices

__all__ = [
    "Beside",
    "Bridge",
    "Code",
    "Convention",
    "Explanation",
    "Playground",
    "Step",
    "Tensor",
    "Way",
    "Ways",
]

Convention = Literal["rows", "column", "both"]


class Code(NamedTuple):
    """Lines of a function of xpnet as they stand in its file."""

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
        """The same with each sample a column: a matrix is transposed."""
        if len(self.letters) != 2:
            return self
        return Tensor(self.name, self.letters[::-1], self.values.T)


@dataclass(frozen=True)
class Step:
    """One operation of a training step.

    ``einsum`` is Python: with the operands by name and NumPy's functions it gives the result.
    Empty where a formula is not a product and a sum. In ``matrix`` and ``note``, formulas stand
    between dollar signs. ``product`` names the operands whose product
    over ``summed`` is the result, but for ``added``, which is added to it.
    """

    place: str  # such as "0 dense"
    title: str
    direction: Literal["forward", "backward"]
    formula: str  # in the notation of xpnet.explanation.notation
    matrix: str  # the same without letters, such as "$z = x W + b$"; may be empty
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

    @property
    def summed(self) -> str:
        """The letters that are summed over."""
        return indices(self.formula)

    def column(self) -> "Step":
        """Return this step for samples as columns, as textbooks write them."""
        einsum = self.column_einsum or _column_einsum(self.einsum)
        operands = tuple(t.column() for t in self.operands)
        if self.column_einsum:  # W before x, as it is written
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
    """Reverse each pair of letters in an einsum's string, and swap broadcast axes."""
    reverse = lambda m: re.sub(r"\b([a-z])([a-z])\b", r"\2\1", m[0])  # noqa: E731
    text = re.sub(r'"[^"]*"', reverse, text)
    swap = {"[:, None]": "[None, :]", "[None, :]": "[:, None]"}
    return re.sub(r"\[:, None\]|\[None, :\]", lambda m: swap[m[0]], text)


class Way(NamedTuple):
    """One way to the gradient."""

    name: str
    formula: str
    einsum: str  # empty where the way is no single expression
    dz: np.ndarray  # (N, K)
    dW: np.ndarray  # (I, K)  # noqa: N815
    exact: bool = True  # False for finite differences, and for the wrong one
    function: str = ""  # of xpnet, where one computes it
    seen: tuple[np.ndarray, np.ndarray] | None = None  # which entries were computed, if not all

    def differences(self, dz: np.ndarray, dW: np.ndarray) -> tuple[float, float]:
        """Return the largest |difference| from dz and from dW; NaN where an entry is none."""
        of_dz, of_dW = np.abs(self.dz - dz), np.abs(self.dW - dW)
        if self.seen is not None:
            of_dz, of_dW = of_dz[self.seen[0]], of_dW[self.seen[1]]
        return float(of_dz.max(initial=0.0)), float(of_dW.max(initial=0.0))


@dataclass(frozen=True)
class Ways:
    """dC/dz and dC/dW of the output layer, five ways, and the wrong one."""

    function: str  # the output function: softmax, sigmoid or identity
    a: np.ndarray  # (N, K) its values
    da: np.ndarray  # (N, K)
    jacobian: np.ndarray  # (N, K, K)
    trained: tuple[np.ndarray, np.ndarray]  # dz and dW as training computes them
    ways: tuple[Way, ...]
    wrong: Way  # da times the diagonal of J, element by element
    why: str
    entries: tuple[int, int]  # of dW: those that loops and differences visited, and all

    @property
    def spread(self) -> float:
        """The largest difference of an exact way from what training computes."""
        with np.errstate(all="ignore"):
            apart = [w.differences(*self.trained) for w in self.ways if w.exact]
        return float(np.max(apart))


class Beside(NamedTuple):
    """One output function with its loss, for comparison; the first row of the batch."""

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
        """Whether the Jacobian has nothing off its diagonal."""
        return not np.any(self.jacobian - np.diag(np.diag(self.jacobian)))


@dataclass(frozen=True)
class Bridge:
    """The dense layer before the output, in both conventions."""

    rows: tuple[Tensor, ...]  # x, W, b, z, dz, dW as the code has them
    column: tuple[Tensor, ...]
    pairs: tuple[tuple[str, str, str], ...]  # what, in rows, in columns
    apart: float  # the largest difference between W x + b by columns and (x W + b)ᵀ


class Playground(NamedTuple):
    """What the page starts from: one row of logits and its label."""

    logits: np.ndarray  # (K,)
    label: int
    classes: tuple[str, ...]
    loss: float
    softmax: np.ndarray
    jacobian: np.ndarray
    gradient: np.ndarray
    wrong: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """Everything that is shown."""

    title: str
    setting: tuple[tuple[str, str], ...]  # such as ("backend", "numpy 2.4")
    convention: Convention
    steps: tuple[Step, ...]  # in the letters of the code: batches of rows
    ways: Ways
    beside: tuple[Beside, Beside]
    bridge: Bridge
    playground: Playground

    def shown(self) -> list[tuple[Step, Step | None]]:
        """The steps in the chosen convention, each with its other form where both are wanted."""
        if self.convention == "column":
            return [(step.column(), None) for step in self.steps]
        both = self.convention == "both"
        return [(step, step.column() if both else None) for step in self.steps]
