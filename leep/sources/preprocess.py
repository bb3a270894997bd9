"""Turns the images of any data set into the input of a source model."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Preprocessing:
    """Input of a source model: `size` pixels square, values in [0, 1] less `mean`, divided by `std` (per channel, RGB).

    The whole image is resized bilinearly, without a crop; a grey channel is tripled (Section 5.2).
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 `(n, height, width, 1 or 3)` → float32 `(n, 3, size, size)`."""
        if images.shape[1:3] != (self.size, self.size):
            images = _resize(images, self.size)
        return normalise(images, self.mean, self.std)

    def describe(self) -> dict:
        """The values that determine the input, for the cache key and the results."""
        return {**asdict(self), "resize": "bilinear"}


def normalise(images: np.ndarray, mean: tuple[float, float, float], std: tuple[float, float, float]) -> np.ndarray:
    """uint8 `(n, height, width, 1 or 3)` → (values in [0, 1] − `mean`) / `std`, float32 `(n, 3, height, width)`."""
    scale = np.array([1 / (255 * s) for s in std], np.float32)
    shift = np.array([-m / s for m, s in zip(mean, std)], np.float32)
    out = np.empty((len(images), 3, *images.shape[1:3]), np.float32)
    # (n, 1, h, w) is broadcast to three channels: the grey channel, three times (Section 5.2)
    np.multiply(images.transpose(0, 3, 1, 2), scale[:, None, None], out=out)
    out += shift[:, None, None]
    return out


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    channels = images.shape[3]
    frames = (Image.fromarray(i[..., 0] if channels == 1 else i) for i in images)
    return np.stack([np.asarray(f.resize((size, size), Image.Resampling.BILINEAR)) for f in frames]).reshape(
        -1, size, size, channels
    )
