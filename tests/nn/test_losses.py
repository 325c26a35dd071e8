"""A loss's value and gradient are the same function, for every combination of options."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
from numeric import numerical_gradient

from xpnet.errors import ConfigError, DataError
from xpnet.nn import Softmax
from xpnet.nn.losses import (
    LOSSES,
    BinaryCrossEntropy,
    CrossEntropy,
    Hinge,
    Huber,
    Loss,
    MeanSquaredError,
    NegativeLogLikelihood,
    Poisson,
    SoftmaxCrossEntropy,
    SquaredHinge,
    check_weights,
)
from xpnet.ops.cross_entropy import cross_entropy_backward

N, K = 5, 4
LABELS = np.array([0, 3, 1, 2, 3])
SAMPLE_WEIGHT = np.array([1.0, 0.5, 2.0, 0.0, 3.0])
CLASS_WEIGHTS = (1.0, 0.2, 3.0, 0.0)
TARGETS = ("index", "one_hot", "soft", "soft_any_sum")
REDUCTIONS = ("mean", "mean_count", "sum", "none")


def target_of(form, rng):
    if form == "index":
        return LABELS
    if form == "one_hot":
        return np.eye(K)[LABELS]
    rows = rng.uniform(size=(N, K))
    return rows / rows.sum(1, keepdims=True) if form == "soft" else rows


def options():
    """Every combination of the options, an ignored label for class indices only."""
    for form, weights, sample, smoothing, reduction in itertools.product(
        TARGETS, (None, CLASS_WEIGHTS), (None, SAMPLE_WEIGHT), (0.0, 0.1), REDUCTIONS
    ):
        for ignore in (None, 3, -1) if form == "index" else (None,):
            yield form, weights, sample, smoothing, reduction, ignore


def spelled_out(form, weights, sample, smoothing, reduction, ignore, log_a, target):
    """The value, by loops over Python floats."""
    w = weights or (1.0,) * K
    losses, denominators, count = [], [], 0
    for n in range(N):
        s = 1.0 if sample is None else float(sample[n])
        y = [float(target[n] == k) for k in range(K)] if form == "index" else list(target[n])
        counts = not (form == "index" and target[n] == ignore)
        t = [(1 - smoothing) * y[k] + smoothing / K for k in range(K)]
        loss = -s * sum(w[k] * t[k] * log_a[n, k] for k in range(K))
        losses.append(loss if counts else 0.0)
        average = sum(w[k] * y[k] for k in range(K)) / sum(y) if weights else 1.0
        denominators.append(s * average if counts else 0.0)
        count += counts
    total = math.fsum(losses)
    return {
        "mean": total / (math.fsum(denominators) or 1.0),
        "mean_count": total / (count or 1),
        "sum": total,
        "none": losses,
    }[reduction]


@cache
def combinations(make):
    """The output, and of every combination the value spelled out and the numerical gradient."""
    rng = np.random.default_rng(20260101)
    z = rng.normal(size=(N, K))
    a = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    output, made = (z if make is SoftmaxCrossEntropy else a), []
    for form, weights, sample, smoothing, reduction, ignore in options():
        target = target_of(form, rng)
        loss = make(reduction, weights, smoothing, ignore)
        expected = spelled_out(
            form, weights, sample, smoothing, reduction, ignore, np.log(a), target
        )
        numeric = numerical_gradient(
            lambda x, loss=loss, t=target, s=sample: float(np.sum(loss(x, t, s)[0])), output
        )
        made.append((form, loss, target, sample, expected, numeric))
    return output, made


@pytest.mark.long_where(backend=["jax"])
@pytest.mark.parametrize("make", [SoftmaxCrossEntropy, CrossEntropy])
def test_every_combination_is_the_spelled_out_sum_and_its_gradient_the_numerical_one(backend, make):
    output, made = combinations(make)
    assert len(made) == 192
    for form, loss, target, sample, expected, numeric in made:
        placed = [None if v is None else backend.asarray(v) for v in (target, sample)]
        value, gradient = loss(backend.asarray(output), *placed)
        context = str((form, loss))
        np.testing.assert_allclose(
            backend.to_host(value), expected, rtol=1e-12, atol=1e-14, err_msg=context
        )
        np.testing.assert_allclose(
            backend.to_host(gradient), numeric, rtol=1e-7, atol=2e-8, err_msg=context
        )


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, CLASS_WEIGHTS])
@pytest.mark.parametrize("form", ["index", "soft_any_sum"])
@pytest.mark.parametrize("ignore", [None, 3])
def test_softmax_cross_entropy_agrees_with_torch(form, weights, smoothing, reduction, ignore, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    if form != "index" and ignore is not None:
        ignore = None  # PyTorch has it for class indices only
    target = target_of(form, rng)
    z = rng.normal(size=(N, K))
    zt = torch.tensor(z, requires_grad=True)
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = torch.nn.functional.cross_entropy(
        zt,
        torch.tensor(target),
        weight,
        ignore_index=-100 if ignore is None else ignore,
        reduction=reduction,
        label_smoothing=smoothing,
    )
    expected.sum().backward()
    # For soft rows PyTorch's mean divides by the rows: what xpnet calls mean_count.
    ours = "mean_count" if (form, reduction) == ("soft_any_sum", "mean") else reduction
    value, gradient = SoftmaxCrossEntropy(ours, weights, smoothing, ignore)(z, target)
    np.testing.assert_allclose(value, expected.detach(), rtol=1e-12)
    np.testing.assert_allclose(gradient, zt.grad, rtol=0, atol=1e-15)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("sample", [None, SAMPLE_WEIGHT])
@pytest.mark.parametrize(
    "loss",
    [
        MeanSquaredError(),
        Huber(delta=0.7),
        BinaryCrossEntropy(),
        BinaryCrossEntropy(positive_weight=3.0),
        Poisson(),
        Poisson(log_input=False),
        Hinge(),
        SquaredHinge(),
    ],
    ids=repr,
)
def test_an_element_wise_loss_agrees_with_torch_and_finite_differences(
    backend, loss, sample, reduction, rng
):
    loss = type(loss)(**{**vars(loss), "reduction": reduction})
    z, y = rng.normal(size=(N, K)), rng.uniform(size=(N, K))
    if isinstance(loss, Hinge | SquaredHinge):
        y = np.round(y)
    if isinstance(loss, Poisson) and not loss.log_input:
        z = np.exp(z)
    placed = [None if v is None else backend.asarray(v) for v in (y, sample)]
    value, gradient = loss(backend.asarray(z), *placed)
    numeric = numerical_gradient(lambda x: float(np.sum(loss(x, y, sample)[0])), z)
    np.testing.assert_allclose(backend.to_host(gradient), numeric, rtol=0, atol=2e-8)

    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    F = torch.nn.functional
    zt, yt = torch.tensor(z), torch.tensor(y)
    elements = {
        MeanSquaredError: lambda: F.mse_loss(zt, yt, reduction="none"),
        Huber: lambda: F.huber_loss(zt, yt, delta=0.7, reduction="none"),
        BinaryCrossEntropy: lambda: F.binary_cross_entropy_with_logits(
            zt,
            yt,
            pos_weight=torch.full((K,), getattr(loss, "positive_weight", 1.0)),
            reduction="none",
        ),
        Poisson: lambda: F.poisson_nll_loss(zt, yt, loss.log_input, reduction="none"),
        Hinge: lambda: torch.clamp(1 - (2 * yt - 1) * zt, min=0),  # Keras's formula
        SquaredHinge: lambda: torch.square(torch.clamp(1 - (2 * yt - 1) * zt, min=0)),
    }[type(loss)]()
    s = np.ones(N) if sample is None else sample
    weighted = elements.numpy() * s[:, None]
    expected = {
        "mean": weighted.sum() / (s.sum() * K),
        "mean_count": weighted.sum() / (N * K),
        "sum": weighted.sum(),
        "none": weighted,
    }[reduction]
    np.testing.assert_allclose(backend.to_host(value), expected, rtol=1e-12)


@pytest.mark.parametrize("ignore", [None, 3])
@pytest.mark.parametrize("weights", [None, CLASS_WEIGHTS])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_negative_log_likelihood_is_pytorchs(backend, reduction, weights, ignore, rng):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    z = rng.normal(size=(N, K))
    log_a = torch.log_softmax(torch.tensor(z), 1).requires_grad_()
    expected = torch.nn.functional.nll_loss(
        log_a,
        torch.tensor(LABELS),
        None if weights is None else torch.tensor(weights, dtype=torch.float64),
        ignore_index=-100 if ignore is None else ignore,
        reduction=reduction,
    )
    expected.sum().backward()
    loss = NegativeLogLikelihood(reduction, weights, ignore_label=ignore)
    value, gradient = loss(backend.asarray(log_a.detach().numpy()), backend.asarray(LABELS))
    np.testing.assert_allclose(backend.to_host(value), expected.detach(), rtol=1e-12)
    np.testing.assert_allclose(backend.to_host(gradient), log_a.grad, rtol=1e-12)
    fused = SoftmaxCrossEntropy(reduction, weights, ignore_label=ignore)
    np.testing.assert_allclose(backend.to_host(value), fused(z, LABELS)[0], rtol=1e-12)


def test_a_hinge_takes_both_spellings_of_its_targets(backend):
    z = backend.asarray(np.array([[0.5], [0.5], [-2.0]]))
    for other in (0.0, -1.0):
        y = backend.asarray(np.array([[1.0], [other], [other]]))
        value, gradient = Hinge("none")(z, y)
        assert backend.to_host(value).tolist() == [[0.5], [1.5], [0.0]]
        assert backend.to_host(gradient).tolist() == [[-1.0], [1.0], [0.0]]
        assert float(Hinge().correct(z, y)[0]) == 2.0
    assert backend.to_host(Hinge().predict(z)).tolist() == [[1.0], [1.0], [0.0]]


@pytest.mark.parametrize(
    ("loss", "target", "message"),
    [
        (Hinge(), [0.0, 0.5], "takes targets 0 and 1, or -1 and 1; the target of row 1 is 0.5"),
        (SquaredHinge(), [2.0], "takes targets 0 and 1, or -1 and 1; the target of row 0 is 2.0"),
        (Poisson(), [3.0, -0.5], "takes counts; the target of row 1 is -0.5: leave them unscaled"),
        (Poisson(), [math.nan], "the target of row 0 is not finite"),
        (
            Hinge(),
            [1.0, -1.0, 0.0],
            "takes targets 0 and 1, or -1 and 1; the target of row 1 is -1",
        ),
        (BinaryCrossEntropy(), [1.0, -1.0], "takes targets from 0 to 1, .* row 1 is -1.0: two cl"),
        (BinaryCrossEntropy(), [0.0, 255.0], "has no minimum for others; .* row 1 is 255.0"),
        (BinaryCrossEntropy(), [[0.0, 1.0], [0.5, 1.5]], r"row 1 is \[0.5 1.5\]"),
        (BinaryCrossEntropy(), [0.5, -math.inf], "the target of row 1 is not finite: -inf"),
        (SoftmaxCrossEntropy(), [[0.5, 0.5], [1.5, -0.5]], r"whose sum is 1; .* row 1 is \[ 1.5"),
        (CrossEntropy(), [[1.0, 1.0]], r"cross_entropy takes .* the target of row 0 is \[1. 1.\]"),
        (NegativeLogLikelihood(), [[0.0, 0.0]], "whose sum is 1; the target of row 0"),
        (SoftmaxCrossEntropy(), [[math.nan, 1.0]], "the target of row 0 is not finite"),
        (MeanSquaredError(), ["a", "b"], "mean_squared_error takes finite numbers; got <U1"),
        (BinaryCrossEntropy(), [True, None], "binary_cross_entropy takes .*; got object"),
        (SoftmaxCrossEntropy(), ["a", "b"], "class labels must be whole numbers 0..1; got <U1"),
        (SoftmaxCrossEntropy(), [0.0, 1.0], "class labels must be whole numbers 0..1; got float"),
    ],
)
def test_targets_that_a_loss_does_not_take_are_refused(loss, target, message):
    with pytest.raises(DataError, match=message):
        loss.check_target(np.array(target), 2)


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_out_of_range_is_refused_unless_it_is_ignored(label):
    with pytest.raises(
        DataError, match=f"the label of row 1 is {label}; the model has classes 0..3"
    ):
        SoftmaxCrossEntropy().check_target(np.array([0, label]), 4)
    SoftmaxCrossEntropy(ignore_label=label).check_target(np.array([0, label]), 4)


def test_probabilities_of_any_precision_are_accepted(rng):
    torch = pytest.importorskip("torch")
    logits = torch.asarray(rng.normal(size=(50, 1000)), dtype=torch.float32)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        teacher = torch.softmax(logits.to(dtype), dim=-1).double().numpy()
        SoftmaxCrossEntropy().check_target(teacher, 1000)
    hinge = np.array([[0, 1], [1, 1]])
    Hinge().check_target(hinge, 2)
    BinaryCrossEntropy().check_target(hinge == 1, 2)
    Hinge().check_target(2 * hinge - 1, 2)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        ([1.0, -1.0], "must be finite and >= 0; that of row 1 is -1.0"),
        ([math.nan, 1.0], "that of row 0 is nan"),
        ([0.0, 0.0], "all 2 sample weights are 0"),
        ([1.0], r"one per row, \(2,\); got \(1,\)"),
        ([[1.0], [1.0]], r"one per row, \(2,\); got \(2, 1\)"),
    ],
)
def test_sample_weights_that_mean_nothing_are_refused(weight, message):
    with pytest.raises(DataError, match=message):
        check_weights(np.array(weight), 2)
    check_weights(np.array([0.0, 2.0]), 2)


def test_class_weights_that_mean_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"class_weights are all 0, .* got \(0.0, 0.0\)"):
        SoftmaxCrossEntropy(class_weights=(0.0, 0.0))
    for bad in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="class_weights"):
            SoftmaxCrossEntropy(class_weights=(1.0, bad))
    with pytest.raises(DataError, match="2 entries for 3 classes"):
        SoftmaxCrossEntropy(class_weights=(1.0, 2.0)).check_target(np.array([0]), 3)


def test_a_poisson_prediction_is_a_rate():
    assert Poisson().predict(np.array([[0.0]])).tolist() == [[1.0]]
    assert Poisson(log_input=False).predict(np.array([[2.0]])).tolist() == [[2.0]]


def test_logits_ten_thousand_apart_give_a_finite_loss_and_the_right_gradient(backend32):
    z = backend32.asarray(np.array([[1e4, 0.0, -1e4], [0.0, 1e4, 0.0]]))
    value, dz = SoftmaxCrossEntropy("sum")(z, backend32.asarray(np.array([2, 1])))
    assert float(backend32.to_host(value)) == 2e4
    assert backend32.to_host(dz).tolist() == [[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]]


def test_a_logit_of_minus_infinity_is_an_impossible_class(backend):
    z = np.array([[0.0, -np.inf, math.log(3.0)]])
    value, dz = SoftmaxCrossEntropy()(backend.asarray(z), backend.asarray(np.array([2])))
    assert float(backend.to_host(value)) == pytest.approx(-math.log(0.75), rel=1e-14)
    np.testing.assert_allclose(backend.to_host(dz), [[0.25, 0.0, -0.25]], rtol=0, atol=1e-15)


def test_a_class_without_weight_has_no_gradient_though_its_probability_is_0(backend):
    a, v = backend.asarray(np.array([[1.0, 0.0]])), backend.asarray(np.array([[2.0, 0.0]]))
    assert backend.to_host(cross_entropy_backward(a, v)).tolist() == [[-2.0, 0.0]]


def test_the_impossible_class_as_target_costs_infinity():
    value, _ = SoftmaxCrossEntropy()(np.array([[0.0, -np.inf]]), np.array([1]))
    assert value == np.inf


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("make", [SoftmaxCrossEntropy, CrossEntropy])
def test_a_batch_in_which_nothing_counts_has_loss_0_and_gradient_0(backend, make, reduction):
    a = backend.asarray(np.full((2, 3), 1 / 3))
    value, gradient = make(reduction, ignore_label=1)(a, backend.asarray(np.array([1, 1])))
    assert not backend.to_host(value).any()
    assert not backend.to_host(gradient).any()


def test_the_fused_loss_equals_softmax_then_cross_entropy(backend, rng):
    """Also where the rows of the target do not sum to 1, and a - y would be wrong."""
    z, y = backend.asarray(rng.normal(size=(N, K))), backend.asarray(rng.uniform(size=(N, K)))
    fused_value, fused = SoftmaxCrossEntropy()(z, y)
    a, residuals = Softmax().forward({}, z)
    value, da = CrossEntropy()(a, y)
    dz, _ = Softmax().backward({}, residuals, da)
    assert float(backend.to_host(value)) == pytest.approx(float(backend.to_host(fused_value)))
    np.testing.assert_allclose(backend.to_host(dz), backend.to_host(fused), rtol=0, atol=1e-15)


def test_only_the_fused_loss_survives_a_probability_that_rounds_to_zero():
    z = np.array([[1000.0, 0.0]])
    target = np.array([1])
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        a = Softmax().forward({}, z)[0]
        assert CrossEntropy()(a, target)[0] == np.inf
    value, dz = SoftmaxCrossEntropy()(z, target)
    assert value == 1000.0
    assert dz.tolist() == [[1.0, -1.0]]


@pytest.mark.long_where(backend32=["jax"])
@pytest.mark.parametrize("name", sorted(LOSSES))
def test_float32_stays_float32(backend32, name, rng):
    loss = LOSSES[name]()
    output = backend32.asarray(rng.uniform(0.1, 0.9, size=(N, K)))
    target = backend32.asarray(LABELS if loss.predicts == "class" else rng.uniform(size=(N, K)))
    weight = backend32.asarray(SAMPLE_WEIGHT)
    terms = loss.terms(output, target, weight)
    sums = loss.sums(output, target, weight)
    for array in (*terms, *sums, *loss(output, target, weight)):
        assert array.dtype == backend32.dtype


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftmaxCrossEntropy("average"), "reduction must be one of"),
        (lambda: SoftmaxCrossEntropy(label_smoothing=1.0), "must be >= 0 and < 1; got 1.0"),
        (lambda: SoftmaxCrossEntropy(class_weights=(1.0, -1.0)), r"class_weights\[1\] must be"),
        (lambda: Huber(delta=0.0), "delta must be > 0; got 0.0"),
    ],
)
def test_a_setting_out_of_range_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("loss", "target", "weight", "message"),
    [
        (SoftmaxCrossEntropy(), np.zeros(3, int), None, r"must be \(2,\) class indices or"),
        (SoftmaxCrossEntropy(), np.zeros(2, int), np.ones(3), r"one per row, \(2,\); got \(3,\)"),
        (SoftmaxCrossEntropy(class_weights=(1.0,)), np.zeros(2, int), None, "has 1 entries"),
        (MeanSquaredError(), np.zeros((2, 2)), None, r"the target is \(2, 2\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(loss, target, weight, message):
    with pytest.raises(DataError, match=message):
        loss(np.zeros((2, 3)), target, weight)


def test_correct_predictions_exclude_the_ignored_rows(backend):
    output = backend.asarray(np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]]))
    labels = backend.asarray(np.array([0, 0, 1]))
    correct, count = SoftmaxCrossEntropy(ignore_label=1).correct(output, labels)
    assert (float(correct), float(count)) == (1.0, 2.0)
    correct, count = BinaryCrossEntropy().correct(output, backend.asarray(np.ones((3, 2))))
    assert (float(correct), float(count)) == (4.0, 6.0)


def test_a_loss_without_terms_cannot_be_made():
    with pytest.raises(TypeError, match=r"abstract class Half .*\bterms\b"):
        type("Half", (Loss,), {})()


def test_a_regression_has_no_notion_of_a_correct_prediction():
    with pytest.raises(TypeError, match="Huber has no notion of a correct prediction"):
        Huber().correct(np.zeros((2, 1)), np.zeros((2, 1)))
