"""Benchmarks: xpnet beside other libraries, and a training step beside its matrix products alone.

    networks.py     the workload of a step: a network, a batch size and an optimizer
    predictions.py  the workload of a prediction: a network and a number of rows
    fits.py         the workload of a whole fit: data, hidden layers and how they are trained
    limit.py        the lower bounds of a step: its products alone, and with a copy of its bytes
    contenders.py   the tables of contenders; each builds a step and a way to wait for it
    *peers.py       the contenders of other libraries: of a step, a prediction and a fit
    measure.py      interleaved rounds, medians, and conditions on them
    crossover.py    the width at which one contender overtakes another, by batch size
    profile.py      the breakdown of a step's time on a CPU
    launches.py     the breakdown of a step's time on a GPU
    model.py        what a step launches and moves, and what that takes, without a GPU
    traffic.py      the bytes of a launch
    scale.py        how time and memory grow with width, depth, batch and rows
    scaling.py      how a step scales over the ranks of an MPI here; scaling_rank.py is one of them,
                    scaling_tables.py what is said of it
    scaling_model.py    a model of that, and scaling_outlook.py what it predicts
    collectives.py  what a sum over ranks takes: closed forms and a simulation
    results.py      tables, JSON, Markdown and a plot

All contenders do the same in turn, many times, in one process. Other load on the machine
affects all of them alike, so a ratio within a row is meaningful even where a time is not. One
:class:`Setting` fixes the device and the precision for all.
"""

from xpnet.bench.contenders import comparison, contenders
from xpnet.bench.measure import Expectation, Row, measure
from xpnet.bench.networks import LIMIT, STANDARD, STANDARD_ON_GPU, Network, parse_network
from xpnet.bench.setting import Setting

__all__ = [
    "LIMIT",
    "STANDARD",
    "STANDARD_ON_GPU",
    "Expectation",
    "Network",
    "Row",
    "Setting",
    "comparison",
    "contenders",
    "measure",
    "parse_network",
]
