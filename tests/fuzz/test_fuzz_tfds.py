"""Damaged and hostile folders of TensorFlow Datasets: examples, or one line; and nothing is imported."""

import json
import shutil
import sys

import pytest
from mutations import dumps, fuzz, lengths, mutate, mutate_json
from stored import encoded, photo, write_tfds

from jaxcnn.data.config import DataConfig
from jaxcnn.data.stores.tfds_builder import open_builder
from jaxcnn.data.stores.tfds_records import open_tfds
from jaxcnn.errors import BadExample

IMAGES = [encoded(photo(number), kind) for number, kind in enumerate(["png", "jpeg"] * 3)]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The files of a good data set, by name."""
    folder = write_tfds(tmp_path_factory.mktemp("tfds"), IMAGES[:4], IMAGES[4:])
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def opened(data_dir):
    return open_tfds(open_builder(DataConfig(source="tfds", name="tiny", path=data_dir, download=False), lambda: None))


def drain(store):
    assert all(name.isprintable() for name in store.class_names)
    for split in store.sizes:
        records = store.records(split)
        assert len(records.fingerprint()) == 64
        for index in range(min(len(records), 10)):
            try:
                assert isinstance(records[index]["image"], bytes), records.name(index)
            except BadExample as error:
                assert str(error) and "\n" not in str(error)


def test_a_good_one_is_read(tmp_path, good):
    shutil.rmtree(tmp_path)
    folder = tmp_path / "tiny/1.0.0"
    folder.mkdir(parents=True)
    for name, content in good.items():
        (folder / name).write_bytes(content)
    store = opened(tmp_path)
    drain(store)
    assert store.sizes == {"train": 4, "test": 2}


@lengths
def test_tfds(tmp_path, good, hostile, seconds):
    folder = tmp_path / "data/tiny/1.0.0"
    folder.mkdir(parents=True)

    def case(rng):
        files = dict(good)
        name = sorted(files)[rng.integers(len(files))]
        match rng.integers(8):
            case 0:
                del files[name]
            case 1 | 2:
                files[name] = mutate(rng, files[name])
            case 3:
                text = files["features.json"].decode()
                own = json.loads(text)["pythonClassName"]
                files["features.json"] = text.replace(own, ["hostile.X", "hostile", "os.X"][rng.integers(3)]).encode()
            case _:
                name = ("features.json", "dataset_info.json")[rng.integers(2)]
                files[name] = dumps(mutate_json(rng, json.loads(files[name])))
        for file in folder.iterdir():
            file.unlink()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        return lambda: drain(opened(tmp_path / "data"))

    ended = fuzz(case, cases=80, seconds=seconds)
    assert ended["fine"] > 5 and ended["UsageError"] > 20
    assert not hostile.exists() and "hostile" not in sys.modules
