"""What a pass over the test rows leaves to draw, in bounded memory, however many rows there are.

Each tally is given the rows batch by batch: counts are of all rows; where single rows are needed,
a random sample of them is kept, drawn from a seed, and the worst mistakes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

__all__ = [
    "UNNAMED",
    "ClassTally",
    "LabelTally",
    "Mistake",
    "Reliability",
    "Sample",
    "ValueTally",
]

MOST_VALUES = 200_000  # numbers of a kind that are kept as a sample
MOST_MISTAKES = 24
BINS = 10
UNNAMED = "target"  # what a target is called whose column has no name


class Sample:
    """A uniform sample of rows, all of them while they are few: columns of arrays (n, ...)."""

    def __init__(self, most: int, seed: int = 0) -> None:
        self.most, self.rows = most, 0
        self._random = np.random.default_rng(seed)
        self._keys = np.zeros(0)
        self._kept: tuple[np.ndarray, ...] | None = None

    def add(self, *columns: np.ndarray) -> None:
        """Add a batch of rows: the same columns each time."""
        self.rows += len(columns[0])
        keys = np.concatenate([self._keys, self._random.random(len(columns[0]))])
        if self._kept is not None:
            pairs = zip(self._kept, columns, strict=True)
            columns = tuple(np.concatenate(pair) for pair in pairs)
        if len(keys) > self.most:
            kept = np.sort(np.argpartition(keys, self.most)[: self.most])
            keys, columns = keys[kept], tuple(column[kept] for column in columns)
        self._keys, self._kept = keys, columns

    @property
    def columns(self) -> tuple[np.ndarray, ...]:
        """What was kept, in the order of the rows."""
        return self._kept or ()

    @property
    def whole(self) -> bool:
        """Whether no row was left out."""
        return self.rows <= self.most

    def of(self) -> str:
        """Return what the sample is of, in words; "" where it is all rows."""
        return "" if self.whole else f"Drawn from {self.most:,} of {self.rows:,} rows, at random."


class Reliability:
    """How often events of a predicted probability happen: counts in bins of equal width.

    A probability on the edge of two bins is in the lower one, as in scikit-learn's
    ``calibration_curve``.
    """

    def __init__(self, bins: int = BINS) -> None:
        self.edges = np.linspace(0.0, 1.0, bins + 1)
        self.weight, self.happened, self.predicted = np.zeros((3, bins))

    def add(self, p: np.ndarray, happened: np.ndarray, weight: np.ndarray | None = None) -> None:
        """Add probabilities (N,), whether it happened (N,) and sample weights (N,)."""
        bin_of, bins = np.searchsorted(self.edges[1:-1], p), len(self.weight)
        weight = np.ones(len(p)) if weight is None else weight
        self.weight += np.bincount(bin_of, weight, bins)
        self.happened += np.bincount(bin_of, weight * happened, bins)
        self.predicted += np.bincount(bin_of, weight * p, bins)

    def curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean probability and share that happened of each bin that has rows, (B,) each."""
        used = self.weight > 0
        return self.predicted[used] / self.weight[used], self.happened[used] / self.weight[used]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of the two, over rows.

        Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian
        Binning", AAAI 2015.
        """
        total = self.weight.sum()
        return float(np.abs(self.predicted - self.happened).sum() / total) if total else 0.0

    @property
    def means(self) -> tuple[float, float]:
        """The mean probability, and the share that happened."""
        total = self.weight.sum()
        if not total:
            return 0.0, 0.0
        return float(self.predicted.sum() / total), float(self.happened.sum() / total)


class Mistake(NamedTuple):
    """A row that the model gets wrong; ``row`` counts those of the test part from 0."""

    badness: float
    row: int
    expected: float  # the label's class or value
    actual: float
    column: int = 0  # of several targets or labels
    p_expected: float = 0.0
    p_actual: float = 0.0


@dataclass
class _Worst:
    """The mistakes of the largest badness, the first of equal ones."""

    most: int = MOST_MISTAKES
    found: list[Mistake] = field(default_factory=list)

    def add(self, badness: np.ndarray, rows: np.ndarray, **of_rows: Any) -> None:
        """Add a batch: badness (N,), row numbers (N,), and the fields of the mistakes, (N,)."""
        order = np.argsort(-badness, kind="stable")[: self.most]
        names = list(of_rows)
        for i in order:
            fields = {name: of_rows[name][i].item() for name in names}
            self.found.append(Mistake(float(badness[i]), int(rows[i]), **fields))
        self.found = sorted(self.found, key=lambda m: (-m.badness, m.row))[: self.most]


class ClassTally:
    """Of a classification: calibration, the mistakes, and scores of class 1 where there are two.

    The calibration is that of the predicted class, or of class 1 of two. Without ``probable`` the
    scores of the classes are margins, of which the larger wins, and there is none.
    """

    def __init__(self, classes: Sequence[str], seed: int = 0, *, probable: bool = True) -> None:
        self.classes, self.probable = tuple(classes), probable
        self.reliability = Reliability()
        self.sample = Sample(MOST_VALUES, seed)  # label, p of class 1, weight
        self._worst = _Worst()

    def add(
        self, rows: np.ndarray, labels: np.ndarray, p: np.ndarray, weight: np.ndarray | None
    ) -> None:
        """Add row numbers (N,), class indices (N,), probabilities (N, K) and weights (N,)."""
        labels, p = labels.astype(np.int64), p.astype(np.float64)
        predicted, every = p.argmax(axis=1), np.arange(len(p))
        if len(self.classes) == 2:
            if self.probable:
                self.reliability.add(p[:, 1], labels == 1, weight)
            self.sample.add(labels == 1, p[:, 1], np.ones(len(p)) if weight is None else weight)
        elif self.probable:
            self.reliability.add(p[every, predicted], predicted == labels, weight)
        wrong = np.flatnonzero(predicted != labels)
        own, its = labels[wrong], predicted[wrong]
        sure = p[wrong, its] if self.probable else p[wrong, its] - p[wrong, own]
        self._worst.add(
            sure,
            rows[wrong],
            expected=own,
            actual=its,
            p_expected=p[wrong, own],
            p_actual=sure,
        )

    @property
    def mistakes(self) -> list[Mistake]:
        """The wrong rows, those first of whose class the model is surest."""
        return self._worst.found


class LabelTally:
    """Of several labels, each yes or no: calibration over all of them, scores, the mistakes.

    Without ``probable`` the scores are margins, yes above 0, and there is no calibration.
    """

    def __init__(self, targets: Sequence[str], seed: int = 0, *, probable: bool = True) -> None:
        self.targets, self.probable = tuple(targets), probable
        self.reliability = Reliability()
        self.sample = Sample(max(1000, MOST_VALUES // len(targets)), seed)  # y, p (n, J), weight
        self._worst = _Worst()

    def add(
        self, rows: np.ndarray, targets: np.ndarray, p: np.ndarray, weight: np.ndarray | None
    ) -> None:
        """Add row numbers (N,), labels and probabilities (N, J), and weights (N,)."""
        true, p = targets > 0.5, p.astype(np.float64)
        weight = np.ones(len(p)) if weight is None else weight
        middle = 0.5 if self.probable else 0.0
        if self.probable:
            each = np.repeat(weight, p.shape[1] if p.ndim > 1 else 1)
            self.reliability.add(p.reshape(-1), true.reshape(-1), each)
        self.sample.add(true, p, weight)
        wrong, column = np.nonzero(true != (p > middle))
        surest = np.abs(p[wrong, column] - middle)
        yes = p[wrong, column] > middle
        self._worst.add(
            surest,
            rows[wrong],
            expected=~yes,
            actual=yes,
            column=column,
            p_expected=middle - surest,
            p_actual=middle + surest,
        )

    @property
    def mistakes(self) -> list[Mistake]:
        """The wrong labels, those first that the model is surest of."""
        return self._worst.found


class ValueTally:
    """Of a regression: a sample of targets and predictions, and the largest residuals."""

    def __init__(self, targets: Sequence[str], scale: np.ndarray, seed: int = 0) -> None:
        self.targets = tuple(targets)
        self.scale = np.broadcast_to(np.asarray(scale, np.float64), (len(self.targets),))
        self.sample = Sample(max(1000, MOST_VALUES // len(self.targets)), seed)  # y, predicted
        self._worst = _Worst()

    def add(
        self, rows: np.ndarray, targets: np.ndarray, values: np.ndarray, weight: np.ndarray | None
    ) -> None:
        """Add row numbers (N,), targets and predicted values (N, J), and weights (N,)."""
        y = targets.reshape(len(targets), -1).astype(np.float64)
        values = values.reshape(y.shape).astype(np.float64)
        self.sample.add(y, values)
        far = np.abs(values - y) / self.scale
        column = far.argmax(axis=1)
        every = np.arange(len(y))
        self._worst.add(
            far[every, column],
            rows,
            expected=y[every, column],
            actual=values[every, column],
            column=column,
        )

    @property
    def mistakes(self) -> list[Mistake]:
        """The rows of the largest residual, of several targets in units of their scale."""
        return self._worst.found
