"""What the files of a run hold, read back: they may be of another version, edited by hand, or somebody else's."""

import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jaxcnn.errors import RunError, UsageError
from jaxcnn.files import parse_json, read_json
from jaxcnn.typed import check, expected, takes

Row = dict[str, Any]


@dataclass(frozen=True)
class _File:
    path: str
    sha256: str


# What is read back of each JSON file, and by what type. Whatever else it holds is for people.
_HELD: dict[str, dict[str, Any]] = {
    "experiment": {},
    "environment": {"jaxcnn": str | None, "commit": str | None, "resumed": tuple[dict[str, Any], ...] | None},
    "program": {"sources": tuple[str, ...], "files": dict[str, _File]},
    "data": {"sha256": dict[str, str] | None, "weights_sha256": str | None},
    "continued": {"run": str, "step": int},
    "result": {
        **{"status": Literal["finished", "stopped", "failed"], "name": str, "seed": int, "step": int},
        **{"command": str | None, "error": str | None, "ended": str | None, "finished": str | None},
    },
}
_MEASURED = {
    **{"metrics": dict[str, numbers.Real], "metric": str | None, "examples": dict[str, int] | None},
    **{"examples_per_second": numbers.Real, "wall_seconds": numbers.Real, "input_wait": numbers.Real | None},
    **{"params_sha256": str, "note": str | None},
}


def read_held(path: Path) -> dict[str, Any]:
    """Return what one of the JSON files of a run holds; which one, its name tells.

    Raises:
        UsageError: there is no such file, or it does not hold what a run writes.
    """
    values = read_json(path)
    check_held(_HELD[path.stem], values, path)
    if path.stem == "result" and values["status"] == "finished":
        check_held(_MEASURED, values, path)
    return values


def check_held(hints: Mapping[str, Any], values: Mapping[str, Any], path: Path) -> None:
    """Look at some of the values of a file, by name; those that may be None may be missing, too.

    Raises:
        UsageError: one is missing, or of another type.
    """
    for name, hint in hints.items():
        if name not in values and not takes(hint, type(None)):
            raise UsageError(f"{path}: {name} is missing: expected {expected(hint)}")
        check(hint, values.get(name), f"{path}: {name}")


def read_metrics(path: Path) -> list[Row]:
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
        row = _row(line)
        if row is not None:
            rows.append(row)
        elif number < len(lines):
            raise RunError(f"{path}, line {number}: not a row of metrics: {line[:60]!r}")
    return rows


def _row(line: bytes) -> Row | None:
    """Return what a line holds; None: not a step and numbers."""
    try:
        row = parse_json(line, "a row")
    except UsageError:
        return None
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in row.values())
    return row if numeric and isinstance(row.get("step"), int) else None
