"""The augmentation of CIFAR training: random crop of the padded image, random horizontal flip (He et al., 2016)."""

from __future__ import annotations

import numpy as np


def crop_and_flip(images: np.ndarray, rng: np.random.Generator, pad: int = 4) -> np.ndarray:
    """A random crop of the size of the image, out of the image with `pad` zeros on every side, half of them mirrored.

    Parameters
    ----------
    images : uint8 array `(n, height, width, channels)`
    rng : numpy.random.Generator
    pad : int

    Returns
    -------
    uint8 array of the same shape
    """
    n, height, width, _ = images.shape
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows = rng.integers(0, 2 * pad + 1, n)[:, None] + np.arange(height)
    columns = rng.integers(0, 2 * pad + 1, n)[:, None] + np.arange(width)
    mirrored = rng.random(n) < 0.5
    columns[mirrored] = columns[mirrored, ::-1]
    return padded[np.arange(n)[:, None, None], rows[:, :, None], columns[:, None, :]]
