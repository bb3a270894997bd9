"""The extended table from made-up CSVs, and the scores that make measures adds to runs."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.results import csvs, write_run
from scipy import stats

from experiments.reporting.extended import (
    ABSENT,
    CONSTANT,
    NO_SCORES,
    build,
    complete,
    draw,
    layout,
    not_computed,
    rank_sentence,
    ranks,
    to_markdown,
    write,
)
from experiments.reporting.predictors import label
from experiments.reporting.table1 import UNDEFINED, build_table
from experiments.running.measuring import EarlierTasks, find_folders, main, open_pair, score_folder
from leep.errors import Invalid
from leep.measures import MEASURES
from leep.results import read_not_scored, read_runs
from leep.tasks import EXPERIMENTS

OUTSIDE = "my_measure:spread"
MODULE = '''
def spread(features, target_labels):
    """Undefined for some tasks."""
    if target_labels[0] % 2:
        raise ValueError("the first label must be even")
    return float(features.std())
'''


def line(table, row, measure):
    return table[(table.row == row) & (table.measure == measure)].iloc[0]


@pytest.fixture
def made_up(tmp_path):
    """Rows 5 and 9: H is constant, a stranger's measure stands in row 5 alone; row 9 says why it has none."""
    write_run(tmp_path, "small_balanced", further=OUTSIDE)
    write_run(tmp_path, "small_imbalanced")
    (folder,) = tmp_path.glob("small_imbalanced/*/*/seed0*")
    (folder / "not_scored.csv").write_text(f"measure,reason\n{OUTSIDE},too slow\n")
    return tmp_path


def test_numbers_are_scipys(made_up):
    runs = read_runs(made_up)
    table = build(made_up, runs)
    wide = runs[runs.experiment == "small_balanced"].pivot(index="task", columns="measure", values="score")
    accuracy = runs[runs.experiment == "small_balanced"].groupby("task").test_accuracy.first()
    found = line(table, 5, OUTSIDE)
    r = {m: stats.pearsonr(wide[m], accuracy).statistic for m in ("leep", OUTSIDE)}
    assert found.r == pytest.approx(r[OUTSIDE]) and found.r_low < found.r < found.r_high
    assert found.tau == pytest.approx(stats.weightedtau(wide[OUTSIDE], accuracy).statistic)
    assert found.better_than_leep_by == pytest.approx(r[OUTSIDE] - r["leep"])
    assert found.better_low < found.better_than_leep_by < found.better_high < 0  # LEEP is good, this one is noise
    assert pd.isna(line(table, 5, "leep").better_p) and pd.isna(found.partial_r)  # all tasks have four classes


def test_what_is_not_computed_says_why(made_up):
    table = build(made_up, read_runs(made_up))
    assert set(table.row) == {5, 9} and len(table) == 2 * 4
    assert line(table, 5, "h_score").missing == UNDEFINED and line(table, 5, "h_score").n_tasks == 30
    assert line(table, 9, OUTSIDE).missing == "not computed: too slow" and pd.isna(line(table, 9, OUTSIDE).n_tasks)
    cells = {row[0]: row[1:] for row in layout(table, "r", "r_low", "r_high", "p_value")}
    assert cells["Measure"] == ["Row 5", "Row 9"] and cells["H score"] == [CONSTANT, CONSTANT]
    assert cells[OUTSIDE][1] == ABSENT and cells["LEEP"][0].startswith("+0.")
    assert not_computed(table) == [f"{OUTSIDE}, row 9: not computed: too slow"]
    assert "too slow" in to_markdown(table)


def test_a_strangers_measure_stands_in_table_and_picture(made_up):
    write(made_up, read_runs(made_up), 0)
    assert OUTSIDE in (made_up / "measures.md").read_text("utf-8")
    assert OUTSIDE in set(pd.read_csv(made_up / "measures.csv").measure)
    assert (made_up / "figures" / "measures.png").stat().st_size > 5000
    (ax,) = draw(build(made_up, read_runs(made_up))).axes
    assert [text.get_text() for text in ax.get_xticklabels()] == ["LEEP", "NCE", "H score", OUTSIDE]
    assert [text.get_text() for text in ax.texts[2::4]] == [CONSTANT, CONSTANT] and ax.texts[-1].get_text() == ABSENT


def test_partial_where_the_number_of_classes_varies(tmp_path):
    write_run(tmp_path, "large_balanced", target="cifar100", classes=(2, 5, 9), n=40)
    runs = read_runs(tmp_path)
    found, other = line(build(tmp_path, runs), 1, "leep"), line(build_table(runs), 1, "leep")
    assert (found.partial_r, found.partial_low) == (other.partial_r, other.partial_low) and pd.notna(found.partial_r)


def test_measures_of_the_package_that_the_paper_lacks_stand_here_alone(tmp_path):
    write_run(tmp_path, "small_balanced", further="logme")
    runs = read_runs(tmp_path)
    assert "logme" not in set(build_table(runs).measure)
    assert line(build(tmp_path, runs), 5, "logme").missing == ""
    assert NO_SCORES not in to_markdown(build(tmp_path, runs))


def test_an_empty_folder(tmp_path):
    write(tmp_path, read_runs(tmp_path), 0)
    assert (
        pd.read_csv(tmp_path / "measures.csv").empty
        and rank_sentence(ranks(build(tmp_path, read_runs(tmp_path)))) == ""
    )


def made_up_table(r: dict[str, list]) -> pd.DataFrame:
    """A table of correlations, a list a measure; None: undefined, "—": not computed."""
    lines = []
    for measure, values in r.items():
        for row, value in enumerate(values, start=1):
            number = np.nan if value in (None, "—") else value
            count = pd.NA if value == "—" else 200
            line = {"row": row, "measure": measure, "r": number, "tau": number, "n_tasks": count}
            lines.append(line | {"better_low": number - 0.5, "better_high": number - 0.3})
    return pd.DataFrame(lines).astype({"n_tasks": "Int64"})


def test_ranks_by_hand():
    """Rows 1 to 3 have all three. Ranks: LEEP 2, 1.5, 1; NCE 1, 1.5, 2 (0 for undefined); PARC 3, 3, 3."""
    table = made_up_table({"leep": [0.5, 0.6, 0.7, 0.9], "nce": [0.8, 0.6, None, 0.1], "parc": [-0.1, 0.2, -0.3, "—"]})
    assert set(complete(table).row) == {1, 2, 3}
    found = ranks(table).set_index("measure")
    assert found["rank"].to_dict() == pytest.approx({"leep": 1.5, "nce": 1.5, "parc": 3})
    assert found.mean_r["nce"] == pytest.approx(1.4 / 3) and (found.rows == 3).all()
    assert found.better["leep"] == 3 and found.worse["parc"] == 3 and found.worse["nce"] == 1


def test_the_sentence_names_what_is_told_apart():
    """Two measures, n rows: q = 1.960, so that the critical difference is 1.960 · sqrt(2 · 3 / (6 n)) = 1.960 / √n."""
    four = ranks(made_up_table({"leep": [0.5] * 4, "nce": [0.4] * 4}))
    assert "0.05) is 1.0" in rank_sentence(four) and f"puts {label('nce')} behind" in rank_sentence(four)
    three = ranks(made_up_table({"leep": [0.5] * 3, "nce": [0.4] * 3}))
    assert "0.05) is 1.1" in rank_sentence(three) and "puts no other behind" in rank_sentence(three)
    assert rank_sentence(ranks(made_up_table({"leep": [0.5], "nce": [0.4]}))) == ""


@pytest.fixture
def outside(tmp_path, monkeypatch):
    (tmp_path / "my_measure.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    yield OUTSIDE
    sys.modules.pop("my_measure", None)


@pytest.fixture
def values(data_root, random_weights, shared_cache):
    """Of the configuration: weights and their title, where data and passes are."""
    weights = f"source.cifar10_resnet20.weights={random_weights}", "source.cifar10_resnet20.title=Random"
    return [*weights, f"data.root={data_root}", f"paths.cache={shared_cache}"]


def test_missing_scores_are_added_and_nothing_else_changes(run_here, values, tmp_path, outside):
    results = tmp_path / "results"
    assert run_here("small_balanced", "measures=[leep]", results=results) is None
    before = csvs(results)
    (folder,) = find_folders(results, 0)
    reasons = score_folder(folder, [*MEASURES, outside], values)
    after = csvs(results)
    (scores,) = (name for name in before if name.endswith("scores.csv"))
    assert after[scores].startswith(before.pop(scores)) and before.items() <= after.items()
    rows = pd.read_csv(folder / "scores.csv")
    counts = rows.measure.value_counts()
    n_tasks = counts["leep"]
    assert all(counts.get(m, 0) == n_tasks for m in MEASURES if m not in reasons)
    assert 0 < counts[outside] < n_tasks and "even" in reasons[outside]
    assert reasons[outside].startswith(f"undefined for {n_tasks - counts[outside]} of ")
    assert read_not_scored(folder) == reasons
    score_folder(folder, [*MEASURES, outside], values)
    assert csvs(results) == after
    other = tmp_path / "other"
    assert run_here("small_balanced", "measures=[leep,nce,h_score]", results=other) is None
    (theirs,) = find_folders(other, 0)
    merged = pd.read_csv(theirs / "scores.csv").merge(rows, on=["task", "measure", "n_classes", "n_examples"])
    assert len(merged) == 3 * n_tasks and (merged.score_x == merged.score_y).all()


def test_whole_classes_batched_or_one_by_one(run_here, values, tmp_path):
    results = tmp_path / "results"
    assert run_here("large_balanced", "measures=[leep]", results=results) is None
    (folder,) = find_folders(results, 0)
    assert score_folder(folder, ["leep", "nce", "lfc"], values) == {}
    assert pd.read_csv(folder / "scores.csv").measure.value_counts().nunique() == 1
    reasons = score_folder(folder, ["h_score", "transrate"], values, limit=0.0)
    assert list(reasons) == ["transrate"] and "too slow" in reasons["transrate"]  # H is batched
    assert score_folder(folder, ["transrate"], values) == {} and read_not_scored(folder) == {}
    assert not (folder / "not_scored.csv").exists()


def test_runs_without_a_pass_or_of_other_weights_are_left_out(run_here, values, tmp_path):
    results = tmp_path / "results"
    assert run_here("small_balanced", "measures=[leep]", results=results) is None
    (folder,) = find_folders(results, 0)
    rest = values[2:]
    with pytest.raises(Invalid, match=r"not in .*elsewhere"):
        score_folder(folder, ["nce"], [*values[:3], f"paths.cache={tmp_path / 'elsewhere'}"])
    with pytest.raises(Invalid, match="source"):
        score_folder(folder, ["nce"], ["source.cifar10_resnet20.weights=bundled", *rest])
    assert not (tmp_path / "elsewhere").exists() and find_folders(results, 1) == []


def test_weights_are_those_of_the_run(run_here, values, tmp_path):
    results = tmp_path / "results"
    assert run_here("small_balanced", "measures=[leep]", results=results) is None
    (folder,) = find_folders(results, 0)
    file = values[0].partition("=")[2]
    both = f"source.cifar10_resnet20.weights=[bundled,{file}]"  # a run would take the bundled ones
    assert str(open_pair(folder, [both, *values[1:]]).weights.path) == file


def test_tasks_of_a_run_before_streams_had_names():
    """What `draw_task` gave then for seed 0 and the first task: stored values."""
    rng = np.random.default_rng(3)
    train, test = (rng.permutation(np.repeat(np.arange(20), k)) for k in (400, 7))
    config = SimpleNamespace(seed=0, experiment=EXPERIMENTS["small_balanced"])
    data = SimpleNamespace(train_labels=train, test_labels=test)
    target = SimpleNamespace(task={"n_classes": 5, "per_class": 50})
    assert EarlierTasks(config, None, None, target, data).task(0).classes.tolist() == [0, 9, 16, 17, 18]


def test_a_run_before_streams_had_names_is_scored(run_here, values, tmp_path):
    results = tmp_path / "results"
    assert run_here("small_balanced", "measures=[leep]", results=results) is None
    (folder,) = find_folders(results, 0)
    described = json.loads((folder / "setting.json").read_text("utf-8"))
    del described["setting"]["stream"]
    (folder / "setting.json").write_text(json.dumps(described))
    pair = open_pair(folder, values)
    assert isinstance(pair, EarlierTasks)
    assert score_folder(folder, ["nce"], values) == {}
    assert (pd.read_csv(folder / "scores.csv").measure == "nce").sum() == 4


def test_a_run_goes_on_where_a_measure_is_undefined(run_here, tmp_path, outside):
    results = tmp_path / "results"
    assert run_here("small_balanced", f"measures=[leep,{outside}]", "n_tasks=4", results=results) is None
    (folder,) = find_folders(results, 0)
    counts = pd.read_csv(folder / "scores.csv").measure.value_counts()
    assert counts["leep"] == 4 and 0 < counts[outside] < 4
    assert read_not_scored(folder)[outside].startswith(f"undefined for {4 - counts[outside]} of 4 tasks: the first")
    assert build_table(read_runs(results)).query("row == 3 and measure == @OUTSIDE").n_tasks.item() is not None


def test_the_command_scores_and_writes_the_table(run_here, values, tmp_path, outside, monkeypatch, capsys):
    results = tmp_path / "results"
    assert run_here("small_balanced", "measures=[leep]", "scale.max_tasks.retrain_head=12", results=results) is None
    measures = f"measures=[leep,lfc,{outside}]"
    monkeypatch.setattr("sys.argv", ["measuring", str(results), *values, measures, "--workers", "1"])
    main()
    table = pd.read_csv(results / "measures.csv")
    assert set(table.measure) == {"leep", "lfc", outside} and set(table.row) == {3}
    assert table.n_tasks[table.measure == "lfc"].item() == 12 and "undefined for" in capsys.readouterr().out
