"""Ten training steps of a small network, each operation with NumPy's in float64."""

import pytest

from xpnet.check.conformance.subjects import STEPS, steps
from xpnet.check.parity import ModuleBackend


@pytest.mark.parametrize("config", STEPS)
def test_ten_steps(backend: ModuleBackend, config: str) -> None:
    """Every activation, gradient, statistic and update of ten steps."""
    wrong = steps(backend, STEPS[config])
    if wrong:
        pytest.fail(wrong, pytrace=False)
