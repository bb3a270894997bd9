"""Meta-trained adaptation networks: kept beside a card that says what they were trained for and on, and put to use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leep.errors import Invalid, Missing
from leep.files import check_unzipped, file_digest, short, write_atomically
from leep.sources.weights import Weights

if TYPE_CHECKING:
    from leep.transfer.cnaps.network import Cnaps

BUNDLED = Path(__file__).parent / "weights"
_CARD = ("variant", "source", "source_sha256", "size", "data", "classes")


@dataclass(frozen=True)
class Adaptation:
    """Weights of the adaptation networks and their card.

    Attributes
    ----------
    arrays : dict of str to float32 array
        By structural name in `Cnaps`, without the source's.
    card : dict
        `variant`, `source` and `source_sha256` they were meta-trained for, `size` of the images in pixels, `data` they
        were trained on, and `classes`, the names of all classes that occurred, validation included.
    sha256 : str
        Of the file.
    """

    arrays: dict[str, np.ndarray]
    card: dict
    sha256: str


def save_adaptation(path: Path, arrays: dict[str, np.ndarray], card: dict) -> None:
    """Write the learned weights and their card into one `.npz` file."""
    write_atomically(path, lambda f: np.savez_compressed(f, card=json.dumps(card), **arrays))


def find_adaptation(source: str, weights: Weights, place: str) -> Adaptation:
    """The adaptation networks for a source model.

    Parameters
    ----------
    source : str
        Its name.
    weights : Weights
        Those of the source: networks that were meta-trained for others do not fit.
    place : str
        `bundled`, or the path of an `.npz` file.

    Raises
    ------
    Missing
        If there are none.
    Invalid
        If the file is damaged, or made for other weights of the source.
    """
    path = BUNDLED / f"{source}.npz" if place == "bundled" else Path(place).expanduser()
    if not path.is_file():
        raise Missing(
            f"adaptation networks for {source} are not in {short(path)} (the wheel has none, a checkout has some): "
            f"python scripts/train_cnaps.py 'source=[{source}]', then method.cnaps.weights=FILE"
        )
    try:
        with np.load(path) as saved:
            check_unzipped(path.name, sum(entry.file_size for entry in saved.zip.infolist()))
            arrays = {name: saved[name] for name in saved.files}
        card = json.loads(str(arrays.pop("card")))
        missing = [key for key in _CARD if not card.get(key)]
    except Exception as error:  # a damaged archive can raise nearly anything
        raise Invalid(f"{short(path)} is no file of adaptation networks: {error}") from error
    if missing:
        raise Invalid(f"{short(path)} has a card without {', '.join(missing)}")
    if card["source_sha256"] != weights.sha256:
        raise Invalid(
            f"{short(path)} was meta-trained for {card['source']} with other weights than those found for {source}; "
            f"meta-train it for these: python scripts/train_cnaps.py 'source=[{source}]'"
        )
    return Adaptation(arrays, card, file_digest(path))


def build_cnaps(
    model: str,
    n_classes: int,
    weights: Path,
    mean: Sequence[float],
    std: Sequence[float],
    variant: str,
    seed: np.random.SeedSequence,
) -> Cnaps:
    """A `Cnaps` network on a source with its weights, the rest drawn from `seed`."""
    from leep.sources.zoo import initialize, load  # imports MXNet, after the engine has set its threads
    from leep.transfer.cnaps.network import Cnaps

    net = Cnaps(load(model, n_classes, weights), mean, std, variant)
    initialize([p for name, p in net._collect_params_with_prefix().items() if not name.startswith("source.")], seed)
    return net


def put_adaptation(net: Cnaps, arrays: dict[str, np.ndarray]) -> None:
    """Write the learned weights into a network.

    Raises
    ------
    Invalid
        If names are missing or left over, or shapes differ; all are listed.
    """
    from leep.engines.graph import update_weights

    shapes = {n: p.shape for n, p in net._collect_params_with_prefix().items() if p.grad_req != "null"}
    wrong = sorted(n for n in {*shapes, *arrays} if n not in arrays or shapes.get(n) != arrays[n].shape)
    if wrong:
        raise Invalid(f"the adaptation networks do not fit their card's variant: {', '.join(wrong)}")
    update_weights(net, arrays)
