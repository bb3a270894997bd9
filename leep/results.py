"""The results store: one folder a configuration, rows appended one by one, resumed exactly after any interruption.

results/<experiment>/<source>/<target>/seed<seed>-<hash>/
    setting.json                    what determines the tasks and their scores
    scores.csv                      task, measure, score …
    <method>-<scale>-<hash>/
        setting.json                what else determines the transferred models
        transfers.csv               task, method, test_accuracy …
        curves.csv                  task, epoch, test_accuracy of networks, where it is asked for
        times.jsonl                 a line a call: tasks, seconds, workers, device, cpu
        checkpoints/                trainings that were interrupted
"""

from __future__ import annotations

import csv
import fcntl
import hashlib
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from leep.files import write_atomically


class ResultsError(RuntimeError):
    """The results folder cannot be used as it is; the message says how to mend it."""


def setting_hash(setting: Mapping) -> str:
    """Eight hexadecimal digits that name a configuration."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()[:8]


def open_folder(folder: Path, setting: Mapping, notes: Mapping, provenance: Mapping) -> None:
    """Create a run's folder, or check that the one that is there holds this very setting.

    `setting` determines the rows. Beside it are kept `notes` of the last run (`stand_in`, what differs from the paper;
    `n_tasks`, how many were asked for) and `provenance` of the first (versions, time).

    Raises
    ------
    ResultsError
        If the folder holds rows of another setting.
    """
    path = folder / "setting.json"
    content = {"setting": dict(setting), "notes": dict(notes), "provenance": dict(provenance)}
    if path.exists():
        found = read_setting(folder)
        if found["setting"] != json.loads(json.dumps(setting)):
            raise ResultsError(
                f"{folder} holds rows of another configuration; move it away, or give another results folder"
            )
        if found["notes"] == dict(notes):
            return
        content["provenance"] = found["provenance"]
    write_atomically(path, lambda f: f.write(json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"))


def read_setting(folder: Path) -> dict:
    """`setting`, `notes` and `provenance` of a run's folder; `ResultsError` where the file is damaged."""
    path = folder / "setting.json"
    try:
        content = json.loads(path.read_text())
        return {key: content[key] for key in ("setting", "notes", "provenance")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"{path} is damaged ({error}); move its folder away to compute it anew") from error


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
    ResultsError
        If another process writes to the file, or its columns are others.
    """

    def __init__(self, path: Path, columns: list[str], key: list[str]):
        self._columns, self._key = columns, key
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "a+", newline="")  # noqa: SIM115  closed by __exit__
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._file.fileno()).st_ino != path.stat().st_ino:  # sorted by another run in this moment
                raise BlockingIOError
        except BlockingIOError:
            self._file.close()
            raise ResultsError(
                f"{path} is being written by another run; wait for it, or give another results folder"
            ) from None
        self._drop_torn_line()
        self._file.seek(0)
        rows = list(csv.reader(self._file))
        if not rows:
            self._append([columns])
        elif rows[0] != columns:
            self._file.close()
            raise ResultsError(
                f"{path} must have the columns {columns}, found {rows[0]}; move it away to compute it anew"
            )
        positions = [columns.index(k) for k in key]
        self.done = {tuple(row[p] for p in positions) for row in rows[1:]}

    def _drop_torn_line(self) -> None:
        """A line that a kill cut short has no line end: it is removed and computed again."""
        self._file.seek(0)
        content = self._file.read()
        if content and not content.endswith("\n"):
            self._file.truncate(len(content[: content.rfind("\n") + 1].encode()))

    def _append(self, rows: Iterable[list]) -> None:
        csv.writer(self._file, lineterminator="\n").writerows(rows)
        self._file.flush()
        os.fsync(self._file.fileno())

    def append(self, *rows: Mapping) -> None:
        """Add rows; floats are written so that they read back exactly, None as an empty field."""
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
            write_atomically(Path(self._file.name), lambda f: f.write(text.getvalue().encode()))
        self._file.close()

    def __enter__(self) -> Table:
        return self

    def __exit__(self, *_) -> None:
        self._file.close()


def _text(value) -> str:
    if value is None:
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)


def _read_rows(path: Path) -> pd.DataFrame:
    """The whole lines of a CSV that a run may be writing, or may have been killed at."""
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]
    return pd.read_csv(io.StringIO(whole), float_precision="round_trip") if whole else pd.DataFrame()


def read_runs(root: Path) -> pd.DataFrame:
    """All transferred models under a results folder with the scores of their tasks, a row a task × measure × method.

    Besides the columns of the two CSVs: `setting`, `source`, `trained_on`, `target`, `seed`, `weights` (origin), `data`
    (variant), `engine`, `scale`, `epochs`, `run` (the folder), `stand_in`, what differs from the paper (empty where
    nothing does), and whether all tasks that were asked for are `finished`.
    """
    frames = []
    for transfers_path in sorted(Path(root).glob("*/*/*/*/*/transfers.csv")):
        folder = transfers_path.parent
        tasks, training = read_setting(folder.parent), read_setting(folder)
        outer, inner = tasks["setting"], training["setting"]
        scores, transfers = _read_rows(folder.parent / "scores.csv"), _read_rows(transfers_path)
        if scores.empty or transfers.empty:
            continue
        done, asked = transfers.task.nunique(), training["notes"]["n_tasks"]
        stand_in = tasks["notes"]["stand_in"] + training["notes"]["stand_in"]
        stand_in += [f"unfinished: {done} of {asked} tasks"] if done < asked else []
        frame = transfers.merge(scores, on=["task", "n_classes", "n_examples"])
        frames.append(
            frame.assign(
                setting=outer["experiment"],
                source=outer["source"]["name"],
                trained_on=outer["source"]["trained_on"],
                target=outer["target"]["name"],
                seed=outer["seed"],
                weights=outer["source"].get("weights"),
                data=outer["target"].get("variant"),
                engine=f"{outer['engine']['name']} {outer['engine']['precision']}",
                scale=inner["scale"],
                epochs=inner.get("epochs"),
                run=str(folder.relative_to(root)),
                stand_in="; ".join(stand_in),
                finished=done >= asked,
            )
        )
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def read_done(path: Path, key: Sequence[str]) -> set[tuple[str, ...]]:
    """What `done` of a `Table` would hold, without touching the file; empty where there is none."""
    path = Path(path)
    text = path.read_text() if path.exists() else ""
    rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1]))
    return {tuple(row[k] for k in key) for row in rows}


def read_curves(run: Path) -> pd.DataFrame:
    """Test accuracy by `task` and `epoch` of a run's folder; empty if it kept no curves."""
    path = Path(run) / "curves.csv"
    return _read_rows(path) if path.exists() else pd.DataFrame()


def read_times(run: Path) -> list[dict]:
    """What the calls that made a run's folder recorded of their duration and machine; empty if none did."""
    path = Path(run) / "times.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
