"""Reads MXNet's `.params` files without MXNet."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from leep.errors import Invalid

MAGIC = struct.pack("<Q", 0x112)  # of a list of arrays
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA  # of an array
_DTYPES = ("<f4", "<f8", "<f2", "|u1", "<i4", "|i1", "<i8")  # MXNet's type flags


def read_params(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.params` file by their names, in its order, as MXNet wrote them.

    `Block.save_parameters` of Gluon names them by the network's structure (`features.0.weight`), and `export` by the
    layers (`arg:resnetv10_conv0_weight`, `aux:…`).

    Raises
    ------
    Invalid
        If the file is damaged, or of another kind.
    """
    data = memoryview(Path(path).read_bytes())
    position = 0

    def take(form: str) -> tuple[int, ...]:
        nonlocal position
        values = struct.unpack_from("<" + form, data, position)
        position += struct.calcsize("<" + form)
        return values

    def take_bytes(n: int) -> memoryview:
        nonlocal position
        if n > len(data) - position:
            raise ValueError(f"it ends after {len(data)} bytes, in the middle of an array")
        position += n
        return data[position - n : position]

    try:
        if bytes(take_bytes(16))[:8] != MAGIC:
            raise ValueError("it does not begin as one")
        arrays = []
        for _ in range(*take("Q")):
            (magic,) = take("I")
            storage = take("i")[0] if magic != _V1 else 0
            (n_axes,) = take("I")
            if magic not in (_V1, _V2, _V3) or storage != 0 or n_axes > 32:
                raise ValueError("an array of another version of the format, or sparse")
            shape = take(f"{n_axes}q")
            if min(shape, default=0) < 0:
                raise ValueError(f"an array of the shape {shape}")
            _, _, flag = take("iii")  # device, its number, type
            dtype = np.dtype(_DTYPES[flag])
            size = int(np.prod(shape, dtype=object))
            arrays.append(np.frombuffer(take_bytes(size * dtype.itemsize), dtype).reshape(shape))
        names = [bytes(take_bytes(*take("Q"))).decode() for _ in range(*take("Q"))]
        if arrays and not names:
            raise ValueError("a list of arrays without names; save a network by net.save_parameters(FILE)")
        if len(names) != len(arrays):
            raise ValueError(f"{len(arrays)} arrays and {len(names)} names")
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise Invalid(f"{path}: not a .params file of MXNet, or damaged: {error}") from error
    return dict(zip(names, arrays))
