"""What a contender is."""

from collections.abc import Callable
from typing import Any, NamedTuple

from xpnet.bench.networks import Network

__all__ = ["Contender", "Make"]


class Contender(NamedTuple):
    """A step to time."""

    step: Callable[[], Any]
    wait: Callable[[], Any]  # for the device, once after many steps
    note: Callable[[], str] = lambda: ""  # what it turned out to be; asked after the steps


# Builds one; raises BackendError, saying why, where it cannot take part.
Make = Callable[[Network], Contender]
