"""Hands a decoded data set to worker processes as files that all of them map into memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from leep.data.dataset import DataSet
from leep.errors import Invalid, Missing
from leep.files import NOT_SHARED, write_atomically

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")


def share(data: DataSet, folder: Path) -> tuple[DataSet, Path]:
    """Write the arrays of a data set to a folder, unless they are there.

    Returns
    -------
    data : DataSet
        Without its arrays: cheap to send to a process.
    path : Path
        The folder of the arrays: `folder` / the data set's SHA-256.
    """
    path = Path(folder) / data.sha256
    if not _holds(path, data):
        for name in _ARRAYS:
            write_atomically(path / f"{name}.npy", lambda f, name=name: np.save(f, getattr(data, name)))
    return replace(data, **dict.fromkeys(_ARRAYS)), path


def _holds(path: Path, data: DataSet) -> bool:
    """Whether the files are there, complete and unaltered."""
    try:
        load_shared(data, path)
    except (OSError, ValueError):
        return False
    return True


def load_shared(data: DataSet, path: Path) -> DataSet:
    """Give a data set its arrays again, mapped into memory from the folder that `share` wrote.

    Raises
    ------
    Missing
        If files are not there, because the process is on another machine.
    Invalid
        If they hold other data.
    """
    try:
        arrays = {name: np.lib.format.open_memmap(path / f"{name}.npy", "r") for name in _ARRAYS}
    except FileNotFoundError:
        raise Missing(f"{path} must hold the images of {data.name}: {NOT_SHARED}, e.g. by paths.cache=…") from None
    loaded = replace(data, **arrays)
    if loaded.sha256 != path.name:
        raise Invalid(
            f"{path} must hold images and labels with the SHA-256 of its name, has {loaded.sha256}; "
            "the next run writes it anew"
        )
    return loaded
