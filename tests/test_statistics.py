"""Correlations, intervals and levels against hand-computed values and scipy."""

import numpy as np
import pytest
from scipy import stats

from leep.statistics import compare_independent, levels, paired_difference, partial_pearson, pearson, weighted_kendall


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
    resamples = np.random.default_rng(2).integers(0, 60, (3000, 60))
    low, high = np.percentile([np.corrcoef(x[rows], y[rows])[0, 1] for rows in resamples], [2.5, 97.5])
    assert found.low < found.r < found.high
    assert found.low == pytest.approx(low, abs=0.02)
    assert found.high == pytest.approx(high, abs=0.02)


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


def made_up(n=80, seed=4):
    """Scores and accuracies that both fall with the number of classes, and scores of another measure."""
    rng = np.random.default_rng(seed)
    given, noise, other, score = rng.standard_normal((4, n))
    return given + score, 2 * given + score + noise, given, given + other


def test_partial_correlation_by_hand():
    # r_xy = 1/2, r_xz = −1/2, r_yz = 1/2 … by the formula (r_xy − r_xz r_yz) / √((1 − r_xz²)(1 − r_yz²))
    x, y, z = np.array([1.0, -1, 0, 0]), np.array([1.0, 0, -1, 0]), np.array([0.0, 1, -1, 0])
    assert np.allclose([pearson(a, b, 10).r for a, b in ((x, y), (x, z), (y, z))], [0.5, -0.5, 0.5])
    assert partial_pearson(x, y, z, n_resamples=10).r == pytest.approx((0.5 + 0.25) / 0.75, abs=1e-12)


def test_partial_correlation_is_that_of_the_residuals():
    x, y, z, _ = made_up()
    residuals = [v - np.polyval(np.polyfit(z, v, 1), z) for v in (x, y)]
    found = partial_pearson(x, y, z)
    assert found.r == pytest.approx(stats.pearsonr(*residuals).statistic, abs=1e-12)
    t = found.r * np.sqrt((len(x) - 3) / (1 - found.r**2))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(t), len(x) - 3), rel=1e-9)
    assert found.low < found.r < found.high < pearson(x, y).r and found.n == 80


def test_partial_correlation_is_undefined_without_variation():
    x, y, z, _ = made_up()
    for given in (np.ones(80), x, 3 - 2 * y):
        assert partial_pearson(x, y, given).r is None
    assert partial_pearson(np.full(80, 4.0), y, z).r is None
    with pytest.raises(ValueError, match="scores, accuracies and given must have one shape"):
        partial_pearson(x, y, z[:5])


def slow_intervals(x, y, z, other, count=400):
    """Resamples one by one, drawn as the fast routine draws them."""
    rows = np.random.default_rng(0).integers(0, len(x), (count, len(x)))
    r = [np.corrcoef([x[i], y[i], z[i], other[i]]) for i in rows]
    partial = [(m[0, 1] - m[0, 2] * m[1, 2]) / np.sqrt((1 - m[0, 2] ** 2) * (1 - m[1, 2] ** 2)) for m in r]
    return [np.percentile(v, [2.5, 97.5]) for v in ([m[0, 1] for m in r], partial, [m[0, 1] - m[3, 1] for m in r])]


def test_intervals_are_those_of_resamples_one_by_one():
    x, y, z, other = made_up()
    found = pearson(x, y, 400), partial_pearson(x, y, z, 400), paired_difference(x, other, y, 400)
    for fast, slow in zip(found, slow_intervals(x, y, z, other), strict=True):
        np.testing.assert_allclose([fast.low, fast.high], slow, atol=1e-12)


def test_paired_difference():
    x, y, _, other = made_up()
    found = paired_difference(x, other, y)
    assert found.difference == pytest.approx(stats.pearsonr(x, y)[0] - stats.pearsonr(other, y)[0], abs=1e-12)
    back = paired_difference(other, x, y)
    assert (back.difference, back.low, back.high) == pytest.approx((-found.difference, -found.high, -found.low))
    assert found.p_value == back.p_value
    same = paired_difference(x, 2 * x + 1, y)
    assert same.difference == pytest.approx(0, abs=1e-12) and same.p_value > 0.05
    assert paired_difference(np.full(80, 4.0), x, y).difference is None


def test_a_difference_is_found_about_as_often_as_it_should_be():
    rng = np.random.default_rng(5)
    found = []
    for _ in range(200):
        y, *noise = rng.standard_normal((3, 60))
        found.append(paired_difference(y + noise[0], y + noise[1], y, n_resamples=400).p_value)
    assert np.mean(np.array(found) <= 0.05) < 0.12  # equally good measures


def test_clusters_are_drawn_with_all_their_tasks():
    """Of two clusters a resample holds the first twice, the second twice, or each once: three values of r."""
    x, y = np.array([0.0, 1, 0, 2, 1]), np.array([0.0, 1, 1, 0, 2])
    clusters = np.array([7, 7, 2, 2, 2])
    r_first, r_second, r_both = 1.0, -0.5, -1 / 14  # Σxy/√(Σx²Σy²): ½/√(½·½), −1/√(2·2), −0.2/√(2.8·2.8)
    assert np.allclose([stats.pearsonr(x[2:], y[2:])[0], stats.pearsonr(x, y)[0]], [r_second, r_both])
    found = pearson(x, y, clusters=clusters)
    assert (found.r, found.low, found.high) == pytest.approx((r_both, r_second, r_first))


def test_every_task_a_cluster_is_the_usual_interval():
    x, y, *_ = made_up()
    usual = pearson(x, y)
    found = pearson(x, y, clusters=np.arange(80)[::-1])
    assert (found.r, found.p_value) == (usual.r, usual.p_value)
    assert (found.low, found.high) == pytest.approx((usual.low, usual.high), abs=1e-12)


def test_interval_over_clusters_is_that_of_resamples_one_by_one():
    x, y, *_ = made_up()
    clusters = np.repeat(np.arange(20), [1, 2, 3, 4, 5, 6, 7] + [4] * 13)
    drawn = np.random.default_rng(0).integers(0, 20, (400, 20))
    rows = [np.concatenate([np.flatnonzero(clusters == c) for c in resample]) for resample in drawn]
    slow = np.percentile([stats.pearsonr(x[i], y[i])[0] for i in rows], [2.5, 97.5])
    found = pearson(x, y, 400, clusters=clusters)
    np.testing.assert_allclose([found.low, found.high], slow, atol=1e-12)


def test_clusters_that_cannot_be_drawn():
    x, y, *_ = made_up()
    with pytest.raises(ValueError, match="at least two different"):
        pearson(x, y, clusters=np.zeros(80, int))
    with pytest.raises(ValueError, match=r"shape \(80,\)"):
        pearson(x, y, clusters=np.arange(79))


def test_fishers_z_by_hand():
    # artanh 0.5 = 0.549306, artanh 0.3 = 0.309520; √(1/100 + 1/100) = 0.141421; z = 1.695547
    assert compare_independent(0.5, 103, 0.3, 103) == pytest.approx(2 * stats.norm.sf(1.695547), abs=1e-6)
    assert compare_independent(0.3, 103, 0.5, 103) == compare_independent(0.5, 103, 0.3, 103)
    assert compare_independent(-0.2, 50, -0.2, 200) == 1
    for wrong in ((1.0, 50, 0.5, 200), (0.5, 3, 0.5, 200), (0.5, 50, -1.0, 200), (float("nan"), 50, 0.5, 200)):
        with pytest.raises(ValueError, match="expected correlations within"):
            compare_independent(*wrong)


def test_weighted_kendall_by_hand():
    """The last two of three exchange places: their pair weighs 1/2 + 1/3 of 3/2 + 4/3 + 5/6 = 11/3, so 1 − 2 · 5/22."""
    found = weighted_kendall(np.array([3.0, 2, 1]), np.array([3.0, 1, 2]))
    assert found.r == pytest.approx(6 / 11) and found.p_value is None and found.n == 3
    x = np.arange(9.0)
    assert weighted_kendall(x, 2 * x + 1).r == pytest.approx(1) and weighted_kendall(x, -x).r == pytest.approx(-1)


@pytest.mark.parametrize(("distinct", "seed"), [(100, 0), (6, 1), (3, 2), (2, 3)])
def test_weighted_kendall_is_scipys_of_ties_too(distinct, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, distinct, (2, 25)).astype(float)
    found = weighted_kendall(x, y, n_resamples=300, seed=seed)
    assert found.r == pytest.approx(stats.weightedtau(x, y).statistic, abs=1e-12)
    drawn = np.random.default_rng(seed).integers(0, 25, (300, 25))
    taus = [stats.weightedtau(x[rows], y[rows]).statistic for rows in drawn]
    assert (found.low, found.high) == pytest.approx(np.nanpercentile(taus, [2.5, 97.5]), abs=1e-12)


def test_weighted_kendall_undefined_and_rejected():
    assert weighted_kendall(np.ones(5), np.arange(5.0)).r is None
    with pytest.raises(ValueError, match="n_tasks ≥ 3"):
        weighted_kendall(np.ones(2), np.ones(2))
