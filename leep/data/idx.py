"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017) in the IDX format of MNIST, gzipped or not.

Whether a file is gzipped is seen from its content, because browsers unpack files and leave their names.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from leep.data.dataset import DataSet, check_labels, complete_layout
from leep.errors import Invalid
from leep.files import MOST_UNZIPPED

CLASS_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
_MAX_GZIP_RATIO = 1032  # deflate makes a file smaller by this factor at best


def holds_fashion_mnist(folder: Path) -> bool:
    """Whether the folder holds the four files; `Invalid` if only some of them."""
    return complete_layout(folder, {"idx": _file_names(folder)}) is not None


def read_fashion_mnist(folder: Path) -> DataSet | None:
    """Read Fashion-MNIST from a folder with its four IDX files, gzipped or not; None if it holds none of them.

    Raises
    ------
    Invalid
        If a file is missing, truncated, too long or not an IDX file, or if images and labels do not agree.
    """
    if not holds_fashion_mnist(folder):
        return None
    paths = [folder / name for name in _file_names(folder)]
    return DataSet("fashion_mnist", *_read_split(*paths[:2]), *_read_split(*paths[2:]), CLASS_NAMES)


def _file_names(folder: Path) -> list[str]:
    """Each file's name in the folder: the gzipped one first; some archives write `.idx3` for `-idx3`."""
    kinds = [[f"{name}{end}" for name in (f, f.replace("-idx", ".idx")) for end in (".gz", "")] for f in FILES]
    return [next((name for name in names if (folder / name).is_file()), names[0]) for names in kinds]


def _read_split(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28) or not len(images):
        raise Invalid(f"{images_path}: expected images of 28 × 28 pixels, found an array of shape {images.shape}")
    if len(images) != len(labels):
        raise Invalid(f"{labels_path}: has {len(labels)} labels, but {images_path.name} has {len(images)} images")
    return images[..., None].copy(), check_labels(labels, len(CLASS_NAMES), labels_path)


def read_idx(path: Path, n_dimensions: int) -> np.ndarray:
    """Read an array of unsigned bytes: magic number, sizes of the dimensions, values, all big-endian.

    Parameters
    ----------
    path : Path
        Gunzipped if its content is gzipped.
    n_dimensions : int

    Returns
    -------
    ndarray of uint8, read-only

    Raises
    ------
    Invalid
        If the file is not that, or holds fewer or more values than its header says. Memory stays within the file's
        size, unzipped, whatever the header says.
    """
    content = _read_bytes(path, n_dimensions)
    header = 4 + 4 * n_dimensions
    magic = struct.pack(">I", 0x0800 + n_dimensions)
    if content[:4] != magic:
        raise Invalid(f"{path}: must start with the magic number {magic.hex()}, found {content[:4].hex() or 'nothing'}")
    if len(content) < header:
        raise Invalid(f"{path}: truncated: expected a header of {header} bytes, found {len(content)}")
    shape = _shape(content, n_dimensions)
    expected, found = math.prod(shape), len(content) - header
    if found != expected:
        problem, followed = ("truncated", found) if found < expected else ("too long", "more")
        raise Invalid(f"{path}: {problem}: the header says {shape}, {expected} bytes, but {followed} follow")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _read_bytes(path: Path, n_dimensions: int) -> bytes:
    """Read the header and the values that it declares, plus one byte if any follows, so that extra data are seen."""
    header, size = 4 + 4 * n_dimensions, path.stat().st_size
    with open(path, "rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    most = min(size * _MAX_GZIP_RATIO, MOST_UNZIPPED) if zipped else size
    try:
        with (gzip.open if zipped else open)(path, "rb") as file:
            head = file.read(header)
            if len(head) < header:
                return head
            return head + file.read(min(math.prod(_shape(head, n_dimensions)), most) + 1)
    except EOFError:
        raise Invalid(f"{path}: truncated: the gzip stream ends too early") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise Invalid(f"{path}: not a sound gzip file: {error}") from error


def _shape(header: bytes, n_dimensions: int) -> tuple[int, ...]:
    return struct.unpack_from(f">{n_dimensions}I", header, 4)
