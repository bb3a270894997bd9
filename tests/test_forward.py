"""The forward pass and its cache: made once, noticed when damaged, equal to the network's own output."""

import threading
import time

import numpy as np
import pytest

from leep.data.dataset import DataSet
from leep.sources.forward import cache_key, forward_pass, softmax
from leep.sources.preprocess import Preprocessing

PREPARE = Preprocessing(8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
ENGINE = {"name": "gluon", "precision": "float32", "device": "cpu"}


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (37, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, 3, 37)
    return DataSet("tiny", images[:25], labels[:25], images[25:], labels[25:], ("a", "b", "c"))


class Network:
    """A linear network; counts how often it is built."""

    def __init__(self, delay=0.0):
        self.built, self.delay = 0, delay
        self.weight = np.random.default_rng(1).standard_normal((192, 5)).astype("f4")

    def __call__(self):
        self.built += 1
        time.sleep(self.delay)

        def predict(x):
            features = x.reshape(len(x), -1)[:, :7]
            return features, x.reshape(len(x), -1) @ self.weight

        return predict


def test_pass_holds_the_networks_outputs(tmp_path, data):
    network = Network()
    passed = forward_pass(tmp_path, "key", network, PREPARE, data, batch_size=10)
    features, logits = network()(PREPARE(data.test_images))
    np.testing.assert_array_equal(passed.test_features, features)
    np.testing.assert_allclose(passed.test_probs, softmax(logits), rtol=1e-5)
    assert passed.train_probs.shape == (25, 5) and passed.train_probs.dtype == np.float32
    np.testing.assert_allclose(passed.train_probs.sum(1), 1, rtol=1e-5)


def test_second_call_reads_the_cache(tmp_path, data):
    network = Network()
    first = forward_pass(tmp_path, "key", network, PREPARE, data)
    second = forward_pass(tmp_path, "key", network, PREPARE, data)
    assert network.built == 1
    np.testing.assert_array_equal(first.train_probs, second.train_probs)
    assert isinstance(second.train_features, np.memmap)


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "sums"])
def test_damaged_cache_is_made_again(tmp_path, data, damage):
    network = Network()
    good = np.array(forward_pass(tmp_path, "key", network, PREPARE, data).test_features)
    path = tmp_path / "key" / "test_features.npy"
    raw = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(raw[:-20])
    elif damage == "flip":
        raw[-3] ^= 1
        path.write_bytes(raw)
    elif damage == "remove":
        path.unlink()
    else:
        (tmp_path / "key" / "sha256.json").write_text("{")
    again = forward_pass(tmp_path, "key", network, PREPARE, data)
    assert network.built == 2
    np.testing.assert_array_equal(again.test_features, good)


def test_two_that_want_the_same_pass_make_it_once(tmp_path, data):
    network = Network(delay=0.3)
    threads = [threading.Thread(target=forward_pass, args=(tmp_path, "key", network, PREPARE, data)) for _ in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert network.built == 1


def test_failed_pass_leaves_nothing(tmp_path, data):
    def broken():
        def predict(x):
            raise RuntimeError("out of memory")

        return predict

    with pytest.raises(RuntimeError, match="out of memory"):
        forward_pass(tmp_path, "key", broken, PREPARE, data)
    assert [p.name for p in tmp_path.iterdir()] == ["key.lock"]


def test_key_names_all_that_determines_the_pass(data):
    base = ("w", "model", PREPARE, data.sha256, ENGINE)
    changed = [
        ("v", *base[1:]),
        (*base[:1], "other", *base[2:]),
        (*base[:2], Preprocessing(9, PREPARE.mean, PREPARE.std), *base[3:]),
        (*base[:3], "other", ENGINE),
        (*base[:4], {**ENGINE, "precision": "bfloat16"}),
    ]
    keys = {cache_key(*a) for a in [base, *changed]}
    assert len(keys) == 6
    assert cache_key(*base) == cache_key(*base[:4], {**ENGINE, "threads": 2})


def test_preprocessing_by_hand():
    image = np.full((1, 8, 8, 3), 255, np.uint8)
    out = PREPARE(image)
    assert out.shape == (1, 3, 8, 8) and out.dtype == np.float32
    np.testing.assert_allclose(out[0, :, 0, 0], [(1 - 0.5) / 0.2, (1 - 0.4) / 0.3, (1 - 0.3) / 0.4], rtol=1e-6)


def test_grey_images_are_tripled_and_resized():
    image = np.zeros((2, 4, 4, 1), np.uint8)
    image[0, :, 2:] = 200
    prepare = Preprocessing(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    out = prepare(image) * 255
    assert (out[:, 0] == out[:, 1]).all() and (out[1] == 0).all()
    # half-pixel bilinear: between columns 1 (0) and 2 (200) the weights are 3/4, 1/4
    np.testing.assert_allclose(out[0, 0, 3], [0, 0, 0, 50, 150, 200, 200, 200], atol=0.51)


def test_data_hash_sees_pixels_and_labels(data):
    other = DataSet(
        data.name, data.train_images, data.train_labels[::-1], data.test_images, data.test_labels, data.class_names
    )
    assert other.sha256 != data.sha256
