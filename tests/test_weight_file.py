"""Files of weights: known by their content, taken out of what stands around them, or refused with a remedy."""

import gzip
import json
import struct

import numpy as np
import pytest
from test_checkpoint import FLOATS, tensor, write

from leep.errors import Invalid
from leep.sources.weight_file import WeightFile, differences, read_weight_file

MAGICS = {"v1": 0xF993FAC8, "v2": 0xF993FAC9, "v3": 0xF993FACA}


def params(arrays, magic="v2", named=True):
    """A `.params` file as MXNet writes it, by hand; a dictionary of float32, float16 or float64 arrays."""
    flags = {"f4": 0, "f8": 1, "f2": 2}
    data = struct.pack("<QQQ", 0x112, 0, len(arrays))
    for array in arrays.values():
        data += struct.pack("<I", MAGICS[magic]) + (b"" if magic == "v1" else struct.pack("<i", 0))
        data += struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape)
        data += struct.pack("<iii", 1, 0, flags[array.dtype.str[1:]]) + array.tobytes()
    names = [name.encode() for name in arrays] if named else []
    return data + struct.pack("<Q", len(names)) + b"".join(struct.pack("<Q", len(name)) + name for name in names)


def safetensors(arrays):
    """A `.safetensors` file by hand: names, kinds and values."""
    header, body = {}, b""
    for name, (kind, array) in arrays.items():
        offsets = [len(body), len(body) + array.nbytes]
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": offsets}
        body += array.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize("name", ["net.params", "net.pth", "net.bin", "weights", "net.params.bak"])
@pytest.mark.parametrize("magic", MAGICS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_mxnets_files_whatever_their_name(tmp_path, name, magic, dtype):
    path = tmp_path / name
    path.write_bytes(
        params({"arg:a_weight": FLOATS.astype(dtype), "aux:a_running_mean": FLOATS[0].astype(dtype)}, magic)
    )
    file = read_weight_file(path)
    assert not file.of_torch and list(file.arrays) == ["a_weight", "a_running_mean"]
    assert file.arrays["a_weight"].dtype == np.float32 and file.arrays["a_weight"].tolist() == FLOATS.tolist()


@pytest.mark.parametrize("name", ["net.pth", "best.pth.tar", "last.ckpt", "NET.PTH", "net.params", "pytorch_model.bin"])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_pytorchs_files_whatever_their_name(tmp_path, name, form):
    content = {"state_dict": {"module.conv.weight": tensor(FLOATS)}, "epoch": 3}
    file = read_weight_file(write(form, tmp_path / name, content))
    assert file.of_torch and list(file.arrays) == ["module.conv.weight"]
    below = file.below(["conv.weight"])
    assert list(below.arrays) == ["conv.weight"] and "state_dict.module" in below.note


def test_safetensors_by_hand(tmp_path):
    pytest.importorskip("safetensors")
    halves = np.array([0x3F80, 0xC000, 0x4049], np.uint16)  # 1, −2, 3.140625
    arrays = {
        "a": ("F32", FLOATS),
        "b": ("BF16", halves),
        "c": ("F16", FLOATS.astype("f2")),
        "n": ("I64", np.arange(2)),
    }
    (tmp_path / "model").write_bytes(safetensors(arrays))
    read = read_weight_file(tmp_path / "model").arrays
    assert {k: (a.dtype.str[1:], a.tolist()) for k, a in read.items()} == {
        "a": ("f4", FLOATS.tolist()),
        "b": ("f4", [1, -2, 3.140625]),
        "c": ("f4", FLOATS.tolist()),
        "n": ("i8", [0, 1]),
    }
    for wrong in (safetensors({"a": ("F8_E4M3", FLOATS.astype("u1"))}), safetensors(arrays)[:-3]):
        (tmp_path / "model").write_bytes(wrong)
        with pytest.raises(Invalid, match="model"):
            read_weight_file(tmp_path / "model")


def test_safetensors_that_are_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    (tmp_path / "m.safetensors").write_bytes(safetensors({"a": ("F32", FLOATS)}))
    with pytest.raises(FileNotFoundError, match="pip install safetensors"):
        read_weight_file(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>404", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (gzip.compress(b"weights", mtime=0), "gunzip"),
        (b"\xfd7zXZ\x00" + bytes(30), "xz -d"),
        (b"\x89HDF\r\n\x1a\n" + bytes(30), "Keras"),
        (b"\x08\x07\x12\x07pytorch" + bytes(30), "onnx:FILE"),
        (params({"a": FLOATS}, named=False), r"without names; save a network by net\.save_parameters"),
        (b"PK\x03\x04" + bytes(40), "state dict"),
    ],
)
def test_what_is_no_file_of_weights(tmp_path, content, said):
    (tmp_path / "net.params").write_bytes(content)
    with pytest.raises(Invalid, match=said) as error:
        read_weight_file(tmp_path / "net.params")
    assert "\n" not in str(error.value) and "net.params" in str(error.value)


NAMES = ["conv1.weight", "layer1.0.conv1.weight", "fc.weight"]


def file_of(*names):
    return WeightFile(None, True, {name: np.full((2, 2), i) for i, name in enumerate(names)})


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "model.",
        "_orig_mod.",
        "module.model.",
        "net.backbone.",
        "module.encoder_q.",
        "student.trunk.body.",
    ],
)
def test_prefixes_are_taken_off(prefix):
    beside = ["module.queue", "n_averaged", "module.head.0.weight", "conv1.bias"] if prefix else []
    below = file_of(*(prefix + name for name in NAMES), *beside).below(NAMES)
    assert list(below.arrays)[:3] == NAMES and below.taken_off == prefix


def test_of_two_networks_in_a_file_the_averaged_one_is_taken_else_the_first():
    both = file_of(*(p + n for p in ("student.", "teacher.") for n in NAMES))
    assert both.below(NAMES).arrays["fc.weight"][0, 0] == 5
    both = file_of(*(p + n for p in ("encoder_q.", "encoder_k.") for n in NAMES))
    assert both.below(NAMES).taken_off == "encoder_q."
    bare = file_of(*(p + n for p in ("teacher.", "") for n in NAMES))
    assert bare.below(NAMES).taken_off == ""


def test_names_of_another_network_are_left():
    file = file_of("blocks.0.fc.weight", "blocks.1.fc.weight", "norm.weight")
    assert file.below(NAMES) is file
    assert file.below([]) is file


def test_classes_are_the_rows_of_the_classifier():
    arrays = {"features.weight": np.ones((4, 3, 3, 3)), "output.weight": np.ones((37, 4)), "output.bias": np.ones(37)}
    assert WeightFile(None, False, arrays).n_classes == 37
    assert WeightFile(None, False, {**arrays, "aux.weight": np.ones((9, 4))}).n_classes == 37
    assert WeightFile(None, False, {"net0_dense0_weight": np.ones((12, 4))}).n_classes == 12
    assert WeightFile(None, False, {"bias": np.ones(3)}).n_classes is None


def test_differences_name_two_of_each_kind():
    own = {"a": (1,), "b": (2,), "c": (3,), "d": (4,)}
    assert differences(own, own) == ""
    assert (
        differences({"d": (5,), "e": (6,)}, own)
        == "3 missing: a, b, …; 1 left over: e; 1 of another shape: d (5,) for (4,)"
    )


# Networks of GluonCV


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small network saved in every way of MXNet, and its logits for an image of ones."""
    mx = pytest.importorskip("mxnet")
    from leep.sources.zoo import SHALLOW, build

    folder = tmp_path_factory.mktemp("saved")
    build(SHALLOW, 3)  # counts: names of the layers begin otherwise in the next one
    net = build(SHALLOW, 7, np.random.SeedSequence(3))
    images = mx.nd.ones((1, 3, 32, 32))
    logits = net(images).asnumpy()
    net.save_parameters(str(folder / "structure.params"))
    net.collect_params().save(str(folder / "collected.params"))
    net.hybridize()
    net(images)
    net.export(str(folder / "exported"))
    net.cast("float16")
    net.save_parameters(str(folder / "half.params"))
    return folder, images, logits


@pytest.mark.parametrize("name", ["structure.params", "collected.params", "exported-0000.params", "half.params"])
def test_what_mxnet_saves_is_loaded(saved, name):
    from leep.sources.zoo import SHALLOW, load

    folder, images, logits = saved
    found = load(SHALLOW, 7, folder / name)(images).asnumpy()
    np.testing.assert_allclose(found, logits, rtol=0, atol=2e-2 if name.startswith("half") else 0)


@pytest.mark.parametrize(
    ("name", "model", "n_classes", "remedy"),
    [
        ("structure.params", "cifar_resnet8_v1", 10, "give n_classes=7"),
        ("exported-0000.params", "cifar_resnet8_v1", 10, "give n_classes=7"),
        ("structure.params", "cifar_resnet20_v1", 7, "give model=cifar_resnet8_v1 n_classes=7"),
    ],
)
def test_another_network_or_number_of_classes_is_named(saved, name, model, n_classes, remedy):
    from leep.sources.zoo import load

    with pytest.raises(ValueError, match=remedy):
        load(model, n_classes, saved[0] / name)


def test_weights_of_no_known_network(saved, tmp_path, monkeypatch):
    from leep.sources import zoo
    from leep.sources.zoo import SHALLOW, load

    monkeypatch.setattr(zoo, "_relatives", lambda model, file: ["cifar_resnet20_v1"])  # not all hundred
    (tmp_path / "mine.params").write_bytes(params({"a.weight": FLOATS}))
    with pytest.raises(ValueError, match=r"47 missing: features.0.weight, .*; 1 left over: a.weight"):
        load(SHALLOW, 7, tmp_path / "mine.params")


def test_pytorchs_resnet_under_gluons_other_name(tmp_path):
    pytest.importorskip("mxnet")
    from leep.sources.zoo import build, load

    net = build("resnet18_v1b", 5, np.random.SeedSequence(1))
    names = {"gamma": "weight", "beta": "bias"}
    state = {}
    for i, (name, parameter) in enumerate(net._collect_params_with_prefix().items()):
        layer, _, last = name.rpartition(".")
        state[f"model.net.{layer}.{names.get(last, last)}"] = tensor(parameter.data().asnumpy(), str(i))
    path = write("zip", tmp_path / "last.ckpt", {"state_dict": {**state, "loss.weight": tensor(FLOATS, "w")}})
    loaded = load("resnet18_v1b", 5, path)
    np.testing.assert_array_equal(loaded.fc.weight.data().asnumpy(), net.fc.weight.data().asnumpy())
    with pytest.raises(ValueError, match="give model=resnet18_v1b n_classes=5"):
        load("resnet18_v1", 1000, path)
