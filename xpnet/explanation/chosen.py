"""Which rows are explained: those that the model gets most wrong, is least sure of, or by number.

Of a file of any size the first rows are looked at, and how many is said.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from xpnet.errors import ConfigError
from xpnet.nn.losses import Loss

__all__ = ["LOOKED_AT", "Answered", "Choice", "Sample", "answered", "check_sample", "choose"]

Sample = int | Literal["worst", "unsure"]
LOOKED_AT = 10_000  # rows
RULES = ("worst", "unsure")


class Answered(NamedTuple):
    """What a model says of labelled rows."""

    losses: np.ndarray  # (N,)
    margins: np.ndarray  # (N,) between the two likeliest classes; nan where there are none
    wrong: np.ndarray  # (N,) bool

    @classmethod
    def joined(cls, parts: Iterable["Answered"]) -> "Answered":
        """Return the parts as one."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))


@dataclass(frozen=True)
class Choice:
    """The rows to explain, and why they were chosen."""

    rows: np.ndarray  # (n,) indices
    why: str  # after "sample 17 of 360"; may be empty


def check_sample(sample: Any) -> Sample | None:
    """Return what names a row: None, "worst", "unsure" or a number, also as text.

    Raises ConfigError.
    """
    if sample is None or sample in RULES:
        return sample
    if not isinstance(sample, bool) and (
        isinstance(sample, int | np.integer) or (isinstance(sample, str) and sample.isdecimal())
    ):
        return int(sample)
    msg = f"sample must be worst, unsure or the number of a row, from 0; got {sample!r}"
    raise ConfigError(msg)


def answered(
    loss: Loss, output: Any, y: Any, answers: Callable[[np.ndarray], np.ndarray]
) -> Answered:
    """Return losses, margins and mistakes of a batch, on the host.

    ``answers`` turns the loss's predictions into probabilities (N, K), as a run does.
    """
    losses = np.asarray(loss.terms(output, y).losses)
    losses = losses.reshape(len(losses), -1).mean(axis=1)
    N = len(losses)
    nothing = np.full(N, np.nan), np.zeros(N, bool)
    if loss.predicts == "value":
        return Answered(losses, *nothing)
    p, y = answers(np.asarray(loss.predict(output))), np.asarray(y)
    if loss.predicts == "binary" and y.size != N:  # a label of several
        with np.errstate(invalid="ignore"):
            return Answered(losses, np.abs(2 * p - 1).min(axis=1), ((p > 0.5) != (y > 0.5)).any(1))
    labels = y.reshape(N, -1).argmax(axis=1) if y.ndim == 2 and y.shape[1] > 1 else y.reshape(-1)
    two = np.sort(p, axis=1)[:, -2:]
    counts = (labels >= 0) & (labels < p.shape[1]) & (labels != getattr(loss, "ignore_label", -1))
    margins = np.where(counts, two[:, -1] - two[:, 0] if p.shape[1] > 1 else np.nan, np.inf)
    return Answered(losses, margins, counts & (p.argmax(axis=1) != labels))


def choose(found: Answered, rule: Literal["worst", "unsure"] | None, n: int, of: str) -> Choice:
    """Return the ``n`` rows that the model does worst on, or is least sure of, in that order.

    ``of`` says what the loss is of, for an error. Without a rule it is the worst, or, where the
    model gets all rows right, the one that it is least sure of.
    """
    classes = not np.isnan(found.margins).all()
    if rule == "unsure" and not classes:
        msg = f"{of} predicts values, and has no two classes to be unsure between"
        raise ConfigError(
            msg,
            python='use sample="worst" or the number of a row',
            command="use --sample worst or the number of a row",
        )
    wrong = int(found.wrong.sum())
    right = rule is None and classes and not wrong
    if rule == "unsure" or right:
        order, most = found.margins, "that the model is least sure of"
    else:
        order = -np.where(np.isnan(found.losses), np.inf, found.losses)
        most = "with the largest loss"
    rows = np.argsort(np.where(np.isnan(order), np.inf, order), kind="stable")[:n]
    which = f"the {'one' if len(rows) == 1 else len(rows)} {most}"
    if right:
        which += f", which is right for all {len(found.wrong):,}"
    return Choice(rows, which)
