"""A run folder whose JSON files were mutated: what is read of it, and what goes on with it."""

import json
from pathlib import Path

import jax
import pytest
from mutations import dumps, fuzz, lengths, mutate, mutate_json

import jaxcnn
from jaxcnn.experiment import fingerprint, kept
from jaxcnn.report.results import read_results, record, render
from jaxcnn.report.terminal import check_seeds, result_table, seeds_table
from jaxcnn.runs import Trainer, api, identity
from jaxcnn.runs.folder import RunFolder
from jaxcnn.runs.record import Record
from jaxcnn.train.checkpoint import POSITION, SUMS, _checksums

KEPT = Path(__file__).parents[1] / "compatibility" / "run"
FILES = {path.name: path.read_bytes() for path in sorted(KEPT.iterdir()) if path.suffix in (".json", ".jsonl")}


def mutated(rng, name, content):
    """Return one of the files with its values changed, or its bytes."""
    if rng.integers(4) == 0:
        return mutate(rng, content)
    if not name.endswith(".jsonl"):
        return dumps(mutate_json(rng, json.loads(content)))
    lines = content.splitlines()
    number = rng.integers(len(lines))
    lines[number] = dumps(mutate_json(rng, json.loads(lines[number])))
    return b"\n".join(lines) + b"\n"


def read(folder, results):
    """All that is made of a run folder without computing anything."""
    run = jaxcnn.load_run(folder)
    experiment = run.experiment
    fingerprint(experiment), kept(experiment), run.description, run.preprocessing, run.metrics, repr(run)
    result_table(run), seeds_table([run]), check_seeds([run])
    api.describe_finished(run)
    api.find(experiment, folder.parents[1], progress=False)
    (recorded,) = record([folder], results)
    render(read_results(results))
    assert recorded.parent.parent == results
    jaxcnn.load_run(folder).folder.best_step("accuracy", "max")


@lengths
def test_files_of_a_run(seconds, kept_run, tmp_path, monkeypatch):
    program = identity.Programs.from_json(json.loads(FILES["program.json"]))
    monkeypatch.setattr(api, "programs_of", lambda *given: program)
    folder = kept_run.rename(kept_run.with_name(fingerprint(jaxcnn.load_run(kept_run).experiment)))

    def case(rng):
        name = sorted(FILES)[rng.integers(len(FILES))]
        for each, content in FILES.items():
            (folder / each).write_bytes(mutated(rng, name, content) if each == name else content)
        return lambda: read(folder, tmp_path / "results")

    fuzz(case, cases=100, seconds=seconds)


@lengths
def test_what_a_trainer_is_made_of(seconds, kept_run):
    def case(rng):
        name = ("experiment.json", "data.json")[rng.integers(2)]
        for each in ("experiment.json", "data.json"):
            values = mutate_json(rng, json.loads(FILES[each])) if each == name else json.loads(FILES[each])
            if each == "experiment.json" and isinstance(values, dict) and isinstance(values.get("model"), dict):
                values["model"]["options"] = {
                    "depths": [1, 1],
                    "width": 4,
                }  # how large it may be: see the models' tests
            (kept_run / each).write_bytes(dumps(values))
        return lambda: jaxcnn.load_run(kept_run).trainer

    fuzz(case, cases=15, seconds=seconds)


@lengths
def test_the_position_to_go_on_from(seconds, kept_run):
    trainer = Trainer.from_experiment(jaxcnn.load_run(kept_run).experiment)
    checkpoint = max((kept_run / "checkpoints").iterdir())
    good = json.loads((checkpoint / POSITION).read_bytes())
    inputs = trainer.inputs.stream(jax.random.key(3))
    RunFolder(kept_run).checkpoints.restore_newest(trainer.abstract_state())  # what it imports takes seconds

    def case(rng):
        (checkpoint / POSITION).write_bytes(dumps(mutate_json(rng, good)))
        (checkpoint / SUMS).write_text(_checksums(checkpoint))
        return lambda: Record(trainer, kept_run, seed=3, progress=False)._begin(inputs, own_step=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "weights_sha256", lambda self, key: None)
        fuzz(case, cases=12, seconds=seconds)
    inputs.close()
