"""Command-line arguments to typed values, by tyro; mistakes become one clear line each."""

import ast
import contextlib
import dataclasses
import inspect
import io
import itertools
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import tyro

from jaxcnn.errors import UsageError, nearest, unknown
from jaxcnn.typed import choices, expected, hints, leaves, variants


def parse(
    kind: type,
    command: str,
    description: str,
    arguments: Sequence[str],
    positional: str = "",
) -> Any:
    """Return the dataclass `kind`, its fields taken from `arguments`; `--help` prints and exits.

    Args:
      kind: what to make.
      command: as in `jaxcnn COMMAND`.
      description: what `--help` says first.
      arguments: the words after the command.
      positional: the field that is no option.

    Raises:
      UsageError: an option is unknown or lacks its value, a value is of the wrong type, a word is left over.
    """
    _hide_variants(kind)
    flags = {_flag(name): hint for name, hint in _options(kind).items() if name != positional}
    if {"-h", "--help"} & set(arguments):
        _add_help(kind)
    else:
        _check_flags(arguments, flags)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"jaxcnn {command}", description=description, args=arguments)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_one_line(said.getvalue(), arguments, flags, command, positional)) from None


def take_file(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the experiment file among the arguments, or None, and the others.

    It is the first word; where options come first, the first word that ends in .py.
    """
    words = [n for n, word in enumerate(arguments) if not word.startswith("-") and (n == 0 or word.endswith(".py"))]
    if not words:
        return None, list(arguments)
    return arguments[words[0]], [*arguments[: words[0]], *arguments[words[0] + 1 :]]


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """Return what follows `flag`, None where it is not given.

    Raises:
      UsageError: nothing follows.
    """
    found = [words for name, words in _groups(arguments) if name == flag]
    if not found:
        return None
    if not found[-1] or not found[-1][0]:
        raise UsageError(f"{flag} needs a value")
    return found[-1][0]


def take_pairs(flag: str, arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return the pairs that follow each `flag` as in `--model.options shortcut B`, and the other arguments.

    Raises:
      UsageError: the words after the flag are not pairs.
    """
    pairs: dict[str, Any] = {}
    for name, words in _groups(arguments):
        if name == flag:
            if not words or len(words) % 2:
                raise UsageError(f"{flag} takes pairs KEY VALUE: found {' '.join(words) or 'nothing'}")
            pairs |= dict(zip(words[::2], map(_literal, words[1::2]), strict=True))
    others: list[str] = []
    taking = False
    for word in arguments:
        taking = word.split("=")[0] == flag if word.startswith("--") else taking
        if not taking:
            others.append(word)
    return pairs, others


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _options(kind: Any) -> dict[str, Any]:
    """Return the types of the options by name; parts of `kind` that are dataclasses give no prefix."""
    found: dict[str, Any] = {}
    for name, hint in hints(kind).items():
        found |= leaves(hint) if dataclasses.is_dataclass(hint) else {name: hint}
    return found


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _negated(flag: str) -> str:
    head, dot, last = flag[2:].rpartition(".")
    return f"--{head}{dot}no-{last}"


def _groups(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Return each option, spelled with hyphens, with the words up to the next one."""
    groups: list[tuple[str, list[str]]] = []
    for word in arguments:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            groups.append((name.replace("_", "-"), [value] if equals else []))
        elif groups:
            groups[-1][1].append(word)
    return groups


def _check_flags(arguments: Sequence[str], flags: Mapping[str, Any]) -> None:
    switches = {name for flag, hint in flags.items() if hint is bool for name in (flag, _negated(flag))}
    for word in arguments:
        flag = word.split("=")[0].replace("_", "-")
        if not word.startswith("--"):
            continue
        for name, hint in flags.items():
            if variants(hint) and (flag == name or flag.startswith(f"{name}.")):
                raise UsageError(f"{name} is no option: set {name[2:].replace('-', '_')} in the experiment's file")
        if flag not in flags and flag not in switches:
            guess = nearest(flag, [*flags, *switches])
            hint = f"did you mean {guess}?" if guess else "see --help for all"
            raise UsageError(f"unknown option {word.split('=')[0]}: {hint}")
        if flag in switches and "=" in word:
            pair = flag if flag in flags else next(name for name in flags if _negated(name) == flag)
            raise UsageError(f"{flag} takes no value: write {pair} or {_negated(pair)}")


def _one_line(box: str, arguments: Sequence[str], flags: Mapping[str, Any], command: str, positional: str) -> str:
    """Return what tyro says in a box of several lines as one line that names the value and what was expected."""
    lines = [line.strip("│╭╰╮╯─-+| \t") for line in box.splitlines()]
    text = " ".join(line for line in lines if line)
    if "Missing from" in text:
        return f"{positional.upper()} is missing: see jaxcnn {command} --help"
    if found := re.search(r"Unrecognized options: (.*?)(, | For full| Perhaps|$)", text):
        return f"unexpected argument {found[1]!r}: see jaxcnn {command} --help"
    # The last first: of an option given twice the last one counts.
    for flag, words in reversed(_groups(arguments)):
        hint = flags.get(flag)
        if not re.search(rf"(?<![\w.-])(--)?{flag[2:]}(?![\w.-])", text) or hint is None:
            continue
        value = " ".join(words)
        if not words:
            return f"{flag} needs a value: expected {expected(hint)}"
        if choices(hint) and value not in choices(hint):
            return str(unknown(flag, value, choices(hint)))
        return f"{flag} is {value!r}: expected {expected(hint)}"
    return text


def _hide_variants(kind: Any) -> None:
    """Tell tyro that fields which take one of several dataclasses are no options: they keep their default."""
    for name, hint in hints(kind).items():
        if dataclasses.is_dataclass(hint):
            _hide_variants(hint)
        elif variants(hint):
            kind.__annotations__[name] = Annotated[hint, tyro.conf.Fixed, tyro.conf.Suppress]


def _add_help(kind: Any) -> None:
    """Give tyro the docstring of each field as one paragraph; it would keep their line breaks."""
    documented = docs(kind)
    for field in dataclasses.fields(kind):
        if text := documented.get(field.name):
            field.metadata = {"help": text}  # type: ignore[assignment]
        hint = hints(kind)[field.name]
        if dataclasses.is_dataclass(hint):
            _add_help(hint)


def docs(kind: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass that has one, as one paragraph."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    found: dict[str, str] = {}
    body = tree.body  # type: ignore[attr-defined]
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return found
