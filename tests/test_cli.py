"""The command `leep`: the README's numbers from every kind of file, what the output says, and every refusal."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from leep import __version__, measures
from leep.cli import main

# The example of README.md.
PROBS = np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
FEATURES = np.array([[1.0, 0.2], [0.1, 0.9], [0.8, 0.3], [0.4, 0.1]])
LABELS = np.array([0, 1, 0, 1])
SCORES = {"leep": -0.609, "nce": -0.477, "h_score": 0.959}
NUMBERS = "0.7,0.3\n0.2,0.8\n0.6,0.4\n0.5,0.5\n"


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    """The example as .npy files and as an archive, in the working folder."""
    monkeypatch.chdir(tmp_path)
    np.save("probs.npy", PROBS)
    np.save("features.npy", FEATURES)
    np.save("labels.npy", LABELS)
    np.savez("outputs.npz", probs=PROBS, features=FEATURES, labels=LABELS)
    return tmp_path


def write(name, text, encoding="utf-8"):
    with open(name, "w", encoding=encoding, newline="") as file:
        file.write(text)
    return name


@pytest.fixture
def score(capsys):
    """Runs `leep score … --json`; returns what it prints."""

    def run(*argv):
        status = main(["score", *argv, "--json"])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return json.loads(out)

    return run


@pytest.fixture
def refused(capsys):
    """Runs `leep …`, which must end with status 2 and one line; returns the line."""

    def run(*argv):
        try:
            status = main(argv)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        assert (status, out) == (2, "")
        assert err.startswith("leep") and err.endswith("\n") and err.count("\n") == 1
        return err

    return run


def assert_readme(result, names=tuple(SCORES)):
    assert sorted(result["scores"]) == sorted(names)
    assert {name: round(value, 3) for name, value in result["scores"].items()} == {name: SCORES[name] for name in names}


# scores and sizes


def test_the_readme_has_this_example():
    readme = (ROOT / "README.md").read_text("utf-8")
    for array in (PROBS, FEATURES, LABELS):
        assert str(array.tolist()) in readme
    for number in SCORES.values():
        assert f"  # {number}" in readme


def test_three_files(score):
    result = score("--probs", "probs.npy", "--features", "features.npy", "--labels", "labels.npy")
    assert_readme(result)
    assert result["notes"] == []
    sizes = {key: value for key, value in result.items() if key.startswith("n_")}
    assert sizes == {"n_examples": 4, "n_target_classes": 2, "n_source_classes": 2, "n_features": 2}


def test_json_has_all_digits(score):
    # LEEP by hand: P̂(z) = (1/2, 1/2), P̂(y=0|z) = (13/20, 7/20)
    given = PROBS @ np.array([[13, 7], [7, 13]]) / 20
    assert score("outputs.npz")["scores"]["leep"] == pytest.approx(np.log(given[range(4), LABELS]).mean(), abs=1e-15)


def test_the_table(capsys):
    assert main(["score", "outputs.npz", "--measures", "nce", "h_score"]) == 0
    out = capsys.readouterr().out
    assert "4 examples, 2 target classes, 2 source classes, 2 features" in out
    assert re.findall(r"^(\w+) +(-?\d\.\d{6})$", out, re.MULTILINE) == [("nce", "-0.477386"), ("h_score", "0.959119")]


@pytest.mark.parametrize("argv", [("--measures", "nce", "leep"), ("--measures", "nce,leep,nce")])
def test_chosen_measures(score, argv):
    assert_readme(score("outputs.npz", *argv), ["leep", "nce"])


def test_a_measure_without_its_arrays_is_left_out_and_said(score):
    result = score("--probs", "probs.npy", "--labels", "labels.npy")
    assert_readme(result, ["leep", "nce"])
    (note,) = result["notes"]
    assert "h_score" in note and "--features" in note
    assert "n_features" not in result
    result = score("--features", "features.npy", "--labels", "labels.npy")
    assert_readme(result, ["h_score"])
    assert len(result["notes"]) == 2


def test_source_labels_take_the_place_of_the_most_probable_classes(score):
    np.save("dummies.npy", LABELS)
    given = score("outputs.npz", "--source-labels", "dummies.npy")["scores"]
    assert given["nce"] == 0  # they determine the target labels
    assert_readme({"scores": {"leep": given["leep"]}}, ["leep"])
    assert score("--source-labels", "dummies.npy", "--labels", "labels.npy")["scores"] == {"nce": 0}


def test_a_new_measure_appears_by_itself(score, tmp_path, monkeypatch):
    (tmp_path / "mean_feature.py").write_text("def score(features):\n    return float(features.mean())\n")
    monkeypatch.setattr(measures, "__path__", [*measures.__path__, str(tmp_path)])
    monkeypatch.setattr(measures, "MEASURES", ("mean_feature",))
    monkeypatch.setattr("leep.cli.MEASURES", ("mean_feature",))
    assert score("outputs.npz", "--measures", "all")["scores"] == {"mean_feature": pytest.approx(FEATURES.mean())}


def test_a_measure_of_ones_own(score, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def spread(features):\n    return float(features.std())\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = score("outputs.npz", "--measures", "nce", "mine:spread")
    assert result["scores"] == {"nce": pytest.approx(-0.477, abs=1e-3), "mine:spread": pytest.approx(FEATURES.std())}


def test_no_more_examples_than_features_are_said(score):
    np.save("wide.npy", np.random.default_rng(0).normal(size=(4, 9)))
    result = score("--features", "wide.npy", "--labels", "labels.npy", "--measures", "h_score")
    assert result["scores"]["h_score"] == pytest.approx(1)  # classes − 1
    assert "n ≤ d: 4 examples, 9 features" in result["notes"][0]


def test_a_single_target_class_is_said(score):
    np.save("labels.npy", np.full(4, 3))
    result = score("--probs", "probs.npy", "--features", "features.npy", "--labels", "labels.npy")
    assert set(result["scores"].values()) == {0}
    assert "one target class" in result["notes"][0]


# files


@pytest.mark.parametrize("names", [("source_probs", "target_labels"), ("PROBS", "Y"), ("probabilities", "targets")])
def test_names_in_an_archive(score, names):
    np.savez("other.npz", **dict(zip(names, (PROBS, LABELS))), embeddings=FEATURES, ids=LABELS)
    result = score("other.npz")
    assert_readme(result)
    assert result["notes"] == ["other.npz: ids not used, because no measure takes an array of that name"]


def test_an_option_comes_before_the_archive(score):
    np.savez("two.npz", probs=PROBS, labels=1 - LABELS, y=LABELS)  # two names of the labels, neither of them asked for
    assert_readme(score("two.npz", "--labels", "labels.npy"), ["leep", "nce"])


def test_one_array_of_an_archive(score):
    np.savez("probs.npz", resnet=PROBS)
    np.savez_compressed("many.npz", a=LABELS, b=PROBS, features=FEATURES)
    options = ("--features", "many.npz", "--labels", "many.npz:a")
    for probs in ("probs.npz", "many.npz:b"):
        assert_readme(score("--probs", probs, *options))


@pytest.mark.parametrize(
    "text",
    [
        NUMBERS,
        NUMBERS.rstrip(),
        "cat,dog\n" + NUMBERS,
        "\n# cat,dog\n" + NUMBERS + "\n",
        NUMBERS.replace(",", " "),  # numpy.savetxt
        NUMBERS.replace(",", ";"),
        '"cat"\t"dog"\r\n' + NUMBERS.replace(",", "\t").replace("\n", "\r\n"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_tables_of_numbers(score, text, encoding):
    write("probs.csv", text, encoding)
    assert_readme(score("--probs", "probs.csv", "--labels", "labels.npy"), ["leep", "nce"])


@pytest.mark.parametrize(
    "text",
    [
        "0\n1\n0\n1\n",
        "label\n0\n1\n0\n1",
        "species\n0\n1\n0\n1\n",  # a word above numbers
        "# y\r\n0\r\n1\r\n\r\n0\r\n1\r\n",
        "0.000e+00\n1.000e+00\n0.000e+00\n1.000e+00\n",  # numpy.savetxt
        "file,Label,size\na.png,0,3\nb.png,1,3\nc.png,0,3\nd.png,1,3\n",
        ";target\n0;5\n1;6\n2;5\n3;6\n",  # pandas, with its index
    ],
)
def test_tables_of_labels(score, text):
    write("labels.csv", text)
    result = score("--probs", "probs.npy", "--labels", "labels.csv")
    assert_readme(result, ["leep", "nce"])
    assert len(result["notes"]) == 1  # of h_score


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\ncat\ndog\n",
        "label\n cat\n dog\n cat\n dog\n",
        'name,label\n1,"cat"\n2,"dog"\n3,"cat"\n4,"dog"\n',
    ],
)
def test_text_labels_are_numbered(score, text):
    write("labels.csv", text)
    result = score("--probs", "probs.npy", "--labels", "labels.csv")
    assert_readme(result, ["leep", "nce"])
    assert "0 = cat, 1 = dog" in result["notes"][0]


@pytest.mark.parametrize(
    ("labels", "n_classes"),
    [
        (["1", "01", "001", "1"], 3),
        (["1", "1.0", "2", "2.0"], 4),
        (["-1", "+1", "0", "0"], 3),
        (["1.0", "2", "1.0", "2"], 2),
        ([f"{2**64}", f"{2**64 + 1}"] * 2, 2),
    ],
)
def test_text_labels_that_differ_are_different_classes(score, labels, n_classes):
    write("labels.csv", "\n".join(labels))
    np.save("labels.npy", np.array(labels))
    for name in ("labels.csv", "labels.npy"):
        assert score("--probs", "probs.npy", "--labels", name)["n_target_classes"] == n_classes


def test_text_labels_in_other_files_and_of_the_source(score):
    animals, others = np.array(["zebra", "ant"])[LABELS], np.array([b"1_0", b"10"])[PROBS.argmax(1)]
    np.save("labels.npy", animals)
    np.savez("text.npz", labels=animals, z=others)
    assert_readme(score("--probs", "probs.npy", "--labels", "labels.npy"), ["leep", "nce"])
    result = score("text.npz")
    assert_readme(result, ["nce"])
    assert "0 = ant, 1 = zebra" in result["notes"][0]
    assert "0 = 10, 1 = 1_0" in result["notes"][1]
    np.save("labels.npy", np.array(list("hgfedcba")).repeat(2))
    np.save("probs.npy", np.tile(PROBS, (4, 1)))
    note = score("--probs", "probs.npy", "--labels", "labels.npy")["notes"][0]
    assert "0 = a, 1 = b" in note and "8 in all" in note and "7 = " not in note


def test_labels_that_are_floats(score):
    np.save("labels.npy", LABELS.astype(np.float32))
    assert_readme(score("--probs", "probs.npy", "--labels", "labels.npy"), ["leep", "nce"])


# refusals

BOTH = ("--probs", "probs.npy", "--labels", "labels.npy")


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ((), ["COMMAND", "leep --help"]),
        (("ranks",), ["ranks", "score"]),
        (("score", "--prob"), ["--prob", "leep score --help"]),
        (("score", *BOTH, "--measures", "lep"), ["leep", "nce", "h_score", "got 'lep'"]),
        (("score", *BOTH, "--measures", "no_module:f"), ["no_module:f", "module:name"]),
        (("score", *BOTH, "--measures", "math:pi"), ["math:pi", "not a callable"]),
        (("score", *BOTH, "--measures", "math:sqrt"), ["math:sqrt", "source_probs"]),
        (("score", "--measures", "leep", "outputs.npz"), ["got 'outputs.npz'", "before --measures"]),
        (("score",), ["target labels are missing", "--labels"]),
        (("score", "--probs", "probs.npy"), ["target labels are missing", "--labels"]),
        (("score", "--labels", "labels.npy"), ["leep needs --probs", "nce needs --source-labels or --probs"]),
        (("score", *BOTH, "--measures", "h_score"), ["h_score needs --features", "got --probs"]),
        (("score", "--probs", "none.npy", "--labels", "labels.npy"), ["none.npy: no such file"]),
        (("score", "none.npz"), ["none.npz: no such file"]),
        (("score", "probs.npy"), ["probs.npy: expected an archive", "--probs"]),
        (("score", "--probs", ".", "--labels", "labels.npy"), [".npy, .npz, .csv"]),
        (("score", "--probs", "probs.mat", "--labels", "labels.npy"), ["probs.mat", ".npy, .npz, .csv"]),
        (("score", "--probs", "outputs.npz:logits", "--labels", "labels.npy"), ["no array logits", "features"]),
        (("score", "--source-labels", "outputs.npz", "--labels", "labels.npy"), ["source_labels", "outputs.npz:NAME"]),
        (("score", "--features", "labels.npy", "--labels", "labels.npy"), ["(n, n_features)", "(4,)", "labels.npy"]),
        (("score", "--probs", "probs.npy", "--labels", "probs.npy"), ["probs.npy", "whole numbers or text", "0.7"]),
    ],
)
def test_what_is_typed_wrong(refused, argv, said):
    line = refused(*argv)
    for part in said:
        assert part in line


@pytest.mark.parametrize("labels", [LABELS[:, None], LABELS.astype(float), LABELS.astype(str)[:, None]])
def test_labels_as_people_save_them(score, labels):
    np.savez("given.npz", probs=PROBS, features=FEATURES, labels=labels)
    assert score("given.npz")["scores"] == score("outputs.npz")["scores"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"probs": np.log(PROBS), "labels": LABELS}, ["non-negative", "softmax", "bad.npz"]),
        ({"probs": 2 * PROBS, "labels": LABELS}, ["sum to 1", "softmax"]),
        ({"probs": PROBS, "labels": LABELS[:3]}, ["4 of source_probs (bad.npz)", "3 of target_labels (bad.npz)"]),
        ({"probs": PROBS, "labels": -LABELS}, ["target_labels must be non-negative", "-1"]),
        ({"probs": PROBS, "labels": np.eye(4)}, ["target_labels must have shape (n,)", "(4, 4)", "argmax"]),
        ({"probs": PROBS, "labels": np.array([0, 1, np.nan, 1])}, ["bad.npz", "whole numbers or text", "nan"]),
        ({"probs": PROBS, "labels": np.array([0, 1, 0, 1e300])}, ["bad.npz", "whole numbers or text", "1e+300"]),
        ({"probs": PROBS, "labels": LABELS, "y": LABELS}, ["bad.npz", "labels and y", "target_labels"]),
        ({"probs": PROBS, "labels": LABELS.astype(object)}, ["bad.npz:labels", "Python objects", "astype(str)"]),
        ({"probs": PROBS, "labels": np.array(3)}, ["target_labels must have shape (n,)", "()"]),
        ({"features": FEATURES * [1, np.inf], "labels": LABELS}, ["features must be finite", "bad.npz"]),
    ],
)
def test_arrays_that_are_wrong(refused, arrays, said):
    np.savez("bad.npz", **arrays)
    line = refused("score", "bad.npz")
    for part in said:
        assert part in line


@pytest.mark.parametrize(
    ("option", "text", "said"),
    [
        ("--probs", "", ["the file is empty"]),
        ("--probs", " \n\n", ["the file is empty"]),
        ("--probs", "cat,dog\n", ["got none"]),
        ("--probs", "0.5,0.5\n0.5,x\n", ["table of numbers", "'x'", "line 1"]),
        ("--probs", "a,b\n0.5,0.5\n0.5\n", ["table of numbers", "line 2"]),
        ("--probs", ",a,b\n0,0.5,0.5\n", ["first column has no name", "index=False"]),
        ("--probs", "0,1\n" + NUMBERS, ["5 of source_probs", "4 of target_labels", "first line of table.csv"]),
        ("--probs", "a,b\n0.5,\udcff\n", ["table.csv"]),
        ("--labels", "", ["the file is empty"]),
        ("--labels", ",,\n", ["empty cells"]),
        ("--labels", "label\n", ["got none"]),
        ("--labels", "a,b\n0,1\n", ["which of its 2 columns", "target_labels"]),
        ("--labels", "label,y\n0,1\n", ["which of its 2 columns", "target_labels"]),
        ("--labels", "file,label\na,1\nb\n", ["line 3", "column 2 of 2", "'b'"]),
        ("--labels", "file,label\na,\n", ["line 2", "column 2 of 2"]),
        ("--labels", "animal\ncat\ndog\ncat\ndog\n", ["5 of target_labels", "first line of table.csv"]),
        ("--labels", "0\n1\n0.5\n1\n", ["whole numbers or text", "0.5"]),
        ("--labels", "cat\nNaN\ncat\ndog\n", ["line 2", "'NaN'"]),
        ("--labels", "label\n1\nnan\n0\n1\n", ["line 3", "'nan'"]),
        ("--labels", 'cat\n""\ncat\ndog\n', ["line 2"]),
        ("--labels", "\udcff\n", ["table.csv"]),
        ("--labels", "a\n\udcff\n", ["table.csv"]),
    ],
)
def test_tables_that_are_wrong(refused, option, text, said):
    with open("table.csv", "wb") as file:
        file.write(text.encode("utf-8", "surrogateescape"))
    others = {"--probs": "probs.npy", "--labels": "labels.npy"} | {option: "table.csv"}
    line = refused("score", *(word for pair in others.items() for word in pair))
    for part in ["table.csv", *said]:
        assert part in line


def test_damaged_files(refused, files):
    whole = (files / "probs.npy").read_bytes()
    archive = (files / "outputs.npz").read_bytes()
    np.savez_compressed("packed.npz", probs=np.random.default_rng(0).random((50, 2)), labels=LABELS)
    packed = bytearray((files / "packed.npz").read_bytes())
    packed[200:260] = bytes(60)
    for name, content in {
        "a.npy": b"",
        "b.npy": b"no array",
        "c.npy": whole[:-3],
        "d.npy": archive,
        "e.npz": whole,
        "f.npz": archive[:-30],
        "g.npz": b"",
        "h.npz": bytes(packed),
    }.items():
        (files / name).write_bytes(content)
        line = refused("score", "--labels", "labels.npy", "--probs", name)
        assert line.startswith(f"leep score: {name}") and "pickle" not in line


def test_objects_in_a_file(refused):
    np.save("labels.npy", np.array(["cat", None, "cat", "dog"], object))
    line = refused("score", *BOTH)
    assert "labels.npy" in line and "Python objects" in line


# the process


def leep(*argv, stdout=subprocess.PIPE, **environment):
    command = [sys.executable, "-m", "leep.cli", *argv]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *sys.path]))
    variables = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=300, env=variables)


def test_help_and_version_import_nothing_slow():
    done = leep("--help", PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0 and "score" in done.stdout
    imported = set(re.findall(r"\|\s+(\w+)\S*$", done.stderr, re.MULTILINE))
    assert "numpy" in imported
    assert not imported & {"numba", "scipy", "pandas", "matplotlib", "PIL", "mxnet", "hydra", "sklearn"}
    assert leep("--version").stdout == f"leep {__version__}\n"


def test_a_process_and_a_terminal_without_the_letters(files):
    np.save("wide.npy", np.eye(4))
    done = leep("score", "--features", "wide.npy", "--labels", "labels.npy", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and "n ? d" in done.stdout
    done = leep("score", "--labels", "none.npy")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_reader_that_stops_reading():
    reader, writer = os.pipe()
    os.close(reader)
    done = leep("score", "outputs.npz", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_all_measures_are_computed_where_they_are_defined(score):
    result = score("outputs.npz", "--measures", "all")
    for name, expected in SCORES.items():
        assert round(result["scores"][name], 3) == expected
    notes = [note.split()[0] for note in result["notes"] if "is not computed" in note]
    assert {*result["scores"], *notes} == {*measures.MEASURES}
