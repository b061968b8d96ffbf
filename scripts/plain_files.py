"""The plain files that prepare_data.py reads: their checksums, and one generator of examples for each data set."""

import csv
import gzip
import io
import tarfile
import wave
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

Example = tuple[str | int, dict[str, Any]]  # key (it fixes the order of the records) and features


@dataclass(frozen=True)
class Recipe:
    """How one data set is made."""

    files: dict[str, str]
    """SHA-256 of each source file, by path in the source folder."""
    sizes: dict[str, int]
    """Examples of each split, in TFDS's naming."""
    examples: Callable[[Path, str], Iterator[Example]]
    """Yields the examples of a split, with the keys that TFDS gives them."""
    config: str | None = None
    """The TFDS builder configuration, None where the builder has none."""
    labels: tuple[str, ...] | None = None
    """Class names that TFDS's builder reads from a downloaded file."""
    note: str = ""
    """What differs from TFDS's own data set."""


def png(pixels: np.ndarray) -> bytes:
    """Encode uint8 [h, w, 1 or 3] losslessly (level 1: the same pixels, written five times faster)."""
    out = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(out, "png", compress_level=1)
    return out.getvalue()


def members(path: Path, suffix: str) -> Iterator[tuple[str, bytes]]:
    """Yield the name and content of each file in a tar archive whose name ends in `suffix`, in the archive's order."""
    with tarfile.open(path) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(suffix):
                yield member.name, tar.extractfile(member).read()  # type: ignore[union-attr]


def read_idx(path: Path) -> np.ndarray:
    """Read a gzipped idx file of unsigned bytes (magic 00 00 08 rank, then big-endian sizes)."""
    raw = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(raw, ">u4", count=raw[3], offset=4).astype(int)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * raw[3]).reshape(shape)


def mnist(source: Path, split: str) -> Iterator[Example]:
    """Yield MNIST in file order, keyed by index as TFDS does."""
    stem = "train" if split == "train" else "t10k"
    images = read_idx(source / f"mnist/{stem}-images-idx3-ubyte.gz")
    labels = read_idx(source / f"mnist/{stem}-labels-idx1-ubyte.gz")
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        yield index, {"image": png(image[..., None]), "label": int(label)}


def cifar10(source: Path, split: str) -> Iterator[Example]:
    """Yield CIFAR-10 in the canonical order, keyed by index and with TFDS's ids.

    The images are in tars of lossless WebP strips, 32 wide, of images one above the other.
    """
    tars = [f"train_batch_{k}" for k in range(1, 6)] if split == "train" else ["test_first1000"]
    stem = "train" if split == "train" else "test_first1000"
    labels = np.load(source / f"cifar10/cifar10_{stem}_labels.npy")
    index = 0
    for tar in tars:
        for _, raw in sorted(members(source / f"cifar10/cifar10_{tar}.tar", ".webp")):
            for image in np.asarray(Image.open(io.BytesIO(raw)).convert("RGB")).reshape(-1, 32, 32, 3):
                yield index, {"id": f"{split}_{index:05d}", "image": png(image), "label": int(labels[index])}
                index += 1


def imagenette(source: Path, split: str) -> Iterator[Example]:
    """Yield the JPEG files unchanged, keyed by file name as TFDS does."""
    for path, raw in members(source / f"imagenette/imagenette224_{split.removesuffix('idation')}.tar", ".JPEG"):
        _, wnid, name = path.rsplit("/", 2)
        yield name, {"image": raw, "label": wnid}


def imagenet2012(source: Path, split: str) -> Iterator[Example]:
    """Yield the JPEG files unchanged, keyed by file name as TFDS does; the names are not ImageNet's."""
    with (source / "imagenet_samples/imagenet_samples.csv").open(newline="") as file:
        wnids = {row["file"]: row["wnid"] for row in csv.DictReader(file)}
    for name, raw in members(source / "imagenet_samples/imagenet_samples.tar", ".JPEG"):
        yield name, {"image": raw, "label": wnids[name], "file_name": name}


def bccd(source: Path, split: str) -> Iterator[Example]:
    """Yield the JPEG files unchanged with their boxes, keyed as TFDS does, by lines with their line breaks."""
    from tensorflow_datasets.core.features import BBox

    files = dict(members(source / "bccd/bccd_voc.tar.gz", ""))
    lists = {"train": "train", "validation": "val", "test": "test"}
    for line in io.StringIO(files[f"BCCD/ImageSets/Main/{lists[split]}.txt"].decode()):
        root = ElementTree.fromstring(files[f"BCCD/Annotations/{line.strip()}.xml"])
        sides = [float(root.findtext(f"size/{side}") or "") for side in ("height", "width")]

        def edge(box: ElementTree.Element, name: str, side: float) -> float:
            return min(float(box.findtext(f"bndbox/{name}") or "") / side, 1.0)

        objects = [
            {
                "label": box.findtext("name"),
                "bbox": BBox(
                    *(edge(box, n, s) for n, s in zip(("ymin", "xmin", "ymax", "xmax"), sides * 2, strict=True))
                ),
            }
            for box in root.iter("object")
        ]
        image = files[f"BCCD/JPEGImages/{line.strip()}.jpg"]
        yield line, {"image": image, "image/filename": line, "objects": objects}


def spoken_digit(source: Path, split: str) -> Iterator[Example]:
    """Yield the samples of each recording (mono, 16 bits), keyed as TFDS does, by file name."""
    for path, raw in members(source / "fsdd/fsdd_recordings.tar.xz", ".wav"):
        name = path.rpartition("/")[2]
        with wave.open(io.BytesIO(raw)) as sound:
            samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.int64)
        yield name.removesuffix(".wav"), {"audio": samples, "label": name.split("_")[0], "audio/filename": name}


RECIPES: Mapping[str, Recipe] = {
    "mnist": Recipe(
        files={
            "mnist/train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "mnist/train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "mnist/t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "mnist/t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
        sizes={"train": 60_000, "test": 10_000},
        examples=mnist,
    ),
    "cifar10": Recipe(
        files={
            "cifar10/cifar10_train_batch_1.tar": "3d2b0b2baca27ca67b33fe9f30085efd9c2d0059b14bf4584c2bc3e3031a7518",
            "cifar10/cifar10_train_batch_2.tar": "1a8c4c145d51ec30f147f4f931906998dc9829616e50f471dfbeb36e4a236f39",
            "cifar10/cifar10_train_batch_3.tar": "317c36f0d4e58b09a66d00704db3a59e25763832d17edbf7f1155653c51fd5fa",
            "cifar10/cifar10_train_batch_4.tar": "ed0860ee8a5d7e7232cf0e32a98b943567ce0bd4b66ffb9737c43714df9b26af",
            "cifar10/cifar10_train_batch_5.tar": "ea9c05cf79c1d26f58290fab77e39053035e0055e56ac6f13b62869b9f64af4c",
            "cifar10/cifar10_train_labels.npy": "fad921ba16b0efeebb54393d1351545d1fe1a357f6f81324c821e3e11b956c70",
            "cifar10/cifar10_test_first1000.tar": "5191726c4c8e9ed9f81f93f809a7b3c182b5ad2637da07ab21a0c6078c33f5ee",
            "cifar10/cifar10_test_first1000_labels.npy": (
                "6988dd2f6284b6f7aedd9bd0d908439f0a7edff3776195add3af3aa053ea8ed3"
            ),
        },
        sizes={"train": 50_000, "test": 1_000},
        examples=cifar10,
        labels=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        note="PARTIAL: the test split is the first 1,000 of the 10,000 test images, lossless and in the canonical "
        "order. The training split is complete.",
    ),
    "imagenette": Recipe(
        config="full-size-v2",
        files={
            "imagenette/imagenette224_train.tar": "a0c0f1940b6cd26ae8986378973d1c3c1332ea87f44d15151640d641559e2a8e",
            "imagenette/imagenette224_val.tar": "64445d7cc97592160817d39d739d985ad8e6b3dd1edc308f2e32b89c31e3a948",
        },
        sizes={"train": 1_500, "validation": 600},
        examples=imagenette,
        note="PARTIAL: 1,500 of 9,469 training and 600 of 3,925 validation images (150 and 60 a class), resized to "
        "224x224 and stored as JPEG of quality about 75, not the original files.",
    ),
    "imagenet2012": Recipe(
        files={
            "imagenet_samples/imagenet_samples.tar": "55d55159ca429ea81978e13556c7b63cfcd2e458273e56f8846fd6d5c83788b0",
            "imagenet_samples/imagenet_samples.csv": "15598e68bff8f1a013100e38338485676ce78cf2bf9cab6082ba8be9644bd439",
        },
        sizes={"train": 250},
        examples=imagenet2012,
        note="PARTIAL: 250 of 1,281,167 training images, one each of 250 of the 1,000 classes (of four consecutive "
        "classes the smallest file above 12 kB); their file names are not ImageNet's. No validation split.",
    ),
    "bccd": Recipe(
        files={"bccd/bccd_voc.tar.gz": "77c4c1b60f50d160177b5c1dd7279e4e70a3b13d7a67ef132f333b786c40c2d2"},
        sizes={"train": 205, "validation": 87, "test": 72},
        examples=bccd,
    ),
    "spoken_digit": Recipe(
        files={"fsdd/fsdd_recordings.tar.xz": "c86ee6c3a57cfb9f32f46bc24d80e5fe84b98d04bc3626291c505ec78d28c2fe"},
        sizes={"train": 3_000},
        examples=spoken_digit,
        note="MORE than TFDS's own: 3,000 recordings of 6 speakers, from a later state of the repository than its "
        "v1.0.9, which has 2,500 of 5. The split is TFDS's; the authors score on recordings 0 to 4 of each digit and "
        "speaker.",
    ),
}
