"""Data sets from TFDS, scikit-learn's digits, .npz files and folders of images, all as uint8 arrays."""

import gzip
import hashlib
import importlib.util
import itertools
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from jaxcnn.data import images as imaging
from jaxcnn.data.config import DataConfig
from jaxcnn.data.dataset import Dataset, Split, check_split
from jaxcnn.data.slicing import Slice, parse
from jaxcnn.errors import UsageError, unknown

Poll = Callable[[], None]


@dataclass(frozen=True)
class Source:
    """A data set before slicing."""

    sizes: dict[str, int]
    """Examples in each split."""
    class_names: tuple[str, ...]
    read: Callable[[str, Poll], Split]
    """Returns a whole split; polls while it is at work."""
    note: str = ""
    """Passed on to the `Dataset`."""


def load(config: DataConfig, poll: Poll = lambda: None) -> Dataset:
    """Return the data set that `config` describes, in memory.

    Args:
        config: what to load.
        poll: called for each image that is decoded; what it raises ends the loading.

    Raises:
        UsageError: where the source lacks what was asked for, naming it.
    """
    openers: dict[str, Callable[[DataConfig], Source]] = {
        "tfds": partial(_open_tfds, poll=poll),
        "digits": _open_digits,
        "npz": _open_npz,
        "folder": _open_folder,
    }
    if config.source not in openers:
        raise unknown("data.source", config.source, openers)
    _check(config)
    source = openers[config.source](config)
    _check_overlap(config, source.sizes)
    whole: dict[str, Split] = {}

    def take(spec: str) -> Split:
        parts = []
        for name, start, stop in parse(spec, source.sizes):
            if name not in whole:
                whole[name] = source.read(name, poll)
            parts.append(Split(whole[name].images[start:stop], whole[name].labels[start:stop]))
        if len(parts) == 1:
            return parts[0]
        if len({part.images.shape[1:] for part in parts}) > 1:
            raise UsageError(f"split {spec!r}: images differ in size, set data.image_size")
        return Split(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))

    train, test = take(config.train_split), take(config.test_split)
    val = None if config.val_split is None else take(config.val_split)
    for spec, split in ((config.val_split, val), (config.test_split, test)):
        if split is not None and split.images.shape[1:] != train.images.shape[1:]:
            same = split.images.shape[-1] == train.images.shape[-1]
            raise UsageError(
                f"images of split {spec!r} are {split.images.shape[1:]}, those of {config.train_split!r} "
                f"{train.images.shape[1:]}: {'set data.image_size' if same else 'expected as many channels'}"
            )
    for split in whole.values():
        if split.labels.max() >= len(source.class_names):
            raise UsageError(f"label {split.labels.max()} found, there are {len(source.class_names)} classes")
    return Dataset(train, val, test, source.class_names, source.note)


def _check(config: DataConfig) -> None:
    if config.image_size is not None and config.image_size < 1:
        raise UsageError(f"data.image_size is {config.image_size}: expected a number of pixels, such as 224")
    if config.pad_crop < 0:
        raise UsageError(f"data.pad_crop is {config.pad_crop}: expected 0 or more pixels")
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


def _open_tfds(config: DataConfig, poll: Poll) -> Source:
    from jaxcnn.data import from_tfds

    builder = from_tfds.open_builder(config, poll)
    image, label = from_tfds.find_features(builder.info)
    return Source(
        sizes={name: split.num_examples for name, split in builder.info.splits.items()},
        class_names=tuple(builder.info.features[label].names),
        read=lambda split, poll: from_tfds.read(builder, split, image, label, config.image_size, config.resize, poll),
        note=(builder.info.metadata or {}).get("note", ""),
    )


def _open_digits(config: DataConfig) -> Source:
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
    digits = check_split(imaging.fit_array(pixels, config.image_size, config.resize), table[:, 64], "digits")
    count = len(table) - -(-len(table) // 5)
    splits = {
        "train": Split(digits.images[:count], digits.labels[:count]),
        "test": Split(digits.images[count:], digits.labels[count:]),
    }
    return Source(
        sizes={name: len(split) for name, split in splits.items()},
        class_names=tuple("0123456789"),
        read=lambda split, poll: splits[split],
    )


def _open_npz(config: DataConfig) -> Source:
    """Open arrays {split}_images and {split}_labels, and optionally class_names."""
    path = _existing(config.path, "npz", "file")
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
            split = check_split(arrays[key], arrays[f"{name}_labels"], f"{path} {name}")
            splits[name] = Split(imaging.fit_array(split.images, config.image_size, config.resize), split.labels)
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
    return Source(
        sizes={name: len(split) for name, split in splits.items()},
        class_names=tuple(map(str, arrays.get("class_names", range(count)))),
        read=lambda split, poll: splits[split],
    )


def _open_folder(config: DataConfig) -> Source:
    """Open SPLIT/CLASS/FILE, or CLASS/FILE as one split `train`; classes are in sorted order, files in a mixed one.

    So a slice has images of all classes, about as many as the whole; and a file's place among the others is fixed.
    """
    root = _existing(config.path, "folder", "folder")
    folders = _subfolders(root)
    splits = {folder.name: folder for folder in folders if _subfolders(folder)}
    if not splits:
        splits = {"train": root}
    names = sorted({folder.name for split in splits.values() for folder in _subfolders(split)})
    if not names:
        raise UsageError(f"{root} holds no class folders: expected CLASS/image or SPLIT/CLASS/image files")
    files = {
        split: [
            (file, label)
            for label, name in enumerate(names)
            for file in (folder / name).glob("*")
            if file.is_file() and not file.name.startswith(".")
        ]
        for split, folder in splits.items()
    }
    for listed in files.values():
        listed.sort(key=_order)
    for split, listed in files.items():
        if not listed:
            raise UsageError(f"{splits[split]} holds class folders and no files in them")
    return Source(
        sizes={split: len(listed) for split, listed in files.items()},
        class_names=tuple(names),
        read=lambda split, poll: _read_files(files[split], config, poll),
    )


def _order(item: tuple[Path, int]) -> bytes:
    file, _ = item
    return hashlib.sha256(f"{file.parent.name}/{file.name}".encode(errors="surrogateescape")).digest()


def _read_files(files: list[tuple[Path, int]], config: DataConfig, poll: Poll) -> Split:
    from PIL import Image

    bad: list[Path] = []

    def decode(indices: Sequence[int]) -> Iterator[np.ndarray]:
        for index in indices:
            try:
                yield imaging.decode(files[index][0].read_bytes(), 3, config.image_size, config.resize)
            except (
                OSError,
                SyntaxError,
                Image.DecompressionBombError,
            ):  # what Pillow raises for a broken file
                bad.append(files[index][0])
                yield np.zeros((config.image_size or 1, config.image_size or 1, 3), np.uint8)

    try:
        images = imaging.stack(len(files), decode, lambda index: str(files[index][0]), poll)
    except UsageError:
        if not bad:  # else the odd size may be that of the stand-in
            raise
    if bad:
        shown = ", ".join(map(str, sorted(set(bad))[:3])) + (", ..." if len(set(bad)) > 3 else "")
        raise UsageError(f"not readable as images, {len(set(bad))} of {len(files)} files: {shown}")
    return Split(images, np.array([label for _, label in files], np.int32))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _existing(path: Path | None, source: str, kind: str) -> Path:
    if path is None:
        raise UsageError(f"data.source {source} needs data.path, the {kind} to read")
    path = path.expanduser()
    if not (path.is_dir() if kind == "folder" else path.is_file()):
        raise UsageError(f"data.path {path}: no such {kind}")
    return path
