"""Damaged and hostile .npz files: arrays, or one line."""

import io
import zipfile

import numpy as np
from mutations import fuzz, lengths, mutate

from jaxcnn.data.stores.npz import open_npz

RNG = np.random.default_rng(0)
ARRAYS = {
    "train_images": RNG.integers(0, 256, (12, 6, 6, 3)).astype(np.uint8),
    "train_labels": np.arange(12) % 3,
    "test_images": RNG.integers(0, 256, (6, 6, 6, 3)).astype(np.uint8),
    "test_labels": np.arange(6, dtype=np.uint8) % 3,
    "class_names": np.array(["ant", "bee", "caf\xe9"]),
}
OTHERS = [
    *(np.array(one) for one in (b"x", "x", 3, 2**64 - 1, np.nan, None, [], [b"a", b"\xff"], ["a", "b"])),
    np.array([2**32 + 1, 0, 1]),
    np.array([-1, 2**63 - 1]),
    np.array([0.5, 1]),
    np.array([1 + 2j]),
    np.array(["2020-01-01"], "datetime64[D]"),
    np.zeros((2, 3, 3, 1), np.float16),
    np.zeros((0, 3, 3, 1), np.uint8),
    np.zeros((2, 3, 3, 0), np.uint8),
    np.zeros(3, [("a", "i4"), ("b", "U3")]),
    np.zeros((1,) * 30, np.uint8),
]


def packed(arrays, compressed):
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def places(content):
    """Return where zip's records have their fields: of each member, of the directory, and of its end."""
    found = []
    for mark, parts in (
        (b"PK\x03\x04", [(6, 2), (8, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2), (30, 8)]),
        (b"PK\x01\x02", [(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)]),
        (b"PK\x05\x06", [(8, 2), (10, 2), (12, 4), (16, 4), (20, 2)]),
        (b"\x93NUMPY", [(6, 2), (8, 2), (10, 8), (20, 40)]),
    ):
        at = content.find(mark)
        while at >= 0:
            found += [(at + start, size) for start, size in parts]
            at = content.find(mark, at + 4)
    return found


def rewritten(rng, arrays):
    """Return a good archive of which some arrays have another header, or are none."""
    file = io.BytesIO()
    method = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)[rng.integers(4)]
    with zipfile.ZipFile(file, "w", method) as out:
        for name, array in arrays.items():
            one = io.BytesIO()
            np.save(one, array)
            content = one.getvalue()
            if not rng.integers(8):
                content = mutate(rng, content, [(6, 2), (8, 2), (10, 8), (20, 40), (40, 20)])
            out.writestr(name + (".npy" if rng.integers(20) else ".txt"), content)
    return file.getvalue()


@lengths
def test_npz(tmp_path, seconds):
    path = tmp_path / "data.npz"

    def case(rng):
        arrays = dict(ARRAYS)
        for _ in range(rng.choice([0, 0, 0, 1, 2])):
            name = list(ARRAYS)[rng.integers(len(ARRAYS))]
            arrays[name] = OTHERS[rng.integers(len(OTHERS))]
        if rng.integers(3) == 0:
            del arrays["class_names"]
        if rng.integers(2):
            content = rewritten(rng, arrays)
        else:
            content = packed(arrays, bool(rng.integers(2)))
            content = mutate(rng, content, places(content))
        path.write_bytes(content)

        def door():
            store = open_npz(path)
            assert all(name.isprintable() for name in store.class_names)
            for split in store.sizes:
                records = store.records(split)
                labels = [records[index]["label"] for index in range(len(records))]
                assert set(labels) <= set(range(len(store.class_names)))

        return door

    ended = fuzz(case, cases=250, seconds=seconds, memory=64 << 20)
    assert ended["fine"] > 10 and ended["UsageError"] > 50
