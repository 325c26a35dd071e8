"""Each loss, its gradient and what it predicts, with NumPy's in float64."""

import pytest

from xpnet.check.conformance.subjects import LOSSES, model_for, walk
from xpnet.check.parity import ModuleBackend


@pytest.mark.parametrize("loss", LOSSES)
def test_loss(backend: ModuleBackend, loss: str) -> None:
    """The cost, its gradient, the predictions and how many of them are correct."""
    faults = walk(backend, model_for(LOSSES[loss]), LOSSES[loss])
    bad = [f for f in faults if f.layer.startswith("loss ")]
    if bad:
        pytest.fail("; ".join(map(str, bad)), pytrace=False)
