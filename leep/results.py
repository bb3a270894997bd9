"""The results store: one folder a configuration, rows appended one by one, resumed exactly after any interruption.

results/<experiment>/<source>/<target>/seed<seed>-<hash>/
    setting.json                    what determines the tasks and their scores
    tasks.csv                       task, classes (the data set's numbers, in the order of the task's labels)
    scores.csv                      task, measure, score …
    times.jsonl                     a line a call: scores, and the same as below
    not_scored.csv                  measure, reason: why one has no score for some tasks, where that is so
    <method>-<scale>-<hash>/
        setting.json                what else determines the transferred models
        transfers.csv               task, method, test_accuracy …
        curves.csv                  task, epoch, test_accuracy of networks, where it is asked for
        times.jsonl                 a line a call: tasks, seconds, workers (cluster: null), device, cpu, cores, versions
        checkpoints/                trainings that were interrupted
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from leep.errors import Invalid
from leep.files import write_atomically
from leep.tasks import EXPERIMENTS

_COUNTS = frozenset(["task", "n_classes", "n_examples", "epoch"])
_NUMBERS = frozenset(["score", "test_accuracy", "test_f1", "test_f1_macro"])
NOT_SCORED = "not_scored.csv"
_SHARED = ("task", "n_classes", "n_examples")  # what scores and transferred models are joined by


def setting_hash(setting: Mapping) -> str:
    """Eight hexadecimal digits that name a configuration."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:8]


def open_folder(folder: Path, setting: Mapping, notes: Mapping, provenance: Mapping) -> None:
    """Create a run's folder, or check that the one that is there holds this very setting.

    `setting` determines the rows. Beside it are kept `notes` of the last run (`deviations` from the paper,
    `stand_in` in old runs; `n_tasks`, how many were asked for) and `provenance` of the first (versions, time).

    Raises
    ------
    Invalid
        If the folder holds rows of another setting.
    """
    path = folder / "setting.json"
    content = {"setting": dict(setting), "notes": dict(notes), "provenance": dict(provenance)}
    if path.exists():
        found = read_setting(folder)
        if found["setting"] != json.loads(json.dumps(setting)):
            raise Invalid(f"{folder} holds rows of another configuration; move it away, or give another results folder")
        if found["notes"] == dict(notes):
            return
        content["provenance"] = found["provenance"]
    write_atomically(path, json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n")


def read_setting(folder: Path) -> dict:
    """`setting`, `notes` and `provenance` of a run's folder; `Invalid` where the file is damaged."""
    path = folder / "setting.json"
    try:
        content = json.loads(path.read_bytes())
        parts = {key: content[key] for key in ("setting", "notes", "provenance")}
        if not all(isinstance(part, dict) for part in parts.values()):
            raise TypeError(f"expected mappings under {', '.join(parts)}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(path, error) from error
    return parts


def _damaged(path: Path | str, error: Exception) -> Invalid:
    return Invalid(f"{path} is damaged ({error!r}); move its folder away to compute it anew")


class Table:
    """A CSV to which only this process appends, a row at a time, each on disk before the next.

    Parameters
    ----------
    path : Path
    columns : sequence of str
    key : sequence of str
        The columns that identify a row; `done` holds their values as text.

    Raises
    ------
    Invalid
        If another process writes to the file, its columns are others, a row is damaged, or two rows contradict.
    """

    def __init__(self, path: Path, columns: list[str], key: list[str]):
        self._columns, self._key = columns, key
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+", newline="", encoding="utf-8")  # noqa: SIM115  closed by __exit__
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._file.fileno()).st_ino != path.stat().st_ino:  # sorted by another run in this moment
                raise BlockingIOError
        except BlockingIOError:
            self._file.close()
            raise Invalid(
                f"{path} is being written by another run; wait for it, or give another results folder"
            ) from None
        try:
            whole = _whole_lines(path)
            if path.stat().st_size > len(whole):
                self._file.truncate(len(whole))  # what was cut short is computed again
            if not whole:
                self._append([columns])
            self.done = set(_parse(path, whole, key, columns)[1]) if whole else set()
        except BaseException:
            self._file.close()
            raise

    def _append(self, rows: Iterable[list]) -> None:
        csv.writer(self._file, lineterminator="\n").writerows(rows)
        self._file.flush()
        os.fsync(self._file.fileno())

    def append(self, *rows: Mapping) -> None:
        """Add rows; floats are written so that they read back exactly, None as an empty field."""
        if not rows:
            return
        self._append([[_text(row[c]) for c in self._columns] for row in rows])
        self.done.update(tuple(_text(row[k]) for k in self._key) for row in rows)

    def sort(self) -> None:
        """Put the rows into the order of their integer keys, whatever the order in which they came; the last thing."""
        self._file.seek(0)
        header, *rows = csv.reader(self._file)
        ordered = sorted(rows, key=lambda row: [int(row[self._columns.index(k)]) for k in self._key])
        if ordered != rows:
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([header, *ordered])
            write_atomically(Path(self._file.name), text.getvalue().encode())
        self._file.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def _text(value) -> str:
    if value is None:
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


def _whole_lines(path: Path) -> bytes:
    """Content of a CSV that a run may be writing, or may have been killed at: a line cut short has no line end."""
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return b""
    return content[: content.rfind(b"\n") + 1]


def _parse(path: Path, content: bytes, key: Sequence[str], columns: list[str] | None = None) -> tuple[list, dict]:
    """Columns of a CSV and its rows by their key, each once.

    Raises
    ------
    Invalid
        If the columns are not `columns`, or lack one of the key; if a row has not a sound value in each column; or if
        two rows have one key and differ.
    """
    remedy = "delete the line, or move the file away, to compute it anew"
    try:
        header, *rows = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    except (ValueError, csv.Error) as error:
        raise Invalid(f"{path} is damaged ({error}); move it away to compute it anew") from error
    if header != (columns or header) or not {*key} <= {*header} or len({*header}) < len(header):
        expected = columns or list(key)
        raise Invalid(f"{path} must have the columns {expected}, found {header}; move it away to compute it anew")
    positions = [header.index(k) for k in key]
    found: dict[tuple[str, ...], list[str]] = {}
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header) or not all(map(_is_sound, header, row)):
            raise Invalid(f"{path}, line {number}: expected a value for each of {header}, got {row}; {remedy}")
        name = tuple(row[p] for p in positions)
        if found.setdefault(name, row) != row:
            raise Invalid(
                f"{path}, line {number}: {', '.join(map(' '.join, zip(key, name)))} has another row before, "
                f"{found[name]}, got {row}; delete both to compute them anew"
            )
    return header, found


def _is_sound(column: str, text: str) -> bool:
    if column in _COUNTS:
        return re.fullmatch("0|[1-9][0-9]{0,17}", text) is not None
    if column not in _NUMBERS or (column == "test_f1" and not text):
        return True
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def read_rows(path: Path, key: Sequence[str], others: Sequence[str]) -> pd.DataFrame:
    """The rows of a CSV of results, each once; empty where there is none.

    Raises
    ------
    Invalid
        If a column of `key` or `others` is missing, a row is damaged, or two rows have one key and differ.
    """
    if not (whole := _whole_lines(path)):
        return pd.DataFrame()
    header, rows = _parse(path, whole, key)
    if lacks := [name for name in others if name not in header]:
        raise Invalid(f"{path} must have the columns {lacks} too, found {header}; move it away to compute it anew")
    text = io.StringIO()
    csv.writer(text).writerows([header, *rows.values()])
    exact = dict.fromkeys(_NUMBERS, _number)  # pandas before 3.1 rounds the last digit
    return pd.read_csv(io.StringIO(text.getvalue()), converters=exact)


def _number(text: str) -> float:
    return float(text) if text else math.nan


def read_runs(root: Path) -> pd.DataFrame:
    """All transferred models under a results folder with the scores of their tasks, a row a task × measure × method.

    Besides the columns of the CSVs, `classes` among them (None where not recorded): `experiment`, `metric` (the column
    that scores are correlated with), `source`, `source_title` and `imagenet_top1` (absent where not recorded),
    `trained_on`, `target`, `seed`, `stream` (whether experiment and target have random streams of their own), `weights`
    (origin), `data` (variant), `engine`, `scale`, `epochs`, `run` (the folder), `deviations` (a tuple: what differs
    from the paper), and whether all tasks that were asked for are `finished`.

    Raises
    ------
    Invalid
        If a file is damaged.
    """
    frames = []
    for transfers_path in sorted(Path(root).glob("*/*/*/*/*/transfers.csv")):
        folder = transfers_path.parent
        tasks, training = read_setting(folder.parent), read_setting(folder)
        scores = read_rows(folder.parent / "scores.csv", ["task", "measure"], [*_SHARED, "score"])
        transfers = read_rows(transfers_path, ["task"], [*_SHARED, "method", "test_accuracy"])
        if scores.empty or transfers.empty:
            continue
        try:
            described = _describe(tasks, training, transfers.task.nunique())
        except (KeyError, TypeError, AttributeError) as error:
            raise _damaged(f"setting.json of {folder} or of the folder above it", error) from error
        frame = transfers.merge(scores, on=list(_SHARED))
        recorded = read_tasks(folder.parent)
        classes = dict(zip(recorded.task, recorded.classes))
        columns = {
            "classes": [classes.get(task) for task in frame.task],
            "deviations": [described.pop("deviations")] * len(frame),
        }
        frames.append(frame.assign(**described, **columns, run=str(folder.relative_to(root))))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def read_tasks(folder: Path) -> pd.DataFrame:
    """`task` and `classes`, a tuple of the data set's numbers in the order of the task's labels; empty if not recorded.

    Raises
    ------
    Invalid
        If tasks.csv is damaged.
    """
    path = Path(folder) / "tasks.csv"
    whole = _whole_lines(path)
    rows = _parse(path, whole, ["task"], ["task", "classes"])[1] if whole else {}
    try:
        tasks = [(int(task), tuple(map(int, classes.split()))) for task, classes in rows.values()]
    except ValueError as error:
        raise _damaged(path, error) from error
    return pd.DataFrame(tasks, columns=["task", "classes"])


def read_not_scored(folder: Path) -> dict[str, str]:
    """Why a measure, by its name, has no score for some tasks of a run; empty where nothing is said."""
    path = Path(folder) / NOT_SCORED
    whole = _whole_lines(path)
    rows = _parse(path, whole, ["measure"], ["measure", "reason"])[1] if whole else {}
    return dict(rows.values())


def record_not_scored(folder: Path, measures: Iterable[str], reasons: Mapping[str, str]) -> None:
    """Write why some of `measures` lack scores; what was said before of others stays."""
    before, path = read_not_scored(folder), Path(folder) / NOT_SCORED
    rows = {m: reason for m, reason in before.items() if m not in measures} | dict(reasons)
    if rows == before:
        return
    if not rows:
        path.unlink()
        return
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["measure", "reason"], *sorted(rows.items())])
    write_atomically(path, text.getvalue().encode())


def read_done(path: Path, key: Sequence[str]) -> set[tuple[str, ...]]:
    """What `done` of a `Table` would hold, without touching the file; empty where there is none."""
    whole = _whole_lines(path)
    return set(_parse(path, whole, key)[1]) if whole else set()


def _describe(tasks: dict, training: dict, done: int) -> dict:
    """What the columns of a run say, by the contents of its two `setting.json`."""
    outer, inner, asked = tasks["setting"], training["setting"], training["notes"]["n_tasks"]
    source, described = outer["source"], tasks["notes"].get("source", {})
    deviations = (*_deviations(tasks["notes"]), *_deviations(training["notes"]))
    return {
        "experiment": outer["experiment"],
        "source": source["name"],
        "source_title": described.get("title"),
        "trained_on": source["trained_on"],
        "imagenet_top1": described.get("imagenet_top1") or math.nan,
        "target": outer["target"]["name"],
        "metric": tasks["notes"].get("metric") or _known_metric(outer["experiment"]),
        "seed": outer["seed"],
        "stream": "stream" in outer,
        "weights": source.get("weights"),
        "data": outer["target"].get("variant"),
        "engine": f"{outer['engine']['name']} {outer['engine']['precision']}",
        "scale": inner["scale"],
        "epochs": inner.get("epochs"),
        "deviations": (*deviations, f"unfinished: {done} of {asked} tasks") if done < asked else deviations,
        "finished": done >= asked,
    }


def _known_metric(experiment: str) -> str:
    """The metric of an experiment whose run did not record it."""
    return EXPERIMENTS[experiment].metric if experiment in EXPERIMENTS else "test_accuracy"


def _deviations(notes: dict) -> list[str]:
    """What differs from the paper; earlier runs have it under `stand_in`."""
    return notes["deviations"] if "deviations" in notes else notes["stand_in"]


def read_curves(run: Path) -> pd.DataFrame:
    """Test accuracy by `task` and `epoch` of a run's folder; empty if it kept no curves."""
    return read_rows(Path(run) / "curves.csv", ["task", "epoch"], ["test_accuracy"])


def read_times(run: Path) -> list[dict]:
    """What the calls that made a run's folder recorded of their duration and machine; empty if none did."""
    path = Path(run) / "times.jsonl"
    calls = []
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError):  # a line that a kill cut short
            calls.append(json.loads(line))
    return calls
