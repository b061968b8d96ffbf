"""Data sets from TFDS, scikit-learn's digits, .npz files and folders of images, all as uint8 arrays."""

import gzip
import importlib.util
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxcnn.data import images as imaging
from jaxcnn.data.config import DataConfig
from jaxcnn.data.dataset import Dataset, Split, check_split
from jaxcnn.data.slicing import parse
from jaxcnn.errors import UsageError, unknown


@dataclass(frozen=True)
class Source:
    """A data set before slicing."""

    sizes: dict[str, int]
    """Examples in each split."""
    class_names: tuple[str, ...]
    read: Callable[[str], Split]
    """Returns a whole split."""


def load(config: DataConfig) -> Dataset:
    """Return the data set that `config` describes, in memory.

    Raises:
        UsageError: where the source lacks what was asked for, naming it.
    """
    openers = {"tfds": _open_tfds, "digits": _open_digits, "npz": _open_npz, "folder": _open_folder}
    if config.source not in openers:
        raise unknown("data.source", config.source, openers)
    source = openers[config.source](config)
    whole: dict[str, Split] = {}

    def take(spec: str) -> Split:
        parts = []
        for name, start, stop in parse(spec, source.sizes):
            if name not in whole:
                whole[name] = source.read(name)
            parts.append(Split(whole[name].images[start:stop], whole[name].labels[start:stop]))
        if len(parts) == 1:
            return parts[0]
        if len({part.images.shape[1:] for part in parts}) > 1:
            raise UsageError(f"split {spec!r}: images differ in size, set data.image-size")
        return Split(np.concatenate([part.images for part in parts]), np.concatenate([part.labels for part in parts]))

    train, test = take(config.train_split), take(config.test_split)
    val = take(config.val_split) if config.val_split else None
    for spec, split in ((config.val_split, val), (config.test_split, test)):
        if split is not None and split.images.shape[1:] != train.images.shape[1:]:
            raise UsageError(
                f"images of split {spec!r} are {split.images.shape[1:]}, those of {config.train_split!r} "
                f"{train.images.shape[1:]}: set data.image-size"
            )
    for split in whole.values():
        if split.labels.max() >= len(source.class_names):
            raise UsageError(f"label {split.labels.max()} found, there are {len(source.class_names)} classes")
    return Dataset(train, val, test, source.class_names)


def _open_tfds(config: DataConfig) -> Source:
    from jaxcnn.data import from_tfds

    builder = from_tfds.open_builder(config)
    image, label = from_tfds.find_features(builder.info)
    return Source(
        sizes={name: split.num_examples for name, split in builder.info.splits.items()},
        class_names=tuple(builder.info.features[label].names),
        read=lambda split: from_tfds.read(builder, split, image, label, config.image_size, config.resize),
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
        read=splits.__getitem__,
    )


def _open_npz(config: DataConfig) -> Source:
    """Open arrays {split}_images and {split}_labels, and optionally class_names."""
    path = _existing(config.path, "npz", "file")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = dict(file)
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError, TypeError) as error:
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
    count = max(int(split.labels.max()) for split in splits.values()) + 1
    return Source(
        sizes={name: len(split) for name, split in splits.items()},
        class_names=tuple(map(str, arrays.get("class_names", range(count)))),
        read=splits.__getitem__,
    )


def _open_folder(config: DataConfig) -> Source:
    """Open SPLIT/CLASS/FILE, or CLASS/FILE as one split `train`; classes are in sorted order."""
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
            for file in sorted((folder / name).glob("*"))
            if file.is_file() and not file.name.startswith(".")
        ]
        for split, folder in splits.items()
    }
    for split, listed in files.items():
        if not listed:
            raise UsageError(f"{splits[split]} holds class folders and no files in them")
    return Source(
        sizes={split: len(listed) for split, listed in files.items()},
        class_names=tuple(names),
        read=lambda split: _read_files(files[split], config),
    )


def _read_files(files: list[tuple[Path, int]], config: DataConfig) -> Split:
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
        images = imaging.stack(len(files), decode, lambda index: str(files[index][0]))
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
