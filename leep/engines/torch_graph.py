"""Executes a Gluon graph in PyTorch: what every operator is, and a graph as a function."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Collection
from functools import lru_cache

import torch
import torch.nn.functional as F

from leep.engines.depthwise import DepthwiseConvolution
from leep.engines.graph import Graph

# oneDNN compiles kernels for bfloat16 where a CPU has AVX-512, with instructions for bfloat16 or without
BFLOAT16_KERNELS = "AVX512" in torch.backends.cpu.get_cpu_capability()


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


def _lacks_kernels(x: torch.Tensor) -> bool:
    """Whether autocast asks for bfloat16 of a CPU that has no kernels for it."""
    return x.device.type == "cpu" and not BFLOAT16_KERNELS and torch.is_autocast_enabled("cpu")


def _multiply(function, x, weight, bias, *arguments):
    """`function(x, weight, bias, *arguments)`, which is a convolution or a product of matrices.

    A CPU without kernels for bfloat16 takes those of float32. Inputs, output and gradients are rounded to bfloat16 and
    sums are float32, as in the kernels. PyTorch's own way is reference code, 14 times as slow for a ResNet18.
    """
    if not _lacks_kernels(x):
        return function(x, weight, bias, *arguments)
    with torch.autocast("cpu", enabled=False):
        x, weight, bias = (t if t is None else t.bfloat16().float() for t in (x, weight, bias))
        return function(x, weight, bias, *arguments).bfloat16()


def _convolution(node, training, x, weight, bias=None):
    stride, pad, dilate = (_get(node, k, d) for k, d in (("stride", "(1, 1)"), ("pad", "(0, 0)"), ("dilate", "(1, 1)")))
    groups, size = _get(node, "num_group", "1"), weight.shape[2]
    square = stride[0] == stride[1] and pad[0] == pad[1] < size == weight.shape[3] and dilate == (1, 1)
    depthwise = groups == len(weight) == x.shape[1] > 1 and bias is None
    if training and square and depthwise and x.device.type == "cpu" and not _lacks_kernels(x):
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        return DepthwiseConvolution.apply(x.to(dtype), weight.to(dtype), stride[0], pad[0])
    return _multiply(F.conv2d, x, weight, bias, stride, pad, dilate, groups)


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
    return _multiply(F.linear, x.flatten(1) if _get(node, "flatten", "True") else x, weight, bias)


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
    "broadcast_sub": lambda node, training, x, y: x - y,
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

    A batch norm after a convolution becomes part of the convolution's weights; clip works in place.
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
