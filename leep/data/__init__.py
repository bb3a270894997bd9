"""Readers of data sets, and where data sets are looked for."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from leep.data.cifar import holds_cifar10, holds_cifar100, read_cifar10, read_cifar100
from leep.data.dataset import DataError, DataMissing, DataSet
from leep.data.folder import read_folder
from leep.data.idx import holds_fashion_mnist, read_fashion_mnist
from leep.files import short

__all__ = ["READERS", "DataError", "DataMissing", "DataSet", "find_data", "load_data", "locate", "search_path"]

READERS = {
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "fashion_mnist": read_fashion_mnist,
    "folder": read_folder,
}
_HOLDS = {"cifar10": holds_cifar10, "cifar100": holds_cifar100, "fashion_mnist": holds_fashion_mnist}
# Gluon's name first, then those of the official archives, unpacked into it or beside it, and torchvision's.
_FOLDERS = {
    "cifar10": (
        "cifar10",
        "cifar10/cifar-10-batches-bin",
        "cifar10/cifar-10-batches-py",
        "cifar-10-batches-bin",
        "cifar-10-batches-py",
    ),
    "cifar100": (
        "cifar100",
        "cifar100/cifar-100-binary",
        "cifar100/cifar-100-python",
        "cifar-100-binary",
        "cifar-100-python",
    ),
    "fashion_mnist": ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
}
SAMPLES = {"fashion_mnist": Path(__file__).parent / "sample" / "fashion_mnist"}
_SAMPLE = "bundled sample"


def search_path(root: str | Path | None = None) -> list[Path]:
    """Folders in which data sets are looked for: `root`, `$MXNET_HOME/datasets`, `/usr/share/datasets`."""
    gluon = Path(os.environ.get("MXNET_HOME") or "~/.mxnet").expanduser() / "datasets"
    return ([Path(root).expanduser()] if root else []) + [gluon, Path("/usr/share/datasets")]


def locate(name: str, root: str | Path | None = None) -> Path | None:
    """The folder of the search path that holds the whole data set, or None.

    Raises
    ------
    DataError
        If a folder that comes first holds only some of its files.
    """
    folders = (folder / sub for folder in search_path(root) for sub in _FOLDERS[name])
    return next((folder for folder in folders if folder.is_dir() and _HOLDS[name](folder)), None)


def _checked_name(name: str, path: str | Path | None) -> None:
    if name not in READERS:
        raise ValueError(f"unknown reader of data {name!r}; choose one of {', '.join(READERS)}")
    if name == "folder" and path is None:
        raise ValueError("the reader 'folder' needs the path of a folder of images, got None")
    if name != "folder" and path is not None:
        raise ValueError(f"only the reader 'folder' takes a path, got {path} for {name!r}; set data.root instead")


def _find(name: str, root: str | Path | None, path: str | Path | None) -> tuple[Path, str]:
    """The folder that would be read, and its variant."""
    _checked_name(name, path)
    if name == "folder":
        folder = Path(path).expanduser()
        if not folder.is_dir():
            raise DataMissing(f"{folder}: no such folder of images")
        return folder, "full"
    if (folder := locate(name, root)) is not None:
        return folder, "full"
    if name in SAMPLES and SAMPLES[name].is_dir():
        return SAMPLES[name], _SAMPLE
    sample = "; a sample comes with a checkout of the repository, not with the wheel" if name in SAMPLES else ""
    raise DataMissing(
        f"{name} was not found: looked for a folder {', '.join(_FOLDERS[name])} in "
        f"{', '.join(map(short, search_path(root)))}. `make data` gets it; or set data.root to a folder that holds it"
        f"{sample}"
    )


def find_data(name: str, root: str | Path | None = None, path: str | Path | None = None) -> str:
    """The variant of the data set that `load_data` would read, without reading it.

    Parameters
    ----------
    name : one of `READERS`
    root : folder of data sets that is looked into first
    path : folder of images, for `folder` only

    Returns
    -------
    str
        `full`, or `bundled sample` where only that is at hand.

    Raises
    ------
    DataMissing
        If there is none; the message says where it was looked for and how to get it.
    DataError
        If a folder holds only some files of the data set.
    ValueError
        If the name is unknown.
    """
    return _find(name, root, path)[1]


def load_data(
    name: str, root: str | Path | None = None, path: str | Path | None = None, size: int | None = None
) -> DataSet:
    """Read a data set: the first whole one of the search path, else the bundled sample if there is one.

    Parameters
    ----------
    name : one of `READERS`
    root : folder of data sets that is looked into first
    path, size : folder of images, and the height and width to which they are resized, for `folder` only

    Raises
    ------
    As `find_data`; DataError also if a file is damaged.
    """
    folder, variant = _find(name, root, path)
    if name == "folder":
        return read_folder(folder, size)
    if size is not None:
        raise ValueError(f"only the reader 'folder' takes a size, got {size} for {name!r}")
    return replace(READERS[name](folder), variant=variant)
