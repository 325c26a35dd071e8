"""Benchmarks: a training step of xpnet, of other libraries, and of its matrix products alone.

    networks.py     the workload: a network, a batch size and an optimizer
    limit.py        the lower bound: the step's matrix products alone
    contenders.py   the table of contenders; each builds a step and a way to wait for it
    measure.py      interleaved rounds, medians, and conditions on them
    crossover.py    the width at which one contender overtakes another, by batch size
    profile.py      the breakdown of a step's time on a CPU
    launches.py     the breakdown of a step's time on a GPU
    scale.py        how time and memory grow with width, depth, batch and rows
    results.py      tables, JSON, Markdown and a plot

All contenders take the same step in turn, many times, in one process. Other load on the machine
affects all of them alike, so a ratio within a row is meaningful even where a time is not. One
:class:`Setting` fixes the device and the precision for all.
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
