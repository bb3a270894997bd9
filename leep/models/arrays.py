"""`arrays:FILE.npz`: features and probabilities that were computed elsewhere."""

from __future__ import annotations

import copy
import posixpath
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leep import array_files
from leep.errors import Invalid
from leep.explanation import check_probs
from leep.files import file_digest
from leep.models.model import check_is_file, softmax
from leep.models.settings import read_settings

ALIASES = {
    "features": array_files.ALIASES["features"],
    "probs": array_files.ALIASES["source_probs"],
    "logits": ("logits",),
    "labels": array_files.ALIASES["target_labels"],
    "files": ("files", "file", "filenames", "file_names", "paths"),
    "class_names": ("class_names", "source_names", "names"),
}


class StoredOutputs:
    """Outputs of a model that need no pass: what `Model` says of a model, and the arrays.

    Attributes
    ----------
    features : float32 `(n, d)`
    probs : float32 `(n, k)` or None
    labels : `(n,)` or None, integers or text
    files : tuple of str, or None
        The image of each row, relative to the folder of images; without it the rows are in the order of the images.
    """

    resize = size = parameters = weight_bytes = guess = None
    device = "cpu"
    trainable = False

    def __init__(
        self, name: str, features, probs, labels, class_names=None, sha256: str = "", notes: tuple = (), files=None
    ):
        self.name, self.features, self.probs, self.labels = name, features, probs, labels
        self.n_features = features.shape[1]
        self.n_classes = None if probs is None else probs.shape[1]
        self.no_probs = "it has no array of probabilities" if probs is None else ""
        self.class_names, self.sha256, self.notes = class_names, sha256, notes
        self.files = files

    def of_images(self, files: Sequence[str]) -> StoredOutputs:
        """The rows of these images, in their order; itself where the rows have no files.

        Raises
        ------
        Invalid
            If the rows have files, and an image has no row or a file has two.
        """
        if self.files is None:
            return self
        row_of = {posixpath.normpath(file.replace("\\", "/")): row for row, file in enumerate(self.files)}
        if len(row_of) < len(self.files):
            raise Invalid(f"{self.name}: its array files names {len(self.files) - len(row_of)} files again")
        images = [Path(file).as_posix() for file in files]
        if missing := [file for file in images if file not in row_of]:
            raise Invalid(
                f"{self.name}: its array files lacks {len(missing)} of {len(files)} images, such as {missing[0]}; "
                f"it has names such as {next(iter(row_of))}. Name the files relative to the folder of images"
            )
        rows = [row_of[file] for file in images]
        taken = copy.copy(self)
        taken.features, taken.files = self.features[rows], tuple(files)
        taken.probs = None if self.probs is None else self.probs[rows]
        taken.labels = None if self.labels is None else np.asarray(self.labels)[rows]
        return taken


def open_model(name: str, file: Path | None, *, device: str, download: bool, threads, options) -> StoredOutputs:
    """The arrays of an archive, by their `ALIASES`; `features` must be there, the others may be.

    Raises
    ------
    Missing, Invalid
        If there is no such file, it is no archive, or its arrays do not fit each other.
    """
    path = Path(f"{name}={file}" if file else name).expanduser()
    check_is_file(path)
    arrays = _read(path)
    if "features" not in arrays:
        raise Invalid(f"{path}: has no array of features ({', '.join(ALIASES['features'])})")
    features = _matrix(arrays["features"], "features", path)
    probs = None
    if "logits" in arrays and "probs" not in arrays:
        probs = softmax(_matrix(arrays["logits"], "logits", path))
    elif "probs" in arrays:
        try:
            probs = check_probs("probs", _matrix(arrays["probs"], "probs", path)).astype(np.float32, copy=False)
        except ValueError as error:
            raise Invalid(f"{path}: {error}; call logits by that name") from error
    labels = arrays.get("labels")
    labels = labels[:, 0] if labels is not None and labels.shape[1:] == (1,) else labels
    files = arrays.get("files")
    if files is not None and (files.ndim != 1 or files.dtype.kind not in "US"):
        raise Invalid(f"{path}: files must be text (n,), got {files.dtype} {files.shape}")
    for what, array in (("probs", probs), ("labels", labels), ("files", files)):
        if array is not None and len(array) != len(features):
            raise Invalid(f"{path}: expected as many {what} as features, {len(features)}, got {len(array)}")
    names = read_settings(path, options).get("class_names", arrays.get("class_names"))
    if names is not None and (probs is None or len(names) != probs.shape[1]):
        raise Invalid(f"{path}: {len(names)} names of classes for {0 if probs is None else probs.shape[1]} classes")
    names = None if names is None else tuple(map(str, names))
    files = None if files is None else tuple(files.astype(str).tolist())
    return StoredOutputs(path.stem, features, probs, labels, names, file_digest(path), files=files)


def _read(path: Path) -> dict[str, np.ndarray]:
    known = {alias: name for name, aliases in ALIASES.items() for alias in aliases}
    try:
        with np.load(path, allow_pickle=False) as archive:
            if isinstance(archive, np.ndarray):
                raise Invalid(f"{path}: holds one array, expected an .npz archive")
            found: dict[str, np.ndarray] = {}
            for member in archive.files:
                if (name := known.get(member.lower())) in found:
                    raise Invalid(f"{path}: two of its arrays are {name}: {', '.join(archive.files)}")
                if name:
                    found[name] = archive[member]
    except Invalid:
        raise
    except (OSError, EOFError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        reason = "it holds Python objects; save numbers or text" if "Object arrays" in str(error) else error
        raise Invalid(f"{path}: not an .npz archive, or damaged: {reason}") from error
    return found


def _matrix(array: np.ndarray, what: str, path: Path) -> np.ndarray:
    if array.ndim != 2 or array.dtype.kind not in "fiu" or 0 in array.shape:
        raise Invalid(f"{path}: {what} must be numbers (n, columns), got {array.dtype} {array.shape}")
    if not np.isfinite(array).all():
        raise Invalid(
            f"{path}: {what} are NaN or infinite in {(~np.isfinite(array).all(1)).sum()} of {len(array)} rows"
        )
    return array.astype(np.float32, copy=False)
