"""`leep rank --verify fine_tune:N`: the trainer of PyTorch networks, what is kept, and what the answer says."""

import csv
import functools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leep.cli import main
from leep.commands.fine_tuning import compare
from leep.errors import Invalid
from leep.models import Model, Resize, find_images, fine_tune, read_images
from leep.probe import head_of_fold, probe

# Two models that see the mean colour. After training the first predicts the class by it, the second always class 0.
MODELS = """
from types import SimpleNamespace
import numpy as np
from leep.models import Model

class Trainer:
    def __init__(self, n_classes, learns):
        self.graph, self.learns, self.steps, self.head = SimpleNamespace(n_classes=n_classes), learns, 0, None

    def seed(self, *numbers):
        pass

    def step(self, images, labels, learning_rate):
        self.steps += 1

    def take_loss(self):
        return 0.5

    def predict(self, images):
        red = images[:, 0].mean((1, 2)) > images[:, 1].mean((1, 2))
        return np.eye(2)[red.astype(int) if self.learns else np.zeros(len(red), int)]

    def state(self):
        return {"steps": np.array(self.steps)}

    def load_state(self, state):
        self.steps = int(state["steps"])

class Network:
    def __init__(self, noise, learns):
        self.noise, self.learns = noise, learns

    def __call__(self, x):
        colours = x.mean((2, 3)) + self.noise * np.sin(1e4 * x[:, :, 0, 0])
        return colours, colours

    def trainer(self, weight, bias, steps):
        return Trainer(len(bias), self.learns), 0.1

def learner():
    return Model("learner", Network(8, True), size=8, sha256="learner")

def loser():
    return Model("loser", Network(0, False), size=8, sha256="loser")

def fixed():
    return Model("fixed", lambda x: (x.mean((2, 3)), None), size=8, sha256="fixed")

def broken():
    network = Network(1, True)
    network.trainer = None
    return Model("broken", network, size=8, sha256="broken")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Fifteen green and fifteen red pictures of noise, and the module `tuned` of models."""
    rng = np.random.default_rng(0)
    for name, colour in (("green", (60, 160, 60)), ("red", (160, 60, 60))):
        for k in range(15):
            path = tmp_path / "images" / name / f"{k:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((np.array(colour) + rng.integers(-50, 50, (8, 8, 3))).astype(np.uint8)).save(path)
    (tmp_path / "tuned.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "images"


def rank(folder, capsys, *argv, models=("learner", "loser"), output="out"):
    specs = [f"python:tuned.py:{name}" for name in models]
    argv = ["rank", folder, "--models", *specs, "--output", output, "--measures", "leep", *argv]
    assert main([str(word) for word in argv]) == 0
    return json.loads(Path(output, "ranking.json").read_text()), *capsys.readouterr()


# The answer


def test_heads_and_fine_tuning_stand_side_by_side(folder, capsys):
    found, out, err = rank(folder, capsys, "--verify", "fine_tune:2", "--epochs", 3)
    assert "2 to fine-tune, --epochs 3" in err
    tuned = found["fine_tuning"]
    assert (tuned["epochs"], tuned["n_tested"], tuned["failed"]) == (3, 6, {})  # a fifth of 30
    rows = {row["model"]: row for row in found["models"]}
    assert list(rows) == ["loser", "learner"]  # heads decide the order
    assert (rows["loser"]["fine_tuned_head"], rows["loser"]["fine_tuned"]) == (1, 0.5)
    assert rows["learner"]["fine_tuned"] == 1 and rows["learner"]["accuracy"] < 0.9
    assert rows["loser"]["fine_tuned_se"] == pytest.approx(np.sqrt(0.25 / 6))
    assert tuned["sentence"] in out and "was not tried" not in out and "otherwise than the heads" in tuned["sentence"]
    page = Path("out/index.html").read_text("utf-8")
    assert "Fine-tuned, %" in page and "50.0 ± 20.4" in page and "it was not tried" not in page
    with open("out/ranking.csv", newline="") as file:
        assert [row["fine_tuned"] for row in csv.DictReader(file)] == ["0.5", "1.0"]


def test_the_order_of_the_heads_does_not_depend_on_it(folder, capsys):
    plain, out, _ = rank(folder, capsys, output="plain")
    tuned, *_ = rank(folder, capsys, "--verify", "fine_tune:1", output="tuned")
    assert "fine_tuning" not in plain and "it was not tried" in out
    for row, other in zip(plain["models"], tuned["models"]):
        same = row.keys() - {"images_per_second", "epoch_seconds"}
        assert {key: other[key] for key in same} == {key: row[key] for key in same}
    assert [row["fine_tuned"] is None for row in tuned["models"]] == [False, True]


def test_models_that_cannot_be_trained_are_passed_over_and_said(folder, capsys):
    found, out, err = rank(folder, capsys, "--verify", "fine_tune:1", models=["fixed", "broken", "learner"])
    failed = found["fine_tuning"]["failed"]
    assert failed.keys() == {"fixed", "broken"}
    assert "PyTorch modules" in failed["fixed"] and "TypeError" in failed["broken"]
    assert [row["model"] for row in found["fine_tuning"]["models"]] == ["learner"]
    assert all(f"{name} is not fine-tuned: {why}" in err for name, why in failed.items())
    assert "Not fine-tuned: fixed: " in out and "was not fine-tuned" in Path("out/index.html").read_text("utf-8")


def test_without_a_model_that_can_be_trained(folder, capsys):
    found, out, err = rank(folder, capsys, "--verify", "fine_tune:2", models=["fixed"])
    assert "none of these models can be trained" in err
    assert found["fine_tuning"]["models"] == [] and "it was not tried" in out


def test_the_budget_leaves_out_what_takes_too_long(folder, capsys):
    argv = ["--verify", "fine_tune:2", "--epochs", 10**9, "--budget", "1m"]
    found, *_ = rank(folder, capsys, *argv)
    assert found["fine_tuning"]["models"] == []
    assert all("more than --budget leaves" in why for why in found["fine_tuning"]["failed"].values())


def test_what_was_trained_is_kept(folder, capsys, monkeypatch):
    first, *_ = rank(folder, capsys, "--verify", "fine_tune:2", output="first")
    monkeypatch.setattr("leep.models.fine_tune.train_network", None)
    again, *_ = rank(folder, capsys, "--verify", "fine_tune:2", output="again")
    assert again["fine_tuning"] == first["fine_tuning"]
    other, *_ = rank(folder, capsys, "--verify", "fine_tune:2", "--epochs", 2, output="other")
    assert other["fine_tuning"]["failed"].keys() == {"learner", "loser"}  # other epochs are another training


LABELS = np.arange(400) % 2


def said(*shares, names=("a", "b", "c")):
    """The sentence on models that are right on the first such share of 400 images."""
    correct = np.array([np.arange(400) < share * 400 for share in shares])
    return compare(names[: len(shares)], correct, LABELS, 5, 0)


def test_sentences():
    start = "Fine-tuned for 5 epochs and tested on 400 images, "
    assert said(0.75) == f"{start}a is right on 75.0 %."
    assert said(0.9, 0.5) == f"{start}a is right on 90.0 %: the first of their heads stays the first."
    assert said(0.9, 0.9, 0.5).endswith("stays the first, but b lies within noise.")
    assert said(0.5, 0.9) == (
        f"{start}b is right on 90.0 % and a, the first of their heads, on 50.0 %: "
        "fine-tuning orders them otherwise than the heads."
    )
    assert said(0.895, 0.9).endswith("on 89.5 %; that lies within noise.")
    assert "c is right on 90.0 %: the first of their heads" in said(0.9, 0.9, names=("c", "b"))  # equal: as the heads


# PyTorch


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def network(torch, seed=0):
    """Eight convolutions, batch norm, dropout, a linear classifier of three classes."""
    from leep.models.torch_network import TorchNetwork

    torch.manual_seed(seed)
    nn = torch.nn
    body = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5)]
    head = nn.Linear(8, 3)
    return TorchNetwork(nn.Sequential(*body, head), head)


def batch(n=6, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 3, 8, 8)).astype("f4"), rng.integers(0, 2, n)


HEAD = np.random.default_rng(9).standard_normal((2, 8)), np.array([0.25, -0.5])


@pytest.mark.torch
def test_training_starts_with_the_head_on_the_features(torch):
    source, (images, _) = network(torch), batch()
    trainer, _ = source.trainer(*HEAD, 10)
    np.testing.assert_allclose(trainer.predict(images), source(images)[0] @ HEAD[0].T + HEAD[1], rtol=1e-5, atol=1e-6)


@pytest.mark.torch
def test_the_first_step_of_adamw_by_hand(torch):
    """It moves each weight by the rate against the sign of its gradient, and shrinks it by rate · 0.01."""
    source, (images, labels) = network(torch), batch()
    trainer, _ = source.trainer(*HEAD, 10)  # one step of warm-up: the rate is the peak at once
    probs = np.exp(trainer.predict(images))
    probs /= probs.sum(1, keepdims=True)
    gradient = (probs - np.eye(2)[labels]).T @ source(images)[0] / len(labels)
    trainer.step(images, labels, 0.001)
    expected = HEAD[0] * (1 - 0.001 * 0.01) - 0.001 * np.sign(gradient)
    np.testing.assert_allclose(trainer.state()["1.weight"], expected, atol=2e-6)
    assert trainer.take_loss() == pytest.approx(-np.log(probs[np.arange(6), labels]).mean(), rel=1e-5)


@pytest.mark.torch
def test_all_weights_are_trained_and_the_sources_stay(torch):
    source, (images, labels) = network(torch), batch()
    before = {name: tensor.clone() for name, tensor in source.module.state_dict().items()}
    trainer, rate = source.trainer(*HEAD, 3)
    start = trainer.state()
    for _ in range(3):
        trainer.step(images, labels, rate)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.module.state_dict().items())
    assert not any(p.requires_grad for p in source.module.parameters())
    end = trainer.state()
    moved = {name for name in start if not np.array_equal(start[name], end[name])}
    statistics = {f"0.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    assert moved == start.keys() - {"0.6.weight", "0.6.bias"} - statistics  # the classifier of the source is no more


@pytest.mark.torch
def test_a_state_goes_on_exactly(torch):
    steps = [batch(seed=k) for k in range(6)]
    whole, _ = network(torch).trainer(*HEAD, 6)
    part, _ = network(torch).trainer(*HEAD, 6)
    for k, (images, labels) in enumerate(steps):
        whole.step(images, labels, 0.01)
        if k == 3:
            other, _ = network(torch, seed=1).trainer(np.zeros((2, 8)), np.zeros(2), 6)
            other.load_state(part.state())
            part = other
        part.step(images, labels, 0.01)
    for name, array in whole.state().items():
        np.testing.assert_array_equal(array, part.state()[name], err_msg=name)


@pytest.mark.torch
def test_schedule():
    pytest.importorskip("torch")
    from leep.models.torch_trainer import schedule

    assert [schedule(step, 20) for step in (0, 1, 2, 11)] == pytest.approx([0.5, 1, 1, 0.5])
    assert schedule(19, 20) == pytest.approx((1 + np.cos(np.pi * 17 / 18)) / 2)
    assert schedule(0, 1) == 1


@pytest.fixture
def pictures(folder, tmp_path):
    return read_images(find_images(folder), [Resize(8)], cache=tmp_path / "c")


@pytest.mark.torch
def test_fine_tuning_learns_and_is_the_same_after_an_interruption(torch, pictures, tmp_path, monkeypatch):
    from leep.models import torch_trainer

    model = Model("net", network(torch), size=8, sha256="net")
    labels, test = pictures.labels, np.arange(0, 30, 5)
    head = np.zeros((2, 8)), np.zeros(2)
    monkeypatch.setattr(torch_trainer, "LEARNING_RATE", 0.05)
    run = functools.partial(fine_tune.fine_tune, model, pictures, labels, test, head, epochs=8)
    whole = run(cache=tmp_path / "whole")
    assert (whole.predicted == labels[test]).all()
    monkeypatch.setattr(fine_tune, "train_network", functools.partial(fine_tune.train_network, checkpoint_seconds=0))
    step, taken = torch_trainer.TorchTrainer.step, []

    def interrupted(self, *arguments):
        taken.append(self)
        if len(taken) == 7:
            raise KeyboardInterrupt
        step(self, *arguments)

    monkeypatch.setattr(torch_trainer.TorchTrainer, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(cache=tmp_path / "part")
    part = run(cache=tmp_path / "part")
    assert len(taken) == 7 + 16 - 6  # two steps an epoch; six are behind it
    np.testing.assert_array_equal(part.predicted, whole.predicted)


@pytest.mark.torch
def test_a_training_that_diverges_is_said(torch, pictures, tmp_path, monkeypatch):
    from leep.models import torch_trainer

    monkeypatch.setattr(torch_trainer, "LEARNING_RATE", 1e30)
    model = Model("net", network(torch), size=8, sha256="net")
    with pytest.raises(Invalid, match="diverged"):
        fine_tune.fine_tune(model, pictures, pictures.labels, np.arange(6), HEAD, epochs=4, cache=tmp_path / "d")


# The head


def test_head_of_a_fold_is_the_probes():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = (rng.normal(size=(60, 7)) + labels[:, None]).astype("f4")
    features[:, 3] = 2  # constant: it has no weight
    done = probe(features, labels)
    for fold in (0, 4):
        weight, bias = head_of_fold(features, done, fold)
        logits = features @ weight.T + bias
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        rows = np.flatnonzero(done.folds == fold)
        np.testing.assert_allclose(log_probs[rows, labels[rows]], done.log_probability[rows], atol=1e-6)
        assert np.ptp(weight[:, 3]) < 1e-9
