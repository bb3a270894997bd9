"""Train a source model on its source task; resumable, the same from any epoch on.

python scripts/train_source.py                                          # gluon, float32
python scripts/train_source.py engine=torch engine.precision=bfloat16   # about four times as fast
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import replace
from pathlib import Path

import hydra
import numpy as np
import pandas as pd
from omegaconf import ListConfig, OmegaConf

from leep.data import DataSet, load_data
from leep.data.augment import crop_and_flip
from leep.engines import create_engine
from leep.errors import Missing
from leep.files import write_atomically
from leep.progress import progress
from leep.sources.preprocess import Preprocessing


def accuracy(trainer, prepare, images, labels) -> float:
    """Fraction of correct predictions."""
    parts = (trainer.predict(prepare(images[i : i + 500])).argmax(1) for i in range(0, len(images), 500))
    return float(np.mean(np.concatenate(list(parts)) == labels))


def only(data: DataSet, classes: list[int]) -> DataSet:
    """The examples of some classes, which are labelled in the order given."""
    position = np.full(len(data.class_names), -1)
    position[classes] = np.arange(len(classes))
    train, test = position[data.train_labels], position[data.test_labels]
    return replace(
        data,
        train_images=data.train_images[train >= 0],
        train_labels=train[train >= 0],
        test_images=data.test_images[test >= 0],
        test_labels=test[test >= 0],
        class_names=tuple(data.class_names[c] for c in classes),
    )


def train_epoch(trainer, prepare, data, epoch: int, cfg) -> float:
    """One epoch; its batches and crops are drawn from its own generator. Returns the mean training loss."""
    rng = np.random.default_rng(np.random.SeedSequence(cfg.seed, spawn_key=(1, epoch)))
    order = rng.permutation(len(data.train_labels))
    steps = len(order) // cfg.batch_size  # the last short batch is left to another epoch
    for step in progress(
        range(steps), desc=f"epoch {epoch + 1}/{cfg.epochs}", unit_scale=cfg.batch_size, unit=" images", leave=False
    ):
        rows = order[step * cfg.batch_size : (step + 1) * cfg.batch_size]
        done = (epoch + step / steps) / cfg.epochs
        learning_rate = cfg.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        images = prepare(crop_and_flip(data.train_images[rows], rng))
        trainer.step(images, data.train_labels[rows], learning_rate)
    return trainer.take_loss()


@hydra.main(config_path="../conf", config_name="train_source", version_base="1.3")
def main(cfg) -> None:
    """Train, log every epoch, and write `weights.params` at the end."""
    for key in ("epochs", "batch_size", "learning_rate"):
        if not cfg[key] > 0:
            sys.exit(f"train_source: {key} must be > 0, got {cfg[key]}")
    if len(cfg.source) != 1:
        sys.exit(f"train_source: source must name one source model, got {', '.join(cfg.source)}")
    (source,) = cfg.source.values()
    try:
        data = load_data(source.trained_on.lower(), root=cfg.data.root)
    except (Missing, ValueError) as error:  # Invalid is a ValueError
        sys.exit(f"train_source: cannot read {source.trained_on}: {error}")
    known = range(len(data.class_names))
    classes = known if cfg.classes is None else cfg.classes
    is_list = isinstance(classes, (range, ListConfig))
    if not is_list or not len({*classes} & {*known}) == len(classes) == source.n_classes:
        sys.exit(f"train_source: classes must be {source.n_classes} different ones of {len(known)}, got {classes}")
    data = only(data, list(classes))
    prepare = Preprocessing(source.size, tuple(source.mean), tuple(source.std))
    engine = create_engine(**cfg.engine)
    from leep.sources.zoo import build  # imports MXNet, after the engine has set its threads

    net = build(source.model, source.n_classes, np.random.SeedSequence(cfg.seed, spawn_key=(0,)))
    trainer = engine.trainer(net, cfg.momentum, cfg.weight_decay)
    out = Path(cfg.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)

    checkpoint, log, configuration = out / "checkpoint.npz", [], OmegaConf.to_yaml(cfg, resolve=True)
    if checkpoint.exists():
        with np.load(checkpoint) as saved:
            state = {k: saved[k] for k in saved.files}
        if str(state.pop("configuration")) != configuration:
            sys.exit(f"train_source: {checkpoint} is of another configuration; give another out=…, or move it away")
        log = state.pop("log").tolist()
        trainer.load_state(state)
        print(f"going on after epoch {len(log)} of {cfg.epochs} from {checkpoint}")
    for epoch in range(len(log), cfg.epochs):
        start = time.perf_counter()
        loss = train_epoch(trainer, prepare, data, epoch, cfg)
        test = accuracy(trainer, prepare, data.test_images, data.test_labels)
        log.append((epoch + 1, loss, test, time.perf_counter() - start))
        print("epoch {:.0f}: loss {:.4f}, test accuracy {:.4f}, {:.0f} s".format(*log[-1]), flush=True)
        write_atomically(
            checkpoint, lambda f: np.savez(f, configuration=configuration, log=np.array(log), **trainer.state())
        )
    pd.DataFrame(log, columns=["epoch", "loss", "test_accuracy", "seconds"]).astype({"epoch": int}).to_csv(
        out / "log.csv", index=False
    )
    trainer.state()  # writes the weights into the net
    net.save_parameters(str(out / "weights.params"))
    reference = accuracy(create_engine("gluon").trainer(net), prepare, data.test_images, data.test_labels)
    print(f"{out / 'weights.params'}: test accuracy {reference:.4f} in the gluon engine")


if __name__ == "__main__":
    main()
