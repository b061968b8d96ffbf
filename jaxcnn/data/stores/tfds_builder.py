"""TensorFlow Datasets by name, read record by record without TensorFlow."""

import concurrent.futures.thread
import contextlib
import hashlib
import os
import re
import shlex
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.config import DataConfig
from jaxcnn.data.examples import Split
from jaxcnn.data.stores.npz import read_npz
from jaxcnn.data.stores.records import shown
from jaxcnn.errors import UsageError, unknown

_POLL_SECONDS = 0.2


def open_builder(config: DataConfig, poll: Callable[[], None]) -> Any:
    """Return the prepared TFDS builder, downloading and preparing it first where that is needed and allowed.

    What `poll` raises ends the download.

    Raises:
        UsageError: for an unknown name, a data set that is not there and cannot be prepared, or one prepared
            in files without random access.
    """
    if not config.name:
        raise UsageError("data.source tfds needs data.name, for example mnist")
    builder = find_builder(config.name, config.path)
    if not is_prepared(builder):
        _download(builder, config.download, poll)
    with readable(config.name):
        formats = sorted(found.value for found in builder.info.available_file_formats())
    if "array_record" not in formats:
        given = "" if config.path is None else f" --data-dir {shlex.quote(str(config.path))}"
        advice = (
            f"convert them with 'jaxcnn data convert {config.name}{given}'"
            if "tfrecord" in formats
            else f"prepare it again with 'tfds build {config.name} --file_format=array_record'"
        )
        raise UsageError(f"{builder.data_path} holds {', '.join(formats)} files, which have no random access: {advice}")
    return builder


def find_builder(name: str, path: Path | None) -> Any:
    """Return the TFDS builder of a data set, which need not be prepared; if so, in any file format.

    Args:
        name: such as mnist or imagenette/full-size-v2.
        path: TFDS's data folder; TFDS's own by default.

    Raises:
        UsageError: TFDS has no such data set, configuration or version, lacks a package to open it, or its files are
            damaged.
    """
    import tensorflow_datasets as tfds

    data_dir = None if path is None else os.fspath(path.expanduser())
    try:
        if not re.fullmatch(r"\w+(/[^:]+)?(:[\d.*]+)?", name):  # TFDS also takes huggingface:NAME
            raise tfds.core.DatasetNotFoundError
        # TFDS prints a box where a package is missing.
        with contextlib.redirect_stdout(None), _importing_nothing():
            builder = tfds.builder(name, data_dir=data_dir)
            if not is_prepared(builder):
                builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
            elif builder.info.file_format.value != "array_record":
                # TFDS's own class of a data set knows its first format only, not what `convert` added.
                builder = tfds.builder_from_directory(builder.data_path)
    except tfds.core.DatasetNotFoundError:
        raise unknown("TFDS data set", name, tfds.list_builders(with_community_datasets=False)) from None
    except ImportError as error:
        reason = str(error).rpartition(": ")[2]
        raise UsageError(f"TFDS data set {name!r} cannot be opened: {reason}; pip install it") from error
    except Exception as error:  # of any type, where files are damaged
        raise _cannot_build(name, error) from error
    return builder


@contextlib.contextmanager
def _importing_nothing() -> Iterator[None]:
    """Have TFDS find a class of features among those that are imported.

    By itself it imports any module that a features.json names: what somebody else's files say, or a run's.
    """
    import tensorflow_datasets as tfds

    connector: Any = tfds.features.FeatureConnector
    own, find = connector.__dict__["cls_from_name"], connector.cls_from_name

    def imported(cls: Any, name: str) -> Any:
        module = str(name).rpartition(".")[0]
        if module not in sys.modules:  # where all of TFDS's own are
            raise ValueError(
                f"features.json names the class {name!r:.200}: import {module[:200]} first, if it is yours"
            )
        return find(name)

    connector.cls_from_name = classmethod(imported)
    try:
        yield
    finally:
        connector.cls_from_name = own


@contextlib.contextmanager
def readable(name: str) -> Iterator[None]:
    """Turn whatever TFDS comes to over damaged files into a UsageError of one line; `name` is the data set's."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"TFDS data set {name!r} cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return one line; TFDS's own errors have many."""
    return shown(" ".join(str(error).split()).rpartition('}": ')[2][:300]) or type(error).__name__


def is_prepared(builder: Any) -> bool:
    """Return whether the builder's files are there."""
    return (Path(builder.data_path) / "dataset_info.json").is_file()


def _cannot_build(given: str, error: Exception) -> UsageError:
    """Return the error for a configuration or version that is not there, or for damaged files."""
    import tensorflow_datasets as tfds

    name, _, variant = given.split(":")[0].partition("/")
    try:
        variants = tfds.builder_cls(name).builder_configs
    except tfds.core.DatasetNotFoundError:  # somebody's own, of which there are only files
        variants = {variant: None} if variant else {}
    if variant and not variants:
        return UsageError(f"TFDS data set {name} has no configurations: write {name}, not {given}")
    if variant and variant not in variants:
        return unknown(f"configuration of {name}", variant, variants)
    return UsageError(f"TFDS data set {given!r}: {_reason(error)}")


def _download(builder: Any, allowed: bool, poll: Callable[[], None]) -> None:
    name = builder.info.full_name.rpartition("/")[0]  # without the version
    missing = f"TFDS data set {name!r} is not prepared in {builder.data_dir_root}"
    advice = (
        "prepare it where there is a network, with 'pip install tensorflow importlib_resources' and "
        f"'tfds build {name} --file_format=array_record', or name its folder with --data.path"
    )
    if not allowed:
        raise UsageError(f"{missing}, and data.download is off; {advice}")
    error = _polled(builder.download_and_prepare, poll)
    if error is not None:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UsageError(
            f"{missing}, and the download failed ({type(error).__name__}: {reason[:200]}); {advice}"
        ) from error


def _polled(work: Callable[[], object], poll: Callable[[], None]) -> Exception | None:
    """Do `work` in a thread, polling meanwhile, and return what it raised; what `poll` raises leaves it behind."""
    raised: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # network, disk, checksums, a missing package: TFDS has no common type
            raised.append(error)

    pools = getattr(concurrent.futures.thread, "_threads_queues", {})
    before = set(pools)
    thread = threading.Thread(target=run, daemon=True, name="download")
    thread.start()
    try:
        while thread.is_alive():
            poll()
            thread.join(_POLL_SECONDS)
    except BaseException:
        for worker in set(pools) - before:  # of TFDS; Python's exit would wait for all their work
            del pools[worker]
        raise
    return raised[0] if raised else None


def find_features(info: Any) -> tuple[str, str]:
    """Return the names of the image and the class feature of a classification data set."""
    import tensorflow_datasets as tfds

    features = info.features
    names = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    images = [name for name, value in names.items() if isinstance(value, tfds.features.Image)]
    labels = [name for name, value in names.items() if isinstance(value, tfds.features.ClassLabel)]
    for image, label in (info.supervised_keys or ("image", "label"), ("image", "label")):
        if image in images and label in labels:
            break
    else:
        raise UsageError(
            f"TFDS data set {info.full_name!r} is not for image classification: it has the features "
            f"{', '.join(map(shown, names))[:200] or type(features).__name__}, an image and one class label are needed"
        )
    if features[image].np_dtype != np.uint8:
        raise UsageError(
            f"TFDS data set {info.full_name!r}: images are {np.dtype(features[image].np_dtype)}, not uint8"
        )
    return image, label


def kept(builder: Any, config: DataConfig, split: str, decode: Callable[[], Split]) -> Split:
    """Return a whole split, decoded: from the user's cache where these files were decoded before, or by `decode`."""
    path = _kept_path(builder, split, config.image_size, config.resize, config.resize_to)
    # The CRC of each array is checked; a damaged file is decoded anew.
    with contextlib.suppress(UsageError, KeyError):
        arrays = read_npz(path)
        return Split({"image": arrays["images"], "label": arrays["labels"]})
    result = decode()
    if not result.bad:  # else they are to be found, and told of, each time
        with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
            _keep(path, result)
    return result


def _kept_path(builder: Any, split: str, *options: object) -> Path:
    """Return a path that changes with the prepared files and with how they are decoded."""
    folder = Path(builder.data_path)
    stamp = hashlib.sha256(repr(options).encode())
    for file in sorted(folder.iterdir()):
        status = file.stat()
        stamp.update(f"{file.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    stamp.update((folder / "dataset_info.json").read_bytes())
    root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    name = f"{builder.info.full_name.replace('/', '-')}-{split}-{stamp.hexdigest()[:16]}.npz"
    return root / "jaxcnn" / "data" / name


def _keep(path: Path, split: Split) -> None:
    """Write the arrays, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, images=split.arrays["image"], labels=split.arrays["label"])
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
