"""Ten training steps of a small network, each operation with NumPy's in float64."""

import pytest

from xpnet.check.conformance.subjects import STEPS, steps
from xpnet.check.conformance.summary import fail
from xpnet.check.parity import ModuleBackend


@pytest.mark.parametrize("config", STEPS)
def test_ten_steps(held: ModuleBackend, config: str, request: pytest.FixtureRequest) -> None:
    """Every activation, gradient, statistic and update of ten steps."""
    result = steps(held, STEPS[config], request.config.option.seconds)
    if result.faults:
        text = "\n".join([result.sentence(), *(f"also {line}" for line in result.told[1:])])
        fail(request.node, text, {name for fault in result.faults for name in fault.uses})
    if result.steps is not None:
        pytest.skip(f"{result.steps} steps are right; the others would exceed --seconds")
