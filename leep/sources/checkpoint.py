"""Reads a PyTorch checkpoint without PyTorch: tensors and plain containers only, nothing in the file is executed."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import numpy as np

from leep.errors import Invalid
from leep.unpickle import Inert, Name, unpickle

_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# The arrays take at most as many times the file's size: twice for half precision, more for shared storages.
_REPEATS = 8
_DTYPES = {
    "torch.DoubleStorage": "<f8",
    "torch.FloatStorage": "<f4",
    "torch.HalfStorage": "<f2",
    "torch.BFloat16Storage": "<u2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "|i1",
    "torch.ByteStorage": "|u1",
    "torch.BoolStorage": "|b1",
}


# Where training scripts keep a state dict, in order of preference: averaged weights are those that are evaluated.
WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "params_ema", "teacher", "state_dict")
WRAPPERS += ("model_state_dict", "model_state", "model", "net", "network", "module", "params", "weights")
_DEEPEST = 4  # wrappers in each other
# What stands beside a state dict: options, counters, states of generators.
_BESIDE = ("argparse.Namespace", "collections.Counter", "collections.defaultdict", "_codecs.encode", "numpy.dtype")
_BESIDE += ("numpy.ndarray", "torch.device", "pathlib.PosixPath", "pathlib.Path", "datetime.datetime", "builtins.set")
_BESIDE += ("__builtin__.set", "__builtin__.int", "__builtin__.long", "__builtin__.list", "__builtin__.float")
_BESIDE += tuple(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct"))
_BESIDE += tuple(f"torch.{name}" for name in ("float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8"))


class _Storage(NamedTuple):
    kind: str  # a key of _DTYPES
    key: str
    numel: int

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(_DTYPES[self.kind])

    @property
    def n_bytes(self) -> int:
        return self.numel * self.dtype.itemsize


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _OrderedDict(dict):
    __slots__ = ()

    def __setstate__(self, state):
        """Ignore the `_metadata` of a state dict, which no tensor needs."""


def read_checkpoint(path: Path) -> tuple[dict[str, np.ndarray], str]:
    """Read the tensors of a PyTorch checkpoint, written by `torch.save` in either of its formats.

    A state dict within the usual keys (`WRAPPERS`: `state_dict`, `model`, …) is taken out of them. What is no tensor is
    passed over.

    Returns
    -------
    tensors : dict of str to ndarray
        By the names of the state dict, in its order, contiguous. Floating point of any width, bfloat16 included,
        becomes float32; integers and booleans stay as they are.
    key : str
        Where the state dict stood, `state_dict` or `model.module`; empty if the file holds nothing else.

    Raises
    ------
    OSError
        If the file cannot be read.
    Invalid
        If it is damaged, or holds no flat mapping of names to dense tensors, or objects of other classes. Nothing that
        a file says makes it run code, and memory stays within a small multiple of the file's size.
    """
    data = Path(path).read_bytes()
    try:
        content, fetch = _open_zip(data) if data.startswith(b"PK\x03\x04") else _open_legacy(data)
        tensors, key = _state_dict(content)
        stored = sum({t.storage.key: t.storage.n_bytes for t in tensors.values()}.values())
        spread = sum(math.prod(t.size) * max(4, t.storage.dtype.itemsize) for t in tensors.values())
        if stored > len(data) or spread > _REPEATS * len(data):
            raise ValueError(f"a file of {len(data)} bytes, with {stored} bytes of storages, {spread} of tensors")
        return {name: _array(tensor, fetch(tensor.storage)) for name, tensor in tensors.items()}, key
    except Exception as error:  # a damaged file can raise nearly anything
        reason = str(error) if isinstance(error, ValueError | UnpicklingError) else repr(error)
        what = "a PyTorch state dict (torch.save(net.state_dict(), …))"
        raise Invalid(f"{path} must be {what}, got {reason[:500]}") from error


def _open_zip(data: bytes) -> tuple[object, Callable[[_Storage], bytes | memoryview]]:
    """Open a checkpoint of PyTorch ≥ 1.6: give its object, and a function from a storage to its bytes."""
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
    fetched: dict[str, bytes] = {}

    def fetch(storage: _Storage) -> bytes:
        key = storage.key
        if key not in fetched:
            fetched[key] = read(f"data/{key}")
            if len(fetched[key]) != storage.n_bytes:
                raise ValueError(f"storage {key[:100]!r} of {len(fetched[key])} bytes, not {storage.n_bytes}")
        return fetched[key]

    return _unpickle(io.BytesIO(read("data.pkl")), {}), fetch


def _open_legacy(data: bytes) -> tuple[object, Callable[[_Storage], bytes | memoryview]]:
    """Open a checkpoint of the older format, as `_open_zip`: five pickles, then each storage's length and bytes."""
    file = io.BytesIO(data)
    if _unpickle(file) != _MAGIC or _unpickle(file) != _PROTOCOL:
        raise ValueError("another magic number or protocol version")
    if not isinstance(info := _unpickle(file), dict) or info.get("little_endian") is not True:
        raise ValueError("system information that does not say little_endian")
    storages: dict[str, _Storage] = {}
    content = _unpickle(file, storages)
    if not isinstance(keys := _unpickle(file), list):
        raise ValueError(f"storage keys in a {type(keys).__name__}, not a list")
    chunks: dict[str, memoryview] = {}
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
    return content, lambda storage: chunks[storage.key]


def _unpickle(file: io.BytesIO, storages: dict[str, _Storage] | None = None) -> object:
    """Read one pickle; its storages are put into `storages` by key, or refused without it."""
    admitted = (
        dict.fromkeys(_BESIDE, Inert)
        | dict.fromkeys(_DTYPES)
        | {
            "collections.OrderedDict": _ordered_dict,
            "torch.Size": lambda size: size,
            "torch._utils._rebuild_parameter": lambda data, requires_grad, hooks: data,
            "torch._utils._rebuild_tensor": _tensor,
            "torch._utils._rebuild_tensor_v2": _tensor_v2,
        }
    )
    storage = None if storages is None else lambda identity: _storage(identity, storages)
    return unpickle(file, admitted, storage, encoding="latin1")


def _ordered_dict(pairs: list = ()) -> _OrderedDict:
    """An empty one to be filled, or one of pairs, as Python 2 wrote it."""
    result = _OrderedDict()
    for key, value in pairs:
        if not isinstance(key, str | int):  # the hash of a forged tuple may take for ever
            raise ValueError(f"a key of type {type(key).__name__}")
        result[key] = value
    if pairs:
        pairs.clear()  # a forged file could have it copied many times
    return result


def _storage(identity: object, storages: dict[str, _Storage]) -> _Storage:
    match identity:
        case ("storage", Name(name=kind), str() as key, str(), int() as numel, *view) if (
            kind in _DTYPES and numel >= 0 and view in ([], [None])
        ):
            storage = _Storage(kind, key, numel)
            if storages.setdefault(key, storage) != storage:
                raise ValueError(f"storage {key[:100]!r} with two types or lengths")
            return storage
    raise ValueError("a persistent id that is not of a storage")


def _tensor(storage: object, offset: object, size: object, stride: object) -> _Tensor:
    """Check a tensor in Python's integers to lie within its storage."""
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor without a storage")
    if not isinstance(size, tuple) or not isinstance(stride, tuple) or not len(size) == len(stride) <= 32:
        raise ValueError("a tensor whose size and stride are not two tuples of one length up to 32")
    if not all(type(n) is int and 0 <= n < 2**63 for n in (offset, *size, *stride)):
        raise ValueError("a tensor whose offset, size or stride is negative or not an integer")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if (numel := math.prod(size)) and (last >= storage.numel or numel > storage.numel):
        raise ValueError(f"a tensor of {numel} elements that ends at {last} of a storage of {storage.numel}")
    return _Tensor(storage, offset, size, stride)


def _tensor_v2(
    storage: object, offset: object, size: object, stride: object, requires_grad: object, hooks: object
) -> _Tensor:
    """Check a tensor as PyTorch ≥ 0.4 writes it; a seventh argument would say that it is negated or conjugated."""
    return _tensor(storage, offset, size, stride)


def _state_dict(content: object) -> tuple[dict[str, _Tensor], str]:
    """The tensors by their names, and the keys that they stood below."""
    keys: list[str] = []
    while isinstance(content, dict) and len(keys) < _DEEPEST:
        key = next((key for key in WRAPPERS if _is_wrapped(content.get(key))), None)
        if key is None:
            break
        content = content[key]
        keys.append(key)
    if not isinstance(content, dict) or not content:
        raise ValueError(f"a {type(content).__name__} without tensors")
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, _Tensor)}
    if not tensors:
        name, value = next(iter(content.items()))
        raise ValueError(f"a {type(value).__name__} under {str(name)[:100]!r}, not a tensor under a name")
    return tensors, ".".join(keys)


def _is_wrapped(value: object) -> bool:
    """Whether it holds tensors, or may hold them in a further wrapper."""
    if not isinstance(value, dict):
        return False
    return any(isinstance(v, _Tensor) for v in value.values()) or any(isinstance(value.get(k), dict) for k in WRAPPERS)


def _array(tensor: _Tensor, raw: bytes | memoryview) -> np.ndarray:
    if 0 in tensor.size:
        view = np.empty(tensor.size, tensor.storage.dtype)
    else:  # NumPy checks the bounds again
        item = tensor.storage.dtype.itemsize
        strides = [step * item for step in tensor.stride]
        view = np.ndarray(tensor.size, tensor.storage.dtype, raw, tensor.offset * item, strides)
    if tensor.storage.kind == "torch.BFloat16Storage":
        return widen(view)
    return np.array(view, np.float32 if view.dtype.kind == "f" else None, order="C")


def widen(bfloat16: np.ndarray) -> np.ndarray:
    """The bits of bfloat16 numbers, uint16, as float32, whose upper half they are."""
    bits = bfloat16.astype("<u4", order="C")
    return np.left_shift(bits, np.uint32(16), out=bits).view("<f4")
