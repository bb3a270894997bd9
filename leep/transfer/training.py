"""The training loop of fine-tuning and of the reference models: SGD on the cross-entropy over a whole network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from leep.files import write_atomically
from leep.sources.preprocess import Preprocessing

FIRST_EPOCHS = 10  # a curve holds each of them: most of the convergence is there
_BATCH = 100  # images of a forward pass: fastest where the activations stay in the processor's cache


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
        `checkpoint_seconds` have passed. It is not removed at the end.

    Returns
    -------
    curve : list of (epoch, test accuracy)
        Empty without `evaluate`.

    Raises
    ------
    FloatingPointError
        If the training loss or a weight is no longer finite.

    References
    ----------
    Nguyen et al., ICML 2020, Sections 5.1 and 5.5: SGD, learning rate 0.01, batches of 10.
    """
    wanted = curve_epochs(epochs, eval_every) if evaluate else ()
    curve, first_epoch, first_step = [], 0, 0
    if checkpoint is not None and checkpoint.exists():
        state, curve, first_epoch, first_step = _read(checkpoint)
        trainer.load_state(state)
    else:
        trainer.load_state(dict(start))
        if 0 in wanted:
            curve.append((0, evaluate()))
    steps = -(-len(labels) // batch_size)
    reported = saved = time.monotonic()
    waiting = 0
    for epoch in range(epochs):
        order = rng.permutation(len(labels))
        for step in range(steps):
            if (epoch, step) < (first_epoch, first_step):
                continue
            batch = order[step * batch_size : (step + 1) * batch_size]
            trainer.step(prepare(images[rows[batch]]), labels[batch], learning_rate)
            waiting += len(batch)
            now = time.monotonic()
            if now - reported > 0.2:
                report(waiting)
                reported, waiting = now, 0
            if checkpoint is not None and now - saved > checkpoint_seconds:
                _write(checkpoint, trainer.state(), curve, epoch, step + 1)
                saved = time.monotonic()
        if epoch < first_epoch:
            continue
        loss = trainer.take_loss() if (epoch, steps) != (first_epoch, first_step) else 0  # a checkpoint at epoch's end
        if not (np.isfinite(loss) and _is_finite(trainer.state())):
            raise FloatingPointError(
                f"training diverged in epoch {epoch + 1} of {epochs} with learning_rate={learning_rate}: lower it"
            )
        if epoch + 1 in wanted and (not curve or curve[-1][0] <= epoch):
            curve.append((epoch + 1, evaluate()))
    report(waiting)
    return curve


def curve_epochs(epochs: int, eval_every: int) -> set[int]:
    """The epochs of a convergence curve: 0, the first ten, every `eval_every`-th, and the last."""
    return {e for e in range(epochs + 1) if e <= FIRST_EPOCHS or e % eval_every == 0 or e == epochs}


def predict_classes(trainer, images: np.ndarray, rows: np.ndarray, prepare: Preprocessing) -> np.ndarray:
    """Class of the largest logit of each of `rows` of uint8 `images`, `(n,)` int64.

    Raises
    ------
    FloatingPointError
        If a logit is not finite.
    """
    predicted = np.empty(len(rows), np.int64)
    for begin in range(0, len(rows), _BATCH):
        logits = trainer.predict(prepare(images[rows[begin : begin + _BATCH]]))
        if not np.isfinite(logits).all():
            raise FloatingPointError("the trained network's output is not finite: lower learning_rate")
        predicted[begin : begin + _BATCH] = logits.argmax(1)
    return predicted


def _is_finite(state: Mapping[str, np.ndarray]) -> bool:
    return all(np.isfinite(array).all() for array in state.values())  # the loss may be finite: ReLU makes 0 of NaN


def _write(path: Path, state: Mapping[str, np.ndarray], curve: list, epoch: int, step: int) -> None:
    position = {"curve": np.array(curve, float).reshape(-1, 2), "position": np.array([epoch, step])}
    write_atomically(path, lambda f: np.savez(f, **position, **{f"state:{k}": v for k, v in state.items()}))


def _read(path: Path) -> tuple[dict[str, np.ndarray], list[tuple[int, float]], int, int]:
    with np.load(path) as saved:
        state = {name.removeprefix("state:"): saved[name] for name in saved.files if name.startswith("state:")}
        curve = [(int(epoch), accuracy) for epoch, accuracy in saved["curve"].tolist()]
        return state, curve, *saved["position"].tolist()
