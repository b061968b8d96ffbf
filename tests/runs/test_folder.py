"""A run folder that is somebody else's, was edited, lies on a read-only disk, or changes while it is read."""

import contextlib
import fcntl
import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import jaxcnn
from jaxcnn import runs
from jaxcnn.errors import RunError, UsageError
from jaxcnn.report.terminal import result_table
from jaxcnn.runs import api, identity
from jaxcnn.runs.export import export
from jaxcnn.runs.folder import RunFolder
from jaxcnn.train import checkpoint
from jaxcnn.train.checkpoint import Checkpoints

COMPATIBILITY = Path(__file__).parents[1] / "compatibility"


def edit(path, change):
    """Change a JSON file: by what a function makes of its values, or by what replaces them."""
    values = json.loads(path.read_text())
    if callable(change):
        change(values)
    else:
        values = change
    path.write_text(values if isinstance(values, str) else json.dumps(values))


def read(folder):
    """All that is read of a run without computing anything."""
    run = jaxcnn.load_run(folder)
    api.describe_finished(run)
    return run.experiment, run.description, run.preprocessing, run.metrics, repr(run), result_table(run)


def put(*names, value=None):
    """Return what sets a value at a place in JSON, or without one removes it."""

    def change(values):
        for name in names[:-1]:
            values = values[name]
        values.pop(names[-1], None)
        if value is not None:
            values[names[-1]] = value

    return change


# Other versions.


def test_a_run_of_an_earlier_version_is_read(kept_run, monkeypatch):
    """Made by scripts/make_compatibility.py. A version that cannot read it says so and which one can."""
    run = jaxcnn.load_run(kept_run)
    experiment = jaxcnn.load_experiment(COMPATIBILITY / "experiment.py")
    assert run.experiment == experiment
    assert jaxcnn.experiment.fingerprint(experiment) == jaxcnn.experiment.fingerprint(run.experiment) == "92b0f5676f"
    assert list(run.metrics.index) == [10, 20, 30] and run.metrics.loc[30, "val/accuracy"] == 0.14
    recorded = run.result
    monkeypatch.setattr(identity, "trace", None)
    assert runs.resume(kept_run, progress=False).result == recorded
    found = runs.evaluate(kept_run)
    assert found["test/accuracy"] == recorded["metrics"]["test/accuracy"]
    assert found["test/loss"] == pytest.approx(recorded["metrics"]["test/loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("experiment", put("train", "later_field", value=1)),
        ("data", put("norms", "mean", value="in another form")),
    ],
)
def test_what_cannot_be_read_names_the_version_that_can(kept_run, file, change):
    edit(kept_run / f"{file}.json", change)
    edit(kept_run / "environment.json", put("jaxcnn", value="9.1.0"))
    with pytest.raises(UsageError) as error:
        read(kept_run)
    told = str(error.value)
    assert told.startswith(str(kept_run)) and "(jaxcnn 9.1.0 wrote it, this is " in told and "\n" not in told


def test_programs_in_another_form_are_another_program(kept_run, capsys):
    folder = kept_run.rename(kept_run.with_name("92b0f5676f"))
    edit(folder / "program.json", put("parts"))
    edit(folder / "program.json", put("sources", value=["0"]))
    experiment = jaxcnn.load_run(folder).experiment
    found = api.find(experiment, folder.parents[1], progress=True)
    assert found.path == Path(f"{folder}-2")
    assert "(another version of jaxcnn wrote its program.json: parts is missing" in capsys.readouterr().err


def test_a_finished_run_is_resumed_by_reading_it_though_its_program_changed(kept_run, monkeypatch, capsys):
    for name in ("trace", "programs_of"):
        monkeypatch.setattr(identity, name, None)
    monkeypatch.setattr(api, "programs_of", None)
    result = json.loads((kept_run / "result.json").read_text())
    edit(kept_run / "program.json", put("sources", value=["0"]))
    assert runs.resume(kept_run).result == result
    assert f"{kept_run}: finished on " in capsys.readouterr().err


def test_a_class_that_is_called_by_no_text_is_read_back(kept_run):
    """As a folder is whose name is not UTF-8."""
    names = [f"b\udcff{number}" for number in range(10)]
    edit(kept_run / "data.json", put("fields", "label", "class_names", value=names))
    assert jaxcnn.load_run(kept_run).description.class_names == tuple(names)
    assert jaxcnn.load_run(kept_run).description.to_json()["fields"]["label"]["class_names"] == names


# Hands that edit, and hostile ones.


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("result", [], "result.json holds a list: expected values by name"),
        ("result", put("status", value="done"), "result.json: status 'done'"),
        ("result", put("status", value=3), "result.json: status is 3: expected finished or stopped or failed"),
        ("result", put("metrics"), "result.json: metrics is missing: expected values by name"),
        ("result", put("metrics", value=[1]), "result.json: metrics is [1]: expected values by name"),
        ("result", put("metrics", "test/loss", value="x"), "result.json: metrics is {"),
        ("result", put("step", value="x"), "result.json: step is 'x': expected a whole number"),
        ("result", put("wall_seconds", value=10**400), "result.json holds a whole number that does not fit 64 bits"),
        ("result", put("seed", value=2**70), "result.json holds a whole number that does not fit 64 bits"),
        ("result", put("finished", value=3), "result.json: finished is 3: expected text or None"),
        ("data", {}, "data.json: not what a run writes (KeyError: 'fields')"),
        ("data", put("norms", "std", value=[0.0]), "norms: std is [0.0]: expected finite numbers above 0"),
        ("data", put("norms", "mean", value=[float("nan")]), "norms: std is "),
        ("data", put("norms", value=[]), "data.json: not what a run writes"),
        ("data", put("shapes", "image", value=["float32", 8, 8, 1]), "shapes are not those of the fields"),
        ("data", put("shapes", "image", value=["uint8", 8, "8", 1]), "a shape is [8, '8', 1]: expected a list of"),
        ("data", put("fields", "label", "class_names", value=3), "Label.class_names is 3: expected a list of texts"),
        ("data", put("fields", "image", "kind", value="Description"), "data.json: not what a run writes"),
        ("data", put("examples", value={"train": "x"}), "examples is {'train': 'x'}: expected values by name"),
        ("data", put("last_batch", value="x"), "unknown last_batch 'x'"),
        ("program", [1], "program.json holds a list"),
        ("program", put("sources", value={"a": 1}), "program.json: sources is {'a': 1}: expected a list of texts"),
        ("program", put("files", value={"a.py": "b"}), "program.json: files is {'a.py': 'b'}: expected values by"),
        ("experiment", "[" * 200_000 + "]" * 200_000, "experiment.json is nested deeper than 50 levels"),
        ("experiment", [], "experiment.json holds a list: expected values by name"),
        ("experiment", put("code", value="/somewhere"), "unknown field 'code'"),
        ("experiment", put("data", "path", value="a\0b"), "data.path is 'a\\x00b': expected a path or None"),
        ("experiment", put("seed", value=10**30), "experiment.json holds a whole number that does not fit 64 bits"),
        ("environment", "null", "environment.json holds a NoneType: expected values by name"),
    ],
)
def test_what_no_run_writes_is_named_in_one_line(kept_run, file, change, message):
    path = kept_run / f"{file}.json"
    edit(path, change)
    with pytest.raises((UsageError, RunError)) as error:
        read(kept_run)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("row", ['{"step": "x"}', '{"step": 1, "train/loss": "x"}', "[]", "[" * 200_000, "3"])
def test_rows_that_no_run_writes(kept_run, row):
    path = kept_run / "metrics.jsonl"
    path.write_text(f"{row}\n" + path.read_text())
    with pytest.raises(RunError, match=r"metrics.jsonl, line 1: not a row of metrics: "):
        read(kept_run)


EVIL = "from pathlib import Path\nPath({!r}).write_text('')\nimport flax.linen as nn\nNet = load = nn.Dense\n"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("model",), {"name": "{folder}/evil.py:Net"}),
        (("model",), {"name": "runs/compatibility/run/evil.py:Net"}),
        (("model",), {"name": "runs.compatibility.run.evil:Net"}),
        (("model",), {"name": "evil:Net"}),
        (("task",), {"kind": "runs/compatibility/run/evil.py:Net"}),
        (("optim",), {"kind": "evil:Net", "learning_rate": 0.1}),
        (("data", "source"), "runs/compatibility/run/evil.py:load"),
        (("data", "augment"), [{"kind": "runs/compatibility/run/evil.py:Net"}]),
        (("train", "callbacks"), [{"kind": "runs/compatibility/run/evil.py:Net"}]),
        (("code",), "runs/compatibility/run"),
    ],
)
def test_somebody_elses_run_imports_nothing(kept_run, tmp_path, monkeypatch, place, value):
    """Wherever it lies: below the working folder, and on Python's own path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(kept_run)
    (kept_run / "evil.py").write_text(EVIL.format(str(tmp_path / "imported")))
    text = json.dumps(value).replace("{folder}", str(kept_run))
    values = json.loads((kept_run / "experiment.json").read_text())
    inner = values
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = json.loads(text)
    if place == ("code",):
        values["model"] = {"name": "evil.py:Net"}
    (kept_run / "experiment.json").write_text(json.dumps(values))
    for use in (
        lambda: jaxcnn.load_run(kept_run).state,
        lambda: export(kept_run, tmp_path / "out"),
        lambda: runs.resume(kept_run, progress=False),
    ):
        with contextlib.suppress(UsageError):  # which not each of them has a reason for
            use()
    for folder in (kept_run, "."):
        with pytest.raises(UsageError) as error:
            runs.evaluate(folder)
        assert "\n" not in str(error.value)
        monkeypatch.chdir(kept_run)
    assert not (tmp_path / "imported").exists() and "evil" not in sys.modules


# While others write.


def test_the_lock_of_a_folder_that_was_removed_is_not_taken_for_it(tmp_path, monkeypatch):
    folder, flock, holders = RunFolder(tmp_path / "run"), fcntl.flock, []

    def after_its_owner_left(file, how):
        """Between opening and locking the file its owner removes it, and the next process makes another."""
        monkeypatch.setattr(fcntl, "flock", flock)
        shutil.rmtree(tmp_path / "run")
        holders.append(RunFolder(tmp_path / "run").locked())
        holders[0].__enter__()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", after_its_owner_left)
    with pytest.raises(UsageError, match="in use by another process"), folder.locked():
        pytest.fail("two processes have the lock")
    holders[0].__exit__(None, None, None)
    assert not list(tmp_path.iterdir())  # what a mistake has made is gone
    with folder.locked():
        (tmp_path / "run" / "experiment.json").write_text("{}")
    assert folder.has("experiment")


@pytest.mark.parametrize("moment", ["before", "after", "each time"])
def test_a_checkpoint_that_a_run_takes_away_while_it_is_read(tmp_path, monkeypatch, moment):
    """It is neither damaged nor missing: the next one is read."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = {"step": jax.ShapeDtypeStruct((3,), jnp.int32, sharding=sharding)}
    checkpoints, verify, saved = Checkpoints(tmp_path), checkpoint.verify, []

    def save():
        saved.append(len(saved) + 1)
        checkpoints.save(saved[-1], {"step": jnp.full(3, saved[-1], jnp.int32)}, {"step": saved[-1]})
        checkpoints.prune(1, None)

    def verified(folder):
        """Verify it while another process saves the next one and removes it."""
        meanwhile = len(saved) < 3 or moment == "each time"
        if meanwhile and moment == "before":
            save()
        verify(folder)
        if meanwhile and moment != "before":
            save()

    save()
    monkeypatch.setattr(checkpoint, "verify", verified)
    monkeypatch.setattr(checkpoint, "_TRIES", 4)
    if moment == "each time":
        with pytest.raises(RunError, match="come and go faster than they are read: try again"):
            checkpoints.restore_newest(like)
        return
    state, position, reports = checkpoints.restore_newest(like)
    assert (position, reports, state["step"].tolist()) == ({"step": 3}, [], [3, 3, 3])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000003"]
