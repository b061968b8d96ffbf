"""Folders of images: SPLIT/CLASS/FILE, or CLASS/FILE as one split named train."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxcnn.data.decode import BadImage
from jaxcnn.data.stores.records import Record, Store, digest, is_image, mixed_order
from jaxcnn.errors import UsageError


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

    def __getitem__(self, index: int) -> Record:
        """Return the bytes of one file."""
        try:
            return Record((self.root / self.files[index]).read_bytes(), self.labels[index])
        except OSError as error:
            raise BadImage(f"cannot be read: {error.strerror}") from error

    def name(self, index: int) -> str:
        """Return the path of one file."""
        return str(self.root / self.files[index])

    def fingerprint(self) -> str:
        """Return a SHA-256 over the files' names, sizes and classes."""
        sizes = ((self.root / file).stat().st_size for file in self.files)
        return digest(
            f"{file} {size} {label}" for file, size, label in zip(self.files, sizes, self.labels, strict=True)
        )


def open_folder(root: Path) -> Store:
    """Open SPLIT/CLASS/FILE, or CLASS/FILE as one split `train`; classes are in sorted order, files in a mixed one.

    Every file of a class with the suffix of an image is an example, readable or not; hidden files are passed over.

    Raises:
        UsageError: there are no class folders, or a split has no image files.
    """
    folders = _subfolders(root)
    splits = {folder.name: folder for folder in folders if _subfolders(folder)} or {"train": root}
    names = sorted({folder.name for split in splits.values() for folder in _subfolders(split)})
    if not names:
        raise UsageError(f"{root} holds no class folders: expected CLASS/image or SPLIT/CLASS/image files")
    opened: dict[str, FolderRecords] = {}
    ignored: list[str] = []
    for split, folder in splits.items():
        found: list[tuple[str, int]] = []
        others: list[str] = []
        for label, name in enumerate(names):
            for file in _files(folder / name):
                if is_image(file):
                    found.append((f"{name}/{file}", label))
                else:
                    others.append(str(folder / name / file))
        if not found:
            beside = f" with the suffix of an image ({others[0]} has none)" if others else ""
            raise UsageError(f"{folder} holds class folders and no files in them{beside}")
        found.sort(key=lambda item: mixed_order(item[0]))
        opened[split] = FolderRecords(folder, [file for file, _ in found], [label for _, label in found])
        ignored += others
    return Store(
        class_names=tuple(names),
        sizes={split: len(records) for split, records in opened.items()},
        records=opened.__getitem__,
        ignored=tuple(sorted(ignored)),
    )


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files(folder: Path) -> Iterator[str]:
    if folder.is_dir():  # not every split has every class
        with os.scandir(folder) as entries:
            yield from (entry.name for entry in entries if entry.is_file() and not entry.name.startswith("."))
