"""Nothing from outside is unpickled without restriction or executed, leaves its folder, or comes without a checksum.

Pickles are in test_data.py, checkpoints in test_checkpoint.py, archives and wrong downloads in test_fetch.py.
"""

import ast
import re
import zipfile

import pytest
import requests
from conftest import ROOT
from helpers.server import Server

from leep.data import fetch
from leep.data.fetch import DATA_SETS, download
from leep.errors import Missing

SOURCES = sorted(p for name in ("leep", "experiments", "scripts") for p in (ROOT / name).rglob("*.py"))
LOCKS = sorted(ROOT.glob("requirements*.lock"))
# What runs or unpickles what it is given, and the one place where a subclass or a constant argument restricts it
DANGEROUS = {
    "eval", "exec", "compile", "__import__", "pickle.load", "pickle.loads", "joblib.load", "os.system", "shelve.open",
    "yaml.load", "yaml.unsafe_load", "torch.load", "marshal.load", "marshal.loads", "subprocess.run",
    "subprocess.Popen", "subprocess.call", "subprocess.check_output", "pd.read_pickle",
}  # fmt: skip

ARGUED = {
    ("leep/execution/dask.py", "pickle.loads"),  # what the parent sent over Dask's own connection, itself of pickles
    ("leep/execution/gpu.py", "subprocess.run"),  # nvidia-smi with constant arguments
    ("scripts/bench.py", "subprocess.run"),  # its own constant text, in a fresh process
    ("scripts/sensitivity.py", "subprocess.run"),  # run.py with constant arguments and those of its own command line
}


def calls(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_executes_or_unpickles_what_it_reads(path):
    for name, node in calls(path):
        argued = (str(path.relative_to(ROOT)), name) in ARGUED
        argued |= name == "torch.load" and ast.unparse(node).endswith(", weights_only=True)")
        assert name not in DANGEROUS or argued, f"{path.name}:{node.lineno}: {name}"
        assert not name.endswith((".extractall", ".extract")), f"{path.name}:{node.lineno}: {name}"
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        assert keywords.get("allow_pickle", "False") == "False" and keywords.get("shell", "False") == "False"
        if re.search(r"^\s*(import|from) (requests|urllib|pooch)", path.read_text("utf-8"), re.MULTILINE):
            assert keywords.get("verify", "True") == "True"  # of TLS
    if "pickle.Unpickler" in path.read_text("utf-8"):
        assert path == ROOT / "leep" / "unpickle.py"  # a subclass that restricts it


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_address_without_https(path):
    assert not re.findall(
        r"http://(?!www\.w3\.org)", path.read_text("utf-8").replace('session.adapters["http://"]', "")
    )


def test_every_download_has_a_strong_checksum_and_https():
    sums = [sha256 for data in DATA_SETS.values() for sha256 in data.files.values()]
    assert len(sums) == 6
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in sums)
    for data in DATA_SETS.values():
        assert data.mirrors and all(url.startswith("https://") for url in data.mirrors), data.folder
    assert all(url.startswith("https://") for url in fetch._GLUON_REPOSITORIES)


@pytest.fixture
def server():
    server = Server()
    yield server
    server.close()


def test_http_is_refused_before_anything_is_asked(server, tmp_path):
    url = server.serve("/file", b"content")
    with pytest.raises(Missing, match=rf"{url}: must be HTTPS"):
        download((f"{server.base}/",), "file", None, tmp_path)
    assert server.asked == [] and not (tmp_path / "file").exists()


def test_a_redirection_to_http_is_refused(server, tmp_path, monkeypatch):
    url = server.serve("/file", b"content")

    class Redirects(requests.adapters.BaseAdapter):
        def send(self, request, **_):
            response = requests.Response()
            response.status_code, response.url, response.request = 302, request.url, request
            response.headers["Location"], response.raw = url, None
            response._content, response._content_consumed = b"", True
            return response

        def close(self):
            pass

    session = fetch._session

    def redirected():
        made = session()
        made.mount("https://", Redirects())
        return made

    monkeypatch.setattr(fetch, "_session", redirected)
    with pytest.raises(Missing, match="must be HTTPS"):
        download(("https://example.org/",), "file", None, tmp_path)
    assert server.asked == []


def test_a_zip_bomb_of_weights_is_not_inflated(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.params", bytes(5_000_000))
    monkeypatch.setattr("leep.files.MOST_UNZIPPED", 1_000_000)
    with pytest.raises(ValueError, match=r"a\.params: expected at most 1000000 bytes, unzipped, got 5000000"):
        fetch._unpack_weights(tmp_path / "a.zip", "a.params", "0" * 40)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.name)
def test_every_requirement_is_pinned_and_has_a_hash(lock):
    lines = lock.read_text("utf-8").replace("\\\n", " ").splitlines()
    requirements = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert requirements
    for requirement in requirements:
        assert re.match(r"[A-Za-z0-9._-]+==\S+", requirement), requirement
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", requirement), requirement


def test_the_environment_is_installed_with_hashes_required():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    installed = re.findall(r"pip\) install (.*-r requirements\S*)", makefile)
    assert len(installed) == len(LOCKS) == 2 and all("--require-hashes" in line for line in installed)
