"""Which launches of a graph may run beside each other: two lanes, ordered by what they touch.

A launch of one lane waits for one of the other only where both touch the same bytes and one of
them writes there: that follows from the arrays that each was given, and is not written by hand.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["LANES", "Call", "Recorded", "Span", "waits"]

LANES = 2
Call = Callable[[], None]


class Span(NamedTuple):
    """Bytes of device memory."""

    first: int
    last: int  # the address behind them


class Recorded(NamedTuple):
    """A launch, what it touches, and the lane that it takes in a graph."""

    run: Call
    reads: tuple[Span, ...] = ()
    writes: tuple[Span, ...] = ()
    lane: int = 0
    apart: bool = False  # whether the host takes part: then it is between two graphs


def waits(calls: Sequence[Recorded]) -> list[int | None]:
    """Return, for each call, which call of the other lane it comes after, by its index.

    None where none needs to be waited for, or where an earlier wait of its lane covers it. The
    last entry, one more than there are calls, is of the end, which comes after all. A lane begins
    after a call of lane 0, as a stream joins a capture by an event of it; so the first call is of
    lane 0.

    >>> x, y, z = Span(0, 8), Span(8, 16), Span(16, 24)
    >>> work = [Recorded(print, (), (x,)), Recorded(print, (x,), (y,), 1)]
    >>> waits([*work, Recorded(print, (x,), (z,)), Recorded(print, (), (x,))])
    [None, 0, None, 1, None]
    """
    found: list[int | None] = []
    known, latest = [-1, -1], [-1, -1]  # by lane: of the other lane, until where; of its own
    for i, call in enumerate(calls):
        other = 1 - call.lane
        between = range(latest[other], known[call.lane], -1)
        after = next((j for j in between if calls[j].lane == other and _order(calls[j], call)), -1)
        if call.lane and latest[1] < 0:
            after = latest[0]
        if after > known[call.lane]:
            known[call.lane] = after
        found.append(after if after >= 0 else None)
        latest[call.lane] = i
    return [*found, latest[1] if latest[1] > known[0] else None]


def _order(a: Recorded, b: Recorded) -> bool:
    """Whether two calls give other results in the other order, or at the same time."""
    return _meet(a.writes, b.writes) or _meet(a.writes, b.reads) or _meet(a.reads, b.writes)


def _meet(some: tuple[Span, ...], others: tuple[Span, ...]) -> bool:
    return any(a.first < b.last and b.first < a.last for a in some for b in others)
