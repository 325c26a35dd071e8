"""Layers in float16 or bfloat16, weights in float32, and a loss scale that finds itself."""

import numpy as np
import pytest

from xpnet.errors import BackendError
from xpnet.nn import BatchNorm, Dense, ReLU, Sequential
from xpnet.nn.initializers import Zeros
from xpnet.optim.clipping import Clip
from xpnet.optim.optimizers import SGD, Adagrad, Adam, Adamax, AdamW, NAdam, RAdam
from xpnet.step.mixed_precision import CANDIDATES, Mixed, candidates
from xpnet.training.trainer import Trainer


def narrow_backends(backend, dtype):
    if backend.name == "array-api-strict" or (backend.name == "numpy" and dtype == "bfloat16"):
        with pytest.raises(BackendError, match=f"has no dtype {dtype}"):
            backend.dtype_named(dtype)
        return False
    return True


def two_blobs(rng, n=256):
    y = rng.integers(0, 2, size=n)
    x = rng.normal(size=(n, 5)) + 2.0 * y[:, None]
    return x, y


@pytest.mark.long_where(backend32=["jax"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_it_learns_and_keeps_weights_statistics_and_moments_wide(backend32, dtype, rng):
    if not narrow_backends(backend32, dtype):
        return
    x, y = two_blobs(rng)
    trainer = Trainer(
        Sequential([Dense(16), BatchNorm(), ReLU(), Dense(2)]),
        optimizer=Adam(0.01),
        backend=backend32,
        batch_size=32,
        mixed=Mixed(dtype),
    )
    history = trainer.fit((x, y), epochs=4)
    assert history[-1]["accuracy"] > 0.95
    state = trainer.engine.state
    for array in (state.params, state.stats, *state.slots, *state.totals[:4], state.scale):
        assert array.dtype == backend32.dtype


def test_the_layers_do_compute_in_the_narrow_dtype(rng):
    """Its rounding shows: the first epoch's loss differs from float32's, but not by much."""
    x, y = two_blobs(rng)
    losses = []
    for mixed in (None, Mixed("float16")):
        trainer = Trainer([Dense(8), ReLU(), Dense(2)], SGD_LOSS, SGD(0.1), mixed=mixed)
        losses.append(trainer.fit((x, y), epochs=1)[0]["loss"])
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


SGD_LOSS = "softmax_cross_entropy"


def test_an_overflowing_step_is_left_out_and_halves_the_scale(rng):
    x, y = two_blobs(rng, 64)
    trainer = Trainer(
        [Dense(8), BatchNorm(), ReLU(), Dense(2)],
        optimizer=Adam(0.01),
        batch_size=64,
        mixed=Mixed("float16", initial_scale=2.0**30),  # overflows float16 at once
    )
    with np.errstate(over="ignore", invalid="ignore"):
        trainer.fit((x, y), epochs=1)
        before = {k: v.copy() for k, v in trainer.engine.tensors().items()}
        assert before["scale"].tolist() == [2.0**29, 0.0]
        fresh = Trainer([Dense(8), ReLU(), Dense(2)]).model.build((5,))
        assert fresh.output_shape == (2,)
        assert not before["slots/m/0.dense.W"].any()  # the moments have seen nothing
        assert not before["stats/1.batch_norm.mean"].any()  # nor have the running statistics
        assert (before["stats/1.batch_norm.var"] == 1.0).all()
        trainer.fit((x, y), epochs=30)
    scale = trainer.engine.tensors()["scale"][0]
    assert scale < 2.0**29
    assert trainer.engine.tensors()["slots/m/0.dense.W"].any()
    assert np.isfinite(trainer.params["0.dense.W"]).all()


def test_a_gradient_below_float16_is_not_lost():
    """That is what the scale is for: 2^-25 is less than half of float16's smallest number."""
    x, y = np.zeros((64, 1)), np.zeros(64, dtype=np.int32)
    x[0] = 2.0**-18
    model = [Dense(2, initializer=Zeros())]
    trainer = Trainer(model, optimizer=SGD(1.0), batch_size=64, mixed=Mixed("float16"))
    trainer.fit((x, y), epochs=1)
    assert trainer.params["0.dense.W"].tolist() == [[2.0**-25, -(2.0**-25)]]


def test_the_scale_doubles_after_enough_good_steps(rng):
    x, y = two_blobs(rng, 64)
    mixed = Mixed("float16", initial_scale=8.0, growth=3)
    trainer = Trainer([Dense(4), ReLU(), Dense(2)], batch_size=64, mixed=mixed)
    trainer.fit((x, y), epochs=7)
    assert trainer.engine.tensors()["scale"].tolist() == [32.0, 1.0]


def test_bfloat16_needs_no_scale(rng):
    pytest.importorskip("jax", reason="NumPy has no bfloat16")
    x, y = two_blobs(rng, 64)
    trainer = Trainer([Dense(4), ReLU(), Dense(2)], backend="jax", mixed=Mixed("bfloat16"))
    trainer.fit((x, y), epochs=2)
    assert trainer.engine.tensors()["scale"].tolist() == [1.0, 0.0]


def test_a_snapshot_keeps_the_scale(rng):
    x, y = two_blobs(rng, 96)

    def make():
        mixed = Mixed("float16", initial_scale=8.0, growth=2)
        return Trainer([Dense(4), ReLU(), Dense(2)], batch_size=32, mixed=mixed)

    with np.errstate(over="ignore", invalid="ignore"):
        whole, first, second = make(), make(), make()
        whole.fit((x, y), epochs=4)
        first.fit((x, y), epochs=2)
        second.restore(*first.snapshot())
        second.fit((x, y), epochs=4)
    for name, value in whole.engine.tensors().items():
        assert np.array_equal(value, second.engine.tensors()[name]), name


SKIPPING = Mixed("float16", initial_scale=2.0**30, growth=5)


def full_batches(optimizer, mixed, x, y, epochs, backend="numpy", step="auto", clip=Clip()):
    trainer = Trainer(
        [Dense(2)], SGD_LOSS, optimizer, backend=backend, batch_size=len(x), mixed=mixed,
        step=step, clip=clip,
    )  # fmt: skip
    with np.errstate(over="ignore", invalid="ignore"):
        trainer.fit((x, y), epochs=epochs)
    return trainer


def test_adam_counts_the_steps_that_pytorchs_grad_scaler_takes(rng):
    torch = pytest.importorskip("torch")
    x, y = two_blobs(rng, 64)
    start = Trainer([Dense(2)], SGD_LOSS, backend="numpy").model.build((5,))
    trainer = Trainer(start, SGD_LOSS, Adam(0.1), backend="numpy", batch_size=64, mixed=SKIPPING)
    first = trainer.params
    W, b = (torch.tensor(first[f"0.dense.{name}"], requires_grad=True) for name in "Wb")
    optimizer = torch.optim.Adam([W, b], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30, growth_interval=5)
    xt, yt = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    with np.errstate(over="ignore", invalid="ignore"):
        for epoch in range(40):
            trainer.fit((x, y), epochs=epoch + 1)
            z = (xt.half() @ W.half() + b.half()).float()
            optimizer.zero_grad()
            scaler.scale(torch.nn.functional.cross_entropy(z, yt)).backward()
            scaler.step(optimizer)
            scaler.update()
            assert trainer.engine.tensors()["scale"][0] == scaler.get_scale(), epoch
            for name, theirs in (("W", W), ("b", b)):
                np.testing.assert_allclose(
                    trainer.params[f"0.dense.{name}"], theirs.detach(), rtol=0, atol=2e-3
                )
    assert trainer.engine.tensors()["skipped"] > 12  # at the start, and each time the scale grows


COUNTING = {
    "adam": Adam(0.05),
    "adamw": AdamW(0.05),
    "adamax": Adamax(0.05),
    "nadam": NAdam(0.05),
    "radam": RAdam(0.05),
    "adagrad": Adagrad(0.05, lr_decay=0.5),
    "sgd": SGD(0.05, momentum=0.9, dampening=0.9),
    "groups": Adam(0.05, lr_factors={"0.dense.b": 0.5}),
}


@pytest.mark.long_but(name=["adam", "sgd"], backend32=["numpy"])
@pytest.mark.parametrize("name", COUNTING)
def test_a_training_that_skips_is_the_one_that_does_not_a_few_steps_later(name, backend32, rng):
    if not narrow_backends(backend32, "float16"):
        return
    x, y = two_blobs(rng, 64)
    rule, steady = COUNTING[name], Mixed("float16", initial_scale=2.0**10)
    skipping = full_batches(rule, Mixed("float16", 2.0**34), x, y, 30, backend32)
    skipped = int(skipping.engine.tensors()["skipped"])
    assert skipped > 9  # more than the candidates of one look at the device
    straight = full_batches(rule, steady, x, y, 30 - skipped, backend32)
    assert straight.engine.tensors()["skipped"] == 0
    for key, value in straight.params.items():
        np.testing.assert_allclose(skipping.params[key], value, rtol=0, atol=2e-3)


def test_the_candidates_are_the_coefficients_of_the_steps_taken():
    rule = Adam(0.1)
    first = candidates(rule, 0.1, 20, 3, 2)
    rows = np.reshape(first[1:], (CANDIDATES, 3))
    assert first.skipped == 3
    for row, t in zip(rows, (17, 16, 15, 15, 15, 15, 15, 15), strict=True):
        assert tuple(row) == rule.coefficients(0.1, t)
    assert tuple(candidates(rule, 0.1, 2, 1, 7)[-3:]) == rule.coefficients(0.1, 1)


def test_steps_that_are_still_to_be_taken_may_be_skipped_too(rng):
    """The host looks at the device's count when two steps before this one are not yet taken."""
    x, y = two_blobs(rng, 64)
    rule = Adam(0.1)
    engine = full_batches(rule, SKIPPING, x, y, 3).engine
    assert engine.tensors()["skipped"] == 3
    look = 1 + CANDIDATES  # since the first step, where it looked for the first time
    assert engine.coefficients(0.1, look, 2) == candidates(rule, 0.1, look, 3, 2)
    assert engine.coefficients(0.1, look + 1, 3) == candidates(rule, 0.1, look + 1, 3, 3)
    assert engine.coefficients(0.1, look + 2) == candidates(rule, 0.1, look + 2, 3, 4)


def test_what_an_earlier_version_saved_has_skipped_nothing(rng):
    x, y = two_blobs(rng, 64)
    trainer = full_batches(Adam(0.1), SKIPPING, x, y, 3)
    tensors, meta = trainer.snapshot()
    assert tensors.pop("skipped") == 3
    again = full_batches(Adam(0.1), SKIPPING, x, y, 1)
    again.restore(tensors, meta)
    assert again.engine.tensors()["skipped"] == 0
