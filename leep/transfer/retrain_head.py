"""Re-training the head: the features stay fixed, a new softmax layer learns the target classes (Section 2)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from leep.transfer.method import HERE, SGD, THREADS, Budget, Pair, Transfer


@dataclass(frozen=True)
class RetrainHead(SGD):
    """Re-train head (Section 5.1): the extractor is kept, a new head is trained on its features."""

    name: ClassVar[str] = "retrain_head"
    label: ClassVar[str] = "Re-train head"
    style: ClassVar[dict[str, str]] = {"color": "#0072B2", "marker": "o", "hatch": ""}

    implementation: str = "compiled"

    def __post_init__(self):
        super().__post_init__()
        if self.implementation not in IMPLEMENTATIONS:
            raise ValueError(f"implementation must be among {', '.join(IMPLEMENTATIONS)}, got {self.implementation!r}")

    @property
    def place(self) -> str:
        """Threads for the compiled loop; MXNet is for one thread."""
        return HERE if self.implementation == "gluon" else THREADS

    def prepare(self, pair: Pair, budget: Budget, checkpoints: Path) -> Transfer:
        """A head for each task, from the features of the one pass."""
        from leep.transfer.metrics import evaluate

        outputs = pair.outputs()

        def transfer(index, report):
            task = pair.task(index)
            head = train_head(
                outputs.train_features[task.train_rows],
                task.train_labels,
                len(task.classes),
                pair.training_rng(index),
                epochs=budget.epochs,
                **asdict(self),
            )
            predicted = head.predict(outputs.test_features[task.test_rows])
            return evaluate(predicted, task.test_labels, len(task.classes), task.minority_class), []

        return transfer


def train_head(
    features: np.ndarray,
    labels: np.ndarray,
    n_classes: int,
    rng: np.random.Generator,
    *,
    epochs: int,
    batch_size: int = 10,
    learning_rate: float = 0.01,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    implementation: str = "compiled",
) -> Head:
    """Train a softmax layer on features by SGD on the cross-entropy.

    The head starts Xavier uniform with zero bias. Each epoch visits every example once, in a new order; the last batch
    may be short, and its gradient is the mean over its own examples. `rng` gives the start, then the order of each
    epoch, so that both implementations see the same batches.

    Parameters
    ----------
    features : ndarray of shape (n, n_features), finite
        Features of the training examples; float32 is used as it is, anything else is converted.
    labels : ndarray of shape (n,), integer
        Target labels in 0..n_classes−1.
    n_classes : int, at least 1
        Number of classes of the target task, whether or not all of them occur.
    rng : numpy.random.Generator
        Source of the start and of the orders.
    epochs : int, at least 0
    batch_size : int, at least 1
    learning_rate : float, above 0
    momentum : float in [0, 1)
    weight_decay : float, at least 0
        Applies to weight and bias: mom ← momentum·mom − learning_rate·(gradient + weight_decay·w), w ← w + mom,
        as Gluon's `Trainer` with `sgd`.
    implementation : {"compiled", "gluon"}
        A compiled loop, or the same steps in Gluon as the reference, about a thousand times slower on small tasks.

    Returns
    -------
    head : Head
        The head after the last epoch.

    Raises
    ------
    ValueError
        If an argument has another shape, type or range.
    FloatingPointError
        If a weight is no longer finite.

    References
    ----------
    Nguyen et al., ICML 2020, Sections 2 and 5.1: SGD, learning rate 0.01, batches of 10, 100 epochs.
    """
    features, labels = _check_data(features, labels, n_classes, rng)
    _check_options(epochs, batch_size, learning_rate, momentum, weight_decay, implementation)
    start = initial_head(n_classes, features.shape[1], rng)
    orders = (rng.permutation(len(labels)).astype(np.int64, copy=False) for _ in range(epochs))
    heads = IMPLEMENTATIONS[implementation](
        *(features, labels, start, orders),
        batch_size=batch_size,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
    )
    weight, bias = start.weight, start.bias
    for epoch, (weight, bias) in enumerate(heads, start=1):
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise FloatingPointError(
                f"head training diverged in epoch {epoch} of {epochs} with learning_rate={learning_rate}: "
                "lower learning_rate or weight_decay, or scale the features down"
            )
    return Head(np.ascontiguousarray(weight), np.ascontiguousarray(bias))


def initial_head(n_classes: int, n_features: int, rng: np.random.Generator) -> Head:
    """Weights uniform in ±√(6 / (n_features + n_classes)), as `mx.init.Xavier()` draws them, and zero bias."""
    limit = np.sqrt(6 / (n_features + n_classes))
    weight = rng.uniform(-limit, limit, (n_classes, n_features)).astype(np.float32)
    return Head(weight, np.zeros(n_classes, np.float32))


def _train_compiled(features, labels, start: Head, orders: Iterable[np.ndarray], **options) -> Iterator[tuple]:
    from leep.transfer import _head_loop  # compiles, or reads what it compiled before

    return _head_loop.train(features, labels, start.weight, start.bias, orders, **options)


def _train_gluon(
    features, labels, start: Head, orders: Iterable[np.ndarray], *, batch_size, learning_rate, momentum, weight_decay
) -> Iterator[tuple]:
    import mxnet as mx  # slow to import, and not needed by the compiled loop

    n_classes, n_features = start.weight.shape
    net = mx.gluon.nn.Dense(n_classes, in_units=n_features)
    net.initialize(mx.init.Zero())  # draws nothing from the global generator
    net.weight.set_data(mx.nd.array(start.weight))
    net.bias.set_data(mx.nd.array(start.bias))
    loss_of = mx.gluon.loss.SoftmaxCrossEntropyLoss()
    sgd = {"learning_rate": learning_rate, "momentum": momentum, "wd": weight_decay}
    trainer = mx.gluon.Trainer(net.collect_params(), "sgd", sgd, kvstore=None)
    for order in orders:
        for begin in range(0, len(order), batch_size):
            batch = order[begin : begin + batch_size]
            with mx.autograd.record():
                loss = loss_of(net(mx.nd.array(features[batch])), mx.nd.array(labels[batch]))
            loss.backward()
            trainer.step(len(batch))
        yield net.weight.data().asnumpy(), net.bias.data().asnumpy()


IMPLEMENTATIONS = {"compiled": _train_compiled, "gluon": _train_gluon}


def _check_data(features, labels, n_classes, rng):
    if not isinstance(rng, np.random.Generator):
        raise ValueError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")
    if not isinstance(n_classes, (int, np.integer)) or n_classes < 1:
        raise ValueError(f"n_classes must be an integer of at least 1, got {n_classes!r}")
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or features.size == 0:
        raise ValueError(f"features must have shape (n, n_features), neither of them 0, got {features.shape}")
    if features.dtype.kind not in "fiu":
        raise ValueError(f"features must be real numbers, got {features.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must have shape ({len(features)},) as features have rows, got {labels.shape}")
    if labels.dtype.kind not in "iu":
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"labels must lie in 0..{n_classes - 1}, got {labels.min()}..{labels.max()}")
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(features, np.float32)
    if not np.isfinite(features).all():
        raise ValueError("features must be finite in float32, got NaN, an infinity or a number above 3e38")
    return features, np.ascontiguousarray(labels, np.int64)


def _check_options(epochs, batch_size, learning_rate, momentum, weight_decay, implementation):
    for name, value, least in [("epochs", epochs, 0), ("batch_size", batch_size, 1)]:
        if not isinstance(value, (int, np.integer)) or value < least:
            raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate must be finite and above 0, got {learning_rate}")
    if not 0 <= momentum < 1:
        raise ValueError(f"momentum must lie in [0, 1), got {momentum}")
    if not 0 <= weight_decay < np.inf:
        raise ValueError(f"weight_decay must be finite and at least 0, got {weight_decay}")
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, got {implementation!r}")


@dataclass(frozen=True)
class Head:
    """A linear layer: `weight` `(n_classes, n_features)` and `bias` `(n_classes,)`, float32."""

    weight: np.ndarray
    bias: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Features `(n, n_features)` → class of the largest logit, `(n,)` int64; of equals, the first."""
        features = np.asarray(features)
        if features.ndim != 2 or features.shape[1] != self.weight.shape[1]:
            raise ValueError(f"features must have shape (n, {self.weight.shape[1]}), got {features.shape}")
        return np.argmax(features @ self.weight.T + self.bias, axis=1).astype(np.int64, copy=False)
