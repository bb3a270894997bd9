"""What the adapters of PyTorch's libraries share: weights from files, and a network that gives features and logits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from leep.errors import Invalid, Missing
from leep.models.params import read_params

if TYPE_CHECKING:
    from leep.models.torch_trainer import TorchTrainer

_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net", "network", "teacher")
_PREFIXES = (
    "module.",
    "_orig_mod.",
    "model.",
    "net.",
    "network.",
    "backbone.",
    "encoder.",
    "encoder_q.",
    "base_encoder.",
)
_HEADS = (nn.Linear, nn.Conv2d)


class TorchNetwork:
    """Images → features and logits, of a PyTorch module; its features are the input of its classifier.

    Parameters
    ----------
    module : nn.Module
        Images `(n, 3, h, w)` → logits `(n, k)`, or an output with `logits`.
    head : nn.Module or None
        Its classifier; None where it has none: then what it gives are the features.
    device : str
        `cpu`, `cuda`, `cuda:1`.
    threads : int, optional
        On the processor; PyTorch's own default if None.
    flip : bool
        Whether it takes BGR.
    """

    def __init__(
        self, module: nn.Module, head: nn.Module | None, device: str = "cpu", threads: int | None = None, flip=False
    ):
        check_device(device)
        if threads:
            torch.set_num_threads(threads)
        self.layout = torch.channels_last  # of images and weights
        self.module = module.eval().requires_grad_(False).to(device, memory_format=self.layout)
        self.device, self.flip, self.has_head = device, flip, head is not None
        self._features = None
        if head is not None:
            head.register_forward_pre_hook(self._keep)

    def _keep(self, head: nn.Module, inputs: tuple) -> None:
        self._features = inputs[0]

    def forward(self, batch: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Features `(n, d)` and what the module gives."""
        x = torch.from_numpy(batch[:, ::-1].copy() if self.flip else batch)
        x = x.to(self.device, memory_format=self.layout)
        output = self.module(x)
        output = getattr(output, "logits", output)
        if not isinstance(output, torch.Tensor):
            raise Invalid(f"it gives a {type(output).__name__}, expected logits (images, classes)")
        features = _average(self._features if self.has_head else output)
        self._features = None
        return features, output

    @torch.inference_mode()
    def __call__(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        features, output = self.forward(batch)
        return features.float().cpu().numpy(), output.float().cpu().numpy() if self.has_head else None

    def trainer(self, weight: np.ndarray, bias: np.ndarray, steps: int) -> tuple[TorchTrainer, float]:
        """For `leep.models.fine_tune`: trains a copy from a head."""
        from leep.models.torch_trainer import LEARNING_RATE, TorchTrainer

        return TorchTrainer(self, weight, bias, steps), LEARNING_RATE

    def measures(self) -> dict:
        """Arguments of `Model`: the number of parameters and the memory that all weights take."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return {
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "weight_bytes": sum(t.numel() * t.element_size() for t in tensors),
        }


def check_device(device: str) -> None:
    """Raise `Invalid` if there is no such device, or no CUDA."""
    try:
        kind = torch.device(device).type
    except RuntimeError:
        raise Invalid(f"device must be cpu, cuda or cuda:1, got {device!r}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise Invalid("device=cuda: PyTorch finds no GPU here")


def _average(features: torch.Tensor) -> torch.Tensor:
    """Mean over positions: of a convolution's input `(n, d, h, w)`, of a linear layer's `(n, positions, d)`."""
    if features.ndim == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features


def find_head(module: nn.Module, size: int) -> tuple[str, nn.Module]:
    """Name and module of the classifier: the last linear layer or convolution that a pass calls.

    Raises
    ------
    Invalid
        If none of them gives as many values as the network.
    """
    called: list[tuple[str, nn.Module]] = []
    hooks = [
        layer.register_forward_hook(lambda layer, x, y, name=name: called.append((name, layer)))
        for name, layer in module.named_modules()
        if isinstance(layer, _HEADS)
    ]
    try:
        with torch.inference_mode():
            output = module.eval()(torch.zeros(1, 3, size, size))
    finally:
        for hook in hooks:
            hook.remove()
    output = getattr(output, "logits", output)
    name, layer = called[-1] if called else ("", None)
    if layer is None or count_classes(layer) != output.shape[-1]:
        raise Invalid(
            f"its classifier was not found: the last layer, {name!r}, does not give its {output.shape[-1]} outputs"
        )
    return name, layer


def count_classes(head: nn.Module) -> int:
    """Outputs of a linear layer or a convolution."""
    return head.out_features if isinstance(head, nn.Linear) else head.out_channels


def read_state_dict(path: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tensors of a file of weights, by the names that a module gives them. Nothing in a file is executed.

    Parameters
    ----------
    path : Path
        `.safetensors`, MXNet's `.params` (whose networks have torchvision's names for ResNet v1b), or what `torch.save`
        wrote of a state dict, in the usual wrappers (`state_dict`, `model`, …).
    names : iterable of str
        Of the module's tensors. A prefix that all names of the file have (`module.`, `backbone.`, …) is dropped.

    Raises
    ------
    Missing, Invalid
        If there is no such file, or it holds no tensors or more than tensors.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise Missing(f"{path}: no such file")
    if path.suffix == ".params":
        arrays = read_params(path).items()
        renamed = {name.replace(".gamma", ".weight").replace(".beta", ".bias"): array for name, array in arrays}
        return {name: torch.from_numpy(array.copy()) for name, array in renamed.items()}
    if path.suffix == ".safetensors":
        content = _read_safetensors(path)
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file can raise nearly anything
            text = str(error)
            reason = "it holds more than tensors" if "GLOBAL" in text else text.strip().partition("\n")[0][:100]
            reason = (
                "damaged, or of another kind" if text.startswith("Weights only") and "GLOBAL" not in text else reason
            )
            raise Invalid(
                f"{path}: not a state dict that PyTorch reads without executing code ({reason}); "
                "save network.state_dict() alone, or a .safetensors file"
            ) from error
    return _drop_prefix(_unwrap(content, path), set(names))


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise Missing(f"{path}: reading it needs safetensors: pip install safetensors") from None
    try:
        return load_file(path)
    except Exception as error:
        raise Invalid(f"{path}: not a .safetensors file, or damaged: {error}") from error


def _unwrap(content: object, path: Path) -> dict[str, torch.Tensor]:
    while isinstance(content, Mapping) and not any(isinstance(v, torch.Tensor) for v in content.values()):
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping):
        raise Invalid(f"{path}: holds a {type(content).__name__}, expected a state dict: tensors by their names")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, torch.Tensor)}
    if not tensors:
        raise Invalid(f"{path}: holds no tensors by their names, but {', '.join(map(str, content)) or 'nothing'}"[:300])
    return tensors


def _drop_prefix(tensors: dict[str, torch.Tensor], names: set[str]) -> dict[str, torch.Tensor]:
    """The tensors below the prefix that leaves the most of the names that are wanted."""
    while len(names & tensors.keys()) < len(names) / 2:
        below = [{n.removeprefix(p): t for n, t in tensors.items() if n.startswith(p)} for p in _PREFIXES]
        below = [candidate for candidate in below if candidate]
        if not below:
            break
        best = max(below, key=lambda candidate: (len(names & candidate.keys()), len(candidate)))
        if len(best) < len(tensors) and not names & best.keys():
            break
        tensors = best
    return tensors


def load_weights(module: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path, what: str, head: str = "") -> bool:
    """Put the tensors of a file into a module; says whether the file has those of the classifier `head`.

    Raises
    ------
    Invalid
        If other tensors are missing, are left over or have another shape.
    """
    own = {name: t.shape for name, t in module.state_dict().items() if not name.endswith("num_batches_tracked")}
    given = {name: t.shape for name, t in tensors.items() if not name.endswith("num_batches_tracked")}
    missing = [name for name in own if name not in given]
    left = [name for name in given if name not in own]
    wrong = [f"{n} {tuple(given[n])} for {tuple(own[n])}" for n in own if n in given and given[n] != own[n]]
    headless = bool(head) and bool(missing) and all(name.startswith(f"{head}.") for name in missing)
    if wrong or (missing and not headless) or (left and not headless):
        kinds = {"missing": missing, "left over": left, "of another shape": wrong}
        text = "; ".join(
            f"{len(entries)} {kind}: {', '.join(entries[:2])}{', …' if len(entries) > 2 else ''}"
            for kind, entries in kinds.items()
            if entries
        )
        raise Invalid(f"{path}: does not hold the weights of {what}; {text}")
    module.load_state_dict(dict(tensors), strict=False)
    return not headless


def hash_weights(module: nn.Module) -> str:
    """SHA-256 of all tensors of a module and their names."""
    total = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()
