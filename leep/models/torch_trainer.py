"""Fine-tunes a PyTorch network: what `leep.transfer.training.train_network` needs of a trainer."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from leep.models.torch_network import TorchNetwork

LEARNING_RATE = 1e-4  # of AdamW, at its peak
WARM_UP = 0.1  # of the steps: the rate rises to its peak, then falls to 0 along a cosine
WEIGHT_DECAY = 0.01


class TorchTrainer:
    """AdamW on the cross-entropy over all weights of a copy of a network, whose classifier gives way to a head.

    Batch norm keeps the source's statistics, and dropout is off: so the training begins with the features that the head
    was trained on. With the statistics of the batches a few epochs on few images lost more than they gained.

    Parameters
    ----------
    network : TorchNetwork
        It stays as it is.
    weight : float array `(n_classes, n_features)`
    bias : float array `(n_classes,)`
        Of the head that the training starts from.
    steps : int, at least 1
        Of the whole training, for the schedule of the rate.
    """

    def __init__(self, network: TorchNetwork, weight: np.ndarray, bias: np.ndarray, steps: int):
        self.graph = SimpleNamespace(n_classes=len(bias))
        self._network = copy.deepcopy(network)
        self._head = nn.Linear(weight.shape[1], len(bias))
        with torch.no_grad():
            self._head.weight.copy_(torch.from_numpy(weight))
            self._head.bias.copy_(torch.from_numpy(bias))
        self._head.to(network.device)
        layout = self._network.layout = torch.contiguous_format  # with channels last PyTorch 2.14 crashes in RepVGG
        module = self._network.module.float().to(memory_format=layout).requires_grad_(True)
        self._modules = nn.ModuleList([module, self._head])
        self._optimizer = torch.optim.AdamW(self._modules.parameters(), weight_decay=WEIGHT_DECAY)
        self._steps, self._done = steps, 0
        self._losses: list[torch.Tensor] = []

    def _logits(self, images: np.ndarray) -> torch.Tensor:
        return self._head(self._network.forward(images)[0].float())

    def seed(self, *numbers: int) -> None:
        """Nothing is drawn."""

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> None:
        """One step on a batch; `learning_rate` is the peak of the schedule."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate * schedule(self._done, self._steps)
        target = torch.from_numpy(np.asarray(labels, np.int64)).to(self._network.device)
        loss = F.cross_entropy(self._logits(images), target)
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._done += 1
        self._losses.append(loss.detach())

    def take_loss(self) -> float:
        """The mean training loss of the steps since the last call."""
        losses, self._losses = self._losses, []
        return float(torch.stack(losses).mean())

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Logits `(n, n_classes)` in inference mode."""
        with torch.inference_mode():
            return self._logits(images).cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        """Weights, moments and steps: what `load_state` needs to go on exactly."""
        tensors = dict(self._modules.state_dict())
        for number, moments in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer:{number}:{name}": tensor for name, tensor in moments.items()}
        return {**{n: t.cpu().numpy().copy() for n, t in tensors.items()}, "steps": np.array(self._done)}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from a state."""
        tensors = {name: torch.from_numpy(np.asarray(array)) for name, array in state.items()}
        self._done = int(tensors.pop("steps"))
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for name in [name for name in tensors if name.startswith("optimizer:")]:
            _, number, moment = name.split(":")
            moments.setdefault(int(number), {})[moment] = tensors.pop(name)
        self._modules.load_state_dict(tensors)
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": moments})
        self._losses = []


def schedule(step: int, steps: int) -> float:
    """The share of the peak rate at a step of `steps`: it rises linearly over a tenth of them, then falls to 0.

    >>> [round(schedule(step, 20), 2) for step in (0, 1, 2, 11, 19)]
    [0.5, 1.0, 1.0, 0.5, 0.01]
    """
    rising = math.ceil(WARM_UP * steps)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1))) / 2
