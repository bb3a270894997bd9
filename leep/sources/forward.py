"""The one forward pass of a source model over a data set, and its cache on disk.

Every task, measure and head re-training of every experiment on a data set reads this pass.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from leep.blocks import cached_arrays, count_missing
from leep.data.dataset import DataSet
from leep.data.shared import load_shared, share
from leep.engines import Predictor, create_engine
from leep.execution.processes import Failed, ItemRunner, WorkerError, run_in_processes
from leep.progress import advance
from leep.sources.preprocess import Preprocessing
from leep.sources.weights import Weights, check_weights

VERSION = 3  # of the pass: raise it when what it computes changes
BLOCK_PIXELS = 2**21  # of a block of images, 2,048 of 32 pixels, which is kept when the pass is interrupted
_NAMES = ("features", "probs")  # of the arrays of a split


@dataclass(frozen=True, eq=False)
class SourceOutputs:
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


def spread(outputs: SourceOutputs, data: DataSet, train: np.ndarray, test: np.ndarray) -> SourceOutputs:
    """Outputs on some rows of a data set, in arrays of all its rows; the others are zeros, which take no memory.

    Parameters
    ----------
    outputs : SourceOutputs
        On `only_rows(data, train, test)`.
    data : DataSet
    train, test : int arrays
    """
    arrays = {}
    for name, values in vars(outputs).items():
        rows, count = (train, len(data.train_labels)) if name.startswith("train") else (test, len(data.test_labels))
        arrays[name] = np.zeros((count, *values.shape[1:]), values.dtype)
        arrays[name][rows] = values
    return SourceOutputs(**arrays)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of probabilities, in the precision of the logits."""
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def batch_size(size: int, device: str = "cpu") -> int:
    """Images of a batch: 64 of 32 pixels, 5 of 224; larger ones leave a processor's cache, a GPU takes more."""
    return max(5, (2**16 if device == "cpu" else 2**22) // size**2)


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


def make_predictor(engine: Mapping, model: str, n_classes: int, weights: Weights) -> Predictor:
    """The network with its weights, in an engine: called in the process that runs it.

    Parameters
    ----------
    engine : mapping
        Arguments of `create_engine`.
    model, n_classes
        As in `leep.sources.zoo.load`.
    weights : Weights
        Verified once more: the process may be on another machine.
    """
    engine = create_engine(**engine)
    from leep.sources.zoo import load  # imports MXNet, after the engine has set its threads

    return engine.predictor(load(model, n_classes, check_weights(weights)))


def forward_pass(
    cache: Path,
    key: str,
    predictor: Callable[[], Predictor],
    prepare: Preprocessing,
    data: DataSet,
    workers: int = 1,
    threads: int = 1,
    batch: int | None = None,
    map_items: ItemRunner | None = None,
) -> SourceOutputs:
    """The pass named `key`, from the cache, or made now and kept there; an interrupted one goes on where it stopped.

    Parameters
    ----------
    cache : Path
        Folder of all passes. Two processes that want the same pass do not make it twice: the second one waits.
    key : str
    predictor : callable
        Called only if the pass must be made; returns images `(n, 3, h, w)` → (features, logits).
        With several workers it is pickled.
    prepare : Preprocessing
    data : DataSet
    workers : int
        Processes; with 1, or where there is little to do, none is started. Does not change the result.
    threads : int
        Threads of a process.
    batch : int, optional
        Images a batch, else `batch_size`; does not change the result beyond rounding.
    map_items : ItemRunner, optional
        Runs the blocks elsewhere, as `run_in_processes` does here.

    Raises
    ------
    WorkerError
        If a worker cannot start, or a block of images failed twice.
    """
    counts = {"train": len(data.train_images), "test": len(data.test_images)}
    batch = batch or batch_size(prepare.size)

    def compute(missing: list, bar: tqdm) -> Iterator[tuple]:
        args = (predictor, prepare, data, batch)
        with contextlib.closing(_run_blocks(Path(cache), args, missing, (workers, threads, map_items), bar)) as ended:
            for block, outputs in ended:
                yield block, dict(zip(_NAMES, outputs))

    size = max(batch, BLOCK_PIXELS // prepare.size**2)
    desc = f"forward pass over {data.name}"
    arrays = cached_arrays(Path(cache) / key, counts, _NAMES, size, compute, desc)
    return SourceOutputs(**arrays)


def images_to_pass(cache: Path, key: str, data: DataSet) -> int:
    """Images that `forward_pass` would still pass; reads the cache, and changes nothing in it."""
    counts = {"train": len(data.train_images), "test": len(data.test_images)}
    return count_missing(Path(cache) / key, counts, _NAMES)


def _run_blocks(cache: Path, args: tuple, blocks: list, how: tuple, bar) -> Iterator[tuple]:
    """`block, (features, probs)` in the order in which they end."""

    def count(images: int) -> None:
        advance(bar, images)

    def retry(block: tuple, reason: str) -> None:
        bar.write(f"forward pass: images {block} failed and are tried once more: {reason}")

    workers, threads, map_items = how
    if map_items is None and (len(blocks) <= 2 or workers == 1):
        function = _make_runner(*args)
        yield from ((block, function(block, count)) for block in blocks)
        return
    predictor, prepare, data, batch = args
    light, shared = share(data, cache / "images")
    runs = (map_items or run_in_processes)(
        _make_runner, (predictor, prepare, light, batch, shared), blocks, workers, threads, count, retry
    )
    with contextlib.closing(runs):
        for block, result in runs:
            if isinstance(result, Failed):
                raise WorkerError(f"the forward pass over {data.name} failed: {result.reason}")
            yield block, result


def _make_runner(predictor, prepare, data: DataSet, batch: int, shared: Path | None = None) -> Callable:
    """What a process does with a block: `(block, report)` → features, probabilities."""
    data = load_shared(data, shared) if shared else data
    images = {"train": data.train_images, "test": data.test_images}
    predict = predictor()

    def run(block: tuple[str, int, int], report: Callable) -> tuple[np.ndarray, np.ndarray]:
        split, start, stop = block
        features, probs = [], []
        for i in range(start, stop, batch):
            outputs = predict(prepare(images[split][i : min(i + batch, stop)]))
            features.append(outputs[0])
            probs.append(softmax(outputs[1]))
            report(len(features[-1]))
        return np.concatenate(features), np.concatenate(probs)

    return run
