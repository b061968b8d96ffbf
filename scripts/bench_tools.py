"""What the benchmarks share: measuring in turns, results that survive an interrupt, tables."""

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxcnn import backend
from jaxcnn.arguments import parse
from jaxcnn.errors import RunError, UsageError
from jaxcnn.files import write_atomically

Timer = Callable[[int], float]
"""Makes so many calls and returns the mean seconds of one."""

# For the other side's threads to fall asleep: those of OpenMP spin for some milliseconds after their last task.
_SETTLE_SECONDS = 0.01
_WRITE_EVERY_SECONDS = 2.0
_SAY_EVERY_SECONDS = 10.0


def prepare_process(allocator: bool, *, shared: bool, devices: int | None = None) -> tuple[str, bool]:
    """Set what belongs to the process, start JAX, and return its platform and whether malloc keeps freed memory.

    Args:
      allocator: let malloc keep freed memory.
      shared: a peer uses the same accelerator: take half of its memory, not three quarters.
      devices: of the CPU; None: as JAX is set.
    """
    keeps = allocator and backend.keep_freed_memory()
    if shared:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
    if devices is not None:
        jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_enable_compilation_cache", False)  # The time of compilation is measured.
    return jax.default_backend(), keeps


def timer(call: Callable[[], Any]) -> Timer:
    """Return the timer of a function whose results are JAX arrays."""
    in_order = jax.default_backend() != "cpu"

    def run(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            result = call()
            if not in_order:  # The CPU client would run several calls at once.
                jax.block_until_ready(result)
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / calls

    return run


def calls_for(seconds: float, least_seconds: float) -> int:
    """Return how many calls of so many seconds to time together: for that long, and 3 where they are below 50 ms."""
    wanted = max(least_seconds, min(3 * seconds, 0.05))
    return max(1, math.ceil(wanted / max(seconds, 1e-7)))


def in_turns(timers: Mapping[str, Timer], repeats: int, least_seconds: float) -> dict[str, dict[str, float]]:
    """Return each timer's `statistics_of`, measured in turns so that what slows the machine down slows all alike.

    Each is called twice before: the first call is slower, the second says how many calls make a measurement. Where
    they are several, one more goes before each measurement, since the others have used the caches since.

    Args:
      timers: by the name of what they time.
      repeats: measurements of each.
      least_seconds: of one measurement.
    """
    calls = {}
    for name, run in timers.items():
        time.sleep(_SETTLE_SECONDS)
        run(1)
        calls[name] = calls_for(run(1), least_seconds)
    seconds: dict[str, list[float]] = {name: [] for name in timers}
    for _ in range(repeats):
        for name, run in timers.items():
            time.sleep(_SETTLE_SECONDS)
            if calls[name] > 1:
                run(1)
            seconds[name].append(run(calls[name]))
    return {name: statistics_of(values) for name, values in seconds.items()}


def statistics_of(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median, the least, and the spread: (largest - least) / median."""
    median = statistics.median(seconds)
    return {"median": median, "min": min(seconds), "spread": (max(seconds) - min(seconds)) / median}


def ratio(seconds: Mapping[str, Mapping[str, float]], ours: str = "ours", peer: str = "torch") -> float | None:
    """Return our median time over the peer's; None where one of them is missing."""
    if ours not in seconds or peer not in seconds:
        return None
    return seconds[ours]["median"] / seconds[peer]["median"]


class Results:
    """Rows of measurements in a JSON file, which is written as they come and read when the benchmark goes on."""

    def __init__(self, path: Path | None, head: Mapping[str, Any], keys: Sequence[str]) -> None:
        """Read what is there.

        Args:
          path: the file; None: nothing is kept.
          head: what all rows were measured with, as plain JSON values.
          keys: the fields that tell one row from another.

        Raises:
          UsageError: the file is no such file, cannot be written, or was measured with something else.
        """
        self.path, self.head, self.keys = path, json.loads(json.dumps(head)), keys
        self.rows: dict[str, dict[str, Any]] = {}
        self._written = 0.0
        if path is None:
            return
        if path.exists():
            try:
                found = json.loads(path.read_text())
                rows = found.pop("rows")
                self.rows = {self._key(row): row for row in rows}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise UsageError(f"--out {path}: it exists and holds no results of this benchmark") from None
            if (other := difference(found, self.head)) is not None:
                raise UsageError(f"--out {path}: it was measured with another {other}: give another file")
        try:
            self.write()
        except OSError as error:
            raise UsageError(f"--out {path}: {error.strerror or error}") from None

    def _key(self, row: Mapping[str, Any]) -> str:
        return json.dumps([row[key] for key in self.keys])

    def get(self, row: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the row that agrees in the keys with this one."""
        return self.rows.get(self._key(json.loads(json.dumps(row))))

    def add(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a row and return it as it will be read; the file follows within some seconds, and with `write`."""
        kept = json.loads(json.dumps(row))
        self.rows[self._key(kept)] = kept
        if time.monotonic() - self._written > _WRITE_EVERY_SECONDS:
            self.write()
        return kept

    def write(self) -> None:
        """Write the file, whole."""
        if self.path is not None:
            rows = ",\n".join(json.dumps(row) for row in self.rows.values())
            head = json.dumps(self.head, indent=1).removesuffix("\n}")
            write_atomically(self.path, f'{head},\n "rows": [\n{rows}\n ]\n}}\n'.encode())
        self._written = time.monotonic()


def difference(old: Any, new: Any, name: str = "") -> str | None:
    """Return the name of the first value in which two trees of plain values differ, and both values; None: none.

    Whether the checkout is dirty does not count: the file of results itself may be what makes it so.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            found = difference(old.get(key), new.get(key), f"{name}.{key}" if name else key)
            if found is not None:
                return found
        return None
    return None if old == new or name == "environment.dirty" else f"{name} ({old!r}, now {new!r})"


class Counter:
    """How far a benchmark is, on stderr: a bar on a terminal, elsewhere one line every ten seconds."""

    def __init__(self, total: int) -> None:
        """Start at 0 of `total`."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(stderr=True)
        self._total, self._done, self._start = total, 0, time.monotonic()
        self._said, self._live = self._start, console.is_terminal
        self._bar = Progress(
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=console,
            disable=not self._live,
        )
        self._task = self._bar.add_task("", total=total, rate="")

    def __enter__(self) -> "Counter":
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        """Leave the bar as it is."""
        self._bar.stop()

    def doing(self, what: str) -> None:
        """Name what is measured now."""
        self._bar.update(self._task, description=what)

    def step(self, what: str) -> None:
        """Note that `what` is done."""
        self._done += 1
        now = time.monotonic()
        rate = self._done / max(now - self._start, 1e-9)
        self._bar.update(self._task, completed=self._done, rate=f"{rate:.2f}/s")
        if not self._live and (now - self._said >= _SAY_EVERY_SECONDS or self._done == self._total):
            self._said = now
            left = (self._total - self._done) / rate
            print(f"{self._done}/{self._total}  {rate:.2f}/s  {left:,.0f} s left  {what}", file=sys.stderr)


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return lines with the columns below each other, the first `left` of them flush left and the others right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = []
    for row in (header, *rows):
        cells = [f"{c:<{w}}" if i < left else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def milliseconds(seconds: Mapping[str, float] | None) -> str:
    """Return the median for a table."""
    return "-" if seconds is None else f"{1e3 * seconds['median']:,.3f}"


def arguments(kind: type, description: str | None) -> Any:
    """Return a script's arguments, a dataclass, from the command line; `--help` prints `description` and exits.

    Raises:
      UsageError: a word is none of them.
    """
    return parse((kind,), f"python {sys.argv[0]}", description or "", sys.argv[1:])[0]


def run_script(main: Callable[[], None]) -> int:
    """Return the exit code of a benchmark, after one line for a mistake or an interrupt."""
    try:
        main()
        sys.stdout.flush()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("error: out of memory: a smaller --batch-size needs less", file=sys.stderr)
        return 1
    except BrokenPipeError:  # into `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("interrupted: the same command goes on where --out was given", file=sys.stderr)
        return 130
    return 0
