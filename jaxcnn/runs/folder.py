"""The files of a run, and the lock that keeps a second process out.

runs/<name>/<hash>/
  experiment.json    enough to rebuild the experiment
  environment.json   versions, commit, hardware; `resumed`: the same of later sittings, where it was another;
                     `seeds_mode`: vmap, where the run is its seed alone only up to rounding
  data.json          classes, image shape, normalisation, files that are no examples, checksums of the weights started
                     from and of the splits (of names, sizes and labels where they are streamed)
  metrics.jsonl      rows that are a function of the experiment; timings.jsonl: rows that are not
  events/            the same rows for TensorBoard
  checkpoints/       see train/checkpoint.py
  predictions.npz    logits and labels of the test split
  result.json        status (finished, stopped, failed), step, metrics, speed, params_sha256; `together`: the seeds
                     that shared the machine, and so its speed, and how
  figures/
"""

import contextlib
import errno
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxcnn.errors import UsageError
from jaxcnn.experiment import Experiment, to_dict
from jaxcnn.files import write_atomically
from jaxcnn.runs.environment import environment
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
                with contextlib.suppress(OSError):  # other runs of this name
                    folder.parent.rmdir()


def check_data(folder: Path, session: Session) -> None:
    """Compare the session's data, and the weights it starts from, with those that the run began with, if it did.

    Raises:
      UsageError: they are others.
    """
    path = folder / "data.json"
    if not path.exists():
        return
    values = read_json(path)
    if session.weights_sha256 not in (None, values.get("weights_sha256")):
        raise UsageError(f"{folder}: {session.experiment.model.weights} does not hold the weights it began with")
    saved = values.get("sha256")
    if saved is None:
        raise UsageError(f"{path} has no sha256: another version of jaxcnn wrote it, train the run anew")
    splits = session.dataset.splits()
    for name, digest in saved.items():
        if name not in splits or splits[name].fingerprint() != digest:
            raise UsageError(f"{folder}: the {name} images or labels are not those it began with")


def write_identity(folder: Path, session: Session, mode: str | None = None) -> list[str]:
    """Write what the run is made of, where that has not been done yet, and return what to report.

    `mode` is how several seeds are trained, where that changes bits.
    """
    write_experiment(folder, session.experiment)
    if not (folder / "data.json").exists():
        write_json(folder / "data.json", _describe_data(session))
    path, here = folder / "environment.json", environment() | ({"seeds_mode": mode} if mode else {})
    if not path.exists():
        write_json(path, here)
        return []
    saved = read_json(path)
    sittings = [saved, *saved.pop("resumed", [])]
    if sittings[-1] == here:
        return []
    write_json(path, saved | {"resumed": [*sittings[1:], here]})
    names = dict.fromkeys([*here, *sittings[-1]])
    differ = ", ".join(name for name in names if sittings[-1].get(name) != here.get(name))
    return [f"{folder} goes on where not everything is as before, see its environment.json: {differ}"]


def _describe_data(session: Session) -> dict[str, Any]:
    splits = session.dataset.splits()
    return {
        "class_names": list(session.dataset.class_names),
        "image_shape": list(session.image_shape),
        "mean": session.mean.tolist(),
        "std": session.std.tolist(),
        "examples": {name: len(split) for name, split in splits.items()},
        "streamed": session.streamed,
        "ignored": list(session.ignored),
        "sha256": {name: split.fingerprint() for name, split in splits.items()},
        "weights_sha256": session.weights_sha256,
    }


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
