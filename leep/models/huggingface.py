"""`hf:NAME`: image models of transformers, from a folder or from Hugging Face's cache."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from leep.data.picture import INTERPOLATIONS
from leep.errors import Invalid, Missing, suggest
from leep.models.model import Guess, Model, digest
from leep.models.settings import preprocessing, read_settings

_CLASSIFIER = "ForImageClassification"


def available() -> dict[str, bool]:
    """Classifiers of images in Hugging Face's cache, which can run, by their names; nothing is imported."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    folder = Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()
    found = {}
    for config in sorted(folder.glob("models--*/snapshots/*/config.json")):
        with contextlib.suppress(OSError, ValueError):
            if any(a.endswith(_CLASSIFIER) for a in json.loads(config.read_text("utf-8")).get("architectures") or ()):
                name = config.parents[2].name.removeprefix("models--").replace("--", "/")
                found[name] = any(config.parent.glob("*.safetensors")) or any(config.parent.glob("*.bin"))
    return found


def open_model(name: str, file: Path | None, *, device: str, download: bool, threads, options) -> Model:
    """A model of transformers: a classifier of images, or a network whose pooled last states are the features."""
    import transformers

    from leep.models import torch_network

    if file:
        raise Invalid("hf: takes a name or a folder, no file of weights")
    where = {"local_files_only": not download}
    settings = read_settings(None, options)
    with _quiet(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(name, **where)
        except (OSError, ValueError) as error:
            if Path(name).is_dir():
                raise Invalid(f"{name}: {_first_line(error)}") from error
            hint = suggest(name, available())
            raise Missing(f"it is neither a folder nor in Hugging Face's cache: give --download{hint}") from error
        classifier = any(a.endswith(_CLASSIFIER) for a in config.architectures or ())
        auto = transformers.AutoModelForImageClassification if classifier else transformers.AutoModel
        try:
            module, report = auto.from_pretrained(name, output_loading_info=True, **where)
        except OSError as error:
            raise Missing(f"its weights are not here: give --download ({_first_line(error)})") from error
        if missing := sorted(report["missing_keys"]):
            lacks_head = all(key.startswith(("classifier", "pooler")) for key in missing)
            if not lacks_head:
                raise Invalid(f"its weights lack {len(missing)} tensors: {', '.join(missing[:2])}, …")
            if classifier:
                raise Invalid(f"its classifier has no weights: {', '.join(missing)}")
        defaults = _defaults(transformers, name, config, where)
    guess = None
    if defaults.pop("guessed", False) and not settings:
        guess = Guess("that of ImageNet", "save its image processor, preprocessor_config.json, into its folder")
    if classifier:
        size = settings.get("size", defaults["size"])
        head = torch_network.find_head(module, size)[1]
        labels = [config.id2label[k] for k in sorted(config.id2label)]
        if not all(label.startswith("LABEL_") for label in labels):
            defaults["class_names"] = labels
    else:
        head, module = None, _Pooled(module)
    arguments, flip = preprocessing(settings, defaults)
    run = torch_network.TorchNetwork(module, head, device, threads, flip)
    return Model(
        f"hf:{name}",
        run,
        **arguments,
        **run.measures(),
        outputs="logits" if classifier else "none",
        no_probs=f"{', '.join(config.architectures or ['it'])} has no classifier",
        sha256=digest("transformers", transformers.__version__, torch_network.hash_weights(module)),
        guess=guess,
        device=device,
    )


def _Pooled(network):
    from torch import nn

    class Pooled(nn.Module):
        """The state of the first token, or the mean over positions of what a convolutional network gives."""

        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, x):
            states = self.network(x).last_hidden_state
            return states[:, 0] if states.ndim == 3 else states

    return Pooled()


def _defaults(transformers, name: str, config, where: dict) -> dict:
    """The preprocessing of the model's own image processor."""
    try:
        values = transformers.AutoImageProcessor.from_pretrained(name, **where).to_dict()
    except (OSError, ValueError, ImportError):
        values = {}
    size = values.get("size") or {}
    crop = values.get("crop_size") or {}
    out = {"size": size.get("height") or size.get("shortest_edge") or getattr(config, "image_size", None) or 224}
    if not isinstance(out["size"], int):
        out["size"] = out["size"][0]
    short = size.get("shortest_edge")
    if short and values.get("crop_pct"):  # ConvNeXt's way: below 384 pixels a crop, else the whole image
        out["shorter_side"] = int(short / values["crop_pct"]) if short < 384 else None
    elif values.get("do_center_crop") and crop.get("height"):
        out["size"], resized = crop["height"], short or size.get("height")
        out["shorter_side"] = max(resized, out["size"])
    elif short:
        out["shorter_side"] = short
    by_number = {int(number): text for text, number in INTERPOLATIONS.items()}
    out["interpolation"] = by_number.get(values.get("resample"), "bilinear")
    if values.get("do_flip_channel_order"):
        out["channels"] = "BGR"
    normalised = values.get("do_normalize", True)
    mean, std = values.get("image_mean"), values.get("image_std")
    if mean and std:
        out |= {"mean": list(mean), "std": list(std)} if normalised else {}
    else:
        from leep.models.model import IMAGENET_MEAN, IMAGENET_STD

        out |= {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD), "guessed": True}
    if values.get("do_rescale", True) and "rescale_factor" in values:
        scale = 255 * values["rescale_factor"]
        if abs(scale - 1) > 0.01:  # x · scale less mean, divided by std
            out |= {key: [v / scale for v in out.get(key, [float(key == "std")] * 3)] for key in ("mean", "std")}
    return out


@contextlib.contextmanager
def _quiet(transformers) -> Iterator[None]:
    """No bars and no warnings of transformers: what matters is said by `Model.notes` and errors."""
    logging = transformers.utils.logging
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
