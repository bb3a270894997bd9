"""Section 5.4: CNAPs adapt the source model to every task, in this process; nothing is trained."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from leep.engines import create_engine
from leep.progress import progress
from leep.sources.preprocess import Preprocessing
from leep.sources.weights import WeightsError
from leep.transfer.cnaps.adaptation import Adaptation, build_cnaps, find_adaptation, put_adaptation


def find_cnaps(work) -> Adaptation:
    """The adaptation networks for a source, none of whose meta-training classes is a class of the target.

    Parameters
    ----------
    work : experiments.work.Work

    Raises
    ------
    WeightsMissing, WeightsError
        As `find_adaptation`; the latter also where classes are shared.
    """
    found = find_adaptation(work.source_name, work.weights, work.cfg.method.cnaps.weights)
    shared = sorted({_plain(c) for c in work.data.class_names} & {_plain(c) for c in found.card["classes"]})
    if shared:
        raise WeightsError(
            f"{work.target_name} shares classes with the meta-training of CNAPs for {work.source_name}: "
            f"{', '.join(shared)}; take another target, or networks that were meta-trained without them"
        )
    return found


def _plain(name: str) -> str:
    return name.lower().replace("_", " ").strip()


def adapt(work, adaptation: Adaptation, tasks: list[int]) -> Iterator[tuple[int, dict]]:
    """Task and metrics of the source, adapted to the task's examples."""
    if not tasks:
        return
    engine = create_engine(**work.engine)
    from leep.transfer.cnaps.meta_training import one_hot
    from leep.transfer.metrics import evaluate

    source, card = work.source, adaptation.card
    shape = source.model, source.n_classes, work.weights.path, source.mean, source.std, card["variant"]
    net = build_cnaps(*shape, np.random.SeedSequence(0))
    put_adaptation(net, adaptation.arrays)
    learner, prepare = engine.meta_learner(net), Preprocessing(card["size"], (0.5,) * 3, (0.5,) * 3)
    for index in progress(tasks, desc="  cnaps", unit=" tasks"):
        task = work.task(index)
        context, query = (
            prepare(images[rows])
            for images, rows in ((work.data.train_images, task.train_rows), (work.data.test_images, task.test_rows))
        )
        logits = learner.predict(context, one_hot(task.train_labels, len(task.classes)), query)
        yield index, evaluate(logits.argmax(1), task.test_labels, len(task.classes), task.smaller_class)
