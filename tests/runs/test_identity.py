"""The program is part of a run: what is the same run after code has changed, and what is said of it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import jaxcnn
from jaxcnn import Adam, CheckpointConfig, DataConfig, Experiment, ModelConfig, Part, TrainConfig
from jaxcnn.errors import UsageError
from jaxcnn.runs import Trainer, identity, resume
from jaxcnn.runs.record import Record

FILES = {
    "nets.py": '''
import flax.linen as nn

class Tiny(nn.Module):
    """Two layers."""
    num_classes: int = 3

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, kernel_init=nn.initializers.normal(0.1))(x.reshape(len(x), -1))
        return nn.Dense(self.num_classes)(nn.relu(x))
''',
    "numbers_of_mine.py": """
import numpy as np

def arrays():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 3, 24)
    image = rng.integers(0, 256, (24, 4, 4, 1)).astype(np.uint8)
    return {"train": {"image": image, "label": label}, "test": {"image": image, "label": label}}
""",
    "mine.py": """
from dataclasses import dataclass
from jaxcnn import Classification
import jax.numpy as jnp
from hooks import Largest
from tasks_of_mine import Scored

def darker(key, batch, fields):
    return {**batch, "image": batch["image"].astype(jnp.float32) * 0.9}

def watch(step, metrics, state):
    return {"twice": 2 * step}
""",
    "hooks.py": """
class Largest:
    def __call__(self, step, metrics, state):
        return {"largest": 1.0 * max(metrics.values())}
""",
    "tasks_of_mine.py": """
from dataclasses import dataclass
from jaxcnn import Classification

@dataclass(frozen=True, kw_only=True)
class Scored(Classification):
    def losses(self, outputs, batch):
        return 1.0 * super().losses(outputs, batch)

    def sums(self, outputs, batch):
        return {**super().sums(outputs, batch), "more": (batch["label"] * 1).sum()}

    def metrics(self, sums):
        return {**super().metrics(sums), "share": float(sums["count"]) / 7}
""",
}


class Mine:
    """A user's folder, and the experiment of the parts in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in FILES.items():
            (folder / name).write_text(text)
        self.experiment = Experiment(
            name="mine",
            model=ModelConfig(name="nets.py:Tiny"),
            data=DataConfig(source="numbers_of_mine.py:arrays", augment=(Part(name="mine.py:darker"),)),
            task=Part(name="mine.py:Scored"),
            optim=Adam(learning_rate=1e-2),
            train=TrainConfig(batch_size=8, steps=2, devices=1, callbacks=("mine.py:watch", "mine.py:Largest")),
            checkpoint=CheckpointConfig(tensorboard=False),
            code=folder,
        )

    def edit(self, name, old, new):
        text = (self.folder / name).read_text()
        assert old in text
        (self.folder / name).write_text(text.replace(old, new))

    def run(self):
        return jaxcnn.run(self.experiment, self.folder / "runs")

    def programs(self, platform="cpu", experiment=None):
        experiment = experiment or self.experiment
        data = Trainer.from_experiment(experiment).data.describe()
        return identity.trace(experiment, data, experiment.finder, platform)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(Record, "_draw", lambda *arguments: None)  # figures take longer than all else
    return Mine(tmp_path)


def said(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("jaxcnn: ")]


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("nets.py", "nn.relu(x)", "nn.tanh(x)", r"the model: \d+ of \d+ operations differ"),
        ("nets.py", "normal(0.1)", "normal(0.2)", r"the initialisation: 1 of \d+ operations differ"),
        ("mine.py", "* 0.9", "* 0.8", r"the training step: \d+ of \d+ operations differ"),
        ("tasks_of_mine.py", "1.0 * super", "2.0 * super", r"the training step: \d+ of \d+ operations differ"),
        ("tasks_of_mine.py", '"label"] * 1', '"label"] * 3', r"the training step: \d+ of \d+ operations differ"),
        ("tasks_of_mine.py", "/ 7", "/ 8", "the code that makes batches and metrics differs"),
        ("mine.py", "2 * step", "3 * step", "the code that makes batches and metrics differs"),
        ("hooks.py", "1.0", "2.0", "the code that makes batches and metrics differs"),
        ("numbers_of_mine.py", "rng(0)", "rng(1)", "the code that makes batches and metrics differs"),
    ],
)
def test_another_program_is_told_by_its_first_difference(mine, name, old, new, expected):
    before = mine.programs()
    mine.edit(name, old, new)
    assert re.fullmatch(expected, mine.programs().differs(before))


def test_what_computes_the_same_is_the_same_program(mine):
    before = mine.programs()
    for name in FILES:
        mine.edit(name, "\n", "\n\n")
    mine.edit("nets.py", "import", "# a comment\nfrom math import pi as unused\nimport")
    mine.edit("nets.py", "Two layers", "A perceptron")
    mine.edit("nets.py", "nn.relu(x)", "nn.relu(hidden)")
    mine.edit("nets.py", "x = nn.Dense(4", "hidden = nn.Dense(4")
    mine.edit("numbers_of_mine.py", "rng = ", "rng = \\\n        ")
    after = mine.programs()
    assert after.differs(before) is None and before == after
    other = mine.experiment.override({"seed": 7, "name": "other"})
    assert mine.programs(experiment=other) == before


def test_programs_are_the_same_in_every_process_and_on_any_number_of_devices(mine):
    code = f"""
import json, sys
from dataclasses import asdict
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_identity import Mine
print(json.dumps(asdict(Mine(Path({str(mine.folder)!r})).programs())))
"""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | {"PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=200)
    assert identity.Programs.from_json(json.loads(done.stdout)) == mine.programs(), done.stderr


def test_those_of_an_accelerator_can_be_told_here(mine):
    here, there = mine.programs(), mine.programs("cuda")
    assert (here.platform, there.platform) == ("cpu", "cuda") and there.parts.keys() == here.parts.keys()


def test_a_run_from_its_first_program_to_its_third(mine, capsys, monkeypatch):
    first = mine.run()
    assert said(capsys) == []
    again = mine.run()
    (line,) = said(capsys)
    finished = f"{first.path}: finished on {first.result['finished'][:10]}"
    assert line.startswith(f"jaxcnn: {finished}") and line.endswith("; not trained again")
    assert (again.path, again.result) == (first.path, first.result)

    mine.edit("nets.py", "Two layers.", "Two layers!")
    assert mine.run().result == first.result
    same, line = said(capsys)
    assert same == f"jaxcnn: {first.path}: its code has changed, what it computes has not: it is the same run"
    assert line.startswith(f"jaxcnn: {finished}")
    with monkeypatch.context() as patch:  # both sources are known now
        patch.setattr(identity, "trace", None)
        assert mine.run().result == first.result and len(said(capsys)) == 1
        mine.edit("nets.py", "Two layers!", "Two layers.")
        assert mine.run().result == first.result and len(said(capsys)) == 1
        found = jaxcnn.load_run(first.path, code=[mine.folder])
        assert found.predict(np.zeros((1, 4, 4, 1), np.uint8)).shape == (1, 3)

    with monkeypatch.context() as patch:  # of ours, in a tree that was dirty before: no environment tells it
        patch.setattr(identity, "_own_sources", lambda: "an edit that is not committed")
        assert mine.run().result == first.result
        assert said(capsys)[0].endswith("its code has changed, what it computes has not: it is the same run")
        assert len(first.folder.read("program")["sources"]) == 3

    mine.edit("nets.py", "nn.relu", "nn.tanh")
    second = mine.run()
    (line,) = said(capsys)
    assert line.startswith(f"jaxcnn: {first.path} was computed by another program (the model: ")
    assert line.endswith(f" operations differ): trained anew in {second.path}")
    assert second.path == Path(f"{first.path}-2") and second.result["params_sha256"] != first.result["params_sha256"]
    mine.edit("nets.py", "nn.tanh", "nn.gelu")
    assert mine.run().path == Path(f"{first.path}-3")
    for name, expected in (("relu", first), ("tanh", second)):
        mine.edit("nets.py", "nn.gelu" if name == "relu" else "nn.relu", f"nn.{name}")
        found = mine.run()
        assert (found.path, found.result) == (expected.path, expected.result)


def test_a_resume_refuses_another_program_unless_it_is_accepted(mine, capsys):
    run = mine.run()
    (run.path / "result.json").unlink()
    known = run.folder.read("program")
    mine.edit("mine.py", "* 0.9", "* 0.8")
    capsys.readouterr()
    with pytest.raises(UsageError) as error:
        resume(run.path, code=[mine.folder])
    told = f"cannot resume {run.path}: it was computed by another program (the training step: "
    assert str(error.value).startswith(told) and "--accept-program goes on with today's" in str(error.value)
    assert not run.result and run.folder.read("program") == known
    assert resume(run.path, code=[mine.folder], accept_program=True).result["status"] == "finished"
    now = run.folder.read("program")
    assert now["sources"][0] == known["sources"][0] and len(now["sources"]) == 2
    assert now["parts"]["the training step"] != known["parts"]["the training step"]
    assert set(now["files"]) == set(FILES)


def test_runs_of_many_seeds_are_traced_once(mine, monkeypatch):
    traced, trace = [], identity.trace
    monkeypatch.setattr(identity, "trace", lambda *given: traced.append(given) or trace(*given))
    for seed in (0, 1):
        jaxcnn.run(mine.experiment.override({"seed": seed}), mine.folder / "runs", progress=False)
    assert len(traced) == 1
    mine.edit("nets.py", "Two layers.", "Two layers!")
    for seed in (0, 1):
        jaxcnn.run(mine.experiment.override({"seed": seed}), mine.folder / "runs", progress=False)
    assert len(traced) == 2
    for path in (Path(os.environ["XDG_CACHE_HOME"]) / "jaxcnn" / "programs").iterdir():
        path.write_text("[")  # which costs time, and nothing else
    mine.edit("nets.py", "Two layers!", "Two layers?")
    sources = identity.sources_of(mine.experiment, mine.experiment.finder)
    data = Trainer.from_experiment(mine.experiment).data.describe()
    for _ in range(2):
        identity.programs_of(mine.experiment, data, sources, mine.experiment.finder)
    assert len(traced) == 3


def test_sources_are_what_was_read_and_no_more(mine):
    before = identity.sources_of(mine.experiment, mine.experiment.finder)
    assert set(before.files) == set(FILES)  # neighbours among them
    (mine.folder / "beside.py").write_text("not = python")  # which nothing imports
    assert identity.sources_of(mine.experiment, mine.experiment.finder) == before
    mine.edit("tasks_of_mine.py", "1.0 *", "1.00 *")
    after = identity.sources_of(mine.experiment, mine.experiment.finder)
    differ = [name for name in FILES if after.files[name] != before.files[name]]
    assert differ == ["tasks_of_mine.py"] and after.sha256 != before.sha256
