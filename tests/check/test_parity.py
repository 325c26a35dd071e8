"""A config on several backends: agreement is recognised, planted faults are found and named."""

import json

import numpy as np
import pytest
from toylib import library

from xpnet.backends import backend_class, get_backend
from xpnet.backends.numpy import NumpyBackend
from xpnet.check.parity import ModuleBackend, load_module, parity, to_json, to_markdown
from xpnet.check.parity.checked_step import CheckedStep
from xpnet.check.parity.compare import difference
from xpnet.cli.commands.parity import parity as command
from xpnet.errors import BackendError, ConfigError
from xpnet.nn import Dense, Sequential
from xpnet.nn.losses import MeanSquaredError
from xpnet.run.config_sources import load_config

SMALL = ("model.hidden=[12]", "batch_size=8")
INSTALLED = [
    name
    for name in ("numpy", "torch", "jax", "array-api-strict", "cupy")
    if backend_class(name).probe().devices
]


def run(backends, *overrides, **settings):
    config = load_config("digits", [*SMALL, *overrides])
    return parity(config, backends, **{"steps": 3, **settings})


def planted(**faults):
    return ModuleBackend(library(**faults))


# -- agreement ---------------------------------------------------------------------------------


@pytest.mark.long_where(name=["jax"])
@pytest.mark.parametrize("name", INSTALLED)
def test_a_backend_agrees_with_numpy_in_every_tensor(name):
    """Normalisation, dropout, clipping and a softmax layer of its own, in both dtypes."""
    report = run(
        [f"{name}:float32", f"{name}:float64"],
        "model.normalization=batch_norm",
        "model.dropout=0.2",
        "loss=cross_entropy",
        "clip.norm=1.0",
        "optimizer=sgd",
        "optimizer.momentum=0.9",
    )
    for result in report.results:
        assert result.verdict == "agrees", result.sentence()
        assert len(result.growth) == 3
        assert all(0.0 <= v <= result.tolerance for g in result.growth for v in g[1:])


@pytest.mark.parametrize(
    "overrides",
    [
        ("optimizer=lion", "model.activation=gelu", "loss=cross_entropy"),
        ("optimizer=rmsprop", "model.normalization=layer_norm", "optimizer.momentum=0.5"),
        ("optimizer=adagrad", "model.activation=elu", "schedule.warmup=0.1"),
    ],
    ids=lambda v: v[0],
)
def test_any_config_agrees_with_itself_exactly_in_float64(overrides):
    report = run(["numpy:float64"], *overrides)
    assert report.ok
    assert {v for g in report.results[0].growth for v in g[1:]} == {0.0}


def test_more_steps_than_rows_continue_with_another_epoch():
    from xpnet.check.sample import sample_rows

    config = load_config("digits", SMALL)
    report = parity(config, ["numpy"], steps=5, rows=sample_rows(config, 20))
    assert report.results[0].verdict == "agrees"
    assert [g.step for g in report.results[0].growth] == [1, 2, 3, 4, 5]


def test_rounding_that_grows_is_distinguished_from_a_fault():
    """At a tolerance of 1e-9 float32 diverges at once, but no operation is worse than NumPy's."""
    report = run(["array-api-strict"], tolerance=1e-9)
    assert report.ok
    for result in report.results:
        assert result.verdict == "rounding"
        assert result.first_difference[:3] == (1, "0.dense", "output")
        assert result.sentence().startswith("every operation agrees to 1e-09; rounding alone")


@pytest.mark.long_where(name=["jax"])
@pytest.mark.parametrize("name", INSTALLED)
def test_a_gradient_of_mere_rounding_that_adam_turns_into_a_step_is_no_fault(name):
    """A bias before a batch normalisation: the last bit decides in which direction it moves."""
    report = run([name], "model.normalization=batch_norm", "optimizer=adam")
    (result,) = report.results
    assert result.verdict == "rounding", result.sentence()
    assert result.first_difference[:3] == (1, "update", "0.dense.b")


def test_a_custom_library_agrees_operation_by_operation():
    report = run([planted()])
    (result,) = report.results
    assert result.verdict == "agrees", result.sentence()
    assert [row for row in result.operations if row.status != "ok"] == []


# -- faults ------------------------------------------------------------------------------------


def off_in_one_class(z, *args, **kwargs):
    a = np.exp(z)
    if a.ndim == 2 and a.shape[1] == 10:
        a[:, 4] *= 1.001
    return a


def test_a_softmax_off_by_a_thousandth_in_one_class_is_found_and_named():
    report = run([planted(exp=off_in_one_class)], "loss=cross_entropy")
    (result,) = report.results
    assert not report.ok
    assert result.fault_step == 1
    fault = result.faults[0]
    assert (fault.layer, fault.tensor) == ("4.softmax", "output")
    assert fault.difference.place[1] == 4
    assert "FAULT in step 1, 4.softmax output: [" in result.sentence()


def test_an_operation_of_a_real_backend_that_is_off_is_found(monkeypatch):
    import array_api_strict

    exact = array_api_strict.exp

    def exp(x, /):
        return exact(x) * 1.001 if x.shape[-1] == 10 else exact(x)

    monkeypatch.setattr(array_api_strict, "exp", exp)
    report = run(["numpy", "array-api-strict", "array-api-strict:float64"])
    assert [r.verdict for r in report.results] == ["agrees", "fault", "fault"]
    assert str(report.results[1].faults[0]).startswith("loss (SoftmaxCrossEntropy) C: [] is ")


def test_an_argmax_that_ignores_the_axis_is_found_and_named():
    report = run([planted(argmax=lambda x, axis=None: np.argmax(x))])
    (result,) = report.results
    assert {row.function for row in result.bad_operations} == {"argmax"}
    assert {row.status for row in result.bad_operations} == {"wrong shape"}
    assert (result.faults[0].layer, result.faults[0].tensor) == (
        "loss (SoftmaxCrossEntropy)",
        "correct",
    )


def test_a_function_that_widens_to_float64_is_found_where_it_is_used():
    wide = planted(mean=lambda x, **kw: np.mean(x, **kw).astype(np.float64))
    (result,) = run([wide], "model.normalization=layer_norm").results
    assert {(row.function, row.status) for row in result.bad_operations} == {
        ("mean", "wrong dtype")
    }
    assert str(result.faults[0]) == "1.layer_norm output: has dtype float64, not float32"


def test_a_fault_in_the_optimizer_is_found_in_the_update():
    off = planted(sqrt=lambda x: np.sqrt(x) * np.float32(1.001))
    (result,) = run([off], "optimizer=adam", "optimizer.lr=0.1").results
    assert result.fault_step == 1
    assert {f.layer for f in result.faults} == {"update"}


def test_a_fault_that_shows_only_later_is_found_in_its_step():
    calls = []

    def later(x, y):
        calls.append(None)
        return np.maximum(x, y) + (len(calls) > 9 and np.float32(1e-3))

    (result,) = run([planted(maximum=later)], steps=12).results
    assert result.fault_step == 5  # one call by itself, and two in each step
    assert str(result.faults[0]).startswith("1.relu output: [")


@pytest.mark.long
def test_training_that_overflows_float32_is_no_fault_of_the_library():
    names = [name for name in ("numpy", "torch", "jax") if name in INSTALLED]
    report = run(names, "optimizer=sgd", "optimizer.lr=1e25", steps=5)
    for result in report.results:
        assert result.verdict == "rounding", result.sentence()
        assert len(result.growth) == 5


def test_a_function_that_raises_ends_neither_the_walk_nor_the_comparison_of_the_others():
    def broken(*args, **kwargs):
        msg = "no kernel"
        raise RuntimeError(msg)

    report = run([planted(maximum=broken), "numpy"])
    first, second = report.results
    names = [(f.layer, f.tensor) for f in first.faults]
    assert names[0] == ("1.relu", "output")
    assert ("update", "train step") in names
    assert str(first.faults[0]) == "1.relu output: RuntimeError: no kernel"
    assert second.verdict == "agrees"


def test_a_step_that_differs_from_its_own_operations_when_compiled_is_found():
    """The walk alone would not notice: what training runs is compared as well."""

    class Miscompiled(NumpyBackend):
        name = "miscompiled"
        jit_by_default = True

        def jit(self, function, *, donate=False):
            def step(state, *rest):
                state, cost = function(state, *rest)
                return state._replace(params=state.params * 1.1), cost

            return step if donate else function

    (result,) = run([Miscompiled("cpu", "float32")]).results
    assert result.verdict == "fault"
    assert {f.layer for f in result.faults} == {"update"}
    assert result.faults[0].tensor == "0.dense.W"


def test_a_dropped_statistic_is_found(monkeypatch):
    import array_api_strict

    from xpnet.nn import BatchNorm

    right = BatchNorm.track

    def track(self, params, residuals):
        new = right(self, params, residuals)
        strict = isinstance(new["var"], type(array_api_strict.ones(1)))
        return new | {"var": params["var"]} if strict else new

    monkeypatch.setattr(BatchNorm, "track", track)
    model = ("model.normalization=batch_norm", "optimizer=sgd")
    report = run(["numpy", "array-api-strict"], *model)
    assert report.results[0].verdict == "agrees"
    assert report.results[1].faults[0][:2] == ("1.batch_norm", "new var")


def test_an_empty_namespace_is_reported_to_the_end():
    class Empty:
        asarray = staticmethod(np.asarray)

    (result,) = run([ModuleBackend(Empty, name="empty")]).results
    statuses = {row.function: row.status for row in result.operations}
    assert {statuses[f] for f in ("exp", "where", "log1p")} == {"missing"}
    assert statuses["__array_namespace__"] == "note"
    assert result.verdict == "fault"


def test_a_library_that_cannot_even_hold_the_weights_is_reported():
    class Refuses:
        @staticmethod
        def asarray(x):
            msg = "no arrays today"
            raise RuntimeError(msg)

    (result,) = run([ModuleBackend(Refuses, name="refuses")]).results
    assert str(result.faults[0]) == "engine first state: RuntimeError: no arrays today"
    optional = "linalg.vector_norm"
    assert all(r.bad for r in result.operations if r.case != "dtype" and r.function != optional)


# -- the measure -------------------------------------------------------------------------------


def test_a_difference_is_relative_to_the_entry_or_to_the_size_of_the_array():
    small = difference(np.array([100.0, 1e-9]), np.array([100.0, 0.0]))
    assert small.error == pytest.approx(1e-9 / np.sqrt(100.0**2 / 2))
    large = difference(np.array([101.0, 1.0]), np.array([100.0, 1.0]))
    assert large == (pytest.approx(0.01), (0,), 101.0, 100.0)


def test_a_result_of_another_shape_is_a_fault_though_its_numbers_are_right():
    model = Sequential([Dense(1)]).build((1,))
    step = CheckedStep(get_backend("numpy", dtype="float64"), model, MeanSquaredError())
    fault = step.judge("0.dense", "output", np.ones((2, 1)), np.ones(2), lambda tensor: 0.0)
    assert fault.what == "has shape (2, 1), not (2,)"


def test_nan_and_infinity_agree_only_with_themselves():
    values = np.array([np.nan, np.inf, -np.inf, 1.0])
    assert difference(values, values).error == 0.0
    assert difference(np.array([np.inf]), np.array([1.0])).error == np.inf
    assert difference(np.array([np.nan]), np.array([1.0])).error == np.inf
    assert difference(np.zeros((0, 2)), np.zeros((0, 2))).error == 0.0


# -- what is refused ---------------------------------------------------------------------------


def test_a_missing_or_unknown_backend_is_a_result_with_a_reason():
    report = run(["numpy", "nunpy", "torch:tpu:float32"])
    assert [r.verdict for r in report.results] == ["agrees", "not run", "not run"]
    assert "did you mean 'numpy'?" in report.results[1].sentence()
    assert report.results[2].not_run


def test_invalid_settings_are_refused():
    with pytest.raises(ConfigError, match="steps >= 1"):
        run(["numpy"], steps=0)
    with pytest.raises(BackendError, match="no_such_library"):
        load_module("no_such_library")
    with pytest.raises(BackendError, match="has no asarray"):
        load_module("json")


# -- reports and the command -------------------------------------------------------------------


def test_json_and_markdown_say_the_same():
    bad = planted(log=lambda x: np.log(x) * np.inf)
    report = run(["numpy", bad, "torch:nowhere"])
    table = json.loads(json.dumps(to_json(report)), parse_constant=pytest.fail)
    assert not table["ok"]
    assert [r["verdict"] for r in table["results"]] == ["agrees", "fault", "not run"]
    assert table["results"][0]["described"]["version"] == np.__version__
    assert table["results"][0]["described"]["tf32"] == "does not apply"
    assert len(table["results"][0]["growth"]) == 3
    text = to_markdown(report)
    for result in table["results"]:
        assert f"## {result['asked']}" in text
    assert "| log |  | wrong value | [0, 0] is" in text
    assert "| numpy | " in text


def call(*args):
    return command.main(
        ["--steps", "2", *(a for s in SMALL for a in ("--set", s)), *args], standalone_mode=False
    )


def test_the_command_succeeds_on_installed_backends(capsys, tmp_path):
    files = ("--json-file", str(tmp_path / "p.json"), "--markdown", str(tmp_path / "p.md"))
    assert call("--backends", "numpy,array-api-strict:device1:float64", *files) == 0
    out = capsys.readouterr().out
    assert "numpy: agrees to 0.0001 over 2 steps" in out
    assert "agrees to 1e-10 over 2 steps" in out
    assert json.loads((tmp_path / "p.json").read_text())["ok"]
    assert (tmp_path / "p.md").read_text().startswith("# xpnet parity: digits")


def test_the_command_ends_with_2_where_a_named_backend_is_missing(capsys):
    assert call("--backends", "numpy,numpy:cuda") == 2
    assert "numpy:cuda: not run: " in capsys.readouterr().out
    assert call("--backends", "numpy,numpy:cuda", "--allow-missing") == 0
    assert call("--backends", "numpy:cuda", "--allow-missing") == 2  # nothing was compared


def test_the_command_ends_with_1_for_a_fault_and_lists_the_operations(capsys, monkeypatch):
    import sys
    from types import SimpleNamespace

    bad = library(exp=off_in_one_class, without=("log1p",))
    monkeypatch.setitem(sys.modules, "mylib", SimpleNamespace(xp=bad))
    assert call("--backend-module", "mylib:xp") == 1
    out = capsys.readouterr().out
    assert "log1p" in out
    assert "missing" in out
    assert "FAULT in step 1" in out
    assert "operations are correct" in out


def test_the_command_can_fail_for_rounding_as_well(capsys):
    tight = ("--backends", "numpy", "--tolerance", "1e-9")
    assert call(*tight) == 0
    assert call(*tight, "--fail-on-rounding") == 1
    assert "rounding alone has grown" in " ".join(capsys.readouterr().out.split())
