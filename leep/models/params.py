"""Reads MXNet's `.params` files without MXNet."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from leep.errors import Invalid

_LIST, _V2, _V3 = 0x112, 0xF993FAC9, 0xF993FACA  # magic numbers of a list of arrays, and of an array
_DTYPES = ("<f4", "<f8", "<f2", "|u1", "<i4", "|i1", "<i8")  # MXNet's type flags


def read_params(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a `.params` file by their names, in its order: what `Block.save_parameters` of Gluon wrote.

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
        if take("QQ")[0] != _LIST:
            raise ValueError("it does not begin as one")
        arrays = []
        for _ in range(*take("Q")):
            magic, storage, n_axes = take("IiI")
            if magic not in (_V2, _V3) or storage != 0 or n_axes > 32:
                raise ValueError("an array of another version of the format, or sparse")
            shape = take(f"{n_axes}q")
            if min(shape, default=0) < 0:
                raise ValueError(f"an array of the shape {shape}")
            _, _, flag = take("iii")  # device, its number, type
            dtype = np.dtype(_DTYPES[flag])
            size = int(np.prod(shape, dtype=object))
            arrays.append(np.frombuffer(take_bytes(size * dtype.itemsize), dtype).reshape(shape))
        names = [bytes(take_bytes(*take("Q"))).decode() for _ in range(*take("Q"))]
        if len(names) != len(arrays):
            raise ValueError(f"{len(arrays)} arrays and {len(names)} names")
    except (struct.error, ValueError, IndexError, UnicodeDecodeError) as error:
        raise Invalid(f"{path}: not a .params file of MXNet, or damaged: {error}") from error
    return dict(zip(names, arrays))
