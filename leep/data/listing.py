"""Lists images and their labels: a folder with a sub-folder a class, or a table of files and labels."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from leep.array_files import ALIASES, TABLES
from leep.data.picture import EXTENSIONS
from leep.errors import Invalid, Missing
from leep.execution.processes import n_cores

TRAIN, VALIDATION, TEST = "train", "validation", "test"
_SPLIT = re.compile(
    r"(?:seg[_-])?(?:(train|training)|(val|valid|validation|dev|eval|evaluation)|(test|testing))"
    r"(?:[ _-]?(?:set|data|split|images?))?",
    re.IGNORECASE,
)
_JUNK = re.compile(
    r"\..*|__macosx|__pycache__|@eadir|\$recycle\.bin|lost\+found|thumbs\.db|desktop\.ini", re.IGNORECASE
)
_NAMED = 20  # files that an error about a table names, of each kind of error
# What the columns of a table are called; capitals do not count.
_FILE = frozenset(
    ["file", "filename", "file_name", "filepath", "file_path", "path", "image", "image_path", "image_name", "img"]
)
_LABEL = frozenset([*ALIASES["target_labels"], "category", "class_name", "label_name"])
_PART = frozenset(["split", "subset", "partition"])


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Image files and their labels; nothing is decoded yet.

    Attributes
    ----------
    path : Path
    files : tuple of str
        Relative to `path`: sorted by class and name, or in the order of the table.
    labels : int64 `(n,)`
    class_names : tuple of str
    split_of : tuple of str
        Of each image: the sub-folder, such as `train` or `val`, in which its class lies, or `train`, `validation` or
        `test` as a table says; empty texts if there are no splits.
    notes : tuple of str
        What was left out.
    """

    path: Path
    files: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    split_of: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.files)

    @property
    def counts(self) -> np.ndarray:
        """Images of each class."""
        return np.bincount(self.labels, minlength=len(self.class_names))

    @property
    def splits(self) -> tuple[str, ...]:
        """All of `split_of`, sorted; empty if there are none."""
        return tuple(sorted({*self.split_of} - {""}))

    @property
    def paths(self) -> list[Path]:
        """Of the files."""
        return [self.path / name for name in self.files]

    @cached_property
    def digests(self) -> tuple[str, ...]:
        """SHA-256 of each file."""

        def hash_file(path: Path) -> str:
            try:
                return hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                return f"unreadable: {error.strerror}"

        with ThreadPoolExecutor(n_cores()) as pool:
            return tuple(pool.map(hash_file, self.paths))

    def take(self, rows: Sequence[int] | np.ndarray) -> ImageFolder:
        """Only these images, in this order; all classes stay."""
        rows = np.asarray(rows, np.intp)
        files, split_of = (tuple(values[i] for i in rows) for values in (self.files, self.split_of))
        taken = replace(self, files=files, labels=self.labels[rows], split_of=split_of)
        if "digests" in self.__dict__:
            taken.__dict__["digests"] = tuple(self.digests[i] for i in rows)
        return taken


def find_images(path: str | Path, splits: Sequence[str] | None = None) -> ImageFolder:
    """The images of a folder with a sub-folder a class, or of a table of files and labels.

    What lies deeper in a sub-folder belongs to its class. Where the sub-folders are called `train`, `val`, `test` and
    the like, the classes lie in these. Hidden files and folders and what systems leave (`__MACOSX`, `Thumbs.db`) are
    passed over; other files without an image's extension (`EXTENSIONS`) are noted, and so are empty classes.

    A table is a `.csv`, `.tsv` or `.txt` with a row an image: its file, relative to the table's folder, and its label.
    With more than two columns the first line names them, e.g. `file`, `label` and, if there are splits, `split`. A file
    that is not there is looked for by its name, with or without extension, in all of the table's folder.

    Parameters
    ----------
    path : str or Path
        Of the folder, or of the table.
    splits : sequence of str, optional
        Only these of its splits; all if None.

    Raises
    ------
    Missing
        If there is no such folder or table.
    Invalid
        If there are fewer than two classes with images, no such split, or files of the table that are not there.

    Examples
    --------
    >>> find_images("pets").class_names
    ('cat', 'dog')
    """
    path = Path(path).expanduser()
    if path.is_dir():
        rows, notes = _list_folder(path)
    elif path.is_file() and path.suffix.lower() in TABLES:
        rows, notes = _list_table(path), []
    else:
        kinds = f"expected a folder, or a table ({', '.join(TABLES)})"
        raise Missing(f"{path}: {f'a file, {kinds}' if path.exists() else 'no such folder of images'}")
    if splits is not None:
        there = {split for _, _, split in rows} - {""}
        if unknown := {*splits} - there:
            has = f"it has {', '.join(sorted(there))}" if there else "its sub-folders are classes"
            raise Invalid(f"{path}: has no split {', '.join(sorted(unknown))}; {has}")
        rows = [row for row in rows if row[2] in splits]
    names = tuple(sorted({label for _, label, _ in rows}))
    if len(names) < 2:
        raise Invalid(f"{path}: must have images of two or more classes, has {_name_found(path, names)}")
    numbers = {name: k for k, name in enumerate(names)}
    files, labels, split_of = zip(*rows)
    root = path if path.is_dir() else path.parent
    return ImageFolder(root, files, np.array([numbers[name] for name in labels]), names, split_of, tuple(notes))


def split_kind(name: str) -> str | None:
    """`train`, `validation` or `test` for the usual names of these; None for others.

    >>> [split_kind(name) for name in ("Training", "val", "TEST_SET", "cats")]
    ['train', 'validation', 'test', None]
    """
    match = _SPLIT.fullmatch(name.strip())
    return (TRAIN, VALIDATION, TEST)[match.lastindex - 1] if match and match.lastindex else None


_Rows = list[tuple[str, str, str]]  # file, label, split or nothing


def _list_folder(path: Path) -> tuple[_Rows, list[str]]:
    ignored: Counter[str] = Counter()
    folders = {f: _walk(f, ignored) for f in _sub_folders(path)}
    splits = {f: _unwrap(f) for f, images in folders.items() if images and split_kind(f.name)}
    others = [f.name for f, images in folders.items() if images and f not in splits]
    divided = {split_kind(f.name) for f, top in splits.items() if any(image.parent != top for image in folders[f])}
    notes: list[str] = []
    if divided and (not others or (TRAIN in divided and len(splits) > 1)):
        labelled = [
            (i, i.relative_to(top).parts[0], f.name) for f, top in splits.items() for i in folders[f] if i.parent != top
        ]
        classes = {c.name for top in splits.values() for c in _sub_folders(top)}
        for f, top in splits.items():
            if loose := sum(i.parent == top for i in folders[f]):
                notes.append(f"{loose:,} images in {f.name} that lie in no class are left out")
        notes += [f"images in {', '.join(others)} are left out, because it is no split"] if others else []
    else:
        labelled = [(i, f.name, "") for f, images in folders.items() for i in images]
        classes = {f.name for f in folders}
    if empty := sorted(classes - {label for _, label, _ in labelled}):
        notes.append(f"classes without images are left out: {', '.join(empty)}")
    if ignored:
        kinds = ", ".join(f"{n:,} {ending or 'without extension'}" for ending, n in sorted(ignored.items()))
        notes.append(f"files that are no images by their names are left out: {kinds}")
    rows = [(str(i.relative_to(path)), label, split) for i, label, split in labelled]
    return sorted(rows, key=lambda row: row[1]), notes


def _unwrap(folder: Path) -> Path:
    """Where the classes of a split lie: archives may have `train/train`."""
    inner = _sub_folders(folder)
    return _unwrap(inner[0]) if len(inner) == 1 and inner[0].name == folder.name else folder


def _sub_folders(path: Path) -> list[Path]:
    return [p for p in sorted(path.iterdir()) if p.is_dir() and not _JUNK.fullmatch(p.name)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in EXTENSIONS and not _JUNK.fullmatch(path.name) and path.is_file()


def _walk(folder: Path, ignored: Counter[str]) -> list[Path]:
    """All image files below a folder, by name; links are followed, once. Counts the endings of other files."""
    seen, images = set(), []
    for place, inner, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = sorted(name for name in inner if not _JUNK.fullmatch(name))
        for path in (Path(place, name) for name in sorted(names) if not _JUNK.fullmatch(name)):
            if _is_image(path):
                images.append(path)
            else:
                ignored[path.suffix.lower()] += 1
    return images


def _name_found(path: Path, names: Sequence[str]) -> str:
    """What there is in place of two classes."""
    if not names:
        return f"{sum(map(_is_image, path.iterdir()))} images that lie in no class" if path.is_dir() else "no rows"
    inner = _sub_folders(path / names[0]) if (path / names[0]).is_dir() else []
    hint = f"; did you mean {path / names[0]}, which has {len(inner)} sub-folders?" if len(inner) > 1 else ""
    return f"the one class {names[0]!r}{hint}"


# ---- A table of files and labels


def _list_table(path: Path) -> _Rows:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
        mark = next((mark for mark in "\t;, " if lines and mark in lines[0]), ",")
        table = csv.reader(lines, delimiter=mark, skipinitialspace=mark != " ")
        cells = [(table.line_num, [cell.strip() for cell in row]) for row in table if any(map(str.strip, row))]
    except (ValueError, csv.Error) as error:
        raise Invalid(f"{path}: expected a table of files and labels, in UTF-8: {error}") from error
    columns, is_header = _find_columns(path, cells)
    find = _Finder(path.parent)
    if not is_header and len(cells) > 1:  # a first line of names that are not known
        is_header = find(cells[0][1][0]) is None and find(cells[1][1][0]) is not None
    rows: dict[str, tuple[str, str]] = {}
    wrong: dict[str, list[str]] = {}
    for number, row in cells[is_header:]:
        file, label, split = (row[k] if k is not None and k < len(row) else "" for k in columns)
        kind = split_kind(split) or ""
        if not file or not label or (columns[2] is not None and not kind):
            wrong.setdefault("rows without a file, a label or a split (train, val, test)", []).append(f"line {number}")
        elif (found := find(file)) is None:
            wrong.setdefault("no such file, or several of its name", []).append(file)
        elif rows.setdefault(found, (label, kind)) != (label, kind):
            wrong.setdefault("files that have two labels", []).append(file)
    if wrong:
        raise Invalid(f"{path}: {'; '.join(f'{what}: {_first(places)}' for what, places in wrong.items())}")
    return [(file, *label_and_split) for file, label_and_split in rows.items()]


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")


def _find_columns(path: Path, cells: list[tuple[int, list[str]]]) -> tuple[list[int | None], bool]:
    """The columns of file, label and split, the last None if there is none, and whether the first line names them."""
    first = [cell.lower() for cell in cells[0][1]] if cells else []
    files, labels, splits = ([k for k, cell in enumerate(first) if cell in names] for names in (_FILE, _LABEL, _PART))
    if len(files) == len(labels) == 1 and len(splits) < 2:
        return [files[0], labels[0], splits[0] if splits else None], True
    if len(first) == 2:
        return [0, 1, None], bool(files or labels)
    raise Invalid(
        f"{path}: expected two columns, or a first line that names them file and label, got {', '.join(first)}"
    )


class _Finder:
    """From what a table calls a file to its path below the table's folder; None if there is none, or several."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def _by_name(self) -> Mapping[str, list[str]]:
        names: dict[str, list[str]] = {}
        for path in _walk(self.folder, Counter()):
            for name in {path.name, path.stem}:
                names.setdefault(name, []).append(str(path.relative_to(self.folder)))
        return names

    def __call__(self, name: str) -> str | None:
        for place in (name, name.replace("\\", "/")):
            if os.path.isfile(self.folder / place):  # whose name may be too long for `Path.is_file`
                return os.path.normpath(place)
        found = self._by_name.get(name.replace("\\", "/").rpartition("/")[2], [])
        return found[0] if len(found) == 1 else None
