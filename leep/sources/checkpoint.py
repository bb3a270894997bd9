"""Reads a PyTorch checkpoint without PyTorch: tensors and plain containers only, nothing in the file is executed."""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from pickletools import genops
from typing import BinaryIO

import numpy as np

from leep.sources.weights import WeightsError

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_PICKLE_BYTES = 64 << 20
_STEPS = 2_000_000  # a tensor takes about 30
# The arrays take at most as many times the file's size: twice for half precision, more for shared storages.
_REPEATS = 8
_DTYPES = {
    "torch DoubleStorage": "<f8",
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": "<u2",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "|i1",
    "torch ByteStorage": "|u1",
    "torch BoolStorage": "|b1",
}
_BUILDERS = (
    "collections OrderedDict",
    "torch Size",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERAL = re.compile("BININT[12]?|LONG[14]|BINFLOAT|(SHORT_)?BIN(UNICODE|STRING)|BINUNICODE8")


@dataclass(frozen=True)
class _Global:
    """An admitted name, `module name`; it stands for itself and cannot be called."""

    name: str


@dataclass(frozen=True)
class _Storage:
    kind: str  # a key of _DTYPES
    key: str
    numel: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(_DTYPES[self.kind])

    @property
    def n_bytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_checkpoint(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a PyTorch checkpoint (`.pth`, written by `torch.save` in either of its formats).

    A state dict inside `state_dict`, `model` or `model_state_dict` is unwrapped, and a `module.` that begins every name
    (DataParallel) is dropped.

    Returns
    -------
    dict of str to ndarray
        By the names of the state dict, in its order, contiguous. Floating point of any width, bfloat16 included,
        becomes float32; integers and booleans stay as they are.

    Raises
    ------
    OSError
        If the file cannot be read.
    WeightsError
        If it is damaged, or holds anything but one flat mapping of names to dense tensors. Nothing that a file says
        makes it run code, and memory stays within a small multiple of the file's size.
    """
    data = Path(path).read_bytes()
    try:
        content, fetch = _open_zip(data) if data.startswith(b"PK\x03\x04") else _open_legacy(data)
        tensors = _state_dict(content)
        stored = sum({t.storage.key: t.storage.n_bytes for t in tensors.values()}.values())
        spread = sum(math.prod(t.size) * max(4, t.storage.dtype.itemsize) for t in tensors.values())
        if stored > len(data) or spread > _REPEATS * len(data):
            raise ValueError(f"a file of {len(data)} bytes, with {stored} bytes of storages, {spread} of tensors")
        return {name: _array(tensor, fetch(tensor.storage.key)) for name, tensor in tensors.items()}
    except Exception as error:  # a damaged file can raise nearly anything
        reason = str(error) if type(error) is ValueError else repr(error)
        raise WeightsError(f"{path} must be a PyTorch state dict (of torch.save), got {reason[:500]}") from error


def _open_zip(data: bytes) -> tuple[object, Callable[[str], bytes | memoryview]]:
    """The object of a zip checkpoint (PyTorch ≥ 1.6), and what gives the bytes of a storage by its key."""
    archive = zipfile.ZipFile(io.BytesIO(data))
    names = archive.namelist()
    pickles = [name for name in names if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1 or len(set(names)) != len(names):
        raise ValueError(f"a zip file with {len(pickles)} data.pkl among {len(set(names))} names of {len(names)} files")
    folder = pickles[0].removesuffix("data.pkl")

    def read(name: str) -> bytes:
        entry = archive.getinfo(folder + name)
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(data):
            raise ValueError(f"{entry.filename[:100]!r} compressed, or of {entry.file_size} bytes in {len(data)}")
        return archive.read(entry)

    if folder + "byteorder" in names and (order := read("byteorder")) != b"little":
        raise ValueError(f"the byte order {order[:10]!r}, not little")
    storages: dict[str, _Storage] = {}
    content = _unpickle(io.BytesIO(read("data.pkl")), storages)

    def fetch(key: str) -> bytes:
        if key not in fetched:
            fetched[key] = read(f"data/{key}")
            if len(fetched[key]) != storages[key].n_bytes:
                raise ValueError(f"storage {key[:100]!r} of {len(fetched[key])} bytes, not {storages[key].n_bytes}")
        return fetched[key]

    fetched: dict[str, bytes] = {}
    return content, fetch


def _open_legacy(data: bytes) -> tuple[object, Callable[[str], bytes | memoryview]]:
    """Like `_open_zip`, of the older format: five pickles, then each storage's length and bytes."""
    file = io.BytesIO(data)
    if _unpickle(file) != _MAGIC or _unpickle(file) != _PROTOCOL:
        raise ValueError("another magic number or protocol version")
    if not isinstance(info := _unpickle(file), dict) or info.get("little_endian") is not True:
        raise ValueError("system information that does not say little_endian")
    storages: dict[str, _Storage] = {}
    content = _unpickle(file, storages)
    chunks: dict[str, memoryview] = {}
    if not isinstance(keys := _unpickle(file), list):
        raise ValueError(f"storage keys in a {type(keys).__name__}, not a list")
    for key in keys:
        if not isinstance(key, str) or key not in storages or key in chunks:
            raise ValueError("a storage key that no tensor has, or twice")
        storage, header = storages[key], file.read(8)
        begin, numel = file.tell(), int.from_bytes(header, "little")
        if len(header) < 8 or numel != storage.numel or storage.n_bytes > len(data) - begin:
            left = len(data) - begin
            raise ValueError(f"storage {key[:100]!r} of {numel} elements in {left} bytes, not {storage.numel}")
        chunks[key] = memoryview(data)[begin : begin + storage.n_bytes]
        file.seek(begin + storage.n_bytes)
    return content, chunks.__getitem__


def _unpickle(file: BinaryIO, storages: dict[str, _Storage] | None = None) -> object:
    """Follow the opcodes that PyTorch writes and refuse the others; storages are put into `storages` by key.

    `pickle.Unpickler` is not used: it sets state and calls what it is given, and its memo takes any size.
    """
    stack, below, memo = [], [], {}
    begin, steps = file.tell(), 0

    def above_mark() -> list:
        nonlocal stack
        items, stack = stack, below.pop()
        return items

    for opcode, argument, position in genops(file):
        steps += 1
        if steps > _STEPS or position - begin > _PICKLE_BYTES:
            raise ValueError(f"a pickle of more than {_STEPS} steps or {_PICKLE_BYTES} bytes")
        match name := opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _ if _LITERAL.fullmatch(name):
                stack.append(argument)
            case _ if name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            case "EMPTY_DICT" | "EMPTY_LIST":
                stack.append({} if name == "EMPTY_DICT" else [])
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                memo[len(memo) if argument is None else argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE":
                items = tuple(above_mark())
                stack.append(items)
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "APPEND" | "APPENDS":
                items = above_mark() if name == "APPENDS" else [stack.pop()]
                list.extend(stack[-1], items)
            case "SETITEM" | "SETITEMS":
                items = above_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                _set_items(stack[-1], zip(items[::2], items[1::2], strict=True))
            case "GLOBAL" | "STACK_GLOBAL":
                if name == "STACK_GLOBAL":
                    argument = " ".join([stack.pop(-2), stack.pop()])
                if argument not in _DTYPES and argument not in _BUILDERS:
                    raise ValueError(f"{argument[:200]!r}, which is refused: save the network's state_dict() alone")
                stack.append(_Global(argument))
            case "BINPERSID":
                stack.append(_storage(stack.pop(), storages))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                if arguments and isinstance(arguments[0], list):
                    steps += len(arguments[0])
                stack.append(_rebuild(function, arguments))
            case "BUILD":  # the _metadata of a state dict, which no tensor needs
                if not isinstance(stack.pop(), dict) or not isinstance(stack[-1], dict):
                    raise ValueError("a state for an object that is not an OrderedDict")
            case _:
                raise ValueError(f"the opcode {name}, which is refused")
    (result,) = stack
    return result


def _set_items(target: dict, items: Iterable) -> None:
    for key, value in items:
        if not isinstance(key, str) and not (isinstance(key, int) and 0 <= key < 2**31):  # no chosen hashes
            raise ValueError(f"a key of type {type(key).__name__}, or an integer that counts no parameters")
        dict.__setitem__(target, key, value)


def _storage(identity: object, storages: dict[str, _Storage] | None) -> _Storage:
    if (
        storages is not None
        and isinstance(identity, tuple)
        and (len(identity) == 5 or (len(identity) == 6 and identity[5] is None))
    ):
        match identity[:5]:
            case ("storage", _Global(kind), str() as key, str(), int() as numel) if kind in _DTYPES and numel >= 0:
                storage = _Storage(kind, key, numel)
                if storages.setdefault(key, storage) != storage:
                    raise ValueError(f"storage {key[:100]!r} with two types or lengths")
                return storage
    raise ValueError("a persistent id that is not of a storage")


def _rebuild(function: _Global, arguments: tuple) -> object:
    match function.name.rpartition(" ")[2], arguments:
        case "OrderedDict", ():
            return {}
        case "OrderedDict", (list() as pairs,):  # as Python 2 wrote it
            _set_items(result := {}, pairs)
            return result
        case "Size", (tuple() as size,):
            return size
        case "_rebuild_parameter", (_Tensor() as tensor, _, _):
            return tensor
        case "_rebuild_tensor", (_Storage() as storage, offset, size, stride):
            return _tensor(storage, offset, size, stride)
        case "_rebuild_tensor_v2", (_Storage() as storage, offset, size, stride, _, _):
            return _tensor(storage, offset, size, stride)
    raise ValueError(f"a call of {function.name} that PyTorch does not write")


def _tensor(storage: _Storage, offset: object, size: object, stride: object) -> _Tensor:
    """A tensor, checked in Python's integers to lie within its storage."""
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or not len(size) == len(stride) <= 32:
        raise ValueError("a tensor whose size and stride are not two tuples of one length up to 32")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *size, *stride)):
        raise ValueError("a tensor whose offset, size or stride is negative or not an integer")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if (numel := math.prod(size)) and (last >= storage.numel or numel > storage.numel):
        raise ValueError(f"a tensor of {numel} elements that ends at {last} of a storage of {storage.numel}")
    return _Tensor(storage, offset, size, stride)


def _state_dict(content: object) -> dict[str, _Tensor]:
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content:
        raise ValueError(f"a {type(content).__name__} without tensors")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, _Tensor):
            raise ValueError(f"a {type(value).__name__} under {str(name)[:100]!r}, not a tensor under a name")
    while all(name.startswith("module.") for name in content):
        content = {name.removeprefix("module."): tensor for name, tensor in content.items()}
    return content


def _array(tensor: _Tensor, raw: bytes | memoryview) -> np.ndarray:
    if 0 in tensor.size:
        view = np.empty(tensor.size, tensor.storage.dtype)
    else:  # NumPy checks the bounds again
        item = tensor.storage.dtype.itemsize
        strides = [step * item for step in tensor.stride]
        view = np.ndarray(tensor.size, tensor.storage.dtype, raw, tensor.offset * item, strides)
    if tensor.storage.kind == "torch BFloat16Storage":  # the upper half of a float32
        bits = view.astype("<u4", order="C")
        return np.left_shift(bits, np.uint32(16), out=bits).view("<f4")
    return np.array(view, np.float32 if view.dtype.kind == "f" else None, order="C")
