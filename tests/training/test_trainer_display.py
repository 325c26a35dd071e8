"""What a trainer prints of itself, and what it knows before any data."""

from html import escape

import numpy as np
import pytest

from xpnet import Clip, Dense, Mixed, Sequential, Trainer, TrainingError, get_backend


def test_the_repr_names_the_model_the_loss_the_optimizer_and_the_backend():
    run = Trainer([Dense(3)], "softmax_cross_entropy", "sgd")
    expected = "Trainer(Sequential([Dense(3)]), SoftmaxCrossEntropy(), SGD(), backend='auto')"
    assert repr(run) == expected
    run = Trainer([Dense(3)], backend=get_backend("numpy"))
    assert repr(run).endswith("backend=NumpyBackend(device='cpu', dtype='float32'))")


def facts(run):
    lines = run.summary().partition("\n\n")[2].splitlines()
    return {line[:10].strip(): line[11:] for line in lines}


def test_the_summary_says_what_trains_where_and_how_far():
    x, y = np.eye(30, 5), np.arange(30) % 3
    run = Trainer(
        [Dense(3)],
        backend="numpy",
        clip=Clip(norm=1.0),
        accumulate=2,
        mixed=Mixed("float16"),
        batch_size=9,
    )
    assert facts(run)["runs on"] == "numpy"
    assert facts(run)["step"] == "auto, chosen when the model is built"
    run.fit((x, y), epochs=2)
    shown = facts(run)
    assert shown["loss"] == "SoftmaxCrossEntropy()"
    assert shown["clip"] == "Clip(norm=1.0)"
    assert shown["mixed"] == "Mixed(dtype='float16')"
    assert shown["batch"] == "9 rows in 2 micro-batches"
    assert shown["runs on"] == f"numpy {np.__version__} on cpu, float32"
    assert shown["step"] == run.engine.step.note
    assert shown["trained"] == f"2 epochs; {run.position.step} steps"
    assert run.model.summary() in run.summary()
    html = run._repr_html_()
    assert run.model._repr_html_() in html
    assert all(escape(value) in html for value in shown.values())


def test_the_summary_before_any_data_says_that_they_choose():
    assert facts(Trainer([Dense(3)]))["runs on"] == "the backend chosen from the data"
    assert facts(Trainer([Dense(3)], backend="jax", device="cpu"))["runs on"] == "jax on cpu"


def test_a_built_model_on_a_named_backend_has_its_first_weights_before_any_fit():
    model = Sequential([Dense(3)]).build((5,))
    assert {k: v.shape for k, v in Trainer(model, backend="numpy").params.items()} == {
        "0.dense.W": (5, 3),
        "0.dense.b": (3,),
    }
    assert Trainer(model, device="cpu").params.keys() == {"0.dense.W", "0.dense.b"}
    with pytest.raises(TrainingError, match="the backend is chosen from the data: call fit first"):
        Trainer(model).params  # noqa: B018
    with pytest.raises(TrainingError, match="no sizes yet"):
        Trainer([Dense(3)], backend="numpy").params  # noqa: B018
