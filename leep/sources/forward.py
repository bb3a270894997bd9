"""The one forward pass of a source model over a data set, and its cache on disk.

Every task, measure and head re-training of every experiment reads this pass: nothing is passed twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leep.data.dataset import DataSet
from leep.progress import progress
from leep.sources.preprocess import Preprocessing

VERSION = 1  # of the pass: raise it when what it computes changes
_ARRAYS = ("train_features", "train_probs", "test_features", "test_probs")


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """Outputs of a source model on all examples of a data set: float32, memory-mapped, read-only.

    Attributes
    ----------
    train_features, test_features : `(n, n_features)`, the input of the head
    train_probs, test_probs : `(n, n_source_classes)`, the dummy label distributions θ(x) (Section 2, step 1)
    """

    train_features: np.ndarray
    train_probs: np.ndarray
    test_features: np.ndarray
    test_probs: np.ndarray


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of probabilities, in the precision of the logits."""
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def cache_key(weights_sha256: str, model: str, prepare: Preprocessing, data_sha256: str, engine: Mapping) -> str:
    """Names a pass by all that determines it."""
    what = {
        "version": VERSION,
        "model": model,
        "weights": weights_sha256,
        "preprocessing": prepare.describe(),
        "data": data_sha256,
        "engine": {k: engine[k] for k in ("name", "precision", "device")},
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]


def forward_pass(
    cache: Path,
    key: str,
    predictor: Callable[[], Callable],
    prepare: Preprocessing,
    data: DataSet,
    batch_size: int = 250,
) -> ForwardPass:
    """The pass named `key`, from the cache, or made now and kept there.

    Parameters
    ----------
    cache : Path
        Folder of all passes. Two processes that want the same pass do not make it twice: the second one waits.
    key : str
    predictor : callable
        Called only if the pass must be made; returns images `(n, 3, h, w)` → (features, logits).
    prepare : Preprocessing
    data : DataSet
    batch_size : int
        Images a batch; does not change the result beyond rounding.
    """
    folder = Path(cache) / key
    with _lock(Path(cache) / f"{key}.lock"):
        found = _read(folder)
        if found is None:
            for left_over in [folder, *folder.parent.glob(f".{key}.*")]:  # of a killed process
                shutil.rmtree(left_over, ignore_errors=True)
            _make(folder, predictor(), prepare, data, batch_size)
            found = _read(folder)
    if found is None:
        raise OSError(
            f"the forward pass in {folder} cannot be read back right after it was written; is the disk sound?"
        )
    return found


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(folder: Path) -> ForwardPass | None:
    """The pass in a folder, or None where it is absent, cut short or altered."""
    try:
        sums = json.loads((folder / "sha256.json").read_text())
        if any(_sha256(folder / f"{name}.npy") != sums[name] for name in _ARRAYS):
            return None
        return ForwardPass(*(np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(folder: Path, predict: Callable, prepare: Preprocessing, data: DataSet, batch_size: int) -> None:
    """Write all arrays to a temporary folder, then give it its name at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        total = len(data.train_images) + len(data.test_images)
        with progress(total=total, desc=f"forward pass over {data.name}", unit=" images") as bar:
            for split, images in (("train", data.train_images), ("test", data.test_images)):
                _pass_split(temporary, split, predict, prepare, images, batch_size, bar)
        sums = {name: _sha256(temporary / f"{name}.npy") for name in _ARRAYS}
        with open(temporary / "sha256.json", "w") as file:
            json.dump(sums, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _pass_split(folder, split, predict, prepare, images, batch_size, bar) -> None:
    outputs = None
    for start in range(0, len(images), batch_size):
        features, logits = predict(prepare(images[start : start + batch_size]))
        if outputs is None:
            outputs = [
                np.lib.format.open_memmap(
                    folder / f"{split}_{name}.npy", "w+", np.float32, (len(images), batch.shape[1])
                )
                for name, batch in (("features", features), ("probs", logits))
            ]
        rows = slice(start, start + len(features))
        outputs[0][rows], outputs[1][rows] = features, softmax(logits)
        bar.update(len(features))
    for output in outputs:
        output.flush()
