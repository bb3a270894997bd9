"""What the paper leaves open, and what is done here, as the configuration has it."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from experiments.figures import FIGURES

_CONF = Path(__file__).resolve().parent.parent / "conf"


def _load(group: str, name: str) -> DictConfig:
    return OmegaConf.load(_CONF / group / f"{name}.yaml")


def choices() -> list[tuple[str, str, str]]:
    """What is open, what is done, and where it is set."""
    cifar, imagenet = (_load("source", name)[name] for name in ("cifar10_resnet20", "imagenet_resnet18"))
    small, meta, selection = (
        _load("experiment", name) for name in ("small_balanced", "meta_transfer", "source_selection")
    )
    methods = [_load("method", name)[name] for name in ("retrain_head", "fine_tune", "from_scratch")]
    sgd = {key: ", ".join(dict.fromkeys(f"{m[key]:g}" for m in methods)) for key in ("momentum", "weight_decay")}
    fashion, context = small.epochs_of.fashion_mnist, meta.task.n_classes * meta.task.per_class
    return [
        (
            "Input size for ImageNet models",
            f"the whole image resized (bilinear) to {imagenet.size} pixels, no crop",
            "source.….size",
        ),
        (
            "Normalisation of target images",
            f"the source's own mean and standard deviation, {_numbers(imagenet.mean)} and {_numbers(imagenet.std)} "
            f"for ImageNet, {_numbers(cifar.mean)} and {_numbers(cifar.std)} for CIFAR10",
            "source.….mean, std",
        ),
        (
            "FashionMNIST for a colour model",
            f"the channel three times (as the paper), resized from 28 to {cifar.size} pixels",
            "source.….size",
        ),
        ("ResNet18, ResNet20", f"GluonCV's {imagenet.model} and {cifar.model}", "source.….model"),
        ("Momentum, weight decay", f"{sgd['momentum']} and {sgd['weight_decay']}", "method.….momentum, weight_decay"),
        ("Learning rate schedule, augmentation", "constant, none", "code"),
        ("Initialisation of a new head", "Xavier uniform, zero bias", "code"),
        ("Batch normalisation", "re-train head: inference mode; fine-tune: training mode", "code"),
        (
            "Epochs, small and balanced",
            f"re-train head {small.epochs.retrain_head} (as the paper); fine-tune {small.epochs.fine_tune} on "
            f"CIFAR100, {fashion.fine_tune} on FashionMNIST, as the paper's reference models",
            "epochs, epochs_of",
        ),
        ("Epochs, source selection", f"{selection.epochs.retrain_head}, as in Section 5.1", "epochs"),
        (
            "F1 of imbalanced tasks",
            "of the smaller class over all test examples of both classes; macro-F1 stands beside it in the CSVs",
            "code",
        ),
        (
            "Transferability levels",
            f"{FIGURES['figure6'].n_levels} bins of equal width over the range of scores of the tasks shown, "
            f"{FIGURES['figure8'].n_levels} in Figure 8; an empty bin stays empty",
            "code",
        ),
        (
            "Convergence curves",
            "test accuracy less the reference model's final one, after epoch 0, each of the first ten and every "
            f"{small.eval_every.fine_tune}th, on at most 100 test examples of a class, shifted to end at the accuracy "
            "on all",
            "eval_every",
        ),
        (
            "Scores of Section 5.4",
            f"of the source model as it was trained, not adapted, on the {context} context images",
            "task",
        ),
        ("H score in Section 5.1", "raw: not divided by the number of classes less one", "code"),
    ]


def _numbers(values) -> str:
    return " ".join(f"{v:.3f}" for v in values)
