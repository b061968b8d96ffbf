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
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.files import lock, write_atomically
from jaxcnn.report.held import Row, read_held, read_metrics
from jaxcnn.train.checkpoint import Checkpoints


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
          UsageError: there is no such file, or it does not hold what a run writes.
        """
        return read_held(self.path / f"{name}.json")

    def find(self, name: str) -> dict[str, Any]:
        """Return what `name`.json holds, {} where there is no such file; UsageError as `read`."""
        try:
            return self.read(name)
        except UsageError:
            if self.has(name):
                raise
            return {}  # which may have been taken away just now

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
        return read_metrics(path) if path.is_file() else []

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.find("result").get("status") == "finished"

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
        made = [path for path in (self.path, *self.path.parents) if not path.exists()]
        with lock(self.path, f"run folder {self.path}"):
            for leftover in self.path.glob(".*.partial"):  # of a killed write
                leftover.unlink()
            try:
                yield
            finally:
                if [path.name for path in self.path.iterdir()] == ["lock"]:  # it was a mistake: no run came of it
                    (self.path / "lock").unlink()
                    with contextlib.suppress(OSError):  # another run of this name has come
                        for path in made:
                            path.rmdir()
