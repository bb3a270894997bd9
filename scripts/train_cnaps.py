"""Meta-train CNAPs for a source model; resumable, the same from any validation on.

python scripts/train_cnaps.py engine=torch engine.precision=bfloat16
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import hydra
import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from leep.data import READERS, load_data
from leep.engines import create_engine
from leep.errors import Missing
from leep.progress import progress
from leep.sources.preprocess import Preprocessing
from leep.sources.weights import find_weights
from leep.transfer.cnaps.adaptation import build_cnaps, save_adaptation
from leep.transfer.cnaps.episodes import MIN_WAYS
from leep.transfer.cnaps.meta_training import Pool, meta_train, pool_features, validate, whitening


def load_pool(conf, root, size: int) -> tuple[Pool, Pool, list[str]]:
    """The classes of meta-training, those of validation, and the names of all."""
    if conf.split not in ("train", "test") or conf.reader not in READERS:
        raise ValueError(f"a pool must have a split train or test, and a reader among {', '.join(READERS)}, got {conf}")
    path = conf.get("path")
    data = load_data(conf.reader, root=root, path=path, size=size if path else None)
    images, labels = getattr(data, f"{conf.split}_images"), getattr(data, f"{conf.split}_labels")
    name = f"{data.name} ({conf.split}{', ' + data.variant if data.variant != 'full' else ''})"
    if not {*conf.held_out} < {*np.unique(labels).tolist()}:
        raise ValueError(f"held_out must be some of the classes 0 to {labels.max()}, got {list(conf.held_out)}")
    held_out = np.isin(labels, list(conf.held_out))
    pools = [Pool(name, images[rows], _count_up(labels[rows]), conf.turned) for rows in (~held_out, held_out)]
    return *pools, list(data.class_names)


def _count_up(labels: np.ndarray) -> np.ndarray:
    """Labels 0, 1, 2 … in place of those that occur."""
    return np.unique(labels, return_inverse=True)[1]


@hydra.main(config_path="../conf", config_name="train_cnaps", version_base="1.3")
def main(cfg) -> None:
    """Meta-train, log every validation, and write `adaptation.npz` of the best one at the end."""
    try:
        run(cfg)
    except (Missing, ValueError, FloatingPointError) as error:
        sys.exit(f"train_cnaps: {error}")


def run(cfg) -> None:
    """As `main`; what the user can mend is raised."""
    for key in ("steps", "tasks_per_step", "max_support", "validate_every", "validation_tasks"):
        if cfg[key] < 1:
            raise ValueError(f"{key} must be at least 1, got {cfg[key]}")
    if not (isinstance(cfg.anneal, int) and 0 <= cfg.anneal <= cfg.steps):
        raise ValueError(f"anneal must be 0 to steps={cfg.steps}, got {cfg.anneal}")
    if cfg.max_ways < MIN_WAYS:
        raise ValueError(f"max_ways must be at least {MIN_WAYS}, got {cfg.max_ways}")
    if len(cfg.source) != 1:
        raise ValueError(f"source must name one source model, got {', '.join(cfg.source)}")
    ((name, source),) = cfg.source.items()
    weights = find_weights(name, source.model, source.weights)
    loaded = [load_pool(pool, cfg.data.root, cfg.size) for pool in cfg.pools]
    pools, held_out, classes = ([*parts] for parts in zip(*loaded))
    few = [pool.name for pool in (*pools, *held_out) if len(np.unique(pool.all_labels)) < MIN_WAYS]
    if few:
        raise ValueError(f"episodes have {MIN_WAYS} classes at least, too few are left in {', '.join(few)}")
    prepare = Preprocessing(cfg.size, (0.5,) * 3, (0.5,) * 3)
    engine, seed = create_engine(**cfg.engine), np.random.SeedSequence(cfg.seed, spawn_key=(0,))
    shape = source.model, source.n_classes, weights.path, source.mean, source.std, cfg.variant
    net = build_cnaps(*shape, seed)
    out = Path(cfg.out).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    of_data = [hashlib.sha256(pool.images).hexdigest() for pool in (*pools, *held_out)]
    identity = {**cfg, "source_sha256": weights.sha256, "pools_sha256": of_data}
    if not cfg.anneal:
        del identity["steps"]  # more of them go on from the checkpoint
    configuration = OmegaConf.to_yaml(identity, resolve=True)
    checkpoint, kept = out / "checkpoint.npz", out / "configuration.yaml"
    if checkpoint.exists() and not (kept.exists() and kept.read_text("utf-8") == configuration):
        raise ValueError(f"{out} is of another configuration; give another out=…, or move it away")
    kept.write_text(configuration, "utf-8")
    names = ("steps", "tasks_per_step", "learning_rate", "anneal", "max_support", "max_ways")
    names += "validate_every", "validation_tasks"
    options = {k: cfg[k] for k in names} | {"prepare": prepare, "seed": cfg.seed}
    if not checkpoint.exists():
        from leep.engines.graph import update_weights  # imports MXNet, after the engine has set its threads
        from leep.sources.zoo import load

        predict = engine.predictor(load(source.model, source.n_classes, weights.path))
        update_weights(net, whitening(*pool_features(predict, pools, Preprocessing(cfg.size, source.mean, source.std))))
    learner = engine.meta_learner(net)
    if not checkpoint.exists():
        bounds = cfg.max_support, cfg.max_ways
        start = np.mean(validate(learner, held_out, prepare, cfg.seed, cfg.validation_tasks, *bounds))
        print(f"before: accuracy on held-out classes {start:.4f}", flush=True)
    with progress(total=cfg.steps, desc="meta-training", unit=" steps", smoothing=0) as bar:

        def report(row: dict) -> None:
            bar.update(row["step"] - bar.n)
            if "validation_accuracy" in row:
                bar.write("step {step}: loss {loss:.4f}, accuracy {accuracy:.4f}, held-out {validation_accuracy:.4f}"
                          .format(**row))  # fmt: skip

        state, log = meta_train(learner, pools, held_out, checkpoint=checkpoint, report=report, **options)
    pd.DataFrame(log).astype({"step": int}).to_csv(out / "log.csv", index=False)
    arrays = {k: v for k, v in state.items() if not k.startswith(("mean:", "square:")) and k != "steps"}
    card = {
        "variant": cfg.variant,
        "source": name,
        "source_sha256": weights.sha256,
        "size": cfg.size,
        "data": " and ".join(pool.name for pool in pools),
        "classes": sorted({c for of_pool in classes for c in of_pool}),
        "seed": cfg.seed,
        "engine": f"{cfg.engine.name} {cfg.engine.precision}",
        "pools": OmegaConf.to_container(cfg.pools),
        **{k: cfg[k] for k in names},
    }
    save_adaptation(out / "adaptation.npz", arrays, card)
    print(f"{out / 'adaptation.npz'}: best held-out accuracy {max(row['validation_accuracy'] for row in log):.4f}")


if __name__ == "__main__":
    main()
