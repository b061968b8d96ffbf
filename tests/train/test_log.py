import json

import pytest

from jaxcnn.errors import RunError, UsageError
from jaxcnn.train.log import read_metrics

ROWS = [{"step": 10, "train/loss": 1.5}, {"step": 20, "train/loss": 0.25}, {"step": 20, "test/accuracy": 0.5}]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_rows_come_in_their_order(log):
    assert read_metrics(log) == ROWS


@pytest.mark.parametrize("cut", range(2, 30))
def test_a_torn_last_line_is_left_out_wherever_it_was_torn(log, cut):
    log.write_bytes(log.read_bytes()[:-cut])
    assert read_metrics(log) == ROWS[:2]


def test_a_last_line_that_lacks_only_its_end_of_line_is_whole(log):
    log.write_bytes(log.read_bytes()[:-1])
    assert read_metrics(log) == ROWS


@pytest.mark.parametrize("tail", [b"\x00\x00\x00", b"\xff\xfe{", b"2"])
def test_a_last_line_of_garbage_is_left_out(log, tail):
    log.write_bytes(log.read_bytes() + tail)
    assert read_metrics(log) == ROWS


def test_an_empty_log_has_no_rows(tmp_path):
    (tmp_path / "metrics.jsonl").touch()
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_damage_before_the_last_line_is_an_error_with_its_place(log):
    log.write_bytes(log.read_bytes().replace(b'"step": 20, "train', b'"step": 2', 1))
    with pytest.raises(RunError, match=r"metrics\.jsonl, line 2"):
        read_metrics(log)


def test_a_missing_log_is_the_users_to_mend(tmp_path):
    with pytest.raises(UsageError, match="no metrics log at"):
        read_metrics(tmp_path / "metrics.jsonl")
