"""Reading the metrics log of a run."""

import json
from pathlib import Path
from typing import Any

from jaxcnn.errors import RunError, UsageError


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `metrics.jsonl` or `timings.jsonl` in the order they were written.

    A run killed while it writes leaves a torn last line; that line is left out, since the run writes the row
    again when it resumes. A run that has written no row yet has an empty file.

    Raises:
        UsageError: there is no such file.
        RunError: a line before the last is not a row, so the file is damaged.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except FileNotFoundError:
        raise UsageError(f"no metrics log at {path}: expected the metrics.jsonl of a run folder") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except ValueError:  # also what bytes that are not UTF-8 raise
            row = None
        if isinstance(row, dict) and "step" in row:
            rows.append(row)
        elif number < len(lines):
            raise RunError(f"{path}, line {number}: not a row of metrics: {line[:60]!r}")
    return rows
