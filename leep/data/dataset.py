"""What every reader returns, and the two ways in which reading can fail."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np


class DataMissing(FileNotFoundError):
    """A data set was not found; the message says where it was looked for and how to get it."""


class DataError(ValueError):
    """A file of a data set is not what it should be; the message names the file and what is wrong."""


@dataclass(frozen=True, eq=False)
class DataSet:
    """A labelled image data set in memory.

    Attributes
    ----------
    name : str
    train_images, test_images : uint8 arrays `(n, height, width, channels)`, 1 or 3 channels
    train_labels, test_labels : int64 arrays `(n,)`, 0 … len(class_names) − 1
    class_names : tuple of str
    variant : str
        `full`, or what was read instead, e.g. `bundled sample`.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    variant: str = "full"

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the pixels and labels in their order, whatever the files that held them."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()


def only_test(data: DataSet) -> DataSet:
    """A data set whose training examples, too, are its test examples: for tasks that divide those (Section 5.4)."""
    return replace(data, train_images=data.test_images, train_labels=data.test_labels)


def check_labels(labels: np.ndarray, n_classes: int, path) -> np.ndarray:
    """The labels as int64, or a `DataError` that names the file if one is out of range."""
    if labels.size and (labels.min() < 0 or labels.max() >= n_classes):
        bad = labels[(labels < 0) | (labels >= n_classes)][0]
        raise DataError(f"{path}: labels must be 0 … {n_classes - 1}, found {bad}")
    return labels.astype(np.int64)


def complete_layout(folder: Path, layouts: Mapping[str, Sequence[str]]) -> str | None:
    """The first layout all of whose files are in the folder; None if the folder holds no file of any.

    Raises
    ------
    DataError
        If only some files of a layout are there; names the first that is missing.
    """
    partial = None
    for layout, names in layouts.items():
        missing = [name for name in names if not (folder / name).is_file()]
        if not missing:
            return layout
        if len(missing) < len(names):
            partial = partial or missing[0]
    if partial is not None:
        raise DataError(f"{folder / partial}: missing, though other files of the data set are there; try `make data`")
    return None
