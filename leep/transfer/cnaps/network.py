"""CNAPs (Requeima et al., 2019): a frozen source ResNet that small networks adapt to a task, without gradient steps.

A set encoder describes the context images; generators turn that into a scale and a shift after each batch norm of each
residual block (FiLM); a third network turns the mean feature of each class into a row of the classifier.

Other than there, the features are whitened before the classifier, and its bias begins at −½‖μ‖². Without adaptation it
is then the linear discriminant of the classes of meta-training, in place of a product with the class means.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mxnet import init, nd
from mxnet.gluon import HybridBlock, nn

WIDTH = 64  # channels of the set encoder
VARIANTS = ("film", "film_ar")
REGULARISATION = 0.001  # times Σ r²
DEVIATION = 0.001  # of r at the start


class Cnaps(HybridBlock):
    """Logits of query images by a source network that is adapted to context images.

    Always run in training mode: the set encoder's batch norm uses the batch's statistics, at test too; the source's
    uses its own.

    Parameters
    ----------
    source : HybridBlock
        A ResNet of basic blocks with a dense head, of GluonCV's zoo, whose weights stay as they are.
    mean, std : sequence of three floats
        What the source's own input is normalised by; the images come in [−1, 1].
    variant : {"film", "film_ar"}
        A stage's generators see the set encoder's vector alone or, auto-regressively, the stage's adapted input too.

    Raises
    ------
    ValueError
        If the source has no stages of basic blocks.
    """

    def __init__(self, source: HybridBlock, mean: Sequence[float], std: Sequence[float], variant: str = "film"):
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant must be among {', '.join(VARIANTS)}, got {variant!r}")
        stem, stages = split(source)
        self._stem = lambda: stem  # its weights are the source's
        mean, std = (np.reshape(v, (1, 3, 1, 1)) for v in (mean, std))
        source.collect_params().setattr("grad_req", "null")
        source.apply(_freeze)
        with self.name_scope():
            self.scale = self.params.get_constant("scale", 1 / (2 * std))
            self.shift = self.params.get_constant("shift", (0.5 - mean) / std)
            self.source, self.set_encoder = source.features, SetEncoder()
            self.stages = nn.HybridSequential(prefix="")
            width = _n_channels(stem)
            for blocks in stages:
                self.stages.add(Stage(blocks, width if variant == "film_ar" else None))
                width = _n_channels(blocks[-1].body)
            self.whiten = nn.Dense(width, in_units=width, weight_initializer=init.Constant(nd.array(np.eye(width))))
            self.classifier = Classifier(width)

    def hybrid_forward(self, F, context, classes, query, scale, shift):
        """Context `(n, 3, h, w)`, their classes one-hot `(n, ways)`, query `(m, 3, h, w)` → logits, penalty."""
        encoded = self.set_encoder(context)
        context, query = self._begin(F, context, scale, shift), self._begin(F, query, scale, shift)
        penalty = 0
        for stage in self.stages:
            context, query, squares = stage(context, query, encoded)
            penalty = penalty + squares
        context, query = self.whiten(F.mean(context, axis=(2, 3))), self.whiten(F.mean(query, axis=(2, 3)))
        counts = F.reshape(F.sum(classes, axis=0), (-1, 1))
        means = F.broadcast_div(F.dot(classes, context, transpose_a=True), counts)
        weight, bias = self.classifier(means)
        differences = F.broadcast_sub(F.expand_dims(query, axis=1), F.expand_dims(means, axis=0))
        nearest = F.sum(F.square(differences), axis=2) * -0.5  # query · μ − ½‖μ‖², less what all classes share
        learned = F.broadcast_add(F.dot(query, weight, transpose_b=True), F.reshape(bias, (1, -1)))
        return nearest + learned, REGULARISATION * penalty

    def _begin(self, F, images, scale, shift):
        """From [−1, 1] to the source's own input, and through its stem."""
        x = F.broadcast_add(F.broadcast_mul(images, scale), shift)
        for layer in self._stem():
            x = layer(x)
        return x


class SetEncoder(HybridBlock):
    """A vector `(1, 64)` for a set of images: the mean over them of five convolutions, each halving the resolution."""

    def __init__(self):
        super().__init__()
        with self.name_scope():
            self.body = nn.HybridSequential(prefix="")
            for channels in (3, *[WIDTH] * 4):
                self.body.add(
                    nn.Conv2D(WIDTH, 3, padding=1, in_channels=channels),
                    nn.BatchNorm(in_channels=WIDTH),
                    nn.Activation("relu"),
                    nn.MaxPool2D(2, 2),
                )

    def hybrid_forward(self, F, images):
        return F.mean(self.body(images), axis=(0, 2, 3), keepdims=True).reshape((1, -1))


class Res(HybridBlock):
    """x + Wx + b."""

    def __init__(self, width: int):
        super().__init__()
        with self.name_scope():
            self.dense = nn.Dense(width, in_units=width)

    def hybrid_forward(self, F, x):
        return x + self.dense(x)


class Generators(HybridBlock):
    """The vectors that modulate a stage's batch norms: `r ⊙ g`, g made from the task, r small at the start.

    Each has weights of its own: a dense layer and ReLU where the input has another width, then Res, ReLU, Res, ReLU,
    Res with Res(x) = x + Wx + b. All of a stage are computed at once.
    """

    def __init__(self, count: int, width: int, before: int | None):
        super().__init__()
        self._count, self._layers = count, ([] if before is None else ["entry"]) + ["res1", "res2", "res3"]
        with self.name_scope():
            for layer in self._layers:
                into = before if layer == "entry" else width
                weight, bias = (count, into, width), (count, 1, width)
                uniform = init.Uniform(into**-0.5)
                setattr(self, f"{layer}_weight", self.params.get(f"{layer}_weight", shape=weight, init=uniform))
                setattr(self, f"{layer}_bias", self.params.get(f"{layer}_bias", shape=bias, init=uniform))
            self.r = self.params.get("r", shape=(count, 1, width), init=init.Normal(DEVIATION))

    def hybrid_forward(self, F, x, r, **weights):
        """`(1, before)` → modulations `(count, 1, width)`, Σ r²."""
        x = F.repeat(F.expand_dims(x, axis=0), self._count, axis=0)
        for layer in self._layers:
            y = F.broadcast_add(F.batch_dot(x, weights[f"{layer}_weight"]), weights[f"{layer}_bias"])
            y = y if layer == "entry" else x + y
            x = y if layer == "res3" else F.relu(y)
        return r * x, F.sum(F.square(r))


class Stage(HybridBlock):
    """A stage of residual blocks with its generators, four a block: γ and β of its two batch norms.

    Parameters
    ----------
    blocks : sequence of HybridBlock
        Of the source; not among this block's own parameters.
    before : int or None
        Channels of the stage's input, if the generators are to see it.
    """

    def __init__(self, blocks: Sequence[HybridBlock], before: int | None):
        super().__init__()
        self._blocks, width = lambda: blocks, _n_channels(blocks[0].body)
        self._sees_input = before is not None
        with self.name_scope():
            if self._sees_input:
                self.each, self.all = nn.HybridSequential(prefix=""), _dense(width, width)
                self.each.add(_dense(width, before), Res(width), nn.Activation("relu"), Res(width))
                self.each.add(nn.Activation("relu"), Res(width))
            else:
                self.shared = _dense(width, WIDTH)
            self.generators = Generators(4 * len(blocks), width, width + WIDTH if self._sees_input else None)

    def hybrid_forward(self, F, context, query, encoded):
        """Adapted activations of context and query, Σ r²."""
        if self._sees_input:
            seen = F.mean(self.each(F.mean(context, axis=(2, 3))), axis=0, keepdims=True)
            described = F.concat(self.all(seen), encoded, dim=1)
        else:
            described = self.shared(encoded)
        modulations, squares = self.generators(described)
        for k, block in enumerate(self._blocks()):
            four = [
                F.reshape(F.slice_axis(modulations, axis=0, begin=i, end=i + 1), (1, -1, 1, 1))
                for i in range(4 * k, 4 * k + 4)
            ]
            context, query = _run(F, block, context, *four), _run(F, block, query, *four)
        return context, query, squares


def _dense(width: int, before: int) -> nn.Dense:
    return nn.Dense(width, activation="relu", in_units=before)


def _run(F, block, x, gamma1, beta1, gamma2, beta2):
    """A basic block with FiLM after both of its batch norms."""
    first, norm1, relu, second, norm2 = block.body
    shortcut = block.downsample(x) if block.downsample else x
    y = relu(_film(F, norm1(first(x)), gamma1, beta1))
    y = _film(F, norm2(second(y)), gamma2, beta2)
    return F.relu(y + shortcut)


def _film(F, x, gamma, beta):
    return F.broadcast_add(F.broadcast_mul(x, 1 + gamma), beta)


class Classifier(HybridBlock):
    """From the mean feature μ of each class `(ways, d)` to what is added to its weights μ and to its bias −½‖μ‖²."""

    def __init__(self, d: int):
        super().__init__()
        with self.name_scope():
            self.weight, self.bias = nn.HybridSequential(prefix=""), nn.HybridSequential(prefix="")
            for body, width in ((self.weight, d), (self.bias, 1)):
                body.add(nn.Dense(width, in_units=d), nn.ELU(), nn.Dense(width, in_units=width), nn.ELU())
                body.add(nn.Dense(width, in_units=width))

    def hybrid_forward(self, F, means):
        return self.weight(means), self.bias(means)


def split(source: HybridBlock) -> tuple[list[HybridBlock], list[list[HybridBlock]]]:
    """Stem and stages of a ResNet of basic blocks; what follows, the pooling and the head, is left out."""
    layers = list(getattr(source, "features", ()))
    at = [i for i, layer in enumerate(layers) if isinstance(layer, nn.HybridSequential)]
    stages = [list(layers[i]) for i in at]
    if not stages or not all(_is_basic(block) for stage in stages for block in stage):
        raise ValueError("CNAPs need a source ResNet of basic blocks, e.g. resnet18_v1 or cifar_resnet20_v1")
    return layers[: at[0]], stages


def _is_basic(block: HybridBlock) -> bool:
    kinds = nn.Conv2D, nn.BatchNorm, nn.Activation, nn.Conv2D, nn.BatchNorm
    body = list(getattr(block, "body", ()))
    plain = hasattr(block, "downsample") and getattr(block, "se", None) is None
    return plain and len(body) == len(kinds) and all(map(isinstance, body, kinds))


def _freeze(layer: HybridBlock) -> None:
    if isinstance(layer, nn.BatchNorm):
        layer._kwargs["use_global_stats"] = True


def _n_channels(layers: Sequence[HybridBlock]) -> int:
    """Channels that come out of some layers: those of their last convolution."""
    return [layer for layer in layers if isinstance(layer, nn.Conv2D)][-1]._channels
