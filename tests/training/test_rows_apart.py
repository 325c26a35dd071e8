"""Layers that compute with all rows of a batch are not given some of them without a word."""

import numpy as np
import pytest

from xpnet.errors import ConfigError
from xpnet.nn import LAYERS, Dense, Dropout, Embedding, Layer, Sequential, Softmax
from xpnet.nn.layout import initialize, layouts, merge
from xpnet.parallel.settings import Parallel
from xpnet.training.rows_apart import check_rows_apart
from xpnet.training.trainer import Trainer


def checked(*layers, shape=(4,)):
    model = Sequential(layers).build(shape)
    flats = zip(layouts(model), initialize(model, 0), strict=True)
    check_rows_apart(model, merge(*(layout.split(flat) for layout, flat in flats)))


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_layer_takes_each_row_by_itself_or_says_how_it_is_shared(name):
    given = {"dense": {"units": 3}, "embedding": {"sizes": (2, 3)}, "group_norm": {"groups": 2}}
    checked(LAYERS[name](**given.get(name, {})))


def test_a_softmax_over_the_batch_is_refused():
    checked(Dense(3), Softmax())
    with pytest.raises(ConfigError, match=r"layer 1 \(softmax\) computes with all rows of a batch"):
        checked(Dense(3), Softmax(axis=0))


class Centred(Layer):
    """Subtracts the mean of the batch."""

    def forward(self, params, x, *, train=False, keys=None):
        return x - (np.mean(x, axis=0) if train else 0.0), None

    def backward(self, params, residuals, dy, *, input_gradient=True):
        return dy - np.mean(dy, axis=0), {}


def test_a_layer_of_ones_own_that_looks_at_other_rows_is_refused():
    with pytest.raises(ConfigError, match=r"layer 0 \(Centred\) computes with all rows"):
        checked(Centred(), Dense(2))


def test_masks_and_codes_are_tried_as_they_are():
    checked(Embedding((3,)), Dense(4), Dropout(0.5), shape=(2,))


def test_a_trainer_whose_batches_are_divided_asks():
    layers = [Dense(3), Softmax(axis=0), Dense(2)]
    rows = np.zeros((8, 4)), np.zeros(8, int)
    Trainer(layers, backend="numpy").fit(rows, epochs=1)
    divided = Trainer(layers, backend="numpy", parallel=Parallel(reduce="ordered"))
    with pytest.raises(ConfigError, match="train in one process"):
        divided.fit(rows, epochs=1)
