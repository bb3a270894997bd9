"""What a user says of a model: a JSON file beside the model's file, or options."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from leep.data.picture import INTERPOLATIONS, Resize
from leep.errors import Invalid, suggest

KEYS = {
    "size": "pixels of a side of the input",
    "shorter_side": "pixels of the shorter side before the middle is cropped; null: the whole image is squeezed",
    "interpolation": f"one of {', '.join(INTERPOLATIONS)}",
    "mean": "a number or three",
    "std": "a number or three",
    "scale": "what a pixel of 0 to 255 is multiplied by first; default 1/255",
    "channels": "RGB or BGR",
    "class_names": "a list, or the name of a text file with a line a class",
    "features": "the tensor of an ONNX graph that is the input of its classifier",
    "output": "the output of an ONNX graph that is the classifier's",
    "head": "false: the model has no classifier, what it gives are features",
}


def read_settings(file: Path | None, options: Mapping | None) -> dict:
    """What the JSON file beside a model's file (`model.json` for `model.onnx`) says, and options, which go before it.

    Raises
    ------
    Invalid
        If a key or a value is none that a model has.
    """
    settings, where = {}, "options"
    card = file.with_suffix(".json") if file else None
    if card and card.is_file():
        where = str(card)
        try:
            settings = json.loads(card.read_text("utf-8"))
        except ValueError as error:
            raise Invalid(f"{card}: no JSON: {error}") from error
        if not isinstance(settings, dict):
            raise Invalid(f"{card}: expected an object, got {type(settings).__name__}")
    settings = {**settings, **(options or {})}
    for key in settings.keys() - KEYS.keys():
        raise Invalid(f"{where}: no setting {key!r}{suggest(key, KEYS)} (there are {', '.join(KEYS)})")
    if isinstance(names := settings.get("class_names"), str):
        path = (file.parent if file else Path()) / names
        try:
            settings["class_names"] = path.read_text("utf-8").splitlines()
        except OSError as error:
            raise Invalid(f"{where}: class_names: {path} cannot be read: {error.strerror}") from error
    for key in settings:
        if not _is_valid(key, settings[key]):
            raise Invalid(f"{where}: {key} must be {KEYS[key]}, got {settings[key]!r}")
    return settings


def _is_valid(key: str, value: object) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    match key:
        case "size":
            return type(value) is int and value > 0
        case "shorter_side":
            return value is None or (type(value) is int and value > 0)
        case "interpolation":
            return value in INTERPOLATIONS
        case "mean" | "std":
            values = value if isinstance(value, (list, tuple)) and len(value) == 3 else [value]
            fine = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
            return fine and (key == "mean" or all(v > 0 for v in values))
        case "scale":
            return number and value > 0
        case "channels":
            return value in ("RGB", "BGR")
        case "class_names":
            return isinstance(value, (list, tuple))
        case "head":
            return isinstance(value, bool)
    return isinstance(value, str)


def preprocessing(settings: Mapping, defaults: Mapping) -> tuple[dict, bool]:
    """Arguments of `Model` from settings, and whether the channels must be turned from RGB to BGR.

    `defaults` are settings, too: `size`, and what the model's library says of the rest. A `size` of the user's own
    keeps the proportion of the crop.

    >>> preprocessing({"mean": 1, "std": 1, "scale": 1 / 127.5}, {"size": 8})[0]["mean"]
    (0.5, 0.5, 0.5)
    """
    values = {"shorter_side": None, "interpolation": "bilinear", "mean": 0, "std": 1, **defaults, **settings}
    if "size" in settings and "shorter_side" not in settings and values["shorter_side"]:
        values["shorter_side"] = round(values["shorter_side"] * settings["size"] / defaults["size"])
    if values["shorter_side"] and values["shorter_side"] < values["size"]:
        raise Invalid(f"shorter_side must be at least the size, {values['size']}, got {values['shorter_side']}")
    scale = 255 * settings["scale"] if "scale" in settings else 1.0
    mean, std = ([v / scale for v in _three(values[key])] for key in ("mean", "std"))
    if flip := values.get("channels") == "BGR":  # mean and std are in the order of the channels
        mean, std = mean[::-1], std[::-1]
    resize = Resize(values["size"], values["shorter_side"], values["interpolation"])
    return {"resize": resize, "mean": tuple(mean), "std": tuple(std), "class_names": values.get("class_names")}, flip


def _three(value: float | Sequence[float]) -> list[float]:
    return [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)] * 3
