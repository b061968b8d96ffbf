"""The images of a folder or tar, laid out anew so that every side of `bench_input.py` reads the same ones."""

import io
import os
import statistics
import tarfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from input_ours import Stored

from jaxcnn.data.stores.records import is_image
from jaxcnn.errors import UsageError
from jaxcnn.images.opening import BadImage
from jaxcnn.images.pixels import decode

# Of a larger source, so many files evenly spread are measured: they are in memory, too.
_MOST_FILES = 3000


@dataclass(frozen=True)
class Files:
    """The readable images of a source."""

    encoded: list[bytes]
    """Each file's bytes."""
    sizes: list[tuple[int, int]]
    """Height and width of each."""
    stored: Stored
    """All of them as one class: a tar where the source is one, otherwise a folder."""
    jpegs: Path
    """A folder of the JPEG files among them."""
    about: dict[str, Any]
    """How many there are of what, as plain JSON values."""


def lay_out(source: Path, folder: Path) -> Files:
    """Read the images of a folder (at any depth), a tar or the tars in a folder, and write them anew in `folder`.

    Raises:
      UsageError: there is no such folder or tar, or no JPEG file in it that can be read.
    """
    with _opened(source) as (named, read):
        names = [name for name in named if is_image(name)]
        count = min(len(names), _MOST_FILES)
        names_read = [names[i * len(names) // count] for i in range(count)]
        encoded = [read(name) for name in names_read]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        sizes = list(pool.map(_size, encoded))
    images = [(data, size) for data, size in zip(encoded, sizes, strict=True) if size is not None]
    jpegs = [data for data, _ in images if _is_jpeg(data)]
    if not jpegs:
        raise UsageError(f"--source {source}: no JPEG file that can be read, among {len(names)} image files")
    numbered = [(f"all/{i:06}.{'jpg' if _is_jpeg(data) else 'png'}", data) for i, (data, _) in enumerate(images)]
    if source.is_dir() and not any(source.glob("*.tar")):
        stored = Stored("folder", folder / "images")
        _write_files(stored.path, numbered)
    else:
        stored = Stored("tar", folder / "train.tar")
        _write_tar(stored.path, numbered)
    _write_files(folder / "jpegs", [(f"{i:06}.jpg", data) for i, data in enumerate(jpegs)])
    bad = [name for name, size in zip(names_read, sizes, strict=True) if size is None]
    about = {
        "image_files": len(names),
        "measured": len(images),
        "jpegs_for_peers": len(jpegs),
        "unreadable": len(bad),
        "first_unreadable": bad[:5],
        "mean_kilobytes": round(statistics.mean(len(data) for data, _ in images) / 1000, 1),
        "mean_megapixels": round(statistics.mean(height * width for _, (height, width) in images) / 1e6, 3),
        "median_short_side": int(statistics.median(min(size) for _, size in images)),
    }
    return Files([data for data, _ in images], [size for _, size in images], stored, folder / "jpegs", about)


@contextmanager
def _opened(source: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """Give the sorted names of all files of a folder, of a tar or of the tars in a folder, and what reads one."""
    tars = [source] if source.is_file() else sorted(source.glob("*.tar"))
    try:
        if not tars:
            source.stat()
            paths = sorted(path for path in source.rglob("*") if path.is_file())
            yield [str(path.relative_to(source)) for path in paths], lambda name: (source / name).read_bytes()
            return
        with ExitStack() as stack:
            read: dict[str, Callable[[], bytes]] = {}
            for path in tars:
                tar = stack.enter_context(tarfile.open(path))
                for member in tar:
                    if member.isfile():
                        read[f"{path.name}/{member.name}"] = partial(_content, tar, member)
            yield sorted(read), lambda name: read[name]()
    except (OSError, tarfile.TarError) as error:
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UsageError(
            f"--source {source}: {reason}: expected a folder of images, a tar of them or a folder of tars"
        ) from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # of a plain file
    return file.read()


def _size(encoded: bytes) -> tuple[int, int] | None:
    """Return height and width of an image; None where it cannot be read to its end."""
    try:
        height, width, _ = decode(encoded, 3).shape
    except BadImage:
        return None
    return height, width


def _is_jpeg(encoded: bytes) -> bool:
    return encoded.startswith(b"\xff\xd8\xff")


def _write_files(folder: Path, files: Sequence[tuple[str, bytes]]) -> None:
    for name, data in files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _write_tar(path: Path, files: Sequence[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
