"""Examples in memory, in folders and in TFDS's files, read in any order; and files that are damaged."""

import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from stored import CLASSES, encoded, photo, photos, write_folder, write_tfds

from jaxcnn.data.config import DataConfig
from jaxcnn.data.fields import Image as ImageField
from jaxcnn.data.stores.image_folder import open_folder
from jaxcnn.data.stores.records import ArrayRecords, Subset, digest
from jaxcnn.data.stores.tfds_builder import open_builder
from jaxcnn.data.stores.tfds_records import open_tfds
from jaxcnn.errors import BadExample, UsageError
from jaxcnn.images.opening import BadImage
from jaxcnn.images.pixels import decode


def test_arrays():
    images = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    labels = np.array([1, 0], np.int32)
    records = ArrayRecords({"image": images, "label": labels})
    assert len(records) == 2 and records.name(1) == "example 1"
    image, label = records[0].values()
    assert label == 1 and type(label) is int and np.shares_memory(image, images)
    changed = ArrayRecords({"image": 255 - images, "label": labels})
    assert records.fingerprint() != changed.fingerprint()
    assert records.fingerprint() == ArrayRecords({"image": images.copy(), "label": labels.copy()}).fingerprint()
    # As it was written into runs before there were other fields.
    assert records.fingerprint() == digest([str(images.shape), images.tobytes(), labels.tobytes()])
    assert records.fingerprint() != ArrayRecords({"image": images, "angle": labels}).fingerprint()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted), max_size=4))
def test_a_subset_is_its_parts_in_a_row(bounds):
    whole = ArrayRecords({"image": np.zeros((10, 1, 1, 1), np.uint8), "label": np.arange(10, dtype=np.int32)})
    subset = Subset([(whole, start, stop) for start, stop in bounds])
    expected = [label for start, stop in bounds for label in range(start, stop)]
    assert [subset[i]["label"] for i in range(len(subset))] == expected
    assert [subset.name(i) for i in range(len(subset))] == [f"example {label}" for label in expected]
    with pytest.raises(IndexError):
        subset[len(subset)]
    with pytest.raises(IndexError):
        subset[-1]


def test_digests_tell_where_parts_end():
    assert digest(["ab", "c"]) != digest(["a", "bc"]) != digest(["abc"])


def test_folder(tmp_path):
    files = photos(30)  # under .JPEG, a PNG file and CMYK, as in ImageNet: passed on as they are
    files["bee/1.JPEG"] = encoded(photo(1), "png")
    files["cat/2.JPEG"] = encoded(Image.fromarray(photo(2)).convert("CMYK"), "jpeg")
    again = dict(files)
    store = open_folder(write_folder(tmp_path / "x", files))
    records = store.records("train")
    assert store.class_names == CLASSES and store.sizes == {"train": 30} == {"train": len(records)}
    root = f"{tmp_path}/x/"
    for index in range(30):
        name = records.name(index).removeprefix(root)
        assert records[index] == {"image": files.pop(name), "label": CLASSES.index(name.split("/")[0])}
    assert not files and len({records[index]["label"] for index in range(10)}) == 3  # a mixed order
    # The same files elsewhere are the same data; one byte more is not.
    moved = open_folder(write_folder(tmp_path / "y", again)).records("train")
    assert moved.fingerprint() == records.fingerprint()
    with (tmp_path / "y/ant/0.JPEG").open("ab") as file:
        file.write(b"\0")
    assert moved.fingerprint() != records.fingerprint()


def test_what_lies_about_in_a_folder(tmp_path):
    files = {"train/ant/a.jpg": b"", "train/bee/b.PNG": b"x", "val/ant/c.webp": b"y"}
    other = {"train/ant/Thumbs.db": b"", "val/ant/notes.txt": b"", "train/ant/.DS_Store": b"", "README": b""}
    store = open_folder(write_folder(tmp_path, files | other))
    assert store.sizes == {"train": 2, "val": 1} and store.class_names == ("ant", "bee")
    ignored = ("README", "train/ant/Thumbs.db", "val/ant/notes.txt")
    assert store.ignored == tuple(f"{tmp_path}/{name}" for name in ignored)
    # An empty file is an example, which turns out to be none.
    records = store.records("train")
    (empty,) = (index for index in range(2) if records.name(index).endswith("a.jpg"))
    with pytest.raises(BadImage):
        decode(records[empty]["image"], 3)


def test_folders_without_images(tmp_path):
    with pytest.raises(UsageError, match="no class folders"):
        open_folder(tmp_path)
    write_folder(tmp_path, {"ant/notes.txt": b""})
    with pytest.raises(UsageError, match=r"no files in them with the suffix of an image \(.*notes.txt has none\)"):
        open_folder(tmp_path)


def test_a_file_that_is_gone(tmp_path):
    records = open_folder(write_folder(tmp_path, photos(3))).records("train")
    (tmp_path / "bee/1.JPEG").unlink()
    (gone,) = (index for index in range(3) if records.name(index).endswith("bee/1.JPEG"))
    with pytest.raises(BadExample, match="No such file"):
        records[gone]


IMAGES = [encoded(photo(i), kind, **options) for i, (kind, options) in enumerate([("jpeg", {}), ("png", {})] * 10)]


def tiny(path, shards=1):
    write_tfds(path, IMAGES[:15], IMAGES[15:], shards)
    return open_tfds(open_builder(DataConfig(source="tfds", name="tiny", path=path), lambda: None))


def test_tfds(tmp_path):
    store = tiny(tmp_path, shards=3)
    assert (
        store.class_names == CLASSES
        and store.sizes == {"train": 15, "test": 5}
        and store.fields["image"] == ImageField(3)
    )
    records, test = store.records("train"), store.records("test")
    assert [records[i] for i in range(15)] == [{"image": image, "label": i % 3} for i, image in enumerate(IMAGES[:15])]
    assert [test[i]["image"] for i in range(5)] == IMAGES[15:]
    assert len(records) == 15 and records.name(3) == "tiny/1.0.0 train record 3"
    assert records.fingerprint() == store.records("train").fingerprint() != test.fingerprint()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: records[i % 15]["image"], range(300)))
    assert found == IMAGES[:15] * 20


@pytest.mark.parametrize("damage", ["cut", "empty", "missing", "another"])
def test_tfds_files_that_are_not_what_the_info_says(tmp_path, damage):
    store = tiny(tmp_path)
    file = tmp_path / "tiny/1.0.0/tiny-train.array_record-00000-of-00001"
    raw = file.read_bytes()
    message = r"'tiny/1.0.0', split 'train': .*-00001 holds 0 records, expected 15 .*cut off"
    match damage:
        case "cut":
            file.write_bytes(raw[: len(raw) - 100])
        case "empty":
            file.write_bytes(b"")
        case "missing":
            file.unlink()
            message = r"'tiny/1.0.0', split 'train': .*-00001 is missing"
        case "another":
            file.write_bytes((file.parent / "tiny-test.array_record-00000-of-00001").read_bytes())
            message = "holds 5 records, expected 15 as dataset_info.json says"
    with pytest.raises(UsageError, match=message):
        store.records("train")
    assert len(store.records("test")) == 5


def test_an_info_of_another_size(tmp_path):
    tiny(tmp_path)
    path = tmp_path / "tiny/1.0.0/dataset_info.json"
    info = json.loads(path.read_text())
    info["splits"][0]["shardLengths"] = ["14"]
    path.write_text(json.dumps(info))
    store = open_tfds(open_builder(DataConfig(source="tfds", name="tiny", path=tmp_path), lambda: None))
    with pytest.raises(UsageError, match=r"holds 15 records, expected 14 as dataset_info.json says"):
        store.records("train")


def test_a_damaged_record_is_one_bad_example(tmp_path):
    store = tiny(tmp_path)
    file = tmp_path / "tiny/1.0.0/tiny-train.array_record-00000-of-00001"
    raw = bytearray(file.read_bytes())
    raw[raw.index(IMAGES[7][100:150]) + 20] ^= 1
    file.write_bytes(raw)
    records = store.records("train")
    with pytest.raises(BadExample, match=r"cannot be read: .*mismatch"):
        records[7]
    assert [records[i]["image"] for i in range(15) if i != 7] == IMAGES[:7] + IMAGES[8:15]


def test_as_many_files_may_be_open_as_there_are(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before[1] - 2, before[1]))
        tiny(tmp_path, shards=3).records("train")
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_what_is_no_example_of_a_folder_is_listed(tmp_path):
    write_folder(tmp_path, {f"train/{name}": content for name, content in photos(6).items()})
    others = ("TOP.md", "stray.JPEG", "train/README", "train/stray.JPEG", "train/ant/sub/x.JPEG", "train/ant/notes.txt")
    write_folder(tmp_path, {name: b"x" for name in others})
    (tmp_path / "train/bee/dead.JPEG").symlink_to("nowhere")
    store = open_folder(tmp_path)
    expected = [name.replace("/x.JPEG", "") for name in others]
    assert sorted(store.ignored) == sorted(str(tmp_path / name) for name in expected)
    records = store.records("train")
    assert store.sizes == {"train": 7} and len(records.fingerprint()) == 64
    (dead,) = [index for index in range(7) if records.name(index).endswith("dead.JPEG")]
    with pytest.raises(BadExample, match="No such file"):
        records[dead]


def test_a_folder_within_a_class_makes_it_no_split(tmp_path):
    write_folder(tmp_path, photos(6) | {"ant/thumbs/small.JPEG": b"x"})
    store = open_folder(tmp_path)
    assert store.sizes == {"train": 6} and store.ignored == (str(tmp_path / "ant/thumbs"),)


@pytest.mark.parametrize(
    ("stray", "message"),
    [
        # Beside class folders: a class of its own before, and every label behind it another number.
        (
            "figures/2024/x.png",
            r"figures holds images only deeper, such as .*/2024/x.png, and ant beside it holds some itself: expected",
        ),
        ("logs/today.txt", "logs holds no image: expected CLASS/image"),
        ("logs/2024/today.txt", "logs holds no image: expected CLASS/image"),
    ],
)
def test_a_stray_folder_is_no_class(tmp_path, stray, message):
    write_folder(tmp_path / "flat", photos(6) | {stray: b""})
    with pytest.raises(UsageError, match=message):
        open_folder(tmp_path / "flat")
    split = {f"{split}/{name}": content for split in ("train", "val") for name, content in photos(6).items()}
    write_folder(tmp_path / "split", split | {f"train/{stray}": b""})
    with pytest.raises(UsageError, match=message):
        open_folder(tmp_path / "split")


def test_a_stray_folder_is_no_split(tmp_path):
    split = {f"{split}/{name}": content for split in ("train", "val") for name, content in photos(6).items()}
    write_folder(tmp_path / "x", split | {"figures/2024/x.png": b""})
    with pytest.raises(UsageError, match=r"'figures' holds 2024, none of which is a class of 'train' \(ant, bee"):
        open_folder(tmp_path / "x")
    # All that is to be scored in one folder, as contests have it: no class of those that are trained on.
    write_folder(tmp_path / "y", {f"train/{name}": b"" for name in photos(6)} | {"test/unknown/x.jpg": b""})
    with pytest.raises(UsageError, match="'test' holds unknown, none of which is a class of 'train'"):
        open_folder(tmp_path / "y")


def test_images_to_be_scored_beside_class_folders(tmp_path):
    """As Kaggle has them: it is `test` that does not fit, which only the user can tell."""
    write_folder(tmp_path, {f"train/{name}": b"" for name in photos(6)} | {"test/0.jpg": b""})
    with pytest.raises(UsageError, match=r"train holds images only deeper, .*, and test beside it holds some itself:"):
        open_folder(tmp_path)


def test_layouts_that_are_meant(tmp_path):
    # Not every split has every class.
    some = {"train/ant/0.jpg": b"", "train/bee/1.jpg": b"", "val/ant/2.jpg": b"", "test/bee/3.jpg": b""}
    store = open_folder(write_folder(tmp_path / "some", some | {"figures/x.png": b""}))
    assert store.sizes == {"test": 1, "train": 2, "val": 1} and store.class_names == ("ant", "bee")
    assert store.ignored == (str(tmp_path / "some/figures"),)
    # Parts that share no class, to be added up.
    parts = {"animals/ant/0.jpg": b"", "animals/bee/1.jpg": b"", "trains/steam/2.jpg": b""}
    assert open_folder(write_folder(tmp_path / "parts", parts)).class_names == ("ant", "bee", "steam")


def test_names_that_are_no_text(tmp_path):
    """As a file system has them: bytes that are no UTF-8, and what moves a terminal's cursor."""
    names = [os.fsencode(tmp_path) + b"/" + name for name in (b"caf\xe9", b"bee", b"a\x1b[2J\nb")]
    for number, name in enumerate(names):
        os.mkdir(name)
        (Path(os.fsdecode(name)) / f"{number}.jpg").write_bytes(photos(1)["ant/0.JPEG"])
    (tmp_path / "bee/\n").touch()
    store = open_folder(tmp_path)
    records = store.records("train")
    assert store.class_names == (r"a\x1b[2J\nb", "bee", r"caf\udce9")
    assert all(name.isprintable() for name in (*map(records.name, range(3)), *store.ignored))
    assert sorted(records[index]["label"] for index in range(3)) == [0, 1, 2] and len(records.fingerprint()) == 64
