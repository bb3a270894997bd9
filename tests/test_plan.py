"""A plan: what a run would do, before it does it; nothing of it is done."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, write_cifar100
from hydra import compose, initialize_config_dir

import experiments.costs
from experiments.check import UserError, check_config
from experiments.networks import limited
from experiments.plan import duration, plan, print_plan
from experiments.protocol import paper_protocol
from experiments.transfer import run
from experiments.work import find_all, find_work
from leep.calibration import Calibration
from leep.engines import create_engine
from leep.results import Table, read_done

ENGINE = create_engine("gluon", threads=1)  # before MXNet is imported

TASK = "task={min_smaller:3,max_smaller:6,ratio:2}"
COSTS = {
    **{"start": 1.0, "setup": 1.0, "image": 0.5, "test": 0.25, "n_features": 64, "memory": 10**9},
    **{"scores": 1.0, "head": 1.0, "example": 1.0, "block": 1.0, "row": 0.0, "task": 1.0},
}


@pytest.fixture(scope="session")
def root(tmp_path_factory) -> Path:
    """Three classes, 14 training and 5 test images each."""
    folder = tmp_path_factory.mktemp("small")
    write_cifar100(folder / "cifar100", 3, 14, 5)
    return folder


@pytest.fixture
def configure(root, random_weights, tmp_path):
    """Composes a tiny configuration: 5.3 with heads and fine-tuning, one worker."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):

        def make(*extra: str, experiment: str = "small_imbalanced"):
            return compose(
                "config",
                [
                    f"experiment={experiment}",
                    *("scale=smoke", "executor=serial", "source=[cifar10_resnet20]", "target=[cifar100]"),
                    *(f"source.cifar10_resnet20.weights={random_weights}", f"data.root={root}"),
                    *(f"paths.results={tmp_path / 'results'}", f"paths.cache={tmp_path / 'cache'}", "plan=true"),
                    *([TASK, "scale.max_epochs.fine_tune=3"] if experiment == "small_imbalanced" else []),
                    *extra,
                ],
            )

        yield make


@pytest.fixture
def no_calibration(monkeypatch):
    """Costs by hand, and which were asked for."""
    asked = []

    def cost(self, measure, what, *more):
        asked.append(measure.__name__)
        return COSTS

    monkeypatch.setattr(Calibration, "cost", cost)
    return asked


def planned(cfg, seen=None) -> dict:
    """Lines by method."""
    seen = set() if seen is None else seen
    lines = plan(cfg, paper_protocol(cfg), *find_all(cfg), seen, Calibration(Path(cfg.paths.cache)))
    return {line.method: line for line in lines}


def snapshot(folder: Path) -> dict:
    return {p: (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"") for p in folder.rglob("*")}


@pytest.fixture
def done_in_run(monkeypatch):
    """Counts what a run does, in this process: images passed, steps of heads and of networks."""
    import experiments.networks
    import experiments.work
    from leep.engines.gluon import GluonTrainer
    from leep.transfer import head_loop

    counts = {"images": 0, "retrain_head": 0, "fine_tune": 0}
    make, step, train = experiments.work.make_predictor, GluonTrainer.step, head_loop.train

    def make_predictor(*args):
        predict = make(*args)

        def counted(images):
            counts["images"] += len(images)
            return predict(images)

        return counted

    def counted_step(self, *args):
        counts["fine_tune"] += 1
        return step(self, *args)

    def counted_train(features, labels, weight, bias, orders, *, batch_size, **options):
        orders = list(orders)
        counts["retrain_head"] += sum(len(range(0, len(order), batch_size)) for order in orders)
        return train(features, labels, weight, bias, orders, batch_size=batch_size, **options)

    def run_here(make, args, items, *_):
        function = make(*args)
        return ((item, function(item, lambda amount: None)) for item in list(items))

    monkeypatch.setattr(experiments.work, "make_predictor", make_predictor)
    monkeypatch.setattr(GluonTrainer, "step", counted_step)
    monkeypatch.setattr(head_loop, "train", counted_train)
    monkeypatch.setattr(experiments.networks, "run_in_processes", lambda *a: _closing(run_here(*a)))
    return counts


def _closing(results):
    yield from results


def test_counts_are_those_of_the_run_and_a_second_plan_has_nothing_to_do(configure, no_calibration, done_in_run):
    cfg = configure()
    heads, networks = planned(cfg).values()
    (work,) = find_work(cfg, paper_protocol(cfg))
    sizes = [len(work.task(i).train_rows) for i in range(4)]
    assert all(9 <= n <= 18 for n in sizes) and len(set(sizes)) > 1
    assert (heads.tasks, heads.done, heads.images, heads.row) == (4, 0, 3 * (14 + 5), 7)
    assert heads.steps == 2 * sum(-(-n // 10) for n in sizes)
    assert (networks.tasks, networks.done, networks.images, networks.row) == (4, 0, 0, 17)
    assert networks.steps == 3 * sum(-(-n // 10) for n in sizes)
    run(cfg)
    assert done_in_run == {"images": heads.images, "retrain_head": heads.steps, "fine_tune": networks.steps}
    no_calibration.clear()
    for line in planned(cfg).values():
        assert (line.tasks, line.done, line.images, line.steps, line.seconds, line.memory) == (4, 4, 0, 0, 0, None)
    assert no_calibration == []


def test_time_and_memory_by_hand(configure, no_calibration):
    cfg = configure()
    heads, networks = planned(cfg).values()
    (work,) = find_work(cfg, paper_protocol(cfg))
    sizes = [len(work.task(i).train_rows) for i in range(4)]
    passed, scored = 1 + 57 * 0.5, 4 * 1
    assert heads.seconds == pytest.approx(passed + 1 + scored + sum(1 + 2 * n * (1 + 1) for n in sizes))
    assert networks.seconds == pytest.approx(1 + 1 + sum(3 * n * 0.5 + 10 * 0.25 for n in sizes))
    assert networks.memory == pytest.approx(heads.memory, rel=0.1) and networks.memory > 10**9
    two = planned(configure("executor.workers=2"))["fine_tune"]
    assert networks.seconds / 2 < two.seconds < networks.seconds
    curves = planned(configure("+eval_every.fine_tune=5"))["fine_tune"]
    assert curves.seconds == pytest.approx(networks.seconds + 4 * 4 * 10 * 0.25)  # epochs 0 to 3


def test_half_finished_run_and_interrupted_training_and_nothing_is_written(
    configure, no_calibration, done_in_run, tmp_path, capsys
):
    cfg, results = configure(), tmp_path / "results"
    print_plan([cfg])
    assert not results.exists()
    before = planned(cfg)
    run(cfg)
    for path in results.rglob("transfers.csv"):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:3]) + lines[3][:5])  # two tasks, and a torn line
    (scores,) = results.rglob("scores.csv")
    scores.write_text("".join(scores.read_text().splitlines(keepends=True)[:-1]))
    (networks,) = results.rglob("fine_tune-*")
    (work,) = find_work(cfg, paper_protocol(cfg))
    n = [len(limited(work.task(i), {}).train_rows) for i in range(4)]
    (networks / "checkpoints").mkdir()
    (networks / "checkpoints" / "task3.npz").write_bytes(b"damaged")
    np.savez(networks / "checkpoints" / "task2.npz", curve=np.zeros((0, 2)), position=np.array([1, 1]))
    held = snapshot(results)
    with Table(scores, ["task", "n_classes", "n_examples", "measure", "score"], ["task", "measure"]):  # a run
        print_plan([cfg])
        found = planned(cfg)
    assert snapshot(results) == held
    assert f"{4:>6}{2:>6}" in capsys.readouterr().out
    left = [-(-n[i] // 10) for i in (2, 3)]
    assert (found["retrain_head"].done, found["retrain_head"].images) == (2, 0)
    assert found["retrain_head"].steps == 2 * sum(left) < before["retrain_head"].steps
    assert (found["fine_tune"].done, found["fine_tune"].steps) == (2, 3 * sum(left) - left[0] - 1)


def test_interrupted_pass_goes_on_and_two_experiments_need_one(configure, no_calibration, done_in_run, monkeypatch):
    import experiments.work

    cfg = configure()
    (work,) = find_work(cfg, paper_protocol(cfg))
    counted = experiments.work.make_predictor

    def breaking(*args):
        predict = counted(*args)
        return lambda images: predict(images) if len(images) == 42 else 1 / 0

    monkeypatch.setattr(experiments.work, "make_predictor", breaking)
    with pytest.raises(ZeroDivisionError):
        work.passed  # noqa: B018
    seen = set()
    assert planned(cfg, seen)["retrain_head"].images == 15
    small = configure("task={n_classes:2,per_class:5}", "task_of={}", experiment="small_balanced")
    assert planned(small, seen)["retrain_head"].images == 0
    assert planned(small)["retrain_head"].images == 15


def test_what_cannot_run_is_planned_as_far_as_it_is_known(configure, no_calibration, capsys):
    cfg = configure("source.cifar10_resnet20.weights=nowhere.params")
    heads, networks = planned(cfg).values()
    able, _ = planned(configure()).values()
    assert "nowhere.params does not exist" in heads.lacks and heads.lacks == networks.lacks
    assert (heads.tasks, heads.images, heads.steps) == (4, able.images, able.steps)
    print_plan([cfg])
    said = capsys.readouterr().out
    assert "   7*  retrain_head" in said and "nowhere.params does not exist" in said and "In all 0 s" not in said
    none = configure("target=[folder]", "target.folder.path=nowhere")
    (line, _) = planned(none).values()
    assert "nowhere: no such folder" in line.lacks and line.tasks is line.seconds is None
    options = "method=[cnaps,nearest_mean]", "method.cnaps.weights=none.npz", "task.n_classes=2", "task.per_class=3"
    meta = configure(*options, experiment="meta_transfer")
    adapted, nearest = planned(meta).values()
    assert "adaptation networks for cifar10_resnet20 are not in" in adapted.lacks and nearest.lacks == ""
    assert (adapted.row, adapted.tasks, adapted.images, adapted.steps) == (21, 4, 0, 0) and nearest.images == 30
    assert adapted.seconds is None and "no adaptation networks" in adapted.unknown and nearest.seconds > 0


def test_calibration_is_kept_and_measured_again_on_request(tmp_path, capsys):
    measured = []

    def measure_it(*more, **what):
        measured.append(what)
        return {"seconds": len(measured)}

    assert [Calibration(tmp_path).cost(measure_it, {"size": 32}) for _ in range(2)] == [{"seconds": 1}] * 2
    assert Calibration(tmp_path).cost(measure_it, {"size": 64}) == {"seconds": 2}
    again = Calibration(tmp_path, again=True)
    assert [again.cost(measure_it, {"size": 32}) for _ in range(2)] == [{"seconds": 3}] * 2
    assert Calibration(tmp_path).cost(measure_it, {"size": 32}) == {"seconds": 3}
    kept = json.loads((tmp_path / "calibration.json").read_text())
    assert [len(costs) for costs in kept.values()] == [2] and "cores" in next(iter(kept))
    kept["another machine"] = kept.pop(next(iter(kept)))
    (tmp_path / "calibration.json").write_text(json.dumps(kept))
    assert Calibration(tmp_path).cost(measure_it, {"size": 64}) == {"seconds": 4}
    (tmp_path / "calibration.json").write_text("{")
    assert Calibration(tmp_path).cost(measure_it, {"size": 64}) == {"seconds": 5}
    assert [p.name for p in tmp_path.iterdir()] == ["calibration.json"]


def test_what_cannot_be_calibrated_is_said(configure, no_calibration, monkeypatch, capsys):
    cfg = configure("method.retrain_head.implementation=gluon")
    print_plan([cfg])
    said = capsys.readouterr().out
    assert "In all at least" in said and "implementation=gluon is the slow reference" in said
    assert planned(cfg)["retrain_head"].steps > 0


@pytest.mark.parametrize("value", ["maybe", "1", "yes", "null", "[true]"])
def test_other_values_of_plan_are_refused(configure, value):
    with pytest.raises(UserError, match="plan must be true, false or remeasure, got"):
        check_config(configure(f"plan={value}"))


def test_makespan_and_durations():
    assert experiments.costs._makespan([3, 1, 1, 4], 2) == 6
    assert experiments.costs._makespan([], 2) == 0
    assert [duration(s) for s in (38, 252, 11160, 691200, None)] == ["38 s", "4.2 min", "3.1 h", "8.0 d", "?"]


def test_read_done_is_what_a_table_holds(tmp_path):
    path = tmp_path / "rows.csv"
    assert read_done(path, ["a"]) == set() and not path.exists()
    path.write_text("a,b\n1,x\n2,y\n3")
    assert read_done(path, ["a"]) == {("1",), ("2",)}
    with Table(path, ["a", "b"], ["a", "b"]) as table:
        assert table.done == read_done(path, ["a", "b"])


def test_several_experiments_are_planned_together(configure, no_calibration, tmp_path, capsys):
    cfgs = [configure(), configure("task={n_classes:2,per_class:5}", experiment="small_balanced")]
    print_plan(cfgs)
    rows = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if "→ cifar100" in line]
    assert [row for row, _ in rows] == ["7", "17", "3", "13"] and not (tmp_path / "results").exists()


def test_command_calibrates_once_and_runs_nothing(run_experiment, tmp_path):
    names = "experiments=[small_imbalanced]"
    cache = tmp_path / "cache"
    done = run_experiment("measure_comparison", names, "plan=true", "executor=serial", f"paths.cache={cache}")
    assert "small_imbalanced, scale=smoke" in done.stdout and "   7   retrain_head, cifar10_resnet20" in done.stdout
    assert [p.name for p in cache.iterdir()] == ["calibration.json"] and not (tmp_path / "results").exists()
    kept = (cache / "calibration.json").read_bytes()
    again = run_experiment("measure_comparison", names, "plan=true", "executor=serial", f"paths.cache={cache}")
    assert "calibrating" in done.stderr and "calibrating" not in again.stderr
    assert (cache / "calibration.json").read_bytes() == kept
