"""Readers of what comes from outside, on damaged and forged files: their own error, soon, within the file's memory.

PyTorch checkpoints are in test_checkpoint.py.
"""

import contextlib
import gzip
import io
import json
import pickle
import signal
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_data import TRAIN_IMAGES, header, python2_pickle
from test_meta_training import CARD, find
from test_results import COLUMNS, table

from leep.data import DataError
from leep.data.cifar import _read_binary, _read_python
from leep.data.folder import _read_image
from leep.data.idx import _read_idx
from leep.data.unpickle import load_pickle
from leep.results import ResultsError, read_rows, read_setting
from leep.sources.weights import WeightsError

PIXELS = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)


def image(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[0].reshape(32, 32, 3)).save(file, form)
    return file.getvalue()


def npz(save) -> bytes:
    file = io.BytesIO()
    save(file, card=json.dumps(CARD), r=np.arange(40, dtype=np.float32))
    return file.getvalue()


def binary(*labels) -> bytes:
    return np.column_stack([*(np.array([v, v], np.uint8) for v in labels), PIXELS]).tobytes()


def read_batch(path):
    return _read_python(path, b"fine_labels", 100)


IDX = header(0x0803, 2, 4, 4) + bytes(32)
BATCH = {b"data": PIXELS, b"fine_labels": [7, 99]}
CSV = b"task,measure,score\n0,leep,-0.5\n1,leep,-0.25\n"
SETTING = b'{"setting": {"seed": 0}, "notes": {"n_tasks": 3}, "provenance": {}}'
# Name of a file → its sound content, its reader, and the reader's error
FILES = {
    "idx": (IDX, lambda p: _read_idx(p, 3), DataError),
    "idx.gz": (gzip.compress(IDX), lambda p: _read_idx(p, 3), DataError),
    "batch.bin": (binary(1, 2), lambda p: _read_binary(p, 2, 100), DataError),
    "python2": (python2_pickle(PIXELS, b"fine_labels", [7, 99]), read_batch, DataError),
    **{f"python{k}": (pickle.dumps(BATCH, k), read_batch, DataError) for k in (3, 4)},
    **{f"image.{f}": (image(f), lambda p: _read_image(p, 8), DataError) for f in ("png", "jpeg", "gif", "bmp", "tiff")},
    **{f"image.{f}": (image(f), lambda p: _read_image(p, 8), DataError) for f in ("webp", "ppm")},
    "stored.npz": (npz(np.savez), find, WeightsError),
    "deflated.npz": (npz(np.savez_compressed), find, WeightsError),
    "scores.csv": (CSV, lambda p: read_rows(p, COLUMNS[:2], COLUMNS[2:]), ResultsError),
    "table.csv": (CSV, lambda p: table(p).__exit__(), ResultsError),
    "setting.json": (SETTING, lambda p: read_setting(p.parent), ResultsError),
}
CHANGES = st.lists(
    st.tuples(st.integers(0, 2**14), st.sampled_from(["set", "insert", "cut"]), st.binary(min_size=1, max_size=9)),
    min_size=1,
    max_size=5,
)


class Hangs(BaseException):
    """A reader took more than ten seconds."""


@contextlib.contextmanager
def bounded(error, most: int):
    """What is read ends with `error` or none, soon, and having allocated at most so many bytes at a time."""

    def give_up(*_):
        raise Hangs

    failed = None
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    tracemalloc.start()
    try:
        yield
    except error as found:
        failed = found.__cause__
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert not isinstance(failed, MemoryError)
    assert peak < most, f"{peak:,} bytes allocated"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.filterwarnings("ignore")  # PIL's of odd images, ast's of odd headers
def test_damaged_files_are_the_readers_own_error(name, tmp_path):
    content, read, error = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    read(path)

    @settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
    @given(CHANGES)
    @example([(33, "set", b"\x7f")])  # 2 GB, says the second part of a PNG
    def damaged(changes):
        data = bytearray(content)
        for position, how, text in changes:
            at = position % (len(data) + 1)
            data[at : len(data) if how == "cut" else at + len(text) * (how == "set")] = b"" if how == "cut" else text
        path.write_bytes(data)
        with bounded(error, 4_000_000 + 100 * len(data)):
            read(path)

    damaged()


@given(st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3), st.binary(max_size=50), st.booleans())
@example([2**32 - 1] * 3, b"", True)
@example([2**31, 28, 28], bytes(50), False)
@settings(deadline=None)
def test_a_forged_idx_header_allocates_nothing(tmp_path_factory, shape, values, zipped):
    path = tmp_path_factory.mktemp("idx") / ("idx.gz" if zipped else "idx")
    content = header(0x0803, *shape) + values
    path.write_bytes(gzip.compress(content) if zipped else content)
    with bounded(DataError, 1_000_000):
        _read_idx(path, 3)


def test_a_gzip_bomb_is_not_inflated(tmp_path):
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(gzip.compress(IDX + bytes(50_000_000), 1))
    with bounded(DataError, 2_000_000), pytest.raises(DataError, match=r"too long: .* 32 bytes, but more follow"):
        _read_idx(path, 3)


def reduced(function: bytes, arguments: bytes) -> bytes:
    """A pickle of a call."""
    return b"\x80\x02" + function + arguments + b"R."


LONG = b"\x8a\x05" + (2**34).to_bytes(5, "little")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r" + struct.pack("<I", 2**31 - 1) + b".",  # a place of the memo
        b"\x80\x02Np2000000000\n.",
        reduced(b"cnumpy\nndarray\n", LONG + b"\x85\x85"),
        reduced(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n" + LONG + b"\x85U\1b\x87"),
        reduced(b"cnumpy\ndtype\n", b"U\x0bV2000000000K\0K\1\x87"),
        reduced(b"cnumpy\ndtype\n", b"U\2O8K\0K\1\x87"),
        b"\x80\x04\x8e" + struct.pack("<Q", 2**34) + b"abc.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**34) + b"abc.",
        b"\x80\x02" + b"(" * 20_000 + b"t" * 20_000 + b".",
    ],
)
def test_a_forged_pickle_allocates_nothing(tmp_path, content):
    (tmp_path / "batch").write_bytes(content)
    with bounded(DataError, 40_000_000):
        assert not isinstance(load_pickle(tmp_path / "batch"), np.ndarray)


def test_python_batches_of_either_byte_order_and_memory_order(tmp_path):
    arrays = {"a": PIXELS.astype(">i4"), "b": np.asfortranarray(PIXELS), "c": 1.5 * PIXELS}
    (tmp_path / "batch").write_bytes(pickle.dumps(arrays, 2))
    loaded = load_pickle(tmp_path / "batch")
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_an_image_bomb_is_refused(tmp_path):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(png)
    with pytest.raises(DataError, match=r"not a readable image: Image size .* exceeds limit"):
        _read_image(tmp_path / "bomb.png", 8)


def test_an_archive_bomb_is_not_inflated(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", card=json.dumps(CARD), r=np.zeros(3_000_000, np.float32))
    find(tmp_path / "a.npz")
    monkeypatch.setattr("leep.files.MOST_UNZIPPED", 10_000_000)
    with (
        bounded(WeightsError, 2_000_000),
        pytest.raises(WeightsError, match=r"at most 10000000 bytes, .*got 12"),
    ):
        find(tmp_path / "a.npz")
