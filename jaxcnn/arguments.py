"""Words of a command line to values: each field of a tree of dataclasses is an option by its dotted name.

`--train.batch-size 64`; a switch is on by `--train.remat`, off by `--train.no-remat`. Where a field takes one of
several dataclasses, `--optim adam` chooses, and there are options for the fields of the one that is chosen.
"""

import ast
import dataclasses
import functools
import itertools
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NamedTuple

from jaxcnn.errors import UsageError, nearest
from jaxcnn.typed import Config, choices, default_of, expected, from_words, hints, openings, takes, variants


class _Option(NamedTuple):
    """A field as an option."""

    tree: int
    """Which tree it is of."""
    owner: type
    """The dataclass that it is a field of."""
    hint: Any
    default: Any

    @property
    def is_switch(self) -> bool:
        return self.hint is bool

    @property
    def is_many(self) -> bool:
        """Whether any number of words follows."""
        return takes(self.hint, tuple) or takes(self.hint, dict)


def parse(
    trees: Sequence[Any], command: str, description: str, words: Sequence[str], positional: str = ""
) -> list[Any]:
    """Return trees of dataclasses with what the words change in them; `--help` prints and exits.

    Args:
      trees: the defaults; or dataclasses, whose fields without one must be given.
      command: as it is called, such as "jaxcnn train".
      description: what `--help` says first.
      words: after the command.
      positional: what is no option: a field, or a word that the caller takes.

    Raises:
      UsageError: an option is unknown or lacks its value, a value is of the wrong type, a word is left over.
    """
    more = f"see {command} --help"
    options: dict[str, _Option] = {}
    for number, tree in enumerate(trees):
        options |= _options(tree, number, words)
    if {"-h", "--help"} & {*words}:
        print(_help(command, description, options, positional))
        sys.exit(0)
    found, left = _take(words, {name: option for name, option in options.items() if name != positional})
    if positional in options and left:
        found[positional], left = (left, []) if options[positional].is_many else (left[:1], left[1:])
    if left:
        raise UsageError(f"unexpected argument {left[0]!r}: {more}")
    given: list[dict[str, Any]] = [{} for _ in trees]
    for name, option in options.items():
        said = name.upper() if name == positional else flag_of(name)
        if name in found:
            given[option.tree][name] = _value(option.hint, found[name], said)
        elif option.default is MISSING:
            raise UsageError(f"{said} is missing: expected {expected(option.hint)}, {more}")
    for name, option in options.items():
        values = given[option.tree]
        if isinstance(values.get(name), str) and (chosen := variants(option.hint).get(values[name])):
            fields = [field for field in hints(chosen) if field != "kind"]
            inner = {field: values.pop(f"{name}.{field}", options[f"{name}.{field}"].default) for field in fields}
            values[name] = {"kind": chosen.kind, **inner}
    made = zip(trees, given, strict=True)
    return [tree(**new) if isinstance(tree, type) else Config.override(tree, new) for tree, new in made]


def take_file(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the experiment file among the arguments, or None, and the others.

    It is the first word; where options come first, the first word that ends in .py.
    """
    for n, word in enumerate(arguments):
        if not word.startswith("-") and (n == 0 or word.endswith(".py")):
            return word, [*arguments[:n], *arguments[n + 1 :]]
    return None, list(arguments)


def value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """Return what follows `flag`, the last time that it is given; None where it is not.

    Raises:
      UsageError: nothing follows.
    """
    found = [(values or [""])[0] for name, _, values in _grouped(arguments) if name == flag]
    if "" in found:
        raise UsageError(f"{flag} needs a value")
    return found[-1] if found else None


def flag_of(name: str) -> str:
    """Return the option of a field, by its dotted name."""
    return "--" + name.replace("_", "-")


def _negated(flag: str) -> str:
    head, dot, last = flag[2:].rpartition(".")
    return f"--{head}{dot}no-{last}"


def _grouped(words: Sequence[str]) -> list[tuple[str, str, list[str]]]:
    """Return each option, with hyphens in its name and as it was written, and the words up to the next one.

    What comes before the first option is that of "".
    """
    found: list[tuple[str, str, list[str]]] = [("", "", [])]
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            found.append((name.replace("_", "-"), name + equals, [value] * bool(equals)))
        else:
            found[-1][2].append(word)
    return found


def _options(
    tree: Any, number: int, words: Sequence[str], prefix: str = "", kept: Any = None
) -> Iterator[tuple[str, _Option]]:
    """Yield the fields of a tree, or of a dataclass, as options by dotted name; what `kept` has is as it is there."""
    kind, there = (tree, kept) if isinstance(tree, type) else (type(tree), tree)
    for one in dataclasses.fields(kind):
        if one.name == "kind" or not one.compare or one.name not in hints(kind):
            continue
        name, hint, inner = prefix + one.name, hints(kind)[one.name], {}
        value = getattr(there, one.name) if hasattr(there, one.name) else default_of(one)
        if variants(hint) and not takes(hint, tuple) and (word := value_of(flag_of(name), words)) is not None:
            if (chosen := variants(hint).get(word)) is not None:
                inner = dict(_options(chosen, number, words, f"{name}.", value))
            else:
                value = from_words(hint, [word], flag_of(name))
        if not inner and dataclasses.is_dataclass(value) and not isinstance(value, type):
            inner = dict(_options(value, number, words, f"{name}."))
        if variants(hint) or not inner:
            yield name, _Option(number, kind, hint, value)
        yield from inner.items()


def _take(words: Sequence[str], options: Mapping[str, _Option]) -> tuple[dict[str, list[str]], list[str]]:
    """Return the words that belong to each option, by its name, and those that belong to none.

    Raises:
      UsageError: there is no such option, or a switch is given a value.
    """
    flags = {flag_of(name): (name, "True" * option.is_switch) for name, option in options.items()}
    flags |= {_negated(flag): (name, "False") for flag, (name, is_switch) in flags.items() if is_switch}
    found: dict[str, list[str]] = {}
    (_, _, left), *groups = _grouped(words)
    for flag, written, values in groups:
        if flag not in flags:
            guess = nearest(flag, sorted(flags))
            more = f"did you mean {guess}?" if guess else "see --help for all"
            raise UsageError(f"unknown option {written.removesuffix('=')}: {more}")
        name, switched = flags[flag]
        if switched and written.endswith("="):
            raise UsageError(f"{flag} takes no value: write {flag_of(name)} or {_negated(flag_of(name))}")
        many = 0 if switched else len(values) if options[name].is_many else 1
        before = found.get(name, []) if takes(options[name].hint, dict) and values else []
        found[name] = [switched] if switched else before + values[:many]
        left += values[many:]
    return found, left


def _value(hint: Any, words: list[str], said: str) -> Any:
    """Return what the words after an option stand for; of a kind, whose fields are options too, its name."""
    if takes(hint, dict):
        if not words or len(words) % 2:
            raise UsageError(f"{said} takes pairs KEY VALUE: found {' '.join(words) or 'nothing'}")
        return dict(zip(words[::2], map(_literal, words[1::2]), strict=True))
    is_kind = not takes(hint, tuple) and words[:1] and words[0] in variants(hint)
    return words[0] if is_kind else from_words(hint, words, said)


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def filled(text: str, first: str = "", others: str = "") -> str:
    """Return a paragraph in lines that fit the terminal."""
    width = min(shutil.get_terminal_size().columns, 100)
    wrapper = textwrap.TextWrapper(width, first, others, break_on_hyphens=False, break_long_words=False)
    return wrapper.fill(text)


def _help(command: str, description: str, options: Mapping[str, _Option], positional: str) -> str:
    """Return what `--help` prints: each option with what it takes, its docstring and its default."""
    lines = [" ".join(["usage:", command, *[positional.upper()] * bool(positional), "[OPTIONS]"])]
    lines += ["\n" + filled(" ".join(text.split())) for text in description.split("\n\n")]
    rooms: dict[str, list[str]] = {"arguments": [], "options": []}
    shared = {name.partition(".")[0] for name in options if "." in name}
    for name, option in options.items():
        head, flag = name.partition(".")[0], flag_of(name)
        room, more = head if head in shared else "options", " ..." * option.is_many
        if name == positional:
            room, shown = "arguments", name.upper() + more
        elif option.is_switch:
            shown = f"{flag}, {_negated(flag)}"
        else:
            shown = flag + " KEY" * takes(option.hint, dict) + " VALUE" + more
        names = choices(option.hint) or (*variants(option.hint), *["your own"] * bool(openings(option.hint)))
        one = f"{'any' if option.is_many else 'one'} of {', '.join(names)}" if names else expected(option.hint)
        default = f"default: {_shown(option.default)}"
        says = [one] * (not option.is_switch) + [default] * (option.default is not MISSING)
        text = f"{docs(option.owner).get(name.rpartition('.')[2], '')} ({'; '.join(says)})".strip()
        text = filled(text, " " * 6, " " * 6)
        rooms.setdefault(room, []).append(f"  {shown}\n{text}")
    lines += [f"\n{room}:\n" + "\n".join(found) for room, found in rooms.items() if found]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    if dataclasses.is_dataclass(value):
        return str(getattr(value, "kind", None) or getattr(value, "name", type(value).__name__))
    if isinstance(value, dict):
        value = tuple(f"{key} {item}" for key, item in value.items())
    return (" ".join(map(_shown, value)) if isinstance(value, tuple) else str(value)) or "none"


@functools.cache
def docs(kind: type) -> dict[str, str]:
    """Return the docstring of each field of a dataclass that has one, as one paragraph."""
    found: dict[str, str] = {}
    for one in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        # Not by inspect.getsource: the module of a user's part is not to be seen.
        source = Path(getattr(one.__init__, "__globals__", {}).get("__file__", os.devnull)).read_text()
        classes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)]
        body = next((node.body for node in classes if node.name == one.__name__), [])
        for field, text in itertools.pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                found[field.target.id] = " ".join(str(text.value.value).split())  # type: ignore[union-attr]
    return found
