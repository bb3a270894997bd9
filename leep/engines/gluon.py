"""The reference engine: MXNet executes the graph (the paper's framework)."""

from __future__ import annotations

import functools
import json
import os
import sys
import tempfile

import mxnet as mx
import numpy as np

from leep.engines import ADAM, Predictor
from leep.engines.graph import get_weights, set_weights, trace, update_weights
from leep.sources.zoo import seed_mxnet

STEPS_AHEAD = 20  # steps that may wait in MXNet's queue, each with its batch of images


def _block(symbol: mx.sym.Symbol, net: mx.gluon.HybridBlock, **flags) -> mx.gluon.SymbolBlock:
    block = mx.gluon.SymbolBlock(symbol, mx.sym.var("data", dtype="float32"), params=net.collect_params())
    block.hybridize(**flags)
    return block


def _pooling_as_mean(symbol: mx.sym.Symbol) -> mx.sym.Symbol:
    """Global average pooling as a mean, the same up to rounding.

    The gradient of oneDNN's pooling comes in a layout for which batch norm has no compiled kernel: from there back to
    the first change of resolution a step of ResNet20 took 1.7 times as long.
    """
    graph = json.loads(symbol.tojson())
    for node in graph["nodes"]:
        attributes = node.get("attrs", {})
        if node["op"] == "Pooling" and (attributes.get("global_pool"), attributes.get("pool_type")) == ("True", "avg"):
            node.update(op="mean", attrs={"axis": "(2, 3)", "keepdims": "True"})
    return mx.sym.load_json(json.dumps(graph))


@functools.cache
def _start_mxnet() -> None:
    """Start MXNet's queue of operations without the line that it prints of it; whatever else it says is passed on."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            mx.nd.zeros(1).wait_to_read()
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
            file.seek(0)
            os.write(2, b"".join(line for line in file if b"MXNet start using engine" not in line))


class GluonEngine:
    """Runs networks in MXNet, float32, on the CPU."""

    name = "gluon"
    precision = "float32"

    def __init__(self):
        _start_mxnet()

    def predictor(self, net: mx.gluon.HybridBlock) -> Predictor:
        """A function images `(n, 3, h, w)` float32 → features `(n, d)`, logits `(n, c)` float32 arrays."""
        fused = trace(net).symbol.get_backend_symbol("MKLDNN")  # convolution, batch norm and activation as one operator
        block = _block(fused, net, static_alloc=True)

        def predict(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            features, logits = block(mx.nd.array(images))
            return features.asnumpy(), logits.asnumpy()

        return predict

    def meta_learner(self, net: mx.gluon.HybridBlock) -> GluonMetaLearner:
        """Adam on the learned weights of a network of context, classes and query (`leep.transfer.cnaps`)."""
        return GluonMetaLearner(net)

    def trainer(
        self,
        net: mx.gluon.HybridBlock,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        freeze_extractor: bool = False,
    ) -> GluonTrainer:
        """SGD on softmax cross-entropy over all weights of the network, or over those of its head."""
        return GluonTrainer(net, momentum, weight_decay, freeze_extractor)


class GluonTrainer:
    """Trains `net` in place: `mom ← momentum·mom − lr·(grad + weight_decay·w)`, `w ← w + mom`.

    With `freeze_extractor` only the head is trained, and batch norm and dropout stay in inference mode.
    """

    def __init__(self, net, momentum, weight_decay, freeze_extractor):
        self.net, self.graph = net, trace(net)
        self._block = _block(_pooling_as_mean(self.graph.symbol), net, static_alloc=True)
        self._loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()
        self._train_mode = not freeze_extractor
        trained = net._collect_params_with_prefix()
        if freeze_extractor:
            for name, parameter in trained.items():
                if name not in self.graph.head:
                    parameter.grad_req = "null"
            trained = {name: trained[name] for name in self.graph.head}
        options = {"learning_rate": 1.0, "momentum": momentum, "wd": weight_decay}
        self._trainer = mx.gluon.Trainer(list(trained.values()), "sgd", options, kvstore=None)
        self._trainer.optimizer.aggregate_num = 60  # weights updated by one operator, MXNet's own default is 4
        self._losses = []

    def seed(self, *numbers: int) -> None:
        """Set the generator of dropout, in a network that has it."""
        if self.graph.draws:
            seed_mxnet(np.random.SeedSequence(numbers))

    def step(self, images: np.ndarray, labels: np.ndarray, learning_rate: float) -> None:
        """One SGD step on a batch."""
        images, labels = mx.nd.array(images), mx.nd.array(labels)
        with mx.autograd.record(train_mode=self._train_mode):
            loss = self._loss(self._block(images)[1], labels)
        loss.backward()
        self._trainer.set_learning_rate(learning_rate)
        self._trainer.step(len(labels))
        self._losses.append(loss.mean())
        if len(self._losses) > STEPS_AHEAD:
            self._losses[-STEPS_AHEAD].wait_to_read()

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
        """Go on from a state saved by either engine; where it holds weights only, with momenta of zero."""
        set_weights(self.net, {k: v for k, v in state.items() if not k.startswith("momentum:")})
        self._losses = []
        updater = self._trainer._updaters[0]
        updater.states.clear()
        updater.states_synced.clear()
        for name, p in self.net._collect_params_with_prefix().items():
            if f"momentum:{name}" in state:
                index = self._trainer._param2idx[p.name]
                updater.states[index] = mx.nd.array(state[f"momentum:{name}"])
                updater.states_synced[index] = True


class GluonMetaLearner:
    """Meta-trains `net` in place, with Adam (Kingma and Ba, 2015) in MXNet's form; frozen weights stay as they are."""

    def __init__(self, net: mx.gluon.HybridBlock):
        self.net = net
        net.hybridize()
        self._learned = {n: p for n, p in net._collect_params_with_prefix().items() if p.grad_req != "null"}
        for parameter in self._learned.values():
            parameter.grad_req = "add"
            parameter.zero_grad()
        options = dict(zip(("beta1", "beta2", "epsilon"), ADAM))
        self._trainer = mx.gluon.Trainer(list(self._learned.values()), "adam", options, kvstore=None)
        self._loss = mx.gluon.loss.SoftmaxCrossEntropyLoss()

    def _inputs(self, *arrays: np.ndarray) -> list[mx.nd.NDArray]:
        return [mx.nd.array(a) for a in arrays]

    def predict(self, context: np.ndarray, classes: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Logits `(m, ways)` of the query images."""
        with mx.autograd.train_mode():
            return self.net(*self._inputs(context, classes, query))[0].asnumpy()

    def learn(self, tasks: list[tuple[np.ndarray, ...]], weight: float) -> list[tuple[float, float]]:
        """Add the gradients of tasks `(context, classes, query, labels)`; the mean loss and the accuracy of each."""
        results = []
        for *inputs, labels in tasks:
            with mx.autograd.record():
                logits, penalty = self.net(*self._inputs(*inputs))
                losses = self._loss(logits, mx.nd.array(labels))
                total = losses.sum() * weight + penalty
            total.backward()
            results.append((float(losses.mean().asscalar()), float((logits.asnumpy().argmax(1) == labels).mean())))
        return results

    def step(self, learning_rate: float) -> None:
        """One step of Adam on the gradients since the last."""
        self._trainer.set_learning_rate(learning_rate)
        self._trainer.step(1)
        for parameter in self._learned.values():
            parameter.zero_grad()

    def state(self) -> dict[str, np.ndarray]:
        """Learned weights, moments and steps."""
        state, updater = {n: p.data().asnumpy() for n, p in self._learned.items()}, self._trainer._updaters[0].states
        for name, parameter in self._learned.items():
            moments = updater.get(self._trainer._param2idx[parameter.name])
            for prefix, moment in zip(("mean:", "square:"), moments or (parameter.data() * 0,) * 2):
                state[prefix + name] = moment.asnumpy()
        return {**state, "steps": np.array(self._trainer.optimizer.num_update)}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        """Go on from a state saved by either engine."""
        update_weights(self.net, {n: state[n] for n in self._learned})
        updater, optimizer, steps = self._trainer._updaters[0], self._trainer.optimizer, int(state["steps"])
        optimizer.num_update = optimizer.begin_num_update = steps
        for name, parameter in self._learned.items():
            index = self._trainer._param2idx[parameter.name]
            optimizer._index_update_count[index] = steps
            updater.states[index] = tuple(mx.nd.array(state[prefix + name]) for prefix in ("mean:", "square:"))
            updater.states_synced[index] = True
