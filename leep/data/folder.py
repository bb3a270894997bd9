"""A data set of one's own: a folder of images with one sub-folder a class."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from leep.data.dataset import DataSet
from leep.errors import Invalid

EXTENSIONS = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
_TEST_EVERY = 5


def read_folder(path: str | Path, size: int) -> DataSet:
    """Read a folder with one sub-folder a class as RGB images, resized bilinearly to `size` × `size` pixels.

    If the folder has both of the sub-folders `train` and `test`, these are the splits and hold the classes. Otherwise
    every fifth file of each class, sorted by name and starting with the first, is a test image. Classes are numbered in
    the order of their names. Hidden files and files without an image's extension (`EXTENSIONS`) are ignored, because
    a licence or a list may lie beside the images.

    Parameters
    ----------
    path : str or Path
        Folder of images.
    size : int
        Height and width of the result in pixels, 1 or more.

    Returns
    -------
    DataSet
        Named `folder`; images `(n, size, size, 3)`, uint8.

    Raises
    ------
    ValueError
        If `size` is not a positive int.
    Invalid
        If an image is unreadable, a class is empty, there are fewer than two classes, or the classes of `train` and
        `test` differ.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a number of pixels, 1 or more, got {size!r}")
    train, test = list_files(path)
    return DataSet("folder", *_read_split(train, size), *_read_split(test, size), tuple(train))


def list_files(path: str | Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """The training and the test files of each class, in the order in which `read_folder` has their images."""
    path = Path(path).expanduser()
    splits = _visible_folders(path)
    if "train" in splits and "test" in splits:
        train, test = _classes(splits["train"]), _classes(splits["test"])
        if train.keys() != test.keys():
            differing = ", ".join(sorted(train.keys() ^ test.keys()))
            raise Invalid(f"{path}: train and test must have the same classes; only one of them has {differing}")
        return train, test
    return _split(_classes(path), path)


def _visible_folders(path: Path) -> dict[str, Path]:
    return {p.name: p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")}


def _classes(path: Path) -> dict[str, list[Path]]:
    """List the image files of every class; classes and files are sorted by name."""
    classes = {
        name: sorted(f for f in folder.iterdir() if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
        for name, folder in _visible_folders(path).items()
    }
    if len(classes) < 2:
        raise Invalid(f"{path}: must have a sub-folder for each of two or more classes, has {len(classes)}")
    for name, files in classes.items():
        if not files:
            known = ", ".join(sorted(EXTENSIONS))
            raise Invalid(f"{path / name}: a class without images; known extensions are {known}")
    return classes


def _split(classes: dict[str, list[Path]], path: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Take the first, sixth, eleventh … file of each class for the test and the others for training."""
    for name, files in classes.items():
        if len(files) < 2:
            raise Invalid(f"{path / name}: a class needs two images or more to be split into train and test, has 1")
    test = {name: files[::_TEST_EVERY] for name, files in classes.items()}
    train = {name: [f for k, f in enumerate(files) if k % _TEST_EVERY] for name, files in classes.items()}
    return train, test


def read_image(path: Path, size: int) -> np.ndarray:
    """Read an image file as an RGB array `(size, size, 3)`, uint8; `Invalid` if it is damaged."""
    try:
        # From a file, Pillow allocates the length that a chunk declares. From BytesIO it cannot exceed the real size.
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            return np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
    except Exception as error:  # a damaged image can raise nearly anything
        raise Invalid(f"{path}: not a readable image: {error}") from error


def _read_split(classes: dict[str, list[Path]], size: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.empty((sum(map(len, classes.values())), size, size, 3), np.uint8)
    for row, file in zip(images, (file for files in classes.values() for file in files)):
        row[:] = read_image(file, size)
    return images, np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
