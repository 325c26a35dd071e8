"""Each loss, its gradient and what it predicts, with NumPy's in float64."""

import pytest

from xpnet.check.conformance.subjects import LOSSES, model_for, walk
from xpnet.check.conformance.summary import fail_for
from xpnet.check.parity import ModuleBackend


@pytest.mark.parametrize("loss", LOSSES)
def test_loss(held: ModuleBackend, loss: str, request: pytest.FixtureRequest) -> None:
    """The cost, its gradient, the predictions and how many of them are correct."""
    faults = walk(held, model_for(LOSSES[loss]), LOSSES[loss])
    fail_for(request.node, (f for f in faults if f.layer.startswith("loss ")))
