"""Hands a decoded data set to worker processes: a file that all of them map into memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import joblib

from leep.data.dataset import DataSet
from leep.files import write_atomically

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def share(data: DataSet, folder: Path) -> tuple[DataSet, Path]:
    """The data set without its arrays, cheap to send, and the file that holds them, written where it is not there."""
    path = Path(folder) / f"{data.sha256}.joblib"
    if not path.exists():
        write_atomically(path, lambda f: joblib.dump({name: getattr(data, name) for name in _ARRAYS}, f))
    return replace(data, **dict.fromkeys(_ARRAYS)), path


def load_shared(data: DataSet, path: Path) -> DataSet:
    """The data set again, its arrays mapped into memory."""
    return replace(data, **joblib.load(path, mmap_mode="r"))
