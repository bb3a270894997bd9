"""Fine-tuning: the whole network of a model is trained on labelled images, from a head that is trained already.

A model can be trained if its `run` has a method `trainer(weight, bias, steps)`. That takes a head and the number of
steps. It gives a trainer for `leep.transfer.training.train_network`, which trains a copy of the network, and a rate.
"""

from __future__ import annotations

import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leep.errors import Invalid
from leep.files import write_atomically
from leep.models.images import FolderImages, default_cache
from leep.models.model import Model, digest
from leep.models.outputs import batch_size
from leep.progress import advance, progress
from leep.transfer.training import predict_classes, steps_done, train_network

VERSION = 1  # of the training: raise it when what it computes changes
BATCH = 16


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A model after fine-tuning.

    Attributes
    ----------
    predicted : int64 array `(n_tested,)`
        Classes of the images that it was tested on.
    images_per_second : float
        Of the training; NaN where it was interrupted at its very end.
    """

    predicted: np.ndarray
    images_per_second: float


def fine_tune(
    model: Model,
    images: FolderImages,
    labels: np.ndarray,
    test: np.ndarray,
    head: tuple[np.ndarray, np.ndarray],
    *,
    epochs: int,
    seed: int = 0,
    cache: str | Path | None = None,
) -> FineTuned:
    """Train all weights of a model on some of the images, and test it on the others; from the cache if that was done.

    The classifier gives way to `head`: a head that is trained before keeps the first steps from spoiling the features
    (Kumar et al., ICLR 2022). An interrupted training goes on where it stopped.

    Parameters
    ----------
    model : Model
        Whose `trainable` is true. Its own weights stay as they are.
    images : FolderImages
        Decoded for `model.resize`.
    labels : int64 array `(n,)`
        Classes of the images, 0 … n_classes − 1.
    test : int64 array `(n_tested,)`
        Rows of the images that the model is tested on; the others train it.
    head : weight `(n_classes, n_features)` and bias `(n_classes,)`
    epochs : int, at least 1
    seed : int
        Of the order of the images.
    cache : path, optional
        Default: `default_cache()`.

    Raises
    ------
    Invalid
        If the model cannot be trained, or the training diverges.
    """
    if not model.trainable:
        raise Invalid("its network cannot be trained here")
    tested = digest(labels.tobytes(), test.astype(np.int64).tobytes())
    key = digest(VERSION, images.sha256, sorted(model.describe().items()), tested, epochs, seed)[:24]
    folder = (Path(cache) if cache else default_cache()) / "fine_tuned" / key
    if (found := _read(folder)) is not None:
        return found
    train = np.setdiff1d(np.arange(len(images)), test)
    trainer, rate = model.run.trainer(*head, epochs * -(-len(train) // BATCH))
    pixels, checkpoint, done, begin = images.pixels[model.resize], folder / "state.npz", 0, time.monotonic()
    total = epochs * len(train)
    before = min(total, BATCH * steps_done(checkpoint, len(train), BATCH))
    with progress(total=total, initial=before, desc=f"fine-tuning {model.name}", unit=" images") as bar:

        def report(n: int) -> None:
            nonlocal done
            done += n
            advance(bar, n)

        try:
            train_network(
                trainer,
                trainer.state(),
                pixels,
                images.rows[train],
                labels[train],
                np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,))),
                prepare=model.prepare,
                epochs=epochs,
                batch_size=BATCH,
                learning_rate=rate,
                report=report,
                checkpoint=checkpoint,
            )
            speed = done / (time.monotonic() - begin) if done else np.nan
            predicted = predict_classes(
                trainer, pixels, images.rows[test], model.prepare, batch_size(model.size, model.device)
            )
        except FloatingPointError as error:
            raise Invalid(str(error)) from error
    write_atomically(folder / "done.npz", lambda file: np.savez(file, predicted=predicted, speed=speed))
    checkpoint.unlink(missing_ok=True)
    return FineTuned(predicted, speed)


def _read(folder: Path) -> FineTuned | None:
    try:
        with np.load(folder / "done.npz") as saved:
            return FineTuned(saved["predicted"], float(saved["speed"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
