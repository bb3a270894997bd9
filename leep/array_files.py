"""Reads the arrays that measures take from `.npy`, `.npz` and text tables."""

from __future__ import annotations

import csv
import itertools
import warnings
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path

import numpy as np

from leep.errors import Invalid, Missing

# What an array is called in an archive or a column of labels in a table; capitals do not count.
ALIASES = {
    "source_probs": ("source_probs", "probs", "probabilities", "source_probabilities"),
    "source_labels": ("source_labels", "dummy_labels", "source_predictions", "z"),
    "features": ("features", "feats", "embeddings", "f"),
    "target_labels": ("target_labels", "labels", "label", "targets", "target", "class", "y"),
}
_LABELS = ("source_labels", "target_labels")
TABLES = (".csv", ".tsv", ".txt")
_BROKEN = (OSError, EOFError, ValueError, MemoryError, zipfile.BadZipFile, zlib.error)  # of a damaged file


def load_array(place: str | Path, name: str) -> np.ndarray:
    """One array of the measures' vocabulary from a file.

    Parameters
    ----------
    place : str or Path
        An `.npy` file, which is mapped into memory; an `.npz` archive, of which the array with one of the `ALIASES` of
        `name` is read, or the only one; `FILE.npz:NAME`, one array of an archive; or a text table.
    name : {"source_probs", "source_labels", "features", "target_labels"}

    Returns
    -------
    ndarray
        As it is stored; a table of numbers as float64 `(n, columns)`. Labels that are whole numbers are int64; other
        labels are text, and so are those of which two texts, such as 1 and 01, would be the same number.

    Raises
    ------
    Missing, Invalid
        If there is no such file; if it is damaged, or has no such array or one of another kind.
    """
    path, _, member = str(place).partition(".npz:")
    path = Path(f"{path}.npz" if member else place)
    if path.suffix == ".npy":
        array = _load(path)
    elif path.suffix == ".npz":
        with _load(path) as archive:
            array = _read_member(archive, path, member or _find_member(archive, path, name))
    elif path.suffix in TABLES:
        _check_is_file(path)
        array = _read_labels(path, name) if name in _LABELS else _read_matrix(path)
    else:
        raise Invalid(f"{path}: expected a file that ends in .npy, .npz, {', '.join(TABLES)}")
    return _whole(array, place) if name in _LABELS else array


def load_archive(path: str | Path, names: Collection[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Those of the arrays `names` that an `.npz` archive has, and its names that are no array of a measure.

    Raises
    ------
    Missing, Invalid
        If there is no such file; if it is no archive, or two of its arrays have a name of the same one.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise Invalid(f"{path}: expected an archive, .npz; give another file by --probs, --features or --labels")
    known = {alias: name for name, others in ALIASES.items() for alias in others}
    with _load(path) as archive:
        found: dict[str, str] = {}
        for member in archive.files:
            name = known.get(member.lower())
            if name in found and name in names:
                raise Invalid(f"{path}: {found[name]} and {member} are both names of {name}; save one of them")
            if name in names:
                found[name] = member
        arrays = {name: _read_member(archive, path, member) for name, member in found.items()}
        unknown = [member for member in archive.files if member.lower() not in known]
    return {name: _whole(a, path) if name in _LABELS else a for name, a in arrays.items()}, unknown


def _check_is_file(path: Path) -> None:
    if path.is_dir():
        raise Invalid(f"{path}: a folder, expected a file")
    if not path.is_file():
        raise Missing(f"{path}: no such file")


def _load(path: Path):
    """What `numpy.load` gives; a single array is mapped into memory."""
    _check_is_file(path)
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None)
    except _BROKEN as error:
        raise _damaged(path, error) from error
    if isinstance(loaded, np.ndarray) != (path.suffix == ".npy"):
        raise Invalid(f"{path}: its content is not that of a {path.suffix} file; rename it")
    return loaded


def _read_member(archive, path: Path, member: str) -> np.ndarray:
    if member not in archive.files:
        raise Invalid(f"{path}: has no array {member}, it has {', '.join(archive.files)}")
    try:
        array = archive[member]
    except _BROKEN as error:
        raise _damaged(Path(f"{path}:{member}"), error) from error
    if not isinstance(array, np.ndarray):
        raise Invalid(f"{path}: {member} is no array")
    return array


def _find_member(archive, path: Path, name: str) -> str:
    found = [member for member in archive.files if member.lower() in ALIASES[name]]
    if not found and len(archive.files) == 1:
        return archive.files[0]
    if len(found) != 1:
        held = ", ".join(archive.files) or "nothing"
        raise Invalid(f"{path}: which array is {name}? It has {held}; give {path}:NAME")
    return found[0]


def _damaged(path: Path, error: Exception) -> Invalid:
    if "Object arrays" in str(error) or "Python objects" in str(error):
        return Invalid(f"{path}: holds Python objects; save numbers or text, e.g. labels.astype(str)")
    reason = "" if "allow_pickle" in str(error) else f": {error}"  # what NumPy says of a file that is not its own
    return Invalid(f"{path}: no array of NumPy, or damaged{reason}")


def _open(path: Path):
    return open(path, newline="", encoding="utf-8-sig")  # with the mark that spreadsheets write


def _first_line(path: Path) -> tuple[int, str]:
    """Number and text of the first line that is not empty."""
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    return number, line.strip("\r\n")
    except UnicodeDecodeError as error:
        raise Invalid(f"{path}: expected text in UTF-8: {error}") from error
    raise Invalid(f"{path}: expected a row an example, the file is empty")


def _delimiter(line: str) -> str | None:
    return next((mark for mark in "\t;," if mark in line), None)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_matrix(path: Path) -> np.ndarray:
    """A table of numbers, float64 `(n, columns)`; columns are divided by tabs, semicolons, commas or else spaces."""
    number, line = _first_line(path)
    delimiter = _delimiter(line)
    cells = [cell.strip(' "') for cell in line.split(delimiter)]
    header = not all(map(_is_number, cells))
    if header and not cells[0]:
        raise Invalid(f"{path}: its first column has no name, as pandas writes an index; save it with index=False")
    skipped = number if header else number - 1
    try:
        with _open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty table, which is an error here
            table = np.loadtxt(itertools.islice(file, skipped, None), delimiter=delimiter, ndmin=2)
    except ValueError as error:  # a word, a row of another length, text that is not UTF-8
        raise Invalid(f"{path}: expected a table of numbers, {error} (row 0 is line {skipped + 1})") from error
    if table.size == 0:
        raise Invalid(f"{path}: expected a row an example below the names of the columns, got none")
    return table


def _read_labels(path: Path, name: str) -> np.ndarray:
    """One column of a table as text: the only one, or the one whose name in the first line is one of the `ALIASES`."""
    _, line = _first_line(path)
    try:
        with _open(path) as file:
            lines = (line if line.strip() else "\n" for line in file)
            table = csv.reader(lines, delimiter=_delimiter(line) or ",", skipinitialspace=True)
            rows = [(table.line_num, [cell.strip() for cell in row]) for row in table if row]  # blank lines are []
    except (ValueError, csv.Error) as error:
        raise Invalid(f"{path}: expected a table of labels: {error}") from error
    if not any(any(row) for _, row in rows):
        raise Invalid(f"{path}: expected a label an example, got empty cells")
    names = [cell.lstrip("# ").lower() for cell in rows[0][1]]
    columns = [k for k, cell in enumerate(names) if cell in ALIASES[name]]
    if len(columns) != 1 and len(names) > 1:
        raise Invalid(
            f"{path}: which of its {len(names)} columns has the labels? Name it {ALIASES[name][0]} in the first line"
        )
    column = columns[0] if columns else 0
    if columns or _is_name_of_numbers(rows):
        rows = rows[1:]
    for number, row in rows:
        if len(row) != len(names) or _is_missing(row[column]):
            raise Invalid(
                f"{path}, line {number}: expected a label in column {column + 1} of {len(names)}, got {','.join(row)!r}"
            )
    if not rows:
        raise Invalid(f"{path}: expected a label an example below the name of the column, got none")
    return np.array([row[column] for _, row in rows])


def _is_name_of_numbers(rows: list[tuple[int, list[str]]]) -> bool:
    """Whether a word stands above a column of numbers."""
    (_, first), *others = rows
    return bool(others) and not _is_number(first[0]) and all(_is_number(row[0]) for _, row in others)


def _whole(labels: np.ndarray, place: str | Path) -> np.ndarray:
    """Labels as int64 where all are whole numbers, whether floats or text that means one number each; else text."""
    if labels.dtype.kind in "US":
        labels = labels.astype(str)
        if missing := [row for row, text in enumerate(labels.flat) if _is_missing(text)]:
            raise Invalid(f"{place}: labels must not be missing, got {labels.flat[missing[0]]!r} in row {missing[0]}")
        numbers = _read_numbers(labels)
        if numbers is None:
            return labels
        labels = numbers
    if labels.dtype.kind == "f":
        wrong = labels[~(np.abs(labels) < 2**53) | (labels != np.trunc(labels))]  # NaN neither
        if wrong.size:
            raise Invalid(f"{place}: labels must be whole numbers or text, got {wrong.flat[0]}")
        labels = labels.astype(np.int64)
    return labels


def _is_missing(text: str) -> bool:
    return text.strip().lower() in ("", "nan")


def _read_numbers(labels: np.ndarray) -> np.ndarray | None:
    """Text as numbers; None if one is no number, is written like 01, or means the same number as another text."""
    texts, codes = np.unique(labels, return_inverse=True)
    if not all(map(_is_number, texts)) or any("_" in text for text in texts):  # Python reads 1_0 as 10
        return None
    whole = [text for text in texts if text.lstrip("+-").isdecimal()]
    if any(str(int(text)) != text for text in whole):
        return None
    try:
        numbers = texts.astype(np.int64 if len(whole) == len(texts) else np.float64)
    except OverflowError:
        return None
    return numbers[codes].reshape(labels.shape) if len(np.unique(numbers)) == len(texts) else None
