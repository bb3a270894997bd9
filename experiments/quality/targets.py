"""The target data sets of `experiment=ranking_quality`: a limited number of images a class, the same for all models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from leep.data import load_data
from leep.data.dataset import DataSet
from leep.models import ArrayImages
from leep.tasks import SAMPLING, task_rng

EXPERIMENT = "ranking_quality"  # part of what names the random streams
# The fine labels of CIFAR-100's superclasses (Krizhevsky, 2009), in the order of the coarse labels.
SUPERCLASSES = {
    "aquatic mammals": (4, 30, 55, 72, 95),
    "fish": (1, 32, 67, 73, 91),
    "flowers": (54, 62, 70, 82, 92),
    "food containers": (9, 10, 16, 28, 61),
    "fruit and vegetables": (0, 51, 53, 57, 83),
    "household electrical devices": (22, 39, 40, 86, 87),
    "household furniture": (5, 20, 25, 84, 94),
    "insects": (6, 7, 14, 18, 24),
    "large carnivores": (3, 42, 43, 88, 97),
    "large man-made outdoor things": (12, 17, 37, 68, 76),
    "large natural outdoor scenes": (23, 33, 49, 60, 71),
    "large omnivores and herbivores": (15, 19, 21, 31, 38),
    "medium-sized mammals": (34, 63, 64, 66, 75),
    "non-insect invertebrates": (26, 45, 77, 79, 99),
    "people": (2, 11, 35, 46, 98),
    "reptiles": (27, 29, 44, 78, 93),
    "small mammals": (36, 50, 65, 74, 80),
    "trees": (47, 52, 56, 59, 96),
    "vehicles 1": (8, 13, 48, 58, 90),
    "vehicles 2": (41, 69, 81, 85, 89),
}
# `superclasses` are all twenty; `cifar100` is the whole of their images.
SUPERCLASS_TARGETS = {f"cifar100 {name}": classes for name, classes in SUPERCLASSES.items()}
TARGETS = ("superclasses", "fashion_mnist", "digits", "cifar10", "cifar100", *SUPERCLASS_TARGETS)


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """The images of a target.

    Attributes
    ----------
    name : str
    parts : tuple of ArrayImages
        What the models pass, each once.
    labels : int64 `(n,)`
        Of the images of all parts, 0 … n_classes − 1.
    is_train : bool `(n,)`
        Whether an image is for training; the others are for the test.
    """

    name: str
    parts: tuple[ArrayImages, ...]
    labels: np.ndarray
    is_train: np.ndarray


def draw_images(
    name: str, data: DataSet, classes: Sequence[int], most: Sequence[int] | None, seed: int
) -> LabelledImages:
    """Random images of some classes of a data set, as a target; class `classes[k]` has the label `k`.

    Parameters
    ----------
    name : str
        Names the stream that they are drawn from, too.
    data : DataSet
    classes : sequence of int
    most : (int, int), optional
        Images of a class for training and for the test, at most; all if None.
    seed : int
    """
    train, test = most or (None, None)
    rng = task_rng(seed, EXPERIMENT, name, 0, SAMPLING)
    train_rows, train_labels = _draw(data.train_labels, classes, train, rng)
    test_rows, test_labels = _draw(data.test_labels, classes, test, rng)
    images = np.concatenate([data.train_images[train_rows], data.test_images[test_rows]])
    labels = np.concatenate([train_labels, test_labels])
    part = ArrayImages(images, labels, tuple(data.class_names[k] for k in classes))
    return LabelledImages(name, (part,), labels, np.arange(len(labels)) < len(train_rows))


def _draw(labels: np.ndarray, classes: Sequence[int], most: int | None, rng: np.random.Generator) -> tuple:
    members = [np.flatnonzero(labels == k) for k in classes]
    drawn = [np.sort(rng.choice(rows, min(most or len(rows), len(rows)), replace=False)) for rows in members]
    return np.concatenate(drawn), np.repeat(np.arange(len(classes)), [len(rows) for rows in drawn])


def find_targets(
    name: str, images: Mapping[str, Sequence[int]], seed: int, root: str | None = None
) -> Iterator[LabelledImages]:
    """The targets of a name of `TARGETS`.

    CIFAR-100 as a whole is made of the images of its superclasses, so that they are passed once.

    Parameters
    ----------
    name : str
    images : mapping of str to (int, int)
        Images of a class for training and for the test; all where a name is absent.
    seed : int
    root : str, optional
        As for `leep.data.load_data`.

    Raises
    ------
    Missing
        If the data are not here.
    """
    if name in ("superclasses", "cifar100", *SUPERCLASS_TARGETS):
        data, most = load_data("cifar100", root=root), images.get("superclasses")
        names = [name] if name in SUPERCLASS_TARGETS else list(SUPERCLASS_TARGETS)
        found = [draw_images(n, data, SUPERCLASS_TARGETS[n], most, seed) for n in names]
        yield from [_join(name, found)] if name == "cifar100" else found
        return
    data = read_digits() if name == "digits" else load_data(name, root=root)
    yield draw_images(name, data, range(len(data.class_names)), images.get(name), seed)


def _join(name: str, targets: Sequence[LabelledImages]) -> LabelledImages:
    """One target of the classes of all, numbered one after the other."""
    counts = [int(t.labels.max()) + 1 for t in targets]
    firsts = np.cumsum([0, *counts[:-1]])
    labels = np.concatenate([first + t.labels for first, t in zip(firsts, targets)])
    parts = tuple(part for t in targets for part in t.parts)
    return LabelledImages(name, parts, labels, np.concatenate([t.is_train for t in targets]))


def read_digits() -> DataSet:
    """scikit-learn's digits: 1,797 images of 8 × 8 pixels. Every third image of a class is a test image."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = bunch.target.astype(np.int64)
    place = np.zeros(len(labels), np.int64)
    for k in range(10):
        place[labels == k] = np.arange((labels == k).sum())
    test = place % 3 == 0
    return DataSet("digits", images[~test], labels[~test], images[test], labels[test], tuple("0123456789"))
