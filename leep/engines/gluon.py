"""The reference engine: MXNet executes the graph (the paper's framework)."""

from __future__ import annotations

import mxnet as mx
import numpy as np

from leep.engines import Predictor
from leep.engines.graph import Graph, get_weights, set_weights, trace


def _block(graph: Graph, net: mx.gluon.HybridBlock) -> mx.gluon.SymbolBlock:
    block = mx.gluon.SymbolBlock(graph.symbol, mx.sym.var("data", dtype="float32"), params=net.collect_params())
    block.hybridize(static_alloc=True)
    return block


class GluonEngine:
    """Runs networks in MXNet, float32, on the CPU."""

    name = "gluon"
    precision = "float32"

    def predictor(self, net: mx.gluon.HybridBlock) -> Predictor:
        """A function images `(n, 3, h, w)` float32 → features `(n, d)`, logits `(n, c)` float32 arrays."""
        block = _block(trace(net), net)

        def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            features, logits = block(mx.nd.array(images))
            return features.asnumpy(), logits.asnumpy()

        return predict

    def trainer(self, net: mx.gluon.HybridBlock, momentum: float = 0.0, weight_decay: float = 0.0) -> GluonTrainer:
        """SGD on softmax cross-entropy over all weights of the network."""
        return GluonTrainer(net, momentum, weight_decay)


class GluonTrainer:
    """Trains `net` in place: `mom ← momentum·mom − lr·(grad + weight_decay·w)`, `w ← w + mom`."""

    def __init__(self, net, momentum, weight_decay):
        self.net = net
        self._block = _block(trace(net), net)
        self._loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
        options = {"learning_rate": 1.0, "momentum": momentum, "wd": weight_decay}
        self._trainer = mx.gluon.Trainer(net.collect_params(), "sgd", options, kvstore=None)
        self._losses = []

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> None:
        """One SGD step on a batch."""
        images, labels = mx.nd.array(images), mx.nd.array(labels)
        with mx.autograd.record():
            loss = self._loss(self._block(images)[1], labels)
        loss.backward()
        self._trainer.set_learning_rate(learning_rate)
        self._trainer.step(len(labels))
        self._losses.append(loss.mean())

    def take_loss(self) -> float:
        """The mean training loss of the steps since the last call; waits for them to end."""
        losses, self._losses = self._losses, []
        return float(np.mean([loss.asscalar() for loss in losses]))

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Logits `(n, c)` in inference mode."""
        return self._block(mx.nd.array(images))[1].asnumpy()

    def state(self) -> dict[str, np.ndarray]:
        """Weights and momenta: what `load_state` needs to go on exactly."""
        updater = self._trainer._updaters[0].states
        momenta = {
            f"momentum:{name}": updater[self._trainer._param2idx[p.name]].asnumpy()
            for name, p in self.net._collect_params_with_prefix().items()
            if updater.get(self._trainer._param2idx.get(p.name)) is not None
        }
        return {**get_weights(self.net), **momenta}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a state saved by either engine."""
        set_weights(self.net, {k: v for k, v in state.items() if not k.startswith("momentum:")})
        updater = self._trainer._updaters[0]
        for name, p in self.net._collect_params_with_prefix().items():
            if f"momentum:{name}" in state:
                index = self._trainer._param2idx[p.name]
                updater.states[index] = mx.nd.array(state[f"momentum:{name}"])
                updater.states_synced[index] = True
