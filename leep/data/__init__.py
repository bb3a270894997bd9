"""Readers of data sets, and where data sets are looked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from leep.data.cifar import CIFAR10, CIFAR100, Cifar, holds_cifar, read_cifar
from leep.data.dataset import DataSet
from leep.data.folder import read_folder
from leep.data.idx import holds_fashion_mnist, read_fashion_mnist
from leep.data.known import find_variant
from leep.errors import Missing
from leep.files import short

__all__ = ["READERS", "DataSet", "Reader", "find_data", "load_data", "locate", "search_path"]

_SAMPLE = Path(__file__).parent / "sample" / "fashion_mnist"


@dataclass(frozen=True)
class Reader:
    """How a data set is read and where it is looked for.

    Attributes
    ----------
    read : callable
        From a folder to a `DataSet`; None if the folder does not hold it.
    holds : callable, optional
        Whether a folder holds the data set; `Invalid` if only a part of it.
    folders : tuple of str
        Names of its folder under each folder of the search path: Gluon's first, then those of the official archives,
        unpacked into it or beside it, and torchvision's.
    sample : Path, optional
        Folder of a bundled sample.
    """

    read: Callable[..., DataSet | None]
    holds: Callable[[Path], bool] | None = None
    folders: tuple[str, ...] = ()
    sample: Path | None = None


def _cifar(cifar: Cifar, *archives: str) -> Reader:
    """The reader of CIFAR-10 or CIFAR-100, and the folders in its official archives."""
    folders = (cifar.name, *(f"{cifar.name}/{archive}" for archive in archives), *archives)
    return Reader(partial(read_cifar, cifar), partial(holds_cifar, cifar), folders)


READERS = {
    "cifar10": _cifar(CIFAR10, "cifar-10-batches-bin", "cifar-10-batches-py"),
    "cifar100": _cifar(CIFAR100, "cifar-100-binary", "cifar-100-python"),
    "fashion_mnist": Reader(
        read_fashion_mnist,
        holds_fashion_mnist,
        ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
        sample=_SAMPLE,
    ),
    "fashion_mnist_sample": Reader(read_fashion_mnist, sample=_SAMPLE),  # also where the full set is there
    "folder": Reader(read_folder),  # takes the path of the folder, and a size
}


def search_path(root: str | Path | None = None) -> list[Path]:
    """Folders in which data sets are looked for: `root`, `$MXNET_HOME/datasets`, `/usr/share/datasets`."""
    gluon = Path(os.environ.get("MXNET_HOME") or "~/.mxnet").expanduser() / "datasets"
    return ([Path(root).expanduser()] if root else []) + [gluon, Path("/usr/share/datasets")]


def locate(name: str, root: str | Path | None = None) -> Path | None:
    """Find the folder of the search path that holds the whole data set; None if there is none.

    Raises
    ------
    Invalid
        If a folder that comes first holds only some of its files.
    """
    reader = READERS[name]
    folders = (folder / sub for folder in search_path(root) for sub in reader.folders)
    return next((folder for folder in folders if folder.is_dir() and reader.holds(folder)), None)


def _check_name(name: str, path: str | Path | None) -> None:
    if name not in READERS:
        raise ValueError(f"unknown reader of data {name!r}; choose one of {', '.join(READERS)}")
    if name == "folder" and path is None:
        raise ValueError("the reader 'folder' needs the path of a folder of images, got None")
    if name != "folder" and path is not None:
        raise ValueError(f"only the reader 'folder' takes a path, got {path} for {name!r}; set data.root instead")


def find_data(name: str, root: str | Path | None = None, path: str | Path | None = None) -> Path:
    """Find the data set that `load_data` would read, without reading it.

    Parameters
    ----------
    name : one of `READERS`
    root : folder of data sets that is looked into first
    path : folder of images, or table of files and labels, for `folder` only

    Returns
    -------
    Path
        Its folder; that of the bundled sample if only that is at hand.

    Raises
    ------
    Missing
        If there is none; the message says where it was looked for and how to get it.
    Invalid
        If a folder holds only some files of the data set.
    ValueError
        If the name is unknown.
    """
    _check_name(name, path)
    if name == "folder":
        folder = Path(path).expanduser()
        if not folder.exists():
            raise Missing(f"{folder}: no such folder of images")
        return folder
    if (folder := locate(name, root)) is not None:
        return folder
    reader = READERS[name]
    if reader.sample is not None and reader.sample.is_dir():
        return reader.sample
    sample = "; a sample comes with a checkout of the repository, not with the wheel" if reader.sample else ""
    raise Missing(
        f"{name} was not found: looked for a folder {', '.join(reader.folders)} in "
        f"{', '.join(map(short, search_path(root)))}. `make data` gets it; or set data.root to a folder that holds it"
        f"{sample}"
    )


def load_data(
    name: str,
    root: str | Path | None = None,
    path: str | Path | None = None,
    size: int | None = None,
    on_damaged: str = "error",
) -> DataSet:
    """Read the first whole data set of the search path, or the bundled sample if there is none.

    Parameters
    ----------
    name : one of `READERS`
    root : folder of data sets that is looked into first
    path, size, on_damaged : what `read_folder` takes, for `folder` only

    Raises
    ------
    Missing, Invalid, ValueError
        As `find_data`; Invalid also if a file is damaged.

    Examples
    --------
    >>> load_data("fashion_mnist").test_images.shape
    (10000, 28, 28, 1)
    """
    folder = find_data(name, root, path)
    if name == "folder":
        return read_folder(folder, size, on_damaged)
    if size is not None:
        raise ValueError(f"only the reader 'folder' takes a size, got {size} for {name!r}")
    data = READERS[name].read(folder)
    return replace(data, variant=find_variant(data))
