"""Arrays from files, and what else such files may hold."""

import io
import zipfile

import numpy as np
import pytest

from jaxcnn.data.survey import named, opened
from jaxcnn.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 5, 5, 3)).astype(np.uint8)
GOOD = {"train_images": IMAGES, "train_labels": np.arange(6) % 3}


def open_npz(path):
    return opened(named(str(path)))


def saved(path, arrays, compressed=False):
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def labels(store):
    records = store.records("train")
    return [records[index]["label"] for index in range(len(records))]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint32", "int64", "uint64", ">i8"])
def test_whole_numbers_of_any_type_are_labels(tmp_path, dtype):
    store = open_npz(saved(tmp_path / "x.npz", GOOD | {"train_labels": (np.arange(6) % 3).astype(dtype)}))
    assert labels(store) == [0, 1, 2, 0, 1, 2] and store.class_names == ("0", "1", "2")


@pytest.mark.parametrize("names", [{}, {"class_names": np.array(["ant", "bee", "cat"])}])
@pytest.mark.parametrize("wrong", [2**32, 2**32 + 1, -(2**32) + 1, 2**63 - 1, -(2**63), 2**63, 2**64 - 1])
def test_labels_are_checked_before_they_become_32_bits(tmp_path, wrong, names):
    """A plain cast makes class 1 of 2**32 + 1."""
    found = np.array([0, 1, 2, 0, 1, wrong], np.uint64 if wrong > 2**63 - 1 else np.int64)
    with pytest.raises(UsageError, match=str(wrong)):
        open_npz(saved(tmp_path / "x.npz", GOOD | {"train_labels": found} | names))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([b"ant", b"bee", "caf\xe9".encode()], ("ant", "bee", "caf\xe9")),
        ([b"ant", b"bee", b"caf\xe9"], ("ant", "bee", r"caf\udce9")),
        (["ant", "bee", "\x1b[2J\n"], ("ant", "bee", r"\x1b[2J\n")),
    ],
)
def test_class_names(tmp_path, names, expected):
    assert open_npz(saved(tmp_path / "x.npz", GOOD | {"class_names": np.array(names)})).class_names == expected


@pytest.mark.parametrize("names", ["ant", b"ant", 3, [1, 2, 3], [["ant", "bee", "cat"]], []])
def test_what_are_no_class_names(tmp_path, names):
    with pytest.raises(UsageError, match=r"class_names is .* of shape .*, expected text"):
        open_npz(saved(tmp_path / "x.npz", GOOD | {"class_names": np.array(names)}))


@pytest.mark.parametrize("order", "<>")
def test_class_names_of_what_are_no_characters(tmp_path, order):
    names = np.full((3, 2), 0x110000, f"{order}u4").view(f"{order}U2")[:, 0]
    with pytest.raises(UsageError, match="class_names holds 1114112, which is no character"):
        open_npz(saved(tmp_path / "x.npz", GOOD | {"class_names": names}))


def patched(content, mark, start, value):
    """Return an archive with another field in each record of the kind that begins with `mark`."""
    found, at = bytearray(content), content.find(mark)
    while at >= 0:
        found[at + start : at + start + 2] = value.to_bytes(2, "little")
        at = content.find(mark, at + 4)
    return bytes(found)


LOCAL, DIRECTORY = b"PK\x03\x04", b"PK\x01\x02"


@pytest.mark.parametrize("damage", ["a flipped bit", "encrypted", "unknown compression", "header"])
def test_damaged_archives(tmp_path, damage):
    content = saved(tmp_path / "x.npz", GOOD, compressed=damage == "a flipped bit").read_bytes()
    match damage:
        case "a flipped bit":
            at = content.index(b"train_images.npy") + 60
            content = content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :]
        case "encrypted":
            content = patched(patched(content, LOCAL, 6, 1), DIRECTORY, 8, 1)
        case "unknown compression":
            content = patched(patched(content, LOCAL, 8, 77), DIRECTORY, 10, 77)
        case "header":
            content = content.replace(b"{'descr'", b"{(descr'")
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(UsageError, match=r"x.npz: not a readable .npz file \(.+\)$"):
        open_npz(tmp_path / "x.npz")


def test_members_that_are_no_arrays(tmp_path):
    one = io.BytesIO()
    np.save(one, IMAGES)
    for name in ("notes", "test_images", "class_names"):
        with zipfile.ZipFile(saved(tmp_path / "x.npz", GOOD), "a") as file:
            file.writestr(name, b"text")
        if name == "notes":
            assert open_npz(tmp_path / "x.npz").sizes == {"train": 6}
        else:
            with pytest.raises(UsageError, match=f"{name} is no array"):
                open_npz(tmp_path / "x.npz")


@pytest.mark.parametrize("read", [True, False])
def test_a_bomb_is_not_unpacked(tmp_path, read):
    with zipfile.ZipFile(saved(tmp_path / "x.npz", GOOD), "a") as file:
        file.writestr("test_images.npy" if read else "notes.npy", b"")
    content = bytearray((tmp_path / "x.npz").read_bytes())
    at = content.rindex(DIRECTORY)
    content[at + 24 : at + 28] = b"\xfe\xff\xff\xff"  # 4 GiB
    (tmp_path / "x.npz").write_bytes(bytes(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.sysconf", lambda name: 1 << 15)  # a machine of 1 GiB
        if not read:
            assert open_npz(tmp_path / "x.npz").sizes == {"train": 6}
            return
        with pytest.raises(UsageError, match=r"unpacks to 429496.* bytes, more than half of the memory"):
            open_npz(tmp_path / "x.npz")
