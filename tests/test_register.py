"""A formula of one's own is one class: everything else follows from its registration."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cuda_on_cpu import CpuExecutor
from numeric import numerical_gradient
from test_cuda_step import compare

import xpnet
from xpnet import Dense, Sequential, Trainer
from xpnet.errors import ConfigError
from xpnet.nn import ACTIVATIONS, LAYERS
from xpnet.nn.losses import LOSSES
from xpnet.optim.optimizers import OPTIMIZERS
from xpnet.registry import load_plugin, name_of, register
from xpnet.run.config import to_toml
from xpnet.run.config_sources import load_config, template_text
from xpnet.step import Batch

FILE = Path(__file__).parent / "own_formulas.py"
NAMES = ("own_mish", "own_hinge", "own_adadelta")
SETTINGS = [
    "model.hidden=[6]",
    "model.activation={name='own_mish', sharpness=0.5}",
    "loss={name='own_hinge', margin=0.5}",
    "optimizer={name='own_adadelta', rho=0.8}",
    "epochs=2",
    "step=portable",
]


@pytest.fixture(autouse=True, scope="module")
def own():
    """The file's classes in the tables, for these tests only."""
    tables = (ACTIVATIONS, LAYERS, LOSSES, OPTIMIZERS)
    before = [dict(table) for table in tables]
    load_plugin(FILE)
    yield
    for table, kept in zip(tables, before, strict=True):
        table.clear()
        table.update(kept)
    del sys.modules["xpnet_plugin_own_formulas"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """A CSV file of two classes that a line divides."""
    x = np.random.default_rng(0).normal(size=(80, 3))
    path = tmp_path_factory.mktemp("data") / "rows.csv"
    lines = [f"{a},{b},{c},{'yes' if a > b else 'no'}" for a, b, c in x]
    path.write_text("\n".join(["a,b,c,answer", *lines]) + "\n")
    return str(path)


def history(epochs=15, **settings):
    """Train the three by their names, on rows that a line divides."""
    x = np.random.default_rng(0).normal(size=(60, 3))
    y = (x[:, :1] > x[:, 1:2]).astype(float)
    layers = [Dense(6), LAYERS["own_mish"](), Dense(1)]
    trainer = Trainer(layers, "own_hinge", "own_adadelta", batch_size=10, **settings)
    return trainer.fit((x, y), epochs=epochs)


@pytest.mark.long_where(backend=["jax"])
def test_they_train_by_their_names(backend):
    records = history(backend=backend, step="portable")
    assert records[-1]["loss"] < 0.5 * records[0]["loss"]
    assert records[-1]["accuracy"] > 0.9


def test_they_are_fused_on_a_cpu():
    pytest.importorskip("numba", reason="the kernels are compiled by Numba")
    fused, portable = (history(backend="numpy", dtype="float64", step=step, epochs=3)
                       for step in ("fused", "portable"))  # fmt: skip
    assert fused[-1]["loss"] == pytest.approx(portable[-1]["loss"], rel=1e-9)
    layers = [Dense(6), LAYERS["own_mish"](), Dense(1)]
    trainer = Trainer(Sequential(layers).build((3,)), "own_hinge", "own_adadelta", backend="numpy")
    assert trainer.engine.step.note == "fused step compiled by Numba"


def test_they_are_fused_on_a_gpu(folder, rng):
    """On a real one with CuPy; here the same kernels are compiled for the CPU and emulated."""
    layers = [Dense(6), LAYERS["own_mish"](0.7), Dense(2)]
    loss, rule = LOSSES["own_hinge"](margin=0.5), OPTIMIZERS["own_adadelta"](rho=0.8)
    rows = [10, 10, 10, 10, 4]
    batches = [
        Batch(rng.normal(size=(n, 3)), rng.integers(0, 2, size=(n, 2)).astype(float)) for n in rows
    ]
    step, state = compare(CpuExecutor("float64", folder), layers, (3,), batches, loss, rule)
    assert step.note.startswith("CUDA graph of ")
    assert 0 < float(state.totals.correct) < float(state.totals.counted)


@pytest.mark.parametrize(
    "settings", [{"mixed": xpnet.Mixed("float16")}, {"accumulate": 4}], ids=str
)
def test_mixed_precision_and_micro_batches_take_them(settings):
    assert history(backend="numpy", **settings)[-1]["accuracy"] > 0.9


@pytest.mark.long
def test_jit_compiles_their_step():
    pytest.importorskip("jax")
    options = {"backend": "jax", "dtype": "float64", "epochs": 3}
    losses = [history(step=step, **options)[-1]["loss"] for step in ("jit", "portable")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


def test_their_gradients_are_derivatives_on_every_backend(backend, rng):
    z, da = rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    y = (z[::-1] > 0).astype(float)
    zb, dab, yb = map(backend.asarray, (z, da, y))
    mish, hinge = LAYERS["own_mish"](0.7), LOSSES["own_hinge"](margin=0.4)
    pairs = (
        (mish.backward_value(dab, zb), lambda z: float(np.sum(da * mish.value(z)))),
        (hinge.backward_value(zb, yb), lambda z: float(np.sum(hinge.value(z, y)))),
    )
    for gradient, cost in pairs:
        expected = numerical_gradient(cost, z)
        np.testing.assert_allclose(backend.to_host(gradient), expected, rtol=1e-6, atol=1e-8)


def test_gradcheck_agrees_with_differences_pytorch_and_jax(rng):
    x, y = rng.normal(size=(5, 3)), rng.integers(2, size=(5, 2)).astype(float)
    model = Sequential([Dense(4), LAYERS["own_mish"](), Dense(2)])
    report = xpnet.gradcheck(model, LOSSES["own_hinge"](), x, y)
    assert report.ok, report.faults


@pytest.mark.long_where(backend=["jax"])
def test_a_config_names_them_and_parity_compares_them(rows, backend):
    config = load_config(rows, SETTINGS)
    assert config.model.activation.sharpness == 0.5
    assert [name_of(x) for x in (config.model.activation, config.loss, config.optimizer)] == [
        *NAMES
    ]
    report = xpnet.parity(config, [backend], steps=3)
    assert report.ok, report.results


def test_a_config_of_theirs_is_written_and_read(rows, tmp_path):
    config = load_config(rows, SETTINGS)
    path = tmp_path / "own.toml"
    path.write_text(to_toml(config))
    assert load_config(path) == config


def test_init_lists_them():
    text = template_text()
    assert all(name in text for name in NAMES)


def test_explain_shows_their_formulas_and_their_code():
    shown = str(xpnet.explain([3, 4, 2], batch=2, activation="own_mish", loss="own_hinge"))
    assert "own_mish: applied to each element" in shown
    assert "z_nj tanh(softplus(β z_nj))" in shown
    assert "t = xp.tanh(softplus(inner))" in shown
    assert "The class gives no formula in index letters" in shown  # the hinge has none
    assert "xp.maximum(self.margin" in shown


def run(*args, **env):
    return subprocess.run(
        [sys.executable, "-m", "xpnet", *args],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_line_takes_the_file(rows, tmp_path):
    out = str(tmp_path / "run")
    options = [a for s in SETTINGS for a in ("--set", s)]
    train = ["train", rows, *options, "--out", out, "--backend", "numpy", "--quiet"]
    done = run("--plugin", str(FILE), *train)
    assert done.stdout.startswith("test accuracy "), done.stderr
    done = run("evaluate", out, XPNET_PLUGINS=str(FILE))
    assert done.returncode == 0, done.stderr
    done = run("evaluate", out)
    assert done.returncode == 2
    assert "own_" in done.stderr


def test_a_name_that_is_taken_is_an_error():
    with pytest.raises(ConfigError, match=r"the name 'own_mish' of Other is .*OwnMish's: "):

        @register("own_mish")
        class Other(xpnet.Activation):
            pass

    with pytest.raises(ConfigError, match=r"the name 'dense' of Other is xpnet\.nn\.dense\.Dense"):

        @register("dense")
        class Other(xpnet.Activation):
            pass

    assert "dense" not in ACTIVATIONS


@pytest.mark.parametrize("name", ["", "a b", "a.b", "3a", "é", 5])
def test_a_name_that_no_config_could_have_is_an_error(name):
    with pytest.raises(ConfigError, match="the name of Other must be of letters, digits and _"):

        @register(name)
        class Other(xpnet.Activation):
            pass


def test_a_class_of_no_known_kind_is_an_error():
    with pytest.raises(ConfigError, match="Other cannot be registered: make it a subclass of"):

        @register("other")
        class Other:
            pass


def test_a_file_is_run_once():
    before = LAYERS["own_mish"]
    load_plugin(str(FILE))
    assert LAYERS["own_mish"] is before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "is not a Python file: give a path such as formulas.py"),
        ("1 / 0", "cannot be loaded: ZeroDivisionError: division by zero"),
        ("class", "cannot be loaded: SyntaxError"),
    ],
)
def test_a_file_that_cannot_be_loaded_says_why(tmp_path, text, message):
    path = tmp_path / "broken.py"
    if text is not None:
        path.write_text(text)
    for _ in range(2):  # it does not count as loaded
        with pytest.raises(ConfigError, match=message):
            load_plugin(path)
