"""PyTorch's names and Gluon's: every weight reaches its layer, and what does not fit is listed."""

import itertools
import re

import numpy as np
import pytest

from leep.errors import Invalid
from leep.sources.convert import from_torch

RESNETS = {"resnet18_v1b": (2, 2, 2, 2), "resnet34_v1b": (3, 4, 6, 3), "resnet50_v1b": (3, 4, 6, 3)}
MOBILENETS = {"mobilenet1.0": 1.0, "mobilenet0.75": 0.75, "mobilenet0.5": 0.5, "mobilenet0.25": 0.25}


def batch_norm(name, n):
    ends = ("weight", "bias", "running_mean", "running_var")
    return {**{f"{name}.{end}": (n,) for end in ends}, f"{name}.num_batches_tracked": ()}


def torch_resnet(model, n_classes):
    """The names and shapes of torchvision's resnet18, resnet34 or resnet50."""
    expansion = 4 if model == "resnet50_v1b" else 1
    shapes = {"conv1.weight": (64, 3, 7, 7), **batch_norm("bn1", 64)}
    n_in = 64
    for stage, n_blocks in enumerate(RESNETS[model]):
        n = 64 * 2**stage
        n_out = n * expansion
        for block in range(n_blocks):
            at = f"layer{stage + 1}.{block}"
            convs = [(n, n_in, 1, 1), (n, n, 3, 3), (n_out, n, 1, 1)]
            if expansion == 1:
                convs = [(n, n_in, 3, 3), (n, n, 3, 3)]
            for i, shape in enumerate(convs, 1):
                shapes |= {f"{at}.conv{i}.weight": shape, **batch_norm(f"{at}.bn{i}", shape[0])}
            if block == 0 and (stage or expansion == 4):
                shapes |= {f"{at}.downsample.0.weight": (n_out, n_in, 1, 1), **batch_norm(f"{at}.downsample.1", n_out)}
            n_in = n_out
    return shapes | {"fc.weight": (n_classes, n_in), "fc.bias": (n_classes,)}


def torch_mobilenet(model, n_classes):
    """The names and shapes of a common MobileNet: `model.<block>.<layer>` and a dense `fc`."""
    widths = [int(MOBILENETS[model] * w) for w in (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)]
    shapes = {"model.0.0.weight": (widths[0], 3, 3, 3), **batch_norm("model.0.1", widths[0])}
    for i, (n_in, n) in enumerate(itertools.pairwise(widths), 1):
        shapes |= {f"model.{i}.0.weight": (n_in, 1, 3, 3), **batch_norm(f"model.{i}.1", n_in)}
        shapes |= {f"model.{i}.3.weight": (n, n_in, 1, 1), **batch_norm(f"model.{i}.4", n)}
    return shapes | {"fc.weight": (n_classes, widths[-1]), "fc.bias": (n_classes,)}


def torch_shapes(model, n_classes):
    return (torch_resnet if model in RESNETS else torch_mobilenet)(model, n_classes)


def numbered(shapes):
    """Arrays of those shapes, each filled with a number of its own, without taking their memory."""
    return {name: np.broadcast_to(np.float32(i), shape) for i, (name, shape) in enumerate(shapes.items())}


def gluon_net(model, n_classes=10):
    from leep.sources.zoo import build

    return build(model, n_classes, np.random.SeedSequence(0))


def gluon_shapes(net):
    return {name: parameter.shape for name, parameter in net._collect_params_with_prefix().items()}


def gluon_name(model, name):
    """Gluon's name of a torch parameter, written a second time from the two sources."""
    layer, parameter = name.rsplit(".", 1)
    if model in MOBILENETS:
        block, index = re.fullmatch(r"model\.(\d+)\.(\d)", layer).groups() if layer != "fc" else (None, None)
        layer = "output" if layer == "fc" else f"features.{6 * int(block) - 3 * (block != '0') + int(index)}"
        is_norm = index in ("1", "4")
    else:
        is_norm = "bn" in layer or "downsample.1" in layer
    return f"{layer}.{ {'weight': 'gamma', 'bias': 'beta'}.get(parameter, parameter) if is_norm else parameter }"


@pytest.mark.parametrize("model", [*RESNETS, *MOBILENETS])
def test_every_weight_reaches_its_layer(model):
    shapes = gluon_shapes(gluon_net(model))
    arrays = numbered(torch_shapes(model, 10))
    converted = from_torch(model, arrays, shapes)
    assert list(converted) == list(shapes) and {name: a.shape for name, a in converted.items()} == shapes
    kept = [name for name in arrays if not name.endswith("num_batches_tracked")]
    assert len(kept) == len(converted) and len(kept) < len(arrays)
    for name in kept:
        assert converted[gluon_name(model, name)].flat[0] == arrays[name].flat[0]


def small():
    """A chain of two layers and its torch counterpart, as far as the functions need them."""
    norm = {"gamma": (2,), "beta": (2,), "running_mean": (2,), "running_var": (2,)}
    shapes = {"features.0.weight": (2, 3, 3, 3), **{f"features.1.{k}": v for k, v in norm.items()}}
    shapes |= {"output.weight": (5, 2), "output.bias": (5,)}
    arrays = numbered({"c.weight": (2, 3, 3, 3), **batch_norm("n", 2), "fc.weight": (5, 2), "fc.bias": (5,)})
    return arrays, shapes


def test_a_1x1_convolution_is_a_dense_layer():
    arrays, shapes = small()
    weight = arrays["fc.weight"] = np.arange(10, dtype=np.float32).reshape(5, 2, 1, 1)
    converted = from_torch("mobilenet1.0", arrays, shapes)
    np.testing.assert_array_equal(converted["output.weight"], weight[:, :, 0, 0])
    arrays["n.weight"] = np.ones((2, 1, 1), np.float32)  # of nothing else
    with pytest.raises(Invalid, match=r"of a wrong shape: n.weight \(2, 1, 1\) for features.1.gamma \(2,\)$"):
        from_torch("mobilenet1.0", arrays, shapes)


def test_all_that_does_not_fit_is_listed():
    shapes = gluon_shapes(gluon_net("resnet18_v1b"))
    arrays = numbered(torch_resnet("resnet18_v1b", 12))
    del arrays["layer3.1.bn2.running_var"], arrays["conv1.weight"]
    arrays |= {"conv1.bias": np.zeros(64), "fc.extra": np.zeros((1, 2))}
    with pytest.raises(Invalid) as error:
        from_torch("resnet18_v1b", arrays, shapes)
    assert str(error.value) == (
        "the checkpoint must hold the weights of resnet18_v1b and nothing else; "
        "missing: conv1.weight for conv1.weight (64, 3, 7, 7), "
        "layer3.1.bn2.running_var for layer3.1.bn2.running_var (256,); "
        "left over: conv1.bias (64,), fc.extra (1, 2); "
        "of a wrong shape: fc.weight (12, 512) for fc.weight (10, 512), fc.bias (12,) for fc.bias (10,)"
    )


def test_a_chain_of_another_length_is_refused():
    arrays, shapes = small()
    del arrays["fc.weight"], arrays["fc.bias"]
    with pytest.raises(Invalid, match=r"missing: a layer for output.weight \(5, 2\), a layer for output.bias"):
        from_torch("mobilenet1.0", arrays, shapes)
    arrays, shapes = small()
    arrays["late.weight"] = np.ones((5, 5))
    with pytest.raises(Invalid, match=r"left over: late.weight \(5, 5\)$"):
        from_torch("mobilenet1.0", arrays, shapes)


def test_a_chain_in_another_order_is_refused():
    arrays, shapes = small()
    with pytest.raises(Invalid, match="of a wrong shape"):
        from_torch("mobilenet1.0", dict(reversed(arrays.items())), shapes)


@pytest.mark.parametrize("model", ["resnet50_v1", "mobilenetv2_1.0", "resnet18_v1bx"])
def test_other_models(model):
    with pytest.raises(Invalid, match=rf"one of resnet18_v1b, .*, mobilenet0.25, .*, got '{model}'"):
        from_torch(model, {}, {})


def torch_forward(weights, x):
    """torchvision's ResNet-18, written out."""
    from torch.nn import functional as F

    def norm(name, x):
        weight, bias, mean, var = (
            weights[f"{name}.{end}"] for end in ("weight", "bias", "running_mean", "running_var")
        )
        return F.batch_norm(x, mean, var, weight, bias, eps=1e-5)

    x = F.relu(norm("bn1", F.conv2d(x, weights["conv1.weight"], stride=2, padding=3)))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage in range(1, 5):
        for block in range(2):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.relu(norm(f"{at}.bn1", F.conv2d(x, weights[f"{at}.conv1.weight"], stride=stride, padding=1)))
            y = norm(f"{at}.bn2", F.conv2d(y, weights[f"{at}.conv2.weight"], padding=1))
            if stride == 2:
                x = norm(f"{at}.downsample.1", F.conv2d(x, weights[f"{at}.downsample.0.weight"], stride=2))
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])


@pytest.mark.torch
def test_gluon_computes_what_torch_computes():
    torch = pytest.importorskip("torch", reason="the torch engine needs the extra `torch`: make test-torch")
    import mxnet as mx

    rng = np.random.default_rng(0)
    arrays = {}
    for name, shape in torch_resnet("resnet18_v1b", 10).items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "downsample.1.weight")):
            arrays[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            scale = 0.3 if len(shape) < 2 else (2 / np.prod(shape[1:])) ** 0.5
            arrays[name] = np.asarray(rng.normal(0, scale, shape), np.float32)
    net = gluon_net("resnet18_v1b")
    converted = from_torch("resnet18_v1b", arrays, gluon_shapes(net))
    for name, parameter in net._collect_params_with_prefix().items():
        parameter.set_data(mx.nd.array(converted[name]))
    images = rng.normal(0, 1, (2, 3, 64, 64)).astype(np.float32)
    with torch.no_grad():
        theirs = torch_forward({name: torch.from_numpy(a) for name, a in arrays.items()}, torch.from_numpy(images))
    ours = net(mx.nd.array(images)).asnumpy()
    assert ours.std() > 0.1
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-4)
