"""Images of one's own: folders and tables of files as people have them, and files of every kind."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from leep.data.folder import read_folder
from leep.data.listing import find_images, split_kind
from leep.data.picture import DEEP, FRAMES, TRANSPARENT, Resize, describe_changes, read_image, read_picture
from leep.errors import Invalid, Missing


def paint(path, colour=0, size=(4, 4), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def paint_all(root, *names):
    for name in names:
        paint(root / name)
    return root


def pets(root, per_class=2):
    return paint_all(root, *(f"{name}/{k}.png" for name in ("cat", "dog") for k in range(per_class)))


# Training and test images


def test_a_folder_without_splits_is_split_by_every_fifth_file(tmp_path):
    for k in range(11):
        paint(tmp_path / "b" / f"{k:02d}.png", (k, 0, 0))
    for k in range(2):
        paint(tmp_path / "a" / f"{k}.PNG", (100 + k, 0, 0))
    paint(tmp_path / ".hidden" / "0.png", 0)
    (tmp_path / "b" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "b" / "LICENCE.txt").write_text("x")
    data = read_folder(str(tmp_path), 4)
    assert data.class_names == ("a", "b")
    assert data.test_labels.tolist() == [0, 1, 1, 1]
    assert data.test_images[:, 0, 0, 0].tolist() == [100, 0, 5, 10]
    assert data.train_images[:, 0, 0, 0].tolist() == [101, 1, 2, 3, 4, 6, 7, 8, 9]
    assert data.train_labels.tolist() == [0] + [1] * 8


def test_a_folder_with_train_and_test_is_read_as_rgb_and_resized(tmp_path):
    rng = np.random.default_rng(9)
    for split in ("train", "test"):
        paint(tmp_path / split / "cat" / "grey.png", 77, mode="L")
        paint(tmp_path / split / "dog" / "clear.png", (1, 2, 3, 0), mode="RGBA")
    noise = rng.integers(0, 256, (9, 5, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "train" / "dog" / "noise.png")
    data = read_folder(tmp_path, 6)
    assert data.train_images.shape == (3, 6, 6, 3)
    assert data.train_labels.tolist() == [0, 1, 1]
    assert (data.train_images[0] == 77).all()
    assert (data.train_images[1] == 255).all()
    resized = np.asarray(Image.fromarray(noise).resize((6, 6), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(data.train_images[2], resized)
    assert data.test_labels.tolist() == [0, 1]
    assert data.notes == ("2 of 5 images are transparent in places, which lie on white",)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "val"), ("train", "valid"), ("train", "validation"), ("train", "dev"), ("train", "eval"),
        ("Train", "Test"), ("TRAIN", "TEST"), ("Training", "Testing"), ("training_set", "test_set"),
        ("train-images", "test images"), ("seg_train/seg_train", "seg_test/seg_test"),
    ],
)  # fmt: skip
def test_splits_in_every_usual_spelling(tmp_path, train, test):
    paint_all(tmp_path / train, "a/1.png", "a/2.png", "b/1.png", "b/inner/2.png")
    paint_all(tmp_path / test, "a/3.png", "b/3.png")
    (tmp_path / "README.md").write_text("x")
    paint(tmp_path / "__MACOSX" / train / "a" / "._1.png")
    data = read_folder(tmp_path, 4)
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 0, 1, 1], [0, 1])
    assert data.class_names == ("a", "b") and data.notes == ()


def test_what_is_no_split():
    assert not any(map(split_kind, ["cats", "trains", "testament", "value", "set", "train_cat", "seg_", "test1", ""]))


def test_of_three_splits_the_validation_is_not_used_and_this_is_said(tmp_path):
    for k, split in enumerate(("train", "val", "test")):
        for name in ("a", "b"):
            paint(tmp_path / split / name / "0.png", (k, 0, 0))
    data = read_folder(tmp_path, 4)
    assert (data.train_images[:, 0, 0, 0].tolist(), data.test_images[:, 0, 0, 0].tolist()) == ([0, 0], [2, 2])
    assert data.notes == ("images in val are not used",)


def test_a_test_folder_without_labels_is_left_out(tmp_path):
    """As competitions have it; `predict` lies beside it."""
    paint_all(
        tmp_path, *(f"train/{c}/{k}.png" for c in "ab" for k in range(5)), "test/1.png", "test/2.png", "predict/x.png"
    )
    data = read_folder(tmp_path, 4)
    assert len(data.train_labels) == 8 and len(data.test_labels) == 2
    assert [note.split()[:5] for note in data.notes] == [
        ["2", "images", "in", "test", "that"], ["images", "in", "predict", "are", "left"]
    ]  # fmt: skip


def test_a_class_called_train_is_a_class(tmp_path):
    paint_all(tmp_path, "train/1.png", "train/steam/2.png", "bus/1.png", "bus/2.png")
    assert find_images(tmp_path).class_names == ("bus", "train")


@pytest.mark.parametrize("names", [("val", "test"), ("train", "Training", "test")])
def test_splits_that_are_not_one_of_each_are_refused(tmp_path, names):
    paint_all(tmp_path, *(f"{split}/{c}/1.png" for split in names for c in "ab"))
    with pytest.raises(Invalid, match=r"one folder each of train, val and test, has .*test"):
        read_folder(tmp_path, 4)


def test_classes_of_train_and_test_must_agree(tmp_path):
    paint_all(tmp_path, *(f"{f}/0.png" for f in ("train/a", "train/b", "train/c", "test/a", "test/b", "test/d")))
    with pytest.raises(Invalid, match="same classes; only one of them has c, d"):
        read_folder(tmp_path, 4)


@pytest.mark.parametrize("size", [0, -1, None, 2.5, True])
def test_a_size_that_is_no_number_of_pixels_is_refused(tmp_path, size):
    with pytest.raises(ValueError, match="size must be a number of pixels, 1 or more, got"):
        read_folder(tmp_path, size)


def test_folders_that_are_no_data_set_are_refused(tmp_path):
    paint_all(tmp_path, "a/0.png", "a/1.png")
    with pytest.raises(Invalid, match=r"two or more classes, has the one class 'a'$"):
        read_folder(tmp_path, 4)
    paint(tmp_path / "b" / "0.png", 0)
    with pytest.raises(Invalid, match=r"a class needs two images or more to be split.* b$"):
        read_folder(tmp_path, 4)
    pets(tmp_path / "c" / "archive")
    with pytest.raises(Invalid, match=r"did you mean .*archive, which has 2 sub-folders"):
        read_folder(tmp_path / "c", 4)
    (tmp_path / "licence.md").touch()
    with pytest.raises(Missing, match=r"licence\.md: a file, expected a folder, or a table"):
        find_images(tmp_path / "licence.md")


# What lies beside images


def test_junk_is_passed_over_and_what_may_be_missed_is_noted(tmp_path):
    pets(tmp_path)
    for junk in (".ipynb_checkpoints/0-checkpoint.png", "__MACOSX/cat/._0.png", "@eaDir/0.png", "$RECYCLE.BIN/0.png"):
        paint(tmp_path / junk)
        paint(tmp_path / "cat" / junk)
    for name in (".DS_Store", "Thumbs.db", "desktop.ini", "._0.png"):
        (tmp_path / "dog" / name).touch()
    for name in ("photo.heic", "photo.HEIC", "labels.txt", "noextension"):
        (tmp_path / "dog" / name).touch()
    (tmp_path / "ant").mkdir()
    found = find_images(tmp_path)
    assert found.files == ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")
    assert found.notes == (
        "classes without images are left out: ant",
        "files that are no images by their names are left out: 1 without extension, 2 .heic, 1 .txt",
    )


def test_images_of_any_depth_belong_to_their_class(tmp_path):
    """Six of twenty images were dropped where they lay one level deeper."""
    paint_all(tmp_path, *(f"cat/{'black/' * (k < 6)}{k}.png" for k in range(10)), *(f"dog/{k}.png" for k in range(10)))
    paint_all(tmp_path, "dog/a/b/c/x.JPEG", "dog/a/b/y.jfif")
    data = read_folder(tmp_path, 4)
    assert np.bincount(np.r_[data.train_labels, data.test_labels]).tolist() == [10, 12]


# A table of files and labels


def table(folder, text, name="labels.csv"):
    (folder / name).write_text(text, "utf-8")
    return folder / name


@pytest.mark.parametrize(
    "text",
    [
        "file,label\ncat/0.png,c\ncat/1.png,c\ndog/0.png,d\ndog/1.png,d\n",
        "\ufefflabel;filename\r\nc;cat/0.png\r\nc;cat/1.png\r\nd;dog/0.png\r\nd;dog/1.png\r\n",
        "cat/0.png\tc\ncat/1.png\tc\ndog/0.png\td\ndog/1.png\td",
        ",image,width,class\n0,cat\\0.png,4,c\n1,cat\\1.png,4,c\n2,dog\\0.png,4,d\n3,dog\\1.png,4,d\n",
        "id,breed\ncat/0.png,c\n\ncat/1.png,c\ndog/0.png,d\ndog/1.png,d\ndog/1.png,d\n",
        "cat/0.png c\ncat/1.png c\ndog/0.png d\ndog/1.png d\n",
        'path, label\n"cat/0.png", "c"\n"cat/1.png", "c"\n./dog/0.png, d\ndog/../dog/1.png, d\n',
    ],
    ids=[
        "plain",
        "semicolons",
        "no header",
        "an index and backslashes",
        "unknown names, a row twice",
        "spaces",
        "quotes",
    ],
)
def test_a_table_in_place_of_sub_folders(tmp_path, text):
    found = find_images(table(pets(tmp_path), text))
    assert found.files == ("cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png")
    assert found.class_names == ("c", "d") and found.labels.tolist() == [0, 0, 1, 1] and found.splits == ()


def test_the_order_of_a_table_is_kept_and_files_are_found_by_their_names(tmp_path):
    paint_all(tmp_path / "train", "x1.jpg", "x2.jpg", "x3.jpg", "x4.jpg")
    found = find_images(table(tmp_path, "id,breed\nx3,pug\nx1,beagle\nx4,pug\nx2.jpg,beagle\n"))
    assert found.files == ("train/x3.jpg", "train/x1.jpg", "train/x4.jpg", "train/x2.jpg")
    assert [found.class_names[k] for k in found.labels] == ["pug", "beagle", "pug", "beagle"]
    data = read_folder(tmp_path / "labels.csv", 4)
    assert data.test_labels.tolist() == [1, 0] and data.train_labels.tolist() == [1, 0]


def test_a_table_with_splits(tmp_path):
    rows = ["image,split,label", "cat/0.png,Train,1", "cat/1.png,valid,1", "dog/0.png,train,10", "dog/1.png,VAL,10"]
    path = table(pets(tmp_path), "\n".join(rows))
    found = find_images(path)
    assert found.split_of == ("train", "validation", "train", "validation") and found.class_names == ("1", "10")
    assert find_images(path, splits=["train"]).files == ("cat/0.png", "dog/0.png")
    data = read_folder(path, 4)
    assert (data.train_labels.tolist(), data.test_labels.tolist()) == ([0, 1], [0, 1])


def test_all_that_is_wrong_with_a_table_is_said_at_once(tmp_path):
    paint(pets(tmp_path) / "cow" / "0.png")
    rows = ["file,label", "cat/0.png,c", "cat/9.png,c", "dog/0.png,", "1.png,d", "cat/0.png,d", "nowhere.png,d"]
    with pytest.raises(Invalid) as caught:
        find_images(table(tmp_path, "\n".join(rows)))
    for part in (": cat/9.png, 1.png, nowhere.png", ": line 4", "two labels: cat/0.png"):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected two columns"),
        ("emotion,pixels\n3," + "70 80 " * 999, "no such file, or several of its name: emotion, 3"),
        ("70 80 " * 99 + ",3\n" + "70 80 " * 99 + ",4\n", "no such file"),
        ("file,label\n", "two or more classes"),
        ("cat/0.png,c,x\n", "names them file and label, got cat/0.png, c, x"),
        ("image,MEL,NV\ncat/0.png,1,0\n", "names them file and label, got image, mel, nv"),
        ("file,label,split\ncat/0.png,c,fold1\n", "a split .*line 2"),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    with pytest.raises(Invalid, match=message):
        find_images(table(pets(tmp_path), text))


# Damaged files


def test_damaged_files_are_named_all_at_once_in_words_or_skipped(tmp_path):
    pets(tmp_path, per_class=8)
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "cat" / "1.png")
    contents = {
        "cat/1.png": (tmp_path / "cat" / "1.png").read_bytes()[:300],
        "cat/2.png": b"",
        "cat/3.png": b"  <!DOCTYPE html><title>Log in</title>",
        "dog/1.png": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        "dog/2.png": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
        "dog/3.png": b"hello",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Invalid, match="6 of 16 images are damaged") as caught:
        read_folder(tmp_path, 4)
    for text in ("1.png (image file is truncated", "(empty)", "(a web page)", "git lfs pull", "HEIC, ", "(no image)"):
        assert text in str(caught.value)
    assert all(f"\n  {name} (" in str(caught.value) for name in contents) and "on_damaged" in str(caught.value)
    data = read_folder(tmp_path, 4, on_damaged="skip")
    assert np.bincount(data.train_labels).tolist() == [3, 3] and np.bincount(data.test_labels).tolist() == [2, 2]
    assert len(data.train_images) == 6 and len(data.notes) == 1 and all(name in data.notes[0] for name in contents)
    with pytest.raises(ValueError, match="on_damaged must be error or skip, got 'maybe'"):
        read_folder(tmp_path, 4, on_damaged="maybe")


def test_a_class_of_which_nothing_sound_is_left_is_an_error(tmp_path):
    pets(tmp_path)
    (tmp_path / "dog" / "0.png").write_bytes(b"")
    with pytest.raises(Invalid, match=r"needs two images or more.* dog$"):
        read_folder(tmp_path, 4, on_damaged="skip")


# What a picture is


def written(tmp_path, image, suffix, **options):
    image.save(tmp_path / f"x{suffix}", **options)
    return read_picture(tmp_path / f"x{suffix}", Resize(image.size[0]))


RAMP = np.broadcast_to(np.linspace(0, 65535, 64).astype(np.uint16), (64, 64)).copy()


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        (RAMP, ".png"),
        (RAMP, ".tif"),
        (RAMP.astype(">u2"), ".tif"),
        (RAMP.astype(np.int32), ".tif"),
        ((RAMP / 65535).astype(np.float32), ".tif"),
        ((RAMP / 257).astype(np.float32), ".tiff"),
    ],
    ids=["16 bits, PNG", "16 bits, TIFF", "16 bits, big-endian", "32 bits", "float, 0 to 1", "float, 0 to 255"],
)
def test_a_ramp_of_any_depth_stays_a_ramp(tmp_path, values, suffix):
    picture = written(tmp_path, Image.fromarray(values), suffix)
    expected = np.round(np.linspace(0, 255, 64)).astype(int)  # 4.05 a column
    assert np.abs(picture.pixels[0, :, 0].astype(int) - expected).max() <= 1 and picture.changes == DEEP
    assert len(np.unique(picture.pixels)) == 64


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (RAMP // 16, "from 0 to 4095, which would be black"),
        (np.full((4, 4), 70_000, np.int32), "from 70000 to 70000, expected 0 to 65535"),
        (np.full((4, 4), -1000, np.int32), "from -1000 to -1000, expected 0"),
        (np.full((4, 4), np.nan, np.float32), "from nan to nan, expected 0 to 1 or 0 to 255"),
        (np.full((4, 4), -0.5, np.float32), "from -0.5 to -0.5, expected 0 to 1"),
        (np.full((4, 4), 256.0, np.float32), "from 256 to 256, expected 0 to 1"),
    ],
)
def test_values_whose_range_is_not_known_are_refused(tmp_path, values, message):
    with pytest.raises(Invalid, match=message):
        written(tmp_path, Image.fromarray(values), ".tif")


def test_a_black_picture_of_16_bits_is_black(tmp_path):
    assert not written(tmp_path, Image.fromarray(np.zeros((4, 4), np.uint16)), ".png").pixels.any()


def test_48_bit_colours_keep_their_upper_bytes(tmp_path):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = b"\0" + struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0xFF00, 0, 0x8000)
    head = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(row * 2)), chunk(b"IEND", b"")
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert read_image(tmp_path / "x.png", Resize(2))[0].tolist() == [[0x12, 0x56, 0x9A], [0xFF, 0, 0x80]]


@pytest.mark.parametrize(("suffix", "orientation"), [(".jpg", 6), (".tif", 6), (".png", 8), (".webp", 3)])
def test_orientation_is_applied_whatever_the_format(tmp_path, suffix, orientation):
    """The left half is white; a quarter turn clockwise (6) brings it to the top."""
    image = Image.fromarray(np.repeat(np.uint8([[255] * 8 + [0] * 8]), 16, 0)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if suffix == ".tif" else {"exif": exif}
    pixels = written(tmp_path, image, suffix, **options).pixels[..., 0]
    upright = {6: pixels, 8: pixels[::-1], 3: pixels.T[::-1]}[orientation]  # white above
    assert upright[:7].min() > 200 and upright[9:].max() < 55


@pytest.mark.parametrize("orientation", range(10))
def test_each_orientation_is_that_of_pillow(tmp_path, orientation):
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = written(tmp_path, Image.fromarray(noise), ".png", exif=exif).pixels
    np.testing.assert_array_equal(found, ImageOps.exif_transpose(Image.open(tmp_path / "x.png")))


def test_another_entry_of_the_exif_block_that_is_damaged_costs_nothing(tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "x", 6
    damaged = bytearray(exif.tobytes())
    damaged[17] = 0  # the maker is now of no type
    halves = Image.fromarray(np.repeat(np.uint8([[255] * 8 + [0] * 8]), 16, 0))
    pixels = written(tmp_path, halves, ".jpg", exif=bytes(damaged)).pixels[..., 0]
    assert pixels[:7].min() > 200 and pixels[9:].max() < 55
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(tmp_path / "x.jpg"))


def test_every_mode_becomes_rgb(tmp_path):
    red = Image.new("RGB", (4, 4), (255, 0, 0))
    for mode, suffix in (("P", ".png"), ("P", ".gif"), ("RGBA", ".png"), ("CMYK", ".tif"), ("YCbCr", ".jpg")):
        picture = written(tmp_path, red.convert(mode), suffix)
        np.testing.assert_allclose(picture.pixels[0, 0], (255, 0, 0), atol=2, err_msg=f"{mode} {suffix}")
        assert picture.changes == 0
    assert (written(tmp_path, Image.new("1", (4, 4), 1), ".png").pixels == 255).all()


def test_transparency_lies_on_white_and_several_frames_are_said(tmp_path):
    half = written(tmp_path, Image.new("LA", (4, 4), (0, 51)), ".png")
    assert half.pixels[0, 0].tolist() == [204] * 3 and half.changes == TRANSPARENT
    clear = Image.new("P", (4, 4), 0)
    clear.putpalette([9, 8, 7])
    assert written(tmp_path, clear, ".gif", transparency=0).pixels[0, 0].tolist() == [255] * 3
    pages = [Image.new("L", (4, 4), value) for value in (7, 200)]
    for suffix in (".tif", ".gif"):
        first = written(tmp_path, pages[0], suffix, save_all=True, append_images=pages[1:])
        assert first.changes == FRAMES and (first.pixels == 7).all()
    assert describe_changes(np.array([0, TRANSPARENT, FRAMES | TRANSPARENT], np.uint8)) == [
        "2 of 3 images are transparent in places, which lie on white",
        "1 of 3 images is of several frames, of which the first is used",
    ]
