"""What failed, told by what is wrong: each distinct cause once, with the tests that it stops."""

import re
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from xpnet.check.parity import ModuleBackend
from xpnet.check.parity.around import AroundBackend, recorder
from xpnet.check.parity.causes import Cause, causes
from xpnet.check.parity.checked_step import Fault
from xpnet.check.parity.operations import Row, said

__all__ = ["complaint", "fail", "fail_for", "keep", "lines", "try_"]

ROOT = Path(__file__).parents[2]  # of the package
BESIDE = "beside what single operations show"
OUTCOME, USES = "operation", "uses"


def complaint(error: Exception) -> str | None:
    """Return what the library said, and the line of a formula to which; None for a fault of ours.

    A traceback would end in the formula, and read as if that were wrong.
    """
    frames = traceback.extract_tb(error.__traceback__)
    formulas = [frame.line for frame in frames if _is_formula(Path(frame.filename))]
    return f"{said(error)}\n\nin the formula: {formulas[-1]}" if formulas else None


def _is_formula(path: Path) -> bool:
    return ROOT in path.parents and ROOT / "check" not in path.parents


def keep(item: pytest.Item, row: Row) -> None:
    """Keep the outcome of an operation with its test, for the summary."""
    item.user_properties.append((OUTCOME, tuple(row)))


def fail(item: pytest.Item, text: str, uses: Iterable[str]) -> NoReturn:
    """Fail, and keep the functions that the test asks for, for the summary."""
    item.user_properties.append((USES, [*uses]))
    pytest.fail(text, pytrace=False)


def fail_for(item: pytest.Item, faults: Iterable[Fault]) -> None:
    """Fail if there are faults."""
    bad = [*faults]
    if bad:
        fail(item, "; ".join(map(str, bad)), {name for fault in bad for name in fault.uses})


def try_(
    item: pytest.Item, subject: Callable[..., str | None], backend: ModuleBackend, *args: Any
) -> None:
    """Fail if ``subject(backend, *args)`` raises, or says that something is wrong."""
    try:
        wrong = subject(backend, *args)
    except Exception as error:  # a library under test may raise anything
        wrong = complaint(error)
        if wrong is None:
            raise
        wrong = "\n".join([wrong, *_beside(said(error), subject, backend, *args)])
    if wrong:
        asked = recorder()
        subject(asked, *args)
        fail(item, wrong, asked.called)


def _beside(
    raised: str, subject: Callable[..., str | None], backend: ModuleBackend, *args: Any
) -> Iterator[str]:
    """What else is wrong, with NumPy in the stead of what raises."""
    again = AroundBackend.of(backend)
    try:
        with again.standing_in():
            wrong = subject(again, *args)
    except Exception:  # a library under test may raise anything, and has
        return
    yield from (f"also {name}: {why}" for name, why in again.stood_in.items() if why != raised)
    if wrong:
        yield f"also {wrong}"


def lines(failed: Iterable[pytest.TestReport], module: str) -> list[str]:
    """Return the summary of the tests that failed; none if none did."""
    rows, others = dict[str, Row](), dict[str, tuple[str, set[str]]]()
    for report in failed:
        kept: dict[str, Any] = dict(report.user_properties)
        test = report.nodeid.rpartition("::")[2]
        if OUTCOME in kept:
            rows[test] = Row(*kept[OUTCOME])
        else:
            others[test] = " ".join(report.longreprtext.split()), {*kept.get(USES, ())}
    found = causes(rows.values())
    told = [f"{len(found)} distinct causes" if len(found) != 1 else "1 cause"] if found else []
    explained = {test for test, (text, _) in others.items() if any(_said(c, text) for c in found)}
    for number, cause in enumerate(found, 1):
        stopped = [
            test
            for test, (text, uses) in others.items()
            if _said(cause, text) or (test not in explained and _used(cause, uses))
        ]
        told += [f"{number}. {cause}", f"   stops {_some([*map(_named, cause.rows), *stopped])}"]
    explained |= {t for t, (_, uses) in others.items() if any(_used(c, uses) for c in found)}
    rest = {test: text for test, (text, _) in others.items() if test not in explained}
    told += [BESIDE, *_grouped(rest)] if rest else []
    if found:
        command = f"xpnet parity --backend-module {module} --markdown FILE"
        told.append(f"{command} writes each as an issue")
    return told


def _grouped(failures: dict[str, str]) -> Iterator[str]:
    """Tell what the tests say, each thing once."""
    groups: dict[str, tuple[str, list[str]]] = {}
    for test, text in failures.items():
        what = re.sub(r" in the formula: .*?( also |$)", r"\1", text)
        same = re.sub(r"[\d.e+-]+", "#", what)[:90]
        groups.setdefault(same, (what[:300], []))[1].append(test)
    for what, tests in groups.values():
        yield from (f"- {what}", f"   stops {_some(tests)}")


def _said(cause: Cause, text: str) -> bool:
    """Whether a test failed with the same words."""
    if cause.status == "missing":
        return any(f"has no attribute '{name}'" in text for name in cause.functions)
    return cause.status == "raises" and any(row.detail[:60] in text for row in cause.rows)


def _used(cause: Cause, uses: set[str]) -> bool:
    """Whether a test that failed otherwise asks for a function whose results are wrong."""
    return cause.status not in ("raises", "missing") and not uses.isdisjoint(cause.functions)


def _named(row: Row) -> str:
    return f"{row.function} ({row.case})" if row.case else row.function


def _some(names: list[str]) -> str:
    left = len(names) - 12
    return ", ".join(names[:12]) + (f" and {left} more" if left > 0 else "")
