"""A vector kept as its tensors computes what the flat vector does, and XLA moves nothing for it."""

import re

import numpy as np
import pytest
from array_api_compat import array_namespace

from xpnet.backends import get_backend
from xpnet.nn import BatchNorm, Dense, ReLU, Sequential
from xpnet.nn.losses import SoftmaxCrossEntropy
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import OPTIMIZERS, Adam
from xpnet.split_vector import SplitVector
from xpnet.step import Batch, StepInputs
from xpnet.training.engine import Engine

SHAPES = ((3, 4), (4,), (1,))


def split(flat):
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES])
    parts = np.split(flat.copy(), ends[:-1])
    return SplitVector(tuple(p.reshape(shape) for p, shape in zip(parts, SHAPES, strict=True)))


def flat_of(vector):
    return np.concatenate([t.ravel() for t in vector.tensors])


def vectors(rng, count):
    return rng.normal(size=(count, 17))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("clip", [Clip(), Clip(norm=0.5, value=0.3)], ids=["free", "clipped"])
def test_update_rules_and_clips_take_it_as_one_vector(name, clip, rng):
    rule = OPTIMIZERS[name](0.1, weight_decay=0.01)
    params, *grads = vectors(rng, 4)
    parted, slots = split(params), rule.init(params)
    parted_slots = rule.init(parted)
    for t, grad in enumerate(grads, 1):
        c, parted_grad = rule.coefficients(0.1, t), clip.apply(split(grad))
        params, slots = rule.update(params, clip.apply(grad), slots, c)
        parted, parted_slots = rule.update(parted, parted_grad, parted_slots, c)
    for expected, actual in zip((params, *slots), (parted, *parted_slots), strict=True):
        np.testing.assert_allclose(flat_of(actual), expected, rtol=1e-13)


def test_operators_take_scalars_and_vectors_on_either_side(rng):
    x, y = vectors(rng, 2)
    p, q = split(x), split(y)
    np.testing.assert_array_equal(flat_of(2.0 - p / q), 2.0 - x / y)
    np.testing.assert_array_equal(flat_of(1.0 / abs(-p) ** 2), 1.0 / abs(-x) ** 2)
    np.testing.assert_array_equal(flat_of((p > 0.0) & ~(p == q)), (x > 0.0) & ~(x == y))


def test_functions_act_on_the_tensors_and_reductions_on_all_of_them(rng):
    (x,) = vectors(rng, 1)
    p = split(x)
    xp = array_namespace(p)
    np.testing.assert_array_equal(flat_of(xp.where(p > 0.0, p, 0.0)), np.where(x > 0.0, x, 0.0))
    assert xp.max(p) == x.max()
    assert not xp.all(p > x.min())
    np.testing.assert_allclose(xp.linalg.vector_norm(p), np.linalg.norm(x), rtol=1e-14)
    assert xp.zeros((2,)).shape == (2,)


def test_a_function_that_needs_the_order_of_the_elements_is_refused():
    jnp = pytest.importorskip("jax.numpy")
    p = SplitVector((jnp.ones((2, 2)), jnp.ones(3)))
    with pytest.raises((TypeError, AttributeError), match="SplitVector"):
        array_namespace(p).cumulative_sum(p)


def compiled_step(layers):
    backend = get_backend("jax", "cpu", "float32")
    model = Sequential(layers).build((16,))
    engine = Engine(backend, model, SoftmaxCrossEntropy(), Adam())
    batch = Batch(backend.asarray(np.ones((8, 16))), backend.asarray(np.zeros(8, int)))
    inputs = StepInputs(0, Adam().coefficients(0.001, 1))
    return engine, engine.step.train.lower(engine.state, batch, inputs).compile()


def test_a_step_of_jax_joins_and_slices_no_vector():
    """XLA made of the joint gradient a loop that took longer than the rest of the step."""
    pytest.importorskip("jax")
    engine, compiled = compiled_step([Dense(12), BatchNorm(), ReLU(), Dense(3)])
    text = compiled.as_text()
    assert not re.findall(r"\bconcatenate\(", text)
    assert not re.findall(r"\bslice\(%?state_", text)
    assert engine.params_layout.size not in map(int, re.findall(r"f32\[(\d+)\]", text))


def test_a_step_of_jax_updates_all_of_its_state_in_place():
    pytest.importorskip("jax")
    engine, compiled = compiled_step([Dense(12), ReLU(), Dense(3)])
    assert compiled.memory_analysis().alias_size_in_bytes >= engine.nbytes
