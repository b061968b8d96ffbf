"""The experiment tree: typed, comparable, the same after JSON, with a fingerprint of what matters."""

import dataclasses
import json
import sys
import types
import typing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn import (
    SGD,
    Adam,
    Classification,
    Constant,
    CosineDecay,
    DataConfig,
    EarlyStopping,
    Experiment,
    Flip,
    Mixup,
    ModelConfig,
    Momentum,
    PadCrop,
    Part,
    StepDecay,
    TrainConfig,
)
from jaxcnn.errors import UsageError
from jaxcnn.experiment import LAST_SEED, difference, fingerprint, load_experiment, material
from jaxcnn.tasks import AnyTask
from jaxcnn.train.callbacks import Callback
from jaxcnn.train.optimizers import AnyOptimizer
from jaxcnn.train.schedules import AnySchedule
from jaxcnn.typed import Interval, alternatives, check, expected, hints, leaves, openings, takes, to_json, variants

BASE = Experiment(
    name="base",
    model=ModelConfig(name="lenet5", weights=Path("weights.pth")),
    data=DataConfig(source="tfds", name="mnist"),
    optim=Momentum(),
    train=TrainConfig(batch_size=64, epochs=40),
)


@dataclass(frozen=True)
class Own:
    """Could be a task, an optimiser, a schedule, a callback, a crop or a transform of a user's."""

    width: float = 1.0
    names: tuple[str, ...] = ()

    def __call__(self, *arguments):
        """Of a callback or transform."""

    losses = rule = make = box = __call__


def from_dict(values):
    return check(Experiment, values, "")


def own_function():
    """Likewise."""


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


# Fields whose values have to do with each other.
SPECIAL = {
    "name": st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,5}", fullmatch=True),
    "seed": st.integers(0, LAST_SEED - 99),
    "seeds": st.integers(1, 99),
    "epochs": st.one_of(st.integers(1, 99), st.floats(0.1, 99)),
    "peer": st.just("jaxcnn"),
    "frozen": st.just(()),
    "code": st.none(),
    "warmup_start": st.just(0.0),
    "boundaries": st.sets(st.integers(2**41, 2**42), min_size=1, max_size=3).map(sorted),
}


DATA = [
    {"source": "tfds", "options": {}, "image_size": 8, "resize_to": None, "pipeline": "streaming", "mean": None},
    {"source": "mine.py:load", "options": {"a": 1}, "name": "", "image_size": 8, "resize_to": 9, "resize": "bilinear"}
    | {"pipeline": "auto", "per_pixel_mean": False},
]


def values_of(hint):
    """Values of a field's type, as JSON or Python has them, floats that are whole numbers among them."""
    found = st.one_of(*(alternative(one, notes) for one, notes in alternatives(hint)))
    kinds = [] if takes(hint, tuple) else [kind for kind in variants(hint) if kind != "step"]  # which has no default
    own = [Own(), Own(width=2), Own(names=("a",)), Own, own_function, "mine.py:soft", {"kind": "a.b:c", "x": [1]}]
    others = kinds + own * bool(openings(hint))
    return st.one_of(found, st.sampled_from(others)) if others else found


def alternative(one, notes):
    """Values of one of the types that a field may be of."""
    origin, parts = typing.get_origin(one), typing.get_args(one)
    if dataclasses.is_dataclass(one):
        return tree_of(one)
    if origin is Literal:
        return st.sampled_from(parts)
    if origin is tuple:
        length = None if Ellipsis in parts else len(parts)
        found = st.lists(values_of(parts[0]), min_size=length or 0, max_size=length or 3)
        return found.map(sorted if notes else list).flatmap(lambda xs: st.sampled_from([xs, tuple(xs)]))
    if origin is dict:
        return st.dictionaries(st.text(max_size=5), values_of(parts[1]), max_size=3)
    if one is Any:  # an object, which is nobody's configuration
        return st.nothing()
    within = next((note for note in notes if isinstance(note, Interval)), Interval())
    low = within.least if within.above is None else within.above
    high = within.most if within.below is None else within.below
    out = {"exclude_min": within.above is not None, "exclude_max": within.below is not None}
    wholes = st.integers(-9 if low is None else int(low), 2**40 if high is None else int(high))
    some = high is None or within.__contains__(int(low or 0)) or within.__contains__(int(high))  # whole ones
    return {
        int: wholes,
        float: st.floats(low, high, allow_nan=False, allow_infinity=False, **out)
        | (wholes.filter(within.__contains__) if some else st.nothing()),
        bool: st.booleans(),
        str: st.text(max_size=8),
        Path: st.text("ab/. ", max_size=8).map(Path),
        type(None): st.none(),
    }[one]


@st.composite
def tree_of(draw, kind):
    """A random dataclass, as its fields; a transform or crop, whose fields have much to do with each other, as made."""
    if hasattr(kind, "kind") and kind.__module__.startswith("jaxcnn.data"):
        return draw(st.sampled_from([kind(), to_json(kind()), kind]))
    values = {}
    for name, hint in hints(kind).items():
        if name == "code":  # which is no part of its JSON
            continue
        special = name in SPECIAL and not (name == "name" and kind is not Experiment)
        values[name] = draw(SPECIAL[name] if special else values_of(hint))
    return values | (draw(st.sampled_from(DATA)) if kind is DataConfig else {})


def has_own(value):
    """Whether a value, or one in it, is a dataclass of a user's."""
    if dataclasses.is_dataclass(value):
        return isinstance(value, Own) or any(has_own(getattr(value, one.name)) for one in dataclasses.fields(value))
    return isinstance(value, tuple) and any(map(has_own, value))


@settings(deadline=None, max_examples=80)
@given(values=tree_of(Experiment))
def test_json_and_back(values):
    experiment = from_dict(values)
    again = from_dict(json.loads(json.dumps(to_json(experiment))))
    assert difference(again, experiment) is None
    assert fingerprint(again) == fingerprint(experiment)
    assert to_json(again) == to_json(experiment)
    assert from_dict(to_json(again)) == again
    if not has_own(experiment):  # which comes back as its name and options
        assert again == experiment
        for name in leaves(experiment):
            assert type(field(again, name)) is type(field(experiment, name))


def test_numbers_come_to_one_form():
    whole = replace(BASE, train=TrainConfig(batch_size=np.int64(64), epochs=40))
    assert type(whole.train.epochs) is float and type(whole.train.batch_size) is int
    assert fingerprint(whole) == fingerprint(replace(BASE, train=TrainConfig(batch_size=64, epochs=40.0)))
    assert replace(BASE, data=DataConfig(source="npz", path="x.npz", mean=[1])).data == DataConfig(
        source="npz", path=Path("x.npz"), mean=(1.0,)
    )
    options = {"a": True, "b": 1, "c": 1.0, "d": "x", "e": (1, 2)}
    found = from_dict(json.loads(json.dumps(to_json(replace(BASE, model=ModelConfig(name="x", options=options))))))
    found = found.model.options
    assert found == options and [type(v) for v in found.values()] == [bool, int, float, str, tuple]


# A user's own parts.


def test_own_parts_come_back_as_their_names():
    callbacks = (EarlyStopping(patience=3), Own(width=2), own_function)
    experiment = replace(
        BASE, task=Own(), optim="nets.py:mine", schedule=own_function, train=replace(BASE.train, callbacks=callbacks)
    )
    here = __name__
    again = from_dict(json.loads(json.dumps(to_json(experiment))))
    assert again.task == Part(name=f"{here}:Own") and again.optim == Part(name="nets.py:mine")
    assert again.schedule == Part(name=f"{here}:own_function")
    own = Part(name=f"{here}:Own", options={"width": 2.0}), Part(name=f"{here}:own_function")
    assert again.train.callbacks == (EarlyStopping(patience=3), *own)
    assert experiment.references == again.references == ["nets.py:mine", f"{here}:Own", f"{here}:own_function"]
    assert BASE.references == []


def test_the_names_of_parts_are_found_wherever_they_may_stand():
    model = ModelConfig(name="nets.py:tiny", options={"kind": "no.part:of_it", "stem": "nor.this:one"})
    train = replace(BASE.train, callbacks=("mine.py:look",))
    paper = {"paper": "see mine.py:soft", "published": "a.b:c"}
    assert replace(BASE, model=model, train=train, **paper).references == ["mine.py:look", "nets.py:tiny"]


def test_an_own_dataclass_is_known_by_what_is_set():
    def optim(**fields):
        return replace(BASE, optim=Own(**fields))

    assert material(optim(width=1)) == material(BASE) | {"optim.kind": f"{__name__}:Own"}
    assert fingerprint(optim()) == fingerprint(optim(width=1.0)) != fingerprint(optim(width=2))
    assert fingerprint(optim()) != fingerprint(BASE)
    assert fingerprint(replace(BASE, optim=Part(name=f"{__name__}:Own"))) == fingerprint(optim())
    assert difference(optim(width=2), optim()) == "optim.width is 2, the run has None"
    assert difference(optim(), BASE) == "optim.kind is 'test_experiment:Own', the run has 'momentum'"


# What the fingerprint covers.


# Another value for a field, by its type, where adding one is not the way.
OTHERS = {
    "train.ema_decay": 0.5,
    "data.source": "digits",
    "model.options": {"a": 1},
    "data.options": {"a": 1},
    "train.frozen": ("stem/*",),
    "schedule.boundaries": (3, 4),
    "train.callbacks": (EarlyStopping(),),
    "data.train_crop": "random_resized_crop",
}


def other(name, hint, value):
    """Another value that a field may have."""
    if name in OTHERS:
        return OTHERS[name]
    one, notes = alternatives(hint)[0]
    origin, parts = typing.get_origin(one), typing.get_args(one)
    if origin is tuple and variants(one):
        return (*value, next(iter(variants(one).values()))())
    if origin is Literal:
        return next(choice for choice in parts if choice != value)
    if origin is tuple:
        return (*(value or ()), {int: 7, float: 0.7, str: "seven"}[alternatives(parts[0])[0][0]])
    if value is None:
        return {int: 7, float: 0.7, str: "seven", bool: True, Path: Path("seven")}[one]
    if isinstance(value, Path | str):
        return type(value)(f"{value}x")
    if isinstance(value, bool):
        return not value
    within = next((note for note in notes if isinstance(note, Interval)), Interval())
    return next(number for number in (value + 1, value / 2, 0.5) if number != value and number in within)


# What a field of the data asks of others.
ALSO = {
    "data.source": {"name": ""},
    "data.options": {"name": "", "source": "mine.py:load"},
    "data.resize_to": {"image_size": 5},
}


IMMATERIAL = {
    "checkpoint.every",
    "checkpoint.keep",
    "checkpoint.tensorboard",
    "paper",
    "published",
    "train.seeds",
    "train.seeds_mode",
}


IMMATERIAL |= {"data.path", "data.download", "data.pipeline", "data.threads", "data.bad_limit"}

ROOMS = {"task": AnyTask, "optim": AnyOptimizer, "schedule": AnySchedule}
EACH = [("", BASE)] + [
    (room, replace(BASE, **{room: StepDecay(boundaries=(3,)) if kind is StepDecay else kind()}))
    for room, union in ROOMS.items()
    for kind in variants(union).values()
]
FIELDS = [
    pytest.param(base, name, hint, id=f"{getattr(field(base, room), 'kind', '')} {name}" if room else name)
    for room, base in EACH
    for name, hint in leaves(base).items()
    if not name.endswith(".kind") and name.partition(".")[0] not in (ROOMS.keys() - {room}) and name != "code"
    if not room or name.startswith(room)
]


@pytest.mark.parametrize(("base", "name", "hint"), FIELDS)
def test_the_fingerprint_covers_what_matters(base, name, hint):
    also = {"warmup_steps": 2} if name.endswith("warmup_start") else {}
    base = replace(base, schedule=replace(base.schedule, **also)) if also else base
    base = replace(base, data=replace(base.data, **ALSO.get(name, {})))
    changed = with_field(base, name, other(name, hint, field(base, name)))
    assert changed != base
    if name in IMMATERIAL:
        assert fingerprint(changed) == fingerprint(base) and difference(changed, base) is None
    else:
        assert fingerprint(changed) != fingerprint(base)
        mine, other_value = (field(to_tree(each), name) for each in (changed, base))
        if name == "model.weights":
            mine, other_value = (str(Path(path).absolute()) for path in (mine, other_value))
        if name.endswith(".options"):
            name, mine = f"{name}.a", 1
        elif name == "data.train_crop":
            name, mine = "data.train_crop.kind", "random_resized_crop"
        other_value = None if other_value == {} else other_value
        assert difference(changed, base) == f"{name} is {mine!r}, the run has {other_value!r}"


def to_tree(experiment):
    """Its JSON, with fields as attributes."""
    return json.loads(json.dumps(to_json(experiment)), object_hook=lambda values: Node(values))


class Node(dict):
    __getattr__ = dict.__getitem__


def test_each_kind_has_a_fingerprint_of_its_own():
    found = [fingerprint(base) for _, base in EACH]
    same = {fingerprint(BASE)}  # the defaults are among them
    assert len({*found} - same) == len(found) - 1 - len(ROOMS)
    stopping = [replace(BASE, train=replace(BASE.train, callbacks=(kind(),))) for kind in variants(Callback).values()]
    assert len({fingerprint(each) for each in stopping} - same) == len(stopping)


def test_what_is_as_by_default_counts_nothing():
    assert material(BASE) == {
        "name": "base",
        "model.name": "lenet5",
        "model.weights": "weights.pth",
        "data.source": "tfds",
        "data.name": "mnist",
        "optim.kind": "momentum",
        "train.batch_size": 64,
        "train.epochs": 40.0,
    }
    changed = replace(
        BASE, optim=Momentum(momentum=0.5), schedule=CosineDecay(), data=replace(BASE.data, augment=[Flip()])
    )
    assert material(changed) == material(BASE) | {
        "optim.momentum": 0.5,
        "schedule.kind": "cosine",
        "data.augment": [{"kind": "flip"}],
    }


def test_a_field_that_is_added_later_renames_no_folder():
    @dataclass(frozen=True, kw_only=True)
    class Grown(TrainConfig, at="train"):
        __module__ = "jaxcnn.train.config"
        added: int = 3

    @dataclass(frozen=True, kw_only=True)
    class Heavier(Momentum, at="optim"):
        __module__ = "jaxcnn.train.optimizers"
        added: float = 0.5

    grown = replace(BASE, train=Grown(batch_size=64, epochs=40), optim=Heavier())
    assert "added" in to_json(grown)["train"] and fingerprint(grown) == fingerprint(BASE)
    assert fingerprint(replace(grown, train=replace(grown.train, added=4))) != fingerprint(BASE)


def test_folders_keep_their_names():
    """What an experiment's folder is called is known to those who have one: if this fails, all are trained anew."""
    plain = replace(BASE, model=ModelConfig(name="lenet5"))
    rich = replace(
        plain,
        task=Classification(label_smoothing=0.1),
        optim=Adam(beta1=0.8),
        schedule=StepDecay(boundaries=(3, 4)),
        data=replace(BASE.data, augment=(PadCrop(pad=2), Flip())),
        train=TrainConfig(batch_size=8, steps=9, callbacks=(EarlyStopping(patience=3), "mine.py:look")),
    )
    assert [fingerprint(plain), fingerprint(rich)] == ["cf8ab1925c", "736686f045"]


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
        ("train.steps", "x", "train.steps is 'x': expected a whole number, 1 or more or None"),
        ("train.epochs", float("nan"), "train.epochs is nan: expected a finite number above 0 or None"),
        ("train.epochs", 0, "train.epochs is 0: expected a finite number above 0"),
        ("train.epochs", None, "train.steps and train.epochs are both None: give one of them"),
        ("train.ema_decay", 1.0, "train.ema_decay is 1.0: expected a finite number in (0, 1)"),
        ("train.callbacks", ["earlystop"], "unknown train.callbacks[0] 'earlystop': did you mean 'early_stopping'?"),
        (
            "train.callbacks",
            [{"kind": "early_stopping", "patience": -1}],
            "train.callbacks[0].patience is -1: expected a",
        ),
        ("train.callbacks", [DataConfig(source="digits")], "train.callbacks[0] is DataConfig, which has no __call__: "),
        ("task", {"kind": "clasification"}, "unknown task 'clasification': did you mean 'classification'?"),
        (
            "task",
            {"kind": "classification", "label_smoothing": 1},
            "task.label_smoothing is 1: expected a finite number in",
        ),
        ("task", 3, "task is 3: expected Classification or a task of your own"),
        ("task", EarlyStopping(), "task is EarlyStopping, which has no losses: expected Classification or a task of"),
        ("optim", {"kind": "adma"}, "unknown optim 'adma': did you mean 'adam'?"),
        ("optim", {"learning_rate": 0.1}, "optim.kind is missing: expected sgd or momentum or "),
        ("optim", {"kind": "sgd", "momentum": 0.9}, "unknown field 'optim.momentum': "),
        ("optim.learning_rate", float("inf"), "optim.learning_rate is inf: expected a finite number above 0"),
        ("optim.decay", "*kernel", "optim.decay is '*kernel': expected a list of texts"),
        ("schedule", "step", "schedule.boundaries is missing: expected a list of whole numbers, 1 or more"),
        ("schedule", {"kind": "step", "boundaries": [1.5]}, "schedule.boundaries is [1.5]: expected a list of whole"),
        (
            "schedule",
            {"kind": "step", "boundaries": [2, 1]},
            "schedule.boundaries is (2, 1): expected increasing steps",
        ),
        ("schedule.warmup_steps", 1.5, "schedule.warmup_steps is 1.5: expected a whole number, 0 or more"),
        ("data.mean", ["a"], "data.mean is ['a']: expected a list of finite numbers"),
        ("data.path", 3, "data.path is 3: expected a path or None"),
        ("data.download", 1, "data.download is 1: expected True or False"),
        ("data.augment", {"kind": "flip"}, "data.augment is {'kind': 'flip'}: expected a list of Flip or PadCrop or "),
        ("data.augment", [{"kind": "flip"}, 3], "data.augment[1] is 3: expected Flip or PadCrop or "),
        ("data.augment", [{"kind": "flp"}], "unknown data.augment[0] 'flp': did you mean 'flip'?"),
        ("data.augment", [{"kind": 3}], "unknown data.augment[0] '3': valid choices are "),
        ("data.augment", [{"pad": 4}], "data.augment[0].kind is missing: expected flip or pad_crop or "),
        ("data.augment", [{"kind": "pad_crop", "pad": 0.5}], "data.augment[0].pad is 0.5: expected a whole number"),
        ("data.augment", [{"kind": "flip", "p": 1}], "unknown field 'data.augment[0].p': "),
        (
            "data.train_crop",
            [],
            "data.train_crop is []: expected RandomResizedCrop or ScaleJitter or a crop of your own",
        ),
        ("data.train_crop", {"kind": "x"}, "unknown data.train_crop 'x': valid choices are random_resized_crop"),
        ("data.source", "tfsd", "unknown data.source 'tfsd': did you mean 'tfds'?"),
        ("data.source", 3, "data.source is 3: expected tfds or digits or npz or folder"),
        ("model", "lenet5", "model is 'lenet5': expected the fields of ModelConfig"),
        ("model.options", {"a": [0.5]}, "model.options is {'a': [0.5]}: expected values by name"),
        ("model.options", {1: 1}, "model.options is {1: 1}: expected values by name"),
        ("model.num_classes", 0, "model.num_classes is 0: expected a whole number in [1, 1048576] or None"),
        ("checkpoint.keep", 0, "checkpoint.keep is 0: expected a whole number, 1 or more"),
        ("seed", -1, "seed is -1: expected a whole number in [0, 4294967295]"),
        ("seed", 2**32, "seed is 4294967296: expected a whole number in [0, 4294967295]"),
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
    values = inner = to_json(BASE)
    for room in rooms:
        inner = inner[room]
    inner[last] = value
    with pytest.raises(UsageError) as error:  # the same from JSON
        from_dict(values)
    assert str(error.value).startswith(message)


def test_fields_unknown_or_missing():
    values = to_json(BASE)
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
    data = DataConfig(source="digits", augment=[PadCrop(pad=2), Flip(), Mixup(alpha=0.5)])
    experiment = replace(BASE, data=data)
    assert experiment.data.augment == (PadCrop(pad=2), Flip(), Mixup(alpha=0.5))
    values = to_json(experiment)["data"]["augment"]
    assert [value["kind"] for value in values] == ["pad_crop", "flip", "mixup"]
    assert from_dict(to_json(experiment)) == experiment
    assert fingerprint(experiment) == fingerprint(replace(BASE, data=replace(data, augment=values)))
    turned = replace(BASE, data=replace(data, augment=data.augment[::-1]))
    assert fingerprint(turned) != fingerprint(experiment), "their order matters"
    assert difference(turned, experiment).startswith("data.augment is [")


def test_several_seeds_start_where_there_are_enough():
    train = replace(BASE.train, seeds=4)
    assert replace(BASE, seed=LAST_SEED - 3, train=train).seed == LAST_SEED - 3
    with pytest.raises(
        UsageError, match=f"seed is {LAST_SEED - 2}: expected 0 to {LAST_SEED - 3}, so that there are 4"
    ):
        replace(BASE, seed=LAST_SEED - 2, train=train)


def test_every_type_in_the_tree_has_a_description():
    for _, base in EACH:
        assert all(expected(hint) for hint in leaves(base).values())
    with pytest.raises(UsageError):
        check(StepDecay, {"boundaries": 3}, "")


def test_override():
    found = BASE.override({"optim.learning_rate": 1, "train.epochs": 2, "seed": 3, "schedule.warmup_steps": 5})
    assert (found.optim, found.train.epochs, found.seed) == (Momentum(learning_rate=1.0), 2.0, 3)
    assert found.schedule == Constant(warmup_steps=5) and found.train.batch_size == 64
    assert BASE.override({"optim": "sgd", "optim.learning_rate": 2}).optim == SGD(learning_rate=2.0)
    assert BASE.override({"train.callbacks": ["early_stopping"]}).train.callbacks == (EarlyStopping(),)
    with pytest.raises(UsageError, match=r"unknown field 'optim.nestrov': did you mean 'optim.nesterov'"):
        BASE.override({"optim.nestrov": True})
    with pytest.raises(UsageError, match=r"unknown field 'optm.nesterov': did you mean 'optim.nesterov'"):
        BASE.override({"optm.nesterov": True})


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
    assert load_experiment(write(GOOD)).code == write(GOOD).parent and BASE.code is None
    assert load_experiment(str(write("from mine import EXPERIMENT", "yours.py"))) == BASE
    assert str(write("").parent) not in sys.path


def test_neighbours_are_read_anew(write, tmp_path):
    path = write("from other import EXPERIMENT")
    for seed in (1, 2):
        write(f"from dataclasses import replace\n{GOOD}EXPERIMENT = replace(EXPERIMENT, seed={seed})", "other.py")
        assert load_experiment(path).seed == seed
    assert "other" not in sys.modules


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("X = 1", r"mine.py has no EXPERIMENT: expected EXPERIMENT = jaxcnn.Experiment\("),
        ("EXPERIMENT = {'seed': 1}", "mine.py has an EXPERIMENT of type dict: expected"),
        ("X = 1\nEXPERIMENT = (", r"mine.py, line 2, cannot be run: SyntaxError: '\(' was never closed"),
        ("\nraise RuntimeError('a\\nb')", "mine.py, line 2, cannot be run: RuntimeError: a"),
        ("import sys\nsys.exit(3)", "mine.py, line 2, cannot be run: SystemExit: 3"),
        ("import jaxcnnn", "line 1, cannot be run: ModuleNotFoundError: No module named 'jaxcnnn'"),
        ("from jaxcnn import ModelConfig\nModelConfig(nam='x')", "line 2, cannot be run: TypeError: .*'nam'"),
        (b"\0\xff", "mine.py cannot be run: "),
        (
            "from dataclasses import replace\nfrom tests_toy import EXPERIMENT\nreplace(EXPERIMENT, seed='x')",
            "mine.py, line 3: seed is 'x': expected a whole number",
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
