"""Images in tar files, read in place: nothing is ever extracted, so nothing is ever written."""

import os
import re
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from jaxcnn.data.fields import Example, Image, Label
from jaxcnn.data.stores.records import Store, check_in_keeping, digest, is_image, mixed_order, shown
from jaxcnn.data.stores.tar_headers import Compressed, Header, headers
from jaxcnn.errors import BadExample, UsageError
from jaxcnn.images.opening import check_bytes

# The number of a shard at the end of its name.
_SHARD = re.compile(r"[-_.]*\d+(-of-\d+)?$")
_CLASSES = "classes.txt"
# Tar files of a split that are kept open; of any further ones each image opens its own.
_KEPT_OPEN = 64
_COMPRESSED = re.compile(r"\.(tgz|tbz2?|txz|tzst|tar\.(gz|bz2|xz|zst|lz4))$", re.IGNORECASE)


class _Member(NamedTuple):
    """A file within a tar file."""

    archive: str
    offset: int
    size: int
    name: str
    """[SPLIT/]CLASS/FILE, or KEY.jpg."""
    label: int
    wrong: str = ""
    """Why the label is none."""


class TarRecords:
    """The images of one split."""

    def __init__(self, members: list[_Member]) -> None:
        """Note where they are."""
        self.members = members
        # Opening takes three times as long as reading 10 kB.
        self._files: dict[str, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._files)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.members)

    def __getitem__(self, index: int) -> Example:
        """Return the bytes of one image."""
        member = self.members[index]
        if member.wrong:
            raise BadExample(member.wrong)
        check_bytes(member.size)
        try:
            file = self._files.get(member.archive) or self._opened(member.archive)
            content = os.pread(file, member.size, member.offset) if file else _read(member)
        except (FileNotFoundError, PermissionError) as error:  # another may pass: it stops the run, which can go on
            raise BadExample(f"cannot be read: {error.strerror}") from error
        if len(content) != member.size:
            raise BadExample(f"the tar file ends within it: {len(content)} of {member.size} bytes")
        return {"image": content, "label": member.label}

    def _opened(self, archive: str) -> int | None:
        with self._lock:
            if archive not in self._files and len(self._files) < _KEPT_OPEN:
                self._files[archive] = os.open(archive, os.O_RDONLY)
            return self._files.get(archive)

    def name(self, index: int) -> str:
        """Return the tar file and the name within it."""
        return shown(f"{self.members[index].archive}: {self.members[index].name}")

    def fingerprint(self) -> str:
        """Return a SHA-256 over the images' names, sizes and classes."""
        return digest(f"{member.name} {member.size} {member.label}" for member in self.members)


def open_tar(path: Path, poll: Callable[[], None] = lambda: None) -> Store:
    """Open a tar file, or all of a folder as one data set.

    A file holds [SPLIT/]CLASS/FILE, or pairs KEY.jpg and KEY.cls (the class's number as text), as webdataset writes
    them. What names no split belongs to the one that the tar file is named after: train-000.tar and train-001.tar hold
    `train`. Where classes have numbers, a file classes.txt beside the tar files names them, one a line. Images have a
    fixed order, that of `open_folder` where there are class folders.

    Args:
        path: the file or the folder.
        poll: called for each member while the headers are read; what it raises ends that.

    Raises:
        UsageError: there is no tar file, one is compressed, damaged or cut off, or there are no images with a class.
    """
    listing = _Listing()
    for archive in _archives(path):
        _list(archive, listing, poll)
    splits, class_names = _from_keys(path, listing) if listing.classes else _from_folders(path, listing)
    if not splits:
        raise UsageError(f"{path} holds no images with a class: expected [SPLIT/]CLASS/FILE, or KEY.jpg and KEY.cls")
    opened = {split: TarRecords(members) for split, members in sorted(splits.items())}
    return Store(
        fields={"image": Image(), "label": Label(class_names)},
        sizes={split: len(records) for split, records in opened.items()},
        records=opened.__getitem__,
        ignored=tuple(listing.ignored),
    )


def _close(files: dict[str, int]) -> None:
    for file in files.values():
        os.close(file)


@dataclass
class _Listing:
    """What the tar files hold."""

    images: list[tuple[str, str, _Member]] = field(default_factory=list)
    """What their tar file is named after, key, member."""
    classes: dict[tuple[str, str], str] = field(default_factory=dict)
    """Content of KEY.cls, by tar file and key: each file may number its own from 0."""
    ignored: list[str] = field(default_factory=list)


def _archives(path: Path) -> list[Path]:
    if _COMPRESSED.search(path.name):
        raise _compressed(path)
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.glob("*.tar") if file.is_file())
    if not found:
        packed = next((file for file in sorted(path.iterdir()) if _COMPRESSED.search(file.name)), None)
        raise UsageError(f"{path} holds no .tar files") if packed is None else _compressed(packed)
    return found


def _compressed(path: Path) -> UsageError:
    return UsageError(f"{path} is compressed, so images cannot be read from its middle: unpack it to a plain .tar file")


def _list(archive: Path, listing: _Listing, poll: Callable[[], None]) -> None:
    named_after = re.sub(r"\W", "-", _SHARD.sub("", archive.stem)) or "train"
    try:
        for header in headers(archive):
            poll()
            _sort_in(archive, named_after, header, listing)
    except Compressed:
        raise _compressed(archive) from None


def _sort_in(archive: Path, named_after: str, header: Header, listing: _Listing) -> None:
    """Put a member where it belongs."""
    *folders, file = header.name.removeprefix("./").split("/")
    member = _Member(str(archive), header.offset, header.size, header.name, -1)
    key, _, kind = file.partition(".")
    key = "/".join([*folders, key])
    # A path that leads outside is nobody's class folder.
    inside = header.plain and not {"", ".", ".."} & set(folders)
    if not inside or file.startswith(".") or not (kind == "cls" or is_image(file)):
        listing.ignored.append(shown(f"{archive}: {header.name}"))
    elif kind == "cls":
        listing.classes[str(archive), key] = _read(member._replace(size=min(header.size, 100))).decode("latin-1")
    else:
        listing.images.append((named_after, key, member))


def _from_folders(path: Path, listing: _Listing) -> tuple[dict[str, list[_Member]], tuple[str, ...]]:
    """Return the images of each split, and the names of the classes."""
    found: list[tuple[str, str, _Member]] = []
    for split, key, member in listing.images:
        match key.split("/"):
            case [*_, in_split, name, _]:
                found.append((in_split, name, member))
            case [name, _]:
                found.append((split, name, member))
            case _:
                listing.ignored.append(shown(f"{member.archive}: {member.name}"))
    class_names = sorted({name for _, name, _ in found})
    labels = {name: label for label, name in enumerate(class_names)}
    splits: dict[str, list[_Member]] = {}
    for split, name, member in found:
        splits.setdefault(split, []).append(member._replace(label=labels[name]))
    within = {split: {class_names[member.label] for member in members} for split, members in splits.items()}
    check_in_keeping(path, within, {split for split, key, _ in listing.images if key.count("/") == 1})
    for members in splits.values():
        members.sort(key=lambda member: mixed_order("/".join(member.name.split("/")[-2:])))
    return splits, tuple(map(shown, class_names))


def _from_keys(path: Path, listing: _Listing) -> tuple[dict[str, list[_Member]], tuple[str, ...]]:
    """Return the images of each split, and the names of the classes; what has a wrong number becomes a bad example."""
    file = (path if path.is_dir() else path.parent) / _CLASSES
    class_names = file.read_text("utf-8", "surrogateescape").splitlines() if file.is_file() else None
    splits: dict[str, list[_Member]] = {}
    for split, key, member in listing.images:
        text = listing.classes.get((member.archive, key))
        if "." in member.name.removeprefix("./")[len(key) + 1 :]:  # KEY.mask.png goes with KEY.jpg
            listing.ignored.append(shown(f"{member.archive}: {member.name}"))
            continue
        if text is None:
            member = member._replace(wrong=f"it has no class: there is no {shown(key)}.cls")
        elif not re.fullmatch(r"[0-9]{1,6}", text.strip()):
            member = member._replace(wrong=f"{shown(key)}.cls holds {text[:20]!r}, expected a class's number")
        else:
            member = member._replace(label=int(text))
        splits.setdefault(split, []).append(member)
    for members in splits.values():
        members.sort(key=lambda member: mixed_order(member.name))
    if class_names is not None:
        return splits, tuple(shown(name.strip()) for name in class_names if name.strip())
    counts = Counter(member.label for members in splits.values() for member in members if not member.wrong)
    last = max(counts, default=-1)
    missing = next((label for label in range(last) if label not in counts), None)
    if missing is not None:
        named = next(member for members in splits.values() for member in members if member.label == last)
        raise UsageError(
            f"{path}: {shown(named.name)} has class {last} and no image class {missing}: expected every number from 0, "
            f"or a file {file} that names all classes, one a line"
        )
    return splits, tuple(map(str, range(last + 1)))


def _read(member: _Member) -> bytes:
    file = os.open(member.archive, os.O_RDONLY)
    try:
        return os.pread(file, member.size, member.offset)
    finally:
        os.close(file)
