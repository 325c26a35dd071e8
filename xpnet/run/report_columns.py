"""What the report of a run says of its columns: their encoding, and how much each matters."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from xpnet.data import Dataset, Encoder, StreamedDataset
from xpnet.data.columns import Columns, kinds_of
from xpnet.data.metrics import RegressionScores
from xpnet.report.columns import Feature
from xpnet.report.importance import Importance, permutation_importance
from xpnet.report.layout import number
from xpnet.run.preprocessing import Preprocessing

if TYPE_CHECKING:  # which imports this module
    from xpnet.run.trained_run import Run

__all__ = ["features_of", "importance_of", "left_out_of"]

REPEATS = 5
MOST_COLUMNS, MEASURED = 2000, 20  # of more than twice as many, one shuffle of each finds these
MOST_ROWS, FEWEST_ROWS = 1000, 100
WORK = 3e9  # products of the predictions, which take a second or two
BLOCKS = 4  # of a streamed file


def features_of(
    preprocessing: Preprocessing, scaling: str, described: Columns | None = None
) -> list[Feature]:
    """Return the columns that a run takes, each with what becomes of it.

    ``described`` are the columns as they were read, which know of gaps and values.
    """
    columns, encoder = preprocessing.columns, preprocessing.encoder
    if columns is None or len(preprocessing.feature_shape) != 1:
        return []
    kinds = kinds_of(columns, len(columns.features))
    seen = {row.column: row for row in (described.described if described else ())}
    found = []
    for j, (column, kind) in enumerate(zip(columns.features, kinds, strict=True)):
        name = columns.shown(column)
        becomes = (
            _becomes(encoder, j, scaling) if isinstance(encoder, Encoder) else _scaled(scaling)
        )
        row = seen.get(name)
        gaps, values = (
            ("", "") if row is None else (f"{row.missing:,}" if row.missing else "", row.values)
        )
        found.append(Feature(name, kind, becomes, gaps, values))
    return found


def _scaled(scaling: str) -> str:
    return "a number, as it is" if scaling == "none" else f"a number, scaled ({scaling})"


def _becomes(encoder: Encoder, j: int, scaling: str) -> str:
    """The inputs of a feature, in words."""
    said = []
    if j in encoder.numbers:
        said.append(_scaled(scaling))
        said += [f"its {cycle}" for feature, cycle in encoder.cycles if feature == j]
        if j in encoder.missing:
            fill = encoder.fill[encoder.numbers.index(j)]
            said.append(f"an input that says it is missing ({number(float(fill), 5)} then)")
    for category in encoder.categories:
        if category.feature == j:
            count = len(category.codes)
            said.append(
                {
                    "two": "−1 or 1",
                    "one_hot": f"{count} inputs, one for each value",
                    "embedding": f"a trained vector for each of {count:,} values",
                }[category.way]
            )
    return "; ".join(said) or "nothing: it does not vary in the training rows"


def left_out_of(columns: Columns | None) -> list[tuple[str, str]]:
    """Return the columns that a run does not take, and why."""
    return [(columns.shown(j), why) for j, why in columns.left_out] if columns else []


def importance_of(run: "Run", part: Dataset | StreamedDataset) -> tuple[Importance | None, str]:
    """Return how much each column of the labelled rows of ``part`` matters, or None and why not."""
    total = int(np.prod(part.feature_shape))
    if len(part.feature_shape) != 1:
        return None, ""
    if total > MOST_COLUMNS:
        return (
            None,
            f"Importance is measured of up to {MOST_COLUMNS:,} columns; there are {total:,}.",
        )
    rows = _some(run, part, MOST_ROWS)
    if rows is None or len(rows) < 2:
        return None, "Importance takes two labelled test rows or more."
    size = max(1, run.trainer.engine.params_layout.size)

    def measured(columns: list[int], repeats: int) -> tuple[np.ndarray, np.ndarray, Dataset]:
        most = max(FEWEST_ROWS, int(WORK / (size * len(columns) * repeats)))
        some = rows if len(rows) <= most else rows.take(np.arange(len(rows))[:most])
        seed = run.config.seed
        found = permutation_importance(
            _predict(run, some), _score(run, some), some.x, columns, repeats, seed
        )
        return *found, some

    chosen = list(range(total))
    if total > 2 * MEASURED:
        first, _, _ = measured(chosen, 1)
        chosen = sorted(np.argsort(-first, kind="stable")[:MEASURED].tolist())
    mean, std, some = measured(chosen, REPEATS)
    order = np.argsort(-mean, kind="stable")
    names = tuple(chosen[c] for c in order)
    baseline = _score(run, some)(_predict(run, some)(some.x))
    score = "R²" if run.preprocessing.task == "regression" else "accuracy"
    sampled = len(some) < len(part)
    return Importance(
        names, mean[order], std[order], baseline, score, len(some), REPEATS, total, sampled
    ), ""


def _some(run: "Run", part: Dataset | StreamedDataset, most: int) -> Dataset | None:
    """At most so many labelled rows of a part, at random, those that the loss counts."""
    rng = np.random.default_rng(run.config.seed)
    if isinstance(part, StreamedDataset):
        numbers = np.flatnonzero(part.assignment.counts(part.part))
        chosen = rng.permutation(numbers)[:BLOCKS]
        blocks = [part.block(int(n)) for n in chosen]
        x, y = (np.concatenate([getattr(b, name) for b in blocks]) for name in ("x", "y"))
        dataset = Dataset(x, y, part.classes, part.name, part.columns)
    else:
        dataset = part
    ignored = getattr(run.trainer.loss, "ignore_label", None)
    counted = np.arange(len(dataset))
    if ignored is not None and dataset.y is not None and run.preprocessing.classes is not None:
        counted = np.flatnonzero(dataset.y.reshape(len(dataset), -1)[:, 0] != ignored)
    if not len(counted):
        return None
    return dataset.take(rng.permutation(counted)[:most])


def _predict(run: "Run", rows: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    def predict(x: np.ndarray) -> np.ndarray:
        return np.concatenate([*run.predictions(Dataset(x, None, None, rows.name))])

    return predict


def _score(run: "Run", rows: Dataset) -> Callable[[np.ndarray], float]:
    """The function that scores predictions for these rows: accuracy, or R²."""
    y, weight, task = rows.y, rows.weight, run.preprocessing.task
    assert y is not None

    def score(answers: np.ndarray) -> float:
        if task == "regression":
            scores = RegressionScores()
            scores.add(y, answers, weight)
            return float(scores.result().get("r2", 0.0))
        if task == "multilabel":
            right = ((answers > 0.5) == (y.reshape(answers.shape) > 0.5)).mean(axis=1)
        else:
            right = answers.argmax(axis=1) == y.reshape(-1)
        return float(np.average(right, weights=weight))

    return score
