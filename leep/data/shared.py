"""Hands a decoded data set to worker processes: files that all of them map into memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from leep.data.dataset import DataSet
from leep.files import write_atomically

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def share(data: DataSet, folder: Path) -> tuple[DataSet, Path]:
    """The data set without its arrays, cheap to send, and the folder that holds them, written where it is not there."""
    path = Path(folder) / data.sha256
    if not _holds(path, data):
        for name in _ARRAYS:
            write_atomically(path / f"{name}.npy", lambda f, name=name: np.save(f, getattr(data, name)))
    return replace(data, **dict.fromkeys(_ARRAYS)), path


def _holds(path: Path, data: DataSet) -> bool:
    """Whether the files are there, and neither cut short nor altered."""
    try:
        return load_shared(data, path).sha256 == data.sha256
    except (OSError, ValueError):
        return False


def load_shared(data: DataSet, path: Path) -> DataSet:
    """The data set again, its arrays mapped into memory."""
    return replace(data, **{name: np.lib.format.open_memmap(path / f"{name}.npy", "r") for name in _ARRAYS})
