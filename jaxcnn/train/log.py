"""The log of a run: `metrics.jsonl` and `timings.jsonl`, and the same rows as TensorBoard events.

`metrics.jsonl` holds only what is a function of the experiment, so that two runs of one experiment give the same
bytes, however often they were interrupted; anything that depends on the clock goes to `timings.jsonl`.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from jaxcnn.errors import RunError
from jaxcnn.files import fsync, write_atomically
from jaxcnn.report.events import Events
from jaxcnn.report.held import read_metrics


class Log:
    """Appends rows to the files of one run."""

    def __init__(self, folder: Path, from_step: int, *, tensorboard: bool) -> None:
        """Open the log for going on after `from_step`: rows of later steps are dropped, to be written anew."""
        self.metrics_path, self.timings_path = folder / "metrics.jsonl", folder / "timings.jsonl"
        for path in (self.metrics_path, self.timings_path):
            rows = [row for row in read_metrics(path) if row["step"] <= from_step] if path.exists() else []
            text = "".join(json.dumps(row) + "\n" for row in rows)
            if not path.exists() or path.read_bytes() != text.encode():
                write_atomically(path, text.encode())
        self._events = Events(folder / "events", from_step) if tensorboard else None

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a row of deterministic values."""
        self._append(self.metrics_path, step, metrics)

    def write_timing(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row of values that depend on the clock."""
        self._append(self.timings_path, step, values)

    def _append(self, path: Path, step: int, values: Mapping[str, float]) -> None:
        try:
            with path.open("a") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
            if self._events is not None:
                self._events.write(step, values)
        except OSError as error:
            raise RunError(f"could not write the log of step {step} in {path.parent} ({error.strerror})") from error

    def sync(self) -> None:
        """Wait until the rows would survive a loss of power, as the checkpoint that covers them will."""
        fsync(self.metrics_path)
        fsync(self.timings_path)
