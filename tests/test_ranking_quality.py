"""Is the ranking right: what is drawn and recorded, and the statistics of it by hand."""

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, composed

from experiments.quality.config import QualityConfig
from experiments.quality.runner import draw_rows, pack, run, unpack
from experiments.quality.targets import SUPERCLASSES, LabelledImages, draw_images, find_targets, read_digits
from experiments.reporting.ranking_quality import (
    PAGE,
    evaluate,
    evaluate_all,
    find_folder,
    read,
    summarise,
    to_markdown,
    write,
)
from experiments.reporting.readme import updated
from leep.errors import Invalid, Missing
from leep.probe import held_out
from leep.statistics import weighted_kendall

SMALL = ("experiment=ranking_quality", "scale=smoke", "targets=[digits]", "per_class=[5]")
TWO = "candidates=[gluon:cifar10_resnet8,gluon:cifar10_resnet20_half]"


# What is drawn


def test_superclasses_divide_the_hundred_classes():
    assert sorted(k for classes in SUPERCLASSES.values() for k in classes) == list(range(100))
    assert {len(classes) for classes in SUPERCLASSES.values()} == {5} and len(SUPERCLASSES) == 20


def test_images_are_drawn_by_class_and_by_name():
    data = read_digits()
    one, again, other = (draw_images(name, data, (7, 2), (20, 5), 0) for name in ("one", "one", "other"))
    assert np.bincount(one.labels[one.is_train]).tolist() == [20, 20]
    assert np.bincount(one.labels[~one.is_train]).tolist() == [5, 5]
    (part,) = one.parts
    pixels = {image.tobytes(): label for image, label in zip(data.train_images, data.train_labels)}
    for image, label in zip(part.images[one.is_train], one.labels[one.is_train]):
        assert pixels[image.tobytes()] == (7, 2)[label]
    assert part.sha256 == again.parts[0].sha256 != other.parts[0].sha256
    assert len(draw_images("all", data, range(10), None, 0).labels) == len(data.train_labels) + len(data.test_labels)


def test_digits_have_no_image_in_both_parts():
    data = read_digits()
    assert (len(data.train_images), len(data.test_images)) == (1195, 602)
    assert data.train_images.max() == 255 and np.bincount(data.test_labels).min() >= 58


def test_the_whole_of_cifar100_is_its_superclasses(tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "cifar100"
    folder.mkdir()
    for name, count in (("train", 3), ("test", 2)):
        labels = np.repeat(np.arange(100, dtype=np.uint8), count)
        pixels = rng.integers(0, 256, (len(labels), 3072), dtype=np.uint8)
        np.concatenate([0 * labels[:, None], labels[:, None], pixels], 1).tofile(folder / f"{name}.bin")
    (folder / "fine_label_names.txt").write_text("\n".join(f"class{i}" for i in range(100)) + "\n")
    images = {"superclasses": (2, 1)}
    parts = list(find_targets("superclasses", images, 0, str(tmp_path)))
    (whole,) = find_targets("cifar100", images, 0, str(tmp_path))
    assert [t.name for t in parts] == [f"cifar100 {name}" for name in SUPERCLASSES]
    assert [p.sha256 for p in whole.parts] == [t.parts[0].sha256 for t in parts]
    assert np.bincount(whole.labels).tolist() == [3] * 100 and whole.is_train.sum() == 200
    names = np.array([name for part in whole.parts for name in np.array(part.class_names)[part.labels]])
    assert len({*zip(whole.labels, names)}) == 100  # a number is one class, whatever part it is in


def test_a_smaller_number_is_part_of_a_larger_one_and_draws_differ():
    labels, is_train = np.repeat([0, 1, 2], 40), np.tile([True, True, True, False], 30)
    target = LabelledImages("mine", (), labels, is_train)
    few, many, other = (draw_rows(target, n, d, 0) for n, d in ((4, 0), (9, 0), (4, 1)))
    assert np.bincount(labels[few]).tolist() == [4, 4, 4] and {*few} < {*many} and {*few} != {*other}
    assert is_train[many].all() and draw_rows(target, 30, 5, 0).tolist() == np.flatnonzero(is_train).tolist()


def test_bits():
    bits = np.random.default_rng(0).random(37) < 0.5
    assert pack(np.array([1, 1, 1, 1, 0, 0, 0, 1, 1], bool)) == "f180"
    assert unpack(pack(bits), 37).tolist() == bits.tolist()


def test_the_held_out_head_is_that_of_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    from leep.probe import STRENGTHS

    rng = np.random.default_rng(3)
    labels = np.tile([4, 7, 9], 60)
    features = rng.normal(size=(180, 6)) * [1, 5, 1, 1, 20, 1] + (labels == 7)[:, None] - (labels == 9)[:, None]
    test = np.arange(120, 180)
    x, x_test = features[:120], features[120:]
    x, x_test = ((part - x.mean(0)) / x.std(0) for part in (x, x_test))
    references = [
        LogisticRegression(C=1 / (6 * strength), max_iter=10_000, tol=1e-8).fit(x, labels[:120]).predict(x_test)
        for strength in STRENGTHS
    ]
    found = held_out(features, labels, test)
    assert 0.5 < found.mean() < 1
    assert any((found == (predicted == labels[test])).all() for predicted in references)
    swapped = held_out(features, np.where(labels == 4, 0, 3 * labels), test)
    assert swapped.tolist() == found.tolist()
    with pytest.raises(ValueError, match=r"\[9\] have none"):
        held_out(features[:4], labels[[0, 1, 0, 2]], np.array([3]))


# The statistics


def _results(check, reached, draws=1, size=5, target="t", leep=None):
    """A target of one-letter candidates; correctness is that of the first images."""
    names = [chr(ord("a") + k) for k in range(len(check))]
    n = 20
    scores = pd.DataFrame(
        {
            "target": target,
            "per_class": size,
            "draw": draw,
            "candidate": name,
            "n_images": n,
            "n_features": 3,
            "check": c,
            "correct": pack(np.arange(n) < round(c * n)),
            "leep": np.nan if leep is None else leep[k],
        }
        for draw in range(draws)
        for k, (name, c) in enumerate(zip(names, check))
    )
    truths = pd.DataFrame(
        {
            "target": target,
            "candidate": name,
            "method": "converged_head",
            "n_train": n,
            "n_test": n,
            "accuracy": a,
            "correct": pack(np.arange(n) < round(a * n)),
        }
        for name, a in zip(names, reached)
    )
    return scores, truths


def _value(evaluated, predictor, statistic, size="5", target="t"):
    rows = evaluated.set_index(["target", "size", "predictor", "statistic"]).value
    return rows.get((target, size, predictor, statistic))


def test_first_is_best_and_regret_by_hand():
    scores, truths = _results([0.5, 0.9, 0.7], [0.8, 0.6, 0.7], leep=[-1.0, -3.0, -1.0])
    found = evaluate(scores, truths)
    assert _value(found, "check", "first_is_best") == 0 and _value(found, "check", "regret") == pytest.approx(0.2)
    # a and c are first together: one of them is the best, and the other costs 0.1
    assert _value(found, "leep", "first_is_best") == 0.5 and _value(found, "leep", "regret") == pytest.approx(0.05)
    assert _value(found, "random", "first_is_best") == pytest.approx(1 / 3)
    assert _value(found, "random", "regret") == pytest.approx(0.1)
    assert _value(found, "check", "regret", "all") == pytest.approx(0.2)  # the largest size of the target
    assert _value(found, "check", "tau") is None and _value(found, "best_elsewhere", "regret") is None
    # what b predicts right, c does too, and a too: in any resample a is first, though at times not alone
    assert 0.9 < _value(found, "test_noise", "first_is_best") <= 1


def test_the_best_elsewhere_leaves_the_target_out():
    parts = [_results([0.5, 0.5], reached, target=t) for t, reached in (("t", [0.9, 0.1]), ("u", [0.2, 0.5]))]
    found = evaluate(*(pd.concat(tables) for tables in zip(*parts)))
    assert _value(found, "best_elsewhere", "regret") == pytest.approx(0.8)
    assert _value(found, "best_elsewhere", "regret", target="u") == pytest.approx(0.3)


def test_tau_from_five_candidates_and_no_row_where_a_measure_is_undefined():
    check, reached = [0.9, 0.8, 0.7, 0.6, 0.5], [0.8, 0.9, 0.7, 0.5, 0.6]
    found = evaluate(*_results(check, reached, leep=[1.0, 2.0, np.nan, 3.0, 4.0]))
    assert _value(found, "check", "tau") == weighted_kendall(np.array(check), np.array(reached)).r
    assert _value(found, "leep", "regret") is None
    assert _value(evaluate(*_results(check[:4], reached[:4])), "check", "tau") is None


def test_models_within_noise_by_hand():
    # all 20 images right against half of them: no resample turns that round
    found = evaluate(*_results([1.0, 0.5], [0.4, 0.7]))
    assert _value(found, "check", "clear_winner") == 1 and _value(found, "check", "best_within_noise") == 0
    assert _value(found, "check", "regret_of_clear_winner") == pytest.approx(0.3)
    close = evaluate(*_results([0.95, 0.9], [0.4, 0.7]))  # one image of 20
    assert _value(close, "check", "n_within_noise") == 2 and _value(close, "check", "best_within_noise") == 1
    assert _value(close, "check", "regret_of_clear_winner") is None


def test_models_of_imagenet_are_looked_at_alone_too():
    scores, truths = _results([0.5, 0.9, 0.7], [0.8, 0.6, 0.7])
    for table in (scores, truths):
        table["candidate"] = table.candidate.replace({"a": "gluon:cifar_resnet20_v1"})
    found = evaluate_all(scores, truths)
    regrets = {models: _value(part, "check", "regret") for models, part in found.groupby("models")}
    assert regrets == {"all": pytest.approx(0.2), "ImageNet": pytest.approx(0.1)}


def test_what_a_predictor_costs_beside_the_check():
    scores, truths = _results([0.5, 0.9, 0.7], [0.8, 0.6, 0.7], leep=[-1.0, -3.0, -1.0])
    found = evaluate(scores, truths)
    assert _value(found, "leep", "regret_over_check") == pytest.approx(0.05 - 0.2)
    assert _value(found, "check", "regret_over_check") is None


def test_intervals_are_over_targets():
    rows = pd.DataFrame({"target": [*"abcde"], "size": "5", "method": "m", "predictor": "p", "statistic": "regret"})
    rows["models"] = "all"
    summary = summarise(rows.assign(value=[0.0, 0.0, 0.0, 0.0, 0.5])).iloc[0]
    assert summary.value == pytest.approx(0.1) and summary.n_targets == 5
    # of five drawn targets k are the last one: P(k = 0) = 0.8⁵ = 0.33, P(k ≤ 2) = 0.942, P(k ≤ 3) = 0.993
    assert (summary.low, summary.high) == (0, pytest.approx(0.3))
    assert summarise(rows.assign(value=0.2)[:4])[["low", "high"]].isna().all(axis=None)


# The run


def test_a_run_records_all_rows_and_a_second_one_does_nothing(tmp_path, capsys):
    fine = "fine_tuned={candidates: [gluon:cifar10_resnet8], targets: [digits]}"
    cfg = composed(*SMALL, TWO, fine, f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache")
    config = QualityConfig.of(cfg)
    folder = run(config)
    scores, truths = read(folder)
    assert {*zip(scores.per_class, scores.draw, scores.n_images)} == {(5, 0, 50), (10, 0, 100)} and len(scores) == 4
    assert scores[["leep", "nce", "logme"]].notna().all(axis=None)
    assert scores[scores.per_class == 5].h_score.isna().all()  # 50 images, 64 features
    assert sorted(zip(truths.candidate, truths.method)) == [
        ("gluon:cifar10_resnet20_half", "converged_head"),
        ("gluon:cifar10_resnet20_half", "retrain_head"),
        ("gluon:cifar10_resnet8", "converged_head"),
        ("gluon:cifar10_resnet8", "fine_tune"),
        ("gluon:cifar10_resnet8", "retrain_head"),
    ]
    for row in [*scores.rename(columns={"check": "accuracy"}).itertuples(), *truths.itertuples()]:
        n = row.n_images if hasattr(row, "n_images") else row.n_test
        assert unpack(row.correct, n).mean() == pytest.approx(row.accuracy)
    assert (truths[truths.method == "converged_head"].accuracy > 0.5).all()  # digits are easy
    text = write(config.results, folder)
    assert find_folder(config.results) == folder and "at most 10 training" in text
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.suffix == ".csv"}
    assert run(config) == folder
    capsys.readouterr()
    after = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file() and p.suffix == ".csv"}
    assert {p for p in before if before[p] != after[p]} == set()


def test_what_is_missing_is_left_out_or_refused(tmp_path, capsys):
    places = f"paths.results={tmp_path}/results", f"paths.cache={tmp_path}/cache"
    lost = "candidates=[onnx:/nowhere/a.onnx,gluon:none]"
    with pytest.raises(Missing, match=r"(?s)a\.onnx.*gluon:none"):
        run(QualityConfig.of(composed(*SMALL, lost, *places)))
    some = "candidates=[onnx:/nowhere/a.onnx,gluon:cifar10_resnet8]"
    with pytest.raises(Invalid, match=r"a\.onnx"):
        run(QualityConfig.of(composed(*SMALL, some, "strict=true", *places)))
    with pytest.raises(Missing, match="experiment=ranking_quality"):
        find_folder(tmp_path)


def test_what_is_restricted_is_said_of_the_targets_that_run():
    config = QualityConfig.of(composed("experiment=ranking_quality", "targets=[cifar100 fish,digits]"))
    said = "; ".join(config.deviations())
    assert "superclasses: at most 50" in said and "digits" in said and "fashion_mnist" not in said
    assert "fine-tuned for 10 epochs" in said


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("targets=[digit]", "targets must be among .*digits.*got 'digit'"),
        ("measures=[leap]", "leap"),
        ("candidates=[]", "candidates must be a list"),
        ("per_class=[1]", "per_class must be an integer"),
        ("by_scale.smoke.draws=0", "draws must be an integer"),
        ("fine_tuned.targets=[cifar100 flower]", "did you mean cifar100 flowers"),
        ("fine_tuned.candidates=[onnx:a.onnx]", "must be networks of GluonCV"),
        ("engine=torch", "engine must be gluon"),
    ],
)
def test_impossible_values_are_refused(override, message):
    with pytest.raises(Invalid, match=message):
        QualityConfig.of(composed(*SMALL, override))


def test_the_table_has_a_row_a_predictor_the_least_regret_first():
    scores, truths = _results([0.5, 0.9, 0.7], [0.8, 0.6, 0.7], leep=[-1.0, -3.0, -1.0])
    text = to_markdown(summarise(evaluate_all(scores, truths)), ["few images"], {"targets": 1, "candidates": 3})
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    header = ["Predictor", "Regret, 5", "Regret, all", "First is best, 5", "First is best, all"]
    assert rows[0] == [*header, "Weighted τ, 5", "Weighted τ, all", "Targets"]
    by_name = {row[0]: row[1:] for row in rows[2:]}
    assert by_name["LEEP"] == ["5.0", "5.0", "50%", "50%", "—", "—", "1"]
    assert [*by_name].index("LEEP") < [*by_name].index("Check (cross-validated head)")  # 20 points
    assert "few images" in text and "1 targets, 3 candidates" in text


def test_the_page_and_the_table_are_those_of_the_committed_rows():
    place = ROOT / "results" / "reference"
    folder = find_folder(place)
    committed = pd.read_csv(place / "ranking_quality" / "quality.csv", dtype={"size": str})
    made = summarise(evaluate_all(*read(folder)))
    keys = ["models", "size", "method", "predictor", "statistic"]
    assert made[keys].to_numpy().tolist() == committed[keys].to_numpy().tolist(), "make readme"
    np.testing.assert_allclose(made.value, committed.value, atol=1e-4)
    page, table = PAGE.read_text("utf-8"), (place / "ranking_quality" / "quality.md").read_text("utf-8")
    assert updated(page, table.partition("\n\n")[2].rstrip()) == page, "make readme"
