"""What ``xpnet bench`` does in each of its modes."""

import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

from xpnet.bench import (
    STANDARD_ON_GPU,
    Expectation,
    Network,
    Row,
    Setting,
    comparison,
    contenders,
    measure,
    parse_network,
    scaling_tables,
)
from xpnet.bench import scale as growth
from xpnet.bench.crossover import find_crossover
from xpnet.bench.model import machine_named, modelled, moved_bytes
from xpnet.bench.model_tables import HEADER, model_json, model_markdown, part_cells
from xpnet.bench.results import machine, plot, profile_lines, ratios, to_json, to_markdown
from xpnet.bench.scaling import SCALED, measure_scaling
from xpnet.cli.launching import launching, this_python
from xpnet.cli.output import (
    add_column,
    add_row,
    cell,
    only_json,
    print_json,
    say,
    show,
    write_json,
    write_output,
)
from xpnet.errors import BackendError, ConfigError
from xpnet.escape import escape
from xpnet.settings import did_you_mean

__all__ = ["Reports", "compare", "crossover", "model", "scale", "scaling"]


class Reports(NamedTuple):
    """Where the results go: files, None where not asked for, and ``--json`` on standard output."""

    json_file: str | None
    markdown: str | None
    plot: str | None
    as_json: bool = False

    def keep(self, data: Any, markdown: Callable[[], str] | None = None) -> None:
        """Write the files of what is measured by now."""
        if self.markdown and markdown is not None:
            write_output(self.markdown, markdown())
        if self.json_file:
            write_json(self.json_file, data)

    def finish(self, data: Any, draw: Callable[[str], None] = lambda path: None) -> None:
        """Draw and print what was asked for."""
        if self.plot:
            draw(self.plot)
        if self.as_json:
            print_json(data)

    def write_json(self, data: Any) -> None:
        """Write and print what was asked for, where there is nothing but JSON."""
        self.keep(data)
        self.finish(data)


def compare(
    what: str,
    setting: Setting,
    rows: Sequence[str],
    settings: Sequence[str],
    *,
    only: Sequence[str],
    skip: Sequence[str],
    rounds: int,
    conditions: Sequence[str],
    profiled: bool,
    reports: Reports,
) -> int:
    """Print a table for each row of "step", "prediction" or "fit"; return 1 if not as expected."""
    base, makes, workloads = comparison(what, setting, rows, settings)
    expectations = [Expectation.parse(text, base) for text in conditions]
    for name in (*only, *skip, *(e.other for e in expectations)):
        if name not in makes:
            msg = f"unknown contender {name!r} on {setting.device}; {did_you_mean(name, makes)}"
            raise ConfigError(msg)
    if profiled and what != "step":
        msg = f"--profile breaks down a training step; it has nothing to say of a {what}"
        raise ConfigError(msg)
    names = [n for n in (only or makes) if n not in skip]
    chosen = {name: makes[name] for name in dict.fromkeys([base, *names])}
    facts = machine(setting)
    measured: list[Row] = []
    found, code = to_json(measured, setting, facts), 0
    for workload in workloads:
        row = measure(workload, chosen, rounds=rounds, report=_status)
        _status("")
        with only_json(reports.as_json):
            if isinstance(workload, Network) and profiled:
                row = row._replace(profiles=_profiles(workload, setting, chosen))
                if "xpnet cupy" in row.profiles:
                    row = row._replace(moved={"xpnet cupy": moved_bytes(workload, setting)})
            _print(row, setting)
        measured.append(row)
        # A measurement that is stopped later has kept this row, and said what it misses.
        found = to_json(measured, setting, facts)
        reports.keep(found, lambda: to_markdown(measured, setting, facts))
        code |= _judged(e.failure(row, _fastest(row)) for e in expectations)
    reports.finish(found, lambda path: plot(measured, path))
    return code


def crossover(setting: Setting, only: Sequence[str], rounds: int, reports: Reports) -> int:
    """Print a line for each batch size."""
    on_gpu = setting if setting.on_gpu else Setting("cuda", setting.precision)
    makes = {**contenders(Setting("cpu", setting.dtype)), **contenders(on_gpu)}
    pair = only or ("xpnet numpy", "xpnet cupy")
    if len(pair) != 2 or not set(pair) <= makes.keys():
        msg = f"--crossover takes two --only contenders, or none; got {', '.join(only)}"
        raise ConfigError(msg)
    found = []
    for crossing in find_crossover(makes[pair[0]], makes[pair[1]], rounds):
        say(crossing.sentence(*pair), err=reports.as_json)
        found.append(crossing._asdict())
    reports.write_json({"first": pair[0], "second": pair[1], "crossings": found})
    return 0


def model(gpu: str, precision: str, rows: Sequence[str], reports: Reports) -> int:
    """Print what a step launches on a GPU that need not be here, and how long that takes."""
    machine_there, setting = machine_named(gpu), Setting("cuda", precision)
    networks = [*map(parse_network, rows)] or STANDARD_ON_GPU
    found = {network: modelled(network, setting, machine_there) for network in networks}
    for network, step in found.items():
        title = f"{network}, {precision} on {gpu}"
        with only_json(reports.as_json):
            _show(scaling_tables.Table(title, HEADER, part_cells(step)))
            say(f"{step.launches} launches: {step.microseconds:,.1f} µs; the products and one copy "
                f"of {step.moved / 1e6:,.2f} MB take {step.limit:,.1f}")  # fmt: skip
    data = {"gpu": gpu, "precision": precision, "rows": model_json(found)}
    reports.keep(data, lambda: model_markdown(found))
    reports.finish(data)
    return 0


def scale(only: Sequence[str], conditions: Sequence[str], reports: Reports) -> int:
    """Print a line for each point; return 1 if something grows faster than expected."""
    growths = [growth.Growth.parse(text) for text in conditions]
    for name in only:
        if name not in growth.AXES:
            msg = f"unknown axis {name!r}; {did_you_mean(name, growth.AXES)}"
            raise ConfigError(msg)
    measured = {}
    for name in only or growth.AXES:
        with only_json(reports.as_json):
            say(f"{name}: {growth.AXES[name].what}")
            measured[name] = growth.measure_axis(name, lambda point: say(f"  {point}"))
    facts = machine(Setting())
    data = {"machine": facts, "axes": growth.to_json(measured)}
    reports.keep(data, lambda: growth.to_markdown(measured, facts))
    reports.finish(data, lambda path: growth.plot(measured, path))
    return _judged(condition.failure(measured) for condition in growths)


def scaling(
    setting: Setting,
    rows: Sequence[str],
    ranks: str,
    launcher: str | None,
    rounds: int,
    reports: Reports,
) -> int:
    """Print how steps scale over processes here, beside the model, and what that predicts."""
    if str(setting) != str(Setting()):
        msg = f"--scaling measures steps on a CPU in float32; got {setting}"
        raise ConfigError(msg)
    numbers = [word.strip() for word in ranks.split(",")]
    if not all(re.fullmatch(r"[1-9]\d{0,3}", word) for word in numbers):
        msg = f"--ranks takes numbers of processes, such as 1,2,4; got {ranks!r}"
        raise ConfigError(msg)
    found = measure_scaling(
        [*map(parse_network, rows)] or SCALED,
        launching(launcher, "--scaling"),
        this_python(),
        ranks=[*map(int, numbers)],
        rounds=rounds,
        report=_status,
    )
    _status("")
    facts = machine(setting)
    with only_json(reports.as_json):
        for line in scaling_tables.notes(found):
            say(line)
        for table in scaling_tables.tables(found):
            _show(table)
        for line in scaling_tables.outlook_notes(found):
            say(line)
        for table in scaling_tables.outlook(found):
            _show(table)
    data = scaling_tables.scaling_json(found, facts)
    reports.keep(data, lambda: scaling_tables.scaling_markdown(found, facts))
    reports.finish(data)
    return 0


def _show(made: scaling_tables.Table) -> None:
    from rich.table import Table

    table = Table(title=cell(made.title), title_justify="left")
    for i, name in enumerate(made.head):
        add_column(table, name, justify="right" if i else "left")
    for cells in made.rows:
        add_row(table, *cells)
    show(table)


def _judged(failures: Iterable[str | None]) -> int:
    """Print the conditions that failed; return the exit code."""
    found = [failure for failure in failures if failure]
    for failure in found:
        say(f"not as expected: {failure}", err=True)
    return 1 if found else 0


def _fastest(row: Row) -> str:
    """Return the fastest of xpnet's own contenders."""
    ours = [name for name in row.timings if name.startswith("xpnet")]
    return min(ours, key=lambda name: row.timings[name].median, default="xpnet")


def _status(line: str) -> None:
    """Show progress on a terminal, on a line that the next call overwrites."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{escape(line)}")
        sys.stderr.flush()


def _print(row: Row, setting: Setting) -> None:
    """Print a row's contenders, the fastest first."""
    from rich.table import Table

    kind = row.workload
    title = f"{kind}, {setting}"
    table = Table(title=cell(title), title_justify="left")
    add_column(table, kind.what, no_wrap=True)
    last = kind.score or ("TFLOP/s" if setting.on_gpu else "faults")
    for name in (f"median {kind.unit.name}", "quartiles", "ratio", last):
        add_column(table, name, justify="right")
    add_column(table, "note", overflow="fold")
    for name, timing in sorted(row.timings.items(), key=lambda item: item[1].median):
        last = "-" if timing.faults is None else f"{timing.faults:.1f}"
        if timing.score is not None:
            last = f"{timing.score:.4f}"
        elif setting.on_gpu:
            last = f"{row.rate(name):.3g} ({1 / row.ratio(name):.0%})"
        quartiles = f"{kind.unit.shown(timing.low)} to {kind.unit.shown(timing.high)}"
        cells = (kind.unit.shown(timing.median), quartiles, ratios(row, name), last)
        add_row(table, name, *cells, timing.note)
    show(table)
    for name, why in row.absent.items():
        say(f"not timed: {name}: {why}")
    for line in profile_lines(row):
        say(f"µs of {line}")


def _profiles(
    network: Network, setting: Setting, names: Collection[str]
) -> dict[str, dict[str, float]]:
    """Return the breakdown of each timed xpnet step, by contender and part."""
    from xpnet.bench.launches import profile_gpu
    from xpnet.bench.profile import profile

    found = {}
    for name, profile_step in {
        "xpnet cupy": lambda: profile_gpu(network, setting),
        "xpnet numpy": lambda: profile(network, setting.dtype),
        "xpnet numpy, portable": lambda: profile(network, setting.dtype, portable=True),
    }.items():
        if name in names:
            try:
                found[name] = profile_step()
            except BackendError as error:  # keep the times
                say(f"not profiled: {name}: {error}")
    return found
