"""The file that people quote: its functions are the library's, and it runs as a script."""

import subprocess
import sys

import numpy as np
import pytest

from xpnet import ops
from xpnet.examples import softmax_by_hand as by_hand
from xpnet.nn import Dense, Sequential, Softmax
from xpnet.nn.losses import CrossEntropy, SoftmaxCrossEntropy
from xpnet.step import Batch, gradients

N, I, K = 6, 4, 3  # noqa: E741
ATOL = 1e-14


class Problem:
    """A batch with its weights, on a backend and by hand."""

    def __init__(self, backend, rng):
        self.host = backend.to_host
        self.y = np.eye(K)[rng.integers(0, K, N)]
        arrays = rng.normal(size=(N, I)), self.y, rng.normal(size=(I, K)), rng.normal(size=K)
        self.x, self.y, self.W, self.b = map(backend.asarray, arrays)
        self.z = by_hand.dense(self.x, self.W, self.b)
        self.a = by_hand.softmax(self.z)
        self.C, self.da = by_hand.cross_entropy(self.a, self.y)

    def assert_equal(self, x, y):
        np.testing.assert_allclose(self.host(x), self.host(y), rtol=0, atol=ATOL)


@pytest.fixture
def problem(backend, rng):
    return Problem(backend, rng)


def test_the_forward_pass_is_that_of_the_ops(problem):
    p = problem
    p.assert_equal(p.z, ops.dense(p.x, p.W, p.b))
    p.assert_equal(p.a, ops.softmax(p.z))
    losses = p.host(ops.cross_entropy(p.a, p.y))  # (N,)
    assert float(p.C) == pytest.approx(losses.mean(), abs=ATOL)


def test_each_factor_of_the_chain_rule_is_that_of_the_ops(problem):
    p = problem
    p.assert_equal(p.da, ops.cross_entropy_backward(p.a, p.y) / N)
    p.assert_equal(by_hand.jacobian(p.a), ops.softmax_jacobian(p.a))
    p.assert_equal(by_hand.product_form(p.a, p.da), ops.softmax_backward(p.da, p.a))
    dz = by_hand.fused(p.a, p.y)
    _, dW, db = ops.dense_backward(dz, p.x, p.W)
    for ours, theirs in zip(by_hand.dense_backward(p.x, dz), (dW, db), strict=True):
        p.assert_equal(ours, theirs)


@pytest.mark.parametrize(
    ("layers", "loss"),
    [((Dense(K), Softmax()), CrossEntropy()), ((Dense(K),), SoftmaxCrossEntropy())],
    ids=["softmax and cross-entropy", "fused"],
)
def test_the_four_right_ways_give_the_librarys_gradient(problem, layers, loss):
    p = problem
    params = [{"W": p.W, "b": p.b}, {}][: len(layers)]
    model = Sequential(layers).build((I,))
    sums, _, _, _, grads = gradients(model, loss, params, Batch(p.x, p.y))
    assert float(p.C) == pytest.approx(float(sums.loss) / float(sums.denominator), abs=ATOL)
    ways = (
        by_hand.vector_times_jacobian(p.a, p.da),
        by_hand.product_form(p.a, p.da),
        by_hand.fused(p.a, p.y),
    )
    for dz in ways:
        dW, db = by_hand.dense_backward(p.x, dz)
        p.assert_equal(dW, grads[0]["W"])
        p.assert_equal(db, grads[0]["b"])
    p.assert_equal(by_hand.triple_sum(p.x, p.a, p.da), grads[0]["W"])


def test_the_wrong_way_is_right_on_the_diagonal_only(problem):
    p = problem
    wrong, right = p.host(by_hand.element_by_element(p.a, p.da)), p.host(by_hand.fused(p.a, p.y))
    labelled = p.host(p.y) == 1
    np.testing.assert_allclose(wrong[labelled], right[labelled], rtol=0, atol=ATOL)
    assert (wrong[~labelled] == 0).all()
    assert (right[~labelled] > 1e-4).all()


def test_training_is_gradient_descent_with_the_way_it_is_given(problem):
    p = problem
    losses = by_hand.train(p.x, p.y, p.W, p.b, lambda a, da, y: by_hand.fused(a, y), lr=0.25)
    assert next(losses) == float(p.C)
    dW, db = by_hand.dense_backward(p.x, by_hand.fused(p.a, p.y))
    a = by_hand.softmax(by_hand.dense(p.x, p.W - 0.25 * dW, p.b - 0.25 * db))
    assert next(losses) == pytest.approx(float(by_hand.cross_entropy(a, p.y)[0]), abs=ATOL)


def run(*args):
    command = [sys.executable, "-m", "xpnet.examples.softmax_by_hand", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.long_where(library=[["array_api_strict"]])
@pytest.mark.parametrize("library", [[], ["numpy"], ["array_api_strict"], ["array-api-strict"]])
def test_as_a_script_it_prints_what_it_found(library):
    if "strict" in str(library):
        pytest.importorskip("array_api_strict")
    result = run(*library)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "da (30, 3), J (30, 3, 3), dW (4, 3)" in lines[0]
    rows = {line[:28].strip(): line[28:].split() for line in lines[4:]}
    differences = {way: float(row[0]) for way, row in rows.items()}
    losses = {way: [float(loss) for loss in row[1:]] for way, row in rows.items()}
    wrong = "element by element (wrong)"
    assert list(rows) == ["vector times Jacobian", "product form", "fused", wrong]
    assert differences.pop(wrong) > 0.1
    assert max(differences.values()) < 1e-15
    assert losses.pop(wrong)[-1] > losses["fused"][0]  # worse than before training
    for fell in losses.values():
        assert fell == losses["fused"] == sorted(fell, reverse=True)


@pytest.mark.parametrize("library", ["no_such_library", "json", "", ".", "xpnet"])
def test_a_library_that_is_missing_or_no_array_api_library_is_one_line(library):
    result = run(library)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    expected = f"error: {library!r} is not an Array API library, or not installed: "
    assert result.stderr.startswith(expected)
    assert "Traceback" not in result.stderr
