"""Hands a decoded data set to worker processes: files that all of them map into memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from leep.data.dataset import DataError, DataMissing, DataSet
from leep.files import NOT_SHARED, write_atomically

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
        load_shared(data, path)
    except (OSError, ValueError):
        return False
    return True


def load_shared(data: DataSet, path: Path) -> DataSet:
    """The data set again, its arrays mapped into memory.

    Raises
    ------
    DataMissing, DataError
        If files are not there, or hold other data: the process may be on another machine.
    """
    try:
        arrays = {name: np.lib.format.open_memmap(path / f"{name}.npy", "r") for name in _ARRAYS}
    except FileNotFoundError:
        raise DataMissing(f"{path} must hold the images of {data.name}: {NOT_SHARED}, e.g. by paths.cache=…") from None
    loaded = replace(data, **arrays)
    if loaded.sha256 != path.name:
        raise DataError(
            f"{path} must hold images and labels with the SHA-256 of its name, has {loaded.sha256}; "
            "the next run writes it anew"
        )
    return loaded
