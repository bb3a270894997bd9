"""Depthwise convolution for training on the CPU, with gradients that cost about as much as the forward pass.

In bfloat16 oneDNN has no compiled kernel for the weight gradient of a 5 × 5 depthwise convolution, nor for the input
gradient of one with stride 2: they took 25 to 170 times the forward pass. Both are sums that its fast kernels do
compute: the first by four 3 × 3 windows, the second as a convolution of the gradient, spread out by the stride, with
the turned kernel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_WEIGHT, _INPUT = [False, True, False], [True, False, False]


class DepthwiseConvolution(torch.autograd.Function):
    """`conv2d(x, weight, stride=stride, padding=pad, groups=channels)` of a square odd kernel, without bias."""

    @staticmethod
    def forward(ctx, x, weight, stride: int, pad: int):
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.pad = stride, pad
        return F.conv2d(x, weight, None, stride, pad, 1, len(weight))

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        needs_x, needs_weight = ctx.needs_input_grad[:2]
        grad_x = _input_gradient(gradient, x, weight, ctx.stride, ctx.pad) if needs_x else None
        grad_weight = _weight_gradient(gradient, x, weight, ctx.stride, ctx.pad) if needs_weight else None
        return grad_x, grad_weight, None, None


def _backward(gradient, x, weight, stride, pad, which):
    sizes = [stride, stride], [pad, pad], [1, 1], False, [0, 0]
    return torch.ops.aten.convolution_backward(gradient, x, weight, None, *sizes, len(weight), which)


def _input_gradient(gradient, x, weight, stride, pad):
    if stride == 1:
        return _backward(gradient, x, weight, stride, pad, _INPUT)[0]
    kernel = weight.shape[-1]
    edge = kernel - 1 - pad
    (n, channels, *sizes), rows = gradient.shape, []
    for before, after in zip(x.shape[2:], sizes):
        unused = before + 2 * pad - kernel - (after - 1) * stride  # pixels that no window of the last step reaches
        end = edge + (after - 1) * stride + 1
        rows.append((slice(edge, end, stride), end + edge + unused))
    (down, height), (across, width) = rows
    spread = torch.zeros(n, height, width, channels, dtype=gradient.dtype, device=gradient.device).permute(0, 3, 1, 2)
    spread[:, :, down, across] = gradient
    return F.conv2d(spread, weight.flip(2, 3), None, 1, 0, 1, channels)


def _weight_gradient(gradient, x, weight, stride, pad):
    if weight.shape[-1] != 5:
        return _backward(gradient, x, weight, stride, pad, _WEIGHT)[1]
    x = F.pad(x, (pad, pad, pad, pad))
    height, width = ((m - 1) * stride + 3 for m in gradient.shape[2:])
    window, out = weight[:, :, :3, :3].contiguous(), torch.empty_like(weight)
    for i in (0, 2):
        for j in (0, 2):
            part = x[:, :, i : i + height, j : j + width].contiguous(memory_format=torch.channels_last)
            out[:, :, i : i + 3, j : j + 3] = _backward(gradient, part, window, stride, 0, _WEIGHT)[1]
    return out
