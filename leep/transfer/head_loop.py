"""One epoch of SGD on softmax cross-entropy, compiled: no Python per step, vectors of 16 classes held in registers.

Weights lie in blocks of 16 classes, `(n_blocks, n_features + 1, 16)` float32, the bias as the last row: the inner loops
run over features and keep 16 classes × 10 examples in registers. The last block is padded with classes whose
probability is exactly 0, so that their weights stay 0. Vectors are LLVM's: it maps them to what the processor has
(AVX-512, AVX2, NEON), and the order of the sums does not depend on it.

All of it stands in this file, because numba recompiles its cached code only when the file of the function changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

LANES = 16  # classes of a vector: one AVX-512 register of float32
TILE = 10  # examples that share a load of the weights: the paper's batch
UNDERFLOW_CUTOFF = -64.0  # a probability below exp(-64) of the largest is 0: no denormal numbers, which are slow


class Vector(types.Type):
    """The numba type of 16 float32 numbers."""

    def __init__(self):
        super().__init__(name="Vector")


vector = Vector()
_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, _FLOATS)


def _splat(builder, scalar):
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, ir.Constant(_FLOATS, ir.Undefined), ir.Constant(_INTS, [0] * LANES))


def _constant(value):
    return ir.Constant(_FLOATS, [float(np.float32(value))] * LANES)


def _call(builder, name, *operands):
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * len(operands))
    function = cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{LANES}f32")
    return builder.call(function, operands)


def _pointer(context, builder, array_type, array, index):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), _FLOATS.as_pointer())


@intrinsic
def load(typing_context, array, start):
    """The 16 numbers of a flat float32 array from `start`."""

    def emit(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        return builder.load(pointer, align=4)

    return vector(array, types.int64), emit


@intrinsic
def store(typing_context, array, start, v):
    """Writes 16 numbers to a flat float32 array from `start`."""

    def emit(context, builder, signature, arguments):
        builder.store(arguments[2], _pointer(context, builder, signature.args[0], *arguments[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.int64, vector), emit


@intrinsic
def splat(typing_context, x):
    """16 times the number `x`."""
    return vector(types.float32), lambda context, builder, signature, arguments: _splat(builder, *arguments)


@intrinsic
def multiply_add(typing_context, array, index, v, w):
    """array[index]·v + w, `index` at least 0: numba's own indexing spends five instructions on negative ones."""

    def emit(context, builder, signature, arguments):
        array, index, v, w = arguments
        data = context.make_array(signature.args[0])(context, builder, array).data
        return _call(builder, "fmuladd", _splat(builder, builder.load(builder.gep(data, [index]))), v, w)

    return vector(array, types.int64, vector, vector), emit


@intrinsic
def multiply(typing_context, x, v):
    """x·v, with `x` a number."""

    def emit(context, builder, signature, arguments):
        x, v = arguments
        return builder.fmul(_splat(builder, x), v)

    return vector(types.float32, vector), emit


@intrinsic
def add(typing_context, v, w):
    """v + w."""
    return vector(vector, vector), lambda context, builder, signature, arguments: builder.fadd(*arguments)


@intrinsic
def maximum(typing_context, v, w):
    """The larger of each pair; `w` where `v` is NaN."""

    def emit(context, builder, signature, arguments):
        return builder.select(builder.fcmp_ordered(">", *arguments), *arguments)

    return vector(vector, vector), emit


def _fold(combine):
    """All 16 numbers combined to one, halving the vector four times."""

    def emit(context, builder, signature, arguments):
        (v,) = arguments
        for half in (8, 4, 2, 1):
            order = ir.Constant(_INTS, [(i + half) % LANES for i in range(LANES)])
            v = combine(builder, v, builder.shuffle_vector(v, v, order))
        return builder.extract_element(v, ir.Constant(ir.IntType(32), 0))

    return emit


@intrinsic
def largest(typing_context, v):
    """The largest of the 16 numbers."""
    return types.float32(vector), _fold(lambda b, v, w: b.select(b.fcmp_ordered(">", v, w), v, w))


@intrinsic
def total(typing_context, v):
    """The sum of the 16 numbers."""
    return types.float32(vector), _fold(lambda b, v, w: b.fadd(v, w))


# exp(r) on |r| <= ln(2)/2: Taylor's coefficients 1/7! ... 1/0!, relative error below 1e-8
_EXP = [1 / 5040, 1 / 720, 1 / 120, 1 / 24, 1 / 6, 1 / 2, 1.0, 1.0]
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4  # n·high is exact: high has 10 bits


@intrinsic
def exponential(typing_context, v):
    """exp(v) for v <= 0, relative error below 3e-7; 0 below UNDERFLOW_CUTOFF; NaN stays NaN."""

    def emit(context, builder, signature, arguments):
        (v,) = arguments
        n = _call(builder, "rint", builder.fmul(v, _constant(1 / np.log(2))))
        r = _call(builder, "fmuladd", n, _constant(-_LN2_HIGH), v)
        r = _call(builder, "fmuladd", n, _constant(-_LN2_LOW), r)
        y = _constant(_EXP[0])
        for coefficient in _EXP[1:]:
            y = _call(builder, "fmuladd", y, r, _constant(coefficient))
        flushed = builder.fcmp_ordered("<", v, _constant(UNDERFLOW_CUTOFF))
        # 2^n as the exponent bits of a float32; n is clipped first, for the conversion of an infinity is undefined
        n = builder.select(builder.fcmp_ordered(">", n, _constant(-126)), n, _constant(-126))
        bits = builder.add(builder.fptosi(n, _INTS), ir.Constant(_INTS, [127] * LANES))
        power = builder.bitcast(builder.shl(bits, ir.Constant(_INTS, [23] * LANES)), _FLOATS)
        return builder.select(flushed, _constant(0.0), builder.fmul(y, power))

    return vector(vector), emit


_given = types.Array(types.float32, 1, "C", readonly=True)
_given_ints = types.Array(types.int64, 1, "C", readonly=True)
_changed = types.Array(types.float32, 1, "C")
_float, _int = types.float32, types.int64


@njit(nogil=True, error_model="numpy")
def _logits(features, rows, first, weights, mask, n_features, logits):
    """Logits of the TILE examples of `rows` from `first`, into `logits` `(rows, n_blocks · 16)`."""
    r0, r1, r2, r3, r4 = rows[first], rows[first + 1], rows[first + 2], rows[first + 3], rows[first + 4]
    r5, r6, r7, r8, r9 = rows[first + 5], rows[first + 6], rows[first + 7], rows[first + 8], rows[first + 9]
    width = len(mask)
    start = 0
    for c in range(0, width, LANES):
        bias = add(load(weights, start + n_features * LANES), load(mask, c))
        a0 = a1 = a2 = a3 = a4 = a5 = a6 = a7 = a8 = a9 = bias
        for k in range(n_features):
            w = load(weights, start + k * LANES)
            a0 = multiply_add(features, r0 + k, w, a0)
            a1 = multiply_add(features, r1 + k, w, a1)
            a2 = multiply_add(features, r2 + k, w, a2)
            a3 = multiply_add(features, r3 + k, w, a3)
            a4 = multiply_add(features, r4 + k, w, a4)
            a5 = multiply_add(features, r5 + k, w, a5)
            a6 = multiply_add(features, r6 + k, w, a6)
            a7 = multiply_add(features, r7 + k, w, a7)
            a8 = multiply_add(features, r8 + k, w, a8)
            a9 = multiply_add(features, r9 + k, w, a9)
        out = first * width + c
        store(logits, out, a0)
        store(logits, out + width, a1)
        store(logits, out + 2 * width, a2)
        store(logits, out + 3 * width, a3)
        store(logits, out + 4 * width, a4)
        store(logits, out + 5 * width, a5)
        store(logits, out + 6 * width, a6)
        store(logits, out + 7 * width, a7)
        store(logits, out + 8 * width, a8)
        store(logits, out + 9 * width, a9)
        start += (n_features + 1) * LANES


@njit(nogil=True, error_model="numpy")
def _gradients(logits, labels, width, scale):
    """Turns the logits of `len(labels)` examples into `scale` × the gradient of the loss, softmax − one-hot."""
    for i in range(len(labels)):
        row = i * width
        peak = load(logits, row)
        for c in range(row + LANES, row + width, LANES):
            peak = maximum(load(logits, c), peak)
        shift = splat(-largest(peak))
        mass = splat(np.float32(0))
        for c in range(row, row + width, LANES):
            e = exponential(add(load(logits, c), shift))
            store(logits, c, e)
            mass = add(mass, e)
        factor = scale / total(mass)
        for c in range(row, row + width, LANES):
            store(logits, c, multiply(factor, load(logits, c)))
        logits[row + labels[i]] -= scale


@njit(nogil=True, error_model="numpy")
def _add_products(target, features, rows, first, gradients, n_features, width):
    """Adds features × gradients, summed over the TILE examples of `rows` from `first`, to `target`."""
    r0, r1, r2, r3, r4 = rows[first], rows[first + 1], rows[first + 2], rows[first + 3], rows[first + 4]
    r5, r6, r7, r8, r9 = rows[first + 5], rows[first + 6], rows[first + 7], rows[first + 8], rows[first + 9]
    start = 0
    for c in range(0, width, LANES):
        at = first * width + c
        g0, g1 = load(gradients, at), load(gradients, at + width)
        g2, g3 = load(gradients, at + 2 * width), load(gradients, at + 3 * width)
        g4, g5 = load(gradients, at + 4 * width), load(gradients, at + 5 * width)
        g6, g7 = load(gradients, at + 6 * width), load(gradients, at + 7 * width)
        g8, g9 = load(gradients, at + 8 * width), load(gradients, at + 9 * width)
        zero = splat(np.float32(0))
        for k in range(n_features):
            # two chains of sums, for a multiply-add waits four cycles for the one before
            a = multiply_add(features, r0 + k, g0, load(target, start))
            b = multiply_add(features, r5 + k, g5, zero)
            a = multiply_add(features, r1 + k, g1, a)
            b = multiply_add(features, r6 + k, g6, b)
            a = multiply_add(features, r2 + k, g2, a)
            b = multiply_add(features, r7 + k, g7, b)
            a = multiply_add(features, r3 + k, g3, a)
            b = multiply_add(features, r8 + k, g8, b)
            a = multiply_add(features, r4 + k, g4, a)
            b = multiply_add(features, r9 + k, g9, b)
            store(target, start, add(a, b))
            start += LANES
        g0, g2, g4, g6, g8 = add(g0, g1), add(g2, g3), add(g4, g5), add(g6, g7), add(g8, g9)
        bias = add(add(add(g0, g2), add(g4, g6)), g8)
        store(target, start, add(load(target, start), bias))
        start += LANES


@njit(
    types.void(_given, _given_ints, _given_ints, _changed, _changed, _given, _int, _float, _float, _float),
    nogil=True,
    cache=True,
    error_model="numpy",
)
def train_epoch(features, labels, order, weights, momenta, mask, batch_size, learning_rate, momentum, weight_decay):
    """One epoch of SGD over the examples in the given order; changes `weights` and `momenta` in place.

    Parameters
    ----------
    features: flat `(n · n_features,)` float32.
    labels: `(n,)` int64 in 0..n_classes−1.
    order: `(n,)` int64, a permutation of the examples.
    weights, momenta: flat `(n_blocks · (n_features + 1) · 16,)` float32; `momenta` is not read if `momentum` is 0.
    mask: `(n_blocks · 16,)` float32, 0 for a class and −inf for padding.
    """
    n, width = len(order), len(mask)
    n_features = len(features) // n
    tiles = (batch_size + TILE - 1) // TILE
    rows = np.zeros(tiles * TILE, np.int64)  # where the features of an example start
    batch_labels = np.zeros(tiles * TILE, np.int64)
    gradients = np.zeros(tiles * TILE * width, np.float32)
    for begin in range(0, n, batch_size):
        size = min(batch_size, n - begin)
        for i in range(size):
            rows[i] = order[begin + i] * n_features
            batch_labels[i] = labels[order[begin + i]]
        used = (size + TILE - 1) // TILE * TILE
        for first in range(0, used, TILE):
            _logits(features, rows, first, weights, mask, n_features, gradients)
        _gradients(gradients, batch_labels[:size], width, -learning_rate / np.float32(size))
        gradients[size * width : used * width] = 0  # examples that only fill the last tile
        if momentum != 0:
            for j in range(len(weights)):
                momenta[j] = momentum * momenta[j] - learning_rate * weight_decay * weights[j]
            target = momenta
        else:
            if weight_decay != 0:
                for j in range(len(weights)):
                    weights[j] -= learning_rate * weight_decay * weights[j]
            target = weights
        for first in range(0, used, TILE):
            _add_products(target, features, rows, first, gradients, n_features, width)
        if momentum != 0:
            for j in range(len(weights)):
                weights[j] += momenta[j]


def train(
    features: np.ndarray,
    labels: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray,
    orders: Iterable[np.ndarray],
    *,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Weight `(n_classes, n_features)` and bias `(n_classes,)` after each epoch; an epoch runs in each of `orders`.

    Arrays are float32 and contiguous, `labels` and `orders` int64 `(n,)`. Nothing is checked here.
    """
    blocks, mask = _to_blocks(weight, bias)
    momenta = _aligned_zeros(blocks.shape if momentum else (0,))
    options = min(batch_size, len(labels)), learning_rate, momentum, weight_decay
    for order in orders:
        train_epoch(features.reshape(-1), labels, order, blocks.reshape(-1), momenta.reshape(-1), mask, *options)
        rows = blocks.swapaxes(1, 2).reshape(len(mask), -1)[: len(bias)]
        yield rows[:, :-1], rows[:, -1]


def _to_blocks(weight, bias):
    n_classes, n_features = weight.shape
    n_blocks = -(-n_classes // LANES)
    rows = np.zeros((n_blocks * LANES, n_features + 1), np.float32)
    rows[:n_classes] = np.column_stack([weight, bias])
    blocks = _aligned_zeros((n_blocks, n_features + 1, LANES))
    blocks[:] = rows.reshape(n_blocks, LANES, -1).swapaxes(1, 2)
    mask = np.where(np.arange(n_blocks * LANES) < n_classes, 0, -np.inf).astype(np.float32)
    return blocks, mask


def _aligned_zeros(shape):
    """Zeros that start on a cache line: a vector then never straddles two."""
    size = int(np.prod(shape))
    line = 4 * LANES
    memory = np.zeros(size + LANES, np.float32)
    start = -memory.ctypes.data % line // 4
    return memory[start : start + size].reshape(shape)
