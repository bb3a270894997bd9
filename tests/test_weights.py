"""Weights: found where they are, refused when they are not what they should be."""

import hashlib

import pytest

from leep.sources import weights as module
from leep.sources.weights import WeightsError, WeightsMissing, find_weights


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
    with pytest.raises(WeightsError, match="must have the SHA-256"):
        find_weights("net", "model", "bundled")


def test_no_bundled_weights(bundled):
    with pytest.raises(WeightsMissing, match="no weights of other are bundled"):
        find_weights("other", "model", "bundled")


def test_gluons_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    with pytest.raises(WeightsMissing, match="make data"):
        find_weights("net", "resnet18_v1", "gluon")
    sha1 = hashlib.sha1(b"weights").hexdigest()
    monkeypatch.setattr(module, "gluon_sha1", lambda model: sha1)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / f"resnet18_v1-{sha1[:8]}.params").write_bytes(b"weights")
    (tmp_path / "models" / f"resnet18_v1b-{sha1[:8]}.params").write_bytes(b"weights")
    found = find_weights("net", "resnet18_v1", "gluon")
    assert found.origin == "gluon" and found.path.name.startswith("resnet18_v1-")
    found.path.write_bytes(b"wrights")
    with pytest.raises(WeightsError, match="must have the SHA-1"):
        find_weights("net", "resnet18_v1", "gluon")


def test_a_file(tmp_path):
    with pytest.raises(WeightsMissing, match="does not exist"):
        find_weights("net", "model", str(tmp_path / "mine.params"))
    (tmp_path / "mine.params").write_bytes(b"weights")
    assert find_weights("net", "model", str(tmp_path / "mine.params")).origin == "mine.params"
