"""Whether engines train the same models: their accuracies on the same tasks, and the gradients of the first step.

python scripts/compare_engines.py results/reference               # a table, from runs that are there
python scripts/compare_engines.py results/reference --gradients   # and first gradients on the tasks of Section 5.3
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from scipy import stats

from leep.data import load_data
from leep.engines import create_engine
from leep.results import read_runs
from leep.sources.preprocess import Preprocessing
from leep.sources.weights import find_weights
from leep.tasks import TRAINING, draw_task, task_rng

CONF = Path(__file__).parent.parent / "conf"
REFERENCE = "gluon float32"
OTHERS = (("torch", "float32"), ("torch", "bfloat16"))


def accuracy_table(runs: pd.DataFrame) -> list[str]:
    """Markdown rows: an engine against the reference on the tasks that both have, paired."""
    lines = [
        "| tasks of | engine | tasks | metric | mean in gluon | mean difference [95 %] | correlation | largest |",
        "| --- " * 8 + "|",
    ]
    key = ["experiment", "source", "target", "seed", "scale", "epochs"]
    models = runs[(runs.method == "fine_tune") & (runs.measure == "leep")]
    for (setting, _, target, *_), group in models.groupby(key):
        for engine in sorted(set(group.engine) - {REFERENCE}, reverse=True):
            for metric in ("test_accuracy", "test_f1"):
                table = group.pivot(index="task", columns="engine", values=metric)  # refuses two models of one task
                if REFERENCE not in table or table[[REFERENCE, engine]].dropna().empty:
                    continue
                a, b = table[[REFERENCE, engine]].dropna().to_numpy().T
                lines.append(
                    f"| {setting} → {target} | {engine} | {len(a)} | {metric} | {a.mean():.4f} | {paired(a, b)} |"
                )
    return lines


def paired(a: np.ndarray, b: np.ndarray) -> str:
    """Mean of b − a with Student's interval, correlation, and largest difference."""
    difference = b - a
    half = stats.t.ppf(0.975, len(a) - 1) * stats.sem(difference)
    mean, r, most = difference.mean(), np.corrcoef(a, b)[0, 1], np.abs(difference).max()
    return f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}] | {r:.4f} | {most:.3f}"


def first_gradients(n_tasks: int) -> pd.DataFrame:
    """Relative difference ‖g − g_gluon‖ / ‖g_gluon‖ of the first step's gradient, a row a task, a column an engine."""
    trainers = {engine: create_engine(*engine, threads=1) for engine in (("gluon", "float32"), *OTHERS)}
    from leep.engines.graph import get_weights  # imports MXNet, after the engines have set their threads
    from leep.sources.zoo import build, load
    from leep.transfer.fine_tune import initial_weights

    source = OmegaConf.load(CONF / "source" / "cifar10_resnet20.yaml").cifar10_resnet20
    parameters = OmegaConf.load(CONF / "experiment" / "small_imbalanced.yaml").task
    path = find_weights("cifar10_resnet20", source.model, source.weights).path
    weights = get_weights(load(source.model, source.n_classes, path))
    prepare = Preprocessing(source.size, tuple(source.mean), tuple(source.std))
    data = load_data("cifar100")
    seed = np.random.SeedSequence(0)
    trainers = {" ".join(e): t.trainer(build(source.model, 2, seed), momentum=0.9) for e, t in trainers.items()}
    rows = []
    for index in range(n_tasks):
        task = draw_task("small_imbalanced", "cifar100", index, 0, data.train_labels, data.test_labels, **parameters)
        rng = task_rng(0, "small_imbalanced", "cifar100", index, TRAINING)
        start = initial_weights(weights, trainers[REFERENCE].graph, 2, rng)
        batch = rng.permutation(len(task.train_rows))[:10]
        images = prepare(data.train_images[task.train_rows[batch]])
        gradients = {}
        for engine, trainer in trainers.items():
            trainer.load_state(start)
            trainer.step(images, task.train_labels[batch], 1e-3)
            state = trainer.state()
            momenta = [state[k].ravel() for k in sorted(state) if k.startswith("momentum:")]
            gradients[engine] = np.concatenate(momenta).astype(float)
        g = gradients.pop(REFERENCE)
        rows.append({engine: np.linalg.norm(h - g) / np.linalg.norm(g) for engine, h in gradients.items()})
    return pd.DataFrame(rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder with runs of the same experiment in several engines")
    parser.add_argument("--gradients", action="store_true", help="compute first gradients; needs torch and CIFAR-100")
    arguments = parser.parse_args()
    print("\n".join(accuracy_table(read_runs(arguments.results))))
    if arguments.gradients:
        found = first_gradients(40)
        for engine, values in found.items():
            share = (values <= 1e-4).mean()
            print(
                f"first gradient, {engine} against {REFERENCE}, {len(found)} tasks: median {values.median():.1e}, "
                f"largest {values.max():.1e}, at most 1e-4 in {share:.0%}"
            )


if __name__ == "__main__":
    main()
