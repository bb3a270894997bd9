"""Meta-training of CNAPs: Adam over episodes, the state that does best on held-out classes is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from leep.files import write_atomically
from leep.measures._classes import add_rows_by_class, encode
from leep.sources.preprocess import Preprocessing
from leep.transfer.cnaps.episodes import MAX_SUPPORT, MAX_WAYS, Episode, draw_episode

TURNS = 4  # quarter turns of an image; each makes a class of its own
EPISODES, VALIDATION = 3, 4  # purposes of generators


@dataclass(frozen=True, eq=False)
class Pool:
    """Images of some classes of one data set, from which episodes are drawn.

    Attributes
    ----------
    name : str
    images : uint8 array `(n, height, width, 1 or 3)`
    labels : int array `(n,)`
    turned : bool
        The images turned by 90, 180 and 270 degrees are further classes (Santoro et al., 2016).
    """

    name: str
    images: np.ndarray
    labels: np.ndarray
    turned: bool = False

    @cached_property
    def all_labels(self) -> np.ndarray:
        """Labels of all rows: row `turn · n + i` is image i after so many quarter turns."""
        turns = np.arange(TURNS if self.turned else 1)
        return (self.labels + turns[:, None] * (self.labels.max() + 1)).ravel()

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The images of some rows."""
        turns, index = np.divmod(rows, len(self.labels))
        images = self.images[index]
        for turn in range(1, TURNS):
            images[turns == turn] = np.rot90(images[turns == turn], turn, axes=(1, 2))
        return images


def meta_train(
    learner,
    pools: Sequence[Pool],
    held_out: Sequence[Pool],
    *,
    prepare: Preprocessing,
    seed: int,
    steps: int,
    tasks_per_step: int = 16,
    learning_rate: float = 5e-4,
    anneal: int = 0,
    max_support: int = MAX_SUPPORT,
    max_ways: int = MAX_WAYS,
    validate_every: int = 100,
    validation_tasks: int = 100,
    checkpoint: Path | None = None,
    report: Callable[[dict], None] = lambda row: None,
) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Meta-train; interrupted, the same call goes on from the checkpoint to the same state.

    Parameters
    ----------
    learner : GluonMetaLearner or TorchMetaLearner
    pools, held_out : sequence of Pool
        Of meta-training and of validation; an episode is of one pool, each as likely. They share no class.
    prepare : Preprocessing
        To [−1, 1].
    seed : int
    steps : int
        Steps of Adam.
    tasks_per_step : int
        The loss of a task is the sum of its query cross-entropies over this number, plus the penalty.
    learning_rate : float
    anneal : int
        In so many of the last steps the learning rate falls to zero, linearly.
    max_support : int
        Context images of an episode.
    max_ways : int
        Classes of an episode.
    validate_every, validation_tasks : int
        Steps between validations, each on the same episodes.
    checkpoint : Path, optional
        Written at every validation.
    report : callable
        Told of every step: `step`, `loss`, `accuracy`, and `validation_accuracy` where there was one.

    Returns
    -------
    state : dict of str to array
        Of the best validation, the first of equals.
    log : list of dict
        A row a validation: `step`, `loss` and `accuracy` since the last, `validation_accuracy`.

    Raises
    ------
    ValueError
        If the checkpoint has more steps behind it.
    FloatingPointError
        If the loss is no longer finite.

    References
    ----------
    Requeima et al., NeurIPS 2019, Section 4 and Appendix.
    """
    log, first, best = [], 0, (-1.0, {})
    if checkpoint is not None and checkpoint.exists():
        state, log, first, best = _read(checkpoint)
        if first > steps:
            raise ValueError(f"steps must be at least {first}, which {checkpoint} has behind it, got {steps}")
        learner.load_state(state)
    recent = []
    for step in range(first, steps):
        tasks = []
        for index in range(step * tasks_per_step, (step + 1) * tasks_per_step):
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(EPISODES, index)))
            tasks.append(_arrays(pools, prepare, rng, max_support, max_ways))
        results = np.array(learner.learn(tasks, 1 / tasks_per_step))
        if not np.isfinite(results).all():
            raise FloatingPointError(f"meta-training diverged at step {step}: lower learning_rate ({learning_rate})")
        learner.step(learning_rate * min(1, (steps - step) / max(1, anneal)))
        recent.append(results.mean(0))
        row = {"step": step + 1, "loss": recent[-1][0], "accuracy": recent[-1][1]}
        if (step + 1) % validate_every == 0 or step + 1 == steps:
            bounds = max_support, max_ways
            accuracy = float(np.mean(validate(learner, held_out, prepare, seed, validation_tasks, *bounds)))
            loss, trained = np.mean(recent, axis=0)
            row |= {"loss": loss, "accuracy": trained, "validation_accuracy": accuracy}
            log.append(row)
            recent, state = [], learner.state()
            if accuracy > best[0]:
                best = accuracy, state
            if checkpoint is not None:
                _write(checkpoint, state, log, step + 1, best)
        report(row)
    return best[1], log


def pool_features(
    predict: Callable, pools: Sequence[Pool], prepare: Preprocessing, per_class: int = 500, batch: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """The source's features of the first images of every class of all pools, and a label for each class.

    Parameters
    ----------
    predict : callable
        Of an engine: images `(n, 3, h, w)` → features, logits.
    pools : sequence of Pool
    prepare : Preprocessing
        Of the source.
    per_class : int
        Images of a class, at most.
    batch : int
        Images of a call.

    Returns
    -------
    features : float32 array `(n, d)`
    labels : int array `(n,)`
    """
    features, labels = [], []
    for pool in pools:
        _, of_pool = np.unique(pool.all_labels, return_inverse=True)
        rows = np.concatenate([np.flatnonzero(of_pool == c)[:per_class] for c in range(of_pool.max() + 1)])
        parts = np.array_split(rows, -(-len(rows) // batch))
        features += [predict(prepare(pool.take(part)))[0] for part in parts]
        labels.append(of_pool[rows] + (labels[-1].max() + 1 if labels else 0))
    return np.concatenate(features), np.concatenate(labels)


def whitening(features: np.ndarray, labels: np.ndarray, shrinkage: float = 0.02) -> dict[str, np.ndarray]:
    """Weights of `Cnaps.whiten` that give the features of all classes the same spherical covariance, and zero mean.

    Parameters
    ----------
    features : float array `(n, d)`
    labels : int array `(n,)`
    shrinkage : float, 0 to 1
        The within-class covariance S is taken as (1 − shrinkage) S + shrinkage · tr(S)/d · I.

    Returns
    -------
    dict of float32 arrays, `whiten.weight` `(d, d)` and `whiten.bias` `(d,)`
        The inverse square root of that covariance, and minus the mean times it.
    """
    features = np.ascontiguousarray(features, np.float64)
    classes, labels = encode(labels)
    means = np.zeros((len(classes), features.shape[1]))
    add_rows_by_class(features, labels, means)
    means /= np.bincount(labels)[:, None]
    centred = features - means[labels]
    covariance = centred.T @ centred / len(features)
    spherical = np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * spherical)
    weight = (vectors / np.sqrt(values)) @ vectors.T
    bias = -weight @ features.mean(0)
    return {"whiten.weight": weight.astype(np.float32), "whiten.bias": bias.astype(np.float32)}


def validate(
    learner, pools: Sequence[Pool], prepare: Preprocessing, seed: int, count: int, *bounds: int
) -> list[float]:
    """Query accuracy of some episodes, the same for the same seed; `bounds` as of `draw_episode`."""
    accuracies = []
    for index in range(count):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(VALIDATION, index)))
        *inputs, labels = _arrays(pools, prepare, rng, *bounds)
        accuracies.append(float(np.mean(learner.predict(*inputs).argmax(1) == labels)))
    return accuracies


def _arrays(pools, prepare, rng, *bounds) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Context, their classes one-hot, query, and its labels, of an episode."""
    pool = pools[int(rng.integers(len(pools)))]
    episode: Episode = draw_episode(pool.all_labels, rng, *bounds)
    context, query = (prepare(pool.take(rows)) for rows in (episode.support_rows, episode.query_rows))
    return context, one_hot(episode.support_labels, episode.ways), query, episode.query_labels


def one_hot(labels: np.ndarray, ways: int) -> np.ndarray:
    """`(n,)` → float32 `(n, ways)`."""
    return np.eye(ways, dtype=np.float32)[labels]


def _write(path: Path, state: Mapping, log: list[dict], step: int, best: tuple[float, Mapping]) -> None:
    columns = ("step", "loss", "accuracy", "validation_accuracy")
    arrays = {"log": np.array([[row[c] for c in columns] for row in log]), "step": step, "best": best[0]}
    arrays |= {f"state:{k}": v for k, v in state.items()} | {f"best:{k}": v for k, v in best[1].items()}
    write_atomically(path, lambda f: np.savez(f, **arrays))


def _read(path: Path) -> tuple[dict, list[dict], int, tuple[float, dict]]:
    with np.load(path) as saved:
        state, best = (
            {k.removeprefix(prefix): saved[k] for k in saved.files if k.startswith(prefix)}
            for prefix in ("state:", "best:")
        )
        columns = ("step", "loss", "accuracy", "validation_accuracy")
        log = [dict(zip(columns, row)) for row in saved["log"].tolist()]
        return state, log, int(saved["step"]), (float(saved["best"]), best)
