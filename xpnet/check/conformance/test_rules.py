"""Each update rule and the clipping of gradients, with NumPy's in float64."""

import pytest

from xpnet.check.conformance.subjects import CLIPS, RULES, update
from xpnet.check.conformance.summary import try_
from xpnet.check.parity import ModuleBackend


@pytest.mark.parametrize("rule", RULES)
def test_rule(held: ModuleBackend, rule: str, request: pytest.FixtureRequest) -> None:
    """Three updates of a vector give its parameters and moments."""
    try_(request.node, update, held, RULES[rule])


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping(held: ModuleBackend, clip: str, request: pytest.FixtureRequest) -> None:
    """A gradient is clipped."""
    try_(request.node, update, held, CLIPS[clip])
