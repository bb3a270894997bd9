"""Results as the runners write them, and how to compare them."""

import math
from pathlib import Path

import numpy as np
import pandas as pd

from leep.results import Table, open_folder

COLUMNS = ["task", "measure", "score"]


def table(path):
    return Table(path, COLUMNS, ["task", "measure"])


def fill(path, n=5):
    with table(path) as t:
        for i in range(n):
            if (str(i), "leep") not in t.done:
                t.append({"task": i, "measure": "leep", "score": -math.sqrt(i + 2)})
    return path.read_bytes()


def csvs(results: Path) -> dict[str, bytes]:
    """Every CSV under a results folder by its relative path."""
    return {str(p.relative_to(results)): p.read_bytes() for p in sorted(results.rglob("*.csv"))}


SCORES = ["task", "n_classes", "n_examples", "measure", "score"]


TRANSFERS = ["task", "n_classes", "n_examples", "method", "test_accuracy", "test_f1", "test_f1_macro"]


def write_run(
    root,
    experiment,
    scale="paper",
    seed=0,
    n=30,
    deviations=(),
    source="cifar10_resnet20",
    target="fashion_mnist",
    slope=2.0,
    asked=None,
    method="retrain_head",
    classes=(4,),
    weights="bundled",
    stream=False,
    further=None,
    sets=None,
):
    """A run in which accuracy is `slope` × LEEP + noise, NCE is noise, and the H score is constant.

    It may have a further measure, also noise. `sets` are the classes of its tasks, again and again.
    """
    rng = np.random.default_rng([n, seed])
    leep, nce, noise = rng.standard_normal((3, n))
    folder = root / experiment / source / target / f"seed{seed}-{scale}{len(deviations)}{weights}{stream}"
    outer = {
        "experiment": experiment,
        "seed": seed,
        "source": {"name": source, "trained_on": "ImageNet" if source.startswith("imagenet") else "CIFAR10"},
        "target": {"name": target},
        "engine": {"name": "gluon", "precision": "float32"},
    }
    outer["source"] |= {"weights": weights, "model": "a_network"}
    outer["source"]["preprocessing"] = {"size": 32, "mean": [0.5] * 3, "std": [0.2] * 3, "resize": "bilinear"}
    outer |= {"stream": f"{experiment}/{target}"} if stream else {}
    open_folder(folder, outer, {"deviations": list(deviations)}, {})
    inner = folder / f"{method}-{scale}"
    open_folder(inner, {"scale": scale, "epochs": 50}, {"deviations": [], "n_tasks": asked or n}, {})
    accuracy = 0.5 + 0.1 * (slope * leep + noise)
    common = [{"n_classes": classes[i % len(classes)], "n_examples": 120} for i in range(n)]
    with Table(folder / "scores.csv", SCORES, ["task", "measure"]) as t:
        for i in range(n) if not t.done else ():
            scores = {"leep": leep[i], "nce": nce[i], "h_score": 3.0} | ({further: nce[i] ** 2} if further else {})
            for measure, score in scores.items():
                t.append({"task": i, **common[i], "measure": measure, "score": float(score)})
    if sets:
        with Table(folder / "tasks.csv", ["task", "classes"], ["task"]) as t:
            t.append(*({"task": i, "classes": sets[i % len(sets)]} for i in range(n)))
    with Table(inner / "transfers.csv", TRANSFERS, ["task"]) as t:
        for i in range(n):
            f1 = float(1 - accuracy[i]) if experiment == "small_imbalanced" else None
            row = {"task": i, **common[i], "method": method, "test_accuracy": float(accuracy[i])}
            t.append({**row, "test_f1": f1, "test_f1_macro": 0.5})
    return leep, accuracy


def write_convergence(root, target="cifar100", reference=True, scale="paper", asked=None):
    """Models 0.05 better than their reference; on the curves' examples 0.1 better than on all, at first 0.2 worse."""
    for method in ("fine_tune", *(["from_scratch"] if reference else [])):
        write_run(root, "small_balanced", target=target, method=method, scale=scale, asked=asked)
    for path in root.glob(f"*/*/{target}/*/from_scratch-{scale}/transfers.csv"):
        table = pd.read_csv(path)
        table.assign(test_accuracy=table.test_accuracy - 0.05).to_csv(path, index=False)
    (tuned,) = root.glob(f"*/*/{target}/seed0-{scale}0*/fine_tune-{scale}")
    accuracies = pd.read_csv(tuned / "transfers.csv").test_accuracy
    with Table(tuned / "curves.csv", ["task", "epoch", "test_accuracy"], ["task", "epoch"]) as t:
        for i, accuracy in enumerate(accuracies):
            t.append({"task": i, "epoch": 0, "test_accuracy": accuracy - 0.2 - 0.01 * i})
            t.append({"task": i, "epoch": 40, "test_accuracy": accuracy + 0.1})
