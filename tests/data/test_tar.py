"""Images in tar files: both layouts, damaged archives, and names that lead elsewhere."""

import gzip
import io
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from stored import CLASSES, encoded, photo, photos, write_folder, write_tar

from jaxcnn.data.stores.image_folder import open_folder
from jaxcnn.data.stores.tar import open_tar
from jaxcnn.data.stores.tar_headers import headers
from jaxcnn.errors import BadExample, UsageError
from jaxcnn.images.pixels import decode


def listed(records):
    return [tuple(records[index].values()) for index in range(len(records))]


def test_a_tar_of_a_folder_is_that_folder(tmp_path):
    files = {f"{split}/{name}": image for split in ("train", "val") for name, image in photos(30).items()}
    folder, store = open_folder(write_folder(tmp_path / "x", files)), open_tar(write_tar(tmp_path / "x.tar", files))
    assert store.class_names == folder.class_names == CLASSES and store.sizes == folder.sizes
    for split in store.sizes:
        assert listed(store.records(split)) == listed(folder.records(split))
    records = store.records("val")
    assert records.name(0).startswith(f"{tmp_path}/x.tar: val/")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: records[i % 30]["image"], range(300)))
    assert found == [image for image, _ in listed(records)] * 10


def test_fingerprints(tmp_path):
    files = photos(6)
    first = open_tar(write_tar(tmp_path / "train.tar", files)).records("train").fingerprint()
    assert open_tar(write_tar(tmp_path / "y/train.tar", files)).records("train").fingerprint() == first
    files["ant/0.JPEG"] += b"\0"
    assert open_tar(write_tar(tmp_path / "train.tar", files)).records("train").fingerprint() != first


def test_shards_of_class_folders(tmp_path):
    write_tar(tmp_path / "train-0.tar", {"ant/0.jpg": b"0", "./bee/1.jpg": b"1"})
    write_tar(tmp_path / "train-1.tar", {"bee/2.jpg": b"2", "no_class.jpg": b"x"})
    write_tar(tmp_path / "val.tar", {"ant/3.jpg": b"3", "deep/root/val/bee/4.jpg": b"4"})
    store = open_tar(tmp_path)
    assert store.sizes == {"train": 3, "val": 2} and store.class_names == ("ant", "bee")
    assert sorted(listed(store.records("train"))) == [(b"0", 0), (b"1", 1), (b"2", 1)]
    assert sorted(listed(store.records("val"))) == [(b"3", 0), (b"4", 1)]
    assert store.ignored == (f"{tmp_path}/train-1.tar: no_class.jpg",)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.tar", "train"),
        ("train-000.tar", "train"),
        ("val_07.tar", "val"),
        ("imagenet1k-train-0001.tar", "imagenet1k-train"),
        ("imagenet1k-validation-00-of-64.tar", "imagenet1k-validation"),
        ("v1.5-train.tar", "v1-5-train"),
        ("0001.tar", "train"),
    ],
)
def test_a_split_is_what_the_tar_file_is_named_after(tmp_path, name, split):
    assert open_tar(write_tar(tmp_path / name, {"ant/0.jpg": b""})).sizes == {split: 1}


def pairs(start, stop, classes=3):
    found = {}
    for i in range(start, stop):
        found |= {f"{i:04}.jpg": encoded(photo(i), "jpeg"), f"{i:04}.cls": b"%d\n" % (i % classes)}
    return found


def test_webdataset(tmp_path):
    write_tar(tmp_path / "train-000.tar", pairs(0, 10))
    write_tar(tmp_path / "train-001.tar", pairs(10, 20) | {"0010.json": b"{}", "0011.seg.png": b"x"})
    write_tar(tmp_path / "val_00.tar", dict(reversed(pairs(20, 26).items())))  # the order within does not matter
    store = open_tar(tmp_path)
    assert store.sizes == {"train": 20, "val": 6} and store.class_names == ("0", "1", "2")
    assert store.ignored == (f"{tmp_path}/train-001.tar: 0010.json", f"{tmp_path}/train-001.tar: 0011.seg.png")
    for split, numbers in (("train", range(20)), ("val", range(20, 26))):
        assert sorted(listed(store.records(split))) == sorted((encoded(photo(i), "jpeg"), i % 3) for i in numbers)
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\ndog\n")
    assert open_tar(tmp_path).class_names == ("ant", "bee", "cat", "dog")


@pytest.mark.parametrize("text", [b"cat", b"-1", b"", b"1.5", b"99999999999", b"\xff\xfe\x00"])
def test_a_wrong_class_is_one_bad_example(tmp_path, text):
    store = open_tar(write_tar(tmp_path / "train.tar", pairs(0, 9) | {"0004.cls": text}))
    records = store.records("train")
    assert store.class_names == ("0", "1", "2") and len(records) == 9
    (wrong,) = (index for index in range(9) if records.name(index).endswith("0004.jpg"))
    with pytest.raises(BadExample, match=r"^0004.cls holds '.*', expected a class's number$"):
        records[wrong]


def test_an_image_without_a_class(tmp_path):
    files = pairs(0, 9)
    del files["0004.cls"]
    records = open_tar(write_tar(tmp_path / "train.tar", files)).records("train")
    (wrong,) = (index for index in range(9) if records.name(index).endswith("0004.jpg"))
    with pytest.raises(BadExample, match=r"it has no class: there is no 0004.cls"):
        records[wrong]


@pytest.mark.parametrize("missing", [0, 1])
def test_classes_without_an_image_need_names(tmp_path, missing):
    files = pairs(0, 9)
    for name, content in files.items():
        if content == b"%d\n" % missing:
            files[name] = b"2"
    write_tar(tmp_path / "train.tar", files)
    with pytest.raises(UsageError, match=f"has class 2 and no image class {missing}: .*/classes.txt that names"):
        open_tar(tmp_path)
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat")
    assert open_tar(tmp_path).class_names == CLASSES


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_nothing_is_written_and_nothing_outside_is_read(tmp_path):
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(b"secret")
    files = {
        "../../x/a.jpg": b"a",
        "/abs/b.jpg": b"b",
        "ant/../bee/c.jpg": b"c",
        "ant/ok.jpg": b"ok",
        "ant/._ok.jpg": b"",
    }
    others = [
        member("ant/link.jpg", tarfile.SYMTYPE, str(secret)),
        member("ant/hard.jpg", tarfile.LNKTYPE, "ant/ok.jpg"),
        member("ant/device.jpg", tarfile.CHRTYPE),
        member("ant/pipe.jpg", tarfile.FIFOTYPE),
        member("bee", tarfile.DIRTYPE),
    ]
    inside = tmp_path / "inside"
    store = open_tar(write_tar(inside / "train.tar", files, others))
    assert listed(store.records("train")) == [(b"ok", 0)] and store.class_names == ("ant",)
    assert [name.partition(": ")[2] for name in store.ignored] == [
        *(name for name in files if name != "ant/ok.jpg"),
        *(info.name for info in others[:-1]),
    ]
    assert sorted(tmp_path.rglob("*")) == [inside, inside / "train.tar", secret]


@pytest.mark.parametrize("damage", ["cut within", "cut between", "header", "empty", "text"])
def test_damaged_archives(tmp_path, damage):
    path = write_tar(tmp_path / "train.tar", {f"ant/{i}.jpg": bytes([i]) * 2000 for i in range(10)})
    raw = bytearray(path.read_bytes())
    match damage:
        case "cut within":
            raw = raw[: 512 + 2048 + 512 + 1000]
        case "cut between":
            raw = raw[: 3 * (512 + 2048)]
        case "header":
            raw[4 * (512 + 2048) + 3] ^= 1
        case "empty":
            raw = b""
        case "text":
            raw = b"no tar file" * 100
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=r"train.tar is (no tar file, or )?cut off or damaged: "):
        open_tar(path)


def test_an_archive_cut_off_later(tmp_path):
    path = write_tar(tmp_path / "train.tar", {f"ant/{i}.jpg": bytes([i]) * 2000 for i in range(2)})
    records = open_tar(path).records("train")
    path.write_bytes(path.read_bytes()[:600])
    first = next(index for index in range(2) if records.name(index).endswith("ant/0.jpg"))
    with pytest.raises(BadExample, match="the tar file ends within it: 88 of 2000 bytes"):
        records[first]


def test_what_is_no_plain_tar(tmp_path):
    packed = gzip.compress(write_tar(tmp_path / "x/train.tar", photos(3)).read_bytes())
    for name in ("a.tar.gz", "b.tgz", "c.tar"):
        (tmp_path / name).write_bytes(packed)
        with pytest.raises(UsageError, match=f"{name} is compressed, .*: unpack it to a plain .tar file"):
            open_tar(tmp_path / name)
    (tmp_path / "c.tar").unlink()
    with pytest.raises(UsageError, match=r"a.tar.gz is compressed"):
        open_tar(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match=r"holds no .tar files"):
        open_tar(tmp_path / "none")
    with pytest.raises(UsageError, match=r"no such file"):
        open_tar(tmp_path / "none.tar")
    with pytest.raises(UsageError, match=r"holds no images with a class: expected \[SPLIT/\]CLASS/FILE, or KEY"):
        open_tar(write_tar(tmp_path / "notes.tar", {"ant/notes.txt": b"x", "a.jpg": b""}))


@pytest.mark.data
def test_real_images():
    path = Path(os.environ.get("JAXCNN_SHARED", Path(__file__).parents[3] / "shared")) / "data/imagenette"
    if not path.is_dir():
        pytest.skip(f"no images in {path}")
    store = open_tar(path)
    assert store.sizes == {"train": 1500, "val": 600} and len(store.class_names) == 10 and not store.ignored
    for split, each in (("train", 150), ("val", 60)):
        found = listed(store.records(split))
        assert np.bincount([label for _, label in found]).tolist() == [each] * 10
        assert all(decode(image, 3).shape == (224, 224, 3) for image, _ in found[:10])


def test_a_stop_ends_the_reading_of_headers(tmp_path):
    def poll():
        raise InterruptedError

    with pytest.raises(InterruptedError):
        open_tar(write_tar(tmp_path / "train.tar", photos(3)), poll)


def test_shards_that_number_their_images_alike(tmp_path):
    for shard, label in ((0, 1), (1, 0)):
        files = {"0000.jpg": encoded(photo(shard), "jpeg"), "0000.cls": b"%d" % label}
        write_tar(tmp_path / f"train-{shard:03}.tar", files)
    records = open_tar(tmp_path).records("train")
    found = {records.name(index): records[index]["label"] for index in range(2)}
    assert found == {f"{tmp_path}/train-000.tar: 0000.jpg": 1, f"{tmp_path}/train-001.tar: 0000.jpg": 0}


def resized(size, way):
    """A tar file whose second member has a size that cannot be meant."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number in range(3):
            info = tarfile.TarInfo(f"ant/{number}.jpg")
            info.size = 2000
            if number == 1 and way == "pax":
                info.pax_headers = {"size": str(size)}
            tar.addfile(info, io.BytesIO(bytes(2000)))
    raw = bytearray(content.getvalue())
    if way == "base 256":
        at = raw.index(b"ant/1.jpg")
        raw[at + 124 : at + 136] = ((1 << 96) + size if size < 0 else (1 << 95) + size).to_bytes(12, "big")
        raw[at + 148 : at + 156] = b" " * 8
        raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    return bytes(raw)


@pytest.mark.parametrize("way", ["base 256", "pax"])
@pytest.mark.parametrize("size", [-1, -512, -1000, -(2**62), 2**40, 2**63, 2**70])
def test_a_size_that_cannot_be_meant_ends_the_reading(tmp_path, size, way):
    """CVE-2025-8194's kind: a negative size leads back, and headers are read forever."""
    (tmp_path / "train.tar").write_bytes(resized(size, way))
    members = []

    def poll():
        members.append(None)
        assert len(members) < 10, "it is read forever"

    with pytest.raises(UsageError, match=r"train.tar is no tar file, or cut off or damaged: at byte \d+ .* size|bytes"):
        open_tar(tmp_path / "train.tar", poll)


def test_an_extended_header_is_not_read_whole_whatever_its_size(tmp_path):
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 1 << 32
    with (tmp_path / "train.tar").open("wb") as file:
        file.write(info.tobuf())
        file.truncate((1 << 32) + 4096)  # a hole
    with pytest.raises(UsageError, match="an extended header of 4294967296 bytes, expected 1048576 at most"):
        open_tar(tmp_path / "train.tar")


def test_headers_are_those_that_python_reads(tmp_path):
    names = ["ant/0.jpg", "d" * 90 + "/" + "e" * 60 + ".jpg", "caf\udce9/1.jpg", "bee/" + "\N{HONEYBEE}" * 60 + ".jpg"]
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "x.tar", "w", format=format) as tar:
            for number, name in enumerate(names):
                info = tarfile.TarInfo(name)
                info.size, info.mtime = 511 + number, number + 0.5 * (format == tarfile.PAX_FORMAT)
                tar.addfile(info, io.BytesIO(bytes(info.size)))
                tar.addfile(member(f"{number}", tarfile.DIRTYPE if number % 2 else tarfile.SYMTYPE, "x" * 200))
        with tarfile.open(tmp_path / "x.tar") as tar:
            expected = [(one.name, one.offset_data, one.size, one.isreg()) for one in tar if not one.isdir()]
        assert [tuple(header) for header in headers(tmp_path / "x.tar")] == expected


def test_a_name_that_begins_as_a_packed_file_does(tmp_path):
    files = {"BZhang/001.jpg": b"0", "cat/0.jpg": b"1"}
    assert open_tar(write_tar(tmp_path / "train.tar", files)).sizes == {"train": 2}
    for count in (100, 5000):
        (tmp_path / "train.tar").write_bytes(b"BZh9" + bytes(range(100)) * (count // 100))
        with pytest.raises(UsageError, match="is compressed"):
            open_tar(tmp_path / "train.tar")


def test_names_from_outside_are_shown_in_one_line(tmp_path):
    files = {"caf\udce9/0.jpg": b"", "bee/\x1b[2J\n1.jpg": b"", "bee/\nnotes.txt": b""}
    store = open_tar(write_tar(tmp_path / "train.tar", files))
    assert store.class_names == ("bee", "caf\\udce9")
    shown = [*(store.records("train").name(index) for index in range(2)), *store.ignored]
    assert sorted(name.partition(": ")[2] for name in shown) == [
        r"bee/\nnotes.txt",
        r"bee/\x1b[2J\n1.jpg",
        r"caf\udce9/0.jpg",
    ]


def test_a_stray_folder_is_no_split(tmp_path):
    files = photos(6) | {"figures/2024/x.png": b""}
    with pytest.raises(UsageError, match=r"'figures' holds 2024, none of which is a class of 'data' \(ant, bee, cat\)"):
        open_tar(write_tar(tmp_path / "data.tar", files))
    parts = {f"{part}/{name}/0.jpg": b"" for part, name in (("animals", "ant"), ("plants", "oak"))}
    assert open_tar(write_tar(tmp_path / "parts/x.tar", parts)).sizes == {"animals": 1, "plants": 1}


def test_a_pipe_named_as_a_tar_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "val.tar")
    write_tar(tmp_path / "train.tar", photos(3))
    assert open_tar(tmp_path).sizes == {"train": 3}
