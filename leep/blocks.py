"""Arrays in a folder that are computed block by block, and go on where they stopped after an interruption."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from leep.files import file_digest, write_atomically
from leep.progress import progress

Block = tuple[str, int, int]  # split, first row, row after the last
Compute = Callable[[list[Block], tqdm], Generator[tuple[Block, Mapping[str, np.ndarray]], None, None]]

_LOG = "done.txt"  # a line a block that stands
_SUMS = "sha256.json"


def cached_arrays(
    folder: Path,
    counts: Mapping[str, int],
    names: Sequence[str],
    size: int,
    compute: Compute,
    desc: str,
    verify: bool = True,
) -> dict[str, np.ndarray]:
    """The arrays of a folder, memory-mapped and read-only; computed now where they are not there.

    Two processes that want the same folder do not compute it twice: the second one waits. Blocks that were computed
    before an interruption are kept.

    Parameters
    ----------
    folder : Path
        Its name must name all that determines the arrays.
    counts : mapping of str to int
        Rows of each split.
    names : sequence of str
        Of the arrays of a split.
    size : int
        Rows of a block.
    compute : generator function
        Called with the missing blocks and the progress bar, which it must advance by rows. Yields each block with its
        arrays by name, in any order; each has a row for every row of the block. Not started if nothing is missing.
    desc : str
        Of the progress bar, which counts images.
    verify : bool
        Check the arrays' SHA-256 whenever they are read; else only their length.

    Returns
    -------
    dict of str to ndarray
        By `{split}_{name}`.
    """
    with _lock(folder.with_name(f"{folder.name}.lock")):
        found = read_arrays(folder)
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
            partial = _partial(folder)
            _make(partial, counts, names, size, compute, desc, verify)
            os.replace(partial, folder)
            (folder / _LOG).unlink()
            found = read_arrays(folder)
    if found is None:
        raise OSError(f"{folder} cannot be read back right after it was written; is the disk sound?")
    return found


def read_arrays(folder: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a folder, or None where it is absent, cut short or altered."""
    try:
        sums = json.loads((folder / _SUMS).read_bytes())
        if any(digest and file_digest(folder / f"{name}.npy") != digest for name, digest in sums.items()):
            return None
        return {name: np.lib.format.open_memmap(folder / f"{name}.npy", "r") for name in sums}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def count_missing(folder: Path, counts: Mapping[str, int], names: Sequence[str]) -> int:
    """Rows that `cached_arrays` would still compute; reads the folder, and changes nothing in it."""
    if read_arrays(folder) is not None:
        return 0
    total = sum(counts.values())
    try:
        return total - sum(stop - start for _, start, stop in _read_log(_partial(folder), names))
    except (OSError, ValueError):
        return total


def _partial(folder: Path) -> Path:
    """Where the arrays are made."""
    return folder.with_name(f".{folder.name}.partial")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _make(partial: Path, counts, names, size: int, compute: Compute, desc: str, verify: bool) -> None:
    """Write all arrays block by block, in a folder whose log lists the blocks that stand."""
    blocks = [(s, i, min(i + size, n)) for s, n in counts.items() for i in range(0, n, size)]
    arrays, done = _resume(partial, names)
    missing = [b for b in blocks if b not in done]
    n_done = sum(counts.values()) - sum(stop - start for _, start, stop in missing)
    with (
        open(partial / _LOG, "a", encoding="ascii") as log,
        progress(total=sum(counts.values()), initial=n_done, desc=desc, unit=" images", smoothing=0) as bar,
        contextlib.closing(compute(missing, bar)) as computed,
    ):
        for (split, start, stop), outputs in computed if missing else ():
            for name, values in outputs.items():
                file = partial / f"{split}_{name}.npy"
                if file not in arrays:
                    shape = (counts[split], *values.shape[1:])
                    arrays[file] = np.lib.format.open_memmap(file, "w+", values.dtype, shape)
                    _reserve(file)
                arrays[file][start:stop] = values
                arrays[file].flush()
            log.write(f"{split} {start} {stop}\n")
            log.flush()
            os.fsync(log.fileno())
    sums = {path.stem: file_digest(path) if verify else None for path in sorted(arrays)}
    write_atomically(partial / _SUMS, lambda f: f.write(json.dumps(sums).encode()))


def _reserve(path: Path) -> None:
    """Take the room of a file on the disk now, where it is an error: a page without room would kill the process."""
    with open(path, "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, os.fstat(file.fileno()).st_size)


def _resume(partial: Path, names: Sequence[str]) -> tuple[dict[Path, np.memmap], set[Block]]:
    """The arrays of an interrupted computation, and its blocks; a folder that cannot be read is begun anew."""
    try:
        done = _read_log(partial, names)
        arrays = {p: np.lib.format.open_memmap(p, "r+") for p in partial.glob("*.npy")}
    except (OSError, ValueError):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        return {}, set()
    for path in arrays:
        _reserve(path)
    lines = "".join(f"{split} {start} {stop}\n" for split, start, stop in sorted(done))
    write_atomically(partial / _LOG, lambda f: f.write(lines.encode()))
    return arrays, done


def _read_log(partial: Path, names: Sequence[str]) -> set[Block]:
    """The blocks of an interrupted computation; `OSError` or `ValueError` where it cannot be read."""
    arrays = {p.name for p in partial.glob("*.npy")}
    for name in arrays:
        np.lib.format.open_memmap(partial / name, "r")  # refuses a file cut short, which r+ would fill up with zeros
    *lines, _ = (partial / _LOG).read_text(encoding="ascii").split("\n")  # the last one may be torn
    done = {(split, int(start), int(stop)) for split, start, stop in map(str.split, lines)}
    if not arrays.issuperset(f"{split}_{name}.npy" for split, _, _ in done for name in names):
        raise ValueError(f"{partial} lacks arrays")
    return done
