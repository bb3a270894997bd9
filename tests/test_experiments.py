"""Every experiment at scale=smoke: rows, resumption, what is missing, what is refused."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, composed, resolved
from helpers.results import csvs
from PIL import Image

from experiments.running.measuring import open_pair
from experiments.running.pair import FILE, Lacks, find_pairs
from experiments.running.runner import run
from leep.data import READERS, find_data, load_data
from leep.errors import Invalid, Missing
from leep.results import read_runs, read_setting, read_times
from leep.sources.forward import images_to_pass

OTHERS = {"measure_comparison", "ranking_quality"}  # no runs of one source and target
EXPERIMENTS = sorted({p.stem for p in (ROOT / "conf" / "experiment").glob("*.yaml")} - OTHERS)


@pytest.mark.parametrize("scale", ["smoke", "quick", "paper"])
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_passes_the_checks(experiment, scale):
    config = resolved(f"experiment={experiment}", f"scale={scale}")
    assert config.experiment.name == ("small_balanced" if experiment == "convergence" else experiment)
    assert config.scale == scale
    if scale == "paper":
        assert not any(config.method_deviations.values())


def test_paper_scale_is_the_papers_protocol():
    large, small, imbalanced, convergence = (
        composed(f"experiment={e}", "scale=paper")
        for e in ("large_balanced", "small_balanced", "small_imbalanced", "convergence")
    )
    assert (large.n_tasks, small.n_tasks, imbalanced.n_tasks) == (200, 200, 200)
    assert (large.epochs.retrain_head, small.epochs.retrain_head, imbalanced.epochs.retrain_head) == (100, 50, 20)
    assert dict(large.task) == {"min_classes": 2, "max_classes": 100}
    assert dict(small.task) == {"n_classes": 5, "per_class": 50}
    assert dict(small.task_of.fashion_mnist) == {"n_classes": 4, "per_class": 30}
    assert dict(imbalanced.task) == {"min_smaller": 30, "max_smaller": 60, "ratio": 5}
    for cfg in (large, small, imbalanced):
        assert (cfg.method.retrain_head.batch_size, cfg.method.retrain_head.learning_rate) == (10, 0.01)
        assert (cfg.method.fine_tune.batch_size, cfg.method.fine_tune.learning_rate) == (10, 0.01)
        assert {*cfg.scale.max_tasks.values(), *cfg.scale.max_epochs.values()} == {None}
    targets = "target=[cifar100,fashion_mnist]"
    networks = [
        (resolved(f"experiment={experiment}", "scale=paper", targets), method)
        for experiment, method in (
            ("large_balanced", "fine_tune"),
            ("small_balanced", "fine_tune"),
            ("small_imbalanced", "fine_tune"),
            ("convergence", "from_scratch"),
        )
    ]
    assert [[c.budgets[m, t].epochs for t in ("cifar100", "fashion_mnist")] for c, m in networks] == [
        [100, 100],
        [100, 40],
        [20, 20],
        [100, 40],
    ]
    assert list(convergence.method) == ["fine_tune", "from_scratch"] and convergence.experiment == "small_balanced"


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_experiment_writes_its_rows_and_a_second_call_does_nothing(run_experiment, experiment, tmp_path):
    run_experiment(experiment)
    results = tmp_path / "results"
    runs = read_runs(results)
    tasks = [0] if experiment == "source_selection" else [0, 1, 2, 3]
    assert sorted(set(runs.task)) == tasks and set(runs.measure) == {"leep", "nce", "h_score"}
    assert runs.test_accuracy.between(0, 1).all() and runs.score.notna().all()
    assert runs.test_f1.notna().all() == (experiment == "small_imbalanced")
    assert (runs[runs.measure.isin(["leep", "nce"])].score <= 0).all()
    assert set(runs.scale) == {"smoke"} and runs.deviations.map("; ".join).str.contains("random.params weights").all()
    before = {p: p.stat().st_mtime_ns for p in results.rglob("*") if p.is_file()}
    second = run_experiment(experiment)
    assert "were done before" in second.stdout
    assert {p: p.stat().st_mtime_ns for p in results.rglob("*") if p.is_file()} == before


def test_rows_do_not_depend_on_workers(run_experiment, tmp_path):
    run_experiment("small_imbalanced", "executor=serial", results=tmp_path / "one")
    run_experiment("small_imbalanced", "executor.workers=3", results=tmp_path / "three")
    assert csvs(tmp_path / "one") == csvs(tmp_path / "three") != {}


def test_more_tasks_continue_the_same_file(run_experiment, tmp_path):
    run_experiment("small_balanced", "scale.max_tasks.retrain_head=3")
    short = csvs(tmp_path / "results")
    run_experiment("small_balanced", "scale.max_tasks.retrain_head=6")
    long = csvs(tmp_path / "results")
    assert short.keys() == long.keys() and all(long[k].startswith(short[k]) and long[k] != short[k] for k in short)


def test_seeds_and_changed_protocols_are_kept_apart(run_experiment, tmp_path):
    run_experiment("small_imbalanced")
    run_experiment("small_imbalanced", "seed=1")
    run_experiment("small_imbalanced", "method.retrain_head.learning_rate=0.1")
    run_experiment("small_imbalanced", "task={min_smaller:10,max_smaller:20,ratio:2}")
    runs = read_runs(tmp_path / "results")
    assert runs.groupby("run").seed.first().value_counts().to_dict() == {0: 3, 1: 1}
    for change in ("learning_rate=0.1 for 0.01", "max_smaller=20 for 60"):
        assert runs[runs.deviations.map("; ".join).str.contains(change)].run.nunique() == 1
    assert runs.deviations.map("; ".join).str.contains("2 of 20 epochs").all()


def test_what_equals_the_papers_protocol_is_no_stand_in(run_experiment, tmp_path):
    given = ("scale=paper", "n_tasks=3", "epochs.retrain_head=50", "task.n_classes=5")
    done = run_experiment("small_balanced", *given)
    assert "3 of 200 tasks" in done.stdout
    run_experiment("small_balanced", *given, "method.retrain_head.implementation=gluon")
    runs = read_runs(tmp_path / "results")
    assert runs.run.nunique() == 2 and set(runs.deviations) == {
        ("other data (1,920 + 60 images) for CIFAR100", "random.params weights of cifar10_resnet20", "3 of 200 tasks")
    }
    compiled, gluon = (g.test_accuracy.to_numpy() for _, g in runs.groupby("run"))
    assert abs(compiled - gluon).max() <= 0.02


def test_scores_do_not_depend_on_how_many_are_asked_for(run_experiment, tmp_path):
    run_experiment("large_balanced", "scale.max_tasks.retrain_head=3", results=tmp_path / "a")
    run_experiment("large_balanced", "scale.max_tasks.retrain_head=7", results=tmp_path / "a")
    run_experiment("large_balanced", "scale.max_tasks.retrain_head=7", results=tmp_path / "b")
    a, b = (read_runs(tmp_path / x).sort_values(["task", "measure"]) for x in "ab")
    assert a.score.tolist() == b.score.tolist()


def test_multirun_over_seeds(run_experiment, tmp_path):
    run_experiment("small_imbalanced", "-m", "seed=0,1", "scale.max_tasks.retrain_head=3")
    assert set(read_runs(tmp_path / "results").seed) == {0, 1}


def test_a_measure_added_later_leaves_the_old_rows(run_experiment, tmp_path):
    run_experiment("small_balanced", "measures=[leep]")
    (path,) = (tmp_path / "results").rglob("scores.csv")
    before = path.read_bytes()
    run_experiment("small_balanced", "measures=[leep,nce]")
    assert path.read_bytes().startswith(before)
    assert len(list(csv.reader(path.open()))) == 1 + 4 + 4


def test_results_name_what_made_them(run_experiment, tmp_path):
    run_experiment("small_balanced")
    (scores,) = (tmp_path / "results").rglob("scores.csv")
    setting = read_setting(scores.parent)
    assert setting["setting"]["engine"] == {"name": "gluon", "precision": "float32", "device": "cpu"}
    assert len(setting["setting"]["source"]["weights_sha256"]) == len(setting["setting"]["target"]["sha256"]) == 64
    assert setting["provenance"]["packages"]["mxnet"] == "1.9.1"
    (run,) = scores.parent.glob("retrain_head-*")
    (call,), (scored,) = read_times(run), read_times(scores.parent)
    assert call["tasks"] == 4 and call["seconds"] > 0 and call["device"] == "cpu"
    assert scored["scores"] == 12 and scored["seconds"] >= 0
    for machine in (call, scored, setting["provenance"]):
        assert machine["cpu"] and machine["cores"] >= 1 and machine["packages"]["mxnet"] == "1.9.1"


def test_of_few_tasks_only_the_images_that_they_use_are_passed(arguments, tmp_path, monkeypatch, capsys):
    few = ("task={n_classes:2,per_class:5}", f"paths.cache={tmp_path}")
    config = resolved(*arguments("small_balanced", *few))
    (pair,) = find_pairs(config)
    train, test = pair.used_rows
    assert len(train) <= 4 * 2 * 5 and len(test) <= 4 * 2 * 10
    assert set(train) == set().union(*(pair.task(i).train_rows for i in range(4)))
    assert images_to_pass(tmp_path, pair.outputs_key, pair.passed) == len(train) + len(test)
    some = pair.outputs()
    assert images_to_pass(tmp_path, pair.outputs_key, pair.passed) == 0
    monkeypatch.setattr("experiments.running.pair.FEW", 0.0)
    (whole,) = find_pairs(config)
    assert whole.used_rows is None and whole.outputs_key != pair.outputs_key
    every = whole.outputs()
    for name, rows in (
        ("train_features", train),
        ("train_probs", train),
        ("test_features", test),
        ("test_probs", test),
    ):
        a, b = getattr(some, name), getattr(every, name)
        assert a.shape == b.shape and np.abs(a[rows] - b[rows]).max() < 1e-6, name
        assert not a[np.setdiff1d(np.arange(len(a)), rows)].any()
    monkeypatch.undo()
    (again,) = find_pairs(config)
    assert again.used_rows is None  # the pass over all images is there
    run(config)
    assert "4 tasks, of 10 that a correlation needs; score and test result: (" in capsys.readouterr().out


def test_tasks_of_whole_classes_and_methods_from_outside_have_all_images_passed(arguments, tmp_path):
    (pair,) = find_pairs(resolved(*arguments("large_balanced", "scale.max_tasks.retrain_head=3")))
    assert pair.used_rows is None and pair.passed is pair.data
    few = resolved(*arguments("small_balanced", "task={n_classes:2,per_class:5}", f"paths.cache={tmp_path}"))
    (pair,) = find_pairs(replace(few, n_tasks={"mine": 4}))
    assert pair.used_rows is None


def test_the_bundled_sample_can_be_asked_for():
    sample, full = (resolved(f"target=[{name}]").targets[0] for name in ("fashion_mnist_sample", "fashion_mnist"))
    assert sample.name == full.name == "fashion_mnist" and sample.task == full.task
    assert load_data(sample.reader).variant == "bundled sample"
    assert find_data(sample.reader) == READERS["fashion_mnist"].sample


def test_what_is_missing_is_one_line_and_each_thing_where_it_is_asked_for():
    lacks, gluon = Lacks(), "{} Gluon's weights: make data"
    assert not lacks
    lacks.add("one", Missing("first"), gluon)
    assert lacks and lacks.text(every=False) == " one needs Gluon's weights: make data"
    lacks.add("two", Missing("second"), gluon)
    lacks.add("CIFAR100", Missing("third"), "CIFAR100 is not here: make data")
    lacks.add("mine", Missing("my.params does not exist"), FILE)
    lacks.add("bad", Invalid("bad.params is damaged"), gluon)
    sources = " 2 sources need Gluon's weights: make data; CIFAR100 is not here: make data; "
    assert lacks.text(every=False) == sources + "my.params does not exist; bad.params is damaged (-v lists them)"
    listed = lacks.text(every=True).splitlines()[1:]
    assert [line.removeprefix("  - ") for line in listed] == [
        *("first", "second", "third", "my.params does not exist", "bad.params is damaged")
    ]


def rows_written(results: Path) -> int:
    return sum(content.count(b"\n") for content in csvs(results).values())


def kill_and_resume(arguments: list[str], results: Path, total: int, kills: int) -> list[int]:
    """Kill the run whenever it has written a random number of rows more, then let it end; the rows at each kill."""
    rng, seen = random.Random(0), []
    command = [sys.executable, "run.py", *arguments]
    for threshold in sorted(rng.sample(range(1, total), kills)):
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and rows_written(results) < threshold:
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        seen.append(rows_written(results))
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["large_balanced", "small_balanced", "small_imbalanced"])
def test_killed_ten_times_gives_the_same_rows(arguments, run_experiment, experiment, tmp_path):
    more = ("scale.max_tasks.retrain_head=150",)
    run_experiment(experiment, *more, results=tmp_path / "whole")
    whole, killed = csvs(tmp_path / "whole"), tmp_path / "killed"
    total = rows_written(tmp_path / "whole")
    seen = kill_and_resume(arguments(experiment, *more, results=killed), killed, total, kills=10)
    assert csvs(killed) == whole != {}
    assert sum(n < total for n in seen) >= 5, "too few kills hit an unfinished run"


def test_missing_data_and_weights_are_listed_and_the_rest_runs(run_experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "nowhere"))
    done = run_experiment("small_balanced", "source=[cifar10_resnet20,imagenet_resnet18]")
    assert "Left out: imagenet_resnet18 needs Gluon's weights: make data\n" in done.stdout
    assert set(read_runs(tmp_path / "results").source) == {"cifar10_resnet20"}
    strict = run_experiment("small_balanced", "source=[cifar10_resnet20,imagenet_resnet18]", "strict=true", check=False)
    assert strict.returncode == 2 and "Gluon's weights of resnet18_v1" in strict.stderr
    nothing = run_experiment("small_balanced", "data.root=null", check=False)
    assert nothing.returncode == 3 and "CIFAR100 is not here: make data" in nothing.stderr
    assert "Traceback" not in nothing.stderr + strict.stderr


def test_without_adaptation_networks_the_other_methods_run(run_experiment, tmp_path):
    few = "method=[cnaps,nearest_mean]", "method.cnaps.weights=none.npz", "task.n_classes=2", "task.per_class=3"
    done = run_experiment("meta_transfer", *few)
    assert "Left out" in done.stdout and "adaptation networks for cifar10_resnet20 are not in none.npz" in done.stdout
    assert set(read_runs(tmp_path / "results").method) == {"nearest_mean"}
    alone = run_experiment("meta_transfer", *few, "method=[cnaps]", check=False)
    assert alone.returncode == 3 and "none.npz" in alone.stderr
    assert run_experiment("meta_transfer", *few, "strict=true", check=False).returncode == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("n_tasks=2", "n_tasks must be an integer ≥ 3, got 2"),
        ("seed=-1", "seed must be an integer ≥ 0, got -1"),
        ("seed=abc", "seed must be an integer ≥ 0, got 'abc'"),
        ("measures=[lepe]", "measures must be among .*h_score.*leep.* got 'lepe'"),
        ("source=[]", "source must name at least one"),
        ("measures=leep", "measures must be a list"),
        ("strict=no", "strict must be true or false, got 'no'"),
        ("scale.max_tasks.retrain_head=2", "scale.max_tasks.retrain_head must be null or an integer ≥ 3, got 2"),
        ("scale.max_tasks=50", "scale.max_tasks must map names to values, e.g. scale.max_tasks.fine_tune=50, got 50"),
        ("+scale.max_task=3", "scale must be among name, max_tasks, max_epochs, .* got 'max_task'"),
        (
            "+scale.large_balanced.max_tasks.finetune=3",
            "scale.large_balanced.max_tasks must be among .* got 'finetune'",
        ),
        ("eval_every=5", "eval_every must map names to values"),
        ("+epochs_of.cifar100.fine_tuen=5", "epochs_of.cifar100 must be among .* got 'fine_tuen'"),
        ("data.root=/no/such/folder", "data.root=/no/such/folder is not a folder"),
        ("source.cifar10_resnet20.std=[1,0,1]", "std must be a number > 0, got 0"),
        ("target.cifar100.size=64", "size is only for reader: folder"),
        ("target.cifar100.reader=cifar1000", "reader must be among cifar10, cifar100"),
        ("+task.foo=3", "task must have the keys min_smaller, max_smaller, ratio, got"),
        ("+task_of.fashion_mnst.ratio=3", "task_of must be among .*fashion_mnist.* got 'fashion_mnst'"),
        ("method.retrain_head.learning_rate=inf", "learning_rate must be a number > 0, got inf"),
        ("epochs.retrain_head=0", "epochs.retrain_head must be an integer ≥ 1, got 0"),
        ("method.retrain_head.learning_rate=0", "learning_rate must be a number > 0, got 0"),
        ("method.retrain_head.momentum=1", "momentum must be a number ≥ 0 and < 1, got 1"),
        ("method.retrain_head.implementation=fast", "must be among compiled, gluon, got 'fast'"),
        ("task.ratio=-5", "task.ratio must be an integer ≥ 1, got -5"),
        ("task.min_smaller=90", "task.min_smaller must be ≤ task.max_smaller, 60, got 90"),
        ("executor.workers=0", "executor.workers must be null or an integer ≥ 1, got 0"),
        ("engine.device=cuda", "engine=gluon runs in float32 on the cpu"),
        ("measures=[leep,leep]", "measures must be different ones"),
        ("source.cifar10_resnet20.weights=null", "weights must be bundled, gluon, pip:.* got None"),
        ("engine.precision=float16", "engine.precision must be among"),
    ],
)
def test_impossible_values_fail_before_any_work(override, message):
    with pytest.raises(Invalid, match=message):
        resolved("experiment=small_imbalanced", override)


@pytest.mark.parametrize(
    ("override", "choices"),
    [
        ("scale=huge", "quick"),
        ("source=[resnet]", "cifar10_resnet20"),
        ("n_task=5", "n_tasks"),
        ("+measure=[leep]", "measures"),
        ("+target.cifar100.foo=3", "reader, title"),
        ("task.rato=5", "rato"),
    ],
)
def test_unknown_names_and_keys_fail_naming_the_choices(run_experiment, override, choices, tmp_path):
    done = run_experiment("small_imbalanced", override, check=False)
    assert done.returncode != 0 and choices in done.stderr
    assert not (tmp_path / "results").exists()


def test_task_that_the_data_cannot_give_is_a_clear_error(run_experiment):
    done = run_experiment("small_balanced", "task.n_classes=7", check=False)
    assert done.returncode == 2 and "its tasks have up to 7 classes, the data set has 6" in done.stderr
    done = run_experiment("small_imbalanced", "task.ratio=6", check=False)
    assert done.returncode == 2 and "up to 360 training examples of a class, one class has 320" in done.stderr
    assert "Traceback" not in done.stderr


def test_damaged_data_do_not_stop_the_other_targets(run_experiment, tmp_path):
    (tmp_path / "root" / "cifar100").mkdir(parents=True)
    (tmp_path / "root" / "cifar100" / "train.bin").write_bytes(b"x")
    (tmp_path / "images").mkdir()
    folder = ("target=[cifar100,folder]", f"target.folder.path={tmp_path / 'images'}", f"data.root={tmp_path / 'root'}")
    done = run_experiment("small_balanced", *folder, check=False)
    assert done.returncode == 3 and "test.bin" in done.stderr and "images" in done.stderr


def test_a_folder_of_images_has_its_own_name_in_the_results(run_here, arguments, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for k in range(4 * 12):
        path = tmp_path / "my flowers" / "abcd"[k % 4] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    path.write_bytes(b"")
    given = "target=[folder]", f"target.folder.path={tmp_path / 'my flowers'}", "target.folder.size=32"
    task = "+task_of.folder={n_classes: 2, per_class: 4}"
    assert f"d/{k}.png (empty)" in run_here("small_balanced", *given, task)
    assert run_here("small_balanced", *given, task, "target.folder.on_damaged=skip") is None
    runs = read_runs(tmp_path / "results")
    assert set(runs.target) == {"my flowers"} and "note on my flowers: left out: 1 of 48" in capsys.readouterr().out
    (folder,) = (tmp_path / "results").glob("small_balanced/*/my flowers/*")
    notes = read_setting(folder)["notes"]
    assert [f"d/{k}.png" in note for note in notes["data"]] == [True]
    values = [v for v in arguments("small_balanced", *given, "target.folder.on_damaged=skip") if "." in v.split("=")[0]]
    pair = open_pair(folder, values)  # as `make measures` finds it again
    assert (pair.target.name, len(pair.data.files)) == ("my flowers", 47)


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["path=/x/flowers"], "flowers"),
        (["path=/x/flowers/"], "flowers"),
        (["path=/x/flowers/labels.csv"], "flowers"),
        (["path=/x/flowers", "name=mine"], "mine"),
    ],
)
def test_names_of_folders(overrides, name):
    (target,) = resolved(
        "experiment=small_balanced", "target=[folder]", *(f"target.folder.{given}" for given in overrides)
    ).targets
    assert (target.name, target.title, target.key, target.on_damaged) == (name, name, "folder", "error")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("path=/x/cifar100", "target.folder.name must be another name, cifar100 is that of a published data set"),
        ("name=a/b", "target.folder.name must name a folder, got 'a/b'"),
        ("name=..", "target.folder.name must name a folder"),
        ("on_damaged=ignore", "target.folder.on_damaged must be among error, skip, got 'ignore'"),
    ],
)
def test_names_of_folders_that_are_refused(override, message):
    with pytest.raises(Invalid, match=message):
        resolved("experiment=small_balanced", "target=[folder]", "target.folder.path=/x/y", f"target.folder.{override}")


def test_weights_of_another_network_are_a_clear_error(run_experiment):
    done = run_experiment("small_balanced", "source.cifar10_resnet20.model=cifar_resnet56_v1", check=False)
    assert done.returncode == 2 and "does not hold the weights of cifar_resnet56_v1" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_helps():
    done = subprocess.run([sys.executable, "run.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (
        all(e in done.stdout for e in EXPERIMENTS)
        and "scale=paper" in done.stdout
        and "cifar10_resnet20" in done.stdout
    )
