"""`leep rank` and `leep models`: what they say before the work, the files they write, and every kind of bad input."""

import csv
import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from leep.cli import main
from leep.commands.survey import (
    describe_images,
    head_seconds,
    keep_within,
    look_for_damage,
    read_duration,
    take_at_most,
)
from leep.models import find_images
from leep.models.known import A_FILE, ModelInfo

MODELS = """
from pathlib import Path
import numpy as np
from leep.models import Model
from leep.models.model import Guess

def _colours(x):
    return x.mean((2, 3))

def good():
    return Model("good", lambda x: (_colours(x), _colours(x)), size=8, sha256="good", class_names=["Red", "green", "z"])

def guessed():
    guess = Guess.of_file("mean 0, std 1", Path("a/net.onnx"))
    return Model("guessed", lambda x: (_colours(x), _colours(x)), size=8, sha256="guessed", guess=guess)

def blind():
    return Model("blind", lambda x: (np.ones((len(x), 2)), None), size=8, sha256="blind", outputs="none")

def early():
    return Model("early", lambda x: (_colours(x) * np.nan, _colours(x)), size=8, sha256="early")

def late():
    def run(x):
        dark = (x.max((1, 2, 3)) < -1)[:, None]  # the one black image, which is not tried before
        return np.where(dark, np.nan, _colours(x)), _colours(x)
    return Model("late", run, size=8, sha256="late")

def at_once():
    raise KeyboardInterrupt

def stopped():
    def run(x):
        if len(x) == 20:  # all images: the pass, not the trial
            raise KeyboardInterrupt
        return _colours(x), _colours(x)
    return Model("stopped", run, size=8, sha256="stopped")
"""

COUNTED = """
from leep.models import Model

class Network:
    made = here = most = 0

    def __init__(self):
        self.itself = self  # a cycle, as in PyTorch's modules with hooks
        Network.made, Network.here = Network.made + 1, Network.here + 1
        Network.most = max(Network.most, Network.here)

    def __del__(self):
        Network.here -= 1

    def __call__(self, x):
        return x.mean((2, 3)), x.mean((2, 3))

def a():
    return Model("a", Network(), size=8, sha256="a")

def b():
    return Model("b", Network(), size=8, sha256="b")

def c():
    return Model("c", Network(), size=8, sha256="c")
"""


def write_image(path, colour, seed=0, size=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (size, size, 3))
    Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Twelve red, eight green pictures in `images`, a module `made` of models, and an empty working folder."""
    for k in range(12):
        write_image(tmp_path / "images" / "red" / f"{k:02d}.png", (200, 40, 40), k)
    for k in range(8):
        write_image(tmp_path / "images" / "green" / f"{k:02d}.png", (40, 200, 40), 100 + k)
    (tmp_path / "made.py").write_text(MODELS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path / "images"
    sys.modules.pop("made", None)


@pytest.fixture
def leep(capsys):
    """Runs a command line; returns status, output and errors."""

    def run(*argv):
        try:
            status = main([str(word) for word in argv])
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


def rank(leep, images, *argv, models=("python:made:good",)):
    return leep("rank", images, "--models", *models, "--output", "out", *argv)


def failures(path="out/ranking.csv"):
    with open(path, newline="") as file:
        return {row["spec"]: row["not_ranked"] for row in csv.DictReader(file) if row["not_ranked"]}


def test_files_say_the_same(leep, images):
    status, out, err = rank(leep, images, models=["python:made:good", "python:made:blind"])
    assert status == 0
    assert err.startswith("20 images of 2 classes; the smallest, green, has 8\n")
    found = json.loads((images.parent / "out/ranking.json").read_text())
    assert [row["model"] for row in found["models"]] == ["good", "blind"]
    assert [row["accuracy"] for row in found["models"]] == [1.0, 0.6]  # blind: always the largest class, 12 of 20
    rows = list(csv.DictReader(io.StringIO((images.parent / "out/ranking.csv").read_text())))
    assert [float(row["accuracy"]) for row in rows] == [1.0, 0.6]
    assert float(rows[0]["epoch_seconds"]) == pytest.approx(4 * 20 / float(rows[0]["images_per_second"]))
    assert rows[1]["leep"] == "" and "no probabilities" in rows[1]["notes"]
    assert out.startswith(found["sentence"]) and "it was not tried" in out
    assert found["about"]["n_images"] == 20 and found["about"]["smallest_class"] == 8
    assert {row["class"] for row in found["explanations"]["good"]["classes"]} == {"red", "green"}
    assert all((images / row["file"]).is_file() for row in found["explanations"]["good"]["hardest"])


def test_json_is_the_file(leep, images):
    status, out, _ = rank(leep, images, "--json")
    assert status == 0
    assert json.loads(out) == json.loads((images.parent / "out/ranking.json").read_text())


def test_the_command_repeats_it(leep, images):
    rank(leep, images, "--seed", 3)
    command = json.loads((images.parent / "out/ranking.json").read_text())["about"]["command"]
    assert command == f"leep rank {images} --models python:made:good --seed 3"


def test_own_classes_in_the_source_are_a_warning(leep, images):
    assert "good: 2 of your 2 classes are, by name" in rank(leep, images)[1]


def test_guessed_preprocessing_is_a_warning(leep, images):
    out = rank(leep, images, models=["python:made:guessed", "python:made:good"])[1]
    lines = [line for line in out.splitlines() if line.startswith("Warning: ") and "is guessed" in line]
    assert len(lines) == 1 and "guessed" in lines[0] and "into net.json beside net.onnx" in lines[0]
    warnings = json.loads((images.parent / "out/ranking.json").read_text())["warnings"]
    assert lines[0].removeprefix("Warning: ") in warnings
    page = (images.parent / "out/index.html").read_text().replace("<wbr>", "")
    assert "net.json" in page


def test_arrays_in_another_order(leep, images):
    files = [f"{file.parent.name}/{file.name}" for file in sorted(images.glob("*/*.png"))]
    order = np.random.default_rng(0).permutation(20)
    features = np.array([[file.startswith("red"), 1.0] for file in files], "f4")[order]
    np.savez("blind.npz", features=features)
    np.savez("named.npz", features=features, files=np.array(files)[order])
    np.savez("part.npz", features=features[:9])
    rank(leep, images, models=["arrays:blind.npz", "arrays:named.npz", "arrays:part.npz"])
    found = json.loads((images.parent / "out/ranking.json").read_text())
    assert [(row["model"], row["accuracy"] == 1) for row in found["models"][:2]] == [("named", True), ("blind", False)]
    warned = [w for w in found["warnings"] if "the order of the images" in w]
    assert len(warned) == 1 and warned[0].startswith("blind ")
    assert any("largest class" in w and "blind" in w and "named" not in w for w in found["warnings"])
    assert "array files" in failures()["arrays:part.npz"]


def test_nothing_is_overwritten(leep, images):
    assert rank(leep, images)[0] == 0
    before = (images.parent / "out/index.html").read_bytes()
    status, out, err = rank(leep, images)
    assert (status, out, err.count("\n")) == (2, "", 1) and "is there already" in err
    assert (images.parent / "out/index.html").read_bytes() == before


def test_default_folder_is_named_by_the_date(leep, images):
    for _ in range(2):
        assert leep("rank", images, "--models", "python:made:good")[0] == 0
    first, second = sorted(images.parent.glob("leep-rank-20*"), key=lambda p: p.stat().st_mtime_ns)
    assert first != second and sorted(p.name for p in second.iterdir()) == ["index.html", "ranking.csv", "ranking.json"]


def test_output_may_be_a_page(leep, images):
    assert leep("rank", images, "--models", "python:made:good", "--output", "a/report.html")[0] == 0
    assert sorted(p.name for p in (images.parent / "a").iterdir()) == ["report.csv", "report.html", "report.json"]


def test_dry_run_computes_nothing(leep, images):
    status, out, err = rank(leep, images, "--dry-run")
    assert (status, out) == (0, "") and "1 to rank" in err
    assert not (images.parent / "out").exists() and not list(images.parent.glob("cache/leep/outputs/*/*"))


def test_a_model_that_fails_costs_its_own_row(leep, images):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    Image.new("RGB", (10, 10)).save(images / "red" / "03.png")
    (images.parent / "bad.onnx").write_bytes(b"not a graph")
    made = ["python:made:good", "python:made:early", "python:made:late"]
    models = [*made, "bad.onnx", "gone.onnx", "torchvison:resnet18"]
    status, out, err = rank(leep, images, models=[*models, "arrays:none/*.npz"])
    assert status == 0 and "good is the only model" in out
    assert failures().keys() == {*models[1:], "arrays:none/*.npz"}
    assert "NaN" in failures()["python:made:early"]
    assert "did you mean torchvision?" in failures()["torchvison:resnet18"]
    assert "no such file" in failures()["gone.onnx"]
    assert "NaN or infinite for 1 of 20 images" in failures()["python:made:late"] and "late: " in err


def test_one_network_is_in_memory_at_a_time(leep, images):
    (images.parent / "counted.py").write_text(COUNTED)
    models = [f"python:counted:{name}" for name in ("a", "b", "c")]
    assert rank(leep, images, models=models)[0] == 0
    Network = sys.modules.pop("counted").Network
    assert (Network.made, Network.most) == (6, 1)  # each is opened for the trial and for the pass


def test_no_model_left(leep, images):
    status, out, err = rank(leep, images, models=["python:made:early"])
    assert (status, out) == (2, "") and err.endswith("leep rank: no model can run; leep models says what each needs\n")
    assert not (images.parent / "out").exists()


def test_damaged_files(leep, images):
    (images / "red" / "cut.png").write_bytes((images / "red" / "00.png").read_bytes()[:60])
    (images / "red" / "empty.jpg").touch()
    status, out, err = rank(leep, images)
    assert (status, out) == (2, "") and "red/cut.png" in err and "red/empty.jpg (empty)" in err
    assert rank(leep, images, "--on-damaged", "skip")[0] == 0
    found = json.loads((images.parent / "out/ranking.json").read_text())["about"]
    assert found["n_images"] == 20 and found["damaged"].keys() == {"red/cut.png", "red/empty.jpg"}


def test_damage_that_only_decoding_finds(leep, images):
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save(images / "red" / "cut.jpg")
    data = (images / "red" / "cut.jpg").read_bytes()
    (images / "red" / "cut.jpg").write_bytes(data[: len(data) // 2])
    status, out, err = rank(leep, images)
    assert (status, out) == (2, "") and "red/cut.jpg" in err and "--on-damaged skip" in err
    assert rank(leep, images, "--on-damaged", "skip")[0] == 0


def test_where_one_file_is_damaged_all_are_looked_at(leep, images):
    (images / "red" / "empty.png").touch()
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save(images / "red" / "cut.jpg")
    data = (images / "red" / "cut.jpg").read_bytes()
    (images / "red" / "cut.jpg").write_bytes(data[: len(data) // 2])  # its header is sound
    assert look_for_damage(find_images(images)).keys() == {"red/cut.jpg", "red/empty.png"}
    assert look_for_damage(find_images(images), seconds=0) == {}


def test_a_table_of_files_and_labels(leep, images):
    rows = [f"{file.relative_to(images.parent)},{file.parent.name}" for file in sorted(images.glob("*/*.png"))]
    Image.new("RGBA", (20, 20), (200, 40, 40, 9)).save(images.parent / rows[-1].split(",")[0])
    (images.parent / "labels.csv").write_text("\n".join(["filename,label", *rows]))
    status, _, err = rank(leep, "labels.csv")
    assert status == 0 and err.startswith("20 images of 2 classes")
    assert "note: 1 of 20 images is transparent" in err
    (images.parent / "labels.csv").write_text("\n".join(["filename,label", *rows, "images/none.png,red"]))
    status, _, err = rank(leep, "labels.csv", "--output", "again")
    assert status == 2 and "none.png" in err


def test_copies_are_a_warning(leep, images):
    (images / "green" / "x.png").write_bytes((images / "red" / "00.png").read_bytes())
    (images / "red" / "y.png").write_bytes((images / "red" / "00.png").read_bytes())
    out = rank(leep, images)[1]
    assert "1 picture is in two classes" in out and "green/x.png" in out
    assert "1 image is a copy of another of the same class, such as red/y.png of red/00.png" in out


def test_interrupted_and_again(leep, images):
    status, out, err = rank(leep, images, models=["python:made:good", "python:made:stopped"])
    assert (status, out) == (130, "")
    assert err.splitlines()[-1].startswith("leep rank: stopped; what was computed is kept")
    assert not (images.parent / "out").exists()
    status, _, err = rank(leep, images)
    assert status == 0 and "computed before" in err


def test_interrupted_before_anything_is_computed(leep, images):
    status, _, err = rank(leep, images, models=["python:made:at_once"])
    assert (status, err.splitlines()[-1]) == (130, "leep rank: stopped")


def test_verify_none(leep, images):
    out = rank(leep, images, "--verify", "none")[1]
    assert out.startswith("Ranked by LEEP, not verified") and "accuracy" not in out.splitlines()[2]


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["--verify", "fine_tune"], "such as fine_tune:2"),
        (["--verify", "fine_tune:0"], "such as fine_tune:2"),
        (["--verify", "all"], "probe, fine_tune:N or none"),
        (["--epochs", "3"], "--epochs is of --verify fine_tune:N"),
        (["--epochs", "0", "--verify", "fine_tune:1"], "positive number"),
        (["--measures", "lepp"], "must be among"),
        (["--measures", "nce", "--verify", "none"], "must hold leep"),
        (["--budget", "ten"], "90s, 10m or 2h"),
        (["--max-images", "3"], "at least 4"),
        (["--search", "."], "one of the two"),
        (["--seed", "-1"], "at least 0"),
    ],
)
def test_refused(leep, images, argv, text):
    status, out, err = rank(leep, images, *argv)
    assert (status, out) == (2, "") and text in err.splitlines()[-1]
    assert not (images.parent / "out").exists()


def test_one_class(leep, images):
    status, out, err = leep("rank", images / "red")
    assert (status, out, err.count("\n")) == (2, "", 1)
    (images.parent / "one").mkdir()
    (images / "red").rename(images.parent / "one" / "red")
    status, _, err = leep("rank", images.parent / "one")
    assert status == 2 and "two or more classes" in err and err.count("\n") == 1


def test_the_folder_comes_first(leep, images):
    status, out, err = leep("rank", "--models", "python:made:good", images)
    assert (status, out, err.count("\n")) == (2, "", 1) and "FOLDER first" in err


def test_most_images(images):
    folder = find_images(images)
    part = take_at_most(folder, 10, seed=0)
    assert part.counts.tolist() == [4, 6] and len(set(part.files)) == 10  # 8 and 12 of 20, halved
    assert part.files == take_at_most(folder, 10, seed=0).files != take_at_most(folder, 10, seed=1).files
    assert take_at_most(folder, 4, seed=0).counts.tolist() == [2, 2]
    assert take_at_most(folder, 20, seed=0) is folder


def test_images_in_one_line(images):
    folder = find_images(images)
    assert describe_images(folder) == "20 images of 2 classes; the smallest, green, has 8"
    assert describe_images(take_at_most(folder, 4, 0)) == "4 images of 2 classes; 2 in each class"


class Slow:
    """A candidate that takes so many seconds."""

    def __init__(self, seconds):
        self.model, self.reason, self.time = object(), "", seconds

    def seconds(self, folder):
        return self.time

    def fail(self, reason):
        self.model, self.reason = None, reason


def test_budget_leaves_out_the_slowest():
    candidates = [Slow(10), Slow(70), Slow(25)]
    keep_within(candidates, None, 40)
    assert [bool(c.model) for c in candidates] == [True, False, True]
    assert "1.2 min" in candidates[1].reason
    keep_within(candidates, None, 1)
    assert [bool(c.model) for c in candidates] == [True, False, False]  # one is left whatever the budget


def test_expected_time_of_heads(monkeypatch):
    monkeypatch.setattr("leep.commands.survey.n_cores", lambda: 2)
    # 145 ns · n d K + 450 ns · n d; 2 ns · n d²; 200 µs · n
    heads, resamples_of_h, others = 0.7424 + 0.2304, 0.524288, 0.2
    assert head_seconds(1000, 512, 10) == pytest.approx(heads + resamples_of_h + others)
    monkeypatch.setattr("leep.commands.survey.n_cores", lambda: 64)  # there are but five folds
    assert head_seconds(1000, 512, 10) == pytest.approx(0.4 * (heads + resamples_of_h) + others)


def test_durations():
    assert [read_duration(text) for text in ("90", "90s", "1.5m", "2h")] == [90, 90, 90, 7200]


@pytest.mark.parametrize("text", ["", "m", "-1s", "0", "infs", "nan", "ten"])
def test_no_durations(text):
    with pytest.raises(ValueError, match="like 90s, 10m or 2h"):
        read_duration(text)


@pytest.mark.parametrize("installed", [True, False])
def test_models_lists_onnx_where_a_file_is_all_that_lacks(leep, monkeypatch, installed):
    found = [ModelInfo("onnx:FILE", False, A_FILE if installed else "pip install onnx")]
    monkeypatch.setattr("leep.models.known.known_models", lambda search: found)
    out = leep("models")[1]
    assert ("onnx:FILE.onnx" in out, "pip install onnx" in out) == (installed, not installed)


def test_models_lists_files(leep, images):
    (images.parent / "net.onnx").touch()
    status, out, _ = leep("models", "--search", ".", "--json")
    found = {info["spec"]: info for info in json.loads(out)}
    assert status == 0 and "onnx:net.onnx" in found
    out = leep("models")[1]
    assert all(spec in out for spec in ("arrays:FILE.npz", "python:MODULE:FUNCTION", "--search DIR"))
    status, out, _ = leep("models", "gluon", "resnet20")
    assert status == 0 and all("resnet20" in line for line in out.splitlines() if line.startswith("  "))
