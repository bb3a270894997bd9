import gzip
import os
import pickle
import re
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from helpers.files import header, python2_pickle
from PIL import Image

import leep
from leep.data import READERS, DataSet, find_data, known, load_data, locate, search_path
from leep.data.dataset import check_labels
from leep.data.idx import FILES, read_fashion_mnist
from leep.data.known import content_sha256, find_variant
from leep.errors import Invalid, LeepError, Missing

SHA256 = {  # of the official files
    "fashion_mnist": "885da39f4b1a3d7b8ca5ca4980c4435ce33763ab070070c6ebae5d0ad534afe4",
    "bundled sample": "207eb33172cdd8d95ab28068ed89d52acf8a9c6b2b39248ad56790b817b93875",
}


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A search path of one empty folder."""
    monkeypatch.setenv("MXNET_HOME", str(tmp_path / "mxnet"))
    monkeypatch.setattr("leep.data.search_path", lambda root=None: [tmp_path if root is None else root])
    return tmp_path


def pixels_of(rng, n):
    return rng.integers(0, 256, (n, 3072), dtype=np.uint8)


# CIFAR


def write_binary(path, pixels, *label_columns):
    np.column_stack([*(np.array(c, np.uint8) for c in label_columns), pixels]).tofile(path)


def write_cifar10_binary(folder, rng, n=2):
    folder.mkdir(parents=True, exist_ok=True)
    pixels, labels = pixels_of(rng, 6 * n), rng.integers(0, 10, 6 * n)
    for k, name in enumerate([f"data_batch_{k}.bin" for k in range(1, 6)] + ["test_batch.bin"]):
        write_binary(folder / name, pixels[k * n : (k + 1) * n], labels[k * n : (k + 1) * n])
    return pixels, labels


def write_cifar100_binary(folder, rng):
    folder.mkdir(parents=True, exist_ok=True)
    pixels = pixels_of(rng, 5)
    coarse, fine = rng.integers(0, 20, 5), rng.integers(20, 100, 5)
    write_binary(folder / "train.bin", pixels[:3], coarse[:3], fine[:3])
    write_binary(folder / "test.bin", pixels[3:], coarse[3:], fine[3:])
    return pixels, fine


def hwc(pixels):
    """The slow way from a row to an image: every pixel and channel by its place in the record."""
    images = np.empty((len(pixels), 32, 32, 3), np.uint8)
    for y in range(32):
        for x in range(32):
            for c in range(3):
                images[:, y, x, c] = pixels[:, c * 1024 + y * 32 + x]
    return images


def test_cifar10_binary(tmp_path):
    pixels, labels = write_cifar10_binary(tmp_path, np.random.default_rng(0))
    data = READERS["cifar10"].read(tmp_path)
    np.testing.assert_array_equal(data.train_images, hwc(pixels[:10]))
    np.testing.assert_array_equal(data.test_images, hwc(pixels[10:]))
    np.testing.assert_array_equal(data.train_labels, labels[:10])
    np.testing.assert_array_equal(data.test_labels, labels[10:])
    assert data.train_labels.dtype == np.int64
    assert data.class_names == tuple(f"class {k}" for k in range(10))
    (tmp_path / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert READERS["cifar10"].read(tmp_path).class_names == tuple("abcdefghij")
    (tmp_path / "batches.meta.txt").write_text("a\nb\n")
    with pytest.raises(Invalid, match=r"batches\.meta\.txt: expected 10 class names, found 2"):
        READERS["cifar10"].read(tmp_path)


def test_cifar100_binary_takes_the_fine_label(tmp_path):
    pixels, fine = write_cifar100_binary(tmp_path, np.random.default_rng(1))
    data = READERS["cifar100"].read(tmp_path)
    np.testing.assert_array_equal(data.train_labels, fine[:3])
    np.testing.assert_array_equal(data.test_labels, fine[3:])
    np.testing.assert_array_equal(data.test_images, hwc(pixels[3:]))
    assert len(data.class_names) == 100


def test_both_layouts_of_cifar_are_the_same_data(tmp_path):
    rng = np.random.default_rng(2)
    pixels, labels = write_cifar10_binary(tmp_path / "binary", rng)
    fine_pixels, fine = write_cifar100_binary(tmp_path / "binary100", rng)
    python, python100 = tmp_path / "python", tmp_path / "python100"
    python.mkdir()
    python100.mkdir()
    for k, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        rows = slice(2 * k, 2 * k + 2)
        (python / name).write_bytes(python2_pickle(pixels[rows], b"labels", labels[rows]))
    (python / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"%d" % k for k in range(10)]}, 2))
    (python100 / "train").write_bytes(python2_pickle(fine_pixels[:3], b"fine_labels", fine[:3]))
    (python100 / "test").write_bytes(python2_pickle(fine_pixels[3:], b"fine_labels", fine[3:]))
    assert READERS["cifar10"].read(python).sha256 == READERS["cifar10"].read(tmp_path / "binary").sha256
    assert READERS["cifar10"].read(python).class_names == tuple("0123456789")
    assert READERS["cifar100"].read(python100).sha256 == READERS["cifar100"].read(tmp_path / "binary100").sha256


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("keys", [str, str.encode])
def test_batches_that_python_3_saved_again(tmp_path, protocol, keys):
    pixels = pixels_of(np.random.default_rng(3), 2)
    labels = {4: [np.int64(7), np.uint8(99)]}.get(protocol, [7, 99])
    batch = {keys("data"): pixels, keys("fine_labels"): labels, keys("filenames"): [keys("a.png"), keys("b.png")]}
    names = {keys("fine_label_names"): [keys(f"name {k}") for k in range(100)]}
    for name, content in (("train", batch), ("test", batch), ("meta", names)):
        (tmp_path / name).write_bytes(pickle.dumps(content, protocol))
    data = READERS["cifar100"].read(tmp_path)
    np.testing.assert_array_equal(data.train_images, hwc(pixels))
    assert data.train_labels.tolist() == [7, 99]
    assert data.class_names[:2] == ("name 0", "name 1")


def save_cifar10(folder, data, labels, protocol=2, key=str):
    """The same batch as every file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(pickle.dumps({key("data"): data, key("labels"): labels}, protocol))
    return READERS["cifar10"].read(folder)


def test_batches_saved_again_with_other_shapes_and_labels(tmp_path):
    pixels = pixels_of(np.random.default_rng(3), 2)
    published = save_cifar10(tmp_path / "published", pixels, [3, 9], key=str.encode)
    images = hwc(pixels)
    labels = [np.array([3, 9]), np.array([3, 9], np.uint8), (3, 9), np.array([[3], [9]]), [np.int64(3), 9]]
    shapes = [pixels.reshape(2, 3, 32, 32), images, np.asfortranarray(images), images[:, ::1], pixels]
    for k, (given, shape) in enumerate(zip(labels, shapes)):
        assert save_cifar10(tmp_path / str(k), shape, given, protocol=k).sha256 == published.sha256
    with pytest.raises(Invalid, match=r"got float64 \(2, 3072\)"):
        save_cifar10(tmp_path / "floats", pixels / 255, [3, 9])
    (tmp_path / "0" / "data_batch_1").write_bytes(pickle.dumps({"data": pixels, "y": [3, 9]}))
    with pytest.raises(Invalid, match=r"data_batch_1: .* lacks 'labels', has 'data', 'y'"):
        READERS["cifar10"].read(tmp_path / "0")


class Malicious:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_malicious_pickle_is_refused_and_nothing_is_executed(tmp_path, protocol):
    victim = tmp_path / "executed"
    payload = pickle.dumps({b"data": Malicious(victim), b"fine_labels": [1]}, protocol)
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(payload)
    with pytest.raises(Invalid, match=r"train: .*posix\.mkdir"):
        READERS["cifar100"].read(tmp_path)
    assert not victim.exists()
    pickle.loads(payload)  # the payload does work where it is let
    assert victim.exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"<!DOCTYPE html>", b"\x80\x02}q", pickle.dumps(eval), b"\x80\x02cos\nsystem\n.", b"Pidentity\n."],
)
def test_what_is_not_a_plain_pickle_is_refused(tmp_path, content):
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Invalid, match="train: not a pickle"):
        READERS["cifar100"].read(tmp_path)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1, 2], "must be a pickled dictionary, found a list"),
        ({b"data": np.zeros((1, 3072), np.uint8)}, "must be a dictionary with the keys"),
        ({b"data": np.zeros((1, 3072)), b"fine_labels": [1]}, r"'data' must be a uint8 array of shape \(1, 3072\)"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"fine_labels": [1]}, "'data' must be a uint8 array"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": 1}, "'fine_labels' must be integers, .*got a int"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [1.0]}, "'fine_labels' must be integers"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [100]}, "labels must be 0 … 99, found 100"),
        ({b"data": np.zeros((1, 3072), np.uint8), b"fine_labels": [-1]}, "labels must be 0 … 99, found -1"),
    ],
)
def test_a_wrong_python_batch_is_refused(tmp_path, batch, message):
    for name in ("train", "test"):
        (tmp_path / name).write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(Invalid, match=f"train: {message}"):
        READERS["cifar100"].read(tmp_path)


@pytest.mark.parametrize("cut", [1, 3072, 3073 * 2])
def test_a_truncated_binary_batch_is_refused(tmp_path, cut):
    write_cifar10_binary(tmp_path, np.random.default_rng(4))
    path = tmp_path / "data_batch_4.bin"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(Invalid, match=r"data_batch_4\.bin: must be a whole number of 3073-byte records.*truncated"):
        READERS["cifar10"].read(tmp_path)


def test_binary_labels_out_of_range_are_refused(tmp_path):
    write_cifar10_binary(tmp_path, np.random.default_rng(5))
    write_binary(tmp_path / "test_batch.bin", pixels_of(np.random.default_rng(5), 2), [9, 10])
    with pytest.raises(Invalid, match=r"test_batch\.bin: labels must be 0 … 9, found 10"):
        READERS["cifar10"].read(tmp_path)
    assert check_labels(np.array([0, 9], np.uint8), 10, "x").tolist() == [0, 9]


# IDX


def write_fashion_mnist(folder, rng, zipped=True, n_train=6, n_test=4):
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for name, n in zip(FILES, (n_train, n_train, n_test, n_test)):
        images = "images" in name
        array = rng.integers(0, 256 if images else 10, (n, 28, 28) if images else n).astype(np.uint8)
        content = struct.pack(f">{array.ndim + 1}I", 0x0803 if images else 0x0801, *array.shape) + array.tobytes()
        write_file(folder, name, content, zipped)
        arrays.append(array)
    return arrays


def write_file(folder, name, content, zipped=True):
    (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist(tmp_path, zipped):
    arrays = write_fashion_mnist(tmp_path, np.random.default_rng(6), zipped)
    data = read_fashion_mnist(tmp_path)
    assert data.train_images.shape == (6, 28, 28, 1)
    assert data.train_images.dtype == np.uint8
    read = (data.train_images[..., 0], data.train_labels, data.test_images[..., 0], data.test_labels)
    for found, written in zip(read, arrays):
        np.testing.assert_array_equal(found, written)
    assert data.class_names[0] == "T-shirt/top"
    assert data.class_names[9] == "Ankle boot"
    assert len(data.class_names) == 10


@pytest.mark.parametrize(("zipped", "name"), [(True, "{}"), (False, "{}.gz"), (False, "{dot}"), (True, "{dot}.gz")])
def test_fashion_mnist_unpacked_or_named_otherwise(tmp_path, zipped, name):
    """Browsers unpack a file and leave its name; some archives write a dot."""
    write_fashion_mnist(tmp_path / "a", np.random.default_rng(6))
    expected = read_fashion_mnist(tmp_path / "a").sha256
    write_fashion_mnist(tmp_path / "b", np.random.default_rng(6), zipped)
    for path in list((tmp_path / "b").iterdir()):
        plain = path.name.removesuffix(".gz")
        path.rename(path.with_name(name.format(plain, dot=plain.replace("-idx", ".idx"))))
    assert read_fashion_mnist(tmp_path / "b").sha256 == expected


TRAIN_IMAGES, TRAIN_LABELS = FILES[:2]
PIXELS = bytes(6 * 784)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (TRAIN_IMAGES, header(0x0801, 6, 28, 28) + PIXELS, "magic number 00000803, found 00000801"),
        (TRAIN_IMAGES, header(0x0803, 6, 28, 28)[::-1] + PIXELS, "magic number 00000803, found 1c000000"),
        (TRAIN_IMAGES, b"<!DOCTYPE html><html>", "magic number 00000803, found 3c21444f"),
        (TRAIN_IMAGES, b"", "magic number 00000803, found nothing"),
        (TRAIN_IMAGES, header(0x0803, 6), "truncated: expected a header of 16 bytes, found 8"),
        (TRAIN_IMAGES, header(0x0803, 6, 28, 28) + PIXELS[1:], "truncated: .* 4704 bytes, but 4703 follow"),
        (TRAIN_IMAGES, header(0x0803, 6, 28, 28) + PIXELS + b"\0", "too long: .* 4704 bytes, but more follow"),
        (TRAIN_IMAGES, header(0x0803, 2**32 - 1, 2**32 - 1, 28), "truncated: the header says"),
        (TRAIN_IMAGES, header(0x0803, 6, 14, 56) + PIXELS, r"expected images of 28 × 28 pixels.*\(6, 14, 56\)"),
        (TRAIN_IMAGES, header(0x0803, 0, 28, 28), "expected images of 28 × 28 pixels"),
        (TRAIN_LABELS, header(0x0801, 5) + bytes(5), "has 5 labels, but train-images.* has 6 images"),
        (TRAIN_LABELS, header(0x0801, 6) + bytes([0, 1, 2, 3, 4, 10]), "labels must be 0 … 9, found 10"),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_wrong_idx_file_is_refused_by_name(tmp_path, name, content, message, zipped):
    write_fashion_mnist(tmp_path, np.random.default_rng(7), zipped)
    write_file(tmp_path, name, content, zipped)
    with pytest.raises(Invalid, match=f"{name}.*: .*{message}"):
        read_fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda gz: gz[:-200], "truncated: the gzip stream ends too early"),
        (lambda gz: gz[:-4], "truncated: the gzip stream ends too early"),
        (lambda gz: gz[:40] + bytes([gz[40] ^ 255]) + gz[41:], "not a sound gzip file"),
        (lambda gz: gz[:-8] + bytes(8), "not a sound gzip file: CRC check failed"),
        (
            lambda gz: b"<!DOCTYPE html>\n<title>Log in</title>",
            "must start with the magic number 00000803, found 3c21444f",
        ),
        (lambda gz: gz + b"trailing", "not a sound gzip file"),
    ],
)
def test_a_damaged_gzip_file_is_refused_by_name(tmp_path, damage, message):
    write_fashion_mnist(tmp_path, np.random.default_rng(8))
    path = tmp_path / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Invalid, match=f"{re.escape(path.name)}: {message}"):
        read_fashion_mnist(tmp_path)


# where data sets are found


@pytest.mark.parametrize("sub", ["cifar10", "cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"])
def test_gluons_folder_and_the_official_archives_folders_are_found(nowhere, sub):
    write_cifar10_binary(nowhere / sub, np.random.default_rng(10))
    assert locate("cifar10") == nowhere / sub
    assert find_data("cifar10") == nowhere / sub


def test_root_comes_first(nowhere):
    write_fashion_mnist(nowhere / "fashion-mnist", np.random.default_rng(11), n_train=3)
    write_fashion_mnist(nowhere / "root" / "fashion_mnist", np.random.default_rng(11), n_train=5, zipped=False)
    assert len(load_data("fashion_mnist").train_labels) == 3
    assert len(load_data("fashion_mnist", root=nowhere / "root").train_labels) == 5


def test_the_search_path(monkeypatch):
    monkeypatch.setenv("MXNET_HOME", "/elsewhere")
    assert [str(p) for p in search_path("/a")] == ["/a", "/elsewhere/datasets", "/usr/share/datasets"]
    monkeypatch.delenv("MXNET_HOME")
    monkeypatch.setenv("HOME", "/me")
    assert [str(p) for p in search_path("~/b")] == ["/me/b", "/me/.mxnet/datasets", "/usr/share/datasets"]
    assert len(search_path()) == 2


@pytest.mark.parametrize(
    ("name", "sub", "write", "lost"),
    [
        ("cifar10", "cifar10", write_cifar10_binary, "data_batch_3.bin"),
        ("cifar10", "cifar10", write_cifar10_binary, "test_batch.bin"),
        ("cifar100", "cifar100", write_cifar100_binary, "train.bin"),
        ("fashion_mnist", "fashion-mnist", write_fashion_mnist, "t10k-labels-idx1-ubyte.gz"),
    ],
)
def test_a_part_of_a_data_set_is_an_error_and_not_passed_over(nowhere, name, sub, write, lost):
    write(nowhere / sub, np.random.default_rng(12))
    (nowhere / sub / lost).unlink()
    for look in (find_data, load_data):
        with pytest.raises(Invalid, match=rf"{re.escape(str(nowhere / sub / lost))}: missing"):
            look(name)


def test_a_whole_layout_beside_a_part_of_another_is_read(nowhere):
    write_cifar100_binary(nowhere / "cifar100", np.random.default_rng(13))
    (nowhere / "cifar100" / "train").write_bytes(b"")
    assert find_data("cifar100") == nowhere / "cifar100"


def test_one_error_catches_all(nowhere):
    for error, builtin in ((Missing, FileNotFoundError), (Invalid, ValueError)):
        assert issubclass(error, LeepError) and issubclass(error, builtin)
    assert str(Missing("not here")) == "not here"


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_what_is_missing_says_where_it_was_looked_for_and_how_to_get_it(nowhere, name):
    (nowhere / name).mkdir()  # an empty folder is no data set
    for look in (find_data, load_data):
        with pytest.raises(Missing, match=rf"{name} was not found: .*{re.escape(str(nowhere))}.*`make data`"):
            look(name)


def test_names_and_arguments_are_checked(tmp_path):
    for look in (find_data, load_data):
        with pytest.raises(
            ValueError, match=r"unknown reader of data 'mnist'; choose one of cifar10, cifar100, fashion"
        ):
            look("mnist")
        with pytest.raises(ValueError, match="'folder' needs the path"):
            look("folder")
        with pytest.raises(ValueError, match="only the reader 'folder' takes a path"):
            look("cifar10", path=tmp_path)
        with pytest.raises(Missing, match=rf"{re.escape(str(tmp_path))}/none: no such folder"):
            look("folder", path=tmp_path / "none")
    with pytest.raises(ValueError, match="only the reader 'folder' takes a size"):
        load_data("fashion_mnist", size=28)


def test_load_folder(tmp_path):
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    assert find_data("folder", path=tmp_path) == tmp_path
    data = load_data("folder", path=tmp_path, size=3)
    assert data.train_images.shape == (2, 3, 3, 3)
    assert set(READERS) == {"cifar10", "cifar100", "fashion_mnist", "fashion_mnist_sample", "folder"}


def test_the_hash_is_of_pixels_and_labels(tmp_path):
    write_fashion_mnist(tmp_path, np.random.default_rng(14))
    hash_zipped = read_fashion_mnist(tmp_path).sha256
    write_fashion_mnist(tmp_path, np.random.default_rng(14), zipped=False)
    for zipped in tmp_path.glob("*.gz"):
        zipped.unlink()
    assert read_fashion_mnist(tmp_path).sha256 == hash_zipped
    write_file(tmp_path, FILES[3], header(0x0801, 4) + bytes([1, 2, 3, 4]), zipped=False)
    assert read_fashion_mnist(tmp_path).sha256 != hash_zipped


# what is known by its contents


def shuffled(data, seed=0):
    rng = np.random.default_rng(seed)
    train, test = rng.permutation(len(data.train_labels)), rng.permutation(len(data.test_labels))
    rows = data.train_images[train], data.train_labels[train], data.test_images[test], data.test_labels[test]
    return DataSet(data.name, *rows, data.class_names)


def test_contents_are_known_in_any_order_and_nothing_else_is(tmp_path, monkeypatch):
    write_fashion_mnist(tmp_path, np.random.default_rng(15))
    data = read_fashion_mnist(tmp_path)
    assert find_variant(data) == "other data (6 + 4 images)"
    monkeypatch.setitem(known._KNOWN, ("fashion_mnist", content_sha256(data)), "full")
    assert find_variant(data) == find_variant(shuffled(data)) == "full"
    assert shuffled(data).sha256 != data.sha256
    other_labels = replace(data, train_labels=(data.train_labels + 1) % 10)
    other_pixel = replace(
        data, test_images=data.test_images ^ (np.arange(4) == 2).astype(np.uint8)[:, None, None, None]
    )
    fewer = replace(data, train_images=data.train_images[1:], train_labels=data.train_labels[1:])
    swapped = replace(data, train_images=data.test_images, train_labels=data.test_labels)
    for changed in (other_labels, other_pixel, fewer, swapped, replace(data, name="cifar10")):
        assert find_variant(changed).startswith("other data (")


def test_the_sample_is_a_sample_wherever_it_lies(nowhere):
    if not READERS["fashion_mnist"].sample.is_dir():
        pytest.skip("the wheel has no sample")
    shutil.copytree(READERS["fashion_mnist"].sample, nowhere / "FashionMNIST" / "raw")
    assert load_data("fashion_mnist").variant == "bundled sample"


def test_other_files_under_the_name_are_never_full(nowhere):
    write_fashion_mnist(nowhere / "fashion-mnist", np.random.default_rng(16), n_train=600, n_test=100)
    assert load_data("fashion_mnist").variant == "other data (600 + 100 images)"


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "fashion_mnist"])
def test_the_published_data_sets_are_known(name):
    assert full(name).variant == "full"


# the bundled sample and the data sets themselves


checkout = pytest.mark.skipif(Path(leep.__file__).parent.parent != ROOT, reason="the wheel has no sample")


@pytest.fixture(scope="module")
def sample():
    return read_fashion_mnist(READERS["fashion_mnist"].sample)


def full(name):
    if locate(name) is None:
        pytest.skip(f"the full {name} is not here; `make data` gets it")
    return load_data(name)


@checkout
def test_the_bundled_sample_is_read_where_there_is_nothing_else(nowhere):
    assert find_data("fashion_mnist") == READERS["fashion_mnist"].sample
    assert load_data("fashion_mnist").variant == "bundled sample"


def test_the_bundled_sample_is_not_in_the_wheel(nowhere, monkeypatch):
    monkeypatch.setitem(READERS, "fashion_mnist", replace(READERS["fashion_mnist"], sample=nowhere / "sample"))
    for look in (find_data, load_data):
        with pytest.raises(Missing, match=r"fashion_mnist was not found: .*`make data`.*sample.*checkout.*wheel"):
            look("fashion_mnist")


@checkout
def test_the_bundled_sample(sample):
    assert sample.train_images.shape == sample.test_images.shape == (10_000, 28, 28, 1)
    assert np.bincount(sample.train_labels).tolist() == [1000] * 10
    assert np.bincount(sample.test_labels).tolist() == [1000] * 10
    assert sample.sha256 == SHA256["bundled sample"]
    folder = READERS["fashion_mnist"].sample
    assert "Copyright (c) 2017 Zalando SE" in (folder / "LICENSE").read_text()
    assert "arXiv:1708.07747" in (folder / "README.md").read_text()
    for path in folder.iterdir():
        assert path.stat().st_size < 5_000_000


@checkout
def test_the_bundled_sample_is_the_first_thousand_of_each_class(sample):
    data = full("fashion_mnist")
    assert data.sha256 == SHA256["fashion_mnist"]
    seen, rows = [0] * 10, []
    for row, label in enumerate(data.train_labels):
        seen[label] += 1
        if seen[label] <= 1000:
            rows.append(row)
    np.testing.assert_array_equal(sample.train_images, data.train_images[rows])
    np.testing.assert_array_equal(sample.train_labels, data.train_labels[rows])
    np.testing.assert_array_equal(sample.test_images, data.test_images)
    np.testing.assert_array_equal(sample.test_labels, data.test_labels)


@pytest.mark.parametrize(
    ("name", "label_bytes", "test"), [("cifar10", 1, "test_batch.bin"), ("cifar100", 2, "test.bin")]
)
def test_the_full_cifar(name, label_bytes, test):
    folder = locate(name)
    if folder is None or not (folder / test).is_file():
        pytest.skip(f"the full {name} in the binary layout is not here; `make data` gets it")
    n_classes = int(name.removeprefix("cifar"))
    record = label_bytes + 3072
    assert sum(f.stat().st_size for f in folder.glob("*.bin")) == 60_000 * record
    data = load_data(name)
    images, labels = data.test_images, data.test_labels
    assert images.shape == (10_000, 32, 32, 3)
    assert np.bincount(labels).tolist() == [10_000 // n_classes] * n_classes
    # Rows and columns are not exchanged and channels not interleaved: neighbours are alike, and skies are blue.
    images = images[:500].astype(float)
    assert np.abs(np.diff(images, axis=1)).mean() < 20
    assert np.abs(np.diff(images, axis=2)).mean() < 20
    assert images[:, 0, :, 2].mean() > images[:, 0, :, 0].mean()
