"""Labelled images for models: a folder of image files, decoded once for all models that resize alike, or arrays."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from leep.blocks import cached_arrays
from leep.data.listing import ImageFolder
from leep.data.picture import VERSION, Picture, Resize, describe_changes, list_damaged, read_pictures
from leep.errors import Invalid
from leep.models.model import digest
from leep.progress import advance

_BLOCK = 256  # images that are kept when decoding is interrupted


class Images(Protocol):
    """Labelled images, whatever holds them: what `model_outputs` reads."""

    labels: np.ndarray  # int64 (n,)
    class_names: tuple[str, ...]
    sha256: str  # of their contents, in their order

    def __len__(self) -> int: ...

    def batch(self, resize: Resize, start: int, stop: int) -> np.ndarray:
        """Images from `start` to `stop`, uint8 `(stop − start, size, size, 3)`."""


@dataclass(frozen=True, eq=False)
class FolderImages:
    """Decoded images of a folder, memory-mapped.

    Attributes
    ----------
    folder : ImageFolder
        Those that are not damaged.
    pixels : mapping of Resize to uint8 `(n, size, size, 3)`
    damaged : dict of str to str
        What is wrong with each file that was left out.
    hashes : tuple of bytes
        Of the pixels of each image: two that are alike have the same.
    notes : tuple of str
        What was changed in some images, such as transparency.
    """

    folder: ImageFolder
    pixels: Mapping[Resize, np.ndarray]
    rows: np.ndarray  # of `pixels`, of each image
    damaged: Mapping[str, str]
    hashes: tuple[bytes, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.folder)

    @property
    def labels(self) -> np.ndarray:
        return self.folder.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.folder.class_names

    @cached_property
    def sha256(self) -> str:
        return digest(VERSION, *self.folder.digests)

    def batch(self, resize: Resize, start: int, stop: int) -> np.ndarray:
        return self.pixels[resize][self.rows[start:stop]]

    def duplicates(self) -> list[tuple[int, ...]]:
        """Groups of images with the same pixels, as rows, in their order."""
        groups: dict[bytes, list[int]] = {}
        for row, value in enumerate(self.hashes):
            groups.setdefault(value, []).append(row)
        return [tuple(rows) for rows in groups.values() if len(rows) > 1]


def read_images(
    folder: ImageFolder,
    resizes: Iterable[Resize],
    *,
    cache: str | Path | None = None,
    skip_damaged: bool = False,
    threads: int | None = None,
) -> FolderImages:
    """Decode all images, once for each way to resize them, into files that are kept and mapped into memory.

    `leep.data.picture.read_picture` says how. What is kept goes by the contents of the files, not by their names.

    Parameters
    ----------
    folder : ImageFolder
    resizes : iterable of Resize
        Of the models: `{model.resize for model in models}`.
    cache : path, optional
        Default: `default_cache()`.
    skip_damaged : bool
        Leave damaged files out instead of refusing them.
    threads : int, optional
        All cores if None.

    Raises
    ------
    Invalid
        If files are damaged: one error that names them all.
    """
    cache = Path(cache) if cache else default_cache()
    resizes = list(dict.fromkeys(resizes)) or [Resize(32)]
    decoded = {resize: _decode(folder, resize, cache, threads) for resize in resizes}
    first = decoded[resizes[0]]
    good = np.asarray(first["all_hashes"]).any(1)
    bad = folder.take(np.flatnonzero(~good))
    reasons = [_reason(picture) for picture in read_pictures(bad.paths, resizes[0], threads)]
    damaged = dict(zip(bad.files, reasons))
    if damaged and not skip_damaged:
        raise Invalid(f"{folder.path}: {list_damaged(damaged, len(folder))}")
    rows = np.flatnonzero(good)
    return FolderImages(
        folder.take(rows),
        {resize: arrays["all_pixels"] for resize, arrays in decoded.items()},
        rows,
        damaged,
        tuple(h.tobytes() for h in first["all_hashes"][rows]),
        tuple(describe_changes(first["all_changes"][rows])),
    )


def _reason(picture: Picture | Invalid) -> str:
    return str(picture) if isinstance(picture, Invalid) else "it was damaged when it was decoded"


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/leep`, or `~/.cache/leep`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "leep"


def _decode(folder: ImageFolder, resize: Resize, cache: Path, threads: int | None) -> dict[str, np.ndarray]:
    """Pixels, hashes and changes of all images; a damaged one has the hash zero."""

    def compute(missing, bar) -> Iterator:
        for block in missing:
            _, start, stop = block
            n = stop - start
            pixels, hashes = np.zeros((n, resize.size, resize.size, 3), np.uint8), np.zeros((n, 16), np.uint8)
            changes = np.zeros(n, np.uint8)
            for k, picture in enumerate(read_pictures(folder.paths[start:stop], resize, threads)):
                if isinstance(picture, Picture):
                    pixels[k], changes[k] = picture
                    hashes[k] = np.frombuffer(hashlib.blake2b(pixels[k], digest_size=16).digest(), np.uint8)
                advance(bar, 1)
            yield block, {"pixels": pixels, "hashes": hashes, "changes": changes}

    key = digest(VERSION, sorted(asdict(resize).items()), *folder.digests)[:24]
    counts, names, desc = {"all": len(folder)}, ("pixels", "hashes", "changes"), f"decoding at {resize.size} pixels"
    # Their sums are not verified at every start, because they may take many gigabytes.
    return cached_arrays(cache / "images" / key, counts, names, _BLOCK, compute, desc, verify=False)


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Labelled images in memory: uint8 `(n, height, width, 1 or 3)`; resized when they are read.

    >>> images = ArrayImages(np.zeros((3, 4, 4, 1), np.uint8), np.array([0, 1, 1]), ("cat", "dog"))
    >>> images.batch(Resize(2), 0, 2).shape
    (2, 2, 2, 3)
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def sha256(self) -> str:
        return digest(VERSION, self.images.shape, np.ascontiguousarray(self.images).tobytes())

    def batch(self, resize: Resize, start: int, stop: int) -> np.ndarray:
        images = self.images[start:stop]
        images = images[..., 0] if images.shape[3] == 1 else images
        return np.stack([resize(Image.fromarray(image).convert("RGB")) for image in images])
