"""Hands a decoded data set to worker processes: a file that all of them map into memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import joblib

from leep.data.dataset import DataError, DataMissing, DataSet
from leep.files import NOT_SHARED, write_atomically

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def share(data: DataSet, folder: Path) -> tuple[DataSet, Path]:
    """The data set without its arrays, cheap to send, and the file that holds them, written where it is not there."""
    path = Path(folder) / f"{data.sha256}.joblib"
    if not path.exists():
        write_atomically(path, lambda f: joblib.dump({name: getattr(data, name) for name in _ARRAYS}, f))
    return replace(data, **dict.fromkeys(_ARRAYS)), path


def load_shared(data: DataSet, path: Path) -> DataSet:
    """The data set again, its arrays mapped into memory.

    Raises
    ------
    DataMissing, DataError
        If the file is not there, or holds other data: the process may be on another machine.
    """
    try:
        loaded = replace(data, **joblib.load(path, mmap_mode="r"))
    except FileNotFoundError:
        raise DataMissing(f"{path} must hold the images of {data.name}: {NOT_SHARED}, e.g. by paths.cache=…") from None
    if loaded.sha256 != path.stem:
        raise DataError(
            f"{path} must hold images and labels with the SHA-256 of its name, has {loaded.sha256}; "
            "delete it, it is written anew"
        )
    return loaded
