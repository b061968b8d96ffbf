"""Configurations: frozen dataclasses whose types and ranges are checked where they are made, and their JSON.

A field's type says all that is asked of it: `Annotated[float, Interval(above=0)]` is a finite number above 0, and
`Annotated[Flip | Mixup, Open("a transform", "__call__")]` one of ours, or a user's own.
"""

import contextlib
import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxcnn.errors import UsageError, unknown
from jaxcnn.parts import is_reference, reference_of

Option = bool | int | float | str | tuple[int, ...]
"""What a user's part and a model can be made with."""

_UNIONS = (typing.Union, types.UnionType)
_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    types.NoneType: "None",
}
_MANY = {int: "whole numbers", float: "finite numbers", str: "texts"}


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


@dataclass(frozen=True, kw_only=True)
class Part:
    """A user's own part by its name, `file.py:name` or `package.module:name`, and what it is made with."""

    name: str
    """See `jaxcnn.parts`."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments: JSON values."""


class Config:
    """A frozen dataclass whose fields are checked when it is made, and brought to the form of their types.

    40 epochs are 40.0, a list becomes a tuple, a text a path. `class TrainConfig(Config, at="train")` has its fields
    called `train.batch_size` in messages; without `at`, by the name of the class.
    """

    _at = ""

    def __init_subclass__(cls, at: str | None = None) -> None:
        """Note what the fields are called after."""
        cls._at = cls.__name__ if at is None else at

    def __post_init__(self) -> None:
        """Check all fields.

        Raises:
          UsageError: naming the first that cannot be, and what was expected.
        """
        for name, hint in hints(type(self)).items():
            object.__setattr__(self, name, check(hint, getattr(self, name), _called(self, name)))

    def override(self, values: Mapping[str, Any]) -> typing.Self:
        """Return a copy with other values of some fields, which are named as in "optim.learning_rate".

        Raises:
          UsageError: there is no such field, or it does not take the value.
        """
        kinds = hints(type(self))
        changed: dict[str, Any] = {}
        inner: dict[str, dict[str, Any]] = {}
        for name, value in values.items():
            head, dot, rest = name.partition(".")
            if head not in kinds:
                raise unknown("field", name, leaves(self))
            if dot:
                inner.setdefault(head, {})[rest] = value
            elif isinstance(value, dict) and isinstance(getattr(self, head), dict):  # added to those there are
                changed[head] = getattr(self, head) | value
            else:
                changed[head] = check(kinds[head], value, _called(self, head))
        kept = {name: getattr(self, name) for name in kinds} | changed
        for head, rest_of in inner.items():
            if isinstance(kept[head], dict):
                kept[head] = kept[head] | rest_of
            elif dataclasses.is_dataclass(kept[head]):
                kept[head] = Config.override(kept[head], rest_of)  # type: ignore[arg-type]
            else:
                raise unknown("field", f"{head}.{next(iter(rest_of))}", leaves(self))
        return type(self)(**kept)


def _called(tree: Any, name: str) -> str:
    """Return what a field is called in messages."""
    at = getattr(tree, "_at", "")
    return f"{at}.{name}" if at else name


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
        inner = {f"{name}.{rest}": kind for rest, kind in leaves(value).items()} if _is_tree(value) else {}
        found |= inner or {name: hint}
    return found


def _is_tree(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, Part | type)


def plain(hint: Any) -> tuple[Any, list[Any]]:
    """Return a type without its annotations, and these."""
    return (hint.__origin__, list(hint.__metadata__)) if typing.get_origin(hint) is Annotated else (hint, [])


def variants(hint: Any) -> dict[str, Any]:
    """Return our dataclasses that a field takes, or that its list is of, by the `kind` that tells them apart in JSON.

    {}: it takes something else.
    """
    hint, _ = plain(hint)
    if typing.get_origin(hint) is tuple:
        return variants(typing.get_args(hint)[0])
    if typing.get_origin(hint) in _UNIONS:
        return {kind: one for part in typing.get_args(hint) for kind, one in variants(part).items()}
    tells = dataclasses.is_dataclass(hint) and "kind" in hints(hint)
    return {hint.kind: hint} if tells else {}


def openings(hint: Any) -> list[Open]:
    """Return what a field, or an alternative of it, is marked with where it takes a user's own part."""
    hint, notes = plain(hint)
    parts = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else ()
    return [note for note in notes if isinstance(note, Open)] + [note for part in parts for note in openings(part)]


def expected(hint: Any) -> str:
    """Return in words what a field of this type takes."""
    own = [f"{note.what} of your own" for note in openings(hint)]
    hint, notes = plain(hint)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    ranges = "".join(str(note) for note in notes if isinstance(note, Interval | Rising))
    if kinds := variants(hint):
        names = [kind.__name__ for kind in kinds.values()] + own + ["None"] * (types.NoneType in parts)
        return f"a list of {expected(parts[0])}" if origin is tuple else " or ".join(names)
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in _UNIONS:
        return " or ".join(map(expected, parts))
    if origin is tuple:
        item, ranges_of_item = plain(parts[0])
        many = f"{'a list of' if Ellipsis in parts else len(parts)} {_MANY.get(item, 'numbers')}"
        return many + "".join(map(str, ranges_of_item)) + ranges
    if origin is dict:
        return "values by name"
    return (_WORDS.get(hint) or f"the fields of {getattr(hint, '__name__', hint)}") + ranges


def choices(hint: Any) -> tuple[str, ...]:
    """Return the names that a field takes, () where they are not a fixed list."""
    hint, _ = plain(hint)
    literals = [part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is Literal]
    return tuple(name for part in literals for name in typing.get_args(part) if isinstance(name, str))


def check(hint: Any, value: Any, name: str) -> Any:
    """Return `value` as what the annotation `hint` says.

    What means the same is converted: a mapping to a dataclass, a list to a tuple, text to a path, a whole number to a
    float where a float is expected; the name of a part, or a function or class that has one, to a `Part`.

    Args:
      hint: bool, int, float, str, Path, None, Literal, a union of these, tuple[X, ...], tuple[X, X], dict[str, X], or a
        dataclass whose fields are of these types; or one of several dataclasses, or a list of them, told apart by a
        field `kind: Literal[...]` with a default; annotated with `Interval`, `Rising` or `Open`.
      value: from Python or from JSON.
      name: the field's dotted name; "" for a whole tree.

    Raises:
      UsageError: the value is of another type, a number is not finite or out of range, a field is unknown or missing.
    """
    for opening in openings(hint):
        if (found := _own(opening, hint, value, name)) is not None:
            return found
    hint, notes = plain(hint)
    found = _checked(hint, value, name, notes)
    numbers_of = [number for number in (found if isinstance(found, tuple) else (found,)) if number is not None]
    for note in notes:
        if isinstance(note, Interval) and not all(number in note for number in numbers_of):
            raise _mismatch(hint, notes, value, name)
        if isinstance(note, Rising) and numbers_of != sorted(numbers_of):
            raise _mismatch(hint, notes, value, name)
    return found


def _checked(hint: Any, value: Any, name: str, notes: list[Any]) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, (Mapping, hint)):  # type: ignore[arg-type]
        return _check_fields(hint, value, name)
    kinds = variants(hint)
    if origin is tuple and isinstance(value, list | tuple) and (kinds or dataclasses.is_dataclass(plain(parts[0])[0])):
        return tuple(check(parts[0], item, f"{name}[{number}]") for number, item in enumerate(value))
    if origin is not tuple and kinds and isinstance(value, (Mapping, str, *kinds.values())):
        return _check_fields(*_variant(kinds, value, name), name)
    with contextlib.suppress(_Mismatch):
        return _convert(hint, value)
    if choices(hint) and isinstance(value, str):
        raise unknown(name, value, choices(hint))
    raise _mismatch(hint, notes, value, name)


def _mismatch(hint: Any, notes: list[Any], value: Any, name: str) -> UsageError:
    whole = Annotated[hint, *notes] if notes else hint
    shown = value.isoformat() if hasattr(value, "isoformat") else repr(value)
    return UsageError(f"{name or 'the whole'} is {shown[:80]}: expected {expected(whole)}")


def _own(note: Open, hint: Any, value: Any, name: str) -> Any:
    """Return a user's own part; None: it is none."""
    if isinstance(value, Part):
        return value
    if isinstance(value, str) and is_reference(value):
        return Part(name=value)
    if isinstance(value, Mapping) and is_reference(str(value.get("kind", ""))):
        options = {key: item for key, item in value.items() if key != "kind"}
        return Part(name=str(value["kind"]), options=options)
    ours = {one: kind for kind, one in variants(hint).items()}
    if isinstance(value, type) and value in ours:  # the class for what it makes by itself
        return check(hint, {"kind": ours[value]}, name)
    if callable(value) and hasattr(value, "__qualname__"):  # a class or a function, compiled ones too
        return Part(name=reference_of(value))
    if isinstance(value, tuple(ours)) or not dataclasses.is_dataclass(value):
        return None
    if not hasattr(value, note.method):
        raise UsageError(f"{name} is {type(value).__name__}, which has no {note.method}: expected {expected(hint)}")
    return value


def _check_fields(kind: Any, value: Any, name: str) -> Any:
    if isinstance(value, kind):
        return value  # checked when it was made
    prefix, found = name + "." if name else "", hints(kind)
    for key in value:
        if key not in found:
            raise unknown("field", key, found, prefix)
    for one in dataclasses.fields(kind):
        optional = (one.default, one.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if one.name not in value and not optional:
            raise UsageError(f"{prefix}{one.name} is missing: expected {expected(found[one.name])}")
    return kind(**{key: check(found[key], item, prefix + key) for key, item in value.items()})


def _variant(kinds: Mapping[str, Any], value: Any, name: str) -> tuple[Any, Any]:
    """Return the dataclass that `value` names, is, or is the fields of; and its fields."""
    if isinstance(value, str):
        value = {"kind": value}
    if not isinstance(value, Mapping):
        return type(value), value
    if "kind" not in value:
        raise UsageError(f"{name}.kind is missing: expected {' or '.join(kinds)}")
    kind = str(value["kind"])
    if kind not in kinds:
        raise unknown(name, kind, kinds)
    return kinds[kind], value


class _Mismatch(Exception):
    pass


def _convert(hint: Any, value: Any) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        try:
            return check(hint, value, "")
        except UsageError as error:
            raise _Mismatch from error
    if origin in _UNIONS:
        # True is not to become 1, nor 1 1.0.
        for part in sorted(parts, key=lambda part: type(value) is not plain(part)[0]):
            with contextlib.suppress(_Mismatch):
                return _convert(part, value)
    elif origin is Literal:
        if any(type(part) is type(value) and part == value for part in parts):
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple) and (Ellipsis in parts or len(parts) == len(value)):
            return tuple(_convert(parts[0], item) for item in value)
    elif origin is dict:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: _convert(parts[1], item) for key, item in value.items()}
    elif hint is Any:
        return value
    elif hint is Path:
        if isinstance(value, str | Path):
            return Path(value)
    elif hint in (int, float):
        wanted = numbers.Integral if hint is int else numbers.Real
        if isinstance(value, wanted) and not isinstance(value, bool) and math.isfinite(value):  # type: ignore[arg-type]
            return hint(value)
    elif not isinstance(hint, type):
        raise UsageError(f"a field cannot be of the type {hint}: see jaxcnn.typed.check for those that can")
    elif isinstance(value, hint):
        return value
    raise _Mismatch


def from_words(hint: Any, words: list[str], name: str) -> Any:
    """Return the value that words of a command line stand for.

    Raises:
      UsageError: naming the option, what was given and what was expected.
    """
    kinds = _kinds(hint)
    if words == ["None"] and types.NoneType in kinds:
        return None
    if tuple in kinds:
        value: Any = [_number(kinds, word) for word in words]
    elif len(words) == 1:
        value = _number(kinds, words[0])
    else:
        raise UsageError(f"{name} {'needs' if not words else 'takes'} one value: expected {expected(hint)}")
    return check(hint, value, name)


def _number(kinds: set[Any], word: str) -> Any:
    for kind in (int, float):
        if kind in kinds:
            with contextlib.suppress(ValueError):
                return kind(word)
    return {"True": True, "False": False}.get(word, word) if bool in kinds else word


def _kinds(hint: Any) -> set[Any]:
    """Return the plain types that a hint is made of, `tuple` among them where it takes a list."""
    hint, _ = plain(hint)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (tuple, *_UNIONS):
        return {origin} | {kind for part in parts for kind in _kinds(part)}
    return {hint}


def to_json(value: Any) -> Any:
    """Return a tree as plain JSON values, which `check` reads back.

    A user's own dataclass becomes the name of its class and what differs from its defaults.
    """
    if isinstance(value, Part):
        return {"kind": value.name, **to_json(value.options)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {one.name: getattr(value, one.name) for one in _kept(value)}
        if is_own(value):
            fields = {"kind": reference_of(type(value)), **{k: v for k, v in fields.items() if _is_set(value, k)}}
        return {name: to_json(item) for name, item in fields.items()}
    if isinstance(value, Mapping):
        return {key: to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def is_own(value: Any) -> bool:
    """Return whether a dataclass is a user's and not one of this package."""
    return not type(value).__module__.startswith("jaxcnn.")


def _kept(value: Any) -> list[dataclasses.Field]:
    """Return the fields that JSON holds: of a user's subclass of ours not the `kind` that it inherits."""
    inherited = {"kind"} if is_own(value) else set()
    return [one for one in dataclasses.fields(value) if one.compare and one.init and one.name not in inherited]


def _is_set(value: Any, name: str) -> bool:
    """Return whether a field differs from its default."""
    one = next(one for one in dataclasses.fields(value) if one.name == name)
    default = one.default if one.default_factory is dataclasses.MISSING else one.default_factory()
    return default is dataclasses.MISSING or getattr(value, name) != default


def set_fields(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield the fields that differ from their defaults, by dotted name, as JSON values; what has none, always.

    A field that is added to a configuration later changes nothing here.
    """
    for one in _kept(tree):
        value = getattr(tree, one.name)
        if not _is_set(tree, one.name):
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, Part) and not is_own(value):
            if hasattr(value, "kind"):
                yield f"{one.name}.kind", value.kind
            yield from ((f"{one.name}.{name}", item) for name, item in set_fields(value))
        elif isinstance(value, tuple):
            yield one.name, [_set_json(item) for item in value]
        else:
            yield one.name, to_json(value)


def _set_json(value: Any) -> Any:
    if not dataclasses.is_dataclass(value) or isinstance(value, Part) or is_own(value):
        return to_json(value)
    return {**({"kind": value.kind} if hasattr(value, "kind") else {}), **dict(set_fields(value))}
