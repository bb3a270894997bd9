"""What every reader of data returns, and what readers share."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leep.errors import Invalid


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
        `full`, or what was read instead: `bundled sample`, or data that are not the published ones.
    notes : tuple of str
        What a user must know, such as files that were left out.
    files : tuple of str
        Of a folder of images: where it has each of them, training images first.
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    variant: str = "full"
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    @functools.cached_property
    def sha256(self) -> str:
        """Hash of the pixels and labels in their order, whatever the files that held them."""
        digest = hashlib.sha256()
        for array in (self.train_images, self.train_labels, self.test_images, self.test_labels):
            digest.update(repr((array.shape, array.dtype.str)).encode())
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()


def only_test(data: DataSet) -> DataSet:
    """Use the test examples for training too, because the tasks of Section 5.4 divide them."""
    files = data.files[len(data.train_labels) :] * 2
    return replace(data, train_images=data.test_images, train_labels=data.test_labels, files=files)


def only_rows(data: DataSet, train: np.ndarray, test: np.ndarray) -> DataSet:
    """The examples of some rows, in their order."""
    images = {"train_images": data.train_images[train], "test_images": data.test_images[test]}
    return replace(data, **images, train_labels=data.train_labels[train], test_labels=data.test_labels[test])


def check_labels(labels: np.ndarray, n_classes: int, path: Path) -> np.ndarray:
    """Return the labels as int64; `Invalid` names the file if one is out of range.

    Examples
    --------
    >>> check_labels(np.array([2, 0], np.uint8), 3, "labels.bin")
    array([2, 0])
    """
    if labels.size and (labels.min() < 0 or labels.max() >= n_classes):
        bad = labels[(labels < 0) | (labels >= n_classes)][0]
        raise Invalid(f"{path}: labels must be 0 … {n_classes - 1}, found {bad}")
    return labels.astype(np.int64)


def complete_layout(folder: Path, layouts: Mapping[str, Sequence[str]]) -> str | None:
    """Return the first layout that has all its files in the folder, or None if the folder has no file of any.

    Parameters
    ----------
    folder : Path
    layouts : mapping from the name of a layout to its file names

    Raises
    ------
    Invalid
        If the folder has only some files of a layout; names the first that is missing.
    """
    partial = None
    for layout, names in layouts.items():
        missing = [name for name in names if not (folder / name).is_file()]
        if not missing:
            return layout
        if len(missing) < len(names):
            partial = partial or missing[0]
    if partial is not None:
        raise Invalid(f"{folder / partial}: missing, though other files of the data set are there; try `make data`")
    return None
