"""One fixture, `backend`, runs a test on every array library that is here.

`numpy-readonly` hands out arrays that raise on being written to; array-api-strict runs on a fake
device with its strictest flags. The summary names the backends that ran and why others did not;
`--require-backend NAME` turns such a skip into a failure.

Tests marked `long` run with `--long`, or where `-m` names the mark; the summary counts those left
out. `long_but(name=[...])` keeps a test short where its parameters have these values only, and
`long_where(name=[...])` makes it long there only. Under pytest-xdist the workers hand their counts
to the process that prints the summary. `--first` takes of each test the first parameters only: what
each imports and calls, where all of them run elsewhere.

`XPNET_TEST_BACKENDS=numpy,torch` leaves the other backends out, and does not import them: what has
to start many times (scripts/mutants) then starts at once.
"""

import contextlib
import copy
import os
import pickle
import re
import signal
import sys
from collections import Counter

import hypothesis
import numpy as np
import pytest

from xpnet.backends import Backend, backend_class
from xpnet.backends.numpy import NumpyBackend
from xpnet.training.signals import SIGNALS

# A test that wants products timed on a GPU says so, and where they are remembered.
os.environ["XPNET_TIME_PRODUCTS"] = "0"
# On a machine that others share the time of an example says nothing about xpnet.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

ran = Counter()
missing = {}
left_out = []  # the long tests that were not asked for


class ReadOnlyNumpy(NumpyBackend):
    """NumPy whose placed arrays raise on `x += 1`: what is not yours is not written to."""

    def asarray(self, x, dtype=None):
        array = np.array(super().asarray(x, dtype))
        array.flags.writeable = False
        return array


# name -> (class, device)
UNDER_TEST = {
    "numpy": ("numpy", "cpu"),
    "numpy-readonly": (ReadOnlyNumpy, "cpu"),
    "array-api-strict": ("array-api-strict", "device1"),
    "torch": ("torch", "cpu"),
    "jax": ("jax", "cpu"),
    "cupy": ("cupy", "cuda:0"),
    "torch-cuda": ("torch", "cuda:0"),
    "jax-cuda": ("jax", "cuda:0"),
}


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="run the long tests, too")
    parser.addoption(
        "--first", action="store_true", help="run each test with its first parameters only"
    )
    parser.addoption(
        "--require-backend",
        action="append",
        default=[],
        choices=sorted(UNDER_TEST),
        help="fail, rather than skip, where this backend cannot run (repeatable)",
    )
    parser.addoption(
        "--require-browser",
        action="store_true",
        help="fail, rather than skip, the tests of a page where Chromium or axe-core is missing",
    )
    parser.addoption(
        "--min-gpu-tests",
        type=int,
        default=0,
        help="fail unless at least this many tests ran on a GPU",
    )


def available():
    """Return the names of the backends that can run here, and note why the others cannot."""
    wanted = os.environ.get("XPNET_TEST_BACKENDS", ",".join(UNDER_TEST)).split(",")
    for name, (cls, device) in UNDER_TEST.items():
        if name not in wanted:
            missing[name] = "XPNET_TEST_BACKENDS leaves it out"
            continue
        probe = (backend_class(cls) if isinstance(cls, str) else cls).probe()
        if device not in probe.devices:
            missing[name] = probe.note or f"it has only {', '.join(probe.devices)}"
    return [name for name in UNDER_TEST if name not in missing]


AVAILABLE = available()


def make_backend(name, dtype="float64"):
    """Return a backend under test; `owned` places what the code under test may consume."""
    cls, device = UNDER_TEST[name]
    cls = backend_class(cls) if isinstance(cls, str) else cls
    made = cls(device, dtype)
    made.owned = lambda x, dtype=None: Backend.asarray(made, np.array(x), dtype)
    made.test_name = name
    return made


@contextlib.contextmanager
def strictest(name):
    """array-api-strict without boolean indexing and data-dependent shapes."""
    if name != "array-api-strict":
        yield
        return
    import array_api_strict

    flags = {"boolean_indexing": False, "data_dependent_shapes": False}
    with array_api_strict.ArrayAPIStrictFlags(**flags):
        yield


@pytest.fixture(params=AVAILABLE)
def backend(request):
    """A backend with dtype float64."""
    made = make_backend(request.param)
    with strictest(request.param):
        yield made
    ran[request.param] += 1


@pytest.fixture(params=AVAILABLE)
def backend32(request):
    """A backend with dtype float32."""
    made = make_backend(request.param, "float32")
    with strictest(request.param):
        yield made
    ran[request.param] += 1


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where g++ puts the CUDA kernels that it compiles for the CPU, once for all tests."""
    from cuda_on_cpu import WHY_NOT

    if WHY_NOT:
        pytest.skip(WHY_NOT)
    base = tmp_path_factory.getbasetemp()
    # Under pytest-xdist each process has a folder of its own in the one that all share.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    (found := shared / "compiled kernels").mkdir(exist_ok=True)
    return found


@pytest.fixture(scope="session")
def chromium(request, tmp_path_factory):
    """One headless Chromium for all tests of pages."""
    from browser import started

    yield from started(request, tmp_path_factory)


@pytest.fixture(scope="module")
def browser(chromium):
    """The driver of that Chromium, as if it had just been started."""
    from browser import as_new

    return as_new(chromium)


@pytest.fixture(scope="module")
def axe(request, browser):
    """Return a function that fails where axe-core finds a page wanting: `axe(path, width=360)`.

    `scheme` is light, dark or print; see `browser.Axe`.
    """
    from browser import Axe, axe_source

    return Axe(browser, axe_source(request))


@pytest.fixture(params=["pickle", "deepcopy", "joblib"])
def copied(request, tmp_path):
    """Return a function that copies an object in each of the ways that people do."""

    def of(original):
        if request.param == "deepcopy":
            return copy.deepcopy(original)
        if request.param == "pickle":
            return pickle.loads(pickle.dumps(original))
        joblib.dump(original, tmp_path / "copied.joblib")
        return joblib.load(tmp_path / "copied.joblib")

    if request.param == "joblib":
        joblib = pytest.importorskip("joblib")
    return of


@pytest.fixture
def rng():
    return np.random.default_rng(20260101)


@pytest.fixture(autouse=True)
def signals_as_from_a_terminal():
    """Let a test, and what it starts, be signalled where `nohup` or `&` have signals ignored.

    A handler that does nothing keeps a real one from pytest, too, and is not inherited.
    """
    ignored = [s for s in SIGNALS if signal.getsignal(s) is signal.SIG_IGN]
    for s in ignored:
        signal.signal(s, lambda *_: None)
    yield
    for s in ignored:
        signal.signal(s, signal.SIG_IGN)


@pytest.fixture(scope="module", autouse=True)
def no_report(request):
    """Draw no page after a training, which takes longer than most of those here.

    `pytestmark = pytest.mark.report` is for the modules that want it.
    """
    reporting = sys.modules.get("xpnet.run.reporting")
    with pytest.MonkeyPatch.context() as patch:
        if reporting is not None and request.node.get_closest_marker("report") is None:
            patch.setattr(reporting, "write_page", lambda *ignored: None)
        yield


def pytest_itemcollected(item):
    """Mark as `long` what `long_but` and `long_where` say of a test's parameters."""
    for name, long in (("long_but", False), ("long_where", True)):
        for mark in item.iter_markers(name):
            params = item.callspec.params
            if long == all(params[key] in values for key, values in mark.kwargs.items()):
                item.add_marker("long")


@pytest.hookimpl(trylast=True)  # of those that -k and -m have chosen
def pytest_collection_modifyitems(config, items):
    if not (config.getoption("--long") or re.search(r"\blong\b", config.option.markexpr)):
        left_out[:] = _without(items, lambda item: item.get_closest_marker("long"), config)
    if config.getoption("--first"):
        by_test = {item.nodeid.partition("[")[0]: item for item in reversed(items)}
        firsts = set(by_test.values())
        _without(items, lambda item: item not in firsts, config)


def _without(items, is_left_out, config):
    """Take out what need not run, and return it."""
    out = [item for item in items if is_left_out(item)]
    if out:
        config.hook.pytest_deselected(items=out)
        items[:] = [item for item in items if not is_left_out(item)]
    return out


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Take over the counts of a worker of pytest-xdist, which collects all and runs some."""
    counts = getattr(node, "workeroutput", {})  # none where it crashed
    ran.update(counts.get("ran", {}))
    left_out[:] = counts.get("left_out", left_out)


def pytest_terminal_summary(terminalreporter):
    if ran:
        terminalreporter.section("backends")
        for name in UNDER_TEST:
            if ran[name]:
                terminalreporter.line(f"{name}: {ran[name]} tests ran")
            else:
                reason = missing.get(name, "no test selected")
                terminalreporter.line(f"{name}: not run: {reason}")
    if left_out:
        terminalreporter.section("long tests")
        terminalreporter.line(f"{len(left_out)} not run: add --long")


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput |= {"ran": dict(ran), "left_out": [i.nodeid for i in left_out]}
        return
    absent = [n for n in config.getoption("--require-backend") if not ran[n]]
    on_gpu = sum(ran[n] for n in ("cupy", "torch-cuda", "jax-cuda"))
    if absent or on_gpu < config.getoption("--min-gpu-tests"):
        config.get_terminal_writer().line(
            f"\nrequired backends that did not run: {', '.join(absent) or 'none'}; "
            f"tests that ran on a GPU: {on_gpu}",
            red=True,
        )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture
def xpnet(capsys):
    """Return a function that calls the command line here and returns (code, out, err)."""
    from xpnet.cli.main import main

    def call(*args):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in args])
        return ended.value.code, *capsys.readouterr()

    return call
