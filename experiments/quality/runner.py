"""Runs `experiment=ranking_quality`: what a ranking says of few images, and what the candidates reach in the end.

results/ranking_quality/seed<seed>-<hash>/
    setting.json    what determines the rows
    scores.csv      of each target, number of images a class, draw and candidate: the measures, and the check
    truths.csv      of each target, candidate and method: the accuracy on the target's test images

The check is the cross-validated head of `leep rank`. `correct` holds which images were predicted right, as
hexadecimal digits of the bits, so that candidates can be compared image by image.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import numpy as np

from experiments.quality.config import QualityConfig
from experiments.quality.targets import EXPERIMENT, LabelledImages, find_targets
from leep.errors import Invalid, LeepError, Missing
from leep.machine import versions
from leep.measures import score_task
from leep.models import Model, expand_specs, model_outputs, open_model
from leep.probe import held_out, probe
from leep.progress import progress
from leep.results import Table, open_folder
from leep.sources.preprocess import Preprocessing
from leep.tasks import SAMPLING, TRAINING, task_rng
from leep.transfer.retrain_head import train_head

SCORES = ["target", "per_class", "draw", "candidate", "n_images", "n_features", "accuracy", "correct"]  # and measures
TRUTHS = ["target", "candidate", "method", "n_train", "n_test", "accuracy", "correct"]
METHODS = ("converged_head", "retrain_head", "fine_tune")
PACKAGES = ("numpy", "scipy", "mxnet", "gluoncv", "onnxruntime", "scikit-learn")


def run(config: QualityConfig) -> Path:
    """Write all rows that are not there; returns the folder.

    Raises
    ------
    Missing
        If no candidate, or no target, can be had.
    Invalid
        If something is missing and `strict` is true.
    """
    lacks: list[str] = []
    models = {m.name: m for m in _open_models(config.candidates, lacks)}
    targets = list(_open_targets(config, lacks))
    if lacks and (config.strict or not models or not targets):
        lines = "".join(f"\n  - {lack}" for lack in lacks)
        raise (Invalid if models and targets else Missing)(f"{EXPERIMENT} lacks:{lines}")
    if lacks:
        print(f"Left out, because something is missing (strict=true makes it an error): {len(lacks)}")
        print("".join(f"  - {lack}\n" for lack in lacks), end="")
    folder = config.folder()
    provenance = {"python": platform.python_version(), "packages": versions(PACKAGES)}
    open_folder(folder, config.setting(), {"deviations": config.deviations(), "scale": config.scale}, provenance)
    scores = Table(folder / "scores.csv", [*SCORES, *config.measures], ["target", "per_class", "draw", "candidate"])
    with scores, Table(folder / "truths.csv", TRUTHS, ["target", "candidate", "method"]) as truths:
        for target in targets:
            seen = config.trained_on.get(target.name, ())
            candidates = [m for m in models.values() if not any(fnmatch(m.name, pattern) for pattern in seen)]
            for model in progress(candidates, total=len(candidates), desc=target.name, unit=" candidates"):
                _record(config, target, model, scores, truths)
    return folder


def _open_models(specs: Sequence[str], lacks: list[str]) -> Iterator[Model]:
    for spec in specs:
        try:
            for each in expand_specs([spec]):
                yield open_model(each, threads=1)
        except LeepError as error:
            lacks.append(str(error))


def _open_targets(config: QualityConfig, lacks: list[str]) -> Iterator[LabelledImages]:
    for name in config.targets:
        try:
            yield from find_targets(name, config.images, config.seed, config.data_root)
        except LeepError as error:
            lacks.append(str(error))


def _record(config: QualityConfig, target: LabelledImages, model: Model, scores: Table, truths: Table) -> None:
    """The rows of a candidate on a target."""
    wanted = [
        (n, draw)
        for n, draw in _sizes(config, target)
        if (target.name, str(n), str(draw), model.name) not in scores.done
    ]
    methods = [
        method
        for method in METHODS
        if (target.name, model.name, method) not in truths.done
        and (method != "fine_tune" or _is_fine_tuned(config, target, model))
    ]
    if not wanted and not methods:
        return
    outputs = [model_outputs(model, part, cache=config.cache) for part in target.parts]
    features = np.concatenate([o.features for o in outputs])
    probs = None if model.n_classes is None else np.concatenate([o.probs for o in outputs])
    for n, draw in wanted:
        rows = draw_rows(target, n, draw, config.seed)
        arrays = {"features": features[rows], "target_labels": target.labels[rows]}
        if probs is not None:
            arrays |= {"source_probs": probs[rows], "source_labels": probs[rows].argmax(1)}
        done = probe(features[rows], target.labels[rows], seed=config.seed)
        name = {"target": target.name, "per_class": n, "draw": draw, "candidate": model.name}
        of_rows = {"n_images": len(rows), "n_features": features.shape[1]}
        check = {"accuracy": done.accuracy, "correct": pack(done.correct)}
        scores.append({**name, **of_rows, **check, **{m: _score(m, arrays) for m in config.measures}})
    for method in methods:
        correct = _truth(config, target, model, method, features)
        counts = {"n_train": int(target.is_train.sum()), "n_test": len(correct)}
        name = {"target": target.name, "candidate": model.name, "method": method}
        truths.append({**name, **counts, "accuracy": float(correct.mean()), "correct": pack(correct)})


def _sizes(config: QualityConfig, target: LabelledImages) -> Iterator[tuple[int, int]]:
    """Images a class, and the number of the draw; all images are drawn once."""
    most = int(np.bincount(target.labels[target.is_train]).max())
    yield from ((n, draw) for n in config.per_class if n < most for draw in range(config.draws))
    yield most, 0


def draw_rows(target: LabelledImages, per_class: int, draw: int, seed: int) -> np.ndarray:
    """Training images, ascending: `per_class` of each class, or all; of one draw a smaller number is part of a larger.

    >>> labels = np.repeat([0, 1], 6)
    >>> target = LabelledImages("mine", (), labels, np.tile([True, False], 6))
    >>> labels[draw_rows(target, 2, 0, 0)].tolist()
    [0, 0, 1, 1]
    """
    keys = task_rng(seed, EXPERIMENT, target.name, draw + 1, SAMPLING).random(len(target.labels))
    rows = np.flatnonzero(target.is_train)
    rows = rows[np.lexsort((keys[rows], target.labels[rows]))]
    of_class = [rows[target.labels[rows] == k][:per_class] for k in np.unique(target.labels[rows])]
    return np.sort(np.concatenate(of_class))


def _score(measure: str, arrays: Mapping[str, np.ndarray]) -> float | None:
    """A measure, or None where it is undefined, which `leep rank` leaves blank too."""
    n, d = arrays["features"].shape
    if measure == "h_score" and n <= d + 1:
        return None  # it is n_classes − 1 whatever the images are
    try:
        value = float(score_task(measure, arrays))
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def _is_fine_tuned(config: QualityConfig, target: LabelledImages, model: Model) -> bool:
    return target.name in config.fine_tuned["targets"] and model.name in config.fine_tuned["candidates"]


def _truth(config: QualityConfig, target: LabelledImages, model: Model, method: str, features: np.ndarray):
    """Which test images are predicted right after training on all training images, bool `(n_test,)`."""
    train, test = np.flatnonzero(target.is_train), np.flatnonzero(~target.is_train)
    labels, n_classes = target.labels, int(target.labels.max()) + 1
    rng = task_rng(config.seed, EXPERIMENT, target.name, 0, TRAINING)
    if method == "converged_head":
        return held_out(features, labels, test, seed=config.seed)
    if method == "retrain_head":
        epochs, options = config.epochs["retrain_head"], vars(config.retrain_head)
        head = train_head(features[train], labels[train], n_classes, rng, epochs=epochs, **options)
        return head.predict(features[test]) == labels[test]
    return _fine_tune(config, target, model, n_classes, rng) == labels[test]


def _fine_tune(
    config: QualityConfig, target: LabelledImages, model: Model, n_classes: int, rng: np.random.Generator
) -> np.ndarray:
    """Classes of the test images by a network of GluonCV that is trained as a whole."""
    from leep.engines import create_engine
    from leep.models.gluon import find_network

    engine = create_engine("gluon", threads=1)
    from leep.engines.graph import get_weights
    from leep.sources.forward import batch_size
    from leep.sources.zoo import build, count_classes, load_weights
    from leep.transfer.fine_tune import initial_weights
    from leep.transfer.training import predict_classes, train_network

    architecture, weights = find_network(model.name.removeprefix("gluon:"))
    trainer = engine.trainer(
        build(architecture, n_classes, np.random.SeedSequence(0)), **config.fine_tune.trainer_options()
    )
    start = get_weights(load_weights(architecture, count_classes(architecture, weights), weights)[0])
    prepare = Preprocessing(model.size, model.mean, model.std)
    images = np.concatenate([part.images for part in target.parts])
    rows = np.flatnonzero(target.is_train)
    epochs = config.epochs["fine_tune"]
    with progress(total=epochs * len(rows), desc=f"fine-tuning {model.name}", unit=" images", leave=False) as bar:
        train_network(
            trainer,
            initial_weights(start, trainer.graph, n_classes, rng),
            images,
            rows,
            target.labels[rows],
            rng,
            prepare=prepare,
            epochs=epochs,
            batch_size=config.fine_tune.batch_size,
            learning_rate=config.fine_tune.learning_rate,
            report=lambda n: bar.update(n),
        )
    return predict_classes(trainer, images, np.flatnonzero(~target.is_train), prepare, batch_size(model.size))


def pack(correct: np.ndarray) -> str:
    """Bits as hexadecimal digits.

    >>> pack(np.array([True, False, True])), unpack("a0", 3).tolist()
    ('a0', [True, False, True])
    """
    return np.packbits(correct).tobytes().hex()


def unpack(text: str, n: int) -> np.ndarray:
    """The first `n` bits, bool `(n,)`."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8), count=n).astype(bool)
