"""Downloads data sets and Gluon's weights: mirrors in order, checksums, and resuming a download that broke off."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pooch
import requests

from leep.data import READERS, locate, search_path
from leep.data.known import FULL, find_variant
from leep.errors import Invalid, Missing
from leep.files import check_unzipped, file_digest, write_atomically
from leep.progress import progress
from leep.sources.weights import gluon_sha1

GLUON_MODELS = ("cifar_resnet20_v1", "resnet18_v1")
_GLUON_REPOSITORIES = (
    "https://apache-mxnet.s3-accelerate.dualstack.amazonaws.com/",
    "https://apache-mxnet.s3.amazonaws.com/",
)
_TRIES = 5


@dataclass(frozen=True)
class RemoteDataSet:
    """A data set to be downloaded.

    Attributes
    ----------
    folder : name of its folder, Gluon's own
    mirrors : addresses of folders, in the order in which they are tried, HTTPS only
    files : SHA-256 by file name
    members : of an archive, the members that are the data; none if the files are the data themselves
    """

    folder: str
    mirrors: tuple[str, ...]
    files: Mapping[str, str]
    members: tuple[str, ...] = ()


DATA_SETS = {
    "cifar10": RemoteDataSet(
        "cifar10",
        ("https://www.cs.toronto.edu/~kriz/",),
        {"cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"},
        tuple(
            f"cifar-10-batches-bin/{name}"
            for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin", "batches.meta.txt")
        ),
    ),
    "cifar100": RemoteDataSet(
        "cifar100",
        ("https://www.cs.toronto.edu/~kriz/",),
        {"cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"},
        tuple(f"cifar-100-binary/{name}" for name in ("train.bin", "test.bin", "fine_label_names.txt")),
    ),
    "fashion_mnist": RemoteDataSet(
        "fashion-mnist",
        (
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
            "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        ),
        {
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
}


def fetch_data_set(name: str, root: Path | None = None, remote: RemoteDataSet | None = None) -> str:
    """Download a data set into the first folder of the search path, unless it is there, known by its contents.

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
    Missing
        If it could not be downloaded.
    """
    remote = remote or DATA_SETS[name]
    if (folder := _find_published(name, root)) is not None:
        return f"{name}: already in {folder}"
    folder = search_path(root)[0] / remote.folder
    for file, sha256 in remote.files.items():
        if remote.members:
            unpack = partial(_unpack_tar, members=remote.members, folder=folder)
            download(remote.mirrors, file, sha256, folder.parent, unpack).unlink()
        else:
            download(remote.mirrors, file, sha256, folder)
    return f"{name}: downloaded to {folder}"


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
    Missing
        If they could not be downloaded.
    Invalid
        If GluonCV has no weights of that name.
    """
    sha1 = gluon_sha1(model)
    name = f"{model}-{sha1[:8]}"
    folder = search_path()[0].parent / "models" if folder is None else folder
    path = folder / f"{name}.params"
    if path.is_file() and file_digest(path, "sha1") == sha1:
        return f"{model}: already at {path}"
    if repositories is None:
        own = os.environ.get("MXNET_GLUON_REPO")
        repositories = ((own,) if own else ()) + _GLUON_REPOSITORIES
    mirrors = tuple(f"{repository.rstrip('/')}/gluon/models/" for repository in repositories)
    unpack = partial(_unpack_weights, name=path.name, sha1=sha1)  # the archive itself has no checksum
    download(mirrors, f"{name}.zip", None, folder, unpack).unlink()
    return f"{model}: downloaded to {path}"


def download(
    mirrors: tuple[str, ...],
    name: str,
    sha256: str | None,
    folder: Path,
    unpack: Callable[[Path], None] = lambda path: None,
) -> Path:
    """Get a file from the first mirror that has it; a file that is there and right is not downloaded again.

    Parameters
    ----------
    mirrors : addresses of folders, HTTPS only
    name : file name
    sha256 : its checksum; None if `unpack` checks the content
    folder : Path
        Where it is written. A download that breaks off leaves `NAME.part`, from which the next call goes on.
    unpack : callable, optional
        What to do with the file; a `ValueError` of it says that the file is wrong, as a wrong checksum does.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    Missing
        If no mirror has it; names each mirror, what came from it, and how to get the file by hand.
    """
    path, part = folder / name, folder / f"{name}.part"
    failures = []
    for url in (mirror + name for mirror in mirrors):
        for _ in range(_TRIES):
            had = _size(part)
            old = had or path.exists()
            try:
                pooch.retrieve(url, sha256, name, folder, downloader=partial(_resume, part=part))
                unpack(path)
                return path
            except requests.exceptions.InvalidSchema as error:
                failure, again = f"must be HTTPS: {error}", False
            except requests.RequestException as error:
                failure, again = error, _size(part) > had
            except ValueError as error:  # the file is wrong, perhaps because of what lay there before
                failure, again = error, old
                path.unlink(missing_ok=True)
            if not again:
                break
        failures.append(f"  {url}: {failure}")
    expected = f" (expected SHA-256 {sha256})" if sha256 else ""
    raise Missing(
        f"{name}{expected} could not be downloaded:\n"
        + "\n".join(failures)
        + f"\nCheck the connection and run this again, it goes on where it stopped; or put the file at {path} by hand."
    )


def _session() -> requests.Session:
    """HTTPS only, wherever a server may redirect to."""
    session = requests.Session()
    del session.adapters["http://"]
    return session


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _resume(url: str, output: str, _pooch: object, part: Path) -> None:
    """Download what `part` lacks of a file, and move it to `output`; called by pooch.

    If the server ignores `Range`, the download restarts from zero.
    """
    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with _session() as session, session.get(url, headers=headers, stream=True, timeout=30) as response:
        if response.status_code == 416:
            part.unlink()
            raise ValueError("the part is as long as the file, or longer")
        response.raise_for_status()
        if "text/html" in response.headers.get("Content-Type", ""):
            raise requests.RequestException("the server sent a web page, such as one that asks to log in")
        start = start if response.status_code == 206 else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with (
            open(part, "ab" if start else "wb") as file,
            progress(total=total, initial=start, unit="B", unit_scale=True, desc=part.stem) as bar,
        ):
            for chunk in response.iter_content(1 << 14):
                file.write(chunk)
                bar.update(len(chunk))
    os.replace(part, output)


def _find_published(name: str, root: Path | None) -> Path | None:
    """The folder that holds the published data set; None if it is to be downloaded."""
    try:
        folder = locate(name, root)
        data = None if folder is None else READERS[name].read(folder)
    except Invalid:
        return None
    return folder if data is not None and find_variant(data) == FULL else None


def _unpack_tar(path: Path, members: tuple[str, ...], folder: Path) -> None:
    """Write the expected members of an archive, and nothing else of it, into the folder under their last names."""
    missing = set(members)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.name in missing and member.isreg():
                    write_atomically(folder / Path(member.name).name, archive.extractfile(member).read())
                    missing.remove(member.name)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ValueError(f"not a sound archive: {error}") from error
    if missing:
        raise ValueError(f"the archive lacks {', '.join(sorted(missing))}")


def _unpack_weights(path: Path, name: str, sha1: str) -> None:
    """Write the weights `name` of a zip archive beside it, if their checksum is right."""
    try:
        with zipfile.ZipFile(path) as archive:
            check_unzipped(name, archive.getinfo(name).file_size)
            content = archive.read(name)
    except (zipfile.BadZipFile, KeyError, zlib.error) as error:
        raise ValueError(f"not a zip archive with {name}: {error}") from error
    if (found := hashlib.sha1(content, usedforsecurity=False).hexdigest()) != sha1:
        raise ValueError(f"{name}: expected sha1 {sha1}, got {found}")
    write_atomically(path.parent / name, content)
