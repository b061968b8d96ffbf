"""Damaged and hostile tar files: what can be read of them, or one line."""

import io
import tarfile

import numpy as np
from mutations import fuzz, lengths, mutate

from jaxcnn.data.stores.tar import open_tar
from jaxcnn.errors import BadExample

FIELDS = [(0, 100), (124, 12), (148, 8), (156, 1), (257, 8), (345, 155)]
"""Of a header: name, size, checksum, kind, magic, prefix."""
SIZES = [-1, -512, -1000, -(2**62), 0, 1, 511, 8**11 - 1, 2**31, 2**62, 2**63, 2**70, 10**9]


def written(format, names):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            content = b"%d" % (number // 2 % 3) if name.endswith(".cls") else bytes(number * 37)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


FOLDERS = [f"{split}/{name}/{n}.jpg" for split in ("train", "val") for name in ("ant", "bee") for n in range(3)]
PAIRS = [f"{n:04}.{kind}" for n in range(8) for kind in ("jpg", "cls")]
LONG = [f"{'deep/' * 30}train/caf\udce9{n}/\N{HONEYBEE}{'x' * 90}.jpg" for n in range(3)]
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)
CORPUS = [written(format, names) for format in FORMATS for names in (FOLDERS, PAIRS)]
CORPUS += [written(format, LONG + FOLDERS) for format in FORMATS[1:]]
HEADERS = [[at for at in range(0, len(one), 512) if one[at + 257 : at + 262] == b"ustar"] for one in CORPUS]


def as_base_256(number):
    return ((1 << 95) + number if number >= 0 else (1 << 96) + number).to_bytes(12, "big")


def resized(rng, content, header):
    """Give a member another size: in octal digits, in bytes, or by a pax header before it."""
    size = SIZES[rng.integers(len(SIZES))]
    match rng.integers(3):
        case 0:
            content[header + 124 : header + 136] = b"%011o\0" % (size % 8**11)
        case 1:
            content[header + 124 : header + 136] = as_base_256(size)
        case 2:
            record = b" size=%d\n" % size
            record = b"%d%s" % (len(record) + 2, record)
            extended = tarfile.TarInfo("pax")
            extended.type, extended.size = tarfile.XHDTYPE, len(record)
            content[header:header] = extended.tobuf() + record.ljust(512, b"\0")


def with_checksums(content, headers):
    for at in headers:
        block = content[at : at + 512]
        if len(block) == 512:
            total = sum(block) - sum(block[148:156]) + 8 * 32
            content[at + 148 : at + 156] = b"%06o\0 " % total


def drain(store):
    """Read all of a data set as training does."""
    for split in store.sizes:
        records = store.records(split)
        assert len(records) == store.sizes[split] and len(records.fingerprint()) == 64
        for index in range(min(len(records), 50)):
            assert records.name(index).isprintable()
            try:
                assert records[index]["label"] in range(len(store.class_names))
            except BadExample as error:
                assert str(error) and "\n" not in str(error)


@lengths
def test_tar(tmp_path, seconds):
    path = tmp_path / "data-train.tar"

    def case(rng):
        number = rng.integers(len(CORPUS))
        headers = HEADERS[number]
        content = bytearray(CORPUS[number])
        if rng.integers(2):
            resized(rng, content, headers[rng.integers(len(headers))])
        if rng.integers(4):
            content = bytearray(mutate(rng, bytes(content), [(at + start, n) for at in headers for start, n in FIELDS]))
        if rng.integers(4):
            blocks = range(0, len(content), 512)  # headers may have been inserted
            with_checksums(content, [at for at in blocks if content[at + 257 : at + 262] == b"ustar"])
        path.write_bytes(content)
        return lambda: drain(open_tar(path))

    ended = fuzz(case, cases=400, seconds=seconds, memory=64 << 20)
    assert ended["fine"] > 50 and ended["UsageError"] > 50


def test_a_good_one_is_read(tmp_path):
    for number, content in enumerate(CORPUS):
        path = tmp_path / f"train-{number}.tar"
        path.write_bytes(content)
        store = open_tar(path)
        drain(store)
        assert sum(store.sizes.values()) in (8, 12, 15)
        assert np.array_equal(HEADERS[number], sorted(HEADERS[number]))
