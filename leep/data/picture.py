"""Decodes an image file: any size, mode and depth → a square of RGB, or what is wrong with the file, in words."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from leep.errors import Invalid
from leep.execution.processes import n_cores

VERSION = 2  # of what is decoded: raise it when the pixels change
EXTENSIONS = frozenset(
    [".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"]
)
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# What is worth a word, by the bits of `Picture.changes`.
TRANSPARENT, DEEP, FRAMES = 1, 2, 4
_CHANGES = {
    TRANSPARENT: "transparent in places, which lie on white",
    DEEP: "of more than 8 bits, scaled to 8",
    FRAMES: "of several frames, of which the first is used",
}
_AT_ONCE = 256  # images that wait for whoever reads them
_LISTED = 100  # damaged files that an error names
_DARKEST = 4096  # of 65,536: what stays below is 12 bits that were not scaled, and would be black
_ORIENTATION = 0x0112
_TURNS = dict(
    enumerate(
        [
            Image.Transpose.FLIP_LEFT_RIGHT,
            Image.Transpose.ROTATE_180,
            Image.Transpose.FLIP_TOP_BOTTOM,
            Image.Transpose.TRANSPOSE,
            Image.Transpose.ROTATE_270,
            Image.Transpose.TRANSVERSE,
            Image.Transpose.ROTATE_90,
        ],
        start=2,
    )
)
_CONTENTS = {  # what a file that is no image begins with, lower case
    b"version https://git-lfs": "a pointer of Git LFS; `git lfs pull` gets the image",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<svg": "an SVG drawing; save it as PNG",
    b"<?xml": "XML, such as an SVG drawing; save it as PNG",
    b"%pdf": "a PDF",
    b"ii*\0": "a TIFF of a kind that is not read here; save it with 8 bits a channel",
    b"mm\0*": "a TIFF of a kind that is not read here; save it with 8 bits a channel",
}


@dataclass(frozen=True)
class Resize:
    """How an image becomes a square of `size` pixels.

    With `shorter_side` the shorter side is resized to it and the middle is cropped, as torchvision and timm do.
    Without it the whole image is squeezed into the square.

    >>> Resize(2)(Image.new("RGB", (6, 4), "white")).shape
    (2, 2, 3)
    """

    size: int
    shorter_side: int | None = None
    interpolation: str = "bilinear"

    def __call__(self, image: Image.Image) -> np.ndarray:
        """An image in mode RGB → uint8 `(size, size, 3)`."""
        size, how = self.size, INTERPOLATIONS[self.interpolation]
        if self.shorter_side is None:
            return np.asarray(image if image.size == (size, size) else image.resize((size, size), how))
        width, height = image.size
        short = min(width, height)
        if short != self.shorter_side:
            width, height = (self.shorter_side * side // short for side in (width, height))
            image = image.resize((width, height), how)
        left, top = round((width - size) / 2), round((height - size) / 2)
        return np.asarray(image.crop((left, top, left + size, top + size)))


class Picture(NamedTuple):
    """A decoded image.

    Attributes
    ----------
    pixels : uint8 `(size, size, 3)`, RGB
    changes : int
        Bits of `TRANSPARENT`, `DEEP` and `FRAMES`.
    """

    pixels: np.ndarray
    changes: int


def read_picture(path: Path, resize: Resize) -> Picture:
    """Decode an image file.

    It is turned as its EXIF orientation says. Grey is tripled, transparency lies on white, of several frames the first
    is used. Of 16 bits the upper eight are kept. Floating point in [0, 1] is multiplied by 255, in [0, 255] rounded. A
    JPEG of more than twice the pixels that are wanted is decoded at half, a quarter or an eighth of its size.

    Raises
    ------
    Invalid
        With what is wrong, without the name of the file: it is damaged, or its range is not known, such as 32-bit
        integers above 65,535, negative values, or 16 bits of which only the lowest twelve are used.
    """
    data = b""
    try:
        # From a file, Pillow allocates the length that a chunk declares. From BytesIO it cannot exceed the real size.
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            wanted = 2 * max(resize.size, resize.shorter_side or 0)
            image.draft(None, (wanted, wanted))  # only a JPEG heeds it, and never goes below
            rgb, changes = to_rgb(_turn_upright(image))
            return Picture(resize(rgb), changes | FRAMES * _has_frames(image))
    except Invalid:
        raise
    except UnidentifiedImageError as error:
        raise Invalid(_name_content(data)) from error
    except Exception as error:  # a damaged image can raise nearly anything
        raise Invalid(error.strerror if getattr(error, "strerror", None) else _in_words(error)) from error


def read_image(path: Path, resize: Resize) -> np.ndarray:
    """The pixels of `read_picture`."""
    return read_picture(path, resize).pixels


def read_pictures(paths: Sequence[Path], resize: Resize, threads: int | None = None) -> Iterator[Picture | Invalid]:
    """Decode image files in threads, in their order; what is wrong with a file stands in its place."""

    def read(path: Path) -> Picture | Invalid:
        try:
            return read_picture(path, resize)
        except Invalid as error:
            return error

    with _truncated_refused(), ThreadPoolExecutor(threads or n_cores()) as pool:
        for start in range(0, len(paths), _AT_ONCE):
            yield from pool.map(read, paths[start : start + _AT_ONCE])


def describe_changes(changes: np.ndarray) -> list[str]:
    """How many images were changed beyond what every image is, by their `Picture.changes`.

    >>> describe_changes(np.array([0, TRANSPARENT, TRANSPARENT | DEEP]))
    ['2 of 3 images are transparent in places, which lie on white', '1 of 3 images is of more than 8 bits, scaled to 8']
    """
    counts = {text: int(np.count_nonzero(changes & bit)) for bit, text in _CHANGES.items()}
    return [f"{n:,} of {len(changes):,} images {'is' if n == 1 else 'are'} {t}" for t, n in counts.items() if n]


def list_damaged(damaged: Mapping[str, str], n: int) -> str:
    """The text of an error about damaged files: a line for each, with what is wrong."""
    lines = [f"\n  {name} ({why})" for name, why in list(damaged.items())[:_LISTED]]
    more = f"\n  and {len(damaged) - _LISTED:,} more" if len(damaged) > _LISTED else ""
    return f"{len(damaged):,} of {n:,} images {'is' if len(damaged) == 1 else 'are'} damaged:{''.join(lines)}{more}"


def to_rgb(image: Image.Image) -> tuple[Image.Image, int]:
    """Any mode → RGB, and what was changed; `Invalid` where the range of the values is not known."""
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        scaled = _scale_floats(values) if image.mode == "F" else _scale_integers(values.astype(np.int64))
        return Image.fromarray(scaled).convert("RGB"), DEEP
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        lowest, _ = image.getchannel("A").getextrema()
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB"), TRANSPARENT * (lowest < 255)
    return image.convert("RGB"), 0


def _scale_floats(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255):  # NaN neither
        raise Invalid(f"floating point from {low:g} to {high:g}, expected 0 to 1 or 0 to 255; save it with 8 bits")
    return np.rint(values * 255 if high <= 1 else values).astype(np.uint8)


def _scale_integers(values: np.ndarray) -> np.ndarray:
    low, high = values.min(), values.max()
    if low < 0 or high > 65535 or 0 < high < _DARKEST:
        problem = "which would be black" if low >= 0 and high < _DARKEST else "expected 0 to 65535"
        raise Invalid(f"more than 8 bits with values from {low} to {high}, {problem}; scale it, or save it with 8 bits")
    return (values >> 8).astype(np.uint8)


def _turn_upright(image: Image.Image) -> Image.Image:
    """As `ImageOps.exif_transpose`, which fails where another entry of the EXIF block is damaged."""
    if image.format == "TIFF":
        return image  # Pillow turns it when it is loaded
    turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    return image if turn is None else image.transpose(turn)


def _has_frames(image: Image.Image) -> bool:
    """Whether there are more; a phone's JPEG may hold a second, small picture, which is not one of them."""
    try:
        return image.format in ("GIF", "PNG", "TIFF", "WEBP") and getattr(image, "n_frames", 1) > 1
    except Exception:  # a later frame is damaged
        return True


def _name_content(data: bytes) -> str:
    """What a file is that is no image."""
    head = data[:64].lstrip().lower()
    if not data:
        return "empty"
    if head[4:8] == b"ftyp":
        return f"{head[8:12].decode(errors='replace').strip().upper()}, which is not read here; save it as JPEG or PNG"
    return next((what for start, what in _CONTENTS.items() if head.startswith(start)), "no image")


def _in_words(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


@contextlib.contextmanager
def _truncated_refused() -> Iterator[None]:
    """Undo what other libraries set for the whole process: GluonCV has Pillow accept files that were cut short."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
