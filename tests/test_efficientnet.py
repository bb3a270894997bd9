"""EfficientNet-Lite as Gluon blocks against its PyTorch implementation, stored outputs of which always serve.

python -m tests.test_efficientnet writes them anew; needs torch, efficientnet-lite-pytorch and the packages of weights.
"""

import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from sklearn.datasets import load_sample_images

from leep.data import load_data
from leep.errors import Missing
from leep.sources.preprocess import Preprocessing
from leep.sources.weights import find_weights

STORED = Path(__file__).parent / "data" / "efficientnet_lite.npz"
CONF = Path(__file__).parent.parent / "conf" / "source"
MODELS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def source(model):
    return OmegaConf.load(CONF / f"imagenet_{model}.yaml")[f"imagenet_{model}"]


def inputs(model):
    """Two photographs (china.jpg and flower.jpg, which come with scikit-learn) and two pieces of clothing."""
    conf = source(model)
    prepare = Preprocessing(conf.size, tuple(conf.mean), tuple(conf.std))
    photographs = np.stack(load_sample_images().images)
    return np.concatenate([prepare(photographs), prepare(load_data("fashion_mnist").test_images[:2])])


def trained(model):
    from leep.sources.checkpoint import read_checkpoint

    conf = source(model)
    try:
        return read_checkpoint(find_weights(f"imagenet_{model}", model, conf.weights).path)
    except Missing as error:
        pytest.skip(str(error))


def drawn(model):
    """Weights by PyTorch's names, drawn so that values keep their size from layer to layer."""
    rng = np.random.default_rng(0)
    arrays = {}
    for name, parameter in build_gluon(model)[1].items():
        kind = name.rpartition(".")[2]
        values = rng.standard_normal(parameter.shape)
        if kind == "weight":
            values *= np.sqrt(2 / np.prod(parameter.shape[1:]))
        elif kind in ("gamma", "running_var"):
            values = 1 + np.abs(values) / 4
        else:
            values /= 4
        arrays[name] = values.astype(np.float32)
    return arrays


def build_gluon(model):
    from leep.sources.zoo import build

    net = build(model, 1000, np.random.SeedSequence(0))
    return net, net._collect_params_with_prefix()


def ours(model, weights):
    """Logits of the Gluon network, through its compiled graph."""
    from leep.engines import create_engine
    from leep.engines.graph import set_weights

    net, _ = build_gluon(model)
    set_weights(net, weights)
    return create_engine("gluon", threads=1).predictor(net)(inputs(model))[1]


def to_gluon(model, arrays):
    from leep.sources.convert import from_torch

    return from_torch(model, arrays, {k: p.shape for k, p in build_gluon(model)[1].items()})


def pytorch(model, weights):
    """Logits of the PyTorch implementation; `weights` by Gluon's names."""
    torch = pytest.importorskip("torch", reason="needs torch and efficientnet-lite-pytorch")
    package = pytest.importorskip("efficientnet_lite_pytorch", reason="needs efficientnet-lite-pytorch")
    net = package.EfficientNet.from_name(model.replace("_", "-")).eval()
    theirs = [n for n in net.state_dict() if not n.endswith("num_batches_tracked")]
    net.load_state_dict({n: torch.from_numpy(w) for n, w in zip(theirs, weights.values())}, strict=False)
    with torch.no_grad():
        return net(torch.from_numpy(inputs(model))).numpy()


@pytest.mark.parametrize("model", MODELS)
def test_drawn_weights_give_the_stored_outputs_of_pytorch(model):
    stored = np.load(STORED)[f"{model} drawn"]
    np.testing.assert_allclose(ours(model, drawn(model)), stored, rtol=0, atol=1e-4 * np.abs(stored).max())


@pytest.mark.parametrize("model", MODELS)
def test_trained_weights_give_the_stored_outputs_of_pytorch(model):
    weights = to_gluon(model, trained(model))
    stored = np.load(STORED)[f"{model} trained"]
    np.testing.assert_allclose(ours(model, weights), stored, rtol=0, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("model", MODELS)
def test_outputs_are_pytorchs(model):
    weights = drawn(model)
    theirs = pytorch(model, weights)
    near = {"rtol": 0, "atol": 1e-4 * np.abs(theirs).max()}
    np.testing.assert_allclose(ours(model, weights), theirs, **near)
    np.testing.assert_allclose(theirs, np.load(STORED)[f"{model} drawn"], **near)
    weights = to_gluon(model, trained(model))
    np.testing.assert_allclose(ours(model, weights), pytorch(model, weights), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("model", "count"), list(zip(MODELS, (4_652_008, 5_416_680, 6_092_072))))
def test_parameters_are_as_many_as_published(model, count):
    parameters = build_gluon(model)[1]
    assert sum(np.prod(p.shape) for n, p in parameters.items() if "running" not in n) == count


def test_padding_is_tensorflows():
    import mxnet as mx
    from mxnet.gluon import nn

    from leep.sources.efficientnet_lite import _add_convolution

    for size, kernel, stride in ((6, 3, 2), (7, 3, 2), (6, 5, 2), (7, 5, 1), (6, 3, 1), (5, 1, 1)):
        body = nn.HybridSequential()
        out = _add_convolution(body, size, 1, 1, kernel, stride, activation=False)
        body.initialize(mx.init.One())
        x = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
        total = max((out - 1) * stride + kernel - size, 0)
        padded = np.pad(x, (total // 2, total - total // 2))  # tf.nn.conv2d(padding="SAME")
        windows = [[padded[i * stride :, j * stride :][:kernel, :kernel].sum() for j in range(out)] for i in range(out)]
        got = body(mx.nd.array(x[None, None])).asnumpy()[0, 0] * np.sqrt(1 + 1e-3)
        assert out == -(-size // stride)
        np.testing.assert_allclose(got, windows, rtol=1e-5, atol=1e-5)


if __name__ == "__main__":
    outputs = {}
    for model in MODELS:
        outputs[f"{model} drawn"] = pytorch(model, drawn(model))
        outputs[f"{model} trained"] = pytorch(model, to_gluon(model, trained(model)))
    STORED.parent.mkdir(exist_ok=True)
    np.savez_compressed(STORED, **outputs)
    sys.exit(0)
