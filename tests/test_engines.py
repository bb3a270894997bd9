"""Engines: features are the head's input, both compute and train the same, weights move between them exactly."""

import numpy as np
import pytest

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
    pytest.importorskip("torch", reason="the torch engine needs the extra leep[torch]: make test-torch")
    return create_engine("torch", threads=1, **options)


def test_head_of_features_is_the_network():
    net = build("cifar_resnet20_v1", 10, SEED)
    features, logits = create_engine("gluon").predictor(net)(images(4))
    assert features.shape == (4, 64) and logits.shape == (4, 10)
    import mxnet as mx

    np.testing.assert_allclose(net(mx.nd.array(images(4))).asnumpy(), logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.output(mx.nd.array(features)).asnumpy(), logits, rtol=1e-5, atol=1e-6)


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
        ({"name": "jax"}, "engine must be one of gluon, torch, got 'jax'"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16"),
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
