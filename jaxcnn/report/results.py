"""Recorded runs in, `docs/results.md` out.

A recorded run is the folder `results/<name>/<hash>/` with the small JSON files of a finished run. Runs of one
experiment that differ in nothing but their seed make one row.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.files import FOLDER_NAME, write_atomically
from jaxcnn.report.held import check_held, read_held
from jaxcnn.report.tables import duration, metric_name, metric_value

_FILES: dict[str, dict[str, Any]] = {
    "experiment": {"paper": str | None, "published": str | None, "data": dict[str, Any] | None},
    "environment": {
        **{"platform": str, "device_kind": str, "device_count": int, "process_count": int},
        **{"cpu": str, "cpu_count": int | None},
    },
    "result": {"command": str},
}
COMMAND = "python scripts/record_result.py"
# Fields in which the runs of one row may differ: the seed, and what no result depends on.
FREE = ("seed", "paper", "published", "checkpoint")
# Options of a command that say where something lies on one machine, and how many words follow at most.
_PLACES = {"--data.path": 1, "--runs-dir": 1, "--resume": 1, "--code": 99}


@dataclass(frozen=True)
class RecordedRun:
    """The small JSON files of one finished run."""

    name: str
    hash: str
    experiment: dict[str, Any]
    environment: dict[str, Any]
    result: dict[str, Any]

    @property
    def group(self) -> str:
        """What runs of one row have in common: the name, and the experiment apart from its seed."""
        fields = {key: value for key, value in self.experiment.items() if key not in FREE}
        return f"{self.name} {json.dumps(fields, sort_keys=True)}"


@dataclass(frozen=True)
class Measured:
    """Mean of `n` values and their sample standard deviation (over n - 1), None for a single value."""

    mean: float
    spread: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Measured":
        """Return the mean and the spread of at least one value."""
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(float(np.mean(values)), spread, len(values))

    def text(self, metric: str) -> str:
        """Return the values as text: "99.12 ± 0.05 % (n=3)", and no spread where there is a single one."""
        mean = metric_value(metric, self.mean)
        if self.spread is None:
            return f"{mean} (n=1)"
        spread = metric_value(metric, self.spread)
        both = f"{mean.removesuffix(' %')} ± {spread}"
        return f"{both} (n={self.n})"


@dataclass(frozen=True)
class Row:
    """What is known of one experiment over all its recorded seeds."""

    name: str
    paper: str
    published: str
    seeds: list[int]
    metrics: dict[str, Measured]
    commands: list[str]
    commits: list[str]
    hardware: list[str]
    examples: dict[str, int]
    notes: list[str]
    examples_per_second: float
    wall_seconds: float


def read_run(folder: Path) -> RecordedRun:
    """Return the small JSON files of a run folder, or of a recorded run.

    Raises:
        UsageError: a file is missing or holds something else, or the run has not finished.
    """
    paths = {file: Path(folder) / f"{file}.json" for file in _FILES}
    for path in paths.values():
        if not path.is_file():
            raise UsageError(f"{folder} is not a finished run: it has no {path.name}")
    contents = {file: read_held(path) for file, path in paths.items()}
    status = contents["result"]["status"]
    if status != "finished":
        raise UsageError(f"{folder} is not a finished run: its status is {status!r}")
    for file, path in paths.items():
        check_held(_FILES[file], contents[file], path)
    name = contents["result"]["name"]
    if not FOLDER_NAME.fullmatch(name):  # a folder is called by it
        raise UsageError(f"{paths['result']}: name is {name!r:.80}: expected that of an experiment, as in lenet_mnist")
    return RecordedRun(name, Path(folder).resolve().name, **contents)


def record(run_dirs: Sequence[Path], results: Path) -> list[Path]:
    """Copy the small JSON files of finished runs to `results/<name>/<hash>/` and return those folders.

    Where things lay on the machine (`data.path`, `--runs-dir`) is left out; of other absolute paths the part within
    the folder that `results` is in is kept, or the last name.

    What was recorded of the same run (same hash) is replaced. Nothing is copied unless every run can be.

    Raises:
        UsageError: a run is unfinished or damaged.
    """
    recorded, root = [], results.resolve().parent
    for run in [read_run(folder) for folder in run_dirs]:
        target = results / run.name / run.hash
        command = [_public(word, root) for word in _without(_PLACES, run.result["command"])]
        data = {key: value for key, value in (run.experiment.get("data") or {}).items() if key != "path"}
        files = {
            "experiment": run.experiment | {"data": data},
            "environment": run.environment,
            "result": run.result | {"command": shlex.join(command)},
        }
        for file, content in files.items():
            public = _public(content, root)
            write_atomically(target / f"{file}.json", (json.dumps(public, indent=1) + "\n").encode())
        recorded.append(target)
    return recorded


def _public(value: Any, root: Path) -> Any:
    """Return JSON, or a word of a command, where an absolute path is that from `root`, or else its last name."""
    if isinstance(value, dict):
        return {key: _public(item, root) for key, item in value.items()}
    if isinstance(value, list):
        return [_public(item, root) for item in value]
    if not isinstance(value, str):
        return value
    flag, equals, text = value.partition("=") if value.startswith("--") else ("", "", value)
    path = Path(text)
    if text.startswith(("/", "~/")) and path.name:
        text = str(path.relative_to(root)) if path.is_relative_to(root) else path.name
    return flag + equals + text


def _without(flags: Mapping[str, int], command: str) -> list[str]:
    """Return the words of a command without some options, and the words that follow them: so many at most."""
    try:
        words = shlex.split(command)
    except ValueError:  # it is not written by a shell's rules
        words = command.split()
    kept, following = list[str](), 0
    for word in words:
        name, equals, _ = word.replace("_", "-").partition("=")
        if name in flags:
            following = 0 if equals else flags[name]
        elif following and not word.startswith("--"):
            following -= 1
        else:
            following = 0
            kept.append(word)
    return kept


def read_results(results: Path) -> list[Row]:
    """Return the rows of all recorded runs, by name and then by command.

    Raises:
        UsageError: a recorded run is damaged, or an experiment was recorded twice with the same seed.
    """
    groups: dict[str, list[RecordedRun]] = {}
    for path in sorted(results.glob("*/*/")):
        run = read_run(path)
        groups.setdefault(run.group, []).append(run)
    return sorted(map(_row, groups.values()), key=lambda row: (row.name, row.commands))


def render(rows: Sequence[Row]) -> str:
    """Return `docs/results.md`: a table over all experiments, then how each was measured."""
    lines = [
        f"<!-- Generated from results/ by `{COMMAND}`. Do not edit: record a run instead. -->",
        "",
        "# Results",
        "",
        f"Generated from the runs kept in `results/` by `{COMMAND} RUN...`; not written by hand.",
        "A value over n seeds is their mean ± sample standard deviation.",
        "",
    ]
    if not rows:
        return "\n".join([*lines, "No run has been recorded yet.", ""])
    lines += ["| experiment | paper | published | ours |", "|---|---|---|---|"]
    for row in rows:
        cells = (row.name, row.paper or "none", row.published or "none", _headline(row))
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    for row in rows:
        lines += ["", *_section(row)]
    return "\n".join([*lines, ""])


def _row(runs: list[RecordedRun]) -> Row:
    runs = sorted(runs, key=lambda run: run.result["seed"])
    seeds = [run.result["seed"] for run in runs]
    for run, following in pairwise(runs):
        if run.result["seed"] == following.result["seed"]:
            raise UsageError(
                f"results/{run.name}: {run.hash} and {following.hash} are one experiment and seed: remove one"
            )
    names = dict.fromkeys(name for run in runs for name in run.result["metrics"])
    return Row(
        name=runs[0].name,
        paper=runs[-1].experiment.get("paper", ""),
        published=runs[-1].experiment.get("published", ""),
        seeds=seeds,
        metrics={
            name: Measured.of([run.result["metrics"][name] for run in runs if name in run.result["metrics"]])
            for name in names
        },
        commands=_distinct(shlex.join(_without({"--seed": 1}, run.result["command"])) for run in runs),
        commits=_distinct(_commit(run.environment) for run in runs),
        hardware=_distinct(_hardware(run.environment) for run in runs),
        examples=runs[0].result.get("examples") or {},
        notes=_distinct(run.result["note"] for run in runs if run.result.get("note")),
        examples_per_second=float(np.mean([run.result["examples_per_second"] for run in runs])),
        wall_seconds=float(np.mean([run.result["wall_seconds"] for run in runs])),
    )


def _distinct(values: Any) -> list[str]:
    return list(dict.fromkeys(values))


def _commit(environment: dict[str, Any]) -> str:
    commit = environment.get("commit")
    return f"{commit[:12]}{' (dirty)' if environment.get('dirty') else ''}" if commit else "unknown"


def _hardware(environment: dict[str, Any]) -> str:
    """Return what the run was computed on, for example "4 x NVIDIA H200 (gpu)"."""
    count, kind, platform = environment["device_count"], environment["device_kind"], environment["platform"]
    devices = kind if count == 1 else f"{count} x {kind}"
    if platform == "cpu":
        count_of_cores = environment.get("cpu_count")
        cores = f", {count_of_cores} core{'s' * (count_of_cores != 1)}" if count_of_cores else ""
        devices = f"{'' if count == 1 else f'{count} devices on '}{environment['cpu']}{cores}"
    processes = f", {environment['process_count']} processes" if environment["process_count"] > 1 else ""
    return f"{devices} ({platform}{processes})"


def _headline(row: Row) -> str:
    """Return the metric an experiment is known by: test accuracy with its error, or the first metric."""
    name = "test/accuracy" if "test/accuracy" in row.metrics else next(iter(row.metrics), None)
    if name is None:
        return "none"
    text = f"{metric_name(name)} {row.metrics[name].text(name)}"
    if name == "test/accuracy":
        text += f", error {metric_value('error', 1 - row.metrics[name].mean)}"
    return text


def _section(row: Row) -> list[str]:
    lines = [f"## {row.name}", "", "| metric | mean ± standard deviation |", "|---|---|"]
    lines += [f"| {metric_name(name)} | {value.text(name)} |" for name, value in row.metrics.items()]
    seeds = ", ".join(map(str, row.seeds))
    return [
        *lines,
        "",
        "```sh",
        *(command or "# run from Python" for command in row.commands),
        "```",
        "",
        f"- seeds: {seeds} (`--seed`)",
        *(
            [f"- images: {', '.join(f'{count:,} {split}' for split, count in row.examples.items())}"]
            * bool(row.examples)
        ),
        *(f"- data: {note}" for note in row.notes),
        f"- commit: {', '.join(row.commits)}",
        f"- hardware: {'; '.join(row.hardware)}",
        f"- speed: {row.examples_per_second:,.0f} images/s, {duration(row.wall_seconds)} a run",
    ]
