"""Make the bundled sample of Fashion-MNIST from the full data set: python scripts/make_sample.py [FOLDER]

The sample holds all test images and the first 1,000 training images of each class, in their original order. The same
zlib writes the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np

from leep.data import READERS, locate
from leep.data.idx import FILES
from leep.files import write_atomically
from leep.tasks import first_of_each_class

_PER_CLASS = 1000


def write_idx(path: Path, array: np.ndarray) -> None:
    """Write a uint8 array as a gzipped IDX file, without the file's name or time in it."""
    header = struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape)
    write_atomically(path, gzip.compress(header + array.astype(np.uint8).tobytes(), compresslevel=9, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="folder of the four IDX files (default: found as a run finds it)")
    folder = parser.parse_args().folder or locate("fashion_mnist")
    reader = READERS["fashion_mnist"]
    data = None if folder is None else reader.read(Path(folder))
    if data is None:
        parser.error(f"Fashion-MNIST was not found in {folder or 'the search path'}; get it with `make data`")
    rows = first_of_each_class(data.train_labels, _PER_CLASS)
    arrays = (data.train_images[rows, ..., 0], data.train_labels[rows], data.test_images[..., 0], data.test_labels)
    for name, array in zip(FILES, arrays):
        path = reader.sample / f"{name}.gz"
        write_idx(path, array)
        print(f"{path}: {array.shape}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
