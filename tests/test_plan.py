"""A plan: counts of what a run would do, against the results of that run; rates and times by hand."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import resolved, write_cifar100

from experiments.estimating import jobs
from experiments.estimating.plan import duration, print_plan, seconds
from experiments.estimating.rates import Rates, measure, recorded
from experiments.running.pair import find_pairs
from experiments.running.runner import run
from leep.engines import create_engine
from leep.errors import Invalid
from leep.machine import cpu_model
from leep.results import Table, read_done, read_setting
from leep.sources.forward import batch_size
from leep.transfer.training import train_network

ENGINE = create_engine("gluon", threads=1)  # before MXNet is imported

TASK = "task={min_smaller:3,max_smaller:6,ratio:2}"  # two of three classes: 10 test images
RATES = {"forward pass": 0.5, "head of 2 classes": 0.25, "head of 100 classes": 8.0, "training": 2.0, "cnaps": 3.0}


class ByHand:
    """Rates that are not measured, and which were asked for."""

    def __init__(self):
        self.asked = []

    def seconds(self, key, make, units):
        self.asked.append(key[0])
        return RATES[key[0]]


class Clock:
    """A clock that only work moves."""

    def __init__(self):
        self.now, self.calls = 100.0, []

    def __call__(self):
        return self.now

    def batches(self, first, later, units=10):
        """Batches of so many units: the first takes `first`, each other one `later`."""

        def run(n):
            self.now += later * n if self.calls else first
            self.calls.append(n)
            return n * units

        return run


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """Three classes, 14 training and 5 test images each."""
    folder = tmp_path_factory.mktemp("small")
    write_cifar100(folder / "cifar100", 3, 14, 5)
    return folder


@pytest.fixture
def configure(root, random_weights, tmp_path):
    """Composes a tiny configuration: 5.3 with heads and fine-tuning, one worker."""

    def make(*extra: str, experiment: str = "small_imbalanced"):
        return resolved(
            f"experiment={experiment}",
            *("scale=smoke", "executor=serial", "source=[cifar10_resnet20]", "target=[cifar100]"),
            *(f"source.cifar10_resnet20.weights={random_weights}", f"data.root={root}"),
            *(f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}", "plan=true"),
            *([TASK, "scale.max_epochs.fine_tune=3"] if experiment == "small_imbalanced" else []),
            *extra,
        )

    return make


@pytest.fixture
def balanced(configure):
    """5.2 with two classes of five examples each."""
    return lambda *extra: configure("task={n_classes:2,per_class:5}", "task_of={}", *extra, experiment="small_balanced")


def find(cfg, seen=None) -> dict[str, jobs.Job]:
    """Jobs by method."""
    seen = set() if seen is None else seen
    return {m.name: jobs.job_of(pair, m, seen) for pair in find_pairs(cfg) for m in pair.methods}


def counts(job):
    return job.tasks_missing, job.tasks_all, job.images_to_train, job.images_to_pass


def snapshot(folder: Path) -> dict:
    return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*")}


def trained(results: Path, method: str) -> int:
    """Examples × epochs, by the results."""
    (path,) = results.rglob(f"{method}-*/transfers.csv")
    return pd.read_csv(path).n_examples.sum() * read_setting(path.parent)["setting"]["epochs"]


# Counts


def test_counts_by_hand(balanced):
    planned = find(balanced("scale.max_tasks.fine_tune=3", "~eval_every.fine_tune"))
    assert counts(planned["retrain_head"]) == (4, 4, 4 * 2 * 10, 3 * (14 + 5))
    assert counts(planned["fine_tune"]) == (3, 3, 3 * 2 * 10, 3 * 2 * 5)
    (curves,) = find(balanced("method=[fine_tune]", "eval_every={fine_tune:5}")).values()
    assert curves.images_to_pass == 57 + 4 * 10 * (1 + 3)  # the scores' pass; epochs 0 to 2 too
    (capped,) = find(balanced("method=[from_scratch]", "scale.max_examples.from_scratch=4")).values()
    assert counts(capped) == (4, 4, 4 * 2 * 4, 57 + 4 * 4)


def test_counts_are_those_of_the_run_and_nothing_is_left_after_it(configure, tmp_path):
    cfg, results = configure("+eval_every.fine_tune=1"), tmp_path / "results"
    planned = find(cfg)
    run(cfg)
    for method, job in planned.items():
        assert (job.tasks_missing, job.images_to_train) == (4, trained(results, method)), method
    rows = [len(np.load(path, mmap_mode="r")) for path in (tmp_path / "cache").glob("*/*_probs.npy")]
    assert planned["retrain_head"].images_to_pass == sum(rows) == 57
    (curves,) = results.rglob("curves.csv")
    assert planned["fine_tune"].images_to_pass == 10 * (len(pd.read_csv(curves)) + 4)  # and the four tests
    held, rates = snapshot(tmp_path), ByHand()
    for job in find(cfg).values():
        assert counts(job) == (0, 4, 0, 0) and seconds(job, rates) == 0
    assert rates.asked == [] and snapshot(tmp_path) == held


def test_what_is_finished_and_what_was_interrupted_is_subtracted(configure, tmp_path, capsys):
    cfg, results = configure(), tmp_path / "results"
    before = find(cfg)
    run(cfg)
    for path in results.rglob("transfers.csv"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:3]) + lines[3][:5])  # two tasks, and a torn line
    (scores,) = results.rglob("scores.csv")
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[:-1]))
    (networks,) = results.rglob("fine_tune-*")
    (networks / "checkpoints").mkdir()
    (networks / "checkpoints" / "task3.npz").write_bytes(b"damaged")
    np.savez(networks / "checkpoints" / "task2.npz", curve=np.zeros((0, 2)), position=np.array([1, 1]))
    held = snapshot(results)
    with Table(scores, ["task", "n_classes", "n_examples", "measure", "score"], ["task", "measure"]):  # a run
        found = find(cfg)
    assert snapshot(results) == held
    (pair,) = find_pairs(cfg)
    n = [len(pair.task(i).train_rows) for i in range(4)]
    assert all(9 <= count <= 18 for count in n) and n[2] > 10
    assert before["retrain_head"].images_to_train == 2 * sum(n)
    assert counts(found["retrain_head"]) == (2, 4, 2 * (n[2] + n[3]), 0)
    assert counts(found["fine_tune"]) == (2, 4, 3 * (n[2] + n[3]) - n[2] - 10, 2 * 10)  # an epoch, and a batch of ten


def test_an_interrupted_pass_goes_on_and_two_experiments_need_one(configure, balanced, monkeypatch):
    import experiments.running.pair

    cfg = configure()
    (pair,) = find_pairs(cfg)
    make = experiments.running.pair.make_predictor

    def breaking(*args):
        predict = make(*args)
        return lambda images: predict(images) if len(images) == 42 else 1 / 0

    monkeypatch.setattr(experiments.running.pair, "make_predictor", breaking)
    with pytest.raises(ZeroDivisionError):
        pair.outputs()
    seen = set()
    assert find(cfg, seen)["retrain_head"].images_to_pass == 15
    assert find(balanced(), seen)["retrain_head"].images_to_pass == 0
    assert find(balanced())["retrain_head"].images_to_pass == 15


@pytest.fixture
def meta(configure, random_weights, tmp_path):
    """5.4 with CNAPs of random weights, which know no class of the target."""
    from leep.sources.weights import find_weights
    from leep.transfer.cnaps.adaptation import build_cnaps, save_adaptation

    means = (0.5,) * 3
    net = build_cnaps("cifar_resnet20_v1", 10, random_weights, means, means, "film", np.random.SeedSequence(3))
    arrays = {k: v for k, v in ENGINE.meta_learner(net).state().items() if ":" not in k and k != "steps"}
    sha256 = find_weights("cifar10_resnet20", "cifar_resnet20_v1", str(random_weights)).sha256
    card = {"variant": "film", "source": "cifar10_resnet20", "source_sha256": sha256, "size": 32, "data": "none"}
    save_adaptation(tmp_path / "adaptation.npz", arrays, {**card, "classes": ["another"]})
    options = f"method.cnaps.weights={tmp_path / 'adaptation.npz'}", "task={n_classes:2,per_class:3}"
    return configure("method=[cnaps,nearest_mean]", *options, experiment="meta_transfer")


def test_adapting_passes_context_and_query_and_class_means_take_no_time(meta):
    adapted, nearest = find(meta).values()
    assert counts(adapted) == (4, 4, 0, 2 * 15 + 4 * 10)  # the scores' pass; all images of two classes
    assert counts(nearest) == (200, 200, 0, 0)
    assert seconds(adapted, ByHand()) == 30 * 0.5 + 4 * 3
    assert seconds(nearest, ByHand()) == 0


# Times


def test_times_by_hand(balanced):
    heads, networks = find(balanced("~eval_every.fine_tune")).values()
    assert seconds(heads, ByHand()) == pytest.approx(57 * 0.5 + 80 * 0.25)
    assert seconds(networks, ByHand()) == pytest.approx(80 * 2 + 40 * 0.5)


def test_a_head_of_three_classes_lies_between_the_two_that_are_measured(balanced):
    (heads,) = find(balanced("method=[retrain_head]", "task={n_classes:3,per_class:5}")).values()
    assert seconds(heads, ByHand()) == pytest.approx(57 * 0.5 + 4 * 2 * 15 * (0.25 + (8 - 0.25) / 98))


def test_the_busiest_of_three_workers_has_two_of_four_tasks(balanced):
    heads, networks = find(balanced("executor=local", "executor.workers=3", "~eval_every.fine_tune")).values()
    assert seconds(heads, ByHand()) == pytest.approx(57 / 3 * 0.5 + 80 / 2 * 0.25)
    assert seconds(networks, ByHand()) == pytest.approx(80 / 2 * 2 + 40 / 2 * 0.5)


def test_durations():
    assert [duration(s) for s in (38, 252, 11160, 691200)] == ["38 s", "4.2 min", "3.1 h", "8.0 d"]


# Rates


def test_the_first_batch_compiles_and_the_others_are_doubled_until_they_take_long_enough():
    clock = Clock()
    assert measure(clock.batches(first=4, later=0.0625), clock) == (pytest.approx(0.0625 / 10), True)
    assert clock.calls == [1, 1, 2, 4]  # 4 × 0.0625 s, 2 × 0.0625 s were too short
    clock = Clock()
    assert measure(clock.batches(first=7, later=6), clock) == (pytest.approx(7 / 10), True)
    assert clock.calls == [1]


def test_rates_are_kept_by_all_that_determines_them_and_measured_again_on_request(tmp_path, capsys):
    def rate(key, later, again=False):
        clock = Clock()
        found = Rates(tmp_path, clock, again).seconds(key, lambda: clock.batches(1, later, units=1), 100)
        return found, len(clock.calls) > 0

    small, large = ["training", "resnet", 32, {"threads": 1}], ["training", "resnet", 224, {"threads": 1}]
    assert rate(small, 1) == (1, True) and "training resnet 32" in capsys.readouterr().err
    assert rate(small, 2) == (1, False) and capsys.readouterr().err == ""
    assert rate(large, 3) == (3, True)
    assert rate(small, 4, again=True) == (4, True)
    assert rate(small, 5) == (4, False) and rate(large, 5) == (3, False)
    path = tmp_path / "rates.json"
    path.write_text(path.read_text().replace(cpu_model(), "another processor"))
    assert rate(small, 6) == (6, True)
    path.write_text("{")
    assert rate(small, 7) == (7, True)
    assert [p.name for p in tmp_path.iterdir()] == ["rates.json"]


def test_measuring_does_no_more_than_what_is_planned_and_such_a_rate_is_not_kept(tmp_path):
    clock = Clock()
    assert measure(clock.batches(first=0.5, later=0.01), clock, most=25) == (pytest.approx(0.01 / 10), False)
    assert clock.calls == [1, 1, 2]  # 40 units
    clock = Clock()
    rates = Rates(tmp_path, clock)
    assert rates.seconds(["pass", "net", 32], lambda: clock.batches(0.5, 0.01), 10) == pytest.approx(0.05)
    assert clock.calls == [1] and not rates.path.exists()


def test_after_its_time_a_plan_measures_nothing_and_reads_what_is_kept(tmp_path):
    clock = Clock()
    Rates(tmp_path, clock).seconds(["pass", "net", 32], lambda: clock.batches(1, 2, units=1), 100)
    late = Rates(tmp_path, clock, patience=0)
    assert (late.seconds(["pass", "net", 32], None, 100), late.left_out) == (2, 0)
    assert (late.seconds(["pass", "net", 224], None, 100), late.left_out) == (None, 1)


def test_what_is_not_measured_is_said(configure, monkeypatch, capsys):
    monkeypatch.setattr("experiments.estimating.plan.PATIENCE", 0.0)
    print_plan([configure("method=[retrain_head]")])
    printed = capsys.readouterr().out
    assert "≥ 0 s" in printed and "In all ≥ 0 s" in printed and "the same command" in printed


def test_one_that_is_measured_again_is_measured_once(tmp_path):
    clock = Clock()
    rates = Rates(tmp_path, clock, again=True)
    for _ in range(2):
        assert rates.seconds(["training", "resnet", 32], lambda: clock.batches(1, 1, units=1), 100) == 1
    assert clock.calls == [1, 1]


def test_what_is_measured_is_the_real_thing(balanced, meta, monkeypatch, tmp_path):
    """Every piece does batches of as many units as it says; heads read the pass where it is made."""
    (pair,) = find_pairs(balanced())
    steps = []
    monkeypatch.setattr(jobs, "train_network", lambda *a, **k: steps.append(len(a[3])) or train_network(*a, **k))
    heads, networks = find(balanced()).values()
    passed, head = (piece.make() for piece in heads.pieces)
    train, test = (piece.make() for piece in networks.pieces)
    batch = batch_size(pair.source.size, "cpu")
    assert [passed(2), head(3), train(2), test(1)] == [2 * batch, 3 * 100, 20, batch] and steps == [20]
    assert len(pair.outputs().train_features) == 42
    assert find(balanced())["retrain_head"].pieces[0].make()(3) == 3 * 42
    adapt = find(meta)["cnaps"].pieces[-1].make()
    assert adapt(5) == 5  # of four tasks


@pytest.fixture
def earlier(configure, tmp_path):
    """Results of a run whose heads took 0.5 s a task, as `times.jsonl` says; and how long its settings take by it."""
    cfg = configure("method=[retrain_head]")
    run(cfg)
    (path,) = (tmp_path / "results").rglob("retrain_head-*/times.jsonl")
    call = {"tasks": 20, "seconds": 10.0, "workers": 1, "device": "cpu", "cpu": cpu_model()}
    few, other = {**call, "tasks": 9, "seconds": 90}, {**call, "cpu": "another", "seconds": 90}
    path.write_text("\n".join(map(json.dumps, [call, few, other])) + '\n{"tasks": 1')

    def told(*extra, method=None, workers=1):
        cfg = configure("method=[retrain_head]", *extra)
        (pair,) = find_pairs(cfg)
        settings = pair.identity(), {**pair.method_identity(pair.methods[0]), **(method or {})}
        return recorded(tmp_path / "results", *settings, workers)

    return told


def test_earlier_runs_tell_the_time_of_a_task_where_what_determines_it_is_the_same(earlier, configure):
    assert earlier() == earlier("seed=1") == earlier(method={"scale": "paper"}) == 0.5
    assert earlier(method={"epochs": 3}) is earlier(method={"batch_size": 5}) is earlier(workers=2) is None
    assert earlier("task={min_smaller:3,max_smaller:5,ratio:2}") is earlier("source.cifar10_resnet20.size=64") is None
    job, rates = find(configure("seed=1"))["retrain_head"], ByHand()
    assert (seconds(job, rates), rates.asked) == (4 * 0.5, [])
    assert find(configure("seed=1", "plan=remeasure"))["retrain_head"].recorded == 0
    assert find(configure())["retrain_head"].recorded == 0  # all is done


def test_damaged_results_of_other_runs_tell_nothing(earlier, tmp_path):
    (path,) = (tmp_path / "results").rglob("retrain_head-*/setting.json")
    path.write_text("{")
    assert earlier("seed=1") is None


# What is printed


def test_what_is_missing_is_a_line_and_nothing_is_measured_for_it(configure, tmp_path, capsys):
    print_plan([configure("source.cifar10_resnet20.weights=nowhere.params")])
    printed = capsys.readouterr().out
    assert printed.count("nowhere.params does not exist") == 1 and "→" not in printed and "In all 0 s" in printed
    folder = ["target=[folder]", "target.folder.path=nowhere"]
    print_plan([configure(*folder)])
    assert "nowhere: no such folder" in capsys.readouterr().out
    with pytest.raises(Invalid, match="no such folder"):
        print_plan([configure("target=[folder,cifar100]", folder[1], "strict=true")])
    assert not (tmp_path / "cache").exists() and not (tmp_path / "results").exists()


@pytest.mark.parametrize("value", ["maybe", "1", "yes", "null", "[true]"])
def test_other_values_of_plan_are_refused(configure, value):
    with pytest.raises(Invalid, match="plan must be true, false or remeasure, got"):
        configure(f"plan={value}")


def test_one_that_is_wrong_does_not_stop_the_others(configure, balanced, monkeypatch, capsys):
    monkeypatch.setattr(Rates, "seconds", lambda self, key, make, units: RATES[key[0]])
    wrong = balanced("task={n_classes:7,per_class:5}")
    with pytest.raises(Invalid, match="small_balanced cannot be drawn from cifar100"):
        print_plan([wrong, configure("task={min_smaller:3,max_smaller:3,ratio:2}")])
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if "→" in line and "cifar10_" in line]
    assert [line[0] for line in lines] == ["retrain_head,", "fine_tune,"]
    assert lines[0][4:] == ["4", "of", "4", "72", "57", "46", "s"]  # 57 × 0.5 + 72 × 0.25
    assert lines[1][4:] == ["4", "of", "4", "108", "40", "3.9", "min"]  # 108 × 2 + 40 × 0.5


def test_command_measures_once_and_runs_nothing(run_experiment, tmp_path):
    cache = tmp_path / "cache"
    options = "experiments=[small_imbalanced]", "plan=true", "executor=serial", f"paths.cache={cache}"
    done = run_experiment("measure_comparison", *options)
    assert "small_imbalanced, scale=smoke" in done.stdout and "retrain_head, cifar10_resnet20" in done.stdout
    assert [p.name for p in cache.iterdir()] == ["rates.json"] and not (tmp_path / "results").exists()
    kept = json.loads((cache / "rates.json").read_text())
    assert kept and all(0 < rate < 1 for rate in kept.values())
    again = run_experiment("measure_comparison", *options)
    what = "measuring: forward pass cifar_resnet20_v1 32"  # of heads there may be too few to tell, so they are not kept
    assert what in done.stderr and what not in again.stderr
    now = json.loads((cache / "rates.json").read_text())
    assert kept.items() <= now.items()


def test_read_done_is_what_a_table_holds(tmp_path):
    path = tmp_path / "rows.csv"
    assert read_done(path, ["a"]) == set() and not path.exists()
    path.write_text("a,b\n1,x\n2,y\n3")
    assert read_done(path, ["a"]) == {("1",), ("2",)}
    with Table(path, ["a", "b"], ["a", "b"]) as table:
        assert table.done == read_done(path, ["a", "b"])
