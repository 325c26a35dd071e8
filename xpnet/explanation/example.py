"""The rows that are explained as people know them, and what the model says of the first."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from xpnet.data import Dataset
from xpnet.data.shown import picture, written
from xpnet.escape import escape
from xpnet.explanation.chosen import Choice
from xpnet.explanation.model import Example
from xpnet.explanation.wording import number
from xpnet.nn.losses import Loss
from xpnet.run.preprocessing import Preprocessing
from xpnet.training.trainer import Trainer

__all__ = ["Named", "example_of", "named_by", "rows_in_words"]

MOST_NAMED = 5  # rows, labels or values in a text
MOST_ANSWERS = 10


class Named(NamedTuple):
    """How a model's predictions are read, and what its outcomes are called."""

    answers: Callable[[np.ndarray], np.ndarray]
    classes: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()  # of several labels or values

    @classmethod
    def of(cls, trainer: Trainer) -> "Named":
        """Return those of a trainer, whose binary loss of one output is for two classes."""
        binary = trainer.loss.predicts == "binary" and trainer.model.output_shape[-1] == 1
        answers = (lambda p: np.concatenate([1.0 - p, p], axis=1)) if binary else (lambda p: p)
        return cls(answers, tuple(map(str, trainer.classes or ())))


def named_by(preprocessing: Preprocessing | None) -> Named:
    """Return those of a run's preprocessing."""
    if preprocessing is None:
        return Named(lambda p: p)
    return Named(preprocessing.answers, preprocessing.classes or (), preprocessing.targets or ())


def rows_in_words(choice: Choice, what: str) -> str:
    """Name the rows: "sample 17", "samples 3..6", "samples 3, 17, 5"."""
    rows = choice.rows.tolist()
    if len(rows) == 1:
        return f"{what} {rows[0]}"
    if not choice.why:
        return f"{what}s {rows[0]}..{rows[-1]}"
    return f"{what}s {', '.join(map(str, rows[:MOST_NAMED]))}{', …' * (len(rows) > MOST_NAMED)}"


def example_of(
    raw: Dataset, loss: Loss, output: np.ndarray, named: Named, choice: Choice,
    label: int | None, of: str,
) -> Example:  # fmt: skip
    """Return the first of the rows ``raw``, whose label is ``label``, if one is given."""
    assert raw.y is not None
    predicted = named.answers(np.asarray(loss.predict(output)))[0]
    y, classes = raw.y[0], named.classes
    labelled, said, answers = _said(loss, y, predicted, classes, named.outputs)
    if label is not None:
        asked = classes[label] if classes else str(label)
        own = said.removeprefix(f"labelled {labelled}")
        said = f"labelled {asked} as asked ({labelled} in the data){own}"
        labelled = asked
    where = rows_in_words(choice, "sample") + (f" of {of}" if of else "")
    where += f", {choice.why}" if choice.why else ""
    where += "; the first is " if len(choice.rows) > 1 else ": "
    return Example(
        escape(where + said),
        picture(raw, 0),
        tuple((escape(name), escape(value)) for name, value in written(raw, 0)),
        escape(labelled),
        tuple((escape(name), p) for name, p in answers),
    )


def _said(
    loss: Loss, y: Any, predicted: np.ndarray, classes: tuple[str, ...], outputs: tuple[str, ...]
) -> tuple[str, str, tuple[tuple[str, float], ...]]:
    """Return a label in words, what is predicted for it, and the likeliest outcomes."""
    names = classes or outputs or tuple(map(str, range(len(predicted))))
    if loss.predicts == "value":
        of_y, of_p = (", ".join(number(float(v)) for v in np.ravel(a)[:MOST_NAMED])
                      for a in (y, predicted))  # fmt: skip
        return of_y, f"{of_y}, predicted {of_p}", ()
    order = np.argsort(-predicted, kind="stable")[:MOST_ANSWERS]
    answers = tuple((names[k], float(predicted[k])) for k in order)
    if np.ndim(y) and np.size(y) > 1 and loss.predicts == "binary":
        true = [name for name, v in zip(names, y, strict=True) if v > 0.5]
        wrong = int(((predicted > 0.5) != (np.asarray(y) > 0.5)).sum())
        text = ", ".join(true[:MOST_NAMED]) or "nothing"
        return text, f"labelled {text}, {wrong} of {len(names)} labels predicted wrong", answers
    k = int(np.argmax(y)) if np.size(y) > 1 else int(np.ravel(y)[0])
    text = names[k] if 0 <= k < len(names) else str(k)
    first, second = (f"{name} with {_share(p)}" for name, p in answers[:2])
    more = "" if k != order[0] else f", then {second}"
    return text, f"labelled {text}, predicted {first}{more}", answers


def _share(p: float) -> str:
    return f"{p:.2f}" if 0.005 <= p < 0.995 else f"{p:.6g}"
