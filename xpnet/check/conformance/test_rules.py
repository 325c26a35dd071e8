"""Each update rule and the clipping of gradients, with NumPy's in float64."""

import pytest

from xpnet.check.conformance.subjects import CLIPS, RULES, update
from xpnet.check.parity import ModuleBackend


@pytest.mark.parametrize("rule", RULES)
def test_rule(backend: ModuleBackend, rule: str) -> None:
    """Three updates of a vector give its parameters and moments."""
    wrong = update(backend, RULES[rule])
    if wrong:
        pytest.fail(wrong, pytrace=False)


@pytest.mark.parametrize("clip", CLIPS)
def test_clipping(backend: ModuleBackend, clip: str) -> None:
    """A gradient is clipped."""
    wrong = update(backend, CLIPS[clip])
    if wrong:
        pytest.fail(wrong, pytrace=False)
