"""An experiment as a value: everything a run is a function of, typed, frozen and comparable."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from jaxcnn.data.config import DataConfig
from jaxcnn.errors import UsageError, unknown
from jaxcnn.files import FOLDER_NAME
from jaxcnn.models.config import ModelConfig
from jaxcnn.parts import Finder, is_reference, load_file
from jaxcnn.tasks import AnyTask, Classification
from jaxcnn.train.config import CheckpointConfig, EvalConfig, TrainConfig
from jaxcnn.train.optimizers import AnyOptimizer
from jaxcnn.train.schedules import AnySchedule, Constant
from jaxcnn.typed import Config, Interval, to_json

LAST_SEED = 2**32 - 1


@dataclass(frozen=True, kw_only=True)
class Experiment(Config, at=""):
    """One training run. The same experiment on the same hardware gives the same bits."""

    name: str
    """Names the run folder, `runs/<name>/<hash>`."""
    model: ModelConfig
    """The network."""
    data: DataConfig
    """The data set and what is done to its examples."""
    task: AnyTask = field(default_factory=Classification)
    """What is asked of the network."""
    optim: AnyOptimizer
    """The optimiser."""
    schedule: AnySchedule = field(default_factory=Constant)
    """The learning rate's course."""
    train: TrainConfig
    """Length, batches, devices."""
    eval: EvalConfig = field(default_factory=EvalConfig)
    """Evaluation."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Checkpoints."""
    seed: Annotated[int, Interval(least=0, most=LAST_SEED)] = 0
    """The one source of randomness."""
    paper: str = ""
    """What is reproduced: paper and table."""
    published: str = ""
    """The number that the paper reports."""
    code: Path | None = field(default=None, compare=False, repr=False)
    """Folder that files of your own parts are looked for in first; `load_experiment` fills in the file's own."""

    def __post_init__(self) -> None:
        """Check all fields, and bring each to the form of its type: 40 epochs are 40.0."""
        super().__post_init__()
        if self.seed > LAST_SEED + 1 - self.train.seeds:
            last = f"0 to {LAST_SEED + 1 - self.train.seeds}, so that there are {self.train.seeds} seeds from there"
            raise UsageError(f"seed is {self.seed}: expected {last}")
        if not FOLDER_NAME.fullmatch(self.name):
            raise UsageError(f"name is {self.name!r}: expected letters, digits, '_', '-' and '.', as in lenet_mnist")

    @property
    def finder(self) -> Finder:
        """Where the parts are looked for that it names: beside its file, in the working folder, installed."""
        return Finder(() if self.code is None else (self.code,))

    @property
    def references(self) -> list[str]:
        """The names of a user's own parts in it."""
        return sorted(set(_references(to_json(self))))


# Changing these does not change a result, so a run may be resumed with others. Where the data are is among them:
# the checksums in a run's data.json tell whether they are the same. A run is always of one seed; that it was trained
# by vmap, which is the same up to rounding, is in its environment.json.
IMMATERIAL = (
    *("checkpoint", "paper", "published", "train.seeds", "train.seeds_mode"),
    *("data.path", "data.download", "data.pipeline", "data.threads", "data.bad_limit"),
)


def fingerprint(experiment: Experiment) -> str:
    """Return ten hexadecimal digits of the SHA-256 over all fields that the result depends on and that are set.

    A field that has its default counts nothing, so that one that is added later renames no folder. A TFDS data set is
    told apart by its name, wherever it is stored; .npz and tar files, folders of images, caches and files of weights
    have no other name than their path.
    """
    values = material(experiment)
    if experiment.model.weights is not None:
        values["model.weights"] = os.path.realpath(os.path.expanduser(experiment.model.weights))
    if experiment.data.source in ("npz", "folder", "tar", "cache") and experiment.data.path is not None:
        values["data.path"] = os.path.realpath(os.path.expanduser(experiment.data.path))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def kept(experiment: Experiment) -> dict[str, Any]:
    """Return what a run folder keeps of an experiment: JSON with absolute paths, whatever folder it is read from."""
    places = {"data.path": experiment.data.path, "model.weights": experiment.model.weights}
    found = {name: os.path.abspath(os.path.expanduser(path)) for name, path in places.items() if path is not None}
    return to_json(experiment.override(found))


def difference(ours: Experiment, theirs: Experiment) -> str | None:
    """Return the first field that matters and differs, as a line of text, or None."""
    found = differences(ours, theirs).items()
    return next((f"{name} is {mine!r}, the run has {other!r}" for name, (mine, other) in found), None)


def differences(ours: Experiment, theirs: Experiment) -> dict[str, tuple[Any, Any]]:
    """Return the fields that matter and differ, with the values of both, by name."""
    mine, other = (_flat(kept(each)) for each in (ours, theirs))
    names = sorted({**material(ours), **material(theirs)})
    return {name: (mine.get(name), other.get(name)) for name in names if mine.get(name) != other.get(name)}


def material(experiment: Experiment) -> dict[str, Any]:
    """Return the fields that the result depends on and that are not as by default, by dotted name."""
    found = _flat(to_json(experiment, defaults=False))
    return {name: value for name, value in found.items() if not {name, name.split(".")[0]} & set(IMMATERIAL)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        inner = isinstance(value, Mapping) and value
        found |= _flat(value, f"{prefix}{name}.") if inner else {prefix + name: value}
    return found


def _references(values: Any, name: str = "") -> Iterator[str]:
    """Yield the names of parts within JSON values: kinds, the model's name, the data's source."""
    if isinstance(values, Mapping):
        for key, value in values.items():
            yield from _references(value, f"{name}.{key}") if f"{name}.{key}" != ".model.options" else ()
    elif isinstance(values, list):
        for value in values:
            yield from _references(value, name)
    elif name.endswith(".kind") or name in (".model.name", ".data.source"):
        yield from [values] * is_reference(str(values))


def load_experiment(path: str | Path) -> Experiment:
    """Return the EXPERIMENT that a Python file exports.

    Raises:
      UsageError: no such file, the file fails, or it has no EXPERIMENT of the right type.
    """
    path = Path(path)
    if not path.is_file():
        raise _no_file(path)
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a Python file: expected experiments/NAME.py with an EXPERIMENT")
    found = getattr(load_file(path), "EXPERIMENT", None)
    if not isinstance(found, Experiment):
        kind = "no EXPERIMENT" if found is None else f"an EXPERIMENT of type {type(found).__name__}"
        raise UsageError(f"{path} has {kind}: expected EXPERIMENT = jaxcnn.Experiment(...)")
    return found if found.code else found.override({"code": path.resolve().parent})


def _no_file(path: Path) -> UsageError:
    if path.is_dir():
        return UsageError(f"{path} is a folder: expected a Python file that exports an EXPERIMENT")
    folder = path.parent if path.parent.is_dir() else Path("experiments")
    found = [str(file) for file in folder.glob("*.py") if file.is_file()]
    return unknown("experiment file", str(path), found) if found else UsageError(f"there is no experiment file {path}")
