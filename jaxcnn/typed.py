"""Configurations: frozen dataclasses whose types and ranges are checked where they are made, and their JSON.

A field's type says all that is asked of it: `Annotated[float, Interval(above=0)]` is a finite number above 0, and
`Annotated[Flip | Mixup | Any, Open("a transform", "__call__")]` one of ours, or a user's own: `Any` says so to type
checkers, `Open` to us.
"""

import contextlib
import dataclasses
import functools
import math
import numbers
import os
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxcnn.errors import UsageError, unknown
from jaxcnn.parts import Part, is_reference, reference_of

Option = bool | int | float | str | tuple[int, ...]
"""What a user's part and a model can be made with."""

_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    types.NoneType: "None",
}
_MANY = {int: "whole numbers", float: "finite numbers", str: "texts", Path: "paths"}


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The range of a number, as an annotation of its type."""

    above: float | None = None
    """It is larger than this,"""
    least: float | None = None
    """or at least this;"""
    most: float | None = None
    """it is at most this,"""
    below: float | None = None
    """or smaller than this."""

    def __contains__(self, value: float) -> bool:
        """Return whether a number lies in it."""
        return (
            (self.above is None or value > self.above)
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Return it in words that follow "a number"."""
        above, least, most, below = (
            None if bound is None else f"{bound:.15g}" for bound in (self.above, self.least, self.most, self.below)
        )
        low = above if least is None else least
        high = below if most is None else most
        if high is None:
            return f" above {low}" if least is None else f", {low} or more"
        if low is None:
            return f" below {high}" if most is None else f", {high} or less"
        return f" in {'(' if least is None else '['}{low}, {high}{')' if most is None else ']'}"


@dataclass(frozen=True)
class Rising:
    """Marks a list of numbers none of which may be smaller than the one before it."""

    def __contains__(self, values: tuple[float, ...]) -> bool:
        """Return whether numbers do so."""
        return list(values) == sorted(values)

    def __str__(self) -> str:
        """Return it in words that follow "numbers"."""
        return ", in rising order"


Positive = Annotated[float, Interval(above=0)]
NotNegative = Annotated[float, Interval(least=0)]
Fraction = Annotated[float, Interval(least=0, below=1)]
Probability = Annotated[float, Interval(least=0, most=1)]
Inside = Annotated[float, Interval(above=0, below=1)]
Count = Annotated[int, Interval(least=1)]
CountOrZero = Annotated[int, Interval(least=0)]


@dataclass(frozen=True)
class Open:
    """Marks a field, or the items of a list, where a user's own part may stand in place of one of ours."""

    what: str
    """In words, such as "a transform"."""
    method: str
    """What an own dataclass must have."""


class Config:
    """A frozen dataclass whose fields are checked when it is made, and brought to the form of their types.

    40 epochs are 40.0, a list becomes a tuple, a text a path. `class TrainConfig(Config, at="train")` has its fields
    called `train.batch_size` in messages; without `at`, by the name of the class.
    """

    _at = ""

    def __init_subclass__(cls, at: str | None = None) -> None:
        """Note what the fields are called after."""
        at = cls.__name__ if at is None else at
        cls._at = at and f"{at}."

    def __post_init__(self) -> None:
        """Check all fields.

        Raises:
          UsageError: naming the first that cannot be, and what was expected.
        """
        for name, hint in hints(type(self)).items():
            object.__setattr__(self, name, check(hint, getattr(self, name), self._at + name))

    def override(self, values: Mapping[str, Any]) -> typing.Self:
        """Return a copy with other values of some fields, which are named as in "optim.learning_rate".

        Raises:
          UsageError: there is no such field, or it does not take the value.
        """
        at, kinds = getattr(self, "_at", ""), hints(type(self))
        kept, inner = {name: getattr(self, name) for name in kinds}, dict[str, dict[str, Any]]()
        for name, value in sorted(values.items(), key=lambda item: "." in item[0]):
            head, dot, rest = name.partition(".")
            if head not in kinds or (dot and not isinstance(kept[head], dict) and not _is_dataclass(kept[head])):
                raise unknown("field", name, leaves(self), at)
            if isinstance(kept[head], dict) and (dot or isinstance(value, dict)):  # added to those there are
                kept[head] = kept[head] | ({rest: value} if dot else value)
            elif dot:
                inner.setdefault(head, {})[rest] = value
            else:
                kept[head] = check(kinds[head], value, at + head)
        return type(self)(**kept | {head: Config.override(kept[head], rest) for head, rest in inner.items()})


def _is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


# What types say.


def hints(kind: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass, with its annotations."""
    return _hints(kind)


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    names: dict[str, Any] = {}  # of the modules that it was made in: sys.modules has not those of a user's parts
    for one in reversed(kind.__mro__):
        names |= getattr(one.__init__, "__globals__", {})
    found = typing.get_type_hints(kind, names, include_extras=True)
    return {one.name: found[one.name] for one in dataclasses.fields(kind) if one.init}


def leaves(tree: Any) -> dict[str, Any]:
    """Return the types of the fields of a tree of dataclasses that are none themselves, by dotted name."""
    found: dict[str, Any] = {}
    for name, hint in hints(type(tree)).items():
        value = getattr(tree, name)
        deeper = leaves(value) if _is_dataclass(value) and not isinstance(value, Part) else {}
        found |= {f"{name}.{rest}": kind for rest, kind in deeper.items()} or {name: hint}
    return found


def alternatives(hint: Any) -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the types that a field may be of, without their annotations, and these."""
    if typing.get_origin(hint) is Annotated:
        return [(one, (*hint.__metadata__, *notes)) for one, notes in alternatives(hint.__origin__)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        # Any, beside others, is there for type checkers: what a user's own part must be, `Open` says.
        return [each for part in typing.get_args(hint) if part is not Any for each in alternatives(part)]
    return [(hint, ())]


def takes(hint: Any, kind: Any) -> bool:
    """Return whether a field may be a `kind`: bool, tuple, dict, None, ..."""
    return any(kind in (one, typing.get_origin(one)) for one, _ in alternatives(hint))


def variants(hint: Any) -> dict[str, Any]:
    """Return our dataclasses that a field takes, or that its list is of, by the `kind` that tells them apart in JSON.

    {}: it takes something else.
    """
    found: dict[str, Any] = {}
    for one, _ in alternatives(hint):
        if typing.get_origin(one) is tuple:
            found |= variants(typing.get_args(one)[0])
        elif dataclasses.is_dataclass(one) and "kind" in hints(one):
            found[one.kind] = one  # type: ignore[union-attr]
    return found


def openings(hint: Any) -> list[Open]:
    """Return what a field is marked with where it takes a user's own part."""
    return list(dict.fromkeys(note for _, notes in alternatives(hint) for note in notes if isinstance(note, Open)))


def choices(hint: Any) -> tuple[str, ...]:
    """Return the names that a field takes, () where they are not a fixed list."""
    literals = [typing.get_args(one) for one, _ in alternatives(hint) if typing.get_origin(one) is Literal]
    return tuple(name for names in literals for name in names if isinstance(name, str))


def expected(hint: Any) -> str:
    """Return in words what a field of this type takes."""
    words = [_words(one, notes) for one, notes in alternatives(hint)]
    own = [f"{note.what} of your own" for note in openings(hint)]
    return " or ".join([word for word in words if word != "None"] + own + ["None"] * ("None" in words))


def _words(one: Any, notes: tuple[Any, ...]) -> str:
    origin, parts = typing.get_origin(one), typing.get_args(one)
    ranges = "".join(str(note) for note in notes if isinstance(note, Interval | Rising))
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin is dict:
        return "values by name"
    if origin is tuple and variants(one):
        return f"a list of {expected(parts[0])}"
    if origin is tuple:
        ((item, of_item),) = alternatives(parts[0])
        many = f"{'a list of' if Ellipsis in parts else len(parts)} {_MANY.get(item, 'values')}"
        return many + "".join(map(str, of_item)) + ranges
    if dataclasses.is_dataclass(one):
        name = getattr(one, "__name__", "")
        return name if "kind" in hints(one) else f"the fields of {name}"
    return _WORDS.get(one, "a value") + ranges


# Values.


class _Mismatch(Exception):
    pass


def check(hint: Any, value: Any, name: str) -> Any:
    """Return `value` as what the annotation `hint` says.

    What means the same is converted: a mapping to a dataclass, a list to a tuple, text to a path, a whole number to a
    float where a float is expected; a `kind`, or a class, to what it is by default; the name of a part, or a function
    or class that has one, to a `Part`.

    Args:
      hint: bool, int, float, str, Path, None, Literal, a union of these, tuple[X, ...], tuple[X, X], dict[str, X], or a
        dataclass whose fields are of these types; or one of several dataclasses, or a list of them, told apart by a
        field `kind: Literal[...]` with a default; annotated with `Interval`, `Rising` or `Open`.
      value: from Python or from JSON.
      name: the field's dotted name; "" for a whole tree.

    Raises:
      UsageError: the value is of another type, a number is not finite or out of range, a field is unknown or missing.
    """
    try:
        return _convert(hint, value, name)
    except _Mismatch:
        if choices(hint) and isinstance(value, str):
            raise unknown(name, value, choices(hint)) from None
        shown = value.isoformat() if hasattr(value, "isoformat") else repr(value)
        raise UsageError(f"{name or 'the whole'} is {shown[:80]}: expected {expected(hint)}") from None


def _convert(hint: Any, value: Any, name: str) -> Any:
    for opening in openings(hint):
        if (own := _own(opening, hint, value, name)) is not None:
            return own
    if not takes(hint, tuple) and (kinds := variants(hint)):
        if isinstance(value, type) and value in kinds.values():
            value = value.kind  # type: ignore[attr-defined]
        if isinstance(value, Mapping | str):
            return _check_fields(*_variant(kinds, value, name), name)
    # True is not to become 1, nor 1 1.0.
    for one, notes in sorted(alternatives(hint), key=lambda one: type(value) is not one[0]):
        with contextlib.suppress(_Mismatch):
            found = _converted(one, value, name)
            if found is None or all(found in note for note in notes if isinstance(note, Interval | Rising)):
                return found
    raise _Mismatch


def _converted(hint: Any, value: Any, name: str) -> Any:
    """Return a value as one of the alternatives of a field's type."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        if isinstance(value, (Mapping, hint)):  # type: ignore[arg-type]
            return _check_fields(hint, value, name)
    elif origin is Literal:
        if any(type(part) is type(value) and part == value for part in parts):
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple) and (Ellipsis in parts or len(parts) == len(value)):
            # Of dataclasses the item is named, of numbers the list is shown.
            convert = check if any(dataclasses.is_dataclass(one) for one, _ in alternatives(parts[0])) else _convert
            return tuple(convert(parts[0], item, f"{name}[{number}]") for number, item in enumerate(value))
    elif origin is dict:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: _convert(parts[1], item, name) for key, item in value.items()}
    elif hint is Path:
        with contextlib.suppress(UnicodeEncodeError):  # of "\ud800", which no file is called
            if isinstance(value, str | Path) and b"\0" not in os.fsencode(value):
                return Path(value)
    elif hint in (int, float):
        wanted = numbers.Integral if hint is int else numbers.Real
        with contextlib.suppress(OverflowError):  # of 10**400
            if isinstance(value, wanted) and not isinstance(value, bool) and math.isfinite(value):  # type: ignore[arg-type]
                return hint(value)
    elif hint is Any:
        return value
    elif not isinstance(hint, type):
        raise UsageError(f"a field cannot be of the type {hint}: see jaxcnn.typed.check for those that can")
    elif isinstance(value, hint):
        return value
    raise _Mismatch


def _own(note: Open, hint: Any, value: Any, name: str) -> Any:
    """Return a user's own part; None: it is none."""
    ours = tuple(variants(hint).values())
    if isinstance(value, Part):
        return value
    if isinstance(value, str) and is_reference(value):
        return Part(name=value)
    if isinstance(value, str) and value.endswith(".py"):
        raise UsageError(f"{name} is {value!r}: expected {value}:NAME, {note.what} that it holds")
    if isinstance(value, Mapping) and is_reference(str(value.get("kind", ""))):
        options = {key: item for key, item in value.items() if key != "kind"}
        return Part(name=str(value["kind"]), options=options)
    if isinstance(value, ours) or (isinstance(value, type) and value in ours):
        return None
    if callable(value) and hasattr(value, "__qualname__"):  # a class or a function, compiled ones too
        return Part(name=reference_of(value))
    if dataclasses.is_dataclass(value) and not hasattr(value, note.method):
        raise UsageError(f"{name} is {type(value).__name__}, which has no {note.method}: expected {expected(hint)}")
    return value if dataclasses.is_dataclass(value) else None


def _check_fields(kind: Any, value: Any, name: str) -> Any:
    if isinstance(value, kind):
        return value  # checked when it was made
    prefix, found = name + "." if name else "", hints(kind)
    hidden = [one.name for one in dataclasses.fields(kind) if not one.compare]  # `to_json` does not write them
    for key in value:
        if key not in found or key in hidden:
            raise unknown("field", key, found.keys() - hidden, prefix)
    for one in dataclasses.fields(kind):
        if one.name not in value and default_of(one) is dataclasses.MISSING:
            raise UsageError(f"{prefix}{one.name} is missing: expected {expected(found[one.name])}")
    return kind(**{key: check(found[key], item, prefix + key) for key, item in value.items()})


def _variant(kinds: Mapping[str, Any], value: Any, name: str) -> tuple[Any, Any]:
    """Return the dataclass that `value` names, or is the fields of; and its fields."""
    value = {"kind": value} if isinstance(value, str) else value
    if "kind" not in value:
        raise UsageError(f"{name}.kind is missing: expected {' or '.join(kinds)}")
    kind = str(value["kind"])
    if kind not in kinds:
        raise unknown(name, kind, kinds)
    return kinds[kind], value


def default_of(one: dataclasses.Field) -> Any:
    """Return a field's default; MISSING: it has none."""
    return one.default if one.default_factory is dataclasses.MISSING else one.default_factory()


def from_words(hint: Any, words: list[str], name: str) -> Any:
    """Return the value that words of a command line stand for.

    Raises:
      UsageError: naming the option, what was given and what was expected.
    """
    if words == ["None"] and takes(hint, types.NoneType):
        return None
    items = [part for one, _ in alternatives(hint) for part in typing.get_args(one)[:1] * takes(one, tuple)]
    values = [_value(items[0] if items else hint, word) for word in words]
    if not items and len(values) != 1:
        raise UsageError(f"{name} {'takes one' if values else 'needs a'} value: expected {expected(hint)}")
    return check(hint, values if items else values[0], name)


def _value(hint: Any, word: str) -> Any:
    for kind in (int, float):
        if takes(hint, kind):
            with contextlib.suppress(ValueError):
                return kind(word)
    return {"True": True, "False": False}.get(word, word) if takes(hint, bool) else word


# JSON.


def to_json(value: Any, *, defaults: bool = True) -> Any:
    """Return a tree as plain JSON values, which `check` reads back.

    A user's own dataclass becomes the name of its class and what differs from its defaults.

    Args:
      value: the tree.
      defaults: whether to write fields that have their default, too. Without them, a field that is added to a
        configuration later changes nothing.
    """
    if isinstance(value, Part):
        return {"kind": value.name, **to_json(value.options)}
    if _is_dataclass(value):
        own = not type(value).__module__.startswith("jaxcnn.")
        found: dict[str, Any] = {"kind": reference_of(type(value))} if own else {}
        for one in dataclasses.fields(value):
            item = getattr(value, one.name)
            # Of a user's subclass of ours the kind is its name.
            wanted = not own if one.name == "kind" else item != default_of(one) or (defaults and not own)
            if one.compare and one.init and wanted:
                found[one.name] = to_json(item, defaults=defaults)
        return found
    if isinstance(value, Mapping):
        return {key: to_json(item, defaults=defaults) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item, defaults=defaults) for item in value]
    return str(value) if isinstance(value, Path) else value
