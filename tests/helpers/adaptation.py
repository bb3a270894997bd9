"""Adaptation networks of CNAPs in a file."""

from leep.sources.weights import Weights
from leep.transfer.cnaps.adaptation import find_adaptation

CARD = {
    "variant": "film",
    "source": "cifar10_resnet20",
    "source_sha256": "ab" * 32,
    "size": 32,
    "data": "fashion_mnist (train)",
    "classes": ["Coat", "aquarium_fish"],
}


def weights_of(sha256="ab" * 32, path="w.params"):
    return Weights(path, sha256, "w.params")


def find(path, sha256="ab" * 32):
    return find_adaptation("cifar10_resnet20", weights_of(sha256), str(path))
