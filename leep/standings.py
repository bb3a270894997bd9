"""Who is first, and how sure that is: values of models and the values on resamples that all models share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from leep.probe import Z_95, Probe, probe_on_part
from leep.resampling import resamples

SURE = 0.975  # share of resamples from which on one model is called better: two-sided, 95 %
FAR = 100  # times the images at hand: a larger number of images is not named
SHARES = (0.25, 0.5)  # of the training images, for the curve
REPEATS = 2  # of each share up to REPEATED images, one above
REPEATED = 5_000


@dataclass(frozen=True, eq=False)
class Standings:
    """What ranks the models: their values, and those on the resamples, which all models share.

    Attributes
    ----------
    names : list of str, the best first, equals by name
    values : float64 array `(n_models,)`
    resampled : float64 array `(n_resamples, n_models)`
    n : int
        Images that the values are means of.
    """

    names: list[str]
    values: np.ndarray
    resampled: np.ndarray
    n: int

    @property
    def p_best(self) -> np.ndarray:
        """Share of the resamples in which a model is first; those that are first together share it."""
        if not self.names:
            return np.empty(0)
        first = self.resampled == self.resampled.max(axis=1, keepdims=True)
        return (first / first.sum(axis=1, keepdims=True)).mean(axis=0)

    @property
    def better(self) -> np.ndarray:
        """P(row better than column)."""
        rows, columns = self.resampled[:, :, None], self.resampled[:, None, :]
        return (rows > columns).mean(axis=0) + (rows == columns).mean(axis=0) / 2

    @property
    def within_noise(self) -> tuple[str, ...]:
        """The first model and those that it does not beat in enough resamples."""
        if not self.names:
            return ()
        return tuple(name for name, p in zip(self.names, self.better[0]) if p < SURE)

    @property
    def n_to_tell_apart(self) -> float:
        """Images at which each difference from the first within noise is 1.96 of its standard errors; may be inf."""
        most = 0.0
        for name in self.within_noise[1:]:
            m = self.names.index(name)
            difference = self.values[0] - self.values[m]
            error = (self.resampled[:, 0] - self.resampled[:, m]).std()
            most = max(most, self.n * (Z_95 * error / difference) ** 2 if difference > 0 else math.inf)
        return most

    @property
    def is_tied(self) -> bool:
        """Whether even `FAR` times as many images would not tell the first from those within noise."""
        return self.n_to_tell_apart > FAR * self.n


def stand_by_accuracy(probes: Mapping[str, Probe], codes: np.ndarray, n_resamples: int, seed: int) -> Standings:
    """Models ranked by their probes. All probes have the same folds; `codes` are the classes of all images."""
    names = sorted(probes, key=lambda name: (-probes[name].accuracy, name))
    tested = probes[names[0]].tested
    correct = np.stack([probes[name].correct for name in names], axis=1).astype(np.float64)
    resampled = resampled_means(correct, codes[tested], n_resamples, seed)
    return Standings(names, correct.mean(axis=0), resampled, len(tested))


def stand_by_score(values: Mapping[str, float], resampled: Mapping[str, np.ndarray], n: int) -> Standings:
    """Models ranked by a measure, such as LEEP, from `n` images."""
    names = sorted(values, key=lambda name: (-values[name], name))
    columns = np.stack([resampled[name] for name in names], axis=1) if names else np.empty((1, 0))
    return Standings(names, np.array([values[name] for name in names]), columns, n)


def resampled_means(columns: np.ndarray, codes: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Means of the columns `(n, k)` on each resample, `(n_resamples, k)`; equal sums of integers stay equal."""
    return np.concatenate([weights @ columns for weights in resamples(codes, n_resamples, seed)]) / len(codes)


def recommend(standings: Standings, verified: bool) -> str:
    """The recommendation and its certainty, in one sentence."""
    names, close = standings.names, standings.within_noise
    prefix = "" if verified else "Ranked by LEEP, not verified: "
    if not names:
        return "Not ranked: no model gives probabilities, which LEEP needs, and nothing was verified."
    first = _value(standings, 0, verified)
    if len(names) == 1:
        return f"{prefix}{names[0]} is the only model, {first}."
    if len(close) == 1:
        sure, second = _share(standings.p_best[0]), _value(standings, 1, verified)
        return f"{prefix}{names[0]} is the best in {sure}, {first}; {names[1]} is second, {second}."
    text = f"{prefix}no clear winner: {', '.join(close[:-1])} and {close[-1]} lie within noise"
    text = text[0].upper() + text[1:]
    needed = standings.n_to_tell_apart
    if standings.is_tied:
        return f"{text}; {FAR} times as many images would hardly tell them apart."
    return f"{text}; about {_round_up(max(needed, 1.1 * standings.n)):,} images in all would tell them apart."


def on_parts(features: np.ndarray, done: Probe, seed: int) -> np.ndarray:
    """How often heads trained on each of `SHARES`, and on all, predict each tested image right, `(n_tested, 3)`."""
    repeats = range(REPEATS if len(done.labels) <= REPEATED else 1)
    parts = [np.mean([probe_on_part(features, done, share, r, seed) for r in repeats], axis=0) for share in SHARES]
    return np.stack([*parts, done.correct], axis=1)


def would_more_change(
    parts: Mapping[str, np.ndarray], standings: Standings, codes: np.ndarray, n_resamples: int, seed: int
) -> str:
    """Whether twice as many images would change the choice.

    The accuracies are carried on by one more doubling, at their mean change per doubling so far. Nothing is said of the
    choice where the models are tied, nor where that makes a model that would be ahead, or the first, right on more than
    all images.

    Parameters
    ----------
    parts : mapping of str to float array `(n_tested, 3)`
        What `on_parts` gives for each model.
    standings : Standings
    codes : int64 array `(n_tested,)`
        Classes of the tested images.
    n_resamples, seed : int
        As for the standings.
    """
    first, *others = standings.names
    gained = 100 * float((parts[first][:, 2] - parts[first][:, 1]).mean())
    gain = f"The last doubling of the images changed the accuracy of {first} by {gained:+.1f} points"
    if not others or standings.is_tied:
        return f"{gain}."
    then = np.stack([p[:, 2] + (p[:, 2] - p[:, 0]) / 2 for p in (parts[name] for name in standings.names)], axis=1)
    leads = resampled_means(then[:, :1] - then[:, 1:], codes, n_resamples, seed)
    stays = (leads > 0).mean(axis=0) + (leads == 0).mean(axis=0) / 2
    rival = int(stays.argmin())
    if stays[rival] >= SURE:
        return f"{gain}; twice as many would hardly change the choice."
    if then[:, [0, 1 + rival]].mean(axis=0).max() > 1:
        return f"{gain}."
    if stays[rival] <= 1 - SURE:
        return f"{gain}; with twice as many {others[rival]} would be ahead, for it gains faster."
    return f"{gain}; whether twice as many would change the choice lies within noise."


def _value(standings: Standings, m: int, verified: bool) -> str:
    value = standings.values[m]
    return f"right on {100 * value:.1f} % of the images" if verified else f"LEEP {value:.3f}"


def _share(share: float) -> str:
    return "all resamples" if share == 1 else f"{min(100 * share, 99.9):.1f} % of the resamples"


def _round_up(number: float) -> int:
    """To two significant digits."""
    unit = 10 ** max(math.floor(math.log10(number)) - 1, 0)
    return math.ceil(number / unit) * unit
