"""Who takes the training step: the table, what it records, and what it refuses."""

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import make_backend

from xpnet.cli.main import cli
from xpnet.errors import BackendError, ConfigError
from xpnet.nn import Dense, ReLU, Sequential
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.optimizers import SGD
from xpnet.run.config_sources import load_config
from xpnet.training.step_choice import FUSED, STEPS, StepRequest, choose_step
from xpnet.training.trainer import Trainer


def request_on(backend, **settings):
    model = Sequential([Dense(4), ReLU(), Dense(3)]).build((5,))
    return StepRequest(backend, model, SoftmaxCrossEntropy(), SGD(), **settings)


def test_portable_is_to_be_had_everywhere(backend):
    assert choose_step("portable", request_on(backend)).note == "portable"


@pytest.mark.parametrize(
    ("name", "kind"), [("numpy", "fused"), ("array-api-strict", "portable"), ("jax", "jit")]
)
def test_auto_is_the_fastest_that_there_is(name, kind):
    made = make_backend(name, "float32")
    assert choose_step("auto", request_on(made)).kind == kind


def test_a_step_that_cannot_be_had_is_refused_by_name():
    strict, numpy = make_backend("array-api-strict"), make_backend("numpy")
    for step, made, why in (
        ("fused", strict, "'array-api-strict' has no kernels; numpy and cupy have"),
        ("jit", numpy, "'numpy' has no jit compiler; torch and jax have one"),
        ("compiled", numpy, "step must be one of 'auto', 'portable', 'fused', 'jit'; got 'comp"),
    ):
        with pytest.raises(BackendError, match=why):
            choose_step(step, request_on(made))


def test_the_reason_for_a_portable_step_is_recorded():
    choice = choose_step("auto", request_on(make_backend("numpy"), accumulate=2))
    assert choice.kind == "portable"
    assert choice.note == "portable: accumulate and mixed have no kernels on a CPU"


@pytest.mark.parametrize("step", STEPS)
def test_the_trainer_takes_the_word_for_it(step):
    x, y = np.eye(6)[:, :5], np.arange(6) % 3
    name = "jax" if step == "jit" else "numpy"
    trainer = Trainer([Dense(3)], backend=make_backend(name, "float32"), step=step)
    trainer.fit((x, y), epochs=1)
    assert trainer.engine.step.kind == ("fused" if step == "auto" else step)


def test_every_row_of_the_table_is_a_backend():
    from xpnet.backends import BACKENDS

    assert set(FUSED) <= set(BACKENDS)


# -- the old word ----------------------------------------------------------------------------------


def test_the_old_word_is_refused_by_the_new_one():
    with pytest.raises(ConfigError, match="compile is now step: step='portable' for compile=False"):
        Trainer([Dense(3)], compile=False)
    with pytest.raises(ConfigError, match="setting 'compile' is now step: write step='portable'"):
        load_config("digits", ["compile=false"])


def test_an_argument_that_does_not_exist_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="no argument 'batchsize'; did you mean 'batch_size'"):
        Trainer([Dense(3)], batchsize=3)


def test_the_command_line_takes_it_as_an_option(tmp_path):
    words = ["train", "--out", str(tmp_path / "run"), "--set", "epochs=1", "--quiet"]
    assert CliRunner().invoke(cli, [*words, "--step", "portable"]).exit_code == 0
    assert '"step": "portable"' in (tmp_path / "run" / "run.json").read_text()
