"""A smaller, faster copy of a data set: images scaled once, all in one file for each split, mapped into memory.

NAME/cache.json        where it came from, how it was made, SHA-256 of the other files
NAME/train.data        the images one after the other: JPEG files, or plain pixels
NAME/train.index.npy   where each of them is, its size and its label
NAME/train.names.json  what the source calls them
"""

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxcnn.data.bad import BadExamples
from jaxcnn.data.decode import decoded
from jaxcnn.data.fields import Example, Image, Label, labelled_image
from jaxcnn.data.reading import labelled
from jaxcnn.data.stores.records import Records, Store, digest, shown
from jaxcnn.data.threads import in_order
from jaxcnn.errors import BadExample, UsageError, unknown
from jaxcnn.files import fsync, read_json
from jaxcnn.images.opening import MAX_PIXELS

Format = Literal["jpeg", "raw"]

_VERSION = 1
_MANIFEST = "cache.json"
_INDEX = np.dtype([(name, "<i8") for name in ("offset", "length", "height", "width", "label")])


class CacheRecords:
    """One split of a cache."""

    def __init__(self, folder: Path, split: str, entry: dict[str, Any], channels: int, pixels: bool) -> None:
        """Map the files; `entry` is the split's in cache.json.

        Raises:
            UsageError: a file is missing, of another length, or the index is not the one that was written.
        """
        for name, file in entry["files"].items():
            path = folder / name
            found = path.stat().st_size if path.is_file() else None
            if found != file["bytes"]:
                what = "is missing" if found is None else f"has {found} bytes, expected {str(file['bytes'])[:20]}"
                raise UsageError(f"{path} {what}: the cache is damaged, prepare it again")
        index = folder / f"{split}.index.npy"
        if _sha256(index) != entry["files"][index.name]["sha256"]:
            raise UsageError(f"{index} is not what was written: the cache is damaged, prepare it again")
        # Plain views of the maps: np.memmap's own indexing is ten times slower.
        self._index = np.asarray(np.load(index, mmap_mode="r"))
        self._data = np.asarray(np.memmap(folder / f"{split}.data", np.uint8, "r"))
        if len(self._index) != entry["examples"] or not _is_index(self._index, len(self._data), channels * pixels):
            raise UsageError(f"{index} is no index of {split}.data: the cache is damaged, prepare it again")
        self._listing = folder / f"{split}.names.json"
        self._entry, self._channels, self._pixels = entry, channels, pixels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._index)

    def __getitem__(self, index: int) -> Example:
        """Return one image: the bytes of a JPEG file, or pixels that are a view of the file on the disk."""
        offset, length, height, width, label = self._index[index].item()
        image = self._data[offset : offset + length]
        pixels = image.reshape(height, width, self._channels) if self._pixels else image.tobytes()
        return {"image": pixels, "label": label}

    def name(self, index: int) -> str:
        """Return what the source calls the image."""
        return shown(str(self._names[index])) if index < len(self._names) else f"{self._listing.stem} image {index}"

    @functools.cached_property
    def _names(self) -> list[Any]:
        try:
            found = json.loads(self._listing.read_bytes())
        except (ValueError, RecursionError):  # it is read where an example is bad, which is to be told all the same
            found = None
        return found if isinstance(found, list) else []

    def fingerprint(self) -> str:
        """Return a SHA-256 over images and labels, taken when they were written; not over names, which have paths."""
        return digest(
            file["sha256"] for name, file in sorted(self._entry["files"].items()) if name != self._listing.name
        )


def open_cache(path: Path) -> Store:
    """Open what `prepare` wrote.

    Raises:
        UsageError: there is no cache, it is of another version, or damaged; `verify` finds more than this does.
    """
    manifest = _manifest(path)

    @functools.cache
    def records(split: str) -> Records:
        return CacheRecords(path, split, manifest["splits"][split], made["channels"], made["format"] == "raw")

    try:
        made = manifest["made"]
        if (
            type(made["channels"]) is not int
            or made["channels"] not in (1, 3)
            or any("/" in split for split in manifest["splits"])
        ):
            raise ValueError(f"{made['channels']} channels, splits {', '.join(manifest['splits'])}")
        for split in manifest["splits"]:
            records(split)
        return Store(
            fields={"image": Image(made["channels"]), "label": Label(tuple(map(shown, manifest["class_names"])))},
            sizes={split: len(records(split)) for split in manifest["splits"]},
            records=records,
            note=str(manifest["note"]),
            provenance=manifest,
        )
    except UsageError:
        raise
    except Exception as error:  # of any type, where the stamp is right and the rest is not
        reason = f"{type(error).__name__}: {shown(str(error))[:200]}"
        raise UsageError(f"{path / _MANIFEST} is not what `jaxcnn data prepare` writes ({reason})") from error


def verify(path: Path, poll: Callable[[], None] = lambda: None) -> None:
    """Read all of a cache; `poll` is called now and then, and what it raises ends it.

    Raises:
        UsageError: naming the first file whose SHA-256 is another than when it was written.
    """
    open_cache(path)
    for entry in _manifest(path)["splits"].values():
        for name, file in entry["files"].items():
            if _sha256(path / name, poll) != file["sha256"]:
                raise UsageError(f"{path / name} is not what was written: the cache is damaged, prepare it again")


def prepare(
    store: Store,
    out: Path,
    origin: dict[str, str],
    *,
    short_side: int,
    format: Format = "jpeg",
    quality: int = 95,
    bad_limit: float = 0.001,
    threads: int | None = None,
    poll: Callable[[], None] = lambda: None,
    progress: Callable[[str, int, int], None] = lambda split, done, total: None,
) -> Store:
    """Write a copy of all splits, and open it; `out` appears once it is complete.

    Images are scaled so that the short side is `short_side`, never up, by Pillow's antialiased bilinear filter. As
    JPEG, an image that is small enough and a plain JPEG keeps its bytes. What is written does not depend on `threads`.

    Args:
        store: what to copy.
        out: folder to write, which must not exist.
        origin: source and name of the data set, noted in cache.json.
        short_side: pixels.
        format: jpeg (4:2:0) or raw pixels, larger and read without decoding.
        quality: of the JPEGs that are encoded, 1 to 100.
        bad_limit: fraction of a split that may be bad examples; they are left out, and named in cache.json.
        threads: that decode and encode; by default as many as there are cores.
        poll: called for each image; what it raises ends the work, and nothing is left behind.
        progress: called for each image, with the split, the number done and the number in all.

    Raises:
        UsageError: `out` exists, or a number cannot be.
        RunError: more examples are bad than allowed, naming the first.
    """
    if format not in ("jpeg", "raw"):
        raise unknown("cache format", format, ("jpeg", "raw"))
    if short_side < 1 or not 1 <= quality <= 100:
        raise UsageError(f"a short side of {short_side} and quality {quality}: expected 1 or more, and 1 to 100")
    if out.exists():
        raise UsageError(f"{out} exists: remove it, or name another folder")
    image, label = labelled_image(store.fields, "a cache")
    made = {"resize": short_side, "format": format, "quality": quality, "channels": image.channels}
    manifest: dict[str, Any] = {
        "version": _VERSION,
        "jaxcnn": metadata.version("jaxcnn"),
        "origin": origin,
        "note": store.note,
        "made": made if format == "jpeg" else made | {"quality": None},
        "class_names": list(label.class_names),
        "splits": {},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        for split in store.sizes:
            records = store.records(split)
            bad = BadExamples(split, len(records), bad_limit)
            convert = functools.partial(
                _converted, records, len(label.class_names), image.channels, short_side, format, quality
            )
            step = functools.partial(progress, split)
            with closing(in_order(convert, range(len(records)), threads)) as images:
                manifest["splits"][split] = _write_split(partial, split, records, images, bad, poll, step)
        manifest["sha256"] = _stamp(manifest)
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        for file in (*partial.iterdir(), partial):
            fsync(file)
        partial.rename(out)
        fsync(out.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return open_cache(out)


class _Image(NamedTuple):
    content: bytes
    height: int
    width: int
    label: int


def _converted(
    records: Records,
    classes: int,
    channels: int,
    short_side: int,
    format: Format,
    quality: int,
    index: int,
) -> _Image | BadExample:
    """Return one image as it is to be written."""
    from PIL import Image

    try:
        image, label = labelled(records, index, classes)
        pixels = decoded(image, channels)
    except BadExample as error:
        return error
    height, width = pixels.shape[:2]
    if min(height, width) > short_side:
        height, width = (short_side * side // min(height, width) for side in (height, width))
        whole = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
        pixels = np.asarray(whole.resize((width, height), Image.Resampling.BILINEAR)).reshape(height, width, channels)
    elif format == "jpeg" and isinstance(image, bytes) and _is_plain_jpeg(image):
        return _Image(image, height, width, label)
    content = pixels.tobytes() if format == "raw" else _jpeg(pixels, quality)
    return _Image(content, height, width, label)


def _is_plain_jpeg(encoded: bytes) -> bool:
    import simplejpeg

    try:
        return simplejpeg.decode_jpeg_header(encoded, strict=False)[2] in ("Gray", "YCbCr", "RGB")
    except ValueError:  # another format, or a JPEG that only Pillow reads
        return False


def _jpeg(pixels: UInt8[np.ndarray, "h w c"], quality: int) -> bytes:
    import simplejpeg

    space, sampling = ("GRAY", "Gray") if pixels.shape[2] == 1 else ("RGB", "420")
    return simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, space, sampling)


def _write_split(
    folder: Path,
    split: str,
    records: Records,
    images: Iterator[_Image | BadExample],
    bad: BadExamples,
    poll: Callable[[], None],
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    """Write the files of a split, and return its entry in cache.json."""
    rows: list[tuple[int, ...]] = []
    names: list[str] = []
    offset, total = 0, len(records)
    data, index, listing = (folder / f"{split}.{suffix}" for suffix in ("data", "index.npy", "names.json"))
    with data.open("wb") as file:
        for number, image in enumerate(images):
            poll()
            name = records.name(number)
            if isinstance(image, BadExample):
                bad.add(number, name, str(image))
            else:
                file.write(image.content)
                rows.append((offset, len(image.content), *image[1:]))
                names.append(name)
                offset += len(image.content)
            progress(number + 1, total)
    if not rows:
        raise UsageError(f"split {split!r} has no images that can be read")
    np.save(index, np.array(rows, _INDEX))
    listing.write_text(json.dumps(names))
    return {
        "examples": len(rows),
        "fingerprint": records.fingerprint(),
        "left_out": [one._asdict() for one in bad.in_order()],
        "files": {
            file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file, poll)} for file in (data, index, listing)
        },
    }


def _is_index(index: np.ndarray, size: int, channels: int) -> bool:
    """Return whether all images lie within so many bytes; pixels of so many channels, or files (0), fill their part."""
    if index.dtype != _INDEX or index.ndim != 1:
        return False
    offset, length, height, width = (index[name] for name in ("offset", "length", "height", "width"))
    inside = (offset >= 0) & (length >= 0) & (offset <= size) & (length <= size - offset)
    sides = (height > 0) & (height <= MAX_PIXELS) & (width > 0) & (width <= MAX_PIXELS)
    return bool((inside & sides & ((channels == 0) | (height * width * channels == length))).all())


def _manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = read_json(path / _MANIFEST)
        version = manifest["version"]
    except (UsageError, KeyError) as error:
        raise UsageError(f"{path} is no cache: expected a folder that `jaxcnn data prepare` wrote") from error
    if version != _VERSION:
        raise UsageError(f"{path} is a cache of version {str(version)[:20]}, expected {_VERSION}: prepare it again")
    if manifest.get("sha256") != _stamp(manifest):
        raise UsageError(f"{path / _MANIFEST} is not what was written: the cache is damaged, prepare it again")
    return manifest


def _stamp(manifest: dict[str, Any]) -> str:
    """Return a SHA-256 over all else in cache.json."""
    return digest([json.dumps(manifest | {"sha256": None}, sort_keys=True)])


def _sha256(path: Path, poll: Callable[[], None] = lambda: None) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            poll()
            found.update(block)
    return found.hexdigest()
