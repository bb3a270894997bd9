"""`leep rank --verify fine_tune:N`: the first models of the ranking are fine-tuned, and compared with their heads."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from leep.commands.survey import Candidate, duration
from leep.errors import Invalid, LeepError
from leep.explanation import plain_records
from leep.probe import head_of_fold
from leep.standings import Standings, resampled_means

if TYPE_CHECKING:
    from leep.models import FolderImages, Outputs
    from leep.models.fine_tune import FineTuned
    from leep.probe import Probe
    from leep.ranking import Ranking

FOLD = 0  # of the probe: its images test, the others train
RESAMPLES = 1000
NOT_TRAINABLE = "only torchvision:, timm: and hf: networks, and PyTorch modules of python:, can be trained"


@dataclass(frozen=True, eq=False)
class FineTuning:
    """What fine-tuning says of the models that the heads put first.

    Attributes
    ----------
    sentence : str
        Who is first after fine-tuning, and whether the heads agree; empty where none was trained.
    table : DataFrame
        A row for each model that was trained, in the order of the heads: `model`; `fine_tuned`, its accuracy on the
        held-out images, and `fine_tuned_se`; `fine_tuned_head`, the accuracy of its head on them; `images_per_second`.
    failed : dict of str to str
        Why the others that should have been were not.
    epochs, n_tested : int
    """

    sentence: str
    table: pd.DataFrame
    failed: dict[str, str]
    epochs: int
    n_tested: int

    def to_dict(self) -> dict:
        """Dictionaries, lists, strings and numbers, ready for JSON."""
        return {
            "sentence": self.sentence,
            "epochs": self.epochs,
            "n_tested": self.n_tested,
            "models": plain_records(self.table),
            "failed": self.failed,
        }


def fine_tune_first(
    candidates: Sequence[Candidate],
    ranking: Ranking,
    outputs: Mapping[str, Outputs],
    images: FolderImages,
    count: int,
    *,
    epochs: int,
    seed: int,
    cache: Path,
    say: Callable[[str], None],
    end: float | None = None,
    **options,
) -> FineTuning:
    """Fine-tune the first `count` models of the ranking that can be trained, each from its head of the first fold.

    Parameters
    ----------
    candidates : sequence of Candidate
    ranking : Ranking
        With probes.
    outputs : mapping of str to Outputs
        Of each model by its name.
    images : FolderImages
    count, epochs, seed : int
    cache : Path
    say : callable
        Gets a line for each model that is not trained.
    end : float, optional
        When `time.monotonic()` is there, the time is used up.
    **options
        Of `open_model`.
    """
    by_name, rows, correct, failed = {c.name: c for c in candidates}, [], [], {}
    labels, folds = (getattr(next(iter(ranking.probes.values())), what) for what in ("labels", "folds"))
    test = np.flatnonzero(folds == FOLD)
    for name in ranking.table["model"]:
        if len(rows) == count:
            break
        candidate, done = by_name[name], ranking.probes.get(name)
        try:
            _check(candidate, done, candidate.training_seconds(len(images), epochs), end)
            head = head_of_fold(outputs[name].features, done, FOLD)
            found = _train(candidate.spec, options, images, labels, test, head, epochs=epochs, seed=seed, cache=cache)
        except Exception as error:  # whatever a library raises, e.g. for lack of memory, must not cost the answer
            kind = "" if isinstance(error, LeepError) else f"{type(error).__name__}: "
            failed[name] = f"{kind}{' '.join(str(error).split())[:300]}"
            say(f"{name} is not fine-tuned: {failed[name]}")
            continue
        finally:
            gc.collect()
        right, head_right = ((p == labels[test]).mean() for p in (found.predicted, done.predicted[test]))
        rows.append((name, right, np.sqrt(right * (1 - right) / len(test)), head_right, found.images_per_second))
        correct.append(found.predicted == labels[test])
    columns = ["model", "fine_tuned", "fine_tuned_se", "fine_tuned_head", "images_per_second"]
    table = pd.DataFrame(rows, columns=columns)
    sentence = compare(table["model"].tolist(), np.array(correct), labels[test], epochs, seed) if rows else ""
    return FineTuning(sentence, table, failed, epochs, len(test))


def _check(candidate: Candidate, done: Probe | None, seconds: float | None, end: float | None) -> None:
    """Raise `Invalid` if a model cannot be fine-tuned, or not in time."""
    if done is None:
        raise Invalid("it has no head to start from")
    if not candidate.model.trainable:
        raise Invalid(NOT_TRAINABLE)
    if end is not None and seconds is not None and time.monotonic() + seconds > end:
        raise Invalid(f"would take {duration(seconds)}, more than --budget leaves")


def _train(spec: str, open_options: Mapping, *arguments: object, **options: object) -> FineTuned:
    """`fine_tune` of a model that is opened here, and let go."""
    from leep.models import open_model
    from leep.models.fine_tune import fine_tune

    return fine_tune(open_model(spec, **open_options), *arguments, **options)


def compare(names: Sequence[str], correct: np.ndarray, labels: np.ndarray, epochs: int, seed: int) -> str:
    """Which model is first after fine-tuning, how sure that is, and whether it is the first of the heads, too.

    Parameters
    ----------
    names : sequence of str
        In the order of their heads.
    correct : bool array `(n_models, n_tested)`
    labels : int64 array `(n_tested,)`
    epochs, seed : int
    """
    values = correct.mean(axis=1)
    order = np.argsort(-values, kind="stable")
    columns = correct[order].T.astype(np.float64)
    resampled = resampled_means(columns, labels, RESAMPLES, seed)
    standings = Standings([names[m] for m in order], values[order], resampled, len(labels))
    first, close = standings.names[0], standings.within_noise
    said = f"Fine-tuned for {epochs} epoch{'s' if epochs > 1 else ''} and tested on {len(labels):,} images"
    said = f"{said}, {first} is right on {100 * values.max():.1f} %"
    if len(names) == 1:
        return f"{said}."
    if first == names[0]:
        noise = f", but {_listed(close[1:])} within noise" if len(close) > 1 else ""
        return f"{said}: the first of their heads stays the first{noise}."
    rival = f"{names[0]}, the first of their heads, on {100 * values[0]:.1f} %"
    if names[0] in close:
        return f"{said} and {rival}; that lies within noise."
    return f"{said} and {rival}: fine-tuning orders them otherwise than the heads."


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names)} {'lies' if len(names) == 1 else 'lie'}"
