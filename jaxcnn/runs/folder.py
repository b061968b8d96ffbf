"""The files of a run, and the lock that keeps a second process out.

runs/<name>/<hash>/
  experiment.json    enough to rebuild the experiment
  environment.json   versions, commit, hardware
  data.json          classes, image shape, normalisation, checksums of the splits
  metrics.jsonl      rows that are a function of the experiment; timings.jsonl: rows that are not
  events/            the same rows for TensorBoard
  checkpoints/       see train/checkpoint.py
  predictions.npz    logits and labels of the test split
  result.json        status (finished, stopped, failed), step, metrics, speed, params_sha256
  figures/
"""

import contextlib
import errno
import fcntl
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data import Split
from jaxcnn.runs.environment import environment
from jaxcnn.errors import UsageError
from jaxcnn.experiment import Experiment, to_dict
from jaxcnn.files import write_atomically
from jaxcnn.runs.session import Session
from jaxcnn.train.checkpoint import Checkpoints
from jaxcnn.train.log import read_metrics


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder, if need be, and keep other processes from training into it.

    Raises:
      UsageError: another process does, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / "lock").open("w")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UsageError(f"run folder {folder} cannot be written: {error.strerror}") from error
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(f"run folder {folder} is in use by another process") from error
        for leftover in folder.glob(".*.partial"):  # of a killed write
            leftover.unlink()
        try:
            yield
        finally:
            if [path.name for path in folder.iterdir()] == ["lock"]:  # it was a mistake: no run came of it
                (folder / "lock").unlink()
                folder.rmdir()


def write_identity(folder: Path, session: Session) -> None:
    """Write what the run is made of, where that has not been done yet.

    Raises:
      UsageError: the run began with other data.
    """
    dataset = session.dataset
    splits = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
    found = {name: split for name, split in splits.items() if split is not None}
    data = {
        "class_names": list(dataset.class_names),
        "image_shape": list(session.image_shape),
        "mean": session.mean.tolist(),
        "std": session.std.tolist(),
        "examples": {name: len(split) for name, split in found.items()},
        "sha256": {name: _sha256(split) for name, split in found.items()},
    }
    if (folder / "data.json").exists():
        for name, digest in read_json(folder / "data.json")["sha256"].items():
            if data["sha256"].get(name) != digest:  # type: ignore[attr-defined]
                raise UsageError(f"cannot resume {folder}: the {name} images or labels are not those it began with")
    write_experiment(folder, session.experiment)
    for name, values in (("environment", environment()), ("data", data)):
        if not (folder / f"{name}.json").exists():
            write_json(folder / f"{name}.json", values)


def write_experiment(folder: Path, experiment: Experiment) -> None:
    """Write `experiment.json`, where there is none."""
    if not (folder / "experiment.json").exists():
        write_json(folder / "experiment.json", to_dict(experiment))


def best_step(folder: Path, checkpoints: Checkpoints) -> int | None:
    """Return the step of the best accuracy on the validation split (or the test split) among the checkpoints."""
    saved = set(checkpoints.steps())
    scores: dict[str, list[tuple[float, int]]] = {"val": [], "test": []}
    for row in read_metrics(folder / "metrics.jsonl"):
        for name, found in scores.items():
            if f"{name}/accuracy" in row and row["step"] in saved:
                found.append((row[f"{name}/accuracy"], -row["step"]))
    best = max(scores["val"] or scores["test"], default=None)
    return None if best is None else -best[1]


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file of the run holds.

    Raises:
      UsageError: there is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UsageError(f"{path.parent} has no {path.name}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON") from error


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a file of the run, whole or not at all."""
    write_atomically(path, (json.dumps(values, indent=1) + "\n").encode())


def _sha256(split: Split) -> str:
    digest = hashlib.sha256()
    for array in (split.images, split.labels):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()
