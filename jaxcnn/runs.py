"""Run folders: training into one, going on with one, and reading one back.

runs/<name>/<hash>/
  experiment.json    enough to rebuild the experiment
  environment.json   versions, commit, hardware
  data.json          classes, image shape, normalisation, checksum of the training images
  metrics.jsonl      rows that are a function of the experiment; timings.jsonl: rows that are not
  events/            the same rows for TensorBoard
  checkpoints/       see train/checkpoint.py
  predictions.npz    logits and labels of the test split
  result.json        status, step, metrics, speed, params_sha256
  figures/
"""

import contextlib
import fcntl
import hashlib
import json
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, UInt8

from jaxcnn import experiment as experiments
from jaxcnn.data import Split
from jaxcnn.data.augment import normalize
from jaxcnn.environment import environment
from jaxcnn.errors import RunError, UsageError, unknown
from jaxcnn.experiment import Experiment
from jaxcnn.files import write_atomically
from jaxcnn.models import Model, create
from jaxcnn.session import Session
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.train.checkpoint import Checkpoints
from jaxcnn.train.log import Log, read_metrics
from jaxcnn.train.loop import Effects, NonFinite, Position, fit
from jaxcnn.train.progress import TrainProgress
from jaxcnn.train.state import TrainState, params_sha256

if TYPE_CHECKING:
    import pandas


def run(experiment: Experiment, runs_dir: str | Path = "runs", *, progress: bool = True, command: str = "") -> "Run":
    """Train an experiment and return its run; one that was interrupted goes on, a finished one is returned.

    Args:
      experiment: what to run.
      runs_dir: the run folder is `<runs_dir>/<name>/<hash of the experiment>`.
      progress: show progress on stderr.
      command: noted in `result.json`, for whoever wants to repeat it.

    Raises:
      UsageError: the experiment cannot be, or another process is using its folder.
      RunError: the loss is not finite, or the disk is full.
      Stopped: on SIGTERM or Ctrl-C, after saving.
    """
    folder = Path(runs_dir) / experiment.name / experiments.fingerprint(experiment)
    return _train(experiment, folder, progress=progress, command=command)


def resume(
    folder: str | Path, experiment: Experiment | None = None, *, progress: bool = True, command: str = ""
) -> "Run":
    """Go on with the run in `folder`; with `experiment`, only if it differs in nothing that matters.

    Raises:
      UsageError: no run there, or the first field that differs.
      RunError, Stopped: as `run`.
    """
    saved = load_run(folder).experiment
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
        near = [str(path.parent) for path in folder.parent.parent.glob("*/*/experiment.json")]
        raise (
            unknown("run folder", str(folder), near)
            if near
            else UsageError(f"no run in {folder}: it has no experiment.json")
        )
    return Run(folder)


class Run:
    """A run folder, read back. Attributes are read when first asked for."""

    def __init__(self, path: Path) -> None:
        """Use `run`, `resume` or `load_run`."""
        self.path = path

    def __repr__(self) -> str:
        """Return the path and the status."""
        return f"Run({str(self.path)!r}, {self.result.get('status', 'unfinished')})"

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment, rebuilt from `experiment.json`."""
        return experiments.from_dict(_read_json(self.path / "experiment.json"))

    @property
    def result(self) -> dict[str, Any]:
        """What `result.json` holds; {} before there is one."""
        path = self.path / "result.json"
        return _read_json(path) if path.exists() else {}

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
        """What `data.json` holds: `class_names`, `image_shape`, `mean`, `std` and checksums."""
        return _read_json(self.path / "data.json")

    @cached_property
    def model(self) -> Model:
        """The network."""
        config = self.experiment.model
        num_classes = config.num_classes or len(self.data["class_names"])
        options: dict[str, Any] = config.options
        return create(config.name, num_classes=num_classes, dtype=config.dtype, **options)

    @cached_property
    def state(self) -> TrainState:
        """The state of the newest good checkpoint."""
        with StopFlag() as stop:
            return _restore(self.path, Session(self.experiment, stop), "last")

    @cached_property
    def _apply(self) -> Any:
        mean, std = (np.asarray(self.data[name], np.float32) for name in ("mean", "std"))

        def apply(variables: Any, images: jax.Array) -> jax.Array:
            logits: Any = self.model.apply(variables, normalize(images, mean, std), train=False)
            return jax.nn.softmax(logits)

        return jax.jit(apply)

    def predict(self, images: UInt8[np.ndarray, "n height width channels"]) -> Float32[np.ndarray, "n classes"]:
        """Return each image's class probabilities, by the newest checkpoint.

        Args:
          images: uint8 of the shape that the run was trained on (`data["image_shape"]`), 0 to 255.

        Raises:
          UsageError: images of another shape or type.
        """
        images = np.asarray(images)
        expected = tuple(self.data["image_shape"])
        if images.dtype != np.uint8 or images.shape[1:] != expected:
            raise UsageError(
                f"images are {images.dtype} of shape {images.shape}: expected uint8 of shape "
                f"({', '.join(['n', *map(str, expected)])})"
            )
        size = self.experiment.eval.batch_size
        parts = [images[start : start + size] for start in range(0, len(images), size)]
        return np.concatenate([np.asarray(self._apply(self.state.variables, jnp.asarray(part))) for part in parts])


def evaluate(folder: str | Path, *, split: str = "test", checkpoint: str = "last") -> dict[str, float]:
    """Return the metrics of a run's checkpoint on a split.

    Args:
      folder: the run.
      split: "train", "val" or "test"; training images are taken as they are, not augmented.
      checkpoint: "last", or "best" by validation accuracy.

    Raises:
      UsageError: no such run, split or checkpoint.
      Stopped: on a signal.
    """
    found = load_run(folder)
    with StopFlag() as stop:
        session = Session(found.experiment, stop)
        splits = {"train": session.dataset.train, "val": session.dataset.val, "test": session.dataset.test}
        examples = splits.get(split)
        if examples is None:
            raise unknown("split", split, [name for name, value in splits.items() if value is not None])
        state = _restore(found.path, session, checkpoint)
        metrics, _ = session.evaluate(state.variables, examples)
    return {f"{split}/{name}": value for name, value in metrics.items()}


def _train(experiment: Experiment, folder: Path, *, progress: bool, command: str) -> "Run":
    first = jax.process_index() == 0
    found = Run(folder)
    with _locked(folder) if first else contextlib.nullcontext(), StopFlag() as stop:
        if found.result.get("status") == "finished":
            return found
        session = Session(experiment, stop)
        if first:
            _write_identity(folder, experiment, session)
        started = time.perf_counter()
        checkpoints = Checkpoints(folder / "checkpoints")
        state, window = session.initial_state(), session.parallel.empty_window()
        position = Position()
        reports: list[str] = []
        try:
            tree, values, reports = checkpoints.restore_newest({"state": state, "window": window})
            state, window, position = tree["state"], tree["window"], Position(**values)
        except LookupError:
            pass
        total = session.timetable.total_steps
        shown = TrainProgress(total, position.step, experiment.train.batch_size, enabled=progress and first)
        with shown, contextlib.ExitStack() as stack:
            for report in reports:
                shown.say(report)
            log = None
            if first:
                log = Log(folder, position.step, tensorboard=experiment.checkpoint.tensorboard)
                stack.callback(log.close)
            recorder = _Recorder(session, folder, log, checkpoints, shown, started - position.wall_seconds)
            try:
                state = fit(state, window, position, session.timetable, recorder.effects())
                recorder.finish(state, position, command)
            except NonFinite as error:
                raise RunError(f"{error}: stopped; {checkpoints.describe_newest()}") from error
            except Stopped as stopped:
                again = f"jaxcnn train --resume {folder}"
                raise Stopped(
                    stopped.signum, f"stopped after step {position.step} of {total}; go on with: {again}"
                ) from stopped
    return found


class _Recorder:
    """The effects of the loop on a run folder and on the screen."""

    def __init__(
        self,
        session: Session,
        folder: Path,
        log: Log | None,
        checkpoints: Checkpoints,
        shown: TrainProgress,
        started: float,
    ) -> None:
        self.session, self.folder, self.log = session, folder, log
        self.checkpoints, self.shown, self.started = checkpoints, shown, started

    def effects(self) -> Effects:
        session = self.session
        return Effects(
            train=session.train_step,
            arguments=session.arguments,
            view=session.parallel.view,
            empty_window=session.parallel.empty_window,
            log_metrics=self.log_metrics,
            evaluate=self.evaluate,
            save=self.save,
            stop_requested=session.stop_requested,
            progress=self.shown.step,
        )

    def log_metrics(self, state: TrainState, sums: dict[str, float], position: Position) -> None:
        metrics = self.session.task.metrics(sums, self.session.num_classes)
        row = {f"train/{name}": value for name, value in metrics.items()}
        row["learning_rate"] = self.session.learning_rate(state)
        rate = position.examples_per_second
        self._write(position.step, row, rate)
        if self.log is not None:
            timing = {"examples_per_second": rate, "wall_seconds": time.perf_counter() - self.started}
            self.log.write_timing(position.step, timing)

    def evaluate(self, state: TrainState) -> None:
        dataset = self.session.dataset
        name, split = ("test", dataset.test) if dataset.val is None else ("val", dataset.val)
        self._score(name, split, state, int(state.step))

    def save(self, state: TrainState, window: Any, position: Position) -> None:
        self.shown.doing("saving")
        position.wall_seconds = time.perf_counter() - self.started
        if not _all_finite(state):
            raise NonFinite(position.step)
        self.checkpoints.save(position.step, {"state": state, "window": window}, vars(position))
        self.checkpoints.prune(self.session.experiment.checkpoint.keep, _best_step(self.folder, self.checkpoints))
        self.shown.doing("training")

    def finish(self, state: TrainState, position: Position, command: str) -> None:
        """Take the final scores and write what a finished run has."""
        session, dataset = self.session, self.session.dataset
        if session.experiment.train.recompute_batch_stats:
            state = session.recompute_batch_stats(state)
        metrics: dict[str, float] = {}
        if dataset.val is not None:
            metrics |= self._score("val", dataset.val, state, position.step)[0]
        scores, logits = self._score("test", dataset.test, state, position.step)
        if self.log is None:
            return
        np.savez(self.folder / "predictions.npz", logits=logits, labels=dataset.test.labels)
        result = {
            "status": "finished",
            "name": session.experiment.name,
            "seed": session.experiment.seed,
            "step": position.step,
            "metrics": metrics | scores,
            "examples_per_second": position.examples_per_second,
            "wall_seconds": time.perf_counter() - self.started,
            "params_sha256": params_sha256(state.params),
            "command": command,
        }
        self._draw(dataset.test, logits, dataset.class_names)
        _write_json(self.folder / "result.json", result)

    def _score(self, name: str, split: Split, state: TrainState, step: int) -> tuple[dict[str, float], np.ndarray]:
        self.shown.doing("evaluating")
        metrics, logits = self.session.evaluate(state.variables, split)
        if not np.isfinite(metrics["loss"]):
            raise NonFinite(step)
        row = {f"{name}/{key}": value for key, value in metrics.items()}
        self._write(step, row, 0.0)
        self.shown.doing("training")
        return row, logits

    def _write(self, step: int, row: dict[str, float], rate: float) -> None:
        if self.log is not None:
            self.log.write(step, row)
        self.shown.row(step, row, rate)

    def _draw(self, test: Split, logits: np.ndarray, class_names: tuple[str, ...]) -> None:
        from jaxcnn.report.figures import write_figures

        try:
            rows = read_metrics(self.folder / "metrics.jsonl")
            write_figures(self.folder, rows, test.images, logits, test.labels, class_names)
        except UsageError as error:  # matplotlib is an extra
            self.shown.say(f"no figures: {error}")


def _restore(folder: Path, session: Session, which: str) -> TrainState:
    """Return the state of the "last" or the "best" checkpoint."""
    checkpoints = Checkpoints(folder / "checkpoints")
    like = {"state": session.initial_state(), "window": session.parallel.empty_window()}
    if which == "last":
        try:
            return checkpoints.restore_newest(like)[0]["state"]
        except LookupError as error:
            raise UsageError(f"{folder} has no checkpoint yet") from error
    if which != "best":
        raise unknown("checkpoint", which, ["best", "last"])
    step = _best_step(folder, checkpoints)
    if step is None:
        raise UsageError(f"{folder} has no best checkpoint: it was never evaluated while training")
    return checkpoints.restore(step, like)[0]["state"]


def _best_step(folder: Path, checkpoints: Checkpoints) -> int | None:
    """Return the step of the best accuracy on the validation split (or the test split) among the checkpoints."""
    saved = set(checkpoints.steps())
    scores: dict[str, list[tuple[float, int]]] = {"val": [], "test": []}
    for row in read_metrics(folder / "metrics.jsonl"):
        for name, found in scores.items():
            if f"{name}/accuracy" in row and row["step"] in saved:
                found.append((row[f"{name}/accuracy"], -row["step"]))
    best = max(scores["val"] or scores["test"], default=None)
    return None if best is None else -best[1]


def _all_finite(state: TrainState) -> bool:
    arrays = jax.tree.leaves((state.params, state.batch_stats))
    return all(np.isfinite(np.asarray(array)).all() for array in arrays)


def _write_identity(folder: Path, experiment: Experiment, session: Session) -> None:
    train = session.dataset.train
    data = {
        "class_names": list(session.dataset.class_names),
        "image_shape": list(session.image_shape),
        "mean": session.mean.tolist(),
        "std": session.std.tolist(),
        "examples": {"train": len(train), "test": len(session.dataset.test)}
        | ({} if session.dataset.val is None else {"val": len(session.dataset.val)}),
        "train_sha256": hashlib.sha256(train.images.tobytes() + train.labels.tobytes()).hexdigest(),
    }
    path = folder / "data.json"
    if path.exists() and _read_json(path)["train_sha256"] != data["train_sha256"]:
        raise UsageError(f"cannot resume {folder}: the training images are not those it began with")
    for name, values in (
        ("experiment", experiments.to_dict(experiment)),
        ("environment", environment()),
        ("data", data),
    ):
        if not (folder / f"{name}.json").exists():
            _write_json(folder / f"{name}.json", values)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f"run folder {folder} is in use by another process") from error
        yield


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UsageError(f"{path.parent} has no {path.name}") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON") from error


def _write_json(path: Path, values: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(values, indent=1) + "\n").encode())
