"""Runs: training into a folder, going on with one, and reading one back."""

import contextlib
import math
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float32, UInt8

from jaxcnn import backend
from jaxcnn import experiment as experiments
from jaxcnn.data.augment import normalize
from jaxcnn.data.dataset import check_split, eval_batches
from jaxcnn.data.images import preprocessing
from jaxcnn.data.streaming import Reader
from jaxcnn.errors import RunError, UsageError, unknown
from jaxcnn.experiment import Experiment
from jaxcnn.models import Model
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.runs.blueprint import Blueprint
from jaxcnn.runs.folder import best_step, check_data, locked, read_json, write_experiment
from jaxcnn.runs.session import Session
from jaxcnn.runs.sitting import Sitting
from jaxcnn.runs.views import score_views, several_scales, ten_crops
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.train.checkpoint import Checkpoints, DamagedCheckpoint
from jaxcnn.train.log import read_metrics
from jaxcnn.train.loop import Position, fit
from jaxcnn.train.parallel import together
from jaxcnn.train.progress import TrainProgress
from jaxcnn.train.state import TrainState

if TYPE_CHECKING:
    import pandas


VIEWS = ("center", "ten_crop", "multi_scale")


def run(experiment: Experiment, runs_dir: str | Path = "runs", *, progress: bool = True, command: str = "") -> "Run":
    """Train an experiment and return its run; one that was interrupted goes on, a finished one is returned.

    Args:
      experiment: what to run.
      runs_dir: the run folder is `<runs_dir>/<name>/<hash of the experiment>`.
      progress: show progress on stderr.
      command: noted in `result.json`, for whoever wants to repeat it.

    Raises:
      UsageError: the experiment cannot be, or is of several seeds, or another process is using its folder.
      RunError: the loss is not finite, or the disk is full.
      Stopped: on SIGTERM or Ctrl-C, after saving.
    """
    if experiment.train.seeds != 1:
        raise UsageError(f"train.seeds is {experiment.train.seeds}: jaxcnn.run trains one, jaxcnn.run_seeds several")
    return _train(experiment, run_folder(experiment, runs_dir), progress=progress, command=command)


def run_folder(experiment: Experiment, runs_dir: str | Path) -> Path:
    """Return where an experiment of one seed is kept."""
    return Path(runs_dir) / experiment.name / experiments.fingerprint(experiment)


def resume(
    folder: str | Path, experiment: Experiment | None = None, *, progress: bool = True, command: str = ""
) -> "Run":
    """Go on with the run in `folder`; with `experiment`, only if it differs in nothing that matters.

    Raises:
      UsageError: no run there, or the first field that differs.
      RunError, Stopped: as `run`.
    """
    saved = load_run(folder).experiment
    if experiment is not None and experiment.train.seeds != 1:
        raise UsageError(f"train.seeds is {experiment.train.seeds}: cannot resume {folder}, which is the run of one")
    if experiment is not None and (found := experiments.difference(experiment, saved)):
        raise UsageError(f"cannot resume {folder}: {found}")
    return _train(experiment or saved, Path(folder), progress=progress, command=command)


def load_run(folder: str | Path) -> "Run":
    """Return the run in a folder, finished or not.

    Raises:
      UsageError: there is none.
    """
    folder = Path(folder)
    if not (folder / "experiment.json").is_file():
        inside = [*folder.glob("*/experiment.json"), *folder.glob("*/*/experiment.json")]
        near = [str(path.parent) for path in inside or folder.parent.parent.glob("*/*/experiment.json")]
        raise (
            unknown("run folder", str(folder), near)
            if near
            else UsageError(f"no run in {folder}: it has no experiment.json")
        )
    return Run(folder)


class Run:
    """A run folder, read back, without its data set. Attributes are read when first asked for."""

    def __init__(self, path: Path) -> None:
        """Use `run`, `resume` or `load_run`."""
        self.path = path

    def __repr__(self) -> str:
        """Return the path and the status."""
        return f"Run({str(self.path)!r}, {self.result.get('status', 'unfinished')})"

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment, rebuilt from `experiment.json`."""
        path = self.path / "experiment.json"
        values = read_json(path)
        try:
            return experiments.from_dict(values)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error

    @property
    def result(self) -> dict[str, Any]:
        """What `result.json` holds; {} for a run that is under way or was killed."""
        path = self.path / "result.json"
        return read_json(path) if path.exists() else {}

    @property
    def metrics(self) -> "pandas.DataFrame":
        """The rows of `metrics.jsonl`, one for each step that has any, indexed by step."""
        import pandas

        rows: dict[int, dict[str, Any]] = {}
        for row in read_metrics(self.path / "metrics.jsonl"):
            rows.setdefault(row["step"], {}).update(row)
        return pandas.DataFrame(list(rows.values())).set_index("step") if rows else pandas.DataFrame()

    @cached_property
    def data(self) -> dict[str, Any]:
        """What `data.json` holds: `class_names`, `image_shape`, `mean`, `std`, sizes and checksums."""
        return read_json(self.path / "data.json")

    @property
    def norms(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation that images are normalised by, for pixels in 0..1."""
        return np.asarray(self.data["mean"], np.float32), np.asarray(self.data["std"], np.float32)

    @property
    def streamed(self) -> bool | None:
        """Whether its examples are read while it trains; None before it has begun."""
        return self.data.get("streamed") if (self.path / "data.json").exists() else None

    @property
    def preprocessing(self) -> Preprocessing:
        """From an image file to the network's input, as the run's own images came to be."""
        return preprocessing(self.data["image_shape"], self.experiment.data, *self.norms)

    @cached_property
    def _blueprint(self) -> Blueprint:
        return Blueprint(
            self.experiment,
            examples=self.data["examples"]["train"],
            class_names=self.data["class_names"],
            image_shape=self.data["image_shape"],
        )

    @property
    def model(self) -> Model:
        """The network."""
        return self._blueprint.model

    @cached_property
    def state(self) -> TrainState:
        """The state of the newest good checkpoint, on one device; a damaged one is reported on stderr."""
        return self.restore("last")

    def restore(self, checkpoint: str) -> TrainState:
        """Return the state of the "last" good or the "best" checkpoint, on one device."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return _restore(self.path, self._blueprint.abstract_state(device), checkpoint)

    @cached_property
    def _probabilities(self) -> Any:
        mean, std = self.norms

        def probabilities(variables: Any, images: jax.Array) -> jax.Array:
            logits: Any = self.model.apply(variables, normalize(images, mean, std), train=False)
            return jax.nn.softmax(logits)

        return backend.jit(probabilities)

    def predict(self, images: UInt8[np.ndarray, "n height width channels"]) -> Float32[np.ndarray, "n classes"]:
        """Return each image's class probabilities, by the newest checkpoint.

        Args:
          images: whole numbers 0 to 255, of the shape that the run was trained on (`data["image_shape"]`).

        Raises:
          UsageError: images of another shape, type or range, or none.
        """
        images = np.asarray(images)
        split = check_split(images, np.zeros(images.shape[:1], np.int32), "images to predict")
        expected = tuple(self.data["image_shape"])
        if split.image_shape != expected:
            raise UsageError(f"images to predict have shape {images.shape}, expected (n, {str(expected)[1:]}")
        batches = eval_batches(split, min(self.experiment.eval.batch_size, len(split)))
        parts = [np.asarray(self._probabilities(self.state.variables, batch["image"])) for batch in batches]
        return np.concatenate(parts)[: len(split)]


def evaluate(
    folder: str | Path,
    *,
    split: str = "test",
    checkpoint: str = "last",
    views: str = "center",
    scales: Sequence[int] = (),
    resize_to: int | None = None,
) -> dict[str, float]:
    """Return the metrics of a run's checkpoint on a split, on whatever devices there are.

    A damaged checkpoint is passed over, which is reported on stderr.

    Args:
      folder: the run.
      split: "train", "val" or "test"; training images are taken as they are, not augmented.
      checkpoint: "last", or "best" by validation accuracy.
      views: "center", the run's own; "ten_crop"; or "multi_scale": probabilities are averaged over each image's views.
      scales: of "multi_scale": short sides in pixels.
      resize_to: in place of the run's own; see `DataConfig`.

    Raises:
      UsageError: no such run, split or checkpoint, or its data are no longer those it was trained on.
      RunError: the checkpoint is damaged and there is no other.
      Stopped: on a signal.
    """
    found = load_run(folder)
    with StopFlag() as stop:
        experiment = _to_evaluate(found.experiment)
        if resize_to is not None:
            experiment = replace(experiment, data=replace(experiment.data, resize_to=resize_to))
        _check_views(views, scales, experiment)
        session = Session(experiment, stop, found.norms, found.streamed if views == "center" else True)
        splits = session.dataset.splits()
        if split not in splits:
            raise unknown("split", split, splits)
        if resize_to is None and session.streamed == found.streamed:  # else they are other pixels
            check_data(found.path, session)
        state = _restore(found.path, session.abstract_state(session.parallel.replicated), checkpoint)
        chosen = splits[split]
        if views == "center" or not isinstance(chosen, Reader):
            metrics = session.evaluate(state.variables, chosen).metrics
        else:
            ten = views == "ten_crop"
            passes = ten_crops(chosen, experiment.data) if ten else several_scales(chosen, scales)
            metrics = score_views(session, state.variables, chosen, passes)
    return {f"{split}/{name}": value for name, value in metrics.items()}


def _train(experiment: Experiment, folder: Path, *, progress: bool, command: str) -> "Run":
    first, started = jax.process_index() == 0, time.perf_counter()
    found, position = Run(folder), Position()
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopFlag())
        with together():
            if first:
                stack.enter_context(locked(folder))
        if found.result.get("status") == "finished":
            return found
        try:
            begun = bool(Checkpoints(folder / "checkpoints").steps())
            session = Session(experiment, stop, found.norms if begun else None, found.streamed)
            stack.callback(session.close)
            sitting = Sitting(session, folder)
            position, timetable = sitting.position, session.timetable
            shown = TrainProgress(
                timetable.total_steps, position.step, timetable.batch_size, enabled=progress and first
            )
            recorder = sitting.begin(stack.enter_context(shown), started)
            with recorder.noting(position, command):
                recorder.finish(fit(sitting.state, position, timetable, recorder.effects()), position, command)
        except Stopped as stopped:
            if first:
                write_experiment(folder, experiment)  # a stop while loading comes before it was
            more = " --distributed" if jax.process_count() > 1 else ""
            again = f"jaxcnn train --resume {shlex.quote(str(folder))}{more}"
            raise Stopped(stopped.signum, f"stopped after step {position.step}; go on with: {again}") from stopped
    return found


def _check_views(views: str, scales: Sequence[int], experiment: Experiment) -> None:
    if views not in VIEWS:
        raise unknown("views", views, VIEWS)
    if scales and views != "multi_scale":
        raise UsageError(f"scales are of views multi_scale, not of {views}")
    if views != "center" and experiment.data.per_pixel_mean:
        raise UsageError(f"views {views} need one mean for each channel: data.per_pixel_mean has one for each pixel")


def _to_evaluate(experiment: Experiment) -> Experiment:
    """Return the experiment as any machine can score it: devices and parts of a batch are for training."""
    train, found = experiment.train, jax.device_count()
    devices = math.gcd(train.batch_size, min(train.devices or found, found))
    return replace(experiment, train=replace(train, devices=devices, parallel="jit", accumulation_steps=1))


def _restore(folder: Path, like: TrainState, which: str) -> TrainState:
    """Return the state of the "last" or the "best" checkpoint."""
    checkpoints = Checkpoints(folder / "checkpoints")
    if which == "last":
        try:
            state, _, reports = checkpoints.restore_newest(like)
        except LookupError as error:
            raise UsageError(f"{folder} has no checkpoint yet") from error
        for report in reports:
            print(f"jaxcnn: {report}", file=sys.stderr)
        return state
    if which != "best":
        raise unknown("checkpoint", which, ["best", "last"])
    step = best_step(folder, checkpoints)
    if step is None:
        raise UsageError(f"{folder} has no best checkpoint: it was never evaluated while training")
    try:
        return checkpoints.restore(step, like)[0]
    except DamagedCheckpoint as error:
        raise RunError(f"checkpoint {checkpoints.path(step)} is damaged: {error}") from error
