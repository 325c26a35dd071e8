"""The options of the suite: which library, in which dtype, and what is known not to pass.

``--skips-file`` and ``--xfails-file`` are as array-api-tests has them: a line a test, ``#`` begins
a comment. A line is the end of a test's id, such as ``test_operations.py::test_operation[log1p]``,
or what several begin with, up to a ``::`` or a ``[``. An expected failure that passes is a failure,
and so is a line that names no test: a list stays as short as it can be.
"""

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import pytest

from xpnet.check.conformance.summary import complaint, lines
from xpnet.check.parity import ModuleBackend, load_module
from xpnet.check.parity.around import AroundBackend, around
from xpnet.errors import XpnetError

UNUSED = pytest.StashKey[list[str]]()
HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("xpnet", "conformance of an array library")
    group.addoption("--xp", metavar="MODULE", help="the library: MODULE or MODULE:ATTRIBUTE")
    group.addoption("--dtype", choices=("float32", "float64"), default="float32")
    group.addoption("--to-numpy", metavar="METHOD", help="of its arrays: gives NumPy's")
    text = "that ten steps may take (20); those of a lazy library are slow"
    group.addoption("--seconds", type=float, default=20.0, help=text)
    for name, what in (("skips", "tests that do not run"), ("xfails", "tests that must fail")):
        text = f"{what}, one a line (repeatable)"
        group.addoption(f"--{name}-file", metavar="FILE", action="append", default=[], help=text)


def pytest_configure(config: pytest.Config) -> None:
    """Import the library, or end with one line and exit code 4."""
    _library(config)


def _library(config: pytest.Config) -> ModuleBackend:
    asked = config.option
    if not asked.xp:
        msg = "name the library under test: --xp MODULE or --xp MODULE:ATTRIBUTE"
        raise pytest.UsageError(msg)
    try:
        return load_module(asked.xp, asked.dtype, asked.to_numpy)
    except XpnetError as error:
        raise pytest.UsageError(error.at_command_line) from None


@pytest.fixture(scope="session")
def backend(request: pytest.FixtureRequest) -> ModuleBackend:
    """The library under test, as it is."""
    return _library(request.config)


@pytest.fixture(scope="session")
def held(backend: ModuleBackend) -> ModuleBackend:
    """The library under test, around what its arrays lack that every formula asks first."""
    return around(backend)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fail with what the library said rather than with a traceback through formulas."""
    try:
        return (yield)
    except Exception as error:  # a library under test may raise anything
        text = complaint(error) if HERE in item.path.parents else None
        if text is None:
            raise
    pytest.fail(text, pytrace=False)


@pytest.hookimpl(tryfirst=True)  # before -k and -m take tests away
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what the files name, and note the lines that name nothing."""
    ours = {_id(item): item for item in items if HERE in item.path.parents}
    files = {node.partition("::")[0] for node in ours}
    whole = not any("::" in argument for argument in config.args)
    unused = []
    skip, xfail = pytest.mark.skip, pytest.mark.xfail
    for option, mark in (("skips_file", skip), ("xfails_file", xfail)):
        for path in getattr(config.option, option, ()):
            for number, line in _lines(path):
                named = [item for node, item in ours.items() if _names(line, node)]
                reason = f"{Path(path).name}, line {number}"
                options: dict[str, Any] = {"strict": True} if mark is xfail else {}
                for item in named:
                    item.add_marker(mark(reason=reason, **options))
                file = line.partition("::")[0]
                missed = file in files or not (HERE / file).is_file()
                if not named and whole and missed:
                    unused.append(f"{line} ({reason})")
    config.stash[UNUSED] = unused


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Say which library was tested, what is wrong with it, and which lines name no test."""
    failed = terminalreporter.stats.get("failed", [])
    for line in lines(failed, config.option.xp):
        terminalreporter.write_line(line)
    library = _library(config)
    told = " ".join(f"{key} {value}" for key, value in library.describe().items() if value)
    terminalreporter.write_line(f"array library: {told}")
    held = around(library)
    if isinstance(held, AroundBackend):
        lacks = ", ".join(held.lacks)
        text = f"all but the operations is tested around what its arrays lack: {lacks}"
        terminalreporter.write_line(text)
    for line in config.stash.get(UNUSED, []):
        terminalreporter.write_line(f"no test is named {line}", red=True)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist has found, each of which collects all tests."""
    node.config.stash[UNUSED] = getattr(node, "workeroutput", {}).get("unused", [])


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail where a line of the files names no test."""
    unused = session.config.stash.get(UNUSED, [])
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["unused"] = unused
    elif unused and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _id(item: pytest.Item) -> str:
    """The id from the file's name on, wherever the package is installed."""
    return item.path.name + item.nodeid[item.nodeid.index("::") :]


def _names(line: str, node: str) -> bool:
    rest = node.removeprefix(line)
    return rest != node and (not rest or rest[0] in ":[")


def _lines(path: str) -> Iterable[tuple[int, str]]:
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        msg = f"cannot read {path}: {error}"
        raise pytest.UsageError(msg) from error
    for number, line in enumerate(text.splitlines(), 1):
        # An id may have a # in it, but not after a space.
        stripped = line.strip()
        if stripped and not stripped.startswith("#"):
            yield number, stripped.partition(" #")[0].rstrip()
