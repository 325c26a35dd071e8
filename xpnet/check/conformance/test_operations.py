"""Each operation of the Array API that training uses, on its own, with NumPy's in float64."""

import pytest

from xpnet.check.parity import OPERATIONS, ModuleBackend
from xpnet.check.parity.operations import Operation, check_names, check_operation


def test_names(backend: ModuleBackend) -> None:
    """Arrays know their namespace, and it has the dtypes."""
    bad = [row for row in check_names(backend) if row.bad]
    if bad:
        pytest.fail("; ".join(f"{r.function}: {r.detail}" for r in bad), pytrace=False)


@pytest.mark.parametrize(
    "operation", OPERATIONS, ids=[": ".join(filter(None, o[:2])) for o in OPERATIONS]
)
def test_operation(backend: ModuleBackend, operation: Operation) -> None:
    """The value, the shape and the dtype are right, and the operands are left alone."""
    row = check_operation(backend, operation)
    if row.bad:
        text = f"{row.function} ({row.case or 'as it is'}): {row.status}: {row.detail}"
        pytest.fail(text, pytrace=False)
