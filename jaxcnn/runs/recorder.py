"""The effects of a training loop on its run folder and on the screen."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data import Dataset, Examples
from jaxcnn.errors import RunError, UsageError
from jaxcnn.runs.folder import best_step, write_json
from jaxcnn.runs.session import Session
from jaxcnn.stop import Stopped
from jaxcnn.train.checkpoint import Checkpoints
from jaxcnn.train.evaluate import Scores
from jaxcnn.train.log import Log, read_metrics
from jaxcnn.train.loop import Effects, NonFinite, Position
from jaxcnn.train.progress import Shown
from jaxcnn.train.state import TrainState, params_sha256

# Bad examples of a split that `result.json` names.
_BAD_NAMED = 100


@dataclass
class Recorder:
    """Scores, logs, saves and shows what the loop trains."""

    session: Session
    folder: Path
    checkpoints: Checkpoints
    shown: Shown
    started: float
    """When the run would have begun, had it never been interrupted, by `time.perf_counter`."""
    log: Log | None
    """None in all processes but the first, which alone writes."""
    together: dict[str, Any] | None = None
    """The seeds that train together and how, for `result.json`."""
    _told: dict[str, set[str]] = field(default_factory=dict)

    def effects(self) -> Effects:
        """Return what `fit` is to call."""
        session = self.session
        return Effects(
            train=session.train_step,
            arguments=session.arguments,
            view=session.parallel.view,
            window=session.parallel.window,
            log_metrics=self.log_metrics,
            evaluate=self.evaluate,
            complete=self.complete,
            save=self.save,
            stop_requested=session.stop_requested,
            progress=self.shown.step,
        )

    def log_metrics(self, state: TrainState, sums: dict[str, float], position: Position) -> None:
        """Write the row of training metrics."""
        self._tell_bad()
        if not sums["count"]:
            self.shown.say(f"no row for step {position.step}: none of the examples since the last one can be used")
            return
        metrics = self.session.task.metrics(sums, self.session.num_classes)
        row = {f"train/{name}": value for name, value in metrics.items()}
        row["learning_rate"] = self.session.learning_rate(state)
        rate = position.examples_per_second
        self._write(position.step, row, rate)
        if self.log is not None:
            timing = {
                "examples_per_second": rate,
                "input_wait": position.input_wait,
                "wall_seconds": time.perf_counter() - self.started,
            }
            self.log.write_timing(position.step, timing)

    def evaluate(self, state: TrainState) -> None:
        """Score the validation split, or the test split where there is none, and write the row."""
        dataset = self.session.dataset
        name, split = ("test", dataset.test) if dataset.val is None else ("val", dataset.val)
        self._score(name, split, state, int(state.step))

    def complete(self, state: TrainState) -> TrainState:
        """Return the final state: with exact BatchNorm statistics, where the experiment asks for them."""
        if not self.session.experiment.train.recompute_batch_stats:
            return state
        self.shown.doing("measuring statistics")
        return self.session.recompute_batch_stats(state)

    def save(self, state: TrainState, position: Position) -> None:
        """Save a checkpoint, and remove those that are no longer kept."""
        self.shown.doing("saving")
        position.wall_seconds = time.perf_counter() - self.started
        position.bad_examples = self.session.bad_examples()
        if self.log is not None:
            self.log.sync()
        self.checkpoints.save(position.step, state, vars(position))
        if self.log is not None:
            self.checkpoints.prune(self.session.experiment.checkpoint.keep, best_step(self.folder, self.checkpoints))
        self.shown.doing("training")

    def finish(self, state: TrainState, position: Position, command: str) -> None:
        """Take the final scores and write what a finished run has."""
        dataset = self.session.dataset
        metrics: dict[str, float] = {}
        if dataset.val is not None:
            metrics |= self._score("val", dataset.val, state, position.step).metrics
        scores = self._score("test", dataset.test, state, position.step)
        if self.log is None:
            return
        np.savez(self.folder / "predictions.npz", logits=scores.logits, labels=scores.labels)
        self._draw(dataset.test, scores)
        result = {
            "metrics": metrics | scores.metrics,
            "examples": {name: len(split) for name, split in dataset.splits().items()},
            "note": dataset.note,
            "examples_per_second": position.examples_per_second,
            "input_wait": position.input_wait,
            "wall_seconds": time.perf_counter() - self.started,
            "params_sha256": params_sha256(state.params),
        }
        self.note("finished", position, command, **result)

    @contextlib.contextmanager
    def noting(self, position: Position, command: str) -> Iterator[None]:
        """Write what ended the run, where something within does.

        Raises:
          RunError: for a loss that is not finite and for a disk that is full, with the checkpoint to go on from.
        """
        try:
            yield
        except Stopped:
            self.note("stopped", position, command)
            raise
        except (NonFinite, RunError, OSError) as error:
            with contextlib.suppress(OSError):
                self.note("failed", position, command, error=_line(error))
            raise RunError(f"{_line(error)}: stopped; {self.checkpoints.describe_newest()}") from error

    def note(self, status: str, position: Position, command: str, **values: Any) -> None:
        """Write `result.json`."""
        if self.log is not None:
            experiment = self.session.experiment
            identity = {"status": status, "name": experiment.name, "seed": experiment.seed, "step": position.step}
            shared = {} if self.together is None else {"together": self.together}
            bad = {"bad_examples": _describe_bad(self.session.dataset)}
            write_json(self.folder / "result.json", {**identity, **values, **bad, **shared, "command": command})

    def _tell_bad(self) -> None:
        """Name the examples that turned out to be of no use since this was last called."""
        for split, examples in self.session.dataset.splits().items():
            told = self._told.setdefault(split, set())
            for bad in examples.bad:
                if bad.name not in told:
                    told.add(bad.name)
                    self.shown.say(f"passed over an example of {split}: {bad.name}: {bad.reason}")

    def _score(self, name: str, split: Examples, state: TrainState, step: int) -> Scores:
        self.shown.doing("evaluating")
        scores = self.session.evaluate(state.variables, split)
        if not np.isfinite(scores.metrics["loss"]):
            raise NonFinite(f"the {name} loss", step)
        scores = scores._replace(metrics={f"{name}/{key}": value for key, value in scores.metrics.items()})
        self._write(step, scores.metrics, 0.0)
        self._tell_bad()
        self.shown.doing("training")
        return scores

    def _write(self, step: int, row: dict[str, float], rate: float) -> None:
        if self.log is not None:
            self.log.write(step, row)
        self.shown.row(step, row, rate)

    def _draw(self, test: Examples, scores: Scores) -> None:
        from jaxcnn.report.figures import write_figures

        places = np.flatnonzero(scores.usable)

        def images(chosen: np.ndarray) -> np.ndarray:
            (batch,) = test.batches([places[chosen]])
            return batch["image"]

        try:
            rows = read_metrics(self.folder / "metrics.jsonl")
            names = self.session.dataset.class_names
            write_figures(self.folder, rows, images, scores.logits, scores.labels, names)
        except UsageError as error:  # matplotlib is an extra
            self.shown.say(f"no figures: {error}")


def _describe_bad(dataset: Dataset) -> dict[str, Any]:
    """Return how many examples of each split are of no use, and the first of them."""
    found = {name: split.bad for name, split in dataset.splits().items() if split.bad}
    return {
        name: {"count": len(bad), "examples": [example._asdict() for example in bad[:_BAD_NAMED]]}
        for name, bad in found.items()
    }


def _line(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}" + (f": {error.filename}" if error.filename else "")
    return str(error)
