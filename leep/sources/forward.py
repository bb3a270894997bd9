"""The one forward pass of a source model over a data set, and its cache on disk.

Every task, measure and head re-training of every experiment on a data set reads this pass.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leep.data.dataset import DataSet
from leep.data.shared import load_shared, share
from leep.engines import Predictor, create_engine
from leep.execution.processes import Failed, ItemRunner, WorkerError, run_in_processes
from leep.files import file_digest, write_atomically
from leep.progress import advance, progress
from leep.sources.preprocess import Preprocessing
from leep.sources.weights import Weights, check_weights

VERSION = 3  # of the pass: raise it when what it computes changes
BLOCK_PIXELS = 2**21  # of a block of images, 2,048 of 32 pixels, which is kept when the pass is interrupted
_LOG = "done.txt"  # a line a block that stands
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
) -> ForwardPass:
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
    folder = Path(cache) / key
    with _lock(Path(cache) / f"{key}.lock"):
        found = _read(folder)
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
            partial = _partial(folder)
            _make(partial, predictor, prepare, data, batch or batch_size(prepare.size), workers, threads, map_items)
            os.replace(partial, folder)
            (folder / _LOG).unlink()
            found = _read(folder)
    if found is None:
        raise OSError(
            f"the forward pass in {folder} cannot be read back right after it was written; is the disk sound?"
        )
    return found


def images_to_pass(cache: Path, key: str, data: DataSet) -> int:
    """Images that `forward_pass` would still pass; reads the cache, and changes nothing in it."""
    if _read(Path(cache) / key) is not None:
        return 0
    count = len(data.train_images) + len(data.test_images)
    try:
        return count - sum(stop - start for _, start, stop in _blocks(_partial(Path(cache) / key)))
    except (OSError, ValueError):
        return count


def _partial(folder: Path) -> Path:
    """Where a pass is made."""
    return folder.with_name(f".{folder.name}.partial")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(folder: Path) -> ForwardPass | None:
    """The pass in a folder, or None where it is absent, cut short or altered."""
    try:
        sums = json.loads((folder / "sha256.json").read_bytes())
        if any(file_digest(folder / f"{name}.npy") != sums[name] for name in _ARRAYS):
            return None
        return ForwardPass(*(np.lib.format.open_memmap(folder / f"{name}.npy", "r") for name in _ARRAYS))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(partial: Path, predictor, prepare, data: DataSet, batch: int, workers, threads, map_items) -> None:
    """Write all arrays block by block, in a folder whose log lists the blocks that stand."""
    counts = {"train": len(data.train_images), "test": len(data.test_images)}
    size = max(batch, BLOCK_PIXELS // prepare.size**2)
    blocks = [(s, i, min(i + size, n)) for s, n in counts.items() for i in range(0, n, size)]
    arrays, done = _resume(partial)
    missing = [b for b in blocks if b not in done]
    n_done = sum(counts.values()) - sum(stop - start for _, start, stop in missing)
    desc = f"forward pass over {data.name}"
    with (
        open(partial / _LOG, "a", encoding="ascii") as log,
        progress(total=sum(counts.values()), initial=n_done, desc=desc, unit=" images", smoothing=0) as bar,
        contextlib.closing(
            _run_blocks(partial, (predictor, prepare, data, batch), missing, (workers, threads, map_items), bar)
        ) as ended,
    ):
        for (split, start, stop), outputs in ended:
            for name, values in zip(("features", "probs"), outputs):
                file = partial / f"{split}_{name}.npy"
                if file not in arrays:
                    arrays[file] = np.lib.format.open_memmap(file, "w+", np.float32, (counts[split], values.shape[1]))
                    _reserve(file)
                arrays[file][start:stop] = values
                arrays[file].flush()
            log.write(f"{split} {start} {stop}\n")
            log.flush()
            os.fsync(log.fileno())
    sums = {name: file_digest(partial / f"{name}.npy") for name in _ARRAYS}
    write_atomically(partial / "sha256.json", lambda f: f.write(json.dumps(sums).encode()))


def _reserve(path: Path) -> None:
    """Take the room of a file on the disk now, where it is an error: a page without room would kill the process."""
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def _resume(partial: Path) -> tuple[dict[Path, np.memmap], set[tuple[str, int, int]]]:
    """The arrays of an interrupted pass, and its blocks; a folder that cannot be read is begun anew."""
    try:
        done = _blocks(partial)
        arrays = {p: np.lib.format.open_memmap(p, "r+") for p in partial.glob("*.npy")}
    except (OSError, ValueError):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return {}, set()
    for path in arrays:
        _reserve(path)
    lines = "".join(f"{split} {start} {stop}\n" for split, start, stop in sorted(done))
    write_atomically(partial / _LOG, lambda f: f.write(lines.encode()))
    return arrays, done


def _blocks(partial: Path) -> set[tuple[str, int, int]]:
    """The blocks of an interrupted pass; `OSError` or `ValueError` where it cannot be read."""
    arrays = {p.name for p in partial.glob("*.npy")}
    for name in arrays:
        np.lib.format.open_memmap(partial / name, "r")  # refuses a file cut short, which r+ would fill up with zeros
    *lines, _ = (partial / _LOG).read_text(encoding="ascii").split("\n")  # the last one may be torn
    done = {(split, int(start), int(stop)) for split, start, stop in map(str.split, lines)}
    if not arrays.issuperset(f"{s}_{name}.npy" for s, _, _ in done for name in ("features", "probs")):
        raise ValueError(f"{partial} lacks arrays")
    return done


def _run_blocks(partial, args: tuple, blocks: list, how: tuple, bar) -> Iterator[tuple]:
    """`block, (features, probs)` in the order in which they end."""

    def count(images: int) -> None:
        advance(bar, images)

    def retry(block: tuple, reason: str) -> None:
        bar.write(f"forward pass: images {block} failed and are tried once more: {reason}")

    workers, threads, map_items = how
    if not blocks:
        return
    if map_items is None and (len(blocks) <= 2 or workers == 1):
        function = _make_runner(*args)
        yield from ((block, function(block, count)) for block in blocks)
        return
    predictor, prepare, data, batch = args
    light, shared = share(data, partial.parent / "images")
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
