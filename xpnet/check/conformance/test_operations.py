"""Each operation of the Array API that training uses, on its own, with NumPy's in float64."""

import pytest

from xpnet.check.conformance.summary import keep
from xpnet.check.parity import ModuleBackend
from xpnet.check.parity.causes import reproduction
from xpnet.check.parity.operations import CHECKS, Check


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_operation(backend: ModuleBackend, check: Check, request: pytest.FixtureRequest) -> None:
    """The value, the shape and the dtype are right, and the operands are left alone."""
    row = check(backend)
    if row.bad:
        keep(request.node, row)
        program = reproduction(row, backend.name, backend.dtype_name, backend.computes)
        text = f"{row.function} ({row.case or 'as it is'}): {row.status}: {row.detail}"
        pytest.fail(f"{text}\n\n{program}", pytrace=False)
