"""Correlations, intervals and levels against hand-computed values and scipy."""

import numpy as np
import pytest
from scipy import stats

from leep.statistics import levels, pearson


def test_pearson_by_hand():
    # x − x̄ = (−1, 0, 1), y − ȳ = (−1, 1, 0) · (1): Σxy = 1, Σx² = Σy² = 2 → r = 1/2
    found = pearson(np.array([1.0, 2, 3]), np.array([0.0, 2, 1]), n_resamples=200)
    assert found.r == pytest.approx(0.5, abs=1e-12)
    assert found.n == 3


def test_p_value_is_students():
    rng = np.random.default_rng(0)
    x = rng.standard_normal(30)
    y = x + rng.standard_normal(30)
    found = pearson(x, y)
    t = found.r * np.sqrt(28 / (1 - found.r**2))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), 28), rel=1e-9)


def test_interval_is_the_percentile_bootstrap_over_tasks():
    rng = np.random.default_rng(1)
    x = rng.standard_normal(60)
    y = 0.7 * x + rng.standard_normal(60)
    found = pearson(x, y)
    slow = stats.bootstrap(
        (x, y),
        lambda a, b: stats.pearsonr(a, b)[0],
        paired=True,
        vectorized=False,
        n_resamples=3000,
        method="percentile",
        rng=2,
    )
    assert found.low < found.r < found.high
    assert found.low == pytest.approx(slow.confidence_interval.low, abs=0.02)
    assert found.high == pytest.approx(slow.confidence_interval.high, abs=0.02)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        x = rng.standard_normal(100)
        found = pearson(x, 0.6 * x + 0.8 * rng.standard_normal(100), n_resamples=500)
        hits += found.low <= 0.6 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_same_seed_same_interval():
    x, y = np.random.default_rng(3).standard_normal((2, 50))
    assert pearson(x, y) == pearson(x, y)
    assert pearson(x, y, seed=1).low != pearson(x, y).low


@pytest.mark.parametrize("wiggle", [0, 1e-13])
def test_constant_scores_are_undefined(wiggle):
    constant = np.full(10, 4.0)
    constant[3] += wiggle  # H = C − 1 up to rounding
    found = pearson(constant, np.random.default_rng(0).random(10))
    assert (found.r, found.p_value, found.low, found.high, found.n) == (None, None, None, None, 10)


def test_rejected_input():
    with pytest.raises(ValueError, match="n_tasks ≥ 3"):
        pearson(np.ones(2), np.ones(2))
    with pytest.raises(ValueError, match=r"got \(3,\) and \(4,\)"):
        pearson(np.arange(3), np.arange(4))
    with pytest.raises(ValueError, match="finite"):
        pearson(np.array([1, 2, np.nan]), np.arange(3))


def test_levels_have_equal_width():
    scores = np.array([0.0, 0.19, 0.2, 0.5, 0.81, 1.0])
    assert levels(scores).tolist() == [1, 1, 2, 3, 5, 5]  # level 4 is empty and stays so
    assert levels(np.full(4, 2.0)).tolist() == [1, 1, 1, 1]
    assert levels(-scores).tolist() == [5, 5, 5, 3, 1, 1]
