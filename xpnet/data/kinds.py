"""The kind of each column of a table, guessed from all of its rows, and what follows from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np

from xpnet.data.columns import BOOLEAN, Columns, Described, Kind, listed, number
from xpnet.data.survey import MAX_VALUES, Survey
from xpnet.data.values import level_text
from xpnet.errors import DataError

__all__ = ["giveaways", "with_kinds"]

# A text column is too varied to use if it has more than so many values, in more than half the rows.
VARIED, HALF = 20, 0.5
MOSTLY = 0.9  # of the values are numbers: the others may be mistakes
FEW = 20  # values of a feature that is looked at as a possible giveaway
HEAD = 1000  # rows in which to look first
SUPPORT = 5  # rows for each value of a giveaway
EXAMPLES = 3
Location = Callable[[int, int | None], str]


class _Guess(NamedTuple):
    kind: Kind
    levels: tuple[str, ...] = ()
    why: str = ""  # why it is left out


def with_kinds(
    columns: Columns,
    surveys: Sequence[Survey],
    chosen: Mapping[int, Literal["number", "category"]],
    path: Any,
    location: Location,
) -> Columns:
    """Return the columns with the kinds of their features, and without those that are of no use.

    ``surveys`` are of all columns of the table; ``chosen`` are the kinds that somebody chose, and
    ``location`` names a row and a column in an error. Raises DataError for an infinite number, for
    texts among numbers, and where no feature is left.
    """
    if misplaced := sorted(chosen.keys() - {*columns.features}):
        msg = f"{path}: column {columns.given(misplaced[0])!r} is no feature, so it cannot be "
        msg += f"a {chosen[misplaced[0]]}; what labels are for is the task"
        raise DataError(msg, command="--task")
    guesses: dict[int, _Guess] = {}
    for j in columns.features:
        given = columns.given(j)
        guesses[j] = _guess(surveys[j], chosen.get(j), given, lambda row, j=j: location(row, j))  # type: ignore[misc]
    kept = [j for j in columns.features if not guesses[j].why]
    if not kept:  # a feature that is the same in all rows is better than none
        numbers = ("number", "boolean")
        kept = [j for j in columns.features if surveys[j].content in numbers]
        guesses |= {j: _Guess("number") for j in kept}
    left_out = {j: guesses[j].why for j in columns.features if j not in kept}
    if not kept:
        reasons = left_out | dict(columns.left_out)
        gone = [f"{columns.shown(j)} ({why})" for j, why in reasons.items()]
        msg = f"{path}: no column is left to learn from: {listed(gone) or 'there is none'}"
        raise DataError(msg)
    columns = replace(
        columns,
        features=tuple(kept),
        left_out=tuple(sorted([*columns.left_out, *left_out.items()])),
        kinds=tuple(guesses[j].kind for j in kept),
        levels=tuple(guesses[j].levels for j in kept),
    )
    kinds = {j: guess.kind for j, guess in guesses.items()}
    return replace(columns, described=_described(columns, surveys, kinds))


def _guess(
    survey: Survey,
    chosen: Literal["number", "category"] | None,
    given: str | int,
    where: Callable[[int], str],
) -> _Guess:
    """Return the kind of one column, which a user would call ``given``."""
    if survey.infinite is not None:
        row, value = survey.infinite
        msg = f"{where(row)}: {str(value)!r} is not a finite number"
        raise DataError(msg)
    if survey.content == "other":
        return _Guess("text", why=f"{survey.type}: neither numbers nor texts")
    if chosen == "category" and survey.content == "date":
        msg = f"{where(0)}: dates are not categories"
        raise DataError(msg)
    if chosen == "category":
        return _Guess("category", _levels(survey, where))
    if chosen == "number":
        return _Guess("number")
    if survey.is_constant:
        return _Guess("constant", why="empty" if survey.missing == survey.rows else "constant")
    if survey.content == "boolean":
        return _Guess("boolean", BOOLEAN)
    if survey.content == "text":
        return _guess_of_texts(survey, given, where)
    return _Guess("date" if survey.content == "date" else "number")


def _guess_of_texts(survey: Survey, given: str | int, where: Callable[[int], str]) -> _Guess:
    present = survey.rows - survey.missing
    is_category = survey.is_coded and survey.distinct <= VARIED  # of numbers, if it must be
    if survey.numbers >= MOSTLY * present and not is_category:
        if survey.numbers < present:
            raise _among_numbers(survey, given, where)
        return _Guess("number")
    if not survey.is_complete or survey.distinct > max(VARIED, HALF * present):
        return _Guess("text", why=f"text of {_distinct(survey)} values")
    return _Guess("category", _levels(survey, where))


def _among_numbers(survey: Survey, given: str | int, where: Callable[[int], str]) -> DataError:
    """Return the error for a text among numbers: a mistake, a missing value or a category."""
    assert survey.first_text is not None
    row, text = survey.first_text
    present = survey.rows - survey.missing
    others = present - survey.numbers
    msg = f"{where(row)}: {text[:40]!r} is not a number, as {survey.numbers:,} of the {present:,} "
    msg += f"values of this column are ({others:,} {'is' if others == 1 else 'are'} not)"
    return DataError(
        msg,
        python=f"correct it, text=TextFormat(missing=({text[:40]!r},)), or category=[{given!r}]",
        command=f"correct it, --set data.text.missing='[\"{text[:40]}\"]', or --category {given}",
    )


def _levels(survey: Survey, where: Callable[[int], str]) -> tuple[str, ...]:
    """Return the values of a category, numbers in their order."""
    if not survey.is_complete:
        msg = f"{where(0)}: more than {MAX_VALUES:,} values are too many for a category"
        raise DataError(msg)
    if survey.content == "boolean":
        return BOOLEAN
    if survey.content != "text":
        return tuple(level_text(value) for value in survey.values.tolist())
    numbers = [number(text) for text in survey.texts]
    return tuple(sorted(survey.texts, key=str if None in numbers else float))


# ---------------------------------------------------------------------------- for people


def _described(
    columns: Columns, surveys: Sequence[Survey], kinds: Mapping[int, Kind]
) -> tuple[Described, ...]:
    uses = {j: f"left out: {why}" for j, why in columns.left_out}
    uses |= dict.fromkeys(columns.labels, "label")
    if columns.weight is not None:
        uses[columns.weight] = "weight"
    return tuple(
        Described(
            columns.shown(j),
            kinds.get(j) or _plain_kind(survey, uses[j]),
            survey.missing,
            _distinct(survey),
            _values(survey),
            uses.get(j, "feature"),
        )
        for j, survey in enumerate(surveys)
    )


def _plain_kind(survey: Survey, use: str) -> Kind:
    """Return the kind of a column that is no feature, as far as its type says it."""
    if use.startswith("left out") and use != "left out: ignored":
        return "id"
    kinds: dict[str, Kind] = {"number": "number", "boolean": "boolean", "date": "date"}
    return kinds.get(survey.content, "category")


def _distinct(survey: Survey) -> str:
    return f"{survey.distinct:,}" + ("" if survey.is_complete else "+")


def _values(survey: Survey) -> str:
    """Return the range of numbers and dates, and the most frequent texts."""
    if survey.content == "text" and survey.numbers < survey.rows - survey.missing:
        texts = [text[:20] for text, _ in survey.texts.most_common(EXAMPLES)]
        return ", ".join(texts) + (", ..." if survey.distinct > EXAMPLES else "")
    spelled = [n for n in map(number, survey.texts) if n is not None]
    low, high = min([survey.low, *spelled]), max([survey.high, *spelled])
    if low > high:
        return ""
    if survey.content == "boolean":
        return " and ".join(level_text(bool(v)) for v in dict.fromkeys((low, high)))
    if survey.content == "date":
        ends = np.array([low, high]).astype("datetime64[s]")
        if (ends == ends.astype("datetime64[D]")).all():
            ends = ends.astype("datetime64[D]")
        return " to ".join(str(end) for end in ends)
    return f"{low:g} to {high:g}"


# ------------------------------------------------------------------- what gives the label away


def giveaways(x: np.ndarray, y: np.ndarray, columns: Columns) -> tuple[str, ...]:
    """Return a line for each feature whose few values alone determine the label in all rows.

    ``x`` (N, C) are the features in raw units, ``y`` (N,) the classes or targets. It may be right:
    a column that is written when the outcome is known makes a model of no use.
    """
    if y.ndim > 1:
        return ()
    outcomes = np.unique(y, return_inverse=True)[1].reshape(-1)
    if outcomes.max(initial=0) == 0:
        return ()
    found = []
    for feature, kind in enumerate(columns.kinds):
        if kind != "date" and _determines(x[:, feature], outcomes):
            j = columns.features[feature]
            found.append(
                f"{columns.shown(j)!r} alone determines the label: if it gives the answer away, "
                f"--ignore {columns.given(j)}"
            )
    return tuple(found)


def _determines(column: np.ndarray, outcomes: np.ndarray) -> bool:
    """Return whether a feature has few values, and all rows of each the same outcome."""
    if len(np.unique(column[:HEAD])) > FEW:
        return False
    values, codes = np.unique(column, return_inverse=True)
    if len(values) > FEW or len(values) * SUPPORT > len(column):
        return False
    pairs = np.unique(np.stack([codes.reshape(-1), outcomes], axis=1), axis=0)
    return len(pairs) == len(values)
