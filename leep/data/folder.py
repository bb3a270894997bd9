"""Images of one's own as a data set: what `find_images` lists, divided into training and test images and decoded."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leep.data.dataset import DataSet
from leep.data.listing import TEST, TRAIN, VALIDATION, ImageFolder, find_images, split_kind
from leep.data.picture import Resize, describe_changes, list_damaged, read_pictures
from leep.errors import Invalid

ON_DAMAGED = ("error", "skip")
_TEST_EVERY = 5


def read_folder(path: str | Path, size: int, on_damaged: str = "error") -> DataSet:
    """Read images of one's own as RGB, resized bilinearly to `size` × `size` pixels.

    Splits that `find_images` finds are used: `train`, and `test`, or the validation where there is no `test`. Otherwise
    every fifth file of each class, starting with the first, is a test image. Classes are numbered in the order of their
    names.

    Parameters
    ----------
    path : str or Path
        What `find_images` takes.
    size : int
        Height and width of the result in pixels, 1 or more.
    on_damaged : {"error", "skip"}

    Returns
    -------
    DataSet
        Named `folder`; images `(n, size, size, 3)`, uint8. Its `notes` say what was left out or changed.

    Raises
    ------
    ValueError
        If `size` is not a positive int, or `on_damaged` another word.
    Missing, Invalid
        As `find_images`; Invalid also if images are damaged (one error that names them all), or a class lacks training
        or test images.

    Examples
    --------
    >>> read_folder("pets", 224).train_images.shape
    (8, 224, 224, 3)
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be a number of pixels, 1 or more, got {size!r}")
    if on_damaged not in ON_DAMAGED:
        raise ValueError(f"on_damaged must be error or skip, got {on_damaged!r}")
    folder = find_images(path)
    rows, notes = _divide(folder)
    _check_classes(folder, *(folder.labels[part] for part in rows))
    arrays, files, damaged, changes = [], [], {}, []
    for part in rows:
        images, good = np.empty((len(part), size, size, 3), np.uint8), np.ones(len(part), bool)
        for k, picture in enumerate(read_pictures(folder.take(part).paths, Resize(size))):
            if isinstance(picture, Invalid):
                good[k], damaged[folder.files[part[k]]] = False, str(picture)
            else:
                images[k] = picture.pixels
                files.append(folder.files[part[k]])
                changes.append(picture.changes)
        labels = folder.labels[part]
        arrays += [images, labels] if good.all() else [images[good], labels[good]]
    if damaged:
        said = list_damaged(damaged, len(folder))
        if on_damaged == "error":
            raise Invalid(f"{path}: {said}\nMend them, or leave them out by on_damaged=skip")
        notes.append(f"left out: {said}")
        _check_classes(folder, arrays[1], arrays[3])
    notes = [*folder.notes, *notes, *describe_changes(np.array(changes, np.uint8))]
    return DataSet("folder", *arrays, folder.class_names, notes=tuple(notes), files=tuple(files))


def _divide(folder: ImageFolder) -> tuple[list[np.ndarray], list[str]]:
    """Rows of training and of test images, and what is not used."""
    kinds = [split_kind(name) for name in folder.splits]
    if len(kinds) < 2:  # take the first, sixth, eleventh … file of each class for the test
        of_class = [np.flatnonzero(folder.labels == k) for k in range(len(folder.class_names))]
        is_test = np.zeros(len(folder), bool)
        is_test[np.concatenate([rows[::_TEST_EVERY] for rows in of_class])] = True
        return [np.flatnonzero(~is_test), np.flatnonzero(is_test)], []
    if TRAIN not in kinds or len(set(kinds)) < len(kinds):
        raise Invalid(f"{folder.path}: expected one folder each of train, val and test, has {', '.join(folder.splits)}")
    test = TEST if TEST in kinds else VALIDATION
    left = [name for name, kind in zip(folder.splits, kinds) if kind not in (TRAIN, test)]
    of_image = np.array([split_kind(name) for name in folder.split_of])
    rows = [np.flatnonzero(of_image == kind) for kind in (TRAIN, test)]
    return rows, [f"images in {left[0]} are not used"] if left else []


def _check_classes(folder: ImageFolder, train: np.ndarray, test: np.ndarray) -> None:
    lacking = [name for k, name in enumerate(folder.class_names) if not ((train == k).any() and (test == k).any())]
    if lacking and len(folder.splits) > 1:
        needs = "training and test images must be of the same classes; only one of them has"
        raise Invalid(f"{folder.path}: {needs} {', '.join(lacking)}")
    if lacking:
        needs = "a class needs two images or more to be split into train and test; there are fewer of"
        raise Invalid(f"{folder.path}: {needs} {', '.join(lacking)}")
