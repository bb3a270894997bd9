"""Section 5.6: the other sections' experiments one after the other, then Table 1."""

import pandas as pd
import pytest
from conftest import composed, resolved

from experiments.reporting.rows import paper_rows
from leep.results import read_runs


@pytest.mark.parametrize("scale", ["smoke", "quick", "paper"])
def test_it_collects_every_setting_of_table_1(scale):
    cfg = composed("experiment=measure_comparison", f"scale={scale}")
    assert {*cfg.experiments} == {*paper_rows().experiment}
    for name in cfg.experiments:
        assert resolved(f"experiment={name}", f"scale={scale}").experiment.name == name


def test_one_that_cannot_run_does_not_stop_the_others(run_experiment, tmp_path):
    names = "experiments=[large_balanced,small_balanced,small_imbalanced]"
    done = run_experiment("measure_comparison", names, "seed=1", check=False)
    assert done.returncode == 2 and "large_balanced cannot be drawn from cifar100" in done.stderr  # it has six classes
    assert "large_balanced stopped by an error, as said above; the others have run" in done.stderr
    runs = read_runs(tmp_path / "results")
    assert set(runs.experiment) == {"small_balanced", "small_imbalanced"} and set(runs.seed) == {1}
    table = pd.read_csv(tmp_path / "results" / "table1.csv")
    assert set(table[table.n_tasks.notna()].row) == {3, 7} and "runs with seed 1" in done.stdout
    again = run_experiment("measure_comparison", names.replace("large_balanced,", ""), "seed=1")
    assert again.stdout.count("were done before") == 2 and "\nTable 1." in again.stdout


def test_where_nothing_can_run_the_table_says_what_is_needed(run_experiment, tmp_path):
    missing = "source.cifar10_resnet20.weights=nowhere.params"
    done = run_experiment("measure_comparison", "experiments=[small_balanced]", missing, check=False)
    assert done.returncode == 3 and "Not computed" in done.stdout and "nowhere.params" in done.stderr


@pytest.mark.parametrize("wrong", ["experiments=[small_balance]", "experiments=[]", "experiments=small_balanced"])
def test_a_misspelt_experiment_fails_before_any_work(run_experiment, tmp_path, wrong):
    done = run_experiment("measure_comparison", wrong, check=False)
    assert done.returncode == 2 and "experiments must be a list of large_balanced, " in done.stderr
    assert not (tmp_path / "results").exists()
