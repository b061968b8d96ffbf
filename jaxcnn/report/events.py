"""Rows of metrics for TensorBoard."""

import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Events:
    """Scalars for TensorBoard, in a file of their own for each sitting.

    Written through and by the caller: tensorboardX's own writer has a queue and a thread, in which a full disk goes
    unnoticed until the queue blocks.
    """

    def __init__(self, folder: Path, from_step: int) -> None:
        """Nothing is imported or created before the first row."""
        self._folder, self._from_step = folder, from_step
        self._path: Path | None = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one event with all values."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        if self._path is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path = self._folder / f"events.out.tfevents.{time.time_ns()}"
            # Readers then forget what earlier files hold from this step on.
            start = SessionLog(status=SessionLog.START)
            self._append(Event(file_version="brain.Event:2"), Event(step=self._from_step + 1, session_log=start))
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._append(Event(step=step, summary=Summary(value=scalars)))

    def _append(self, *events: Any) -> None:
        """Append events as TFRecords: length, its checksum, content, its checksum."""
        from tensorboardX.record_writer import masked_crc32c

        assert self._path is not None
        with self._path.open("ab") as file:
            for event in events:
                event.wall_time = time.time()
                content = event.SerializeToString()
                length = struct.pack("<Q", len(content))
                file.write(length + struct.pack("<I", masked_crc32c(length)))
                file.write(content + struct.pack("<I", masked_crc32c(content)))
