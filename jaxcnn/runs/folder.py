"""The files of a run, and the lock that keeps a second process out.

runs/<name>/<hash>/
  experiment.json    enough to rebuild the experiment
  environment.json   versions, commit, hardware; `resumed`: the same of later sittings, where it was another;
                     `seeds_mode`: vmap, where the run is its seed alone only up to rounding; `continued`: the finished
                     run that it started from
  program.json       what it is computed by: SHA-256 of sources and of programs (see identity.py)
  data.json          fields, shapes, normalisation, files that are no examples, checksums of the weights started from
                     and of the splits (of names, sizes and targets where they are streamed)
  metrics.jsonl      rows that are a function of the experiment; timings.jsonl: rows that are not
  events/            the same rows for TensorBoard
  checkpoints/       see train/checkpoint.py
  predictions.npz    what the task collects of the test split, such as logits and labels
  result.json        status (finished, stopped, failed), step, metrics, speed, params_sha256; `together`: the seeds
                     that shared the machine, and so its speed, and how
  figures/
"""

import contextlib
import errno
import fcntl
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.files import write_atomically
from jaxcnn.train.checkpoint import Checkpoints
from jaxcnn.train.log import Row, read_metrics


class RunFolder:
    """Where a run is kept."""

    def __init__(self, path: Path) -> None:
        """Nothing is created before something is written."""
        self.path = path

    @cached_property
    def checkpoints(self) -> Checkpoints:
        """Its checkpoints."""
        return Checkpoints(self.path / "checkpoints")

    def has(self, name: str) -> bool:
        """Return whether there is a file `name`.json."""
        return (self.path / f"{name}.json").is_file()

    def read(self, name: str) -> dict[str, Any]:
        """Return what `name`.json holds.

        Raises:
          UsageError: there is no such file, or it is not JSON.
        """
        path = self.path / f"{name}.json"
        try:
            return json.loads(path.read_text())
        except FileNotFoundError as error:
            raise UsageError(f"{self.path} has no {path.name}") from error
        except ValueError as error:
            raise UsageError(f"{path} is not valid JSON") from error

    def write(self, name: str, values: dict[str, Any]) -> None:
        """Write `name`.json, whole or not at all."""
        write_atomically(self.path / f"{name}.json", (json.dumps(values, indent=1) + "\n").encode())

    def write_once(self, name: str, values: dict[str, Any]) -> None:
        """Write `name`.json, where there is none."""
        if not self.has(name):
            self.write(name, values)

    @property
    def rows(self) -> list[Row]:
        """The rows of `metrics.jsonl`; [] before there is any."""
        path = self.path / "metrics.jsonl"
        return read_metrics(path) if path.exists() else []

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.has("result") and self.read("result").get("status") == "finished"

    @property
    def begun(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return bool(self.checkpoints.steps())

    def best_step(self, metric: str, direction: str) -> int | None:
        """Return the checkpoint that is best by a metric on the validation split, or the test split; None: none is.

        Args:
          metric: its name, without the split's.
          direction: "max" or "min".
        """
        saved = set(self.checkpoints.steps())
        sign = 1 if direction == "max" else -1
        scores: dict[str, list[tuple[float, int]]] = {"val": [], "test": []}
        for row in self.rows:
            for name, found in scores.items():
                if f"{name}/{metric}" in row and row["step"] in saved:
                    found.append((sign * row[f"{name}/{metric}"], -row["step"]))
        best = max(scores["val"] or scores["test"], default=None)
        return None if best is None else -best[1]

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder, if need be, and keep other processes from training into it.

        Raises:
          UsageError: another process does, or the folder cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            opened = (self.path / "lock").open("w")
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise
            raise UsageError(f"run folder {self.path} cannot be written: {error.strerror}") from error
        with opened as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(f"run folder {self.path} is in use by another process") from error
            for leftover in self.path.glob(".*.partial"):  # of a killed write
                leftover.unlink()
            try:
                yield
            finally:
                if [path.name for path in self.path.iterdir()] == ["lock"]:  # it was a mistake: no run came of it
                    (self.path / "lock").unlink()
                    self.path.rmdir()
                    with contextlib.suppress(OSError):  # other runs of this name
                        self.path.parent.rmdir()
