"""Trees of frozen dataclasses as plain values: every type checked, and JSON read back to what was written."""

import contextlib
import dataclasses
import functools
import math
import numbers
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from jaxcnn.errors import UsageError, unknown

_UNIONS = (typing.Union, types.UnionType)
_WORDS = {
    int: "a whole number",
    float: "a finite number",
    bool: "True or False",
    str: "text",
    Path: "a path",
    types.NoneType: "None",
}

_LISTS = {int: "a list of whole numbers", float: "a list of finite numbers", str: "a list of texts"}


@functools.cache
def hints(kind: Any) -> dict[str, Any]:
    """Return the type of each field of a dataclass."""
    found = typing.get_type_hints(kind)
    return {field.name: found[field.name] for field in dataclasses.fields(kind)}


def leaves(kind: Any, prefix: str = "") -> dict[str, Any]:
    """Return the types of the fields of a tree that are not dataclasses themselves, by dotted name."""
    found: dict[str, Any] = {}
    for name, hint in hints(kind).items():
        found |= leaves(hint, f"{prefix}{name}.") if dataclasses.is_dataclass(hint) else {prefix + name: hint}
    return found


def variants(hint: Any) -> dict[str, Any]:
    """Return the dataclasses that a field takes, or that its list is of, by the `kind` that tells them apart in JSON.

    {}: it takes something else.
    """
    if typing.get_origin(hint) is tuple:
        return variants(typing.get_args(hint)[0])
    parts = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    found: list[Any] = [part for part in parts if dataclasses.is_dataclass(part)]
    return {part.kind: part for part in found if "kind" in hints(part)}


def expected(hint: Any) -> str:
    """Return in words what a field of this type takes."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if kinds := variants(hint):
        names = [kind.__name__ for kind in kinds.values()] + ["None"] * (types.NoneType in parts)
        return "a list of " * (origin is tuple) + " or ".join(names)
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin in _UNIONS:
        return " or ".join(map(expected, parts))
    if origin is tuple:
        return _LISTS.get(parts[0], "numbers")
    if origin is dict:
        return "values by name"
    return _WORDS.get(hint) or f"the fields of {hint.__name__}"


def choices(hint: Any) -> tuple[str, ...]:
    """Return the names that a field takes, () where they are not a fixed list."""
    literals = [part for part in (hint, *typing.get_args(hint)) if typing.get_origin(part) is Literal]
    return tuple(name for part in literals for name in typing.get_args(part))


def check(hint: Any, value: Any, name: str) -> Any:
    """Return `value` as what the annotation `hint` says.

    What means the same is converted: a mapping to a dataclass, a list to a tuple, text to a path, a whole number to a
    float where a float is expected.

    Args:
      hint: bool, int, float, str, Path, None, Literal, a union of these, tuple[X, ...], dict[str, X], or a dataclass
        whose fields are of these types; or one of several dataclasses, or a list of them, told apart by a field
        `kind: Literal[...]` with a default.
      value: from Python or from JSON.
      name: the field's dotted name; "" for a whole tree.

    Raises:
      UsageError: the value is of another type, a number is not finite, a field is unknown or missing.
    """
    if dataclasses.is_dataclass(hint) and isinstance(value, (Mapping, hint)):  # type: ignore[arg-type]
        return _check_fields(hint, value, name + "." if name else "")
    if kinds := variants(hint):
        if typing.get_origin(hint) is not tuple and isinstance(value, (Mapping, *kinds.values())):
            return _check_fields(_variant(kinds, value, name), value, name + ".")
        if typing.get_origin(hint) is tuple and isinstance(value, list | tuple):
            each = typing.get_args(hint)[0]
            return tuple(check(each, item, f"{name}[{number}]") for number, item in enumerate(value))
    with contextlib.suppress(_Mismatch):
        return _convert(hint, value)
    if choices(hint) and isinstance(value, str):
        raise unknown(name, value, choices(hint))
    raise UsageError(f"{name or 'the whole'} is {value!r}: expected {expected(hint)}")


def _check_fields(kind: Any, value: Any, prefix: str) -> Any:
    found = hints(kind)
    given = value if isinstance(value, Mapping) else {name: getattr(value, name) for name in found}
    for name in given:
        if name not in found:
            raise unknown("field", f"{prefix}{name}", [prefix + field for field in found])
    for field in dataclasses.fields(kind):
        optional = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if field.name not in given and not optional:
            raise UsageError(f"{prefix}{field.name} is missing: expected {expected(found[field.name])}")
    return kind(**{name: check(found[name], item, prefix + name) for name, item in given.items()})


def _variant(kinds: Mapping[str, Any], value: Any, name: str) -> Any:
    """Return the dataclass that `value` is, or is the fields of."""
    if not isinstance(value, Mapping):
        return type(value)
    if "kind" not in value:
        raise UsageError(f"{name}.kind is missing: expected {' or '.join(kinds)}")
    kind = str(value["kind"])
    if kind not in kinds:
        raise unknown(f"{name}.kind", kind, kinds)
    return kinds[kind]


class _Mismatch(Exception):
    pass


def _convert(hint: Any, value: Any) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in _UNIONS:
        for part in sorted(parts, key=lambda part: type(value) is not part):  # True is not to become 1, nor 1 1.0
            with contextlib.suppress(_Mismatch):
                return _convert(part, value)
    elif origin is Literal:
        if isinstance(value, str) and value in parts:
            return value
    elif origin is tuple:
        if isinstance(value, list | tuple):
            return tuple(_convert(parts[0], item) for item in value)
    elif origin is dict:
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {key: _convert(parts[1], item) for key, item in value.items()}
    elif hint is Path:
        if isinstance(value, str | Path):
            return Path(value)
    elif hint in (int, float):
        wanted = numbers.Integral if hint is int else numbers.Real
        if isinstance(value, wanted) and not isinstance(value, bool) and math.isfinite(value):  # type: ignore[arg-type]
            return hint(value)
    elif isinstance(value, hint):
        return value
    raise _Mismatch
