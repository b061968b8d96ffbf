"""Several seeds together: each run is that of its seed alone, through stops, failures and unequal steps."""

import signal
import threading
import time
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn
from jaxcnn import (
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    Momentum,
    PadCrop,
    TrainConfig,
    cli,
    runs,
    weights,
)
from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, global_avg_pool
from jaxcnn.models import MODELS, Model
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.progress import SeedsProgress
from jaxcnn.runs import Trainer, api, trainer
from jaxcnn.runs.record import Record
from jaxcnn.runs.seeds import choose_mode, seeds_alone
from jaxcnn.stop import StopFlag, Stopped

SEEDS = (5, 6, 7)
# BatchNorm, averaged parameters, augmentation: everything that a seed or a neighbour could change.
EXPERIMENT = Experiment(
    name="several",
    model=ModelConfig(name="smooth"),
    data=DataConfig(source="digits", train_split="train[:100]", test_split="test[:60]", augment=(PadCrop(pad=1),)),
    optim=Momentum(learning_rate=0.05),
    train=TrainConfig(batch_size=24, steps=8, log_every=3, devices=1, ema_decay=0.9),
    eval=EvalConfig(every=4, batch_size=30),
    checkpoint=CheckpointConfig(keep=1, tensorboard=False),
    seed=SEEDS[0],
)


class Smooth(Model):
    """One convolution with BatchNorm, and dropout; without kinks, so that rounding stays rounding."""

    num_classes: int | None = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        x = Conv(4, 3, padding=1, use_bias=False, dtype=self.dtype, name="conv")(x)
        x = jnp.tanh(BatchNorm(not train, dtype=self.dtype, name="bn")(x))
        x = Dropout(0.1, deterministic=not train)(global_avg_pool(x))
        return x if self.num_classes is None else Dense(self.num_classes, name="head")(x.astype(jnp.float32))


@pytest.fixture(scope="module", autouse=True)
def smooth():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "smooth", replace(MODELS["resnet20"], factory=Smooth))
        patch.setattr(Record, "_draw", lambda *arguments: None)  # figures take longer than all else
        yield


# What can go wrong with a part of a stack cannot with runs that only take turns.
stacked_first = pytest.mark.parametrize("mode", ["devices", pytest.param("sequential", marks=pytest.mark.slow)])


def several(mode, experiment=EXPERIMENT, **train):
    train = {"seeds": len(SEEDS), "seeds_mode": mode, "devices": 2 if mode == "devices" else 1} | train
    return replace(experiment, train=replace(experiment.train, **train))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return [jaxcnn.run(replace(EXPERIMENT, seed=seed), folder, progress=False) for seed in SEEDS]


def assert_same_run(found, expected):
    """Everything but what the clock says, and what says that there were others."""
    assert found.path.name == expected.path.name  # the hash of the experiment
    for name in ("experiment.json", "data.json", "environment.json", "metrics.jsonl", "program.json"):
        assert (found.path / name).read_bytes() == (expected.path / name).read_bytes(), name
    names = ("status", "seed", "step", "metrics", "params_sha256")
    assert {name: found.result[name] for name in names} == {name: expected.result[name] for name in names}
    ours, theirs = (sorted(path.name for path in (run.path / "checkpoints").iterdir()) for run in (found, expected))
    assert ours == theirs
    jax.tree.map(np.testing.assert_array_equal, found.state, expected.state)
    ours, theirs = (np.load(run.path / "predictions.npz")["logits"] for run in (found, expected))
    np.testing.assert_array_equal(ours, theirs)


@stacked_first
def test_each_run_is_that_of_its_seed_alone_bit_for_bit(mode, alone, tmp_path, monkeypatch):
    loaded = []
    load = trainer.load_together
    monkeypatch.setattr(trainer, "load_together", lambda *a: loaded.append(a) or load(*a))
    found = jaxcnn.run_seeds(several(mode), tmp_path, progress=False, command="as typed")
    for run, expected in zip(found, alone, strict=True):
        assert_same_run(run, expected)
        # One after the other they share nothing that they could feel.
        assert run.result.get("together") == ({"mode": mode, "seeds": list(SEEDS)} if mode == "devices" else None)
        assert run.result["command"] == "as typed" and run.result["examples_per_second"] > 0
    assert len({run.result["params_sha256"] for run in found}) == len(SEEDS)
    # The data were loaded once. A second call finds all finished, without data.
    assert len(loaded) == 1
    again = jaxcnn.run_seeds(several(mode), tmp_path, progress=False)
    assert [run.result for run in again] == [run.result for run in found] and len(loaded) == 1


def test_several_seeds_share_the_data_and_the_program():
    base = Trainer.from_experiment(EXPERIMENT)
    for seed in (5, 6):
        key = jax.random.key(seed)
        stream = base.inputs.stream(key)
        assert stream.at(0).shared is base.inputs.shared
        base.train_step(base.initial_state(key), stream.at(0))
    assert base.train_step._cache_size() == 1


def test_networks_mapped_over_equal_each_alone_up_to_rounding(alone, tmp_path):
    """After 8 steps, 1e-5 of the largest value of each parameter."""
    for ours, theirs in zip(jaxcnn.run_seeds(several("vmap"), tmp_path, progress=False), alone, strict=True):
        assert ours.path.name == theirs.path.name and ours.result["step"] == 8
        # That its bits are not those of the seed alone is on record.
        assert ours.folder.read("environment")["seeds_mode"] == "vmap"
        assert "seeds_mode" not in theirs.folder.read("environment")
        for x, y in zip(jax.tree.leaves(ours.state.params), jax.tree.leaves(theirs.state.params), strict=True):
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())


@stacked_first
def test_a_stop_saves_all_and_the_same_command_goes_on(mode, alone, tmp_path, monkeypatch):
    save, meeting = Record.save, threading.Barrier(2 if mode == "devices" else 1, timeout=200)

    def stop_at_four(self, state, position):
        save(self, state, position)
        if position.step == 4 and (mode == "devices" or self._identity["seed"] == 6):
            meeting.wait()
            if self._identity["seed"] == 6:
                signal.raise_signal(signal.SIGTERM)
            while self.trainer.stop.signum is None:  # signals are the main thread's
                time.sleep(0.001)

    monkeypatch.setattr(Record, "save", stop_at_four)
    with StopFlag(), pytest.raises(Stopped, match="the same command goes on with all seeds") as stopped:
        jaxcnn.run_seeds(several(mode), tmp_path, progress=False)
    assert stopped.value.exit_code == 143
    monkeypatch.setattr(Record, "save", save)
    found = [api.find(each, tmp_path, False) for each in seeds_alone(several(mode), mode)]
    # Two at a time, or one; the signal is seen at the next step.
    first = ("stopped", 5) if mode == "devices" else ("finished", 8)
    assert [(run.result["status"], run.result["step"]) for run in found[:2]] == [first, ("stopped", 5)]
    assert found[2].result.get("step", 0) == 0 and jaxcnn.load_run(found[2].path).experiment == found[2].experiment
    assert runs.resume(found[1].path, progress=False).result["status"] == "finished"  # one of them by itself
    modified = (found[1].path / "result.json").stat().st_mtime_ns
    for run, expected in zip(jaxcnn.run_seeds(several(mode), tmp_path, progress=False), alone, strict=True):
        assert_same_run(run, expected)
    assert (found[1].path / "result.json").stat().st_mtime_ns == modified


@stacked_first
def test_a_loss_that_is_not_finite_ends_one_seed_alone(mode, alone, tmp_path, monkeypatch, capsys):
    start = Trainer.initial_state

    def broken(self, key):
        state = start(self, key)
        if int(jax.random.key_data(key)[1]) != 6:
            return state
        return state.replace(params=jax.tree.map(lambda x: x * np.float32(np.nan), state.params))

    monkeypatch.setattr(Trainer, "initial_state", broken)
    monkeypatch.setattr(cli, "prepare_process", lambda distributed: None)
    monkeypatch.setattr("jaxcnn.experiment.load_experiment", lambda path: EXPERIMENT)
    options = ["--train.seeds", "3", "--train.seeds-mode", mode, "--runs-dir", str(tmp_path)]
    if mode == "devices":
        options += ["--train.devices", "3"]
    assert cli._main(["train", "several.py", *options]) == 1
    out, said = capsys.readouterr()
    failed = "the loss is not finite at step 1"
    assert said.endswith(f"jaxcnn: error: 1 of 3 seeds failed: seed 6: {failed}\n")
    assert f"seed 6: {failed}: stopped; there is no good checkpoint" in said
    found = [api.find(each, tmp_path, False) for each in seeds_alone(several(mode), mode)]
    assert [run.result["status"] for run in found] == ["finished", "failed", "finished"]
    for number in (0, 2):
        assert_same_run(found[number], alone[number])
    scores = [100 * alone[number].result["metrics"]["test/accuracy"] for number in (0, 2)]
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[:2] for row in rows] == [
        ["5", f"{scores[0]:.2f}"],
        ["6", "failed"],
        ["7", f"{scores[1]:.2f}"],
        rows[3][:2],
    ]
    assert rows[3][:2] == ["mean", f"{np.mean(scores):.2f}"] and rows[3][3] == f"{np.std(scores, ddof=1):.2f}"


def test_seeds_that_start_from_weights(tmp_path):
    """A new head is drawn by each seed; the rest is the file's."""
    path, variables = tmp_path / "smooth.safetensors", Trainer.from_experiment(EXPERIMENT).initial_state().variables
    weights.save(
        path, variables, model="smooth", preprocessing=Preprocessing(size=(8, 8), channels="L", mean=(0.3,), std=(0.4,))
    )
    other = replace(EXPERIMENT, model=replace(EXPERIMENT.model, weights=path, num_classes=12))
    base, sixth = (Trainer.from_experiment(replace(other, seed=seed)) for seed in (5, 6))
    found, expected = base.initial_state(jax.random.key(6)), sixth.initial_state()
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    first = base.initial_state().params
    np.testing.assert_array_equal(found.params["conv"]["kernel"], first["conv"]["kernel"])
    assert (found.params["head"]["kernel"] != first["head"]["kernel"]).all()
    # Each has its own on record, and goes on from it.
    alone = jaxcnn.run(replace(other, seed=6), tmp_path / "alone", progress=False)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Record, "log", lambda self, *a: signal.raise_signal(signal.SIGTERM))
        jaxcnn.run_seeds(several("sequential", other, seeds=2), tmp_path, progress=False)
    _, run = jaxcnn.run_seeds(several("sequential", other, seeds=2), tmp_path, progress=False)
    assert_same_run(run, alone)


@pytest.mark.parametrize(
    ("asked", "devices", "parallel", "found"),
    [
        ("auto", 1, "jit", "sequential"),
        ("auto", 4, "jit", "devices"),
        ("auto", 4, "pmap", "sequential"),
        ("sequential", 4, "jit", "sequential"),
        ("devices", 1, "jit", "devices"),
        ("vmap", 1, "jit", "vmap"),
    ],
)
def test_ways(asked, devices, parallel, found):
    assert choose_mode(asked, devices, parallel) == found


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"seeds": 0}, "train.seeds is 0: expected a whole number, 1 or more"),
        ({"seeds_mode": "vmap", "devices": 2}, "train.seeds_mode is vmap, which uses one device of 2"),
        ({"seeds_mode": "vmap", "parallel": "pmap"}, "train.seeds_mode is vmap, but train.parallel pmap"),
        ({"seeds_mode": "devices", "devices": 9}, "train.devices is 9: expected 1 to 8, the devices found"),
        ({"batch_size": 25, "devices": 2, "seeds_mode": "sequential"}, "batch size 25 does not divide over 2 devices"),
        ({"batch_size": 101}, "a batch of 101 does not fit the 100 training examples"),
    ],
)
def test_refusals_leave_no_folder(train, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        jaxcnn.run_seeds(several("auto", **train), tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


def test_seeds_beyond_the_last_are_refused():
    with pytest.raises(UsageError, match="seed is 4294967294: expected 0 to 4294967293, so that there are 3 seeds"):
        replace(several("auto"), seed=2**32 - 2)


def test_one_run_is_not_several(alone, tmp_path):
    with pytest.raises(UsageError, match=r"train\.seeds is 3: jaxcnn\.run trains one, jaxcnn\.run_seeds several"):
        jaxcnn.run(several("auto"), tmp_path)
    with pytest.raises(UsageError, match=r"train\.seeds is 3: cannot resume .*, which is the run of one"):
        runs.resume(alone[0].path, several("auto"))
    (run,) = jaxcnn.run_seeds(EXPERIMENT, alone[0].path.parents[1])
    assert run.path == alone[0].path


def test_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UsageError, match=r"train\.seeds is for one process"):
        jaxcnn.run_seeds(several("auto"), tmp_path)


def test_folders_of_the_seeds_do_not_depend_on_how_many_there_are():
    for mode, devices in (("sequential", 2), ("vmap", 2), ("devices", 1)):
        found = seeds_alone(several(mode, devices=2), mode)
        base = several(mode, seeds=1, seeds_mode="auto", devices=devices)
        assert found == [replace(base, seed=seed) for seed in SEEDS]


class Shown:
    """A screen that takes notes."""

    def __init__(self):
        self.said, self.doing = [], None

    def row(self, step, row, rate):
        self.said.append((step, row, rate))

    def step(self, step, loss):
        self.said.append((step, loss))


def test_progress_shows_means_over_those_that_tell():
    shown = Shown()
    told = SeedsProgress(shown)
    first, second, third = (told.of(seed) for seed in (1, 2, 3))
    first.step(4, 1.0)
    second.step(4, 2.0)
    third.step(2, None)
    first.row(4, {"train/loss": 1.0}, 10.0)
    first.row(4, {"test/loss": 5.0}, 0.0)
    second.row(4, {"train/loss": 2.0}, 20.0)
    told.refresh()
    assert shown.said == [(4, {"train/loss": 1.5}, 30.0), (4, {"test/loss": 5.0}, 0.0), (2, 1.5)]
    told.ended(3)
    first.step(5, 3.0)
    told.refresh()
    assert shown.said[3:] == [(4, 2.5)]  # each row once; the step that all have done
