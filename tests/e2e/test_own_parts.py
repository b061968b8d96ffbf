"""A user's own parts, from a folder with the user's files alone: trained, killed, resumed, scored, read back.

The folder is no part of the package, and every command is a process of its own.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NET = """
import flax.linen as nn
from sizes import WIDTH  # a neighbour

class Tiny(nn.Module):
    num_classes: int = 10

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(WIDTH, (3, 3), strides=2)(x))
        x = nn.relu(nn.Conv(2 * WIDTH, (3, 3), strides=2)(x))
        return nn.Dense(self.num_classes)(x.max((1, 2)))
"""
SIZES = "WIDTH = 12\n"
BASE = """
from jaxcnn import Adam, CheckpointConfig, Classification, DataConfig, EvalConfig, Experiment, ModelConfig, Part
from jaxcnn import TrainConfig

def experiment(**changed):
    parts = dict(
        name="mine",
        model=ModelConfig(name="lenet5"),
        data=DataConfig(source="digits", image_size=28, train_split="train[:512]"),
        optim=Adam(learning_rate=5e-3),
        train=TrainConfig(batch_size=32, steps=80, log_every=7),
        eval=EvalConfig(every=20),
        checkpoint=CheckpointConfig(every=5),
    )
    return Experiment(**parts | changed)
"""
ARRAYS = """
import numpy as np

def patterns(count=400):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, count)
    image = rng.integers(0, 120, (count, 16, 16, 1))
    image[label != 1, :, :8] += 100
    image[label != 0, :, 8:] += 100
    return {"image": image.astype(np.uint8), "label": label}

def arrays():
    data = patterns()
    return {"train": {k: v[:300] for k, v in data.items()}, "test": {k: v[300:] for k, v in data.items()}}

class Stream:
    '''An iterable with a length, and nothing else.'''
    def __init__(self, start, stop):
        self.start, self.stop = start, stop
    def __len__(self):
        return self.stop - self.start
    def __iter__(self):
        data = patterns()
        for i in range(self.start, self.stop):
            yield {"image": data["image"][i], "label": int(data["label"][i])}

def iterables(train=300):
    return {"train": Stream(0, train), "test": Stream(train, 400)}
"""
FOCAL = """
from dataclasses import dataclass
import jax, jax.numpy as jnp
from jaxcnn import Classification
from base import experiment

@dataclass(frozen=True, kw_only=True)
class Focal(Classification):
    gamma: float = 2.0

    def losses(self, outputs, batch):
        log_p = jnp.take_along_axis(jax.nn.log_softmax(outputs), batch["label"][:, None], axis=1)[:, 0]
        return jnp.where(batch["mask"], -((1 - jnp.exp(log_p)) ** self.gamma) * log_p, 0.0)

EXPERIMENT = experiment(task=Focal(gamma=1.5))
"""
TASK = """
from dataclasses import dataclass
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np, optax
from jaxcnn import ModelConfig, Task
from jaxcnn.data.fields import Image, Label
from base import experiment

class TwoHeads(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(nn.BatchNorm(use_running_average=not train)(nn.Conv(8, (3, 3), strides=2)(x)))
        x = nn.Dropout(0.1, deterministic=not train)(x).reshape(x.shape[0], -1)
        return {"digit": nn.Dense(10)(x), "odd": nn.Dense(1)(x)[:, 0]}

@dataclass(frozen=True, kw_only=True)
class DigitAndParity(Task):
    weight: float = 0.5
    example = {"image": Image, "label": Label}
    best = ("balanced", "max")

    def losses(self, outputs, batch):
        digit = optax.softmax_cross_entropy_with_integer_labels(outputs["digit"], batch["label"])
        odd = optax.sigmoid_binary_cross_entropy(outputs["odd"], (batch["label"] % 2).astype(jnp.float32))
        return jnp.where(batch["mask"], digit + self.weight * odd, 0.0)

    def sums(self, outputs, batch):
        truth, found = jax.nn.one_hot(batch["label"], 10, dtype=jnp.int32), outputs["digit"].argmax(-1)
        truth = jnp.where(batch["mask"][:, None], truth, 0)
        confusion = truth.T @ jax.nn.one_hot(found, 10, dtype=jnp.int32)
        odd = jnp.where(batch["mask"], jax.nn.sigmoid(outputs["odd"]), 0.0).sum()
        return {"confusion": confusion, "odd": (odd, batch["mask"].sum(dtype=jnp.int32))}

    def metrics(self, sums):
        confusion, (odd, count) = sums["confusion"], sums["odd"]
        assert confusion.dtype.kind == "i" and odd.dtype.kind == "f" and confusion.sum() == count
        recall = np.diag(confusion) / np.maximum(confusion.sum(1), 1)
        return {"balanced": recall.mean(), "share_odd": odd / count}

    def collect(self, outputs, batch):
        return {"odd": outputs["odd"], "label": batch["label"]}

    def score(self, collected):
        order = np.argsort(collected["odd"])
        positive = (collected["label"] % 2)[order]
        rank, ones = np.arange(1, len(order) + 1), positive.sum()
        return {"auc": ((rank * positive).sum() - ones * (ones + 1) / 2) / (ones * (len(order) - ones))}

EXPERIMENT = experiment(model=ModelConfig(name="mine.py:TwoHeads"), task=DigitAndParity())
"""
AUGMENT = """
from dataclasses import dataclass
import jax, jax.numpy as jnp
from jaxcnn import DataConfig, Flip
from base import experiment

@dataclass(frozen=True, kw_only=True)
class Noise:
    level: float = 10.0

    def __call__(self, key, batch, fields):
        noise = self.level * jax.random.normal(key, batch["image"].shape)
        return {**batch, "image": jnp.clip(batch["image"].astype(jnp.float32) + noise, 0, 255)}

def darker(key, batch, fields):
    return {**batch, "image": batch["image"] * 0.9}

EXPERIMENT = experiment(data=DataConfig(source="digits", image_size=28, train_split="train[:512]",
                                        augment=(Flip(probability=0.1), Noise(level=20.0), darker)))
"""
OPTIM = """
import optax
from jaxcnn import CosineDecay, Part
from base import experiment

def clipped(learning_rate, b1=0.9):
    return optax.chain(optax.clip(1.0), optax.scale_by_adam(b1), optax.scale_by_learning_rate(learning_rate))

EXPERIMENT = experiment(optim=Part(name="mine.py:clipped", options={"learning_rate": 3e-3}), schedule=CosineDecay())
"""
MODEL = """
from jaxcnn import ModelConfig
from base import experiment

EXPERIMENT = experiment(model=ModelConfig(name="nets.py:Tiny"))
"""
DATA = """
from jaxcnn import DataConfig, ModelConfig
from base import experiment

EXPERIMENT = experiment(model=ModelConfig(name="nets.py:Tiny"), data=DataConfig(source="{source}"))
"""
CASES = {
    "model": (MODEL, "test/accuracy", 0.5),
    "loss": (FOCAL, "test/accuracy", 0.6),
    "task": (TASK, "test/balanced", 0.6),
    "augmentation": (AUGMENT, "test/accuracy", 0.5),
    "optimiser": (OPTIM, "test/accuracy", 0.6),
    "arrays": (DATA.format(source="data.py:arrays"), "test/accuracy", 0.9),
    "iterable": (DATA.format(source="data.py:iterables"), "test/accuracy", 0.9),
}
# These kinds of part are in the others, too, or in one process.
SLOW = ("loss", "augmentation", "optimiser", "arrays", "iterable")
READ = """
import json, sys
import numpy as np
import jaxcnn
from jaxcnn.runs.export import export

run = jaxcnn.load_run(sys.argv[1])
shape = run.description.shapes["image"].shape
found = jaxcnn.features(run.model, run.state.variables, np.zeros((2, *shape), np.float32), ["output"])
run.predict(np.zeros((3, *shape), np.uint8))
sizes = {path.name: path.stat().st_size for path in export(sys.argv[1], "out")}
print(json.dumps([run.result["status"], jaxcnn.runs.evaluate(sys.argv[1]), list(found), sizes]))
"""
COMMAND = "from jaxcnn.cli import main; main()"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))}
ENVIRONMENT["PYTHONPATH"] = str(Path(__file__).parents[2])


def write(folder, text):
    folder.mkdir()
    for name, content in {"mine": text, "base": BASE, "nets": NET, "sizes": SIZES, "data": ARRAYS}.items():
        (folder / f"{name}.py").write_text(content)


def start(folder, *words, code=COMMAND, **pipes):
    command = [sys.executable, "-P", "-c", code, *map(str, words)]
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, text=True, **pipes)


def call(folder, *words, code=COMMAND, expected=0):
    """Return what a process says."""
    process = start(folder, *words, code=code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, error = process.communicate(timeout=300)
    assert process.returncode == expected, error
    return error if expected else out


def kill_after_a_checkpoint(folder, *words):
    """Start the command, and kill it when some checkpoint is there."""
    process = start(folder, *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(folder.glob("runs/*/*/checkpoints/0*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()


def outcome(folder):
    (run,) = folder.glob("runs/*/*")
    result = json.loads((run / "result.json").read_text())
    assert result["status"] == "finished"
    return run, result, (run / "metrics.jsonl").read_bytes()


@pytest.mark.e2e
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in CASES])
def test_own_parts(name, tmp_path):
    text, metric, least = CASES[name]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        write(folder, text)
    call(whole, "train", "mine.py", "--quiet")
    run, result, rows = outcome(whole)
    assert result["metrics"][metric] >= least, result["metrics"]

    kill_after_a_checkpoint(broken, "train", "mine.py")
    (stopped,) = broken.glob("runs/*/*")
    assert not (stopped / "result.json").exists()
    call(broken, "train", "--resume", stopped.relative_to(broken), "--quiet")
    _, again, rows_again = outcome(broken)
    assert again["params_sha256"] == result["params_sha256"] and rows_again == rows

    status, scored, outputs, sizes = json.loads(call(whole, run, code=READ))
    assert (status, outputs) == ("finished", ["output"]) and min(sizes.values()) > 0
    assert sizes.keys() == {"model.safetensors", "model.stablehlo"}
    assert scored == {name: value for name, value in result["metrics"].items() if name.startswith("test/")}

    refused = call(tmp_path, "evaluate", run, expected=2)  # nothing is imported that was not named
    assert refused.count("\n") == 1 and "--code" in refused
    if name == "model":
        assert call(tmp_path, "evaluate", run, "--code", whole) == call(whole, "evaluate", run)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "metric", "holds"),
    [
        ("angle", "test/degrees", lambda value: value < 4),
        pytest.param("shapes", "test/mean_iou", lambda value: value > 0.85, marks=pytest.mark.slow),
    ],
)
def test_examples_reach_their_scores(name, metric, holds, tmp_path):
    text = (EXAMPLES / f"{name}.py").read_text()
    assert len(text.splitlines()) <= 80
    (tmp_path / f"{name}.py").write_text(text)
    call(tmp_path, "train", f"{name}.py", "--quiet")
    _, result, _ = outcome(tmp_path)
    assert holds(result["metrics"][metric]), result["metrics"]
