import json
import struct

import pytest

from jaxcnn.errors import RunError, UsageError
from jaxcnn.report.held import read_metrics
from jaxcnn.train.log import Log

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


def test_going_on_drops_later_rows_and_torn_ones(log):
    log.write_bytes(log.read_bytes() + b'{"step": 30, "tra')
    Log(log.parent, 10, tensorboard=False)
    assert log.read_bytes() == (json.dumps(ROWS[0]) + "\n").encode()
    assert (log.parent / "timings.jsonl").read_bytes() == b""


def test_rows_are_appended(log):
    rows = Log(log.parent, 20, tensorboard=False)
    rows.write(20, {"val/accuracy": 0.5})
    rows.write(30, {"train/loss": 0.125})
    rows.sync()
    assert read_metrics(log) == [*ROWS, {"step": 20, "val/accuracy": 0.5}, {"step": 30, "train/loss": 0.125}]


@pytest.mark.parametrize("name", ["metrics.jsonl", "timings.jsonl"])
def test_a_full_disk_is_an_error_in_one_line(tmp_path, name):
    rows = Log(tmp_path, 0, tensorboard=True)
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"could not write the log of step 1 .*No space left on device"):
        rows.write(1, {"train/loss": 1.0})
        rows.write_timing(1, {"wall_seconds": 1.0})


def test_a_full_disk_under_the_events_is_noticed_at_once(tmp_path):
    rows = Log(tmp_path, 0, tensorboard=True)
    rows.write(1, {"train/loss": 1.0})
    (path,) = (tmp_path / "events").iterdir()
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(RunError, match="No space left on device"):
        rows.write(2, {"train/loss": 1.0})


def scalars(paths):
    """Read events as TensorBoard does: a start of a session forgets what came before from its step on."""
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import masked_crc32c

    found = []
    for path in sorted(paths):
        content = path.read_bytes()
        while content:
            length, check = struct.unpack("<QI", content[:12])
            assert check == masked_crc32c(content[:8])
            (check,) = struct.unpack("<I", content[12 + length : 16 + length])
            assert check == masked_crc32c(content[12 : 12 + length])
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            if event.session_log.status == event_pb2.SessionLog.START:
                found = [row for row in found if row[0] < event.step]
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
    return found


def test_events_hold_each_row_once_however_often_a_run_went_on(tmp_path):
    for begin in (0, 2, 2, 0):
        rows = Log(tmp_path, begin, tensorboard=True)
        for step in range(begin + 1, 6):
            rows.write(step, {"train/loss": step / 2})
            rows.write_timing(step, {"wall_seconds": float(step)})
    files = list((tmp_path / "events").iterdir())
    assert len(files) == 4
    expected = [
        row for step in range(1, 6) for row in ((step, "train/loss", step / 2), (step, "wall_seconds", float(step)))
    ]
    assert scalars(files) == expected
