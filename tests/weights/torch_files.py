"""Files of torch.save made by hand: pickles of Python's own protocol 0, and the opcodes that torch writes."""

import pickle
import struct
import zipfile


def zipped(path, pickled, storages=(("0", bytes(16)),), byteorder=b"little", **more):
    with zipfile.ZipFile(path, "w", more.get("compression", zipfile.ZIP_STORED)) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder)
        for key, content in storages:
            archive.writestr(f"archive/data/{key}", content)
    return path


FOUR = struct.pack("<q4f", 4, 1, 2, 3, 4)


def legacy(path, pickled, keys=("0",), storages=FOUR):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, system)]
    pickled = pickled.replace(b"cpuK\x04t", b"cpuK\x04Nt")  # its storages have a view, mostly None
    path.write_bytes(b"".join([*parts, pickled, pickle.dumps(list(keys), 2), storages]))
    return path


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


STORAGE = b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\x04"


def tensor(offset=b"K\x00", size=b"K\x04\x85", stride=b"K\x01\x85", end=b"t", function=b"_rebuild_tensor_v2"):
    """Return the opcodes of one tensor on a storage of four numbers."""
    arguments = STORAGE + end + b"Q" + offset + size + stride + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n" + function + b"\n(" + arguments + b"tR"


def dict_of(value, name=b"weight"):
    return b"\x80\x02}" + text(name) + value + b"s."
