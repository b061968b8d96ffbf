"""Runs: training into a folder, going on with one, and reading one back."""

import contextlib
import math
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import UInt8

from jaxcnn import backend
from jaxcnn import experiment as experiments
from jaxcnn.data import Description, Split, eval_batch, eval_batches
from jaxcnn.data.framing import preprocessing
from jaxcnn.data.stores.arrays import check_images
from jaxcnn.data.views import check_views
from jaxcnn.errors import RunError, UsageError, unknown
from jaxcnn.experiment import Experiment
from jaxcnn.parts import Finder
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.runs.folder import RunFolder
from jaxcnn.runs.identity import Programs, Sources, programs_of, sources_of
from jaxcnn.runs.record import Record, check_data
from jaxcnn.runs.trainer import Trainer
from jaxcnn.runs.averaging import score_views
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.train.checkpoint import DamagedCheckpoint
from jaxcnn.train.parallel import together
from jaxcnn.train.schedules import find_schedule
from jaxcnn.train.state import TrainState

if TYPE_CHECKING:
    import pandas


def run(experiment: Experiment, runs_dir: str | Path = "runs", *, progress: bool = True, command: str = "") -> "Run":
    """Train an experiment and return its run; one that was interrupted goes on, a finished one is returned.

    A run that was computed by another program, because code has changed since, is left as it is, and the experiment
    trained anew beside it.

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
    finder, say = experiment.finder, _sayer(progress)
    path, sources = find_folder(experiment, runs_dir, finder, say)
    return _train(experiment, path, finder, sources, progress=progress, command=command)


def find_folder(experiment: Experiment, runs_dir: str | Path, finder: Finder, say: Any) -> tuple[Path, Sources]:
    """Return the folder of an experiment's run, and its sources.

    It is the one whose sources or programs are today's; where there is none, a new one.

    Raises:
      UsageError: a part cannot be found.
    """
    sources = sources_of(experiment, finder)
    first = run_folder(experiment, runs_dir)
    there = [RunFolder(path) for path in (first, *sorted(first.parent.glob(f"{first.name}-*")))]
    there = [folder for folder in there if folder.has("program") and folder.has("data")]
    for folder in there:
        if sources.sha256 in folder.read("program")["sources"]:
            return folder.path, sources
    told = ""
    for folder in there:
        differs = compare(experiment, folder, sources, finder, say)
        if differs is None:
            return folder.path, sources
        told = f"{folder.path} was computed by another program ({differs})"
    if told:
        taken = {folder.path.name for folder in there}
        number = next(n for n in range(2, len(taken) + 3) if f"{first.name}-{n}" not in taken)
        first = first.parent / f"{first.name}-{number}"
        say(f"{told}: trained anew in {first}")
    return first, sources


def compare(experiment: Experiment, folder: RunFolder, sources: Sources, finder: Finder, say: Any) -> str | None:
    """Return how a run's programs differ from today's, as part of a sentence; None: they are the same.

    Where only sources differ, that is said and noted.
    """
    saved = folder.read("program")
    if sources.sha256 in saved["sources"]:
        return None
    then = Programs.from_json(saved)
    now = programs_of(experiment, Description.from_json(folder.read("data")), sources, finder, then.platform)
    if (differs := now.differs(then)) is None:
        folder.write("program", saved | {"sources": [*saved["sources"], sources.sha256]})
        say(f"{folder.path}: its code has changed, what it computes has not: it is the same run")
    return differs


def run_folder(experiment: Experiment, runs_dir: str | Path) -> Path:
    """Return where an experiment of one seed is kept, unless other programs were there before."""
    return Path(runs_dir) / experiment.name / experiments.fingerprint(experiment)


def resume(
    folder: str | Path,
    experiment: Experiment | None = None,
    *,
    progress: bool = True,
    command: str = "",
    code: Sequence[Path] = (),
    accept_program: bool = False,
) -> "Run":
    """Go on with the run in `folder`; with `experiment`, only if it differs in nothing that matters.

    A finished run is continued where `experiment` has more steps or epochs, as a new run that starts from its last
    checkpoint, if no step's learning rate depends on how many there are.

    Args:
      folder: of the run.
      experiment: in place of the run's.
      progress: show progress on stderr.
      command: noted in `result.json`.
      code: folders that the run's own parts may be imported from, beside the working folder; see `load_run`.
      accept_program: go on even where the code has changed what is computed.

    Raises:
      UsageError: no run there, the first field that differs, or how the program differs.
      RunError, Stopped: as `run`.
    """
    found = load_run(folder, code=code)
    finder = (
        found.finder if experiment is None else replace(experiment.finder, folders=(*experiment.finder.folders, *code))
    )
    say = _sayer(progress)
    if experiment is not None and experiment.train.seeds != 1:
        raise UsageError(f"train.seeds is {experiment.train.seeds}: cannot resume {folder}, which is the run of one")
    differ = [] if experiment is None else experiments.differences(experiment, found.experiment)
    assert experiment is not None or not differ
    if (differ and not {*differ} <= {"train.steps", "train.epochs"}) or (differ and not found.folder.finished):
        raise UsageError(f"cannot resume {folder}: {experiments.difference(experiment, found.experiment)}")  # type: ignore[arg-type]
    experiment = experiment or found.experiment
    path, sources = Path(folder), sources_of(experiment, finder)
    program = found.folder.has("program") and found.folder.has("data")
    differs = compare(found.experiment, found.folder, sources, finder, say) if program else None
    if differs and not accept_program:
        raise UsageError(
            f"cannot resume {folder}: it was computed by another program ({differs}); --accept-program goes on with "
            "today's, the command that made it trains anew"
        )
    if differ:
        path = _continued(found, experiment, finder, say)
    return _train(experiment, path, finder, sources, progress=progress, command=command)


def _continued(found: "Run", experiment: Experiment, finder: Finder, say: Any) -> Path:
    """Return the folder of a run that goes on where a finished one ended, with what it starts from in it."""
    folder = found.folder
    trainer = Trainer.from_experiment(experiment, data=found.description, finder=finder)
    step, total = found.result["step"], trainer.timetable.total_steps
    schedule = find_schedule(experiment.schedule, finder)
    if total <= step:
        raise UsageError(f"cannot continue {folder.path}, which has {step} steps, to {total}: expected more")
    if not schedule.goes_on:
        raise UsageError(
            f"cannot continue {folder.path}: schedule {type(schedule).__name__} shares out all steps, so more of them "
            "change those that were made; Constant, StepDecay and Plateau go on"
        )
    if experiment.train.recompute_batch_stats or found.result.get("ended"):
        why = "a callback ended it" if found.result.get("ended") else "train.recompute_batch_stats changed its end"
        raise UsageError(f"cannot continue {folder.path}: {why}")
    new = RunFolder(folder.path.parent / experiments.fingerprint(experiment))
    if not new.begun:
        source = folder.checkpoints.path(step)
        new.path.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, new.checkpoints.path(step), copy_function=_link)
        for name in ("metrics.jsonl", "timings.jsonl", "data.json", "program.json"):
            shutil.copy(folder.path / name, new.path / name)
        new.write("continued", {"run": str(folder.path), "step": step})
    say(f"{new.path} continues {folder.path} from step {step} to {total}")
    return new.path


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def load_run(folder: str | Path, *, code: Sequence[Path] = ()) -> "Run":
    """Return the run in a folder, finished or not.

    Args:
      folder: of the run.
      code: folders that its own parts may be imported from, beside the working folder. Nothing else is imported: a run
        folder is data, and may be somebody else's.

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
    return Run(folder, Finder(tuple(map(Path, code)), installed=False))


class Run:
    """A run folder, read back, without its data set. Attributes are read when first asked for."""

    def __init__(self, path: Path, finder: Finder) -> None:
        """Use `run`, `resume` or `load_run`."""
        self.path, self.finder, self.folder = path, finder, RunFolder(path)

    def __repr__(self) -> str:
        """Return the path and the status."""
        return f"Run({str(self.path)!r}, {self.result.get('status', 'unfinished')})"

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment, rebuilt from `experiment.json`."""
        try:
            return experiments.from_dict(self.folder.read("experiment"))
        except UsageError as error:
            raise UsageError(f"{self.path / 'experiment.json'}: {error}") from error

    @property
    def result(self) -> dict[str, Any]:
        """What `result.json` holds; {} for a run that is under way or was killed."""
        return self.folder.read("result") if self.folder.has("result") else {}

    @property
    def metrics(self) -> "pandas.DataFrame":
        """The rows of `metrics.jsonl`, one for each step that has any, indexed by step."""
        import pandas

        rows: dict[int, dict[str, Any]] = {}
        for row in self.folder.rows:
            rows.setdefault(row["step"], {}).update(row)
        return pandas.DataFrame(list(rows.values())).set_index("step") if rows else pandas.DataFrame()

    @cached_property
    def description(self) -> Description:
        """What its data are, without them."""
        return Description.from_json(self.folder.read("data"))

    @property
    def preprocessing(self) -> Preprocessing | None:
        """From an image file to the network's input, as the run's own images came to be; None: they are no files."""
        norms = self.description.norms
        return norms and preprocessing(self.description.shapes["image"], self.experiment.data, *norms)

    @cached_property
    def trainer(self) -> Trainer:
        """Its parts put together, on one device."""
        return Trainer.from_experiment(_on_one_device(self.experiment), data=self.description, finder=self.finder)

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.trainer.model

    @cached_property
    def state(self) -> TrainState:
        """The state of the newest good checkpoint, on one device; a damaged one is reported on stderr."""
        return self.restore("last")

    def restore(self, checkpoint: str) -> TrainState:
        """Return the state of the "last" good or the "best" checkpoint, on one device."""
        return restore(self.folder, self.trainer, checkpoint)

    @cached_property
    def _predict(self) -> Any:
        task, model, norms = self.trainer.task, self.model, self.description.norms

        def predict(variables: Any, images: jax.Array) -> Any:
            batch = eval_batch({"image": images, "mask": jax.numpy.ones(len(images), bool)}, norms)
            return task.predict(task.forward(model, variables, batch, None, False)[0])

        return backend.jit(predict)

    def predict(self, images: UInt8[np.ndarray, "n height width channels"]) -> Any:
        """Return what the task predicts for each image, by the newest checkpoint: of classes, probabilities [n, classes].

        Args:
          images: whole numbers 0 to 255, of the shape that the run was trained on.

        Raises:
          UsageError: images of another shape, type or range, or none.
        """
        split = check_images(images, self.description.shapes["image"].shape, "images to predict")
        batches = eval_batches(split, min(self.experiment.eval.batch_size, len(split)))
        parts = [self._predict(self.state.variables, batch["image"]) for batch in batches]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(split)], *parts)


def evaluate(
    folder: str | Path,
    *,
    split: str = "test",
    checkpoint: str = "last",
    views: str = "center",
    scales: Sequence[int] = (),
    resize_to: int | None = None,
    code: Sequence[Path] = (),
) -> dict[str, float]:
    """Return the metrics of a run's checkpoint on a split, on whatever devices there are.

    A damaged checkpoint is passed over, which is reported on stderr.

    Args:
      folder: the run.
      split: "train", "val" or "test"; training images are taken as they are, not augmented.
      checkpoint: "last", or "best" by the task's own metric on the validation split.
      views: "center", the run's own; "ten_crop"; or "multi_scale": probabilities are averaged over each image's views.
      scales: of "multi_scale": short sides in pixels.
      resize_to: in place of the run's own; see `DataConfig`.
      code: see `load_run`.

    Raises:
      UsageError: no such run, split or checkpoint, or its data are no longer those it was trained on.
      RunError: the checkpoint is damaged and there is no other.
      Stopped: on a signal.
    """
    found = load_run(folder, code=code)
    with StopFlag() as stop:
        experiment = _to_evaluate(found.experiment)
        if resize_to is not None:
            experiment = experiment.override({"data.resize_to": resize_to})
        check_views(views, scales, experiment.data)
        begun = found.description if views == "center" else replace(found.description, streamed=True)
        trainer = Trainer.from_experiment(experiment, begun=begun, finder=found.finder, stop=stop)
        examples = trainer.data.split(split)
        if resize_to is None and trainer.data.streamed == found.description.streamed:  # else they are other pixels
            check_data(found.folder, trainer)
        state = restore(found.folder, trainer, checkpoint)
        if views == "center":
            metrics = trainer.evaluate(examples, state).metrics
        else:
            metrics = score_views(trainer, state.variables, examples, views, experiment.data, scales)
    return {f"{split}/{name}": float(value) for name, value in metrics.items()}


def _train(
    experiment: Experiment, path: Path, finder: Finder, sources: Sources, *, progress: bool, command: str
) -> Run:
    folder, found, started = RunFolder(path), Run(path, finder), time.perf_counter()
    record: Record | None = None
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopFlag())
        stack.enter_context(only_here(folder))
        if folder.finished:
            _sayer(progress)(describe_finished(found))
            return found
        try:
            begun = found.description if folder.begun else None
            trainer = Trainer.from_experiment(experiment, begun=begun, finder=finder, stop=stop)
            record = make_record(experiment, folder, trainer, sources, finder, command, started, progress=progress)
            record.train()
        except Stopped as stopped:
            if jax.process_index() == 0:
                folder.write_once("experiment", experiments.to_dict(experiment))  # a stop while loading comes before
            more = " --distributed" if jax.process_count() > 1 else ""
            again = f"jaxcnn train --resume {shlex.quote(str(path))}{more}"
            step = record.position.step if record else 0
            raise Stopped(stopped.signum, f"stopped after step {step}; go on with: {again}") from stopped
    return found


@contextlib.contextmanager
def only_here(folder: RunFolder) -> Iterator[None]:
    """Keep other processes from training into a folder; of several that train together, the first does."""
    with contextlib.ExitStack() as stack:
        with together():
            if jax.process_index() == 0:
                stack.enter_context(folder.locked())
        yield


def make_record(
    experiment: Experiment,
    folder: RunFolder,
    trainer: Trainer,
    sources: Sources,
    finder: Finder,
    command: str,
    started: float,
    **options: Any,
) -> Record:
    """Return the record of an experiment's run."""

    def identify() -> None:
        folder.write_once("experiment", experiments.to_dict(experiment))
        programs = programs_of(experiment, trainer.data.describe(), sources, finder)
        known = folder.read("program")["sources"] if folder.has("program") else []
        if sources.sha256 not in known:
            values = {"sources": [*known, sources.sha256], "files": dict(sources.files), **programs.to_json()}
            folder.write("program", values)

    notes = {**options.pop("notes", {}), "command": command}
    if folder.has("continued"):
        notes["continued"] = folder.read("continued")
    return Record(
        trainer, folder.path, name=experiment.name, notes=notes, started=started, identify=identify, **options
    )


def describe_finished(found: Run) -> str:
    """Return in one line that a run is only read back."""
    commit = found.folder.read("environment").get("commit") if found.folder.has("environment") else None
    of = f", commit {commit[:7]}" if commit else ""
    when = f" on {found.result['finished'][:10]}" if "finished" in found.result else ""
    return f"{found.path}: finished{when}{of}; not trained again"


def _sayer(progress: bool) -> Any:
    """Return what prints a line on stderr, where progress is shown, in the first process."""

    def say(text: str) -> None:
        if progress and jax.process_index() == 0:
            print(f"jaxcnn: {text}", file=sys.stderr)

    return say


def _on_one_device(experiment: Experiment) -> Experiment:
    train = replace(experiment.train, devices=jax.process_count(), parallel="jit", accumulation_steps=1)
    return replace(experiment, train=train)


def _to_evaluate(experiment: Experiment) -> Experiment:
    """Return the experiment as any machine can score it: devices and parts of a batch are for training."""
    train, found = experiment.train, jax.device_count()
    devices = math.gcd(train.batch_size, min(train.devices or found, found))
    return replace(experiment, train=replace(train, devices=devices, parallel="jit", accumulation_steps=1))


def restore(folder: RunFolder, trainer: Trainer, which: str) -> TrainState:
    """Return the state of the "last" or the "best" checkpoint."""
    checkpoints, like = folder.checkpoints, trainer.abstract_state()
    if which == "last":
        try:
            state, _, reports = checkpoints.restore_newest(like)
        except LookupError as error:
            raise UsageError(f"{folder.path} has no checkpoint yet") from error
        for report in reports:
            print(f"jaxcnn: {report}", file=sys.stderr)
        return state
    if which != "best":
        raise unknown("checkpoint", which, ["best", "last"])
    step = folder.best_step(*trainer.task.best)
    if step is None:
        raise UsageError(f"{folder.path} has no best checkpoint: it was never evaluated while training")
    try:
        return checkpoints.restore(step, like)[0]
    except DamagedCheckpoint as error:
        raise RunError(f"checkpoint {checkpoints.path(step)} is damaged: {error}") from error
