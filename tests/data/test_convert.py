"""TFDS data sets in TFRecord files: the framing, and the array_record files beside them."""

import json
import struct
import types

import pytest
import tensorflow_datasets as tfds
from hypothesis import given
from hypothesis import strategies as st
from stored import as_tfrecord, encoded, photo, write_tfds

from jaxcnn.data.config import DataConfig
from jaxcnn.data.stores import tfds_builder, tfrecord
from jaxcnn.data.stores.convert import convert
from jaxcnn.data.stores.tfds_records import open_tfds
from jaxcnn.errors import UsageError

IMAGES = [encoded(photo(i)) for i in range(20)]


def open_store(path):
    return open_tfds(tfds_builder.open_builder(DataConfig(source="tfds", name="tiny", path=path), lambda: None))


@pytest.fixture
def folder(tmp_path):
    """A data set in TFRecord files, three shards a split."""
    return as_tfrecord(write_tfds(tmp_path, IMAGES[:15], IMAGES[15:], shards=3))


def bitwise(data):
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@given(st.binary(max_size=300))
def test_checksums(data):
    assert tfrecord.crc32c(data) == bitwise(data)


def test_checksums_of_the_standard():
    """RFC 3720, B.4, and the usual check value."""
    assert tfrecord.crc32c(b"123456789") == 0xE3069283
    assert tfrecord.crc32c(bytes(32)) == 0x8A9136AA
    assert tfrecord.crc32c(b"\xff" * 32) == 0x62A8AB43
    assert tfrecord.crc32c(bytes(range(32))) == 0x46DD794E


def test_framing(tmp_path):
    # One empty record: length 0, its checksum, the checksum of nothing, as TensorFlow writes them.
    assert tfrecord.frame(b"").hex() == "0000000000000000" + "29039807" + "d8ea82a2"
    path, written = tmp_path / "x", [b"", b"a", b"x" * 1000]
    path.write_bytes(b"".join(map(tfrecord.frame, written)))
    assert list(tfrecord.records(path)) == written


@given(st.data())
def test_any_damage_is_noticed(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("x") / "x"
    raw = bytearray(tfrecord.frame(b"first") + tfrecord.frame(b"second"))
    if data.draw(st.booleans()):
        raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        whole = len(tfrecord.frame(b"first"))
        raw = raw[: data.draw(st.integers(1, len(raw) - 1).filter(lambda size: size != whole))]
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=r"x: record [01] is damaged or cut off"):
        list(tfrecord.records(path))


def test_the_error_offers_one_line(folder, tmp_path):
    with pytest.raises(
        UsageError,
        match=f"which have no random access: convert them with 'jaxcnn data convert tiny --data-dir {tmp_path}'$",
    ):
        open_store(tmp_path)


def test_converted(folder, tmp_path):
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    steps = []
    assert convert("tiny", tmp_path, progress=lambda *step: steps.append(step)) == folder
    assert steps == [("train", i, 15) for i in range(1, 16)] + [("test", i, 5) for i in range(1, 6)]
    after = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert set(after) - set(before) == {
        name.replace("tfrecord", "array_record") for name in before if "tfrecord" in name
    }
    assert all(after[name] == content for name, content in before.items() if name != "dataset_info.json")
    info = json.loads(after["dataset_info.json"])
    assert info.pop("alternativeFileFormats") == ["array_record"] and info == json.loads(before["dataset_info.json"])

    store = open_store(tmp_path)
    train, test = store.records("train"), store.records("test")
    assert [train[i] for i in range(15)] == [{"image": image, "label": i % 3} for i, image in enumerate(IMAGES[:15])]
    assert [test[i]["image"] for i in range(5)] == IMAGES[15:]
    source = tfds.data_source("tiny", split="train", data_dir=tmp_path)
    assert len(source) == 15 and source[4]["image"].tolist() == photo(4).tolist() and source[4]["label"] == 1
    with pytest.raises(UsageError, match="holds array_record files already"):
        convert("tiny", tmp_path)


@pytest.mark.parametrize("damage", ["flip", "cut", "fewer", "missing", "stop"])
def test_complete_or_absent(folder, tmp_path, damage):
    file = folder / "tiny-test.tfrecord-00001-of-00003"
    raw = bytearray(file.read_bytes())
    error, message = UsageError, "tiny-test.tfrecord-00001-of-00003: record 0 is damaged or cut off"
    stop = []
    match damage:
        case "flip":
            raw[500] ^= 1
        case "cut":
            raw = raw[: len(raw) // 3]
        case "fewer":
            raw, message = b"", "00001-of-00003 holds 0 records, expected [12] as dataset_info.json says"
        case "missing":
            message = "00001-of-00003 is missing"
        case "stop":
            error, message, stop = InterruptedError, "^$", [True]
    file.write_bytes(raw)
    if damage == "missing":
        file.unlink()
    before = {file.name: file.read_bytes() for file in folder.iterdir()}

    def step(split, done, total):
        if stop and split == "test":
            raise InterruptedError

    with pytest.raises(error, match=message):
        convert("tiny", tmp_path, progress=step)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_what_cannot_be_converted(tmp_path):
    with pytest.raises(UsageError, match=r"'mnist' is not prepared in .*: there is nothing to convert"):
        convert("mnist", tmp_path)
    with pytest.raises(UsageError, match="unknown TFDS data set 'mnits': did you mean 'mnist'"):
        convert("mnits", tmp_path)
    folder = write_tfds(tmp_path, IMAGES[:3], IMAGES[:3])
    info = json.loads((folder / "dataset_info.json").read_text())
    (folder / "dataset_info.json").write_text(json.dumps(info | {"fileFormat": "riegeli"}))
    with pytest.raises(UsageError, match="holds riegeli files, expected tfrecord"):
        convert("tiny", tmp_path)
    with pytest.raises(UsageError, match=r"holds riegeli files.*'tfds build tiny --file_format=array_record'"):
        open_store(tmp_path)


def test_a_data_set_that_tfds_has_a_class_for(tmp_path, monkeypatch):
    """Of which TFDS reads no other format than the first; its download is replaced by files written here."""
    mnist = tfds.builder_cls("mnist")
    rows = [(i, {"image": encoded(photo(i, 28, 28)[..., 0]), "label": i % 10}) for i in range(20)]
    monkeypatch.setattr(mnist, "_make_download_manager", lambda self, **_: types.SimpleNamespace(downloaded_size=0))
    monkeypatch.setattr(mnist, "_split_generators", lambda self, dl_manager: {"train": rows, "test": rows[:5]})
    mnist(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    as_tfrecord(tmp_path / "mnist/3.0.1")
    config = DataConfig(source="tfds", name="mnist", path=tmp_path)
    with pytest.raises(UsageError, match=f"convert them with 'jaxcnn data convert mnist --data-dir {tmp_path}'"):
        tfds_builder.open_builder(config, lambda: None)
    convert("mnist", tmp_path)
    store = open_tfds(tfds_builder.open_builder(config, lambda: None))
    records = store.records("train")
    assert store.fields["image"].channels == 1 and store.class_names == tuple("0123456789")
    assert sorted(tuple(records[i].values()) for i in range(20)) == sorted(
        (row["image"], row["label"]) for _, row in rows
    )
    assert tfds.builder("mnist", data_dir=tmp_path).info.file_format.value == "tfrecord"  # as before


@pytest.mark.parametrize("size", [1 << 40, (1 << 63) - 4, (1 << 64) - 1])
def test_a_record_is_no_larger_than_its_file(tmp_path, size):
    header = tfrecord.frame(struct.pack("<Q", size))[12:]  # the length with its checksum, as if it were a record
    (tmp_path / "x").write_bytes(header + b"text")
    with pytest.raises(UsageError, match="record 0 is damaged or cut off"):
        list(tfrecord.records(tmp_path / "x"))


def test_nothing_is_written_outside_of_the_folder(tmp_path):
    folder = as_tfrecord(write_tfds(tmp_path / "data", IMAGES, IMAGES[:3]))
    info = json.loads((folder / "dataset_info.json").read_text())
    for split in info["splits"]:
        split["filepathTemplate"] = "../../../../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    (folder / "dataset_info.json").write_text(json.dumps(info))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=r"would be written, expected a name without folders"):
        convert("tiny", tmp_path / "data")
    assert sorted(tmp_path.rglob("*")) == before
