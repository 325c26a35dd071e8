"""Where J comes from, the letters, a nudge, the playground, and the lines to copy."""

import dataclasses
import math
import re

import numpy as np
import pytest
from scipy import special

from xpnet.escape import escape_markdown
from xpnet.explanation import explain, of_sizes, tiny, wording
from xpnet.explanation.notation import latex, mathml, plain, prose
from xpnet.explanation.subject import first_weights
from xpnet.nn import Dense, LayerNorm, PReLU, Sequential, Softmax
from xpnet.nn.losses import BinaryCrossEntropy, SoftmaxCrossEntropy

RENDERED = ("terminal", "markdown", "latex")
SUBJECTS = {
    "tiny": tiny,
    "logits": lambda: tiny("softmax_cross_entropy"),
    "binary": lambda: tiny("binary_cross_entropy"),
    "squares": lambda: tiny("mean_squared_error"),
    "log-softmax": lambda: tiny("negative_log_likelihood"),
    "batch": lambda: of_sizes([6, 5, 4], 3, "softmax_cross_entropy"),
    "large batch": lambda: of_sizes([20, 9, 7], 32, "softmax_cross_entropy"),
    "large binary batch": lambda: of_sizes([20, 9, 7], 32, "binary_cross_entropy"),
    "digits": lambda: of_sizes([784, 16, 10], 1),
    "weights": lambda: dataclasses.replace(
        of_sizes([4, 3], 4, "softmax_cross_entropy"),
        loss=SoftmaxCrossEntropy(label_smoothing=0.2, class_weights=(1.0, 2.0, 0.5)),
    ),
    "sum": lambda: dataclasses.replace(
        of_sizes([4, 3], 4, "binary_cross_entropy"),
        loss=BinaryCrossEntropy(positive_weight=2.5, reduction="sum"),
    ),
}


@pytest.mark.parametrize("name", SUBJECTS)
def test_the_lines_to_copy_give_the_numbers_shown(name, capsys):
    found = explain(SUBJECTS[name]())
    names = {}
    exec(compile(found.script, "script.py", "exec"), names)
    assert capsys.readouterr().out
    rows = slice(0, len(names["z"]))
    cost = next(s.result.values for s in found.steps if s.result.name == "C")
    expected = {"dz": found.ways.trained[0][rows]}
    if name != "squares":
        expected |= {
            "a": found.ways.a[rows], "da": found.ways.da[rows], "J": found.ways.jacobian[rows],
            "fused": found.ways.trained[0][rows],
        }  # fmt: skip
    if "large" not in name:
        expected["loss"] = cost
    if "dW" in names:
        expected["dW"] = found.ways.trained[1]
    for key, values in expected.items():
        np.testing.assert_allclose(names[key], values, rtol=1e-8, atol=1e-9, err_msg=key)
    if found.two_ways is not None:
        np.testing.assert_allclose(names["fused"], names["dz"], rtol=0, atol=1e-14)
    if "large" in name:
        assert f"# the first {len(names['z'])} of 32 rows" in found.script
    assert 5 < len(found.script.splitlines()) < 40
    assert max(map(len, found.script.splitlines())) <= 80


def test_the_lines_to_copy_need_numpy_alone_and_are_in_every_form():
    found = explain(tiny())
    assert re.findall("^(?:import|from) .*", found.script, re.M) == ["import numpy as np"]
    for form in ("terminal", "markdown"):
        assert found.script.strip() in found.render(form)
    for line in found.script.splitlines():
        if not set(line) & set("{}δΣ_\\"):
            assert line in found.render("latex")


def test_the_lines_to_copy_have_the_loss_of_a_logit_of_1000():
    subject = tiny("softmax_cross_entropy")
    params = [{"W": np.zeros((3, 3)), "b": np.array([1000.0, 0.0, 0.0])}]
    found = explain(dataclasses.replace(subject, params=params))
    names = {}
    with np.errstate(all="ignore"):
        exec(found.script, names)
    assert names["loss"] == 1000
    np.testing.assert_array_equal(names["fused"], [[1, -1, 0]])
    assert np.isnan(names["dz"]).any()


def test_of_too_many_classes_no_lines_are_written():
    assert explain(of_sizes([3, 200])).script == ""


def flat(text):
    return " ".join(text.split())


def value_of(side):
    """Evaluate a side of a line of numbers with Python."""
    text = side.replace("·", "*").replace(" (", " * (").replace("- * (", "- (")
    text = re.sub(r"(\+|/|\*|^|\() \* \(", r"\1 (", text)
    return eval(re.sub(r"exp \*? ?\(|exp\(", "math.exp(", text), {"math": math})


@pytest.mark.parametrize("name", [n for n in SUBJECTS if n != "squares"])
def test_the_numbers_of_the_derivation_are_right(name):
    found = explain(SUBJECTS[name]())
    numbers = [reason.numbers for reason in found.derivation if reason.numbers]
    assert len(numbers) >= 4
    for line in numbers:
        left, right = plain(line).rsplit(" = ", 1)
        assert value_of(left) == pytest.approx(float(right), rel=2e-2, abs=2e-3), line
    s = int(re.search(r"\$s = (\d+)\$", found.derivation[0].text)[1])
    J = found.ways.jacobian[0]
    shown = [line.rsplit(" = ", 1)[1] for line in numbers]
    assert wording.number(J[s, s]) in shown
    assert shown[-1] == wording.number(found.ways.trained[0][0, s])
    if found.ways.function == "softmax":
        k = int(re.search(r"\$k = (\d+)\$", found.derivation[0].text)[1])
        assert k != s
        assert wording.number(J[k, s]) in shown


def test_the_derivation_has_the_quotient_rule_in_two_cases_then_both_in_one():
    softmax, sigmoid = (explain(tiny(loss)).derivation for loss in (None, "binary_cross_entropy"))
    assert [r.name for r in softmax] == [
        "softmax", "quotient rule", "$k = s$", "$k ≠ s$", "both", "da J", "cross-entropy",
    ]  # fmt: skip
    assert softmax[4].formula == "J_ks = a_k (δ_ks - a_s)"
    assert sigmoid[3].formula == "J_ks = δ_ks a_k (1 - a_k)"
    assert "full" in softmax[3].text
    assert "diagonal" in sigmoid[3].text
    assert [r.formula for r in explain(tiny("huber")).derivation] == ["J_ks = δ_ks"]


@pytest.mark.parametrize("loss", [None, "binary_cross_entropy", "huber"])
def test_the_derivation_the_letters_and_the_nudge_are_in_every_form(loss):
    found = explain(tiny(loss))
    shown = {form: flat(found.render(form)) for form in RENDERED}
    for reason in found.derivation:
        for formula in (reason.formula, reason.numbers):
            assert flat(plain(formula)) in shown["terminal"]
            assert flat(latex(formula)) in shown["markdown"]
            assert flat(latex(formula).split(", ")[0]) in shown["latex"]
        assert flat(prose(reason.text, formula=lambda f: f"${latex(f)}$")) in shown["markdown"]
    for letter in found.legend:
        assert letter.symbol in shown["terminal"]
        assert f"| ${latex(letter.symbol)}$ |" in shown["markdown"]
        assert f"${latex(letter.symbol)}$ &" in shown["latex"]
    for name, *cells in wording.nudge_rows(found)[1:]:
        assert f"| {escape_markdown(name)} | {' | '.join(cells)} |" in shown["markdown"]
    assert wording.NUDGE in shown["terminal"]


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_array_of_the_steps_is_in_the_legend_with_its_shape(name):
    found = explain(SUBJECTS[name]())
    letters = {x.symbol.split("_")[0]: x for x in found.legend if x.kind == "array"}
    arrays = {t.name for step in found.steps for t in (*step.operands, step.result)}
    assert arrays - {"x̂"} <= set(letters)
    N, K = found.ways.a.shape
    assert letters["dz"].shape == f"(N, K) = ({N}, {K})"
    assert letters["dz"].symbol == "dz_nk"
    sizes = {x.symbol: x.shape for x in found.legend if x.kind == "size"}
    assert (sizes["N"], sizes["K"]) == (str(N), str(K))
    assert [x.symbol for x in found.legend if x.kind == "index"] == list("nijks")


def test_the_letters_of_a_normalisation_are_in_the_legend():
    subject = of_sizes([4, 3], batch=3)
    model = Sequential((Dense(5), LayerNorm(), PReLU(), Dense(3), Softmax())).build((4,))
    subject = dataclasses.replace(subject, model=model, params=first_weights(model, 0))
    letters = {x.symbol: x.meaning for x in explain(subject).legend}
    assert letters["γ_j"] == "the scale of a normalisation"
    assert letters["dγ_j"] == "$∂C/∂γ$"
    assert {"x̂_nj", "β_j", "dβ_j", "dα_i"} <= set(letters)


def test_da_is_said_once_in_words():
    letters = {x.symbol: x.meaning for x in explain(tiny()).legend}
    assert letters["da_nk"] == "$∂C/∂a$, the gradient of the loss with respect to $a$"
    assert letters["J_nks"].startswith("the Jacobian, $∂a_nk/∂z_ns$")


def test_a_nudge_moves_all_probabilities_of_a_softmax_and_one_of_the_sigmoid():
    softmax, sigmoid = explain(tiny()).nudges
    z = explain(tiny()).playground.logits
    moved = z + softmax.by * np.eye(3)[softmax.s]
    expected = special.softmax(moved) - special.softmax(z)
    np.testing.assert_allclose(softmax.actual, expected, rtol=1e-11)
    np.testing.assert_allclose(sigmoid.actual, special.expit(moved) - special.expit(z), rtol=1e-11)
    assert np.all(softmax.actual != 0)
    assert softmax.actual.sum() == pytest.approx(0, abs=1e-16)
    assert np.flatnonzero(sigmoid.actual).tolist() == [sigmoid.s]
    for nudge in (softmax, sigmoid):  # by J, up to the square of what was added
        np.testing.assert_allclose(nudge.predicted, nudge.jacobian[:, nudge.s] * nudge.by)
        np.testing.assert_allclose(nudge.predicted, nudge.actual, rtol=0.02, atol=0)


def test_the_playground_of_many_classes_has_the_probabilities_of_all():
    subject = of_sizes([5, 40], loss="softmax_cross_entropy", seed=3)
    logits = np.linspace(-3, 25, 40)[np.random.default_rng(0).permutation(40)]
    last = {"W": np.zeros((5, 40)), "b": logits}
    least = int(logits.argmin())
    for label in (least, int(logits.argmax())):
        y = np.array([label], np.int32)
        play = explain(dataclasses.replace(subject, params=[last], y=y)).playground
        p = special.softmax(logits)
        assert len(play.logits) == 12
        kept = [int(name) for name in play.classes[:-1]]
        assert play.classes[-1] == f"the other {40 - len(kept)}"
        assert kept == sorted(kept)
        assert kept[play.label] == label
        np.testing.assert_allclose(play.softmax[:-1], p[kept], rtol=1e-12)
        assert play.loss == pytest.approx(-np.log(p[label]), rel=1e-12)
        assert play.low <= play.logits.min()
        assert play.logits.max() <= play.high
        assert "of 40 classes" in play.note
        likeliest = set(np.argsort(-logits)[:10].tolist())
        assert likeliest <= set(kept)


def test_the_playground_of_one_sigmoid_is_a_softmax_of_two():
    subject = tiny("binary_cross_entropy")
    params = [{"W": np.zeros((3, 1)), "b": np.array([1.5])}]
    model = of_sizes([3, 1], loss="binary_cross_entropy").model
    subject = dataclasses.replace(
        subject, model=model, params=params, y=np.array([[1.0]]), classes=("no", "yes")
    )
    found = explain(subject)
    assert found.playground.classes == ("no", "yes")
    np.testing.assert_allclose(
        found.playground.softmax, [1 - special.expit(1.5), special.expit(1.5)]
    )
    assert found.playground.loss == pytest.approx(float(found.two_ways.losses[1]))
    np.testing.assert_allclose(found.playground.gradient[1], found.two_ways.fused[0, 0])


def test_a_playground_that_is_not_the_rows_says_so():
    for loss in ("huber", "binary_cross_entropy"):
        found = explain(tiny(loss))
        assert "these are the logits of the built-in example" in found.playground.note
        assert "these are the logits of the built-in example" in flat(found.render())
    assert explain(tiny()).playground.note == ""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 6e-6], ["1.0000", "6.000e-06"]),
        ([0.5, -4e-5], ["0.5000", "-4.000e-05"]),
        ([0.5, 5e-5], ["0.5000", "0.0001"]),
        ([1000.0, 0.5], ["1000.0000", "0.5000"]),
        ([1e-20, 1e-3], ["1.000e-20", "1.000e-03"]),
        ([math.inf, 0.25], ["inf", "0.2500"]),
        ([-math.inf, math.nan], ["-inf", "nan"]),
        ([1e7, 1e-7], ["1.000e+07", "1.000e-07"]),
        ([0.0, 0.25], ["0", "0.2500"]),
        ([1000.0, -2.0], ["1000", "-2"]),
    ],
)
def test_a_number_is_never_shown_as_0_or_as_another(values, expected):
    assert wording.numbers(np.array(values)) == [expected]
    for value, text in zip(values, expected, strict=True):
        assert (float(text) == 0) == (value == 0)


@pytest.mark.parametrize("x", [0.0, 6e-6, -1e-300, 0.00099999, 0.5, 999.96, 1e5, 1e300, math.inf])
def test_a_number_by_itself_has_its_size(x):
    assert float(wording.number(x)) == pytest.approx(x, rel=0.06)
    assert wording.number(math.nan) == "nan"


def test_a_power_of_ten_is_one_in_every_notation():
    assert plain("1.5e-06 x_n") == "1.5e-06 x_n"
    assert latex("1.5e-06 · 2") == r"1.5 \cdot 10^{-6} \cdot  2"
    assert "<mn>10</mn><mrow><mo>−</mo><mn>6</mn></mrow>" in mathml("1.5e-06")
