"""Train steps timed side by side: xpnet, its matrix products alone, and other libraries.

    networks.py     what is timed: a network, a batch size and an optimizer
    limit.py        the floor: the step's matrix products alone
    contenders.py   who is timed: each builds a step, and says how to wait for it
    measure.py      interleaved rounds, medians, and the conditions that a run may be held to
    crossover.py    from which width and batch one contender is ahead of another
    profile.py      what a step's time goes to on a CPU
    launches.py     and on a GPU
    scale.py        how time and memory grow with width, depth, batch and rows
    report.py       the tables, JSON, Markdown and a plot

All contenders take the same step in turn, many times over, in one process: what else the machine
does meets all of them alike, and a ratio within a row means something where a time does not. Where
and how exactly they compute is one :class:`Setting` for all.
"""

from xpnet.bench.contenders import contenders
from xpnet.bench.limit import LIMIT
from xpnet.bench.measure import Expectation, Row, measure
from xpnet.bench.networks import STANDARD, STANDARD_ON_GPU, Network, parse_network
from xpnet.bench.setting import Setting

__all__ = [
    "LIMIT",
    "STANDARD",
    "STANDARD_ON_GPU",
    "Expectation",
    "Network",
    "Row",
    "Setting",
    "contenders",
    "measure",
    "parse_network",
]
