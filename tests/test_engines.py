"""Engines: features are the head's input, both compute and train the same, weights move between them exactly."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from leep import leep_score, nce_score
from leep.engines import create_engine
from leep.engines.graph import get_weights, set_weights, trace
from leep.sources.zoo import build, load, seed_mxnet

SEED = np.random.SeedSequence(5)
NINE = {  # the candidates of Section 5.7: smallest input that their pooling allows, feature dimension
    "resnet18_v1": (64, 512),
    "resnet34_v1": (64, 512),
    "resnet50_v1": (64, 2048),
    "mobilenet1.0": (64, 1024),
    "mobilenet0.75": (64, 768),
    "mobilenet0.5": (64, 512),
    "mobilenet0.25": (64, 256),
    "darknet53": (64, 1024),
    "senet_154": (64, 2048),
}


def images(n, size=32, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 3, size, size)).astype(np.float32)


def torch_engine(**options):
    pytest.importorskip("torch", reason="the torch engine needs the extra `torch`: make test-torch")
    return create_engine("torch", threads=1, **options)


def test_mxnet_does_not_speak_of_its_engine():
    code = "import os; from leep.engines import create_engine; create_engine(threads=1); os.write(2, b'else');"
    code += "import mxnet; print(mxnet.nd.zeros(2).asnumpy().sum(), os.environ['MXNET_ENGINE_TYPE'])"
    environment = {k: v for k, v in os.environ.items() if k != "MXNET_ENGINE_TYPE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("0.0 NaiveEngine\n", "else")


def test_head_of_features_is_the_network():
    net = build("cifar_resnet20_v1", 10, SEED)
    features, logits = create_engine("gluon").predictor(net)(images(4))
    assert features.shape == (4, 64) and logits.shape == (4, 10)
    import mxnet as mx

    np.testing.assert_allclose(net(mx.nd.array(images(4))).asnumpy(), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.output(mx.nd.array(features)).asnumpy(), logits, rtol=1e-5, atol=1e-6)


def build_with_statistics(model, n_classes):
    """A network whose batch norms and biases do not leave everything as it is."""
    net, rng = build(model, n_classes, SEED), np.random.default_rng(3)
    for name, parameter in net._collect_params_with_prefix().items():
        if len(parameter.shape) == 1:
            values = rng.standard_normal(parameter.shape) / 10
            parameter.set_data(values + name.endswith(("gamma", "running_var")))
    return net


@pytest.mark.parametrize("model", NINE)
def test_head_of_features_is_the_network_for_every_candidate(model):
    import mxnet as mx

    size, dimension = NINE[model]
    net, x = build_with_statistics(model, 7), images(2, size)
    features, logits = create_engine("gluon").predictor(net)(x)
    weights = get_weights(net)
    weight, bias = (weights[name] for name in trace(net).head)
    expected = net(mx.nd.array(x)).asnumpy()
    assert features.shape == (2, dimension) and weight.shape == (7, dimension) and np.ptp(expected) > 0.1
    for found in (features @ weight.T + bias, logits):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_network_without_a_head_is_refused():
    from mxnet.gluon import nn

    net = nn.HybridSequential()
    net.add(nn.Dense(3), nn.Activation("relu"))
    net.initialize()
    with pytest.raises(ValueError, match="must end in a FullyConnected layer"):
        trace(net)


def test_weights_that_do_not_fit_are_listed():
    net = build("cifar_resnet20_v1", 10, SEED)
    weights = get_weights(net)
    weights["extra"] = weights.pop("output.bias")
    with pytest.raises(ValueError, match=r"missing \['output.bias'\], left over \['extra'\]"):
        set_weights(net, weights)


def test_same_seed_same_weights():
    first, second = (get_weights(build("cifar_resnet20_v1", 10, SEED)) for _ in range(2))
    assert all((first[k] == second[k]).all() for k in first)
    third = get_weights(build("cifar_resnet20_v1", 10, np.random.SeedSequence(6)))
    assert not (first["output.weight"] == third["output.weight"]).all()


def test_training_in_gluon_learns_and_repeats():
    y = np.arange(20) % 2
    x = images(20) * 0.3 + y[:, None, None, None]

    def train():
        trainer = create_engine("gluon").trainer(build("cifar_resnet20_v1", 2, SEED), momentum=0.9)
        seed_mxnet(SEED)
        first = None
        for _ in range(8):
            trainer.step(x, y, 0.05)
            loss = trainer.take_loss()
            first = first or loss
        return first, loss, trainer.state()

    first, last, state = train()
    assert last < first / 2
    again = train()[2]
    assert all((state[k] == again[k]).all() for k in state)


def test_resumed_training_goes_on_exactly():
    x, y = images(8), np.arange(8) % 3
    whole = create_engine("gluon").trainer(build("cifar_resnet20_v1", 3, SEED), 0.9, 1e-3)
    for _ in range(2):
        whole.step(x, y, 0.05)
    saved = whole.state()
    whole.step(x, y, 0.05)
    resumed = create_engine("gluon").trainer(build("cifar_resnet20_v1", 3, np.random.SeedSequence(9)), 0.9, 1e-3)
    resumed.load_state(saved)
    resumed.step(x, y, 0.05)
    a, b = whole.state(), resumed.state()
    assert any(k.startswith("momentum:") for k in a) and set(a) == set(b)
    for k in a:
        np.testing.assert_array_equal(a[k], b[k], err_msg=k)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "jax"}, "engine must be among gluon, torch, got 'jax'"),
        ({"precision": "float16"}, "precision must be among float32, bfloat16"),
        ({"precision": "bfloat16"}, "use engine=torch for bfloat16"),
    ],
)
def test_impossible_engines(arguments, message):
    with pytest.raises(ValueError, match=message):
        create_engine(**arguments)


@pytest.mark.torch
def test_torch_equals_gluon_in_training():
    torch_engine()
    x, y = images(32), np.random.default_rng(1).integers(0, 10, 32)
    states = {}
    for name in ("gluon", "torch"):
        trainer = create_engine(name, threads=1).trainer(build("cifar_resnet20_v1", 10, SEED), 0.9, 5e-4)
        trainer.step(x, y, 1e-3)
        states[name] = trainer.state()
        states[name]["loss"] = trainer.take_loss()
    assert set(states["gluon"]) == set(states["torch"])
    for name, value in states["gluon"].items():
        if name.startswith("momentum"):  # the gradient: float32 flips ReLUs near zero, in both engines alike
            correlation = np.corrcoef(value.ravel(), states["torch"][name].ravel())[0, 1]
            assert correlation > 0.999, name
        else:
            np.testing.assert_allclose(states["torch"][name], value, rtol=1e-4, atol=2e-4, err_msg=name)


@pytest.mark.torch
def test_gradients_of_a_smooth_graph_agree_to_the_digit():
    """Without ReLU kinks gradients agree to rounding, batch norm and its running statistics with them."""
    torch_engine()
    from mxnet.gluon import nn

    def net():
        block = nn.HybridSequential()
        block.add(nn.Conv2D(8, 3, 2, 1), nn.BatchNorm(momentum=0.8, epsilon=1e-3), nn.Activation("sigmoid"))
        block.add(
            nn.AvgPool2D(3, 2, 1), nn.Conv2D(8, 3, padding=1, groups=4), nn.Activation("tanh"), nn.GlobalAvgPool2D()
        )
        block.add(nn.Dense(5))
        seed_mxnet(SEED)
        block.initialize()
        import mxnet as mx

        block(mx.nd.zeros((1, 3, 16, 16)))
        return block

    x, y = images(12, 16), np.arange(12) % 5
    states = []
    for name in ("gluon", "torch"):
        trainer = create_engine(name, threads=1).trainer(net(), 0.9, 1e-2)
        for _ in range(3):
            trainer.step(x, y, 0.1)
        states.append(trainer.state())
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=1e-4, atol=2e-6, err_msg=name)


@pytest.mark.torch
def test_state_moves_between_engines_exactly(tmp_path):
    torch_engine()
    x, y = images(8), np.arange(8) % 3
    trainer = create_engine("torch", threads=1).trainer(build("cifar_resnet20_v1", 3, SEED), 0.9)
    trainer.step(x, y, 0.05)
    state = trainer.state()
    other = create_engine("gluon").trainer(build("cifar_resnet20_v1", 3, np.random.SeedSequence(1)), 0.9)
    other.load_state(state)
    back = other.state()
    assert all((state[k] == back[k]).all() for k in state) and set(state) == set(back)
    trainer.net.save_parameters(str(tmp_path / "w.params"))
    loaded = get_weights(load("cifar_resnet20_v1", 3, tmp_path / "w.params"))
    assert all((state[k] == loaded[k]).all() for k in loaded)


@pytest.mark.torch
@pytest.mark.parametrize("model", NINE)
def test_parity_of_the_zoo(model):
    """One small batch through each candidate of Section 5.7 with random weights."""
    engine = torch_engine()
    size, dimension = NINE[model]
    net = build(model, 7, SEED)
    x = images(2, size)
    features, logits = create_engine("gluon").predictor(net)(x)
    assert features.shape == (2, dimension)
    for ours, theirs in zip((features, logits), engine.predictor(net)(x)):
        np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-5 * np.abs(ours).max())


@pytest.mark.torch
def test_bfloat16_is_close():
    engine = torch_engine(precision="bfloat16")
    net = build("cifar_resnet20_v1", 10, SEED)
    exact, rough = create_engine("gluon").predictor(net)(images(8))[1], engine.predictor(net)(images(8))[1]
    assert rough.dtype == np.float32
    np.testing.assert_allclose(rough, exact, atol=0.05 * np.abs(exact).max())


@pytest.mark.torch
@pytest.mark.parametrize("groups", [1, 6])
def test_bfloat16_without_kernels_has_the_values_of_the_kernels(groups, monkeypatch):
    """Outputs and gradients within the last bit of bfloat16: the order of a sum may move a rounding."""
    torch_engine()
    import torch

    from leep.engines import torch_graph

    node = {"op": "Convolution", "name": "c", "attrs": {"pad": "(1, 1)", "stride": "(2, 2)", "num_group": str(groups)}}
    generator = torch.Generator().manual_seed(0)
    shapes = (4, 6, 9, 8), (6, 6 // groups, 3, 3), (5, 6 * 5 * 4), (5,)
    inputs = [torch.randn(s, generator=generator).requires_grad_() for s in shapes]

    def values(kernels):
        monkeypatch.setattr(torch_graph, "BFLOAT16_KERNELS", kernels)
        x, weight, dense, bias = inputs
        with torch.autocast("cpu", torch.bfloat16):
            maps = torch_graph._convolution(node, True, x, weight)
            out = torch_graph._fully_connected({"op": "FullyConnected"}, True, maps, dense, bias)
        assert maps.dtype == out.dtype == torch.bfloat16
        return maps, out, *torch.autograd.grad(out.float().square().sum(), inputs)

    for ours, theirs in zip(values(False), values(True)):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.01 * float(theirs.detach().abs().max()))


@pytest.mark.torch
def test_unknown_operator_is_named():
    engine = torch_engine()
    from mxnet.gluon import nn

    net = nn.HybridSequential()
    net.add(nn.Conv2DTranspose(2, 3), nn.Dense(3))
    net.initialize()
    import mxnet as mx

    net(mx.nd.zeros((1, 3, 8, 8)))
    with pytest.raises(NotImplementedError, match="Deconvolution"):
        engine.predictor(net)


@st.composite
def convolutions(draw):
    """Shapes of a depthwise convolution: batch, channels, height, width, kernel, stride, padding."""
    kernel = draw(st.sampled_from([1, 3, 5, 7]))
    pad = draw(st.integers(0, kernel - 1))
    least = max(kernel - 2 * pad, 1)
    height, width = (draw(st.integers(least, least + 9)) for _ in range(2))
    batch, channels, stride = (draw(st.integers(1, n)) for n in (3, 4, 3))
    return batch, channels, height, width, kernel, stride, pad


@pytest.mark.torch
def test_depthwise_gradients_are_those_of_autograd():
    torch_engine()
    import torch

    from leep.engines.depthwise import DepthwiseConvolution

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(convolutions(), st.booleans())
    def check(shape, last):
        batch, channels, height, width, kernel, stride, pad = shape
        generator = torch.Generator().manual_seed(0)
        like = {"dtype": torch.float64, "generator": generator}
        x = torch.randn(batch, channels, height, width, **like)
        x = x.to(memory_format=torch.channels_last) if last else x
        weight = torch.randn(channels, 1, kernel, kernel, **like)
        x.requires_grad_(), weight.requires_grad_()
        ours = DepthwiseConvolution.apply(x, weight, stride, pad)
        theirs = torch.nn.functional.conv2d(x, weight, None, stride, pad, 1, channels)
        assert torch.equal(ours, theirs)
        gradient = torch.randn(ours.shape, **like)
        for a, b in zip(*(torch.autograd.grad(y, (x, weight), gradient) for y in (ours, theirs))):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
        (alone,) = torch.autograd.grad(DepthwiseConvolution.apply(x.detach(), weight, stride, pad), weight, gradient)
        torch.testing.assert_close(alone, b, rtol=1e-12, atol=1e-12)

    check()


@pytest.mark.torch
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_depthwise_gradients_are_close_in_bfloat16(kernel, stride):
    torch_engine()
    import torch

    from leep.engines.depthwise import DepthwiseConvolution

    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(s, generator=generator).bfloat16().double() for s in ((4, 6, 14, 13), (6, 1, kernel, kernel))]
    rough = [t.bfloat16() for t in exact]
    gradients = []
    for x, weight in (exact, rough):
        x.requires_grad_(), weight.requires_grad_()
        out = DepthwiseConvolution.apply(x, weight, stride, kernel // 2)
        gradients.append(torch.autograd.grad(out, (x, weight), torch.ones_like(out)))
    for a, b in zip(*gradients):
        assert b.dtype == torch.bfloat16
        torch.testing.assert_close(b.double(), a, rtol=0.01, atol=0.01 * float(a.abs().max()))


def build_mbconvs():
    """Pieces of an EfficientNet-Lite: kernels of 3 and 5, strides of 1 and 2, odd padding and ReLU6."""
    import mxnet as mx
    from mxnet.gluon import nn

    from leep.sources.efficientnet_lite import MBConv

    net = nn.HybridSequential()
    net.add(MBConv(16, 3, 8, 5, 2, 6), MBConv(8, 8, 8, 5, 1, 4), MBConv(8, 8, 12, 3, 2, 4), MBConv(4, 12, 12, 5, 2, 2))
    net.add(nn.GlobalAvgPool2D(), nn.Dense(5, in_units=12))
    seed_mxnet(SEED)
    net.initialize(mx.init.Xavier())
    return net


@pytest.mark.torch
@pytest.mark.parametrize(
    ("make", "size", "count"), [(build_mbconvs, 16, 4), (lambda: build("mobilenet0.25", 5, SEED), 64, 13)]
)
def test_training_is_the_same_with_and_without_depthwise_gradients(make, size, count, monkeypatch):
    """In float64: batch norm magnifies the rounding of float32 where gradients are small."""
    engine = torch_engine()
    import torch

    from leep.engines.depthwise import DepthwiseConvolution

    tensors, convolved = engine.tensors, []
    monkeypatch.setattr(engine, "tensors", lambda net: {k: v.double() for k, v in tensors(net).items()})
    monkeypatch.setattr(engine, "images", lambda x: torch.from_numpy(x).double())

    def plain(x, weight, stride, pad):
        convolved.append(len(weight))
        return torch.nn.functional.conv2d(x, weight, None, stride, pad, 1, len(weight))

    gradients = []
    for function in (DepthwiseConvolution.apply, plain):
        monkeypatch.setattr(DepthwiseConvolution, "apply", function)
        trainer = engine.trainer(make())
        trainer.step(images(8, size), np.arange(8) % 5, 1.0)
        gradients.append({k: v for k, v in trainer.state().items() if k.startswith("momentum")})
    assert len(convolved) == count
    ours, theirs = gradients
    largest = max(np.abs(g).max() for g in theirs.values())
    for name in theirs:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-8, atol=1e-8 * largest, err_msg=name)


def test_measures_read_mxnets_arrays_at_once():
    import mxnet as mx

    probs, labels = np.random.default_rng(0).dirichlet(np.ones(64), 200).astype(np.float32), np.arange(200) % 3
    given = mx.nd.array(probs), mx.nd.array(labels)  # float32, as MXNet's argmax is
    assert leep_score(*given) == leep_score(probs, labels)
    assert nce_score(given[0].argmax(axis=1), given[1]) == nce_score(probs.argmax(1), labels)
