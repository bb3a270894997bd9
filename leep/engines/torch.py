"""The second engine: PyTorch executes the Gluon graph with the Gluon weights.

It brings bfloat16 and CUDA to networks that are defined, and stored, in Gluon alone. Needs the extra `leep[torch]`.
"""

from __future__ import annotations

import ast
import contextlib
from collections import Counter
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np
import torch
import torch.nn.functional as F

from leep.engines import ADAM, META_INPUTS, Predictor
from leep.engines.depthwise import DepthwiseConvolution
from leep.engines.graph import Graph, get_weights, set_weights, trace, trace_all, update_weights


def _get(node: dict, name: str, default: str) -> object:
    return _parse(node.get("attrs", {}).get(name, default))


@lru_cache(None)
def _parse(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _known(node: dict, name: str, default: str, known: tuple):
    """A value among those that this engine can execute."""
    value = _get(node, name, default)
    if value not in known:
        raise NotImplementedError(f"{node['op']} {node['name']}: the torch engine knows {name} {known}, got {value!r}")
    return value


def _convolution(node, training, x, weight, bias=None):
    stride, pad, dilate = (_get(node, k, d) for k, d in (("stride", "(1, 1)"), ("pad", "(0, 0)"), ("dilate", "(1, 1)")))
    groups, size = _get(node, "num_group", "1"), weight.shape[2]
    square = stride[0] == stride[1] and pad[0] == pad[1] < size == weight.shape[3] and dilate == (1, 1)
    if training and square and groups == len(weight) == x.shape[1] > 1 and bias is None and x.device.type == "cpu":
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return DepthwiseConvolution.apply(x.to(dtype), weight.to(dtype), stride[0], pad[0])
    return F.conv2d(x, weight, bias, stride, pad, dilate, groups)


def _batch_norm(node, training, x, gamma, beta, mean, var):
    _known(node, "axis", "1", (1,))
    if _get(node, "fix_gamma", "True"):
        gamma = torch.ones_like(gamma)
    eps, momentum = _get(node, "eps", "0.001"), _get(node, "momentum", "0.9")
    if not training or _get(node, "use_global_stats", "False"):
        return F.batch_norm(x, mean, var, gamma, beta, False, 0.0, eps)
    out, batch_mean, inv_std = torch.native_batch_norm(x, gamma, beta, None, None, True, 0.0, eps)
    with torch.no_grad():  # MXNet keeps the biased variance, PyTorch's own update the unbiased one
        mean.mul_(momentum).add_(batch_mean, alpha=1 - momentum)
        var.mul_(momentum).add_(inv_std.pow(-2).sub_(eps), alpha=1 - momentum)
    return out


def _activation(node, training, x):
    return getattr(torch, _known(node, "act_type", "relu", ("relu", "sigmoid", "tanh")))(x)


def _leaky_relu(node, training, x):
    kind = _known(node, "act_type", "leaky", ("leaky", "elu"))
    return (F.elu if kind == "elu" else F.leaky_relu)(x, _get(node, "slope", "0.25"))


def _pooling(node, training, x):
    kind = _known(node, "pool_type", "max", ("avg", "max"))
    if _get(node, "global_pool", "False"):
        return x.mean((2, 3), keepdim=True) if kind == "avg" else x.amax((2, 3), keepdim=True)
    kernel, pad = _get(node, "kernel", "()"), _get(node, "pad", "(0, 0)")
    stride, ceil = _get(node, "stride", "(1, 1)"), _get(node, "pooling_convention", "valid") == "full"
    if kind == "max":
        return F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil)
    return F.avg_pool2d(x, kernel, stride, pad, ceil, _get(node, "count_include_pad", "True"))


def _fully_connected(node, training, x, weight, bias=None):
    return F.linear(x.flatten(1) if _get(node, "flatten", "True") else x, weight, bias)


def _pad(node, training, x):
    _known(node, "mode", "constant", ("constant",))
    (_, _, _, _, top, bottom, left, right) = _get(node, "pad_width", "()")
    return F.pad(x, (left, right, top, bottom), value=_get(node, "constant_value", "0"))


def _reduce(node, x, function):
    """`mean` or `sum` over the axes that the node names, all if none."""
    axis = _get(node, "axis", "()")
    axis = tuple(range(x.ndim)) if axis == () else axis
    return function(x, axis, keepdim=bool(_get(node, "keepdims", "False")))


def _dot(node, training, x, y):
    return (x.T if _get(node, "transpose_a", "False") else x) @ (y.T if _get(node, "transpose_b", "False") else y)


def _slice_axis(node, training, x):
    begin, end = _get(node, "begin", "0"), _get(node, "end", "None")
    return x.narrow(_get(node, "axis", "0"), begin, end - begin)


OPERATORS = {
    "Convolution": _convolution,
    "BatchNorm": _batch_norm,
    "Activation": _activation,
    "LeakyReLU": _leaky_relu,
    "Pooling": _pooling,
    "FullyConnected": _fully_connected,
    "Flatten": lambda node, training, x: x.flatten(1),
    "elemwise_add": lambda node, training, x, y: x + y,
    "broadcast_add": lambda node, training, x, y: x + y,
    "broadcast_mul": lambda node, training, x, y: x * y,
    "broadcast_div": lambda node, training, x, y: x / y,
    "elemwise_mul": lambda node, training, x, y: x * y,
    "_plus_scalar": lambda node, training, x: x + _get(node, "scalar", "0"),
    "_mul_scalar": lambda node, training, x: x * _get(node, "scalar", "1"),
    "square": lambda node, training, x: x * x,
    "relu": lambda node, training, x: F.relu(x),
    "mean": lambda node, training, x: _reduce(node, x, torch.mean),
    "sum": lambda node, training, x: _reduce(node, x, torch.sum),
    "dot": _dot,
    "batch_dot": lambda node, training, x, y: x @ y,
    "Concat": lambda node, training, *xs: torch.cat(xs, _get(node, "dim", "1")),
    "Reshape": lambda node, training, x: x.reshape(_get(node, "shape", "()")),
    "expand_dims": lambda node, training, x: x.unsqueeze(_get(node, "axis", "0")),
    "repeat": lambda node, training, x: x.repeat_interleave(_get(node, "repeats", "1"), _get(node, "axis", "0")),
    "slice_axis": _slice_axis,
    "Pad": _pad,
    "clip": lambda node, training, x: F.hardtanh(x, _get(node, "a_min", "0"), _get(node, "a_max", "0")),
    "clip_": lambda node, training, x: F.hardtanh_(x, _get(node, "a_min", "0"), _get(node, "a_max", "0")),
    "identity": lambda node, training, x: x,
    "Dropout": lambda node, training, x: F.dropout(x, _get(node, "p", "0.5"), training),
    "_contrib_AdaptiveAvgPooling2D": lambda node, training, x: F.adaptive_avg_pool2d(x, _get(node, "output_size", "1")),
}


class GraphModule:
    """A Gluon graph as a function of its inputs by name and of a dictionary of weights.

    Parameters
    ----------
    nodes : list of dict
        As `Graph.nodes` gives them.
    outputs : list of int
        As `Graph.outputs` gives them.
    weights : collection of str
        Names of the nodes that hold weights.
    """

    def __init__(self, nodes: list[dict], outputs: list[int], weights: Collection[str]):
        unknown = sorted({n["op"] for n in nodes} - set(OPERATORS) - {"null"})
        if unknown:
            raise NotImplementedError(
                f"the torch engine does not know the operators {unknown}; it knows {sorted(OPERATORS)}: use gluon"
            )
        index = {name: i for i, name in enumerate(n["name"] for n in nodes)}
        self._parameters = {name: index[name] for name in weights if name in index}
        self._inputs = {n["name"]: i for i, n in enumerate(nodes) if n["op"] == "null"}
        self._inputs = {name: i for name, i in self._inputs.items() if name not in self._parameters}
        self._steps = [
            (i, OPERATORS[n["op"]], n, [a[0] for a in n["inputs"]]) for i, n in enumerate(nodes) if n["op"] != "null"
        ]
        self._outputs = outputs
        self._size = len(nodes)

    def __call__(
        self, inputs: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], training: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """The graph's outputs; in training mode running statistics in `tensors` are updated in place."""
        values: list = [None] * self._size
        for name, i in self._inputs.items():
            values[i] = inputs[name]
        for name, i in self._parameters.items():
            values[i] = tensors[name]
        for i, operator, node, inputs in self._steps:
            values[i] = operator(node, training, *(values[j] for j in inputs))
        return tuple(values[i] for i in self._outputs)


def for_inference(graph: Graph, tensors: dict[str, torch.Tensor]) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Nodes and weights that compute the same in inference with less memory traffic.

    A batch norm after a convolution becomes part of the convolution's weights; ReLU and clip work in place.
    """
    nodes, tensors = graph.nodes(), dict(tensors)
    uses = Counter([entry[0] for node in nodes for entry in node["inputs"]] + graph.outputs())
    for position, node in enumerate(list(nodes)):
        before = nodes[node["inputs"][0][0]] if node["inputs"] else None
        if node["op"] == "BatchNorm" and before["op"] == "Convolution" and uses[node["inputs"][0][0]] == 1:
            gamma, beta, mean, var = (tensors[nodes[entry[0]]["name"]] for entry in node["inputs"][1:])
            gamma = torch.ones_like(gamma) if _get(node, "fix_gamma", "True") else gamma
            scale = gamma / torch.sqrt(var + _get(node, "eps", "0.001"))
            weight, *bias = (nodes[entry[0]]["name"] for entry in before["inputs"][1:])
            name = f"{before['name']} with {node['name']}"
            tensors[f"{name} weight"] = tensors[weight] * scale[:, None, None, None]
            tensors[f"{name} bias"] = beta + ((tensors[bias[0]] if bias else 0) - mean) * scale
            new = [[len(nodes) + k, 0, 0] for k in range(2)]
            nodes += [{"op": "null", "name": f"{name} {part}", "inputs": []} for part in ("weight", "bias")]
            nodes[node["inputs"][0][0]] = {**before, "inputs": [before["inputs"][0], *new]}
            nodes[position] = {**node, "op": "identity", "inputs": node["inputs"][:1]}
        elif node["op"] == "clip" and uses[node["inputs"][0][0]] == 1:
            nodes[position] = {**node, "op": "clip_"}
    return nodes, tensors


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
        """The network's weights on the device, by structural name."""
        return {k: torch.from_numpy(v.copy()).to(self.device) for k, v in get_weights(net).items()}

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
            torch._foreach_mul_(self._momenta, self._momentum)
            torch._foreach_add_(self._momenta, gradients, alpha=-learning_rate)
            torch._foreach_add_(self._weights, self._momenta)
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
