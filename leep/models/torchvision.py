"""`torchvision:NAME` and `torchvision:NAME=FILE`: the classifiers of torchvision."""

from __future__ import annotations

import difflib
from pathlib import Path

from leep.errors import Invalid, Missing, suggest
from leep.models.model import Guess, Model, digest
from leep.models.settings import preprocessing, read_settings


def names() -> list[str]:
    """Classifiers that torchvision can build."""
    from torchvision import models

    return models.list_models(module=models)


def available() -> dict[str, bool]:
    """Whether weights of each classifier lie in PyTorch's cache."""
    return {name: any(weights_file(w).is_file() for w in _weights(name)) for name in names()}


def open_model(name: str, file: Path | None, *, device: str, download: bool, threads, options) -> Model:
    """A model of torchvision with its published weights, or those of a file, which may have other classes.

    `NAME` may end in the name of its weights, as in `resnet50.IMAGENET1K_V2`. Without it the newest that are in the
    cache serve, or torchvision's default where a download is allowed.
    """
    import torchvision
    from torchvision import models

    from leep.models import torch_network

    name, _, tag = name.partition(".")
    known = names()
    if name not in known:
        raise Invalid(f"torchvision has no classifier {name!r}{suggest(name, known)}")
    weights = _choose(name, tag, file, download)
    module = models.get_model(name, weights=None, **_plain(name))
    transforms = weights.transforms()
    size = transforms.crop_size[0]
    head_name, head = torch_network.find_head(module, size)
    has_head, notes, guess = True, [], None
    settings = read_settings(file, options)
    if file:
        tensors, notes = torch_network.read_state_dict(file, module.state_dict())
        n_classes = len(tensors.get(f"{head_name}.weight", ())) or torch_network.count_classes(head)
        if n_classes != torch_network.count_classes(head):
            module = models.get_model(name, weights=None, num_classes=n_classes, **_plain(name))
            head = module.get_submodule(head_name)
        try:
            has_head = torch_network.load_weights(module, tensors, file, name, head_name)
        except Invalid as error:
            if other := _network_of(tensors, name):
                raise Invalid(f"{error}; they are those of {other}: give torchvision:{other}={file}") from error
            raise
        if weights_file(weights).name != file.name and not settings:
            guess = Guess.of_file(f"that of torchvision's {weights}", file)
    else:
        tensors = weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        module.load_state_dict(tensors)
        n_classes = torch_network.count_classes(head)
    if not has_head:
        _remove(module, head_name)
    defaults = {
        "size": size,
        "shorter_side": transforms.resize_size[0],
        "interpolation": transforms.interpolation.value,
        "mean": list(transforms.mean),
        "std": list(transforms.std),
    }
    if n_classes == len(weights.meta["categories"]):
        defaults["class_names"] = weights.meta["categories"]
    arguments, flip = preprocessing(settings, defaults)
    run = torch_network.TorchNetwork(module, head if has_head else None, device, threads, flip)
    return Model(
        f"torchvision:{name}" + (f"={file.name}" if file else f".{weights.name}"),
        run,
        **arguments,
        **run.measures(),
        outputs="logits" if has_head else "none",
        no_probs=f"{file} has no weights of a classifier" if not has_head else "",
        sha256=digest("torchvision", torchvision.__version__, name, torch_network.hash_weights(module)),
        notes=notes,
        guess=guess,
        device=device,
    )


def _network_of(tensors: dict, name: str) -> str:
    """The classifier, of those of the most similar names, whose tensors these are; empty if there is none."""
    import torch
    from torchvision import models

    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    n_classes = next((len(tensor) for tensor in reversed(tensors.values()) if tensor.ndim > 1), 1000)
    for other in difflib.get_close_matches(name, names(), 12, 0):
        with torch.device("meta"):  # nothing is allocated
            module = models.get_model(other, weights=None, num_classes=n_classes, **_plain(other))
        if {key: tensor.shape for key, tensor in module.state_dict().items()} == shapes:
            return other
    return ""


def _plain(name: str) -> dict:
    return {"init_weights": False} if name in ("googlenet", "inception_v3") else {}


def _remove(module, head_name: str) -> None:
    from torch import nn

    parent, _, child = head_name.rpartition(".")
    module.get_submodule(parent)._modules[child] = nn.Identity()


def _weights(name: str) -> list:
    from torchvision import models

    weights = list(models.get_model_weights(name))
    default = models.get_model_weights(name).DEFAULT
    return [default, *[w for w in weights if w is not default]]


def weights_file(weights) -> Path:
    """Where PyTorch keeps published weights."""
    import torch

    return Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]


def _choose(name: str, tag: str, file: Path | None, download: bool):
    """The published weights that are meant; with a file those whose preprocessing it probably has."""
    weights = _weights(name)
    if tag:
        found = [w for w in weights if w.name == tag]
        if not found:
            raise Invalid(f"torchvision has no weights {tag!r} of {name}; it has {', '.join(w.name for w in weights)}")
        weights = found
    if file:
        named = [w for w in weights if weights_file(w).name == file.name]
        return (named or [w for w in weights if w.name == "IMAGENET1K_V1"] or weights)[0]
    here = [w for w in weights if weights_file(w).is_file()]
    if not here and not download:
        raise Missing(f"it needs its weights: give --download, or torchvision:{name}=FILE")
    return (here or weights)[0]
