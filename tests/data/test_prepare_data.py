"""scripts/prepare_data.py on made-up files, and, where the real ones are at hand, on those."""

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
SHARED = Path(os.environ.get("JAXCNN_SHARED", Path(__file__).parents[3] / "shared"))


@pytest.fixture
def script(monkeypatch):
    """The script as a module, freshly executed."""
    spec = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "prepare_data", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.fixture
def small_mnist(script, tmp_path, monkeypatch):
    """MNIST of 40 + 10 made-up images; returns (source folder, arrays)."""
    rng = np.random.default_rng(0)
    arrays = {}
    for stem, n in (("train", 40), ("t10k", 10)):
        arrays[f"{stem}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 28, 28)).astype(np.uint8)
        arrays[f"{stem}-labels-idx1-ubyte"] = (np.arange(n) % 10).astype(np.uint8)
    for name, array in arrays.items():
        write_idx(tmp_path / "source/mnist" / f"{name}.gz", array)
        monkeypatch.setitem(script.MNIST_SHA256, name, sha256(array))
    monkeypatch.setitem(script.RECIPES["mnist"].sizes, "train", 40)
    monkeypatch.setitem(script.RECIPES["mnist"].sizes, "test", 10)
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
    assert "no such folder" in error("mnist", source=tmp_path / "none")
    assert "cifar10: 8 files are missing" in error("cifar10")
    path = source / "mnist/t10k-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    write_idx(path, np.zeros(10, np.uint8))
    assert "t10k-labels-idx1-ubyte.gz: wrong pixels" in error("mnist")
    path.write_bytes(gzip.compress(b"nonsense"))
    assert "not an idx file" in error("mnist")
    path.write_bytes(whole[:-20])
    assert "mnist test: a source file cannot be read: Compressed file ended" in error("mnist")


def add(tar, name, raw):
    member = tarfile.TarInfo(name)
    member.size = len(raw)
    tar.addfile(member, io.BytesIO(raw))


def encode(pixels, form, **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, form, **options)
    return out.getvalue()


def test_cifar10_strips(script, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 256, (20, 32, 32, 3)), "test": rng.integers(0, 256, (4, 32, 32, 3))}
    images = {split: array.astype(np.uint8) for split, array in images.items()}
    labels = {split: np.arange(len(array), dtype=np.uint8) % 10 for split, array in images.items()}
    (tmp_path / "cifar10").mkdir()
    for split, tars in script.CIFAR10_TARS.items():
        for path, part in zip(tars, np.split(images[split], len(tars)), strict=True):
            with tarfile.open(tmp_path / path, "w") as tar:
                for start in range(0, 4, 2):
                    strip = part[start : start + 2].reshape(-1, 32, 3)
                    add(tar, f"strip_{start:05d}.webp", encode(strip, "webp", lossless=True))
        np.save(tmp_path / script.CIFAR10_LABELS[split], labels[split])
        monkeypatch.setitem(script.CIFAR10_SHA256, split, sha256(images[split]))
        monkeypatch.setitem(script.RECIPES["cifar10"].sizes, split, len(images[split]))
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


def test_imagenette_keeps_the_files(script, tmp_path, monkeypatch):
    (tmp_path / "imagenette").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    files = {"n01440764/x.JPEG": encode(pixels, "jpeg"), "n03888257/y.JPEG": encode(pixels[..., 0], "jpeg")}
    for split, folder in (("train", "train"), ("validation", "val")):
        with tarfile.open(tmp_path / f"imagenette/imagenette224_{folder}.tar", "w") as tar:
            for name, raw in files.items():
                add(tar, f"{folder}/{name}", raw)
        monkeypatch.setitem(script.RECIPES["imagenette"].sizes, split, 2)
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


@pytest.mark.data
@real
@pytest.mark.parametrize("splits", [QUICK, ALL])
def test_the_real_data_sets(script, tmp_path, monkeypatch, splits):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for recipe in script.RECIPES.values():
        for split in set(recipe.sizes) - (splits or set(recipe.sizes)):
            monkeypatch.delitem(recipe.sizes, split)
    assert script.main(tuple(script.RECIPES), source=SHARED / "data", data_dir=tmp_path) == 0

    def counts(name, split, size):
        config = DataConfig(source="tfds", name=name, path=tmp_path, train_split=split, test_split=split)
        data = load(config)
        assert data.train.images.shape[1:] == size
        return np.bincount(data.train.labels).tolist()

    assert counts("mnist", "test", (28, 28, 1)) == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert counts("cifar10", "test", (32, 32, 3)) == [103, 89, 100, 103, 90, 86, 112, 102, 106, 109]
    assert counts("imagenette", "validation", (224, 224, 3)) == [60] * 10
    if splits is None:
        assert sum(counts("mnist", "train", (28, 28, 1))) == 60_000
        assert counts("cifar10", "train", (32, 32, 3)) == [5000] * 10
        assert counts("imagenette", "train", (224, 224, 3)) == [150] * 10
    # Put back in the canonical order by their ids, the images are the published bytes.
    for split in script.RECIPES["cifar10"].sizes:
        records = tfds.data_source("cifar10", data_dir=tmp_path, split=split)
        images = np.stack([record["image"] for record in sorted(records, key=lambda record: record["id"])])
        assert sha256(images) == script.CIFAR10_SHA256[split]
