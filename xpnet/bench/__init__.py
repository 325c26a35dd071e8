"""Train steps timed side by side: xpnet, its matrix products alone, and other libraries.

    networks.py     what is timed: a network, a batch size and an optimizer
    contenders.py   who is timed: each builds a step, and says how to wait for it
    measure.py      interleaved rounds, medians, and the conditions that a run may be held to
    profile.py      what a step's time goes to
    report.py       the table, JSON, Markdown and a plot

All contenders take the same step in turn, many times over, in one process: what else the machine
does meets all of them alike, and a ratio within a row means something where a time does not.
"""

from xpnet.bench.measure import Expectation, Row, measure
from xpnet.bench.networks import STANDARD, Network, parse_network

__all__ = ["STANDARD", "Expectation", "Network", "Row", "measure", "parse_network"]
