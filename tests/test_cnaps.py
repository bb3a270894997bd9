"""CNAPs: the source with its batch norms' scale and shift replaced, against a slow reference; both engines agree."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from leep.engines import create_engine

ENGINE = create_engine("gluon", threads=1)  # before MXNet is imported

import mxnet as mx  # noqa: E402

from leep.engines.graph import get_weights, update_weights  # noqa: E402
from leep.sources.zoo import build, initialize  # noqa: E402
from leep.transfer.cnaps.network import VARIANTS, Cnaps, split  # noqa: E402

MODEL = "cifar_resnet20_v1"
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
ADAM = 0.9, 0.999, 1e-8
BASIC = "CNAPs need a source ResNet of basic blocks, e.g. resnet18_v1 or cifar_resnet20_v1"


def draw(seed=0):
    return np.random.default_rng(seed)


def build_source(seed=5):
    """A source whose batch norms and biases do not leave everything as it is."""
    net, rng = build(MODEL, 10, np.random.SeedSequence(seed)), draw(seed)
    for name, parameter in net._collect_params_with_prefix().items():
        if len(parameter.shape) == 1:
            values = rng.standard_normal(parameter.shape) / 10
            parameter.set_data(values + name.endswith(("gamma", "running_var")))
    return net


def build_cnaps(variant="film", r=0.3, seed=1):
    """A network whose adaptation shows: r of that deviation, no bias of zero."""
    net, rng = Cnaps(build_source(), MEAN, STD, variant), draw(seed)
    learned = {n: p for n, p in net._collect_params_with_prefix().items() if not n.startswith("source.")}
    initialize(list(learned.values()), np.random.SeedSequence(seed))
    for name, parameter in learned.items():
        if name.endswith(".r"):
            parameter.set_data(r * rng.standard_normal(parameter.shape))
        elif name == "whiten.weight":
            parameter.set_data(np.eye(64) + rng.standard_normal(parameter.shape) / 50)
        elif name.endswith(("bias", "beta")):
            parameter.set_data(rng.standard_normal(parameter.shape) / 10)
    return net


def draw_task(shots=(1, 4, 2, 3, 2), queries=2, seed=0):
    """Context in [−1, 1], its classes one-hot, query, its labels."""
    rng, ways = draw(seed), len(shots)
    labels, answers = np.repeat(np.arange(ways), shots), np.repeat(np.arange(ways), queries)
    colours = rng.uniform(-0.5, 0.5, (ways, 3, 1, 1))
    context, query = (
        (colours[k] + 0.4 * rng.uniform(-1, 1, (len(k), 3, 32, 32))).astype(np.float32) for k in (labels, answers)
    )
    return context, np.eye(ways, dtype=np.float32)[labels], query, answers


def normalized(images):
    """From [−1, 1] to what the source was trained on."""
    mean, std = (np.reshape(v, (1, 3, 1, 1)) for v in (MEAN, STD))
    return (((images + 1) / 2 - mean) / std).astype(np.float32)


def assert_close(found, expected, tolerance, name=""):
    """Equal up to a part of the largest."""
    assert np.shape(found) == np.shape(expected), name
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max(), err_msg=name)


# The slow reference: float64 NumPy, the source run layer by layer in inference mode with changed batch norms.


def relu(x):
    return np.maximum(x, 0)


def elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def dense(weights, name, x):
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def encode(weights, images):
    """The set encoder, its batch norm by the images' own statistics."""
    x = images.astype(float)
    for k in range(0, 20, 4):
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        kernel = weights[f"set_encoder.body.{k}.weight"].reshape(64, -1)
        x = windows.transpose(0, 2, 3, 1, 4, 5).reshape(*windows.shape[:1], *windows.shape[2:4], -1) @ kernel.T
        x += weights[f"set_encoder.body.{k}.bias"]
        x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        x = relu(x * weights[f"set_encoder.body.{k + 1}.gamma"] + weights[f"set_encoder.body.{k + 1}.beta"])
        n, height, width, channels = x.shape
        x = x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4)).transpose(0, 3, 1, 2)
    return x.mean((2, 3)).mean(0)


def modulate(weights, stage, described, count):
    """The modulations of a stage, one generator after the other."""
    found = []
    for j in range(count):
        x = described
        for layer in ("entry", "res1", "res2", "res3"):
            if (name := f"{stage}.generators.{layer}_weight") in weights:
                y = x @ weights[name][j] + weights[f"{stage}.generators.{layer}_bias"][j, 0]
                x = y if layer == "entry" else x + y
                x = x if layer == "res3" else relu(x)
        found.append(weights[f"{stage}.generators.r"][j, 0] * x)
    return found


def adapted_source(net, variant, context):
    """The source's own network with other scale and shift in its blocks, and the features it gives."""
    weights = {k: v.astype(float) for k, v in get_weights(net).items()}
    source = build_source()
    (stem, stages), encoded = split(source), encode(weights, context)

    def run(layers, images):
        x = mx.nd.array(normalized(images))
        for layer in layers:
            x = layer(x)
        return x.asnumpy().astype(float)

    for s, blocks in enumerate(stages):
        name = f"stages.{s}"
        if variant == "film":
            described = relu(dense(weights, f"{name}.shared", encoded))
        else:
            layers = [*stem, *(block for before in stages[:s] for block in before)]
            x = relu(dense(weights, f"{name}.each.0", run(layers, context).mean((2, 3))))
            for k in (1, 3, 5):
                x = x + dense(weights, f"{name}.each.{k}.dense", x)
                x = x if k == 5 else relu(x)
            described = np.concatenate([relu(dense(weights, f"{name}.all", x.mean(0))), encoded])
        modulations = modulate(weights, name, described, 4 * len(blocks))
        for k, block in enumerate(blocks):
            for norm, at in ((block.body[1], 4 * k), (block.body[4], 4 * k + 2)):
                scale, shift = 1 + modulations[at], modulations[at + 1]
                norm.gamma.set_data(norm.gamma.data().asnumpy() * scale)
                norm.beta.set_data(norm.beta.data().asnumpy() * scale + shift)

    def features(images):
        return mx.nd.flatten(source.features(mx.nd.array(normalized(images)))).asnumpy().astype(float)

    return features


def reference(net, variant, context, classes, query):
    """Logits, and what they are made of."""
    weights = {k: v.astype(float) for k, v in get_weights(net).items()}
    adapted = adapted_source(net, variant, context)
    features = lambda images: dense(weights, "whiten", adapted(images))  # noqa: E731
    means = np.stack([features(context)[classes[:, k] == 1].mean(0) for k in range(classes.shape[1])])
    hidden, bias = means, means
    for k in (0, 2):
        hidden = elu(dense(weights, f"classifier.weight.{k}", hidden))
        bias = elu(dense(weights, f"classifier.bias.{k}", bias))
    rows = means + dense(weights, "classifier.weight.4", hidden)
    bias = dense(weights, "classifier.bias.4", bias)[:, 0] - np.square(means).sum(1) / 2
    found = features(query)
    shared = np.square(found).sum(1, keepdims=True) / 2  # of all classes: softmax takes it off again
    return SimpleNamespace(logits=found @ rows.T + bias - shared, features=found, means=means, hidden=hidden)


@pytest.fixture(scope="module")
def learners():
    """One network and learner a variant, for tests that change no weight."""
    nets = {variant: build_cnaps(variant) for variant in VARIANTS}
    return {variant: (net, ENGINE.meta_learner(net)) for variant, net in nets.items()}


@pytest.mark.parametrize(
    ("model", "variant", "generators", "classifier", "whiten"),
    [
        ("resnet18_v1", "film", 8_448_960, 788_485, 512 * 513),
        ("resnet18_v1", "film_ar", 13_244_608, 788_485, 512 * 513),
        ("cifar_resnet20_v1", "film", 206_192, 12_549, 64 * 65),
        ("cifar_resnet20_v1", "film_ar", 375_664, 12_549, 64 * 65),
    ],
)
def test_counts_of_learned_parameters(model, variant, generators, classifier, whiten):
    counts = Counter()
    for name, p in Cnaps(build(model, 10), MEAN, STD, variant)._collect_params_with_prefix().items():
        if p.grad_req != "null":
            counts[name.split(".")[0]] += int(np.prod(p.shape))
    assert counts == {"set_encoder": 150_144, "stages": generators, "classifier": classifier, "whiten": whiten}


@pytest.mark.parametrize("variant", VARIANTS)
def test_r_is_small_at_the_start(variant):
    net = Cnaps(build(MODEL, 10), MEAN, STD, variant)
    learned = [p for n, p in net._collect_params_with_prefix().items() if not n.startswith("source.")]
    initialize(learned, np.random.SeedSequence(3))
    r = np.concatenate([v.ravel() for n, v in get_weights_of(net).items() if n.endswith(".r")])
    assert len(r) == 4 * 3 * (16 + 32 + 64)
    assert r.std() == pytest.approx(0.001, rel=0.1) and abs(r.mean()) < 1e-4


def get_weights_of(net):
    """As `get_weights`, without the source's, which may have none."""
    own = {n: p for n, p in net._collect_params_with_prefix().items() if not n.startswith("source.")}
    return {n: p.data().asnumpy() for n, p in own.items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_modulation_it_is_the_nearest_mean_of_the_sources_features(variant):
    """With a classifier that adds nothing and features as they are, logits are half of minus the squared distances."""
    net, (context, classes, query, _) = build_cnaps(variant, r=0), draw_task()
    zeros = {n: 0 * v for n, v in get_weights_of(net).items() if n.startswith("classifier.")}
    update_weights(net, zeros | {"whiten.weight": np.eye(64), "whiten.bias": np.zeros(64)})
    predict = ENGINE.predictor(build_source())
    of_context, of_query = (predict(normalized(images))[0].astype(float) for images in (context, query))
    means = classes.T.astype(float) @ of_context / classes.sum(0)[:, None]
    found = ENGINE.meta_learner(net).predict(context, classes, query)
    expected = -0.5 * np.square(of_query[:, None] - means).sum(2)
    assert np.ptp(expected) > 0.1 * np.abs(expected).max()
    assert_close(found, expected, 4e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shots", [(1, 4, 2, 3, 2), (1,) * 7])
def test_logits_are_those_of_the_slow_reference(learners, variant, shots):
    """Five ways or seven, one example a class or more: the same network."""
    net, learner = learners[variant]
    *task, _ = draw_task(shots)
    expected = reference(net, variant, *task).logits
    unadapted = reference(build_cnaps(variant, r=0), variant, *task).logits
    assert np.abs(unadapted - expected).max() > 0.1 * np.abs(expected).max()
    assert_close(learner.predict(*task), expected, 2e-5)


def test_film_of_one_block_by_hand():
    """γ = 1 + r_γ ⊙ g_γ, β = r_β ⊙ g_β after both batch norms, the penalty 0.001 Σ r²."""
    net, (context, *_) = build_cnaps(), draw_task()
    stage = net.stages[1]
    block = stage._blocks()[0]  # it has a shortcut with a batch norm
    weights, encoded = get_weights(net), draw(4).standard_normal((1, 64)).astype(np.float32)
    x = draw(5).standard_normal((3, 16, 8, 8)).astype(np.float32)
    described = relu(dense(weights, "stages.1.shared", encoded[0]))
    gamma1, beta1, gamma2, beta2 = (m[:, None, None] for m in modulate(weights, "stages.1", described, 12)[:4])
    first, norm1, _, second, norm2 = block.body
    y = relu((1 + gamma1) * norm1(first(mx.nd.array(x))).asnumpy() + beta1).astype(np.float32)
    y = (1 + gamma2) * norm2(second(mx.nd.array(y))).asnumpy() + beta2
    expected = relu(y + block.downsample(mx.nd.array(x)).asnumpy())
    stage._blocks = lambda: [block]
    context, query, squares = stage(mx.nd.array(x), mx.nd.array(x[:2]), mx.nd.array(encoded))
    assert_close(context.asnumpy(), expected, 1e-5)
    assert_close(query.asnumpy(), expected[:2], 1e-5)
    assert float(squares.asscalar()) == pytest.approx(np.square(weights["stages.1.generators.r"]).sum(), rel=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_penalty_is_of_all_r(variant):
    net, (context, classes, query, _) = build_cnaps(variant), draw_task()
    _, penalty = net(*(mx.nd.array(v) for v in (context, classes, query)))
    squares = sum(np.square(v).sum() for n, v in get_weights(net).items() if n.endswith(".r"))
    assert float(penalty.asscalar()) == pytest.approx(0.001 * squares, rel=1e-5)


def gradients(net, tasks, weight=1.0):
    """Of a fresh learner, by name; its results."""
    learner = ENGINE.meta_learner(net)
    results = learner.learn(tasks, weight)
    found = net._collect_params_with_prefix().items()
    return {n: p.grad().asnumpy().astype(float) for n, p in found if p.grad_req != "null"}, results


def without_gradient(name):
    """Batch norm takes the mean off again, softmax what is added to the logits of all classes alike."""
    return (name.startswith("set_encoder") and name.endswith("bias")) or name.endswith("4.bias")


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_reach_every_learned_block(variant):
    found, _ = gradients(build_cnaps(variant), [draw_task()])
    assert not any(n.startswith("source.") for n in found)
    assert (
        sum(v.size for v in found.values()) == 150_144 + {"film": 206_192, "film_ar": 375_664}[variant] + 12_549 + 4_160
    )
    for name, value in found.items():
        assert np.isfinite(value).all(), name
        of_block = max(np.abs(v).max() for n, v in found.items() if n.split(".")[:2] == name.split(".")[:2])
        if without_gradient(name):
            assert np.abs(value).max() < 1e-3 * of_block, name
        else:
            assert np.abs(value).max() > 1e-5 * of_block, name
    for name in (n for n in found if ".generators." in n):  # of every generator, not only of some
        axes = tuple(range(1, found[name].ndim))
        assert (np.abs(found[name]).max(axes) > 0).all(), name


def test_loss_and_gradient_of_the_classifiers_last_layer_are_those_of_the_slow_reference():
    """∂/∂A of weight · Σ cross-entropies is weight · Fᵀ (P − Y) H, with A's input H."""
    net, (*inputs, labels) = build_cnaps(), draw_task()
    found, ((loss, accuracy),) = gradients(net, [(*inputs, labels)], 0.5)
    expected = reference(net, "film", *inputs)
    logits = expected.logits - expected.logits.max(1, keepdims=True)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    entropies = -np.log(probs[np.arange(len(labels)), labels])
    assert loss == pytest.approx(entropies.mean(), rel=1e-4)
    assert accuracy == pytest.approx((logits.argmax(1) == labels).mean())
    residual = probs - np.eye(5)[labels]
    gradient = 0.5 * expected.features.T @ residual @ expected.hidden
    assert_close(found["classifier.weight.4.weight"], gradient, 1e-4)


def test_gradients_add_up_over_tasks():
    tasks = [draw_task(), draw_task((1, 1, 2, 1, 1, 3), seed=2)]
    both, results = gradients(build_cnaps(), tasks, 0.5)
    alone = [gradients(build_cnaps(), [task], 0.5) for task in tasks]
    assert results == [result for _, (result,) in alone] and results[0] != results[1]
    for name, value in both.items():
        assert_close(value, alone[0][0][name] + alone[1][0][name], 1e-5, name)


@pytest.mark.parametrize("variant", VARIANTS)
def test_penalty_alone_moves_r_alone(variant):
    """Where cross-entropies weigh nothing, the gradient is that of 0.001 Σ r², once a task."""
    net = build_cnaps(variant)
    found, _ = gradients(net, [draw_task(), draw_task()], 0.0)
    for name, value in get_weights_of(net).items():
        if name.endswith(".r"):
            np.testing.assert_allclose(found[name], 2 * 0.002 * value, rtol=1e-5, err_msg=name)
        elif name in found:
            assert not found[name].any(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_source_stays_as_it_is(variant):
    net = build_cnaps(variant)
    before, learner = get_weights(net), ENGINE.meta_learner(net)
    for _ in range(2):
        learner.learn([draw_task()], 1.0)
        learner.step(1e-3)
    learner.predict(*draw_task()[:3])
    after, learned = get_weights(net), learner.state()
    for name in before:
        if name.startswith("source.") or name in ("scale", "shift"):
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
            assert name not in learned
        elif "running" not in name:
            np.testing.assert_array_equal(after[name], learned[name], err_msg=name)
            assert without_gradient(name) or (after[name] != before[name]).any(), name
    expected = {n.replace("features", "source"): v for n, v in get_weights(build_source()).items() if "features" in n}
    assert len(expected) > 90 and all((after[name] == value).all() for name, value in expected.items())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_order_of_the_context_changes_nothing(learners, variant):
    context, classes, query, _ = draw_task()
    order, predict = draw(6).permutation(len(context)), learners[variant][1].predict
    expected = predict(context, classes, query)
    assert_close(predict(context[order], classes[order], query), expected, 1e-5)
    other = predict(context[order], classes, query)  # images without their classes: another task
    assert np.abs(other - expected).max() > 1e-2 * np.abs(expected).max()


@pytest.mark.parametrize("variant", VARIANTS)
def test_renaming_classes_renames_the_logits(learners, variant):
    context, classes, query, _ = draw_task()
    order, predict = np.array([3, 0, 4, 2, 1]), learners[variant][1].predict
    expected = predict(context, classes, query)
    assert_close(predict(context, classes[:, order], query), expected[:, order], 1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_query_images_do_not_see_one_another(learners, variant):
    context, classes, query, _ = draw_task()
    predict = learners[variant][1].predict
    assert_close(predict(context, classes, query[3:5]), predict(context, classes, query)[3:5], 1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_running_statistics_of_the_set_encoder_have_no_influence(variant):
    net, (*task, _) = build_cnaps(variant), draw_task()
    learner = ENGINE.meta_learner(net)
    expected = learner.predict(*task)
    np.testing.assert_array_equal(learner.predict(*task), expected)
    names = [n for n in get_weights(net) if n.startswith("set_encoder") and "running" in n]
    assert len(names) == 10
    update_weights(net, {n: draw(8).uniform(5, 9, 64) for n in names})
    np.testing.assert_array_equal(learner.predict(*task), expected)


@pytest.mark.parametrize("shift", [-2, 0.5])
def test_the_set_encoder_sees_no_change_of_contrast(shift):
    """Batch norm by the images' own statistics takes scale and bias of the first convolution off again."""
    net, (context, *_) = build_cnaps(), draw_task()
    with mx.autograd.train_mode():
        expected = net.set_encoder(mx.nd.array(context)).asnumpy()
        bias = net.set_encoder.body[0].bias
        bias.set_data(bias.data() + shift)
        found = net.set_encoder(mx.nd.array(3 * context)).asnumpy()
    assert np.ptp(expected) > 0.1
    assert_close(found, expected, 1e-3)  # ε of batch norm weighs less


def test_adam_is_that_of_the_slow_reference():
    net, tasks = build_cnaps(), [draw_task(seed=s) for s in range(2)]
    learner = ENGINE.meta_learner(net)
    weights = {n: v.astype(float) for n, v in learner.state().items() if ":" not in n and n != "steps"}
    means, squares = ({n: np.zeros_like(v) for n, v in weights.items()} for _ in range(2))
    b1, b2, epsilon = ADAM
    for step, rate in ((1, 1e-3), (2, 3e-4)):
        learner.learn(tasks, 0.5)
        slopes = {n: net._collect_params_with_prefix()[n].grad().asnumpy().astype(float) for n in weights}
        learner.step(rate)
        assert not any(net._collect_params_with_prefix()[n].grad().asnumpy().any() for n in weights)
        for n, g in slopes.items():
            means[n] = b1 * means[n] + (1 - b1) * g
            squares[n] = b2 * squares[n] + (1 - b2) * g**2
            corrected = rate * np.sqrt(1 - b2**step) / (1 - b1**step)
            weights[n] = weights[n] - corrected * means[n] / (np.sqrt(squares[n]) + epsilon)
    state = learner.state()
    assert state["steps"] == 2 and set(state) == {f"{p}{n}" for n in weights for p in ("", "mean:", "square:")} | {
        "steps"
    }
    for n in weights:
        np.testing.assert_allclose(state[n], weights[n], rtol=1e-6, atol=1e-6, err_msg=n)
        assert_close(state[f"mean:{n}"], means[n], 1e-5, n)
        assert_close(state[f"square:{n}"], squares[n], 1e-4, n)  # 1 − 0.999 in float32


def test_a_learner_goes_on_from_a_state_exactly():
    """Of another network, with the state's weights."""
    tasks = [[draw_task(seed=s)] for s in range(3)]
    first = ENGINE.meta_learner(build_cnaps())
    for task in tasks[:2]:
        first.learn(task, 1.0)
        first.step(1e-3)
    saved = first.state()
    second = ENGINE.meta_learner(build_cnaps(seed=9))
    second.load_state(saved)
    assert all((second.state()[n] == v).all() for n, v in saved.items())
    for learner in (first, second):
        learner.learn(tasks[2], 1.0)
        learner.step(1e-3)
    ours, theirs = first.state(), second.state()
    assert set(ours) == set(theirs) and ours["steps"] == 3
    for name in ours:
        np.testing.assert_array_equal(theirs[name], ours[name], err_msg=name)


@pytest.mark.parametrize(
    "model",
    [
        "mobilenet0.25",
        "resnet50_v1",
        "resnet18_v2",
        "cifar_resnet20_v2",
        "senet_154",
        "darknet53",
        "efficientnet_lite0",
        "se_resnet18_v1",
        "resnet18_v1b",
    ],
)
def test_a_source_of_other_blocks_is_refused(model):
    with pytest.raises(ValueError, match=BASIC):
        Cnaps(build(model, 10), MEAN, STD)


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="variant must be among film, film_ar, got 'flim'"):
        Cnaps(build(MODEL, 10), MEAN, STD, "flim")


def torch_learner(net):
    pytest.importorskip("torch", reason="the torch engine needs the extra `torch`: make test-torch")
    return create_engine("torch", threads=1).meta_learner(net)


def both_engines(variant, steps):
    """Learners of the two engines after some steps from the same weights, and their results by step."""
    learners = ENGINE.meta_learner(build_cnaps(variant)), torch_learner(build_cnaps(variant))
    results = [[] for _ in learners]
    for learner, found in zip(learners, results):
        for step in range(steps):
            found.append(learner.learn([draw_task(seed=step), draw_task((2, 1, 1, 2, 1, 1), seed=step + 3)], 1 / 2))
            learner.step(5e-4)
    return *learners, np.array(results)


@pytest.mark.torch
@pytest.mark.parametrize("variant", VARIANTS)
def test_engines_agree_on_a_task(variant):
    *task, _ = draw_task()
    expected = ENGINE.meta_learner(build_cnaps(variant)).predict(*task)
    found = torch_learner(build_cnaps(variant)).predict(*task)
    assert found.dtype == np.float32
    assert_close(found, expected, 1e-4)
    assert_close(found, reference(build_cnaps(variant), variant, *task).logits, 1e-4)


def assert_same_gradients(ours, theirs, tolerance):
    """Of states after one step, whose `mean:` is (1 − β1) times the gradient."""
    for name in (n for n in ours if n.startswith("mean:")):
        block = ".".join(name.split(".")[:2])
        largest = max(np.abs(v).max() for n, v in ours.items() if n.startswith(block))
        if not without_gradient(name.removeprefix("mean:")):
            difference = np.abs(theirs[name] - ours[name]).max()
            assert difference < tolerance * largest, f"{name}: {difference / largest}"


def assert_same_weights(ours, theirs, first, most):
    """To 1e-4 where the first gradient is more than rounding, of which Adam makes a step as long as any.

    Less than one in a thousand may differ by more: rounding decides which side of a kink a later activation falls on.
    """
    clear = far = 0
    for name in (n for n in ours if ":" not in n and n != "steps"):
        block = f"square:{'.'.join(name.split('.')[:2])}"
        largest = max(v.max() for n, v in first.items() if n.startswith(block))
        seen = first[f"square:{name}"] > 1e-6 * largest  # a thousandth of the block's largest gradient
        difference = np.abs(theirs[name] - ours[name])
        assert difference.max() <= most, name
        clear += seen.sum()
        far += (difference[seen] >= 1e-4).sum()
    assert clear > 2e5 and far < clear / 1000


@pytest.mark.torch
@pytest.mark.parametrize("variant", VARIANTS)
def test_engines_agree_on_loss_and_gradients(variant):
    ours, theirs, results = both_engines(variant, 1)
    assert_close(results[1], results[0], 1e-4)
    ours, theirs = ours.state(), theirs.state()
    assert set(ours) == set(theirs) and all(ours[n].shape == theirs[n].shape for n in ours)
    assert_same_gradients(ours, theirs, 1e-3)


@pytest.mark.torch
@pytest.mark.parametrize("variant", VARIANTS)
def test_engines_agree_after_two_steps_of_adam(variant):
    ours, theirs, _ = both_engines(variant, 1)
    first = ours.state()
    results = [learner.learn([draw_task(seed=5)], 1 / 2) for learner in (ours, theirs)]
    assert_close(np.array(results[1]), np.array(results[0]), 1e-3)
    for learner in (ours, theirs):
        learner.step(5e-4)
    assert ours.state()["steps"] == theirs.state()["steps"] == 2
    assert_same_weights(ours.state(), theirs.state(), first, 2.1e-3)


@pytest.mark.torch
def test_torch_learns_tasks_side_by_side_as_one_after_the_other():
    tasks, states = [draw_task(seed=s) for s in range(3)], []
    for together in (True, False):
        learner = torch_learner(build_cnaps())
        results = (
            learner.learn(tasks, 1 / 3) if together else [r for task in tasks for r in learner.learn([task], 1 / 3)]
        )
        learner.step(1e-3)
        states.append({**learner.state(), "results": np.array(results)})
    for name, value in states[0].items():
        np.testing.assert_array_equal(states[1][name], value, err_msg=name)


@pytest.mark.torch
def test_a_state_moves_between_engines_exactly():
    first, _, _ = both_engines("film", 2)
    state = first.state()
    second, back = torch_learner(build_cnaps(seed=8)), ENGINE.meta_learner(build_cnaps(seed=9))
    second.load_state(state)
    back.load_state(second.state())
    for other in (second, back):
        moved = other.state()
        assert set(moved) == set(state)
        for name, value in state.items():
            np.testing.assert_array_equal(moved[name], value, err_msg=name)
            assert moved[name].dtype == value.dtype, name
    for learner in (first, second):
        learner.learn([draw_task(seed=5)], 1.0)
        learner.step(5e-4)
    ours, theirs = first.state(), second.state()
    assert ours["steps"] == theirs["steps"] == 3
    assert_same_weights(ours, theirs, state, 1e-3)
    assert all((ours[n] != v).any() for n, v in state.items() if not without_gradient(n))


@pytest.mark.torch
@pytest.mark.parametrize("variant", VARIANTS)
def test_torch_leaves_the_source_as_it_is(variant):
    net = build_cnaps(variant)
    before, learner = get_weights(net), torch_learner(net)
    learner.learn([draw_task()], 1.0)
    learner.step(1e-3)
    state, after = learner.state(), get_weights(net)
    for name in before:
        assert (name in state) == (not name.startswith(("source.", "scale", "shift")) and "running" not in name), name
        np.testing.assert_array_equal(after[name], state.get(name, before[name]), err_msg=name)
