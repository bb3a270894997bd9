"""`leep models`: which models are known, which can run here, what each of the others needs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

OWN = {  # specs of what a user may bring
    "onnx:FILE.onnx": "a classifier as an ONNX graph",
    "arrays:FILE.npz": "features and probabilities computed elsewhere",
    "python:MODULE:FUNCTION": "what your own code makes",
}


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the parser of `leep models`."""
    parser = commands.add_parser(
        "models",
        help="which models can be ranked here, and what the others need",
        description="List the models that leep rank knows: those that can run here now, and what the others need.",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="only names that hold all of these words")
    parser.add_argument("--all", action="store_true", help="also each model that cannot run here")
    parser.add_argument("--search", nargs="+", metavar="DIR", default=[], help="folders with .onnx files")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    from leep.models.known import A_FILE, known_models

    found = [info for info in known_models(args.search) if all(w.lower() in info.spec.lower() for w in args.words)]
    if args.json:
        print(json.dumps([asdict(info) for info in found], indent=2, ensure_ascii=False))
        return
    here = [info.spec for info in found if info.available]
    others = [info for info in found if not info.available and info.needs != A_FILE]
    print(f"{len(here)} with weights here can run now" + (":" if here else "."))
    for spec in here:
        print(f"  {spec}")
    if not args.words:
        lacking = {info.spec.partition(":")[0] for info in others}
        print("\nWith a file of your own can run:")
        for spec, what in OWN.items():
            if spec.partition(":")[0] not in lacking:
                print(f"  {spec:<22}  {what}")
        print("--search DIR finds the .onnx files of a folder, here and in leep rank.")
    if not others:
        return
    print(f"\n{len(others)} need something:")
    if args.all or args.words or len(others) <= 12:
        width = max(len(info.spec) for info in others)
        for info in others:
            print(f"  {info.spec:<{width}}  {info.needs}")
        return
    for kind in dict.fromkeys(info.spec.partition(":")[0] for info in others):
        of_kind = [info for info in others if info.spec.startswith(f"{kind}:")]
        names = ", ".join(info.spec.partition(":")[2] for info in of_kind[:3])
        more = f", … {len(of_kind):,} in all" if len(of_kind) > 3 else ""
        needs = "; ".join(dict.fromkeys(info.needs.replace(info.spec, f"{kind}:NAME") for info in of_kind))
        print(f"  {kind}: {names}{more}: {needs}")
    print("\nleep models WORD … shows names that hold the word; leep models --all shows all.")
