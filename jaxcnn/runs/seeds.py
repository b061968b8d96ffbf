"""Several seeds of one experiment, trained together into a run folder each."""

import contextlib
import queue
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax

from jaxcnn.errors import RunError, UsageError
from jaxcnn.experiment import Experiment, kept
from jaxcnn.progress import SeedsProgress, TrainProgress
from jaxcnn.runs.api import find, make_record
from jaxcnn.runs.loaded import Run
from jaxcnn.runs.trainer import Trainer
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.train.parallel import choose_devices
from jaxcnn.train.together import Together

Mode = Literal["sequential", "devices", "vmap"]

_REFRESH_SECONDS = 0.25


def run_seeds(
    experiment: Experiment, runs_dir: str | Path = "runs", *, progress: bool = True, command: str = ""
) -> list[Run]:
    """Train the seeds of an experiment and return their runs, in the order of the seeds.

    Each is a run like any other, which `resume`, `evaluate` and the reports know; `train.seeds_mode` says how far it is
    that of its seed alone. The data are loaded once for all. Those that have finished are not trained again, and those
    that were interrupted go on, wherever each stands. One whose loss is not finite, or for which the disk is full,
    fails alone: its `result` then says "failed" and why.

    Args:
      experiment: with `train.seeds`, the first of which is `seed`.
      runs_dir: the run folders are those of the seeds alone.
      progress: show progress on stderr.
      command: noted in each `result.json`.

    Raises:
      UsageError: the experiment cannot be, or another process is using one of the folders.
      Stopped: on SIGTERM or Ctrl-C, after saving all that were under way.
    """
    if jax.process_count() > 1:
        raise UsageError("train.seeds is for one process: to use several, train each seed by itself")
    started, train = time.perf_counter(), experiment.train
    devices = choose_devices(train.devices)
    mode = choose_mode(train.seeds_mode, len(devices), train.parallel) if train.seeds > 1 else "sequential"
    alone = seeds_alone(experiment, mode)
    runs: list[Run] = []
    with contextlib.ExitStack() as stack:
        stop = stack.enter_context(StopFlag())
        runs = [find(each, runs_dir, progress) for each in alone]
        for run in runs:
            if not run.folder.finished:
                stack.enter_context(run.folder.locked())
        left = [run for run in runs if not run.folder.finished]
        try:
            if left:
                _Seeds(left, mode, devices, stop, started, progress, command).train()
        except Stopped as stopped:
            for run in left:
                run.folder.write_once("experiment", kept(run.experiment))  # a stop while loading comes before it was
            more = "the same command goes on with all seeds, jaxcnn train --resume RUN with one of them alone"
            raise Stopped(stopped.signum, f"stopped; {more}") from stopped
    return runs


def choose_mode(asked: Literal["auto"] | Mode, devices: int, parallel: Literal["jit", "pmap"]) -> Mode:
    """Return how to train several seeds on so many devices.

    A choice of ours is never between ways that differ in their bits, and never depends on a clock: the same command
    on the same hardware gives the same bits.

    Raises:
      UsageError: what is asked for cannot be.
    """
    if asked == "auto":
        return "devices" if devices > 1 and parallel == "jit" else "sequential"
    if asked != "sequential" and parallel == "pmap":
        raise UsageError(f"train.seeds_mode is {asked}, but train.parallel pmap trains seeds sequentially only")
    if asked == "vmap" and devices > 1:
        raise UsageError(f"train.seeds_mode is vmap, which uses one device of {devices}: give train.devices 1, too")
    return asked


def seeds_alone(experiment: Experiment, mode: Mode) -> list[Experiment]:
    """Return the experiments of one seed that an experiment of several seeds stands for."""
    train = replace(experiment.train, seeds=1, seeds_mode="auto")
    if mode == "devices":
        train = replace(train, devices=1)
    first = experiment.seed
    return [replace(experiment, seed=first + n, train=train) for n in range(experiment.train.seeds)]


@dataclass
class _Seeds:
    """Runs that are to be trained."""

    left: list[Run]
    mode: Mode
    devices: list[jax.Device]
    stop: StopFlag
    started: float
    progress: bool
    command: str

    def train(self) -> None:
        """Train all.

        Raises:
          Stopped: on a signal, when all that were under way have been saved.
        """
        trainer, left = self._trainer(), range(len(self.left))
        if self.mode == "sequential":
            for number in left:
                self._one(number, trainer)
            return
        table, seeds = trainer.timetable, [run.experiment.seed for run in self.left]
        rate = len(left) * table.batch_size
        with TrainProgress(table.total_steps, 0, rate, enabled=self.progress) as shown:
            told = SeedsProgress(shown)
            shown.say(
                f"training seeds {', '.join(map(str, seeds))} together ({self.mode}); numbers are means over them"
            )
            if self.mode == "vmap":
                threads, way = len(left), Together(trainer.step, trainer.inputs, len(left), trainer.parallel)
                work = [partial(self._one, number, trainer, told, way) for number in left]
            else:
                threads, free = min(len(left), len(self.devices)), queue.SimpleQueue[Trainer]()
                for device in self.devices[:threads]:
                    free.put(trainer.on([device]))
                work = [partial(self._on_a_device, number, told, free) for number in left]
            with ThreadPoolExecutor(threads) as pool:
                running = [pool.submit(one) for one in work]
                while wait(running, timeout=_REFRESH_SECONDS).not_done:
                    told.refresh()
                told.refresh()
            for each in running:
                each.result()  # raises Stopped, and what nobody expected

    def _trainer(self) -> Trainer:
        """Return what trains them all."""
        begun = [run.folder.begun for run in self.left]
        # One that has not begun needs the weights to start from, and the normalisation that comes with them.
        first = begun.index(False) if False in begun else 0
        described = next((run.description for run in self.left if run.folder.has("data")), None)
        experiment = self.left[first].experiment
        base = Trainer.from_experiment(
            experiment, begun=described if begun[first] else None, finder=experiment.finder, stop=self.stop
        )
        for run, has_begun in zip(self.left, begun, strict=True):
            ours, theirs = base.data.norms, run.description.norms if has_begun else base.data.norms
            if any((a != b).any() for a, b in zip(ours or (), theirs or (), strict=True)):
                raise UsageError(f"{run.path} normalises its images otherwise: go on with it alone, by --resume")
        return base

    def _on_a_device(self, number: int, told: SeedsProgress, free: "queue.SimpleQueue[Trainer]") -> None:
        trainer = free.get()
        try:
            self._one(number, trainer, told)
        finally:
            free.put(trainer)

    def _one(
        self, number: int, trainer: Trainer, told: SeedsProgress | None = None, way: Together | None = None
    ) -> None:
        """Train one seed; what ends it alone is in its `result.json`."""
        run = self.left[number]
        seed, options = run.experiment.seed, dict[str, Any](progress=self.progress)
        if told is not None:
            seeds = [run.experiment.seed for run in self.left]
            options = {"shown": told.of(seed), "notes": {"together": {"mode": self.mode, "seeds": seeds}}}
        if self.mode == "vmap":  # the other ways change no bits
            options["sitting"] = {"seeds_mode": "vmap"}
        record = make_record(run, trainer, self.command, self.started, **options)
        try:
            record.train(*(() if way is None else (way.step_of(number), way.whole)))
        except RunError as error:
            print(f"jaxcnn: seed {seed}: {error}", file=sys.stderr)
        finally:
            if way is not None:
                way.leave(number)
            if told is not None:
                told.ended(seed)
