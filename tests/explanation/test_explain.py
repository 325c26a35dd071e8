"""The explanation: all numbers come from the real functions, for each loss, activation, backend."""

import importlib
import inspect
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from numeric import numerical_gradient

import xpnet
from xpnet.backends import get_backend
from xpnet.errors import ConfigError, DataError
from xpnet.explanation import explain, of_config, of_run, of_sizes, tiny, ways
from xpnet.explanation.layer_pass import layer_pass
from xpnet.explanation.output import jacobian
from xpnet.explanation.source import code_of
from xpnet.nn import (
    ACTIVATIONS,
    Dense,
    Dropout,
    Embedding,
    FeatureScale,
    GroupNorm,
    LayerNorm,
    PReLU,
    RMSNorm,
    Sequential,
    Softmax,
)
from xpnet.nn.layout import initialize, layouts
from xpnet.nn.losses import LOSSES, CrossEntropy, SoftmaxCrossEntropy
from xpnet.ops.softmax import softmax, softmax_jacobian
from xpnet.step import Batch, gradients

NUMPY = get_backend("numpy", "cpu", "float64")
NAMESPACE = {"einsum": np.einsum, "exp": np.exp, "log": np.log}
CLASSES = [None, *ACTIVATIONS]


def evaluate(step):
    """Evaluate the step's einsum with NumPy on the step's operands."""
    names = {unicodedata.normalize("NFKC", t.name): t.values for t in step.operands}
    return eval(step.einsum, NAMESPACE | names)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", CLASSES)
def test_each_einsum_gives_what_the_function_returned_in_both_conventions(loss, activation):
    for step in layer_pass(tiny(loss, activation), NUMPY).steps:
        for form in (step, step.column()):
            if form.einsum:
                np.testing.assert_allclose(evaluate(form), form.result.values, rtol=0, atol=1e-13)


@pytest.mark.long_but(activation=["relu"])
@pytest.mark.long_where(backend=["jax"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_loss_with_every_activation_is_explained_alike_on_every_backend(
    loss, activation, backend
):
    subject = tiny(loss, activation)
    ours, numpys = layer_pass(subject, backend), layer_pass(subject, NUMPY)
    assert [s.title for s in ours.steps] == [s.title for s in numpys.steps]
    for step, reference in zip(ours.steps, numpys.steps, strict=True):
        np.testing.assert_allclose(step.result.values, reference.result.values, rtol=0, atol=1e-12)


@pytest.mark.long_where(backend=["jax"])
@pytest.mark.parametrize("loss", LOSSES)
def test_five_ways_agree_with_each_other_and_with_training_on_every_backend(loss, backend):
    explanation = explain(tiny(loss), backend)
    ways = explanation.ways
    assert len(ways.ways) == 5
    for way in ways.ways:
        assert max(way.differences(*ways.trained)) < (1e-12 if way.exact else 1e-6), way.name
    assert explanation.bridge.difference < 1e-14


LOOPS, MATRIX, PRODUCT, FUSED, DIFFERENCES = range(5)
# What a way is computed from, and the ways that may move where it is wrong.
INGREDIENTS = {
    "J": {MATRIX},
    "component": {LOOPS},
    "backward": {PRODUCT},
    "fused": {FUSED},
    "da": {LOOPS, MATRIX, PRODUCT},
    "cost": {DIFFERENCES},
}


def spoilt(out, ingredient):
    """The output function with one ingredient 1 % off."""
    right = getattr(out, ingredient)
    if not callable(right):
        return out._replace(**{ingredient: right * 1.01})

    def off(*given):
        return right(*given) * 1.01

    off.__name__ = "off"
    return out._replace(**{ingredient: off})


@pytest.mark.parametrize("ingredient", INGREDIENTS)
@pytest.mark.parametrize("name", ["softmax_cross_entropy", "binary_cross_entropy", "huber"])
def test_each_way_is_independent_of_what_the_others_are_computed_from(ingredient, name):
    subject = of_sizes([4, 3], batch=3, loss=name)
    passed, loss = layer_pass(subject, NUMPY), subject.loss
    head, out = passed.head, passed.out
    right = ways.five_ways(out, head, loss, NUMPY).ways
    if ingredient == "cost":

        class Off(type(loss)):
            def __call__(self, *given):
                value, gradient = super().__call__(*given)
                return value * 1.01, gradient

        loss = Off(**vars(loss))
    else:
        out = spoilt(out, ingredient)
    other = ways.five_ways(out, head, loss, NUMPY).ways
    for i, (a, b) in enumerate(zip(right, other, strict=True)):
        moved = [bool(np.abs(x - y).max() > 1e-4) for x, y in ((a.dz, b.dz), (a.dW, b.dW))]
        assert moved == [i in INGREDIENTS[ingredient]] * 2, a.name


@pytest.mark.parametrize("loss", ["cross_entropy", "softmax_cross_entropy"])
def test_the_product_with_the_diagonal_is_wrong_for_softmax(loss):
    ways = explain(tiny(loss)).ways
    dz, dW = ways.wrong.differences(*ways.trained)
    assert dz > 0.5
    assert dW > 0.5
    # Only the true class keeps a gradient, and that one is right.
    np.testing.assert_allclose(ways.wrong.dz, ways.trained[0] * [[0, 1, 0]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(ways.trained[0].sum(axis=-1), 0, rtol=0, atol=1e-15)
    assert f"{dz:.4g}" in ways.why


@pytest.mark.parametrize("loss", ["mean_squared_error", "huber", "binary_cross_entropy"])
def test_the_product_with_the_diagonal_is_right_where_the_jacobian_is_diagonal(loss):
    ways = explain(tiny(loss)).ways
    assert max(ways.wrong.differences(*ways.trained)) < 1e-15


def test_the_gradients_are_those_of_the_train_step():
    subject = of_sizes([5, 4, 3], batch=6, loss="softmax_cross_entropy", activation="gelu")
    batch = Batch(subject.x, subject.y)
    *_, grads = gradients(subject.model, subject.loss, subject.params, batch)
    head = layer_pass(subject, NUMPY).head
    np.testing.assert_array_equal(head.dW, grads[-1]["W"])


def test_the_gradient_of_the_weights_is_that_of_the_cost():
    subject = tiny("cross_entropy")
    y = subject.y

    def cost(W):
        return float(CrossEntropy()(softmax(subject.x @ W + subject.params[0]["b"]), y)[0])

    expected = numerical_gradient(cost, subject.params[0]["W"])
    for way in explain(subject).ways.ways:
        np.testing.assert_allclose(way.dW, expected, rtol=0, atol=1e-8)


def test_the_shown_code_is_in_the_real_source_at_the_line_it_names():
    root = Path(xpnet.__file__).parent.parent
    seen = set()
    pairs = [(loss, "relu") for loss in LOSSES] + [("huber", name) for name in ACTIVATIONS]
    for step in (step for pair in pairs for step in layer_pass(tiny(*pair), NUMPY).steps):
        assert step.code, step.title
        for code in step.code:
            text = (root / code.path).read_text("utf-8")
            lines = [line.strip() for line in text.splitlines()]
            shown = [line.strip() for line in code.text.splitlines()]
            assert lines[code.line - 1] == shown[0]
            assert all(line in lines for line in shown)
            seen.add(code.function)
    assert {"softmax_backward", "dense_backward", "softmax_cross_entropy_backward"} <= seen


def test_the_code_of_a_function_leaves_out_its_docstring_and_its_namespace():
    text = code_of(softmax).text
    assert "array_namespace" not in text
    assert '"""' not in text
    assert text in inspect.cleandoc(inspect.getsource(softmax)).replace("\n    ", "\n")


def test_every_activation_and_loss_of_the_library_has_a_formula():
    layers = {name for name, cls in ACTIVATIONS.items() if getattr(cls, "formula", None)}
    assert layers == set(ACTIVATIONS) - {"softmax", "log_softmax"}
    cross_entropies = {"cross_entropy", "softmax_cross_entropy", "negative_log_likelihood"}
    losses = {name for name, cls in LOSSES.items() if getattr(cls, "formula", None)}
    assert losses == set(LOSSES) - cross_entropies


def test_the_jacobian_by_unit_vectors_is_the_one_by_formula(backend):
    a = softmax(backend.asarray([[0.5, -1.0, 2.0], [0.0, 1.0, 0.0]]))
    by_formula = backend.to_host(softmax_jacobian(a))
    np.testing.assert_allclose(
        backend.to_host(jacobian(Softmax(), a, a)), by_formula, rtol=0, atol=1e-15
    )


def test_sigmoids_jacobian_is_diagonal_and_softmaxs_is_full():
    sigmoid, full = explain(tiny()).beside
    assert sigmoid.is_diagonal
    assert np.all(full.jacobian != 0)
    np.testing.assert_allclose(sigmoid.dz, sigmoid.diagonal, rtol=0, atol=1e-16)
    assert np.abs(full.dz - full.diagonal).max() > 0.5


def test_a_column_is_the_transpose_of_a_row():
    explanation = explain(tiny())
    shapes = {t.name: (t.letters, t.shape) for t in explanation.bridge.column}
    assert shapes["x"] == ("in", (3, 1))
    assert shapes["W"] == ("ji", (3, 3))
    first = explanation.steps[0].column()
    assert [t.name for t in first.operands] == ["W", "x", "b"]
    assert first.formula == "z_jn = Σ_i W_ji x_in + b_j"
    for rows, column in zip(explanation.bridge.rows, explanation.bridge.column, strict=True):
        np.testing.assert_array_equal(rows.values.T, column.values)


def test_the_summed_letters_are_in_the_operands_and_not_in_the_result():
    for step in explain(of_sizes([4, 3, 3], batch=2, loss="cross_entropy")).steps:
        for form in (step, step.column()):
            operands = "".join(t.letters for t in form.operands)
            if form.product:
                assert set(form.summed) <= set(operands)
                assert not set(form.summed) & set(form.result.letters)
                letters = re.findall(r'"([a-z,]*)->([a-z]*)"', form.einsum)
                assert letters, form.einsum


def test_label_smoothing_class_weights_and_ignored_labels_are_explained():
    loss = SoftmaxCrossEntropy(
        label_smoothing=0.1, class_weights=(1.0, 2.0, 0.5), ignore_label=2, reduction="mean_count"
    )
    subject = of_sizes([4, 3], batch=5, seed=3)
    model = Sequential((Dense(3),)).build((4,))
    subject = subject.__class__(
        **{**vars(subject), "loss": loss, "model": model, "params": subject.params[:1]}
    )
    ways = explain(subject).ways
    assert ways.spread < 1e-12
    assert max(ways.ways[-1].differences(*ways.trained)) < 1e-9


@pytest.mark.long_where(backend=["jax"])
def test_normalisation_and_dropout_are_explained(backend):
    subject = of_sizes([4, 3], batch=3)
    norms = (LayerNorm(), Dense(4), RMSNorm(), Dense(4), GroupNorm(groups=2), PReLU())
    model = Sequential((Dense(5), *norms, Dropout(0.3), Dense(3), Softmax())).build((4,))
    split = [
        layout.split(v) for layout, v in zip(layouts(model), initialize(model, 0), strict=True)
    ]
    params = [dict(layer) for layer in split[0]]
    subject = subject.__class__(**{**vars(subject), "model": model, "params": params})
    steps = layer_pass(subject, backend).steps
    for step in steps:
        if step.einsum:
            np.testing.assert_allclose(evaluate(step), step.result.values, rtol=0, atol=1e-12)
    assert {"dγ", "dβ", "dα"} <= {s.result.name for s in steps}


@pytest.mark.long_where(backend=["jax"])
def test_the_layers_of_a_table_are_explained(backend):
    subject = of_sizes([4, 3], batch=3)
    layers = Embedding((2, 5), width=3), FeatureScale(), Dense(3), Softmax()
    model = Sequential(layers).build((4,))
    params = layouts(model)[0].split(initialize(model, 0)[0])
    x = np.array([[0.3, -1.0, 1.0, 4.0], [2.0, 0.5, 0.0, 4.0], [1.5, -0.5, 1.0, 9.0]])
    given = {"model": model, "params": params, "x": x}
    explained = layer_pass(subject.__class__(**{**vars(subject), **given}), backend).steps
    assert sum(step.title.startswith("Embedding, code 2 of 2") for step in explained) == 2
    for step in explained:
        if step.einsum:
            np.testing.assert_allclose(evaluate(step), step.result.values, rtol=0, atol=1e-12)
    assert [np.array(s.result.values) for s in explained if s.result.name == "dE"][1][4].any()


def test_a_recipe_is_explained_on_its_data():
    explanation = explain(of_config("digits", batch=2, sample=3))
    assert explanation.ways.spread < 1e-12
    assert dict(explanation.setting)["network"] == "64-256-128-10"


def test_a_saturated_sigmoid_says_so_instead_of_agreeing():
    subject = tiny("binary_cross_entropy")
    params = [{**subject.params[0], "b": np.array([60.0, 0.0, 0.0])}]
    ways = explain(subject.__class__(**{**vars(subject), "params": params})).ways
    assert not np.isfinite(ways.spread)  # 1 - a is 0: da is no number
    assert max(ways.ways[3].differences(*ways.trained)) < 1e-15  # the fused form is


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny("crossentropy"), "did you mean"),
        (lambda: tiny(activation="rellu"), "did you mean"),
        (lambda: tiny(label=3), "label must be a class from 0 to 2"),
        (lambda: of_sizes([3]), "give at least two sizes, inputs and outputs"),
        (lambda: of_config("digits", sample=10**6), "sample must be a row from 0 to "),
        (lambda: explain(of_sizes([2, 300], batch=300)), "too large to form"),
        (lambda: of_config("no-such-recipe"), "no recipe or file"),
        (lambda: explain(784), r"explain takes widths such as .*; got int$"),
        (lambda: explain([4, 3], sample=2), "synthetic rows have no sample .*: omit sample$"),
        (lambda: explain(tiny(), loss="huber"), "a Subject has its own rows, loss and weights"),
        (lambda: explain(batch=0), r"batch must be 1 to 1000000, .*; got 0, 0 and 0"),
    ],
)
def test_what_cannot_be_explained_is_an_error_of_one_line(make, message):
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_source_is_what_the_command_line_takes():
    assert str(explain()) == str(explain(tiny()))
    assert str(explain([4, 3], batch=2, label=1)) == str(explain(of_sizes([4, 3], 2, label=1)))
    assert str(explain(batch=2)) == str(explain(of_sizes([3, 3], 2)))
    assert str(explain("digits", sample=3)) == str(explain(of_config("digits", sample=3)))


def test_a_label_of_a_regression_is_refused_in_the_words_of_the_interface(tmp_path):
    table = tmp_path / "table.csv"
    table.write_text("a,price\n" + "".join(f"{i},{i / 7}\n" for i in range(40)))
    config = tmp_path / "config.toml"
    config.write_text(f'[data]\nsource = "{table}"\ntask = "regression"\n[loss]\nname = "huber"\n')
    with pytest.raises(ConfigError, match=r"predicts a value, not a class: omit label$") as caught:
        explain(config, label=2)
    assert caught.value.at_command_line.endswith("not a class: omit --label")


def test_a_trained_run_is_explained_on_a_sample_that_it_did_not_see(tmp_path):
    from xpnet.run import load, train
    from xpnet.run.config_sources import load_config

    config = load_config("digits", ["epochs=1", "model.hidden=[8]", "backend=numpy"])
    train(config, tmp_path / "run", report=lambda line: None)
    subject = of_run(tmp_path / "run", sample=17)
    explanation = explain(subject)
    run = load(tmp_path / "run", backend="numpy", device="cpu")
    expected = run.predict(run.test_part().x[17:18])
    np.testing.assert_allclose(explanation.ways.a, expected, rtol=0, atol=1e-5)
    assert subject.y[0] == run.test_part().y[17]
    assert explanation.ways.spread < 1e-12
    assert str(explain(tmp_path / "run", sample=17)) == str(explanation)
    with pytest.raises(ConfigError, match=r"a run has its own .*: omit loss, activation and seed"):
        explain(tmp_path / "run", loss="huber")


def test_importing_the_package_does_not_import_what_only_one_renderer_needs():
    source = inspect.getsource(importlib.import_module("xpnet.explanation"))
    assert "rich" not in source
