"""Whether the first row of a text file names the columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from xpnet.data.columns import LABEL_NAMES, counts_up
from xpnet.data.tables.values import NUMBERS
from xpnet.errors import DataError

__all__ = ["Header", "IsHeader", "Rest", "has_header"]

Header = bool | Literal["auto"]
IsHeader = Callable[[list[str]], bool | None]


class Rest(NamedTuple):
    """What the rows after the first hold."""

    kinds: Sequence[str]  # the type of each column
    recurs: Callable[[int, str], bool]  # whether a text is in a column


def has_header(
    where: str, first: list[str], first_kinds: Sequence[str], rest: Rest | None, is_header: IsHeader
) -> tuple[bool, str]:
    """Return whether the first row is a header, and what is to be said of a guess.

    ``first`` are its cells, without blanks around them, of type "null", "number" or "text";
    ``rest`` is None where it is the only row. Raises DataError rather than drop a row with a typo.

    A header holds no number, or the names of the run's columns, or one of the usual names of a
    label, or it counts the columns from 0. Over a column of numbers any text is a name. Where all
    columns are texts, a row whose cells occur again in their columns is none. Beside numbers, a
    text over texts is a value, and a text over numbers is ambiguous.
    """
    try:
        known = is_header(first)
    except DataError as error:
        raise error.within(where) from None
    numbers = [text for text, kind in zip(first, first_kinds, strict=True) if kind == "number"]
    if known and len(numbers) > 1:
        note = f"({numbers[0]}, {numbers[1]}, ...) is taken for a header: "
        return True, f"{where.rpartition(': ')[2]} {note}data.header = 'no' reads it as values"
    if known is not None:
        return known, ""
    texts = [j for j, kind in enumerate(first_kinds) if kind == "text"]
    if not texts:
        return False, ""
    if rest is None:
        return len(texts) == len(first), ""
    over = [j for j in texts if rest.kinds[j] in (*NUMBERS, "wide", "bool", "date", "day")]
    again = [j for j in texts if rest.recurs(j, first[j])]
    if "number" not in first_kinds:
        return _of_texts(where, first, texts, over, again)
    if any(first[j].lower() in LABEL_NAMES[:-1] for j in texts):
        return True, ""
    if counts_up(numbers) and len(numbers) > 1:  # as pandas writes it: names, if they occur once
        return not again, ""
    over = [j for j in over if rest.kinds[j] in NUMBERS]
    if over:
        msg = f"{where}, column {over[0]}: {first[over[0]][:40]!r} is not a number"
        raise _ambiguous(msg)
    return False, ""


def _of_texts(
    where: str, first: list[str], texts: list[int], over: list[int], again: list[int]
) -> tuple[bool, str]:
    """Decide for a first row without numbers."""
    shown = ", ".join(first[:3]) + (", ..." if len(first) > 3 else "")
    if over and again and len(over) == 1 and again != over:
        j = over[0]
        problem = f"{where}, column {j}: {first[j][:40]!r} is over other values than texts, but "
        raise _ambiguous(problem + f"{first[again[0]][:40]!r} occurs again in its column")
    if over:
        return True, ""
    if again:
        return False, f"the first row ({shown}) is taken for values, as they occur again: " + (
            "data.header = 'yes' reads it as names"
        )
    return True, f"the first row ({shown}) is taken for a header: data.header = 'no' reads values"


def _ambiguous(problem: str) -> DataError:
    return DataError(
        problem,
        python="pass header=True if it is a header, else header=False",
        command="--set data.header=yes if it is a header, else --set data.header=no",
    )
