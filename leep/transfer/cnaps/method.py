"""Method `cnaps` (Section 5.4): meta-trained networks adapt the source model to each task; nothing is trained on it."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from leep.errors import Invalid
from leep.sources.preprocess import Preprocessing
from leep.transfer.cnaps.adaptation import Adaptation, build_cnaps, find_adaptation, put_adaptation
from leep.transfer.method import HERE, Budget, Method, Pair, Transfer


@dataclass(frozen=True)
class CnapsMethod(Method):
    """CNAPs (Requeima et al., 2019). `weights` of the adaptation networks: `bundled`, or an `.npz` file."""

    name: ClassVar[str] = "cnaps"
    label: ClassVar[str] = "CNAPs"
    style: ClassVar[dict[str, str]] = {"color": "#009E73", "marker": "s", "hatch": ".."}
    takes_epochs: ClassVar[bool] = False
    reads_features: ClassVar[bool] = False
    place: ClassVar[str] = HERE
    experiments: ClassVar[tuple[str, ...]] = ("meta_transfer", "small_balanced", "small_imbalanced")  # a task: a batch
    adaptation: ClassVar[Adaptation | None] = None  # set by `bind`

    weights: str = "bundled"

    def __post_init__(self):
        if not isinstance(self.weights, str):
            raise ValueError(f"weights must be bundled or a file, got {self.weights!r}")

    def bind(self, pair: Pair) -> CnapsMethod:
        """Find the adaptation networks for the pair's source; none of their classes may be a class of the target."""
        found = find_adaptation(pair.source.name, pair.weights, self.weights)
        shared = sorted({_plain(c) for c in pair.data.class_names} & {_plain(c) for c in found.card["classes"]})
        if shared:
            raise Invalid(
                f"{pair.data.name} shares classes with the meta-training of CNAPs for {pair.source.name}: "
                f"{', '.join(shared)}; take another target, or networks that were meta-trained without them"
            )
        bound = copy.copy(self)
        object.__setattr__(bound, "adaptation", found)
        return bound

    def identity(self, pair: Pair, budget: Budget) -> dict:
        """The adaptation networks determine everything."""
        return {"weights_sha256": self.adaptation.sha256}

    def deviations(self, pair: Pair) -> list[str]:
        """On what the networks were meta-trained."""
        card = self.adaptation.card
        return [f"meta-trained on {card['data']}, {card['size']} pixels"]

    def prepare(self, pair: Pair, budget: Budget, checkpoints: Path) -> Transfer:
        """Adapt the source to the examples of each task, and classify its test examples."""
        from leep.engines import create_engine

        engine = create_engine(**pair.engine)
        from leep.transfer.cnaps.meta_training import one_hot  # imports MXNet, after the engine has set its threads
        from leep.transfer.metrics import evaluate

        source, card = pair.source, self.adaptation.card
        shape = source.model, source.n_classes, pair.weights.path, source.mean, source.std, card["variant"]
        net = build_cnaps(*shape, np.random.SeedSequence(0))
        put_adaptation(net, self.adaptation.arrays)
        learner, prepare = engine.meta_learner(net), Preprocessing(card["size"], (0.5,) * 3, (0.5,) * 3)

        def transfer(index, report):
            task = pair.task(index)
            context = prepare(pair.data.train_images[task.train_rows])
            query = prepare(pair.data.test_images[task.test_rows])
            logits = learner.predict(context, one_hot(task.train_labels, len(task.classes)), query)
            return evaluate(logits.argmax(1), task.test_labels, len(task.classes), task.minority_class), []

        return transfer


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").strip()
