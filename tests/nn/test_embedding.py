"""Embeddings and feature scales are PyTorch's, on every backend; and what they refuse."""

import numpy as np
import pytest

from xpnet.check.gradcheck import gradcheck
from xpnet.errors import ConfigError
from xpnet.nn import Dense, Dropout, Embedding, FeatureScale, Flatten, Sequential, Tanh
from xpnet.nn.fit import check_codes
from xpnet.ops import embedding as ops
from xpnet.ops import embedding_codes, summed_by_level
from xpnet.step.mixed_precision import Mixed
from xpnet.training.trainer import Trainer

N, SIZES, K = 40, (4, 7), 3
LAYERS = [Embedding(SIZES, width=3), FeatureScale(), Dense(8), Tanh(), Dense(K)]


@pytest.fixture
def table(rng):
    """Two numbers and two codes for each row, and a class."""
    codes = np.stack([rng.integers(size, size=N) for size in SIZES], axis=1)
    return np.concatenate([rng.normal(size=(N, 2)), codes], axis=1), rng.integers(K, size=N)


@pytest.mark.long_where(backend=["jax"])
def test_training_is_pytorchs(backend, table):
    """Five steps of gradient descent from the same weights."""
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    ours = Trainer(Sequential(LAYERS).build((4,)), "softmax_cross_entropy", "sgd", backend=backend,
                   batch_size=N)  # fmt: skip
    t = {k: torch.tensor(v, requires_grad=True) for k, v in ours.params.items()}
    x, y = torch.tensor(table[0]), torch.tensor(table[1])
    for _ in range(5):
        codes = zip(SIZES, x[:, 2:].long().T, strict=True)
        rows = [torch.nn.functional.embedding(c, t[f"0.embedding.E{i}"])
                for i, (_, c) in enumerate(codes)]  # fmt: skip
        z = torch.cat([x[:, :2], *rows], dim=1) * t["1.feature_scale.s"]
        z = torch.tanh(z @ t["2.dense.W"] + t["2.dense.b"]) @ t["4.dense.W"] + t["4.dense.b"]
        loss = torch.nn.functional.cross_entropy(z, y)
        for tensor, gradient in zip(
            t.values(), torch.autograd.grad(loss, [*t.values()]), strict=True
        ):
            tensor.data -= 0.01 * gradient
    ours.fit(table, epochs=5)
    for name, value in ours.params.items():
        np.testing.assert_allclose(value, t[name].detach(), rtol=0, atol=1e-12, err_msg=name)


def test_a_code_that_is_not_in_the_table_reads_row_0(backend):
    x = backend.asarray(np.array([[-1.0], [4.0], [np.nan], [np.inf], [1e30], [3.0], [2.6], [-0.4]]))
    (codes,) = embedding_codes(x, [4])
    assert backend.to_host(codes).tolist() == [0, 0, 0, 0, 0, 3, 3, 0]


def test_the_gradient_of_a_table_is_added_up_by_level_whatever_the_blocks(
    backend32, rng, monkeypatch
):
    dy, codes = rng.normal(size=(50, 3)), rng.integers(11, size=50)
    expected = np.zeros((12, 3))
    np.add.at(expected, codes, dy)
    placed = backend32.asarray(dy), backend32.asarray(codes, dtype="int32")
    whole = backend32.to_host(summed_by_level(*placed, 12))
    np.testing.assert_allclose(whole, expected, rtol=1e-5, atol=1e-5)
    assert not whole[11].any()
    monkeypatch.setitem(summed_by_level.__globals__, "BLOCK", 50 * 5)  # 5, 5 and 2 levels
    blocks = summed_by_level(*placed, 12)
    assert backend32.to_host(blocks).shape == (12, 3)
    np.testing.assert_allclose(backend32.to_host(blocks), expected, rtol=1e-5, atol=1e-5)
    again = backend32.to_host(summed_by_level(*placed, 12))
    assert np.array_equal(backend32.to_host(blocks), again)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_fused_step_embeds_as_the_portable_one(dtype, table):
    options = {"backend": "numpy", "dtype": dtype, "batch_size": 16}
    a, b = (Trainer(LAYERS, step=step, **options) for step in ("fused", "portable"))
    for trainer in (a, b):
        trainer.fit(table, epochs=3)
    assert "embedding (its output or its parameters have another width" in a.engine.step.note
    assert "feature_scale" not in a.engine.step.note
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    for name, value in a.params.items():
        np.testing.assert_allclose(value, b.params[name], rtol=0, atol=tolerance, err_msg=name)


def test_the_gradient_is_the_derivative_of_the_cost(table):
    report = gradcheck(Sequential(LAYERS), x=table[0], y=table[1])
    assert report.ok, report.faults
    assert {"0.embedding.E0", "0.embedding.E1", "1.feature_scale.s"} <= {
        c.tensor for c in report.checks
    }


def test_codes_that_a_narrow_dtype_would_round_are_refused(rng):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    small, large = [Embedding((5, 257)), Dense(K)], [Embedding((5, 258)), Dense(K)]
    assert Trainer(Sequential(small).build((3,)), backend="torch", mixed=Mixed("bfloat16")).engine
    with pytest.raises(ConfigError, match=r"codes up to 257, and bfloat16 .* up to 256.*mixed"):
        Trainer(Sequential(large).build((3,)), backend="torch", mixed=Mixed("bfloat16")).snapshot()
    assert Trainer(Sequential(large).build((3,)), backend="torch", mixed=Mixed("float16")).engine
    check_codes(Sequential([Embedding((2**24 + 1,)), Dense(K)]), "float32")
    with pytest.raises(ConfigError, match="use dtype float64"):
        check_codes(Sequential([Embedding((2**24 + 2,)), Dense(K)]), "float32")


def test_codes_come_from_the_data():
    check_codes(Sequential([Flatten(), *LAYERS]), "float32")
    for before in (Dense(4), FeatureScale(), Dropout(0.1)):
        with pytest.raises(
            ConfigError, match=r"embedding takes codes, .* would change: put it fir"
        ):
            check_codes(Sequential([before, *LAYERS]), "float32")


def test_what_an_embedding_cannot_be():
    with pytest.raises(ConfigError, match="needs the sizes of its codes"):
        Embedding(())
    with pytest.raises(ConfigError, match=r"an embedding of 2 codes takes .* got shape \(1,\)"):
        Embedding(SIZES).build((1,))
    with pytest.raises(ConfigError, match="this embedding takes 4 inputs; got 5"):
        Embedding(SIZES).build((4,))[0].build((5,))


def test_all_inputs_may_be_codes(backend):
    x = backend.asarray(np.array([[0.0, 2.0], [1.0, 0.0]]))
    E = [backend.asarray(np.arange(4.0).reshape(2, 2)), backend.asarray(np.arange(3.0)[:, None])]
    y = ops(x, E, embedding_codes(x, [2, 3]))
    assert backend.to_host(y).tolist() == [[0.0, 1.0, 2.0], [2.0, 3.0, 0.0]]
