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
import tempfile
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from helpers.adaptation import CARD, find
from helpers.files import header, python2_pickle
from helpers.results import COLUMNS, table
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from leep.data import READERS
from leep.data.idx import FILES as IDX_FILES
from leep.data.idx import read_idx
from leep.data.picture import Resize, read_image
from leep.errors import Invalid
from leep.results import read_rows, read_setting
from leep.unpickle import unpickle_arrays

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


def read_cifar(path):
    """The file as training and as test batch."""
    with tempfile.TemporaryDirectory() as folder:
        for split in ("train", "test"):
            Path(folder, split + path.suffix).symlink_to(path)
        return READERS["cifar100"].read(Path(folder))


IDX = header(0x0803, 2, 4, 4) + bytes(32)
BATCH = {b"data": PIXELS, b"fine_labels": [7, 99]}
CSV = b"task,measure,score\n0,leep,-0.5\n1,leep,-0.25\n"
SETTING = b'{"setting": {"seed": 0}, "notes": {"n_tasks": 3}, "provenance": {}}'
# Name of a file → its sound content and its reader
FILES = {
    "idx": (IDX, lambda p: read_idx(p, 3)),
    "idx.gz": (gzip.compress(IDX), lambda p: read_idx(p, 3)),
    "batch.bin": (binary(1, 2), read_cifar),
    "python2": (python2_pickle(PIXELS, b"fine_labels", [7, 99]), read_cifar),
    **{f"python{k}": (pickle.dumps(BATCH, k), read_cifar) for k in (3, 4, 5)},
    **{f"image.{f}": (image(f), lambda p: read_image(p, Resize(8))) for f in ("png", "jpeg", "gif", "bmp", "tiff")},
    **{f"image.{f}": (image(f), lambda p: read_image(p, Resize(8))) for f in ("webp", "ppm")},
    "stored.npz": (npz(np.savez), find),
    "deflated.npz": (npz(np.savez_compressed), find),
    "scores.csv": (CSV, lambda p: read_rows(p, COLUMNS[:2], COLUMNS[2:])),
    "table.csv": (CSV, lambda p: table(p).__exit__()),
    "setting.json": (SETTING, lambda p: read_setting(p.parent)),
}
CHANGES = st.lists(
    st.tuples(st.integers(0, 2**14), st.sampled_from(["set", "insert", "cut"]), st.binary(min_size=1, max_size=9)),
    min_size=1,
    max_size=5,
)


class Hangs(BaseException):
    """A reader took more than ten seconds."""


@contextlib.contextmanager
def bounded(most: int):
    """What is read ends with `Invalid` or none, soon, and having allocated at most so many bytes at a time."""

    def give_up(*_):
        raise Hangs

    failed = None
    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(10)
    tracemalloc.start()
    try:
        yield
    except Invalid as found:
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
    content, read = FILES[name]
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
        with bounded(4_000_000 + 100 * len(data)):
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
    with bounded(1_000_000):
        read_idx(path, 3)


def test_a_gzip_bomb_is_not_inflated(tmp_path):
    path = tmp_path / f"{IDX_FILES[0]}.gz"
    path.write_bytes(gzip.compress(IDX + bytes(50_000_000), 1))
    with bounded(2_000_000), pytest.raises(Invalid, match=r"too long: .* 32 bytes, but more follow"):
        read_idx(path, 3)


def reduced(function: bytes, arguments: bytes) -> bytes:
    """A pickle of a call."""
    return b"\x80\x02" + function + arguments + b"R."


LONG = b"\x8a\x05" + (2**34).to_bytes(5, "little")


def frame(size: int) -> bytes:
    return b"\x95" + struct.pack("<Q", size)


HIDDEN = b"}r" + struct.pack("<I", 20_000_000) + b"."  # text for `genops`, opcodes for the unpickler


@pytest.mark.parametrize(
    "content",
    [
        # The unpickler skips the two bytes of the text's length that the frame holds, and reads 0 after them
        b"\x80\x04" + frame(3) + b"X\0\1" + bytes(4) + HIDDEN + b"." * 300,
        # It skips the opcode and length that the outer frame holds
        b"\x80\x04" + frame(11) + frame(len(HIDDEN) + 2) + b"U" + bytes([len(HIDDEN)]) + HIDDEN + b"..",
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
    with bounded(40_000_000):
        read_cifar(tmp_path / "batch")


def repeated(call: bytes, prepared: bytes = b"") -> bytes:
    """A pickle of a list of 1,000 results."""
    return b"\x80\x02" + prepared + b"](" + call * 1000 + b"e."


SIZE = struct.pack("<i", 100_000)
ENCODE = b"c_codecs\nencode\nq\0X" + SIZE + b"x" * 100_000 + b"\x85q\1"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\nq\0)q\1cnumpy\ndtype\nU\2u1\x85Rq\2T" + SIZE + b"x" * 100_000 + b"q\3"


@pytest.mark.parametrize(
    "content",
    [repeated(b"h\0h\1R", ENCODE), repeated(b"h\0h\1R(K\1J" + SIZE + b"\x85h\2\x89h\3tb", ARRAY)],
    ids=["encode", "array"],
)
def test_what_a_pickle_repeats_is_not_copied(content):
    with bounded(5_000_000):
        assert len(unpickle_arrays(io.BytesIO(content))) == 1000


@pytest.mark.parametrize("protocol", [2, 5])
def test_python_batches_of_either_byte_order_and_memory_order(protocol):
    arrays = {"a": PIXELS.astype(">i4"), "b": np.asfortranarray(PIXELS), "c": 1.5 * PIXELS}
    loaded = unpickle_arrays(io.BytesIO(pickle.dumps(arrays, protocol)))
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_an_image_bomb_is_refused(tmp_path):
    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(png)
    with pytest.raises(Invalid, match=r"Image size .* exceeds limit"):
        read_image(tmp_path / "bomb.png", Resize(8))


def test_an_archive_bomb_is_not_inflated(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", card=json.dumps(CARD), r=np.zeros(3_000_000, np.float32))
    find(tmp_path / "a.npz")
    monkeypatch.setattr("leep.files.MOST_UNZIPPED", 10_000_000)
    with (
        bounded(2_000_000),
        pytest.raises(Invalid, match=r"at most 10000000 bytes, .*got 12"),
    ):
        find(tmp_path / "a.npz")
