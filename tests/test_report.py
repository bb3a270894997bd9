"""The report: claims by rule, choices from the configuration, and the page in a headless browser."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from helpers.results import write_convergence, write_run
from omegaconf import OmegaConf

from experiments.reporting.claims import VERDICTS, Evidence, Finding, judge, level_difference, read_claims, zero
from experiments.reporting.figures import FIGURES, NAMES
from experiments.reporting.report import read_choices, render, run_command, settings, sources
from experiments.reporting.table1 import build_table
from leep.results import read_runs

CHROMIUM = shutil.which("chromium")


def judged(results, start: str, section: str = "5.1") -> Finding:
    """What is found of the claim of a section that starts so."""
    runs = read_runs(results)
    (claim,) = [c for c in read_claims() if c["section"] == section and c["sentence"].startswith(start)]
    return judge(claim, Evidence(results, runs, 0, build_table(runs)))


def test_without_runs_nothing_is_measured(tmp_path):
    evidence = Evidence(tmp_path, pd.DataFrame(), 0, build_table(pd.DataFrame()))
    claims = read_claims()
    assert {judge(claim, evidence).verdict for claim in claims} == {"not yet measured"}
    assert {claim["section"] for claim in claims} == {f"5.{i}" for i in range(1, 8)}
    assert all(claim["rule"] and claim["sentence"] and "{" not in claim["rule"] for claim in claims)
    assert claims[1]["of"] == ["3", "4", "5", "6", "13", "14", "15", "16"] and claims[11]["share"] == 19 / 21
    assert claims[1]["rule"].startswith("Rows 3 to 6, 13 to 16: LEEP's r > 0.5 ")


def row(leep, other, p_leep=0.01, p_other=0.01):
    """A table in which row 1 has these correlations, and row 2 is not computed."""
    lines = {"row": [1, 1, 2], "measure": ["leep", "nce", "leep"], "r": [leep, other, None], "run": ["r", "r", None]}
    return pd.DataFrame(lines).assign(p_value=[p_leep, p_other, None], n_tasks=[200, 200, None])


UNDEFINED = float("nan")


@pytest.mark.parametrize(
    ("predicate", "table", "holds"),
    [
        ("above", row(0.51, 0), True),
        ("above", row(0.5, 0), False),
        ("above", row(0.51, 0, p_leep=0.05), False),
        ("above", row(UNDEFINED, 0, p_leep=UNDEFINED), False),
        ("at most", row(0.5, 0), True),
        ("at most", row(0.51, 0), False),
        ("not below", row(0.7, 0.7004), True),
        ("not below", row(0.7, 0.7006), False),
        ("not below", row(0.1, UNDEFINED), True),
        ("not below", row(UNDEFINED, 0.1), False),
        ("exceeds", row(0.7, 0.7), False),
        ("exceeds", row(0.1, UNDEFINED), True),
        ("not significant", row(0.1, 0.9, p_other=0.051), True),
        ("not significant", row(0.1, 0.9, p_other=0.05), False),
        ("not significant", row(0.1, UNDEFINED, p_other=UNDEFINED), True),
        ("gain", row(0.75, 0.5), True),
        ("gain", row(0.74, 0.5), False),
    ],
)
def test_predicates_of_rows(predicate, table, holds):
    claim = {"predicate": predicate, "of": ["1", "2"], "threshold": 0.5, "p": 0.05, "share": 1, "other": "nce"}
    finding = judge(claim, Evidence(None, None, 0, table))
    assert (finding.holds, finding.measured, finding.total) == (holds, 1, 2)


def test_verdicts():
    found = [Finding(True, 4, 4, {}), Finding(True, 1, 4, {}), Finding(False, 1, 4, {}), Finding(False, 0, 4, {})]
    assert tuple(f.verdict for f in found) == VERDICTS


def test_a_rule_holds_or_not_by_the_numbers(tmp_path):
    write_run(tmp_path / "strong", "large_balanced", target="cifar100", slope=20)
    found = judged(tmp_path / "strong", "LEEP scores clearly")
    assert found.verdict == "supported so far" and list(found.numbers) == ["row 1"]
    write_run(tmp_path / "weak", "large_balanced", target="cifar100", slope=1)
    assert judged(tmp_path / "weak", "LEEP scores clearly").verdict == "not supported"


def test_h_undefined_counts_as_failing_to_capture(tmp_path):
    write_run(tmp_path, "small_balanced", source="imagenet_resnet18")
    found = judged(tmp_path, "[H] completely", "5.6")
    assert found.verdict == "supported so far" and found.numbers == {"row 6": "undefined"}


def test_levels_that_fall_are_not_supported(tmp_path):
    write_run(tmp_path / "up", "small_balanced", slope=5, n=100)
    assert judged(tmp_path / "up", "Higher", "5.2").verdict == "supported so far"
    write_run(tmp_path / "down", "small_balanced", slope=-5, n=100)
    found = judged(tmp_path / "down", "Higher", "5.2")
    assert found.verdict == "not supported" and list(found.numbers) == ["CIFAR10 → FashionMNIST, re-train head"]


def test_convergence_claims(tmp_path):
    """The made-up models start 0.25 below the reference model and less, and end 0.05 above it at epoch 40."""
    write_convergence(tmp_path)
    assert judged(tmp_path, "These models", "5.5").verdict == "not supported"  # all end equally high
    assert judged(tmp_path, "In all cases", "5.5").verdict == "not supported"  # half of the epochs is too few
    found = judged(tmp_path, "On average", "5.5")
    assert (found.measured, found.total) == (1, 4) and list(found.numbers) == ["CIFAR10 → CIFAR100"]


@pytest.mark.parametrize(
    ("values", "epoch"), [([-0.2, -0.1, 0.3], 2.0), ([0.1, 0.2, 0.1], 0.0), ([-1, -1, -1], np.inf), ([-1, 0, 1], 1.0)]
)
def test_zero_of_a_curve_by_hand(values, epoch):
    assert zero(pd.Series(values, index=[0, 1, 5])) == pytest.approx(epoch)


def test_difference_of_levels_by_hand():
    """Tasks that are alike leave nothing to resample; two that differ give the three means of two drawn tasks."""
    epochs, last = [0, 1, 5], lambda curve: curve.iloc[-1]
    lowest = pd.DataFrame([[-0.2, 0.2, 0.1]] * 3, columns=epochs)
    highest = pd.DataFrame([[-0.3, 0.1, 0.4]] * 2, columns=epochs)
    assert level_difference(highest, lowest, last) == "+0.300 [+0.300, +0.300]"
    assert level_difference(highest, lowest, zero) == "+0.250 [+0.250, +0.250]"
    highest.iloc[0, -1] = 0.2
    assert level_difference(highest, lowest, last) == "+0.200 [+0.100, +0.300]"
    assert level_difference(highest - 1, lowest, zero) == "+∞ [+∞, +∞]"
    assert level_difference(highest - 1, lowest - 1, zero) == "undefined", "neither level reaches zero"


def test_choices_are_the_configurations():
    here = {choice["open"]: choice["here"] for choice in read_choices()}
    load = lambda group, name: OmegaConf.load(ROOT / "conf" / group / f"{name}.yaml")  # noqa: E731
    small, meta, large = (load("experiment", name) for name in ("small_balanced", "meta_transfer", "large_balanced"))
    assert here["Number of classes, Section 5.1"] == f"uniform over {large.task.min_classes} … {large.task.max_classes}"
    for name in ("retrain_head", "fine_tune", "from_scratch"):
        method = load("method", name)[name]
        assert here["Momentum, weight decay"] == f"{method.momentum:g} and {method.weight_decay:g}"
    assert f"rate {method.learning_rate}, batches of {method.batch_size}" in here["Reference models, Section 5.5"]
    epochs = here["Epochs, small and balanced"]
    assert (
        f"head {small.epochs.retrain_head} " in epochs and f"fine-tune {small.epochs.fine_tune} on CIFAR100" in epochs
    )
    assert f"{small.epochs_of.fashion_mnist.fine_tune} on FashionMNIST" in epochs
    selection = load("experiment", "source_selection").epochs.retrain_head
    assert here["Epochs, source selection"].startswith(f"{selection}, ")
    bins = here["Transferability levels"]
    assert (
        bins.startswith(f"{FIGURES['figure6'].n_levels} bins") and f"{FIGURES['figure8'].n_levels} in Figure 8" in bins
    )
    assert f"every {small.eval_every.fine_tune}th" in here["Convergence curves"]
    assert f"the {meta.task.n_classes * meta.task.per_class} context images" in here["Scores of Section 5.4"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with three rows of Table 1, one with a fourth measure and one with recorded classes."""
    root = tmp_path_factory.mktemp("results")
    write_run(root, "large_balanced", target="cifar100", classes=(2, 5, 9), n=40, further="log_me")
    write_run(root, "small_balanced", deviations=["<sample>"], sets=["1 2", "2 3", "0 1"])
    write_run(root, "small_imbalanced", method="fine_tune")
    call = {"tasks": 30, "seconds": 12.5, "workers": 2, "device": "cpu", "cpu": "Some CPU"}
    (run,) = root.glob("small_imbalanced/*/*/*/fine_tune-paper")
    (run / "times.jsonl").write_text(json.dumps(call) + "\n")
    return render(root, read_runs(root))


def test_page_holds_table_figures_claims_and_settings(page):
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    assert body.count("<tr ") == 21 and "<b>+0." in body
    assert "&lt;sample&gt;" in page and "<sample>" not in page
    assert page.count("<svg ") == 4, "Figures 1, 6, 7, which have data, and the measures"
    assert page.count('<figure id="figure') == len(NAMES) and "<li>Not computed: (a) " in page
    assert page.count("not yet measured") > 5
    assert "http://" not in page and "https://" not in page and "<img" not in page
    assert all(html.escape(c["rule"], quote=False) in page.replace("&#39;", "'") for c in read_claims())
    assert "30 tasks in 12.5 s, 2 workers, cpu, Some CPU" in page and page.count("wall time not recorded") == 2
    assert "python run.py experiment=small_balanced 'source=" in html.unescape(page) and "deviations" in page
    assert page.count('data-measure="log_me"') == 21 and "Intervals over sets of classes" in page
    assert "our interval in" in page


def test_the_command_of_a_run_repeats_its_budget():
    names = {"source": {"name": "s"}, "target": {"name": "t"}, "engine": {"name": "gluon", "precision": "float32"}}
    setting = {"scale": "paper", "epochs": 2, "max_examples": 1000}
    notes = {"n_tasks": 20, "deviations": ["2 of 100 epochs", "20 of 200 tasks", "about 1000 examples of a task"]}
    made = run_command({"experiment": "large_balanced", **names}, {"setting": setting, "notes": notes}, "fine_tune", 0)
    assert made.endswith("scale=paper n_tasks=20 scale.max_epochs.fine_tune=2 scale.max_examples.fine_tune=1000")
    whole = {"setting": {"scale": "paper", "epochs": 100}, "notes": {"n_tasks": 200, "stand_in": []}}
    made = run_command({"experiment": "large_balanced", **names}, whole, "fine_tune", 0)
    assert made.endswith("'method=[fine_tune]' scale=paper")


def test_sources_are_those_of_the_runs_each_once(tmp_path):
    write_run(tmp_path, "small_balanced")
    write_run(tmp_path, "small_imbalanced")
    write_run(tmp_path, "small_balanced", weights="gluon")
    found = sources(settings(tmp_path))
    assert [(line["name"], line["weights"]) for line in found] == [
        ("cifar10_resnet20", "bundled"),
        ("cifar10_resnet20", "gluon"),
    ]


def test_page_is_the_same_when_made_again(page, tmp_path):
    write_run(tmp_path, "small_balanced")
    runs = read_runs(tmp_path)
    assert render(tmp_path, runs) == render(tmp_path, runs)


SCRIPT = """
<script>
const seen = {};
const order = () => [...body.rows].filter(r => !r.hidden).map(r => r.cells[0].textContent);
const button = name => [...document.querySelectorAll("#results thead button")].find(b => b.textContent === name);
button("LEEP").click(); seen.ascending = order();
button("LEEP").click(); seen.descending = order();
seen.aria = [...document.querySelectorAll("th[aria-sort]")].map(h => h.textContent + h.getAttribute("aria-sort"));
button("Row").focus(); document.activeElement.click(); seen.back = order();
const select = document.querySelector("select[name=algorithm]");
select.value = "Fine-tune"; select.dispatchEvent(new Event("change", {bubbles: true}));
seen.filtered = order(); seen.shown = document.getElementById("shown").textContent;
seen.wide = document.documentElement.scrollWidth <= window.innerWidth;
document.body.insertAdjacentHTML("beforeend", "<pre id=seen></pre>");
document.getElementById("seen").textContent = JSON.stringify(seen);
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 500])  # chromium's windows are no narrower
def test_page_sorts_and_filters_in_a_browser(page, tmp_path, width):
    path = tmp_path / "report.html"
    path.write_text(page.replace("</body>", SCRIPT))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},900", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in done.stderr, done.stderr
    seen = json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', done.stdout)[1]))
    assert sorted(seen["ascending"][:3]) == sorted(seen["descending"][:3]) == ["1", "19", "5"]
    assert seen["ascending"][:3] == seen["descending"][2::-1] and seen["aria"] == ["LEEPdescending"]
    assert seen["back"] == [str(i) for i in range(1, 22)]
    assert seen["filtered"] == [str(i) for i in range(11, 21)] and seen["shown"] == "10 of 21 rows"
    assert seen["wide"]
