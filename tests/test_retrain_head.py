from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from leep.transfer import _head_loop as head_loop
from leep.transfer.retrain_head import Head, initial_head, train_head

OPTIONS = [
    {},
    {"momentum": 0.9},
    {"weight_decay": 0.05},
    {"momentum": 0.5, "weight_decay": 0.1, "learning_rate": 0.03},
]


def draw_task(n, n_features, n_classes, seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, n_features)).astype(np.float32)
    return features, rng.integers(0, n_classes, n)


def train_slowly(
    features, labels, n_classes, rng, epochs, batch_size=10, learning_rate=0.01, momentum=0.0, weight_decay=0.0
):
    """The definition, in float64, with the bias as the weight of a feature that is always 1."""
    n, n_features = features.shape
    limit = np.sqrt(6 / (n_features + n_classes))
    w = np.column_stack([rng.uniform(-limit, limit, (n_classes, n_features)), np.zeros(n_classes)])
    x = np.column_stack([features.astype(float), np.ones(n)])
    step = np.zeros_like(w)
    for _ in range(epochs):
        order = rng.permutation(n)
        for begin in range(0, n, batch_size):
            batch = order[begin : begin + batch_size]
            gradient = np.zeros_like(w)
            for i in batch:
                logits = w @ x[i]
                p = np.exp(logits - logits.max())
                p /= p.sum()
                p[labels[i]] -= 1
                gradient += np.outer(p, x[i]) / len(batch)
            step = momentum * step - learning_rate * (gradient + weight_decay * w)
            w = w + step
    return w[:, :-1], w[:, -1]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    ("n", "n_features", "n_classes", "batch_size"),
    [
        (23, 8, 1, 10),
        (30, 64, 2, 10),
        (33, 17, 5, 10),
        (24, 5, 100, 10),
        (40, 3, 16, 7),
        (41, 6, 17, 32),
        (9, 4, 3, 10),
    ],
)
def test_compiled_loop_equals_gluon(n, n_features, n_classes, batch_size, options):
    features, labels = draw_task(n, n_features, n_classes)
    compiled, gluon = (
        train_head(
            *(features, labels, n_classes, np.random.default_rng(1)),
            epochs=4,
            batch_size=batch_size,
            implementation=implementation,
            **options,
        )
        for implementation in ("compiled", "gluon")
    )
    np.testing.assert_allclose(compiled.weight, gluon.weight, rtol=0, atol=1e-5)
    np.testing.assert_allclose(compiled.bias, gluon.bias, rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 35),
    n_features=st.integers(1, 40),
    n_classes=st.integers(1, 50),
    batch_size=st.integers(1, 40),
    scale=st.sampled_from([0.0, 1.0, 20.0]),
    options=st.sampled_from(OPTIONS),
    seed=st.integers(0, 99),
)
def test_compiled_loop_equals_its_definition(n, n_features, n_classes, batch_size, scale, options, seed):
    features, labels = draw_task(n, n_features, n_classes, seed)
    options = {"epochs": 2, "batch_size": batch_size, **options}
    head = train_head(features * np.float32(scale), labels, n_classes, np.random.default_rng(seed), **options)
    weight, bias = train_slowly(features * np.float32(scale), labels, n_classes, np.random.default_rng(seed), **options)
    tolerance = 1e-5 * max(1, scale)
    np.testing.assert_allclose(head.weight, weight, rtol=0, atol=tolerance)
    np.testing.assert_allclose(head.bias, bias, rtol=0, atol=tolerance)


def test_one_step_by_hand():
    # one example x = (1, 2) of class 1, weights 0: softmax (1/2, 1/2), gradient (1/2, −1/2) ⊗ (1, 2)
    start, label = np.zeros((2, 2), np.float32), np.array([1])
    features, orders = np.array([[1, 2]], np.float32), [np.array([0])]
    options = {"batch_size": 10, "learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    ((weight, bias),) = head_loop.train(features, label, start, start[:, 0], orders, **options)
    np.testing.assert_allclose(weight, [[-0.05, -0.1], [0.05, 0.1]], rtol=1e-6)
    np.testing.assert_allclose(bias, [-0.05, 0.05], rtol=1e-6)


@pytest.mark.parametrize("likely", [0, 15, 16, 33])
@pytest.mark.parametrize("logit", [200, 1e30])
def test_large_logits_in_any_block(likely, logit):
    # one class has probability 1, another is true: gradient 1 for the one and −1 for the other
    bias = np.zeros(34, np.float32)
    bias[likely] = logit
    options = {"batch_size": 1, "learning_rate": 0.5, "momentum": 0.0, "weight_decay": 0.0}
    features, weight, orders = np.array([[2]], np.float32), np.zeros((34, 1), np.float32), [np.array([0])]
    ((weight, _),) = head_loop.train(features, np.array([3]), weight, bias, orders, **options)
    expected = np.zeros((34, 1))
    expected[likely], expected[3] = -1, 1
    np.testing.assert_allclose(weight, expected, rtol=1e-6)


def test_renaming_the_classes_renames_the_head():
    n_classes = 20
    features, labels = draw_task(45, 6, n_classes)
    start = initial_head(n_classes, 6, np.random.default_rng(1))
    names = np.random.default_rng(2).permutation(n_classes)
    orders = [np.random.default_rng(3).permutation(45)] * 3
    options = {"batch_size": 10, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    *_, (weight, bias) = head_loop.train(features, labels, start.weight, start.bias, orders, **options)
    renamed = np.empty_like(start.weight)
    renamed[names] = start.weight
    *_, (weight_renamed, bias_renamed) = head_loop.train(
        features, names[labels], renamed, start.bias, orders, **options
    )
    np.testing.assert_allclose(weight_renamed[names], weight, rtol=0, atol=2e-6)
    np.testing.assert_allclose(bias_renamed[names], bias, rtol=0, atol=2e-6)


def test_order_within_a_batch_does_not_matter():
    features, labels = draw_task(12, 5, 3)
    shuffle = np.random.default_rng(4).permutation(12)
    options = {"n_classes": 3, "epochs": 20, "batch_size": 12, "learning_rate": 0.1}
    head = train_head(features, labels, rng=np.random.default_rng(1), **options)
    shuffled = train_head(features[shuffle], labels[shuffle], rng=np.random.default_rng(1), **options)
    np.testing.assert_allclose(shuffled.weight, head.weight, rtol=0, atol=2e-6)


def test_same_seed_gives_the_same_bits_whatever_the_threads():
    features, labels = draw_task(500, 64, 20)

    def train(seed):
        return train_head(features, labels, 20, np.random.default_rng(seed), epochs=5)

    seeds = [7, 8, 7, 8, 7, 8]
    alone = {seed: train(seed) for seed in (7, 8)}
    with ThreadPoolExecutor(3) as pool:
        for seed, head in zip(seeds, pool.map(train, seeds)):
            assert head.weight.tobytes() == alone[seed].weight.tobytes()
            assert head.bias.tobytes() == alone[seed].bias.tobytes()
    assert alone[7].weight.tobytes() != alone[8].weight.tobytes()


def test_arguments_are_left_as_they_were_and_may_be_read_only():
    features, labels = draw_task(25, 4, 3)
    features.flags.writeable = labels.flags.writeable = False
    copies = features.copy(), labels.copy()
    train_head(features, labels, 3, np.random.default_rng(0), epochs=2)
    np.testing.assert_array_equal(features, copies[0])
    np.testing.assert_array_equal(labels, copies[1])


def test_other_types_and_strides_give_the_same_head():
    features, labels = draw_task(25, 6, 3)
    head = train_head(features, labels, 3, np.random.default_rng(0), epochs=2)
    wide = np.repeat(features, 2, axis=1).astype(np.float64)
    other = train_head(wide[:, ::2], labels.astype(np.uint8), 3, np.random.default_rng(0), epochs=2)
    np.testing.assert_array_equal(other.weight, head.weight)


@pytest.mark.parametrize("n_classes", [2, 5, 33])
def test_separable_classes_are_learned(n_classes):
    rng = np.random.default_rng(0)
    labels = np.arange(20 * n_classes) % n_classes
    features = 3 * np.eye(n_classes)[labels] + 0.1 * rng.normal(size=(len(labels), n_classes))
    head = train_head(features, labels, n_classes, rng, epochs=50)
    assert np.mean(head.predict(features) == labels) == 1


def test_no_epochs_give_the_start():
    features, labels = draw_task(10, 40, 8)
    head = train_head(features, labels, 8, np.random.default_rng(3), epochs=0)
    start = initial_head(8, 40, np.random.default_rng(3))
    np.testing.assert_array_equal(head.weight, start.weight)
    limit = np.sqrt(6 / 48)
    assert 0.95 * limit < np.abs(head.weight).max() <= limit
    assert not head.bias.any()
    assert head.weight.dtype == head.bias.dtype == np.float32


def test_exponential():
    @njit
    def run(x, y):
        head_loop.store(y, 0, head_loop.exponential(head_loop.load(x, 0)))

    def exponential(x):
        y = np.empty(16, np.float32)
        run(np.asarray(x, np.float32), y)
        return y

    for x in np.linspace(-63.9, 0, 16 * 500).astype(np.float32).reshape(-1, 16):
        np.testing.assert_allclose(exponential(x), np.exp(x.astype(float)), rtol=3e-7)
    edges = exponential([0, -64.1, -1e4, -np.inf, np.nan] + [0] * 11)
    np.testing.assert_array_equal(edges[:5], [1, 0, 0, 0, np.nan])


def test_predict_takes_the_largest_logit():
    head = Head(np.array([[1, 0], [0, 1], [0, 0]], np.float32), np.array([0, 0, 1.5], np.float32))
    predicted = head.predict(np.array([[2, 1], [1, 2], [1, 1], [3, 3]], np.float32))
    assert predicted.tolist() == [0, 1, 2, 0]
    assert predicted.dtype == np.int64
    with pytest.raises(ValueError, match=r"features must have shape \(n, 2\), got \(4, 3\)"):
        head.predict(np.zeros((4, 3)))


@pytest.mark.parametrize("implementation", ["compiled", "gluon"])
@pytest.mark.parametrize(
    ("scale", "options"),
    [(1, {"learning_rate": 1.0, "weight_decay": 100.0}), (1e30, {}), (1e30, {"momentum": 0.9})],
)
def test_divergence_is_an_error(implementation, scale, options):
    features, labels = draw_task(60, 4, 3)
    options = {"epochs": 5, "implementation": implementation, **options}
    with pytest.raises(
        FloatingPointError, match=r"diverged in epoch \d of 5 with learning_rate=.*: lower learning_rate"
    ):
        train_head(features * scale, labels, 3, np.random.default_rng(0), **options)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"features": np.zeros(20)}, r"features must have shape \(n, n_features\), neither of them 0, got \(20,\)"),
        ({"features": np.zeros((0, 4)), "labels": np.zeros(0, int)}, r"neither of them 0, got \(0, 4\)"),
        ({"features": np.full((20, 4), np.nan)}, "features must be finite in float32"),
        ({"features": np.full((20, 4), 1e39)}, "features must be finite in float32"),
        ({"features": np.zeros((20, 4), complex)}, "features must be real numbers, got complex128"),
        ({"labels": np.zeros(19, int)}, r"labels must have shape \(20,\) as features have rows, got \(19,\)"),
        ({"labels": np.zeros(20)}, "labels must be integers, got float64"),
        ({"labels": np.arange(20)}, r"labels must lie in 0\.\.2, got 0\.\.19"),
        ({"labels": np.arange(20) % 3 - 1}, r"labels must lie in 0\.\.2, got -1\.\.1"),
        ({"n_classes": 0}, "n_classes must be an integer of at least 1, got 0"),
        ({"rng": 0}, r"rng must be a numpy\.random\.Generator, got int"),
        ({"epochs": -1}, "epochs must be an integer of at least 0, got -1"),
        ({"epochs": 2.0}, r"epochs must be an integer of at least 0, got 2\.0"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"learning_rate": 0}, "learning_rate must be finite and above 0, got 0"),
        ({"learning_rate": np.nan}, "learning_rate must be finite and above 0, got nan"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1\.0"),
        ({"weight_decay": -0.1}, r"weight_decay must be finite and at least 0, got -0\.1"),
        ({"implementation": "torch"}, "implementation must be one of compiled, gluon, got 'torch'"),
    ],
)
def test_rejects(changed, message):
    features, labels = draw_task(20, 4, 3)
    arguments = {"features": features, "labels": labels, "n_classes": 3, "rng": np.random.default_rng(0), "epochs": 1}
    with pytest.raises(ValueError, match=message):
        train_head(**{**arguments, **changed})
