"""A plugin of pytest (-p gpu.recording) that keeps what failed and how far off results were.

    --record FILE      writes both as JSON during the run, so that one that is stopped loses nothing
    --no-pool          has CuPy allocate each array by itself, so that a tool sees its ends

How far off: of each ``numpy.testing.assert_allclose`` the largest difference, as a share of what it
allows. Under pytest-xdist the workers measure it and the process that they report to keeps it.
"""

import time
from typing import Any

import numpy as np
import pytest

from gpu.card import card
from gpu.keeping import Kept

LARGEST = 25  # deviations that are kept
LINES = 40  # of a failure
EVERY = 5.0  # seconds
SHARE = "share of its tolerance"

_real = np.testing.assert_allclose
_shares: list[float] = []  # of the test that runs


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the two options."""
    parser.addoption("--record", metavar="FILE", help="write failures and deviations as JSON")
    parser.addoption("--no-pool", action="store_true", help="switch CuPy's memory pool off")


def pytest_configure(config: pytest.Config) -> None:
    """Measure from now on."""
    np.testing.assert_allclose = _measuring
    if config.getoption("--no-pool"):
        card().without_pool()
    if config.getoption("--record") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Kept(config.getoption("--record"))))


def _measuring(actual: Any, desired: Any, rtol: float = 1e-7, atol: float = 0, **more: Any) -> None:
    __tracebackhide__ = True
    _shares.append(share(actual, desired, rtol, atol))
    _real(actual, desired, rtol, atol, **more)


def share(actual: Any, desired: Any, rtol: float, atol: float) -> float:
    """Return the largest difference as a share of what is allowed; 0 where it has none."""
    try:
        a, b = (np.asarray(x, "float64") for x in (actual, desired))
        with np.errstate(all="ignore"):
            difference, allowed = np.abs(a - b), atol + rtol * np.abs(b)
            found = np.where(difference > 0, difference / allowed, 0.0)
        return float(np.max(found, where=np.isfinite(found), initial=0.0))
    except Exception:  # not numbers, or shapes that do not fit: the check itself says so
        return 0.0


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Any:
    """Keep a test's largest share with its report, which a worker sends."""
    _shares.clear()
    try:
        return (yield)
    finally:
        if _shares:
            item.user_properties.append((SHARE, max(_shares)))


class Recorder:
    """Keeps the reports of tests."""

    def __init__(self, kept: Kept) -> None:
        self.kept, self.written = kept, 0.0
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}
        self.failures: list[dict[str, Any]] = []
        self.shares: dict[str, float] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            lines = report.longreprtext.splitlines()[-LINES:]
            self.failures.append({"test": report.nodeid, "when": report.when, "text": lines})
            self.kept.found["missed"].append(f"{report.nodeid} failed")
        if report.when == "call" or not report.passed:
            self.counts[report.outcome] += 1
        for name, value in report.user_properties if report.when == "call" else ():
            if name == SHARE:
                self.shares[report.nodeid] = float(value)
        if report.failed or time.monotonic() - self.written > EVERY:
            self.write()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            lines = report.longreprtext.splitlines()[-LINES:]
            self.failures.append({"test": report.nodeid, "when": "collect", "text": lines})
            self.kept.found["missed"].append(f"{report.nodeid} cannot be collected")

    def write(self) -> None:
        """Write what is known by now."""
        self.written = time.monotonic()
        largest = sorted(self.shares.items(), key=lambda item: -item[1])[:LARGEST]
        # `near` is for a test that passed by less than a third of its tolerance.
        self.kept.found["near"] = [
            f"{test}: {value:.0%} of its tolerance" for test, value in largest if 0.67 < value <= 1
        ]
        self.kept.put(counts=self.counts, failures=self.failures, largest=dict(largest))

    def pytest_sessionfinish(self) -> None:
        self.write()

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        largest = sorted(self.shares.items(), key=lambda item: -item[1])[:5]
        terminalreporter.section("largest deviations")
        for test, value in largest:
            terminalreporter.line(f"{value:.0%} of the tolerance: {test}")
