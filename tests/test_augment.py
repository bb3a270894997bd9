import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leep.data.augment import crop_and_flip


def slow_crop_and_flip(images, rng, pad):
    """One image at a time, with the same draws."""
    n, height, width, channels = images.shape
    tops, lefts = rng.integers(0, 2 * pad + 1, n), rng.integers(0, 2 * pad + 1, n)
    mirrored = rng.random(n) < 0.5
    results = []
    for image, top, left, mirror in zip(images, tops, lefts, mirrored):
        padded = np.zeros((height + 2 * pad, width + 2 * pad, channels), np.uint8)
        padded[pad : pad + height, pad : pad + width] = image
        crop = padded[top : top + height, left : left + width]
        results.append(np.fliplr(crop) if mirror else crop)
    return np.array(results, np.uint8).reshape(images.shape)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 5), st.integers(1, 7), st.integers(1, 7), st.sampled_from([1, 3])),
    pad=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_equals_the_slow_reference(shape, pad, seed):
    images = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    before = images.copy()
    result = crop_and_flip(images, np.random.default_rng(seed), pad)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, slow_crop_and_flip(images, np.random.default_rng(seed), pad))
    np.testing.assert_array_equal(images, before)


def test_without_padding_half_of_the_images_are_mirrored():
    images = np.tile(np.arange(4, dtype=np.uint8).reshape(1, 1, 4, 1), (2000, 1, 1, 1))
    rows = crop_and_flip(images, np.random.default_rng(0), pad=0)[:, 0, :, 0]
    mirrored = (rows == [3, 2, 1, 0]).all(1)
    assert ((rows == [0, 1, 2, 3]).all(1) | mirrored).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=0.05)


def test_every_offset_is_drawn():
    images = np.zeros((3000, 3, 3, 1), np.uint8)
    images[:, 1, 1] = 1
    found = crop_and_flip(images, np.random.default_rng(0), pad=1)[..., 0].mean(0)
    # the marked middle lands on each of the nine pixels equally often
    np.testing.assert_allclose(found, 1 / 9, atol=0.03)
