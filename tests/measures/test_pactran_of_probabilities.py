"""PACTran-Dirichlet and -Gamma: by hand, the exact evidence, the authors' values, a slow reference, rejected inputs."""

import doctest
import importlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma, gammaln

from leep.measures import _source_mixture, get_measure, measure_arguments
from leep.measures.pactran_dirichlet import pactran_dirichlet_score
from leep.measures.pactran_gamma import pactran_gamma_score

BOTH = pytest.mark.parametrize("score", [pactran_dirichlet_score, pactran_gamma_score])


def task(seed, n, n_source_classes, n_classes, concentration):
    """Probabilities that depend on the labels, and these. References are stored for them."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % n_classes
    probs = rng.dirichlet(np.full(n_source_classes, concentration), n)
    return (probs + 2 * np.eye(n_source_classes)[labels % n_source_classes]) / 3, labels


@st.composite
def awkward(draw):
    """Exact zeros, one-hot rows, source classes without mass, labels with gaps, single classes."""
    n, z = draw(st.integers(1, 10)), draw(st.integers(1, 5))
    rows = st.lists(st.sampled_from([0, 0, 1, 5, 1000]), min_size=z, max_size=z)
    weights = np.array(draw(st.lists(rows, min_size=n, max_size=n)), float)
    weights[:, 0] += weights.sum(axis=1) == 0
    labels = draw(st.lists(st.sampled_from([0, 2, 3, 900]), min_size=n, max_size=n))
    return weights / weights.sum(axis=1, keepdims=True), np.array(labels)


def slow(form, probs, labels, prior=1.0, steps=10):
    """In logarithms, an example after the other."""
    classes = sorted(set(labels.tolist()))
    before = np.array([prior * np.mean(labels == y) for y in classes])
    codes = [classes.index(y) for y in labels.tolist()]
    with np.errstate(divide="ignore"):
        log_probs = np.log(probs)
    q = probs
    for step in range(steps + 1):
        after = np.repeat(before[:, None], probs.shape[1], axis=1)
        for row, k in zip(q, codes):
            after[k] += row
        if step == steps:
            break
        logits = log_probs + digamma(after)[codes] - (digamma(after.sum(axis=0)) if form == "dirichlet" else 0)
        q = np.exp(logits - logits.max(axis=1, keepdims=True))
        q /= q.sum(axis=1, keepdims=True)
    bound = -sum(p * math.log(p / s) for p, s in zip(q.ravel(), probs.ravel()) if p > 0)
    bound += gammaln(after).sum() - probs.shape[1] * gammaln(before).sum()
    if form == "dirichlet":
        return (bound - gammaln(after.sum(axis=0)).sum() + probs.shape[1] * gammaln(prior)) / len(probs)
    return (bound - np.log(probs @ after.sum(axis=0)).sum()) / len(probs)


def test_by_hand():
    # θ = (1/2, 1/2) twice, labels 0 and 1: a₀ = 1/2 and a = 1 for each of 2 × 2, q = θ, no divergence.
    # Dirichlet: log B(1, 1) − log B(1/2, 1/2) = −log π for each source class, over two examples.
    # Gamma: log Γ(1) − log Γ(1/2) = −1/2 log π four times, λ = 2 twice, over two examples.
    probs, labels = np.full((2, 2), 0.5), [4, 7]
    assert pactran_dirichlet_score(probs, labels) == pytest.approx(-math.log(math.pi), abs=1e-14)
    assert pactran_gamma_score(probs, labels) == pytest.approx(-math.log(2 * math.pi), abs=1e-14)


def test_dirichlet_bounds_the_evidence():
    """The exact one is a sum over all assignments of source classes to examples, each of which is a Pólya urn."""
    probs, labels = task(3, 6, 3, 2, 0.5)
    before, evidence = np.full((2, 1), 1.0 / 2), 0.0
    for assigned in itertools.product(range(3), repeat=6):
        counts = np.zeros((2, 3))
        np.add.at(counts, (labels, assigned), 1)
        urn = gammaln(before + counts).sum() - 6 * gammaln(0.5) - gammaln(1 + counts.sum(axis=0)).sum()
        evidence += math.exp(urn) * np.prod(probs[np.arange(6), assigned])
    bound = 6 * pactran_dirichlet_score(probs, labels, steps=100)
    assert math.log(evidence) - 0.5 < bound < math.log(evidence)


@pytest.mark.parametrize(
    ("arguments", "dirichlet", "gamma"),
    [
        ((0, 60, 5, 3, 0.5), -0.44326369006531, -1.2539857289603407),
        ((1, 40, 20, 4, 0.3), -0.6722174506287237, -1.2820351379513033),
        ((2, 30, 6, 5, 1.0), -0.8289192713120688, -1.6292505158165407),
        ((3, 250, 1000, 5, 0.1), -0.49349966719984006, -1.0666786854565127),
    ],
)
def test_equals_the_authors_code(arguments, dirichlet, gamma):
    """With its ten steps made 500, its values × n_classes, and 1 − 1 / n_classes off those of Gamma."""
    probs, labels = task(*arguments)
    assert pactran_dirichlet_score(probs, labels, steps=500) == pytest.approx(dirichlet, abs=1e-8)
    assert pactran_gamma_score(probs, labels, steps=500) == pytest.approx(gamma, abs=1e-8)


@BOTH
@settings(deadline=None, max_examples=40)
@given(awkward(), st.sampled_from([0.1, 1.0, 3.0]), st.sampled_from([1, 10]))
def test_equals_the_slow_reference(score, example, prior, steps):
    form = score.__name__.split("_")[1]
    assert score(*example, prior=prior, steps=steps) == pytest.approx(slow(form, *example, prior, steps), abs=1e-10)


def test_a_step_never_lowers_dirichlets_bound():
    probs, labels = task(0, 60, 5, 3, 0.5)
    bounds = [pactran_dirichlet_score(probs, labels, steps=steps) for steps in (1, 2, 4, 8, 16, 64)]
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[-1]


@BOTH
def test_weights_that_underflow(score, monkeypatch):
    """A class of two examples, one of which shares no source class with the other and is spread over 900."""
    probs = np.zeros((2, 1000))
    probs[0, :100], probs[1, 100:] = 1 / 100, 1 / 900
    labels = [0, 0]
    assert score(probs, labels) == pytest.approx(slow(score.__name__.split("_")[1], probs, np.array(labels)), rel=1e-9)
    probs, labels = task(1, 40, 20, 4, 0.3)
    usual = score(probs, labels)
    monkeypatch.setattr(_source_mixture, "SMALL", np.inf)
    assert score(probs, labels) == pytest.approx(usual, abs=1e-12)


@BOTH
def test_invariances_and_arrays(score):
    probs, labels = task(1, 40, 20, 4, 0.3)
    rng, expected = np.random.default_rng(0), score(probs, labels)
    order, names, sources = rng.permutation(40), rng.permutation(30), rng.permutation(20)
    assert type(expected) is float
    assert score(probs[order], labels[order]) == pytest.approx(expected, abs=1e-12)
    assert score(probs[:, sources], names[labels]) == pytest.approx(expected, abs=1e-12)
    assert score(np.insert(probs, 3, 0.0, axis=1), labels) == pytest.approx(expected, abs=1e-12)
    narrow = np.repeat(probs.astype(np.float32), 2, axis=0)[::2]
    narrow.flags.writeable = False
    assert score(narrow, labels.astype(np.uint8)) == pytest.approx(expected, abs=1e-6)


def test_a_single_class():
    probs = task(1, 40, 20, 4, 0.3)[0]
    assert pactran_dirichlet_score(probs, np.full(40, 3)) == pytest.approx(0.0, abs=1e-14)
    # One example of one source class: a₀ = 1, a = 2, λ = 2: log Γ(2) − log Γ(1) − log 2.
    assert pactran_gamma_score([[1.0]], [3]) == pytest.approx(-math.log(2), abs=1e-14)


@BOTH
@pytest.mark.parametrize(
    ("probs", "labels", "options", "match"),
    [
        ([[0.5, 0.6]], [0], {}, "source_probs must sum to 1"),
        ([[0.5, 0.5]], [0, 1], {}, "must have as many rows"),
        ([[0.5, 0.5]], [0.5], {}, "target_labels"),
        ([[0.5, 0.5]], [0], {"prior": 0.0}, "prior must be positive"),
        ([[0.5, 0.5]], [0], {"prior": math.nan}, "prior must be positive"),
        ([[0.5, 0.5]], [0], {"steps": 0}, "steps must be an integer"),
        ([[0.5, 0.5]], [0], {"steps": 2.0}, "steps must be an integer"),
    ],
)
def test_rejects(score, probs, labels, options, match):
    with pytest.raises(ValueError, match=match):
        score(probs, labels, **options)


@pytest.mark.parametrize("name", ["pactran_dirichlet", "pactran_gamma"])
def test_is_a_measure(name):
    assert measure_arguments(name) == ("source_probs", "target_labels")
    assert get_measure(name).__name__ == f"{name}_score"
    failed, tried = doctest.testmod(importlib.import_module(f"leep.measures.{name}"))
    assert (failed, tried > 0) == (0, True)
