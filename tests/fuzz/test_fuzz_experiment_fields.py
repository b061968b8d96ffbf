"""The fields of an experiment, as a file or a command line gives them: any value of any type."""

import dataclasses
import json
from pathlib import Path

import pytest
from mutations import ODD, Deep, fuzz, lengths, mutate_json

import jaxcnn
from jaxcnn import arguments
from jaxcnn.errors import UsageError
from jaxcnn.experiment import Experiment, differences, fingerprint, kept
from jaxcnn.runs import Trainer
from jaxcnn.train.optimizers import AnyOptimizer
from jaxcnn.train.schedules import AnySchedule
from jaxcnn.typed import check, default_of, hints, leaves, to_json, variants

KEPT = jaxcnn.load_experiment(Path(__file__).parents[1] / "compatibility" / "experiment.py")
DESCRIPTION = jaxcnn.load_run(Path(__file__).parents[1] / "compatibility" / "run").description
AUGMENT = [{"kind": kind} for kind in variants(hints(type(KEPT.data))["augment"])]


def base(rng):
    """Return the JSON of an experiment with an optimiser, a schedule and transforms by chance."""
    values = to_json(KEPT)
    for name, kind in (("optim", AnyOptimizer), ("schedule", AnySchedule)):
        found = list(variants(kind).items())
        chosen, one = found[rng.integers(len(found))]
        values[name] = {"kind": chosen, **fields(one)}
    values["data"]["augment"] = [AUGMENT[n] for n in rng.integers(len(AUGMENT), size=2)]
    return values


def fields(kind):
    """Return the defaults of a dataclass, and for fields without one the first number that there is."""
    given = {one.name: default_of(one) for one in dataclasses.fields(kind) if one.name != "kind" and one.init}
    return {name: [1] if value is dataclasses.MISSING else to_json(value) for name, value in given.items()}


def solid(value):
    """Return values of `mutate_json` for Python, where nothing is nested without an end."""
    if isinstance(value, Deep):
        return json.loads("[" * 500 + "]" * 500)
    if isinstance(value, dict):
        return {key: solid(item) for key, item in value.items()}
    return [solid(item) for item in value] if isinstance(value, list) else value


NUMBERS = (0, 1, 2, 3, 7, 0.5, 1e-30, 1e30, 1e308, 100, 10_000, 2**31 - 1, 2**31, 2**32, 2**62, 2**63)


def numbers_in(value):
    """Yield where numbers stand in JSON, and where None does, for which they may."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, dict | list):
            yield from numbers_in(item)
        elif item is None or type(item) in (int, float):
            yield value, key


@lengths
def test_values(seconds):
    def case(rng):
        values = solid(mutate_json(rng, base(rng)))

        def door():
            experiment = check(Experiment, values, "")
            again = check(Experiment, json.loads(json.dumps(to_json(experiment))), "")
            assert again == experiment or not json.dumps(to_json(experiment)).isascii()
            fingerprint(experiment), kept(experiment), differences(experiment, KEPT), repr(experiment)

        return door

    fuzz(case, cases=300, seconds=seconds)


@lengths
def test_one_field(seconds):
    names = sorted(leaves(KEPT))

    def case(rng):
        values = {names[rng.integers(len(names))]: solid(ODD[rng.integers(len(ODD))]) for _ in range(2)}
        return lambda: fingerprint(KEPT.override(values))

    fuzz(case, cases=600, seconds=seconds)


@lengths
def test_words(seconds):
    names = [arguments.flag_of(name) for name in sorted(leaves(KEPT))]
    odd = [str(solid(value)) for value in ODD] + ["", "-1", "--", "'", "=", "None", "True", "nan", "a b", "1 2"]

    def case(rng):
        words = []
        for _ in range(rng.integers(1, 4)):
            name, value = names[rng.integers(len(names))], odd[rng.integers(len(odd))]
            words += [f"{name}={value}"] if rng.integers(2) else [name, *[value] * int(rng.integers(3))]
        return lambda: arguments.parse([KEPT], "jaxcnn train", "", words, "file")

    fuzz(case, cases=300, seconds=seconds)


@lengths
def test_a_trainer(seconds):
    """What passes for an experiment can be put together, or is refused."""

    def case(rng):
        values = base(rng)
        options = values["model"].pop("options")  # how large a network may be has its tests with the models
        places = list(numbers_in(values))
        values["model"]["options"] = options
        for _ in range(rng.integers(1, 3)):
            parent, key = places[rng.integers(len(places))]
            parent[key] = NUMBERS[rng.integers(len(NUMBERS))]
        return lambda: Trainer.from_experiment(check(Experiment, values, ""), data=DESCRIPTION)

    fuzz(case, cases=15, seconds=seconds)


def test_deep_values_are_refused():
    with pytest.raises(UsageError):
        KEPT.override({"data.mean": json.loads("[" * 900 + "]" * 900)})
