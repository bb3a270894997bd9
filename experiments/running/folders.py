"""Section 5.7 on a folder of images: the answer of `leep rank` for the candidates, as a table and a page."""

from __future__ import annotations

import hashlib
import math
import shlex
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.running.pair import SourceTarget
from leep.commands.survey import Candidate
from leep.models import FolderImages, ImageFolder, Outputs, imagenet_classes
from leep.models.arrays import StoredOutputs
from leep.models.gluon import CIFAR10
from leep.reporting.answer import Answer, Places, make_answer, write_answer
from leep.results import read_rows
from leep.standings import Z_95
from leep.transfer.method import Method
from leep.transfer.network import used_part


def rank_folders(pairs: Sequence[SourceTarget]) -> Iterator[str]:
    """Write table and page for each target that is a folder; yields what the terminal shows.

    Parameters
    ----------
    pairs : sequence of SourceTarget
        Those whose pass is made, and whose methods have run.
    """
    for name in dict.fromkeys(pair.target.name for pair in pairs if pair.target.reader == "folder"):
        of_target = [pair for pair in pairs if pair.target.name == name]
        answer = answer_folder(of_target)
        config = of_target[0].config
        folder = config.results / f"{config.experiment.name}-{name}-seed{config.seed}"
        write_answer(answer, Places(folder / "index.html", folder / "ranking.csv", folder / "ranking.json"))
        yield f"{answer.text()}\n\n{folder / 'index.html'}"


def answer_folder(pairs: Sequence[SourceTarget]) -> Answer:
    """The ranking of the source models of one folder: training and test images together, as `leep rank` takes them."""
    begin, first = time.monotonic(), pairs[0]
    images = _images(first)
    outputs, candidates = {}, []
    for pair in pairs:
        name, found = pair.source.name, pair.outputs()
        features = np.concatenate([found.train_features, found.test_features])
        probs = np.concatenate([found.train_probs, found.test_probs])
        outputs[name] = Outputs(features, probs)
        notes = tuple(f"{_describe(pair, m)}: {_text(*found)}" for m in pair.methods if (found := _reached(pair, m)))
        model = StoredOutputs(name, features, probs, None, _class_names(pair), pair.weights.sha256, notes)
        candidates.append(Candidate(name, name, model))
    config = first.config
    answer = make_answer(images, candidates, outputs, measures=config.measures, verify="probe", seed=config.seed)
    for method in first.methods:
        reached = {pair.source.name: found for pair in pairs if (found := _reached(pair, method))}
        by_name = pd.DataFrame(reached, ["accuracy", "se"]).T.reindex(answer.table.model)
        answer.table[f"{method.name}_accuracy"] = by_name.accuracy.to_numpy(float)
        answer.table[f"{method.name}_se"] = by_name.se.to_numpy(float)
        answer.warnings += (f"{_describe(first, method)}: {_compare(reached)}",) if reached else ()
    answer.warnings += first.data.notes
    if any(method.name == "fine_tune" for method in first.methods):
        answer.not_tried = "Fine-tuning was tried as configured; the notes on the models give its accuracies."
    answer.about |= {
        "command": _command(pairs),
        "folder": str(first.target.path),
        "device": config.engine.device,
        "n_images_found": len(images),
        "damaged": {},  # those that were left out are among the notes
        "seconds": round(time.monotonic() - begin, 1),
    }
    return answer


def _images(pair: SourceTarget) -> FolderImages:
    """The folder's images in the order of the pass: training images first."""
    path = Path(str(pair.target.path)).expanduser()
    labels = np.concatenate([pair.data.train_labels, pair.data.test_labels])
    pixels = (image for part in (pair.data.train_images, pair.data.test_images) for image in part)
    hashes = tuple(hashlib.blake2b(np.ascontiguousarray(image), digest_size=16).digest() for image in pixels)
    path = path.parent if path.is_file() else path
    folder = ImageFolder(path, pair.data.files, labels, pair.data.class_names, ("",) * len(labels))
    return FolderImages(folder, {}, np.arange(len(labels)), {}, hashes)


def _class_names(pair: SourceTarget) -> tuple[str, ...] | None:
    known = {"ImageNet": imagenet_classes, "CIFAR10": lambda: CIFAR10}.get(pair.source.trained_on, tuple)()
    return tuple(known) if len(known) == pair.source.n_classes else None


def _reached(pair: SourceTarget, method: Method) -> tuple[float, float] | None:
    """Test accuracy of the transferred model and its standard error, or None if it failed."""
    rows = read_rows(pair.method_folder(method) / "transfers.csv", ["task"], ["test_accuracy"])
    if rows.empty:
        return None
    p = float(rows.test_accuracy.iloc[0])
    return p, math.sqrt(p * (1 - p) / _n_tested(pair, method))


def _n_tested(pair: SourceTarget, method: Method) -> int:
    return len(used_part(pair.task(0), pair.budget(method)).test_rows)


def _describe(pair: SourceTarget, method: Method) -> str:
    epochs = pair.budget(method).epochs
    return f"{method.label}{f', {epochs} epochs' if epochs else ''}, {_n_tested(pair, method):,} test images"


def _text(accuracy: float, error: float) -> str:
    return f"{accuracy:.3f} ± {error:.3f}"


def _compare(reached: dict[str, tuple[float, float]]) -> str:
    """The most accurate model, and those that as many test images cannot tell from it.

    >>> _compare({"a": (0.6, 0.05), "b": (0.7, 0.05), "c": (0.2, 0.05)})
    'b is the most accurate, 0.700 ± 0.050; no clear winner: a lies within noise.'
    """
    name = max(reached, key=lambda n: reached[n][0])
    p, error = reached[name]
    close = [n for n, (q, e) in reached.items() if n != name and p - q < Z_95 * math.hypot(error, e)]
    text = f"{name} is the most accurate, {_text(p, error)}"
    if not close:
        return f"{text}."
    return f"{text}; no clear winner: {', '.join(close)} {'lie' if len(close) > 1 else 'lies'} within noise."


def _command(pairs: Sequence[SourceTarget]) -> str:
    config, target = pairs[0].config, pairs[0].target
    sources, methods = (",".join(names) for names in ([p.source.name for p in pairs], [m.name for m in config.methods]))
    values = {key: getattr(target, key) for key in ("path", "size", "name", "on_damaged")}
    place = " ".join(shlex.quote(f"target.{target.key}.{key}={value}") for key, value in values.items())
    words = f"'source=[{sources}]' 'target=[{target.key}]' 'method=[{methods}]' {place}"
    return f"python run.py experiment={config.experiment.name} scale={config.scale} seed={config.seed} {words}"
