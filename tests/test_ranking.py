"""`leep.rank`: the bootstrap by weights, certainty by hand and in simulations, sentences, warnings, rejected input."""

import json
import math
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import leep
from leep import resampling
from leep.measures import score_task
from leep.probe import Probe
from leep.ranking import Ranking
from leep.resampling import NoInterval, h_scores, leep_scores, nce_scores, resampled_scores, resamples
from leep.standings import Standings, recommend, stand_by_accuracy, stand_by_score, would_more_change

mpl.use("Agg")
quick = settings(deadline=None, max_examples=25)


def outputs(n=120, n_classes=3, distances=(1.5, 0.3), n_features=8, n_source_classes=9, seed=0):
    """Models `m0`, `m1`, … whose features and probabilities tell the classes apart the better the larger `distance`."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % n_classes)
    centres, heads = rng.normal(size=(n_classes, n_features)), rng.normal(size=(n_features, n_source_classes))
    models = {}
    for m, distance in enumerate(distances):
        features = rng.normal(size=(n, n_features)) + distance * centres[labels]
        probs = np.exp(features @ heads)
        models[f"m{m}"] = (probs / probs.sum(axis=1, keepdims=True), features)
    return models, labels


def fast(models, labels, **options):
    return leep.rank(models, labels, **{"n_resamples": 100, "curve": False, **options})


def fake_probe(correct):
    """A probe of `correct`, in two classes by turns."""
    labels = np.arange(len(correct)) % 2
    predicted = np.where(correct, labels, 1 - labels)
    return Probe(np.arange(2), labels, np.arange(len(labels)) % 5, predicted, np.full(len(labels), -1.0), np.ones(5))


# The bootstrap


def test_resamples_keep_the_classes_and_draw_each_image_once_on_average():
    labels = np.repeat([4, 0, 9], [5, 30, 1])
    weights = np.concatenate(list(resamples(labels, 2000, 0)))
    assert weights.shape == (2000, 36)
    for y, count in ((4, 5), (0, 30), (9, 1)):
        assert (weights[:, labels == y].sum(axis=1) == count).all()
    np.testing.assert_allclose(weights.mean(axis=0), 1, atol=0.11)
    assert weights[:, 5:35].var() == pytest.approx(1 - 1 / 30, abs=0.03)  # of a multinomial


def test_resamples_do_not_depend_on_blocks_or_names(monkeypatch):
    labels = np.random.default_rng(0).integers(0, 3, 40)
    whole = np.concatenate(list(resamples(labels, 20, 5)))
    monkeypatch.setattr(resampling, "ENTRIES", 7 * 40)
    blocks = list(resamples(labels, 20, 5))
    assert [len(block) for block in blocks] == [7, 7, 6]
    np.testing.assert_array_equal(np.concatenate(blocks), whole)
    np.testing.assert_array_equal(np.concatenate(list(resamples(np.array([5, 1, 3])[labels], 20, 5))), whole)


def repeated(measure, weights, **arrays):
    return [score_task(measure, {k: np.repeat(v, w.astype(int), axis=0) for k, v in arrays.items()}) for w in weights]


@quick
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 30))
def test_weighted_measures_are_the_measures_of_repeated_rows(seed, n_classes, n_source_classes):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, 40) * 7
    probs = rng.dirichlet(np.full(n_source_classes, 0.2), 40)
    probs = np.where(probs < 0.01, 0, probs)
    probs /= probs.sum(axis=1, keepdims=True)
    weights = rng.integers(0, 3, (6, 40)).astype(float)
    weights[0, labels != labels[0]] = 0  # a resample of one class
    weights[:, 0] += 1
    leep_expected = repeated("leep", weights, source_probs=probs, target_labels=labels)
    np.testing.assert_allclose(leep_scores(probs, labels, weights), leep_expected, atol=1e-10)
    dummies = probs.argmax(axis=1)
    nce_expected = repeated("nce", weights, source_labels=dummies, target_labels=labels)
    np.testing.assert_allclose(nce_scores(dummies, labels, weights), nce_expected, atol=1e-10)


@quick
@given(st.integers(0, 10_000), st.integers(1, 5), st.sampled_from([1, 2, 5]), st.booleans())
def test_weighted_h_is_h_of_repeated_rows(seed, n_classes, n_features, dependent):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, n_classes, 60) * 7
    features = rng.normal(size=(60, n_features)) + labels[:, None]
    if dependent:
        features = np.hstack([features, 2 * features[:, :1] - 1, np.ones((60, 1))])
    weights = rng.integers(0, 3, (5, 60)).astype(float)
    weights[0, labels != labels[0]] *= 0.0
    weights[0, :10] += 1
    expected = repeated("h_score", weights, features=features, target_labels=labels)
    np.testing.assert_allclose(h_scores(features, labels, weights), expected, atol=1e-10)


def test_weighted_leep_in_small_blocks(monkeypatch):
    models, labels = outputs()
    probs, weights = models["m0"][0].astype(np.float32), next(resamples(labels, 12, 0))
    whole = leep_scores(probs, labels, weights)
    monkeypatch.setattr(resampling, "ENTRIES", 500)
    monkeypatch.setattr(resampling, "ROWS_AT_ONCE", 7)
    np.testing.assert_allclose(leep_scores(probs, labels, weights), whole, rtol=1e-12)


def test_h_has_no_interval_where_a_resample_holds_too_few_images():
    models, labels = outputs(60, n_features=45)
    with pytest.raises(NoInterval, match="distinct images, no more than the 45 features and one"):
        resampled_scores("h_score", {"features": models["m0"][1], "target_labels": labels}, 100, 0)


def test_costly_resamples_are_fewer_or_none_by_count(monkeypatch):
    models, labels = outputs()
    arrays = {"features": models["m0"][1], "target_labels": labels}
    monkeypatch.setattr(resampling, "H_WORK", 150 * (0.632 * 120 * 64 + 512 / 3))
    assert len(resampled_scores("h_score", arrays, 1000, 0)) in (149, 150)
    monkeypatch.setattr(resampling, "H_MOST", 1e5)
    with pytest.raises(NoInterval, match="resamples of 120 images of 8 features cost too much"):
        resampled_scores("h_score", arrays, 1000, 0)
    monkeypatch.setattr(resampling, "REPEATED_ENTRIES", 1000)
    with pytest.raises(NoInterval, match="no weighted form, and to repeat 1,080 numbers costs too much"):
        resampled_scores(f"{__name__}:spread", arrays, 1000, 0)


def spread(features, target_labels):
    """A measure from outside: its resamples are of repeated rows."""
    return -float(np.mean([features[target_labels == y].var() for y in np.unique(target_labels)]))


def picky(features, target_labels):
    if len(np.unique(features, axis=0)) < len(features):
        raise ValueError("rows must be distinct")
    return 1.0


def undefined(target_labels):
    return math.nan


def test_intervals_are_as_wide_as_the_scores_of_new_samples_vary():
    """Resamples repeat images, which raises all three measures; their spread is right, and is put around the score."""
    rng, centres, head = np.random.default_rng(0), None, None
    centres, head = 0.5 * rng.normal(size=(4, 30)), rng.normal(size=(30, 20))
    names, found = ("leep", "nce", "h_score"), []
    for _ in range(150):
        labels = np.arange(200) % 4
        features = rng.normal(size=(200, 30)) + centres[labels]
        probs = np.exp(features @ head)
        probs /= probs.sum(axis=1, keepdims=True)
        arrays = {
            "source_probs": probs,
            "source_labels": probs.argmax(1),
            "features": features,
            "target_labels": labels,
        }
        found.append([score_task(name, arrays) for name in names])
    table = fast({"m": (probs, features)}, labels, n_resamples=1000).table.iloc[0]
    for name, sd in zip(names, np.std(found, axis=0)):
        resampled = resampled_scores(name, arrays, 1000, 0)
        assert np.median(resampled) > table[name] + 0.5 * sd  # the plain percentile interval would be off
        assert table[f"{name}_low"] < table[name] < table[f"{name}_high"]
        assert table[f"{name}_high"] - table[f"{name}_low"] == pytest.approx(2 * 1.96 * sd, rel=0.3)


# The standings


def test_certainty_by_hand():
    resampled = np.array([[0.9, 0.8, 0.1], [0.7, 0.7, 0.1], [0.5, 0.6, 0.1], [0.9, 0.5, 0.9]])
    found = Standings(["a", "b", "c"], np.array([0.8, 0.7, 0.2]), resampled, 100)
    assert found.p_best.tolist() == [(1 + 0.5 + 0 + 0.5) / 4, (0 + 0.5 + 1 + 0) / 4, 0.125]
    assert found.better[0].tolist() == [0.5, (1 + 0.5 + 0 + 1) / 4, (1 + 1 + 1 + 0.5) / 4]
    np.testing.assert_allclose(found.better + found.better.T, 1)
    assert found.within_noise == ("a", "b", "c")
    se_b, se_c = np.std([0.1, 0, -0.1, 0.4]), np.std([0.8, 0.6, 0.4, 0])
    assert found.n_to_tell_apart == pytest.approx(
        100 * max((1.96 * se_b / 0.1) ** 2, (1.96 * se_c / 0.6) ** 2), rel=1e-4
    )


def test_accuracies_on_resamples():
    right, wrong = np.arange(40) % 10 < 8, np.arange(40) % 10 < 7
    found = stand_by_accuracy({"b": fake_probe(wrong), "a": fake_probe(right)}, np.arange(40) % 2, 300, 0)
    assert (found.names, found.values.tolist(), found.n) == (["a", "b"], [0.8, 0.7], 40)
    weights = np.concatenate(list(resamples(np.arange(40) % 2, 300, 0)))
    np.testing.assert_allclose(found.resampled[:, 0], [w[right].sum() / 40 for w in weights])
    assert found.better[0, 1] > 0.9  # whatever a resample holds, a is right wherever b is


def simulated(rng, accuracies, n=200):
    """Correctness of models that share half of their luck."""
    shared = rng.random(n)
    luck = np.where(rng.random((len(accuracies), n)) < 0.5, shared, rng.random((len(accuracies), n)))
    probes = {f"m{m}": fake_probe(luck[m] < p) for m, p in enumerate(accuracies)}
    return stand_by_accuracy(probes, np.arange(n) % 2, 200, int(rng.integers(1 << 30)))


def test_a_winner_among_equal_models_is_declared_as_rarely_as_said():
    rng = np.random.default_rng(0)
    sure = np.mean([len(simulated(rng, (0.7, 0.7)).within_noise) == 1 for _ in range(400)])
    assert 0.02 < sure < 0.08  # 5 %, two-sided
    sure = np.mean([len(simulated(rng, (0.7,) * 4).within_noise) == 1 for _ in range(200)])
    assert sure < 0.08


def test_p_best_is_calibrated():
    """The difference of two models is drawn anew each time; the truth is first as often as P(best) says."""
    rng, said, true = np.random.default_rng(1), [], []
    for _ in range(1500):
        accuracies = 0.7 + rng.uniform(-0.1, 0.1, 2)
        found = simulated(rng, accuracies)
        said.append(found.p_best[found.names.index("m0")])
        true.append(accuracies[0] > accuracies[1])
    said, true = np.array(said), np.array(true)
    for low, high in ((0, 0.15), (0.15, 0.4), (0.4, 0.6), (0.6, 0.85), (0.85, 1.01)):
        inside = (low <= said) & (said < high)
        assert inside.sum() > 50
        assert abs(true[inside].mean() - said[inside].mean()) < 3 * 0.5 / math.sqrt(inside.sum()) + 0.03


def test_the_number_of_images_that_tells_two_models_apart():
    """With that many images the difference is 1.96 standard errors in the mean, so that half of the tests find it."""
    rng = np.random.default_rng(2)
    pooled = [simulated(rng, (0.75, 0.70), 20_000) for _ in range(5)]
    difference = np.mean([np.diff(found.resampled[:, ::-1]).std() for found in pooled]) * math.sqrt(20_000)
    n = (1.96 * difference / 0.05) ** 2
    said = pooled[0].n * (1.96 * np.diff(pooled[0].resampled).std() / 0.05) ** 2
    assert said == pytest.approx(n, rel=0.15)
    found = [simulated(rng, (0.75, 0.70), int(n)) for _ in range(200)]
    assert 0.35 < np.mean([f.names[0] == "m0" and len(f.within_noise) == 1 for f in found]) < 0.65


def standings(values, spread, n=100, seed=0):
    values, rng = np.array(values), np.random.default_rng(seed)
    return Standings(
        [f"m{m}" for m in range(len(values))], values, values + spread * rng.normal(size=(400, len(values))), n
    )


def test_sentences():
    assert recommend(standings([0.9, 0.5], 0.01), True) == (
        "m0 is the best in all resamples, right on 90.0 % of the images; m1 is second, right on 50.0 % of the images."
    )
    unclear = recommend(standings([0.72, 0.7, 0.69, 0.2], 0.02), True)
    assert unclear.startswith("No clear winner: m0, m1 and m2 lie within noise; about ")
    number = int(unclear.split("about ")[1].split(" images")[0].replace(",", ""))
    assert number == pytest.approx(standings([0.72, 0.7, 0.69, 0.2], 0.02).n_to_tell_apart, rel=0.1)
    assert "100 times as many images would hardly" in recommend(standings([0.7, 0.7], 0.02), True)
    assert "100 times as many images would hardly" in recommend(standings([0.7, 0.6999], 0.02), True)
    assert recommend(standings([-1, -2], 0.1), False).startswith("Ranked by LEEP, not verified: m0 is the best in all")
    assert recommend(standings([-1, -1], 0.1), False).startswith("Ranked by LEEP, not verified: no clear winner: m0")
    assert recommend(standings([0.5], 0.1), True) == "m0 is the only model, right on 50.0 % of the images."
    assert recommend(stand_by_score({}, {}, 10), False).startswith("Not ranked")


def test_would_more_images_change_the_choice():
    rng, codes = np.random.default_rng(0), np.arange(2000) % 2

    def said(first, second):
        parts = {"m0": rng.random((2000, 3)) < first, "m1": rng.random((2000, 3)) < second}
        parts = {name: right.astype(float) for name, right in parts.items()}
        return would_more_change(parts, standings([first[2], second[2]], 0.01), codes, 200, 0)

    assert said((0.7, 0.75, 0.8), (0.5, 0.55, 0.6)).endswith("twice as many would hardly change the choice.")
    assert "with twice as many m1 would be ahead" in said((0.8, 0.8, 0.8), (0.5, 0.65, 0.79))
    assert "within noise" in said((0.78, 0.79, 0.8), (0.77, 0.78, 0.79))
    assert said((0.95, 0.96, 0.98), (0.85, 0.92, 0.979)).endswith(" points.")  # 0.979 + 0.0645 is above 1
    assert said((0.8, 0.8, 0.8), (0.5, 0.65, 0.8)).endswith(" points.")  # equal: no number of images tells them apart
    gained = said((0.6, 0.7, 0.8), (0.1, 0.1, 0.1)).split("by ")[1].split(" points")[0]
    assert float(gained) == pytest.approx(10, abs=5)
    alone = would_more_change({"m0": np.tile([0.1, 0.2, 0.3], (9, 1))}, standings([0.3], 0.1), codes[:9], 100, 0)
    assert alone == "The last doubling of the images changed the accuracy of m0 by +10.0 points."


# The ranking


@pytest.fixture(scope="module")
def ranking() -> Ranking:
    models, labels = outputs(240, distances=(0.3, 1.5, 0.9))
    models["m2"] = None, models["m2"][1]
    return leep.rank(models, np.array(["ant", "bee", "cow"])[labels], n_resamples=200)


def test_table(ranking):
    table = ranking.table
    assert list(table) == [
        *("model", "rank", "accuracy", "accuracy_se", "accuracy_low", "accuracy_high", "p_best"),
        *(name + end for name in ("leep", "nce", "h_score") for end in ("", "_low", "_high")),
        *("n_features", "n_source_classes", "notes"),
    ]
    assert table.model.tolist() == ["m1", "m2", "m0"]
    assert table["rank"].tolist() == [1, 2, 3]
    models, labels = outputs(240, distances=(0.3, 1.5, 0.9))
    for row in table.itertuples():
        done = leep.probe.probe(models[row.model][1], labels)
        assert row.accuracy == done.accuracy
        assert row.accuracy_se == done.standard_error
        assert (row.accuracy_low, row.accuracy_high) == done.interval
        assert row.h_score == leep.h_score(models[row.model][1], labels)
    assert table.leep[0] == leep.leep_score(models["m1"][0], labels)
    assert table.nce[2] == leep.nce_score(models["m0"][0].argmax(axis=1), labels)
    assert table.loc[1, ["leep", "leep_low", "nce", "n_source_classes"]].isna().all()
    assert "leep: the model gives no probabilities; nce: the model gives no probabilities" in table.notes[1]
    assert table.p_best.sum() == pytest.approx(1)


def test_matrix_classes_and_curve(ranking):
    assert ranking.better.index.tolist() == ranking.better.columns.tolist() == ["m1", "m2", "m0"]
    np.testing.assert_allclose(ranking.better + ranking.better.T, 1)
    assert ranking.best == ("m1",)
    assert ranking.classes == ("ant", "bee", "cow")
    by_class = ranking.by_class
    assert by_class[["class", "n_images"]].values.tolist() == [["ant", 80], ["bee", 80], ["cow", 80]]
    np.testing.assert_allclose(by_class[["m1", "m2", "m0"]].mean(), ranking.table.accuracy)  # classes of one size
    curve = ranking.curve
    assert curve.n_train.tolist() == [48, 96, 192] * 3
    whole = curve[curve.share == 1].set_index("model")
    np.testing.assert_allclose(whole.accuracy, ranking.table.accuracy)
    np.testing.assert_allclose(whole.accuracy_se, ranking.table.accuracy_se)
    assert list(ranking.probes) == ["m1", "m2", "m0"]
    assert ranking.more_data.startswith("The last doubling of the images changed the accuracy of m1 by ")


def test_plain_dictionary(ranking):
    plain = json.loads(json.dumps(ranking.to_dict(), allow_nan=False))
    assert [row["model"] for row in plain["models"]] == ["m1", "m2", "m0"]
    assert plain["models"][1]["leep"] is None
    assert plain["models"][0]["rank"] == 1
    assert plain["better"]["m1"]["m0"] == ranking.better.loc["m1", "m0"]
    assert plain["sentence"] == ranking.sentence
    assert len(plain["curve"]) == 9
    assert plain["by_class"][2]["class"] == "cow"


def test_text(ranking):
    text = str(ranking)
    assert text.startswith(ranking.sentence)
    lines = text.split("\n\n")[1].splitlines()
    assert lines[0].split()[:4] == ["model", "rank", "accuracy", "P(best)"]
    assert [line.split()[0] for line in lines] == ["model", "m1", "m2", "m0"]
    row = ranking.table.iloc[0]
    assert f"{row.accuracy:.3f} ± {row.accuracy_se:.3f}" in text
    assert f"{row.leep:.3f} [{row.leep_low:.3f}, {row.leep_high:.3f}]" in text
    assert "m2: leep: the model gives no probabilities" in text


def test_plot(ranking):
    ax = ranking.plot()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["m1", "m2", "m0"]
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    assert [dot.get_xdata()[0] for dot in dots] == ranking.table.accuracy.tolist()
    intervals = [line.get_xdata() for line in ax.lines if line.get_marker() != "o"]
    assert [list(x) for x in intervals] == ranking.table[["accuracy_low", "accuracy_high"]].values.tolist()
    assert ax.get_ylim() == (2.5, -0.5)  # the best on top
    assert dots[0].get_color() != dots[2].get_color()
    assert ranking.plot(ax) is ax
    mpl.pyplot.close("all")


def test_progress_is_shown_if_asked(capsys):
    models, labels = outputs()
    fast(models, labels)
    assert capsys.readouterr().err == ""
    leep.rank(models, labels, n_resamples=100, show_progress=True)
    assert "6/6" in capsys.readouterr().err  # of two models: measures, heads, heads on parts


def test_order_of_models_and_names_of_classes_do_not_matter():
    models, labels = outputs(distances=(1.5, 0.3, 0.8))
    found = fast(models, labels)
    turned = fast(dict(reversed(models.items())), labels)
    renamed = fast(list(models.items()), np.array(["z", "b", "m"])[labels])
    for other in (turned, renamed):
        pd.testing.assert_frame_equal(found.table, other.table, rtol=1e-9)
        pd.testing.assert_frame_equal(found.better, other.better)
        assert found.sentence == other.sentence
    again = fast(models, labels)
    pd.testing.assert_frame_equal(found.table, again.table, check_exact=True)
    assert not found.table.leep_low.equals(fast(models, labels, seed=1).table.leep_low)


def test_order_of_images_moves_folds_only():
    models, labels = outputs()
    order = np.random.default_rng(0).permutation(len(labels))
    found = fast(models, labels).table
    moved = fast({name: (p[order], f[order]) for name, (p, f) in models.items()}, labels[order]).table
    for name in ("leep", "nce", "h_score"):
        np.testing.assert_allclose(found[name], moved[name])
    np.testing.assert_allclose(found.accuracy, moved.accuracy, atol=0.1)


def test_the_same_model_twice_is_no_winner():
    models, labels = outputs(distances=(1.0,))
    found = leep.rank({"a": models["m0"], "b": models["m0"]}, labels, n_resamples=100)
    assert found.best == ("a", "b")
    assert found.table["rank"].tolist() == [1, 1]
    assert found.table.p_best.tolist() == [0.5, 0.5]
    assert found.better.loc["a", "b"] == 0.5
    assert found.sentence.startswith("No clear winner: a and b lie within noise; 100 times as many images")
    assert "twice as many" not in found.more_data


def test_a_good_model_wins_and_noise_is_named():
    models, labels = outputs(distances=(0.0, 2.0))
    found = fast(models, labels)
    assert found.best == ("m1",)
    assert found.table.p_best.tolist() == [1, 0]
    noise = fast({"m0": models["m0"]}, labels)
    assert any("always answer the largest class" in warning for warning in noise.warnings)
    (warning,) = [w for w in found.warnings if "always answer the largest class" in w]
    assert "m0" in warning and "m1" not in warning


def test_a_measure_that_the_probe_contradicts_is_named():
    models, labels = outputs(distances=(0.2, 2.0))
    swapped = {"m0": (models["m1"][0], models["m0"][1]), "m1": (models["m0"][0], models["m1"][1])}
    found = fast(swapped, labels)
    named = [warning for warning in found.warnings if "puts m0 first" in warning]
    assert {warning.split()[0] for warning in named} == {"leep", "nce"}  # H reads the features
    assert not any("puts" in warning for warning in fast(models, labels).warnings)


def test_a_head_that_does_not_converge_costs_its_own_row(monkeypatch):
    models, labels = outputs()

    def probe(features, labels, *, seed):
        if features is models["m0"][1]:
            raise RuntimeError("the head must converge")
        return leep.probe.probe(features, labels, seed=seed)

    monkeypatch.setattr("leep.ranking.probe", probe)
    ranking = fast(models, labels, curve=True)
    assert ranking.best == ("m1",) and list(ranking.probes) == ["m1"]
    assert ranking.table.model.tolist() == ["m1", "m0"]
    assert ranking.table.loc[1, ["rank", "accuracy", "p_best"]].isna().all() and ranking.table.leep.notna().all()
    assert ranking.table.notes[1].startswith("accuracy: the head must converge")
    assert set(ranking.curve.model) == {"m1"} and "nan" not in str(ranking)
    with pytest.raises(RuntimeError, match="no head converged; m0: the head must"):
        fast({"m0": models["m0"]}, labels)


def test_a_head_on_a_part_that_does_not_converge_costs_the_curve(monkeypatch):
    def on_parts(features, done, seed):
        raise RuntimeError("the head must converge")

    monkeypatch.setattr("leep.ranking.on_parts", on_parts)
    ranking = fast(*outputs(), curve=True)
    assert ranking.table.accuracy.notna().all() and ranking.curve.empty and "does not converge" in ranking.more_data


def test_other_warnings():
    models, labels = outputs()
    wide = {
        "m0": models["m0"],
        "wide": (models["m1"][0][:, :8] / models["m1"][0][:, :8].sum(1, keepdims=True), np.tile(models["m1"][1], 2)),
    }
    found = fast(wide, labels).warnings
    assert any(w.startswith("h_score compares models with 8, 16 features") for w in found)
    assert any(w.startswith("leep compares models with 8, 9 source classes") for w in found)
    small = np.where(np.arange(len(labels)) < 4, 8, labels)
    small[5] = 9
    found = fast(models, small)
    assert any("of 8 (4)" in w for w in found.warnings)
    assert any(w.startswith("9 has one image") for w in found.warnings)
    assert found.by_class[found.by_class["class"] == 9].m0.isna().all()
    assert fast(models, labels).warnings == ()


def test_not_verified():
    models, labels = outputs(distances=(1.5, 0.3, 3.0))
    models["m2"] = None, models["m2"][1]
    found = fast(models, labels, verify="none")
    assert found.table.model.tolist() == ["m0", "m1", "m2"]  # the one without probabilities last, for all its merit
    assert found.table["rank"].tolist()[:2] == [1, 2]
    assert found.table.loc[2, ["rank", "p_best"]].isna().all()
    assert found.table.accuracy.isna().all()
    assert "no probabilities" in found.table.notes[2]
    assert found.sentence.startswith("Ranked by LEEP, not verified: m0 is the best in ")
    assert (found.probes, found.more_data, len(found.curve)) == ({}, "", 0)
    assert "accuracy" not in str(found)
    assert [
        line.get_xdata()[0] for line in found.plot().lines if line.get_marker() == "o"
    ] == found.table.leep.tolist()[:2]
    mpl.pyplot.close("all")
    json.dumps(found.to_dict(), allow_nan=False)
    nothing = fast({"m2": models["m2"]}, labels, verify="none")
    assert (nothing.best, nothing.sentence[:10]) == ((), "Not ranked")
    assert str(nothing)


def test_measures_from_outside():
    models, labels = outputs()
    measures = [f"{__name__}:{name}" for name in ("spread", "picky", "undefined")]
    found = fast(models, labels, measures=measures, n_resamples=150).table
    row = found.iloc[0]
    value = spread(models[row.model][1], labels)
    assert row[measures[0]] == value
    assert row[f"{measures[0]}_low"] < value < row[f"{measures[0]}_high"]
    assert f"{measures[0]}: interval from 100 resamples" in row.notes
    assert row[measures[1]] == 1.0
    assert np.isnan(row[f"{measures[1]}_low"])
    assert f"{measures[1]} has no interval: the measure rejects a resample: rows must be distinct" in row.notes
    assert np.isnan(row[measures[2]])
    assert f"{measures[2]}: the measure gave nan" in row.notes


def test_h_is_blank_where_it_says_nothing():
    models, labels = outputs(40, n_features=60)
    models["wide"] = (None, np.random.default_rng(0).normal(size=(40, 70)))
    found = fast(models, labels)
    table = found.table
    assert table.h_score.isna().all()
    assert not any("h_score compares" in w for w in found.warnings)
    assert sum("h_score_shrunk" in w for w in found.warnings) == 1
    assert "h_score: 40 distinct images are too few for 60 features" in table.notes[0]
    models, labels = outputs(60, n_features=45)
    table = fast(models, labels).table
    assert table.h_score.notna().all()
    assert table.h_score_low.isna().all()
    assert "h_score has no interval: a resample holds" in table.notes[0]


@quick
@given(st.integers(0, 1000), st.integers(3, 12), st.integers(1, 14), st.sampled_from(["probe", "none"]))
def test_awkward_input(seed, n, d, verify):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, n)
    labels[:3] = 0, 0, 1
    features = rng.integers(-1, 2, (n, d)) * rng.integers(0, 2, d)
    probs = rng.dirichlet([0.05] * 4, n).round()
    probs[:, 0] += 1 - probs.sum(axis=1)
    found = leep.rank({"a": (probs, features), "b": (None, features)}, labels, verify=verify, n_resamples=100)
    assert found.sentence
    assert str(found)
    json.dumps(found.to_dict(), allow_nan=False)
    if verify == "probe":
        assert found.better.loc["a", "b"] == 0.5
        assert found.best == ("a", "b")


MODELS, LABELS = outputs(30)


@pytest.mark.parametrize(
    ("models", "labels", "options", "message"),
    [
        ({}, LABELS, {}, "at least one model"),
        ([("a", MODELS["m0"]), ("a", MODELS["m1"])], LABELS, {}, "must not name a model twice, got 'a' 2 times"),
        ({1: MODELS["m0"]}, LABELS, {}, "must be named by strings, got 1"),
        ({"a": MODELS["m0"][0]}, LABELS, {}, r"outputs\['a'\] must be \(probs, features\), got ndarray"),
        ({"a": (MODELS["m0"][0], None)}, LABELS, {}, r"outputs\['a'\]: features must have shape"),
        ({"a": (MODELS["m0"][0] * 2, MODELS["m0"][1])}, LABELS, {}, r"outputs\['a'\]: source_probs must sum to 1"),
        ({"a": (None, MODELS["m0"][1] * np.nan)}, LABELS, {}, r"outputs\['a'\]: features must be finite"),
        ({"a": (None, MODELS["m0"][1][:9])}, LABELS, {}, "features must have a row a label, 30, got 9"),
        ({"a": (MODELS["m0"][0][:9], MODELS["m0"][1])}, LABELS, {}, "probs must have a row a label, 30, got 9"),
        (MODELS, LABELS * 0, {}, "labels must hold at least two classes, got only 0"),
        (MODELS, np.arange(30), {}, "a class of two images or more, got 30 classes of one"),
        (MODELS, LABELS / 2, {}, "labels must be integers"),
        (MODELS, LABELS, {"measures": ["loop"]}, "measures must be among .*h_score"),
        (MODELS, LABELS, {"verify": "fine"}, "verify must be among probe, none, got 'fine'"),
        (MODELS, LABELS, {"verify": "none", "measures": ["nce"]}, "measures must hold leep"),
        (MODELS, LABELS, {"n_resamples": 10}, "n_resamples must be an integer of at least 100, got 10"),
    ],
)
def test_rejected_input(models, labels, options, message):
    with pytest.raises(ValueError, match=message):
        leep.rank(models, labels, **options)


def test_importing_leep_imports_neither_pandas_nor_the_ranking():
    code = "import leep, sys; print('pandas' in sys.modules, 'numba' in sys.modules); print(callable(leep.explain))"
    code += "; import leep.ranking; print(callable(leep.rank), callable(leep.explain))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "True", "True", "True"]
    with pytest.raises(AttributeError, match="no attribute 'rnak'"):
        _ = leep.rnak
