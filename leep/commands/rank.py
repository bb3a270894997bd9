"""`leep rank`: which of these models to fine-tune on a folder of labelled images."""

from __future__ import annotations

import argparse
import gc
import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from leep.errors import Invalid, LeepError
from leep.measures import MEASURES, check_measure

if TYPE_CHECKING:
    from leep.commands.survey import Candidate
    from leep.models import FolderImages, ImageFolder, Outputs

EPOCHS = 5
STOPPED = "stopped; what was computed is kept, and the same command goes on from there"
MEND = "Mend them, or leave them out by --on-damaged skip"
EPILOG = """\
FOLDER holds a sub-folder of image files for each class, and comes first. In its place there may be a table, LABELS.csv,
with the columns file and label; files are looked for beside the table. A model is one of

  onnx:FILE.onnx            a classifier as an ONNX graph
  torchvision:NAME[=FILE]   such as torchvision:resnet18
  timm:NAME[=FILE]          such as timm:convnext_tiny.fb_in1k
  hf:NAME                   an image classifier of transformers
  gluon:NAME[=FILE]         a model of GluonCV, where MXNet is installed
  python:MODULE:FUNCTION    what your own code makes
  arrays:FILE.npz           features and probabilities computed elsewhere; arrays:outputs/*.npz for several

The rows of arrays:FILE.npz must be in the order of the images: sorted by class folder, then by split if there are some,
then by file name, with the files of a sub-folder after those beside it; or in the order of the lines of LABELS.csv.
Or the archive has an array, files, with the file of each row, relative to FOLDER or to the table's folder.

  leep rank my/images
  leep rank my/labels.csv --models timm:convnext_tiny.fb_in1k
  leep rank my/images --models torchvision:resnet18 onnx:model.onnx --output report
"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the parser of `leep rank`."""
    parser = commands.add_parser(
        "rank",
        help="which of several models to fine-tune on a folder of labelled images",
        description="Rank models by the cross-validated accuracy of a linear head on their features of your images, "
        "beside LEEP, NCE and H score, and write ranking.csv, ranking.json and index.html.",
        usage="leep rank FOLDER [--models SPEC ...] [--output DIR] [OPTION ...]",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = "a sub-folder of image files for each class, or LABELS.csv"
    parser.add_argument("folder", nargs="?", metavar="FOLDER", help=what)
    parser.add_argument(
        "--models",
        nargs="+",
        metavar="SPEC",
        help="default: every model that can run here without a download; leep models lists them",
    )
    parser.add_argument(
        "--search", nargs="+", metavar="DIR", default=[], help="without --models: also the .onnx files of these folders"
    )
    parser.add_argument(
        "--output", metavar="DIR", help="a new folder, or a new .html file; default: a folder named by the date"
    )
    parser.add_argument(
        "--verify",
        default="probe",
        metavar="HOW",
        help="probe: cross-validated heads decide (default); fine_tune:N: and the first N are fine-tuned; "
        "none: ranked by LEEP alone",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help=f"of --verify fine_tune:N; default: {EPOCHS}")
    parser.add_argument(
        "--measures",
        nargs="+",
        metavar="NAME",
        default=["leep", "nce", "h_score"],
        help=f"some of {', '.join(MEASURES)}, or module:function of your own; default: leep nce h_score",
    )
    parser.add_argument("--max-images", type=int, metavar="N", help="a random part of the images, by class")
    parser.add_argument(
        "--budget", metavar="TIME", help="such as 90s, 10m, 2h: what takes longer is left out, the slowest model first"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and stop")
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:1")
    parser.add_argument("--download", action="store_true", help="let torchvision, timm and transformers fetch weights")
    parser.add_argument("--on-damaged", choices=("error", "skip"), default="error", help="damaged image files")
    parser.add_argument("--seed", type=int, default=0, help="of folds, resamples and training (default 0)")
    parser.add_argument("--cache", metavar="DIR", help="where passes are kept; default: ~/.cache/leep")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> None:
    begin = time.monotonic()
    _check(args)
    from leep.commands import survey
    from leep.data.picture import list_damaged
    from leep.models import default_cache, find_images
    from leep.reporting.answer import Places

    places = Places.choose(args.output)
    folder = find_images(args.folder)
    _say(survey.describe_images(folder))
    for note in folder.notes:
        _say(f"note: {note}")
    if damaged := survey.look_for_damage(folder):
        text = list_damaged(damaged, len(folder))
        if args.on_damaged == "error":
            raise Invalid(f"{text}\n{MEND}")
        _say(f"left out: {text}")
        folder = folder.take([row for row, name in enumerate(folder.files) if name not in damaged])
    whole, folder = folder, survey.take_at_most(folder, args.max_images, args.seed)
    if len(folder) < len(whole):
        _say(f"--max-images: {len(folder):,} of them are used")
    cache = Path(args.cache).expanduser() if args.cache else default_cache()
    candidates = _try_candidates(args, folder, cache)
    survey.keep_within(candidates, folder, read_budget(args.budget))
    _announce(args, candidates, folder)
    if not any(c.model for c in candidates):
        raise Invalid("no model can run; leep models says what each needs")
    if args.dry_run:
        _say("--dry-run: nothing was computed")
        return
    images = _decode(args, folder, candidates, cache)
    args.stopped = STOPPED
    for note in images.notes:
        _say(f"note: {note}")
    outputs = _pass(args, candidates, images, cache)
    _answer(args, places, whole, images, candidates, outputs, cache, {**damaged, **images.damaged}, begin)


def _check(args: argparse.Namespace) -> None:
    """All that can be seen without a look at images or models."""
    if args.folder is None:
        raise Invalid("expected FOLDER first, such as leep rank my/images --models onnx:model.onnx")
    how, _, count = args.verify.partition(":")
    if how != "fine_tune" and args.verify not in ("probe", "none"):
        raise Invalid(f"--verify must be probe, fine_tune:N or none, got {args.verify!r}")
    if how == "fine_tune" and not (count.isdecimal() and int(count)):
        raise Invalid(f"--verify must say how many models, such as fine_tune:2, got {args.verify!r}")
    if args.epochs is not None and how != "fine_tune":
        raise Invalid(f"--epochs is of --verify fine_tune:N, got --verify {args.verify}")
    args.epochs = EPOCHS if args.epochs is None else args.epochs
    if args.epochs < 1:
        raise Invalid(f"--epochs must be a positive number, got {args.epochs}")
    args.count = int(count) if how == "fine_tune" else 0
    args.measures = list(dict.fromkeys(name for text in args.measures for name in text.split(",") if name))
    for name in args.measures:
        try:
            check_measure(name)
        except (ValueError, TypeError) as error:
            raise Invalid(f"--measures: {error}") from error
    if args.verify == "none" and "leep" not in args.measures:
        raise Invalid("--measures must hold leep, which ranks with --verify none")
    if args.models is not None and args.search:
        raise Invalid("--search finds models where no --models are given; give one of the two")
    if args.max_images is not None and args.max_images < 1:
        raise Invalid(f"--max-images must be a positive number, got {args.max_images}")
    if args.seed < 0:
        raise Invalid(f"--seed must be at least 0, got {args.seed}")
    read_budget(args.budget)


def read_budget(text: str | None) -> float | None:
    """Seconds of `--budget`, or None."""
    from leep.commands.survey import read_duration

    try:
        return None if text is None else read_duration(text)
    except ValueError:
        raise Invalid(f"--budget must be a time such as 90s, 10m or 2h, got {text!r}") from None


def _try_candidates(args: argparse.Namespace, folder: ImageFolder, cache: Path) -> list[Candidate]:
    from leep.commands import survey
    from leep.models import expand_specs, known_models

    missing: list[Candidate] = []
    if args.models is None:
        known = known_models(args.search)
        specs = [info.spec for info in known if info.available]
        others = {info.spec: info.needs for info in known if not info.available}
        if others:
            _say(f"{len(others):,} models that are known need a download or a package; leep models lists them")
        if not specs:
            raise Invalid(
                "no model can run here without a download; name some by --models, with --download if their weights "
                "must be fetched, or give the folder of .onnx files by --search DIR"
            )
    else:
        specs = []
        for spec in dict.fromkeys(args.models):
            try:
                specs += expand_specs([spec])
            except LeepError as error:
                missing.append(survey.Candidate(spec, spec, reason=str(error).removeprefix(f"{spec}: ")))
    _say(f"{len(specs)} model{'s' if len(specs) != 1 else ''}, each tried on one batch:")
    specs = list(dict.fromkeys(specs))
    found = survey.try_models(specs, folder, cache, _say, **_options(args)) if specs else []
    for candidate in missing:
        _say(f"  {candidate.spec}  cannot run: {candidate.reason}")
    return found + missing


def _options(args: argparse.Namespace) -> dict:
    """Of `open_model`."""
    return {"device": args.device, "download": args.download}


def _announce(args: argparse.Namespace, candidates: list[Candidate], folder: ImageFolder) -> None:
    """What will be done, the time and memory it takes."""
    from leep.commands.survey import duration

    able = [c for c in candidates if c.model]
    for candidate in candidates:
        if candidate.reason.startswith("not tried"):
            _say(f"  {candidate.spec}  {candidate.reason}")
    seconds = sum(c.seconds(folder) for c in able)
    memory = 0.4e9 + max((c.n_bytes(folder) for c in able), default=0)
    lost = len(candidates) - len(able)
    left_out = f", {lost} cannot run or {'is' if lost == 1 else 'are'} left out" if lost else ""
    _say(f"{len(able)} to rank{left_out}; expected: {duration(seconds)}, {memory / 1e9:.1f} GB of memory")
    if args.count:
        times = sorted(c.training_seconds(len(folder), args.epochs) or 0 for c in able if c.model.trainable)
        times = times[-args.count :]
        most = f"at most {duration(sum(times))} more" if times else "none of these models can be trained"
        _say(f"then {len(times)} to fine-tune, --epochs {args.epochs}: {most}")


def _decode(args: argparse.Namespace, folder: ImageFolder, candidates: list[Candidate], cache: Path) -> FolderImages:
    from leep.models import read_images

    resizes = {c.model.resize for c in candidates if c.model and c.model.resize}
    try:
        return read_images(folder, resizes, cache=cache, skip_damaged=args.on_damaged == "skip")
    except Invalid as error:
        raise Invalid(f"{error}\n{MEND}") from error


def _pass(
    args: argparse.Namespace, candidates: list[Candidate], images: FolderImages, cache: Path
) -> dict[str, Outputs]:
    """The outputs of each model by its name; a model that fails costs only its own row, and one is open at a time."""
    from leep.models import images_to_pass, model_outputs, open_model

    outputs = {}
    for candidate in candidates:
        if candidate.model is None:
            continue
        try:
            model = candidate.model
            if images_to_pass(model, images, cache=cache):
                model = open_model(candidate.spec, **_options(args))
            outputs[candidate.name] = found = model_outputs(model, images, cache=cache)
            candidate.images_per_second = found.images_per_second or candidate.images_per_second
        except Exception as error:  # whatever a model's library raises must not cost the others
            kind = "" if isinstance(error, LeepError) else f"{type(error).__name__}: "
            candidate.fail(f"{kind}{' '.join(str(error).split())[:300]}".removeprefix(f"{candidate.name}: "))
            _say(f"{candidate.name}: {candidate.reason}; the others go on")
        model = None
        gc.collect()
    if not outputs:
        raise Invalid("no model is left: each failed, as said above")
    return outputs


def _answer(args, places, whole, images, candidates, outputs, cache, damaged, begin) -> None:
    from leep.commands.fine_tuning import fine_tune_first
    from leep.reporting.answer import make_answer, write_answer

    how = args.verify if args.verify == "none" else "probe"
    answer = make_answer(images, candidates, outputs, measures=args.measures, verify=how, seed=args.seed)
    if args.count:
        _say(answer.ranking.sentence)
        budget = read_budget(args.budget)
        found = fine_tune_first(
            candidates, answer.ranking, outputs, images, args.count,
            epochs=args.epochs, seed=args.seed, cache=cache, say=_say, end=budget and begin + budget, **_options(args),
        )  # fmt: skip
        answer.add(found)
    answer.about |= {
        "command": _again(args.argv),
        "verify": args.verify,
        "folder": str(args.folder),
        "device": args.device,
        "n_images_found": len(whole),
        "damaged": damaged,
        "seconds": round(time.monotonic() - begin, 1),
    }
    write_answer(answer, places)
    print(json.dumps(answer.to_dict(), indent=2, ensure_ascii=False) if args.json else answer.text())
    _say(f"\n{places.page}")


def _again(argv: list[str]) -> str:
    """The command line without `--output`, for what it names is there now."""
    kept, skip = [], False
    for word in argv:
        if not skip and not word.startswith("--output="):
            skip = word == "--output"
            kept += [] if skip else [word]
        else:
            skip = False
    return shlex.join(["leep", *kept])


def _say(text: str) -> None:
    """A line on the error stream, because standard output is the answer's."""
    print(text, file=sys.stderr, flush=True)
