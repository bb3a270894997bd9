"""Models: the protocol, what a user says of a model, and the adapters on small networks with weights made here."""

import json
import os
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leep.errors import Invalid, Missing
from leep.models import Model, Resize, StoredOutputs, expand_specs, imagenet_classes, known_models, open_model
from leep.models.settings import preprocessing, read_settings
from leep.sources.params import read_params

BUNDLED = Path(__file__).parent.parent / "leep" / "sources" / "weights"


@pytest.fixture
def images():
    """Three images of 8 pixels, normalised."""
    return np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype("f4")


# The protocol


def make_model(features=4, outputs=3, **arguments):
    """A model whose first features and outputs are the mean colours."""

    def run(x):
        colours = x.mean((2, 3))
        return np.resize(colours, (len(x), features)), np.resize(colours, (len(x), outputs)) if outputs else None

    return Model("colours", run, **{"size": 8, "sha256": "1", **arguments})


def test_logits_become_probabilities():
    model = Model("fixed", lambda x: (x[:, :, 0, 0], np.tile(np.log([[1.0, 2, 5]]), (len(x), 1))), size=2)
    features, probs = model(np.arange(24, dtype="f4").reshape(2, 3, 2, 2))
    np.testing.assert_array_equal(features, [[0, 4, 8], [12, 16, 20]])
    np.testing.assert_allclose(probs, [[1 / 8, 2 / 8, 5 / 8]] * 2, rtol=1e-6)
    assert (features.dtype, probs.dtype) == ("f4", "f4")
    assert (model.n_features, model.n_classes, model.class_names) == (3, 3, None)


@pytest.mark.parametrize("rows", [[[0.25, 0.75]], [[-3.0, 2.0]], [[0.5, 0.75]]])
def test_probabilities_and_logits_are_told_apart_by_their_values(rows):
    model = Model("fixed", lambda x: (x[:, :, 0, 0], np.repeat(rows, len(x), 0)), size=2, outputs="either")
    _, probs = model(np.zeros((1, 3, 2, 2), "f4"))
    expected = rows if rows == [[0.25, 0.75]] else np.exp(rows) / np.exp(rows).sum()
    np.testing.assert_allclose(probs, expected, rtol=1e-6)


def test_input_is_normalised_by_channel():
    model = make_model(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    x = model.prepare(np.full((1, 8, 8, 3), 255, np.uint8))
    assert x.shape == (1, 3, 8, 8) and x.dtype == np.float32
    np.testing.assert_allclose(x[0, :, 0, 0], [0.5 / 0.2, 0.6 / 0.3, 0.7 / 0.4], rtol=1e-6)


def test_a_model_without_a_classifier_has_no_probabilities():
    model = make_model(outputs=0, no_probs="it was trained without labels")
    assert model.n_classes is None and model.class_names is None and model.no_probs == "it was trained without labels"
    assert model(np.zeros((2, 3, 8, 8), "f4"))[1] is None


BAD_RUNS = {
    "NaN": (lambda x: (x[:, :, 0, 0] * np.nan, x[:, :, 0, 0]), "features are NaN or infinite for 2 of 2 images"),
    "infinite": (lambda x: (x[:, :, 0, 0], x[:, :, 0, 0] / 0), "outputs are NaN or infinite"),
    "boxes": (lambda x: (x[:, :, 0, 0], np.zeros((len(x), 100, 4))), r"no classifier's \(images, classes\)"),
    "one output": (lambda x: (x[:, :, 0, 0], x[:, :1, 0, 0]), "one output an image"),
    "no axis": (lambda x: (x[:, 0, 0, 0], x[:, :, 0, 0]), r"features have the shape \(2,\) for 2 images"),
    "other count": (lambda x: (x[:1, :, 0, 0], x[:, :, 0, 0]), r"features have the shape \(1, 3\) for 2 images"),
}


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize("name", BAD_RUNS)
def test_what_is_no_classifier_is_refused_when_it_is_opened(name):
    run, reason = BAD_RUNS[name]
    with pytest.raises(Invalid, match=reason):
        Model("bad", run, size=2)


def test_probabilities_that_do_not_sum_to_one_are_refused():
    with pytest.raises(Invalid, match="must be ≥ 0 and sum to 1"):
        Model("bad", lambda x: (x[:, :, 0, 0], np.full((len(x), 4), 0.3)), size=2, outputs="probabilities")


def test_names_of_classes():
    assert make_model(outputs=2, class_names=["cat", "dog"]).class_names == ("cat", "dog")
    with pytest.raises(Invalid, match="3 classes, and 2 names"):
        make_model(class_names=["cat", "dog"])
    taken = make_model(outputs=1001)
    assert taken.class_names[:2] == ("background", "tench") and "ImageNet" in taken.notes[0]


def test_imagenets_names():
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert (names[0], names[281], names[967], names[999]) == ("tench", "tabby", "espresso", "toilet tissue")


# Resizing


def test_the_whole_image_is_squeezed():
    image = Image.fromarray(np.repeat(np.uint8([[0, 100, 200, 100]]), 2, 0)).convert("RGB")
    out = Resize(2)(image)[:, :, 0]
    # a triangle of four pixels' width: weights 3/4, 3/4, 1/4 of the pixels at 0.5, 0.5, 1.5 from the new one
    left, right = (75 + 50) / 1.75, (25 + 150 + 75) / 1.75
    np.testing.assert_allclose(out, [[left, right]] * 2, atol=0.51)
    assert Resize(4, None, "nearest")(image)[:, 1].ravel().tolist() == [100] * 12


def test_the_middle_of_the_shorter_side_is_cropped():
    columns = np.repeat(np.uint8([np.arange(8)]), 4, 0)  # 8 wide, 4 high
    out = Resize(2, shorter_side=4)(Image.fromarray(columns).convert("RGB"))
    assert out[:, :, 0].tolist() == [[3, 4], [3, 4]]
    tall = Resize(4, shorter_side=4)(Image.fromarray(columns.T.copy()).convert("RGB"))
    assert tall[:, 0, 0].tolist() == [2, 3, 4, 5]


def test_crop_is_torchvisions():
    transforms = pytest.importorskip("torchvision.transforms")
    rng = np.random.default_rng(1)
    for width, height in ((37, 53), (64, 41), (30, 30)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        theirs = transforms.CenterCrop(24)(transforms.Resize(28)(image))
        np.testing.assert_array_equal(Resize(24, 28)(image), np.asarray(theirs))


# What a user says


def test_a_card_beside_the_file_and_options(tmp_path):
    (tmp_path / "m.json").write_text('{"mean": 0.5, "std": 0.25, "class_names": "names.txt"}')
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    settings = read_settings(tmp_path / "m.onnx", {"std": 0.5})
    assert settings == {"mean": 0.5, "std": 0.5, "class_names": ["cat", "dog"]}


def test_scale_and_channels_become_mean_and_deviation_of_rgb():
    settings = {"scale": 1, "mean": [104, 117, 123], "std": 1, "channels": "BGR"}
    arguments, flip = preprocessing(settings, {"size": 224})
    assert flip
    np.testing.assert_allclose(arguments["mean"], [123 / 255, 117 / 255, 104 / 255])
    np.testing.assert_allclose(arguments["std"], [1 / 255] * 3)


def test_a_size_of_ones_own_keeps_the_crop():
    defaults = {"size": 224, "shorter_side": 256, "interpolation": "bicubic"}
    assert preprocessing({"size": 112}, defaults)[0]["resize"] == Resize(112, 128, "bicubic")
    assert preprocessing({"size": 112, "shorter_side": None}, defaults)[0]["resize"] == Resize(112, None, "bicubic")


BAD_SETTINGS = {
    '{"maen": 1}': "no setting 'maen'; did you mean mean",
    '{"std": 0}': "std must be",
    '{"mean": [1, 2]}': "mean must be",
    '{"size": "big"}': "size must be",
    '{"size": true}': "size must be",
    '{"channels": "GBR"}': "channels must be",
    '{"class_names": "nowhere.txt"}': "nowhere.txt cannot be read",
    "[1]": "expected an object",
    "{": "no JSON",
}


@pytest.mark.parametrize("text", BAD_SETTINGS)
def test_bad_settings_are_named(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(Invalid, match=BAD_SETTINGS[text]):
        read_settings(tmp_path / "m.onnx", None)


# Specs


SPECS = {
    "torchvison:resnet18": "no kind of model 'torchvison'; did you mean torchvision",
    "resnet18": "expected KIND:NAME, such as torchvision:resnet18",
    "models/net.onx": r"did you mean models/net\.onnx\?",
    "arrays:": "expected a name",
}


@pytest.mark.parametrize("spec", SPECS)
def test_a_spec_that_is_none(spec):
    with pytest.raises(Invalid, match=SPECS[spec]) as caught:
        open_model(spec)
    assert str(caught.value).startswith(f"{spec}: ") and "\n" not in str(caught.value)


def test_patterns_of_files(tmp_path):
    for name in ("b.npz", "a.npz", "c.onnx"):
        (tmp_path / name).touch()
    specs = [f"arrays:{tmp_path}/*.npz", f"{tmp_path}/*.onnx", "timm:x", "timm:x"]
    assert expand_specs(specs) == [
        f"arrays:{tmp_path}/a.npz",
        f"arrays:{tmp_path}/b.npz",
        f"{tmp_path}/c.onnx",
        "timm:x",
    ]
    with pytest.raises(Missing, match="no file of that name"):
        expand_specs([f"arrays:{tmp_path}/z*.npz"])


def test_the_nearest_file_is_named(tmp_path):
    for name in ("squeezenet1.1.npz", "squeezenet1.1.onnx", "other.npz"):
        (tmp_path / name).touch()
    with pytest.raises(Missing, match=r"no such file; did you mean squeezenet1\.1\.npz\?$"):
        open_model(f"arrays:{tmp_path}/squeeznet1.1.npz")
    with pytest.raises(Missing, match=r"no such file$"):
        open_model(f"arrays:{tmp_path}/none/squeeznet1.1.npz")


def test_a_package_that_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(Missing, match="timm:resnet18: it needs torch and timm: pip install torch timm"):
        open_model("timm:resnet18")


# MXNet's .params


def test_params_are_read_without_mxnet():
    arrays = read_params(BUNDLED / "cifar10_resnet8.params")
    assert arrays["features.0.weight"].shape == (16, 3, 3, 3) and arrays["output.weight"].shape == (10, 64)
    mx = pytest.importorskip("mxnet")
    theirs = mx.nd.load(str(BUNDLED / "cifar10_resnet8.params"))
    assert list(theirs) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name].asnumpy(), array)


def params_bytes(values, name=b"w", flag=0, shape=None):
    """A `.params` file of one float32 array, by hand."""
    values = np.asarray(values, "<f4")
    shape = shape or values.shape
    array = struct.pack("<IiI", 0xF993FAC9, 0, len(shape)) + struct.pack(f"<{len(shape)}q", *shape)
    array += struct.pack("<iii", 1, 0, flag) + values.tobytes()
    return struct.pack("<QQQ", 0x112, 0, 1) + array + struct.pack("<QQ", 1, len(name)) + name


def test_params_by_hand(tmp_path):
    (tmp_path / "w.params").write_bytes(params_bytes([[1, 2], [3, 4]]))
    assert {k: v.tolist() for k, v in read_params(tmp_path / "w.params").items()} == {"w": [[1, 2], [3, 4]]}


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04" * 9, params_bytes([1.0])[:-1], params_bytes([1.0])[:40], params_bytes([1.0], flag=99),
     params_bytes([1.0], shape=(2**40,)), params_bytes([1.0], shape=(-1,)), params_bytes([1.0], name=b"\xff")],
)  # fmt: skip
def test_damaged_params_are_refused(tmp_path, data):
    (tmp_path / "w.params").write_bytes(data)
    with pytest.raises(Invalid, match=r"w.params: not a .params file"):
        read_params(tmp_path / "w.params")


# ONNX

FEATURES, CLASSES = 3, 5  # of the small graphs: mean colours, a linear layer


def linear_weights(classes=CLASSES):
    rng = np.random.default_rng(1)
    return rng.standard_normal((FEATURES, classes)).astype("f4"), rng.standard_normal(classes).astype("f4")


def save_onnx(path, nodes, outputs, weights=(), shape=("n", 3, 8, 8), dtype=None):
    """A graph from images `images` to outputs, mapping of names to shapes."""
    onnx = pytest.importorskip("onnx")
    helper, kinds = onnx.helper, onnx.TensorProto
    inputs = [helper.make_tensor_value_info("images", dtype or kinds.FLOAT, shape)]
    out = [helper.make_tensor_value_info(name, kinds.FLOAT, s) for name, s in outputs.items()]
    tensors = [onnx.numpy_helper.from_array(np.asarray(w), name) for name, w in dict(weights).items()]
    graph = helper.make_graph([helper.make_node(*n[:3], **n[3]) for n in nodes], "g", inputs, out, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return f"onnx:{path}"


def mean_nodes(axes=(2, 3), source="images"):
    return [("ReduceMean", [source], ["pooled"], {"axes": list(axes), "keepdims": 0})]


def linear(tail=(), **shape):
    """A classifier: mean colours, Gemm, and what follows it."""
    w, b = linear_weights()
    nodes = [*mean_nodes(), ("Gemm", ["pooled", "w", "b"], ["logits" if not tail else "raw"], {}), *tail]
    return nodes, {"logits": ["n", CLASSES]}, {"w": w, "b": b}


def check_linear(model, images):
    """Features are the mean colours, probabilities the softmax of the linear layer."""
    w, b = linear_weights()
    features, probs = model(images)
    expected = np.exp(images.mean((2, 3)) @ w + b)
    np.testing.assert_allclose(features, images.mean((2, 3)), atol=1e-6)
    np.testing.assert_allclose(probs, expected / expected.sum(1, keepdims=True), atol=1e-5)


@pytest.fixture(autouse=True)
def _onnx(request):
    if "onnx" in request.node.name:
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")


def test_onnx_features_are_the_input_of_the_last_gemm(tmp_path, images):
    model = open_model(save_onnx(tmp_path / "m.onnx", *linear()))
    check_linear(model, images)
    assert (model.size, model.n_features, model.n_classes) == (8, 3, 5)
    assert (model.parameters, model.weight_bytes) == (20, 80)
    assert any("preprocessing guessed" in note for note in model.notes)
    assert '"mean"' in model.guess.remedy and "m.json beside m.onnx" in model.guess.remedy
    (tmp_path / "m.json").write_text('{"mean": 0.5, "std": 0.5}')
    assert open_model(str(tmp_path / "m.onnx")).guess is None


def test_onnx_a_softmax_at_the_end_gives_the_same(tmp_path, images):
    tail = [("Softmax", ["raw"], ["logits"], {"axis": 1})]
    model = open_model(save_onnx(tmp_path / "m.onnx", *linear(tail)))
    check_linear(model, images)
    assert model.outputs == "probabilities"


@pytest.mark.parametrize("batch", [1, 2])
def test_onnx_a_fixed_batch(tmp_path, images, batch):
    nodes, _, weights = linear()
    spec = save_onnx(tmp_path / "m.onnx", nodes, {"logits": [batch, CLASSES]}, weights, shape=(batch, 3, 8, 8))
    check_linear(open_model(spec), images)


def test_onnx_a_batch_that_is_free_only_in_name(tmp_path, images):
    nodes, outputs, weights = linear()
    nodes[1:1] = [("Reshape", ["pooled", "one"], ["row"], {})]
    nodes[2] = ("Gemm", ["row", "w", "b"], ["logits"], {})
    check_linear(
        open_model(save_onnx(tmp_path / "m.onnx", nodes, outputs, {**weights, "one": np.int64([1, 3])})), images
    )


def test_onnx_channels_last(tmp_path, images):
    nodes, outputs, weights = linear()
    nodes[0] = mean_nodes(axes=(1, 2))[0]
    model = open_model(save_onnx(tmp_path / "m.onnx", nodes, outputs, weights, shape=("n", 8, 8, 3)))
    check_linear(model, images)
    assert model.mean == (0.5, 0.5, 0.5)


def test_onnx_a_convolution_as_classifier(tmp_path, images):
    w, b = linear_weights()
    nodes = [
        ("Conv", ["images", "w", "b"], ["maps"], {}),
        ("GlobalAveragePool", ["maps"], ["square"], {}),
        ("Flatten", ["square"], ["logits"], {}),
    ]
    weights = {"w": w.T[:, :, None, None], "b": b}
    check_linear(open_model(save_onnx(tmp_path / "m.onnx", nodes, {"logits": ["n", CLASSES]}, weights)), images)


def test_onnx_matmul_add_and_constants_in_nodes(tmp_path, images):
    onnx = pytest.importorskip("onnx")
    w, b = (onnx.numpy_helper.from_array(a) for a in linear_weights())
    nodes = [
        ("Constant", [], ["w"], {"value": w}),
        ("Constant", [], ["b"], {"value": b}),
        *mean_nodes(),
        ("MatMul", ["pooled", "w"], ["product"], {}),
        ("Add", ["b", "product"], ["logits"], {}),
    ]
    model = open_model(save_onnx(tmp_path / "m.onnx", nodes, {"logits": ["n", CLASSES]}))
    check_linear(model, images)
    assert model.parameters == 20


def test_onnx_takes_bgr_and_a_card(tmp_path, images):
    spec = save_onnx(tmp_path / "m.onnx", *linear())
    card = {"channels": "BGR", "mean": [0.1, 0.2, 0.3], "std": 1, "class_names": list("abcde")}
    (tmp_path / "m.json").write_text(json.dumps(card))
    model = open_model(spec)
    assert (model.mean, model.class_names, model.notes) == ((0.3, 0.2, 0.1), tuple("abcde"), ())
    np.testing.assert_allclose(model(images)[0], images.mean((2, 3))[:, ::-1], atol=1e-6)
    assert open_model(spec, options={"mean": 0.5}).mean == (0.5, 0.5, 0.5)


def test_onnx_takes_pixels_of_bytes(tmp_path):
    onnx = pytest.importorskip("onnx")
    nodes, outputs, weights = linear()
    nodes[:1] = [("Cast", ["images"], ["real"], {"to": onnx.TensorProto.FLOAT}), *mean_nodes(source="real")]
    model = open_model(save_onnx(tmp_path / "m.onnx", nodes, outputs, weights, dtype=onnx.TensorProto.UINT8))
    pixels = np.random.default_rng(2).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(model(model.prepare(pixels))[0], pixels.mean((1, 2)), rtol=1e-5)
    assert not model.notes


def test_onnx_without_a_classifier_if_said(tmp_path, images):
    spec = save_onnx(tmp_path / "m.onnx", *linear())
    model = open_model(spec, options={"head": False})
    w, b = linear_weights()
    np.testing.assert_allclose(model(images)[0], images.mean((2, 3)) @ w + b, atol=1e-5)
    assert model.n_classes is None and "head is false" in model.no_probs


def test_onnx_files_that_are_refused(tmp_path):
    nodes, outputs, weights = linear()
    good = tmp_path / "good.onnx"
    save_onnx(good, nodes, outputs, weights)
    (tmp_path / "cut.onnx").write_bytes(good.read_bytes()[:-30])
    (tmp_path / "text.onnx").write_text("no graph at all")
    (tmp_path / "empty.onnx").touch()
    boxes = [("Reshape", ["images", "shape"], ["boxes"], {})]
    save_onnx(tmp_path / "boxes.onnx", boxes, {"boxes": ["n", 48, 4]}, {"shape": np.int64([-1, 48, 4])})
    both = [*nodes, *boxes]
    save_onnx(
        tmp_path / "both.onnx", both, {**outputs, "boxes": ["n", 48, 4]}, {**weights, "shape": np.int64([-1, 48, 4])}
    )
    save_onnx(tmp_path / "two.onnx", [*nodes, ("Relu", ["logits"], ["z"], {})], {**outputs, "z": ["n", 5]}, weights)
    save_onnx(tmp_path / "nan.onnx", nodes, outputs, {"w": weights["w"] * np.nan, "b": weights["b"]})
    save_onnx(tmp_path / "mean.onnx", mean_nodes(), {"pooled": ["n", 3]})
    save_onnx(tmp_path / "wide.onnx", nodes, outputs, weights, shape=("n", 3, 8, 16))
    save_onnx(tmp_path / "text_input.onnx", [], {}, (), shape=("n", 3))
    reasons = {
        "cut": "not an ONNX file, or damaged",
        "text": "not an ONNX file, or damaged",
        "empty": "not an ONNX file, or damaged",
        "nowhere": "no such file",
        "boxes": r"no classifier: its outputs are boxes \(n, 48, 4\), expected \(n, classes\)",
        "both": "no classifier: its outputs are logits",
        "two": 'several outputs: .*by "output"',
        "nan": "its outputs are NaN or infinite for 2 of 2 images",
        "mean": "no classifier was found before its output",
        "wide": "not square",
        "text_input": "no operations",
    }
    for name, reason in reasons.items():
        with pytest.raises((Invalid, Missing), match=reason) as caught:
            open_model(f"onnx:{tmp_path / name}.onnx")
        assert "\n" not in str(caught.value)
    assert open_model(f"{tmp_path}/two.onnx", options={"output": "logits"}).n_classes == CLASSES


def test_onnx_hash_changes_with_the_weights(tmp_path):
    nodes, outputs, weights = linear()
    first = open_model(save_onnx(tmp_path / "a.onnx", nodes, outputs, weights))
    again = open_model(save_onnx(tmp_path / "b.onnx", nodes, outputs, weights))
    other = open_model(save_onnx(tmp_path / "c.onnx", nodes, outputs, {**weights, "b": weights["b"] + 1}))
    assert first.sha256 == again.sha256 != other.sha256


# torchvision: SqueezeNet and ResNet18 at 64 pixels, with weights drawn here

SMALL = {"options": {"size": 64}}


@pytest.fixture
def torch(monkeypatch, tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchvision")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    torch.manual_seed(0)
    return torch


def build(torch, name="resnet18", **arguments):
    from torchvision import models

    return models.get_model(name, weights=None, **arguments).eval()


def test_torchvision_from_a_file_of_ones_own(torch, tmp_path):
    network = build(torch, num_classes=7)
    wrapped = {"epoch": 3, "state_dict": {f"module.{name}": t for name, t in network.state_dict().items()}}
    torch.save(wrapped, tmp_path / "mine.pth")
    model = open_model(f"torchvision:resnet18={tmp_path}/mine.pth", **SMALL)
    x = np.random.default_rng(3).standard_normal((2, 3, 64, 64)).astype("f4")
    features, probs = model(x)
    with torch.inference_mode():
        logits = network(torch.from_numpy(x))
    np.testing.assert_allclose(probs, logits.softmax(1), atol=1e-5)
    weight, bias = (t.numpy() for t in (network.fc.weight.detach(), network.fc.bias.detach()))
    np.testing.assert_allclose(features @ weight.T + bias, logits, atol=1e-4)
    assert (model.n_features, model.n_classes, model.class_names) == (512, 7, None)
    assert model.parameters == sum(p.numel() for p in network.parameters())
    assert model.resize == Resize(64, 73)


def test_torchvision_without_a_classifier_in_the_file(torch, tmp_path):
    network = build(torch)
    backbone = {f"backbone.{n}": t for n, t in network.state_dict().items() if not n.startswith("fc.")}
    torch.save({**backbone, "projector.weight": torch.zeros(2, 2)}, tmp_path / "ssl.pth")
    model = open_model(f"torchvision:resnet18={tmp_path}/ssl.pth", **SMALL)
    assert (model.n_features, model.n_classes) == (512, None) and "no weights of a classifier" in model.no_probs
    x = np.ones((1, 3, 64, 64), "f4")
    with torch.inference_mode():
        network.fc = torch.nn.Identity()
        np.testing.assert_allclose(model(x)[0], network(torch.from_numpy(x)), atol=1e-5)


def test_torchvision_squeezenet_has_a_convolution_as_classifier(torch, tmp_path):
    network = build(torch, "squeezenet1_1")
    torch.save(network.state_dict(), tmp_path / "s.pt")
    model = open_model(f"torchvision:squeezenet1_1={tmp_path}/s.pt", **SMALL)
    x = np.random.default_rng(4).standard_normal((1, 3, 64, 64)).astype("f4")
    with torch.inference_mode():
        expected = network.features(torch.from_numpy(x)).mean((2, 3))
    np.testing.assert_allclose(model(x)[0], expected, atol=1e-5)


def test_torchvision_published_weights_in_the_cache(torch, tmp_path):
    from torchvision.models import ResNet18_Weights

    network = build(torch)
    with pytest.raises(Missing, match=r"needs its weights: give --download, or torchvision:resnet18=FILE"):
        open_model("torchvision:resnet18")
    assert not {i.spec: i.available for i in known_models()}["torchvision:resnet18"]
    path = tmp_path / "hub" / "hub" / "checkpoints" / ResNet18_Weights.DEFAULT.url.rpartition("/")[2]
    path.parent.mkdir(parents=True)
    torch.save(network.state_dict(), path)
    model = open_model("torchvision:resnet18", **SMALL)
    assert model.name == "torchvision:resnet18.IMAGENET1K_V1" and model.class_names[0] == "tench"
    assert {i.spec: i.available for i in known_models()}["torchvision:resnet18"]


def test_torchvision_safetensors(torch, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    network = build(torch, num_classes=4)
    safetensors.save_file(network.state_dict(), tmp_path / "m.safetensors")
    assert open_model(f"torchvision:resnet18={tmp_path}/m.safetensors", **SMALL).n_classes == 4


class Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_torchvision_files_that_are_refused(torch, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = build(torch)
    torch.save(network.state_dict(), "r18.pth")
    torch.save(build(torch, "resnet34").state_dict(), "r34.pth")
    torch.save({"state_dict": network.state_dict(), "evil": Evil()}, "evil.pth")
    torch.save(network, "whole.pth")
    torch.save([1, 2], "list.pth")
    Path("text.pth").write_text("nothing")
    reasons = {
        "resnet34=r18.pth": r"does not hold the weights of resnet34; \d+ missing: .* torchvision:resnet18=r18.pth",
        "resnet18=r34.pth": r"does not hold the weights of resnet18; \d+ left over: layer1.2.*:resnet34=r34.pth",
        "resnet18=evil.pth": r"state_dict\(\).*mkdir', which is refused",
        "resnet18=whole.pth": r"state_dict\(\).*ResNet', which is refused",
        "resnet18=list.pth": r"state_dict\(\).* a list without tensors",
        "resnet18=text.pth": "a file of weights .*begins with b'nothing'",
        "resnet18=nowhere.pth": "no such file",
        "resnt18=r18.pth": "no classifier 'resnt18'; did you mean resnet18",
        "resnet18.V7=r18.pth": "no weights 'V7' of resnet18; it has IMAGENET1K_V1",
    }
    for name, reason in reasons.items():
        with pytest.raises((Invalid, Missing), match=reason) as caught:
            open_model(f"torchvision:{name}", **SMALL)
        assert "\n" not in str(caught.value)
    assert not Path("executed").exists()


def test_torchvision_a_network_of_nan_is_refused(torch, tmp_path):
    state = build(torch).state_dict()
    state["fc.bias"][3] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(Invalid, match="outputs are NaN or infinite for 2 of 2"):
        open_model(f"torchvision:resnet18={tmp_path}/nan.pth", **SMALL)


def shared_weights(name):
    home = Path(os.environ.get("MXNET_HOME") or "~/.mxnet").expanduser()
    return next((p for p in (home / "shared-weights" / name, home / "models" / name) if p.is_file()), None)


# Of GluonCV 0.10.5's resnet18_v1b with resnet18_v1b.params, on MXNet 1.9.1, for `waves()`.
GLUON_FEATURES = [
    [0.170712, 0.290501, 0.244629, 0.492955, 0.276066],
    [0.240238, 0.123589, 0.139138, 0.654094, 0.323935],
]
GLUON_LOGITS = [
    [-6.172463, -1.992366, -7.469083, -6.059734, -4.776666],
    [-7.035196, -1.628198, -8.072887, -6.16231, -4.871687],
]
GLUON_LARGEST = [3.3230991, 2.4945238]  # of class 735


def waves():
    g = np.arange(224, dtype=np.float32)
    rows = [[np.sin(g[:, None] / (7 + c + 3 * k)) * np.cos(g[None] / (11 - c)) for c in range(3)] for k in range(2)]
    return np.array(rows, np.float32)


@pytest.mark.skipif(shared_weights("resnet18_v1b.params") is None, reason="needs resnet18_v1b.params")
def test_gluons_resnet18_gives_the_same_in_torchvision(torch):
    model = open_model(f"torchvision:resnet18={shared_weights('resnet18_v1b.params')}")
    features, probs = model(waves())
    np.testing.assert_allclose(features[:, :5], GLUON_FEATURES, atol=1e-4)
    assert probs.argmax(1).tolist() == [735, 735]
    expected = np.array(GLUON_LOGITS) - np.array(GLUON_LARGEST)[:, None]  # softmax keeps differences of logits
    np.testing.assert_allclose(np.log(probs[:, :5] / probs[:, 735:736]), expected, atol=1e-4)


def test_gluons_resnets_are_known_as_torchvisions(torch, tmp_path, monkeypatch):
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    (tmp_path / "models").mkdir()
    for name in ("resnet18_v1b-0123abcd.params", "resnet34_v1-0123abcd.params"):
        (tmp_path / "models" / name).touch()
    specs = [info.spec for info in known_models() if "=" in info.spec and info.available]
    assert specs == [f"torchvision:resnet18={tmp_path}/models/resnet18_v1b-0123abcd.params"]


# timm

TIMM = "mobilenetv3_small_050"


@pytest.fixture
def timm(torch):
    return pytest.importorskip("timm")


def test_timm_from_a_file_with_its_own_preprocessing(timm, torch, tmp_path):
    network = timm.create_model(TIMM, num_classes=6).eval()
    torch.save({"state_dict": network.state_dict()}, tmp_path / "m.pth")
    model = open_model(f"timm:{TIMM}={tmp_path}/m.pth")
    assert model.resize == Resize(224, 256, "bicubic") and model.n_classes == 6
    x = np.random.default_rng(5).standard_normal((2, 3, 224, 224)).astype("f4")
    features, probs = model(x)
    with torch.inference_mode():
        maps = network.forward_features(torch.from_numpy(x))
        np.testing.assert_allclose(features, network.forward_head(maps, pre_logits=True), atol=1e-4)
        np.testing.assert_allclose(probs, network.forward_head(maps).softmax(1), atol=1e-5)


def test_timm_without_a_classifier(timm, torch, tmp_path):
    network = timm.create_model(TIMM, num_classes=0).eval()
    torch.save(network.state_dict(), tmp_path / "m.pth")
    model = open_model(f"timm:{TIMM}={tmp_path}/m.pth", **SMALL)
    x = np.ones((1, 3, 64, 64), "f4")
    features, probs = model(x)
    with torch.inference_mode():
        np.testing.assert_allclose(features, network(torch.from_numpy(x)), atol=1e-4)
    assert probs is None and model.n_classes is None


def test_timm_efficientnet_lite_under_the_names_of_its_packages(timm, torch, tmp_path):
    network = timm.create_model("tf_efficientnet_lite0").eval()
    torch.save({f"_layer{k}": t for k, t in enumerate(network.state_dict().values())}, tmp_path / "lite.pth")
    model = open_model(f"timm:tf_efficientnet_lite0={tmp_path}/lite.pth", **SMALL)
    x = np.random.default_rng(7).standard_normal((1, 3, 64, 64)).astype("f4")
    with torch.inference_mode():
        np.testing.assert_allclose(model(x)[1], network(torch.from_numpy(x)).softmax(1), atol=1e-5)


def test_timm_errors(timm, torch, tmp_path):
    torch.save(build(torch).state_dict(), tmp_path / "r18.pth")
    reasons = {
        "resnet18": "needs its weights: give --download, or timm:resnet18=FILE",
        "convnext_tny": "no model 'convnext_tny'; did you mean convnext_tiny",
        "resnet18.foo": "no weights 'foo' of resnet18; it has a1_in1k",
        f"{TIMM}={tmp_path}/r18.pth": f"does not hold the weights of {TIMM}",
        f"{TIMM}={tmp_path}/nowhere.pth": "no such file",
    }
    for name, reason in reasons.items():
        with pytest.raises((Invalid, Missing), match=reason) as caught:
            open_model(f"timm:{name}")
        assert "\n" not in str(caught.value)


# transformers


@pytest.fixture
def vit(torch):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return transformers, transformers.ViTConfig(
        **sizes, image_size=16, patch_size=8, num_labels=3, id2label={0: "a", 1: "b", 2: "c"}
    )


CARD = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 16, "width": 16},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
    "resample": 3,
}


def test_hf_classifier_in_a_folder(vit, torch, tmp_path):
    transformers, config = vit
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(CARD))
    model = open_model(f"hf:{tmp_path}/m")
    assert model.resize == Resize(16, None, "bicubic")
    assert (model.mean, model.std, model.class_names) == ((0.5,) * 3, (0.25,) * 3, ("a", "b", "c"))
    x = np.random.default_rng(6).standard_normal((2, 3, 16, 16)).astype("f4")
    features, probs = model(x)
    with torch.inference_mode():
        states = network.vit(torch.from_numpy(x)).last_hidden_state[:, 0]
        np.testing.assert_allclose(features, states, atol=1e-5)
        np.testing.assert_allclose(probs, network(torch.from_numpy(x)).logits.softmax(1), atol=1e-5)


def test_hf_network_without_a_classifier(vit, tmp_path):
    transformers, config = vit
    transformers.ViTModel(config).save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "preprocessor_config.json").write_text(json.dumps(CARD))
    model = open_model(f"hf:{tmp_path}/m")
    assert (model.n_features, model.n_classes) == (16, None) and "ViTModel has no classifier" in model.no_probs


def test_hf_cache_and_errors(vit, tmp_path, monkeypatch):
    transformers, config = vit
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(Missing, match="neither a folder nor in Hugging Face's cache: give --download"):
        open_model("hf:nobody/nothing")
    folder = tmp_path / "hub" / "models--me--vit" / "snapshots" / "1"
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    assert {i.spec: i.available for i in known_models()}["hf:me/vit"]
    next(folder.glob("*.safetensors")).unlink()
    with pytest.raises((Missing, Invalid), match="m"):
        open_model(f"hf:{folder}")


# Python's own, and arrays

MODULE = """
import numpy as np

class Colours:
    size = 8
    mean, std = 0.5, 0.25
    class_names = ["red", "green", "blue"]
    sha256 = "1"
    def __call__(self, x):
        return x.mean((2, 3)), x.mean((2, 3))

def colours():
    return Colours()

def nothing():
    return 3

def broken():
    raise RuntimeError("out of memory")
"""


def test_python_function_from_a_file_and_a_module(tmp_path, monkeypatch, images):
    (tmp_path / "my_colours.py").write_text(MODULE)
    model = open_model(f"python:{tmp_path}/my_colours.py:colours")
    assert (model.size, model.mean, model.class_names, model.notes) == (8, (0.5,) * 3, ("red", "green", "blue"), ())
    np.testing.assert_allclose(model(images)[0], images.mean((2, 3)))
    monkeypatch.chdir(tmp_path)
    assert open_model("python:my_colours:colours").sha256 == model.sha256
    reasons = {
        "my_colours:colors": "no function 'colors'; did you mean colours",
        "my_colours:nothing": "returns a int",
        "my_colours:broken": "RuntimeError: out of memory",
        "my_colors:colours": "there is no module 'my_colors'",
        "nowhere.py:f": "no such file",
        "colours": "expected python:MODULE:FUNCTION",
    }
    for name, reason in reasons.items():
        with pytest.raises((Invalid, Missing), match=reason):
            open_model(f"python:{name}")
    sys.modules.pop("my_colours")


def test_python_torch_module(torch, tmp_path):
    code = """
import torch
from torch import nn

def f():
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, 3))
    network.size = 8
    return network
"""
    (tmp_path / "net_of_mine.py").write_text(code)
    model = open_model(f"python:{tmp_path}/net_of_mine.py:f")
    assert (model.n_features, model.n_classes, model.parameters) == (4, 3, 192 * 4 + 4 + 15)


def test_arrays_by_their_aliases(tmp_path):
    features, logits = np.arange(6.0).reshape(3, 2), np.log([[1.0, 3], [1, 1], [9, 1]])
    np.savez(tmp_path / "m.npz", Embeddings=features, logits=logits, y=[0, 1, 1], names=["cat", "dog"])
    stored = open_model(f"arrays:{tmp_path}/m.npz")
    assert isinstance(stored, StoredOutputs) and stored.name == "m"
    np.testing.assert_array_equal(stored.features, features)
    np.testing.assert_allclose(stored.probs, [[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]], rtol=1e-6)
    assert stored.labels.tolist() == [0, 1, 1] and stored.class_names == ("cat", "dog")
    np.savez(tmp_path / "f.npz", features=features)
    assert open_model(f"{tmp_path}/f.npz").probs is None


BAD_ARRAYS = {
    "no features": ({"probs": np.ones((2, 1))}, "no array of features"),
    "flat": ({"features": np.ones(3)}, r"features must be numbers \(n, columns\), got float64 \(3,\)"),
    "NaN": ({"features": np.array([[1.0], [np.nan]])}, "features are NaN or infinite in 1 of 2 rows"),
    "logits as probs": ({"features": np.ones((2, 1)), "probs": np.ones((2, 3))}, "sum to 1"),
    "rows": ({"features": np.ones((2, 1)), "labels": np.ones(3)}, "as many labels as features, 2, got 3"),
    "twice": ({"features": np.ones((2, 1)), "feats": np.ones((2, 1))}, "two of its arrays are features"),
    "objects": ({"features": np.array([{}, 1])}, "Python objects"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_arrays_that_are_refused(tmp_path, name):
    arrays, reason = BAD_ARRAYS[name]
    np.savez(tmp_path / "m.npz", **arrays)
    with pytest.raises(Invalid, match=reason):
        open_model(f"arrays:{tmp_path}/m.npz")


def test_arrays_in_a_file_of_another_kind(tmp_path):
    (tmp_path / "m.npz").write_bytes(b"PK\x03\x04nothing")
    with pytest.raises(Invalid, match=r"not an \.npz archive"):
        open_model(f"arrays:{tmp_path}/m.npz")


# Gluon


def test_gluon_bundled_weights(images):
    pytest.importorskip("mxnet")
    model = open_model("gluon:cifar10_resnet8", threads=1)
    assert (model.size, model.n_features, model.n_classes, model.class_names[3]) == (32, 64, 10, "cat")
    shapes = [a.shape for name, a in read_params(BUNDLED / "cifar10_resnet8.params").items() if "running" not in name]
    assert model.parameters <= sum(map(np.prod, shapes))
    with pytest.raises(Missing, match="gluon:resnet18_v9: it needs its weights"):
        open_model("gluon:resnet18_v9")


def test_gluon_needs_mxnet(monkeypatch):
    monkeypatch.setattr("leep.models.gluon.is_installed", lambda: False)
    with pytest.raises(Missing, match="needs MXNet and GluonCV"):
        open_model("gluon:cifar10_resnet8")
    assert not any(i.available for i in known_models() if i.spec.startswith("gluon:"))


def test_known_files_of_graphs(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "m.onnx").touch()
    assert [i.spec for i in known_models([tmp_path]) if i.spec.startswith("onnx:")] == [f"onnx:{tmp_path}/deep/m.onnx"]
