"""A user's own parts by name: `nets.py:tiny` is what the file nets.py calls `tiny`, `my_package.nets:tiny` a module's.

Both are looked for beside the experiment first, then in the working folder; a module then among the installed packages.
What reads somebody else's run or weights looks in places that the user named, and nowhere else: to import a file is to
run it.
"""

import hashlib
import importlib
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from jaxcnn.errors import UsageError, unknown

_REFERENCE = re.compile(r"(?P<where>[^:]+\.py|[^\W\d]\w*(?:\.\w+)*):(?P<name>[^\W\d]\w*(?:\.\w+)*)")
# Of the names of modules that files are loaded as.
_PREFIX = "jaxcnn_part_"
# What is imported by these names is never a neighbour, whatever lies beside a file.
_KEPT = sys.stdlib_module_names | {"jaxcnn"}
# A line in one of these is not what a user looks for.
_LIBRARIES = (
    *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib", "scripts")),
    str(Path(__file__).parent),
)
# Modules by folder and name, with the SHA-256 of the files they were made of: an edited one is read again.
_loaded: dict[tuple[Path, str], tuple[ModuleType, dict[Path, str]]] = {}


@dataclass(frozen=True, kw_only=True)
class Part:
    """A user's own part by its name, `file.py:name` or `package.module:name`, and what it is made with."""

    name: str
    """See the module."""
    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments: JSON values."""


def is_reference(name: str) -> bool:
    """Return whether a name has the form of a user's part, `file.py:name` or `module:name`."""
    return _REFERENCE.fullmatch(name) is not None


@dataclass(frozen=True)
class Finder:
    """Where parts are looked for."""

    folders: tuple[Path, ...] = ()
    """In this order; the working folder comes after them."""
    installed: bool = True
    """Whether installed packages are looked through, too, and files outside of these folders taken by their path."""
    packages: tuple[str, ...] = ()
    """Installed packages that may be imported from even so."""
    before: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Where a run had its files, by name: told where one is no longer found."""
    never: Path | None = None
    """A folder within which nothing is looked for but by the name of a folder above: what is in it is data."""

    @classmethod
    def of_data(
        cls, code: Iterable[str | Path], before: Mapping[str, str] | None = None, never: Path | None = None
    ) -> "Finder":
        """Return what finds the parts that data name, a run or weights: in the working folder and what a user names.

        Args:
          code: folders, and installed packages by name.
          before: where a run had its files.
          never: the run's own folder. Where it lies below the working folder, so does perhaps what came with it: all
            of the folder there that it lies in is data.

        Raises:
          UsageError: there is no such folder or package.
        """
        folders, packages = list[Path](), list[str]()
        for each in map(Path, code):
            if each.expanduser().is_dir():
                folders.append(each)
            elif str(each).isidentifier() and find_spec(str(each)) is not None:
                packages.append(str(each))
            else:
                raise UsageError(f"--code {each} is neither a folder nor an installed package")
        if never is not None:
            here, never = Path.cwd().resolve(), never.resolve()
            if here in never.parents:
                never = here / never.relative_to(here).parts[0]
        return cls(tuple(folders), installed=False, packages=tuple(packages), before=before or {}, never=never)

    def find(self, reference: str) -> Any:
        """Return what a reference names.

        Raises:
          UsageError: there is no such file or module, it fails to import (with its own error and line), or it has no
            such name (with the nearest).
        """
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise UsageError(f"{reference!r} is no part: expected file.py:name or package.module:name")
        found: Any = self._open(match["where"])[0]
        for name in match["name"].split("."):
            if not hasattr(found, name):
                there = {other: getattr(found, other, None) for other in dir(found) if not other.startswith("_")}
                public = [other for other, value in there.items() if not isinstance(value, ModuleType)]
                raise unknown(f"name in {match['where']}", name, public)
            found = getattr(found, name)
        return found

    def sources(self, references: Iterable[str]) -> dict[str, Path]:
        """Return the files that these parts were read from, with what those import from beside them, by name."""
        found: dict[str, Path] = {}
        for where in sorted({reference.partition(":")[0] for reference in references}):
            module, folder = self._open(where)
            found |= {os.path.relpath(path, folder): path for path in sorted(_files_of(module))}
        return found

    def _open(self, where: str) -> tuple[ModuleType, Path]:
        """Return the module that a file, or a module's name, stands for, and the folder that it was looked for in."""
        is_file, main, outside = where.endswith(".py"), _main_file(), None
        script = [main.parent] if main is not None and main.name == where else []
        given = (*self.folders, *script, Path.cwd())
        places = list(dict.fromkeys(folder.expanduser().resolve() for folder in given))
        stem = where.replace(".", "/")
        wanted = [Path(where).expanduser()] if is_file else [Path(stem, "__init__.py"), Path(f"{stem}.py")]
        for folder, name in ((folder, name) for folder in places for name in wanted):
            path = (folder / name).resolve()
            if not path.is_file() or (where.startswith("jaxcnn.") and not is_file):
                continue
            own = self.never is None or not path.is_relative_to(self.never) or folder in places[: len(self.folders)]
            if self.installed or (path.is_relative_to(folder) and own):
                return load_file(path) if is_file else _load(where, folder, path), folder
            outside = path
        if not is_file and (self.installed or where.partition(".")[0] in self.packages):
            try:
                return _imported(where, lambda: importlib.import_module(where)), Path(sysconfig.get_path("purelib"))
            except UsageError as error:
                cause = error.__cause__
                if not (isinstance(cause, ModuleNotFoundError) and f"{where}.".startswith(f"{cause.name}.")):
                    raise
        looked = f"in {', '.join(map(str, places))}"
        what = "FOLDER" if is_file else "FOLDER or PACKAGE"
        more = f"; --code {what} names another that may be imported from" * (not self.installed)
        if outside is not None:
            data = self.never is not None and outside.is_relative_to(self.never)
            why = "lies in the run's own folder" if data else f"is not {looked}"
            raise UsageError(f"{where} is {outside}, which {why}{more}")
        was = [f"; the run had it as {self.before[str(name)]}" for name in wanted if str(name) in self.before]
        near = [name for folder in places for name in (_files_in(folder, wanted[0]) if is_file else _beside(folder))]
        also = " and installed" * (self.installed and not is_file)
        kind = "file" if is_file else "module"
        there_is_none = unknown(kind, where, near) if near else f"there is no {kind} {where}"
        raise UsageError(f"{there_is_none} (looked {looked}{also}{more}{''.join(was)})")


def load_file(path: Path) -> ModuleType:
    """Return the module that a file makes; one that has been edited since, or a neighbour of it, is made anew.

    Raises:
      UsageError: it cannot be run, with its own error and line.
    """
    path = path.resolve()
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a Python file")
    if path == _main_file():
        return sys.modules["__main__"]
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    return _load(f"{_PREFIX}{digest}_{path.stem.replace('.', '_')}", path.parent, path)


def _load(name: str, folder: Path, file: Path) -> ModuleType:
    """Return the module that a folder's file makes, by its own name there or one that only it has."""
    module, read = _loaded.get((folder, name), (None, {}))
    if module is None or any(not path.is_file() or _sha256(path.read_bytes()) != read[path] for path in read):
        with _Beside(name, folder, file) as beside:
            module = _imported(str(file), lambda: importlib.import_module(name))
        module.__dict__["__files__"] = list(beside.read)
        _loaded[folder, name] = module, beside.read
    return module


class _Beside:
    """While it is entered, imports find what lies in a folder first, read anew; it leaves no other module there is."""

    def __init__(self, name: str, folder: Path, file: Path) -> None:
        self.name, self.folder, self.file, self.top = name, folder, file, name.partition(".")[0]
        self.read: dict[Path, str] = {}
        """The files that were read, with their SHA-256."""
        self._made: set[str] = set()
        self._hidden: dict[str, ModuleType] = {}

    def __enter__(self) -> "_Beside":
        importlib.invalidate_caches()
        if self.name.startswith(_PREFIX):
            sys.modules.pop(self.name, None)
        tops = (_beside(self.folder) - _KEPT) | {self.top}
        hidden = [name for name in sys.modules if name.partition(".")[0] in tops]
        self._hidden = {name: sys.modules.pop(name) for name in hidden}
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]
        return self

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        for name in self._made:  # another folder's neighbour may have the same name
            sys.modules.pop(name, None)
        sys.modules.update(self._hidden)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return where a module is, None: not in the folder."""
        parent, top = name.rpartition(".")[0], name.partition(".")[0]
        if name == self.name and name.startswith(_PREFIX):
            return spec_from_file_location(name, self.file, loader=_Source(name, self.file, self.read))
        if (parent and parent not in self._made) or (top in _KEPT and top != self.top):
            return None
        spec = PathFinder.find_spec(name, path if parent else [str(self.folder)])
        if spec is None:
            return None
        if spec.origin is None:  # a folder without __init__.py: any package of that name goes before it
            if top != self.top and not parent and PathFinder.find_spec(name) is not None:
                return None
            spec.submodule_search_locations = list(spec.submodule_search_locations or ())
        elif isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Source(name, Path(spec.origin), self.read)
        self._made.add(name)
        return spec


class _Source(SourceFileLoader):
    """Reads the file itself: Python's own cache goes by size and second, and would miss an edit of the same length."""

    def __init__(self, name: str, path: Path, read: dict[Path, str]) -> None:
        super().__init__(name, str(path))
        self._read = read

    def get_code(self, fullname: str) -> Any:
        """Return the file, compiled."""
        source = self.get_data(self.path)
        self._read[Path(self.path)] = _sha256(source)
        return self.source_to_code(source, self.path)


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


def _main_file() -> Path | None:
    """Return the file of the script that this process runs, None: there is none."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return Path(file).resolve() if file else None


def _beside(folder: Path) -> set[str]:
    """Return the names of the modules that a folder holds."""
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    return packages | {path.stem for path in folder.glob("*.py")}


def _files_in(folder: Path, wanted: Path) -> list[str]:
    """Return the Python files of a folder, and those that lie where one is looked for, by their paths from there."""
    parts = (Path(), wanted.parent)
    return [str(part / path.name) for part in parts for path in (folder / part).glob("*.py") if path.is_file()]


def _files_of(module: ModuleType) -> set[Path]:
    """Return the files of a module, with those beside it, or of its package, that it was made of."""
    if "__files__" in module.__dict__:
        return set(module.__dict__["__files__"])
    tops, main = {module.__name__.partition(".")[0]}, _main_file()
    if main is not None and tops == {"__main__"}:
        tops |= _beside(main.parent)
    found = [one for name, one in [*sys.modules.items()] if name.partition(".")[0] in tops - _KEPT]
    return {Path(file) for one in found if (file := getattr(one, "__file__", None))}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _imported(what: str, run: Callable[[], ModuleType]) -> ModuleType:
    """Return what `run` imports; its failure becomes one line."""
    try:
        return run()
    except (Exception, SystemExit) as error:
        file, line = _place(error)
        at = f"{file or what}, line {line}" if line else what
        if isinstance(error, UsageError):
            raise UsageError(f"{at}: {error}") from error
        raise UsageError(f"{at}{',' * bool(line)} cannot be run: {_line(error)}") from error


def told(error: BaseException) -> str:
    """Return an exception in one line, with the user's own line that it comes from, if there is one."""
    file, line = _place(error)
    return _line(error) + f" ({Path(file).name}, line {line})" * bool(line)


def is_of_part(error: BaseException) -> bool:
    """Return whether an exception comes out of a user's part."""
    files = {str(path) for _, read in _loaded.values() for path in read}
    return any(frame.filename in files for frame in traceback.extract_tb(error.__traceback__))


def check_call(name: str, function: Any, *arguments: str) -> None:
    """Raise UsageError where a user's function cannot be called with so many arguments; they are told by name."""
    try:
        inspect.signature(function).bind(*arguments)
    except ValueError:  # it does not say what it takes
        return
    except TypeError as error:
        raise UsageError(f"{name} cannot be called with ({', '.join(arguments)}): {error}") from error


def _place(error: BaseException) -> tuple[str, int | None]:
    """Return the file and line, in code that is the user's if there is any, that an exception comes from."""
    if isinstance(error, SyntaxError):
        return error.filename or "", error.lineno
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    found = [frame for frame in frames if not frame.filename.startswith((*_LIBRARIES, "<"))]
    return (found[-1].filename, found[-1].lineno) if found else ("", None)


def _line(error: BaseException) -> str:
    """Return an exception's type and the first line of what it says."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text.strip()}".split("\n")[0].removesuffix(": ")[:250]


def arguments_of(name: str, factory: Any) -> Mapping[str, inspect.Parameter]:
    """Return the arguments of a user's class or function, by name.

    Raises:
      UsageError: it is neither.
    """
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} is {factory!r:.80}: expected a class or a function") from error


def made(part: Any, finder: Finder) -> Any:
    """Return a value as it is; of a `Part` what it names: a class with its options, a function with them bound.

    Raises:
      UsageError: there is no such part, or it does not take the options.
    """
    if not isinstance(part, Part):
        return part
    found = finder.find(part.name)
    if isinstance(found, type):
        return call(part.name, found, part.options)
    if not part.options:
        return found
    if not callable(found):
        raise UsageError(f"{part.name} is made already: it takes no options, such as {min(part.options)!r}")
    _check_options(part.name, found, part.options)
    return partial(found, **part.options)


def call(name: str, factory: Any, options: Mapping[str, Any], offered: Mapping[str, Any] | None = None) -> Any:
    """Return what a user's class or function makes of its options, and of what is offered that it has arguments for.

    Raises:
      UsageError: it has no such option (with the nearest), needs one that is not given, or refuses them.
    """
    takes = _check_options(name, factory, options)
    given = {key: value for key, value in (offered or {}).items() if key in takes} | dict(options)
    try:
        return factory(**given)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error
    except Exception as error:
        raise UsageError(f"{name} cannot be made: {told(error)}") from error


def _check_options(name: str, factory: Any, options: Mapping[str, Any]) -> Mapping[str, inspect.Parameter]:
    """Return what a class or function takes.

    Raises:
      UsageError: an option is not among it.
    """
    takes = arguments_of(name, factory)
    for option in options:
        if option not in takes and not any(one.kind is one.VAR_KEYWORD for one in takes.values()):
            raise unknown(f"option of {name}", option, takes)
    return takes
