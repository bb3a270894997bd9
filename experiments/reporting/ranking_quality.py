"""When a ranking is right, from the CSVs of `experiment=ranking_quality`: make quality [RESULTS=DIR].

The truth is what the candidates reach on test images after training on all training images. A predictor, which may
have seen fewer images, is right where the candidate that it puts first is the most accurate one; its regret is the
accuracy lost by following it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from experiments.quality.runner import SCORES, unpack
from experiments.quality.targets import EXPERIMENT
from experiments.reporting.cli import run_main
from experiments.reporting.figures import STYLE
from experiments.reporting.predictors import label
from experiments.reporting.readme import updated
from experiments.reporting.render import markdown_lines, signed
from experiments.reporting.selection import MIN_CANDIDATES
from leep.errors import Missing
from leep.files import write_atomically
from leep.results import read_rows, read_setting
from leep.standings import Standings, resampled_means
from leep.statistics import weighted_kendall

PAGE = Path(__file__).resolve().parents[2] / "docs" / "ranking_quality.md"
MIN_TARGETS = 5  # an interval over fewer says nothing
N_RESAMPLES = 2_000  # of targets, for intervals
N_NOISE = 500  # of images
CHECK = "check"
BASELINES = {
    "best_elsewhere": "The model that is best on the other targets",
    "random": "A model by chance",
    "test_noise": "The truth itself, with other test images",
}
LABELS = {CHECK: "Check (cross-validated head)", **BASELINES}
MODELS = {  # among which the ranking chooses: the glob patterns of the candidates that are left out
    "all": (),
    "ImageNet": ("*cifar*",),
}
METHODS = {
    "converged_head": "heads trained to convergence",
    "retrain_head": "heads re-trained as in the paper",
    "fine_tune": "fine-tuned models",
}


def read(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`scores.csv` and `truths.csv` of a run.

    Raises
    ------
    Missing
        If they hold no row.
    """
    scores = read_rows(folder / "scores.csv", ["target", "per_class", "draw", "candidate"], SCORES)
    truths = read_rows(folder / "truths.csv", ["target", "candidate", "method"], ["n_test", "accuracy", "correct"])
    if scores.empty or truths.empty:
        raise Missing(f"{folder} holds no results; run python run.py experiment={EXPERIMENT}")
    return scores.rename(columns={"accuracy": CHECK}), truths


def evaluate_all(scores: pd.DataFrame, truths: pd.DataFrame) -> pd.DataFrame:
    """`evaluate` among all candidates, and among those of each of `MODELS`, which the column `models` names."""
    parts = []
    for models, patterns in MODELS.items():
        kept = [c for c in scores.candidate.unique() if not any(fnmatch(c, pattern) for pattern in patterns)]
        part = evaluate(scores[scores.candidate.isin(kept)], truths[truths.candidate.isin(kept)])
        parts.append(part.assign(models=models))
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def evaluate(scores: pd.DataFrame, truths: pd.DataFrame) -> pd.DataFrame:
    """Each predictor on each target.

    Returns
    -------
    DataFrame, a row a statistic
        `target`, `size` (images a class; `all` for the largest of the target), `method`, `predictor`, `statistic`,
        `value`, the mean over draws. Only candidates that have a truth count. A measure that is undefined for one of
        them has no row.
    """
    measures = [c for c in scores if c not in {*SCORES} - {"accuracy"}]
    parts = []
    for (target, method), truth in truths.groupby(["target", "method"]):
        truth = truth.set_index("candidate").sort_index()
        of_target = scores[(scores.target == target) & scores.candidate.isin(truth.index)]
        everywhere = truths[(truths.method == method) & (truths.target != target)]
        elsewhere = everywhere.groupby("candidate").accuracy.mean().reindex(truth.index)
        for size, of_size in of_target.groupby("per_class"):
            rows = []
            for _, of_draw in of_size.groupby("draw"):
                of_draw = of_draw.set_index("candidate").sort_index()
                found = truth.loc[of_draw.index]
                if len(found) < 2:
                    continue
                rows += _of_measures(of_draw[measures], found.accuracy.to_numpy())
                rows += _of_baselines(found, elsewhere.loc[of_draw.index])
                rows += _of_noise(of_draw, found.accuracy.to_numpy())
            if not rows:
                continue
            mean = pd.DataFrame(rows, columns=["predictor", "statistic", "value"])
            mean = mean.groupby(["predictor", "statistic"], as_index=False).value.mean()
            sizes = [str(size), *(["all"] if size == of_target.per_class.max() else [])]
            parts += [mean.assign(target=target, method=method, size=s) for s in sizes]
    columns = ["target", "size", "method", "predictor", "statistic", "value"]
    if not parts:
        return pd.DataFrame(columns=columns)
    evaluated = pd.concat(parts, ignore_index=True)[columns]
    return pd.concat([evaluated, _beside_check(evaluated)], ignore_index=True)


def _beside_check(evaluated: pd.DataFrame) -> pd.DataFrame:
    """On each target, how much more accuracy than with the check is lost by following a predictor."""
    regrets = evaluated[evaluated.statistic == "regret"]
    of_check = regrets[regrets.predictor == CHECK].drop(columns=["predictor", "statistic"])
    joined = regrets[regrets.predictor != CHECK].merge(
        of_check, on=["target", "size", "method"], suffixes=("", "_of_check")
    )
    more = joined.assign(statistic="regret_over_check", value=joined.value - joined.value_of_check)
    return more.drop(columns="value_of_check")


def _of_measures(predicted: pd.DataFrame, reached: np.ndarray) -> Iterator[tuple[str, str, float]]:
    for predictor in predicted:
        values = predicted[predictor].to_numpy(float)
        if np.isnan(values).any():
            continue
        yield from _choice(predictor, values, reached)
        if len(values) >= MIN_CANDIDATES and (tau := weighted_kendall(values, reached, n_resamples=2).r) is not None:
            yield predictor, "tau", tau


def _choice(predictor: str, values: np.ndarray, reached: np.ndarray) -> Iterator[tuple[str, str, float]]:
    """Whether the first is the best, and the accuracy lost by following it; of equal values each may be the first.

    Values `(n_candidates,)`, or `(n, n_candidates)` for the mean over n rankings.
    """
    first = values == values.max(-1, keepdims=True)
    chance = first / first.sum(-1, keepdims=True)
    yield predictor, "first_is_best", float((chance @ (reached == reached.max())).mean())
    yield predictor, "regret", float(reached.max() - (chance @ reached).mean())


def _of_baselines(truth: pd.DataFrame, elsewhere: pd.Series) -> Iterator[tuple[str, str, float]]:
    reached = truth.accuracy.to_numpy()
    yield from _choice("random", np.zeros(len(reached)), reached)
    if elsewhere.notna().all():
        yield from _choice("best_elsewhere", elsewhere.to_numpy(), reached)
    n = int(truth.n_test.iloc[0])
    correct = np.stack([unpack(text, n) for text in truth.correct], axis=1).astype(float)
    again = resampled_means(correct, np.zeros(n, np.int64), N_NOISE, 0)
    yield from _choice("test_noise", again, reached)


def _of_noise(of_draw: pd.DataFrame, reached: np.ndarray) -> Iterator[tuple[str, str, float]]:
    """What the check says of its own certainty: a clear winner, and the models within noise of the first."""
    n = int(of_draw.n_images.iloc[0])
    correct = np.stack([unpack(text, n) for text in of_draw.correct], axis=1).astype(float)
    order = np.argsort(-of_draw[CHECK].to_numpy(), kind="stable")
    again = resampled_means(correct[:, order], np.zeros(n, np.int64), N_NOISE, 0)
    standings = Standings(list(map(str, order)), correct.mean(0)[order], again, n)
    close = [int(k) for k in standings.within_noise]
    yield CHECK, "n_within_noise", float(len(close))
    yield CHECK, "best_within_noise", float(reached[close].max() == reached.max())
    yield CHECK, "clear_winner", float(len(close) == 1)
    if len(close) == 1:
        yield CHECK, "regret_of_clear_winner", float(reached.max() - reached[close[0]])


def summarise(evaluated: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Means over targets with 95 % bootstrap intervals over targets.

    Returns
    -------
    DataFrame
        `models`, `size`, `method`, `predictor`, `statistic`, `value`, `low`, `high`, `n_targets`. There is no interval
        over fewer than five targets.
    """
    rows = []
    keys = ["models", "size", "method", "predictor", "statistic"]
    for name, group in evaluated.groupby(keys):
        values = group.sort_values("target").value.to_numpy()
        low = high = None
        if len(values) >= MIN_TARGETS:
            drawn = np.random.default_rng(seed).integers(0, len(values), (N_RESAMPLES, len(values)))
            low, high = np.percentile(values[drawn].mean(axis=1), [2.5, 97.5])
        rows.append((*name, values.mean(), low, high, len(values)))
    columns = [*keys, "value", "low", "high", "n_targets"]
    return pd.DataFrame(rows, columns=columns).astype({"low": float, "high": float})


def to_markdown(summary: pd.DataFrame, deviations: list[str], counts: dict[str, int]) -> str:
    """For each method a table with a row a predictor, and what the check says of its own certainty."""
    said = ", ".join(f"{n} {what}" for what, n in counts.items())
    parts = [
        f"From {said}. Restricted: {'; '.join(deviations)}. In brackets: 95 % bootstrap intervals over targets, where "
        f"there are at least {MIN_TARGETS}. `all` are all training images of a target, whatever their number."
    ]
    for (method, title), models in itertools.product(METHODS.items(), MODELS):
        part = summary[(summary.method == method) & (summary.models == models)]
        if len(part):
            among = "" if models == "all" else f", among the models of {models} alone"
            parts += [f"### Against {title}{among}", "\n".join(markdown_lines(_table(part))), _certainty(part)]
    return "\n\n".join(parts)


def _table(summary: pd.DataFrame) -> list[list[str]]:
    """Regret at each size; from the fewest images and from all, the share of right choices and τ."""
    sizes = [*sorted({*summary["size"]} - {"all"}, key=int), "all"]
    cells = {(row.predictor, row.statistic, row.size): row for row in summary.itertuples()}
    ends = [sizes[0], "all"]
    columns = [
        *(("regret", size, f"Regret, {size}", lambda v: f"{100 * v:.1f}") for size in sizes),
        *(("first_is_best", size, f"First is best, {size}", "{:.0%}".format) for size in ends),
        *(("tau", size, f"Weighted τ, {size}", lambda v: signed(v, 2)) for size in ends),
    ]
    known = summary[(summary.statistic == "regret") & (summary["size"] == "all")]
    rows = [["Predictor", *(title for _, _, title, _ in columns), "Targets"]]
    known = known.assign(missing=-known.n_targets)  # what was rarely defined comes last
    for predictor in known.sort_values(["missing", "value", "predictor"]).predictor:
        texts = [_cell(cells.get((predictor, statistic, size)), form) for statistic, size, _, form in columns]
        rows.append([_label(predictor), *texts, str(cells[predictor, "regret", "all"].n_targets)])
    return rows


def _cell(row, form: Callable[[float], str]) -> str:
    if row is None:
        return "—"
    return form(row.value) + ("" if pd.isna(row.low) else f" [{form(row.low)}, {form(row.high)}]")


def _certainty(summary: pd.DataFrame) -> str:
    sentences = []
    for size in [*sorted({*summary["size"]} - {"all"}, key=int), "all"]:
        row = summary[(summary.predictor == CHECK) & (summary["size"] == size)].set_index("statistic").value
        images = "all" if size == "all" else f"{size} images a class"
        text = (
            f"From {images}: a clear winner in {row.clear_winner:.0%} of the cases, {row.n_within_noise:.1f} models "
            f"within noise on average, the best among them in {row.best_within_noise:.0%}"
        )
        if "regret_of_clear_winner" in row:
            text += f"; a clear winner costs {100 * row.regret_of_clear_winner:.1f} points"
        sentences.append(f"- {text}.")
    return "What the check says of its own certainty:\n\n" + "\n".join(sentences)


def _label(predictor: str) -> str:
    return LABELS.get(predictor, label(predictor))


def draw_regret(ax: plt.Axes, summary: pd.DataFrame, method: str = "converged_head") -> plt.Axes:
    """Regret of each predictor from the fewest images a class and from all, with intervals."""
    rows = summary[(summary.method == method) & (summary.statistic == "regret") & (summary.models == "all")]
    few = min({*rows["size"]} - {"all"}, key=int)
    series = {f"from {few} images a class": rows[rows["size"] == few], "from all": rows[rows["size"] == "all"]}
    order = _of_all_targets(series["from all"]).sort_values("value", ascending=False).predictor.tolist()
    return _draw_dots(ax, series, order, "Regret, points of accuracy", 100)


def draw_tau(ax: plt.Axes, summary: pd.DataFrame, size: str = "all") -> plt.Axes:
    """Weighted τ of each predictor against each method, with intervals."""
    rows = summary[(summary.statistic == "tau") & (summary["size"] == size) & (summary.models == "all")]
    series = {title: rows[rows.method == method] for method, title in METHODS.items() if method in {*rows.method}}
    order = _of_all_targets(rows[rows.method == "converged_head"]).sort_values("value").predictor.tolist()
    return _draw_dots(ax, series, order, "Weighted τ", 1)


def _of_all_targets(rows: pd.DataFrame) -> pd.DataFrame:
    """The predictors that no target lacks: a mean over a few of the targets cannot be held against the others."""
    return rows[rows.n_targets == rows.n_targets.max()]


def _draw_dots(ax: plt.Axes, series: dict[str, pd.DataFrame], order: list[str], text: str, unit: float) -> plt.Axes:
    """A row a predictor, the last of `order` on top, with a point and an interval of each series."""
    for k, (title, rows) in enumerate(series.items()):
        part = rows.set_index("predictor").reindex(order).dropna(subset="value")
        y = np.array([order.index(p) for p in part.index]) + 0.22 * (0.5 * (len(series) - 1) - k)
        error = np.nan_to_num(np.abs(part[["low", "high"]].to_numpy().T - part.value.to_numpy()))
        ax.errorbar(unit * part.value, y, xerr=unit * error, fmt="o^s"[k], markersize=3, linewidth=1, label=title)
    ax.set(xlabel=text, yticks=range(len(order)), yticklabels=[_label(p) for p in order])
    if series:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=6)
    return ax


def write(results: Path, folder: Path) -> str:
    """Write `quality.csv`, `quality.md` and two figures beside the run; returns the text."""
    scores, truths = read(folder)
    summary = summarise(evaluate_all(scores, truths))
    if summary.empty:
        raise Missing(f"{folder} holds no target with two candidates; python run.py experiment={EXPERIMENT} adds some")
    deviations = read_setting(folder)["notes"]["deviations"]
    counts = {"targets": scores.target.nunique(), "candidates": scores.candidate.nunique()}
    text = to_markdown(summary, deviations, counts)
    place = results / EXPERIMENT
    write_atomically(place / "quality.csv", summary.to_csv(index=False, float_format="%.6g").encode())
    write_atomically(place / "quality.md", f"# Is the ranking right?\n\n{text}\n".encode())
    for name, draw in (("regret", draw_regret), ("tau", draw_tau)):
        with plt.style.context(STYLE):
            fig, ax = plt.subplots(figsize=(4.6, 3.6), layout="constrained")
            draw(ax, summary)
            fig.savefig(place / f"{name}.png", metadata={"Software": None})
            plt.close(fig)
    return text


def find_folder(results: Path, seed: int = 0) -> Path:
    """The run of a seed with most scores.

    Raises
    ------
    Missing
        If there is none.
    """
    folders = sorted((results / EXPERIMENT).glob(f"seed{seed}-*/scores.csv"))
    if not folders:
        raise Missing(f"{results} holds no run of seed {seed}; run python run.py experiment={EXPERIMENT}")
    return max(folders, key=lambda path: path.stat().st_size).parent


def main() -> None:
    """Write table and figures of a results folder; of results/reference also the table of docs/ranking_quality.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", action="store_true", help="write the table into docs/ranking_quality.md too")
    arguments = parser.parse_args()
    text = write(arguments.results, find_folder(arguments.results, arguments.seed))
    if arguments.page:
        write_atomically(PAGE, updated(PAGE.read_text("utf-8"), text).encode())
    print(text)


if __name__ == "__main__":
    run_main(main)
