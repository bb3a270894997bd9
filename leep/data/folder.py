"""A data set of one's own: a folder of images with one sub-folder a class."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from leep.data.dataset import DataError, DataSet

EXTENSIONS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
_TEST_EVERY = 5


def _visible_folders(path: Path) -> dict[str, Path]:
    return {p.name: p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")}


def _classes(path: Path) -> dict[str, list[Path]]:
    """The image files of every class, both sorted by name."""
    classes = {
        name: sorted(f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
        for name, folder in _visible_folders(path).items()
    }
    if len(classes) < 2:
        raise DataError(f"{path}: must have a sub-folder for each of two or more classes, has {len(classes)}")
    for name, files in classes.items():
        if not files:
            raise DataError(
                f"{path / name}: a class without images; known extensions are {', '.join(sorted(EXTENSIONS))}"
            )
    return classes


def _split(classes: dict[str, list[Path]], path: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The first, sixth, eleventh … file of each class for the test, the others for training."""
    for name, files in classes.items():
        if len(files) < 2:
            raise DataError(f"{path / name}: a class needs two images or more to be split into train and test, has 1")
    test = {name: files[::_TEST_EVERY] for name, files in classes.items()}
    train = {name: [f for k, f in enumerate(files) if k % _TEST_EVERY] for name, files in classes.items()}
    return train, test


def _read_image(path: Path, size: int) -> np.ndarray:
    try:
        content = io.BytesIO(path.read_bytes())  # of a file, as many bytes are made room for as a forged length says
        with Image.open(content) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except Exception as error:  # a damaged image can raise nearly anything
        raise DataError(f"{path}: not a readable image: {error}") from error


def _read_split(classes: dict[str, list[Path]], size: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((sum(map(len, classes.values())), size, size, 3), np.uint8)
    for row, file in zip(images, (file for files in classes.values() for file in files)):
        row[:] = _read_image(file, size)
    return images, np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])


def read_folder(path: str | Path, size: int) -> DataSet:
    """The images of a folder with one sub-folder a class, as RGB, resized bilinearly to `size` × `size` pixels.

    If the folder has both of the sub-folders `train` and `test`, they hold the classes and are the splits. Otherwise
    every fifth file of each class, sorted by name and starting with the first, is a test image. Classes are numbered in
    the order of their names. Hidden files and files without an image's extension (`EXTENSIONS`) are ignored, so that
    a licence or a list may lie beside the images.

    Parameters
    ----------
    path : folder of images
    size : int
        Height and width of the result in pixels, 1 or more.

    Raises
    ------
    DataError
        If an image is unreadable, a class is empty, there are fewer than two classes, or the classes of `train` and
        `test` differ.
    """
    path = Path(path).expanduser()
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a number of pixels, 1 or more, got {size!r}")
    splits = _visible_folders(path)
    if "train" in splits and "test" in splits:
        train, test = _classes(splits["train"]), _classes(splits["test"])
        if train.keys() != test.keys():
            differing = ", ".join(sorted(train.keys() ^ test.keys()))
            raise DataError(f"{path}: train and test must have the same classes; only one of them has {differing}")
    else:
        train, test = _split(_classes(path), path)
    return DataSet("folder", *_read_split(train, size), *_read_split(test, size), tuple(train))
