"""Training of whole networks: what is learned, in which steps, and that interruptions leave no trace."""

import itertools
import types

import numpy as np
import pytest

from leep.engines import create_engine
from leep.engines.graph import get_weights, set_weights, trace
from leep.errors import Invalid
from leep.sources.preprocess import Preprocessing
from leep.sources.zoo import build, seed_mxnet
from leep.transfer import fine_tune, from_scratch, training
from leep.transfer.retrain_head import initial_head, train_head
from leep.transfer.training import curve_epochs, predict_classes, train_network

MODEL = "cifar_resnet20_v1"
SEED = np.random.SeedSequence(5)
SGD = [{}, {"momentum": 0.9}, {"momentum": 0.5, "weight_decay": 0.1}]


def prepare(size):
    return Preprocessing(size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def draw_images(n, n_classes, size=8, seed=0):
    """Noise around a colour of the class, and the classes."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    colours = np.random.default_rng(1).integers(40, 216, (n_classes, 1, 1, 3))
    pixels = colours[labels] + rng.normal(0, 40, (n, size, size, 3))
    return pixels.clip(0, 255).astype(np.uint8), labels


def smooth_net(n_classes=3, seed=SEED, bias=True):
    """Every operator that training treats in a way of its own, and no ReLU, whose kinks magnify rounding."""
    import mxnet as mx
    from mxnet.gluon import nn

    net = nn.HybridSequential()
    net.add(nn.Conv2D(6, 3, 2, 1, use_bias=False), nn.BatchNorm(momentum=0.8), nn.Activation("tanh"))
    net.add(nn.GlobalAvgPool2D(), nn.Dense(n_classes, use_bias=bias))
    seed_mxnet(seed)
    net.initialize(mx.init.Xavier())
    net(mx.nd.zeros((1, 3, 8, 8)))
    return net


def smooth_trainer(n_classes=3, seed=SEED, engine="gluon", **options):
    return create_engine(engine, threads=1).trainer(smooth_net(n_classes, seed), **options)


def train(trainer, start, images, labels, rng=1, **options):
    """Train on all of the images; returns the curve."""
    options = {"prepare": prepare(images.shape[1]), "epochs": 2, "batch_size": 4, "learning_rate": 0.1, **options}
    rows = np.arange(len(labels))
    return train_network(trainer, start, images, rows, labels, np.random.default_rng(rng), **options)


def assert_same_bits(a, b):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def differs(a, b):
    return {name for name in a if (a[name] != b[name]).any()}


class Recorder:
    """In place of a trainer: writes down what it is told."""

    def __init__(self, losses=()):
        self.steps, self.losses, self.loaded = [], list(losses), None

    graph = types.SimpleNamespace(n_classes=1000)

    def load_state(self, state):
        self.loaded = state

    def seed(self, *numbers):
        pass

    def step(self, images, labels, learning_rate):
        self.steps.append((images.copy(), labels.copy(), learning_rate))

    def take_loss(self):
        return self.losses.pop(0) if self.losses else 0.0

    def state(self):
        return {}


# What is learned


def test_fine_tuning_goes_beyond_its_start():
    images, labels = draw_images(60, 3, 32)
    trainer = create_engine("gluon").trainer(build(MODEL, 3, SEED))
    rng = np.random.default_rng(2)
    start = fine_tune.initial_weights(get_weights(build(MODEL, 10, SEED)), trainer.graph, 3, rng)

    def accuracy():
        return np.mean(predict_classes(trainer, images, np.arange(30, 60), prepare(32), 16) == labels[30:])

    curve = train(
        trainer, start, images[:30], labels[:30], epochs=12, batch_size=10, learning_rate=0.02, evaluate=accuracy
    )
    assert [epoch for epoch, _ in curve] == list(range(13))
    assert curve[0][1] < 0.6 and curve[-1][1] > 0.9
    assert curve[-1][1] == accuracy()


def test_fine_tuning_refuses_weights_that_batch_norm_makes_into_others():
    """Convolutions times 1,000 and batch norm's scale by 1,000 less: the same network, in inference mode only."""
    images = prepare(8)(draw_images(10, 3)[0])
    net = smooth_net()
    weights, convolution, norm = get_weights(net), "0.weight", "1."
    fine_tune.check_training_mode(net, images, "whole")
    set_weights(net, weights)  # the check changed the running statistics
    before = create_engine("gluon").predictor(net)(images)[1]
    weights[convolution] *= 1000
    weights[norm + "running_mean"] *= 1000
    weights[norm + "gamma"] /= 1000
    set_weights(net, weights)
    np.testing.assert_allclose(create_engine("gluon").predictor(net)(images)[1], before, rtol=1e-4, atol=1e-5)
    with pytest.raises(Invalid, match=r"source\.scaled\.weights: in training mode 0\.\d% is left .* batch norms"):
        fine_tune.check_training_mode(net, images, "scaled")


@pytest.mark.parametrize("options", SGD)
def test_with_a_frozen_extractor_it_is_head_retraining(options):
    images, labels = draw_images(34, 3, 32)
    source = build(MODEL, 10, SEED)
    features = create_engine("gluon").predictor(source)(prepare(32)(images))[0]
    head = train_head(features, labels, 3, np.random.default_rng(3), epochs=4, learning_rate=0.05, **options)
    trainer = create_engine("gluon").trainer(build(MODEL, 3, SEED), freeze_extractor=True, **options)
    rng = np.random.default_rng(3)
    start = fine_tune.initial_weights(get_weights(source), trainer.graph, 3, rng)
    sgd = {"epochs": 4, "batch_size": 10, "learning_rate": 0.05}
    train_network(trainer, start, images, np.arange(34), labels, rng, prepare=prepare(32), **sgd)
    trained = trainer.state()
    np.testing.assert_allclose(trained["output.weight"], head.weight, rtol=0, atol=1e-4)
    np.testing.assert_allclose(trained["output.bias"], head.bias, rtol=0, atol=1e-4)
    weights = {name: value for name, value in trained.items() if not name.startswith("momentum:")}
    assert differs(weights, start) == {"output.weight", "output.bias"}


def step_slowly(net, images, labels, learning_rate, momenta, momentum=0.0, weight_decay=0.0):
    """One SGD step on the net itself; returns the gradients."""
    import mxnet as mx

    parameters = {n: p for n, p in net._collect_params_with_prefix().items() if p.grad_req != "null"}
    with mx.autograd.record():
        log_probs = mx.nd.log_softmax(net(mx.nd.array(images)))
        loss = -mx.nd.pick(log_probs, mx.nd.array(labels)).mean()
    loss.backward()
    gradients = {name: p.grad().asnumpy() for name, p in parameters.items()}
    for name, p in parameters.items():
        w = p.data().asnumpy()
        momenta[name] = momentum * momenta.get(name, 0) - learning_rate * (gradients[name] + weight_decay * w)
        p.set_data(mx.nd.array(w + momenta[name]))
    return gradients


@pytest.mark.parametrize("options", SGD)
@pytest.mark.parametrize(
    ("make", "size", "tolerance"),
    [
        (smooth_net, 8, 1e-4),
        (lambda: build(MODEL, 3, SEED), 32, 0.03),  # float32 flips ReLUs near zero
    ],
    ids=["smooth", MODEL],
)
def test_steps_are_those_of_plain_sgd_on_the_net(make, size, tolerance, options):
    images, labels = draw_images(14, 3, size)  # a batch of 10 and one of 4
    net, ours = make(), make()
    start, momenta = get_weights(net), {}
    order = np.random.default_rng(4).permutation(14)
    for batch in (order[:10], order[10:]):
        gradients = step_slowly(net, prepare(size)(images[batch]), labels[batch], 0.1, momenta, **options)
    trainer = create_engine("gluon").trainer(ours, **options)
    train(trainer, start, images, labels, rng=4, epochs=1, batch_size=10)
    expected, found = get_weights(net), get_weights(ours)
    largest = max(np.abs(g).max() for g in gradients.values())
    for name in expected:
        # a learning rate of 0.1: weights differ by a tenth of what gradients differ by
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=0.1 * tolerance * largest, err_msg=name)
        if name in gradients:
            moved = np.abs(expected[name] - start[name]).max()
            assert moved > 0 and np.abs(found[name] - expected[name]).max() < 0.1 * moved, name


def test_same_seed_same_bits():
    images, labels = draw_images(14, 3)
    start = get_weights(smooth_net())
    states = []
    for seed in (1, 1, 2):
        trainer = smooth_trainer(momentum=0.9)
        train(trainer, start, images, labels, rng=seed)
        states.append(trainer.state())
    assert_same_bits(states[0], states[1])
    assert differs(states[0], states[2])


def test_second_task_of_a_trainer_knows_nothing_of_the_first():
    images, labels = draw_images(14, 3)
    start = get_weights(smooth_net())
    fresh, used = smooth_trainer(momentum=0.9), smooth_trainer(momentum=0.9)
    train(used, get_weights(smooth_net(seed=np.random.SeedSequence(6))), images[::-1], labels)
    used.step(np.full((4, 3, 8, 8), np.nan, np.float32), labels[:4], 0.1)  # its loss and its momenta are NaN
    train(used, start, images, labels)
    train(fresh, start, images, labels)
    assert_same_bits(used.state(), fresh.state())


def test_no_epochs_leave_the_start():
    images, labels = draw_images(6, 3)
    start = get_weights(smooth_net(seed=np.random.SeedSequence(6)))
    trainer = smooth_trainer()
    assert train(trainer, start, images, labels, epochs=0, evaluate=lambda: 0.25) == [(0, 0.25)]
    assert_same_bits(get_weights(trainer.net), start)


# In which steps


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(23, 10, [10, 10, 3]), (20, 10, [10, 10]), (3, 10, [3])])
def test_every_example_once_an_epoch_with_its_label(n, batch_size, sizes):
    images = np.arange(40)  # an image that is its own row
    rows = np.random.default_rng(0).permutation(40)[:n]
    labels = rows % 7
    trainer, start = Recorder(), {"w": np.ones(2)}
    sgd = {"epochs": 3, "batch_size": batch_size, "learning_rate": 0.3}
    reported = []
    rng = np.random.default_rng(1)
    curve = train_network(
        trainer, start, images, rows, labels, rng, prepare=lambda x: x + 100, report=reported.append, **sgd
    )
    assert curve == [] and trainer.loaded == start and sum(reported) == 3 * n
    assert [len(x) for x, _, _ in trainer.steps] == 3 * sizes
    assert {rate for _, _, rate in trainer.steps} == {0.3}
    orders = np.concatenate([x for x, _, _ in trainer.steps]).reshape(3, n) - 100
    given = np.concatenate([y for _, y, _ in trainer.steps]).reshape(3, n)
    np.testing.assert_array_equal(np.sort(orders), np.sort(rows)[None].repeat(3, 0))
    np.testing.assert_array_equal(given, orders % 7)
    assert len({tuple(o) for o in orders}) == 3


@pytest.mark.parametrize(
    ("epochs", "eval_every", "expected"),
    [
        (0, 1, [0]),
        (3, 5, [0, 1, 2, 3]),
        (10, 100, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (13, 1, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]),
        (23, 5, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 20, 23]),
        (60, 30, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 30, 60]),
    ],
)
def test_epochs_of_a_curve(epochs, eval_every, expected):
    assert sorted(curve_epochs(epochs, eval_every)) == expected


def test_evaluation_after_the_wanted_epochs_only():
    trainer = Recorder()
    seen = []

    def evaluate():
        seen.append(len(trainer.steps))
        return 1 / (1 + len(trainer.steps))

    curve = train(trainer, {}, *draw_images(6, 2), epochs=13, eval_every=6, evaluate=evaluate)
    assert seen == [2 * epoch for epoch in (*range(11), 12, 13)]  # two steps an epoch
    assert curve == [(n // 2, 1 / (1 + n)) for n in seen]


def test_predict_classes_is_a_loop_over_the_rows():
    images, _ = draw_images(230, 5)
    trainer = smooth_trainer(5)
    rows = np.random.default_rng(0).permutation(230)[:211]
    predicted = predict_classes(trainer, images, rows, prepare(8), 100)
    expected = [trainer.predict(prepare(8)(images[[row]]))[0].argmax() for row in rows]
    assert predicted.dtype == np.int64 and predicted.tolist() == expected and len(set(expected)) > 1


# What is refused


def test_divergence_is_an_error():
    images, labels = draw_images(12, 3, 32)
    trainer = create_engine("gluon").trainer(build(MODEL, 3, SEED))
    with pytest.raises(FloatingPointError, match=r"training diverged .* with learning_rate=1e\+30: lower it"):
        train(trainer, get_weights(trainer.net), images, labels, epochs=9, learning_rate=1e30)


@pytest.mark.parametrize("loss", [np.nan, np.inf])
def test_divergence_names_the_epoch(loss):
    trainer = Recorder([0.7, loss, 0.7])
    with pytest.raises(FloatingPointError, match="training diverged in epoch 2 of 3"):
        train(trainer, {}, *draw_images(6, 2), epochs=3)


def test_outputs_that_are_not_finite_are_an_error():
    trainer = types.SimpleNamespace(predict=lambda x: np.full((len(x), 2), np.nan))
    with pytest.raises(FloatingPointError, match="output is not finite: lower learning_rate"):
        predict_classes(trainer, draw_images(3, 2)[0], np.arange(3), prepare(8), 2)


# Interruptions


class Interrupted(Exception):
    pass


def stop_at(call):
    """A `report` that interrupts at its call of that number, counted from 1."""
    calls = itertools.count(1)

    def report(n):
        if next(calls) == call:
            raise Interrupted

    return report


@pytest.fixture
def seconds(monkeypatch):
    """A clock that goes on by a second whenever it is read: every step is reported, and saved."""
    monkeypatch.setattr(training, "time", types.SimpleNamespace(monotonic=itertools.count().__next__))


@pytest.fixture(scope="module")
def task():
    return draw_images(14, 3)  # four steps an epoch, the last with two examples


@pytest.mark.parametrize("options", SGD)
@pytest.mark.parametrize("steps", [0, 1, 3, 4, 5, 8, 11, 12])  # 0: before the first is saved; 4, 8, 12: an epoch's end
def test_interrupted_training_goes_on_to_the_same_bits(seconds, task, tmp_path, options, steps):
    start, path = get_weights(smooth_net()), tmp_path / "a" / "task.npz"

    def run(seed, stop_after=None, **more):
        trainer, reported, evaluations = smooth_trainer(seed=np.random.SeedSequence(seed), **options), [], []

        def report(n):
            if len(reported) == stop_after:
                raise Interrupted
            reported.append(n)

        def evaluate():
            evaluations.append(float(np.abs(trainer.predict(prepare(8)(task[0]))).mean()))  # another after every step
            return evaluations[-1]

        curve = None
        if stop_after is None:
            curve = train(trainer, start, *task, epochs=3, evaluate=evaluate, report=report, **more)
        else:
            with pytest.raises(Interrupted):
                train(trainer, start, *task, epochs=3, evaluate=evaluate, report=report, **more)
        return trainer.state(), curve, sum(reported), evaluations

    whole, curve, _, evaluations = run(1)
    assert [e for e, _ in curve] == [0, 1, 2, 3] and len(set(evaluations)) == 4
    saves = {"checkpoint": path, "checkpoint_seconds": 0}
    run(2, stop_after=steps, **saves)
    assert path.exists() == (steps > 0) and [p.name for p in tmp_path.glob("a/*")] == ["task.npz"][: steps and 1]
    state, resumed_curve, images, _ = run(3, **saves)
    assert_same_bits(state, whole)
    assert resumed_curve == curve
    assert images == 3 * 14 - (steps // 4 * 14 + steps % 4 * 4), "what was done is not done again"


def test_interrupted_at_every_step(seconds, task, tmp_path):
    start, saves = get_weights(smooth_net()), {"checkpoint": tmp_path / "task.npz", "checkpoint_seconds": 0}
    whole, trainer = smooth_trainer(momentum=0.9), None
    train(whole, start, *task)
    for done in range(8):
        trainer = smooth_trainer(momentum=0.9)
        with pytest.raises(Interrupted):
            train(trainer, start, *task, report=stop_at(2), **saves)  # one step is saved, the next is lost
        assert np.load(saves["checkpoint"])["position"].tolist() == [done // 4, done % 4 + 1]
    train(trainer, start, *task, **saves)
    assert_same_bits(trainer.state(), whole.state())


def test_divergence_is_not_forgotten_at_a_checkpoint(seconds, task, tmp_path):
    trainer, path = smooth_trainer(momentum=0.9), tmp_path / "task.npz"
    start = get_weights(trainer.net) | {"4.bias": np.full(3, np.nan, np.float32)}
    options = {"epochs": 1, "checkpoint": path, "checkpoint_seconds": 0}
    for _ in range(2):  # the second goes on from the end of the epoch
        with pytest.raises(FloatingPointError, match="epoch 1 of 1"):
            train(trainer, start, *task, **options)
        assert np.load(path)["position"].tolist() == [0, 4]


def test_a_checkpoint_is_written_when_its_time_has_come(seconds, task, tmp_path):
    trainer, path = smooth_trainer(), tmp_path / "task.npz"
    start = get_weights(trainer.net)
    train(trainer, start, *task, checkpoint=path, checkpoint_seconds=1e9)
    assert not path.exists()
    train(trainer, start, *task, checkpoint=path, checkpoint_seconds=3)
    assert path.exists()


# Where it starts


@pytest.mark.parametrize("bias", [True, False])
def test_fine_tuning_starts_with_a_new_head_on_the_source(bias):
    net = smooth_net(4, bias=bias)
    source = get_weights(net)
    copies = {name: value.copy() for name, value in source.items()}
    graph = trace(net)
    assert graph.head == (["4.weight", "4.bias"] if bias else ["4.weight"])
    weights = fine_tune.initial_weights(source, graph, 7, np.random.default_rng(3))
    head = initial_head(7, 6, np.random.default_rng(3))
    np.testing.assert_array_equal(weights["4.weight"], head.weight)
    assert weights["4.weight"].shape == (7, 6) and weights["4.weight"].dtype == np.float32
    if bias:
        np.testing.assert_array_equal(weights["4.bias"], np.zeros(7))
    assert_same_bits(source, copies)
    assert_same_bits(*({n: v for n, v in w.items() if n not in graph.head} for w in (weights, source)))
    trainer = create_engine("gluon").trainer(smooth_net(7, bias=bias))
    trainer.load_state(weights)
    assert trainer.predict(np.zeros((2, 3, 8, 8), np.float32)).shape == (2, 7)


def test_reference_models_start_from_fresh_weights_alone():
    source = get_weights(build(MODEL, 5, SEED))
    first, again, other = (from_scratch.initial_weights(MODEL, 5, np.random.default_rng(s)) for s in (0, 0, 1))
    assert_same_bits(first, again)
    drawn = {name for name in first if name.endswith("weight")}
    assert differs(first, other) == differs(first, source) == drawn
    assert first["output.weight"].shape == (5, 64)
    for name, value in first.items():
        if name in drawn:  # Xavier, uniform
            receptive = value[0, 0].size
            limit = np.sqrt(6 / ((value.shape[0] + value.shape[1]) * receptive))
            assert 0.8 * limit < np.abs(value).max() <= limit, name
            assert np.isin(value, source[name]).mean() < 0.01, name
        else:
            expected = 1 if name.endswith(("gamma", "running_var")) else 0
            assert (value == expected).all() and name.endswith(("gamma", "beta", "running_mean", "running_var", "bias"))


def test_reference_models_draw_from_their_generator():
    rng = np.random.default_rng(0)
    first, second = (from_scratch.initial_weights(MODEL, 2, rng) for _ in range(2))
    assert differs(first, second)


# The second engine


@pytest.mark.torch
@pytest.mark.parametrize("options", [*SGD, {"momentum": 0.9, "freeze_extractor": True}])
def test_both_engines_train_the_same(task, options):
    pytest.importorskip("torch", reason="the torch engine needs the extra `torch`: make test-torch")
    source, states, curves = get_weights(smooth_net(10)), [], []
    for engine in ("gluon", "torch"):
        trainer = smooth_trainer(engine=engine, **options)
        start = fine_tune.initial_weights(source, trainer.graph, 3, np.random.default_rng(2))
        curves.append(
            train(
                *(trainer, start, *task),
                evaluate=lambda t=trainer: float(np.mean(predict_classes(t, *task, prepare(8), 64) == 0)),
            )
        )
        states.append(trainer.state())
        trained = {n for n in differs(start, states[-1]) if not n.startswith("momentum:")}
        assert trained == (set(trainer.graph.head) if "freeze_extractor" in options else set(start))
    assert set(states[0]) <= set(states[1])  # torch has momenta even where they are not used
    for name, value in states[0].items():
        np.testing.assert_allclose(states[1][name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert curves[0] == curves[1]


@pytest.mark.torch
def test_second_task_of_a_torch_trainer_knows_nothing_of_the_first(task):
    pytest.importorskip("torch", reason="the torch engine needs the extra `torch`: make test-torch")
    start = get_weights(smooth_net())
    fresh, used = (smooth_trainer(engine="torch", momentum=0.9) for _ in range(2))
    train(used, get_weights(smooth_net(seed=np.random.SeedSequence(6))), task[0][::-1].copy(), task[1])
    used.step(np.full((4, 3, 8, 8), np.nan, np.float32), task[1][:4], 0.1)
    train(used, start, *task)
    train(fresh, start, *task)
    assert_same_bits(used.state(), fresh.state())


@pytest.mark.torch
@pytest.mark.parametrize("steps", [2, 4])
def test_training_interrupted_in_one_engine_goes_on_in_the_other(seconds, task, tmp_path, steps):
    pytest.importorskip("torch", reason="the torch engine needs the extra `torch`: make test-torch")
    start, saves = get_weights(smooth_net()), {"checkpoint": tmp_path / "task.npz", "checkpoint_seconds": 0}
    with pytest.raises(Interrupted):
        train(smooth_trainer(engine="torch", momentum=0.9), start, *task, report=stop_at(steps + 1), **saves)
    resumed, whole = smooth_trainer(momentum=0.9), smooth_trainer(momentum=0.9)
    train(resumed, start, *task, **saves)
    train(whole, start, *task)
    for name, value in whole.state().items():
        np.testing.assert_allclose(resumed.state()[name], value, rtol=1e-4, atol=1e-6, err_msg=name)


# Dropout


def test_dropout_depends_on_the_step_alone(seconds, tmp_path):
    """Not on what the process drew before, nor on an interruption."""
    import mxnet as mx
    from mxnet.gluon import nn

    def trainer():
        net = nn.HybridSequential()
        net.add(nn.Flatten(), nn.Dense(16, in_units=192), nn.Dropout(0.5), nn.Dense(3, in_units=16))
        seed_mxnet(SEED)
        net.initialize(mx.init.Xavier())
        return create_engine("gluon", threads=1).trainer(net)

    whole, images, labels = trainer(), *draw_images(12, 3)
    start = whole.state()
    train(whole, start, images, labels)
    for seed in (1, 2):
        seed_mxnet(np.random.SeedSequence(seed))
        again = trainer()
        saves = {"checkpoint": tmp_path / f"{seed}.npz", "checkpoint_seconds": 0}
        with pytest.raises(Interrupted):
            train(again, start, images, labels, report=stop_at(seed + 1), **saves)
        mx.random.seed(seed)
        train(again, start, images, labels, **saves)
        assert_same_bits(whole.state(), again.state())
    other = trainer()
    train(other, start, images, labels, rng=2)
    assert differs(whole.state(), other.state())


def test_labels_that_the_network_lacks_are_refused():
    images, labels = draw_images(8, 4)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got 0\.\.3"):
        train(smooth_trainer(3), {}, images, labels)
    for options, message in (({"batch_size": 0}, "batch_size must be at least 1"), ({"epochs": -1}, "epochs must be")):
        with pytest.raises(ValueError, match=message):
            train(smooth_trainer(4), {}, images, labels, **options)
