"""Ten training steps of a small network, each operation with NumPy's in float64."""

import pytest

from xpnet.check.conformance.subjects import STEPS, steps
from xpnet.check.parity import ModuleBackend


@pytest.mark.parametrize("config", STEPS)
def test_ten_steps(backend: ModuleBackend, config: str, pytestconfig: pytest.Config) -> None:
    """Every activation, gradient, statistic and update of ten steps."""
    result = steps(backend, STEPS[config], pytestconfig.option.seconds)
    if result.faults:
        pytest.fail(result.sentence(), pytrace=False)
    if result.steps is not None:
        pytest.skip(f"{result.steps} steps are right; the others would exceed --seconds")
