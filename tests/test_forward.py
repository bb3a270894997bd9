"""The forward pass and its cache: made once, noticed when damaged, resumed, equal to the network's own output."""

import os
import signal
import threading
import time
from functools import partial

import numpy as np
import pytest

from leep import blocks as blocks_module
from leep.data.dataset import DataSet
from leep.execution.processes import WorkerError
from leep.sources import forward
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
    passed = forward_pass(tmp_path, "key", network, PREPARE, data, batch=10)
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


# Interruptions: blocks of five images, five of the training and three of the test split


@pytest.fixture
def blocks(monkeypatch):
    monkeypatch.setattr(forward, "BLOCK_PIXELS", 5 * 8 * 8)


class Interrupted(Exception):
    """What stops a pass in these tests."""


class Unsteady(Network):
    """Counts its images, and stops before it has seen more than `most`."""

    def __init__(self, most=37):
        super().__init__()
        self.most, self.seen = most, 0

    def __call__(self):
        predict = super().__call__()

        def count(x):
            if self.seen + len(x) > self.most:
                raise Interrupted
            self.seen += len(x)
            return predict(x)

        return count


def make(folder, data, predictor, **sizes):
    """The bytes of a pass made two images a batch."""
    forward_pass(folder, "key", predictor, PREPARE, data, batch=2, **sizes)
    assert not (folder / ".key.partial").exists()
    return {p.name: p.read_bytes() for p in (folder / "key").iterdir()}


def interrupt(folder, data, most):
    with pytest.raises(Interrupted):
        make(folder, data, Unsteady(most))
    return folder / ".key.partial"


@pytest.mark.parametrize("most", [0, 5, 13, 25, 33])
def test_an_interrupted_pass_goes_on_where_it_stopped(tmp_path, data, blocks, most):
    partial = interrupt(tmp_path / "a", data, most)
    whole_blocks = most // 5 * 5
    assert (partial / "done.txt").read_text().count("\n") == most // 5 and not (tmp_path / "a" / "key").exists()
    second = Unsteady()
    assert make(tmp_path / "a", data, second) == make(tmp_path / "b", data, Network())
    assert second.seen == 37 - whole_blocks and second.built == 1


def test_all_blocks_done_need_no_network(tmp_path, data, blocks, monkeypatch):
    def stop(path):
        raise Interrupted

    with monkeypatch.context() as m:
        m.setattr(blocks_module, "file_digest", stop)
        interrupt(tmp_path / "a", data, 37)
    second = Unsteady()
    assert make(tmp_path / "a", data, second) == make(tmp_path / "b", data, Network())
    assert second.built == 0


def tear_line(partial):
    with open(partial / "done.txt", "a") as file:
        file.write("test 0 1")


def tear_bytes(partial):
    path = partial / "test_probs.npy"
    path.write_bytes(path.read_bytes()[:-220])  # into the block that is done


DAMAGES = {  # of a pass with six blocks done: images that are computed again
    "torn line": (tear_line, 7),
    "line lost": (lambda p: (p / "done.txt").write_text("train 0 5\ntest 0 5\n"), 27),
    "other blocks": (lambda p: (p / "done.txt").write_text("train 0 7\n"), 37),
    "array deleted": (lambda p: (p / "train_features.npy").unlink(), 37),
    "array truncated": (tear_bytes, 37),
    "array emptied": (lambda p: (p / "train_probs.npy").write_bytes(b""), 37),
    "array of rubbish": (lambda p: (p / "train_probs.npy").write_bytes(bytes(999)), 37),
    "list deleted": (lambda p: (p / "done.txt").unlink(), 37),
    "list of rubbish": (lambda p: (p / "done.txt").write_bytes(b"\xff\x00 \n\n"), 37),
    "list of words": (lambda p: (p / "done.txt").write_text("train five ten\n"), 37),
    "list of another split": (lambda p: (p / "done.txt").write_text("tset 0 5\n"), 37),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_partial_pass_is_resumed_or_begun_anew(tmp_path, data, blocks, damage):
    harm, again = DAMAGES[damage]
    harm(interrupt(tmp_path / "a", data, 30))
    second = Unsteady()
    assert make(tmp_path / "a", data, second) == make(tmp_path / "b", data, Network())
    assert second.seen == again


def test_a_torn_line_does_not_cost_the_blocks_of_a_second_interruption(tmp_path, data, blocks):
    tear_line(interrupt(tmp_path, data, 15))
    interrupt(tmp_path, data, 10)
    third = Unsteady()
    make(tmp_path, data, third)
    assert third.seen == 12


# Worker processes: what they call is at module level, so that they can import it


def make_mortal(folder):
    """Kills its process at the second call, once."""
    predict, calls = Network()(), []

    def mortal(x):
        calls.append(len(x))
        if len(calls) == 2 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return predict(x)

    return mortal


def make_broken(bad=None):
    """Fails at the batch that holds an image, or at every batch."""
    predict = Network()()

    def broken(x):
        if bad is None or (x == bad).all((1, 2, 3)).any():
            raise RuntimeError("out of memory")
        return predict(x)

    return broken


def make_nothing():
    raise OSError("no weights")


def test_the_pass_does_not_depend_on_workers(tmp_path, data, blocks):
    one, two = (make(tmp_path / str(n), data, Network(), workers=n) for n in (1, 2))
    assert one == two and len(one) == 5


def test_a_killed_worker_is_replaced(tmp_path, data, blocks):
    mortal = partial(make_mortal, tmp_path)
    assert make(tmp_path / "a", data, mortal, workers=2) == make(tmp_path / "b", data, Network())
    assert (tmp_path / "killed").exists()


def test_blocks_done_by_workers_stay(tmp_path, data, blocks):
    broken = partial(make_broken, PREPARE(data.train_images[24:25]))
    with pytest.raises(WorkerError, match="the forward pass over tiny failed: RuntimeError: out of memory"):
        make(tmp_path / "a", data, broken, workers=2)
    done = (tmp_path / "a" / ".key.partial" / "done.txt").read_text().splitlines()
    assert len(done) >= 3 and "train 20 25" not in done
    second = Unsteady()
    assert make(tmp_path / "a", data, second) == make(tmp_path / "b", data, Network())
    assert second.seen == 37 - sum(int(stop) - int(start) for _, start, stop in map(str.split, done))


def test_a_network_that_always_fails_is_an_error(tmp_path, data, blocks):
    with pytest.raises(WorkerError, match="the forward pass over tiny failed: RuntimeError: out of memory"):
        make(tmp_path, data, make_broken, workers=2)
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        make(tmp_path, data, make_broken)
    assert not (tmp_path / "key").exists()


def test_a_network_that_cannot_be_built_is_an_error(tmp_path, data, blocks):
    with pytest.raises(WorkerError, match="no weights"):
        make(tmp_path, data, make_nothing, workers=2)
    with pytest.raises(OSError, match="no weights"):
        make(tmp_path, data, make_nothing)


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
