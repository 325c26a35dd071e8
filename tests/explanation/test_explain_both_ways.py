"""From the loss to dz through the Jacobian and fused: against PyTorch, and where only one holds."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import special

from xpnet.backends import get_backend
from xpnet.explanation import explain, of_sizes, tiny, wording
from xpnet.nn.losses import BinaryCrossEntropy, SoftmaxCrossEntropy

LOGITS = ["softmax_cross_entropy", "binary_cross_entropy"]
SPLIT = [*LOGITS, "cross_entropy", "negative_log_likelihood"]


def with_logits(loss, logits, label):
    """The tiny example with the logits that the biases are."""
    subject = tiny(loss, label=label)
    first = {"W": np.zeros((3, 3)), "b": np.asarray(logits, float)}
    return dataclasses.replace(subject, params=[first, *subject.params[1:]])


def on_way(explanation, way, direction="backward"):
    """The results of the steps of a way, by name."""
    steps = [s for s in explanation.steps if s.way == way and s.direction == direction]
    return {step.result.name: step.result.values for step in steps}


@pytest.mark.parametrize("kind", ["labels", "smoothed and weighted"])
def test_the_way_through_softmax_is_that_of_pytorch(kind):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    weights = (1.0, 2.5, 0.5) if kind != "labels" else None
    smoothing = 0.1 if kind != "labels" else 0.0
    subject = of_sizes([4, 3], batch=5, loss="softmax_cross_entropy", seed=2)
    loss = SoftmaxCrossEntropy(label_smoothing=smoothing, class_weights=weights)
    found = explain(dataclasses.replace(subject, loss=loss))

    z = torch.tensor(subject.x @ subject.params[0]["W"] + subject.params[0]["b"])
    z.requires_grad_()
    a = torch.softmax(z, dim=1)
    a.retain_grad()
    y = torch.tensor(subject.y, dtype=torch.int64)
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    cost = torch.nn.functional.cross_entropy(
        torch.log(a), y, weight=weight, label_smoothing=smoothing
    )
    cost.backward()
    J = torch.stack([torch.autograd.functional.jacobian(lambda r: torch.softmax(r, 0), row)
                     for row in z.detach()])  # fmt: skip

    through = on_way(found, "jacobian")
    # log a is a log-softmax again for PyTorch: its gradient of a is ours only up to what sums to 0.
    shift = through["da"] - a.grad.numpy()
    np.testing.assert_allclose(shift, shift[:, :1] * np.ones((1, 3)), rtol=0, atol=1e-14)
    np.testing.assert_allclose(through["J"], J.numpy(), rtol=0, atol=1e-15)
    np.testing.assert_allclose(through["dz"], z.grad.numpy(), rtol=0, atol=1e-15)
    np.testing.assert_allclose(on_way(found, "fused")["dz"], z.grad.numpy(), rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.two_ways.losses, cost.item(), rtol=1e-14)
    np.testing.assert_allclose(
        on_way(found, "jacobian", "forward")["a"], special.softmax(z.detach().numpy(), axis=1),
        rtol=1e-14,
    )  # fmt: skip


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_the_way_through_the_sigmoid_is_that_of_pytorch(weight):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    subject = of_sizes([4, 3], batch=5, loss="binary_cross_entropy", seed=2)
    subject = dataclasses.replace(subject, loss=BinaryCrossEntropy(positive_weight=weight))
    found = explain(subject)

    z = torch.tensor(subject.x @ subject.params[0]["W"] + subject.params[0]["b"])
    z.requires_grad_()
    a, y = torch.sigmoid(z), torch.tensor(subject.y)
    a.retain_grad()
    cost = -(weight * y * torch.log(a) + (1 - y) * torch.log(1 - a)).mean()
    cost.backward()

    through = on_way(found, "jacobian")
    np.testing.assert_allclose(through["da"], a.grad.numpy(), rtol=1e-13)
    slope = (a * (1 - a)).detach().numpy()
    expected = np.stack([np.diag(row) for row in slope])
    np.testing.assert_allclose(through["J"], expected, rtol=1e-14, atol=0)
    np.testing.assert_allclose(through["dz"], z.grad.numpy(), rtol=1e-13)
    np.testing.assert_allclose(on_way(found, "fused")["dz"], z.grad.numpy(), rtol=1e-13)
    np.testing.assert_allclose(found.two_ways.losses, cost.item(), rtol=1e-13)


@pytest.mark.parametrize("loss", SPLIT)
def test_both_ways_are_walked_whichever_training_goes(loss):
    found = explain(tiny(loss))
    both = found.two_ways
    assert both.trained == ("fused" if loss in LOGITS else "jacobian")
    backward = [s for s in found.steps if s.direction == "backward"]
    assert {"jacobian", "fused"} <= {s.way for s in backward}
    assert all(s.trained == (s.way in ("", both.trained)) for s in found.steps)
    np.testing.assert_allclose(both.jacobian, both.fused, rtol=0, atol=1e-15)
    np.testing.assert_allclose(both.fused, found.ways.trained[0], rtol=0, atol=1e-15)
    assert "rounding" in both.text or "last digit" in both.text
    opening = found.steps[found.opening]
    assert "the vector times" in opening.title
    assert opening.way == "jacobian"


def test_a_loss_without_such_a_split_says_so():
    found = explain(tiny("huber"))
    assert found.two_ways is None
    assert found.one_way.startswith("huber takes the outputs of the dense layer as they are")
    assert {s.way for s in found.steps} == {""}
    assert found.steps[found.opening].direction == "backward"
    for form in ("terminal", "markdown", "latex"):
        assert "takes the outputs of the dense layer as they are" in " ".join(
            found.render(form).split()
        )


def test_a_logit_of_1000_has_the_right_loss_and_gradient():
    found = explain(with_logits("softmax_cross_entropy", [1000.0, 0.0, 0.0], 1))
    both = found.two_ways
    assert both.losses == (math.inf, 1000.0)
    np.testing.assert_array_equal(both.fused, [[1.0, -1.0, 0.0]])
    assert np.isnan(both.jacobian).any()
    assert math.isnan(both.difference)
    assert "has rounded to 0" in both.text
    assert "1000, are right" in both.text
    cost = next(s for s in found.steps if s.result.name == "C")
    assert cost.result.values == 1000.0
    assert on_way(found, "jacobian", "forward")["ℓ"] == math.inf
    assert on_way(found, "fused", "forward")["ℓ"] == 1000.0
    assert found.playground.loss == 1000.0
    assert found.playground.high >= 1000
    shown = found.render()
    assert "1000" in shown
    assert "inf" in shown


def test_a_logit_of_1000_of_a_sigmoid_has_the_right_loss_and_gradient():
    found = explain(with_logits("binary_cross_entropy", [1000.0, 0.0, -1000.0], 1))
    both, K = found.two_ways, 3
    assert both.losses[0] == math.inf
    assert both.losses[1] == pytest.approx((1000 + math.log(2)) / K)
    np.testing.assert_array_equal(both.fused, [[1 / K, -0.5 / K, 0.0]])
    assert "has rounded to" in both.text


def test_a_loss_of_probabilities_of_such_logits_is_infinite_on_that_way_only():
    found = explain(with_logits("cross_entropy", [1000.0, 0.0, 0.0], 1))
    assert found.two_ways.losses == (math.inf, 1000.0)
    assert "loss $C$ is inf through $a$, 1000 from $z$" in wording.two_ways_text(found)


def test_float32_differs_by_its_own_rounding():
    found = explain(of_sizes([6, 5], batch=4), get_backend("numpy", "cpu", "float32"))
    assert 1e-10 < found.two_ways.difference < 1e-5
    assert "which is rounding" in found.two_ways.text
