"""What a model prints: a repr that makes it again, and the table of its layers."""

from dataclasses import dataclass

import pytest

from xpnet import (
    BatchNorm,
    ConfigError,
    Dense,
    Dropout,
    Flatten,
    HeNormal,
    Layer,
    LeakyReLU,
    ReLU,
    Sequential,
    Variable,
    Zeros,
)
from xpnet.nn.summary import Table

LAYERS = [Flatten(), Dense(5), BatchNorm(), LeakyReLU(0.2), Dropout(0.1), Dense(2)]


@dataclass(frozen=True)
class Scaled(Layer):
    """A layer of a user, which works in place of no other."""

    factor: object

    def variables(self):
        return {"<s>": Variable((3, 4), Zeros())}

    def forward(self, params, x, *, train=False, keys=None):
        return self.factor * x, None

    def backward(self, params, residuals, dy, *, input_gradient=True):
        return self.factor * dy, {}


def test_the_repr_leaves_defaults_out():
    assert repr(Sequential([Dense(256), ReLU(), Dense(10)])) == (
        "Sequential([Dense(256), ReLU(), Dense(10)])"
    )
    assert repr(Dense(3, bias=False, initializer=HeNormal())) == (
        "Dense(3, bias=False, initializer=HeNormal())"
    )


@pytest.mark.parametrize("build", [False, True])
def test_the_repr_makes_an_equal_model(build):
    model = Sequential(LAYERS)
    model = model.build((2, 3)) if build else model
    assert eval(repr(model)) == model


def test_the_repr_of_a_layer_with_an_array_does_not_fail(rng):
    assert repr(Scaled(rng.normal(size=(2,)))).startswith("Scaled(array([")


def test_the_summary_has_shapes_arrays_and_parameters():
    lines = Sequential(LAYERS).build((2, 3)).summary().splitlines()
    rows = [line.split() for line in lines]
    assert rows[2] == ["input", "(N,", "2,", "3)"]
    assert rows[3] == ["0", "flatten", "(N,", "6)", "0"]
    assert rows[4] == ["1", "dense", "(N,", "5)", "W", "(6,", "5),", "b", "(5,)", "35"]
    assert (rows[5][:2], rows[5][-1]) == (["2", "batch_norm"], "10")
    assert rows[-2] == ["total", str(35 + 10 + 12)]
    assert rows[-1] == ["running", "statistics", "10"]
    assert len({len(line) for line in (lines[0], lines[1], lines[3], lines[-1])}) == 1


def test_a_model_that_is_not_built_has_question_marks_for_sizes():
    model = Sequential(LAYERS)
    rows = [line.split() for line in model.summary().splitlines()]
    assert rows[3] == ["1", "dense", "?", "?", "?"]
    assert rows[-1] == ["total", "?"]
    assert "<td" in model._repr_html_()


def test_a_model_whose_sizes_do_not_fit_says_where():
    wrong = Sequential([Dense(3, inputs=4)], input_shape=(5,))
    with pytest.raises(ConfigError, match="takes 4 inputs; got 5"):
        wrong.summary()


def test_html_is_escaped():
    shown = Sequential([Scaled(1.0)]).build((2,))._repr_html_()
    assert "&lt;s&gt; (3, 4)" in shown
    assert "<s>" not in shown
    assert "Scaled" in shown
    assert Table([[("&", "1")]], "<>").html().count("text-align:right") == 1
