"""Table 1, figures and report from made-up CSVs whose correlations are known."""

import ast
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from helpers.results import write_convergence, write_run
from matplotlib import pyplot as plt
from scipy import stats

from experiments.reporting.figures import (
    FIGURES,
    NAMES,
    _notes,
    accuracy_data,
    convergence_data,
    draw,
    figure_panels,
)
from experiments.reporting.figures import main as draw_all
from experiments.reporting.predictors import PAPER_MEASURES, TRIVIAL
from experiments.reporting.render import (
    class_sets,
    controls,
    few_tasks,
    layout,
    notes,
    signed,
    summary,
    to_latex,
    to_markdown,
    to_terminal,
)
from experiments.reporting.rows import paper_rows, rank, select_run
from experiments.reporting.table1 import COLUMNS, UNDEFINED, build_table, to_csv
from leep import plots
from leep.results import read_runs
from leep.statistics import levels, pearson
from scripts.sensitivity import to_markdown as sensitivity


def line(table, row, measure):
    return table[(table.row == row) & (table.measure == measure)].iloc[0]


def test_all_21_rows_stand_from_the_first_day(tmp_path):
    table = build_table(read_runs(tmp_path))
    assert list(table.columns) == COLUMNS and len(table) == 21 * 5
    assert table.row.tolist() == [r for r in range(1, 22) for _ in (*PAPER_MEASURES, *TRIVIAL)]
    assert table.r.isna().all() and table.n_tasks.isna().all() and (table.missing != "").all()
    assert line(table, 21, "nce").paper_r == 0.310 and line(table, 4, "h_score").paper_r == 0.026
    assert line(table, 5, "leep").missing.startswith("FashionMNIST, and weights of ResNet20 trained on CIFAR10")
    assert line(table, 5, "leep").command == (
        "python run.py experiment=small_balanced 'source=[cifar10_resnet20]' 'target=[fashion_mnist]' "
        "'method=[retrain_head]'"
    )
    assert "'method=[fine_tune]'" in line(table, 11, "leep").command
    assert "train_cnaps.py" in line(table, 21, "leep").missing


def test_papers_values_are_those_of_the_paper():
    rows = paper_rows()
    assert len(rows) == 21
    best = rows[["leep", "nce", "h_score"]].idxmax(axis=1)
    assert (rows.leep >= rows.h_score).sum() == 14  # Section 5.6: better than H in 14 of 21 cases
    assert (rows.leep < rows.nce).sum() == 2  # and worse than NCE in two
    assert (best == "h_score").sum() == 7


def test_correlations_are_scipys(tmp_path):
    leep, accuracy = write_run(tmp_path, "small_balanced")
    found = line(build_table(read_runs(tmp_path)), 5, "leep")
    expected = stats.pearsonr(leep, accuracy)
    assert found.r == pytest.approx(expected.statistic, abs=1e-12) and found.p_value == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx(found.r - 0.518)
    assert (
        found.r_low < found.r < found.r_high and found.n_tasks == 30 and found.scale == "paper" and found.missing == ""
    )


def test_imbalanced_rows_use_f1(tmp_path):
    write_run(tmp_path, "small_imbalanced")
    assert line(build_table(read_runs(tmp_path)), 9, "leep").r < -0.5  # the made-up F1 falls as LEEP rises


def test_constant_scores_are_stated_as_undefined(tmp_path):
    write_run(tmp_path, "small_balanced")
    table = build_table(read_runs(tmp_path))
    found = line(table, 5, "h_score")
    assert pd.isna(found.r) and found.missing == UNDEFINED and found.n_tasks == 30
    assert "undefined (paper +0.787)" in to_markdown(table)


def test_the_run_nearest_to_the_paper_is_shown(tmp_path):
    write_run(tmp_path, "small_balanced", scale="quick", n=40)
    assert line(build_table(read_runs(tmp_path)), 5, "leep").scale == "quick"
    write_run(tmp_path, "small_balanced", scale="paper", n=20)
    assert line(build_table(read_runs(tmp_path)), 5, "leep").scale == "paper"
    write_run(tmp_path, "small_balanced", scale="paper", n=50, deviations=["bundled sample"])
    assert line(build_table(read_runs(tmp_path)), 5, "leep").deviations == ()


def test_of_one_source_the_papers_weights_then_streams_of_its_own_are_preferred(tmp_path):
    """Each run is further from the paper in everything that comes after: fewer tasks, more deviations."""
    shown = []
    for n, options in enumerate(
        (
            {},
            {"stream": True, "deviations": ["a"]},
            {"weights": "GluonCV (re-saved)", "deviations": ["a", "b"]},
            {"weights": "gluon", "stream": True, "deviations": ["a", "b", "c"]},
        )
    ):
        write_run(tmp_path, "small_balanced", n=50 - n, **options)
        shown.append(line(build_table(read_runs(tmp_path)), 5, "leep").n_tasks)
    assert shown == [50, 49, 48, 47]
    write_run(tmp_path, "small_balanced", n=40, weights="gluon", deviations=["a"], asked=200)
    assert line(build_table(read_runs(tmp_path)), 5, "leep").n_tasks == 47  # the last is not finished


def test_an_unfinished_run_hides_no_finished_one(tmp_path):
    write_run(tmp_path, "small_balanced", scale="quick", n=40)
    write_run(tmp_path, "small_balanced", scale="paper", n=20, asked=200)
    assert line(build_table(read_runs(tmp_path)), 5, "leep").scale == "quick"


def test_seeds_are_never_mixed(tmp_path):
    write_run(tmp_path, "small_balanced", seed=0, n=20)
    write_run(tmp_path, "small_balanced", seed=1, n=25)
    assert line(build_table(read_runs(tmp_path)), 5, "leep").n_tasks == 20
    assert line(build_table(read_runs(tmp_path), seed=1), 5, "leep").n_tasks == 25


def test_layout_marks_best_significance_and_deviations(tmp_path):
    write_run(tmp_path, "small_balanced", deviations=["bundled sample of FashionMNIST"])
    table = build_table(read_runs(tmp_path))
    cells = dict(zip(*(layout(table)[i] for i in (0, 5))))
    assert cells["LEEP"].startswith("**+0.") and "*** [" not in cells["LEEP"]
    assert "* [" in cells["NCE"] and "**" not in cells["NCE"]
    assert cells["Notes"] == "a" and cells["Tasks"] == "30" and cells["Epochs"] == "50"
    markdown = to_markdown(table)
    assert "**+0." in markdown and "- a: bundled sample of FashionMNIST" in markdown and "row 1:" in markdown
    assert markdown.count("\n| ") == 22 + 2
    assert "; " in to_csv(table.assign(deviations=[("a", "b")] * len(table)))


def test_notes_have_a_letter_each_whatever_their_number_and_names():
    table = pd.DataFrame({"deviations": [("a; b | c",), (*(f"deviation {i}" for i in range(100)), "a; b | c")]})
    letters = notes(table)
    assert list(letters)[:2] == ["a; b | c", "deviation 0"] and len({*letters.values()}) == 101
    assert [*letters.values()][24:30] == ["y", "z", "aa", "ab", "ac", "ad"] and letters["deviation 99"] == "cw"


def test_a_row_says_what_was_run_and_the_papers_source_beside_it(tmp_path):
    write_run(tmp_path, "meta_transfer", target="cifar100", method="cnaps")
    table = build_table(read_runs(tmp_path))
    cells = dict(zip(*(layout(table)[i] for i in (0, 21))))
    assert (cells["Source"], cells["Paper's source"]) == ("cifar10_resnet20, CIFAR10", "ResNet18, ImageNet")
    absent = dict(zip(*(layout(table)[i] for i in (0, 20))))
    assert (absent["Source"], absent["Paper's source"]) == ("—", "ResNet18, ImageNet")
    (path,) = tmp_path.glob("*/*/*/*/setting.json")
    content = json.loads(path.read_text())
    content["notes"]["source"] = {"title": "ResNet20", "imagenet_top1": None}
    path.write_text(json.dumps(content))
    table = build_table(read_runs(tmp_path))
    assert layout(table)[21][2] == "ResNet20, CIFAR10" and "21 ResNet20, CIFAR10 " in to_terminal(table)


def test_a_measure_of_any_name_stands_in_every_table(tmp_path):
    for experiment, further in (("small_balanced", "prior"), ("small_imbalanced", None)):
        write_run(tmp_path, experiment, further=further)
    table = build_table(read_runs(tmp_path))
    assert len(table) == 21 * 6 and line(table, 5, "prior").r_low < line(table, 5, "prior").r
    assert pd.isna(line(table, 5, "prior").paper_r) and line(table, 9, "prior").missing.startswith("prior was not")
    cells = dict(zip(*(layout(table)[i] for i in (0, 5))))
    assert cells["prior"].endswith("]") and "paper" not in cells["prior"] and cells["Tasks"] == "30"
    assert layout(table)[9][layout(table)[0].index("prior")] == "—"
    assert {"prior", "prior given classes", "LEEP − prior"} <= {*controls(table)[0]}
    assert " prior " in to_terminal(table).splitlines()[2] and "prior" in to_latex(table)
    assert [sentence.split(":")[0] for sentence in summary(table)[1:]] == ["LEEP", "NCE"]  # H is undefined


def test_intervals_over_sets_of_classes(tmp_path):
    """Four sets; 3 8 and 8 3 are one."""
    leep, accuracy = write_run(tmp_path, "small_balanced", sets=["3 8", "8 3", "0 1", "1 2", "2 0"])
    write_run(tmp_path, "small_imbalanced")
    table = build_table(read_runs(tmp_path))
    found = line(table, 5, "leep")
    assert found.n_class_sets == 4 and (found.r_low_sets, found.r_high_sets) != (found.r_low, found.r_high)
    sets = np.resize([0, 0, 1, 2, 3], 30)
    expected = pearson(leep, accuracy, clusters=sets)
    assert (found.r_low_sets, found.r_high_sets) == (expected.low, expected.high)
    assert pd.isna(line(table, 9, "leep").n_class_sets) and pd.isna(line(table, 9, "leep").r_low_sets)
    (_, row), markdown = class_sets(table), to_markdown(table)
    assert row[:3] == ["5", "30", "4"] and row[3].startswith("[+0.") and row[5] == "—"
    assert "sets of classes" in markdown and "sets of classes" in to_latex(table) + to_terminal(table)


def test_whether_the_papers_value_is_within_the_error(tmp_path):
    """Row 5 in the paper: LEEP 0.518, NCE 0.429, both of 200 tasks."""
    write_run(tmp_path, "small_balanced")
    table = build_table(read_runs(tmp_path))
    leep, nce = line(table, 5, "leep"), line(table, 5, "nce")
    assert leep.r_low > 0.518 and not leep.paper_inside
    assert nce.paper_inside == (nce.r_low <= 0.429 <= nce.r_high)
    z = (np.arctanh(leep.r) - np.arctanh(0.518)) / np.sqrt(1 / 27 + 1 / 197)
    assert leep.fisher_z_p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert pd.isna(line(table, 5, "h_score").paper_inside) and pd.isna(line(table, 4, "leep").fisher_z_p)
    inside = [line(table, 5, m).paper_inside for m in ("leep", "nce")]
    agree = [line(table, 5, m).fisher_z_p > 0.05 for m in ("leep", "nce")]
    for sentence, k, j in zip(summary(table)[1:], inside, agree, strict=True):
        counts = ["1 of 1 rows (5)" if value else "0 of 1 rows" for value in (k, j)]
        assert f"inside our interval in {counts[0]}; " in sentence and sentence.endswith(f" in {counts[1]}.")


def test_terminal_fits_into_160_columns(tmp_path):
    for method in ("retrain_head", "fine_tune"):
        write_run(tmp_path, "small_imbalanced", method=method, target="cifar100", deviations=["a deviation"])
    text = to_terminal(build_table(read_runs(tmp_path)))
    assert max(map(len, text.splitlines())) <= 160 and "a: a deviation" in text
    assert sum(line[:2].strip().isdigit() for line in text.splitlines()) == 21 + 2


def test_summary_counts_rows_where_leep_is_not_below_the_others(tmp_path):
    write_run(tmp_path, "small_balanced")
    table = build_table(read_runs(tmp_path))
    assert "here in 1 of 1 rows (1 of them" in summary(table)[0]
    assert "in the paper in 13 of 21 rows (11 of them without a tie)" in summary(table)[0]
    tied = table.assign(r=table.r.where(table.measure != "nce", table.r.max() + 1e-9))
    assert "here in 1 of 1 rows (0 of them" in summary(tied)[0]
    assert "here in 0 of 0 rows" in summary(build_table(pd.DataFrame()))[0]


def test_trivial_predictors_partial_correlations_and_differences(tmp_path):
    """Against scipy and the formula."""
    leep, accuracy = write_run(tmp_path, "large_balanced", target="cifar100", n=40, classes=(2, 3, 5, 9, 17))
    table = build_table(read_runs(tmp_path))
    log_classes = np.log(np.resize([2, 3, 5, 9, 17], 40))
    r_ay, r_lc, r_yc = (
        stats.pearsonr(a, b).statistic for a, b in ((leep, accuracy), (leep, log_classes), (accuracy, log_classes))
    )
    found = line(table, 1, "leep")
    assert found.partial_r == pytest.approx((r_ay - r_lc * r_yc) / np.sqrt((1 - r_lc**2) * (1 - r_yc**2)), abs=1e-12)
    trivial = line(table, 1, "minus_log_n_classes")
    assert trivial.r == pytest.approx(-r_yc, abs=1e-12) and trivial.leep_better_by == pytest.approx(r_ay + r_yc)
    assert pd.isna(trivial.partial_r) and pd.isna(trivial.paper_r)
    assert line(table, 1, "n_examples").missing == UNDEFINED and pd.isna(line(table, 1, "h_score").leep_better_by)
    assert len(controls(table)) == 2 and controls(table)[1][5] == "—"
    write_run(tmp_path / "one", "small_balanced")
    assert pd.isna(line(build_table(read_runs(tmp_path / "one")), 5, "leep").partial_r)  # one number of classes


def test_a_measure_that_was_not_run_is_absent(tmp_path):
    write_run(tmp_path, "small_balanced")
    for path in tmp_path.rglob("scores.csv"):
        rows = pd.read_csv(path)
        rows[rows.measure != "nce"].to_csv(path, index=False)
    table = build_table(read_runs(tmp_path))
    assert pd.isna(line(table, 5, "nce").r) and line(table, 5, "leep").n_tasks == 30
    assert "— (paper +0.429)" in to_markdown(table) and len(controls(table)) == 2 and to_latex(table)


def test_latex_is_balanced_and_escaped(tmp_path):
    write_run(tmp_path, "small_balanced", deviations=["a_b & 5 % {x}"])
    text = to_latex(build_table(read_runs(tmp_path)))
    assert r"a\_b \& 5 \% \{x\}" in text and r"\textbf{+0." in text
    body = [row.replace(r"\&", "").count("&") for row in text.splitlines() if row.endswith(r"\\")]
    assert body == [4, *[17] * 22, *[1] * 2, *[11] * 2]  # two lines of header; what differs; the controls


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tmp_path):
    write_run(tmp_path, "small_balanced", deviations=["a_b & 5 % {x}"], further="log_me", sets=["0 1", "1 2"])
    document = (
        r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}"
        + to_latex(build_table(read_runs(tmp_path)))
        + r"\end{document}"
    )
    (tmp_path / "t.tex").write_text(document)
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stdout.decode(errors="replace")


@pytest.mark.parametrize("name", FIGURES)
def test_figures_draw_what_is_there_and_list_what_is_missing(tmp_path, name):
    figure = FIGURES[name]
    source, target = figure.source or "cifar10_resnet20", figure.target or "cifar100"
    experiment = figure.experiments[0]
    empty = draw(name, tmp_path, read_runs(tmp_path))
    assert empty.figure is None and not empty.details and len(empty.missing) == len(figure_panels(figure))
    assert all(": python run.py experiment=" in text for text in empty.missing)
    assert any(f"experiment={'convergence' if figure.is_convergence else experiment}" in t for t in empty.missing)
    method = "cnaps" if name == "figure3" else "retrain_head"
    write_run(tmp_path, experiment, source=source, target=target, method=method)
    if figure.is_convergence:
        write_convergence(tmp_path, target)
    picture = draw(name, tmp_path, read_runs(tmp_path))
    (drawn,) = picture.figure.axes
    assert len(picture.missing) == len(empty.missing) - 1
    title = (
        f"{'ImageNet' if name == 'figure2' else 'CIFAR10'}) → {'CIFAR100' if target == 'cifar100' else 'FashionMNIST'}"
    )
    assert title in drawn.get_title() and drawn.get_xlabel() and drawn.get_ylabel()
    assert "30 tasks" in drawn.texts[-1].get_text()
    (details,) = picture.details
    assert title in details and "30 tasks, scale=paper" in details
    plt.close("all")


def test_figures_and_their_side_file_are_written(tmp_path, monkeypatch):
    write_run(tmp_path, "large_balanced", target="cifar100")
    stale = tmp_path / "figures" / "figure3.png"
    stale.parent.mkdir()
    stale.write_bytes(b"of other results")
    monkeypatch.setattr(sys, "argv", ["figures", str(tmp_path)])
    draw_all()
    found = {path.name for path in stale.parent.iterdir()}
    assert found == {"figure1.pdf", "figure1.png", "figures.md"}
    text = (stale.parent / "figures.md").read_text("utf-8")
    assert text.count("\n## Figure ") == 9 and "30 tasks, scale=paper" in text
    assert "- not computed: CIFAR10 → CIFAR100: `python run.py" not in text and "- not computed: (a) " in text


def test_all_figures_of_the_paper_have_an_entry():
    assert [f"figure{i}" for i in range(1, 10)] == NAMES


def test_figure2_is_the_small_settings_from_imagenet_to_cifar100(tmp_path):
    for setting in ("small_balanced", "small_imbalanced"):
        for method in ("retrain_head", "fine_tune"):
            write_run(tmp_path, setting, source="imagenet_resnet18", target="cifar100", method=method)
    runs = read_runs(tmp_path)
    balanced, imbalanced = draw("figure2", tmp_path, runs).figure.axes
    assert balanced.get_title() == "(a) Small, balanced\nimagenet_resnet18 (ImageNet) → CIFAR100"
    assert imbalanced.get_title() == "(b) Small, imbalanced\nimagenet_resnet18 (ImageNet) → CIFAR100"
    assert (balanced.get_ylabel(), imbalanced.get_ylabel()) == ("Average test accuracy", "Average test F1 score")
    one = runs[(runs.experiment == "small_imbalanced") & (runs.method == "fine_tune") & (runs.measure == "leep")]
    means = one.groupby(levels(one.score.to_numpy())).test_f1.mean()
    assert [c.get_label() for c in imbalanced.containers if c.get_label()[0] != "_"] == ["Re-train head", "Fine-tune"]
    np.testing.assert_allclose(imbalanced.containers[1].lines[0].get_xydata()[:, 1], means)
    plt.close("all")


def test_figure1_shows_scores_accuracies_and_best_fit_lines(tmp_path):
    leep, accuracy = write_run(tmp_path, "large_balanced", target="cifar100")
    (ax,) = draw("figure1", tmp_path, read_runs(tmp_path)).figure.axes
    np.testing.assert_allclose(ax.collections[0].get_offsets(), np.stack([leep, accuracy], axis=1))
    fit = stats.linregress(leep, accuracy)
    x, y = ax.lines[0].get_data()
    np.testing.assert_allclose(y, fit.intercept + fit.slope * x)
    plt.close("all")


def convergence(root, n_levels=5):
    rows = paper_rows().query(
        "experiment == 'small_balanced' and target == 'cifar100' and source == 'cifar10_resnet20'"
    )
    return convergence_data(root, read_runs(root), rows, 0, n_levels)


def test_convergence_is_the_difference_to_the_reference_models_final_accuracy(tmp_path):
    write_convergence(tmp_path)
    data, used = convergence(tmp_path)
    first, last = data[data.epoch == 0].sort_values("task"), data[data.epoch == 40]
    np.testing.assert_allclose(first.difference, 0.05 - 0.3 - 0.01 * np.arange(30), atol=1e-12)
    np.testing.assert_allclose(last.difference, 0.05, atol=1e-12)
    scores = used[used.method == "fine_tune"].set_index("task").score
    assert data.level.tolist() == levels(scores.loc[data.task].to_numpy()).tolist() and set(data.level) <= {
        1,
        2,
        3,
        4,
        5,
    }
    assert set(convergence(tmp_path, 2)[0].level) == {1, 2} and set(used.method) == {"fine_tune", "from_scratch"}
    ax = plots.convergence(plt.figure().gca(), data, y_label="Difference")
    by_level = {
        int(text.get_text().split()[1]): line for text, line in zip(ax.legend_.texts, ax.lines[1:], strict=True)
    }
    for level, curve in by_level.items():
        group = data[data.level == level]
        expected = [group[group.epoch == e].difference.mean() for e in (0, 40)]
        np.testing.assert_allclose(curve.get_ydata(), expected)
    plt.close("all")


def test_convergence_needs_reference_models_and_only_tasks_that_have_one(tmp_path):
    write_convergence(tmp_path, reference=False)
    assert convergence(tmp_path)[0].empty
    write_convergence(tmp_path)
    (path,) = tmp_path.glob("*/*/*/*/from_scratch-paper/transfers.csv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:8]))
    data, used = convergence(tmp_path)
    assert sorted(set(data.task)) == list(range(7)) == sorted(set(used.task))


def test_convergence_shows_the_run_that_has_reference_models_finished_ones_first(tmp_path):
    write_run(tmp_path, "small_balanced", target="cifar100", method="fine_tune", deviations=["a"])
    write_convergence(tmp_path, scale="quick", asked=40)
    assert set(convergence(tmp_path)[1].scale) == {"quick"}  # nearer to the paper, but without reference models
    write_convergence(tmp_path, scale="smoke")
    assert set(convergence(tmp_path)[1].scale) == {"smoke"}
    write_convergence(tmp_path, scale="paper")
    assert set(convergence(tmp_path)[1].scale) == {"paper"}
    path = next(tmp_path.glob("*/*/*/*/from_scratch-paper/transfers.csv"))
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:8]))
    assert set(convergence(tmp_path)[1].scale) == {"smoke"}  # the reference models at scale=paper are not all there


def test_a_level_looks_the_same_in_every_panel():
    table = pd.DataFrame({"task": range(4), "epoch": 3, "difference": 0.1, "level": [1, 2, 4, 5]})
    looks = []
    for shown in (table, table[table.level.isin([2, 5])]):
        ax = plots.convergence(plt.figure().gca(), shown)
        curves = zip(ax.legend_.texts, ax.lines[1:], strict=True)
        looks.append({t.get_text(): (tuple(c.get_color()), c.get_linestyle()) for t, c in curves})
    assert list(looks[1]) == ["level 5 (1 task)", "level 2 (1 task)"]
    assert looks[1].items() <= looks[0].items() and len(set(looks[0].values())) == 4
    plt.close("all")


def test_deviations_name_their_method_where_they_are_not_those_of_all():
    used = pd.DataFrame(
        {
            "task": [0, 1, 0],
            "method": ["retrain_head", "retrain_head", "fine_tune"],
            "scale": "quick",
            "source": "net",
            "deviations": [("sample", "20 of 50 epochs")] * 2 + [("sample", "5 of 40 epochs")],
        }
    )
    assert _notes(used) == [
        "Re-train head: 2 tasks, scale=quick",
        "Fine-tune: 1 tasks, scale=quick",
        "sample",
        "Re-train head: 20 of 50 epochs",
        "Fine-tune: 5 of 40 epochs",
    ]
    assert _notes(used[:2]) == ["2 tasks, scale=quick", "sample; 20 of 50 epochs"]
    paper = used[:2].assign(scale="paper", source="net", deviations=[("own weights of net", "net for ResNet18")] * 2)
    assert _notes(paper, short=True) == ["2 tasks", "own weights"]


def test_levels_are_the_same_range_of_scores_for_both_methods(tmp_path):
    write_run(tmp_path, "small_balanced", target="cifar100", n=30)
    write_run(tmp_path, "small_balanced", target="cifar100", n=30, method="fine_tune")
    (path,) = tmp_path.glob("*/*/*/*/fine_tune-paper/transfers.csv")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:9]))
    rows = paper_rows().query(
        "experiment == 'small_balanced' and target == 'cifar100' and source == 'cifar10_resnet20'"
    )
    data = accuracy_data(read_runs(tmp_path), rows, 0)
    assert data.groupby("method").task.nunique().to_dict() == {"retrain_head": 30, "fine_tune": 8}
    assert data.groupby("task")["level"].nunique().eq(1).all()
    picture = draw("figure6", tmp_path, read_runs(tmp_path))
    note = picture.figure.axes[0].texts[-1].get_text().replace("\n", " ")
    assert "Re-train head: 30 tasks" in note and "Fine-tune: 8 tasks" in note and "scale" not in note
    assert "Fine-tune: 8 tasks, scale=paper" in picture.details[0]
    plt.close("all")


@pytest.fixture
def imagenet_row():
    """Re-train head, ImageNet → FashionMNIST, small and balanced: row 6."""
    return paper_rows().set_index("row", drop=False).loc[6]


def test_another_model_trained_on_the_same_data_stands_in_and_says_so(tmp_path, imagenet_row):
    lite = {"source": "imagenet_efficientnet_lite0"}
    leep, accuracy = write_run(tmp_path, "small_balanced", n=25, **lite)
    found = line(build_table(read_runs(tmp_path)), 6, "leep")
    assert found.r == pytest.approx(stats.pearsonr(leep, accuracy).statistic, abs=1e-12) and found.n_tasks == 25
    assert found.deviations == ("imagenet_efficientnet_lite0 for ResNet18 of ImageNet",) and found.missing == ""
    assert found.source == "imagenet_resnet18" and found.paper_r == imagenet_row.leep
    assert "imagenet_efficientnet_lite0 for ResNet18 of ImageNet" in to_markdown(build_table(read_runs(tmp_path)))
    write_run(tmp_path, "small_balanced", n=20, seed=1, deviations=["sample"], **lite)
    run = select_run(read_runs(tmp_path), imagenet_row, seed=1)
    assert set(run.deviations) == {("imagenet_efficientnet_lite0 for ResNet18 of ImageNet", "sample")}


def test_the_papers_model_is_preferred_to_one_that_stands_in(tmp_path, imagenet_row):
    write_run(tmp_path, "small_balanced", n=40, source="imagenet_efficientnet_lite0")
    write_run(tmp_path, "small_balanced", n=30, source="imagenet_resnet18_v1b", deviations=["a"])
    run = select_run(read_runs(tmp_path), imagenet_row)
    assert set(run.deviations) == {("imagenet_resnet18_v1b for ResNet18 of ImageNet", "a")}
    write_run(tmp_path, "small_balanced", n=20, source="imagenet_resnet18", scale="smoke", deviations=["a", "b"])
    run = select_run(read_runs(tmp_path), imagenet_row)
    assert set(run.source) == {"imagenet_resnet18"} and set(run.deviations) == {("a", "b")}


def test_a_scale_that_is_not_the_projects_comes_last():
    run = pd.DataFrame({"finished": True, "source": "s", "scale": "mine", "weights": None, "stream": False}, index=[0])
    run = run.assign(deviations=[()], task=0, run="r")
    assert rank(run) > rank(run.assign(scale="smoke"))


def test_a_figure_shows_one_models_tasks_and_methods_from_outside(tmp_path):
    for options in ({}, {"method": "fine_tune"}, {"method": "mine"}, {"method": "mine", "target": "fashion_mnist"}):
        write_run(tmp_path, "small_balanced", **{"target": "cifar100"} | options)
    rows = paper_rows().query(
        "experiment == 'small_balanced' and target == 'cifar100' and source == 'cifar10_resnet20'"
    )
    data = accuracy_data(read_runs(tmp_path), rows, 0)
    assert data.groupby("method").task.nunique().to_dict() == {"retrain_head": 30, "fine_tune": 30, "mine": 30}
    labels = [
        text.get_text() for text in draw("figure6", tmp_path, read_runs(tmp_path)).figure.axes[0].get_legend().texts
    ]
    assert labels == ["Re-train head", "Fine-tune", "mine"]
    plots.scatter(plt.figure().gca(), data)
    write_run(tmp_path, "small_balanced", target="cifar100", weights="gluon")
    assert set(accuracy_data(read_runs(tmp_path), rows, 0).weights) == {"bundled"}  # which has more methods
    write_run(tmp_path, "small_balanced", target="cifar100", weights="gluon", method="fine_tune")
    write_run(tmp_path, "small_balanced", target="cifar100", weights="gluon", method="mine")
    assert set(accuracy_data(read_runs(tmp_path), rows, 0).weights) == {"gluon"}
    plt.close("all")


def test_no_source_stands_in_for_one_trained_on_other_data(tmp_path):
    write_run(tmp_path, "small_balanced", source="cifar10_resnet20")
    table = build_table(read_runs(tmp_path)).dropna(subset="n_tasks")
    assert set(table.row) == {5}
    write_run(tmp_path / "other", "small_balanced", source="imagenet_resnet34")
    table = build_table(read_runs(tmp_path / "other")).dropna(subset="n_tasks")
    assert set(table.row) == {6} and set(table.deviations) == {("imagenet_resnet34 for ResNet18 of ImageNet",)}


def test_reporting_imports_no_runner_no_configuration_and_no_model():
    code = (
        "import sys; from experiments.reporting import readme, report, selection; "
        "print(sorted(m for m in sys.modules if m.split('.')[0] in ('hydra', 'omegaconf', 'mxnet', 'torch')"
        " or m.startswith('experiments.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = ast.literal_eval(done.stdout)
    assert "experiments.reporting.report" in loaded
    assert all(name.startswith(("experiments.reporting", "experiments.terminal")) for name in loaded)


def test_sensitivity_has_a_line_a_variant_and_the_papers_numbers(tmp_path):
    write_run(tmp_path, "small_balanced", n=25)
    table = build_table(read_runs(tmp_path))
    lines = sensitivity({"as in Table 1": table, "nothing ran": build_table(read_runs(tmp_path / "none"))}).splitlines()
    cells = [[cell.strip() for cell in text.strip("|").split("|")] for text in lines]
    column = cells[0].index("Row 5: LEEP")
    assert [row[column] for row in cells[2:]] == [signed(line(table, 5, "leep").r), "—", "+0.518"]
    assert cells[2][cells[0].index("Row 3: LEEP")] == "—"


def test_below_ten_tasks_the_points_stand_in_place_of_a_correlation(tmp_path):
    leep, accuracy = write_run(tmp_path, "small_balanced", n=9, scale="smoke")
    table = build_table(read_runs(tmp_path))
    row = table[(table.row == 5) & (table.measure == "leep")].iloc[0]
    assert pd.isna(row.r) and pd.isna(row.difference) and row.n_tasks == 9
    point = f"({leep[0]:.3f}, {accuracy[0]:.3f})".replace("-", "−")
    assert point in row.missing and row.missing.count("(") == 9
    for text in (to_markdown(table), to_terminal(table), to_latex(table).replace("$-$", "−")):
        assert point in text
    assert "undefined" not in to_terminal(table) and "in 0 of 0 rows" in to_terminal(table)
    assert len(few_tasks(table)) == 1 + 3 and len(controls(table)) == 1
    write_run(tmp_path, "small_balanced", n=10, scale="smoke", seed=1)
    table = build_table(read_runs(tmp_path), seed=1)
    assert table[(table.row == 5) & (table.measure == "leep")].r.notna().all() and len(few_tasks(table)) == 1
