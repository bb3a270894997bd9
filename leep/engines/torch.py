"""The second engine: PyTorch executes the Gluon graph with the Gluon weights.

It brings bfloat16 and CUDA to networks that are defined, and stored, in Gluon alone. Needs the extra `torch`.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from leep.engines import ADAM, META_INPUTS, Predictor
from leep.engines.graph import get_weights, set_weights, trace, trace_all, update_weights
from leep.engines.torch_graph import GraphModule, for_inference


class TorchEngine:
    """Runs Gluon networks in PyTorch, in float32 or bfloat16 (autocast), on the CPU or a CUDA device."""

    name = "torch"

    def __init__(self, precision: str = "float32", device: str = "cpu", threads: int = 1):
        if device != "cpu" and not torch.cuda.is_available():
            raise ValueError(
                f"engine.device={device}: this machine has no CUDA device that PyTorch can use; use engine.device=cpu"
            )
        torch.set_num_threads(threads)  # MXNet's import has set one
        torch.backends.cudnn.allow_tf32 = False  # float32 means float32
        self.precision = precision
        self.device = torch.device(device)

    def tensors(self, net) -> dict[str, torch.Tensor]:
        """The network's weights on the device, by structural name; those of convolutions lie channels last."""
        layout = {4: torch.channels_last}
        weights = {k: torch.from_numpy(v.copy()).to(self.device) for k, v in get_weights(net).items()}
        return {k: w.contiguous(memory_format=layout.get(w.ndim, torch.contiguous_format)) for k, w in weights.items()}

    def images(self, images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(images).to(self.device, memory_format=torch.channels_last)

    def autocast(self) -> contextlib.AbstractContextManager:
        if self.precision == "bfloat16":
            return torch.autocast(self.device.type, torch.bfloat16)
        return contextlib.nullcontext()

    def predictor(self, net) -> Predictor:
        """A function images `(n, 3, h, w)` float32 → features `(n, d)`, logits `(n, c)` float32 arrays."""
        graph = trace(net)
        nodes, tensors = for_inference(graph, self.tensors(net))
        module = GraphModule(nodes, graph.outputs(), tensors)
        if self.precision == "bfloat16":  # once, not at every call
            tensors = {name: t.bfloat16() if t.ndim > 1 else t for name, t in tensors.items()}

        def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            with torch.inference_mode(), self.autocast():
                features, logits = module({"data": self.images(images)}, tensors)
            return features.float().cpu().numpy(), logits.float().cpu().numpy()

        return predict

    def meta_learner(self, net) -> TorchMetaLearner:
        """Adam on the learned weights of a network of context, classes and query (`leep.transfer.cnaps`)."""
        return TorchMetaLearner(self, net)

    def trainer(
        self, net, momentum: float = 0.0, weight_decay: float = 0.0, freeze_extractor: bool = False
    ) -> TorchTrainer:
        """SGD on softmax cross-entropy over all weights of the network, or over those of its head."""
        return TorchTrainer(self, net, momentum, weight_decay, freeze_extractor)


class TorchTrainer:
    """Trains `net`; the same rule as `GluonTrainer`, so that either engine goes on from the other's state."""

    def __init__(self, engine: TorchEngine, net, momentum, weight_decay, freeze_extractor):
        self.net, self.graph, self._engine = net, trace(net), engine
        self._tensors = engine.tensors(net)
        self._module = GraphModule(self.graph.nodes(), self.graph.outputs(), self._tensors)
        self._train_mode = not freeze_extractor
        self._trained = [n for n, p in self.graph.parameters.items() if p.grad_req != "null"]
        if freeze_extractor:
            self._trained = self.graph.head
        self._weights = [self._tensors[n].requires_grad_() for n in self._trained]
        self._momenta = [torch.zeros_like(w) for w in self._weights]
        self._momentum, self._weight_decay = momentum, weight_decay
        self._losses: list[torch.Tensor] = []

    def seed(self, *numbers: int) -> None:
        """Set the generator of dropout, in a network that has it."""
        if self.graph.draws:
            torch.manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> None:
        """One SGD step on a batch."""
        with self._engine.autocast():
            logits = self._module({"data": self._engine.images(images)}, self._tensors, self._train_mode)[1]
        target = torch.from_numpy(np.asarray(labels, np.int64)).to(self._engine.device)
        loss = F.cross_entropy(logits.float(), target)
        gradients = list(torch.autograd.grad(loss, self._weights))
        with torch.no_grad():
            if self._weight_decay:
                gradients = torch._foreach_add(gradients, self._weights, alpha=self._weight_decay)
            if self._momentum:
                torch._foreach_mul_(self._momenta, self._momentum)
                torch._foreach_add_(self._momenta, gradients, alpha=-learning_rate)
                torch._foreach_add_(self._weights, self._momenta)
            else:
                torch._foreach_add_(self._weights, gradients, alpha=-learning_rate)
        self._losses.append(loss.detach())

    def take_loss(self) -> float:
        """The mean training loss of the steps since the last call; waits for them to end."""
        losses, self._losses = self._losses, []
        return float(torch.stack(losses).mean())

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Logits `(n, c)` in inference mode."""
        with torch.no_grad(), self._engine.autocast():
            return self._module({"data": self._engine.images(images)}, self._tensors)[1].float().cpu().numpy()

    def state(self) -> dict[str, np.ndarray]:
        """Weights and momenta: what `load_state` needs to go on exactly. Also writes the weights into `net`."""
        weights = {n: t.detach().cpu().numpy().copy() for n, t in self._tensors.items()}
        set_weights(self.net, weights)
        return {**weights, **{f"momentum:{n}": m.cpu().numpy().copy() for n, m in zip(self._trained, self._momenta)}}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a state saved by either engine; where it holds weights only, with momenta of zero."""
        set_weights(self.net, {k: v for k, v in state.items() if not k.startswith("momentum:")})
        self._losses = []
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(torch.from_numpy(state[name]))
            for name, momentum in zip(self._trained, self._momenta):
                saved = state.get(f"momentum:{name}")
                momentum.zero_() if saved is None else momentum.copy_(torch.from_numpy(saved))


class TorchMetaLearner:
    """The same rule as `GluonMetaLearner`, so that either engine goes on from the other's state."""

    def __init__(self, engine: TorchEngine, net):
        self.net, self._engine = net, engine
        graph = trace_all(net, *META_INPUTS)
        self._tensors = engine.tensors(net)
        self._module = GraphModule(graph.nodes(), graph.outputs(), self._tensors)
        self._learned = [n for n, p in graph.parameters.items() if p.grad_req != "null"]
        self._weights = [self._tensors[n].requires_grad_() for n in self._learned]
        self._gradients, self._means, self._squares = ([torch.zeros_like(w) for w in self._weights] for _ in range(3))
        self._steps = 0
        self._threads = ThreadPoolExecutor(torch.get_num_threads())
        torch.set_num_threads(1)

    def _logits(self, context, classes, query) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = {"context": self._engine.images(context), "query": self._engine.images(query)}
        inputs["classes"] = torch.from_numpy(classes).to(self._engine.device)
        with self._engine.autocast():
            logits, penalty = self._module(inputs, self._tensors, training=True)
        return logits.float(), penalty.float().sum()

    def predict(self, context: np.ndarray, classes: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Logits `(m, ways)` of the query images."""
        with torch.no_grad():
            return self._logits(context, classes, query)[0].cpu().numpy()

    def learn(self, tasks: list[tuple[np.ndarray, ...]], weight: float) -> list[tuple[float, float]]:
        """Add the gradients of tasks `(context, classes, query, labels)`; the mean loss and the accuracy of each.

        The tasks run beside one another, a thread each: one has too little to do for two. The sum is in their order.
        """
        results = []
        for loss, accuracy, gradients in self._threads.map(partial(self._gradient, weight), tasks):
            torch._foreach_add_(self._gradients, gradients)
            results.append((loss, accuracy))
        return results

    def _gradient(self, weight: float, task: tuple[np.ndarray, ...]) -> tuple[float, float, list[torch.Tensor]]:
        *inputs, labels = task
        logits, penalty = self._logits(*inputs)
        target = torch.from_numpy(np.asarray(labels, np.int64)).to(self._engine.device)
        loss = F.cross_entropy(logits, target, reduction="sum")
        gradients = torch.autograd.grad(loss * weight + penalty, self._weights)
        return loss.item() / len(labels), float((logits.argmax(1) == target).float().mean()), gradients

    def step(self, learning_rate: float) -> None:
        """One step of Adam on the gradients since the last."""
        self._steps += 1
        rate = learning_rate * np.sqrt(1 - ADAM[1] ** self._steps) / (1 - ADAM[0] ** self._steps)
        with torch.no_grad():
            torch._foreach_lerp_(self._means, self._gradients, 1 - ADAM[0])
            torch._foreach_mul_(self._squares, ADAM[1])
            torch._foreach_addcmul_(self._squares, self._gradients, self._gradients, 1 - ADAM[1])
            roots = torch._foreach_add(torch._foreach_sqrt(self._squares), ADAM[2])
            torch._foreach_addcdiv_(self._weights, self._means, roots, -rate)
            torch._foreach_zero_(self._gradients)

    def state(self) -> dict[str, np.ndarray]:
        """Learned weights, moments and steps. Also writes the weights into `net`."""
        state = {n: w.detach().cpu().numpy().copy() for n, w in zip(self._learned, self._weights)}
        update_weights(self.net, state)
        for prefix, moments in (("mean:", self._means), ("square:", self._squares)):
            state.update({prefix + n: m.cpu().numpy().copy() for n, m in zip(self._learned, moments)})
        return {**state, "steps": np.array(self._steps)}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a state saved by either engine."""
        self._steps = int(state["steps"])
        with torch.no_grad():
            for prefix, tensors in (("", self._weights), ("mean:", self._means), ("square:", self._squares)):
                for name, tensor in zip(self._learned, tensors):
                    tensor.copy_(torch.from_numpy(state[prefix + name]))
