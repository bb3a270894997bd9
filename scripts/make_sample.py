"""Make the bundled sample of Fashion-MNIST out of the full data set: python scripts/make_sample.py [FOLDER]

All test images, and the first 1,000 training images of each class in their original order. Byte for byte the same
whenever it is run with the same zlib.
"""

from __future__ import annotations

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np

from leep.data import SAMPLES, locate, read_fashion_mnist
from leep.data.idx import FILES
from leep.files import write_atomically

_PER_CLASS = 1000


def first_of_each_class(labels: np.ndarray, n: int) -> np.ndarray:
    """Rows of the first `n` examples of each class, in their original order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:n] for c in np.unique(labels)]))


def write_idx(path, array: np.ndarray) -> None:
    """A uint8 array as a gzipped IDX file, without a name or a time of its making in it."""
    header = struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape)
    content = gzip.compress(header + array.astype(np.uint8).tobytes(), compresslevel=9, mtime=0)
    write_atomically(path, lambda file: file.write(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="folder of the four IDX files (default: found as a run finds it)")
    folder = parser.parse_args().folder or locate("fashion_mnist")
    data = None if folder is None else read_fashion_mnist(Path(folder))
    if data is None:
        parser.error(f"Fashion-MNIST was not found in {folder or 'the search path'}; get it with `make data`")
    rows = first_of_each_class(data.train_labels, _PER_CLASS)
    arrays = (data.train_images[rows, ..., 0], data.train_labels[rows], data.test_images[..., 0], data.test_labels)
    for name, array in zip(FILES, arrays):
        path = SAMPLES["fashion_mnist"] / f"{name}.gz"
        write_idx(path, array)
        print(f"{path}: {array.shape}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
