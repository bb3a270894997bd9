"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) in the official binary and the official Python layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leep.data.dataset import DataError, DataSet, check_labels, complete_layout
from leep.data.unpickle import load_pickle

_PIXELS = 3 * 32 * 32
_CIFAR10 = {
    "binary": (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"),
    "python": (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"),
}
_CIFAR100 = {"binary": ("train.bin", "test.bin"), "python": ("train", "test")}


def _as_images(pixels: np.ndarray) -> np.ndarray:
    """(n, 3072) rows in channel-row-column order → (n, 32, 32, 3)."""
    images = np.empty((len(pixels), 1024, 3), np.uint8)
    for start in range(0, len(pixels), 1000):  # block by block: several times as fast as one transposed copy
        for channel in range(3):
            block = pixels[start : start + 1000, channel * 1024 : (channel + 1) * 1024]
            images[start : start + 1000, :, channel] = block
    return images.reshape(-1, 32, 32, 3)


def _read_binary(path: Path, label_bytes: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Records of `label_bytes` label bytes, the last of which counts, and 3,072 pixel bytes."""
    size, record = path.stat().st_size, label_bytes + _PIXELS
    if size == 0 or size % record:
        raise DataError(f"{path}: must be a whole number of {record}-byte records, has {size} bytes; truncated?")
    rows = np.asarray(np.memmap(path, np.uint8, "r")).reshape(-1, record)
    return _as_images(rows[:, label_bytes:]), check_labels(rows[:, label_bytes - 1], n_classes, path)


def _read_python(path: Path, key: bytes, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A pickled dictionary with `data`, (n, 3072) uint8, and a list of labels under `key`."""
    batch = load_pickle(path)
    if not isinstance(batch, dict) or b"data" not in batch or key not in batch:
        raise DataError(f"{path}: must be a dictionary with the keys 'data' and '{key.decode()}'")
    pixels, labels = batch[b"data"], batch[key]
    if not isinstance(labels, list) or not labels or not all(isinstance(x, int | np.integer) for x in labels):
        raise DataError(f"{path}: '{key.decode()}' must be a list of integers")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape != (len(labels), _PIXELS):
        raise DataError(f"{path}: 'data' must be a uint8 array of shape ({len(labels)}, {_PIXELS})")
    return _as_images(pixels), check_labels(np.array(labels), n_classes, path)


def _names(path: Path, key: bytes, n_classes: int) -> tuple[str, ...]:
    """Class names out of a text file or out of a pickled dictionary's `key`; numbered where the file is absent."""
    if not path.is_file():
        return tuple(f"class {k}" for k in range(n_classes))
    if path.suffix == ".txt":
        names = path.read_text("utf-8", errors="replace").split()
    else:
        meta = load_pickle(path)
        if not isinstance(meta, dict) or key not in meta or not all(isinstance(n, bytes) for n in meta[key]):
            raise DataError(f"{path}: must be a dictionary with class names under '{key.decode()}'")
        names = [name.decode(errors="replace") for name in meta[key]]
    if len(names) != n_classes:
        raise DataError(f"{path}: expected {n_classes} class names, found {len(names)}")
    return tuple(names)


def holds_cifar10(folder: Path) -> bool:
    """Whether the folder holds CIFAR-10 in either layout; `DataError` if only a part of it."""
    return complete_layout(folder, _CIFAR10) is not None


def read_cifar10(folder: Path) -> DataSet | None:
    """CIFAR-10 from a folder in either layout; None if the folder holds neither."""
    layout = complete_layout(folder, _CIFAR10)
    if layout is None:
        return None
    if layout == "binary":
        *train, test = (_read_binary(folder / name, 1, 10) for name in _CIFAR10[layout])
        names = _names(folder / "batches.meta.txt", b"label_names", 10)
    else:
        *train, test = (_read_python(folder / name, b"labels", 10) for name in _CIFAR10[layout])
        names = _names(folder / "batches.meta", b"label_names", 10)
    images, labels = (np.concatenate(parts) for parts in zip(*train))
    return DataSet("cifar10", images, labels, *test, names)


def holds_cifar100(folder: Path) -> bool:
    """Whether the folder holds CIFAR-100 in either layout; `DataError` if only a part of it."""
    return complete_layout(folder, _CIFAR100) is not None


def read_cifar100(folder: Path) -> DataSet | None:
    """CIFAR-100, fine labels, from a folder in either layout; None if the folder holds neither."""
    layout = complete_layout(folder, _CIFAR100)
    if layout is None:
        return None
    if layout == "binary":
        train, test = (_read_binary(folder / name, 2, 100) for name in _CIFAR100[layout])
        names = _names(folder / "fine_label_names.txt", b"fine_label_names", 100)
    else:
        train, test = (_read_python(folder / name, b"fine_labels", 100) for name in _CIFAR100[layout])
        names = _names(folder / "meta", b"fine_label_names", 100)
    return DataSet("cifar100", *train, *test, names)
