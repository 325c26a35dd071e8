"""Each layer forward, backward and in evaluation, each operation with NumPy's in float64."""

import pytest

from xpnet.check.conformance.subjects import evaluation, model_with, walk
from xpnet.check.parity import ModuleBackend
from xpnet.nn import LAYERS, layer_name
from xpnet.nn.losses import SoftmaxCrossEntropy

PHASES = {"forward": "output", "backward": "d", "statistics": "new "}


def _phases(layer: str) -> list[str]:
    model, at = model_with(layer)
    tracks = any(not v.trained for v in model.layers[at].variables().values())
    return [*PHASES] if tracks else ["forward", "backward"]


@pytest.mark.parametrize(
    ("layer", "phase"), [(layer, phase) for layer in LAYERS for phase in _phases(layer)]
)
def test_layer(backend: ModuleBackend, layer: str, phase: str) -> None:
    """What one phase of a training step makes at the layer is what NumPy makes of its operands."""
    model, at = model_with(layer)
    place = f"{at}.{layer_name(model.layers[at])}"
    faults = walk(backend, model, SoftmaxCrossEntropy())
    bad = [f for f in faults if f.layer == place and f.tensor.startswith(PHASES[phase])]
    if bad:
        pytest.fail("; ".join(map(str, bad)), pytrace=False)


@pytest.mark.parametrize("layer", LAYERS)
def test_evaluation(backend: ModuleBackend, layer: str) -> None:
    """A model with the layer predicts what it does in NumPy."""
    wrong = evaluation(backend, model_with(layer)[0])
    if wrong:
        pytest.fail(wrong, pytrace=False)
