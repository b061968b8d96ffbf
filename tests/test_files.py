import os
from pathlib import Path

import pytest

from jaxcnn.errors import UsageError
from jaxcnn.files import parse_json, read_json, write_atomically


def test_a_file_is_written_with_its_folder_and_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "file.json"
    for content in (b"first", b"second"):
        write_atomically(path, content)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["write_bytes", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    def fail(*_):
        raise OSError("disk full")

    path = tmp_path / "file.json"
    write_atomically(path, b"old")
    with monkeypatch.context() as patch, pytest.raises(OSError, match="disk full"):
        patch.setattr(Path, failing, fail)
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("content", "kind", "told"),
    [
        (b"[" * 200_000 + b"]" * 200_000, list, "is nested deeper than 50 levels"),
        (b'{"a":' * 60 + b"1" + b"}" * 60, dict, "is nested deeper than 50 levels"),  # what json itself would take
        (b"{", dict, "is not valid JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", dict, "is not valid JSON"),  # Python converts no more than 4,300 digits
        (b'"\xff"', str, "is not valid JSON"),
        (b"", dict, "is not valid JSON"),
        (b"[]", dict, "holds a list: expected values by name"),
        (b"null", dict, "holds a NoneType: expected values by name"),
        (b'{"a": 1}', list, "holds a dict: expected a list"),
    ],
)
def test_json_of_anybody_is_read_or_refused_in_one_line(tmp_path, content, kind, told):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        read_json(path, kind)
    assert str(error.value) == f"{path} {told}"


def test_json_is_read(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b'{"a": [1, {"b": null}], "c": "\xc3\xa9"}')
    assert read_json(path) == {"a": [1, {"b": None}], "c": "é"}
    assert parse_json("[]", "it", list) == [] and parse_json("3", "it", object) == 3


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, told in ((tmp_path / "pipe", "is no file"), (tmp_path, "is no file")):
        with pytest.raises(UsageError, match=told):
            read_json(path)
    with pytest.raises(UsageError, match=r"there is no .*nowhere"):
        read_json(tmp_path / "nowhere")
