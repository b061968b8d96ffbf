"""The log of a run: `metrics.jsonl` and `timings.jsonl`, and the same rows as TensorBoard events.

`metrics.jsonl` holds only what is a function of the experiment, so that two runs of one experiment give the same
bytes, however often they were interrupted; anything that depends on the clock goes to `timings.jsonl`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSON-lines file; a torn last line (the process was killed in the write) is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Log:
    """Appends rows to the files of one run."""

    def __init__(self, folder: Path, from_step: int, *, tensorboard: bool) -> None:
        """Open the log for going on after `from_step`: rows of later steps are dropped, to be written anew."""
        self.metrics_path, self.timings_path = folder / "metrics.jsonl", folder / "timings.jsonl"
        self._written: set[tuple[int, frozenset[str]]] = set()
        for path in (self.metrics_path, self.timings_path):
            rows = [row for row in read_rows(path) if row["step"] <= from_step]
            self._written |= {(row["step"], frozenset(row)) for row in rows if path == self.metrics_path}
            text = "".join(json.dumps(row) + "\n" for row in rows)
            if not path.exists() or path.read_text() != text:
                temporary = path.with_suffix(".tmp")
                temporary.write_text(text)
                temporary.replace(path)
        self._events = None
        if tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(folder / "events"), purge_step=from_step + 1)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append a row of deterministic values, unless it stands there already from before an interruption."""
        row = (step, frozenset(metrics) | {"step"})
        if row not in self._written:
            self._written.add(row)
            self._append(self.metrics_path, step, metrics)

    def write_timing(self, step: int, values: Mapping[str, float]) -> None:
        """Append a row of values that depend on the clock."""
        self._append(self.timings_path, step, values)

    def _append(self, path: Path, step: int, values: Mapping[str, float]) -> None:
        with path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Write out the events."""
        if self._events is not None:
            self._events.close()
