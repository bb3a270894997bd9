"""The report: claims by rule, choices from the configuration, and the page in a headless browser."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest
from test_table1 import write_convergence, write_run

from experiments.choices import choices
from experiments.claims import CLAIMS, VERDICTS, Evidence, Finding, _zero
from experiments.figures import NAMES
from experiments.report import render
from experiments.table1 import build_table
from leep.results import read_runs

CHROMIUM = shutil.which("chromium")


def judged(results, start: str, section: str = "5.1") -> Finding:
    """What is found of the claim of a section that starts so."""
    runs = read_runs(results)
    (claim,) = [c for c in CLAIMS if c.section == section and c.sentence.startswith(start)]
    return claim.judge(Evidence(results, runs, 0, build_table(runs)))


def test_without_runs_nothing_is_measured(tmp_path):
    evidence = Evidence(tmp_path, pd.DataFrame(), 0, build_table(pd.DataFrame()))
    assert {claim.judge(evidence).verdict for claim in CLAIMS} == {"not yet measured"}
    assert {claim.section for claim in CLAIMS} == {f"5.{i}" for i in range(1, 8)}
    assert all(claim.rule and claim.sentence for claim in CLAIMS)


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
    assert _zero(pd.Series(values, index=[0, 1, 5])) == pytest.approx(epoch)


def test_choices_are_the_configurations(monkeypatch):
    said = {what: here for what, here, _ in choices()}
    assert "224 pixels" in said["Input size for ImageNet models"]
    assert said["Momentum, weight decay"] == "0 and 0" and "250 context images" in said["Scores of Section 5.4"]
    assert "40 on FashionMNIST" in said["Epochs, small and balanced"]


def test_page_holds_table_figures_claims_and_settings(page):
    body = page[page.index("<tbody>") : page.index("</tbody>")]
    assert body.count("<tr ") == 21 and "<b>+0." in body
    assert "&lt;sample&gt;" in page and "<sample>" not in page
    assert page.count("<svg ") == len(NAMES) and page.count("not yet measured") > 5
    assert "http://" not in page and "https://" not in page and "<img" not in page
    assert all(html.escape(c.rule, quote=False) in page.replace("&#39;", "'") for c in CLAIMS)
    assert "30 tasks in 12.5 s, 2 workers, cpu, Some CPU" in page and page.count("wall time not recorded") == 2
    assert "python run.py experiment=small_balanced 'source=" in html.unescape(page) and "stand_in" in page


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
const points = [...document.querySelectorAll("#figure1 [id^=points-] use")];
seen.points = points.length; seen.stops = points.filter(p => p.tabIndex === 0).length;
points[2].dispatchEvent(new MouseEvent("mouseenter")); seen.hover = box.textContent;
points[2].dispatchEvent(new MouseEvent("mouseleave")); seen.left = box.textContent;
points[0].focus();
points[0].dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true}));
seen.focus = box.textContent;
document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: "Escape"})); seen.closed = box.textContent;
seen.wide = document.documentElement.scrollWidth <= window.innerWidth;
document.body.insertAdjacentHTML("beforeend", "<pre id=seen></pre>");
document.getElementById("seen").textContent = JSON.stringify(seen);
</script></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 500])  # chromium's windows are no narrower
def test_page_sorts_filters_and_hovers_in_a_browser(page, tmp_path, width):
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
    assert seen["points"] == 40 and seen["stops"] == 1
    assert seen["hover"].startswith("Re-train head, task 2: LEEP ") and "9 classes, 120 examples" in seen["hover"]
    assert seen["focus"].startswith("Re-train head, task 1: ") and seen["left"] == seen["closed"] == ""
    assert seen["wide"]
