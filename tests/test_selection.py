"""Source model selection (Section 5.7): the run, its table and figures, and the scale's cap on examples."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, resolved
from matplotlib import pyplot as plt
from PIL import Image
from scipy import stats

from experiments.reporting.figures import draw
from experiments.reporting.predictors import label
from experiments.reporting.selection import candidates, correlate, describe, predictors, to_markdown
from experiments.running.folders import _compare
from leep import plots
from leep.data.folder import read_folder
from leep.errors import Invalid
from leep.results import Table, open_folder, read_runs
from leep.tasks import Task, draw_task, subsample

SCORES = ["task", "n_classes", "n_examples", "measure", "score"]
TRANSFERS = ["task", "n_classes", "n_examples", "method", "test_accuracy", "test_f1", "test_f1_macro"]
SCALES = sorted(p.stem for p in (ROOT / "conf" / "scale").glob("*.yaml"))
OTHERS = {"measure_comparison", "ranking_quality"}  # no runs of one source and target
EXPERIMENTS = sorted({p.stem for p in (ROOT / "conf" / "experiment").glob("*.yaml")} - OTHERS)
MEASURES = ("leep", "nce", "h_score", "mine:score")
PREDICTORS = ("leep", "nce", "h_score", "imagenet_top1")
TWO = "source=[cifar10_resnet20,cifar10_resnet20_short]"


# The run


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory):
    from leep.sources.zoo import build

    path = tmp_path_factory.mktemp("weights") / "other.params"
    build("cifar_resnet20_v1", 10, np.random.SeedSequence(8)).save_parameters(str(path))
    return path


def test_candidates_run_and_a_second_call_does_nothing(run_experiment, other_weights, tmp_path):
    call = ("source_selection", TWO, f"source.cifar10_resnet20_short.weights={other_weights}")
    first = run_experiment(*call)
    runs = read_runs(tmp_path / "results")
    assert set(runs.source) == {"cifar10_resnet20", "cifar10_resnet20_short"}
    assert runs.groupby("source").score.nunique().eq(3).all() and runs.groupby("measure").score.nunique().eq(2).all()
    assert set(runs.task) == {0} and set(runs.n_classes) == {6} and set(runs.n_examples) == {6 * 320}
    table = candidates(runs, "cifar100", "retrain_head")
    assert set(table.title) == {"Random, CIFAR10", "ResNet20 (5 epochs) (other.params), unknown data"}
    assert to_markdown(runs) in first.stdout
    assert all(f"- {label(p)}: not computed over" in first.stdout for p in PREDICTORS)
    assert "LEEP: not computed over 2 candidates" in first.stdout
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("*") if p.is_file()}
    second = run_experiment(*call)
    assert second.stdout.count("were done before") == 2
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "results").rglob("*") if p.is_file()} == before


def test_a_candidate_that_cannot_be_had_is_left_out(run_experiment, tmp_path):
    call = ("source_selection", TWO, "source.cifar10_resnet20_short.weights=nowhere.params")
    done = run_experiment(*call)
    assert "Left out" in done.stdout and "cifar10_resnet20_short: nowhere.params does not exist" in done.stdout
    assert set(read_runs(tmp_path / "results").source) == {"cifar10_resnet20"}
    strict = run_experiment(*call, "strict=true", check=False)
    assert strict.returncode == 2 and "nowhere.params" in strict.stderr


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_one_task(count):
    assert resolved("experiment=source_selection").n_tasks["retrain_head"] == 1
    with pytest.raises(Invalid, match="n_tasks must be 1, the task is the whole data set, got"):
        resolved("experiment=source_selection", f"n_tasks={count}")


def test_the_task_is_the_whole_data_set():
    train, test = np.array([5, 2, 9, 2]), np.array([9, 9, 5, 2])
    task = draw_task("source_selection", "cifar100", 0, 3, train, test)
    assert task.classes.tolist() == [2, 5, 9]
    assert (task.train_rows.tolist(), task.train_labels.tolist()) == ([0, 1, 2, 3], [1, 0, 2, 0])
    assert (task.test_rows.tolist(), task.test_labels.tolist()) == ([0, 1, 2, 3], [2, 2, 1, 0])


# A folder of images


def test_a_folder_gets_the_answer_of_leep_rank(run_experiment, other_weights, image_folder, tmp_path):
    call = (
        *("source_selection", TWO, f"source.cifar10_resnet20_short.weights={other_weights}", "target=[folder]"),
        *(f"target.folder.path={image_folder}", "target.folder.size=32", "measures=[leep,nce]"),
    )
    first = run_experiment(*call)
    place = tmp_path / "results" / "source_selection-images-seed0"
    table = pd.read_csv(place / "ranking.csv")
    assert set(table.model) == {"cifar10_resnet20", "cifar10_resnet20_short"}
    runs = read_runs(tmp_path / "results").drop_duplicates("source").set_index("source")
    for row in table.itertuples():
        p = runs.test_accuracy[row.model]
        assert row.retrain_head_accuracy == pytest.approx(p)
        assert row.retrain_head_se == pytest.approx(np.sqrt(p * (1 - p) / 6))  # every fifth of 30 images
        assert row.accuracy_low <= row.accuracy <= row.accuracy_high and row.leep_low < row.leep < row.leep_high
    answer = json.loads((place / "ranking.json").read_text("utf-8"))
    assert (answer["about"]["n_images"], answer["about"]["n_classes"]) == (30, 2)
    assert answer["sentence"] in first.stdout and str(place / "index.html") in first.stdout
    hardest = [row["file"] for found in answer["explanations"].values() for row in found["hardest"]]
    assert hardest and all((image_folder / file).is_file() for file in hardest)
    page = (place / "index.html").read_text("utf-8")
    assert page.count('<tr class="best">') == len(answer["best"]) and "data:image/jpeg" in page
    assert "Table 1" not in first.stdout
    assert (tmp_path / "results" / "source_selection.md").read_text("utf-8") in first.stdout
    assert run_experiment(*call).stdout.count("were done before") == 2


@pytest.fixture
def image_folder(tmp_path):
    rng = np.random.default_rng(0)
    for name, grey in (("dark", 60), ("light", 180)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for k in range(15):
            pixels = rng.normal(grey, 60, (20, 20, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{k:02}.png")
    return tmp_path / "images"


def test_thumbnails_and_images_have_one_order(image_folder):
    data = read_folder(image_folder, 20)
    for file, image in zip(data.files, [*data.train_images, *data.test_images], strict=True):
        assert (np.asarray(Image.open(image_folder / file)) == image).all()


@pytest.mark.parametrize(
    ("reached", "said"),
    [
        ({"a": (0.6, 0.05), "b": (0.7, 0.05)}, "no clear winner: a lies"),  # 0.1 < 1.96 · 0.0707
        ({"a": (0.5, 0.05), "b": (0.7, 0.05)}, "b is the most accurate, 0.700 ± 0.050."),
        ({"a": (0.65, 0.05), "b": (0.7, 0.05), "c": (0.6, 0.05)}, "no clear winner: a, c lie"),
    ],
)
def test_models_are_told_apart_by_two_standard_errors(reached, said):
    assert said in _compare(reached)


# Table and figures of five candidates with known scores

FIVE = pd.DataFrame(
    {
        "source": ["imagenet_a", "imagenet_b", "imagenet_c", "imagenet_d", "cifar10_e"],
        "test_accuracy": [0.5, 0.7, 0.6, 0.4, 0.3],
        "leep": [-2.0, -1.2, -1.9, -2.6, -3.5],
        "nce": [-1.5, -1.9, -1.1, -2.5, -2.0],
        "h_score": [3.0, 3.0, 3.0, 3.0, 3.0],
        "imagenet_top1": [70.0, 74.0, 77.0, 53.0, None],
    }
)


def write_candidate(
    root, row, scale="paper", target="cifar100", method="retrain_head", seed=0, deviations=(), better=0.0
):
    name = row.source
    trained_on = {"imagenet": "ImageNet", "cifar10": "CIFAR10"}[name.split("_")[0]]
    top1 = None if pd.isna(row.imagenet_top1) else row.imagenet_top1
    folder = root / "source_selection" / name / target / f"seed{seed}-{9 - len(deviations)}"
    setting = {
        "experiment": "source_selection",
        "seed": seed,
        "source": {"name": name, "trained_on": trained_on},
        "target": {"name": target},
        "engine": {"name": "gluon", "precision": "float32"},
    }
    source = {"title": name.upper(), "trained_on": trained_on, "imagenet_top1": top1}
    open_folder(folder, setting, {"deviations": list(deviations), "source": source}, {})
    inner = folder / f"{method}-{scale}"
    open_folder(inner, {"scale": scale, "epochs": 100}, {"deviations": [], "n_tasks": 1}, {})
    common = {"task": 0, "n_classes": 100, "n_examples": 50000}
    with Table(folder / "scores.csv", SCORES, ["task", "measure"]) as t:
        if not t.done:
            t.append(*({**common, "measure": m, "score": row[m]} for m in MEASURES if m in row))
    with Table(inner / "transfers.csv", TRANSFERS, ["task"]) as t:
        accuracy = row.test_accuracy + better
        t.append({**common, "method": method, "test_accuracy": accuracy, "test_f1": None, "test_f1_macro": accuracy})


def write_candidates(root, table=FIVE, **options):
    for _, row in table.iterrows():
        write_candidate(root, row, **options)
    return read_runs(root)


def test_candidates_are_rows_the_best_first(tmp_path):
    table = candidates(write_candidates(tmp_path), "cifar100", "retrain_head")
    expected = FIVE.sort_values("test_accuracy", ascending=False, ignore_index=True)
    assert table.title.tolist() == ["IMAGENET_B", "IMAGENET_C", "IMAGENET_A", "IMAGENET_D", "CIFAR10_E, CIFAR10"]
    pd.testing.assert_frame_equal(table[list(FIVE)], expected)
    assert set(table.scale) == {"paper"} and set(table.epochs) == {100} and set(table.deviations) == {()}


def test_candidates_of_other_seeds_targets_and_methods_are_no_rows(tmp_path):
    write_candidates(tmp_path, FIVE[:1])
    write_candidates(tmp_path, FIVE[1:2], seed=1)
    write_candidates(tmp_path, FIVE[2:3], target="fashion_mnist")
    runs = write_candidates(tmp_path, FIVE[3:4], method="fine_tune")
    sources = [
        candidates(runs, *of).source.tolist()
        for of in (
            ("cifar100", "retrain_head"),
            ("cifar100", "retrain_head", 1),
            ("fashion_mnist", "retrain_head"),
            ("cifar100", "fine_tune"),
        )
    ]
    assert sources == [["imagenet_a"], ["imagenet_b"], ["imagenet_c"], ["imagenet_d"]]
    assert candidates(runs, "cifar10", "fine_tune").empty
    assert candidates(pd.DataFrame(), "cifar100", "fine_tune").empty


def test_all_candidates_are_of_the_scale_that_has_most(tmp_path):
    write_candidates(tmp_path, FIVE[:3], scale="quick")
    runs = write_candidates(tmp_path, FIVE[:2], scale="paper", better=0.1)
    assert set(candidates(runs, "cifar100", "retrain_head").scale) == {"quick"}
    runs = write_candidates(tmp_path, FIVE[2:3], scale="paper", better=0.1)
    table = candidates(runs, "cifar100", "retrain_head")
    assert set(table.scale) == {"paper"}, "of two scales with as many candidates, the nearer to the paper"
    np.testing.assert_allclose(table.test_accuracy, [0.8, 0.7, 0.6])


def test_of_two_runs_of_a_candidate_the_one_with_fewer_deviations(tmp_path):
    write_candidates(tmp_path, FIVE[:1], deviations=["sample"], better=0.3)
    table = candidates(write_candidates(tmp_path, FIVE[:1]), "cifar100", "retrain_head")
    assert table.test_accuracy.tolist() == [0.5] and table.deviations.tolist() == [()]


def test_correlations_are_scipys(tmp_path):
    table = candidates(write_candidates(tmp_path), "cifar100", "retrain_head")
    for predictor, rows in (("leep", FIVE), ("nce", FIVE)):
        expected, found = stats.pearsonr(rows[predictor].astype(float), rows.test_accuracy), correlate(table, predictor)
        assert found.r == pytest.approx(expected.statistic) and found.p_value == pytest.approx(expected.pvalue)
        assert found.n == len(rows) and describe(found).startswith(f"{expected.statistic:+.3f} [")
    constant, few = correlate(table, "h_score"), correlate(table[:4], "leep")
    assert (constant.r, constant.n, describe(constant)) == (None, 5, "undefined: constant")
    assert (few.r, few.n, describe(few)) == (None, 4, "not computed over 4 candidates")


def test_markdown_has_a_table_a_method_and_dashes_for_what_is_absent(tmp_path):
    write_candidates(tmp_path)
    text = to_markdown(write_candidates(tmp_path, FIVE[:2], method="fine_tune", deviations=["sample"]))
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## fine_tune → cifar100, 100 epochs, gluon float32",
        "## retrain_head → cifar100, 100 epochs, gluon float32",
    ]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["CIFAR10_E, CIFAR10", "0.300", "-3.500", "-2.000", "3.000", "—", "paper", ""] in rows
    assert ["IMAGENET_A", "0.500", "-2.000", "-1.500", "3.000", "70.000", "paper", "sample"] in rows
    assert "- ImageNet top-1: not computed over 2 candidates" in text


def points(ax):
    """What a panel shows: label, x, y of every marker."""
    markers = [line for line in ax.lines if not line.get_label().startswith("_")]
    return [(line.get_label(), *line.get_xdata(), *line.get_ydata()) for line in markers]


def assert_panel_shows(ax, table, predictor):
    found = pd.DataFrame(points(ax), columns=["title", predictor, "test_accuracy"])
    expected = table[["title", predictor, "test_accuracy"]].dropna().sort_values("title", ignore_index=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)


def group_of(table, trained_on):
    """The candidates of a line of panels. Names of the others' data are cut, because the axis says them."""
    return table[table.trained_on == trained_on].assign(title=table.title.str.removesuffix(f", {trained_on}"))


def test_figure5_shows_what_the_csvs_hold(tmp_path):
    runs = write_candidates(tmp_path)
    table = candidates(runs, "cifar100", "retrain_head")
    picture = draw("figure5", tmp_path, runs)
    fig = picture.figure
    lines = fig.axes[:4], fig.axes[4:]
    assert [ax.get_xlabel() for ax in lines[0]] == list(map(label, PREDICTORS))
    assert not lines[1][3].axison, "no candidate of CIFAR10 has an ImageNet accuracy"
    for line, trained_on in zip(lines, ("ImageNet", "CIFAR10")):
        for ax, predictor in list(zip(line, PREDICTORS, strict=True))[: 4 if trained_on == "ImageNet" else 3]:
            assert_panel_shows(ax, group_of(table, trained_on), predictor)
            assert ax.get_title() == "", "no r over fewer than five candidates"
    assert [text.get_text() for text in lines[0][3].texts] == ["IMAGENET_D", "IMAGENET_A", "IMAGENET_C", "IMAGENET_B"]
    assert [text.get_text() for text in lines[1][3].texts] == ["CIFAR10_E"]
    r = stats.pearsonr(FIVE.nce, FIVE.test_accuracy).statistic
    title = fig.subfigs[0].get_suptitle()
    assert title.startswith("(a) Re-train head → CIFAR100: 5 candidates\n") and f"NCE {r:+.3f}" in title
    assert "H score" not in title and picture.missing == []
    plt.close("all")


def test_a_group_of_five_has_its_correlation_above_each_panel(tmp_path):
    five = FIVE.assign(source=[f"imagenet_{k}" for k in "abcde"], imagenet_top1=[70.0, 74, 77, 53, 60])
    picture = draw("figure5", tmp_path, write_candidates(tmp_path, five))
    r = stats.pearsonr(FIVE.nce, FIVE.test_accuracy).statistic
    assert [ax.get_title()[:5] for ax in picture.figure.axes] == ["r = +", "r = +", "", "r = +"]
    assert picture.figure.axes[1].get_title() == f"r = {r:+.3f}"
    plt.close("all")


def test_figure9_has_a_row_a_method_and_lists_what_is_missing(tmp_path):
    runs = write_candidates(tmp_path, method="fine_tune", better=0.1)
    picture = draw("figure9", tmp_path, runs)
    assert [text.split(":")[0] for text in picture.missing] == ["(a) Re-train head → CIFAR100"]
    assert "python run.py experiment=source_selection" in picture.missing[0]
    assert "'method=[retrain_head]'" in picture.missing[0]
    table = candidates(runs, "cifar100", "fine_tune")
    assert table.test_accuracy.max() == pytest.approx(0.8)
    for ax, predictor in zip(picture.figure.axes[:4], PREDICTORS, strict=True):
        assert_panel_shows(ax, group_of(table, "ImageNet"), predictor)
    plt.close("all")


@pytest.mark.parametrize(("name", "rows"), [("figure5", 1), ("figure9", 2)])
def test_figures_without_candidates_say_what_to_run(tmp_path, name, rows):
    empty = draw(name, tmp_path, read_runs(tmp_path), seed=3)
    assert empty.figure is None and len(empty.missing) == rows
    assert all("experiment=source_selection" in text and "seed=3" in text for text in empty.missing)
    one = draw(name, tmp_path, write_candidates(tmp_path, FIVE[:1]))
    assert one.figure is None and len(one.missing) == rows
    plt.close("all")


def test_figures_of_another_target_stand_below(tmp_path):
    write_candidates(tmp_path)
    fig = draw("figure5", tmp_path, write_candidates(tmp_path, target="fashion_mnist", better=0.1)).figure
    assert len(fig.axes) == 16 and "→ FashionMNIST" in fig.subfigs[1].get_suptitle()
    plt.close("all")


def test_a_measure_of_any_name_is_a_further_column_and_panel(tmp_path):
    runs = write_candidates(tmp_path, FIVE.assign(**{"mine:score": [0.1, 0.4, 0.3, 0.2, 0.0]}))
    assert predictors(runs) == ["leep", "nce", "h_score", "mine:score", "imagenet_top1"]
    text, fig = to_markdown(runs), draw("figure5", tmp_path, runs).figure
    assert "| mine:score " in text and "- mine:score: +0." in text
    assert [ax.get_xlabel() for ax in fig.axes[:5]] == ["LEEP", "NCE", "H score", "mine:score", "ImageNet top-1"]
    table = candidates(runs, "cifar100", "retrain_head")
    assert_panel_shows(fig.axes[3], group_of(table, "ImageNet"), "mine:score")
    plt.close("all")


@pytest.mark.parametrize("lacks", ["imagenet_top1", "nce"])
def test_figures_and_table_stand_where_no_candidate_has_a_predictor(tmp_path, lacks):
    """All candidates are trained on CIFAR10, or `measures=[leep,h_score]`."""
    table = FIVE.assign(imagenet_top1=None) if lacks == "imagenet_top1" else FIVE.drop(columns=lacks)
    runs = write_candidates(tmp_path, table)
    assert f"- {label(lacks)}: not computed over 0 candidates" in to_markdown(runs)
    fig = draw("figure5", tmp_path, runs).figure
    assert len(points(fig.axes[0])) == 4
    plt.close("all")


def test_a_candidate_keeps_its_look_in_all_panels():
    table = FIVE.rename(columns={"source": "title"})
    axes = [plots.candidates(plt.figure().gca(), table, p, p) for p in ("leep", "imagenet_top1")]
    looks = [[(line.get_label(), tuple(line.get_color()), line.get_marker()) for line in ax.lines] for ax in axes]
    assert looks[0][1:] == looks[1] and len(set(looks[0])) == 5  # the first has no ImageNet accuracy
    plt.close("all")


# scale.max_examples


def test_a_subsample_takes_the_first_of_each_class():
    task = Task(
        classes=np.array([3, 8]),
        train_rows=np.array([2, 4, 5, 7, 11, 12, 20]),
        train_labels=np.array([1, 0, 0, 1, 0, 1, 1]),
        test_rows=np.array([0, 1, 6, 9]),
        test_labels=np.array([1, 1, 1, 0]),
        minority_class=0,
        whole_classes=True,
    )
    for n in (3, 4):  # two a class: rounded up
        small = subsample(task, n)
        assert (small.train_rows.tolist(), small.train_labels.tolist()) == ([2, 4, 5, 7], [1, 0, 0, 1])
        assert (small.test_rows.tolist(), small.test_labels.tolist()) == ([0, 1, 9], [1, 1, 0])
        assert small.minority_class == 0 and not small.whole_classes and small.classes is task.classes
    assert subsample(task, 100).train_rows.tolist() == task.train_rows.tolist()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_networks_see_fewer_examples_at_smoke_and_on_whole_data_sets(experiment, scale):
    methods = ("retrain_head", "fine_tune", "from_scratch")
    config = resolved(
        f"experiment={experiment}", f"scale={scale}", f"method=[{','.join(methods)}]", "target=[cifar100]"
    )
    caps = {"smoke": 100, "quick": 1000 if experiment == "source_selection" else None}
    found = [config.budgets[method, "cifar100"].max_examples for method in methods]
    assert found == [None, caps.get(scale), caps.get(scale)]


def test_a_cap_on_examples_can_be_given_and_is_checked():
    config = resolved("experiment=small_balanced", "+scale.max_examples.fine_tune=7")
    assert config.budgets["fine_tune", "cifar100"].max_examples == 7
    assert config.budgets["retrain_head", "cifar100"].max_examples is None
    with pytest.raises(Invalid, match=r"scale.max_examples.fine_tune must be null or an integer ≥ 1, got 0"):
        resolved("experiment=small_balanced", "+scale.max_examples.fine_tune=0")
