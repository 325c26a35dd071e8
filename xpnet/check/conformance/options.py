"""The options of the suite, the library under test, and the files of known failures."""

from pathlib import Path
from typing import Any

import pytest

from xpnet.check.parity import ModuleBackend, load_module
from xpnet.errors import XpnetError

UNUSED = pytest.StashKey[list[str]]()
HERE = Path(__file__).parent


def pytest_addoption(parser: Any) -> None:
    """Add the options, which the package's page explains."""
    group = parser.getgroup("xpnet", "conformance of an array library")
    group.addoption("--xp", metavar="MODULE", help="the library, as MODULE or MODULE:ATTRIBUTE")
    group.addoption("--dtype", default="float32", help="float32 or float64 (float32)")
    group.addoption("--to-numpy", metavar="METHOD", help="of its arrays: gives NumPy's")
    for kind, what in (("skips", "not to run"), ("xfails", "that fail, and are known to")):
        group.addoption(f"--{kind}-file", metavar="FILE", help=f"names of tests {what}")


def library(config: Any) -> ModuleBackend:
    """Return the library that ``--xp`` names; raises pytest.UsageError where there is none."""
    if not config.getoption("--xp"):
        msg = "name the library under test: --xp MODULE, such as --xp numpy"
        raise pytest.UsageError(msg)
    try:
        name, dtype = config.getoption("--xp"), config.getoption("--dtype")
        return load_module(name, dtype, config.getoption("--to-numpy"))
    except XpnetError as error:
        raise pytest.UsageError(error.at_command_line) from None


@pytest.fixture(scope="session")
def backend(pytestconfig: Any) -> ModuleBackend:
    """The library under test."""
    return library(pytestconfig)


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    """Mark the tests that the files name, and remember the lines that name none."""
    mine = [item for item in items if HERE in item.path.parents]
    if mine:
        library(config)
    unused = []
    for option, mark in (
        ("--skips-file", pytest.mark.skip(reason="in --skips-file")),
        ("--xfails-file", pytest.mark.xfail(reason="in --xfails-file", strict=True)),
    ):
        for line in _lines(config.getoption(option)):
            named = [item for item in mine if _name(item).startswith(line)]
            for item in named:
                item.add_marker(mark)
            if not named:
                unused.append(f"{option}: no test is named {line}")
    config.stash[UNUSED] = unused


def _lines(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise pytest.UsageError(msg) from None
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _name(item: Any) -> str:
    """A test's name, such as test_operations.py::test_operation[clip-both bounds]."""
    return f"{item.path.name}::{item.nodeid.partition('::')[2]}"


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """Say which library was tested, and which lines name no test."""
    if config.getoption("--xp"):
        described = library(config).describe()
        said = " ".join(f"{key} {value}" for key, value in described.items() if value)
        terminalreporter.write_line(f"array library: {said}")
    for line in config.stash.get(UNUSED, []):
        terminalreporter.write_line(line, red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: Any, exitstatus: int) -> None:
    """Fail where a line of the files names no test."""
    if session.config.stash.get(UNUSED, []) and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
