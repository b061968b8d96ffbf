"""The experiment tree: typed, comparable, the same after JSON, with a fingerprint of what matters."""

import dataclasses
import json
import sys
import types
import typing
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn import DataConfig, Experiment, Flip, Mixup, ModelConfig, Momentum, PadCrop, TrainConfig
from jaxcnn.errors import UsageError
from jaxcnn.experiment import difference, fingerprint, from_dict, load_experiment, to_dict
from jaxcnn.typed import check, expected, leaves, variants

BASE = Experiment(
    name="base",
    model=ModelConfig(name="lenet5", weights=Path("weights.pth")),
    data=DataConfig(source="tfds", name="mnist"),
    optim=Momentum(),
    train=TrainConfig(batch_size=64, epochs=40),
)


def field(experiment, name):
    """The field of that dotted name."""
    for part in name.split("."):
        experiment = getattr(experiment, part)
    return experiment


def with_field(experiment, name, value):
    """The experiment with the field of that dotted name changed."""
    head, _, rest = name.partition(".")
    inner = getattr(experiment, head)
    return replace(experiment, **{head: with_field(inner, rest, value) if rest else value})


def values_of(hint):
    """Values of a field's type, floats that are whole numbers among them."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):  # one of several: as JSON has it, with or without its defaults
        return st.sampled_from([hint(), dataclasses.asdict(hint()), {"kind": hint.kind}])
    if origin is Literal:
        return st.sampled_from(parts)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*map(values_of, parts))
    if origin is tuple:
        return st.lists(values_of(parts[0]), max_size=3).flatmap(lambda xs: st.sampled_from([xs, tuple(xs)]))
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), values_of(parts[1]), max_size=3)
    return {
        int: st.integers(1, 2**31),
        float: st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**40), 2**40)),
        bool: st.booleans(),
        str: st.text(max_size=8),
        Path: st.text("ab/. ", max_size=8).map(Path),
        type(None): st.none(),
    }[hint]


# Fields whose ranges an Experiment checks itself.
RANGES = {
    "name": st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,5}", fullmatch=True),
    "seed": st.integers(0, 2**32 - 99),
    "train.seeds": st.integers(1, 99),
    "train.epochs": st.one_of(st.integers(1, 99), st.floats(0.1, 99)),
    "train.label_smoothing": st.floats(0, 0.9),
    "train.ema_decay": st.one_of(st.none(), st.floats(0.1, 0.9)),
    # Each of these goes with another field only.
    "model.peer": st.just("jaxcnn"),
    "train.frozen": st.just(()),
}


@st.composite
def experiments(draw):
    """A random tree, as plain values."""
    values = {}
    for name, hint in leaves(Experiment).items():
        *rooms, last = name.split(".")
        inner = values
        for room in rooms:
            inner = inner.setdefault(room, {})
        inner[last] = draw(RANGES[name] if name in RANGES else values_of(hint))
    return values


@settings(deadline=None, max_examples=60)
@given(values=experiments())
def test_json_and_back(values):
    experiment = from_dict(values)
    again = from_dict(json.loads(json.dumps(to_dict(experiment))))
    assert again == experiment and difference(again, experiment) is None
    assert fingerprint(again) == fingerprint(experiment)
    assert to_dict(again) == to_dict(experiment)
    for name in leaves(Experiment):
        assert type(field(again, name)) is type(field(experiment, name))


def test_numbers_come_to_one_form():
    whole = replace(BASE, train=TrainConfig(batch_size=np.int64(64), epochs=40))
    assert type(whole.train.epochs) is float and type(whole.train.batch_size) is int
    assert fingerprint(whole) == fingerprint(replace(BASE, train=TrainConfig(batch_size=64, epochs=40.0)))
    assert replace(BASE, data=DataConfig(source="npz", path="x.npz", mean=[1])).data == DataConfig(
        source="npz", path=Path("x.npz"), mean=(1.0,)
    )
    options = {"a": True, "b": 1, "c": 1.0, "d": "x"}
    found = from_dict(to_dict(replace(BASE, model=ModelConfig(name="x", options=options)))).model.options
    assert found == options and [type(v) for v in found.values()] == [bool, int, float, str]


# Another value for a field, by its type, where adding one is not the way.
OTHERS = {"train.ema_decay": 0.5, "train.label_smoothing": 0.5, "data.source": "digits", "model.options": {"a": 1}}


def other(name, hint, value):
    if name in OTHERS:
        return OTHERS[name]
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if kinds := variants(hint):
        first = next(iter(kinds.values()))()
        return (*value, first) if typing.get_origin(hint) is tuple else first
    if typing.get_origin(hint) is Literal:
        return next(choice for choice in parts if choice != value)
    if typing.get_origin(hint) is tuple:
        return (*value, {"int": 7, "str": "seven"}[parts[0].__name__])
    if value is None:
        kind = parts[0] if typing.get_origin(parts[0]) is None else typing.get_origin(parts[0])
        return {int: 7, float: 0.7, str: "seven", bool: True, Path: Path("seven"), tuple: (0.7,)}[kind]
    if isinstance(value, Path):
        return Path(f"{value}x")
    return not value if hint is bool else value + ("x" if isinstance(value, str) else 1)


IMMATERIAL = {
    "checkpoint.every",
    "checkpoint.keep",
    "checkpoint.tensorboard",
    "paper",
    "published",
    "train.seeds",
    "train.seeds_mode",
}


@pytest.mark.parametrize(("name", "hint"), leaves(Experiment).items(), ids=list(leaves(Experiment)))
def test_the_fingerprint_covers_what_matters(name, hint):
    changed = with_field(BASE, name, other(name, hint, field(BASE, name)))
    assert changed != BASE
    if name in IMMATERIAL | {"data.path", "data.download", "data.pipeline", "data.threads", "data.bad_limit"}:
        assert fingerprint(changed) == fingerprint(BASE) and difference(changed, BASE) is None
    else:
        assert fingerprint(changed) != fingerprint(BASE)
        assert difference(changed, BASE).startswith(name) and " the run has " in difference(changed, BASE)


def test_where_the_data_are(tmp_path, monkeypatch):
    def at(source, path):
        return replace(BASE, data=DataConfig(source=source, path=path))

    # A TFDS data set is the same wherever it is; files and folders are told apart by where they are.
    assert fingerprint(at("tfds", tmp_path)) == fingerprint(at("tfds", None))
    for source in ("npz", "folder"):
        assert fingerprint(at(source, tmp_path / "a")) != fingerprint(at(source, tmp_path / "b"))
        assert difference(at(source, tmp_path / "a"), at(source, tmp_path / "b")) is None  # data.json tells
        (tmp_path / source).mkdir()
        monkeypatch.chdir(tmp_path / source)
        here = fingerprint(at(source, "images"))
        assert here == fingerprint(at(source, tmp_path / source / "images"))
        monkeypatch.chdir(tmp_path)
        assert here != fingerprint(at(source, "images"))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.batch_size", "64", "train.batch_size is '64': expected a whole number"),
        ("train.batch_size", 64.0, "train.batch_size is 64.0: expected a whole number"),
        ("train.batch_size", True, "train.batch_size is True: expected a whole number"),
        ("train.batch_size", None, "train.batch_size is None: expected a whole number"),
        ("train.steps", "x", "train.steps is 'x': expected a whole number or None"),
        ("train.epochs", float("nan"), "train.epochs is nan: expected a finite number or None"),
        ("optim.learning_rate", float("inf"), "optim.learning_rate is inf: expected a finite number"),
        ("optim.decay", "*kernel", "optim.decay is '*kernel': expected a list of texts"),
        ("schedule.boundaries", [1.5], "schedule.boundaries is [1.5]: expected a list of whole numbers"),
        ("data.mean", ["a"], "data.mean is ['a']: expected a list of finite numbers or None"),
        ("data.path", 3, "data.path is 3: expected a path or None"),
        ("data.download", 1, "data.download is 1: expected True or False"),
        ("data.augment", {"kind": "flip"}, "data.augment is {'kind': 'flip'}: expected a list of Flip or PadCrop or "),
        ("data.augment", [{"kind": "flip"}, 3], "data.augment[1] is 3: expected Flip or PadCrop or "),
        ("data.augment", [{"kind": "flp"}], "unknown data.augment[0].kind 'flp': did you mean 'flip'?"),
        ("data.augment", [{"kind": 3}], "unknown data.augment[0].kind '3': valid choices are "),
        ("data.augment", [{"pad": 4}], "data.augment[0].kind is missing: expected flip or pad_crop or "),
        ("data.augment", [{"kind": "pad_crop", "pad": 0.5}], "data.augment[0].pad is 0.5: expected a whole number"),
        ("data.augment", [{"kind": "flip", "p": 1}], "unknown field 'data.augment[0].p': "),
        ("data.augment", [{"kind": "mixup", "alpha": -1}], "data.augment, mixup: alpha is -1.0, expected a number of "),
        ("data.train_crop", [], "data.train_crop is []: expected RandomResizedCrop or ScaleJitter or None"),
        ("data.train_crop", {"kind": "x"}, "unknown data.train_crop.kind 'x': valid choices are random_resized_crop"),
        ("data.source", "tfsd", "unknown data.source 'tfsd': did you mean 'tfds'?"),
        ("data.source", None, "data.source is None: expected tfds or digits or npz or folder"),
        ("model", "lenet5", "model is 'lenet5': expected the fields of ModelConfig"),
        ("model.options", {"a": [0.5]}, "model.options is {'a': [0.5]}: expected values by name"),
        ("model.options", {1: 1}, "model.options is {1: 1}: expected values by name"),
        ("model.num_classes", 0, "model.num_classes is 0: expected a number above 0"),
        ("train.epochs", 0, "train.epochs is 0.0: expected a number above 0"),
        ("train.epochs", None, "train.steps and train.epochs are both None: give one of them"),
        ("train.label_smoothing", 1, "train.label_smoothing is 1.0: expected a value in [0, 1)"),
        ("train.ema_decay", 1.0, "train.ema_decay is 1.0: expected a value between 0 and 1"),
        ("checkpoint.keep", 0, "checkpoint.keep is 0: expected a number above 0"),
        ("seed", -1, "seed is -1: expected 0 to 4294967295"),
        ("name", "", "name is '': expected letters"),
        ("name", "..", "name is '..': expected letters"),
        ("name", "a/b", "name is 'a/b': expected letters"),
    ],
)
def test_fields_that_cannot_be(name, value, message):
    with pytest.raises(UsageError) as error:
        with_field(BASE, name, value)
    assert str(error.value).startswith(message)
    *rooms, last = name.split(".")
    values = inner = to_dict(BASE)
    for room in rooms:
        inner = inner[room]
    inner[last] = value
    with pytest.raises(UsageError) as error:  # the same from JSON
        from_dict(values)
    assert str(error.value).startswith(message)


def test_fields_unknown_or_missing():
    values = to_dict(BASE)
    with pytest.raises(UsageError, match=r"unknown field 'train.batchsize': did you mean 'train.batch_size'\?"):
        from_dict(values | {"train": {"batchsize": 3}})
    with pytest.raises(UsageError, match="unknown field 'sede': did you mean 'seed'"):
        from_dict(values | {"sede": 3})
    with pytest.raises(UsageError, match=r"train.batch_size is missing: expected a whole number"):
        from_dict(values | {"train": {}})
    with pytest.raises(UsageError, match="model is missing"):
        from_dict({name: value for name, value in values.items() if name != "model"})
    with pytest.raises(UsageError, match=r"the whole is \[1\]: expected the fields of Experiment"):
        from_dict([1])
    assert from_dict({**values, "eval": {}}) == BASE  # defaults may be left out


def test_transforms_are_told_apart_by_their_kind():
    data = DataConfig(source="digits", augment=[PadCrop(pad=2), Flip(), Mixup(alpha=1)])
    experiment = replace(BASE, data=data)
    assert experiment.data.augment == (PadCrop(pad=2), Flip(), Mixup(alpha=1.0))
    values = to_dict(experiment)["data"]["augment"]
    assert [value["kind"] for value in values] == ["pad_crop", "flip", "mixup"]
    assert from_dict(to_dict(experiment)) == experiment
    assert fingerprint(experiment) == fingerprint(replace(BASE, data=replace(data, augment=values)))
    turned = replace(BASE, data=replace(data, augment=data.augment[::-1]))
    assert fingerprint(turned) != fingerprint(experiment), "their order matters"
    assert difference(turned, experiment).startswith("data.augment is [")


def test_every_type_in_the_tree_has_a_description():
    assert all(expected(hint) for hint in leaves(Experiment).values())
    with pytest.raises(UsageError):
        check(ScheduleConfig, {"boundaries": 3}, "")


# Files.

GOOD = "from tests_toy import EXPERIMENT\n"


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tests_toy", types.SimpleNamespace(EXPERIMENT=BASE))

    def write(text, name="mine.py"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path / name

    return write


def test_a_file_and_its_neighbour(write):
    assert load_experiment(write(GOOD)) == BASE
    assert load_experiment(str(write("from mine import EXPERIMENT", "yours.py"))) == BASE
    assert str(write("").parent) not in sys.path


def test_neighbours_are_read_anew(write, tmp_path):
    path = write("from other import EXPERIMENT")
    for seed in (1, 22):  # of differing lengths: Python's own cache goes by size and time
        write(f"from dataclasses import replace\n{GOOD}EXPERIMENT = replace(EXPERIMENT, seed={seed})", "other.py")
        assert load_experiment(path).seed == seed
    assert "other" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X = 1", r"mine.py has no EXPERIMENT: expected EXPERIMENT = jaxcnn.Experiment\("),
        ("EXPERIMENT = {'seed': 1}", "mine.py has an EXPERIMENT of type dict: expected"),
        ("X = 1\nEXPERIMENT = (", r"mine.py cannot be run: SyntaxError: '\(' was never closed \(mine.py, line 2\)"),
        ("\nraise RuntimeError('a\\nb')", "mine.py, line 2, cannot be run: RuntimeError: a"),
        ("import sys\nsys.exit(3)", "mine.py, line 2, cannot be run: SystemExit: 3"),
        ("import jaxcnnn", "line 1, cannot be run: ModuleNotFoundError: No module named 'jaxcnnn'"),
        ("from jaxcnn import ModelConfig\nModelConfig(nam='x')", "line 2, cannot be run: TypeError: .*'nam'"),
        (b"\0\xff", "mine.py cannot be run: "),
        (
            "from dataclasses import replace\nfrom tests_toy import EXPERIMENT\nreplace(EXPERIMENT, seed='x')",
            "mine.py: seed is 'x': expected a whole number",
        ),
    ],
)
def test_files_that_cannot_be(write, text, message):
    with pytest.raises(UsageError, match=message):
        load_experiment(write(text))


def test_files_that_are_none(write, tmp_path, monkeypatch):
    path = write(GOOD)
    with pytest.raises(UsageError, match=r"unknown experiment file '.*/mien.py': did you mean '.*/mine.py'"):
        load_experiment(tmp_path / "mien.py")
    with pytest.raises(UsageError, match="is a folder: expected a Python file"):
        load_experiment(tmp_path)
    with pytest.raises(UsageError, match=r"notes.txt is not a Python file"):
        load_experiment(write(GOOD, "notes.txt"))
    path.unlink()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"there is no experiment file nowhere/mine.py"):
        load_experiment("nowhere/mine.py")
