"""What a configuration's fields take, in values and in words, and how they come through JSON."""

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcnn.errors import UsageError
from jaxcnn.parts import Finder
from jaxcnn.typed import (
    Config,
    Count,
    CountOrZero,
    Fraction,
    Inside,
    Interval,
    NotNegative,
    Open,
    Part,
    Positive,
    Probability,
    Rising,
    check,
    expected,
    from_words,
    leaves,
    to_json,
    variants,
)

OURS = "jaxcnn.test_typed"  # what a class of the package is told by


@dataclass(frozen=True, kw_only=True)
class Blur(Config):
    __module__ = OURS
    kind: Literal["blur"] = "blur"
    width: Positive = 1.0


@dataclass(frozen=True, kw_only=True)
class Shrink(Config):
    __module__ = OURS
    kind: Literal["shrink"] = "shrink"
    area: Annotated[tuple[Probability, Probability], Rising()] = (0.5, 1.0)
    to: Count
    """Has no default."""


Change = Annotated[Blur | Shrink, Open("a change", "__call__")]


@dataclass(frozen=True, kw_only=True)
class Rates(Config, at="rates"):
    __module__ = OURS
    first: Positive = 0.1
    warmup: CountOrZero | None = None
    steps: tuple[Count, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Tree(Config, at=""):
    __module__ = OURS
    name: str = "x"
    changes: tuple[Change, ...] = ()
    change: Change | None = None
    rates: Rates = Rates()
    path: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)
    mode: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Own:
    strength: float = 1.0

    def __call__(self):
        """What a part must have."""


@dataclass(frozen=True)
class NoPart:
    strength: float = 1.0


def own_function():
    """Stands in for a user's."""


# Ranges.


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Positive, "a finite number above 0"),
        (NotNegative, "a finite number, 0 or more"),
        (Fraction, "a finite number in [0, 1)"),
        (Probability, "a finite number in [0, 1]"),
        (Inside, "a finite number in (0, 1)"),
        (Count, "a whole number, 1 or more"),
        (Annotated[float, Interval(above=0, most=0.5)], "a finite number in (0, 0.5]"),
        (Annotated[float, Interval(most=2)], "a finite number, 2 or less"),
        (Annotated[float, Interval(below=2)], "a finite number below 2"),
        (Annotated[int, Interval(least=0, most=2**32 - 1)], "a whole number in [0, 4294967295]"),
        (Positive | None, "a finite number above 0 or None"),
        (tuple[Count, ...], "a list of whole numbers, 1 or more"),
        (tuple[Probability, Probability], "2 finite numbers in [0, 1]"),
        (Annotated[tuple[Positive, Positive], Rising()], "2 finite numbers above 0, in rising order"),
        (Change, "Blur or Shrink or a change of your own"),
        (tuple[Change, ...], "a list of Blur or Shrink or a change of your own"),
        (Change | None, "Blur or Shrink or a change of your own or None"),
    ],
)
def test_what_is_expected_in_words(hint, words):
    assert expected(hint) == words


@given(
    least=st.none() | st.floats(-2, 2),
    above=st.none() | st.floats(-2, 2),
    most=st.none() | st.floats(-2, 2),
    below=st.none() | st.floats(-2, 2),
    value=st.floats(-3, 3),
)
def test_an_interval_holds_what_it_says(least, above, most, below, value):
    limits = {"least": least, "above": above, "most": most, "below": below}
    within = {
        "least": least is None or value >= least,
        "above": above is None or value > above,
        "most": most is None or value <= most,
        "below": below is None or value < below,
    }
    assert (value in Interval(**limits)) == all(within.values())


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (Positive, [1e-9, 3, 7.5], [0, -1, float("inf"), float("nan"), True, "1", None]),
        (Fraction, [0, 0.99], [1, -0.1]),
        (Count, [1, 9], [0, 1.0, 1.5, True]),
        (Positive | None, [None, 2], [0, False]),
        (tuple[Count, ...], [[], [1, 2], (3,)], [[0], [1, 0], 1, "12", [1.5]]),
        (tuple[Probability, Probability], [[0, 1], (1, 0)], [[0], [0, 0.5, 1], [0, 2], []]),
        (Annotated[tuple[float, float], Rising()], [[0, 1], (1, 1)], [(1, 0), [0], [0, 1, 2]]),
        (Annotated[tuple[int, ...], Rising()], [[], [1], [1, 1, 4]], [[1, 4, 3]]),
        (Literal["a", "b"], ["a"], ["c", 1]),
        (Literal[1, 2], [1, 2], [3, True, "1", 1.0]),
    ],
    ids=str,
)
def test_values_that_can_be_and_cannot(hint, good, bad):
    for value in good:
        found = check(hint, value, "x")
        assert found == (tuple(value) if isinstance(value, list) else value)
    for value in bad:
        with pytest.raises(UsageError, match=r"^(x is|unknown x)"):
            check(hint, value, "x")


def test_numbers_take_the_form_of_their_types():
    assert type(check(float, 3, "x")) is float and type(check(int, 3, "x")) is int
    found = check(tuple[Positive, ...], [1, 2], "x")
    assert found == (1.0, 2.0) and all(type(number) is float for number in found)
    for hint in (Positive | Count, Count | Positive):  # what is given as a whole number stays one
        assert type(check(hint, 3, "x")) is int and type(check(hint, 3.0, "x")) is float
    assert check(bool | int, True, "x") is True and check(int | bool, 1, "x") == 1


def test_a_field_of_a_type_that_cannot_be_checked():
    @dataclass(frozen=True)
    class Mine(Config):
        sizes: list[int] = field(default_factory=list)

    with pytest.raises(UsageError, match=r"a field cannot be of the type list\[int\]"):
        Mine()


# Where a configuration is made.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Blur(width=0), "Blur.width is 0: expected a finite number above 0"),
        (
            lambda: Shrink(to=1, area=(1, 0.5)),
            "Shrink.area is (1, 0.5): expected 2 finite numbers in [0, 1], in rising order",
        ),
        (lambda: Shrink(to=1, area=(0.5,)), "Shrink.area is (0.5,): expected 2 finite numbers"),
        (lambda: Rates(steps=[0]), "rates.steps is [0]: expected a list of whole numbers, 1 or more"),
        (lambda: Rates(warmup=-1), "rates.warmup is -1: expected a whole number, 0 or more or None"),
        (lambda: Tree(mode="c"), "unknown mode 'c': valid choices are a, b"),
        (lambda: Tree(mode=3), "mode is 3: expected a or b"),
        (lambda: Tree(changes=["blr"]), "unknown changes[0] 'blr': did you mean 'blur'?"),
        (lambda: Tree(changes=[{"kind": "blur", "width": 0}]), "changes[0].width is 0: expected a finite number"),
        (lambda: Tree(changes=[{"kind": "blur", "with": 1}]), "unknown field 'changes[0].with': did you mean"),
        (lambda: Tree(changes=["shrink"]), "changes[0].to is missing: expected a whole number, 1 or more"),
        (lambda: Tree(changes=[Shrink]), "changes[0].to is missing"),
        (lambda: Tree(changes=[{"width": 1}]), "changes[0].kind is missing: expected blur or shrink"),
        (lambda: Tree(changes=[3]), "changes[0] is 3: expected Blur or Shrink or a change of your own"),
        (lambda: Tree(changes=Blur()), "changes is Blur("),
        (lambda: Tree(changes=[NoPart()]), "changes[0] is NoPart, which has no __call__: expected Blur or"),
        (
            lambda: Tree(changes=[lambda: 0]),
            "test_typed.<lambda>.<locals>.<lambda> is defined within a function: an experiment",
        ),
        (lambda: Tree(rates=3), "rates is 3: expected the fields of Rates"),
    ],
)
def test_fields_that_cannot_be(make, message):
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value).startswith(message)


def test_what_means_the_same():
    ours = Tree(changes=[{"kind": "blur"}, "blur", Blur, Blur(width=2)], path="a/b", rates={"first": 1})
    assert ours.changes == (Blur(), Blur(), Blur(), Blur(width=2.0))
    assert ours.path == Path("a/b") and ours.rates == Rates(first=1.0)
    assert hash(replace(ours, options={}).changes) == hash(ours.changes)
    assert variants(Change) == {"blur": Blur, "shrink": Shrink} == variants(tuple[Change, ...])


# A user's own parts.


def test_a_part_by_its_name_or_by_itself():
    own = Own(strength=3.0)
    found = Tree(changes=["mine.py:soft", {"kind": "pack.mine:Soft", "width": 2}, own_function, Own, own]).changes
    here = __name__
    assert found == (
        Part(name="mine.py:soft"),
        Part(name="pack.mine:Soft", options={"width": 2}),
        Part(name=f"{here}:own_function"),
        Part(name=f"{here}:Own"),
        own,
    )
    assert Finder().find(found[3].name) is Own
    assert Tree(change="mine.py:soft").change == Part(name="mine.py:soft")


def test_a_subclass_of_ours_is_taken():
    class Mine(Blur):
        pass

    assert type(Tree(changes=[Mine(width=2)]).changes[0]) is Mine


# JSON.

TREES = [
    Tree(),
    Tree(changes=(Blur(), Shrink(to=3, area=(0.1, 0.2)), Blur(width=2)), change=Shrink(to=1)),
    Tree(name="y", rates=Rates(first=3, steps=(1, 2)), path=Path("a"), options={"k": (1, 2)}, mode="b"),
    Tree(changes=("mine.py:soft", {"kind": "mine.py:Soft", "width": 2}), change=own_function),
]


@pytest.mark.parametrize("tree", TREES)
def test_json_and_back(tree):
    text = json.dumps(to_json(tree))
    found = check(Tree, json.loads(text), "")
    assert to_json(found) == json.loads(text)
    assert replace(found, options={}) == replace(tree, options={})


def test_what_is_set():
    assert to_json(Tree(), defaults=False) == {}
    assert to_json(TREES[1], defaults=False) == {
        "changes": [{"kind": "blur"}, {"kind": "shrink", "area": [0.1, 0.2], "to": 3}, {"kind": "blur", "width": 2.0}],
        "change": {"kind": "shrink", "to": 1},
    }
    assert to_json(TREES[2], defaults=False) == {
        "name": "y",
        "rates": {"first": 3.0, "steps": [1, 2]},
        "path": "a",
        "options": {"k": [1, 2]},
        "mode": "b",
    }


def test_an_own_dataclass_is_written_as_its_name_and_what_was_set(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_parts.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Soft:\n"
        "    width: float = 1.0\n"
        "    depth: int = 2\n"
        "    def __call__(self): return self.width\n"
    )
    kind = Finder().find("own_parts:Soft")
    tree = Tree(changes=(kind(depth=5),), change=kind())
    assert to_json(tree)["changes"] == [{"kind": "own_parts:Soft", "depth": 5}]
    assert to_json(tree, defaults=False) == {
        "changes": [{"kind": "own_parts:Soft", "depth": 5}],
        "change": {"kind": "own_parts:Soft"},
    }
    read = check(Tree, to_json(tree), "")
    assert read.changes == (Part(name="own_parts:Soft", options={"depth": 5}),)
    assert to_json(read) == to_json(tree)
    del sys.modules["own_parts"]


# Overrides and words.


def test_override():
    tree = Tree(rates=Rates(first=3), options={"a": 1}, change=Shrink(to=1))
    assert tree.override({}) == tree
    found = tree.override({"name": "y", "rates.steps": [2], "options.b": 2, "change.to": 4})
    rates, options = Rates(first=3, steps=(2,)), {"a": 1, "b": 2}
    assert found == Tree(name="y", rates=rates, options=options, change=Shrink(to=4))
    assert tree.override({"change": "blur", "change.width": 3}).change == Blur(width=3)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate.first": 3}, "unknown field 'rate.first': did you mean 'rates.first'?"),
        ({"rates.frist": 3}, "unknown field 'rates.frist': did you mean 'rates.first'?"),
        ({"name.first": 3}, "unknown field 'name.first'"),
        ({"rates.first": 0}, "rates.first is 0: expected a finite number above 0"),
        ({"changes": ["blr"]}, "unknown changes[0] 'blr'"),
    ],
)
def test_overrides_that_cannot_be(values, message):
    with pytest.raises(UsageError) as error:
        Tree().override(values)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("hint", "words", "value"),
    [
        (Count, ["3"], 3),
        (Positive, ["3"], 3.0),
        (Positive, ["1e-3"], 0.001),
        (Positive | None, ["None"], None),
        (bool, ["True"], True),
        (str, ["3"], "3"),
        (Literal["a", "b"], ["b"], "b"),
        (Path | None, ["a/b"], Path("a/b")),
        (tuple[Count, ...], ["3", "4"], (3, 4)),
        (tuple[Count, ...], [], ()),
        (tuple[Positive, ...] | None, ["0.5"], (0.5,)),
        (Annotated[tuple[Probability, Probability], Rising()], ["0", "1"], (0.0, 1.0)),
    ],
    ids=str,
)
def test_words(hint, words, value):
    found = from_words(hint, words, "--x")
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("hint", "words", "message"),
    [
        (Count, ["0"], "--x is 0: expected a whole number, 1 or more"),
        (Count, ["a"], "--x is 'a': expected a whole number, 1 or more"),
        (Count, [], "--x needs a value: expected a whole number, 1 or more"),
        (Count, ["1", "2"], "--x takes one value: expected a whole number, 1 or more"),
        (Positive, ["nan"], "--x is nan: expected a finite number above 0"),
        (bool, ["yes"], "--x is 'yes': expected True or False"),
        (Literal["sum", "mean"], ["men"], "unknown --x 'men': did you mean 'mean'?"),
        (tuple[Probability, Probability], ["1"], "--x is [1.0]: expected 2 finite numbers in [0, 1]"),
        (Annotated[tuple[float, float], Rising()], ["2", "1"], "--x is [2.0, 1.0]: expected 2 finite numbers, in ris"),
    ],
    ids=str,
)
def test_words_that_cannot_be(hint, words, message):
    with pytest.raises(UsageError) as error:
        from_words(hint, words, "--x")
    assert str(error.value).startswith(message)


def test_the_leaves_of_a_tree():
    found = leaves(Tree(change=Blur()))
    assert found["rates.first"] is Positive and found["change.width"] is Positive
    assert "change" not in found and next(iter(found)) == "name"
