"""The results store: nothing finished is lost, nothing is written twice, nothing is mixed."""

import json
import math

import pandas as pd
import pytest
from helpers.results import fill, table
from hypothesis import given, settings
from hypothesis import strategies as st

from leep.errors import Invalid
from leep.results import open_folder, read_runs, read_tasks, setting_hash


def test_rows_read_back_exactly(tmp_path):
    fill(tmp_path / "a.csv")
    assert pd.read_csv(tmp_path / "a.csv").score.tolist() == [-math.sqrt(i + 2) for i in range(5)]


def test_finished_table_is_left_alone(tmp_path):
    first = fill(tmp_path / "a.csv")
    assert fill(tmp_path / "a.csv") == first


def test_cut_at_any_byte_and_resumed_gives_the_same_file(tmp_path):
    whole = fill(tmp_path / "a.csv")
    for cut in range(len(whole)):
        path = tmp_path / f"{cut}.csv"
        path.write_bytes(whole[:cut])
        assert fill(path) == whole


@settings(deadline=None)  # every row waits for the disk
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_survive(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("t") / "a.csv"
    with table(path) as t:
        t.append({"task": 0, "measure": "x", "score": value})
    assert float(path.read_text().splitlines()[1].split(",")[2]) == value


def test_none_is_an_empty_field(tmp_path):
    with table(tmp_path / "a.csv") as t:
        t.append({"task": 0, "measure": "x", "score": None})
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "0,x,"


def test_two_writers_are_refused(tmp_path):
    with table(tmp_path / "a.csv"), pytest.raises(Invalid, match="another run"):
        table(tmp_path / "a.csv")


def test_foreign_columns_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("task,score\n0,1\n")
    with pytest.raises(Invalid, match=r"must have the columns .* found \['task', 'score'\]"):
        table(tmp_path / "a.csv")


def test_folder_of_another_setting_is_refused(tmp_path):
    open_folder(tmp_path / "run", {"seed": 0, "task": {"ratio": 5}}, {"stand_in": ["sample"]}, {"date": "then"})
    open_folder(tmp_path / "run", {"task": {"ratio": 5}, "seed": 0}, {"stand_in": ["sample"]}, {"date": "now"})
    assert json.loads((tmp_path / "run" / "setting.json").read_text())["provenance"] == {"date": "then"}
    with pytest.raises(Invalid, match="another configuration"):
        open_folder(tmp_path / "run", {"seed": 1, "task": {"ratio": 5}}, {}, {})
    (tmp_path / "run" / "setting.json").write_text("{")
    with pytest.raises(Invalid, match="damaged"):
        open_folder(tmp_path / "run", {"seed": 0, "task": {"ratio": 5}}, {}, {})


def test_hash_depends_on_values_not_on_their_order():
    assert setting_hash({"a": 1, "b": 2}) == setting_hash({"b": 2, "a": 1}) != setting_hash({"a": 1, "b": 3})


def test_empty_results_folder(tmp_path):
    assert read_runs(tmp_path).empty


def test_a_run_that_is_being_written_is_read_up_to_its_last_whole_line(tmp_path):
    folder = tmp_path / "e" / "s" / "t" / "seed0-x"
    open_folder(
        folder,
        {
            "experiment": "e",
            "seed": 0,
            "source": {"name": "s", "trained_on": "S"},
            "target": {"name": "t"},
            "engine": {"name": "gluon", "precision": "float32"},
        },
        {"stand_in": ["sample"]},  # as runs before November 2026 have it
        {},
    )
    open_folder(folder / "m", {"scale": "quick", "epochs": 3}, {"deviations": ["20 of 50 epochs"], "n_tasks": 3}, {})
    (folder / "scores.csv").write_text("task,n_classes,n_examples,measure,score\n0,2,9,leep,-0.5\n1,2,9,leep,-0.25\n")
    transfers = folder / "m" / "transfers.csv"
    transfers.write_text("")
    assert read_runs(tmp_path).empty
    transfers.write_text("task,n_classes,n_examples,method,test_accuracy\n0,2,9,m,0.5\n1,2,9,m,0.7")
    runs = read_runs(tmp_path)
    assert runs.task.tolist() == [0] and runs.classes.tolist() == [None]
    assert runs.deviations.tolist() == [("sample", "20 of 50 epochs", "unfinished: 1 of 3 tasks")]
    assert runs.finished.tolist() == [False]
    (folder / "tasks.csv").write_text("task,classes\n0,7 3\n1,3 9\n2,")  # the last line is being written
    assert read_runs(tmp_path).classes.tolist() == [(7, 3)]


def test_classes_of_tasks(tmp_path):
    assert read_tasks(tmp_path).empty
    (tmp_path / "tasks.csv").write_text("task,classes\n1,5\n0,8 1 4\n")
    tasks = read_tasks(tmp_path)
    assert dict(zip(tasks.task, tasks.classes)) == {1: (5,), 0: (8, 1, 4)}
    for damaged in ("task,classes\n0,8 x\n", "task,classes\n0,8 1\n0,8 2\n", "task,names\n0,8\n"):
        (tmp_path / "tasks.csv").write_text(damaged)
        with pytest.raises(Invalid, match=r"tasks\.csv"):
            read_tasks(tmp_path)
