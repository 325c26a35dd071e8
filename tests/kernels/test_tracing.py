"""Formulas called with symbols: what is recorded, what is printed, and what is refused."""

import math

import numpy as np
import pytest
from array_api_compat import array_namespace

from xpnet.errors import UnsupportedError
from xpnet.kernels import formulas
from xpnet.kernels.printing import MOST_NUMBERS, NUMBA, C, printed
from xpnet.kernels.tracing import traced, traced_by_rows
from xpnet.nn import ACTIVATIONS, Activation
from xpnet.nn.losses import LOSSES, BinaryCrossEntropy, SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS, SGD, Adam, Coefficients

Z = [-700.0, -3.0, -1.0, -1e-3, -0.0, 0.0, 1e-3, 0.5, 1.0, 3.0, 700.0, math.inf, -math.inf]


def run(formula, **values):
    """Compute a printed formula in Python floats."""
    code = printed(formula, NUMBA)
    names = {"real": float, "math": math, **{f"k{i}": x for i, x in enumerate(code.numbers)}}
    exec("\n".join(code.statements), names | values, names := names | values)
    return [eval(output, names) for output in code.outputs]


@pytest.mark.parametrize(
    "name", [n for n, c in ACTIVATIONS.items() if getattr(c, "elementwise", False)]
)
def test_a_printed_activation_is_the_formula(name):
    layer = ACTIVATIONS[name]()
    f = formulas.activation(layer)
    for z in [z for z in Z if math.isfinite(z)]:
        a, kept = layer.forward({}, np.asarray(z))
        got = run(f.value, z=z)[0]
        assert got == pytest.approx(float(a), rel=1e-13, abs=1e-300)
        wanted = layer.backward({}, kept, np.asarray(0.7))[0]
        got = run(f.derivative, da=0.7, kept=float(kept))[0]
        assert got == pytest.approx(float(wanted), rel=1e-12, abs=1e-300)
        assert f.keeps_output == layer.keeps_output


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_printed_rule_is_the_formula_with_its_clips(name):
    rule, clip = OPTIMIZERS[name](), Clip(value=0.3, norm=1.0)
    c = rule.coefficients(0.1, 3)
    given = {f"slot_{slot}": 0.2 + i for i, slot in enumerate(rule.slots)}
    given |= {f"c_{field}": x for field, x in c._asdict().items()}
    formula = formulas.update(rule, clip, divided=True)
    got = run(formula, p=0.5, g=-0.8, factor=0.9, denominator=2.0, **given)
    slots = tuple(np.asarray(0.2 + i) for i in range(len(rule.slots)))
    p, slots = rule.update(np.asarray(0.5), np.asarray(-0.3 * 0.9), slots, c)
    assert got == pytest.approx([float(p), *map(float, slots)], rel=1e-13)


@pytest.mark.parametrize(
    ("bounds", "wanted"),
    [((-1.0, 2.0), [-1.0, 0.5, 2.0]), ((None, 2.0), [-3.0, 0.5, 2.0]), ((-1.0,), [-1.0, 0.5, 3.0])],
)
def test_a_clip_of_a_users_formula_has_both_bounds(bounds, wanted):
    f = traced(lambda z: array_namespace(z).clip(z, *bounds), "z")
    assert [run(f, z=z)[0] for z in (-3.0, 0.5, 3.0)] == wanted


def test_a_float_of_numpy_is_a_number():
    f = traced(lambda z: np.float64(0.3) * z - np.float64(2.0) / z, "z")
    assert run(f, z=4.0) == [pytest.approx(0.7)]


def test_a_power_is_the_one_that_is_written():
    f = traced(lambda z: (z**2, z**3, z**1.5), "z")
    assert run(f, z=4.0) == [16.0, 64.0, pytest.approx(8.0)]


def test_equal_expressions_are_computed_once():
    f = traced(lambda z: array_namespace(z).exp(z) / (1.0 + array_namespace(z).exp(z)), "z")
    assert [s.operation for s in f.order()] == ["input", "exp", "+", "/"]


def test_a_number_is_no_part_of_the_code():
    one, other = (formulas.activation(ACTIVATIONS["leaky_relu"](slope)) for slope in (0.01, 0.3))
    assert printed(one.value, C)[:2] == printed(other.value, C)[:2]
    assert printed(one.value, C).numbers == (0.01,)
    assert printed(other.value, C).numbers == (0.3,)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
@pytest.mark.parametrize("x", [(1.0, math.nan), (math.nan, 1.0), (1.0, 2.0), (2.0, 1.0)])
def test_the_larger_of_two_is_nan_if_either_is(name, x):
    both = traced(lambda a, b: getattr(array_namespace(a), name)(a, b), "a", "b")
    one = traced(lambda a: getattr(array_namespace(a), name)(a, x[1]), "a")
    wanted = getattr(np, name)(*x)
    assert run(both, a=x[0], b=x[1])[0] == pytest.approx(wanted, nan_ok=True)
    if not math.isnan(x[1]):
        assert run(one, a=x[0])[0] == pytest.approx(wanted, nan_ok=True)


def test_the_sign_of_nan_and_of_zero():
    f = traced(lambda z: array_namespace(z).sign(z), "z")
    assert [run(f, z=z)[0] for z in (-3.0, 0.0, 2.0)] == [-1.0, 0.0, 1.0]
    assert math.isnan(run(f, z=math.nan)[0])


def branches(z):
    return z if z > 0 else 0.1 * z


def mean(z):
    return z - array_namespace(z).mean(z)


REFUSED = {
    "a branch": (branches, "it branches on a value: xp.where chooses for each element"),
    "a sum": (lambda z: z / array_namespace(z).sum(z), "it calls sum, which is not a function of"),
    "a mean": (mean, "it calls mean, which is not a function of one element"),
    "a sort": (lambda z: array_namespace(z).sort(z), "it calls sort, which is not a function of"),
    "an index": (lambda z: z[0] * z, "it takes entries of an array by index"),
    "the width": (lambda z: z / z.shape[1], "it depends on the number of rows or columns"),
    "the size": (lambda z: z / math.prod(z.shape), "it depends on the number of rows or columns"),
    "a float": (lambda z: z * math.exp(z), "it asks for the number in an array"),
    "NumPy": (lambda z: np.maximum(z, 0), "it calls NumPy whatever the array is"),
    "NumPy's where": (lambda z: np.where(z > 0, z, 0), "it calls NumPy whatever the array is"),
    "another array": (lambda z: z + np.ones(3), "it computes with ndarray, which is no number"),
    "text": (lambda z: z * "a", "it computes with str, which is no number"),
    "a fault of its own": (lambda z: z.nonsense, "it cannot be followed (AttributeError: "),
    "a cast": (lambda z: array_namespace(z).astype(z, "int32"), "it converts to int32"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_element_wise_is_refused_with_the_reason(name):
    formula, why = REFUSED[name]
    with pytest.raises(UnsupportedError) as caught:
        traced(formula, "z")
    assert str(caught.value).startswith(why)


def test_too_many_numbers_are_refused():
    def polynomial(z):
        total = 0.0 * z
        for k in range(MOST_NUMBERS + 1):
            total = total * z + (k + 0.123)
        return total

    with pytest.raises(UnsupportedError, match=f"it has 25 numbers; a kernel takes {MOST_NUMBERS}"):
        printed(traced(polynomial, "z"), NUMBA)


def test_a_layer_that_keeps_something_else_is_no_element_wise_one():
    class Odd(Activation):
        def value(self, z):
            return z * z

        def backward_value(self, da, kept):
            return kept * da

        def forward(self, params, x, *, train=False, keys=None):
            return self.value(x), 2.0 * x

    with pytest.raises(UnsupportedError, match="it keeps neither its input nor its output"):
        formulas.activation(Odd())


def test_a_loss_of_rows_is_no_element_wise_one():
    with pytest.raises(UnsupportedError, match="it depends on the number of rows or columns"):
        formulas.element_loss(SoftmaxCrossEntropy())
    assert formulas.element_loss(BinaryCrossEntropy()).correct is not None
    assert formulas.element_loss(LOSSES["huber"]()).correct is None


# -- a descent that a product takes with it --------------------------------------------------------


def test_plain_gradient_descent_is_a_sum_of_multiples():
    step = formulas.descent(SGD(0.1, weight_decay=0.01), Clip())
    assert step(Coefficients(0.5)) == (-0.5, 1.0 - 0.5 * 0.01)


class Shifted(SGD):
    def update(self, params, grad, slots, c):
        return params - c.step_size * (grad + 0.1), slots


class Squared(SGD):
    def update(self, params, grad, slots, c):
        return params - c.step_size * grad * abs(params), slots


@pytest.mark.parametrize("rule", [SGD(momentum=0.9), Adam(), Shifted(), Squared()])
def test_other_rules_need_a_pass_of_their_own(rule):
    assert formulas.descent(rule, Clip()) is None
    assert formulas.descent(SGD(), Clip(value=1.0)) is None


# -- rows ------------------------------------------------------------------------------------------


def test_sums_along_rows_are_followed_and_others_refused():
    def scaled(x):
        xp = array_namespace(x)
        return x / xp.max(x, axis=-1, keepdims=True)

    assert str(traced_by_rows(scaled, x="element").outputs[0]) == "(x / row_max(x))"
    for axis, keepdims in ((0, True), (-1, False), (None, False)):
        with pytest.raises(UnsupportedError, match=r"kernels work along rows"):
            traced_by_rows(
                lambda x, a=axis, k=keepdims: array_namespace(x).max(x, axis=a, keepdims=k),
                x="element",
            )
