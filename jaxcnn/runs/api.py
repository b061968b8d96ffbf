"""Runs: training into a folder, going on with one, and scoring one."""

import contextlib
import math
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import jax

from jaxcnn import experiment as experiments
from jaxcnn.data.views import check_views
from jaxcnn.errors import UsageError
from jaxcnn.experiment import Experiment, kept
from jaxcnn.runs.averaging import score_views
from jaxcnn.runs.build import load_together
from jaxcnn.runs.folder import RunFolder
from jaxcnn.runs.identity import Programs, programs_of
from jaxcnn.runs.loaded import Run, load_run, on_devices
from jaxcnn.runs.record import Record, check_data
from jaxcnn.runs.trainer import Trainer
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.train.parallel import gathered, together
from jaxcnn.train.schedules import find_schedule


def run(experiment: Experiment, runs_dir: str | Path = "runs", *, progress: bool = True, command: str = "") -> Run:
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
    return _train(find(experiment, runs_dir, progress), progress, command)


def find(experiment: Experiment, runs_dir: str | Path, progress: bool) -> Run:
    """Return the run of an experiment of one seed whose sources or programs are today's, or a new one.

    Raises:
      UsageError: a part cannot be found.
    """
    first = Path(runs_dir) / experiment.name / experiments.fingerprint(experiment)
    paths = [first, *sorted(first.parent.glob(f"{first.name}-*"))]
    runs = [Run(path, experiment.finder, experiment) for path in paths]
    there = [run for run in runs if run.folder.has("program") and run.folder.has("data")]
    for run in there:  # before any program is traced
        if run.sources.sha256 in run.folder.read("program")["sources"]:
            return run
    for run in there:
        if (differs := _differs(run, progress)) is None:
            return run
    if not there:
        return runs[0]
    taken = {path.name for path in paths}
    path = next(path for n in range(2, len(taken) + 3) if (path := Path(f"{first}-{n}")).name not in taken)
    _say(progress, f"{there[-1].path} was computed by another program ({differs}): trained anew in {path}")
    return Run(path, experiment.finder, experiment)


def _differs(run: Run, progress: bool) -> str | None:
    """Return how a run's programs differ from today's, as part of a sentence; None: they are the same.

    Where only sources differ, that is said and noted.
    """
    saved, sources = run.folder.read("program"), run.sources
    if sources.sha256 in saved["sources"]:
        return None
    try:
        then = Programs.from_json(saved)
    except UsageError as error:
        return f"another version of jaxcnn wrote its program.json: {error}"
    now = programs_of(run.experiment, run.description, sources, run.finder, then.platform)
    if (differs := now.differs(then)) is None:
        with contextlib.suppress(OSError):  # a run that is only to be read costs time each time
            run.folder.write("program", saved | {"sources": [*saved["sources"], sources.sha256]})
        _say(progress, f"{run.path}: its code has changed, what it computes has not: it is the same run")
    return differs


def resume(
    folder: str | Path,
    experiment: Experiment | None = None,
    *,
    progress: bool = True,
    command: str = "",
    code: Sequence[str | Path] = (),
    accept_program: bool = False,
) -> Run:
    """Go on with the run in `folder`; with `experiment`, only if it differs in nothing that matters.

    A finished run is continued where `experiment` has more steps or epochs, as a new run that starts from its last
    checkpoint, if no step's learning rate depends on how many there are.

    Args:
      folder: of the run.
      experiment: in place of the run's.
      progress: show progress on stderr.
      command: noted in `result.json`.
      code: see `load_run`.
      accept_program: go on even where the code has changed what is computed.

    Raises:
      UsageError: no run there, the first field that differs, or how the program differs.
      RunError, Stopped: as `run`.
    """
    found = load_run(folder, code=code)
    differ: Mapping[str, Any] = {}
    if experiment is not None:
        if experiment.train.seeds != 1:
            seeds = experiment.train.seeds
            raise UsageError(f"train.seeds is {seeds}: cannot resume {folder}, which is the run of one")
        differ = experiments.differences(experiment, found.experiment)
        if set(differ) - {"train.steps", "train.epochs"} or (differ and not found.folder.finished):
            raise UsageError(f"cannot resume {folder}: {experiments.difference(experiment, found.experiment)}")
        finder = found.finder
        if experiment.code is not None:  # the file was named by whoever asks; what a run names is data
            finder = replace(finder, folders=(experiment.code, *finder.folders), installed=True)
        found = Run(found.path, finder, found.experiment if differ else experiment)
    computes = found.folder.has("program") and found.folder.has("data") and (differ or not found.folder.finished)
    differs = _differs(found, progress) if computes else None
    if differs and not accept_program:
        raise UsageError(
            f"cannot resume {folder}: it was computed by another program ({differs}); --accept-program goes on with "
            "today's, the command that made it trains anew"
        )
    if differ and experiment is not None:
        found = _continued(found, experiment, progress)
    return _train(found, progress, command)


def _continued(found: Run, experiment: Experiment, progress: bool) -> Run:
    """Return the run that goes on where a finished one ended, with what it starts from in its folder."""
    folder = found.folder
    trainer = Trainer.from_experiment(experiment, data=found.description, finder=found.finder)
    step, total = found.result["step"], trainer.timetable.total_steps
    schedule = find_schedule(experiment.schedule, found.finder)
    why = ""
    if total <= step:
        raise UsageError(f"cannot continue {folder.path}, which has {step} steps, to {total}: expected more")
    if not schedule.goes_on:
        name = getattr(experiment.schedule, "name", type(schedule).__name__)
        why = f"schedule {name} shares out all steps, so more of them change those that were made; Constant, "
        why += "StepDecay, Plateau and functions of the step alone go on"
    elif experiment.train.recompute_batch_stats:
        why = "train.recompute_batch_stats changed its end"
    elif found.result.get("ended"):
        why = "a callback ended it"
    if why:
        raise UsageError(f"cannot continue {folder.path}: {why}")
    new = RunFolder(folder.path.parent / experiments.fingerprint(experiment))
    if not new.begun:
        new.path.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder.checkpoints.path(step), new.checkpoints.path(step), copy_function=_link)
        for name in ("metrics.jsonl", "timings.jsonl", "data.json", "program.json"):
            shutil.copy(folder.path / name, new.path / name)
        new.write("continued", {"run": str(folder.path), "step": step})
    _say(progress, f"{new.path} continues {folder.path} from step {step} to {total}")
    return Run(new.path, found.finder, experiment)


def _link(source: str, target: str) -> None:
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def evaluate(
    folder: str | Path,
    *,
    split: str = "test",
    checkpoint: str = "last",
    views: str = "center",
    scales: Sequence[int] = (),
    resize_to: int | None = None,
    data_path: str | Path | None = None,
    code: Sequence[str | Path] = (),
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
      data_path: where the run's data are now, in place of `data.path`.
      code: see `load_run`.

    Raises:
      UsageError: no such run, split or checkpoint, or its data are no longer those it was trained on.
      RunError: the checkpoint is damaged and there is no other.
      Stopped: on a signal.
    """
    found = load_run(folder, code=code)
    experiment, there = found.experiment, jax.device_count()
    devices = math.gcd(experiment.train.batch_size, min(experiment.train.devices or there, there))
    experiment = on_devices(experiment, devices)
    with StopFlag() as stop:
        if data_path is not None:
            experiment = experiment.override({"data.path": data_path})
        begun, original = found.description, experiment.data
        if resize_to is not None:
            experiment = experiment.override({"data.resize_to": resize_to})
        check_views(views, scales, experiment.data)
        streamed = begun.streamed or views != "center"
        trainer = Trainer.from_experiment(
            experiment, begun=replace(begun, streamed=streamed), finder=found.finder, stop=stop
        )
        examples, same = trainer.data.split(split), trainer.data
        if not begun.streamed and (streamed or resize_to):  # checksums are of the pixels that the run was trained on
            same = load_together(original, trainer.task, found.finder, stop.check, False, begun.norms)
        check_data(found.folder, same)
        state = found.restore(checkpoint, trainer)
        if views == "center":
            metrics = trainer.evaluate(examples, state).metrics
        else:
            metrics = score_views(trainer, state.variables, examples, experiment.data, views, scales)
    return {f"{split}/{name}": float(value) for name, value in metrics.items()}


def _train(found: Run, progress: bool, command: str) -> Run:
    started, record = time.perf_counter(), None
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopFlag())
        # All processes do as the first one sees it: a shared disk may not show the same to each.
        if not (finished := gathered(found.folder.finished)[0]):  # else nothing is written: its disk may be read-only
            stack.enter_context(_only_here(found.folder))
        if finished or gathered(found.folder.finished)[0]:
            _say(progress, describe_finished(found))
            return found
        try:
            begun = found.description if found.folder.begun else None
            trainer = Trainer.from_experiment(found.experiment, begun=begun, finder=found.finder, stop=stop)
            record = make_record(found, trainer, command, started, progress=progress)
            record.train()
        except Stopped as stopped:
            if jax.process_index() == 0:
                found.folder.write_once("experiment", kept(found.experiment))  # it may come before
            more = " --distributed" if jax.process_count() > 1 else ""
            again = f"jaxcnn train --resume {shlex.quote(str(found.path))}{more}"
            step = record.position.step if record else 0
            raise Stopped(stopped.signum, f"stopped after step {step}; go on with: {again}") from stopped
    return found


@contextlib.contextmanager
def _only_here(folder: RunFolder) -> Iterator[None]:
    """Keep other processes from training into a folder; of several that train together, the first does."""
    with contextlib.ExitStack() as stack:
        with together():
            if jax.process_index() == 0:
                stack.enter_context(folder.locked())
        yield


def make_record(run: Run, trainer: Trainer, command: str, started: float, **options: Any) -> Record:
    """Return the record of a run; see `Record` for the options."""
    folder = run.folder

    def identify() -> None:
        folder.write_once("experiment", kept(run.experiment))
        known = folder.find("program").get("sources", [])
        if run.sources.sha256 not in known:
            programs = programs_of(run.experiment, trainer.data.describe(), run.sources, run.finder)
            values = {"sources": [*known, run.sources.sha256], "files": dict(run.sources.files)}
            folder.write("program", values | asdict(programs))

    notes = {**options.pop("notes", {}), "command": command}
    if continued := folder.find("continued"):
        notes["continued"] = continued
    own = {
        "seed": run.experiment.seed,
        "name": run.experiment.name,
        "notes": notes,
        "started": started,
        "identify": identify,
    }
    return Record(trainer, run.path, **own, **options)  # type: ignore[arg-type]


def describe_finished(run: Run) -> str:
    """Return in one line that a run is only read back."""
    commit = run.folder.find("environment").get("commit")
    of = f", commit {commit[:7]}" if commit else ""
    finished = run.result.get("finished")
    when = f" on {finished[:10]}" if finished else ""
    return f"{run.path}: finished{when}{of}; not trained again"


def _say(progress: bool, text: str) -> None:
    if progress and jax.process_index() == 0:
        print(f"jaxcnn: {text}", file=sys.stderr)
