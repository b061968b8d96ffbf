"""Command-line arguments to values: `argparse` takes the words apart, `typed` says what they may be.

Each field of a tree of dataclasses is an option by its dotted name, `--train.batch-size 64`. Where a field takes one of
several dataclasses, the options are those of the one that it has, and `--optim adam` chooses another.
"""

import argparse
import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING
from typing import Any, NamedTuple, NoReturn

from jaxcnn.errors import UsageError, nearest
from jaxcnn.typed import Config, Part, choices, from_words, hints, plain, variants


class _Option(NamedTuple):
    """A field as an option."""

    tree: int
    hint: Any
    default: Any
    help: str


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}: see {self.prog} --help")


def parse(trees: Sequence[Any], command: str, description: str, words: Sequence[str], positional: str = "") -> list:
    """Return trees of dataclasses with what the words change in them; `--help` prints and exits.

    Args:
      trees: the defaults; or dataclasses, of which `positional` alone may lack a default.
      command: as in `jaxcnn COMMAND`.
      description: what `--help` says first.
      words: after the command.
      positional: the field that is no option.

    Raises:
      UsageError: an option is unknown or lacks its value, a value is of the wrong type, a word is left over.
    """
    words = [_hyphens(word) for word in words]
    helps = bool({"-h", "--help"} & {*words})
    trees = [tree if isinstance(tree, type) else _chosen(tree, words) for tree in trees]
    options: dict[str, _Option] = {}
    for number, tree in enumerate(trees):
        options |= _options(tree, number, helps)
    switches = {flag_of(name) for name, option in options.items() if plain(option.hint)[0] is bool}
    flags = {flag_of(name) for name in options if name != positional} | {_negated(flag) for flag in switches}
    if not helps:
        _check_flags(words, flags, switches)
    parser = _Parser(
        prog=f"jaxcnn {command}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    groups: dict[str, Any] = {}
    for name, option in options.items():
        room = name.partition(".")[0] if "." in name else "options"
        if room not in groups:
            groups[room] = parser.add_argument_group(room)
        _add(parser if name == positional else groups[room], name, option, name == positional)
    found, left = parser.parse_known_args(words)
    if left:
        raise UsageError(f"unexpected argument {left[0]!r}: see jaxcnn {command} --help")
    given: list[dict[str, Any]] = [{} for _ in trees]
    for name, option in options.items():
        value = getattr(found, name)
        said = name.upper() if name == positional else flag_of(name)
        if (value is not None and value != []) or (value == [] and name != positional):
            given[option.tree][name] = _value(option.hint, value, said)
        elif option.default is MISSING:
            raise UsageError(f"{said} is missing: see jaxcnn {command} --help")
    return [
        tree(**new) if isinstance(tree, type) else Config.override(tree, new)
        for tree, new in zip(trees, given, strict=True)
    ]


def take_file(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the experiment file among the arguments, or None, and the others.

    It is the first word; where options come first, the first word that ends in .py.
    """
    words = [n for n, word in enumerate(arguments) if not word.startswith("-") and (n == 0 or word.endswith(".py"))]
    if not words:
        return None, list(arguments)
    return arguments[words[0]], [*arguments[: words[0]], *arguments[words[0] + 1 :]]


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """Return what follows `flag`, the last time that it is given; None where it is not.

    Raises:
      UsageError: nothing follows.
    """
    found = None
    for number, word in enumerate(map(_hyphens, arguments)):
        name, equals, value = word.partition("=")
        if name == flag:
            found = value if equals else next((w for w in arguments[number + 1 : number + 2] if w[:2] != "--"), "")
            if not found:
                raise UsageError(f"{flag} needs a value")
    return found


def flag_of(name: str) -> str:
    """Return the option of a field, by its dotted name."""
    return "--" + name.replace("_", "-")


def docs(kind: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass that has one, as one paragraph."""
    found: dict[str, str] = {}
    for one in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(one):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(one))).body[0].body  # type: ignore[attr-defined]
        for field, text in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return found


def _hyphens(word: str) -> str:
    """Return an option with hyphens in its name, and any other word as it is."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _negated(flag: str) -> str:
    head, dot, last = flag[2:].rpartition(".")
    return f"--{head}{dot}no-{last}"


def _chosen(tree: Any, words: Sequence[str]) -> Any:
    """Return the tree with the dataclasses that options such as `--optim adam` choose; what both have stays."""
    for name, hint in hints(type(tree)).items():
        flag, value = flag_of(name), getattr(tree, name)
        if isinstance(value, tuple) or not variants(hint) or (word := value_of(flag, words)) is None:
            continue
        chosen = from_words(hint, [word], flag)
        if dataclasses.is_dataclass(chosen) and dataclasses.is_dataclass(value) and not isinstance(chosen, Part):
            names = hints(type(chosen)).keys() - {"kind"}
            chosen = dataclasses.replace(chosen, **{key: getattr(value, key) for key in names if hasattr(value, key)})
        tree = dataclasses.replace(tree, **{name: chosen})
    return tree


def _options(tree: Any, number: int, helps: bool, prefix: str = "") -> dict[str, _Option]:
    """Return the fields of a tree as options, by dotted name."""
    kind = tree if isinstance(tree, type) else type(tree)
    texts, found = docs(kind) if helps else {}, {}
    defaults = {one.name: one for one in dataclasses.fields(kind)}
    for name, hint in hints(kind).items():
        value = _default(defaults[name]) if isinstance(tree, type) else getattr(tree, name)
        inner = dataclasses.is_dataclass(value) and not isinstance(value, type)
        if name == "kind" or not defaults[name].compare:
            continue
        if not inner or variants(hint):
            found[prefix + name] = _Option(number, hint, value, texts.get(name, ""))
        if inner:
            found |= _options(value, number, helps, f"{prefix}{name}.")
    return found


def _default(one: dataclasses.Field) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _add(group: Any, name: str, option: _Option, positional: bool) -> None:
    kind, text = plain(option.hint)[0], option.help.replace("%", "%%")
    if positional:
        group.add_argument(name, nargs="*" if _takes_list(kind) else "?", metavar=name.upper(), help=text)
    elif kind is bool:
        text = f"{text} (default: {option.default})"
        group.add_argument(flag_of(name), dest=name, action="store_const", const=["True"], help=text)
        group.add_argument(
            _negated(flag_of(name)), dest=name, action="store_const", const=["False"], help=argparse.SUPPRESS
        )
    else:
        names = choices(option.hint) or tuple(variants(option.hint))
        metavar = "|".join(names) if names else "VALUE"
        text = f"{text} (default: {_shown(option.default)})".replace("%%", "%").replace("%", "%%")
        group.add_argument(
            flag_of(name),
            dest=name,
            action="extend" if _is_dict(kind) else "store",
            nargs="*",
            metavar=metavar,
            help=text,
        )


def _shown(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return str(getattr(value, "kind", None) or getattr(value, "name", type(value).__name__))
    if isinstance(value, dict):
        return " ".join(f"{key} {item}" for key, item in value.items()) or "none"
    return " ".join(map(_shown, value)) or "none" if isinstance(value, tuple) else str(value)


def _takes_list(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) is tuple


def _is_dict(kind: Any) -> bool:
    return getattr(kind, "__origin__", None) is dict


def _value(hint: Any, words: Any, said: str) -> Any:
    """Return what the words after an option stand for; pairs are added to those that there are."""
    words = [words] if isinstance(words, str) else words
    if not _is_dict(plain(hint)[0]):
        return from_words(hint, words, said)
    if not words or len(words) % 2:
        raise UsageError(f"{said} takes pairs KEY VALUE: found {' '.join(words) or 'nothing'}")
    return dict(zip(words[::2], map(_literal, words[1::2]), strict=True))


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _check_flags(words: Sequence[str], flags: set[str], switches: set[str]) -> None:
    negated = {_negated(flag): flag for flag in switches}
    for word in words:
        flag, equals, _ = word.partition("=")
        if not word.startswith("--"):
            continue
        if flag not in flags:
            guess = nearest(flag, sorted(flags))
            raise UsageError(f"unknown option {flag}: {f'did you mean {guess}?' if guess else 'see --help for all'}")
        if equals and flag in switches | negated.keys():
            pair = negated.get(flag, flag)
            raise UsageError(f"{flag} takes no value: write {pair} or {_negated(pair)}")
