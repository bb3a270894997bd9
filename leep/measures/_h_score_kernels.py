"""Packed Gram matrices: the columns of the lower triangle one after the other, each from the diagonal on.

Compiled, because NumPy would pass over the matrix six times to do what one pass does.
"""

from __future__ import annotations

import numba
from numba import float64, types

_OPTIONS = {"nogil": True, "cache": True, "fastmath": {"reassoc", "contract", "nsz"}}


@numba.njit(types.void(float64[::1, :], float64[::1]), **_OPTIONS)
def pack(lower, packed):
    """The lower triangle of `lower`, `(d, d)`, into `packed`, `(d (d + 1) / 2,)`."""
    d, at = len(lower), 0
    for j in range(d):
        for i in range(j, d):
            packed[at + i - j] = lower[i, j]
        at += d - j


@numba.njit(
    float64(types.Array(float64, 1, "C", readonly=True), float64, float64[::1], float64[::1], float64[::1, :]),
    **_OPTIONS,
)
def unpack_correlation(packed, n, mean, scale, lower):
    """Lower triangle of (gram − n · mean meanᵀ) / (scale scaleᵀ) into `lower`, `(d, d)`; its 1-norm as a whole."""
    d, at = len(mean), 0
    norms = mean * 0.0
    for j in range(d):
        shift, factor, total = n * mean[j], 1.0 / scale[j], 0.0
        for i in range(j, d):
            value = (packed[at + i - j] - shift * mean[i]) * (factor / scale[i])
            lower[i, j] = value
            norms[i] += abs(value)
            total += abs(value)
        norms[j] += total - abs(lower[j, j])
        at += d - j
    return norms.max()
