"""What is known before the work: the images, the models that can run and those that cannot, the time and memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from leep.data.picture import Resize, read_image, read_pictures
from leep.errors import Invalid, LeepError
from leep.execution.processes import n_cores
from leep.models import (
    ArrayImages,
    FolderImages,
    ImageFolder,
    Model,
    StoredOutputs,
    images_to_pass,
    measure_speed,
    open_model,
    speed_before,
)
from leep.probe import N_FOLDS
from leep.progress import advance, progress

PEEK_SECONDS = 1.5  # for a look at the files; decoding finds whatever is left
BACKWARD = 4  # passes forward that take as long as a step of training: 3.3 to 7.8 on two cores, docs/ranking.md
TRIED = 10  # images of the batch on which each model is tried
HASHED = 1 << 30  # bytes of images that are hashed before the work, to see which passes are in the cache


@dataclass
class Candidate:
    """A model that was tried: what it is and costs, or why it cannot run.

    Attributes
    ----------
    spec, name : str
    model : Model or StoredOutputs, or None
        Without its network, because not all of them fit into memory; None once it has failed.
    reason : str
        Why it is not ranked; empty for one that is.
    to_pass : int
        Images that are not in the cache.
    images_per_second : float or None
        As tried, or of the pass that is in the cache.
    """

    spec: str
    name: str
    model: Model | StoredOutputs | None = None
    reason: str = ""
    to_pass: int = 0
    images_per_second: float | None = None

    def fail(self, reason: str) -> None:
        """Cost this model its row."""
        self.model, self.reason = None, reason

    def seconds(self, folder: ImageFolder) -> float:
        """Of its pass and its heads."""
        if self.model is None:
            return 0.0
        heads = head_seconds(len(folder), self.model.n_features, len(folder.class_names))
        return heads + (self.to_pass / self.images_per_second if self.images_per_second else 0.0)

    def training_seconds(self, n: int, epochs: int = 1) -> float | None:
        """Of fine-tuning on `n` images; None where the speed is not known."""
        return BACKWARD * epochs * n / self.images_per_second if self.images_per_second else None

    def n_bytes(self, folder: ImageFolder) -> int:
        """Memory of its weights and of the heads' copies of its features."""
        if self.model is None:
            return 0
        return 2 * (self.model.weight_bytes or 0) + 5 * 8 * len(folder) * self.model.n_features


def head_seconds(n: int, n_features: int, n_classes: int) -> float:
    """Expected time of a model's cross-validated heads, those of the curve included, and of its measures.

    The constants are of two cores; `docs/ranking.md` compares them with measured times. Folds run side by side.
    """
    rank = min(n, n_features)
    heads = 1.45e-7 * n * rank * n_classes + 4.5e-7 * n * n_features
    resamples_of_h = 2e-9 * n * n_features**2 if n > n_features else 0.0
    return (heads + resamples_of_h) * 2 / min(n_cores(), N_FOLDS) + 2e-4 * n


def describe_images(folder: ImageFolder) -> str:
    """Images, classes and the smallest class, in one line."""
    counts = folder.counts
    present = np.flatnonzero(counts)
    least = present[counts[present].argmin()]
    same = " in each class" if counts[present].min() == counts[present].max() else ""
    smallest = (
        f"{counts[least]:,}{same}" if same else f"the smallest, {folder.class_names[least]}, has {counts[least]:,}"
    )
    merged = f" ({', '.join(folder.splits)} taken together)" if folder.splits else ""
    return f"{len(folder):,} images of {len(present):,} classes{merged}; {smallest}"


def take_at_most(folder: ImageFolder, most: int | None, seed: int) -> ImageFolder:
    """A random part of the images with the same shares of the classes, each class at least two of its images."""
    if most is None or len(folder) <= most:
        return folder
    counts = folder.counts
    if most < 2 * len(counts):
        raise Invalid(f"--max-images must be at least {2 * len(counts)}, two for each class, got {most}")
    wanted = np.minimum(counts, np.maximum(2, np.floor(counts * most / len(folder)).astype(int)))
    while wanted.sum() > most:
        wanted[wanted.argmax()] -= 1
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(np.flatnonzero(folder.labels == k))[:n] for k, n in enumerate(wanted)]
    return folder.take(np.sort(np.concatenate(rows)))


def look_for_damage(folder: ImageFolder, seconds: float = PEEK_SECONDS) -> dict[str, str]:
    """What is wrong with each damaged file, if a look at the headers for so many seconds finds one; else nothing.

    One is enough to read all files to their end, because whoever mends them wants to know all of them.
    """
    end = time.monotonic() + seconds

    def looks_damaged(path: Path) -> bool:
        try:
            if time.monotonic() < end:
                with Image.open(path) as image:
                    image.verify()
        except Exception:  # a damaged image can raise nearly anything
            return True
        return False

    with ThreadPoolExecutor() as pool:
        if not any(pool.map(looks_damaged, folder.paths)):
            return {}
    with progress(total=len(folder), desc="looking for damaged files", unit=" images") as bar:
        damaged = {}
        for name, picture in zip(folder.files, read_pictures(folder.paths, Resize(32))):
            if isinstance(picture, Invalid):
                damaged[name] = str(picture)
            advance(bar, 1)
    return damaged


def try_models(
    specs: Sequence[str], folder: ImageFolder, cache: Path, say: Callable[[str], None], **options
) -> list[Candidate]:
    """Open each model, try it on one batch of the images, and let it go; one that fails costs only its own row.

    Parameters
    ----------
    specs : sequence of str
    folder : ImageFolder
    cache : Path
    say : callable
        Gets a line for each model.
    **options
        Of `open_model`.
    """
    known = sum((folder.path / f).stat().st_size for f in folder.files) <= HASHED
    images = FolderImages(folder, {}, np.arange(len(folder)), {}, ()) if known else None
    candidates, names = [], set()
    width = max(map(len, specs))
    for spec in specs:
        candidate = Candidate(spec, spec)
        candidates.append(candidate)
        try:
            model = open_model(spec, **options)
            candidate.name = spec if model.name in names else model.name
            names.add(candidate.name)
            if isinstance(model, Model):
                candidate.to_pass = images_to_pass(model, images, cache=cache) if images else len(folder)
                before = speed_before(model, images, cache=cache) if images and not candidate.to_pass else None
                candidate.images_per_second = _try(model, folder) if candidate.to_pass else before
                model = model.without_network()
            elif len(model.of_images(folder.files).features) != len(folder):
                raise Invalid(
                    f"has outputs of {len(model.features):,} images, and there are {len(folder):,}; save the files of "
                    "the rows as an array files, and those of these images are taken"
                )
            candidate.model = model
        except LeepError as error:
            candidate.name = spec
            candidate.fail(str(error).removeprefix(f"{spec}: "))
        except Exception as error:  # whatever a model's library raises must not cost the others
            candidate.name = spec
            candidate.fail(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        model = None
        gc.collect()  # a network may hang in cycles
        say(f"  {spec:<{width}}  {_describe(candidate, folder)}")
    for note, names in _notes(candidates).items():
        say(f"note on {names[0] if len(names) == 1 else f'{len(names)} models'}: {note}")
    return candidates


def _notes(candidates: Iterable[Candidate]) -> dict[str, list[str]]:
    """The models that each note is about."""
    notes: dict[str, list[str]] = {}
    for candidate in candidates:
        for note in candidate.model.notes if candidate.model else ():
            notes.setdefault(note, []).append(candidate.spec)
    return notes


def _try(model: Model, folder: ImageFolder) -> float:
    """Images a second on a batch of the images themselves."""
    pictures = []
    for row in np.linspace(0, len(folder) - 1, min(TRIED, len(folder))).astype(int):
        try:
            pictures.append(read_image(folder.path / folder.files[row], model.resize))
        except Invalid:
            continue
    if not pictures:
        pictures = [np.zeros((model.size, model.size, 3), np.uint8)]
    batch = ArrayImages(np.stack(pictures), np.zeros(len(pictures), np.int64), ("",))
    return measure_speed(model, batch, seconds=0.1)


def _describe(candidate: Candidate, folder: ImageFolder) -> str:
    model = candidate.model
    if model is None:
        return f"cannot run: {candidate.reason}"
    parts = [f"{model.n_features:,} features"]
    if model.n_classes is None:
        parts.append(f"no probabilities: {model.no_probs}")
    if model.parameters:
        parts.insert(0, f"{model.parameters / 1e6:.1f} M parameters")
    if candidate.images_per_second:
        parts.append(f"{candidate.images_per_second:.3g} images/s")
    if isinstance(model, Model) and not candidate.to_pass:
        parts.append("computed before")
    elif candidate.to_pass < len(folder) and isinstance(model, Model):
        parts.append(f"{len(folder) - candidate.to_pass:,} images computed before")
    return ", ".join(parts)


def keep_within(candidates: Iterable[Candidate], folder: ImageFolder, budget: float | None) -> None:
    """Leave out the slowest models until the rest is expected to take no longer than the budget, in seconds."""
    left = [c for c in candidates if c.model]
    while budget is not None and len(left) > 1 and sum(c.seconds(folder) for c in left) > budget:
        slowest = max(left, key=lambda c: c.seconds(folder))
        left.remove(slowest)
        slowest.fail(f"not tried: would take {duration(slowest.seconds(folder))}, more than --budget leaves")


def duration(seconds: float) -> str:
    """A time as a person says it: `40 s`, `3 min`, `2.5 h`.

    >>> duration(0.2), duration(75), duration(9000)
    ('under 1 s', '1.2 min', '2.5 h')
    """
    if seconds < 1:
        return "under 1 s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.2g} min" if seconds < 5940 else f"{seconds / 3600:.1f} h"


def read_duration(text: str) -> float:
    """Seconds of `90`, `90s`, `10m` or `2h`; `ValueError` for anything else."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        amount = float(number)
    except ValueError:
        amount = 0.0
    if not 0 < amount < float("inf"):
        raise ValueError(f"a duration must be like 90s, 10m or 2h, got {text!r}")
    return amount * units[unit]
