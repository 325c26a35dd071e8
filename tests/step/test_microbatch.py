"""Gradient accumulation equals the large batch."""

import numpy as np
import pytest

from xpnet.nn import Dense, Dropout, LayerNorm, ReLU, Sequential
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.optimizers import SGD
from xpnet.parallel.share import micro_batch_rows
from xpnet.training.trainer import Trainer

N, I, K = 20, 6, 4  # noqa: E741


@pytest.mark.parametrize(("rows", "parts"), [(7, 3), (2, 3), (0, 3), (5, 10**12), (64, 64)])
def test_a_batch_has_at_most_a_micro_batch_for_each_row(rows, parts):
    found = micro_batch_rows(rows, parts)
    assert [i for first, last in found for i in range(first, last)] == list(range(rows))
    sizes = [last - first for first, last in found]
    assert len(sizes) == min(parts, rows)
    assert not sizes or 0 < max(sizes) <= min(sizes) + 1


@pytest.mark.long_where(backend=["jax"])
@pytest.mark.parametrize("reduction", ["mean", "mean_count", "sum"])
def test_parts_of_a_batch_add_up_to_it(backend, reduction, rng):
    """Dropout, uneven parts, a ragged last batch, weights that are all 0 in some parts."""
    x, y = rng.normal(size=(N, I)), rng.integers(0, K, size=N)
    weight = rng.uniform(size=N) * (np.arange(N) % 7 > 1)
    histories, params = [], []
    for parts in (1, 3, 10):
        trainer = Trainer(
            Sequential([Dense(8), LayerNorm(), ReLU(), Dropout(0.3), Dense(K)]),
            SoftmaxCrossEntropy(reduction, ignore_label=2),
            SGD(0.05 if reduction != "sum" else 0.002, momentum=0.9),
            backend=backend,
            batch_size=8,
            accumulate=parts,
            step="portable",
        )
        data = [backend.asarray(v) for v in (x, y, weight)]
        histories.append(trainer.fit(data, epochs=2))
        params.append(trainer.params)
    for other, history in zip(params[1:], histories[1:], strict=True):
        for name, value in params[0].items():
            np.testing.assert_allclose(other[name], value, rtol=1e-7, atol=1e-10)
        for a, b in zip(histories[0], history, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-10)
            assert a["accuracy"] == pytest.approx(b["accuracy"], rel=1e-12)
