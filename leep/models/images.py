"""Labelled images for models: a folder of image files, decoded once for all models that resize alike, or arrays."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image, ImageFile, ImageOps

from leep.blocks import cached_arrays
from leep.data.folder import EXTENSIONS
from leep.errors import Invalid, Missing
from leep.execution.processes import n_cores
from leep.models.model import Resize, digest
from leep.progress import advance

VERSION = 1  # of what is decoded: raise it when the pixels change
SPLITS = frozenset(["train", "training", "val", "valid", "validation", "test", "testing"])
_BLOCK = 256  # images that are kept when decoding is interrupted
_LISTED = 20  # damaged files that an error names


class Images(Protocol):
    """Labelled images, whatever holds them: what `model_outputs` reads."""

    labels: np.ndarray  # int64 (n,)
    class_names: tuple[str, ...]
    sha256: str  # of their contents, in their order

    def __len__(self) -> int: ...

    def batch(self, resize: Resize, start: int, stop: int) -> np.ndarray:
        """Images from `start` to `stop`, uint8 `(stop − start, size, size, 3)`."""


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """The image files of a folder with a sub-folder a class; nothing is decoded yet.

    Attributes
    ----------
    path : Path
    files : tuple of str
        Relative to `path`, sorted by class and name.
    labels : int64 `(n,)`
    class_names : tuple of str
    splits : tuple of str
        Sub-folders such as `train` and `val` that were merged; empty where the classes lie in the folder itself.
    notes : tuple of str
        What was left out.
    """

    path: Path
    files: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    splits: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def counts(self) -> np.ndarray:
        """Images of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each file."""

        def hash_file(name: str) -> str:
            try:
                return hashlib.sha256((self.path / name).read_bytes()).hexdigest()
            except OSError as error:
                return f"unreadable: {error.strerror}"

        with ThreadPoolExecutor(n_cores()) as pool:
            return tuple(pool.map(hash_file, self.files))

    def take(self, rows: Sequence[int] | np.ndarray) -> ImageFolder:
        """Only these images, in this order; all classes stay."""
        rows = np.asarray(rows, np.intp)
        taken = replace(self, files=tuple(self.files[i] for i in rows), labels=self.labels[rows])
        if "digests" in self.__dict__:
            taken.__dict__["digests"] = tuple(self.digests[i] for i in rows)
        return taken


def find_images(path: str | Path, splits: Sequence[str] | None = None) -> ImageFolder:
    """The images of a folder with a sub-folder a class, whose own sub-folders are searched, too.

    Where all sub-folders are called `train`, `val`, `test` and the like, the classes lie in these. For a ranking they
    are one set of images: `splits` chooses some of them. Hidden files, and files without an image's extension, are
    ignored; so are classes without images, which is noted.

    Raises
    ------
    Missing
        If there is no such folder.
    Invalid
        If it has fewer than two classes with images.
    """
    path = Path(path).expanduser()
    if not path.is_dir():
        raise Missing(f"{path}: {'a file, expected a folder' if path.exists() else 'no such folder'}")
    folders = _sub_folders(path)
    names = [f.name for f in folders]
    divided = bool(names) and all(n.lower() in SPLITS for n in names) and any(_sub_folders(f) for f in folders)
    if splits is not None:
        if unknown := set(splits) - set(names if divided else ()):
            raise Invalid(f"{path}: has no split {', '.join(sorted(unknown))}; {_said(names if divided else ())}")
        folders = [f for f in folders if f.name in splits]
    notes, files = [], {}
    if divided:
        loose = [split.name for split in folders if any(map(_is_image, split.iterdir()))]
        notes += [f"images in {split} that lie in no class are left out" for split in loose]
        class_folders = [c for split in folders for c in _sub_folders(split)]
    else:
        class_folders = folders
    for folder in class_folders:
        files.setdefault(folder.name, []).extend(str(f.relative_to(path)) for f in _walk(folder))
    empty = sorted(name for name, found in files.items() if not found)
    if empty:
        notes.append(f"classes without images are left out: {', '.join(empty)}")
    files = {name: found for name, found in sorted(files.items()) if found}
    if len(files) < 2:
        loose = sum(map(_is_image, path.iterdir()))
        found = f"the one class {next(iter(files))!r}" if files else f"{loose} images that lie in no class"
        raise Invalid(f"{path}: must have a sub-folder of images for each of two or more classes, has {found}")
    labels = np.repeat(np.arange(len(files)), [len(found) for found in files.values()])
    splits = tuple(f.name for f in folders) if divided else ()
    names = tuple(f for found in files.values() for f in found)
    return ImageFolder(path, names, labels, tuple(files), splits, tuple(notes))


def _said(names: Sequence[str]) -> str:
    return f"it has {', '.join(names)}" if names else "its sub-folders are classes"


def _sub_folders(path: Path) -> list[Path]:
    return [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _walk(folder: Path) -> Iterator[Path]:
    """All image files below a folder, by name; links are followed, once."""
    seen = set()
    for place, inner, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (path for name in sorted(names) if _is_image(path := Path(place, name)))


# ---- Decoding


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
    """

    folder: ImageFolder
    pixels: Mapping[Resize, np.ndarray]
    rows: np.ndarray  # of `pixels`, of each image
    damaged: Mapping[str, str]
    hashes: tuple[bytes, ...]

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

    A picture is turned as its EXIF orientation says, grey is tripled, transparency lies on white, 16 bits become 8. A
    JPEG of more than twice the pixels that are wanted is decoded at half, a quarter or an eighth of its size. What is
    kept goes by the contents of the files, not by their names.

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
        If files are damaged: one error that names them all (the first twenty, and how many more).
    """
    cache = Path(cache) if cache else default_cache()
    threads = threads or n_cores()
    resizes = list(dict.fromkeys(resizes)) or [Resize(32)]
    pixels, hashes = {}, np.zeros((0, 16), np.uint8)
    with _refuse_truncated():
        for resize in resizes:
            arrays = _decode(folder, resize, cache, threads)
            pixels[resize] = arrays["all_pixels"]
            if not len(hashes):
                hashes = np.asarray(arrays["all_hashes"])
        good = hashes.any(1)
        damaged = {folder.files[i]: _reason(folder.path / folder.files[i], resizes[0]) for i in np.flatnonzero(~good)}
    if damaged and not skip_damaged:
        listed = "; ".join(f"{name} ({why})" for name, why in list(damaged.items())[:_LISTED])
        more = f"; and {len(damaged) - _LISTED} more" if len(damaged) > _LISTED else ""
        raise Invalid(f"{folder.path}: {len(damaged)} of {len(folder)} images are damaged: {listed}{more}")
    rows = np.flatnonzero(good)
    return FolderImages(folder.take(rows), pixels, rows, damaged, tuple(h.tobytes() for h in hashes[rows]))


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/leep`, or `~/.cache/leep`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "leep"


@contextlib.contextmanager
def _refuse_truncated() -> Iterator[None]:
    """Undo what other libraries set for the whole process: GluonCV has Pillow accept files that were cut short."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def _decode(folder: ImageFolder, resize: Resize, cache: Path, threads: int) -> dict[str, np.ndarray]:
    def compute(missing, bar) -> Iterator:
        with ThreadPoolExecutor(threads) as pool:
            for block in missing:
                _, start, stop = block
                pixels = np.zeros((stop - start, resize.size, resize.size, 3), np.uint8)
                hashes = np.zeros((stop - start, 16), np.uint8)
                paths = (folder.path / name for name in folder.files[start:stop])
                for row, image in enumerate(pool.map(lambda path: _read_or_none(path, resize), paths)):
                    if image is not None:
                        pixels[row] = image
                        hashes[row] = np.frombuffer(hashlib.blake2b(image.tobytes(), digest_size=16).digest(), np.uint8)
                    advance(bar, 1)
                yield block, {"pixels": pixels, "hashes": hashes}

    key = digest(VERSION, sorted(asdict(resize).items()), *folder.digests)[:24]
    counts, desc = {"all": len(folder)}, f"decoding at {resize.size} pixels"
    # Their sums are not verified at every start, because they may take many gigabytes.
    return cached_arrays(cache / "images" / key, counts, ("pixels", "hashes"), _BLOCK, compute, desc, verify=False)


def _read_or_none(path: Path, resize: Resize) -> np.ndarray | None:
    try:
        return read_image(path, resize)
    except Invalid:
        return None


def _reason(path: Path, resize: Resize) -> str:
    try:
        read_image(path, resize)
    except Invalid as error:
        return str(error)
    return "it was damaged when it was decoded"


def read_image(path: Path, resize: Resize) -> np.ndarray:
    """An image file as uint8 `(size, size, 3)`, RGB; `Invalid` with what is wrong with it."""
    try:
        data = path.read_bytes()
        if not data:
            raise Invalid("empty")
        with Image.open(io.BytesIO(data)) as image:
            wanted = 2 * max(resize.size, resize.shorter_side or 0)
            image.draft(None, (wanted, wanted))  # only a JPEG heeds it, and never goes below
            return resize(to_rgb(ImageOps.exif_transpose(image)))
    except Invalid:
        raise
    except Exception as error:  # a damaged image can raise nearly anything
        raise Invalid(_describe(error)) from error


def _describe(error: Exception) -> str:
    text = str(error).partition("<_io")[0].strip().rstrip(":")
    return {"cannot identify image file": "no image"}.get(text, text) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode → RGB: transparency on white, 16 bits cut to 8."""
    if image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(values, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise Invalid("pixels of floating point, whose range is not known")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


# ---- Arrays


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
