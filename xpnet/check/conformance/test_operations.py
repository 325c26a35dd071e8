"""Each function, operator and dtype of the Array API that training uses."""

import pytest

from xpnet.check.parity import ModuleBackend
from xpnet.check.parity.causes import reproduction
from xpnet.check.parity.operations import CHECKS, Check


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_operation(check: Check, backend: ModuleBackend) -> None:
    row = check(backend)
    program = reproduction(row, backend.name, backend.dtype_name) if row.bad else ""
    assert not row.bad, f"{row.function} ({row.case}): {row.status}: {row.detail}\n\n{program}"
