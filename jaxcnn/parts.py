"""A user's own parts by name: `nets.py:tiny` is what the file nets.py calls `tiny`, `my_package.nets:tiny` a module's.

A file is looked for beside the experiment first, then in the working folder; a module there, too, and then among the
installed packages. What reads somebody else's run or weights looks in places that the user named, and nowhere else: to
import a file is to run it.
"""

import contextlib
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxcnn.errors import UsageError, unknown

_REFERENCE = re.compile(r"(?P<where>[^:]+(?:\.py|[A-Za-z0-9_]))\:(?P<name>[A-Za-z_][\w.]*)")
# Of the names of modules that files are loaded as.
_PREFIX = "jaxcnn_part_"
# Modules of files by their path, with the SHA-256 of what was read, so that an edited file is read again.
_loaded: dict[Path, tuple[str, ModuleType]] = {}


def is_reference(name: str) -> bool:
    """Return whether a name has the form of a user's part, `file.py:name` or `module:name`."""
    return _REFERENCE.fullmatch(name) is not None


@dataclass(frozen=True)
class Finder:
    """Where parts are looked for."""

    folders: tuple[Path, ...] = ()
    """In this order; the working folder comes after them."""
    installed: bool = True
    """Whether installed packages are looked through, too."""

    def find(self, reference: str) -> Any:
        """Return what a reference names.

        Raises:
          UsageError: there is no such file or module, it fails to import (with its own error and line), or it has no
            such name (with the nearest).
        """
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise UsageError(f"{reference!r} is no part: expected file.py:name or package.module:name")
        where = match["where"]
        found: Any = self._file(where) if where.endswith(".py") else self._module(where)
        for name in match["name"].split("."):
            if not hasattr(found, name):
                public = [other for other in vars(found) if not other.startswith("_")]
                raise unknown(f"name in {where}", name, public)
            found = getattr(found, name)
        return found

    def sources(self, references: Sequence[str]) -> dict[str, Path]:
        """Return the files that these parts were read from, with their neighbours that they import, by name."""
        found: dict[str, Path] = {}
        for reference in references:
            where = reference.partition(":")[0]
            module = self._file(where) if where.endswith(".py") else self._module(where)
            for path in sorted(_files_of(module)):
                found[os.path.relpath(path, Path(str(module.__file__)).parent)] = path
        return found

    @property
    def _places(self) -> list[Path]:
        return list(dict.fromkeys(folder.expanduser().resolve() for folder in (*self.folders, Path.cwd())))

    def _file(self, name: str) -> ModuleType:
        wanted = Path(name).expanduser()
        for folder in self._places:
            path = (folder / wanted).resolve()
            if path.is_file() and (self.installed or path.is_relative_to(folder)):
                return load_file(path)
        shown = ", ".join(map(str, self._places))
        near = [str(path.relative_to(folder)) for folder in self._places for path in folder.glob("*.py")]
        error = unknown("file", name, near) if near else UsageError(f"there is no file {name}")
        more = "" if self.installed else "; --code FOLDER names another that may be imported from"
        raise UsageError(f"{error} (looked in {shown}{more})")

    def _module(self, name: str) -> ModuleType:
        top = name.partition(".")[0]
        folders = [str(folder) for folder in self._places]
        beside = PathFinder.find_spec(top, folders)
        if beside is None and not self.installed:
            raise UsageError(f"module {name!r} is not in {', '.join(folders)}: --code FOLDER names where it may be")
        with _on_path(folders if beside else []):
            return _imported(name, lambda: importlib.import_module(name))


def load_file(path: Path) -> ModuleType:
    """Return the module that a file makes; one that has been edited since is made anew.

    Raises:
      UsageError: it cannot be run, with its own error and line.
    """
    path = path.resolve()
    digest = _digest([path, *(_files_of(_loaded[path][1]) if path in _loaded else ())])
    if path not in _loaded or _loaded[path][0] != digest:
        if path.suffix != ".py":
            raise UsageError(f"{path} is not a Python file")
        name = f"{_PREFIX}{hashlib.sha256(str(path).encode()).hexdigest()[:8]}_{path.stem}"
        loader, before = _Source(name, str(path)), set(sys.modules)
        spec = importlib.util.spec_from_file_location(loader.name, path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module.__name__] = module  # dataclasses look themselves up there
        with _on_path([str(path.parent)]):
            _imported(str(path), lambda: loader.exec_module(module))
        neighbours = [sys.modules[name] for name in set(sys.modules) - before - {module.__name__}]
        module.__dict__["__neighbours__"] = [one for one in neighbours if _lies_in(one, path.parent)]
        for one in module.__dict__["__neighbours__"]:  # another folder's neighbour may have the same name
            del sys.modules[one.__name__]
        _loaded[path] = _digest([path, *_files_of(module)]), module
    return _loaded[path][1]


class _Source(SourceFileLoader):
    """Reads the file itself: Python's own cache goes by size and second, and would miss an edit of the same length."""

    def get_code(self, fullname: str) -> Any:
        """Return the file, compiled."""
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def reference_of(part: Any) -> str:
    """Return the name of a class or function by which it can be found again.

    Raises:
      UsageError: it has none, as what is defined in a notebook or within a function.
    """
    name, module = part.__qualname__, part.__module__
    file = getattr(sys.modules.get(module), "__file__", None)
    if not all(word.isidentifier() for word in name.split(".")):
        raise UsageError(f"{module}.{name} is defined within a function: an experiment names what stands in a file")
    if module == "__main__" and file is None:
        raise UsageError(f"{name} is defined in no file: put it into one, mine.py, and name it 'mine.py:{name}'")
    of_file = file is not None and (module == "__main__" or module.startswith(_PREFIX))
    return f"{Path(file).name}:{name}" if of_file else f"{module}:{name}"  # type: ignore[arg-type]


def _files_of(module: ModuleType) -> set[Path]:
    """Return the files of a module and of what it imports from its own folder or package."""
    neighbours = module.__dict__.get("__neighbours__")
    if neighbours is None:  # of a package: all of it that is imported
        top = module.__name__.partition(".")[0]
        neighbours = [one for name, one in sys.modules.items() if name.partition(".")[0] == top]
    files = (getattr(one, "__file__", None) for one in (module, *neighbours))
    return {Path(file) for file in files if file}


def _lies_in(module: ModuleType, folder: Path) -> bool:
    return Path(getattr(module, "__file__", None) or "/").resolve().is_relative_to(folder)


def _digest(paths: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in sorted(set(paths)):
        found.update(path.read_bytes() if path.is_file() else b"")
    return found.hexdigest()


@contextlib.contextmanager
def _on_path(folders: Sequence[str]) -> Iterator[None]:
    sys.path[:0] = folders
    try:
        yield
    finally:
        for folder in folders:
            sys.path.remove(folder)


def _imported(what: str, run: Any) -> Any:
    """Return what `run` imports; its failure becomes one line."""
    try:
        return run()
    except UsageError as error:
        raise UsageError(f"{what}: {error}") from error
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and what.startswith(error.name):
            raise UsageError(f"there is no module {error.name!r} beside the experiment, here or installed") from error
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
        line = error.lineno if isinstance(error, SyntaxError) else own[-1].lineno if own else None
        where = f"{own[-1].filename if own and not isinstance(error, SyntaxError) else what}"
        at = f", line {line}," if line else ""
        raise UsageError(f"{where}{at} cannot be run: {type(error).__name__}: {error}") from error


def call(name: str, factory: Any, options: Mapping[str, Any], offered: Mapping[str, Any] | None = None) -> Any:
    """Return what a user's class or function makes of its options, and of what is offered that it has arguments for.

    Raises:
      UsageError: it has no such option (with the nearest), needs one that is not given, or refuses them.
    """
    try:
        takes = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} is {factory!r}: expected a class or a function") from error
    any_name = any(one.kind is one.VAR_KEYWORD for one in takes.values())
    for option in options:
        if option not in takes and not any_name:
            raise unknown(f"option of {name}", option, takes)
    given = {key: value for key, value in (offered or {}).items() if key in takes} | dict(options)
    try:
        return factory(**given)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    except Exception as error:
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
        at = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
        raise UsageError(f"{name} cannot be made: {type(error).__name__}: {error}{at}") from error
