"""Where examples come from, by name: TFDS, scikit-learn's digits, .npz files, folders of images, tar files, caches."""

import gzip
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.config import DataConfig
from jaxcnn.data.fields import Field, Image, Label, check_names
from jaxcnn.data.stores.arrays import array_store
from jaxcnn.data.stores.objects import open_object
from jaxcnn.data.stores.records import Store
from jaxcnn.errors import UsageError
from jaxcnn.parts import Finder, Part, call

Poll = Callable[[], None]
Like = Mapping[str, type[Field]]


def open_store(
    config: DataConfig,
    *,
    source: Any = None,
    finder: Finder = Finder(),  # noqa: B008
    like: Like | None = None,
    poll: Poll = lambda: None,
) -> Store:
    """Return a data set as it is stored; TFDS may download it first.

    Args:
        config: `source` and what belongs to it are read.
        source: an object that takes its place, see `stores.objects`; or a Store.
        finder: of a source that `config` names.
        like: the fields that are needed, and their kinds.
        poll: called now and then; what it raises ends the work.

    Raises:
        UsageError: where the source lacks what was asked for, naming it.
    """
    if source is None and config.source is None:
        raise UsageError(f"data.source is None: expected one of {', '.join(OPENERS)}, or a source of your own")
    if source is None and isinstance(config.source, str):
        store = OPENERS[config.source](config, poll)
        check_names(like or {}, store.fields)
        return store
    if source is None and isinstance(config.source, Part):
        source = finder.find(config.source.name)
        if inspect.isroutine(source) or inspect.isclass(source) or config.options:
            source = call(config.source.name, source, config.options)
    return open_object(config.source if source is None else source, like, poll)


def _open_tfds(config: DataConfig, poll: Poll) -> Store:
    from jaxcnn.data.stores.tfds_builder import kept, open_builder
    from jaxcnn.data.stores.tfds_records import open_tfds

    builder = open_builder(config, poll)
    return replace(open_tfds(builder), decoded=partial(kept, builder, config))


def _open_digits(config: DataConfig, poll: Poll) -> Store:
    """Open the test part of UCI's "Optical Recognition of Handwritten Digits", 8x8, as in scikit-learn.

    The file has no split of its own: after one fixed permutation the last fifth (360) is the test split.
    """
    spec = importlib.util.find_spec("sklearn")  # found, not imported: importing it takes a second
    if spec is None or spec.origin is None:
        raise UsageError("the digits come with scikit-learn: pip install 'jaxcnn[digits]'")
    with gzip.open(Path(spec.origin).parent / "datasets/data/digits.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",", dtype=np.int64)
    table = table[np.random.RandomState(0).permutation(len(table))]
    pixels = np.round(table[:, :64] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    count = len(table) - -(-len(table) // 5)
    parts = {"train": slice(count), "test": slice(count, None)}
    splits = {name: {"image": pixels[part], "label": table[part, 64]} for name, part in parts.items()}
    return array_store(splits, {"image": Image(1), "label": Label(tuple("0123456789"))}, "digits")


def _open_npz(config: DataConfig, poll: Poll) -> Store:
    from jaxcnn.data.stores.npz import open_npz

    return open_npz(_existing(config, "file"))


def _open_folder(config: DataConfig, poll: Poll) -> Store:
    from jaxcnn.data.stores.image_folder import open_folder

    return open_folder(_existing(config, "folder"))


def _open_tar(config: DataConfig, poll: Poll) -> Store:
    from jaxcnn.data.stores.tar import open_tar

    return open_tar(_existing(config, "file or folder"), poll)


def _open_cache(config: DataConfig, poll: Poll) -> Store:
    from jaxcnn.data.stores.cache import open_cache

    return open_cache(_existing(config, "folder"))


def _existing(config: DataConfig, kind: str) -> Path:
    """Return data.path, which is to be a "file", a "folder" or a "file or folder"."""
    if config.path is None:
        raise UsageError(f"data.source {config.source} needs data.path, the {kind} to read")
    path = config.path.expanduser()
    if not ((path.is_file() and "file" in kind) or (path.is_dir() and "folder" in kind)):
        raise UsageError(f"data.path {path}: no such {kind}")
    return path


OPENERS: dict[str, Callable[[DataConfig, Poll], Store]] = {
    "tfds": _open_tfds,
    "digits": _open_digits,
    "npz": _open_npz,
    "folder": _open_folder,
    "tar": _open_tar,
    "cache": _open_cache,
}
