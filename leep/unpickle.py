"""Reads a pickle without importing anything that it names: only what the reader admits can be called."""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Callable, Mapping
from pickle import UnpicklingError
from pickletools import genops, markobject

import numpy as np

MOST_STEPS = 2_000_000  # a batch of CIFAR takes 50,000, a tensor of PyTorch 30
_KEY_STEPS = 9  # bytes that Python 3 pickled for Python 2 take six
# Pickles of data hold neither sets nor buffers. The others make the scan below and the unpickler see different stacks.
_REFUSED = re.compile("POP|POP_MARK|DUP|EXT[124]|EMPTY_SET|ADDITEMS|FROZENSET|NEXT_BUFFER|READONLY_BUFFER")
_DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")

Admitted = Mapping[str, Callable | None]


class Name:
    """What an admitted name stands for in a pickle: it can be called if it has a function, and it has no state."""

    __slots__ = ("_function", "name")

    def __init__(self, name: str, function: Callable | None):
        self.name, self._function = name, function

    def __call__(self, *arguments):
        if self._function is None:
            raise UnpicklingError(f"a call of {self.name}")
        return self._function(*arguments)

    def __setstate__(self, state):  # without it, a pickle could replace the function
        raise UnpicklingError(f"a state for {self.name}")


class Inert:
    """Stands in a pickle for an object of a class that is not imported; it takes any arguments and state."""

    __slots__ = ()

    def __new__(cls, *_):
        return super().__new__(cls)

    def __setstate__(self, state):
        """Forget it."""

    def __setitem__(self, key, value):
        """Forget it."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, admitted: Admitted, storage: Callable | None, encoding: str):
        super().__init__(file, encoding=encoding)
        self._admitted, self._storage = admitted, storage

    def find_class(self, module, name):
        if (full := f"{module}.{name}") not in self._admitted:
            raise UnpicklingError(f"the name {full[:200]!r}, which is refused")
        return Inert if self._admitted[full] is Inert else Name(full, self._admitted[full])

    def persistent_load(self, identity):
        if self._storage is None:
            raise UnpicklingError("a persistent id, which is refused")
        return self._storage(identity)


def unpickle(
    file: io.BytesIO, admitted: Admitted, storage: Callable[[object], object] | None = None, encoding: str = "bytes"
) -> object:
    """Read one pickle from a file, up to its end; memory stays within a small multiple of the pickle's size.

    Parameters
    ----------
    file : BytesIO
        At the beginning of the pickle. An open file will not do, because its `read` allocates what a pickle claims.
    admitted : mapping of str to callable or None
        What stands for each name, `module.name`, that the pickle may refer to. Every other name is an error. The
        functions are called with what the file says, so they check it; None admits the name and no call. `Inert`
        admits a class whose objects nobody needs.
    storage : callable, optional
        Called with each persistent id; without it such an id is an error.
    encoding : str
        Of Python 2's strings; `bytes` leaves them bytes.

    Raises
    ------
    Exception
        Of nearly any type, if the file is not such a pickle; the reader turns it into its own.
    """
    begin = file.tell()
    _check_steps(file)
    file.seek(begin)
    return _Unpickler(file, admitted, storage, encoding).load()


def _check_steps(file: io.BytesIO) -> None:
    """Refuse what takes the unpickler memory or time beyond the pickle's size.

    A PUT index above the number of opcodes is refused because the unpickler would allocate a memo of that size (1.5 GB
    for nine bytes; Python 3.10 to 3.13). A key that took more than a few opcodes is refused because the hash of nested
    tuples visits each of them as often as it is referred to. A frame must end where an opcode ends, because the
    unpickler skips the rest of one otherwise, and would read other opcodes than are scanned here. `genops` refuses a
    length beyond the end of the file.
    """
    stack, marks, memo = [], [], {}  # of each object on the stack, the opcodes that it took, at most _KEY_STEPS
    last = frame_end = 0
    for step, (opcode, argument, position) in enumerate(genops(file)):
        name, before = opcode.name, opcode.stack_before
        if last < frame_end < position or (name == "FRAME" and position < frame_end):
            raise UnpicklingError(f"a frame that ends within an opcode or holds another, at step {step}")
        last, frame_end = position, position + 9 + argument if name == "FRAME" else frame_end
        if step > MOST_STEPS or ("PUT" in name and argument > step) or _REFUSED.fullmatch(name):
            raise UnpicklingError(f"the opcode {name} of {argument!r:.40} at step {step}, which is refused")
        begin = marks.pop() - before.index(markobject) if markobject in before else len(stack) - len(before)
        taken = stack[begin:]
        del stack[begin:]
        keys = taken[1::2] if name.startswith("SETITEM") else taken[::2] if name == "DICT" else ()
        if any(key >= _KEY_STEPS for key in keys):
            raise UnpicklingError(f"a key of {_KEY_STEPS} opcodes or more at step {step}, which is refused")
        if name == "MARK":
            marks.append(len(stack))
        elif "GET" in name:
            stack.append(memo[argument])
        elif "PUT" in name:
            memo[argument] = stack[-1]
        else:
            stack += [min(1 + sum(taken), _KEY_STEPS)] * len(opcode.stack_after)
            if name == "MEMOIZE":
                memo[len(memo)] = stack[-1]


class _DType:
    """Stands for a dtype of plain numbers while the pickle is read."""

    def __init__(self, code: str | bytes, *_):
        code = code.decode() if isinstance(code, bytes) else code
        if code not in _DTYPES:
            raise UnpicklingError("an array that is not of plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        order = state[1] if isinstance(state[1], str) else state[1].decode()
        self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """Stands for an array while the pickle is read, and shares the bytes in it."""

    values: np.ndarray

    def __setstate__(self, state):
        _, shape, dtype, fortran, raw = state
        self.fill(raw, dtype, shape, "F" if fortran else "C")

    def fill(self, raw: bytes, dtype: _DType, shape: tuple[int, ...], order: str, *_) -> _Array:
        if type(shape) is not tuple or len(shape) > 32 or not all(type(n) is int and 0 <= n < 2**63 for n in shape):
            raise UnpicklingError("an array of an impossible shape")
        if not isinstance(raw, bytes | bytearray) or math.prod(shape) * dtype.dtype.itemsize != len(raw):
            raise UnpicklingError(f"an array of shape {shape} with more or fewer bytes")
        self.values = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)
        return self


def _scalar(dtype: _DType, raw: bytes) -> np.generic:
    (value,) = np.frombuffer(raw, dtype.dtype)
    return value


def _encoder() -> Callable:
    """What protocol 2 calls for `bytes`. A text is encoded once, because a pickle may ask for it many times."""
    encoded: dict[str, bytes] = {}

    def encode(text: str, encoding: str = "latin1") -> bytes:
        if type(text) is not str or encoding != "latin1":
            raise UnpicklingError("an encoding that is not latin1")
        if text not in encoded:
            encoded[text] = text.encode("latin1")
        return encoded[text]

    return encode


def unpickle_arrays(file: io.BytesIO) -> object:
    """Read a pickle of NumPy arrays and plain containers, Python 2's strings as `bytes`.

    Parameters
    ----------
    file : BytesIO
        As for `unpickle`.

    Returns
    -------
    object
        If it is a dictionary, its values that are arrays are ndarrays, read-only. Deeper ones are not looked for.

    Raises
    ------
    Exception
        As `unpickle`.

    Examples
    --------
    >>> import io, pickle
    >>> unpickle_arrays(io.BytesIO(pickle.dumps({"labels": [3, 1], "data": np.array([5, 7], np.uint8)})))
    {'labels': [3, 1], 'data': array([5, 7], dtype=uint8)}
    """
    admitted = {"numpy.ndarray": None, "numpy.dtype": _DType, "_codecs.encode": _encoder()}
    for core in ("numpy.core", "numpy._core"):  # of NumPy 1 and 2
        admitted[f"{core}.multiarray._reconstruct"] = lambda *_: _Array()
        admitted[f"{core}.multiarray.scalar"] = _scalar
        admitted[f"{core}.numeric._frombuffer"] = lambda *arguments: _Array().fill(*arguments)  # of protocol 5
    content = unpickle(file, admitted)
    if isinstance(content, dict):
        content = {key: value.values if isinstance(value, _Array) else value for key, value in content.items()}
    return content
