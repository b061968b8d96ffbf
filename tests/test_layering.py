"""How the rooms lie on each other: an import only leads down, and never in a circle.

All imports are read, those within functions and those for the type checker too.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "jaxcnn"

# From the ground up, as docs/architecture.md has them. A room imports itself and those before it.
ROOMS = (
    "errors",
    "files",
    "stop",
    "keys",
    "progress",
    "parts",
    "typed",
    "backend",
    "environment",
    "process",
    "images",
    "preprocessing",
    "layers",
    "models",
    "weights",
    "data",
    "report",
    "tasks",
    "train",
    "experiment",
    "runs",
    "arguments",
    "commands",
    "cli_data",
    "cli",
)
LINEN = {"layers", "models", "weights", "tasks", "train", "runs"}


def modules():
    """All modules by their dotted names."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


@cache
def imports(name):
    """The modules of the package that a module imports, with the line."""
    found = {}
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for one in names:
            while one and one not in MODULES:
                one = one.rpartition(".")[0]
            if one and one != name:
                found[one] = node.lineno
    return found


def room(name):
    return name.split(".")[1] if "." in name else ""


def test_every_room_is_in_the_list():
    assert {room(name) for name in MODULES} - {""} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(set(MODULES) - {"jaxcnn"}))
def test_imports_lead_down(name):
    for other, line in imports(name).items():
        assert other != "jaxcnn", f"{MODULES[name]}:{line} imports the package's own face"
        assert ROOMS.index(room(other)) <= ROOMS.index(room(name)), f"{MODULES[name]}:{line} imports {other}"


def test_no_module_imports_itself_by_a_detour():
    done = set()

    def visit(name, path):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in imports(name):
                visit(other, [*path, name])
            done.add(name)

    for name in MODULES:
        if name != "jaxcnn":
            visit(name, [])


def test_matplotlib_is_drawn_with_in_one_room_only():
    for name, path in MODULES.items():
        if room(name) != "report":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    named = [node.module or ""] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names]
                    types = [one for one in named if one.split(".")[0] == "matplotlib"]
                    assert not types or name == "jaxcnn.tasks.base" or name == "jaxcnn.tasks.classification"


def test_no_two_modules_have_one_name():
    """But for what every room may have, and a family's networks and the names of its weights."""
    found = {}
    for name in MODULES:
        stem = name.rpartition(".")[2]
        if stem not in ("base", "config"):
            found.setdefault(stem, []).append(room(name))
    assert {
        stem: rooms for stem, rooms in found.items() if len(rooms) > 1 and sorted(rooms) != ["models", "weights"]
    } == {}
