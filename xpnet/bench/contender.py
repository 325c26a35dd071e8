"""The interface of a contender."""

from collections.abc import Callable
from typing import Any, NamedTuple

from xpnet.bench.networks import Network

__all__ = ["Contender", "Make"]


class Contender(NamedTuple):
    """A training step to time."""

    step: Callable[[], Any]
    wait: Callable[[], Any]  # for the device to finish; called once after many steps
    note: Callable[[], str] = lambda: ""  # how the step was taken; called after the steps


# Builds a contender, or raises BackendError with the reason why it cannot run.
Make = Callable[[Network], Contender]
