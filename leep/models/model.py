"""What a model is: a function from images to features and probabilities, with all that its use needs."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from leep.data.picture import Resize
from leep.errors import Invalid, Missing, suggest
from leep.measures._check import as_array
from leep.sources.preprocess import normalise

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OUTPUTS = ("logits", "probabilities", "either", "none")
_NOT_PROBABILITIES = 1e-3  # by which the sum of a row may differ from 1


@dataclass(frozen=True)
class Guess:
    """Preprocessing that nobody said: what was taken, and what to write where if the network had another."""

    what: str
    remedy: str

    @classmethod
    def of_file(cls, what: str, file: Path) -> Guess:
        """Of a model in a file, which `leep.models.settings.read_settings` reads a JSON file beside."""
        card = file.with_suffix(".json").name
        return cls(what, f'write {{"mean": 0.5, "std": 0.5}}, or what it had, into {card} beside {file.name}')


class Model:
    """A source model: images → features and probabilities.

    Making one tries it on two pictures of noise, because what cannot run must be known before the work begins.

    Parameters
    ----------
    name : str
        Stands in messages and tables.
    run : callable
        float32 `(n, 3, size, size)`, RGB, normalised → `(features, outputs)`: `(n, d)`, or `(n, …)` whose axes in the
        middle are flattened, and `(n, k)` or None.
    size : int, optional
        Pixels, where `resize` is not given.
    resize : Resize, optional
    mean, std : sequence of three floats
        The pixels, in [0, 1], less `mean`, are divided by `std`.
    outputs : {"logits", "probabilities", "either", "none"}
        What `run` gives second. `either`: non-negative rows that sum to 1 are probabilities, others are logits.
        `none`: the model has no classifier.
    class_names : sequence of str, optional
        Of its own classes.
    parameters : int, optional
        How many.
    weight_bytes : int, optional
        Memory that they take.
    sha256 : str
        Of the weights and the code, for the cache.
    notes : sequence of str
        What a user must know.
    guess : Guess, optional
        If the preprocessing was guessed; it is one of the notes, too.
    device : str

    Attributes
    ----------
    n_features : int
    n_classes : int or None
        None without a classifier; then `no_probs` says why.
    trainable : bool
        Whether `run` has a method `trainer`, which `leep.models.fine_tune` describes.

    Raises
    ------
    Invalid
        If the trial fails, or gives other shapes, NaN or infinity.

    Examples
    --------
    >>> mean_colour = lambda x: (x.mean((2, 3)), x.mean((2, 3)))
    >>> model = Model("mean colour", mean_colour, size=8, sha256="1")
    >>> features, probs = model(np.zeros((5, 3, 8, 8), np.float32))
    >>> features.shape, probs.sum(1)
    ((5, 3), array([1., 1., 1., 1., 1.], dtype=float32))
    """

    def __init__(
        self,
        name: str,
        run: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]],
        *,
        size: int = 224,
        resize: Resize | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        outputs: str = "logits",
        no_probs: str = "it has no classifier",
        class_names: Sequence[str] | None = None,
        parameters: int | None = None,
        weight_bytes: int | None = None,
        sha256: str = "",
        notes: Iterable[str] = (),
        guess: Guess | None = None,
        device: str = "cpu",
    ):
        if outputs not in _OUTPUTS:
            raise ValueError(f"outputs must be one of {', '.join(_OUTPUTS)}, got {outputs!r}")
        self.name, self.run, self.device = name, run, device
        self.resize = resize or Resize(size)
        self.mean, self.std = tuple(map(float, mean)), tuple(map(float, std))
        self.parameters, self.weight_bytes, self.notes = parameters, weight_bytes, tuple(notes)
        self.guess = guess
        self.notes += (f"preprocessing guessed: {guess.what}",) if guess else ()
        self.sha256 = sha256
        self.outputs = outputs
        self.trainable = hasattr(run, "trainer")
        self.n_features = self.n_classes = self.class_names = None
        noise = np.random.default_rng(0).integers(0, 256, (2, self.size, self.size, 3), dtype=np.uint8)
        features, probs = self(self.prepare(noise))
        self.n_features = features.shape[1]
        self.n_classes = None if probs is None else probs.shape[1]
        self.no_probs = no_probs if probs is None else ""
        self.class_names = self._check_names(class_names)

    @property
    def size(self) -> int:
        """Pixels of a side of its input."""
        return self.resize.size

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 `(n, size, size, 3)` → the model's input, float32 `(n, 3, size, size)`."""
        return normalise(images, self.mean, self.std)

    def __call__(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """float32 `(n, 3, size, size)` → features `(n, d)` and probabilities `(n, k)` or None, float32.

        Raises
        ------
        Invalid
            If they have another shape, are NaN or infinite, or the probabilities do not sum to 1.
        """
        features, outputs = self.run(batch)
        features = self._check(features, "features", len(batch))
        if self.outputs == "none" or outputs is None:
            return features, None
        outputs = self._check(outputs, "outputs", len(batch))
        if outputs.shape[1] < 2:
            raise Invalid("it has one output an image: a classifier has two or more")
        if self.outputs == "either":
            self.outputs = "probabilities" if _are_probabilities(outputs) else "logits"
        if self.outputs == "logits":
            return features, softmax(outputs)
        if not _are_probabilities(outputs):
            sums = outputs.sum(1)
            raise Invalid(
                f"its probabilities must be ≥ 0 and sum to 1, got {outputs.min():g} and sums to {sums.max():g}"
            )
        return features, outputs

    def without_network(self) -> Model:
        """All that is known of it, but not `run`, which holds nearly all of the memory: it cannot be called."""
        kept = copy.copy(self)
        del kept.run
        return kept

    def describe(self) -> dict:
        """The values that determine what it gives for an image, for the cache."""
        values = {"resize": asdict(self.resize), "mean": self.mean, "std": self.std, "outputs": self.outputs}
        return {"model": self.sha256, "device": self.device.partition(":")[0], **values}

    def _check(self, array: np.ndarray, what: str, n: int) -> np.ndarray:
        array = as_array(f"its {what}", array).astype(np.float32, copy=False)
        if array.ndim < 2 or len(array) != n:
            raise Invalid(f"its {what} have the shape {array.shape} for {n} images, expected ({n}, …)")
        if what == "outputs" and (array.ndim > 2 and max(array.shape[2:]) > 1):
            raise Invalid(f"its outputs have the shape {array.shape}, no classifier's (images, classes)")
        array = array.reshape(n, -1)
        if not np.isfinite(array).all():
            bad = np.flatnonzero(~np.isfinite(array).all(1))
            raise Invalid(f"its {what} are NaN or infinite for {len(bad)} of {n} images")
        return array

    def _check_names(self, names: Sequence[str] | None) -> tuple[str, ...] | None:
        """The names of its classes; ImageNet's where it has as many as ImageNet and none are given."""
        if self.n_classes is None:
            return None
        if names is not None and len(names) != self.n_classes:
            raise Invalid(f"it has {self.n_classes} classes, and {len(names)} names of classes are given")
        if names is None and self.n_classes in (1000, 1001):
            names = ["background"] * (self.n_classes - 1000) + list(imagenet_classes())
            self.notes += (f"its {self.n_classes} classes are taken for ImageNet's",)
        return None if names is None else tuple(map(str, names))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Rows of probabilities, float32."""
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return exp / exp.sum(1, keepdims=True)


def _are_probabilities(rows: np.ndarray) -> bool:
    return bool(rows.min() >= 0 and np.abs(rows.sum(1) - 1).max() < _NOT_PROBABILITIES)


def imagenet_classes() -> tuple[str, ...]:
    """Short names of ImageNet's 1,000 classes, in the order of ILSVRC."""
    return tuple(Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines())


def digest(*parts: object) -> str:
    """SHA-256 of texts and bytes, hexadecimal."""
    total = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        total.update(b"%d:" % len(data) + data)
    return total.hexdigest()


def check_is_file(path: Path) -> None:
    """`Missing` if it is none, with the files of its folder that have nearly its name."""
    if path.is_dir():
        raise Missing(f"{path}: a folder, expected a file")
    if not path.is_file():
        near = suggest(path.name, (p.name for p in path.parent.glob(f"*{path.suffix}")))
        raise Missing(f"{path}: no such file{near}")
