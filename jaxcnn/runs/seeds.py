"""Several seeds of one experiment, trained together into a run folder each."""

import contextlib
import time
from dataclasses import replace
from pathlib import Path

import jax

from jaxcnn.errors import RunError, UsageError
from jaxcnn.experiment import Experiment
from jaxcnn.runs.api import Run, run_folder
from jaxcnn.runs.folder import locked, write_experiment
from jaxcnn.runs.session import Session
from jaxcnn.runs.sitting import Sitting
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.train.checkpoint import Checkpoints
from jaxcnn.train.loop import training
from jaxcnn.train.parallel import choose_devices
from jaxcnn.train.progress import SeedsProgress, TrainProgress
from jaxcnn.train.seeds import Mode, Sequential, Stacked, TrainingClock, Way, choose_mode, train_together


def run_seeds(
    experiment: Experiment, runs_dir: str | Path = "runs", *, progress: bool = True, command: str = ""
) -> list[Run]:
    """Train the seeds of an experiment together and return their runs, in the order of the seeds.

    Each is a run like any other, which `resume`, `evaluate` and the reports know; `train.seeds_mode` says how far it is
    that of its seed alone. The data are loaded and the step is compiled once for all. Those that have finished are
    not trained again, and those that were interrupted go on, wherever each stands. One whose loss is not finite, or
    for which the disk is full, fails alone: its `result` then says "failed" and why.

    Args:
      experiment: with `train.seeds`, the first of which is `seed`.
      runs_dir: the run folders are those of the seeds alone.
      progress: show progress on stderr.
      command: noted in each `result.json`.

    Raises:
      UsageError: the experiment cannot be, or another process is using one of the folders.
      Stopped: on SIGTERM or Ctrl-C, after saving all.
    """
    started = time.perf_counter()
    if jax.process_count() > 1:
        raise UsageError("train.seeds is for one process: to use several, train each seed by itself")
    train = experiment.train
    devices = choose_devices(train.devices)
    mode = choose_mode(train.seeds_mode, len(devices), train.parallel) if train.seeds > 1 else "sequential"
    alone = seeds_alone(experiment, mode)
    runs = [Run(run_folder(each, runs_dir)) for each in alone]
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopFlag())
        for run in runs:
            stack.enter_context(locked(run.path))
        left = {each.seed: (each, run) for each, run in zip(alone, runs, strict=True) if not _finished(run)}
        try:
            if left:
                _train(left, mode, devices, stop, started, progress=progress, command=command)
        except Stopped as stopped:
            for each, run in left.values():
                write_experiment(run.path, each)  # a stop while loading comes before it was
            more = "the same command goes on with all seeds, jaxcnn train --resume RUN with one of them alone"
            raise Stopped(stopped.signum, f"stopped; {more}") from stopped
    return runs


def seeds_alone(experiment: Experiment, mode: Mode) -> list[Experiment]:
    """Return the experiments of one seed that an experiment of several seeds stands for."""
    train = replace(experiment.train, seeds=1, seeds_mode="auto")
    if mode == "devices":
        train = replace(train, devices=1)
    first = experiment.seed
    return [replace(experiment, seed=first + n, train=train) for n in range(experiment.train.seeds)]


def _finished(run: Run) -> bool:
    return run.result.get("status") == "finished"


def _train(
    left: dict[int, tuple[Experiment, Run]],
    mode: Mode,
    devices: list[jax.Device],
    stop: StopFlag,
    started: float,
    *,
    progress: bool,
    command: str,
) -> None:
    seeds = list(left)
    sessions = _sessions(left, stop)
    own_step = mode == "sequential"
    sittings = [Sitting(session, left[seed][1].path, own_step=own_step) for seed, session in sessions.items()]
    base = sessions[seeds[0]]
    way = make_way(base, mode, len(seeds), devices)
    timetable = base.timetable
    first_step = min(sitting.position.step for sitting in sittings)
    together = {"mode": mode, "seeds": seeds}
    with TrainProgress(timetable.total_steps, first_step, len(seeds) * timetable.batch_size, enabled=progress) as shown:
        shown.say(f"training seeds {', '.join(map(str, seeds))} together ({mode}); numbers are means over them")
        told = SeedsProgress(shown)
        clock = TrainingClock()
        recorders, positions, trainings = [], [], []
        for seed, sitting in zip(seeds, sittings, strict=True):
            recorder = sitting.begin(told.of(seed), started, together)
            effects = clock.keep(replace(recorder.effects(), view=way.view))
            trainings.append(training(sitting.state, sitting.position, timetable, effects))
            recorders.append(recorder)
            positions.append(sitting.position)
        del sittings, sitting, recorder, effects  # the states before the first step, which nobody needs any more
        stopped: Stopped | None = None
        for number, outcome in train_together(trainings, way, told.refresh):
            recorder, position = recorders[number], positions[number]
            try:
                with recorder.noting(position, command):
                    if isinstance(outcome, Exception):
                        raise outcome
                    clock.leave_out(recorder.finish)(outcome, position, command)
            except Stopped as error:
                stopped = error
            except RunError as error:
                shown.say(f"seed {seeds[number]}: {error}")
            sessions[seeds[number]].close()
            told.ended(seeds[number])
        if stopped is not None:
            raise stopped


def _sessions(left: dict[int, tuple[Experiment, Run]], stop: StopFlag) -> dict[int, Session]:
    """Return a session for each seed, all sharing what no seed changes."""
    begun = {seed: run.norms for seed, (_, run) in left.items() if Checkpoints(run.path / "checkpoints").steps()}
    # One that has not begun needs the weights to start from, and the normalisation that comes with them.
    model = next((seed for seed in left if seed not in begun), next(iter(left)))
    streamed = next((run.streamed for _, run in left.values() if run.streamed is not None), None)
    base = Session(left[model][0], stop, begun.get(model), streamed)
    for seed, (mean, std) in begun.items():
        if not ((mean == base.mean).all() and (std == base.std).all()):
            raise UsageError(f"{left[seed][1].path} normalises its images otherwise: go on with it alone, by --resume")
    return {seed: base if seed == model else base.for_seed(seed) for seed in left}


def make_way(session: Session, mode: Mode, runs: int, devices: list[jax.Device]) -> Way:
    """Return how the steps of so many runs are computed.

    Args:
      session: of any of the seeds; on one device, but for "sequential".
      mode: which way.
      runs: how many.
      devices: there are; "sequential" uses those of the session.
    """
    if mode == "sequential":
        return Sequential(session.train_step, session.parallel.view)
    if mode == "devices":  # as few as do not take longer: 9 seeds on 8 devices are two rounds, as on 5
        rounds = -(-runs // len(devices))
        devices = devices[: -(-runs // rounds)]
    rows = len(devices) if mode == "devices" else runs
    state = session.abstract_state(session.parallel.replicated)
    example = state, session.parallel.window({}), session.example_arguments(0)
    return Stacked(session.run_step, example, devices, rows, session.parallel.place)
