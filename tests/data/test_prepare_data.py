"""scripts/prepare_data.py on made-up files, and, where the real ones are at hand, on those."""

import csv
import gzip
import hashlib
import importlib.util
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxcnn.data import DataConfig, load

SCRIPT = Path(__file__).parents[2] / "scripts/prepare_data.py"
README = "data/README.md"
SHARED = Path(os.environ.get("JAXCNN_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture
def script(monkeypatch):
    """The script as a module, freshly executed."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.delitem(sys.modules, "plain_files", raising=False)
    spec = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stand_in(script, name, source, **sizes):
    """Let made-up files in `source` be the right ones, and so many examples be a whole split."""
    recipe = script.RECIPES[name]
    for path in recipe.files:
        recipe.files[path] = hashlib.sha256((source / path).read_bytes()).hexdigest()
    recipe.sizes.clear()
    recipe.sizes.update(sizes)


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def small_mnist(script, tmp_path):
    """MNIST of 40 + 10 made-up images; returns (source folder, arrays)."""
    rng = np.random.default_rng(0)
    arrays = {}
    for stem, n in (("train", 40), ("t10k", 10)):
        arrays[f"{stem}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    for name, array in arrays.items():
        write_idx(tmp_path / "source/mnist" / f"{name}.gz", array)
    stand_in(script, "mnist", tmp_path / "source", train=40, test=10)
    return tmp_path / "source", arrays


def as_multiset(images, labels):
    return sorted(
        (int(label), np.ascontiguousarray(image).tobytes()) for image, label in zip(images, labels, strict=True)
    )


def test_tfds_reads_it_like_a_download(script, small_mnist, tmp_path, capsys):
    source, arrays = small_mnist
    assert script.main(("mnist",), source=source, data_dir=tmp_path / "data") == 0
    builder = tfds.builder("mnist", data_dir=tmp_path / "data")
    fresh = tfds.builder("mnist", data_dir=tmp_path / "none").info
    assert builder.info.full_name == fresh.full_name and repr(builder.info.features) == repr(fresh.features)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 40,
        "test": 10,
    }
    records = builder.as_data_source("train")
    assert records[0]["image"].shape == (28, 28, 1) and records[0]["image"].dtype == np.uint8
    assert as_multiset([r["image"] for r in records], [r["label"] for r in records]) == as_multiset(
        arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"]
    )
    assert "prepared in" in capsys.readouterr().err
    assert script.main(("mnist",), source=source, data_dir=tmp_path / "data") == 0
    assert "already prepared" in capsys.readouterr().err


def test_errors_are_one_line(script, small_mnist, tmp_path, capsys):
    source, _ = small_mnist

    def error(*names, source=source):
        assert script.main(names, source=source, data_dir=tmp_path / "data") == 2
        message = capsys.readouterr().err
        assert not list((tmp_path / "data").glob("*/*"))  # nothing half-written
        return message.splitlines()[-1]

    assert "did you mean 'mnist'" in error("mnits")
    assert "name at least one" in error()
    assert "fsdd is called spoken_digit in TFDS" in error("fsdd")
    assert "TFDS has no builder for camvid" in error("mnist", "camvid")
    assert "no such folder" in error("mnist", source=tmp_path / "none")
    assert "cifar10: 8 files are missing" in error("cifar10")
    path = source / "mnist/t10k-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    for damage in (whole[:-20], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:]):
        path.write_bytes(damage)
        assert "t10k-labels-idx1-ubyte.gz is damaged or another version: its sha256 is" in error("mnist")
    write_idx(path, np.zeros(9, np.uint8))
    stand_in(script, "mnist", source, train=40, test=10)
    assert "mnist test: a source file cannot be read" in error("mnist")
    path.write_bytes(whole)
    stand_in(script, "mnist", source, train=41, test=10)
    assert "mnist train: 40 examples, expected 41" in error("mnist")


@pytest.mark.data
def test_checksums_are_those_of_the_table(script):
    table = SHARED / README
    if not table.is_file():
        pytest.skip(f"needs {table} (JAXCNN_SHARED)")
    rows = [line.split("|")[1:4] for line in table.read_text().splitlines() if line.count("|") == 4]
    listed = {path.strip(): digest.strip() for path, _, digest in rows}
    for recipe in script.RECIPES.values():
        assert recipe.files.items() <= listed.items()
    folders = {path.split("/")[0] for path in listed if len(listed[path]) == 64}
    known = {path.split("/")[0] for recipe in script.RECIPES.values() for path in recipe.files}
    assert folders == known | set(script.WITHOUT_BUILDER)


def test_what_tfds_has_no_builder_for(script):
    names = tfds.list_builders(with_community_datasets=False)
    assert not [name for name in names for folder in script.WITHOUT_BUILDER if folder in name]
    assert set(script.RECIPES) <= set(names)


def add(tar, name, raw):
    member = tarfile.TarInfo(name)
    member.size = len(raw)
    tar.addfile(member, io.BytesIO(raw))


def encode(pixels, form, **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def test_cifar10_strips(script, tmp_path):
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 256, (20, 32, 32, 3)), "test": rng.integers(0, 256, (4, 32, 32, 3))}
    images = {split: array.astype(np.uint8) for split, array in images.items()}
    labels = {split: np.arange(len(array), dtype=np.uint8) % 10 for split, array in images.items()}
    (tmp_path / "cifar10").mkdir()
    tars = {"train": [f"train_batch_{k}" for k in range(1, 6)], "test": ["test_first1000"]}
    for split, stem in (("train", "train"), ("test", "test_first1000")):
        for tar_name, part in zip(tars[split], np.split(images[split], len(tars[split])), strict=True):
            with tarfile.open(tmp_path / f"cifar10/cifar10_{tar_name}.tar", "w") as tar:
                for start in range(0, 4, 2):
                    strip = part[start : start + 2].reshape(-1, 32, 3)
                    add(tar, f"strip_{start:05d}.webp", encode(strip, "webp", lossless=True))
        np.save(tmp_path / f"cifar10/cifar10_{stem}_labels.npy", labels[split])
    stand_in(script, "cifar10", tmp_path, train=20, test=4)
    assert script.main(("cifar10",), source=tmp_path, data_dir=tmp_path / "data") == 0
    builder = tfds.builder("cifar10", data_dir=tmp_path / "data")
    assert builder.info.features["label"].names[3] == "cat"
    assert "first 1,000" in builder.info.metadata["note"]
    assert "first 1,000" in (Path(builder.data_path) / "dataset_info.json").read_text()
    for split, expected in images.items():
        for record in builder.as_data_source(split):
            index = int(record["id"].decode().removeprefix(f"{split}_"))
            np.testing.assert_array_equal(record["image"], expected[index])
            assert record["label"] == labels[split][index]


def test_imagenette_keeps_the_files(script, tmp_path):
    (tmp_path / "imagenette").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    files = {"n01440764/x.JPEG": encode(pixels, "jpeg"), "n03888257/y.JPEG": encode(pixels[..., 0], "jpeg")}
    for folder in ("train", "val"):
        with tarfile.open(tmp_path / f"imagenette/imagenette224_{folder}.tar", "w") as tar:
            for name, raw in files.items():
                add(tar, f"{folder}/{name}", raw)
    stand_in(script, "imagenette", tmp_path, train=2, validation=2)
    assert script.main(("imagenette",), source=tmp_path, data_dir=tmp_path / "data") == 0
    builder = tfds.builder("imagenette", data_dir=tmp_path / "data")
    assert builder.info.full_name == "imagenette/full-size-v2/1.0.0"
    assert "PARTIAL" in builder.info.metadata["note"]
    records = list(builder.as_data_source("train"))
    names = {builder.info.features["label"].int2str(r["label"]): r["image"] for r in records}
    expected = np.asarray(Image.open(io.BytesIO(files["n01440764/x.JPEG"])))
    np.testing.assert_array_equal(names["n01440764"], expected)
    assert names["n03888257"].shape == (16, 16, 3)


real = pytest.mark.skipif(
    not (SHARED / "data/mnist").is_dir(), reason=f"needs the data files in {SHARED}/data (JAXCNN_SHARED)"
)


@pytest.mark.data
@real
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_leaves_nothing_half_written(tmp_path, number, code):
    command = [sys.executable, SCRIPT, "mnist", "--source", SHARED / "data", "--data-dir", tmp_path]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("mnist/incomplete*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == code, message
    assert not list(tmp_path.glob("mnist/*"))
    assert b"nothing half-written is left" in message


# Every split (a minute), or those that take a second.
ALL, QUICK = pytest.param(None, marks=pytest.mark.slow), {"test", "validation"}
# Of the decoded images in their canonical order, as published with the files.
CIFAR10_SHA256 = {
    "train": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "test": "da362006b99671213d1a5d856cab2bedf64d40bad4501630ee60f4ceb2d3ec7f",
}


@pytest.mark.data
@real
@pytest.mark.parametrize("splits", [QUICK, ALL])
def test_the_real_images(script, tmp_path, monkeypatch, splits):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = ("mnist", "cifar10", "imagenette")
    for name in names:
        sizes = script.RECIPES[name].sizes
        for split in set(sizes) - (splits or set(sizes)):
            monkeypatch.delitem(sizes, split)
    assert script.main(names, source=SHARED / "data", data_dir=tmp_path) == 0

    def counts(name, split, size):
        halves = {"train_split": f"{split}[:50%]", "test_split": f"{split}[50%:]"}
        data = load(DataConfig(source="tfds", name=name, path=tmp_path, **halves))
        assert data.train.arrays["image"].shape[1:] == size
        return np.bincount(np.concatenate([data.train.arrays["label"], data.test.arrays["label"]])).tolist()

    assert counts("mnist", "test", (28, 28, 1)) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert counts("cifar10", "test", (32, 32, 3)) == [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]
    assert counts("imagenette", "validation", (224, 224, 3)) == [60] * 10
    if splits is None:
        assert sum(counts("mnist", "train", (28, 28, 1))) == 60_000
        assert counts("cifar10", "train", (32, 32, 3)) == [5000] * 10
        assert counts("imagenette", "train", (224, 224, 3)) == [150] * 10
    for split in script.RECIPES["cifar10"].sizes:
        records = tfds.data_source("cifar10", data_dir=tmp_path, split=split)
        images = np.stack([record["image"] for record in sorted(records, key=lambda record: record["id"])])
        assert sha256(images) == CIFAR10_SHA256[split]


def same_as_official(name, data_dir):
    """The builder that TFDS makes of a prepared folder, checked against TFDS's own."""
    builder, fresh = tfds.builder(name, data_dir=data_dir), tfds.builder(name, data_dir=data_dir / "none")
    assert builder.info.full_name == fresh.info.full_name
    assert repr(builder.info.features) == repr(fresh.info.features)
    assert builder.info.supervised_keys == fresh.info.supervised_keys
    return builder


@pytest.mark.data
@real
def test_blood_cells_are_what_tfds_makes_of_them(script, tmp_path):
    assert script.main(("bccd",), source=SHARED / "data", data_dir=tmp_path) == 0
    builder = same_as_official("bccd", tmp_path)
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 205,
        "validation": 87,
        "test": 72,
    }
    # TFDS's own code, on the same files unpacked where its download would be.
    with tarfile.open(SHARED / "data/bccd/bccd_voc.tar.gz") as tar:
        tar.extractall(tmp_path / "plain", filter="data")
    lines = (tmp_path / "plain/BCCD/ImageSets/Main/test.txt").read_text().splitlines(keepends=True)
    expected = dict(tfds.builder("bccd", data_dir=tmp_path / "none")._generate_examples(lines, tmp_path / "plain"))
    names = builder.info.features["objects"].feature["label"].names
    for record in builder.as_data_source("test"):
        example = expected.pop(record["image/filename"].decode())
        with Image.open(example["image"]) as image:
            np.testing.assert_array_equal(record["image"], np.asarray(image))
        assert [names[label] for label in record["objects"]["label"]] == [o["label"] for o in example["objects"]]
        boxes = np.array([o["bbox"] for o in example["objects"]])
        np.testing.assert_allclose(np.array(record["objects"]["bbox"]), boxes, rtol=1e-6)
    assert not expected


@pytest.mark.data
@real
def test_imagenet_samples(script, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert script.main(("imagenet2012",), source=SHARED / "data", data_dir=tmp_path) == 0
    builder = same_as_official("imagenet2012", tmp_path)
    assert "PARTIAL: 250 of 1,281,167" in builder.info.metadata["note"]
    with (SHARED / "data/imagenet_samples/imagenet_samples.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    source = builder.as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    for record in source:
        row = rows.pop(record["file_name"].decode())
        assert record["label"] == int(row["class_index"])
        with Image.open(io.BytesIO(record["image"])) as image:
            assert image.size == (int(row["width"]), int(row["height"]))
    assert not rows
    halves = {"train_split": "train[:8]", "test_split": "train[8:16]", "image_size": 32}
    data = load(DataConfig(source="tfds", name="imagenet2012", path=tmp_path, **halves))
    assert len(data.class_names) == 1000 and data.train.arrays["image"].shape == (8, 32, 32, 3)


@pytest.mark.data
@real
def test_spoken_digits(script, tmp_path):
    assert script.main(("spoken_digit",), source=SHARED / "data", data_dir=tmp_path) == 0
    with script.audio_features():  # TFDS's audio feature asks for TensorFlow, which is not here
        builder = same_as_official("spoken_digit", tmp_path)
        records = list(builder.as_data_source("train"))
    assert "MORE than TFDS's own: 3,000" in builder.info.metadata["note"]
    assert np.bincount([record["label"] for record in records]).tolist() == [300] * 10
    assert len({record["audio/filename"].decode().split("_")[1] for record in records}) == 6
    assert all(record["audio/filename"].decode()[0] == str(record["label"]) for record in records)
    assert records[0]["audio"].dtype == np.int64 and np.abs(records[0]["audio"]).max() < 2**15
    assert sum(len(record["audio"]) for record in records) / 8000 == pytest.approx(1312, abs=1)  # seconds
