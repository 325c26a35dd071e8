"""Augmentation: random changes that depend on the position alone, made ahead of the step."""

import threading

import numpy as np
import pytest

from xpnet.data import Augment, Shuffle
from xpnet.errors import ConfigError
from xpnet.nn import Dense, Flatten, Sequential
from xpnet.training.loader import Loader
from xpnet.training.trainer import Trainer


def shifted(image, down, right):
    """Shift by loops; pixels from outside the image are 0."""
    out = np.zeros_like(image)
    for i in range(image.shape[0]):
        for j in range(image.shape[1]):
            a, b = i + down, j + right
            if 0 <= a < image.shape[0] and 0 <= b < image.shape[1]:
                out[i, j] = image[a, b]
    return out


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 3)])
def test_an_image_is_moved_by_at_most_the_shift_in_every_direction(shape, rng):
    x = rng.integers(1, 255, (400, *shape)).astype(np.uint8)
    moved = Augment(shift=1).move_images(x, np.random.default_rng(0))
    assert moved.dtype == x.dtype
    directions = set()
    for before, after in zip(x, moved, strict=True):
        found = {
            (down, right)
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if (shifted(before, down, right) == after).all()
        }
        assert len(found) == 1
        directions |= found
    assert len(directions) == 9


def test_about_half_of_the_images_are_flipped(rng):
    x = rng.normal(size=(1000, 3, 4))
    flipped = Augment(flip=True).move_images(x, np.random.default_rng(0))
    unchanged = (flipped == x).all(axis=(1, 2))
    np.testing.assert_array_equal(flipped[~unchanged], x[~unchanged][:, :, ::-1])
    assert 450 < unchanged.sum() < 550


def test_noise_has_the_configured_deviation_and_keeps_the_dtype(rng):
    x = np.zeros((1000, 20), np.float32)
    noisy = Augment(noise=0.3).add_noise(x, np.random.default_rng(0))
    assert noisy.dtype == np.float32
    assert abs(noisy.std() - 0.3) < 0.01
    assert abs(noisy.mean()) < 0.01


def loader(backend, rng, augment=Augment(shift=1, flip=True, noise=0.1)):
    x = rng.integers(0, 255, (50, 6, 6)).astype(np.uint8)
    y = rng.integers(0, 3, 50)
    return Loader(backend, x, y, transform=lambda rows: rows / 255.0, augment=augment)


def test_rows_are_the_same_on_every_library_and_after_a_resume(backend32):
    made = loader(backend32, np.random.default_rng(1))
    reference = loader(backend32, np.random.default_rng(1))
    whole = [backend32.to_host(b.x) for b in made.batches(8, Shuffle(0, 3))]
    rest = [backend32.to_host(b.x) for b in reference.batches(8, Shuffle(0, 3), start=2)]
    for a, b in zip(whole[2:], rest, strict=True):
        np.testing.assert_array_equal(a, b)
    assert whole[0].dtype == np.float32
    known = float(sum(np.abs(x).sum() for x in whole))
    assert known == pytest.approx(740.98, rel=1e-5)  # the same on all libraries


def test_rows_that_are_not_shuffled_are_not_augmented(rng):
    from xpnet.backends import get_backend

    made = loader(get_backend("numpy"), rng)
    plain = np.concatenate([b.x for b in made.batches(8)])
    np.testing.assert_allclose(plain, made.arrays["x"] / 255.0, rtol=1e-6)


def test_rows_are_augmented_by_the_prefetching_thread(rng):
    from xpnet.backends import get_backend

    threads = set()

    class Recording(Augment):
        def move_images(self, x, *drawn):
            threads.add(threading.get_ident())
            return super().move_images(x, *drawn)

    made = loader(get_backend("numpy"), rng, Recording(shift=1))
    model = Sequential([Flatten(), Dense(3)])
    Trainer(model, backend=made.backend, batch_size=16).fit(made, epochs=2)
    assert threads
    assert threading.get_ident() not in threads


def test_rows_that_are_not_images_cannot_be_moved(rng):
    from xpnet.backends import get_backend

    with pytest.raises(ConfigError, match=r"moves images \(height, width\); got rows of shape"):
        Loader(get_backend("numpy"), rng.normal(size=(5, 4)), augment=Augment(shift=1))
