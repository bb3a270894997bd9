"""Images for models, and the pass: what is read from a folder, what is kept, and what an interruption costs."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from functools import partial

import numpy as np
import pytest
from PIL import Image, ImageFile

from leep.data.picture import read_image, read_picture
from leep.errors import Invalid, Missing
from leep.models import (
    ArrayImages,
    Model,
    Resize,
    StoredOutputs,
    find_images,
    images_to_pass,
    measure_speed,
    model_outputs,
    open_model,
    outputs,
    read_images,
)
from leep.models.images import default_cache

SIZE = Resize(8)


def save(path, seed=0, size=(12, 10)):
    """A picture of noise; the same seed gives the same pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes, four and three images, all different."""
    cats, dogs = ("1.png", "2.png", "a/3.png", "a/4.png"), ("1.png", "2.png", "3.png")
    for seed, name in enumerate([*(f"cat/{c}" for c in cats), *(f"dog/{d}" for d in dogs)]):
        save(tmp_path / "pets" / name, seed)
    return tmp_path / "pets"


def read(folder, cache, **options):
    return read_images(find_images(folder), [SIZE], cache=cache, **options)


# What a folder holds


def test_classes_are_sub_folders_and_all_below_them(folder):
    (folder / "licence.txt").touch()
    (folder / "cat" / "list.csv").touch()
    save(folder / "cat" / ".hidden.png")
    save(folder / ".cache" / "x.png")
    found = find_images(folder)
    assert found.class_names == ("cat", "dog") and found.counts.tolist() == [4, 3]
    assert found.files[:4] == ("cat/1.png", "cat/2.png", "cat/a/3.png", "cat/a/4.png")
    assert found.labels.tolist() == [0, 0, 0, 0, 1, 1, 1] and found.splits == ()
    assert found.notes == ("files that are no images by their names are left out: 1 .csv",)


def test_splits_are_merged_or_chosen(tmp_path):
    for name in ("train/cat/1.png", "train/dog/1.png", "val/cat/2.png", "val/fox/1.png"):
        save(tmp_path / name)
    found = find_images(tmp_path)
    assert found.splits == ("train", "val") and found.class_names == ("cat", "dog", "fox")
    assert found.files == ("train/cat/1.png", "val/cat/2.png", "train/dog/1.png", "val/fox/1.png")
    assert find_images(tmp_path, splits=["train"]).files == ("train/cat/1.png", "train/dog/1.png")
    with pytest.raises(Invalid, match="has no split test; it has train, val"):
        find_images(tmp_path, splits=["test"])


def test_classes_called_like_splits_are_classes(tmp_path):
    for name in ("train/1.png", "test/1.png"):
        save(tmp_path / name)
    assert find_images(tmp_path).class_names == ("test", "train")


def test_an_empty_class_is_left_out_and_said(folder):
    (folder / "ant").mkdir()
    found = find_images(folder)
    assert found.class_names == ("cat", "dog") and found.notes == ("classes without images are left out: ant",)


def test_links_in_a_circle_end(folder):
    (folder / "cat" / "again").symlink_to(folder / "cat", target_is_directory=True)
    assert len(find_images(folder)) == 7


def test_folders_that_are_refused(tmp_path):
    save(tmp_path / "one" / "cat" / "1.png")
    save(tmp_path / "loose" / "1.png")
    (tmp_path / "file").touch()
    reasons = {"one": "has the one class 'cat'", "loose": "has 1 images that lie in no class"}
    for name, reason in reasons.items():
        with pytest.raises(Invalid, match=reason):
            find_images(tmp_path / name)
    for name in ("file", "nowhere"):
        with pytest.raises(Missing, match=name):
            find_images(tmp_path / name)


# What a picture is


def as_read(tmp_path, image, suffix=".png", size=4, **options):
    image.save(tmp_path / f"x{suffix}", **options)
    return read_image(tmp_path / f"x{suffix}", Resize(size))


def test_orientation_is_applied(tmp_path):
    image = Image.fromarray(np.uint8([[0, 0, 0, 0], [0, 0, 0, 0], [255, 255, 255, 255], [255, 255, 255, 255]]))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert as_read(tmp_path, image, exif=exif)[:, 0, 0].tolist() == [255, 255, 0, 0]


def test_grey_transparency_and_depth(tmp_path):
    grey = as_read(tmp_path, Image.new("L", (4, 4), 77))
    assert grey.shape == (4, 4, 3) and (grey == 77).all()
    assert (as_read(tmp_path, Image.new("RGBA", (4, 4), (255, 0, 0, 0))) == 255).all()
    assert as_read(tmp_path, Image.new("RGBA", (4, 4), (255, 0, 0, 51)))[0, 0].tolist() == [255, 204, 204]
    assert as_read(tmp_path, Image.new("LA", (4, 4), (0, 0)))[0, 0].tolist() == [255] * 3
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert as_read(tmp_path, palette)[0, 0].tolist() == [9, 8, 7]
    assert as_read(tmp_path, palette, transparency=1)[0, 0].tolist() == [255] * 3
    deep = Image.fromarray(np.full((4, 4), 0x8102, np.uint16))
    assert (as_read(tmp_path, deep) == 0x81).all()
    assert as_read(tmp_path, Image.new("CMYK", (4, 4), (0, 255, 255, 0)), ".jpg")[0, 0, 0] > 200


def test_a_large_jpeg_is_reduced_while_it_is_decoded(tmp_path):
    ramp = np.repeat(np.uint8([np.linspace(0, 255, 512)]), 512, 0)
    image = Image.fromarray(ramp).convert("RGB")
    small = as_read(tmp_path, image, ".jpg", size=16, quality=95)
    np.testing.assert_allclose(small, Resize(16)(image), atol=3)


def test_damaged_files_are_named_all_at_once_or_left_out(folder, tmp_path, monkeypatch):
    whole = (folder / "cat" / "1.png").read_bytes()
    (folder / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "dog" / "2.png").write_bytes(b"")
    (folder / "dog" / "3.png").write_text("no picture")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)  # as GluonCV does
    with pytest.raises(Invalid, match="3 of 7 images are damaged") as caught:
        read(folder, tmp_path / "c")
    for text in ("cat/1.png (image file is truncated", "dog/2.png (empty)", "dog/3.png (no image"):
        assert text in str(caught.value)
    images = read(folder, tmp_path / "c", skip_damaged=True)
    assert len(images) == 4 and images.labels.tolist() == [0, 0, 0, 1] and set(images.damaged) == {
        "cat/1.png", "dog/2.png", "dog/3.png",
    }  # fmt: skip
    expected = read_image(folder / "dog" / "1.png", SIZE)
    np.testing.assert_array_equal(images.batch(SIZE, 3, 4)[0], expected)
    assert images.folder.files[3] == "dog/1.png"


def test_the_same_picture_twice_is_found_whatever_its_file(folder, tmp_path):
    save(folder / "dog" / "copy.bmp", seed=0)  # of cat/1.png
    images = read(folder, tmp_path / "c")
    (rows,) = images.duplicates()
    assert [images.folder.files[r] for r in rows] == ["cat/1.png", "dog/copy.bmp"]


def test_decoding_is_kept_by_content(folder, tmp_path, monkeypatch):
    first = np.array(read(folder, tmp_path / "c").batch(SIZE, 0, 7))
    calls = []
    monkeypatch.setattr(
        "leep.data.picture.read_picture", lambda path, size: calls.append(path) or read_picture(path, size)
    )
    folder.rename(tmp_path / "moved")
    again = read(tmp_path / "moved", tmp_path / "c")
    assert not calls and isinstance(again.pixels[SIZE], np.memmap)
    np.testing.assert_array_equal(again.batch(SIZE, 0, 7), first)
    save(tmp_path / "moved" / "dog" / "3.png", seed=99)
    changed = read(tmp_path / "moved", tmp_path / "c")
    assert len(calls) == 7 and changed.sha256 != again.sha256


def test_some_of_the_images(folder, tmp_path):
    images = read_images(find_images(folder).take([1, 6]), [SIZE], cache=tmp_path / "c")
    assert images.labels.tolist() == [0, 1] and images.class_names == ("cat", "dog")
    np.testing.assert_array_equal(images.batch(SIZE, 1, 2)[0], read_image(folder / "dog" / "3.png", SIZE))


def test_default_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "leep"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somebody")
    assert str(default_cache()) == "/somebody/.cache/leep"


# The pass


class Counting:
    """Features: the mean colours; counts its images, and stops before it has seen more than `most`."""

    def __init__(self, most=10**6):
        self.most, self.seen = most, -2  # those of the trial

    def __call__(self, x):
        if self.seen + len(x) > self.most:
            raise KeyboardInterrupt
        self.seen += len(x)
        return x.mean((2, 3)), np.concatenate([x.mean((2, 3)), x[:, :1, 0, 0]], 1)


def make_model(run=None, **arguments):
    return Model(
        "colours", run or Counting(), **{"size": 8, "mean": [0] * 3, "std": [1] * 3, "sha256": "1", **arguments}
    )


@pytest.fixture
def images():
    rng = np.random.default_rng(1)
    return ArrayImages(rng.integers(0, 256, (25, 8, 8, 3), dtype=np.uint8), np.arange(25) % 2, ("cat", "dog"))


@pytest.fixture
def blocks(monkeypatch):
    """Blocks of four images."""
    monkeypatch.setattr(outputs, "_BLOCK_PIXELS", 4 * 8 * 8)


def test_outputs_are_the_models_and_kept(images, tmp_path):
    model = make_model()
    out = model_outputs(model, images, cache=tmp_path, batch=10)
    np.testing.assert_allclose(out.features, images.images.mean((1, 2)) / 255, rtol=1e-5)
    assert out.probs.shape == (25, 4) and isinstance(out.probs, np.memmap) and out.probs.dtype == np.float32
    np.testing.assert_allclose(out.probs.sum(1), 1, rtol=1e-6)
    assert out.images_per_second > 0
    again = model_outputs(model, images, cache=tmp_path)
    assert model.run.seen == 25 and again.images_per_second == out.images_per_second
    np.testing.assert_array_equal(again.features, out.features)


@pytest.mark.parametrize("change", [{"sha256": "2"}, {"mean": [0.5] * 3}, {"std": [2] * 3}, {"resize": Resize(8, 9)}])
def test_another_model_is_passed_anew(images, tmp_path, change):
    model_outputs(make_model(), images, cache=tmp_path)
    assert images_to_pass(make_model(), images, cache=tmp_path) == 0
    assert images_to_pass(make_model(**change), images, cache=tmp_path) == 25


def test_an_interrupted_pass_goes_on_where_it_stopped(images, tmp_path, blocks):
    with pytest.raises(KeyboardInterrupt):
        model_outputs(make_model(Counting(most=14)), images, cache=tmp_path / "a", batch=2)
    assert images_to_pass(make_model(), images, cache=tmp_path / "a") == 25 - 12
    second = make_model()
    resumed = model_outputs(second, images, cache=tmp_path / "a", batch=2)
    assert second.run.seen == 25 - 12
    whole = model_outputs(make_model(), images, cache=tmp_path / "b", batch=2)
    np.testing.assert_array_equal(resumed.features, whole.features)
    np.testing.assert_array_equal(resumed.probs, whole.probs)


def test_an_array_lost_after_an_interruption_is_computed_again(images, tmp_path, blocks):
    with pytest.raises(KeyboardInterrupt):
        model_outputs(make_model(Counting(most=14)), images, cache=tmp_path, batch=2)
    next(tmp_path.rglob("all_features.npy")).unlink()
    out = model_outputs(make_model(), images, cache=tmp_path, batch=2)
    np.testing.assert_allclose(out.features, images.images.mean((1, 2)) / 255, rtol=1e-5)


def test_a_model_without_a_classifier(images, tmp_path):
    model = make_model(lambda x: (x.mean((2, 3)), None))
    out = model_outputs(model, images, cache=tmp_path)
    assert out.probs is None and out.features.shape == (25, 3)
    assert model_outputs(model, images, cache=tmp_path).probs is None


def test_nan_in_the_pass_is_said_with_the_image(folder, tmp_path):
    images = read(folder, tmp_path / "c")

    def run(x):
        features = x.mean((2, 3))
        features[features[:, 0] == x0] = np.nan
        return features, x.mean((2, 3))

    x0 = -1.0
    model = make_model(run)
    x0 = model.prepare(images.batch(SIZE, 4, 5)).mean((2, 3))[0, 0]
    with pytest.raises(
        Invalid, match=r"colours: its features are NaN or infinite for 1 of 2 images, from dog/1\.png on"
    ):
        model_outputs(model, images, cache=tmp_path / "c", batch=2)


def test_folder_and_arrays_give_the_same(folder, tmp_path):
    images = read(folder, tmp_path / "c")
    arrays = ArrayImages(np.stack([np.asarray(Image.open(folder / f)) for f in images.folder.files]), images.labels, ())
    a, b = (model_outputs(make_model(), i, cache=tmp_path / "o") for i in (images, arrays))
    np.testing.assert_array_equal(a.features, b.features)


def test_grey_arrays_are_tripled():
    images = ArrayImages(np.full((2, 8, 8, 1), 9, np.uint8), np.zeros(2, int), ("a",))
    assert (images.batch(SIZE, 0, 2) == 9).all() and images.batch(SIZE, 0, 2).shape == (2, 8, 8, 3)


def test_stored_outputs_must_fit_the_images(images):
    features = np.ones((25, 2), "f4")
    out = model_outputs(StoredOutputs("x", features, None, images.labels), images)
    assert out.features is features and out.probs is None and out.images_per_second is None
    model_outputs(StoredOutputs("x", features, None, np.array(["cat", "dog"])[images.labels]), images)
    with pytest.raises(Invalid, match="x: has outputs of 24 images, and there are 25"):
        model_outputs(StoredOutputs("x", features[:24], None, None), images)
    with pytest.raises(Invalid, match="x: 25 of its 25 labels"):
        model_outputs(StoredOutputs("x", features, None, 1 - images.labels), images)


def test_stored_outputs_are_matched_by_file(tmp_path, folder):
    images = read(folder, tmp_path / "c")
    files, n = images.folder.files, len(images)
    turned = [f"./{file}" for file in reversed(files)]
    features = np.arange(n + 1, dtype="f4")[:, None]
    labels = np.append(images.labels[::-1], 0)
    np.savez(tmp_path / "x.npz", features=features, probs=np.c_[features, n - features] / n, labels=labels,
             files=[*turned, "cat/unused.png"])  # fmt: skip
    stored = open_model(str(tmp_path / "x.npz"))
    out = model_outputs(stored, images)
    assert out.features[:, 0].tolist() == list(range(n - 1, -1, -1))
    np.testing.assert_allclose(out.probs[:, 0], out.features[:, 0] / n)
    stored.files = (*turned[:-1], "other.png", "cat/unused.png")
    with pytest.raises(Invalid, match=f"lacks 1 of {n} images, such as {files[0]}"):
        model_outputs(stored, images)
    stored.files = (*turned[:-1], turned[0], "cat/unused.png")
    with pytest.raises(Invalid, match="names 1 files again"):
        model_outputs(stored, images)


def test_speed_of_a_few_batches(images):
    def slow(x):
        time.sleep(0.01 * len(x))
        return x.mean((2, 3)), x.mean((2, 3))

    assert 20 < measure_speed(make_model(slow), images, seconds=0.1) <= 100


def test_ctrl_c_in_another_process_loses_nothing_that_was_done(folder, tmp_path):
    """A process is interrupted while it decodes and passes; a second one goes on."""
    (tmp_path / "slow.py").write_text(
        textwrap.dedent("""
        import sys, time
        from leep.models import *
        from leep.models import outputs
        outputs._BLOCK_PIXELS = 64
        calls = []
        def run(x):
            calls.append(len(x))
            print(len(x), flush=True)
            if sys.argv[3] == "hang" and len(calls) == 4:  # after the trial and two images
                time.sleep(600)
            return x.mean((2, 3)), x.mean((2, 3))
        model = Model("slow", run, size=8, sha256="1")
        images = read_images(find_images(sys.argv[1]), [model.resize], cache=sys.argv[2])
        print("images", flush=True)
        model_outputs(model, images, cache=sys.argv[2], batch=1)
        """)
    )
    command = [sys.executable, str(tmp_path / "slow.py"), str(folder), str(tmp_path / "c")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    restore = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's `&` has it ignored
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    first = subprocess.Popen([*command, "hang"], preexec_fn=restore, env=env, **pipes)
    while first.stdout.readline() != "images\n":
        pass
    for _ in range(3):
        first.stdout.readline()
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert first.returncode != 0
    second = subprocess.run([*command, "go on"], capture_output=True, text=True, env=env, timeout=60, check=True)
    assert second.stdout.split("images\n")[1].split() == ["1"] * 5
