"""The command `leep`: `leep score` computes the measures from arrays in files; the others are in `leep.commands`."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np

from leep import __version__
from leep.array_files import ALIASES, TABLES, load_archive, load_array
from leep.commands import models, rank
from leep.errors import LeepError
from leep.measures import MEASURES, check_measure, measure_arguments, score_task

OPTIONS = {
    "source_probs": "--probs",
    "source_labels": "--source-labels",
    "features": "--features",
    "target_labels": "--labels",
}


class UsageError(LeepError):
    """What was typed cannot be done; the message says what was expected, what came, and how to mend it."""


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help says more\n")


PAPER_MEASURES = ("h_score", "leep", "nce")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line, such as `["score", "outputs.npz"]`; returns the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may lack − and ≤
    args = _parser().parse_args(argv)
    args.argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `head`, has what it wants
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except LeepError as error:
        print(f"leep {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\nleep {args.command}: {getattr(args, 'stopped', 'stopped')}", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="leep", description="How well will a pre-trained classifier transfer to a data set?")
    parser.add_argument("--version", action="version", version=f"leep {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    rank.add_parser(commands)
    models.add_parser(commands)
    _add_score(commands)
    return parser


def _add_score(commands: argparse._SubParsersAction) -> None:
    aliases = "\n".join(f"  {name:<14} {', '.join(others)}" for name, others in ALIASES.items())
    parser = commands.add_parser(
        "score",
        help="the measures of one source model on one target data set, from arrays in files",
        description="Compute transferability measures from the outputs of a source model on labelled target examples.",
        epilog=f"""\
A FILE is an .npy array, an .npz archive (FILE.npz:NAME for one of its arrays), or a text table (.csv, .tsv, .txt).
Rows are examples, in the same order in all files. Labels are integers or text. Arrays of an archive are known by
these names:

{aliases}

  leep score --probs probs.npy --labels labels.csv --features features.npy
  leep score outputs.npz --measures leep nce --json
""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("archive", nargs="?", metavar="FILE.npz", help="an archive that holds several of the arrays")
    parser.add_argument(
        "--probs",
        metavar="FILE",
        dest="source_probs",
        help="the source model's probabilities for its own classes, (n, source classes); logits need a softmax before",
    )
    parser.add_argument(
        "--source-labels",
        metavar="FILE",
        dest="source_labels",
        help="the source model's predicted classes, (n,); default: the most probable ones of --probs",
    )
    parser.add_argument(
        "--features", metavar="FILE", dest="features", help="the inputs of the source model's last layer, (n, features)"
    )
    parser.add_argument("--labels", metavar="FILE", dest="target_labels", help="the target labels, (n,)")
    parser.add_argument(
        "--measures",
        nargs="+",
        metavar="NAME",
        help=f"some of {', '.join(MEASURES)}, or module:function of your own, or all; "
        "default: leep, nce and h_score, where their arrays are given",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with all digits, instead of a table")
    parser.set_defaults(run=_run_score)


def _run_score(args: argparse.Namespace) -> None:
    wanted = _check_measures(args.measures)
    arrays, origins, notes = _read_arrays(args)
    _check_lengths(arrays, origins)
    if "source_labels" not in arrays and "source_probs" in arrays and arrays["source_probs"].ndim == 2:
        arrays["source_labels"] = np.argmax(arrays["source_probs"], axis=1)
    names, left_out = _choose_measures(wanted, arrays)
    scores = {}
    for name in names:
        try:
            scores[name] = score_task(name, arrays)
        except ValueError as error:
            if wanted == ["all"]:
                left_out.append(f"{name} is not computed: {error}")
                continue
            files = ", ".join(dict.fromkeys(origins[a] for a in measure_arguments(name) if a in origins))
            raise UsageError(f"{error} ({files})") from error
    result = {"scores": scores, **_sizes(arrays), "notes": notes + _remarks(scores, arrays) + left_out}
    print(json.dumps(result, indent=2, ensure_ascii=False) if args.json else _table(result))


def _read_arrays(args: argparse.Namespace) -> tuple[dict[str, np.ndarray], dict[str, str], list[str]]:
    """The arrays by their names in `leep.measures.VOCABULARY`, the file of each, and what a user must know of them."""
    arrays: dict[str, np.ndarray] = {}
    places = {name: getattr(args, name) for name in OPTIONS if getattr(args, name)}
    origins: dict[str, str] = {}
    notes = []
    if args.archive:
        arrays, unknown = load_archive(args.archive, OPTIONS.keys() - places.keys())
        origins = dict.fromkeys(arrays, args.archive)
        if unknown:
            notes.append(
                f"{args.archive}: {', '.join(unknown)} not used, because no measure takes an array of that name"
            )
    arrays |= {name: load_array(place, name) for name, place in places.items()}
    origins |= places
    if "target_labels" not in arrays:
        known = ", ".join(ALIASES["target_labels"])
        raise UsageError(
            f"the target labels are missing: give --labels FILE, or an archive with an array named {known}"
        )
    for name in ("target_labels", "source_labels"):
        if name in arrays and arrays[name].dtype.kind == "U":
            texts, codes = np.unique(arrays[name], return_inverse=True)
            arrays[name] = codes.reshape(arrays[name].shape)
            notes.append(f"{name} are text, numbered in alphabetical order: {_enumerate(texts)}")
    return arrays, origins, notes


def _check_lengths(arrays: Mapping[str, np.ndarray], origins: Mapping[str, str]) -> None:
    lengths = {name: len(values) for name, values in arrays.items() if values.ndim}
    if len(set(lengths.values())) < 2:
        return
    found = ", ".join(f"{n} of {name} ({origins[name]})" for name, n in lengths.items())
    longer = [origins[name] for name, n in lengths.items() if n == min(lengths.values()) + 1]
    tables = [place for place in longer if place.endswith(TABLES)]
    hint = f"; is the first line of {tables[0]} a header that was read as data?" if tables else ""
    raise UsageError(f"expected as many rows in all arrays, got {found}{hint}")


def _check_measures(given: Sequence[str] | None) -> list[str]:
    """The names that were given, one by one or divided by commas; none stands for the paper's, "all" for every one."""
    names = list(dict.fromkeys(name for text in given or () for name in text.split(",") if name))
    for name in names if names != ["all"] else ():
        try:
            check_measure(name)
        except (ValueError, TypeError) as error:  # the latter of what is no function
            hint = "; a file comes before --measures" if name.endswith((".npy", ".npz", *TABLES)) else ""
            raise UsageError(f"--measures {name}: {error}{hint}") from error
    return names


def _choose_measures(wanted: Sequence[str], arrays: Mapping[str, np.ndarray]) -> tuple[list[str], list[str]]:
    """The measures to compute, and a line for each that was not asked for and lacks an array."""
    names = MEASURES if wanted == ["all"] else wanted or PAPER_MEASURES
    options = OPTIONS | {"source_labels": "--source-labels or --probs"}
    lacks = {name: [options[a] for a in measure_arguments(name) if a not in arrays] for name in names}
    chosen = [name for name, missing in lacks.items() if not missing]
    said = [f"{name} needs {' and '.join(missing)}" for name, missing in lacks.items() if missing]
    if said and (wanted not in ([], ["all"]) or not chosen):
        raise UsageError(f"{'; '.join(said)}; got {', '.join(OPTIONS[name] for name in arrays)}")
    return chosen, [f"not computed: {line}" for line in said]


def _sizes(arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    sizes = {"n_examples": len(arrays["target_labels"]), "n_target_classes": len(np.unique(arrays["target_labels"]))}
    for name, array in (("n_source_classes", "source_probs"), ("n_features", "features")):
        if array in arrays and arrays[array].ndim == 2:
            sizes[name] = arrays[array].shape[1]
    return sizes


def _remarks(scores: Mapping[str, float], arrays: Mapping[str, np.ndarray]) -> list[str]:
    """What the scores do not say by themselves."""
    n_classes = len(np.unique(arrays["target_labels"]))
    if n_classes == 1:
        return ["all scores are 0, because there is only one target class"]
    n, d = arrays["features"].shape if "h_score" in scores else (1, 0)
    if n <= d and np.isclose(scores["h_score"], n_classes - 1):
        return [f"h_score is constant, classes − 1 = {n_classes - 1}, because n ≤ d: {n} examples, {d} features"]
    return []


def _enumerate(texts: Sequence[str], most: int = 6) -> str:
    shown = ", ".join(f"{k} = {text}" for k, text in enumerate(texts[:most]))
    return shown + (f", … {len(texts)} in all" if len(texts) > most else "")


def _table(result: Mapping) -> str:
    """Sizes, a line a measure, and the notes, as text."""
    units = {"examples": "n_examples", "target classes": "n_target_classes"}
    units |= {"source classes": "n_source_classes", "features": "n_features"}
    sizes = ", ".join(f"{result[key]} {unit}" for unit, key in units.items() if key in result)
    width = max(map(len, result["scores"]))
    rows = [f"{name:<{width}}  {score:12.6f}" for name, score in result["scores"].items()]
    notes = [f"note: {note}" for note in result["notes"]]
    return "\n".join([sizes, "", *rows, "", "higher: an easier transfer", *notes])


if __name__ == "__main__":
    sys.exit(main())
