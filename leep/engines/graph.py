"""The symbol graph of a Gluon classifier: defined once in Gluon, executed by every engine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

import mxnet as mx
import numpy as np


@dataclass(frozen=True)
class Graph:
    """What an engine needs to run a network.

    Attributes
    ----------
    symbol : mxnet.symbol.Symbol
        Of a classifier two outputs: features `(n, n_features)`, the input of the last fully connected layer, and
        logits `(n, n_classes)`, its output. The paper's split into extractor and head (Section 5.1).
    parameters : dict of str to mxnet.gluon.Parameter
        By structural name (`features.0.weight`), the same in every process and in `.params` files.
    """

    symbol: mx.sym.Symbol
    parameters: dict[str, mx.gluon.Parameter]

    def nodes(self) -> list[dict]:
        """The graph's operators in topological order, parameters under their structural names."""
        structural = {p.name: name for name, p in self.parameters.items()}
        nodes = json.loads(self.symbol.tojson())["nodes"]
        return [dict(node, name=structural.get(node["name"], node["name"])) for node in nodes]

    def outputs(self) -> list[int]:
        """Positions of the outputs among the nodes."""
        return [head[0] for head in json.loads(self.symbol.tojson())["heads"]]

    @property
    def n_classes(self) -> int:
        """Outputs of the head."""
        return self.parameters[self.head[0]].shape[0]

    @cached_property
    def draws(self) -> bool:
        """Whether training draws random numbers."""
        return any(node["op"] == "Dropout" for node in self.nodes())

    @cached_property
    def head(self) -> list[str]:
        """Names of the head's parameters: weight `(n_classes, n_features)` and, if it has one, bias `(n_classes,)`."""
        nodes = self.nodes()
        return [nodes[i[0]]["name"] for i in nodes[-1]["inputs"][1:]]


def trace(net: mx.gluon.HybridBlock) -> Graph:
    """Trace an initialised classifier whose last layer is fully connected.

    Raises
    ------
    ValueError
        If the network does not end in a fully connected layer.
    """
    logits = net(mx.sym.var("data", dtype="float32"))
    graph = json.loads(logits.tojson())
    last = graph["nodes"][graph["heads"][0][0]]["op"]
    if last != "FullyConnected":
        raise ValueError(f"the network must end in a FullyConnected layer (its head), got {last}")
    features = mx.sym.Flatten(logits.get_children()[0], name="features")
    return Graph(mx.sym.Group([features, logits]), net._collect_params_with_prefix())


def trace_all(net: mx.gluon.HybridBlock, *inputs: str) -> Graph:
    """Trace an initialised network of several named inputs and outputs."""
    outputs = net(*(mx.sym.var(name, dtype="float32") for name in inputs))
    return Graph(mx.sym.Group(list(outputs)), net._collect_params_with_prefix())


def get_weights(net: mx.gluon.HybridBlock) -> dict[str, np.ndarray]:
    """All parameters and running statistics, float32, by structural name."""
    return {name: p.data().asnumpy() for name, p in net._collect_params_with_prefix().items()}


def set_weights(net: mx.gluon.HybridBlock, weights: dict[str, np.ndarray]) -> None:
    """Write weights, by structural name, into a network.

    Raises
    ------
    ValueError
        If names are missing or left over; every such name is listed.
    """
    parameters = net._collect_params_with_prefix()
    missing, left_over = sorted(set(parameters) - set(weights)), sorted(set(weights) - set(parameters))
    if missing or left_over:
        raise ValueError(f"weights do not fit the network: missing {missing}, left over {left_over}")
    update_weights(net, weights)


def update_weights(net: mx.gluon.HybridBlock, weights: dict[str, np.ndarray]) -> None:
    """Write some of a network's weights, by structural name."""
    parameters = net._collect_params_with_prefix()
    for name, values in weights.items():
        parameters[name].set_data(mx.nd.array(values))
