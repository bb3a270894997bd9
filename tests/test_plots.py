"""The plots draw what their tables hold, on any matplotlib."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from leep import plots


@pytest.fixture
def ax():
    return Figure().subplots()


def labels(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_scatter_has_the_tasks_and_the_best_fit_line(ax):
    score, accuracy = [-3.0, -2, -1] * 4, [0.2, 0.5, 0.5] * 4
    table = pd.DataFrame({"method": "retrain_head", "score": score, "accuracy": accuracy})
    assert plots.scatter(ax, table) is ax
    np.testing.assert_allclose(ax.collections[0].get_offsets(), table[["score", "accuracy"]])
    # slope Σ(x − x̄)(y − ȳ) / Σ(x − x̄)² = 0.3 / 2, through (−2, 0.4)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[-3, 0.25], [-1, 0.55]])
    assert labels(ax) == ["Re-train head"]
    few = plots.scatter(Figure().subplots(), table[:9])
    assert len(few.collections[0].get_offsets()) == 9 and not few.lines, "no line over fewer than ten tasks"


def test_level_means_have_errors_and_counts(ax):
    table = pd.DataFrame({"method": "fine_tune", "level": [1, 1, 3], "accuracy": [0.2, 0.4, 0.9]})
    plots.level_means(ax, table)
    np.testing.assert_allclose(ax.lines[0].get_xydata(), [[1, 0.3], [3, 0.9]])
    assert [text.get_text() for text in ax.texts] == ["2", "1"]
    (errors,) = ax.containers[0].lines[2]
    # s = 0.1 · √2, divided by √2
    np.testing.assert_allclose([np.ptp(line[:, 1]) for line in errors.get_segments()], [0.2, 0], atol=1e-12)
    assert ax.get_ylim()[0] > 0.1, "the axis shows the differences; it need not begin at zero"


def test_convergence_has_a_curve_a_level(ax):
    rows = [(task, level, epoch, -level / (epoch + 1)) for task, level in ((0, 1), (1, 4)) for epoch in range(3)]
    plots.convergence(ax, pd.DataFrame(rows, columns=["task", "level", "epoch", "difference"]))
    assert labels(ax) == ["level 4 (1 task)", "level 1 (1 task)"]
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [-4, -2, -4 / 3])
    assert ax.get_xscale() == "symlog" and [t.get_text() for t in ax.get_xticklabels()] == ["0", "1", "2"]


def test_candidates_have_a_marker_each(ax):
    table = pd.DataFrame({"title": ["b", "a"], "test_accuracy": [0.5, 0.7], "leep": [-2.0, np.nan]})
    plots.candidates(ax, table, "leep", "LEEP")
    (line,) = ax.lines
    assert line.get_xydata().tolist() == [[-2, 0.5]]
    assert line.get_label() == "b"


def test_a_panel_of_a_predictor_that_no_candidate_has_is_left_out(ax):
    plots.candidates(ax, pd.DataFrame({"title": ["a"], "test_accuracy": [0.5], "leep": [np.nan]}), "leep", "LEEP")
    assert not ax.axison and not ax.lines


def test_names_of_candidates_stand_apart_in_the_order_of_accuracy(ax):
    table = pd.DataFrame({"title": ["b", "a", "c"], "test_accuracy": [0.5, 0.5, 0.9], "leep": [-2.0, -1.0, 0.0]})
    ax.set_ylim(0, 1)
    plots.candidate_names(ax, table)
    # 0.5 and 0.5 become 0.45 and 0.55: a tenth apart, with the same mean; 0.9 stays
    np.testing.assert_allclose(
        plots._apart(np.array([0.5, 0.5, 0.9]), 0.1), np.array([0.5, 0.6, 0.9]) - 0.1 / 3, atol=1e-12
    )
    assert [text.get_text() for text in ax.texts] == ["a", "b", "c"]
    places = [text.get_position()[1] for text in ax.texts]
    assert min(np.diff(places)) > 0.0999


def test_messages_and_notes(ax):
    plots.note(plots.message(ax, "run this"), "word " * 40)
    said, below = (text.get_text() for text in ax.texts)
    assert said == "run this"
    assert max(map(len, below.splitlines())) <= 68


def test_heat_map_has_a_number_a_cell_and_frames_the_largest(ax):
    values = pd.DataFrame([[0.9, -0.2], [np.nan, 0.5]], index=["one", "two"], columns=["A", "B"])
    signs = pd.DataFrame([["", ""], ["∅", ""]])
    plots.heat_map(ax, values, signs)
    assert [text.get_text() for text in ax.texts] == ["+0.90", "−0.20", "∅", "+0.50"]
    assert [text.get_color() for text in ax.texts] == ["white", "black", "black", "black"]
    assert [patch.get_xy() for patch in ax.patches] == [(-0.47, -0.45), (0.53, 0.55)]  # of A in one, of B in two
    assert [label.get_text() for label in ax.get_xticklabels()] == ["A", "B"]
