"""The pass: features and probabilities of a model for all images, kept on disk by content."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leep.blocks import cached_arrays, count_missing
from leep.errors import Invalid
from leep.files import write_atomically
from leep.models.arrays import StoredOutputs
from leep.models.images import Images, default_cache
from leep.models.model import Model, digest
from leep.progress import advance

VERSION = 1  # of the pass: raise it when what it computes changes
_BLOCK_PIXELS = 2**22  # of a block of images, 83 of 224 pixels, which is kept when the pass is interrupted
_BATCH_PIXELS = {"cpu": 2**18, "cuda": 2**23}  # larger ones leave a processor's cache


@dataclass(frozen=True, eq=False)
class Outputs:
    """What a model gives for all images: float32, memory-mapped, read-only.

    Attributes
    ----------
    features : `(n, d)`
    probs : `(n, k)` or None
        None for a model without a classifier.
    images_per_second : float or None
        As measured when they were computed, decoding not counted; None if they were computed elsewhere.
    """

    features: np.ndarray
    probs: np.ndarray | None
    images_per_second: float | None = None


def model_outputs(
    model: Model | StoredOutputs, images: Images, *, cache: str | Path | None = None, batch: int | None = None
) -> Outputs:
    """Features and probabilities of all images, from the cache, or computed now and kept there.

    An interrupted pass goes on where it stopped.

    Parameters
    ----------
    model : Model or StoredOutputs
    images : Images
        Folder images must have been decoded for `model.resize`.
    cache : path, optional
        Default: `default_cache()`.
    batch : int, optional
        Images of a batch; does not change the outputs beyond rounding.

    Raises
    ------
    Invalid
        If the model gives NaN or infinity, or the stored outputs are of another number of images or other labels.
    """
    if isinstance(model, StoredOutputs):
        model = _stored(model, images)
        return Outputs(model.features, model.probs)
    batch = batch or batch_size(model.size, model.device)
    names = ("features",) if model.n_classes is None else ("features", "probs")
    folder = _folder(model, images, cache)
    clock = {"images": 0, "seconds": 0.0}

    def compute(missing: list, bar) -> Iterator:
        for block in missing:
            _, start, stop = block
            parts = []
            for i in range(start, stop, batch):
                pixels = images.batch(model.resize, i, min(i + batch, stop))
                begin = time.perf_counter()
                try:
                    parts.append(model(model.prepare(pixels)))
                except Invalid as error:
                    raise Invalid(f"{model.name}: {error}, from {_name(images, i)} on") from error
                clock["seconds"] += time.perf_counter() - begin
                clock["images"] += len(pixels)
                advance(bar, len(pixels))
            yield block, {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*parts))}

    size = batch * max(1, _BLOCK_PIXELS // model.size**2 // batch)
    arrays = cached_arrays(folder, {"all": len(images)}, names, size, compute, model.name)
    if clock["images"]:
        write_atomically(folder / "speed.json", lambda file: file.write(json.dumps(clock).encode()))
    return Outputs(arrays["all_features"], arrays.get("all_probs"), _read_speed(folder))


def images_to_pass(model: Model | StoredOutputs, images: Images, *, cache: str | Path | None = None) -> int:
    """Images that `model_outputs` would still pass; reads the cache, and changes nothing in it."""
    if isinstance(model, StoredOutputs):
        return 0
    names = ("features",) if model.n_classes is None else ("features", "probs")
    return count_missing(_folder(model, images, cache), {"all": len(images)}, names)


def speed_before(model: Model, images: Images, *, cache: str | Path | None = None) -> float | None:
    """Images a second of an earlier pass over these images; None if there was none."""
    return _read_speed(_folder(model, images, cache))


def measure_speed(model: Model, images: Images, seconds: float = 0.5) -> float:
    """Images a second, of a few batches that take about so many seconds; nothing is kept."""
    batch = min(batch_size(model.size, model.device), len(images))
    inputs = model.prepare(images.batch(model.resize, 0, batch))
    model(inputs)
    done, begin = 0, time.perf_counter()
    while (passed := time.perf_counter() - begin) < seconds or not done:
        model(inputs)
        done += batch
    return done / (passed or time.perf_counter() - begin)


def batch_size(size: int, device: str = "cpu") -> int:
    """Images of a batch: on a processor 5 of 224 pixels, 256 of 32."""
    return max(1, _BATCH_PIXELS["cpu" if device == "cpu" else "cuda"] // size**2)


def _folder(model: Model, images: Images, cache: str | Path | None) -> Path:
    what = json.dumps({"version": VERSION, "images": images.sha256, **model.describe()}, sort_keys=True)
    return (Path(cache) if cache else default_cache()) / "outputs" / digest(what)[:24]


def _read_speed(folder: Path) -> float | None:
    try:
        clock = json.loads((folder / "speed.json").read_bytes())
        return clock["images"] / clock["seconds"]
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _name(images: Images, row: int) -> str:
    files = getattr(getattr(images, "folder", None), "files", None)
    return files[row] if files else f"image {row}"


def _stored(model: StoredOutputs, images: Images) -> StoredOutputs:
    """Its rows of these images, checked."""
    folder = getattr(images, "folder", None)
    model = model.of_images(folder.files) if folder else model
    if len(model.features) != len(images):
        raise Invalid(f"{model.name}: has outputs of {len(model.features)} images, and there are {len(images)}")
    if model.labels is None:
        return model
    names = np.asarray(images.class_names)[images.labels]
    ours = names if model.labels.dtype.kind == "U" else images.labels
    if differing := int((np.asarray(model.labels) != ours).sum()):
        raise Invalid(
            f"{model.name}: {differing} of its {len(images)} labels are not those of the images, in their order"
        )
    return model
