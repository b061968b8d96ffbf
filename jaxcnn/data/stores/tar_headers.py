"""The headers of a plain tar file: POSIX's ustar and pax, and GNU's and the older ones.

Python's own tarfile believes what a header says: a negative size leads it back, so that it reads forever, and it reads
extended headers of any size into memory. Here each header is behind the one before, all that it speaks of is within the
file, and an extended header has at most a mebibyte.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from jaxcnn.errors import UsageError

_BLOCK = 512
_MOST_EXTENDED = 1 << 20
# Kinds of members; content follows that of the plain ones and of those that are not known.
_PLAIN, _SPARSE, _FOLDER = (b"0", b"\0", b"7"), b"S", b"5"
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", _FOLDER, b"6")
_LONG_NAME, _LONG_LINK, _PAX, _PAX_OF_ALL = b"L", b"K", (b"x", b"X"), b"g"
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


class Header(NamedTuple):
    """What a tar file says of a member."""

    name: str
    """As it is stored; bytes that are not UTF-8 are surrogates."""
    offset: int
    """Where its content begins."""
    size: int
    plain: bool
    """Whether it is a file with its content as it is: no link, device or sparse file."""


class Compressed(Exception):
    """The file is no tar file before it is unpacked."""


def headers(archive: Path) -> Iterator[Header]:
    """Yield the members that are not folders.

    Raises:
        UsageError: there is no such file, or it is no tar file, cut off or damaged.
        Compressed: see there.
    """
    try:
        file = os.open(archive, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise UsageError(f"{archive}: no such file") from error
    try:
        yield from _members(file)
    except _Damaged as error:
        raise UsageError(f"{archive} is no tar file, or cut off or damaged: at byte {error}") from error
    finally:
        os.close(file)


class _Damaged(Exception):
    """Where a file is not what it should be, and why."""


def _members(file: int) -> Iterator[Header]:
    at, end = 0, os.fstat(file).st_size
    of_all: dict[str, bytes] = {}
    extended: dict[str, bytes] = {}
    while True:
        block = os.pread(file, _BLOCK, at)
        if block == bytes(_BLOCK):
            return
        try:
            header, kind = _header(block, at, of_all | extended)
        except _Damaged:
            # A member's name may begin as a packed file does: BZhang/1.jpg.
            if at == 0 and block.startswith(_PACKED):
                raise Compressed from None
            raise
        if at + _BLOCK + header.size > end:
            raise _Damaged(f"{at} begins a member of {header.size} bytes, of a file of {end}")
        if kind in (_LONG_NAME, _LONG_LINK, _PAX_OF_ALL, *_PAX):
            if header.size > _MOST_EXTENDED:
                raise _Damaged(f"{at} is an extended header of {header.size} bytes, expected {_MOST_EXTENDED} at most")
            content = os.pread(file, header.size, header.offset)
            if kind == _LONG_NAME:
                extended["path"] = content.rstrip(b"\0")
            elif kind != _LONG_LINK:
                (of_all if kind == _PAX_OF_ALL else extended).update(_records(content, at))
        else:
            if kind == _SPARSE:
                header = header._replace(offset=_behind_map(file, block, at, end))
            if kind != _FOLDER and not (kind == b"\0" and header.name.endswith("/")):
                yield header
            extended = {}
        at = header.offset + -(-header.size // _BLOCK) * _BLOCK


def _header(block: bytes, at: int, extended: dict[str, bytes]) -> tuple[Header, bytes]:
    """Return a header and its kind, with what extended headers before it say."""
    if len(block) < _BLOCK:
        raise _Damaged(f"{at} there is no member and no end mark")
    rest = block[:148] + b" " * 8 + block[156:]
    wrong = sum(rest) - _number(block[148:156], at)
    if wrong and wrong != 256 * sum(byte > 127 for byte in rest):  # some old ones took bytes for signed
        raise _Damaged(f"{at} there is a header whose checksum is another")
    kind = block[156:157]
    is_extended = kind in (_LONG_NAME, _LONG_LINK, _PAX_OF_ALL, *_PAX)
    name, size = block[:100].split(b"\0")[0], _number(block[124:136], at)
    folder = block[345:500].split(b"\0")[0]
    if folder and block[257:263] == b"ustar\0":
        name = folder + b"/" + name
    if not is_extended:
        name = extended.get("path", name)
        if "size" in extended:
            size = _decimal(extended["size"], at)
    if kind in _WITHOUT_CONTENT:
        size = 0
    if size < 0:
        raise _Damaged(f"{at} begins a member of {size} bytes")
    plain = kind in _PLAIN and not any(key.startswith("GNU.sparse.") for key in extended)
    return Header(name.decode("utf-8", "surrogateescape"), at + _BLOCK, size, plain), kind


def _number(field: bytes, at: int) -> int:
    """Return a number of a header: octal digits, or with the highest bit set the bytes of it."""
    if field[0] in (0x80, 0xFF):
        return int.from_bytes(field[1:], "big") - (256 ** (len(field) - 1) if field[0] == 0xFF else 0)
    try:
        return int(field.split(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        raise _Damaged(f"{at} a header holds {field[:12]!r}, expected octal digits") from None


def _decimal(text: bytes, at: int) -> int:
    if not text.isdigit() or len(text) > 20:
        raise _Damaged(f"{at} a header has the size {text[:20]!r}, expected digits")
    return int(text)


def _records(content: bytes, at: int) -> dict[str, bytes]:
    """Return the records of a pax header, "LENGTH KEY=VALUE\\n" each."""
    found: dict[str, bytes] = {}
    start = 0
    while start < len(content) and content[start]:
        length, space, _ = content[start : start + 12].partition(b" ")
        end = start + (int(length) if length.isdigit() else 0)
        key, equal, value = content[start + len(length) + 1 : end - 1].partition(b"=")
        if not (space and equal and start < end <= len(content)):
            raise _Damaged(f"{at} there is an extended header that cannot be read")
        found[key.decode("utf-8", "replace")] = value
        start = end
    return found


def _behind_map(file: int, block: bytes, at: int, end: int) -> int:
    """Return where the content of a sparse file begins: behind blocks that say where its holes are."""
    at += _BLOCK
    more = block[482]
    while more and at < end:
        more = os.pread(file, _BLOCK, at).ljust(_BLOCK, b"\0")[504]
        at += _BLOCK
    return at
