"""What the model of :mod:`xpnet.bench.scaling_model` predicts to 1,024 ranks, and a simulation."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from xpnet.bench.collectives import ALGORITHMS, Link, closed_form, simulate
from xpnet.bench.model import MACHINES
from xpnet.bench.networks import Network, parse_network
from xpnet.bench.scaling import Measured, Scaling
from xpnet.bench.scaling_model import (
    ETHERNET,
    INFINIBAND,
    Shared,
    expected_max,
    nccl,
    on_gpu,
    predict,
)
from xpnet.bench.scaling_rank import summed_bytes
from xpnet.bench.setting import Setting

__all__ = [
    "disturbed",
    "ENOUGH",
    "LINKS",
    "ON_H200",
    "POWERS",
    "efficiencies",
    "predicted",
    "simulations",
]

LINKS = {"InfiniBand": INFINIBAND, "Ethernet": ETHERNET}
POWERS = tuple(2**k for k in range(11))
ENOUGH = 0.5
# Microseconds of a step, measured: scripts/reports/gpu.md.
ON_H200 = (
    ("64-32-10:32:sgd", "tf32", 22.2),
    ("784-512-256-10:128:adam", "tf32", 50.8),
    ("784-2500-2000-1500-1000-500-10:1024:adam", "tf32", 571.0),
    ("784-2500-2000-1500-1000-500-10:1024:adam", "bfloat16", 301.0),
)
DISTURBED = (2, 8, 64, 1024)
SIMULATED = (2, 3, 8, 100, 1024)
TRIALS = 10
LATE = 1.0  # microseconds by which a message is late, on average

Cells = tuple[str, ...]


def predicted(scaling: Scaling) -> list[tuple[str, dict[str, Shared]]]:
    """Return the steps that are predicted, by what they are of and by link.

    They are those of the networks that were measured, on cores and, where a GPU was measured with
    such a network, on GPUs.
    """
    found = []
    for m in scaling.networks:
        steps = {name: scaling.elsewhere(m, link) for name, link in LINKS.items()}
        found.append((f"{m.network}, a core as here", steps))
    widths = [m.network.widths for m in scaling.networks]
    for text, precision, spent in ON_H200:
        network = parse_network(text)
        if network.widths in widths:
            compute = on_gpu(network, Setting("cuda", precision), MACHINES["H200"], spent)
            steps = {name: _with_nccl(network, compute, link) for name, link in LINKS.items()}
            found.append((f"{network}, an H200 in {precision}", steps))
    return found


def _with_nccl(network: Network, compute: Callable[[int], float], link: Link) -> Shared:
    size = summed_bytes(network)
    return Shared(network.batch_size, size, compute, lambda n, B: nccl(link, n, B))


def efficiencies(steps: Mapping[str, Shared]) -> tuple[Cells, list[Cells]]:
    """Return the head and the rows of a table of efficiencies by ranks, kind and link."""
    rows = []
    for n in POWERS:
        strong, weak = (
            [predict(s, n, weak=weak) for s in steps.values()] for weak in (False, True)
        )
        cells = (f"{p.efficiency:.1%} {p.limit}".strip() for p in (*strong, *weak))
        idle = strong[0].idle
        rows.append((f"{n:,}", f"{idle:,}" if idle else "-", *cells))
    return ("ranks", "idle", *(f"{k}, {link}" for k in ("strong", "weak") for link in steps)), rows


def disturbed(scaling: Scaling) -> tuple[Cells, list[Cells]]:
    """Return the head and the rows of a table of ranks that wait for the slowest of them.

    Each is disturbed as this machine is while it measures.
    """
    rows: list[Cells] = []
    for m in scaling.networks:
        steps = {name: scaling.elsewhere(m, k, waiting=True) for name, k in LINKS.items()}
        longer = (f"{next(iter(steps.values())).slowest(n):.2f}" for n in DISTURBED)
        rows.append((f"{m.network}, times as long", *longer))
        for name, step in steps.items():
            weak = (predict(step, n, weak=True) for n in DISTURBED)
            cells = (f"{p.efficiency:.1%} {p.limit}".strip() for p in weak)
            rows.append((f"{m.network}, weak, {name}", *cells))
    return ("", *(f"{n:,} ranks" for n in DISTURBED)), rows


def simulations(scaling: Scaling, of: Measured) -> tuple[Cells, list[Cells]]:
    """Return the head and the rows of a table of simulated sums and steps of a network."""
    samples = np.concatenate([np.array(r) / np.mean(r) for r in of.rounds])
    rng, rows = np.random.default_rng(0), []
    for name, link in LINKS.items():
        link = link._replace(added=scaling.added)
        for algorithm in ALGORITHMS:
            for n in SIMULATED:
                form = closed_form(algorithm, link, n, of.size)
                at, counts = simulate(algorithm, link, np.zeros(n), of.size)
                if (counts != n).any():
                    msg = f"the simulated {algorithm} of {n} ranks is no sum"
                    raise AssertionError(msg)
                compute = of.compute(-(-of.network.batch_size // n))
                model = compute * expected_max(samples, n) + form
                steps = []
                for late in (0.0, LATE):
                    ends = [
                        simulate(algorithm, link, compute * rng.choice(samples, n), of.size,
                                 jitter=late, seed=trial)[0].max()
                        for trial in range(TRIALS if n < POWERS[-1] else 2)
                    ]  # fmt: skip
                    steps.append(float(np.mean(ends)))
                numbers = (form, at.max() / form - 1, model, *steps)
                rows.append((f"{name}, {algorithm}, {n:,}", *_cells(numbers)))
    head = ("link, algorithm, ranks", "sum, µs", "simulated", "step, µs", "simulated", "late, µs")
    return head, rows


def _cells(numbers: Sequence[float]) -> Cells:
    form, differs, *steps = numbers
    return (f"{form:,.1f}", f"{differs:+.0e}", *(f"{step:,.1f}" for step in steps))
