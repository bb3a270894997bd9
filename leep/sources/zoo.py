"""Builds the networks: GluonCV's model zoo, and EfficientNet-Lite."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import mxnet as mx
import numpy as np
from PIL import ImageFile

from leep.errors import Invalid, suggest
from leep.sources.convert import FAMILIES, from_torch, torch_names
from leep.sources.efficientnet_lite import EfficientNetLite
from leep.sources.variants import VARIANTS
from leep.sources.weight_file import WeightFile, differences, read_weight_file

SHALLOW = "cifar_resnet8_v1"  # GluonCV builds it, but lists no model of less than 20 layers
# Networks that a file may turn out to be of. GluonCV downloads weights when others are built.
_CLASSIFIERS = (
    r"(cifar_)?resnet\d+_v[12][bcds]?|mobilenet(v2_)?[\d.]+|mobilenetv3_(small|large)|efficientnet_lite\d|darknet53"
    r"|senet_154|(se_)?resnext\d+_\d+x4d|vgg\d+(_bn)?|densenet\d+|squeezenet1\.\d|alexnet"
)


def import_model_zoo() -> ModuleType:
    """Import GluonCV's `model_zoo` and undo what the import does to the process.

    Torch is hidden meanwhile, because GluonCV refuses to import beside torch ≥ 2. Pillow's flag is set back, because
    GluonCV sets it and damaged images would then be read as if they were whole.
    """
    hidden, truncated = sys.modules.pop("torch", None), ImageFile.LOAD_TRUNCATED_IMAGES
    sys.modules["torch"] = None
    try:
        from gluoncv import model_zoo
    finally:
        del sys.modules["torch"]
        if hidden is not None:
            sys.modules["torch"] = hidden
        ImageFile.LOAD_TRUNCATED_IMAGES = truncated
    return model_zoo


def seed_mxnet(seed: np.random.SeedSequence) -> None:
    """Set MXNet's and NumPy's global seeds: called just before a network is initialised or trained, nowhere else."""
    first, second = seed.generate_state(2)
    mx.random.seed(int(first) % 2**31)
    np.random.seed(second)  # noqa: NPY002  MXNet's initialisers draw from it


def initialize(parameters: list[mx.gluon.Parameter], seed: np.random.SeedSequence) -> None:
    """Draw parameters, each by its own initialiser, or Xavier's."""
    seed_mxnet(seed)
    for parameter in parameters:
        parameter.initialize(parameter.init or mx.init.Xavier())


def build(model: str, n_classes: int, seed: np.random.SeedSequence | None = None) -> mx.gluon.HybridBlock:
    """A network of GluonCV's zoo or an EfficientNet-Lite; with `seed` its weights are drawn (Xavier).

    Raises
    ------
    ValueError
        If there is no model of that name.
    """
    if model in VARIANTS:
        net = EfficientNetLite(VARIANTS[model], n_classes)
    else:
        zoo = import_model_zoo()
        names = [SHALLOW, *VARIANTS, *zoo.get_model_list()]
        if model.lower() not in names:
            raise ValueError(f"GluonCV's zoo has no model {model!r}{suggest(model, names)}")
        if model == SHALLOW:
            net = zoo.cifarresnet.get_cifar_resnet(1, 8, classes=n_classes)
        else:
            net = zoo.get_model(model, classes=n_classes, pretrained=False)
    if seed is not None:
        seed_mxnet(seed)
        net.initialize(mx.init.Xavier())
        net(mx.nd.zeros((1, 3, 64, 64)))  # completes the shapes that the zoo leaves open
    return net


def load(model: str, n_classes: int, path: Path) -> mx.gluon.HybridBlock:
    """A network with the weights of a file: of MXNet, of PyTorch, or `.safetensors`, known by its content.

    Raises
    ------
    ValueError
        If there is no such model, or the file does not hold its weights. The message names the model and the number
        of classes that it does hold, where they are found.
    """
    return load_weights(model, n_classes, read_weight_file(path))[0]


def load_weights(model: str, n_classes: int, file: WeightFile) -> tuple[mx.gluon.HybridBlock, str]:
    """As `load`, and a line on what was taken off the names in the file, empty where nothing was."""
    net = build(model, n_classes)
    try:
        arrays, note = _fit(net, model, file)
    except Invalid as error:
        wanted = f"the weights of {model} with {n_classes} classes"
        raise Invalid(f"{file.path} does not hold {wanted}: {_remedy(model, file) or error}") from error
    for name, parameter in net._collect_params_with_prefix().items():
        parameter.shape = arrays[name].shape
        parameter.initialize(mx.init.Zero())  # draws nothing
        parameter.set_data(mx.nd.array(arrays[name]))
    return net, note


def _fit(net: mx.gluon.HybridBlock, model: str, file: WeightFile) -> tuple[dict[str, np.ndarray], str]:
    """The arrays of a file by the structural names of a network, in its order, and what was taken off them."""
    shapes = _shapes(net)
    if file.of_torch:
        file = file.below(torch_names(model, shapes))
        return from_torch(model, file.arrays, shapes), file.note
    arrays = file.arrays
    if not any("." in name for name in arrays):  # of `export` or `collect_params().save`: the layers' own names
        own = _relative(p.name for p in net.collect_params().values())
        structural = dict(zip(own, net._collect_params_with_prefix()))
        arrays = {structural.get(name, name): array for name, array in zip(_relative(arrays), arrays.values())}
    if wrong := differences({name: array.shape for name, array in arrays.items()}, shapes):
        raise Invalid(wrong)
    return arrays, file.note


def _relative(names: Iterable[str]) -> list[str]:
    """Names without the network's own at their begin, which counts the networks of a process: `resnetv11_`."""
    names = list(names)
    first, last = min(names), max(names)  # what these two share, all do
    shared = next((i for i, (a, b) in enumerate(zip(first, last)) if a != b), 0)
    return [name[first.rfind("_", 0, shared) + 1 :] for name in names]


def _shapes(net: mx.gluon.HybridBlock) -> dict[str, tuple[int, ...]]:
    """The complete shapes of a network's parameters, by structural name; nothing is computed."""
    symbol = net(mx.sym.var("data"))
    arguments, _, states = symbol.infer_shape(data=(1, 3, 224, 224))
    shapes = dict(zip(symbol.list_arguments() + symbol.list_auxiliary_states(), arguments + states))
    return {name: shapes.get(p.name, p.shape) for name, p in net._collect_params_with_prefix().items()}


def _remedy(model: str, file: WeightFile) -> str:
    """What a file holds instead, as the settings to give; empty if that is not found."""
    for name in (model, *_relatives(model, file)):
        n_classes = count_classes(name, file)
        net = build(name, n_classes)
        if not file.of_torch and len(net.collect_params().keys()) != len(file.arrays):
            continue  # the cheapest difference
        try:
            _fit(net, name, file)
        except Invalid:
            continue
        other = f"model={name} " if name != model else ""
        return f"it holds those of {name} with {n_classes} classes; give {other}n_classes={n_classes}"
    return ""


def count_classes(model: str, file: WeightFile) -> int:
    """Classes of the weights in a file, if they are of that model; 1000 where the file has no matrix."""
    names = torch_names(model, dict.fromkeys(build(model, 1)._collect_params_with_prefix(), ()))
    return (file.below(names) if file.of_torch else file).n_classes or 1000


def _relatives(model: str, file: WeightFile) -> Iterator[str]:
    """Models that weights may be of, those of the most similar names first."""
    names = (
        [name for models, _ in FAMILIES for name in models] if file.of_torch else import_model_zoo().get_model_list()
    )
    known = [name for name in {*names, SHALLOW, *VARIANTS} if re.fullmatch(_CLASSIFIERS, name)]
    similarity = {name: difflib.SequenceMatcher(None, model, name).ratio() for name in known if name != model}
    yield from sorted(similarity, key=lambda name: (-similarity[name], name))
