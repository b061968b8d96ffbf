"""Data sets from TFDS, scikit-learn's digits, .npz files, folders of images, tar files and caches."""

import gzip
import importlib.util
import itertools
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from jaxcnn.data import images as imaging
from jaxcnn.data.bad import BadExamples, labelled
from jaxcnn.data.config import DataConfig
from jaxcnn.data.crops import ScaleJitter
from jaxcnn.data.dataset import Dataset, Examples, Split, check_split, concatenate
from jaxcnn.data.decode import BadImage
from jaxcnn.data.slicing import Slice, parse
from jaxcnn.data.stores.records import ArrayRecords, Store, Subset
from jaxcnn.errors import UsageError, unknown

Poll = Callable[[], None]


def load(config, *, source=None, finder=None, like=None, streamed=None, norms=None, poll=lambda: None):
    from jaxcnn.data.dataset import normalisation
    from jaxcnn.data.fields import Image, Label
    from jaxcnn.data.prepared import Norms

    store = open_store(config, poll)
    streamed = streams(config, store) if streamed is None else streamed
    data = take(config, store, streamed, poll)
    if norms is None:
        norms = Norms(*normalisation(config, data.train, poll))
    fields = {"image": Image(data.train.image_shape[-1]), "label": Label(data.class_names)}
    return replace(
        data,
        fields=fields,
        norms=norms,
        streamed=streamed,
        ignored=store.ignored,
        augment=config.augment,
        last_batch=config.last_batch,
        config=config,
    )


def open_store(config: DataConfig, poll: Poll = lambda: None) -> Store:
    """Return the data set as it is stored; TFDS may download it first.

    Raises:
        UsageError: as `load`.
    """
    if config.source not in OPENERS:
        raise unknown("data.source", config.source, OPENERS)
    _check(config)
    store = OPENERS[config.source](config, poll)
    _check_overlap(config, store.sizes)
    return store


def streams(config: DataConfig, store: Store) -> bool:
    """Return whether examples are read while the network trains; if not, they are decoded once, into memory.

    No result depends on it: where nothing is random on the host, both give the same batches.
    """
    if config.pipeline != "auto" or config.train_crop is not None:
        return config.pipeline == "streaming" or config.train_crop is not None
    if config.image_size is None or store.in_memory:
        return False
    splits = {part.split for spec in _specs(config).values() for part in parse(spec, store.sizes)}
    image = config.image_size**2 * store.channels
    train = sum(part.stop - part.start for part in parse(config.train_split, store.sizes))
    host, device = imaging.free_memory()
    return sum(store.sizes[split] for split in splits) * image > host // 2 or train * image > device // 2


def take(config: DataConfig, store: Store, streamed: bool, poll: Poll = lambda: None) -> Dataset:
    """Return the splits that `config` names.

    Raises:
        UsageError, RunError: as `load`.
    """
    open_split = _open_streamed if streamed else _open_in_memory(store, config, poll)
    found = {name: open_split(config, store, spec) for name, spec in _specs(config).items()}
    train = found["train"]
    for name, split in found.items():
        if split.image_shape != train.image_shape:
            same = split.image_shape[-1] == train.image_shape[-1]
            raise UsageError(
                f"images of split {_specs(config)[name]!r} are {split.image_shape}, those of {config.train_split!r} "
                f"{train.image_shape}: {'set data.image_size' if same else 'expected as many channels'}"
            )
    return Dataset(train, found.get("val"), found["test"], store.class_names, store.note)


def _specs(config: DataConfig) -> dict[str, str]:
    specs = {"train": config.train_split, "val": config.val_split, "test": config.test_split}
    return {name: spec for name, spec in specs.items() if spec is not None}


def _open_streamed(config: DataConfig, store: Store, spec: str) -> Examples:
    from jaxcnn.data.streaming import Reader

    records = Subset([(store.records(name), start, stop) for name, start, stop in parse(spec, store.sizes)])
    if config.image_size is not None:
        shape: tuple[int, ...] = (config.image_size, config.image_size, store.channels)
    elif store.in_memory:
        shape = np.shape(records[0].image)
        if config.train_crop is not None and shape[0] != shape[1]:
            raise UsageError(
                f"data.train_crop makes squares, the images are {shape[0]}x{shape[1]}: set data.image_size"
            )
    else:
        raise UsageError("images that are streamed need data.image_size, the side in pixels that all are brought to")
    bad = BadExamples(spec, len(records), config.bad_limit)
    return Reader(records, shape, store.class_names, config, bad)


def _open_in_memory(store: Store, config: DataConfig, poll: Poll) -> Callable[[DataConfig, Store, str], Examples]:
    whole: dict[str, Split] = {}

    def open_split(config: DataConfig, store: Store, spec: str) -> Examples:
        parts: list[Split] = []
        for name, start, stop in parse(spec, store.sizes):
            if name not in whole:
                read = partial(read_whole, store, name, config, poll)
                whole[name] = read() if store.decoded is None else store.decoded(name, read)
            parts.append(whole[name][start:stop])
        if len({part.image_shape for part in parts}) > 1:
            raise UsageError(f"split {spec!r}: images differ in size, set data.image_size")
        found = concatenate(parts)
        bad = BadExamples(spec, len(found), config.bad_limit)
        for index, (name, reason) in found.unusable.items():
            bad.add(index, name, reason)
        return found

    return open_split


def read_whole(store: Store, name: str, config: DataConfig, poll: Poll) -> Split:
    """Return a whole split, decoded by threads.

    Raises:
        UsageError: images differ in size, or do not fit in memory.
    """
    records = store.records(name)
    if config.image_size is not None:
        imaging.check_memory(len(records), (config.image_size, config.image_size, store.channels))
    bad = BadExamples(name, len(records), 1.0)  # the limit is that of the part which is asked for
    labels = np.zeros(len(records), np.int32)

    def read(index: int) -> np.ndarray | None:
        try:
            image, label = labelled(records, index, store.class_names)
            pixels = imaging.fitted(image, store.channels, config)
        except BadImage as error:
            bad.add(index, records.name(index), str(error))
            return None
        labels[index] = label
        return pixels

    def described(index: int) -> str:
        return f"{records.name(index)}{f': {bad.found[index].reason}' if index in bad.found else ''}"

    images = imaging.stack(len(records), read, described, poll)
    return Split(images, labels, bad.found)


def _check(config: DataConfig) -> None:
    if config.image_size is not None and config.image_size < 1:
        raise UsageError(f"data.image_size is {config.image_size}: expected a number of pixels, such as 224")
    if config.resize_to is not None and (config.image_size is None or config.resize_to < config.image_size):
        raise UsageError(
            f"data.resize_to is {config.resize_to}: expected {config.image_size}, data.image_size, or more"
        )
    if config.resize_to is not None and config.resize == "pad":
        raise UsageError(f"data.resize_to is {config.resize_to}, but data.resize pad does not scale: give one of them")
    if config.train_crop is not None and config.pipeline == "resident":
        raise UsageError("data.train_crop cuts from whole images, which data.pipeline resident does not keep: give one")
    if isinstance(config.train_crop, ScaleJitter) and config.train_crop.short_side[0] < (config.image_size or 1):
        raise UsageError(
            f"data.train_crop.short_side begins at {config.train_crop.short_side[0]}: expected {config.image_size}, "
            "data.image_size, or more"
        )
    if not 0 <= config.bad_limit <= 1:
        raise UsageError(f"data.bad_limit is {config.bad_limit}: expected a fraction of the examples, such as 0.001")
    if config.threads is not None and config.threads < 1:
        raise UsageError(f"data.threads is {config.threads}: expected a number of threads, such as {imaging.cores()}")
    if config.name and config.source != "tfds":
        raise UsageError(
            f"data.name is {config.name!r}, which data.source {config.source} does not read: only tfds does"
        )
    if config.path is not None and config.source == "digits":
        raise UsageError(f"data.path is {str(config.path)!r}, which data.source digits does not read: it needs no file")


def _check_overlap(config: DataConfig, sizes: Mapping[str, int]) -> None:
    """Raise where an example would be scored that was trained on, or counted twice."""

    def shared(ours: Slice, theirs: Slice) -> int:
        return min(ours.stop, theirs.stop) - max(ours.start, theirs.start) if ours.split == theirs.split else 0

    train = parse(config.train_split, sizes)
    for name, spec in (("train", config.train_split), ("val", config.val_split), ("test", config.test_split)):
        slices = [] if spec is None else parse(spec, sizes)
        if any(shared(*pair) > 0 for pair in itertools.combinations(slices, 2)):
            raise UsageError(f"data.{name}_split {spec!r} names examples twice")
        common = sum(max(0, shared(*pair)) for pair in itertools.product(train, slices))
        if common and name != "train":
            raise UsageError(
                f"data.{name}_split {spec!r} shares {common} examples with data.train_split {config.train_split!r}: "
                "expected others (`jaxcnn evaluate RUN --split train` scores those trained on)"
            )


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
    digits = check_split(pixels, table[:, 64], "digits")
    count = len(table) - -(-len(table) // 5)
    splits = {"train": digits[:count], "test": digits[count:]}
    return _in_memory(tuple("0123456789"), splits)


def _open_npz(config: DataConfig, poll: Poll) -> Store:
    """Open arrays {split}_images and {split}_labels, and optionally class_names."""
    path = _existing(config, "file")
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it was not written by np.savez")
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not a readable .npz file ({error})") from error
    splits = {}
    for key in arrays:
        name, _, kind = key.rpartition("_")
        if kind == "images" and name:
            if f"{name}_labels" not in arrays:
                raise UsageError(f"{path} holds {key} and no {name}_labels")
            splits[name] = check_split(arrays[key], arrays[f"{name}_labels"], f"{path} {name}")
    if not splits:
        raise UsageError(f"{path} holds {', '.join(arrays) or 'nothing'}; expected train_images, train_labels, ...")
    labels = np.unique(np.concatenate([split.labels for split in splits.values()]))
    count = int(labels[-1]) + 1
    if "class_names" not in arrays and len(labels) < count:
        missing = np.setdiff1d(np.arange(min(count, len(labels) + 1)), labels)[0]
        raise UsageError(
            f"{path} has labels up to {count - 1} and none is {missing}: expected every number from 0, or an array "
            "class_names where some classes have no image"
        )
    class_names = tuple(map(str, arrays.get("class_names", range(count))))
    if count > len(class_names):
        raise UsageError(f"{path}: label {count - 1} found, there are {len(class_names)} classes")
    return _in_memory(class_names, splits)


def _in_memory(class_names: tuple[str, ...], splits: Mapping[str, Split]) -> Store:
    arrays = {name: ArrayRecords(split.images, split.labels) for name, split in splits.items()}
    sizes = {name: len(split) for name, split in splits.items()}
    channels = next(iter(splits.values())).image_shape[-1]
    return Store(class_names, sizes, arrays.__getitem__, channels=channels, in_memory=True)


def _open_folder(config: DataConfig, poll: Poll) -> Store:
    from jaxcnn.data.stores.folder import open_folder

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
