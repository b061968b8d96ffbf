"""Whether a device gives the same bits each time, what that costs, and how fast training steps are: one JSON file.

    python scripts/check_device.py --out device.json
    python scripts/check_device.py --torch-python PYTHON          torch under another interpreter than this one
    python scripts/check_device.py --seconds 100 --networks lenet5 resnet20        a look

For any machine that has jax, flax, optax, numpy and jaxtyping; it reads no data. Under nine minutes: what does not fit
into `--seconds` is left out, and the file says so. Its checks, each in processes of its own:

    same_bits            two processes train the same networks: the parameters have the same SHA-256
    same_after_kill      a process that saves checkpoints is sent SIGKILL; another one goes on from the newest. For this
                         orbax-checkpoint is needed
    steps                milliseconds of a training step and its memory, of ours and of torch.compile's, in turns
    cost_of_determinism  from `steps`: our step over the one whose compiler may choose what gives other bits

Exit code: 0, or 1 where a check failed.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

_TASKS = Path(__file__).with_name("device_tasks.py")

# BatchNorm and strides; overlapping max pooling, large products and dropout; depthwise convolutions.
TRAINED = ("resnet20", "alexnet", "mobilenet_v2")
# Beside torch, in the order of what is worth knowing most; all but the first few may not fit into the time.
NETWORKS = (
    *("resnet50", "mobilenet_v2", "convnext_tiny", "resnet20", "alexnet", "vgg11"),
    *("resnext50_32x4d", "regnet_y_400mf", "wide_resnet50_2", "lenet5", "densenet121", "vgg16"),
)
STEPS, BATCH = 30, 32
# Shares of the time that checks before `steps` may take.
_SHARE = {"same_bits": 0.4, "same_after_kill": 0.25}


class Work:
    """A task in a process of its own; what it says is read from a file, and is there after a kill."""

    def __init__(self, folder: Path, task: str, /, **settings: Any) -> None:
        """Start it; files go into `folder`."""
        own = Path(tempfile.mkdtemp(dir=folder))
        self._said, self._errors = own / "said", own / "errors"
        command = [sys.executable, str(_TASKS), task, json.dumps(settings), str(self._said)]
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)

    def rows(self) -> list[dict[str, Any]]:
        """Return what it has said so far."""
        lines = self._said.read_text().split("\n") if self._said.exists() else [""]
        return [json.loads(line) for line in lines[:-1]]

    def ended(self) -> bool:
        """Return whether the process has."""
        return self._process.poll() is not None

    def wait(self, deadline: float) -> str | None:
        """Return None once it is done, or why it is not: it failed, or was killed at `deadline` (time.monotonic)."""
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            return "there was no more time"
        lines = [line for line in self._errors.read_text(errors="replace").splitlines() if line.strip()]
        return f"exit code {code}: {lines[-1][:300] if lines else 'it said nothing'}" if code else None

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()
        self._process.wait()


def _failed(why: str | None) -> bool:
    return why is not None and why.startswith("exit code")


def _digests(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return {row["network"]: row["sha256"] for row in rows if "sha256" in row}


def same_bits(deadline: float, options: argparse.Namespace, work: Callable[..., Any]) -> dict[str, Any]:
    """Return whether two processes, one after the other, come to the same parameters."""
    settings = {"networks": options.trained, "steps": options.steps, "batch": options.batch}
    found: list[dict[str, str]] = []
    why, rows = None, []
    for _ in range(2):
        process = work("train", **settings)
        why = process.wait(deadline) or why
        rows.append(process.rows())
        found.append(_digests(rows[-1]))
    both = [name for name in options.trained if all(name in digests for digests in found)]
    differ = [name for name in both if found[0][name] != found[1][name]]
    status = "failed" if differ or _failed(why) else "passed" if both else "left out"
    missing = [name for name in options.trained if name not in both]
    return {"status": status, "differ": differ, "left_out": missing, "why": why, "processes": rows}


def same_after_kill(
    deadline: float, options: argparse.Namespace, expected: Mapping[str, str], work: Callable[..., Any]
) -> dict[str, Any]:
    """Return whether a process that goes on from the checkpoints of a killed one comes to the parameters `expected`."""
    name = options.trained[0]
    if name not in expected:
        return {"status": "left out", "why": f"{name} was not trained without a kill"}
    if importlib.util.find_spec("orbax") is None:
        return {"status": "left out", "why": "orbax-checkpoint is not installed"}
    with tempfile.TemporaryDirectory() as folder:
        settings = {"networks": [name], "steps": options.steps, "batch": options.batch, "folder": folder}
        first = work("train", **settings)
        while not first.ended() and len(first.rows()) < 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        if first.ended() or not first.rows():
            why = first.wait(deadline) or "it was done before it could be killed"
            return {"status": "failed" if _failed(why) else "left out", "why": why}
        first.kill()
        second = work("train", **settings)
        why = second.wait(deadline)
        found = [row for row in second.rows() if "sha256" in row]
    if why is not None or not found:
        return {"status": "failed" if _failed(why) else "left out", "why": why}
    same, resumed = found[0]["sha256"] == expected[name], found[0]["began"] > 0
    status = "passed" if same and resumed else "failed"
    return {"status": status, "killed_after": first.rows()[-1]["saved"], "went_on_from": found[0]["began"], **found[0]}


def measured_steps(deadline: float, options: argparse.Namespace, work: Callable[..., Any]) -> dict[str, Any]:
    """Return a row for each network that could be measured in the time."""
    settings = {"networks": options.networks, "torch_python": options.torch_python, "repeats": options.repeats}
    process = work("steps", **settings, batch=options.step_batch)
    why = process.wait(deadline)
    rows = [row for row in process.rows() if "network" in row]
    others = {key: value for row in process.rows() if "network" not in row for key, value in row.items()}
    others["not_measured"] = [row["not_measured"] for row in process.rows() if "not_measured" in row]
    missing = [name for name in options.networks if name not in [row["network"] for row in rows]]
    status = "failed" if _failed(why) else "left out" if not rows else "passed" if not missing else "in part"
    return {"status": status, "left_out": missing, "why": why, **others, "rows": rows}


def cost_of_determinism(platform: str | None, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return our time over that of steps whose compiler may choose what gives other bits, by network."""
    if platform != "gpu":
        return {
            "status": "not applicable",
            "why": f"the compiler for {platform} has no operations that give other bits",
        }
    found = {row["network"]: row["over_free"] for row in rows if row["over_free"] is not None}
    return {"status": "passed" if found else "left out", "over_free": found}


def check(options: argparse.Namespace, work: Callable[..., Any]) -> Iterator[dict[str, Any]]:
    """Yield the whole report, again and again, as checks are added to it."""
    start = time.monotonic()
    end = start + options.seconds
    report: dict[str, Any] = {"seconds_allowed": options.seconds, "options": vars(options), "checks": {}}

    def note(name: str, found: dict[str, Any], began: float) -> dict[str, Any]:
        report["checks"][name] = {"status": found.pop("status"), "seconds": time.monotonic() - began, **found}
        report["seconds"] = time.monotonic() - start
        return report

    process = work("about")
    why = process.wait(end)
    report |= {"why": why} if why else process.rows()[0]
    platform = report.get("environment", {}).get("platform")
    yield report
    if why:
        return
    began = time.monotonic()
    yield note("same_bits", same_bits(began + _SHARE["same_bits"] * options.seconds, options, work), began)
    expected = _digests(report["checks"]["same_bits"]["processes"][0])
    began = time.monotonic()
    until = min(end, began + _SHARE["same_after_kill"] * options.seconds)
    yield note("same_after_kill", same_after_kill(until, options, expected, work), began)
    began = time.monotonic()
    yield note("steps", measured_steps(end, options, work), began)
    rows = report["checks"]["steps"]["rows"]
    yield note("cost_of_determinism", cost_of_determinism(platform, rows), time.monotonic())


def summary(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines that say what was found."""
    machine = report.get("environment", {})
    yield f"{machine.get('device_kind')} x{machine.get('device_count')}, commit {machine.get('commit')}"
    for name, found in report["checks"].items():
        why = "; ".join(filter(None, [", ".join(found.get("left_out", [])), found.get("why")]))
        yield f"{name}: {found['status']} ({found['seconds']:.0f} s){': ' + why if why else ''}"
    for row in report["checks"].get("steps", {}).get("rows", []):
        times = ", ".join(f"{way} {1e3 * times['median']:.2f} ms" for way, times in row["seconds"].items())
        yield f"  {row['network']} x{row['batch_size']} {row['dtype']}: {times}, {(row['peak_bytes'] or 0) >> 20} MiB"


def main(words: Sequence[str] | None = None) -> int:
    """Run the checks and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    here = sys.executable if importlib.util.find_spec("torch") else None
    parser.add_argument("--out", type=Path, default=Path("check_device.json"), help="the JSON file")
    parser.add_argument("--seconds", type=float, default=520.0, help="how long all of it may take")
    parser.add_argument("--trained", nargs="+", default=TRAINED, help="networks to compare the bits of")
    parser.add_argument("--steps", type=int, default=STEPS, help="to train them for")
    parser.add_argument("--batch", type=int, default=BATCH, help="images in such a step")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, help="networks to measure steps of")
    parser.add_argument("--step-batch", type=int, help="images in such a step; left out: 256, on a CPU 8 to 128")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each")
    parser.add_argument("--torch-python", default=here, help="an interpreter that has torch; left out: this one, if so")
    options = parser.parse_args(words)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        for report in check(options, partial(Work, Path(folder))):
            options.out.write_text(json.dumps(report, indent=1, default=str) + "\n")
    print("\n".join([*summary(report), f"written to {options.out}"]))
    failed = any(found["status"] == "failed" for found in report["checks"].values())
    return 1 if failed or "why" in report else 0


if __name__ == "__main__":
    sys.exit(main())
