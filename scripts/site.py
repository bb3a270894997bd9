"""Gathers the pages of the site, a hook of mkdocs.yml: README.md, docs, notebooks, and what they link to."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GATHERED = ROOT / "build" / "docs"
MOVED = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}  # all else of docs/ stands at the top
FOLDERS = ("results/reference/figures", "notebooks")
LINK = re.compile(r"(!?)\[((?:[^][]|\[[^][]*\])*)\]\(([^)\s#]*)(#[^)\s]*)?\)")


def on_config(config):
    """Have mkdocs read the gathered pages."""
    gather(GATHERED)
    config["docs_dir"] = str(GATHERED)
    return config


def gather(folder: Path) -> None:
    """Write the pages of the site and the files that they show into a folder, which is made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    pages += [*sorted((ROOT / "results" / "reference").glob("*.md"))]
    copied = [path for name in FOLDERS for path in sorted((ROOT / name).iterdir()) if path.suffix in (".png", ".ipynb")]
    there = {path: place_of(path) for path in [*pages, *copied]}
    for path, place in there.items():
        target = folder / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if path in pages:
            target.write_text(relinked(path, there), "utf-8")
        else:
            shutil.copy(path, target)


def place_of(path: Path) -> str:
    """Where a file of the repository stands in the site."""
    name = path.relative_to(ROOT).as_posix()
    return MOVED.get(name, name.removeprefix("docs/"))


def relinked(page: Path, there: dict[Path, str]) -> str:
    """The text of a page with its links as they are in the site; of a link to what is not there the text stays."""
    depth = place_of(page).count("/")

    def replace(link: re.Match) -> str:
        image, text, target, anchor = link.groups()
        if not target or target.startswith(("http", "mailto:")):
            return link[0]
        path = (page.parent / target).resolve()
        return f"{image}[{text}]({'../' * depth}{there[path]}{anchor or ''})" if path in there else text

    return LINK.sub(replace, page.read_text("utf-8"))
