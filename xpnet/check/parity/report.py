"""The results of a comparison as data, as JSON and as Markdown."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

from xpnet.check.parity.causes import Cause, causes, issue
from xpnet.check.parity.checked_step import Fault
from xpnet.check.parity.compare import Difference
from xpnet.check.parity.operations import Row
from xpnet.escape import escape_markdown
from xpnet.storage.plain_json import encoded

__all__ = ["Growth", "FirstDifference", "Report", "Result", "to_json", "to_markdown"]


class FirstDifference(NamedTuple):
    """The first tensor of the run that differs by more than the tolerance."""

    step: int  # from 1
    layer: str
    tensor: str
    difference: Difference


class Growth(NamedTuple):
    """The largest relative differences from the reference's run in one step."""

    step: int  # from 1
    loss: float
    activations: float
    gradients: float
    parameters: float  # after the step, with the optimizer's slots


@dataclass
class Result:
    """One backend compared with the reference."""

    asked: str  # such as "torch:cpu:float32"
    not_run: str | None = None  # why
    described: Mapping[str, str] = field(default_factory=dict)
    tolerance: float = 0.0
    faults: list[Fault] = field(default_factory=list)
    fault_step: int | None = None
    first_difference: FirstDifference | None = None
    growth: list[Growth] = field(default_factory=list)
    operations: list[Row] = field(default_factory=list)  # of a library under test
    module: str = ""  # of that library, as it is imported
    computes: str = ""  # its method for what is still to be computed, where it is lazy
    stood_in: list[str] = field(default_factory=list)  # where steps went on with NumPy's instead
    steps: int | None = None  # how many there was time for, where that was not all

    @property
    def bad_operations(self) -> list[Row]:
        """The operations that are missing, wrong or wrongly typed."""
        return [row for row in self.operations if row.bad]

    @property
    def causes(self) -> list[Cause]:
        """What is wrong with them, each distinct cause once."""
        return causes(self.operations)

    @property
    def issues(self) -> list[str]:
        """The text of an issue for the library's tracker, for each of the causes."""
        version = self.described.get("version", "unknown")
        dtype = self.described.get("dtype", "float32")
        known = (self.module, version, dtype, self.computes)
        return [issue(cause, *known) for cause in self.causes]

    @property
    def verdict(self) -> str:
        """One of "not run", "fault", "agrees" or "rounding": operations agree, the run does not."""
        if self.not_run is not None:
            return "not run"
        if self.faults or self.bad_operations:
            return "fault"
        return "rounding" if self.first_difference else "agrees"

    @property
    def told(self) -> list[str]:
        """Each fault once, with the tensors that it is a fault of."""
        places: dict[str, list[str]] = {}
        for fault in self.faults:
            places.setdefault(fault.what, []).append(f"{fault.layer} {fault.tensor}")
        return [f"{', '.join(where)}: {what}" for what, where in places.items()]

    @property
    def _cut(self) -> str:
        return "" if self.steps is None else f" (no time for more than {self.steps} steps)"

    @property
    def _went_on(self) -> str:
        if len(self.growth) <= (self.fault_step or 0):
            return ""
        stood_in = f" with NumPy's {', '.join(self.stood_in)} in its stead" if self.stood_in else ""
        return f"; training went on{stood_in} to step {len(self.growth)}{self._cut}"

    def sentence(self) -> str:
        """Return the result in one line."""
        if self.verdict == "not run":
            return f"not run: {self.not_run}"
        if self.faults:
            fault, others = self.told[0], len(self.told) - 1
            more = f" ({others} more)" if others else ""
            return f"FAULT in step {self.fault_step}, {fault}{more}{self._went_on}"
        if self.bad_operations:
            count, why = len(self.bad_operations), len(self.causes)
            rest = "; training agrees around them" if self.growth else ""
            causes_ = "1 cause" if why == 1 else f"{why} distinct causes"
            return f"FAULT in {count} operations of the library, {causes_}{rest}{self._cut}"
        if self.first_difference is None:
            return f"agrees to {self.tolerance:g} over {len(self.growth)} steps{self._cut}"
        step, layer, tensor, worst = self.first_difference
        return (
            f"every operation agrees to {self.tolerance:g}; rounding alone has grown past it in "
            f"step {step}, {layer} {tensor}{list(worst.place)}: {worst.actual:.9g}, "
            f"reference {worst.expected:.9g}"
        )


@dataclass
class Report:
    """A config on several backends, compared with NumPy in float64."""

    source: str
    rows: str
    steps: int
    batch_size: int
    seed: int
    reference: Mapping[str, str]
    results: list[Result]

    @property
    def ok(self) -> bool:
        """Whether nothing that ran has a fault."""
        return all(r.verdict != "fault" for r in self.results)


def to_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON data; numbers that are not finite become strings."""
    table = encoded(report) | {"ok": report.ok}
    for row, result in zip(table["results"], report.results, strict=True):
        row |= {"verdict": result.verdict, "sentence": result.sentence()}
    return cast(dict[str, Any], table)


def to_markdown(report: Report) -> str:
    """Return the report as Markdown."""
    reference = ", ".join(f"{k} {v}" for k, v in report.reference.items())
    lines = [
        f"# xpnet parity: {_cell(report.source)}",
        "",
        f"{report.steps} steps of {report.batch_size} rows of {_cell(report.rows)}, "
        f"seed {report.seed}. The reference is {_cell(reference)}.",
        "",
        "| backend | version | device | dtype | TF32 | compiled | tolerance | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    keys = ("version", "device", "dtype", "tf32", "compiled")
    for r in report.results:
        known = [r.described.get(key, "-") for key in keys]
        lines.append(_row([r.asked, *known, f"{r.tolerance:g}", r.verdict]))
    for r in report.results:
        lines += ["", f"## {_cell(r.asked)}", "", _cell(r.sentence())]
        lines += _fault_lines(r) + _growth_lines(r) + _operation_lines(r)
    return "\n".join(lines) + "\n"


def _fault_lines(result: Result) -> list[str]:
    return ["", *(f"- {_cell(line)}" for line in result.told)] if result.faults else []


def _growth_lines(result: Result) -> list[str]:
    if not result.growth:
        return []
    lines = ["", _row(["step", *Growth._fields[1:]]), "|---:|---:|---:|---:|---:|"]
    return lines + [_row([g.step, *(f"{v:.1e}" for v in g[1:])]) for g in result.growth]


def _operation_lines(result: Result) -> list[str]:
    if not result.operations:
        return []
    lines = ["", "| operation | case | status | detail |", "|---|---|---|---|"]
    lines += [_row(row) for row in result.operations]
    return lines + [line for text in result.issues for line in ("", *text.splitlines())]


def _row(cells: Any) -> str:
    return "| " + " | ".join(_cell(str(cell)) for cell in cells) + " |"


def _cell(text: str) -> str:
    return escape_markdown(" ".join(text.split()))
