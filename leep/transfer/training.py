"""The training loop of fine-tuning and of the reference models: SGD on the cross-entropy over a whole network."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from leep.files import write_atomically
from leep.sources.preprocess import Preprocessing

FIRST_EPOCHS = 10  # a curve holds each of them: most of the convergence is there


def train_network(
    trainer,
    start: Mapping[str, np.ndarray],
    images: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    prepare: Preprocessing,
    epochs: int,
    batch_size: int = 10,
    learning_rate: float = 0.01,
    evaluate: Callable[[], float] | None = None,
    eval_every: int = 1,
    report: Callable[[int], None] = lambda n: None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 120,
) -> list[tuple[int, float]]:
    """Train a network from given weights; the trainer holds the trained weights afterwards.

    Each epoch visits every example once, in a new order; the last batch may be short, and its gradient is the mean over
    its own examples. With the same arguments the steps are the same, whether or not they were interrupted.

    Parameters
    ----------
    trainer : GluonTrainer or TorchTrainer
        Its momenta are set to zero.
    start : mapping of str to float32 array
        Weights and running statistics by structural name.
    images : uint8 array of shape (n_images, height, width, 1 or 3)
        Of the whole data set; it may be memory-mapped.
    rows, labels : integer arrays of shape (n,)
        The training examples: rows of `images`, and their target labels in 0..n_classes−1.
    rng : numpy.random.Generator
        Source of the orders.
    prepare : Preprocessing
        From images to input of the network.
    epochs : int, at least 0
    batch_size : int, at least 1
    learning_rate : float, above 0
    evaluate : callable, optional
        Returns the test accuracy of the weights as they are; called after the epochs of `curve_epochs`.
    eval_every : int, at least 1
    report : callable
        Told how many images were trained on since it was last called, after every epoch and several times a second.
    checkpoint : Path, optional
        File that holds the state of an unfinished training: training goes on from it, and writes it anew whenever
        `checkpoint_seconds` have passed. It is not removed at the end. A damaged file is ignored.

    Returns
    -------
    curve : list of (epoch, test accuracy)
        Empty without `evaluate`.

    Raises
    ------
    ValueError
        If an argument has another shape or range.
    FloatingPointError
        If the training loss or a weight is no longer finite.

    References
    ----------
    Nguyen et al., ICML 2020, Sections 5.1 and 5.5: SGD, learning rate 0.01, batches of 10.
    """
    for name, value, least in (("epochs", epochs, 0), ("batch_size", batch_size, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    if len(labels) == 0 or rows.shape != labels.shape:
        raise ValueError(f"rows and labels must have one shape (n,), n ≥ 1, got {rows.shape} and {labels.shape}")
    n_classes = trainer.graph.n_classes
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"labels must lie in 0..{n_classes - 1}, got {labels.min()}..{labels.max()}")
    wanted = curve_epochs(epochs, eval_every) if evaluate else ()
    curve, first_epoch, first_step = [], 0, 0
    if checkpoint is not None and (saved := _read(checkpoint)) is not None:
        state, curve, first_epoch, first_step = saved
        trainer.load_state(state)
    else:
        trainer.load_state(dict(start))
        if 0 in wanted:
            curve.append((0, evaluate()))
    seed = int(copy.deepcopy(rng).integers(2**31))  # without moving rng
    steps = -(-len(labels) // batch_size)
    reported = written = time.monotonic()
    waiting = 0
    for epoch in range(epochs):
        order = rng.permutation(len(labels))
        if epoch < first_epoch:
            continue
        begin = first_step if epoch == first_epoch else 0
        for step in range(begin, steps):
            batch = order[step * batch_size : (step + 1) * batch_size]
            trainer.seed(seed, epoch, step)
            trainer.step(prepare(images[rows[batch]]), labels[batch], learning_rate)
            waiting += len(batch)
            now = time.monotonic()
            if now - reported > 0.2:
                report(waiting)
                reported, waiting = now, 0
            if checkpoint is not None and now - written > checkpoint_seconds:
                _write(checkpoint, trainer.state(), curve, epoch, step + 1)
                written = time.monotonic()
        if begin < steps and not np.isfinite(trainer.take_loss()):
            raise _diverged(f"in epoch {epoch + 1} of {epochs}", learning_rate)
        if epoch + 1 in wanted:
            curve.append((epoch + 1, evaluate()))
    report(waiting)
    if not all(np.isfinite(array).all() for array in trainer.state().values()):  # ReLU may have made 0 of NaN
        raise _diverged(f"by epoch {epochs} of {epochs}", learning_rate)
    return curve


def _diverged(when: str, learning_rate: float) -> FloatingPointError:
    return FloatingPointError(f"training diverged {when} with learning_rate={learning_rate}: lower it")


def curve_epochs(epochs: int, eval_every: int) -> set[int]:
    """The epochs of a convergence curve of `epochs` epochs: 0, the first ten, every `eval_every`-th, and the last."""
    return {e for e in range(epochs + 1) if e <= FIRST_EPOCHS or e % eval_every == 0 or e == epochs}


def steps_done(checkpoint: Path, n_examples: int, batch_size: int) -> int:
    """SGD steps that an interrupted training has behind it; 0 without a checkpoint that can be read."""
    if (saved := _read(checkpoint)) is None:
        return 0
    *_, epoch, step = saved
    return epoch * -(-n_examples // batch_size) + step


def predict_classes(trainer, images: np.ndarray, rows: np.ndarray, prepare: Preprocessing, batch: int) -> np.ndarray:
    """Classes that the trainer's network predicts.

    Parameters
    ----------
    trainer : GluonTrainer or TorchTrainer
    images : uint8 array of shape (n_images, height, width, 1 or 3)
        Of the whole data set; it may be memory-mapped.
    rows : integer array of shape (n,)
        Rows of `images`.
    prepare : Preprocessing
    batch : int
        Images of a forward pass; does not change the result beyond rounding.

    Returns
    -------
    int64 array of shape (n,)
        Class of the largest logit; of equals, the first.

    Raises
    ------
    FloatingPointError
        If a logit is not finite.
    """
    predicted = np.empty(len(rows), np.int64)
    for begin in range(0, len(rows), batch):
        logits = trainer.predict(prepare(images[rows[begin : begin + batch]]))
        if not np.isfinite(logits).all():
            raise FloatingPointError("the trained network's output is not finite: lower learning_rate")
        predicted[begin : begin + batch] = logits.argmax(1)
    return predicted


def _write(path: Path, state: Mapping[str, np.ndarray], curve: list, epoch: int, step: int) -> None:
    position = {"curve": np.array(curve, float).reshape(-1, 2), "position": np.array([epoch, step])}
    write_atomically(path, lambda f: np.savez(f, **position, **{f"state:{k}": v for k, v in state.items()}))


def _read(path: Path) -> tuple[dict[str, np.ndarray], list[tuple[int, float]], int, int] | None:
    """State, curve, epoch and step of a checkpoint; None where it is absent, cut short or altered."""
    try:
        with np.load(path) as saved:
            state = {name.removeprefix("state:"): saved[name] for name in saved.files if name.startswith("state:")}
            curve = [(int(epoch), accuracy) for epoch, accuracy in saved["curve"].tolist()]
            epoch, step = saved["position"].tolist()
            return state, curve, epoch, step
    except Exception:  # a damaged archive can raise nearly anything
        return None
