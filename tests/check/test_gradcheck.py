"""The gradient checker accepts correct gradients and names what is wrong with others."""

import dataclasses
import json
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from array_api_compat import array_namespace

from xpnet.check.gradcheck import DIFFERENCES, _worst, gradcheck
from xpnet.cli.commands.gradcheck import gradcheck as command
from xpnet.errors import ConfigError
from xpnet.nn import (
    ACTIVATIONS,
    BatchNorm,
    Dense,
    Dropout,
    Flatten,
    LayerNorm,
    ReLU,
    Sequential,
    Softmax,
    Tanh,
)
from xpnet.nn.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Hinge,
    Huber,
    MeanSquaredError,
    Poisson,
    SoftmaxCrossEntropy,
    SquaredHinge,
)
from xpnet.ops.dense import dense_backward

N, K = 5, 3


def run(layers, loss=SoftmaxCrossEntropy(), y=None, **settings):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(N, 4))
    y = rng.integers(K, size=N) if y is None else y
    return gradcheck(Sequential(tuple(layers)), loss, x, y, **{"oracles": [], **settings})


# -- correct gradients -----------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_agrees_with_the_differences(activation):
    report = run([Dense(6), ACTIVATIONS[activation](), Dense(K)])
    assert report.ok, report.faults
    own = ["1.prelu.alpha"] if activation == "prelu" else []
    assert [c.tensor for c in report.checks] == [
        *("0.dense.W", "0.dense.b", *own, "2.dense.W", "2.dense.b", "x"),
    ]
    assert all(c.worst[DIFFERENCES].error < 1e-6 for c in report.checks)


@pytest.mark.parametrize(
    ("loss", "y"),
    [
        (SoftmaxCrossEntropy("sum", (1.0, 2.0, 0.5), 0.1), None),
        (SoftmaxCrossEntropy("mean", ignore_label=1), None),
        (BinaryCrossEntropy("mean_count"), np.linspace(0, 1, N * K).reshape(N, K)),
        (MeanSquaredError("none"), np.linspace(-1, 1, N * K).reshape(N, K)),
        (Huber(delta=0.3), np.linspace(-1, 1, N * K).reshape(N, K)),
        (Poisson(), np.arange(float(N * K)).reshape(N, K)),
        (Hinge(), np.eye(K)[np.arange(N) % K]),
        (SquaredHinge(), np.eye(K)[np.arange(N) % K]),
    ],
    ids=lambda v: type(v).__name__,
)
def test_every_loss_agrees_with_torch_and_jax(loss, y):
    report = run(
        [Dense(6), Tanh(), Dense(K)],
        loss,
        y,
        weight=np.linspace(0.5, 2.0, N),
        oracles=["torch", "jax"],
    )
    assert report.ok, report.faults
    for check in report.checks:
        assert {*check.worst} | {*report.not_run} == {DIFFERENCES, "torch", "jax"}
        for oracle in {"torch", "jax"} & {*check.worst}:
            assert check.worst[oracle].error < 1e-9


def test_autodiff_runs_through_normalisation_dropout_and_a_softmax_written_in_place():
    layers = [Dense(6), BatchNorm(), ReLU(), LayerNorm(), Dropout(0.3), Dense(K), Softmax()]
    report = run(layers, CrossEntropy(), oracles=["torch", "jax"])
    assert report.ok, report.faults
    assert "1.batch_norm.gamma" in [c.tensor for c in report.checks]


def test_a_batch_in_which_nothing_counts_has_the_gradient_0():
    report = run([Dense(K)], SoftmaxCrossEntropy(ignore_label=1), y=np.ones(N, dtype=int))
    assert report.ok, report.faults


def test_images_are_checked_through_flatten():
    x = np.random.default_rng(1).normal(size=(3, 2, 2))
    report = gradcheck(Sequential((Flatten(), Dense(K))), x=x, y=np.array([0, 1, 2]), oracles=[])
    assert report.ok
    assert report.checks[-1].checked == 12


def test_an_entry_at_a_kink_is_skipped_and_counted():
    x = np.zeros((1, 2))
    report = gradcheck(
        Sequential((ReLU(), Dense(2))), x=x, y=np.array([0]), oracles=["torch", "jax"]
    )
    assert report.ok
    check = report.checks[-1]
    assert (check.tensor, check.checked, check.kinks, check.worst) == ("x", 0, 2, {})


def test_a_kink_near_an_entry_is_stepped_around():
    x = np.array([[2e-4, -2e-4 / 3]])
    report = gradcheck(Sequential((ReLU(), Dense(2))), x=x, y=np.array([0]), oracles=[])
    assert report.ok
    assert report.checks[-1].checked == 2


def test_a_sample_is_drawn_by_the_seed_alone():
    def places(seed):
        report = run([Dense(20), Tanh(), Dense(K)], samples=7, seed=seed)
        return [(c.checked, c.worst[DIFFERENCES].place) for c in report.checks]

    assert places(1) == places(1) != places(2)
    assert {count for count, _ in places(1)} == {7, 3}


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_an_absent_library_is_named(name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    report = run([Dense(K)], oracles=[name])
    assert report.ok
    assert f"needs {name!r}: pip install '{name}>=" in report.not_run[name]


def test_a_check_without_a_batch_is_an_error():
    with pytest.raises(ConfigError, match="needs a batch"):
        gradcheck(Sequential((Dense(2),)))


# -- wrong ones, with one planted fault each -----------------------------------------------------


@dataclass(frozen=True)
class WrongSign(Tanh):
    def backward(self, params, residuals, dy, *, input_gradient=True):
        dx, grads = super().backward(params, residuals, dy)
        return -dx, grads


@dataclass(frozen=True)
class MissingJacobian(Softmax):
    """What Thinc's layer does: it passes on the gradient of the loss as if it were that of z."""

    def backward(self, params, residuals, dy, *, input_gradient=True):
        return dy, {}


@dataclass(frozen=True)
class DiagonalOnly(Softmax):
    """The element-wise product with a (1 - a): the question this project started from."""

    def backward(self, params, residuals, dy, *, input_gradient=True):
        return dy * residuals * (1.0 - residuals), {}


@dataclass(frozen=True)
class MeanForSum(Dense):
    def backward(self, params, residuals, dy, *, input_gradient=True):
        dx, grads = super().backward(params, residuals, dy, input_gradient=input_gradient)
        return dx, {**grads, "b": array_namespace(dy).mean(dy, axis=0)}


@dataclass(frozen=True)
class WrongAxis(Softmax):
    def backward(self, params, residuals, dy, *, input_gradient=True):
        return dataclasses.replace(Softmax(), axis=0).backward(params, residuals, dy)


@dataclass(frozen=True)
class TransposedW(Dense):
    """dx = dz W where it should be dz Wᵀ: it fits, where W is square."""

    def backward(self, params, residuals, dy, *, input_gradient=True):
        dx, dW, db = dense_backward(dy, residuals, params["W"].T, input_gradient=input_gradient)
        return dx, {"W": dW, "b": db}


@dataclass(frozen=True)
class WrongShape(Dense):
    def backward(self, params, residuals, dy, *, input_gradient=True):
        dx, grads = super().backward(params, residuals, dy)
        return dx, {**grads, "W": grads["W"].T}


@dataclass(frozen=True)
class MissingGamma(LayerNorm):
    def backward(self, params, residuals, dy, *, input_gradient=True):
        without = {**params, "gamma": 1.0}
        return super().backward(without, residuals, dy, input_gradient=input_gradient)


@dataclass(frozen=True)
class OnlyWhenTraining(Dense):
    """Correct if dx is asked for as well, wrong on the shorter path that training takes."""

    def backward(self, params, residuals, dy, *, input_gradient=True):
        dx, grads = super().backward(params, residuals, dy, input_gradient=input_gradient)
        return dx, grads if input_gradient else {**grads, "W": 2.0 * grads["W"]}


@dataclass(frozen=True)
class SmoothingForgotten(SoftmaxCrossEntropy):
    def terms(self, output, target, weight=None):
        plain = SoftmaxCrossEntropy(self.reduction).terms(output, target, weight)
        return super().terms(output, target, weight)._replace(gradient=plain.gradient)


FAULTS = {
    "sign": ([Dense(4), WrongSign(), Dense(K)], "layer 1 (WrongSign): dx["),
    "missing Jacobian": ([Dense(K), MissingJacobian()], "layer 1 (MissingJacobian): dx["),
    "diagonal Jacobian": ([Dense(K), DiagonalOnly()], "layer 1 (DiagonalOnly): dx["),
    "mean for sum": ([Dense(4), Tanh(), MeanForSum(K)], "layer 2 (MeanForSum): db["),
    "wrong axis": ([Dense(K), WrongAxis()], "layer 1 (WrongAxis): dx["),
    "transposed W": ([Dense(4), Tanh(), TransposedW(4), Dense(K)], "layer 2 (TransposedW): dx["),
    "wrong shape": ([WrongShape(K)], "layer 0 (WrongShape), dW: the gradient has shape (3, 4)"),
    "missing gamma": ([Dense(4), MissingGamma(), Dense(K)], "layer 1 (MissingGamma): dx["),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found_and_its_layer_alone_is_named(fault):
    layers, named = FAULTS[fault]
    probabilities = isinstance(layers[-1], Softmax)
    report = run(layers, CrossEntropy() if probabilities else SoftmaxCrossEntropy())
    assert not report.ok
    assert len(report.faults) == 1
    assert report.faults[0].startswith(named)


def test_a_fault_in_the_loss_is_named():
    report = run([Dense(K)], SmoothingForgotten(label_smoothing=0.2))
    assert not report.ok
    assert report.faults[0].startswith("the loss (SmoothingForgotten): doutput[")
    assert len(report.faults) == 1


def test_a_fault_on_the_path_that_training_takes_is_found():
    report = run([OnlyWhenTraining(K)])
    assert not report.ok
    assert len(report.faults) == 1
    assert report.faults[0].startswith("layer 0 (OnlyWhenTraining): dW[")


def test_a_fault_in_the_chain_is_distinguished_from_one_in_a_layer():
    @dataclass(frozen=True)
    class Unchained(Sequential):
        def backward(self, params, residuals, dy, *, input_gradient=True):
            dx, grads = super().backward(params, residuals, dy, input_gradient=input_gradient)
            return dx, [{k: 2.0 * v for k, v in g.items()} for g in grads]

    x = np.random.default_rng(7).normal(size=(N, 4))
    report = gradcheck(Unchained((Dense(K),)), x=x, y=np.arange(N) % K, oracles=[])
    assert report.faults == (
        "every layer agrees with its own forward; the chain between them is off",
    )


@dataclass(frozen=True)
class SlightlyOff(Dense):
    """dW a ten-thousandth too large, or only in the entry that is the smallest."""

    smallest: bool = False

    def backward(self, params, residuals, dy, *, input_gradient=True):
        dx, grads = super().backward(params, residuals, dy, input_gradient=input_gradient)
        W = np.array(grads["W"])
        at = np.unravel_index(np.abs(W).argmin(), W.shape) if self.smallest else ...
        W[at] *= 1.0 + 1e-4
        return dx, {**grads, "W": W}


def test_a_fault_of_a_ten_thousandth_is_found():
    report = run([SlightlyOff(K)])
    assert not report.ok
    assert report.faults[0].startswith("layer 0 (SlightlyOff): dW[")
    assert run([SlightlyOff(K)], tolerance=1e-3).ok


def test_a_fault_of_a_small_entry_is_found_beside_large_ones():
    x, y = np.array([[10.0, 0.1]]), np.array([[0.3, -0.2]])
    layers = Sequential((SlightlyOff(2, smallest=True),))
    report = gradcheck(layers, MeanSquaredError(), x, y, oracles=[])
    assert not report.ok
    assert report.checks[0].error == pytest.approx(1e-4, rel=1e-2)
    worst = _worst(np.array([1.0, 0.01]), np.array([1.0, 0.01 + 1e-7]), [(0,), (1,)], base=1.0)
    assert worst.error == pytest.approx(1e-5, rel=1e-3)
    assert worst.place == (1,)


def test_a_gradient_that_is_not_a_number_is_wrong():
    @dataclass(frozen=True)
    class NaNs(Tanh):
        def backward(self, params, residuals, dy, *, input_gradient=True):
            return dy * np.nan, {}

    report = run([Dense(4), NaNs(), Dense(K)])
    assert not report.ok
    assert "layer 1 (NaNs): dx[" in report.faults[0]


# -- the command -------------------------------------------------------------------------------


def call(capsys, *args):
    code = command.main(list(args), standalone_mode=False)
    return code, capsys.readouterr().out


def test_the_command_checks_a_recipe_and_writes_json(capsys, tmp_path):
    path = tmp_path / "report.json"
    small = ("--set", "model.hidden=[5]", "--samples", "5", "--batch", "3")
    code, out = call(capsys, "digits", *small, "--json-file", str(path))
    assert code == 0
    assert "3 rows of digits, SoftmaxCrossEntropy" in out
    assert "the gradients agree to 1e-06" in out
    table = json.loads(path.read_text())
    assert table["ok"]
    assert table["checks"][0]["tensor"] == "0.dense.W"
    assert table["checks"][0]["worst"]["differences"]["error"] < 1e-6


def test_the_command_ends_with_1_and_names_the_layer_at_fault(capsys, monkeypatch):
    wrong = staticmethod(lambda da, a: da * (1.0 + a * a))
    monkeypatch.setattr(Tanh, "backward_value", wrong)
    small = ("--set", "model.hidden=[5]", "--set", "model.activation=tanh", "--batch", "3")
    code, out = call(capsys, "digits", *small)
    assert code == 1
    assert "wrong: layer 1 (tanh): dx[" in out
    assert "DO NOT agree" in out


def test_the_command_takes_synthetic_rows_for_an_absent_data_set(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("XPNET_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("XPNET_DATA_DIR", raising=False)
    small = ("--set", "model.hidden=[5]", "--samples", "3", "--batch", "2")
    code, out = call(capsys, "mnist", *small)
    assert code == 0
    assert "synthetic rows (mnist is not on this machine)" in out


def test_the_command_refuses_an_empty_batch():
    with pytest.raises(ConfigError, match="--batch >= 1"):
        command.main(["--batch", "0"], standalone_mode=False)


def test_a_regression_is_checked_on_its_scaled_targets(capsys, tmp_path):
    path = tmp_path / "rows.csv"
    rows = [f"{a},{b},{1000 * a - 500 * b}" for a in range(4) for b in range(3)]
    path.write_text("\n".join(["a,b,y", *rows]))
    settings = ("data.task=regression", "loss=huber", "model.hidden=[4]")
    code, out = call(capsys, str(path), *(a for s in settings for a in ("--set", s)))
    assert code == 0
    assert "8 rows of rows, Huber" in out
