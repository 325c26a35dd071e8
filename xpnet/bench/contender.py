"""The interfaces of a workload and of a contender."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

__all__ = ["Contender", "Make", "Unit", "Workload"]


class Unit(NamedTuple):
    """The unit that a table shows times in."""

    name: str
    microseconds: float

    def shown(self, microseconds: float) -> str:
        """Return a time in this unit.

        >>> Unit("s", 1e6).shown(1.5e6), Unit("µs", 1.0).shown(12.34)
        ('1.50', '12.3')
        """
        value = microseconds / self.microseconds
        return f"{value:,.{2 if self.microseconds > 1 else 0 if value >= 100 else 1}f}"


class Workload(Protocol):
    """What all contenders do: a row of a table. ``str`` is how the row is written."""

    what: ClassVar[str]  # is timed: "step"
    title: ClassVar[str]  # of the column of rows
    base: ClassVar[str]  # the contender to whose time ratios are
    warm_up: ClassVar[int]  # times that a contender does it before it is timed
    unit: ClassVar[Unit]

    @property
    def score(self) -> str:
        """What a contender's score is; "" for none."""

    def facts(self) -> Mapping[str, Any]:
        """Return what describes the row, as JSON data."""


class Contender(NamedTuple):
    """A training step, or whatever the workload is, to time."""

    step: Callable[[], Any]
    wait: Callable[[], Any] = lambda: None  # for the device to finish; once after many steps
    note: Callable[[], str] = lambda: ""  # how the step was taken; called after the steps
    score: Callable[[], float] | None = None  # how good the last step was; not timed


# Builds a contender of a workload, or raises BackendError with the reason why it cannot run.
Make = Callable[[Any], Contender]
