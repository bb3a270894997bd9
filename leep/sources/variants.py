"""The sizes of EfficientNet-Lite, known without importing MXNet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """Input size in pixels, and what multiplies the width and the depth of every stage."""

    size: int
    width: float
    depth: float


VARIANTS = {
    "efficientnet_lite0": Variant(224, 1.0, 1.0),
    "efficientnet_lite1": Variant(240, 1.0, 1.1),
    "efficientnet_lite2": Variant(260, 1.1, 1.2),
}
