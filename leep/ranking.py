"""Which of several models to fine-tune on labelled images, and how sure the answer is (Section 5.7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from leep.explanation import aligned, check_probs, name_classes, plain_records
from leep.measures import check_measure, measure_arguments, score_task
from leep.measures._check import check_finite, check_matrix
from leep.probe import N_FOLDS, Probe, probe
from leep.progress import progress
from leep.resampling import NoInterval, resampled_scores
from leep.standings import (
    SHARES,
    SURE,
    Standings,
    on_parts,
    recommend,
    stand_by_accuracy,
    stand_by_score,
    would_more_change,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from tqdm import tqdm

VERIFY = ("probe", "none")
FEW = 10  # images of a class, below which its accuracy says little


@dataclass(frozen=True, eq=False)
class Ranking:
    """Models ranked, with the certainty of the order.

    Attributes
    ----------
    sentence : str
        The recommendation and its certainty.
    best : tuple of str
        The models within noise of the first, the first among them; empty where nothing could be ranked.
    table : DataFrame
        A row a model, the best first: `model`; `rank`, equal for equal values; `accuracy` of the probe, `accuracy_se`,
        `accuracy_low`, `accuracy_high`; `p_best`; each measure with `_low` and `_high`, its 95 % interval;
        `n_features`, `n_source_classes`, `notes`. What was not computed is NA.
    better : DataFrame
        P(row better than column), the share of the resamples, ties half each; models in the order of `table`.
    by_class : DataFrame
        A row a class: `class`, `n_images`, then the probe's accuracy of each model, NA for a class not tested.
    curve : DataFrame
        Accuracy against the number of training images: `model`, `share`, `n_train`, `accuracy`, `accuracy_se`.
    more_data : str
        Whether more images would change the choice; empty without a curve.
    warnings : tuple of str
        What would mislead a reader of the table.
    probes : dict of str to Probe
        The probe of each model: predictions, confusion. Empty with `verify="none"`.
    classes : tuple
        The classes that occur, by label.
    """

    sentence: str
    best: tuple[str, ...]
    table: pd.DataFrame
    better: pd.DataFrame
    by_class: pd.DataFrame
    curve: pd.DataFrame
    more_data: str
    warnings: tuple[str, ...]
    probes: dict[str, Probe]
    classes: tuple

    def to_dict(self) -> dict:
        """The same as dictionaries, lists, strings and numbers, ready for JSON; without the probes."""
        return {
            "sentence": self.sentence,
            "best": list(self.best),
            "more_data": self.more_data,
            "warnings": list(self.warnings),
            "models": plain_records(self.table),
            "better": self.better.to_dict("index"),
            "by_class": plain_records(self.by_class),
            "curve": plain_records(self.curve),
        }

    def plot(self, ax: Axes | None = None) -> Axes:
        """Dot plot, the best model on top: accuracy, or LEEP where nothing was verified, with 95 % intervals."""
        if ax is None:
            import matplotlib.pyplot as plt

            ax = plt.subplots(figsize=(6, 0.8 + 0.35 * len(self.table)), layout="constrained")[1]
        value = "accuracy" if self.probes else "leep"
        for y, row in enumerate(self.table.to_dict("records")):
            if pd.isna(row[value]):
                continue
            color = "#0072B2" if row["model"] in self.best else "0.45"
            if pd.notna(row[f"{value}_low"]):
                ax.plot([row[f"{value}_low"], row[f"{value}_high"]], [y, y], color=color, linewidth=1.5)
            ax.plot(row[value], y, "o", color=color, markersize=6)
        label = "Cross-validated accuracy of a linear head" if self.probes else "LEEP (nats), not verified"
        ax.set(xlabel=label, yticks=range(len(self.table)), yticklabels=self.table["model"])
        ax.set_ylim(len(self.table) - 0.5, -0.5)
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        return ax

    def __str__(self) -> str:
        table = self.table
        measures = [column[:-4] for column in table if column.endswith("_low") and column != "accuracy_low"]
        accuracies = table[["accuracy", "accuracy_se"]].to_numpy()
        with_errors = ["" if pd.isna(p) else f"{p:.3f} ± {se:.3f}" for p, se in accuracies]
        columns = {
            "model": table["model"],
            "rank": [_text(value, "d") for value in table["rank"]],
            **({"accuracy": with_errors} if self.probes else {}),
            "P(best)": [_text(value, ".2f") for value in table["p_best"]],
            **{m: [_with_interval(row, m) for row in table.to_dict("records")] for m in measures},
            "features": [f"{value:,}" for value in table["n_features"]],
            "source classes": [_text(value, ",d") for value in table["n_source_classes"]],
        }
        notes = [f"{name}: {note}" for name, note in zip(table["model"], table["notes"]) if note]
        blocks = [
            " ".join(filter(None, (self.sentence, self.more_data))),
            aligned(list(columns), list(zip(*columns.values()))),
            "\n".join(notes),
            "\n".join(f"Warning: {warning}" for warning in self.warnings),
        ]
        return "\n\n".join(filter(None, blocks))


def rank(
    outputs: Mapping[str, tuple] | Iterable[tuple[str, tuple]],
    labels: Sequence[int] | Sequence[str] | np.ndarray,
    *,
    seed: int = 0,
    measures: Sequence[str] = ("leep", "nce", "h_score"),
    verify: str = "probe",
    n_resamples: int = 1000,
    curve: bool = True,
    show_progress: bool = False,
) -> Ranking:
    """Rank models by how well a head on their features classifies these images.

    What decides is the cross-validated accuracy of a linear head trained to convergence (`leep.probe`). The measures
    stand beside it. All certainty comes from one stratified bootstrap over images, the same for all models.

    Parameters
    ----------
    outputs : mapping of str to (probs, features), or pairs of a name and that
        What each model gives for the images: `probs`, `(n, n_source_classes)`, each row a distribution, or None for a
        model without a classifier; `features`, `(n, n_features)`, finite.
    labels : `(n,)`, integers ≥ 0 or strings
        At least two classes, one of them with two images or more.
    seed : int
        Deals the folds and draws the resamples.
    measures : sequence of str
        Names of `leep.measures.MEASURES`, or `module:function`.
    verify : {"probe", "none"}
        "none" ranks by LEEP and trains nothing.
    n_resamples : int, at least 100
        A measure whose resamples are costly takes fewer, and `notes` says so.
    curve : bool
        Whether to train the heads on a quarter and on half of the images too; it doubles the time.
    show_progress : bool
        On the error stream: a step for each model's measures, for its head, and for its heads on parts of the images.

    Returns
    -------
    Ranking
        The same for any number of threads. It does not depend on the order of the models or the names of the classes.

    Raises
    ------
    ValueError
        If a shape, dtype, value or name is not as above. The message names the model.
    RuntimeError
        If no model's head converges. A model whose head alone does not is ranked last, and `notes` says so.

    References
    ----------
    Nguyen et al., 2020, Section 5.7. `docs/ranking.md` explains each number.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> labels = np.repeat(["cat", "dog"], 40)
    >>> good = rng.normal(size=(80, 3)) + 2 * (labels == "cat")[:, None]
    >>> ranking = rank({"good": (None, good), "poor": (None, rng.normal(size=(80, 3)))}, labels)
    >>> ranking.best, ranking.table.p_best.tolist()
    (('good',), [1.0, 0.0])
    """
    classes, codes = name_classes("labels", labels)
    models = _check_outputs(outputs, len(codes))
    measures = list(dict.fromkeys(measures))
    _check_options(measures, verify, n_resamples, classes, codes)
    counts = np.bincount(codes)
    steps = len(models) * (1 if verify == "none" else 2 + bool(curve))
    with progress(total=steps, desc="heads and measures", unit=" steps", disable=not show_progress) as bar:
        scores = {}
        for name, (probs, features) in models.items():
            scores[name] = {m: _score(m, probs, features, codes, n_resamples, seed) for m in measures}
            bar.update()
        probes, failed = _probe_all(models, codes, seed, bar) if verify == "probe" else ({}, {})
        if probes:
            standings = stand_by_accuracy(probes, codes, n_resamples, seed)
        else:
            known = {name: of["leep"] for name, of in scores.items() if of["leep"].value is not None}
            values = {name: score.value for name, score in known.items()}
            resampled = {name: score.resampled for name, score in known.items()}
            standings = stand_by_score(values, resampled, len(codes))
        parts = _parts(models, probes, standings.names, seed, bar) if probes and curve else {}
    order = [*standings.names, *sorted(set(models) - set(standings.names))]
    tested = codes[probes[order[0]].tested] if probes else codes
    more_data = "No curve: a head on a part of the images does not converge." if probes and curve else ""
    if parts:
        more_data = would_more_change(parts, standings, tested, n_resamples, seed)
    return Ranking(
        sentence=recommend(standings, bool(probes)),
        best=standings.within_noise,
        table=_table(order, standings, probes, failed, scores, models),
        better=pd.DataFrame(standings.better, standings.names, standings.names),
        by_class=_by_class(classes, counts, order, probes),
        curve=_curve(parts, len(codes), len(tested)),
        more_data=more_data,
        warnings=tuple(_warnings(classes, counts, models, scores, standings, probes)),
        probes={name: probes[name] for name in order if name in probes},
        classes=tuple(classes),
    )


@dataclass(frozen=True, eq=False)
class _Score:
    """A measure of one model. What is absent is None, and `note` says why."""

    value: float | None = None
    resampled: np.ndarray | None = None
    note: str = ""

    @property
    def interval(self) -> tuple[float | None, float | None]:
        if self.resampled is None:
            return None, None
        low, high = np.percentile(self.resampled, [2.5, 97.5])
        return float(low), float(high)


def _check_outputs(outputs, n: int) -> dict[str, tuple[np.ndarray | None, np.ndarray]]:
    pairs = list(outputs.items() if isinstance(outputs, Mapping) else outputs)
    if not pairs:
        raise ValueError("outputs must hold at least one model, got none")
    names = [name for name, _ in pairs]
    for name in names:
        if not isinstance(name, str) or not name:
            raise ValueError(f"outputs must be named by strings, got {name!r}")
        if names.count(name) > 1:
            raise ValueError(f"outputs must not name a model twice, got {name!r} {names.count(name)} times")
    checked = {}
    for name, given in pairs:
        if not isinstance(given, tuple | list) or len(given) != 2:
            raise ValueError(f"outputs[{name!r}] must be (probs, features), got {type(given).__name__}")
        probs, features = given
        try:
            features = check_matrix("features", "n_features", features)
            check_finite("features", features)
            probs = None if probs is None else check_probs("probs", probs)
        except ValueError as error:
            raise ValueError(f"outputs[{name!r}]: {error}") from error
        for what, values in (("features", features), ("probs", probs)):
            if values is not None and len(values) != n:
                raise ValueError(f"outputs[{name!r}]: {what} must have a row a label, {n}, got {len(values)}")
        checked[name] = probs, features
    return checked


def _check_options(measures: list[str], verify: str, n_resamples: int, classes: list, codes: np.ndarray) -> None:
    for measure in measures:
        check_measure(measure)
    if verify not in VERIFY:
        raise ValueError(f"verify must be among {', '.join(VERIFY)}, got {verify!r}")
    if verify == "none" and "leep" not in measures:
        raise ValueError(f"measures must hold leep, which ranks with verify='none', got {', '.join(measures)}")
    if not isinstance(n_resamples, int | np.integer) or n_resamples < 100:
        raise ValueError(f"n_resamples must be an integer of at least 100, got {n_resamples!r}")
    if len(classes) < 2:
        raise ValueError(f"labels must hold at least two classes, got only {classes[0]!r}")
    if len(classes) == len(codes):
        raise ValueError(f"labels must hold a class of two images or more, got {len(classes)} classes of one")


def _score(
    measure: str, probs: np.ndarray | None, features: np.ndarray, codes: np.ndarray, n_resamples: int, seed: int
) -> _Score:
    """A measure with its resamples, moved so that their mean is the score: repeated images raise the scores of all."""
    arguments = measure_arguments(measure)
    if probs is None and {"source_probs", "source_labels"} & set(arguments):
        return _Score(note=f"{measure}: the model gives no probabilities")
    arrays = {"features": features, "target_labels": codes}
    if probs is not None:
        arrays |= {"source_probs": probs, "source_labels": probs.argmax(axis=1)}
    if measure == "h_score":
        distinct, varying = len(np.unique(features, axis=0)), int((np.ptp(features, axis=0) > 0).sum())
        if distinct <= varying + 1:
            return _Score(note=f"h_score: {distinct:,} distinct images are too few for {varying:,} features")
    try:
        value = score_task(measure, arrays)
    except ValueError as error:
        return _Score(note=f"{measure}: {error}")
    if not np.isfinite(value):
        return _Score(note=f"{measure}: the measure gave {value}")
    try:
        resampled = resampled_scores(measure, arrays, n_resamples, seed)
    except NoInterval as error:
        return _Score(float(value), None, f"{measure} has no interval: {error}")
    note = f"{measure}: interval from {len(resampled)} resamples" if len(resampled) < n_resamples else ""
    return _Score(float(value), resampled - resampled.mean() + value, note)


def _probe_all(models: Mapping, codes: np.ndarray, seed: int, bar: tqdm) -> tuple[dict[str, Probe], dict[str, str]]:
    """The probe of each model, and why those that lack one do."""
    probes, failed = {}, {}
    for name, (_, features) in models.items():
        try:
            probes[name] = probe(features, codes, seed=seed)
        except RuntimeError as error:
            failed[name] = str(error)
        bar.update()
    if not probes:
        raise RuntimeError(f"no head converged; {'; '.join(f'{name}: {why}' for name, why in failed.items())}")
    return probes, failed


def _parts(
    models: Mapping, probes: Mapping[str, Probe], names: Sequence[str], seed: int, bar: tqdm
) -> dict[str, np.ndarray]:
    """Correctness of heads on parts of the images, for the curve; empty where one of them does not converge."""
    parts = {}
    for name in names:
        try:
            parts[name] = on_parts(models[name][1], probes[name], seed)
        except RuntimeError:
            return {}
        bar.update()
    return parts


def _table(
    order: list[str],
    standings: Standings,
    probes: Mapping[str, Probe],
    failed: Mapping[str, str],
    scores: Mapping[str, Mapping[str, _Score]],
    models: Mapping[str, tuple[np.ndarray | None, np.ndarray]],
) -> pd.DataFrame:
    place, p_best = {name: m for m, name in enumerate(standings.names)}, standings.p_best
    rows = []
    for name in order:
        probs, features = models[name]
        m, done = place.get(name), probes.get(name)
        row = {
            "model": name,
            "rank": None if m is None else 1 + int((standings.values > standings.values[m]).sum()),
            "accuracy": done and done.accuracy,
            "accuracy_se": done and done.standard_error,
            "accuracy_low": done and done.interval[0],
            "accuracy_high": done and done.interval[1],
            "p_best": None if m is None else p_best[m],
        }
        for measure, score in scores[name].items():
            row[measure] = score.value
            row[f"{measure}_low"], row[f"{measure}_high"] = score.interval
        row["n_features"] = features.shape[1]
        row["n_source_classes"] = None if probs is None else probs.shape[1]
        notes = [f"accuracy: {failed[name]}"] if name in failed else []
        row["notes"] = "; ".join(notes + [score.note for score in scores[name].values() if score.note])
        rows.append(row)
    whole = {"rank": "Int64", "n_features": "int64", "n_source_classes": "Int64", "model": object, "notes": object}
    return pd.DataFrame(rows).astype({column: whole.get(column, "float64") for column in rows[0]})


def _by_class(classes: list, counts: np.ndarray, order: list[str], probes: Mapping[str, Probe]) -> pd.DataFrame:
    accuracies = {name: probes[name].accuracy_by_class for name in order if name in probes}
    return pd.DataFrame({"class": classes, "n_images": counts, **accuracies})


def _curve(parts: Mapping[str, np.ndarray], n: int, n_tested: int) -> pd.DataFrame:
    training = n - n_tested / N_FOLDS
    rows = [
        (name, share, round(share * training), right[:, s].mean(), right[:, s].std() / np.sqrt(n_tested))
        for name, right in parts.items()
        for s, share in enumerate((*SHARES, 1.0))
    ]
    return pd.DataFrame(rows, columns=["model", "share", "n_train", "accuracy", "accuracy_se"])


def _warnings(
    classes: list,
    counts: np.ndarray,
    models: Mapping[str, tuple[np.ndarray | None, np.ndarray]],
    scores: Mapping[str, Mapping[str, _Score]],
    standings: Standings,
    probes: Mapping[str, Probe],
) -> Iterator[str]:
    alone = [str(name) for name, count in zip(classes, counts) if count == 1]
    if alone and probes:
        yield f"{_some(alone)} has one image, which is trained on and never tested."
    few = [f"{name} ({count})" for name, count in zip(classes, counts) if 1 < count < FEW]
    if few:
        yield f"fewer than {FEW} images of {_some(few)}: the accuracy of such a class says little."
    measures = next(iter(scores.values()))
    valued = {m: [name for name in models if scores[name][m].value is not None] for m in measures}
    for measure, of, k in (("h_score", "features", 1), ("leep", "source classes", 0), ("nce", "source classes", 0)):
        widths = {models[name][k].shape[1] for name in valued.get(measure, ())}
        if len(widths) > 1:
            yield (
                f"{measure} compares models with {', '.join(f'{w:,}' for w in sorted(widths))} {of}, "
                f"but it rises with the number of {of} by itself."
            )
    if valued.get("h_score") == [] and "h_score_shrunk" not in measures:
        yield "h_score is blank: too few images for the features of all models; h_score_shrunk is for few images."
    if not probes:
        return
    first, place = standings.names[0], standings.names.index
    for measure in measures:
        known = {name: scores[name][measure].value for name in probes if scores[name][measure].value is not None}
        if len(known) < 2:
            continue
        favourite = max(known, key=lambda name: (known[name], -place(name)))
        if standings.better[0, place(favourite)] >= SURE:
            a, b = probes[favourite].accuracy, probes[first].accuracy
            yield f"{measure} puts {favourite} first, whose head is right on {a:.1%}; {first}'s on {b:.1%}."
    if weak := no_better_than_largest(probes, counts):
        whose = "no head does" if len(weak) == len(probes) else f"{', '.join(weak)}: the head does not do"
        largest = f"right on {counts.max() / counts.sum():.1%}"
        yield f"{whose} surely better than to always answer the largest class, {largest}."


def no_better_than_largest(probes: Mapping[str, Probe], counts: np.ndarray) -> list[str]:
    """The models whose heads are not surely better than to always answer the largest class."""
    return [name for name, done in probes.items() if done.interval[0] <= counts.max() / counts.sum()]


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _text(value: object, form: str) -> str:
    return "" if pd.isna(value) else format(value, form)


def _with_interval(row: Mapping[str, object], name: str) -> str:
    if pd.isna(row[f"{name}_low"]):
        return _text(row[name], ".3f")
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
