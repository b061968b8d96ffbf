"""Folders of images: SPLIT/CLASS/FILE, or CLASS/FILE as one split named train."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from jaxcnn.data.fields import Example, Image, Label
from jaxcnn.data.stores.records import Store, check_in_keeping, digest, is_image, mixed_order, shown
from jaxcnn.errors import UsageError
from jaxcnn.images.opening import read_file


@dataclass(frozen=True)
class FolderRecords:
    """The image files of one split."""

    root: Path
    files: list[str]
    """CLASS/FILE, within `root`."""
    labels: list[int]

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        """Return the bytes of one file."""
        return {"image": read_file(f"{self.root}/{self.files[index]}"), "label": self.labels[index]}

    def name(self, index: int) -> str:
        """Return the path of one file."""
        return shown(str(self.root / self.files[index]))

    def fingerprint(self) -> str:
        """Return a SHA-256 over the files' names, sizes and classes."""
        sizes = (_size(self.root / file) for file in self.files)
        return digest(
            f"{file} {size} {label}" for file, size, label in zip(self.files, sizes, self.labels, strict=True)
        )


def open_folder(root: Path) -> Store:
    """Open SPLIT/CLASS/FILE, or CLASS/FILE as one split `train`; classes are in sorted order, files in a mixed one.

    Every file of a class with the suffix of an image is an example, readable or not. All else is listed as ignored, but
    for hidden files and folders: files beside class folders, folders within them, folders of images beside splits.

    Raises:
        UsageError: there are no class folders, a split has no image files, or a folder is neither split nor class: it
            has no image right in it, or no class of the other splits.
    """
    top = _listed(root)
    nested = [name for name in top.folders if _listed(root / name).folders]
    flat = [name for name in top.folders if name not in nested and any(map(is_image, _listed(root / name).files))]
    # Where most folders hold images, those of the others that hold folders have some that are not meant.
    splits = {name: root / name for name in nested} if len(nested) > len(flat) else {"train": root}
    listings = {split: _listed(folder) for split, folder in splits.items()}
    names = sorted({name for listing in listings.values() for name in listing.folders})
    if not names:
        raise UsageError(f"{root} holds no class folders: expected CLASS/image or SPLIT/CLASS/image files")
    opened: dict[str, FolderRecords] = {}
    beside = [] if root in splits.values() else [*top.files, *(name for name in top.folders if name not in splits)]
    ignored = [str(root / name) for name in beside]
    for split, folder in splits.items():
        found: list[tuple[str, int]] = []
        others = [str(folder / name) for name in listings[split].files]
        for label, name in enumerate(names):
            within = _listed(folder / name)
            found += [(f"{name}/{file}", label) for file in within.files if is_image(file)]
            others += [str(folder / name / file) for file in within.files if not is_image(file)]
            others += [str(folder / name / other) for other in within.folders]
        if not found:
            suffix = f" with the suffix of an image ({shown(others[0])} has none)" if others else ""
            raise UsageError(f"{folder} holds class folders and no files in them{suffix}")
        found.sort(key=lambda item: mixed_order(item[0]))
        opened[split] = FolderRecords(folder, [file for file, _ in found], [label for _, label in found])
        ignored += others
    classes = {split: {names[label] for label in records.labels} for split, records in opened.items()}
    for name in names:
        if not any(name in there for there in classes.values()):
            split = next(split for split in splits if name in listings[split].folders)
            raise _no_class(splits[split] / name, min(classes[split]))
    check_in_keeping(root, classes)
    return Store(
        fields={"image": Image(), "label": Label(tuple(map(shown, names)))},
        sizes={split: len(records) for split, records in opened.items()},
        records=opened.__getitem__,
        ignored=tuple(map(shown, sorted(ignored))),
    )


def _no_class(folder: Path, other: str) -> UsageError:
    """Return the error for a folder that holds no image itself, as `other` beside it does: a class without examples."""
    files = (os.path.join(top, file) for top, _, files in os.walk(folder) for file in sorted(files) if is_image(file))
    deeper = next(files, None)
    expected = "expected CLASS/image, or SPLIT/CLASS/image"
    if deeper is None:
        return UsageError(f"{shown(str(folder))} holds no image: {expected}; if it is no class, move it elsewhere")
    return UsageError(
        f"{shown(str(folder))} holds images only deeper, such as {shown(deeper)}, and {shown(other)} beside it holds "
        f"some itself: {expected}; move the one that does not fit elsewhere"
    )


class _Listing(NamedTuple):
    folders: list[str]
    files: list[str]
    """Links that lead nowhere among them."""


def _listed(folder: Path) -> _Listing:
    """Return what a folder holds, by name; nothing where it is not there: not every split has every class."""
    if not folder.is_dir():
        return _Listing([], [])
    with os.scandir(folder) as entries:
        kinds = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    names = sorted(kinds)
    return _Listing([name for name in names if kinds[name]], [name for name in names if not kinds[name]])


def _size(path: Path) -> int | None:
    """Return a file's size, None for a link that leads nowhere."""
    try:
        return path.stat().st_size
    except OSError:
        return None
