"""PyTorch checkpoints, read without PyTorch: the right values, and nothing but tensors.

The files are written by hand, so that they can say what `torch.save` never would.
"""

import argparse
import collections
import datetime
import io
import os
import pickle
import struct
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leep import unpickle
from leep.errors import Invalid
from leep.sources import checkpoint

FORMATS = ("zip", "legacy")
KINDS = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short", "i1": "Char"}
KINDS |= {"u1": "Byte", "b1": "Bool"}


def read_checkpoint(path):
    """The tensors; where they stood is another test's."""
    return checkpoint.read_checkpoint(path)[0]


class Global:
    """Pickled as the name of a class or function, which need not exist."""

    def __init__(self, module, name):
        self.line = f"c{module}\n{name}\n".encode()

    def __call__(self):
        raise NotImplementedError


class Call:
    """Pickled as a call."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


class Storage:
    def __init__(self, array, key, kind=None, numel=None):
        self.raw, self.key = array.tobytes(), key
        self.kind = kind or KINDS[array.dtype.str[1:]] + "Storage"
        self.numel = array.size if numel is None else numel


class Pickler(pickle._Pickler):
    def __init__(self, file, view):
        super().__init__(file, 2)
        self.view, self.storages = view, {}

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            self.write(obj.line)
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        self.storages[obj.key] = obj
        return ("storage", Global("torch", obj.kind), obj.key, "cpu", obj.numel, *self.view)


def dumps(obj, view=()):
    """The pickle (`obj` itself if it is bytes) and its storages by key."""
    if isinstance(obj, bytes):
        return obj, {}
    file = io.BytesIO()
    pickler = Pickler(file, view)
    pickler.dump(obj)
    return file.getvalue(), pickler.storages


def write_zip(path, obj, byteorder=b"little", compression=zipfile.ZIP_STORED, folder="net/"):
    text, storages = dumps(obj)
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{folder}data.pkl", text)
        if byteorder:
            archive.writestr(f"{folder}byteorder", byteorder)
        for storage in storages.values():
            archive.writestr(f"{folder}data/{storage.key}", storage.raw)
        archive.writestr(f"{folder}version", b"3\n")


def write_legacy(path, obj, magic=0x1950A86A20F9469CFC6C, protocol=1001, info=None, keys=None, view=(None,)):
    text, storages = dumps(obj, view)
    info = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}} if info is None else info
    parts = [dumps(part)[0] for part in (magic, protocol, info)] + [text]
    parts.append(dumps(sorted(storages) if keys is None else keys)[0])
    parts += [struct.pack("<q", storages[key].numel) + storages[key].raw for key in sorted(storages)]
    Path(path).write_bytes(b"".join(parts))


def write(form, path, obj, **changes):
    (write_zip if form == "zip" else write_legacy)(path, obj, **changes)
    return path


def view(storage, offset, size, stride, *more):
    function = Global("torch._utils", "_rebuild_tensor_v2")
    return Call(function, storage, offset, size, stride, False, collections.OrderedDict(), *more)


def tensor(array, key="0", kind=None):
    stride = tuple(s // array.itemsize for s in array.strides)
    return view(Storage(array, key, kind), 0, array.shape, stride)


FLOATS = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(params=FORMATS)
def form(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.pth"


def assert_equal(read, expected):
    assert list(read) == list(expected)
    for name, array in expected.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape, name
        assert read[name].flags.c_contiguous and read[name].flags.writeable, name
        np.testing.assert_array_equal(read[name], array, err_msg=name)


@pytest.mark.parametrize("dtype", KINDS)
def test_values_of_every_type(form, path, dtype):
    array = np.array([[0, 1, 2], [3, 100, 7]]).astype(dtype)
    scalar = np.array(5).astype(dtype)
    write(form, path, {"w": tensor(array), "s": tensor(scalar, "1"), "e": tensor(np.zeros((0, 3), dtype), "2")})
    expected = np.float32 if dtype[0] == "f" else dtype
    assert_equal(
        read_checkpoint(path),
        {"w": array.astype(expected), "s": scalar.astype(expected), "e": np.zeros((0, 3), expected)},
    )


def test_bfloat16_is_the_upper_half_of_float32(form, path):
    bits = np.array([0x3F80, 0xC000, 0x4049, 0x7F80, 0x0001], np.uint16)  # 1, −2, 3.140625, infinity, the smallest
    values = np.array([1, -2, 3.140625, np.inf, 2.0**-133], np.float32)
    scalar = tensor(bits[2:3].reshape(()), "1", "BFloat16Storage")
    transposed = view(Storage(bits, "0", "BFloat16Storage"), 0, (2, 2), (1, 2))
    write(form, path, {"w": tensor(bits, "0", "BFloat16Storage"), "s": scalar, "t": transposed})
    assert_equal(read_checkpoint(path), {"w": values, "s": np.array(values[2]), "t": values[:4].reshape(2, 2).T})


def test_views_of_a_shared_storage(form, path):
    storage = Storage(np.arange(24, dtype=np.float32), "0")
    tensors = {
        "whole": view(storage, 0, (2, 3, 4), (12, 4, 1)),
        "transposed": view(storage, 0, (4, 2, 3), (1, 12, 4)),
        "part": view(storage, 5, (3, 2), (4, 2)),
        "last": view(storage, 23, (), ()),
        "repeated": view(storage, 2, (2, 2), (0, 1)),
    }
    write(form, path, tensors)
    x = np.arange(24, dtype=np.float32)
    expected = {
        "whole": x.reshape(2, 3, 4),
        "transposed": x.reshape(2, 3, 4).transpose(2, 0, 1),
        "part": np.array([[5, 7], [9, 11], [13, 15]], np.float32),
        "last": x[23],
        "repeated": np.array([[2, 3], [2, 3]], np.float32),
    }
    read = read_checkpoint(path)
    assert_equal(read, expected)
    read["whole"][:] = -1
    assert read["part"][0, 0] == 5


def test_wrappers_and_metadata(form, path):
    """Parameters, the tensors of PyTorch 0.1, Python 2's OrderedDict, `torch.Size`, and a state dict's metadata."""
    state = collections.OrderedDict(
        parameter=Call(
            Global("torch._utils", "_rebuild_parameter"), tensor(FLOATS, "a"), True, collections.OrderedDict()
        ),
        old=Call(Global("torch._utils", "_rebuild_tensor"), Storage(FLOATS, "b"), 0, (2, 3), (3, 1)),
        size=view(Storage(FLOATS, "c"), 0, Call(Global("torch", "Size"), (3, 2)), (2, 1)),
    )
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    write(form, path, state)
    expected = {"parameter": FLOATS, "old": FLOATS, "size": FLOATS.reshape(3, 2)}
    assert_equal(read_checkpoint(path), expected)
    pairs = Call(Global("collections", "OrderedDict"), [["w", tensor(FLOATS)]])
    assert_equal(read_checkpoint(write(form, path, pairs)), {"w": FLOATS})


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "net", "model_ema", "teacher"])
def test_nested_state_dicts(form, path, key):
    state = {"module.a.weight": tensor(FLOATS), "module.b": tensor(FLOATS + 1, "1")}
    content = {"epoch": 3, "arch": "net", "lr": [0.1, None], key: state, "optimizer": {0: tensor(FLOATS, "2")}}
    write(form, path, {**content, "best": tensor(FLOATS, "3")})  # a tensor beside it, as ImageNet's example writes
    tensors, where = checkpoint.read_checkpoint(path)
    assert_equal(tensors, {"module.a.weight": FLOATS, "module.b": FLOATS + 1})
    assert where == key


def test_averaged_weights_go_first(form, path):
    write(form, path, {"state_dict": {"w": tensor(FLOATS)}, "model_ema": {"module": {"w": tensor(FLOATS + 1, "1")}}})
    tensors, where = checkpoint.read_checkpoint(path)
    assert_equal(tensors, {"w": FLOATS + 1})
    assert where == "model_ema.module"


def test_what_is_no_tensor_is_passed_over(form, path):
    write(form, path, {"w": tensor(FLOATS), "epoch": 3, "names": ["a"], "model": {"depth": 18}, 7: tensor(FLOATS, "1")})
    assert_equal(read_checkpoint(path), {"w": FLOATS})


def test_options_counters_and_states_of_generators_are_not_imported(form, path):
    beside = {
        "args": argparse.Namespace(lr=0.1, out=Path("results")),
        "best": np.float64(76.1),
        "rng": np.random.RandomState(0).get_state(),
        "milestones": collections.Counter({30: 1}),
        "seen": collections.defaultdict(int, a=1),
        "dtype": Global("torch", "float32"),
        "begun": datetime.datetime(2020, 7, 12),
    }
    write(form, path, {"state_dict": {"w": tensor(FLOATS)}, **beside})
    assert_equal(read_checkpoint(path), {"w": FLOATS})


@pytest.mark.parametrize("folder", ["", "archive/", "a/b/"])
def test_folders_in_the_zip_file(path, folder):
    write_zip(path, {"w": tensor(FLOATS)}, folder=folder, byteorder=None)
    assert_equal(read_checkpoint(path), {"w": FLOATS})


def attacks(file):
    """Objects whose unpickling makes a file, unless refused."""
    return [Call(os.system, f"touch {file}"), Call(exec, f"open({str(file)!r}, 'w')"), Call(open, str(file), "w")]


PLACES = ("top", "value", "optimizer", "deep", "key", "hooks")


@pytest.mark.parametrize("attack", range(3))
@pytest.mark.parametrize(
    ("form", "place"),
    [*((form, place) for form in FORMATS for place in PLACES)]
    + [("legacy", place) for place in ("magic", "protocol", "info", "keys")],
)
def test_nothing_is_executed(tmp_path, path, form, place, attack):
    made = tmp_path / "made"
    evil = attacks(made)[attack]
    pickle.loads(pickle.dumps(evil))  # so that the test can fail
    assert made.exists()
    made.unlink()
    good, deep = {"w": tensor(FLOATS)}, evil
    for _ in range(20):
        deep = {"x": [(deep,)]}
    contents = {
        "top": evil,
        "value": {"w": evil},
        "optimizer": {"state_dict": good, "optimizer": evil},
        "deep": {"state_dict": good, "optimizer": deep},
        "key": {"state_dict": good, (evil,): 1},
        "hooks": {"w": Call(Global("torch._utils", "_rebuild_parameter"), tensor(FLOATS), True, evil)},
    }
    parts = {"magic": evil, "protocol": evil, "info": {"little_endian": True, "x": evil}, "keys": ["0", evil]}
    write(form, path, contents.get(place, good), **{key: part for key, part in parts.items() if key == place})
    expected = r"net\.pth must be a PyTorch state dict .*'(posix\.system|\w+\.exec|\w+\.open)'"
    with pytest.raises(Invalid, match=expected):
        read_checkpoint(path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", r"posix\.system"),  # STACK_GLOBAL
        (b"cbuiltins\nexec\n.", r"builtins\.exec"),
        (b"(iposix\nsystem\n.", r"posix\.system"),  # INST
        (b"ccollections\nOrderedDict.__init__\n.", r"collections\.OrderedDict\.__init__"),
        (b"ctorch._utils\n_rebuild_sparse_tensor\n.", "_rebuild_sparse_tensor"),
        (b"ctorch._utils\n_rebuild_qtensor\n.", "_rebuild_qtensor"),
        (b"ctorch\nQInt8Storage\n.", "QInt8Storage"),
        (b"ctorch.nn.modules.linear\nLinear\n.", r"state_dict\(\).*nn\.modules\.linear\.Linear"),  # a whole network
        (b"ccollections\nOrderedDict\n}b.", r"a state for collections\.OrderedDict"),  # BUILD on the class
        (b"ctorch._utils\n_rebuild_tensor_v2\n(N}\x8c\x09_function\x8c\x01xstb.", "a state for torch"),
        (b"}(N}tb.", "a dict without tensors"),
        (b"}}\x8c\x01aK\x01sb.", "AttributeError"),  # attributes of a dict
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "must be a PyTorch state dict"),  # NEWOBJ
        (b"\x80\x04ccollections\nOrderedDict\n)}\x92.", "must be a PyTorch state dict"),  # NEWOBJ_EX
        *((opcode + bytes(4) + b".", "the opcode EXT") for opcode in (b"\x82", b"\x83", b"\x84")),
        (b"}2.", "the opcode DUP"),
        (b"}(0.", "the opcode POP"),  # the unpickler takes the mark off, the scan of keys would not
        (b"\x97.", "the opcode NEXT_BUFFER"),
        (b"Pstorage\n.", "a persistent id"),
        (b"ctorch\nFloatStorage\n)R.", r"a call of torch\.FloatStorage"),
        (b"ccollections\nOrderedDict\n]N\x86R.", "TypeError"),
        (b"})R.", "TypeError"),  # REDUCE of a dict
        (b"\x8c\x06system)R.", "TypeError"),
        (b"}r\xff\xff\xff\x7f.", "LONG_BINPUT of 2147483647"),  # the memo would take 16 GiB
        (b"}p2147483647\n.", "PUT of 2147483647"),
        (b"\x96" + struct.pack("<Q", 2**60) + b".", "expected 1152921504606846976 bytes"),
        (b"\x8d" + struct.pack("<Q", 2**60) + b".", "expected 1152921504606846976 bytes"),
        (b"})" + b"q\x00h\x00\x86" * 60 + b"Ns.", "a key of"),  # its hash visits 2**60 tuples
        (b"}()" + b"\x85" * 10**5 + b"Nu.", "a key of"),  # its hash is 100,000 calls deep
        (b"()" + b"\x85" * 10**5 + b"Nd.", "a key of"),
        (b"ccollections\nOrderedDict\n])" + b"q\x00h\x00\x86" * 60 + b"N\x86a\x85R.", "a key of type tuple"),
        (b"]q\x00h\x00a.", "a list without tensors"),  # a list in itself
        (b"}q\x00(\x8c\x05modelh\x00\x8c\x0astate_dicth\x00u.", "a dict under 'model'"),
        (b"h\x05.", "KeyError"),
        (b".", "underflow"),
        (b"}", "pickle exhausted|MARK|dict"),  # or runs into the next pickle
        (b"", "pickle exhausted"),
        (b"}\x8c\x01aK\x01s.", "a int under 'a'"),
        (b"K\x01.", "a int without tensors"),
    ],
)
def test_pickles_that_torch_does_not_write(form, path, text, message):
    write(form, path, text)
    with pytest.raises(Invalid, match=message):
        read_checkpoint(path)


def identity(*values):
    """A tensor whose storage has that persistent id."""
    return dumps(values)[0][:-1] + b"Q."


@pytest.mark.parametrize(
    "text",
    [
        identity("storage", Global("torch", "FloatStorage"), "0", "cpu", -1),
        identity("storage", Global("torch", "FloatStorage"), "0", "cpu", 1.5),
        identity("storage", Global("torch", "FloatStorage"), "0", "cpu"),
        identity("storage", Global("torch", "FloatStorage"), "0", "cpu", 1, ("1", 0, 1)),
        identity("storage", Global("torch", "FloatStorage"), "0", "cpu", 1, None, None),
        identity("storage", Global("torch", "FloatStorage"), 0, "cpu", 1),
        identity("storage", Global("torch", "Size"), "0", "cpu", 1),
        identity("storage", "torch FloatStorage", "0", "cpu", 1),
        identity("module", Global("torch", "FloatStorage"), "0", "cpu", 1),
        b"K\x05Q.",
        b"}Q.",
    ],
)
def test_forged_persistent_ids(form, path, text):
    write(form, path, text)
    with pytest.raises(Invalid, match="a persistent id that is not of a storage"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("offset", "size", "stride", "message"),
    [
        (0, (2, 4), (3, 1), "8 elements that ends at 6 of a storage of 6"),
        (1, (2, 3), (3, 1), "6 elements that ends at 6 of a storage of 6"),
        (6, (), (), "1 elements that ends at 6 of a storage of 6"),
        (0, (2,), (2**62,), "ends at 4611686018427387904"),
        (0, (2**31, 2**31), (2**31, 2**31), "of a storage of 6"),  # 2**62 elements, beyond int64 in bytes
        (0, (2**40,), (0,), "1099511627776 elements that ends at 0"),
        (0, (3, 3), (1, 1), "9 elements that ends at 4 of a storage of 6"),
        (-1, (2,), (1,), "negative or not an integer"),
        (0, (-2, -3), (3, 1), "negative or not an integer"),
        (5, (2,), (-1,), "negative or not an integer"),
        (0, (2**200,), (1,), "negative or not an integer"),
        (0, (2.0,), (1,), "negative or not an integer"),
        (0, (True,), (1,), "negative or not an integer"),
        (0, (2, 3), (3,), "not two tuples of one length up to 32"),
        (0, [2, 3], [3, 1], "not two tuples of one length up to 32"),
        (0, (1,) * 33, (1,) * 33, "not two tuples of one length up to 32"),
        (0, (0, 2**62, 2**62), (1, 1, 1), "must be a PyTorch state dict"),
    ],
)
def test_tensors_that_reach_outside_their_storage(form, path, offset, size, stride, message):
    write(form, path, {"w": view(Storage(FLOATS, "0"), offset, size, stride)})
    with pytest.raises(Invalid, match=message):
        read_checkpoint(path)


@pytest.mark.parametrize(("form", "numel"), [("zip", 5), ("zip", 7), ("zip", 2**60), ("legacy", 7), ("legacy", 2**60)])
def test_forged_lengths_of_storages(path, form, numel):
    write(form, path, {"w": view(Storage(FLOATS, "0", numel=numel), 0, (numel,), (1,))})
    with pytest.raises(Invalid, match=r"got (a file of \d+ bytes, with \d{19}|storage '0' of)"):
        read_checkpoint(path)


def test_storages_beyond_the_file_are_not_read(path):
    write_zip(path, {"w": view(Storage(FLOATS, "0", numel=1000), 0, (1,), (1,))})
    with pytest.raises(Invalid, match=r"a file of \d+ bytes, with 4000 bytes of storages, 4 of tensors"):
        read_checkpoint(path)


def test_a_truncated_header_of_an_empty_storage(path):
    write_legacy(path, {"w": tensor(np.zeros((0, 3), np.float32))})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(Invalid, match="storage '0' of 0 elements in 0 bytes"):
        read_checkpoint(path)


def test_a_forged_header_of_a_storage(path):
    write_legacy(path, {"w": tensor(FLOATS)})
    at = path.stat().st_size - FLOATS.nbytes - 8
    for numel in (5, 7, 2**60, 2**64 - 1):
        data = bytearray(path.read_bytes())
        data[at : at + 8] = struct.pack("<Q", numel)
        path.write_bytes(data)
        with pytest.raises(Invalid, match=f"storage '0' of {numel} elements in 24 bytes, not 6"):
            read_checkpoint(path)


def test_many_copies_of_one_storage(form, path):
    storage = Storage(np.zeros(5000, np.float32), "0")
    write(form, path, {str(i): view(storage, 0, (5000,), (1,)) for i in range(100)})
    with pytest.raises(Invalid, match="with 20000 bytes of storages, 2000000 of tensors"):
        read_checkpoint(path)


def test_a_storage_of_two_types(form, path):
    write(form, path, {"a": tensor(FLOATS), "b": tensor(FLOATS, "0", "IntStorage")})
    with pytest.raises(Invalid, match="storage '0' with two types or lengths"):
        read_checkpoint(path)


def test_views_with_a_negated_or_conjugated_bit(form, path):
    write(form, path, {"w": view(Storage(FLOATS, "0"), 0, (2, 3), (3, 1), {"neg": True})})
    with pytest.raises(Invalid, match=r"_tensor_v2.* 7 "):
        read_checkpoint(path)


def test_long_pickles(form, path, monkeypatch):
    monkeypatch.setattr(unpickle, "MOST_STEPS", 200)
    write(form, path, b"]" * 202 + b".")
    with pytest.raises(Invalid, match="at step 201"):
        read_checkpoint(path)


def test_a_list_that_many_calls_would_copy(form, path):
    pairs = b"](" + b"".join(b"M" + struct.pack("<H", i) + b"N\x86" for i in range(1000)) + b"e\x85q\x00"
    copies = b"\x8c\x01k](" + b"h\x01h\x00R" * 1000 + b"es"
    write(form, path, b"ccollections\nOrderedDict\nq\x01" + pairs + b"R" + copies + b".")
    tracemalloc.start()
    with pytest.raises(Invalid, match="not a tensor under a name"):
        read_checkpoint(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5_000_000


def test_zip_bomb(path):
    write_zip(path, {"w": tensor(np.zeros(10_000_000, np.float32))}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(Invalid, match="'net/byteorder' compressed"):
        read_checkpoint(path)
    text, storages = dumps({"w": tensor(np.zeros(10_000_000, np.float32))})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", text)
        archive.writestr("net/data/0", storages["0"].raw, zipfile.ZIP_DEFLATED)
    with pytest.raises(Invalid, match="40000000 bytes of storages"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["net/", "net/readme.txt", "net/data/0"], "with 0 data.pkl among 3 names of 3 files"),
        (["a/data.pkl", "b/data.pkl"], "with 2 data.pkl among 2 names of 2 files"),
        (["a/data.pkl", "a/data/0", "a/data/0"], "with 1 data.pkl among 2 names of 3 files"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_other_zip_files(path, names, message):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    with pytest.raises(Invalid, match=message):
        read_checkpoint(path)


def test_a_storage_that_is_not_there(path):
    write_zip(path, {"w": tensor(FLOATS)})
    data = path.read_bytes().replace(b"net/data/0", b"net/data/1")
    path.write_bytes(data)
    with pytest.raises(Invalid, match="no item named 'net/data/0'"):
        read_checkpoint(path)
    write_legacy(path, {"w": tensor(FLOATS)}, keys=[])
    with pytest.raises(Invalid, match="KeyError"):
        read_checkpoint(path)


@pytest.mark.parametrize("keys", [["0", "0"], ["1"], [("0",)], [None]])
def test_forged_storage_keys(path, keys):
    write_legacy(path, {"w": tensor(FLOATS)}, keys=keys)
    with pytest.raises(Invalid, match="a storage key that no tensor has, or twice"):
        read_checkpoint(path)


def test_big_endian(path):
    write_zip(path, {"w": tensor(FLOATS)}, byteorder=b"big")
    with pytest.raises(Invalid, match="the byte order b'big', not little"):
        read_checkpoint(path)
    write_legacy(path, {"w": tensor(FLOATS)}, info={"little_endian": False})
    with pytest.raises(Invalid, match="does not say little_endian"):
        read_checkpoint(path)


@pytest.mark.parametrize("changes", [{"magic": 1}, {"protocol": 1000}, {"info": []}, {"info": {}}, {"keys": {}}])
def test_other_headers(path, changes):
    write_legacy(path, {"w": tensor(FLOATS)}, **changes)
    with pytest.raises(Invalid, match=r"another magic number|does not say little_endian|not a list"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "data", [b"", b"<!DOCTYPE html><html>404</html>", b"PK\x03\x04", pickle.dumps([1]), bytes(999)]
)
def test_other_files(path, data):
    path.write_bytes(data)
    with pytest.raises(Invalid, match=r"net\.pth must be a PyTorch state dict"):
        read_checkpoint(path)


def test_no_file(path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(path)


def example(form):
    """A small valid file, as bytes."""
    state = {"module.w": tensor(FLOATS), "module.b": tensor(np.arange(40, dtype=np.float16), "1")}
    state["module.t"] = view(Storage(np.arange(300), "2"), 3, (5, 7), (1, 5))
    with tempfile.NamedTemporaryFile() as file:
        write(form, file.name, {"epoch": 1, "state_dict": state})
        return Path(file.name).read_bytes()


EXAMPLES = {form: example(form) for form in FORMATS}


def test_truncated_files(form, path):
    data = EXAMPLES[form]
    path.write_bytes(data)
    assert list(read_checkpoint(path)) == ["module.w", "module.b", "module.t"]
    for length in [*range(0, len(data), 23), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(Invalid, match=r"net\.pth must be"):
            read_checkpoint(path)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FORMATS), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_damaged_files(form, changes):
    data = bytearray(EXAMPLES[form])
    for position, value in changes:
        data[position % len(data)] = value
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(data)
        try:
            read = read_checkpoint(file.name)
        except Invalid:
            return
    assert all(isinstance(name, str) and isinstance(array, np.ndarray) for name, array in read.items())
    assert sum(array.nbytes for array in read.values()) <= 8 * len(data)


@pytest.mark.filterwarnings("ignore:invalid escape sequence")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FORMATS), st.binary(max_size=40), st.integers(0, 300))
def test_damaged_pickles(form, noise, position):
    """Behind the checksum of the zip file."""
    text, _ = dumps({"w": tensor(FLOATS), "b": tensor(FLOATS, "1")}, () if form == "zip" else (None,))
    at = position % len(text)
    with tempfile.NamedTemporaryFile() as file:
        write(form, file.name, text[:at] + noise + text[at + len(noise) :])
        with pytest.raises(Invalid):  # the storages are not there
            read_checkpoint(file.name)


@pytest.mark.torch
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_torch_writes(form, path, protocol):
    torch = pytest.importorskip("torch", reason="the torch engine needs the extra `torch`: make test-torch")
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Linear(4, 5).double())
    base = torch.randn(6, 5, 4)
    tensors = dict(net.state_dict())
    tensors |= {"view": base.permute(2, 0, 1), "part": base[1:, ::2, 3], "whole": base, "scalar": base[2, 3, 1]}
    tensors |= {"half": base.half(), "bfloat16": base.bfloat16().permute(1, 0, 2)}
    tensors |= {"parameter": torch.nn.Parameter(base.clone()), "row": torch.arange(5).expand(1, 5)}
    types = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    tensors |= {str(dtype): torch.arange(12).reshape(3, 4).to(dtype).t() for dtype in types}
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in tensors.items()}},
        path,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=form == "zip",
    )
    expected = {f"module.{k}": v.detach().float() if v.is_floating_point() else v for k, v in tensors.items()}
    expected = {name: value.numpy() for name, value in expected.items()}
    assert_equal(read_checkpoint(path), expected)
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=form == "zip")  # with its _metadata
    assert list(read_checkpoint(path)) == list(net.state_dict())


@pytest.mark.torch
def test_whole_networks_and_sparse_tensors_are_refused(form, path):
    torch = pytest.importorskip("torch", reason="the torch engine needs the extra `torch`: make test-torch")
    for content in (torch.nn.Linear(2, 3), {"w": torch.eye(3).to_sparse()}, {"w": torch.zeros(2, dtype=torch.cfloat)}):
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
        with pytest.raises(Invalid, match=r"state_dict\(\).*which is refused"):
            read_checkpoint(path)
