"""What the choices that the paper leaves open do to Table 1: rows 3, 5, 7 and 9 again, one choice changed at a time.

python scripts/sensitivity.py results/sensitivity          # runs what is not there, then writes sensitivity.md there
python scripts/sensitivity.py results/sensitivity --read   # only reads
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

from experiments.reporting.predictors import PAPER_MEASURES, label
from experiments.reporting.render import markdown_lines, signed
from experiments.reporting.table1 import build_table
from leep.files import write_atomically
from leep.results import read_runs

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "cifar10_resnet20"
ROWS = (3, 5, 7, 9)
SIGNED = [f"source.{SOURCE}.mean=[0.5,0.5,0.5]", f"source.{SOURCE}.std=[0.5,0.5,0.5]"]
MOMENTUM = "method.retrain_head.momentum=0.9"
VARIANTS = {  # name: what is said to run.py
    "as in Table 1": [],
    "28 pixels": [f"source.{SOURCE}.size=28"],
    "40 pixels": [f"source.{SOURCE}.size=40"],
    "ImageNet's normalisation": [
        f"source.{SOURCE}.mean=[0.485,0.456,0.406]",
        f"source.{SOURCE}.std=[0.229,0.224,0.225]",
    ],
    "images in [−1, 1]": SIGNED,
    "momentum 0.9": [MOMENTUM],
    "momentum 0.9, images in [−1, 1]": [MOMENTUM, *SIGNED],
    "batches of 32": ["method.retrain_head.batch_size=32"],
    "other tasks (seed 1)": ["seed=1"],
    "other tasks (seed 2)": ["seed=2"],
}


def run(folder: Path, name: str, further: list[str]) -> None:
    """Compute a variant into a folder of its own; what is there already is not computed again."""
    print(f"\n{name}", flush=True)
    command = [sys.executable, "run.py", "-m", "experiment=small_balanced,small_imbalanced", "scale=paper"]
    command += [f"source=[{SOURCE}]", "method=[retrain_head]", "target=[cifar100,fashion_mnist]", "strict=true"]
    command += [f"paths.results={place(folder, name)}", *VARIANTS[name], *further]
    subprocess.run(command, cwd=ROOT, check=True)


def place(folder: Path, name: str) -> Path:
    """The results folder of a variant."""
    return folder.resolve() / "".join(c if c.isalnum() else "_" for c in name)


def to_markdown(tables: dict[str, pd.DataFrame]) -> str:
    """A line for each variant, a column for each row of Table 1 and measure: Pearson's r.

    Parameters
    ----------
    tables : dict of the tables that `build_table` makes, by the name of the variant
    """
    header = ["Change", *(f"Row {row}: {label(measure)}" for row in ROWS for measure in PAPER_MEASURES)]
    lines, paper = [header], None
    for name, table in tables.items():
        found = table.set_index(["row", "measure"])
        cells = [(row, measure) for row in ROWS for measure in PAPER_MEASURES]
        paper = ["*the paper*", *(signed(found.paper_r[cell]) for cell in cells)]
        lines.append([name, *("—" if pd.isna(found.r[cell]) else signed(found.r[cell]) for cell in cells)])
    return "\n".join(markdown_lines([*lines, paper] if paper else lines)) + "\n"


def main() -> None:
    """Run every variant, then write and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where results go, a folder a variant")
    parser.add_argument("--read", action="store_true", help="run nothing")
    arguments, further = parser.parse_known_args()  # further values go to run.py, e.g. paths.cache=DIR
    if not arguments.read:
        for name in VARIANTS:
            run(arguments.folder, name, further)
    tables = {}
    for name, values in VARIANTS.items():
        seed = next((int(v.removeprefix("seed=")) for v in values if v.startswith("seed=")), 0)
        tables[name] = build_table(read_runs(place(arguments.folder, name)), seed)
    text = to_markdown(tables)
    write_atomically(arguments.folder / "sensitivity.md", text.encode())
    print(text)


if __name__ == "__main__":
    main()
