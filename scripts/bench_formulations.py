"""What each formulation of layers/cpu/ gains over whole training steps: each is left out in turns.

    python scripts/bench_formulations.py --out formulations.json
    python scripts/bench_formulations.py --models lenet5 --repeats 3        a look, in a minute

For each network, and each rule of `jaxcnn.layers.cpu.choice` that its training step takes, the step is compiled once
more without the rule, so that the next one that fits stands in for it, and both are measured in turns. The ratio is the
CPU time without over that with it, of all threads together, the least of the repeats of each: other processes disturb
it less than the time by the clock, whose medians are in the JSON. A rule is worth its lines where the ratio is 1.03 or
more for some network. Beside the rules there are `max_pooling` and `materialised`. For the CPU alone. An interrupted
run goes on with the same command, where `--out` was given.
"""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import bench_tools
import jax
from bench_ours import Program
from bench_tools import Counter, Results

from jaxcnn import backend
from jaxcnn.environment import environment
from jaxcnn.errors import UsageError, unknown
from jaxcnn.layers import blocks, pool
from jaxcnn.layers.cpu import max_pooling
from jaxcnn.layers.cpu.choice import RULES, Rule
from jaxcnn.models import MODELS

# Images per step: few, but as many as a rule for large arrays needs.
BATCH = {
    "lenet5": 128,
    "resnet20": 128,
    "resnet50": 8,
    "vgg11": 16,
    "mobilenet_v2": 16,
    "resnext50_32x4d": 8,
    "densenet121": 8,
    "convnext_tiny": 8,
}
WORTH = 1.03


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    models: tuple[str, ...] = tuple(BATCH)
    """Names of models, at the size of images that each was published with."""
    batch_size: int | None = None
    """Images in a step; None: 8 to 128 by model."""
    repeats: int = 5
    """Measurements of each step, in turns."""
    out: Path | None = None
    """JSON file of all measurements, written as they are made."""


@contextmanager
def rules(change: Callable[[tuple[Rule, ...]], tuple[Rule, ...]]) -> Iterator[None]:
    """Change the rules of every kind; what is lowered within is lowered anew."""
    before = dict(RULES)
    RULES.update({kind: change(found) for kind, found in before.items()})
    jax.clear_caches()
    try:
        yield
    finally:
        RULES.update(before)
        jax.clear_caches()


@contextmanager
def patched(module: Any, name: str, value: Any) -> Iterator[None]:
    """Let a name of a module mean something else."""
    before = getattr(module, name)
    setattr(module, name, value)
    jax.clear_caches()
    try:
        yield
    finally:
        setattr(module, name, before)
        jax.clear_caches()


def without_rule(name: str) -> AbstractContextManager[None]:
    """Return a context without the rule of that name."""
    return rules(lambda found: tuple(rule for rule in found if rule.formulation.__name__ != name))


def ways_without(names: set[str]) -> dict[str, AbstractContextManager[None]]:
    """Return a context for each of the names, within which a program is compiled without it."""
    # The last rule of each kind fits always, and stays.
    known = [rule.formulation.__name__ for kind in RULES.values() for rule in kind[:-1]]
    ways = {name: without_rule(name) for name in known if name in names}
    if "max_pooling" in names:
        ways["max_pooling"] = patched(pool, "max_of_windows", max_pooling.xla_max)
    if "materialised" in names:
        ways["materialised"] = patched(blocks, "materialised", lambda x: x)
    return ways


@contextmanager
def noting(names: set[str]) -> Iterator[None]:
    """Add to `names` what a program takes that is compiled within."""

    def noted(name: str, call: Callable) -> Callable:
        @wraps(call)
        def noting_call(*args: Any) -> Any:
            names.add(name)
            return call(*args)

        return noting_call

    spied = rules(
        lambda found: tuple(Rule(noted(rule.formulation.__name__, rule.formulation), rule.fits) for rule in found)
    )
    pooling = patched(pool, "max_of_windows", noted("max_pooling", pool.max_of_windows))
    with spied, pooling, patched(blocks, "materialised", noted("materialised", blocks.materialised)):
        yield


def compiled(model: str, batch_size: int) -> Program:
    """Return a training step."""
    return Program(model, "train", batch_size, "float32", 1, "ours")


def measure(all_rules: Program, without: Program, repeats: int) -> dict[str, Any]:
    """Return the seconds of both by CPU time and by the clock, and the ratio."""
    programs = {"with": all_rules, "without": without}
    calls: dict[str, int] = {}
    seconds: dict[str, list[float]] = {way: [] for way in programs}
    cpu: dict[str, list[float]] = {way: [] for way in programs}
    for way, program in programs.items():
        run = bench_tools.timer(program)
        run(1)
        calls[way] = bench_tools.calls_for(run(1), least_seconds=0.25)
    for _ in range(repeats):
        for way, program in programs.items():
            start = time.process_time()
            seconds[way].append(bench_tools.timer(program)(calls[way]))
            cpu[way].append((time.process_time() - start) / calls[way])
    return {
        "seconds": {way: bench_tools.statistics_of(values) for way, values in seconds.items()},
        "cpu_seconds": {way: bench_tools.statistics_of(values) for way, values in cpu.items()},
        "ratio": min(cpu["without"]) / min(cpu["with"]),
    }


def render(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table: a line for each rule, a column for each network."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    found = {(row["rule"], row["model"]): row["ratio"] for row in rows}
    lines = []
    for rule in dict.fromkeys(row["rule"] for row in rows):
        ratios = [found.get((rule, model)) for model in models]
        best = max(ratio for ratio in ratios if ratio is not None)
        shown = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        lines.append([rule, *shown, f"{best:.2f}", "" if best >= WORTH else "no"])
    return bench_tools.table(["without", *models, "best", f"{WORTH}"], lines)


def benchmark(arguments: Arguments) -> None:
    """Measure what is asked for and print the table."""
    for name in arguments.models:
        if name not in MODELS:
            raise unknown("model", name, MODELS)
    if arguments.repeats < 1:
        raise UsageError(f"--repeats is {arguments.repeats}: expected at least 1")
    platform, keeps = bench_tools.prepare_process(True, shared=False)
    if platform != "cpu":
        raise UsageError(f"the device is of platform {platform}: formulations are the CPU's")
    settings = {
        "repeats": arguments.repeats,
        "keeps_freed_memory": keeps,
        "compiler_options": backend.compiler_options(platform),
    }
    results = Results(
        arguments.out, {"environment": environment(), "settings": settings}, ("model", "batch_size", "rule")
    )
    rows = []
    for model in arguments.models:
        batch_size, names = arguments.batch_size or BATCH.get(model, 8), set[str]()
        start = time.perf_counter()
        with noting(names):
            all_rules = compiled(model, batch_size)
        print(f"{model}: compiled in {time.perf_counter() - start:.0f} s, {len(names)} formulations", file=sys.stderr)
        ways = ways_without(names)
        with Counter(len(ways)) as counter:
            for name, without in ways.items():
                row: dict[str, Any] = {"model": model, "batch_size": batch_size, "rule": name}
                found = results.get(row)
                if found is None:
                    with without:
                        other = compiled(model, batch_size)
                    found = results.add(row | measure(all_rules, other, arguments.repeats))
                    results.write()
                rows.append(found)
                counter.step(f"{model} without {name}")
    print(render(rows))


if __name__ == "__main__":
    sys.exit(bench_tools.run_script(lambda: benchmark(bench_tools.arguments(Arguments, __doc__))))
