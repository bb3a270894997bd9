"""What the adapters of PyTorch's libraries share: weights from files, and a network that gives features and logits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from leep.errors import Invalid
from leep.models.model import check_is_file
from leep.sources.weight_file import differences, read_weight_file

if TYPE_CHECKING:
    from leep.models.torch_trainer import TorchTrainer

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


def read_state_dict(path: Path, names: Iterable[str]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """The tensors of a file of weights, by the names that a module gives them. Nothing in a file is executed.

    Parameters
    ----------
    path : Path
        As `leep.sources.weight_file` reads it; of MXNet those of ResNets v1b, which have torchvision's names.
    names : iterable of str
        Of the module's tensors. What stands before all of them in the file (`module.`, `backbone.`, …) is taken off.

    Returns
    -------
    tensors : dict of str to Tensor
        Floating point is float32.
    notes : list of str
        What was taken off.

    Raises
    ------
    Missing, Invalid
        If there is no such file, or it holds no tensors or objects of a network's own classes.
    """
    path = Path(path).expanduser()
    check_is_file(path)
    file = read_weight_file(path)
    arrays = file.arrays
    if not file.of_torch:
        arrays = {name.replace(".gamma", ".weight").replace(".beta", ".bias"): a for name, a in arrays.items()}
        if not any("." in name for name in arrays):
            raise Invalid(f"{path}: has the layers' names of MXNet's export; save it by net.save_parameters(FILE)")
    file = replace(file, arrays=arrays).below(list(names))
    return {name: torch.from_numpy(array) for name, array in file.arrays.items()}, [file.note] if file.note else []


def load_weights(module: nn.Module, tensors: Mapping[str, torch.Tensor], path: Path, what: str, head: str = "") -> bool:
    """Put the tensors of a file into a module; says whether the file has those of the classifier `head`.

    Raises
    ------
    Invalid
        If other tensors are missing, are left over or have another shape.
    """
    own, given = (
        {name: tuple(t.shape) for name, t in of.items() if not name.endswith("num_batches_tracked")}
        for of in (module.state_dict(), tensors)
    )
    missing = [name for name in own if name not in given]
    headless = bool(head) and bool(missing) and all(name.startswith(f"{head}.") for name in missing)
    known = {name: shape for name, shape in given.items() if name in own} if headless else given
    expected = {name: shape for name, shape in own.items() if name in given} if headless else own
    if wrong := differences(known, expected):
        raise Invalid(f"{path}: does not hold the weights of {what}; {wrong}")
    module.load_state_dict(dict(tensors), strict=False)
    return not headless


def hash_weights(module: nn.Module) -> str:
    """SHA-256 of all tensors of a module and their names."""
    total = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        total.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return total.hexdigest()
