"""The page of `leep rank`: what stands on it, that it needs no network, and how it looks in a browser."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from leep.cli import main
from leep.reporting.charts import log_ticks, ticks
from leep.reporting.page import breakable, percent

CHROMIUM = shutil.which("chromium")
VOID = {"meta", "link", "img", "br", "wbr", "input", "hr"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with three classes, one of them with a name that HTML would take for a tag, outputs of three models."""
    root = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    names = ["<b>owl", "cat", "dog"]
    for name in names:
        for i in range(20):
            path = root / "images" / name / f"{i:02d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).save(path)
    labels = np.repeat(range(3), 20)
    near = np.eye(3)[labels] + rng.normal(0, 0.4, (60, 3))
    probs = np.exp(near) / np.exp(near).sum(1, keepdims=True)
    np.savez(root / "good.npz", features=near, probs=probs, class_names=np.array(["<i>owl", "lion", "wolf"]))
    np.savez(root / "poor.npz", features=rng.normal(size=(60, 3)), probs=rng.dirichlet(np.ones(4), 60))
    np.savez(root / "headless.npz", features=near + rng.normal(0, 0.4, (60, 3)))
    np.savez(root / "short.npz", features=near[:9])
    return root


@pytest.fixture(scope="module")
def page(made):
    argv = ["rank", made / "images", "--models", f"arrays:{made}/*.npz", "--output", made / "out"]
    assert main([*map(str, argv), "--cache", str(made / "cache")]) == 0
    return (made / "out" / "index.html").read_text("utf-8")


class Reader(HTMLParser):
    """Checks that tags are closed in order; collects ids, links and the text of cells."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.links, self.sources, self.cells = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if "href" in attrs else []
        self.sources += [attrs["src"]] if "src" in attrs else []
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def test_is_whole_and_needs_no_network(page):
    found = Reader(page)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)
    assert all(link.startswith(("#", "data:")) for link in found.links)
    assert found.sources and all(source.startswith("data:image/jpeg;base64,") for source in found.sources)
    assert "default-src 'none'" in page and not re.search(r"url\(|@import|https?://", page)


def test_recommendation_comes_first(page, made):
    (heading,) = re.findall("<h1>(.*?)</h1>", page, re.S)
    assert "good" in heading
    assert page.index("<h1>") < page.index("<table")
    assert "it was not tried" in page


def test_cells(page):
    cells = [cell.strip() for cell in Reader(page).cells]
    assert {"good", "poor", "headless", "lion", "wolf"} <= {w for cell in cells for w in re.split(r"[^a-z]+", cell)}
    assert cells.count("—") >= 3  # measures, parameters and speed of a model of which they are not known


def test_names_are_text(page):
    assert "<b>owl" not in page and "<i>owl" not in page
    assert "<b>owl" in html.unescape(page) and "<i>owl" in html.unescape(page)


def test_failures_and_command_stand_on_it(page):
    text = html.unescape(re.sub("<[^>]*>", "", page))
    assert "outputs of 9 images, and there are 60" in text
    assert "leep rank" in text and "--output" not in text


def test_not_verified(made):
    argv = ["rank", made / "images", "--models", made / "good.npz", made / "headless.npz", "--verify", "none"]
    assert main([*map(str, argv), "--output", str(made / "none.html"), "--cache", str(made / "cache")]) == 0
    text = (made / "none.html").read_text("utf-8")
    assert Reader(text).open == []
    assert "nothing was verified" in text and "Accuracy, %" not in text and 'id="by-class"' not in text


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.78, 0.87, [0.78, 0.8, 0.82, 0.84, 0.86]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-1.9, -1.5, [-1.9, -1.8, -1.7, -1.6, -1.5]),
    ],
)
def test_ticks(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_ticks_of_a_logarithmic_axis():
    assert log_ticks(2, 3) == [100, 200, 500, 1000]
    assert len(log_ticks(2.01, 2.02)) == 2  # at least two, however short the axis
    assert log_ticks(0, 6) == [1, 10, 100, 1000, 10_000, 100_000, 1_000_000]


def test_texts():
    assert breakable("a_b:<i>") == "a_<wbr>b:<wbr>&lt;i&gt;"
    assert breakable("m.onnx, 46.5 %") == "m.<wbr>onnx, 46.5 %"
    assert (percent(0.5), percent(1, 0), percent(None)) == ("50.0", "100", "—")


SCRIPT = """
<script>
function names() { return [...document.querySelectorAll("#results tbody th")].map(cell => cell.textContent).join(","); }
const said = [names()];
const button = [...document.querySelectorAll("#results thead button")].find(b => b.textContent === "nce");
button.focus(); said.push(document.activeElement === button);
button.click(); said.push(names()); button.click(); said.push(names());
said.push(button.closest("th").getAttribute("aria-sort"));
said.push(document.documentElement.scrollWidth <= innerWidth);
document.title = "said " + said.join("|");
</script>
"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(page, tmp_path, width):
    """Sorted by the script, unknown values last; no wider than the window. The window is a frame: Chromium's own are
    no narrower than 500 pixels."""
    (tmp_path / "page.html").write_text(page.replace("</body>", f"{SCRIPT}</body>"), "utf-8")
    frame = f'<iframe src="page.html" style="width:{width}px;height:900px;border:0"></iframe>'
    copy = "<script>onload = () => document.title = frames[0].document.title</script>"
    (tmp_path / "frame.html").write_text(f"<!doctype html>{frame}{copy}", "utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--dump-dom"]
    done = subprocess.run([*command, f"file://{tmp_path}/frame.html"], capture_output=True, text=True, timeout=120)
    (title,) = re.findall("<title>said (.*?)</title>", done.stdout)
    first, focused, up, down, order, fits = title.split("|")
    assert first.split(",")[0] == "good"
    assert (focused, order, fits) == ("true", "descending", "true")
    assert up == "poor,good,headless" and down == "good,poor,headless"
