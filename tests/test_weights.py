"""Weights: found where they are, refused when they are not what they should be."""

import hashlib
import sys

import pytest
from conftest import ROOT

from leep.errors import Invalid, Missing
from leep.sources import weights as module
from leep.sources.weights import find_weights


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BUNDLED", tmp_path)
    (tmp_path / "net.params").write_bytes(b"weights")
    (tmp_path / "SHA256SUMS").write_text(f"{hashlib.sha256(b'weights').hexdigest()}  net.params\n")
    return tmp_path


def test_bundled(bundled):
    found = find_weights("net", "model", "bundled")
    assert found.origin == "bundled" and found.sha256 == hashlib.sha256(b"weights").hexdigest()


def test_altered_bundled_weights_are_refused(bundled):
    (bundled / "net.params").write_bytes(b"wrights")
    with pytest.raises(Invalid, match="must have the SHA-256"):
        find_weights("net", "model", "bundled")


def test_no_bundled_weights(bundled):
    with pytest.raises(Missing, match="no weights of other are bundled"):
        find_weights("other", "model", "bundled")


def test_gluons_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    with pytest.raises(Missing, match="make data"):
        find_weights("net", "resnet18_v1", "gluon")
    sha1 = hashlib.sha1(b"weights").hexdigest()
    monkeypatch.setattr(module, "gluon_sha1", lambda model: sha1)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / f"resnet18_v1-{sha1[:8]}.params").write_bytes(b"weights")
    (tmp_path / "models" / f"resnet18_v1b-{sha1[:8]}.params").write_bytes(b"weights")
    found = find_weights("net", "resnet18_v1", "gluon")
    assert found.origin == "gluon" and found.path.name.startswith("resnet18_v1-")
    found.path.write_bytes(b"wrights")
    with pytest.raises(Invalid, match="must have the SHA-1"):
        find_weights("net", "resnet18_v1", "gluon")


def test_a_file(tmp_path):
    with pytest.raises(Missing, match="does not exist"):
        find_weights("net", "model", str(tmp_path / "mine.params"))
    (tmp_path / "mine.params").write_bytes(b"weights")
    assert find_weights("net", "model", str(tmp_path / "mine.params")).origin == "mine.params"


def test_bundled_weights_that_the_wheel_leaves_out(bundled):
    (bundled / "net.params").unlink()
    with pytest.raises(Missing, match=r"weights of net come with a checkout.* not with the wheel"):
        find_weights("net", "model", "bundled")


def test_of_several_places_the_first_that_has_it(bundled, tmp_path, monkeypatch):
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    mine = tmp_path / "mine.params"
    mine.write_bytes(b"mine")
    assert find_weights("net", "resnet18_v1", ["gluon", "bundled", str(mine)]).origin == "bundled"
    assert find_weights("net", "resnet18_v1", [str(mine), "bundled"]).origin == "mine.params"
    assert find_weights("other", "resnet18_v1", ["gluon", "bundled", str(mine)]).origin == "mine.params"


def test_what_no_place_has_is_said_of_every_place(bundled, tmp_path, monkeypatch):
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    places = ["gluon", "bundled", "pip:no-such-package", str(tmp_path / "mine.params")]
    said = ["resnet18_v1 are not in", "no weights of other are", "pip install no-such-package", "mine.params does not"]
    with pytest.raises(Missing, match=".*; .*".join(said)):
        find_weights("other", "resnet18_v1", places)


def test_wrong_weights_are_not_passed_over(bundled, tmp_path):
    (bundled / "net.params").write_bytes(b"wrights")
    (tmp_path / "mine.params").write_bytes(b"mine")
    with pytest.raises(Invalid, match="must have the SHA-256"):
        find_weights("net", "model", ["bundled", str(tmp_path / "mine.params")])


def test_a_checkpoint_of_a_known_name_has_its_known_sum(bundled, tmp_path):
    sha256 = hashlib.sha256(b"weights").hexdigest()
    name = f"net-{sha256[:8]}.pth"
    (bundled / "SHA256SUMS").write_text(f"{sha256[:8]}{'0' * 56}  {name}\n")
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / name
    path.write_bytes(b"weights")
    with pytest.raises(Invalid, match=f"must have the SHA-256 {sha256[:8]}0{{56}}, has {sha256}; get it again"):
        find_weights("other", "model", str(path))


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
def test_a_checkpoints_name_ends_in_the_first_digits_of_its_sum(tmp_path, suffix):
    sha256 = hashlib.sha256(b"weights").hexdigest()
    right, wrong = tmp_path / f"net-{sha256[:8]}.{suffix}", tmp_path / f"net-0123abcd.{suffix}"
    for path in (right, wrong):
        path.write_bytes(b"weights")
    assert find_weights("net", "model", str(right)).sha256 == sha256
    with pytest.raises(Invalid, match=f"must have the SHA-256 0123abcd…, has {sha256}"):
        find_weights("net", "model", str(wrong))


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Installs a package `some-weights` with files; its code must not run."""

    def make(**files):
        package, info = tmp_path / "site" / "some_weights", tmp_path / "site" / "some_weights-1.0.dist-info"
        for folder in (package, info):
            folder.mkdir(parents=True)
        (package / "__init__.py").write_text("raise AssertionError('imported')")
        for name, content in files.items():
            (package / name).write_bytes(content)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-weights\nVersion: 1.0\n")
        names = ["__init__.py", *files, "deleted.pth"]  # the last one is recorded, but not there
        (info / "RECORD").write_text("".join(f"some_weights/{name},,\n" for name in names))
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return package

    return make


def test_an_installed_package(install):
    package = install(**{"net.pth": b"weights", "readme.txt": b"no weights"})
    found = find_weights("net", "model", "pip:some-weights")
    assert (found.path, found.origin) == (package / "net.pth", "some-weights 1.0")
    assert found.sha256 == hashlib.sha256(b"weights").hexdigest() and "some_weights" not in sys.modules


def test_altered_weights_of_a_package_are_refused(install):
    install(**{"net-0123abcd.pth": b"weights"})
    with pytest.raises(Invalid, match="must have the SHA-256 0123abcd…"):
        find_weights("net", "model", ["pip:some-weights", "bundled"])


@pytest.mark.parametrize("files", [{}, {"a.pth": b"a", "b.bin": b"b"}])
def test_a_package_must_hold_one_checkpoint(install, files):
    install(**files)
    with pytest.raises(Invalid, match=f"some-weights must hold one checkpoint, it holds {len(files)}"):
        find_weights("net", "model", "pip:some-weights")


# conf/source

SOURCES = sorted(p.stem for p in (ROOT / "conf" / "source").glob("*.yaml"))
TOP1 = {  # of the candidates of Section 5.7, percent
    "resnet18_v1": 70.93,
    "resnet34_v1": 74.37,
    "resnet50_v1": 77.36,
    "mobilenet1.0": 73.28,
    "mobilenet0.75": 70.25,
    "mobilenet0.5": 65.20,
    "mobilenet0.25": 52.91,
    "darknet53": 78.56,
    "senet_154": 81.26,
}


def source(name):
    omegaconf = pytest.importorskip("omegaconf", reason="conf is the experiments'")
    return omegaconf.OmegaConf.load(ROOT / "conf" / "source" / f"{name}.yaml")


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_is_named_as_its_file_and_has_every_key(name):
    conf = source(name)
    assert list(conf) == [name]
    assert list(conf[name]) == list(source("cifar10_resnet20").cifar10_resnet20)
    assert name.split("_")[0] == conf[name].trained_on.lower()
    assert (conf[name].imagenet_top1 is None) == (conf[name].trained_on != "ImageNet")


def test_the_papers_candidates_have_their_imagenet_accuracy():
    confs = [source(name)[name] for name in SOURCES]
    assert {c.model: c.imagenet_top1 for c in confs if c.model in TOP1} == TOP1
    assert all(c.n_classes == 1000 and c.size == 224 and "gluon" in c.weights for c in confs if c.model in TOP1)
