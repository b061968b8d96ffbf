"""The ways to train several seeds together: python scripts/bench_seeds.py [--models lenet5 resnet20] [--seeds 8]

Prints JSON with, for each model and each `train.seeds_mode` that this machine has devices for, the milliseconds of one
step of all seeds (interleaved rounds: the median, and all of them) and the seconds to compile and make the first.
"vmap" is never chosen by itself, since its bits are not those of a seed alone: where it is the fastest, ask for it.
"""

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bench_tools
import jax
from bench_loop import experiment
from jaxcnn.runs.session import Session
from jaxcnn.train.seeds import Mode

from jaxcnn import backend
from jaxcnn.runs.environment import environment
from jaxcnn.runs.seeds import make_way
from jaxcnn.stop import StopFlag
from jaxcnn.train.loop import Request


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """What to measure."""

    models: tuple[str, ...] = ("lenet5", "resnet20")
    """Models to train: lenet5 at 28x28x1, resnet20 at 32x32x3, batches of 128."""
    seeds: int = 8
    """How many train together."""
    rounds: int = 5
    """Interleaved measurements of each way."""
    steps: int = 10
    """Steps of each measurement."""


class Trained:
    """Several seeds that one way trains, step by step."""

    def __init__(self, session: Session, mode: Mode, seeds: int) -> None:
        """Compile, and make the first step; `first_seconds` is what that took."""
        self._sessions = [session.for_seed(seed) for seed in range(seeds)]
        self._way, self._step = make_way(session, mode, seeds, jax.devices()), 0
        self._requests: dict[int, Request] = {
            number: (each.initial_state(), each.parallel.window({}), each.arguments(0))
            for number, each in enumerate(self._sessions)
        }
        self.first_seconds = self.seconds(1)

    def seconds(self, steps: int) -> float:
        """Return the mean time of so many steps."""
        start = time.perf_counter()
        for _ in range(steps):
            answers, self._step = self._way.train(self._requests), self._step + 1
            self._requests = {
                number: (state, window, self._sessions[number].arguments(self._step))
                for number, (state, window, _) in answers.items()
            }
            for _, _, loss in answers.values():  # as a run waits for its losses
                loss.item()
        return (time.perf_counter() - start) / steps


def measure(model: str, arguments: Arguments, folder: Path) -> dict[str, Any]:
    """Return the times of each way for one model."""
    usual = experiment(model, folder, 10**6)
    session = Session(replace(usual, train=replace(usual.train, devices=1)), StopFlag())
    modes: list[Mode] = ["sequential", "vmap"]
    if jax.device_count() > 1:
        modes.append("devices")
    ways = {mode: Trained(session, mode, arguments.seeds) for mode in modes}
    times: dict[Mode, list[float]] = {mode: [] for mode in modes}
    for _ in range(arguments.rounds):
        for mode, way in ways.items():
            times[mode].append(1000 * way.seconds(arguments.steps))
    return {
        mode: {
            "step_ms": round(statistics.median(found), 2),
            "step_ms_all": [round(value, 2) for value in found],
            "first_step_seconds": round(ways[mode].first_seconds, 2),
        }
        for mode, found in times.items()
    }


def main() -> None:
    arguments = bench_tools.arguments(Arguments, __doc__)
    backend.keep_freed_memory()
    with tempfile.TemporaryDirectory() as name:
        models = {model: measure(model, arguments, Path(name)) for model in arguments.models}
    print(json.dumps({"environment": environment(), "seeds": arguments.seeds, "models": models}, indent=1))


if __name__ == "__main__":
    sys.exit(bench_tools.run_script(main))
