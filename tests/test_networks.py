"""Fine-tuned and reference models through `run.py`: the same bytes however they come about, and who may be killed."""

import os
import random
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import resolved
from helpers.processes import alive, children, wait_until
from helpers.results import csvs

from experiments.running import runner
from experiments.running.pair import find_pairs
from leep.data.shared import share
from leep.errors import Invalid
from leep.execution.processes import Failed, run_in_processes
from leep.results import read_runs
from leep.tasks import first_of_each_class
from leep.transfer.method import Budget

# Five tasks of a second each; the test sets are large and hopeless, so that a bit that is different shows
SMALL = (
    "scale.max_tasks={fine_tune:5,from_scratch:5}",
    "scale.max_epochs={fine_tune:3,from_scratch:3}",
    "scale.max_examples={fine_tune:null,from_scratch:null}",
    "measures=[leep]",
)
BALANCED = (*SMALL, "task={n_classes:3,per_class:20}")
IMBALANCED = (*SMALL, "task={min_smaller:20,max_smaller:40,ratio:1}", "method=[fine_tune]")
FINE_TUNE = (*BALANCED, "method=[fine_tune]")


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """In place of the usual one: a `cifar100` of noise, six classes, 40 training and 50 test images each."""
    root = tmp_path_factory.mktemp("noise")
    (root / "cifar100").mkdir()
    rng = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 50)):
        labels = rng.permutation(np.repeat(np.arange(6), count)).astype(np.uint8)[:, None]
        pixels = rng.integers(0, 256, (len(labels), 3072)).astype(np.uint8)
        np.concatenate([0 * labels, labels, pixels], 1).tofile(root / "cifar100" / f"{split}.bin")
    (root / "cifar100" / "fine_label_names.txt").write_text("\n".join(f"class{i}" for i in range(100)) + "\n")
    return root


@pytest.fixture
def undisturbed(run_experiment, shared_cache):
    """Results of a run with one worker that nothing disturbs."""
    results = shared_cache / "undisturbed"
    if not results.exists():
        run_experiment("small_balanced", *FINE_TUNE, "executor=serial", results=results)
    return results


def rows(results: Path, name: str = "transfers.csv") -> int:
    """Whole rows of the CSV files of that name."""
    return sum(path.read_bytes().count(b"\n") - 1 for path in results.rglob(name) if path.stat().st_size)


def only(results: Path, name: str) -> pd.DataFrame:
    (path,) = results.rglob(name)
    return pd.read_csv(path, float_precision="round_trip")


def make_pair(overrides):
    """What a runner hands to its workers."""
    (pair,) = find_pairs(resolved(*overrides))
    return pair


# What is written


def test_rows_are_those_of_the_tasks(undisturbed):
    transfers = only(undisturbed, "transfers.csv")
    assert transfers.task.tolist() == [0, 1, 2, 3, 4] and set(transfers.method) == {"fine_tune"}
    assert set(transfers.n_examples) == {60} and transfers.test_accuracy.nunique() >= 3
    runs = read_runs(undisturbed)
    assert runs.finished.all() and set(runs.epochs) == {3}
    assert all("3 of 100 epochs" in deviations for deviations in runs.deviations)
    assert not list(undisturbed.rglob("checkpoints"))


def test_curves_begin_before_training_and_end_with_the_model(undisturbed, arguments):
    curves, transfers = only(undisturbed, "curves.csv"), only(undisturbed, "transfers.csv")
    assert curves.columns.tolist() == ["task", "epoch", "test_accuracy"]
    expected = [(task, epoch) for task in range(5) for epoch in (0, 1, 2, 3)]
    assert list(zip(curves.task, curves.epoch)) == expected
    last = curves[curves.epoch == 3]  # on all of the test set: it has no more than CURVE_PER_CLASS images of a class
    assert last.test_accuracy.tolist() == transfers.test_accuracy.tolist()
    assert curves.test_accuracy.nunique() > 5

    from leep.engines import create_engine
    from leep.engines.graph import get_weights, trace
    from leep.sources.zoo import build, load
    from leep.transfer import fine_tune

    pair = make_pair(arguments("small_balanced", *FINE_TUNE))
    source = get_weights(load(pair.source.model, 10, pair.weights.path))
    net = build(pair.source.model, 3, np.random.SeedSequence(0))
    for index in range(5):
        task, rng = pair.task(index), pair.training_rng(index)
        trainer = create_engine("gluon").trainer(net)
        trainer.load_state(fine_tune.initial_weights(source, trace(net), 3, rng))
        predicted = trainer.predict(pair.preprocessing(pair.data.test_images[task.test_rows])).argmax(1)
        assert np.mean(predicted == task.test_labels) == curves.test_accuracy[4 * index]


def test_a_curve_is_measured_on_the_first_of_each_class():
    assert first_of_each_class(np.array([0, 1, 0, 0, 2, 0, 1, 1]), 2).tolist() == [0, 1, 2, 4, 6]


def test_a_finished_run_called_again_does_nothing(undisturbed, run_experiment):
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in undisturbed.rglob("*") if p.is_file()}
    second = run_experiment("small_balanced", *FINE_TUNE, results=undisturbed)
    assert "fine_tune: 5 tasks were done before" in second.stdout
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in undisturbed.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_convergence_shares_the_fine_tuned_models(undisturbed, run_experiment, tmp_path):
    results = tmp_path / "results"
    shutil.copytree(undisturbed, results)
    done = run_experiment("convergence", *BALANCED)
    assert "fine_tune: 5 tasks were done before" in done.stdout
    assert re.search(r"from_scratch: 5 tasks: .*small_balanced", done.stdout)
    before, after = csvs(undisturbed), csvs(results)
    (new,) = set(after) - set(before)
    assert before.items() <= after.items() and "from_scratch" in new and new.endswith("transfers.csv")
    reference, fine_tuned = pd.read_csv(results / new), only(undisturbed, "transfers.csv")
    assert reference.task.tolist() == [0, 1, 2, 3, 4] and set(reference.method) == {"from_scratch"}
    assert reference.test_accuracy.tolist() != fine_tuned.test_accuracy.tolist()
    balanced = run_experiment("small_balanced", *FINE_TUNE)
    assert "fine_tune: 5 tasks were done before" in balanced.stdout and csvs(results) == after


@pytest.mark.slow
@pytest.mark.parametrize(("experiment", "overrides"), [("small_imbalanced", IMBALANCED), ("convergence", BALANCED)])
def test_rows_do_not_depend_on_workers(run_experiment, experiment, overrides, tmp_path):
    run_experiment(experiment, *overrides, "executor=serial", results=tmp_path / "one")
    run_experiment(experiment, *overrides, "executor.workers=2", results=tmp_path / "two")
    assert csvs(tmp_path / "one") == csvs(tmp_path / "two") != {}
    transfers = pd.concat(map(pd.read_csv, (tmp_path / "one").rglob("transfers.csv")))
    assert transfers.test_accuracy.nunique() >= 4
    assert transfers.test_f1.notna().all() == (experiment == "small_imbalanced")
    assert len(list((tmp_path / "one").rglob("curves.csv"))) == (experiment == "convergence")  # of fine_tune only


# Deaths and interruptions


def test_a_worker_that_is_killed_costs_nothing(undisturbed, start, tmp_path):
    run = start("small_balanced", *FINE_TUNE, "executor.workers=2", results=tmp_path)
    assert wait_until(lambda: rows(tmp_path) >= 1 or run.poll() is not None)
    workers = children(run.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    output, _ = run.communicate()
    assert run.returncode == 0, output
    ((task, reason),) = re.findall(r"fine_tune: task (\d) failed and is tried once more: (.*)", output)
    assert 0 <= int(task) <= 4 and "exit code -9" in reason
    assert csvs(tmp_path) == csvs(undisturbed)
    assert not any(map(alive, workers))


def test_rows_from_a_dask_cluster_one_of_whose_workers_is_killed(undisturbed, start, tmp_path):
    pytest.importorskip("distributed")
    from helpers.cluster import dask_cluster

    (tmp_path / "dask").mkdir()
    with dask_cluster(tmp_path / "dask", 3) as cluster:
        where = "executor=dask", f"executor.address={cluster.address}", f"paths.cache={tmp_path / 'cache'}"
        run = start("small_balanced", *FINE_TUNE, *where, results=tmp_path / "results")
        worker = cluster.processes[2]
        assert wait_until(lambda: children(worker.pid) or run.poll() is not None)  # which has its first task
        worker.kill()
        output, _ = run.communicate()
    assert run.returncode == 0, output
    (address,) = re.findall(r"(?:task|images) .* tried once more: its worker (\S+) is gone", output)
    assert address.startswith("tcp://127.0.0.1:")
    assert csvs(tmp_path / "results") == csvs(undisturbed)
    assert list((tmp_path / "cache").glob("*/train_probs.npy")), "the forward pass was made there, too"


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_a_cluster_of_this_machine_ends_with_its_run(undisturbed, start, run_experiment, tmp_path, end):
    pytest.importorskip("distributed")
    run = start("small_balanced", *FINE_TUNE, "executor=dask", "executor.workers=2", results=tmp_path)
    assert wait_until(lambda: rows(tmp_path) >= 1 or run.poll() is not None)
    workers = children(run.pid)
    trainers = [pid for worker in workers for pid in children(worker)]
    assert len(workers) == len(trainers) == 2
    (os.killpg if end == signal.SIGINT else os.kill)(run.pid, end)
    output, _ = run.communicate()
    assert "Traceback" not in output, output
    if end == signal.SIGINT:
        assert run.returncode == 130 and "the same command goes on from there" in output, output
    assert wait_until(lambda: not any(map(alive, [*workers, *trainers])))
    run_experiment("small_balanced", *FINE_TUNE, "executor=dask", "executor.workers=2", results=tmp_path)
    assert csvs(tmp_path) == csvs(undisturbed)


def test_interrupted_by_ctrl_c_and_called_again_gives_the_same_bytes(undisturbed, start, run_experiment, tmp_path):
    run = start("small_balanced", *FINE_TUNE, "executor.workers=2", results=tmp_path)
    assert wait_until(lambda: rows(tmp_path) >= 1 or run.poll() is not None)
    workers = children(run.pid)
    assert len(workers) == 2
    os.killpg(run.pid, signal.SIGINT)
    output, _ = run.communicate()
    assert run.returncode == 130, output
    assert "the same command goes on from there" in output and "Traceback" not in output
    assert wait_until(lambda: not any(map(alive, workers)))
    assert 1 <= rows(tmp_path) < 5
    done = only(tmp_path, "transfers.csv")
    whole = only(undisturbed, "transfers.csv").set_index("task")
    assert done.test_accuracy.tolist() == whole.test_accuracy[done.task].tolist()
    second = run_experiment("small_balanced", *FINE_TUNE, results=tmp_path)
    assert "were done before" not in second.stdout
    assert csvs(tmp_path) == csvs(undisturbed)


@pytest.mark.slow
def test_killed_again_and_again_gives_the_same_bytes(undisturbed, start, run_experiment, tmp_path):
    seen, draw = [], random.Random(0)
    for count in sorted(draw.sample(range(26), 6)):  # rows of both files: 5 + 5 · 4
        run = start("small_balanced", *FINE_TUNE, "executor.workers=2", results=tmp_path)
        assert wait_until(lambda run=run: children(run.pid) or run.poll() is not None)
        wait_until(
            lambda run=run, count=count: (
                rows(tmp_path) + rows(tmp_path, "curves.csv") >= count or run.poll() is not None
            )
        )
        workers = children(run.pid) if run.poll() is None else []
        run.kill()  # itself alone: the workers are to see to themselves
        run.communicate()
        assert wait_until(lambda workers=workers: not any(map(alive, workers)))
        seen.append(rows(tmp_path))
    run_experiment("small_balanced", *FINE_TUNE, results=tmp_path)
    assert csvs(tmp_path) == csvs(undisturbed)
    assert sum(n < 5 for n in seen) >= 3, "too few kills hit an unfinished run"


def run_with(monkeypatch, overrides, failing):
    """A run in this process whose workers are none: tasks end in reverse, those of `failing` without a result."""
    asked = []

    def workers(make, args, tasks, *_):
        asked.extend(tasks)
        for i in reversed(tasks):
            done = {"test_accuracy": i / 8, "test_f1_macro": 0.5}, [(0, 0.125), (1, i / 8)]
            yield i, Failed(f"reason {i}") if i in failing else done

    monkeypatch.setattr(runner, "run_in_processes", workers)
    try:
        runner.run(resolved(*overrides))
    except Invalid as error:
        return asked, str(error)
    return asked, None


def test_tasks_that_fail_are_named_and_left_out_and_tried_by_the_next_run(arguments, monkeypatch, tmp_path):
    overrides, results = arguments("small_balanced", *FINE_TUNE), tmp_path / "results"
    asked, said = run_with(monkeypatch, overrides, failing={1, 3})
    assert asked == [0, 1, 2, 3, 4]
    assert said.startswith("what failed is left out; where a process died, the same command tries again:")
    lines = [f"\n  - cifar10_resnet20 → cifar100, fine_tune, task {i}: reason {i}" for i in (3, 1)]
    assert said.endswith("".join(lines))
    assert only(results, "transfers.csv").task.tolist() == only(results, "curves.csv").task.tolist()[::2] == [0, 2, 4]
    assert not read_runs(results).finished.any()
    asked, said = run_with(monkeypatch, overrides, failing=set())
    assert asked == [1, 3] and said is None
    transfers, curves = only(results, "transfers.csv"), only(results, "curves.csv")
    assert transfers.task.tolist() == [0, 1, 2, 3, 4]
    assert transfers.test_accuracy.tolist() == [0, 0.125, 0.25, 0.375, 0.5]
    assert list(zip(curves.task, curves.epoch)) == [(task, epoch) for task in range(5) for epoch in (0, 1)]
    assert read_runs(results).finished.all()


def test_when_all_tasks_fail_they_are_named_too(arguments, monkeypatch):
    _, said = run_with(monkeypatch, arguments("small_balanced", *FINE_TUNE), failing=set(range(5)))
    assert said.count("fine_tune, task ") == 5


def make_dying(first: Path, *args):
    """The worker's own function; a checkpoint after every step, and death in the middle of the first attempt."""
    train = runner._start_worker(*args)
    import itertools
    from types import SimpleNamespace

    from leep.transfer import training

    training.time = SimpleNamespace(monotonic=itertools.count(step=1000).__next__)  # whenever it is read

    def dying(index, report):
        calls = itertools.count(1)

        def count(n):
            report(n)
            if next(calls) == 11 and not first.exists():
                first.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        return train(index, count)

    return dying


def worker_arguments(pair, shared, checkpoints, **budget):
    metadata, arrays = share(pair.data, shared)
    (method,) = pair.methods
    return replace(pair, data=metadata), arrays, method, Budget(**budget), checkpoints


@pytest.mark.slow
def test_a_second_attempt_goes_on_from_the_checkpoint(undisturbed, arguments, tmp_path):
    pair = make_pair(arguments("small_balanced", *FINE_TUNE))
    args = worker_arguments(pair, tmp_path, tmp_path / "states", epochs=3, eval_every=5)
    retries, amounts = [], []
    ((_, result),) = run_in_processes(
        *(make_dying, (tmp_path / "died", *args), [2], 1),
        on_progress=amounts.append,
        on_retry=lambda *r: retries.append(r),
    )
    metrics, curve = result
    assert [item for item, _ in retries] == [2]
    assert sum(amounts) == 3 * 60 + 10, "one step of eighteen is done twice"
    assert metrics["test_accuracy"] == only(undisturbed, "transfers.csv").test_accuracy[2]
    expected = only(undisturbed, "curves.csv").query("task == 2")
    assert curve == list(zip(expected.epoch, expected.test_accuracy))


def make_measured(*args):
    """The worker's own function, and then how many bytes of memory the worker holds."""
    train = runner._start_worker(*args)

    def measured(index, report):
        train(index, report)
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    return measured


@pytest.mark.slow
def test_a_worker_does_not_grow(arguments, tmp_path):
    pair = make_pair(arguments("small_balanced", *FINE_TUNE))
    args = worker_arguments(pair, tmp_path, tmp_path / "states", epochs=1, eval_every=1)
    sizes = dict(run_in_processes(make_measured, args, range(20), 1))
    assert max(sizes[i] for i in range(5, 20)) < 1.1 * sizes[4], sizes


# What is refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.fine_tune.freeze_extractor=1", "freeze_extractor must be true or false, got 1"),
        ("method.fine_tune.freeze_extractor=no", "freeze_extractor must be true or false, got 'no'"),
        ("method.fine_tune.freeze_extractor=null", "freeze_extractor must be true or false, got None"),
        ("method.fine_tune.batch_size=0", "method.fine_tune.batch_size must be an integer ≥ 1, got 0"),
        ("method.from_scratch.learning_rate=0", "method.from_scratch.learning_rate must be a number > 0, got 0"),
        ("epochs.from_scratch=0", "epochs.from_scratch must be an integer ≥ 1, got 0"),
        ("eval_every.fine_tune=0", "eval_every.fine_tune must be an integer ≥ 1, got 0"),
        ("+eval_every.from_scratch=0", "eval_every.from_scratch must be an integer ≥ 1, got 0"),
        ("+eval_every.retrain_head=1", "eval_every must be among fine_tune, from_scratch, got 'retrain_head'"),
        ("+eval_every.fine_tuned=1", "eval_every must be among fine_tune, from_scratch, got 'fine_tuned'"),
        ("+epochs_of.fashion_mnst.fine_tune=1", "epochs_of must be among .*fashion_mnist.*, got 'fashion_mnst'"),
        ("epochs_of.fashion_mnist.fine_tune=0", "epochs_of.fashion_mnist.fine_tune must be an integer ≥ 1, got 0"),
        ("+scale.max_tasks.finetune=3", "scale.max_tasks must be among .*fine_tune.*, got 'finetune'"),
        ("+scale.max_epochs.finetune=3", "scale.max_epochs must be among .*fine_tune.*, got 'finetune'"),
        ("scale.max_tasks.fine_tune=2", "scale.max_tasks.fine_tune must be null or an integer ≥ 3, got 2"),
        ("scale.max_epochs.from_scratch=0", "scale.max_epochs.from_scratch must be null or an integer ≥ 1, got 0"),
        ("+scale.small_balanced.max_epochs.head=1", "scale.small_balanced.max_epochs must be among .*, got 'head'"),
    ],
)
def test_impossible_values_fail_before_any_work(override, message):
    with pytest.raises(Invalid, match=message):
        resolved("experiment=convergence", override)


def test_values_that_are_possible():
    def budget(override):
        return resolved("experiment=convergence", "scale=paper", override).budgets["from_scratch", "cifar100"]

    assert budget("+eval_every.from_scratch=5").eval_every == 5
    assert budget("+epochs_of.cifar100.from_scratch=1").epochs == 1
    fine_tune = resolved("experiment=convergence", "method.fine_tune.freeze_extractor=true").methods[0]
    assert fine_tune.freeze_extractor
