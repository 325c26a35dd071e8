"""Each layer forward, backward and in evaluation, each operation with NumPy's in float64."""

import functools

import pytest

from xpnet.check.conformance.subjects import evaluation, model_with, walk
from xpnet.check.conformance.summary import fail_for, try_
from xpnet.check.parity import ModuleBackend
from xpnet.check.parity.checked_step import Fault
from xpnet.nn import LAYERS, layer_name
from xpnet.nn.losses import SoftmaxCrossEntropy

PHASES = {"forward": "output", "backward": "d", "statistics": "new "}


def _phases(layer: str) -> list[str]:
    model, at = model_with(layer)
    tracks = any(not v.trained for v in model.layers[at].variables().values())
    return [*PHASES] if tracks else ["forward", "backward"]


@functools.cache  # of all phases
def _faults(held: ModuleBackend, layer: str) -> list[Fault]:
    return walk(held, model_with(layer)[0], SoftmaxCrossEntropy())


@pytest.mark.parametrize(
    ("layer", "phase"), [(layer, phase) for layer in LAYERS for phase in _phases(layer)]
)
def test_layer(held: ModuleBackend, layer: str, phase: str, request: pytest.FixtureRequest) -> None:
    """What one phase of a training step makes at the layer is what NumPy makes of its operands."""
    model, at = model_with(layer)
    place = f"{at}.{layer_name(model.layers[at])}"
    of_phase = (
        f for f in _faults(held, layer) if f.layer == place and f.tensor.startswith(PHASES[phase])
    )
    fail_for(request.node, of_phase)


@pytest.mark.parametrize("layer", LAYERS)
def test_evaluation(held: ModuleBackend, layer: str, request: pytest.FixtureRequest) -> None:
    """A model with the layer predicts what it does in NumPy."""
    try_(request.node, evaluation, held, model_with(layer)[0])
