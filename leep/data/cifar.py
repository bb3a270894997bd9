"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in the official binary and the official Python layout."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from leep.data.dataset import DataSet, check_labels, complete_layout
from leep.errors import Invalid
from leep.unpickle import unpickle_arrays

_PIXELS = 3 * 32 * 32
_BATCHES = [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]


class Cifar(NamedTuple):
    """One of the two data sets."""

    name: str
    n_classes: int
    label_bytes: int  # in a binary record; the last counts
    labels_key: str  # of the pickled dictionaries
    names_key: str
    layouts: dict[str, list[str]]  # file names by layout, the test file last
    names_files: dict[str, str]  # of the class names, by layout


CIFAR10 = Cifar(
    "cifar10",
    n_classes=10,
    label_bytes=1,
    labels_key="labels",
    names_key="label_names",
    layouts={"binary": [f"{name}.bin" for name in _BATCHES], "python": _BATCHES},
    names_files={"binary": "batches.meta.txt", "python": "batches.meta"},
)
CIFAR100 = Cifar(
    "cifar100",
    n_classes=100,
    label_bytes=2,
    labels_key="fine_labels",
    names_key="fine_label_names",
    layouts={"binary": ["train.bin", "test.bin"], "python": ["train", "test"]},
    names_files={"binary": "fine_label_names.txt", "python": "meta"},
)


def holds_cifar(cifar: Cifar, folder: Path) -> bool:
    """Whether the folder holds the data set in either layout; `Invalid` if only a part of it."""
    return complete_layout(folder, cifar.layouts) is not None


def read_cifar(cifar: Cifar, folder: Path) -> DataSet | None:
    """Read a data set from a folder in either layout, CIFAR-100 with its fine labels; None if it holds neither.

    Raises
    ------
    Invalid
        If a file is missing, truncated or damaged.
    """
    layout = complete_layout(folder, cifar.layouts)
    if layout is None:
        return None
    read = _read_binary if layout == "binary" else _read_python
    *train, test = (read(folder / name, cifar) for name in cifar.layouts[layout])
    images, labels = train[0] if len(train) == 1 else (np.concatenate(parts) for parts in zip(*train))
    return DataSet(cifar.name, images, labels, *test, _read_names(folder / cifar.names_files[layout], cifar))


def _read_binary(path: Path, cifar: Cifar) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of records of one or two label bytes and 3,072 pixel bytes."""
    size, record = path.stat().st_size, cifar.label_bytes + _PIXELS
    if size == 0 or size % record:
        raise Invalid(f"{path}: must be a whole number of {record}-byte records, has {size} bytes; truncated?")
    rows = np.asarray(np.memmap(path, np.uint8, "r")).reshape(-1, record)
    labels = rows[:, cifar.label_bytes - 1]
    return _as_images(rows[:, cifar.label_bytes :]), check_labels(labels, cifar.n_classes, path)


def _read_python(path: Path, cifar: Cifar) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of a pickled dictionary: `data` and integers, as published or as arrays that were saved again.

    The pixels of an image are a row, channel by channel, or have the shape (3, 32, 32) or (32, 32, 3).
    """
    batch, key = _load_dictionary(path), cifar.labels_key
    if missing := [name for name in ("data", key) if name not in batch]:
        held = ", ".join(map(repr, batch))
        raise Invalid(
            f"{path}: must be a dictionary with the keys 'data' and '{key}', lacks {missing[0]!r}, has {held}"
        )
    pixels, labels = batch["data"], batch[key]
    if isinstance(labels, list | tuple) and all(isinstance(x, int | np.integer) for x in labels):
        labels = np.array(labels, np.int64)
    if (
        not isinstance(labels, np.ndarray)
        or labels.dtype.kind not in "iu"
        or labels.size != len(labels)
        or not len(labels)
    ):
        raise Invalid(f"{path}: '{key}' must be integers, a list or an array of shape (n,), got {_described(labels)}")
    n = len(labels)
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.dtype != np.uint8
        or pixels.shape not in ((n, _PIXELS), (n, 3, 32, 32), (n, 32, 32, 3))
    ):
        raise Invalid(f"{path}: 'data' must be a uint8 array of shape ({n}, {_PIXELS}), got {_described(pixels)}")
    images = np.ascontiguousarray(pixels) if pixels.shape[-1] == 3 else _as_images(pixels.reshape(n, _PIXELS))
    return images, check_labels(labels.ravel(), cifar.n_classes, path)


def _described(value: object) -> str:
    array = isinstance(value, np.ndarray)
    return f"{value.dtype} {value.shape}" if array else f"a {type(value).__name__}"


def _read_names(path: Path, cifar: Cifar) -> tuple[str, ...]:
    """Class names of a text file or of a pickled dictionary; numbers if the file is absent."""
    if not path.is_file():
        return tuple(f"class {k}" for k in range(cifar.n_classes))
    if path.suffix == ".txt":
        names = path.read_text("utf-8", errors="replace").split()
    else:
        names = _load_dictionary(path).get(cifar.names_key)
        if not isinstance(names, list) or not all(isinstance(name, str | bytes) for name in names):
            raise Invalid(f"{path}: must be a dictionary with class names under '{cifar.names_key}'")
        names = [_as_text(name) for name in names]
    if len(names) != cifar.n_classes:
        raise Invalid(f"{path}: expected {cifar.n_classes} class names, found {len(names)}")
    return tuple(names)


def _load_dictionary(path: Path) -> dict[str, object]:
    """A pickled dictionary by its keys as text, whether Python 2 wrote it or Python 3."""
    content = io.BytesIO(path.read_bytes())
    try:
        loaded = unpickle_arrays(content)
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise Invalid(f"{path}: not a pickle of arrays and plain containers: {error}") from error
    if not isinstance(loaded, dict):
        raise Invalid(f"{path}: must be a pickled dictionary, found a {type(loaded).__name__}")
    return {_as_text(key): value for key, value in loaded.items()}


def _as_text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _as_images(pixels: np.ndarray) -> np.ndarray:
    """Reshape (n, 3072) rows in channel-row-column order to (n, 32, 32, 3)."""
    images = np.empty((len(pixels), 1024, 3), np.uint8)
    for start in range(0, len(pixels), 1000):  # block by block: several times as fast as one transposed copy
        for channel in range(3):
            block = pixels[start : start + 1000, channel * 1024 : (channel + 1) * 1024]
            images[start : start + 1000, :, channel] = block
    return images.reshape(-1, 32, 32, 3)
