import csv
import hashlib
import io
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import requests
from helpers.server import Server
from PIL import ImageFile

from leep.data import fetch, known, load_data
from leep.data.fetch import DATA_SETS, RemoteDataSet, download, fetch_data_set, fetch_weights
from leep.errors import Invalid, Missing
from leep.sources.weights import GLUON_SHA1, gluon_sha1

CONTENT = np.random.default_rng(0).bytes(200_000)
HTML = b"\n<!DOCTYPE html><title>Log in to this network</title>"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "_session", requests.Session)  # one that may speak HTTP
    server = Server()
    yield server
    server.close()


@pytest.fixture
def dead():
    """A mirror on a port on which nothing listens."""
    server = Server()
    server.close()
    return f"{server.base}/"


def mirror(server, name, content=CONTENT, *how):
    """A mirror that has `file`."""
    return server.serve(f"/{name}/file", content, *how).removesuffix("file")


def get(folder, *mirrors):
    return download(mirrors, "file", sha256(CONTENT), folder)


def leftovers(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_downloaded_once(server, tmp_path):
    there = mirror(server, "a")
    assert get(tmp_path / "new", there) == tmp_path / "new" / "file"
    assert get(tmp_path / "new", there).read_bytes() == CONTENT
    assert server.asked == [("/a/file", None)]
    assert leftovers(tmp_path / "new") == ["file"]


def test_a_wrong_file_that_lies_there_is_replaced(server, tmp_path):
    (tmp_path / "file").write_bytes(HTML)
    assert get(tmp_path, mirror(server, "a")).read_bytes() == CONTENT


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, tmp_path):
    assert get(tmp_path, mirror(server, "a", CONTENT, "breaks")).read_bytes() == CONTENT
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for _, asked in server.asked[1:]]
    assert server.asked[0] == ("/a/file", None)
    assert 0 < starts[0] <= 80_000 < starts[1] <= 160_000
    assert leftovers(tmp_path) == ["file"]


def test_a_later_call_goes_on_where_an_earlier_one_stopped(server, tmp_path):
    there = mirror(server, "a", CONTENT, "breaks", "no-range")  # never comes to its end
    with pytest.raises(Missing, match=r"broken|IncompleteRead"):
        get(tmp_path, there)
    assert leftovers(tmp_path) == ["file.part"]
    had = (tmp_path / "file.part").stat().st_size
    assert 0 < had <= 80_000
    server.asked.clear()
    mirror(server, "a")
    assert get(tmp_path, there).read_bytes() == CONTENT
    assert server.asked == [("/a/file", f"bytes={had}-")]


def test_another_mirror_goes_on_with_what_the_first_one_sent(server, tmp_path):
    mirrors = mirror(server, "a", CONTENT, "breaks", "no-range"), mirror(server, "b")
    assert get(tmp_path, *mirrors).read_bytes() == CONTENT
    path, asked = server.asked[-1]
    assert path == "/b/file"
    assert asked.startswith("bytes=")


@pytest.mark.parametrize("how", ["no-range", "wrong-range"])
def test_a_server_that_does_not_go_on_may_start_again(server, tmp_path, how):
    (tmp_path / "file.part").write_bytes(CONTENT[:5000])
    assert get(tmp_path, mirror(server, "a", CONTENT, how)).read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"not the beginning of it", CONTENT, CONTENT + b"too long"])
def test_a_wrong_part_is_thrown_away_and_the_mirror_not_blamed(server, tmp_path, part):
    (tmp_path / "file.part").write_bytes(part)
    assert get(tmp_path, mirror(server, "a")).read_bytes() == CONTENT
    assert leftovers(tmp_path) == ["file"]


@pytest.mark.parametrize(("how", "message"), [("html", "a web page"), ("html-as-file", sha256(HTML))])
def test_a_web_page_is_refused_and_the_next_mirror_tried(server, tmp_path, how, message):
    page, good = mirror(server, "page", HTML, how), mirror(server, "good")
    with pytest.raises(Missing, match=rf"{page}file: .*{message}"):
        get(tmp_path, page)
    assert leftovers(tmp_path) == []
    assert get(tmp_path, page, good).read_bytes() == CONTENT


def test_a_web_page_does_not_spoil_the_part(server, tmp_path):
    (tmp_path / "file.part").write_bytes(CONTENT[:5000])
    get(tmp_path, mirror(server, "page", HTML, "html", "no-range"), mirror(server, "good"))
    assert server.asked == [("/page/file", "bytes=5000-"), ("/good/file", "bytes=5000-")]


def test_a_wrong_file_is_refused_and_the_next_mirror_tried(server, tmp_path):
    wrong, good = mirror(server, "wrong", CONTENT[::-1]), mirror(server, "good")
    with pytest.raises(Missing, match=f"expected SHA-256 {sha256(CONTENT)}") as caught:
        get(tmp_path, wrong)
    assert wrong in str(caught.value)
    assert sha256(CONTENT[::-1]) in str(caught.value)
    assert server.asked == [("/wrong/file", None)]
    assert leftovers(tmp_path) == []
    assert get(tmp_path, wrong, good).read_bytes() == CONTENT


def test_when_all_mirrors_fail_each_is_named_and_the_remedy(server, tmp_path, dead):
    missing = f"{server.base}/missing/"
    with pytest.raises(Missing) as caught:
        get(tmp_path, dead, missing)
    message = str(caught.value)
    assert f"{dead}file: " in message
    assert re.search(f"{missing}file: .*404", message)
    assert f"put the file at {tmp_path / 'file'} by hand" in message
    (tmp_path / "file").write_bytes(CONTENT)  # by hand
    assert get(tmp_path, dead).read_bytes() == CONTENT


# data sets


def tar(members):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content or b""))
    return file.getvalue()


def cifar10_members(n=2):
    rng = np.random.default_rng(1)
    batches = [m for m in DATA_SETS["cifar10"].members if m.endswith(".bin")]
    records = {m: np.hstack([rng.integers(0, 10, (n, 1)), rng.integers(0, 256, (n, 3072))]) for m in batches}
    members = {m: r.astype(np.uint8).tobytes() for m, r in records.items()}
    return members | {"cifar-10-batches-bin/batches.meta.txt": "\n".join("abcdefghij").encode()}


def cifar10_at(server, content):
    server.serve("/cifar-10-binary.tar.gz", content)
    files = {"cifar-10-binary.tar.gz": sha256(content)}
    return RemoteDataSet("cifar10", (f"{server.base}/",), files, DATA_SETS["cifar10"].members)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A root, and nothing else to be found."""
    monkeypatch.setattr("leep.data.search_path", lambda root=None: [Path(root)])
    return tmp_path / "root"


def test_an_archive_is_unpacked_to_where_gluon_looks_and_not_downloaded_again(server, alone, monkeypatch):
    content = tar(cifar10_members())
    there = cifar10_at(server, content)
    assert fetch_data_set("cifar10", alone, there) == f"cifar10: downloaded to {alone / 'cifar10'}"
    assert leftovers(alone) == ["cifar10"]
    data = load_data("cifar10", alone)
    assert len(data.train_labels) == 10
    assert data.class_names == tuple("abcdefghij")
    monkeypatch.setitem(known._KNOWN, ("cifar10", known.content_sha256(data)), known.FULL)
    assert fetch_data_set("cifar10", alone, there) == f"cifar10: already in {alone / 'cifar10'}"
    assert len(server.asked) == 1


def test_other_data_under_the_name_are_replaced(server, alone):
    there = cifar10_at(server, tar(cifar10_members()))
    fetch_data_set("cifar10", alone, there)
    assert load_data("cifar10", alone).variant == "other data (10 + 2 images)"
    assert "downloaded" in fetch_data_set("cifar10", alone, there)


@pytest.mark.parametrize("damage", ["lost", "truncated", "a record less"])
def test_a_damaged_data_set_is_downloaded_again(server, alone, damage):
    content = tar(cifar10_members())
    there = cifar10_at(server, content)
    fetch_data_set("cifar10", alone, there)
    whole = load_data("cifar10", alone).sha256
    path = alone / "cifar10" / "data_batch_2.bin"
    batch = path.read_bytes()
    path.unlink()
    if damage != "lost":
        path.write_bytes(batch[:-100] if damage == "truncated" else batch[:-3073])
    assert "downloaded" in fetch_data_set("cifar10", alone, there)
    assert load_data("cifar10", alone).sha256 == whole


def test_only_expected_members_of_an_archive_are_unpacked(server, alone):
    evil = {"../escaped": b"x", "/tmp/leep-escaped": b"x", "cifar-10-batches-bin/../../escaped": b"x", "readme": b"x"}
    content = tar(evil | cifar10_members())
    fetch_data_set("cifar10", alone, cifar10_at(server, content))
    unpacked = {p.relative_to(alone.parent).as_posix() for p in alone.parent.rglob("*") if p.is_file()}
    assert unpacked == {f"root/cifar10/{Path(m).name}" for m in DATA_SETS["cifar10"].members}
    assert not Path("/tmp/leep-escaped").exists()


@pytest.mark.parametrize("lost", [{}, {"cifar-10-batches-bin/test_batch.bin": None}])
def test_an_archive_without_a_member_or_with_a_link_for_it_is_refused(server, alone, lost):
    members = cifar10_members()
    del members["cifar-10-batches-bin/test_batch.bin"]
    content = tar(members | lost)
    there = cifar10_at(server, content)
    with pytest.raises(Missing, match=r"the archive lacks cifar-10-batches-bin/test_batch\.bin"):
        fetch_data_set("cifar10", alone, there)
    assert not (alone / "cifar10" / "test_batch.bin").exists()


def test_only_the_files_that_are_missing_are_downloaded(server, alone):
    names = list(DATA_SETS["fashion_mnist"].files)
    for name in names:
        server.serve(f"/{name}", name.encode())
    files = {name: sha256(name.encode()) for name in names}
    (alone / "fashion-mnist").mkdir(parents=True)
    (alone / "fashion-mnist" / names[1]).write_bytes(names[1].encode())
    fetch_data_set("fashion_mnist", alone, RemoteDataSet("fashion-mnist", (f"{server.base}/",), files))
    assert [path for path, _ in server.asked] == [f"/{names[k]}" for k in (0, 2, 3)]
    assert leftovers(alone / "fashion-mnist") == sorted(names)


# Gluon's weights

WEIGHTS = b"weights " * 1000


@pytest.fixture
def model(monkeypatch):
    sha1 = hashlib.sha1(WEIGHTS).hexdigest()
    monkeypatch.setattr(fetch, "gluon_sha1", lambda model: sha1)
    return f"model-{sha1[:8]}"


def zipped(name, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, content)
    return file.getvalue()


def test_weights_are_unpacked_and_not_downloaded_again(server, tmp_path, model):
    url = f"/gluon/models/{model}.zip"
    server.serve(url, zipped(f"{model}.params", WEIGHTS))
    for said in ("downloaded to", "already at"):
        assert f"model: {said} {tmp_path / model}.params" == fetch_weights("model", tmp_path, (server.base,))
    assert (tmp_path / f"{model}.params").read_bytes() == WEIGHTS
    assert leftovers(tmp_path) == [f"{model}.params"]
    assert server.asked == [(url, None)]
    (tmp_path / f"{model}.params").write_bytes(WEIGHTS[:-1])
    assert "downloaded" in fetch_weights("model", tmp_path, (server.base + "/",))


def test_wrong_weights_are_refused_and_the_next_repository_tried(server, tmp_path, model):
    sha1, wrong = hashlib.sha1(WEIGHTS).hexdigest(), hashlib.sha1(b"other").hexdigest()
    server.serve(f"/wrong/gluon/models/{model}.zip", zipped(f"{model}.params", b"other"))
    server.serve(f"/not-a-zip/gluon/models/{model}.zip", b"other")
    server.serve(f"/other-zip/gluon/models/{model}.zip", zipped("../escaped", WEIGHTS))
    server.serve(f"/good/gluon/models/{model}.zip", zipped(f"{model}.params", WEIGHTS))
    bad = tuple(f"{server.base}/{name}" for name in ("wrong", "not-a-zip", "other-zip"))
    with pytest.raises(Missing, match=f"expected sha1 {sha1}, got {wrong}") as caught:
        fetch_weights("model", tmp_path, bad)
    assert str(caught.value).count("not a zip archive with") == 2
    assert leftovers(tmp_path) == []
    fetch_weights("model", tmp_path, (*bad, f"{server.base}/good"))
    assert leftovers(tmp_path) == [f"{model}.params"]


def test_the_repository_of_the_environment_comes_first(server, tmp_path, model, monkeypatch):
    server.serve(f"/own/gluon/models/{model}.zip", zipped(f"{model}.params", WEIGHTS))
    monkeypatch.setenv("MXNET_GLUON_REPO", f"{server.base}/own/")
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    assert str(tmp_path / "models" / model) in fetch_weights("model")


def test_checksums_are_gluoncvs():
    assert gluon_sha1("resnet18_v1") == "a0666292f0a30ff61f857b0b66efc0228eb6a54b"
    assert gluon_sha1("cifar_resnet20_v1").startswith("121e1579")
    with pytest.raises(Invalid, match=r"'resnet\.8_v1'"):
        gluon_sha1("resnet.8_v1")
    zoo = pytest.importorskip("leep.sources.zoo", reason="GluonCV is not installed")
    expected = {"model": "sha1", **zoo.import_model_zoo().model_store._model_sha1}
    assert dict(csv.reader(GLUON_SHA1.open())) == expected
    assert not ImageFile.LOAD_TRUNCATED_IMAGES  # GluonCV sets it, and damaged images would be read as whole ones


# the script


def test_the_script_goes_on_after_a_failure_and_says_so_at_the_end(monkeypatch, capsys, tmp_path):
    from scripts import fetch_data

    def fetch_one(name, root):
        if name == "cifar10":
            raise Missing("no mirror")
        return f"{name} in {root}"

    monkeypatch.setattr(fetch_data, "fetch_data_set", fetch_one)
    monkeypatch.setattr(fetch_data, "fetch_weights", lambda model: f"{model} got")
    assert fetch_data.main(["--only", "cifar10", "cifar100", "--root", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == f"cifar100 in {tmp_path}\n"
    assert err == "no mirror\n"
    assert fetch_data.main(["--only", "gluon", "--models", "a", "b"]) == 0
    assert capsys.readouterr().out == "a got\nb got\n"
    with pytest.raises(SystemExit):
        fetch_data.main(["--only", "imagenet"])
    assert "invalid choice: 'imagenet'" in capsys.readouterr().err
