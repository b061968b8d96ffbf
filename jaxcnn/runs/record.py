"""A run under way: what the training loop does to the run folder and to the screen."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxcnn.data import Examples
from jaxcnn.environment import environment
from jaxcnn.errors import RunError, UsageError, line
from jaxcnn.files import write_atomically
from jaxcnn.progress import Shown, TrainProgress
from jaxcnn.runs.folder import RunFolder
from jaxcnn.stop import Stopped
from jaxcnn.tasks import Finished
from jaxcnn.train.callbacks import Stop, of_run
from jaxcnn.train.evaluate import Scores
from jaxcnn.train.inputs import InputStream
from jaxcnn.train.log import Log
from jaxcnn.train.loop import NonFinite, Position, Totals, fit
from jaxcnn.train.parallel import together
from jaxcnn.train.state import TrainState, params_sha256
from jaxcnn.train.step import Sums
from jaxcnn.typed import check

# Files that are no examples, of which a message names so many.
_LISTED = 5


class Record:
    """Trains one seed, scores, logs, saves and shows.

    Attributes:
      position: where the run stands.
      rows: of metrics, as they are logged.
      state: the final state; None before.
    """

    def __init__(
        self,
        trainer: Any,
        folder: Path | None,
        *,
        seed: int | None = None,
        progress: bool = True,
        shown: Shown | None = None,
        name: str = "",
        notes: Mapping[str, Any] | None = None,
        sitting: Mapping[str, Any] | None = None,
        started: float | None = None,
        identify: Callable[[], None] = lambda: None,
    ) -> None:
        """Nothing is read or written before `train`.

        Args:
          trainer: what is to be trained: a `runs.Trainer`, which lies above.
          folder: of the run; None: it has none.
          seed: in place of the trainer's.
          progress: show progress on stderr, in a bar of its own where it is not `shown` somewhere.
          name, notes: for `result.json`; `sitting`: more for `environment.json`.
          started: when this sitting began, by `time.perf_counter`.
          identify: writes what else tells the run from others; called while the step compiles.
        """
        self.trainer, self.folder = trainer, None if folder is None else RunFolder(folder)
        self.position, self.rows = Position(), list[dict[str, Any]]()
        self.state: TrainState | None = None
        seed = trainer.seed if seed is None else seed
        self._key = jax.random.key(seed)
        self._first = jax.process_index() == 0
        self._progress = progress and self._first
        self._shown: Any = shown
        self._identity = {"name": name or (folder.name if folder else ""), "seed": seed}
        self._notes, self._sitting = dict(notes or {}), dict(sitting or {})
        self._started, self._identify = time.perf_counter() if started is None else started, identify
        self._log: Log | None = None
        self._reports: list[str] = []
        self._told: dict[str, set[str]] = {}
        self._callbacks = [of_run(callback) for callback in trainer.callbacks]

    def train(self, train_step: Any = None, whole: Any = lambda state: state) -> dict[str, float]:
        """Train to the end, from where the folder stands, and return the final metrics.

        Args:
          train_step: in place of the trainer's own, where several runs share one.
          whole: see `fit`.

        Raises:
          UsageError, RunError, Stopped: see `Trainer.fit`.
        """
        trainer = self.trainer
        with contextlib.ExitStack() as stack:
            inputs = trainer.inputs.stream(self._key)
            stack.callback(inputs.close)
            state, wait = self._begin(inputs, own_step=train_step is None)
            if self._shown is None:
                table = trainer.timetable
                bar = TrainProgress(table.total_steps, self.position.step, table.batch_size, enabled=self._progress)
                self._shown = stack.enter_context(bar)
            self._open()
            with self._noting():
                wait()
                step = train_step or trainer.train_step
                self.state = state = fit(state, self.position, trainer.timetable, step, inputs.at, self, whole)
                return self._finish(state)

    # From where the folder stands ----------------------------------------------------------------------------------

    def _begin(self, inputs: InputStream, own_step: bool) -> tuple[TrainState, Any]:
        """Return the state to go on from, and what waits for the compiler."""
        trainer, folder = self.trainer, self.folder
        newest = 0
        if folder is not None:
            with together():
                check_data(folder, trainer.data, trainer.weights_sha256(self._key))
                if self._first:
                    folder.checkpoints.recover()
            newest = max(folder.checkpoints.steps(), default=0)
        trains = own_step and newest < trainer.timetable.total_steps
        like: Any = trainer.abstract_state()
        compiling = trainer.parallel.compile_meanwhile
        wait = compiling(trainer.train_step, like, inputs.like(newest)) if trains else lambda: None
        if folder is None or not newest:
            return trainer.initial_state(self._key), wait
        state, values, self._reports = folder.checkpoints.restore_newest(like)
        try:
            self.position = check(Position, values, "")
            Totals(self.position.sums)
            trainer.data.restore_bad(self.position.bad_examples)
        except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
            path = folder.checkpoints.path(int(state.step))
            raise RunError(f"the position in {path} is of another version of jaxcnn ({line(error)})") from error
        logged = sum(row["step"] <= self.position.step for row in folder.rows)
        if logged < self.position.rows:
            lost = f"{folder.path}/metrics.jsonl has {logged} of {self.position.rows} rows"
            raise RunError(f"{lost} up to step {self.position.step}: put it back, or remove the folder to train anew")
        return state, wait

    def _open(self) -> None:
        """Make the folder ready to go on, tell what there is to tell, and replay the rows of before."""
        reports, position = self._reports, self.position
        with together():
            if self._first and self.folder is not None:
                reports += self._write_identity()
                (self.folder.path / "result.json").unlink(missing_ok=True)  # of a stop
                self.folder.checkpoints.drop_after(position.step)
                self._log = Log(self.folder.path, position.step, tensorboard=self.trainer.checkpoint.tensorboard)
        if ignored := self.trainer.data.ignored:
            listed = f"{', '.join(ignored[:_LISTED])}{', ...' if len(ignored) > _LISTED else ''}"
            reports.append(f"{len(ignored)} files are not images and are passed over (see data.json): {listed}")
        for report in reports:
            self._shown.say(report)
        self._started -= position.wall_seconds
        before = self.folder.rows if self.folder is not None else []
        self.rows[:] = [row for row in before if row["step"] <= position.step]
        for replay in [callback.replay for callback in self._callbacks if hasattr(callback, "replay")]:
            for row in self.rows:
                replay(row["step"], {name: row[name] for name in row if name != "step"})

    def _write_identity(self) -> list[str]:
        """Write what the run is made of, where that has not been done yet, and return what to report."""
        assert self.folder is not None
        self._identify()
        if not self.folder.has("data"):
            data, weights = self.trainer.data, self.trainer.weights_sha256(self._key)
            more = {"sha256": data.checksums(), "weights_sha256": weights}
            self.folder.write("data", {**data.describe().to_json(), **more})
        here = environment() | self._sitting
        if not self.folder.has("environment"):
            self.folder.write("environment", here)
            return []
        saved = self.folder.read("environment")
        sittings = [saved, *(saved.pop("resumed", None) or [])]
        if sittings[-1] == here:
            return []
        self.folder.write("environment", saved | {"resumed": [*sittings[1:], here]})
        names = [name for name in here | sittings[-1] if sittings[-1].get(name) != here.get(name)]
        told = f"{self.folder.path} goes on where not everything is as before, see its environment.json"
        return [f"{told}: {', '.join(names)}"]

    # What the loop calls -------------------------------------------------------------------------------------------

    def log(self, state: TrainState, sums: Sums, position: Position) -> str:
        """Write the row of training metrics."""
        self._tell_bad()
        step, trainer = position.step, self.trainer
        if not sums["count"]:
            self._shown.say(f"no row for step {step}: none of the examples since the last one can be used")
            return ""
        found = {**trainer.task.metrics(sums["task"]), "loss": float(sums["loss"]) / float(sums["count"])}
        for name, total in sums.get("norms", {}).items():
            found[f"{name}_norm"] = float(total) / int(sums["steps"])
        row = {f"train/{name}": float(value) for name, value in found.items()}
        if (rate := trainer.learning_rate(state)) is not None:
            row["learning_rate"] = rate
        asked = self._write(step, row, state, position.examples_per_second)
        if self._log is not None:
            self._log.write_timing(step, self._timing())
        return asked

    def evaluate(self, state: TrainState) -> str:
        """Score the validation split, or the test split where there is none, and write the row."""
        name = "test" if self.trainer.data.val is None else "val"
        return self._score(name, state)[1]

    def complete(self, state: TrainState) -> TrainState:
        """Return the final state: with exact BatchNorm statistics, where they are asked for."""
        if not self.trainer.train.recompute_batch_stats:
            return state
        self._shown.doing("measuring statistics")
        return self.trainer.recompute_batch_stats(state)

    def save(self, state: TrainState, position: Position) -> None:
        """Save a checkpoint, and remove those that are no longer kept."""
        if self.folder is None:
            return
        self._shown.doing("saving")
        position.wall_seconds = time.perf_counter() - self._started
        position.bad_examples = {name: tuple(bad) for name, bad in self.trainer.data.found_bad().items()}
        position.rows = len(self.rows)
        if self._log is not None:
            self._log.sync()
        self.folder.checkpoints.save(position.step, state, vars(position))
        if self._log is not None:
            best = self.folder.best_step(*self.trainer.task.best)
            self.folder.checkpoints.prune(self.trainer.checkpoint.keep, best)
        self._shown.doing("training")

    def stop_requested(self, step: int) -> int | None:
        """Return the signal that asked for a stop."""
        return self.trainer.stop_requested(step)

    def progress(self, step: int, loss: float) -> None:
        """Show the step and a recent loss."""
        self._shown.step(step, loss)

    # The end -------------------------------------------------------------------------------------------------------

    def _finish(self, state: TrainState) -> dict[str, float]:
        """Take the final scores and write what a finished run has."""
        data, position = self.trainer.data, self.position
        metrics: dict[str, float] = {}
        if data.val is not None:
            metrics |= self._score("val", state)[0].metrics
        scores, _ = self._score("test", state)
        metrics |= scores.metrics
        if self._log is not None and self.folder is not None:
            if scores.collected:
                buffer = io.BytesIO()
                np.savez(buffer, **scores.collected)  # type: ignore[arg-type]
                write_atomically(self.folder.path / "predictions.npz", buffer.getvalue())
            self._draw(data.test, scores)
            result = {
                "metrics": metrics,
                "metric": f"test/{self.trainer.task.best[0]}",
                "examples": data.sizes,
                "note": data.note,
                **self._timing(),
                "params_sha256": params_sha256(state.params),
                "finished": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            }
            self.note("finished", **result, **({"ended": position.ended} if position.ended else {}))
        return metrics

    @contextlib.contextmanager
    def _noting(self) -> Iterator[None]:
        """Write what ended the run, where something within does.

        Raises:
          RunError: for a loss that is not finite and for a disk that is full, with the checkpoint to go on from.
        """
        try:
            yield
        except Stopped:
            self.note("stopped")
            raise
        except (NonFinite, RunError, OSError) as error:
            with contextlib.suppress(OSError):
                self.note("failed", error=line(error))
            newest = f"; {self.folder.checkpoints.describe_newest()}" if self.folder is not None else ""
            raise RunError(f"{line(error)}: stopped{newest}") from error

    def note(self, status: str, **values: Any) -> None:
        """Write `result.json`."""
        if self._log is not None and self.folder is not None:
            bad = {"bad_examples": self.trainer.data.describe_bad()}
            head = {"status": status, **self._identity, "step": self.position.step}
            self.folder.write("result", {**head, **values, **bad, **self._notes})

    # Parts ---------------------------------------------------------------------------------------------------------

    def _timing(self) -> dict[str, float]:
        speed = {"examples_per_second": self.position.examples_per_second, "input_wait": self.position.input_wait}
        return {**speed, "wall_seconds": time.perf_counter() - self._started}

    def _score(self, name: str, state: TrainState) -> tuple[Scores, str]:
        step, split = self.position.step, self.trainer.data.split(name)
        self._shown.doing("evaluating")
        scores = self.trainer.evaluate(split, state)
        if not np.isfinite(scores.metrics["loss"]):
            raise NonFinite(f"the {name} loss", step)
        row = {f"{name}/{key}": float(value) for key, value in scores.metrics.items()}
        asked = self._write(step, row, state)
        self._tell_bad()
        self._shown.doing("training")
        return scores._replace(metrics=row), asked

    def _write(self, step: int, row: dict[str, float], state: TrainState, rate: float = 0.0) -> str:
        """Write a row with what callbacks add to it, and return why one asks for the end."""
        asked = ""
        for before in takewhile(lambda before: before["step"] == step, reversed(self.rows)):
            if row.keys() <= before.keys():  # it stands there from before an interruption, and callbacks know it
                row |= {name: value for name, value in before.items() if name not in row and name != "step"}
                return ""
        for callback in self._callbacks:
            answer = callback(step, dict(row), state)
            if isinstance(answer, Stop):
                asked, answer = asked or answer.reason or "a callback asked for it", answer.metrics
            if answer is not None and not isinstance(answer, Mapping):
                name = getattr(callback, "__name__", type(callback).__name__)
                raise UsageError(
                    f"callback {name} returned a {type(answer).__name__}: expected None, metrics by name, or Stop"
                )
            row |= {name: float(value) for name, value in (answer or {}).items()}
        self.rows.append({"step": step, **row})
        if self._log is not None:
            self._log.write(step, row)
        self._shown.row(step, row, rate)
        if asked:
            self._shown.say(f"ends at step {step}: {asked}")
        return asked

    def _tell_bad(self) -> None:
        """Name the examples that turned out to be of no use since this was last called."""
        for split, examples in self.trainer.data.splits().items():
            told = self._told.setdefault(split, set())
            for bad in examples.bad:
                if bad.name not in told:
                    told.add(bad.name)
                    self._shown.say(f"passed over an example of {split}: {bad.name}: {bad.reason}")

    def _draw(self, test: Examples, scores: Scores) -> None:
        """Draw the task's figures; none of them may cost a result, whatever it raises."""
        assert self.folder is not None
        places = np.flatnonzero(scores.usable)

        def images(chosen: np.ndarray) -> np.ndarray:
            (batch,) = test.batches([places[chosen]])
            return batch["image"]

        finished = Finished(self.folder.rows, scores.collected, images, self.trainer.data.fields)
        try:
            from jaxcnn.report.canvas import write_figures

            figures = self.trainer.task.figures(finished)
        except (Exception, SystemExit) as error:  # matplotlib is an extra
            return self._shown.say(f"no figures: {line(error)}")
        write_figures(figures, self.folder.path / "figures", self._shown.say)


def check_data(folder: RunFolder, data: Any, weights_sha256: str | None = None) -> None:
    """Compare data, and the weights that are started from, with those that the run began with, if it did.

    Raises:
      UsageError: they are others.
    """
    if not (values := folder.find("data")):
        return
    if weights_sha256 not in (None, values.get("weights_sha256")):
        raise UsageError(f"{folder.path}: model.weights does not hold the weights it began with")
    saved = values.get("sha256")
    if saved is None:
        raise UsageError(f"{folder.path}/data.json has no sha256: another version of jaxcnn wrote it, train it anew")
    today = data.checksums()
    for name, digest in saved.items():
        if today.get(name) != digest:
            raise UsageError(f"{folder.path}: the {name} examples are not those it began with")
