"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017) in the IDX format of MNIST, gzipped or not."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from leep.data.dataset import DataError, DataSet, check_labels, complete_layout
from leep.files import MOST_UNZIPPED

CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_MOST_SHRUNK = 1032  # times that gzip makes a file smaller at best
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _bytes(path: Path, n_dimensions: int) -> bytes:
    """Header and values of a file, unzipped if its name ends in .gz, and a byte more if there are more than it says."""
    header, size = 4 + 4 * n_dimensions, path.stat().st_size
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            head = file.read(header)
            if len(head) < header:
                return head
            # No more than the file can hold, whatever the header says
            most = min(size * _MOST_SHRUNK, MOST_UNZIPPED) if path.suffix == ".gz" else size
            return head + file.read(min(math.prod(_shape(head, n_dimensions)), most) + 1)
    except EOFError:
        raise DataError(f"{path}: truncated: the gzip stream ends too early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a sound gzip file: {error}") from error


def _shape(header: bytes, n_dimensions: int) -> tuple[int, ...]:
    return struct.unpack_from(f">{n_dimensions}I", header, 4)


def _read_idx(path: Path, n_dimensions: int) -> np.ndarray:
    """An array of unsigned bytes: magic number 0x0000080d with d dimensions, their sizes (big-endian), the values."""
    content = _bytes(path, n_dimensions)
    header = 4 + 4 * n_dimensions
    magic = struct.pack(">I", 0x0800 + n_dimensions)
    if content[:4] != magic:
        raise DataError(
            f"{path}: must start with the magic number {magic.hex()}, found {content[:4].hex() or 'nothing'}"
        )
    if len(content) < header:
        raise DataError(f"{path}: truncated: expected a header of {header} bytes, found {len(content)}")
    shape = _shape(content, n_dimensions)
    expected, found = math.prod(shape), len(content) - header
    if found != expected:
        problem, followed = ("truncated", found) if found < expected else ("too long", "more")
        raise DataError(f"{path}: {problem}: the header says {shape}, {expected} bytes, but {followed} follow")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_split(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = _read_idx(images_path, 3), _read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28) or not len(images):
        raise DataError(f"{images_path}: expected images of 28 × 28 pixels, found an array of shape {images.shape}")
    if len(images) != len(labels):
        raise DataError(f"{labels_path}: has {len(labels)} labels, but {images_path.name} has {len(images)} images")
    return images[..., None].copy(), check_labels(labels, len(CLASS_NAMES), labels_path)


def _present(folder: Path) -> tuple[str, ...]:
    """The name each file has in the folder: the gzipped one, unless only the other is there."""
    names = ((name, f"{name}.gz") for name in FILES)
    return tuple(
        raw if (folder / raw).is_file() and not (folder / zipped).is_file() else zipped for raw, zipped in names
    )


def holds_fashion_mnist(folder: Path) -> bool:
    """Whether the folder holds the four files; `DataError` if only some of them."""
    return complete_layout(folder, {"idx": _present(folder)}) is not None


def read_fashion_mnist(folder: Path) -> DataSet | None:
    """Fashion-MNIST from a folder with its four IDX files, gzipped or not; None if it holds none of them.

    Raises
    ------
    DataError
        If a file is missing, truncated, too long or not an IDX file, or if images and labels do not agree.
    """
    if not holds_fashion_mnist(folder):
        return None
    paths = [folder / name for name in _present(folder)]
    return DataSet("fashion_mnist", *_read_split(*paths[:2]), *_read_split(*paths[2:]), CLASS_NAMES)
