"""Downloads data sets and Gluon's weights: checksums, mirrors, and going on with a download that broke off."""

from __future__ import annotations

import hashlib
import itertools
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests

from leep.data import READERS, DataError, locate, search_path
from leep.files import check_unzipped, write_atomically
from leep.progress import progress
from leep.sources.weights import gluon_sha1

_TRIES = 5
_CHUNK = 1 << 14
_GLUON_REPOSITORIES = (
    "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/",
    "https://apache-mxnet.s3.amazonaws.com/",
)
_FASHION_MNIST_MIRRORS = (
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
)


class DownloadError(RuntimeError):
    """No mirror had the file; the message names what each of them sent instead and how to get the file by hand."""


class _NotTheFile(Exception):
    """A server sent something else, such as a page that asks to log in."""


@dataclass(frozen=True)
class RemoteFile:
    """A file and where it may be had.

    Attributes
    ----------
    name : file name
    checksum : `sha256:…` or another algorithm of hashlib; None where the content is checked as it is unpacked
    urls : mirrors in the order in which they are tried, HTTPS only
    """

    name: str
    checksum: str | None
    urls: tuple[str, ...]


@dataclass(frozen=True)
class RemoteDataSet:
    """A data set to be downloaded.

    Attributes
    ----------
    files : the files to download
    folder : name of its folder, Gluon's own
    counts : number of training and of test images
    members : of an archive, the members that are the data; none where the files are the data themselves
    """

    files: tuple[RemoteFile, ...]
    folder: str
    counts: tuple[int, int]
    members: tuple[str, ...] = ()


def _fashion_mnist(name: str, sha256: str) -> RemoteFile:
    return RemoteFile(name, f"sha256:{sha256}", tuple(mirror + name for mirror in _FASHION_MNIST_MIRRORS))


def _cifar(name: str, sha256: str) -> RemoteFile:
    return RemoteFile(name, f"sha256:{sha256}", (f"https://www.cs.toronto.edu/~kriz/{name}",))


DATA_SETS = {
    "cifar10": RemoteDataSet(
        (_cifar("cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),),
        "cifar10",
        (50_000, 10_000),
        tuple(
            f"cifar-10-batches-bin/{name}"
            for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin", "batches.meta.txt")
        ),
    ),
    "cifar100": RemoteDataSet(
        (_cifar("cifar-100-binary.tar.gz", "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),),
        "cifar100",
        (50_000, 10_000),
        tuple(f"cifar-100-binary/{name}" for name in ("train.bin", "test.bin", "fine_label_names.txt")),
    ),
    "fashion_mnist": RemoteDataSet(
        (
            _fashion_mnist(
                "train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
            ),
            _fashion_mnist(
                "train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
            ),
            _fashion_mnist(
                "t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
            ),
            _fashion_mnist(
                "t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
            ),
        ),
        "fashion-mnist",
        (60_000, 10_000),
    ),
}
GLUON_MODELS = ("cifar_resnet20_v1", "resnet18_v1")


def _session() -> requests.Session:
    """HTTPS only, wherever a server may redirect to."""
    session = requests.Session()
    del session.adapters["http://"]
    return session


class ResumingDownloader:
    """A downloader for pooch that gathers the file in `part`, which stays if the download breaks off.

    The next call asks the server for the rest only (`Range`); a server that sends the file from its beginning all the
    same is let do so.
    """

    def __init__(self, part: Path, timeout: float = 30):
        self.part = part
        self.timeout = timeout

    def __call__(self, url: str, output_file: str, _pooch) -> None:
        had = self._size()
        for attempt in range(_TRIES):
            try:
                self._receive(url)
                break
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError):
                if attempt + 1 == _TRIES or self._size() <= had:
                    raise
                had = self._size()
        os.replace(self.part, output_file)

    def _size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _receive(self, url: str) -> None:
        start = self._size()
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        with (
            _session() as session,
            session.get(url, headers=headers, stream=True, timeout=self.timeout) as response,
        ):
            answered = response.headers.get("Content-Range", "")
            if start and response.status_code == 416 and answered == f"bytes */{start}":
                return  # the part is the whole file
            if response.status_code == 200 or (response.status_code == 206 and answered.startswith(f"bytes {start}-")):
                self._store(response, start if response.status_code == 206 else 0)
                return
            if not start or response.status_code not in (206, 416):
                response.raise_for_status()
                raise _NotTheFile(f"the server answered {response.status_code} {answered}")
        self.part.unlink()  # it goes on elsewhere than asked, or the part is longer than the file
        self._receive(url)

    def _store(self, response: requests.Response, start: int) -> None:
        """Write the body of the answer into the part, from `start` on."""
        chunks = response.iter_content(_CHUNK)
        first = next(chunks, b"")
        if "text/html" in response.headers.get("Content-Type", "") or (not start and first.lstrip()[:1] == b"<"):
            raise _NotTheFile(f"the server sent a web page, not the file: {first[:40]!r} …")
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        name = self.part.name.removesuffix(".part")
        with (
            open(self.part, "ab" if start else "wb") as file,
            progress(total=total, initial=start, unit="B", unit_scale=True, desc=name) as bar,
        ):
            for chunk in itertools.chain([first], chunks):
                file.write(chunk)
                bar.update(len(chunk))
        if total is not None and self._size() < total:
            raise requests.ConnectionError(f"broke off after {self._size():,} of {total:,} bytes")


def _try_mirror(file: RemoteFile, url: str, folder: Path, part: Path, unpack: Callable[[Path], None] | None) -> Path:
    path = folder / file.name
    pooch.retrieve(url, file.checksum, fname=file.name, path=folder, downloader=ResumingDownloader(part))
    if unpack is not None:
        try:
            unpack(path)
        except ValueError:
            path.unlink()
            raise
    return path


def download(file: RemoteFile, folder: Path, unpack: Callable[[Path], None] | None = None) -> Path:
    """Get a file from the first mirror that has it; a file that is there and right is not downloaded again.

    Parameters
    ----------
    file : RemoteFile
    folder : Path
        Where it is written; a part of it is kept there as `NAME.part` if the download breaks off.
    unpack : callable, optional
        What to do with the file; a `ValueError` of it says that the file is wrong, as a wrong checksum does.

    Raises
    ------
    DownloadError
        If no mirror has it; names each mirror and what came from it.
    """
    path, part = folder / file.name, folder / f"{file.name}.part"
    failures = []
    for url in file.urls:
        # What lay there before may be to blame for a wrong file: then the mirror is tried again from nothing.
        attempts = 2 if path.exists() or part.exists() else 1
        while attempts:
            attempts -= 1
            try:
                return _try_mirror(file, url, folder, part, unpack)
            except requests.exceptions.InvalidSchema as error:
                failure = f"must be HTTPS: {error}"
                break
            except ValueError as error:
                failure = error
            except (requests.RequestException, _NotTheFile) as error:
                failure = error
                break
        failures.append(f"  {url}: {failure}")
    expected = f" (expected {file.checksum})" if file.checksum else ""
    raise DownloadError(
        f"{file.name}{expected} could not be downloaded:\n"
        + "\n".join(failures)
        + f"\nCheck the connection and run this again, it goes on where it stopped; or put the file at {path} by hand."
    )


def _unpack_tar(path: Path, members: tuple[str, ...], folder: Path) -> None:
    """Write the expected members of an archive, and nothing else of it, into the folder under their last names."""
    missing = set(members)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name in missing and member.isreg():
                    content = archive.extractfile(member).read()
                    write_atomically(folder / Path(member.name).name, lambda f, content=content: f.write(content))
                    missing.remove(member.name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"not a sound archive: {error}") from error
    if missing:
        raise ValueError(f"the archive lacks {', '.join(sorted(missing))}")


def _present(name: str, counts: tuple[int, int], root: Path | None) -> Path | None:
    """The folder that holds a data set which can be read and has all its images; None if it is to be downloaded."""
    try:
        folder = locate(name, root)
        data = None if folder is None else READERS[name](folder)
    except DataError:
        return None
    whole = data is not None and (len(data.train_labels), len(data.test_labels)) == counts
    return folder if whole else None


def fetch_data_set(name: str, root: Path | None = None, remote: RemoteDataSet | None = None) -> str:
    """Download a data set into the first folder of the search path, unless it is there, whole and readable.

    Parameters
    ----------
    name : key of `DATA_SETS`
    root : folder of data sets; default `$MXNET_HOME/datasets`
    remote : where to get it; default `DATA_SETS[name]`

    Returns
    -------
    str
        What was done, for people.

    Raises
    ------
    DownloadError
    """
    remote = remote or DATA_SETS[name]
    if (folder := _present(name, remote.counts, root)) is not None:
        return f"{name}: already in {folder}"
    folder = search_path(root)[0] / remote.folder
    for file in remote.files:
        if remote.members:
            download(file, folder.parent, lambda path: _unpack_tar(path, remote.members, folder)).unlink()
        else:
            download(file, folder)
    return f"{name}: downloaded to {folder}"


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


def _unpack_weights(path: Path, name: str, sha1: str) -> None:
    """Write the weights `name` out of a zip archive beside it, if their checksum is right."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_unzipped(name, archive.getinfo(name).file_size)
            content = archive.read(name)
    except (zipfile.BadZipFile, KeyError, zlib.error) as error:
        raise ValueError(f"not a zip archive with {name}: {error}") from error
    if (found := _sha1(content)) != sha1:
        raise ValueError(f"{name}: expected sha1 {sha1}, got {found}")
    write_atomically(path.parent / name, lambda file: file.write(content))


def fetch_weights(model: str, folder: Path | None = None, repositories: tuple[str, ...] | None = None) -> str:
    """Download Gluon's weights of a model to where Gluon looks for them, unless they are there and right.

    Parameters
    ----------
    model : a name of GluonCV's model store
    folder : default `$MXNET_HOME/models`
    repositories : mirrors, default `$MXNET_GLUON_REPO` if set, then Gluon's own

    Returns
    -------
    str
        What was done, for people.

    Raises
    ------
    DownloadError
    ValueError
        If GluonCV has no weights of that name.
    """
    sha1 = gluon_sha1(model)
    name = f"{model}-{sha1[:8]}"
    folder = search_path()[0].parent / "models" if folder is None else folder
    path = folder / f"{name}.params"
    if path.is_file() and _sha1(path.read_bytes()) == sha1:
        return f"{model}: already at {path}"
    if repositories is None:
        own = os.environ.get("MXNET_GLUON_REPO")
        repositories = ((own,) if own else ()) + _GLUON_REPOSITORIES
    urls = tuple(f"{repository.rstrip('/')}/gluon/models/{name}.zip" for repository in repositories)
    download(
        RemoteFile(f"{name}.zip", None, urls), folder, lambda zipped: _unpack_weights(zipped, path.name, sha1)
    ).unlink()
    return f"{model}: downloaded to {path}"
