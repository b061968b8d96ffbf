"""Turn plain data files into TFDS-format data sets, without a download and without TensorFlow.

    python scripts/prepare_data.py mnist cifar10 --source FILES --data-dir ~/tensorflow_datasets

The names, versions, features, labels, splits and record order are those of TFDS's own builders, so that
`tfds.data_source("mnist", data_dir=...)` and jaxcnn's `--data.source tfds` read the result like a downloaded
data set (in array_record files, which can be read in any order). Where FILES hold only a part of a split, the
description and `info.metadata["note"]` of the data set say so.

What FILES holds: `mnist/` the four original idx files; `cifar10/` the training images and the first 1,000
test images as tars of lossless WebP strips, labels in .npy; `imagenette/` two tars of SPLIT/WNID/FILE.JPEG.
"""

import contextlib
import gzip
import hashlib
import io
import os
import tarfile
import types
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jaxcnn.errors import UsageError, unknown
from jaxcnn.stop import StopFlag, Stopped

Example = tuple[str | int, dict[str, Any]]  # key (it fixes the order of the records) and features
Check = Callable[[], None]  # called once an image; raises Stopped once a signal has come


@dataclass(frozen=True)
class Recipe:
    """How one data set is made."""

    config: str | None
    """The TFDS builder configuration, None where the builder has none."""
    files: tuple[str, ...]
    """Source files, relative to the source folder."""
    sizes: dict[str, int]
    """Examples of each split, in TFDS's naming."""
    examples: Callable[[Path, str], Iterator[Example]]
    """Yields the examples of a split, in TFDS's order."""
    labels: tuple[str, ...] | None = None
    """Class names that TFDS's builder reads from a downloaded file."""
    note: str = ""
    """What differs from the full data set."""


def png(pixels: np.ndarray) -> bytes:
    """Encode uint8 [h, w, 1 or 3] losslessly (level 1: the same pixels, written five times faster)."""
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(out, "png", compress_level=1)
    return out.getvalue()


def check_pixels(images: np.ndarray, sha256: str, what: str) -> None:
    """Raise UsageError unless the bytes of `images` have this checksum."""
    found = hashlib.sha256(np.ascontiguousarray(images)).hexdigest()
    if found != sha256:
        raise UsageError(f"{what}: wrong pixels, sha256 is {found[:16]}..., expected {sha256[:16]}...")


# MNIST: checksums of the decoded pixels and label bytes of the original files.
MNIST_SHA256 = {
    "train-images-idx3-ubyte": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
    "train-labels-idx1-ubyte": "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    "t10k-images-idx3-ubyte": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    "t10k-labels-idx1-ubyte": "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
}


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes (magic 00 00 08 rank, then big-endian sizes)."""
    raw = gzip.decompress(path.read_bytes())
    if raw[:3] != b"\0\0\x08" or len(raw) < 4:
        raise UsageError(f"{path}: not an idx file of unsigned bytes")
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4).astype(int)
    values = np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)
    check_pixels(values, MNIST_SHA256[path.stem], str(path))
    return values


def mnist(source: Path, split: str) -> Iterator[Example]:
    """Yield MNIST in file order, keyed by index as TFDS does."""
    stem = "train" if split == "train" else "t10k"
    images = read_idx(source / f"mnist/{stem}-images-idx3-ubyte.gz")
    labels = read_idx(source / f"mnist/{stem}-labels-idx1-ubyte.gz")
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield index, {"image": png(image[..., None]), "label": int(label)}


CIFAR10_TARS = {
    "train": tuple(f"cifar10/cifar10_train_batch_{k}.tar" for k in range(1, 6)),
    "test": ("cifar10/cifar10_test_first1000.tar",),
}
CIFAR10_LABELS = {
    "train": "cifar10/cifar10_train_labels.npy",
    "test": "cifar10/cifar10_test_first1000_labels.npy",
}
CIFAR10_SHA256 = {
    "train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "test": "da362006b99671213d1a5d856cab2bedf64d40bad4501630ee60f4ceb2d3ec7f",
}
CIFAR10_NAMES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip


def read_strips(path: Path) -> np.ndarray:
    """Read a tar of lossless WebP strips (32 wide, images stacked) as uint8 [n, 32, 32, 3]."""
    with tarfile.open(path) as tar:
        members = sorted((m for m in tar.getmembers() if m.name.endswith(".webp")), key=lambda m: m.name)
        strips = [np.asarray(Image.open(tar.extractfile(m)).convert("RGB")) for m in members]  # type: ignore[arg-type]
    return np.concatenate(strips).reshape(-1, 32, 32, 3)


def cifar10(source: Path, split: str) -> Iterator[Example]:
    """Yield CIFAR-10 in the canonical order, keyed by index and with TFDS's ids."""
    images = np.concatenate([read_strips(source / tar) for tar in CIFAR10_TARS[split]])
    labels = np.load(source / CIFAR10_LABELS[split])
    check_pixels(images, CIFAR10_SHA256[split], f"cifar10 {split} images")
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield index, {"id": f"{split}_{index:05d}", "image": png(image), "label": int(label)}


def imagenette(source: Path, split: str) -> Iterator[Example]:
    """Yield the JPEG files unchanged, keyed by file name as TFDS does."""
    with tarfile.open(source / f"imagenette/imagenette224_{'train' if split == 'train' else 'val'}.tar") as tar:
        for member in tar:
            if member.name.endswith(".JPEG"):
                _, wnid, name = member.name.rsplit("/", 2)
                yield name, {"image": tar.extractfile(member).read(), "label": wnid}  # type: ignore[union-attr]


RECIPES = {
    "mnist": Recipe(
        config=None,
        files=tuple(f"mnist/{stem}.gz" for stem in MNIST_SHA256),
        sizes={"train": 60_000, "test": 10_000},
        examples=mnist,
    ),
    "cifar10": Recipe(
        config=None,
        files=(*CIFAR10_TARS["train"], *CIFAR10_TARS["test"], *CIFAR10_LABELS.values()),
        sizes={"train": 50_000, "test": 1_000},
        examples=cifar10,
        labels=CIFAR10_NAMES,
        note="PARTIAL: the test split is the first 1,000 of the 10,000 test images, lossless and in the "
        "canonical order. The training split is complete.",
    ),
    "imagenette": Recipe(
        config="full-size-v2",
        files=("imagenette/imagenette224_train.tar", "imagenette/imagenette224_val.tar"),
        sizes={"train": 1_500, "validation": 600},
        examples=imagenette,
        note="PARTIAL: 1,500 of 9,469 training and 600 of 3,925 validation images (150 and 60 a class), "
        "resized to 224x224 and stored as JPEG of quality about 75, not the original files.",
    ),
}


def make_builder(name: str, recipe: Recipe, source: Path, data_dir: Path, check: Check) -> Any:
    """Return TFDS's own builder of `name`, its examples taken from `source` instead of a download."""
    import tensorflow_datasets as tfds

    official = tfds.builder_cls(name)

    def examples(split: str) -> Iterator[Example]:
        count = 0
        try:
            for example in recipe.examples(source, split):
                check()
                yield example
                count += 1
        except (OSError, EOFError, ValueError, zlib.error, tarfile.TarError) as error:
            if isinstance(error, UsageError):
                raise
            raise UsageError(f"{name} {split}: a source file cannot be read: {error}") from error
        if count != recipe.sizes[split]:  # raised before the folder gets its name
            raise UsageError(f"{name} {split}: {count} examples, expected {recipe.sizes[split]}")

    class Builder(official, skip_registration=True):  # type: ignore[misc, valid-type, call-arg]
        __module__ = official.__module__  # recorded in the data set's info
        name = official.name

        def _info(self) -> Any:
            info = super()._info()
            if not recipe.note:
                return info
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{info.description}\n\n{recipe.note}",
                features=info.features,
                supervised_keys=info.supervised_keys,
                homepage=info.homepage,
                citation=info.citation,
                metadata=tfds.core.MetadataDict(note=recipe.note),
            )

        def _make_download_manager(self, **_: Any) -> Any:
            return types.SimpleNamespace(downloaded_size=0)

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Example]]:
            if recipe.labels:
                self.info.features["label"].names = recipe.labels
            return {split: examples(split) for split in recipe.sizes}

    kwargs = {"config": recipe.config} if recipe.config else {}
    return Builder(data_dir=os.fspath(data_dir), file_format="array_record", **kwargs)


def prepare(name: str, source: Path, data_dir: Path, console: Console, check: Check) -> None:
    """Write one data set; a folder appears under `data_dir` only once it is complete."""
    import tensorflow_datasets as tfds

    recipe = RECIPES[name]
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    task = progress.add_task(name, total=sum(recipe.sizes.values()))

    def step() -> None:
        check()
        progress.advance(task)

    builder = make_builder(name, recipe, source, data_dir, step)
    folder = Path(builder.data_path)
    if (folder / "dataset_info.json").is_file():
        console.print(f"{name}: already prepared in {folder}", soft_wrap=True)
        return
    if folder.exists():
        raise UsageError(f"{name}: {folder} exists and is not a prepared data set: remove it first")
    missing = [file for file in recipe.files if not (source / file).is_file()]
    if missing:
        raise UsageError(f"{name}: {len(missing)} files are missing in {source}: {', '.join(missing)}")
    check()
    tfds.disable_progress_bar()
    with progress, contextlib.redirect_stdout(io.StringIO()):  # TFDS prints lines of its own
        builder.download_and_prepare()
    console.print(f"{name}: prepared in {folder}", soft_wrap=True)
    if recipe.note:
        console.print(f"  {recipe.note}")


def main(
    names: Annotated[tuple[str, ...], tyro.conf.Positional],
    *,
    source: Path,
    data_dir: Path = Path("~/tensorflow_datasets"),
) -> int:
    """Prepare data sets from plain files, in TFDS's format.

    Args:
        names: Data sets to prepare: mnist, cifar10, imagenette.
        source: Folder that holds the plain files, one folder a data set.
        data_dir: TFDS's data folder to write to.
    """
    console = Console(stderr=True)
    try:
        if not names:
            raise UsageError(f"name at least one data set of {', '.join(RECIPES)}")
        for name in names:
            if name not in RECIPES:
                raise unknown("data set", name, RECIPES)
        if not source.is_dir():
            raise UsageError(f"--source {source}: no such folder")
        with StopFlag() as stop:
            for name in names:
                prepare(name, source, data_dir.expanduser(), console, stop.check)
    except UsageError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except OSError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 1
    except Stopped as stopped:
        console.print(f"{stopped}: nothing half-written is left; the same command starts over", soft_wrap=True)
        return stopped.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(tyro.cli(main))
