"""How time and memory grow with width, depth, batch size and rows, on a CPU.

Each point is measured in a process of its own, so that the peak memory is the point's alone. For
width, depth and batch it is the increase over a tiny network in the same process, which excludes
the libraries; for rows it is that of a whole `xpnet train` that streams them from a file.
"""

import math
import multiprocessing
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from xpnet.bench.contenders import contenders
from xpnet.bench.measure import SLICE, time_steps
from xpnet.bench.networks import SEED, Network
from xpnet.bench.results import check_plot, sentence
from xpnet.bench.setting import Setting
from xpnet.errors import BackendError, ConfigError

__all__ = ["AXES", "Growth", "Point", "grow", "measure_axis", "plot", "to_json", "to_markdown"]

QUANTITIES = {"time": "microseconds", "memory": "memory"}
TINY = Network((4, 4), 4, "adam")
FEATURES, CLASSES = 32, 10  # of the streamed rows
BATCH = 1024
BUFFER = 16  # MiB: small relative to the largest file, as 256 are to one that exceeds the memory


class Point(NamedTuple):
    """One size on an axis."""

    size: int
    work: float  # what time should be proportional to: operations of a step, or rows of a run
    microseconds: float  # per step, including reading if rows are streamed
    memory: float  # peak MiB

    def __str__(self) -> str:
        return f"{self.size:,}: {self.microseconds:,.0f} µs per step, {self.memory:,.0f} MiB"


class Axis(NamedTuple):
    """The sizes along an axis, and the measurement at one of them."""

    sizes: tuple[int, ...]
    what: str
    point: Callable[[int], Point]


def _step(network: Network) -> tuple[float, float]:
    """Return the median microseconds of a step and the MiB that it needs."""
    make = contenders(Setting())["xpnet numpy"]
    time_steps(make(TINY), Network.warm_up)
    before = _peak()
    contender = make(network)
    time_steps(contender, Network.warm_up)
    repeats = max(1, round(SLICE / time_steps(contender, 1)))
    times = [time_steps(contender, repeats) / repeats * 1e6 for _ in range(5)]
    return statistics.median(times), _peak() - before


def _of_width(width: int) -> Point:
    network = Network((width, width, width, CLASSES), 128, "adam")
    return Point(width, network.flops(), *_step(network))


def _of_depth(depth: int) -> Point:
    network = Network((*[256] * (depth + 1), CLASSES), 128, "adam")
    return Point(depth, network.flops(), *_step(network))


def _of_batch(batch: int) -> Point:
    network = Network((784, 512, 256, CLASSES), batch, "adam")
    return Point(batch, network.flops(), *_step(network))


def _of_rows(rows: int) -> Point:
    from xpnet.run import train
    from xpnet.run.config_sources import load_config

    settings = ["data.stream=yes", f"data.buffer={BUFFER}", "backend=numpy", "epochs=2"]
    settings += ["report=no"]
    settings += [f"batch_size={BATCH}", "data.label=labels.npy", "model.hidden=[64]"]
    with tempfile.TemporaryDirectory(prefix="xpnet-scale-") as made:
        folder = Path(made)
        config = load_config(str(write_rows(folder / "data", rows)), settings)
        run = train(config, folder / "run", report=lambda line: None)
        epoch = run.folder.history()[-1]
    steps = epoch["step"] / config.epochs
    return Point(rows, rows, epoch["seconds"] / steps * 1e6, _peak())


def write_rows(folder: Path, rows: int) -> Path:
    """Write synthetic rows and their labels into ``folder`` in chunks; return the rows' file."""
    folder.mkdir()
    rng = np.random.default_rng(SEED)
    with (folder / "x.npy").open("wb") as x, (folder / "labels.npy").open("wb") as y:
        for file, shape, dtype in ((x, (rows, FEATURES), "<f4"), (y, (rows,), "|u1")):
            header = {"descr": dtype, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, rows, 2**17):
            n = min(2**17, rows - start)
            values = rng.standard_normal((n, FEATURES), np.float32)
            x.write(values.tobytes())
            y.write(values[:, :CLASSES].argmax(axis=1).astype("u1").tobytes())
    return folder / "x.npy"


AXES = {
    "width": Axis((64, 128, 256, 512, 1024, 2048, 4096), "3 layers of it, batch 128", _of_width),
    "depth": Axis((1, 2, 4, 8, 16, 32, 64), "layers of 256, batch 128", _of_depth),
    "batch": Axis((16, 64, 256, 1024, 4096, 16384), "784-512-256-10", _of_batch),
    "rows": Axis(
        tuple(10**n for n in range(3, 8)),
        f"xpnet train, no report, {FEATURES} features through {BUFFER} MiB, batch {BATCH}",
        _of_rows,
    ),
}


def measure_axis(name: str, report: Callable[[Point], None] = lambda point: None) -> list[Point]:
    """Measure every point of an axis, each in a fresh process."""
    _peak()  # raises here if it cannot be measured
    points = []
    context = multiprocessing.get_context("spawn")
    for size in AXES[name].sizes:
        with context.Pool(1) as pool:
            points.append(pool.apply(_measured, (name, size)))
        report(points[-1])
    return points


def _measured(name: str, size: int) -> Point:
    return AXES[name].point(size)


def grow(points: list[Point], what: str) -> float:
    """Return the power of the work with which a quantity grows, over the larger half of the points.

    It is the slope of a line fitted to the logarithms: 1 is proportional, 0 is flat.

    >>> grow([Point(n, n, 5.0 * n, 80.0) for n in (1, 10, 100)], "microseconds")
    1.0
    """
    larger = points[len(points) // 2 - 1 :]
    logs = np.log([[p.work, max(getattr(p, what), 1.0)] for p in larger])
    return round(float(np.polyfit(logs[:, 0], logs[:, 1], 1)[0]), 3)


class Growth(NamedTuple):
    """A condition on a power, such as ``rows memory<=0.1``."""

    axis: str
    what: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Growth":
        """Parse a condition; raises ConfigError.

        >>> Growth.parse("rows memory<=0.1")
        Growth(axis='rows', what='memory', bound=0.1)
        """
        axes = "|".join(AXES)
        match = re.fullmatch(rf"({axes})\s+(time|memory)\s*<=\s*(\d+(?:\.\d+)?)", text.strip())
        if not match:
            msg = "with --scale, --expect takes AXIS time<=POWER or memory<=POWER, AXIS one of "
            raise ConfigError(msg + f"{', '.join(AXES)}; got {text!r}")
        return cls(match[1], match[2], float(match[3]))

    def failure(self, measured: "dict[str, list[Point]]") -> str | None:
        """Return how the measurement fails the condition; None if it holds."""
        if self.axis not in measured:
            return f"{self.axis} was not measured"
        power = grow(measured[self.axis], QUANTITIES[self.what])
        if power <= self.bound:
            return None
        return (
            f"{self.what} grows with {self.axis} as work^{power}; "
            f"expected a power <= {self.bound:g}"
        )


def to_json(measured: dict[str, list[Point]]) -> dict[str, Any]:
    """Return the points and the powers with which they grow as JSON data."""
    return {
        name: {
            "what": AXES[name].what,
            "points": [point._asdict() for point in points],
            "power": {name: grow(points, what) for name, what in QUANTITIES.items()},
        }
        for name, points in measured.items()
    }


def to_markdown(measured: dict[str, list[Point]], facts: dict[str, Any]) -> str:
    """Return a Markdown table for each axis, and a sentence about the machine."""
    lines = []
    for name, points in measured.items():
        powers = (grow(points, what) for what in QUANTITIES.values())
        lines += [
            f"### {name}: {AXES[name].what}",
            "",
            f"| {name} | µs per step | peak MiB |",
            "| ---: | ---: | ---: |",
            *(f"| {p.size:,} | {p.microseconds:,.0f} | {p.memory:,.0f} |" for p in points),
            "",
            "Over the larger half, time grows as work^{:.2f} and memory as work^{:.2f}.".format(
                *powers
            ),
            "",
        ]
    return "\n".join([*lines, sentence(facts), ""])


def plot(measured: dict[str, list[Point]], path: str) -> None:
    """Plot time and memory over each axis; the suffix of ``path`` names the format."""
    check_plot()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(measured), 5), layout="constrained")
    grid = figure.subplots(2, len(measured), squeeze=False, sharex="col")
    for column, (name, points) in enumerate(measured.items()):
        sizes = [p.size for p in points]
        for row, what in enumerate(QUANTITIES.values()):
            axis = grid[row, column]
            values = [max(getattr(p, what), 1.0) for p in points]
            axis.loglog(sizes, values, "o-", color="tab:blue")
            # At least two decades, or a flat line looks steep.
            middle = math.sqrt(min(values) * max(values))
            reach = 1.3 * math.sqrt(max(100.0, max(values) / min(values)))
            axis.set_ylim(middle / reach, middle * reach)
            axis.set_title(f"work^{grow(points, what):.2f}", fontsize=9, loc="left")
            axis.spines[["top", "right"]].set_visible(False)
        grid[1, column].set_xlabel(name)
    grid[0, 0].set_ylabel("µs per step")
    grid[1, 0].set_ylabel("peak MiB")
    figure.savefig(path)


def _peak() -> float:
    """Return the peak memory of this process, in MiB; raises BackendError if it is not known."""
    try:  # on Linux, getrusage starts from the parent process's peak
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 2**10
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:
        msg = "the peak memory of a process cannot be measured on this system"
        raise BackendError(msg) from None
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
