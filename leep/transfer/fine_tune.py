"""Fine-tuning: a new head for the target classes, then the whole network is trained (Section 2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from leep.errors import Invalid
from leep.transfer.method import Pair
from leep.transfer.network import NetworkMethod
from leep.transfer.retrain_head import initial_head

if TYPE_CHECKING:
    import mxnet as mx

    from leep.engines.graph import Graph

CHECKED = 10  # training images on which the source model is looked at in training mode, a batch
LEAST_KEPT = 0.05  # of the logits' differences; Gluon's ResNets keep 0.5 to 1.5, EfficientNet-Lite0 0.2 to 0.3


@dataclass(frozen=True)
class FineTune(NetworkMethod):
    """Fine-tune (Section 5.1): SGD on the cross-entropy over all weights, batch norm in training mode."""

    name: ClassVar[str] = "fine_tune"
    label: ClassVar[str] = "Fine-tune"
    style: ClassVar[dict[str, str]] = {"color": "#D55E00", "marker": "^", "hatch": "//"}

    freeze_extractor: bool = False

    def __post_init__(self):
        super().__post_init__()
        if not isinstance(self.freeze_extractor, bool):
            raise ValueError(f"freeze_extractor must be true or false, got {self.freeze_extractor!r}")

    def trainer_options(self) -> dict:
        """Arguments of the engine's `trainer`."""
        return {**super().trainer_options(), "freeze_extractor": self.freeze_extractor}

    def start_weights(self, pair: Pair) -> Callable:
        """The source model's weights with a new head for each task."""
        from leep.engines.graph import get_weights
        from leep.sources.weights import check_weights
        from leep.sources.zoo import load

        net = load(pair.source.model, pair.source.n_classes, check_weights(pair.weights))
        source = get_weights(net)
        if not self.freeze_extractor:
            check_training_mode(net, pair.preprocessing(pair.data.train_images[:CHECKED]), pair.source.name)
        return lambda graph, rng: initial_weights(source, graph, graph.n_classes, rng)


def check_training_mode(net: mx.gluon.HybridBlock, images: np.ndarray, name: str) -> None:
    """Refuse a source model that is another one in training mode. Changes the running statistics of `net`.

    Where weights were quantised, or batch norm was folded into them, the running statistics may not be those of batch
    norm's inputs. Inference does not show it. In training mode, which uses the statistics of the batch, nothing that
    the model has learnt is left, so fine-tuning would start from noise.

    Parameters
    ----------
    net : HybridBlock
        The source model.
    images : float32 array `(n, 3, h, w)`
        Some images of the target, prepared.
    name : str
        Of the source, for the message.

    Raises
    ------
    Invalid
        If of the differences between the images' logits less than `LEAST_KEPT` is left in training mode: the
        coefficient of a regression on those in inference mode.
    """
    import mxnet as mx

    batch = mx.nd.array(images)
    inference = net(batch).asnumpy().astype(np.float64)
    with mx.autograd.train_mode():
        training = net(batch).asnumpy().astype(np.float64)
    a, b = ((logits - logits.mean(axis=0)).ravel() for logits in (inference, training))
    if a @ b < LEAST_KEPT * (a @ a):
        raise Invalid(
            f"source.{name}.weights: in training mode {(a @ b) / (a @ a):.1%} is left of what this network's outputs "
            "say in inference mode, because its batch norms do not hold the statistics of their inputs, as in "
            "quantised or folded weights; fine-tuning would start from noise: use the weights as they were trained, "
            "or 'method=[retrain_head]'"
        )


def initial_weights(
    source: Mapping[str, np.ndarray], graph: Graph, n_classes: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The source model's weights with a new head, the same that head re-training starts from.

    Parameters
    ----------
    source : mapping of str to float32 array
        Weights and running statistics of the source model by structural name.
    graph : Graph
        Of the network; tells which parameters are the head's.
    n_classes : int
        Number of classes of the target task.
    rng : numpy.random.Generator
        Source of the head's weights.

    Returns
    -------
    dict of str to float32 array
    """
    weight, *bias = graph.head
    head = initial_head(n_classes, source[weight].shape[1], rng)
    return {**source, weight: head.weight, **dict.fromkeys(bias, head.bias)}
