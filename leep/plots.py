"""Plots of the paper's figures: an axis and a table in, the axis out."""

from __future__ import annotations

import itertools
import textwrap

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from leep.statistics import FEWEST_TASKS
from leep.transfer.method import find_methods

_OTHER_STYLES = (  # of methods from outside the package; colours of Okabe and Ito (2008)
    {"color": "#CC79A7", "marker": "P", "hatch": "++"},
    {"color": "#56B4E9", "marker": "X", "hatch": "oo"},
    {"color": "#F0E442", "marker": "*", "hatch": "--"},
)


def method_style(method: str) -> dict[str, str]:
    """`label`, `color`, `marker` and `hatch` of a method; one from outside has its name as label and a spare style."""
    if method in find_methods():
        return {"label": find_methods()[method].label, **find_methods()[method].style}
    return {"label": method} | _OTHER_STYLES[sum(method.encode()) % len(_OTHER_STYLES)]


def scatter(ax: Axes, table: pd.DataFrame, x_label: str = "LEEP score (nats)", y_label: str = "Test accuracy") -> Axes:
    """Score vs. accuracy of every task with the best-fit line of ten or more, a colour a method (Figure 1).

    Parameters
    ----------
    ax : matplotlib Axes
    table : DataFrame with the columns `method`, `score`, `accuracy`
    """
    for method, group in table.groupby("method", sort=False):
        style = method_style(method)
        ax.scatter(
            group.score,
            group.accuracy,
            s=9,
            alpha=0.6,
            linewidths=0,
            marker=style["marker"],
            color=style["color"],
            label=style["label"],
        )
        if len(group) >= FEWEST_TASKS and group.score.nunique() > 1:
            slope, intercept = np.polyfit(group.score, group.accuracy, 1)
            ends = np.array([group.score.min(), group.score.max()])
            ax.plot(ends, slope * ends + intercept, color=style["color"])
    ax.set(xlabel=x_label, ylabel=y_label)
    ax.legend()
    return ax


def level_means(ax: Axes, table: pd.DataFrame, n_levels: int = 5, y_label: str = "Average test accuracy") -> Axes:
    """Mean accuracy by transferability level with its standard error and the number of tasks (Figures 2, 3, 6, 7).

    The paper draws bars. Points stand here instead, because their axis need not begin at zero: differences are seen.

    Parameters
    ----------
    ax : matplotlib Axes
    table : DataFrame with the columns `method`, `level` (1 … n_levels), `accuracy`; a level without tasks stays empty
    n_levels : int
    y_label : str
    """
    methods = list(dict.fromkeys(table.method))
    for k, method in enumerate(methods):
        style, groups = method_style(method), table[table.method == method].groupby("level").accuracy
        mean, error = groups.mean(), groups.sem().fillna(0)
        x = mean.index + (k - (len(methods) - 1) / 2) * 0.16
        look = {"color": style["color"], "marker": style["marker"], "label": style["label"]}
        ax.errorbar(x, mean, error, **look, markersize=4, capsize=2, linewidth=0.8, elinewidth=0.8)
        below = k == 0 and len(methods) > 1  # so that the numbers of two methods do not meet
        at = {"xytext": (0, -2 if below else 2), "va": "top" if below else "bottom", "ha": "center"}
        for position, height, count in zip(x, mean - error if below else mean + error, groups.size()):
            ax.annotate(
                str(count), (position, height), **at, textcoords="offset points", fontsize=6, color=style["color"]
            )
    ax.set(xlabel="Transferability level (LEEP)", ylabel=y_label)
    ax.set(xticks=range(1, n_levels + 1), xlim=(0.5, n_levels + 0.5))
    ax.margins(y=0.12)  # room for the numbers
    ax.legend(loc="lower right")
    return ax


def convergence(ax: Axes, table: pd.DataFrame, n_levels: int = 5, y_label: str = "Accuracy difference") -> Axes:
    """Mean difference to the reference model by epoch, a curve a transferability level (Figures 4, 8).

    The band is the mean ± its standard error over the level's tasks; a level of one task has none.

    Parameters
    ----------
    ax : matplotlib Axes
    table : DataFrame with the columns `task`, `level` (1, the hardest to transfer, … n_levels), `epoch`, `difference`
    n_levels : int
    y_label : str
    """
    colors = colormaps["viridis"](np.linspace(0, 0.85, n_levels))  # a level looks the same in every panel
    ax.axhline(0, color="0.5", linewidth=0.8, zorder=1)
    styles = itertools.cycle(("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1))))
    for level, color, style in zip(range(n_levels, 0, -1), colors, styles):
        group = table[table.level == level]
        if group.empty:
            continue
        curve = group.groupby("epoch").difference
        mean, error = curve.mean(), curve.sem()
        count = group.task.nunique()
        ax.plot(
            mean.index, mean, linestyle=style, color=color, label=f"level {level} ({count} task{'s' * (count != 1)})"
        )
        ax.fill_between(mean.index, mean - error, mean + error, color=color, alpha=0.15, linewidth=0)
    ax.set_xscale("symlog", linthresh=1, linscale=0.3)  # logarithmic from epoch 1 on; epoch 0 has a place too
    last = int(table.epoch.max())
    ticks = [0, *(t for t in (1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1000) if t <= last)]
    ax.set_xticks(ticks, map(str, ticks))
    ax.minorticks_off()
    ax.set(xlabel="Epoch", ylabel=y_label, xlim=(0, last))
    ax.legend(loc="lower right", title="LEEP, mean ± standard error")
    return ax


def candidates(ax: Axes, table: pd.DataFrame, predictor: str, x_label: str, y_label: str = "Test accuracy") -> Axes:
    """A predictor vs. test accuracy, a marker a candidate source model (Figures 5, 9).

    Parameters
    ----------
    ax : matplotlib Axes
    table : DataFrame with the columns `title`, `test_accuracy` and the predictor's, absent where a candidate has none
        A candidate keeps its colour and marker in all panels of tables that hold the same candidates. A panel of a
        predictor that none has is left out.
    predictor : str
    x_label, y_label : str
    """
    if predictor not in table or table[predictor].isna().all():
        ax.set_axis_off()
        return ax
    for row, look in _candidate_looks(table):
        if pd.notna(row.get(predictor)):
            ax.plot(row[predictor], row["test_accuracy"], **look, linestyle="", markersize=4.5, label=row["title"])
    ax.locator_params(axis="x", nbins=4)
    ax.set(xlabel=x_label, ylabel=y_label)
    ax.margins(0.12)
    return ax


def candidate_names(ax: Axes, table: pd.DataFrame) -> Axes:
    """The candidates' names right of the last of a line of panels, each at the height of its accuracy.

    Parameters
    ----------
    ax : matplotlib Axes
        Of `candidates`. Its limits must not change afterwards.
    table : DataFrame
        As for `candidates`.
    """
    looks = sorted(_candidate_looks(table), key=lambda found: found[0]["test_accuracy"])
    low, high = ax.get_ylim()
    heights = np.array([(row["test_accuracy"] - low) / (high - low) for row, _ in looks])
    for (row, look), height, place in zip(looks, heights, _apart(heights, gap=0.1)):
        ax.plot([1, 1.06], [height, place], transform=ax.transAxes, clip_on=False, color="0.7", linewidth=0.5)
        ax.plot(1.1, place, **look, transform=ax.transAxes, clip_on=False, markersize=4)
        ax.text(1.17, place, row["title"], transform=ax.transAxes, va="center", fontsize=6)
    return ax


def _candidate_looks(table: pd.DataFrame) -> list[tuple[dict, dict]]:
    colors = colormaps["viridis"](np.linspace(0, 0.9, len(table)))
    by_title = table.sort_values("title").to_dict("records")
    return [(r, {"color": c, "marker": m}) for r, c, m in zip(by_title, colors, itertools.cycle("os^vDP<>X*"))]


def _apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """Ascending places that are at least `gap` apart, near `heights` (ascending), with the same mean."""
    steps = gap * np.arange(len(heights))
    places = np.maximum.accumulate(heights - steps) + steps
    return places - (places - heights).mean()


def heat_map(ax: Axes, values: pd.DataFrame, signs: pd.DataFrame) -> Axes:
    """Numbers in cells whose grey follows them: white at 0 and below, dark at 1; the largest of each row is framed.

    Parameters
    ----------
    ax : matplotlib Axes
    values : DataFrame of floats, rows and columns as they are to be shown
    signs : DataFrame of str, of the same shape
        What stands in a cell without a number.
    """
    numbers = values.to_numpy(float)
    ax.imshow(np.ma.masked_invalid(numbers), cmap="Greys", vmin=0, vmax=1.25, aspect="auto")  # 1.25: black is left out
    for (i, j), value in np.ndenumerate(numbers):
        missing = np.isnan(value)
        text = signs.iat[i, j] if missing else f"{value:+.2f}".replace("-", "−")
        ax.text(j, i, text, ha="center", va="center", fontsize=6, color="white" if value > 0.8 else "black")
        if not missing and round(value, 3) == np.nanmax(numbers[i]).round(3):
            ax.add_patch(Rectangle((j - 0.47, i - 0.45), 0.94, 0.9, fill=False, edgecolor="black", linewidth=1.2))
    ax.set_xticks(range(values.shape[1]), values.columns, rotation=40, ha="left", rotation_mode="anchor")
    ax.set_yticks(range(len(values)), values.index)
    ax.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False, length=0)
    ax.spines[:].set_visible(False)
    return ax


def message(ax: Axes, text: str) -> Axes:
    """A picture without data says what to run."""
    box = {"boxstyle": "round,pad=0.6", "facecolor": "0.95", "edgecolor": "none"}
    ax.text(0.5, 0.45, text, ha="center", va="center", transform=ax.transAxes, fontsize=7, color="0.3", bbox=box)
    ax.set_axis_off()
    return ax


def note(ax: Axes, text: str, width: int = 68) -> Axes:
    """What must be known of a panel, in small type below it."""
    below = {"xytext": (0, -32), "textcoords": "offset points", "xycoords": "axes fraction"}
    wrapped = "\n".join(textwrap.wrap(text, width))
    ax.annotate(wrapped, (0.5, 0), **below, ha="center", va="top", fontsize=6, color="0.3")
    return ax
