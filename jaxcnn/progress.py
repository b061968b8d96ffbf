"""What a person sees while a run, or other long work, is under way: how far it is, rate, loss, time left."""

import time
from collections.abc import Mapping
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

_REFRESH_SECONDS = 0.25
# Between lines where no bar can be shown.
_LINE_SECONDS = 10.0


class Shown(Protocol):
    """What one run tells of itself."""

    def step(self, step: int, loss: float | None) -> None:
        """Note a finished step."""

    def doing(self, what: str) -> None:
        """Name what is going on now, such as evaluation."""

    def row(self, step: int, row: Mapping[str, float], rate: float) -> None:
        """Print a row of the log."""

    def say(self, text: str) -> None:
        """Print one line."""


class TrainProgress:
    """A live bar on a terminal; elsewhere, one line for each row of the log."""

    def __init__(self, total_steps: int, step: int, batch_size: int, *, enabled: bool) -> None:
        """Start at `step` of `total_steps`; with `enabled` False nothing is shown."""
        self._console = Console(stderr=True, quiet=not enabled)
        self._live = enabled and self._console.is_terminal
        self._total, self._batch_size = total_steps, batch_size
        self._mark = (time.perf_counter(), step)
        self._bar = Progress(
            TextColumn("{task.fields[what]}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}"),
            TextColumn("loss {task.fields[loss]}"),
            TextColumn("{task.fields[rate]} images/s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._live,
            transient=True,
        )
        fields = {"what": "training", "loss": "-", "rate": "-"}
        self._task = self._bar.add_task("train", total=total_steps, completed=step, **fields)  # type: ignore[arg-type]

    def __enter__(self) -> "TrainProgress":
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Take the bar away."""
        self._bar.stop()

    def step(self, step: int, loss: float | None) -> None:
        """Note a finished step."""
        then, before = self._mark
        now = time.perf_counter()
        if not self._live or loss is None or now - then < _REFRESH_SECONDS:
            return
        rate = (step - before) * self._batch_size / (now - then)
        self._mark = (now, step)
        self._bar.update(self._task, completed=step, loss=f"{loss:.4f}", rate=f"{rate:,.0f}")

    def doing(self, what: str) -> None:
        """Name what is going on now, such as evaluation."""
        self._bar.update(self._task, what=what)

    def row(self, step: int, row: Mapping[str, float], rate: float) -> None:
        """Print a row of the log."""
        values = "  ".join(f"{name} {value:.4g}" for name, value in row.items())
        left = (self._total - step) * self._batch_size / rate if rate else float("nan")
        speed = f"  {rate:,.0f} images/s  {left:,.0f} s left" if rate else ""
        self.say(f"step {step}/{self._total}  {values}{speed}")

    def say(self, text: str) -> None:
        """Print one line above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class SeedsProgress:
    """One bar, and one line for each row of the log, for runs that train together: means over them."""

    def __init__(self, shown: TrainProgress) -> None:
        """Show on `shown`, whose batch size is that of all runs together."""
        self.shown = shown
        self._steps: dict[int, tuple[int, float | None]] = {}
        self._rows: dict[tuple[int, frozenset[str]], list[tuple[Mapping[str, float], float]]] = {}

    def of(self, seed: int) -> Shown:
        """Return where the run of one seed tells of itself."""
        return _OneSeed(self, seed)

    def ended(self, seed: int) -> None:
        """Leave a run out from now on."""
        self._steps.pop(seed, None)

    def refresh(self) -> None:
        """Show what the runs have told since the last time."""
        for (step, _), told in self._rows.items():
            means = {name: sum(row[name] for row, _ in told) / len(told) for name in told[0][0]}
            self.shown.row(step, means, sum(rate for _, rate in told))
        self._rows = {}
        losses = [loss for _, loss in self._steps.values() if loss is not None]
        if losses:
            self.shown.step(min(step for step, _ in self._steps.values()), sum(losses) / len(losses))


class _OneSeed:
    def __init__(self, all_seeds: SeedsProgress, seed: int) -> None:
        self._all, self._seed = all_seeds, seed
        self.doing = all_seeds.shown.doing

    def step(self, step: int, loss: float | None) -> None:
        self._all._steps[self._seed] = step, loss

    def row(self, step: int, row: Mapping[str, float], rate: float) -> None:
        self._all._rows.setdefault((step, frozenset(row)), []).append((row, rate))

    def say(self, text: str) -> None:
        self._all.shown.say(f"seed {self._seed}: {text}")


class WorkProgress:
    """A live bar on a terminal for work on a number of images, called as it goes on; elsewhere a line now and then."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[rate]:,.0f} images/s"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=1, rate=0.0, visible=False)
        self._what = ""
        self._begun = self._shown = (0.0, 0)

    def __enter__(self) -> "WorkProgress":
        """Be ready to show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Take the bar away."""
        self._bar.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Note that `done` of `total` images are done; another `what` begins anew."""
        now = time.perf_counter()
        if what != self._what:
            self._what, self._begun, self._shown = what, (now, done), (now, done)
            self._bar.reset(self._task, description=what, total=total, completed=done, visible=True, rate=0.0)
        live = self._console.is_terminal
        if now - self._shown[0] < (_REFRESH_SECONDS if live else _LINE_SECONDS):
            return
        rate = (done - self._begun[1]) / (now - self._begun[0])
        self._shown = (now, done)
        self._bar.update(self._task, completed=done, rate=rate)
        if not live:
            left = f"  {(total - done) / rate:,.0f} s left" if rate else ""
            text = f"{what}: {done:,}/{total:,}  {rate:,.0f} images/s{left}"
            self._console.print(text, highlight=False, markup=False, soft_wrap=True)
