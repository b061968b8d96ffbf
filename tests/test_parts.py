"""A user's own parts by name: where they are found, what may be imported, and one clear line for what cannot be."""

import importlib
import os
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from jaxcnn.errors import UsageError
from jaxcnn.parts import Finder, arguments_of, call, is_reference, load_file, reference_of

ROOT = Path(__file__).parents[1]


@pytest.fixture
def imports():
    """Check that what was imported before still is, and that nothing else of a test's folder can be imported."""
    modules, path = dict(sys.modules), list(sys.path)
    yield
    assert sys.path == path and not any(type(finder).__name__ == "_Beside" for finder in sys.meta_path)
    assert all(sys.modules[name] is module for name, module in modules.items())
    for name in sys.modules.keys() - modules.keys():
        file = str(getattr(sys.modules[name], "__file__", ""))
        assert "pytest-of" not in file or name.startswith("jaxcnn_part_"), file


@pytest.fixture(autouse=True)
def here(imports, tmp_path, monkeypatch):
    """Work in a folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def write(name, text, folder="."):
    path = Path(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(textwrap.dedent(text).encode())
    return path


SENTINEL = "from pathlib import Path\nPath({!r}).write_text('')\ntiny = 1\n"


@pytest.fixture
def sentinel(tmp_path):
    """Return the text of a file that tells when it is imported, and what asks for that."""
    told = tmp_path / "imported"
    return SENTINEL.format(str(told)), told.exists


# Where parts are found.


def test_references_are_told_from_other_names():
    good = ("nets.py:tiny", "nets:tiny", "a.b.nets:Outer.inner", "../x/nets.py:tiny", "/a b/nets.py:tiny", "é.py:tiny")
    bad = (
        "resnet20",
        "nets.py",
        "nets.py:",
        ":tiny",
        "nets.py:1",
        "nets.py:a-b",
        "a:b:c",
        "http://x.py:a",
        "./x:a",
        ".x:a",
        "",
    )
    assert all(map(is_reference, good)) and not any(map(is_reference, bad))
    for name in ("nets.py", "a:b:c"):
        with pytest.raises(UsageError, match=r"is no part: expected file.py:name or package.module:name"):
            Finder().find(name)


def test_a_file_beside_the_experiment_comes_before_one_here(tmp_path):
    write("nets.py", "tiny = 'here'")
    write("nets.py", "tiny = 'beside'\nclass Outer:\n  inner = 3", tmp_path / "beside")
    beside = Finder((tmp_path / "beside",))
    assert Finder().find("nets.py:tiny") == Finder().find("nets:tiny") == "here"
    assert beside.find("nets.py:tiny") == beside.find("nets:tiny") == "beside"
    assert beside.find("nets.py:Outer.inner") == 3
    write("sub/more.py", "tiny = 'sub'")
    assert beside.find("sub/more.py:tiny") == beside.find("sub.more:tiny") == "sub"
    assert Finder((Path("sub"),)).find("more:tiny") == Finder((tmp_path / "nowhere",)).find("sub.more:tiny") == "sub"


def test_same_named_files_in_two_folders(tmp_path):
    """Each has its own neighbours, whatever the order in which they are asked for."""
    found = {}
    for name in ("a", "b"):
        write("nets.py", "from blocks import width\ntiny = lambda: width", tmp_path / name)
        write("blocks.py", f"width = {name!r}", tmp_path / name)
        write("own/__init__.py", "from own.inner import width", tmp_path / name)
        write("own/inner.py", f"width = {name!r}", tmp_path / name)
        found[name] = Finder((tmp_path / name,))
    for name in ("a", "b", "a"):
        for reference in ("nets.py:tiny", "nets:tiny"):
            assert found[name].find(reference)() == name
        assert found[name].find("blocks:width") == found[name].find("own:width") == name
        assert found[name].find("own.inner:width") == name
    assert found["a"].find("nets.py:tiny") is found["a"].find("nets.py:tiny")


def test_neighbours_that_have_the_names_of_other_modules(tmp_path, monkeypatch):
    """A file's neighbour goes before what is imported already or installed, but for the standard library and ours."""
    monkeypatch.syspath_prepend(write("blocks.py", "width = 'elsewhere'", tmp_path / "elsewhere").parent)
    blocks = importlib.import_module("blocks")
    monkeypatch.setitem(sys.modules, "blocks", sys.modules.pop("blocks"))  # and forget it afterwards
    write("blocks.py", "width = 'beside'")
    write("tensorboardX.py", "width = 'beside'")  # that this is installed, and not imported yet, makes no difference
    for name in ("types", "random", "jaxcnn"):
        write(f"{name}.py", "raise RuntimeError('mine')")
    write("nets.py", "import types, random, jaxcnn, blocks, tensorboardX\ntiny = blocks.width, tensorboardX.width")
    assert Finder().find("nets.py:tiny") == ("beside", "beside")
    assert sys.modules["blocks"] is blocks and blocks.width == "elsewhere"
    with pytest.raises(UsageError, match=r"random.py, line 1, cannot be run: RuntimeError: mine"):
        Finder().find("random:tiny")  # but asked for by its name, it is meant


def test_a_package_beside_the_experiment():
    write("pack/__init__.py", "from . import nets\nfrom pack.sub.blocks import width")
    write("pack/nets.py", "from .sub import blocks\nimport helpers\ntiny = blocks.width, helpers.x")
    write("pack/sub/__init__.py", "")
    write("pack/sub/blocks.py", "width = 7")
    write("helpers.py", "x = 8")
    write("pack.py", "raise RuntimeError('a package goes before a module')")
    finder = Finder()
    assert finder.find("pack.nets:tiny") == finder.find("pack:nets.tiny") == (7, 8) and finder.find("pack:width") == 7
    names = [str(Path(name)) for name in finder.sources(["pack.nets:tiny", "helpers:x"])]
    assert names == ["helpers.py", *(f"pack/{name}.py" for name in ("__init__", "nets", "sub/__init__", "sub/blocks"))]


def test_a_folder_without_init(tmp_path):
    write("loose/nets.py", "from loose import blocks\ntiny = blocks.width")
    write("loose/blocks.py", "width = 7")
    assert Finder().find("loose.nets:tiny") == 7
    # A folder of pictures is not what a name stands for that is installed; asked for by its name, it is.
    write("optax/notes.txt", "")
    write("nets.py", "import optax\ntiny = optax.sgd")
    assert Finder().find("nets.py:tiny").__module__.startswith("optax.")
    write("optax/mine.py", "tiny = 5")
    assert Finder((), installed=False).find("optax.mine:tiny") == 5


def test_an_installed_module():
    import optax

    assert Finder().find("optax:sgd") is optax.sgd
    assert Finder().find("json.decoder:JSONDecoder.decode")
    files = Finder().sources(["optax:sgd", "json:dumps"])
    assert Path(optax.__file__) in files.values() and all(path.is_file() for path in files.values())
    assert len(files) == len({*files.values()})


def test_our_own_functions_are_those_of_this_process(monkeypatch):
    from jaxcnn import backend

    monkeypatch.chdir(ROOT)
    assert Finder().find("jaxcnn.backend:jit") is backend.jit
    with pytest.raises(UsageError, match=r"unknown module 'jaxcnn.backend': .*--code FOLDER"):
        Finder((ROOT,), installed=False).find("jaxcnn.backend:jit")


def test_sources_have_a_name_each(tmp_path):
    for name in ("a", "b"):
        write(f"{name}/nets.py", "import blocks\ntiny = 1", tmp_path)
        write(f"{name}/blocks.py", "width = 1", tmp_path)
        write(f"{name}/unused.py", "width = 1", tmp_path)
    found = Finder((tmp_path,)).sources(["a/nets.py:tiny", "b/nets.py:tiny", "a/nets.py:other"])
    assert {name: str(path) for name, path in found.items()} == {
        f"{name}/{file}.py": str(tmp_path / name / f"{file}.py") for name in "ab" for file in ("blocks", "nets")
    }


def test_a_file_beside_an_environment(monkeypatch):
    """Installed packages may lie below an experiment's folder, too: they are no neighbours."""
    packages = Path(".venv/lib/site-packages").resolve()
    write("bulky/__init__.py", "from bulky.part import x", packages)
    write("bulky/part.py", "x = 3", packages)
    monkeypatch.setattr(sys, "path", [*sys.path, str(packages)])
    write("nets.py", "import bulky\ntiny = bulky.x")
    try:
        assert Finder().find("nets.py:tiny") == 3 and "bulky.part" in sys.modules
        assert list(Finder().sources(["nets.py:tiny"])) == ["nets.py"]
    finally:
        for name in ("bulky", "bulky.part"):
            sys.modules.pop(name, None)


# Edited files.


def test_edited_files_are_read_anew():
    """Also edits of the same length within the same second, and those of what is imported."""
    finder, references = Finder(), ("nets.py:tiny", "nets:tiny", "pack.nets:tiny")
    for number in range(1, 5):
        write("pack/__init__.py", "")
        write("blocks.py", f"width = {number}")
        write("pack/blocks.py", f"width = {number}")
        for name in ("nets.py", "pack/nets.py"):
            write(name, f"from {'.' * ('/' in name)}blocks import width\ntiny = {number}, width")
        for path in Path().rglob("*.py"):
            os.utime(path, (1_000_000_000, 1_000_000_000))
        assert [finder.find(reference) for reference in references] == [(number, number)] * 3
        write("blocks.py", f"width = {number + 4}")
        assert finder.find("nets.py:tiny") == finder.find("nets:tiny") == (number, number + 4)
    assert not list(Path().rglob("__pycache__"))


def test_what_was_not_edited_is_not_read_again():
    write("count.txt", "")
    count = "from pathlib import Path; Path('count.txt').write_text(Path('count.txt').read_text() + 'x')"
    write("nets.py", f"{count}\nimport blocks\nclass Tiny: pass")
    write("blocks.py", "")
    found = {Finder().find("nets.py:Tiny") for _ in range(3)} | {load_file(Path("nets.py")).Tiny}
    assert len(found) == 1 and Path("count.txt").read_text() == "x"
    Path("blocks.py").unlink()
    with pytest.raises(
        UsageError, match=r"nets.py, line 2, cannot be run: ModuleNotFoundError: No module named 'block"
    ):
        Finder().find("nets.py:Tiny")


def test_a_file_that_failed_and_was_mended():
    write("nets.py", "raise ValueError")
    for _ in range(2):
        with pytest.raises(UsageError, match=r"nets.py, line 1, cannot be run: ValueError$"):
            Finder().find("nets.py:tiny")
    write("nets.py", "tiny = 3        ")
    assert Finder().find("nets.py:tiny") == 3


def test_classes_know_their_module_while_it_is_not_to_be_seen():
    """Annotations that are texts, as in many files, are those of the file that a class stands in."""
    text = """
        from __future__ import annotations
        from dataclasses import dataclass
        from jaxcnn.typed import Config, Count
        Size = Count
        @dataclass(frozen=True, kw_only=True)
        class Soft(Config):
            size: Size = 1
    """
    write("losses.py", text)
    for reference in ("losses:Soft", "losses.py:Soft"):
        assert call("Soft", Finder().find(reference), {"size": 3}).size == 3
        with pytest.raises(UsageError, match=r"Soft.size is 0: expected a whole number, 1 or more"):
            call("Soft", Finder().find(reference), {"size": 0})


# Places that nobody named.


@pytest.mark.parametrize(
    "reference",
    [
        "outside:tiny",
        "outside.py:tiny",
        "../elsewhere/outside.py:tiny",
        "{outside}/outside.py:tiny",
        "link.py:tiny",
        "link:tiny",
        "linked/outside.py:tiny",
        "linked.outside:tiny",
        "~/outside.py:tiny",
        "pip:main",
        "subprocess:call",
        "sys:exit",
        "jaxcnn.files:write_atomically",
    ],
)
def test_nothing_is_imported_from_elsewhere(tmp_path, sentinel, monkeypatch, reference):
    text, imported = sentinel
    outside = write("outside.py", text, tmp_path / "elsewhere").parent
    monkeypatch.setattr(sys, "path", [str(outside), *sys.path])
    monkeypatch.setenv("HOME", str(outside))
    Path("link.py").symlink_to(outside / "outside.py")
    Path("linked").symlink_to(outside)
    write("nets.py", "tiny = 1")
    reference, named = reference.format(outside=outside), Path("named")
    named.mkdir()
    before = set(sys.modules)
    for finder in (Finder(installed=False), Finder((named,), installed=False)):
        for look in (finder.find, lambda name, finder=finder: finder.sources([name])):
            with pytest.raises(UsageError) as error:
                look(reference)
            text = str(error.value)
            assert "--code FOLDER" in text and " that may be imported from" in text and "\n" not in text
    assert not imported() and not set(sys.modules) - before
    assert Finder((outside,), installed=False).find("outside.py:tiny") == 1 and imported()


def test_a_folder_here_does_not_stand_in_for_an_installed_package(tmp_path, sentinel, monkeypatch):
    """A folder of the name of a package makes nothing of that package importable."""
    text, imported = sentinel
    write("bulky/__init__.py", text, tmp_path / "site")
    write("bulky/nets.py", text, tmp_path / "site")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    write("bulky/notes.txt", "")
    for reference in ("bulky:tiny", "bulky.nets:tiny"):
        with pytest.raises(UsageError, match="--code FOLDER"):
            Finder(installed=False).find(reference)
    write("bulky/mine.py", "tiny = 7")
    assert Finder(installed=False).find("bulky.mine:tiny") == 7
    assert not imported() and "bulky" not in sys.modules


def test_an_installed_package_that_is_named_may_be_imported_from(tmp_path, sentinel, monkeypatch):
    text, imported = sentinel
    write("bulky/nets.py", "tiny = 3", tmp_path / "site")
    write("other/nets.py", text, tmp_path / "site")
    for name in ("bulky", "other"):
        write(f"{name}/__init__.py", "", tmp_path / "site")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "site")])
    found = Finder.of_data(["bulky", tmp_path / "here"])
    assert found.find("bulky.nets:tiny") == 3 and found.folders == (tmp_path / "here",)
    with pytest.raises(UsageError, match=r"there is no module|unknown module"):
        found.find("other.nets:tiny")
    assert not imported()
    for name in ("bulkyy", "no/folder"):
        with pytest.raises(UsageError, match=f"--code {name} is neither a folder nor an installed package"):
            Finder.of_data([name])
    for name in ("bulky.nets", "bulky"):
        sys.modules.pop(name)


def test_what_lies_beside_a_named_file_may_be_imported_by_it(tmp_path):
    write("nets.py", "import blocks, optax\ntiny = blocks.width", tmp_path / "named")
    write("blocks.py", "width = 3", tmp_path / "named")
    assert Finder((tmp_path / "named",), installed=False).find("nets.py:tiny") == 3
    assert Finder(installed=False).sources([]) == {}


# One clear line.


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("nets.py:tinny", "unknown name in nets.py 'tinny': did you mean 'tiny'?"),
        ("nets:tinny", "unknown name in nets 'tinny': did you mean 'tiny'?"),
        ("nets.py:zzz", "unknown name in nets.py 'zzz': valid choices are Outer, tiny"),
        ("nets.py:Outer.iner", "unknown name in nets.py 'iner': did you mean 'inner'?"),
        ("nets.py:tiny.x", "unknown name in nets.py 'x': valid choices are as_integer_ratio"),
        ("nest.py:tiny", "unknown file 'nest.py': did you mean 'nets.py'? (looked in {here})"),
        ("nest:tiny", "unknown module 'nest': did you mean 'nets'? (looked in {here} and installed)"),
        ("pack.nest:tiny", "unknown module 'pack.nest': "),
        ("a.b.c:tiny", "unknown module 'a.b.c': "),
        ("nets.x:tiny", "unknown module 'nets.x': "),
        ("optax.sdg:x", "unknown module 'optax.sdg': "),
    ],
)
def test_what_there_is_not(reference, message):
    write("nets.py", "import os as path\ntiny = 1\nclass Outer:\n  inner = 3\n_hidden = 1")
    write("pack/__init__.py", "")
    with pytest.raises(UsageError) as error:
        Finder().find(reference)
    assert str(error.value).startswith(message.format(here=Path.cwd()))


def test_a_folder_with_nothing_in_it():
    with pytest.raises(UsageError, match=r"^there is no file nets.py \(looked in .*/here\)$"):
        Finder().find("nets.py:tiny")
    with pytest.raises(UsageError, match=r"^there is no module nets \(looked in .*/here; --code FOLDER or PACKAGE"):
        Finder(installed=False).find("nets:tiny")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"nets.py": "x = 1\nraise RuntimeError('a\\nb')"}, "{here}/nets.py, line 2, cannot be run: RuntimeError: a"),
        ({"nets.py": "\n\nx = (\n"}, "{here}/nets.py, line 3, cannot be run: SyntaxError: '(' was never closed"),
        ({"nets.py": "import sys\nsys.exit(3)"}, "{here}/nets.py, line 2, cannot be run: SystemExit: 3"),
        ({"nets.py": "import sys\nsys.exit()"}, "{here}/nets.py, line 2, cannot be run: SystemExit"),
        ({"nets.py": "import nowhere"}, "{here}/nets.py, line 1, cannot be run: ModuleNotFoundError: No module named"),
        (
            {"nets.py": "import net"},
            "{here}/nets.py, line 1, cannot be run: ModuleNotFoundError: No module named 'net'",
        ),
        ({"nets.py": "import json\njson.loads('{{')"}, "{here}/nets.py, line 2, cannot be run: JSONDecodeError: "),
        ({"nets.py": "import jax\njax.jit(lambda x: x.y)(1)"}, "{here}/nets.py, line 2, cannot be run: AttributeError"),
        ({"nets.py": "import b", "b.py": "\n1/0"}, "{here}/b.py, line 2, cannot be run: ZeroDivisionError: division"),
        ({"nets.py": "import b", "b.py": "\n1 +"}, "{here}/b.py, line 2, cannot be run: SyntaxError: invalid syntax"),
        ({"nets.py": "\0"}, "{here}/nets.py"),
        (
            {"nets.py": "from jaxcnn import ModelConfig\n\nModelConfig(name=3)"},
            "{here}/nets.py, line 3: model.name is 3: expected text",
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else None,
)
def test_files_that_cannot_be_run(files, message):
    for name, text in files.items():
        write(name, text)
    for reference in ("nets.py:tiny", "nets:tiny"):
        with pytest.raises(UsageError) as error:
            Finder().find(reference)
        text = str(error.value)
        assert text.startswith(message.format(here=Path.cwd())) and "\n" not in text


def test_load_file():
    assert load_file(write("my-e.x.py", "tiny = 3")).tiny == 3
    with pytest.raises(UsageError, match=r"notes.txt is not a Python file"):
        load_file(write("notes.txt", ""))


# References.


class Outer:
    class Inner:
        pass


def function():
    pass


def test_a_reference_is_found_again():
    for part in (Outer, Outer.Inner, function):
        assert Finder().find(reference_of(part)) is part
    write("nets.py", "from blocks import Wide\nclass Tiny: pass")
    write("blocks.py", "class Wide: pass")
    tiny, wide = Finder().find("nets.py:Tiny"), Finder().find("nets.py:Wide")
    assert (reference_of(tiny), reference_of(wide)) == ("nets.py:Tiny", "blocks:Wide")
    assert Finder().find("nets.py:Tiny") is tiny and Finder().find("blocks:Wide").__name__ == "Wide"


def test_what_has_no_name():
    with pytest.raises(UsageError, match=r"<locals>.tiny is defined within a function: an experiment names what stand"):

        def tiny():
            pass

        reference_of(tiny)
    with pytest.raises(UsageError, match="is defined within a function"):
        reference_of(lambda: 0)


MAIN = """
import sys
from jaxcnn.parts import Finder, reference_of
from blocks import width

class Tiny:
    pass

if __name__ == "__main__":
    assert reference_of(Tiny) == "mine.py:Tiny", reference_of(Tiny)
    for finder in (Finder(), Finder(installed=False)):
        assert finder.find("mine.py:Tiny") is Tiny and finder.find("mine.py:width") == 7
    assert sorted(finder.sources(["mine.py:Tiny"])) == ["blocks.py", "mine.py"], finder.sources(["mine.py:Tiny"])
    print("once")
"""


def test_a_script_is_not_run_a_second_time():
    """Whatever folder it is started from; and another process finds its parts where the folder is named."""
    write("sub/mine.py", MAIN)
    write("sub/blocks.py", "width = 7")
    write("mine.py", "raise RuntimeError('another file')")
    for folder, file in ((Path(), "sub/mine.py"), (Path("sub"), "mine.py"), (Path("/"), Path("sub/mine.py").resolve())):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(file)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (0, "once\n"), done.stderr
    assert Finder((Path("sub"),), installed=False).find("mine.py:Tiny").__name__ == "Tiny"


def test_what_is_typed_in_has_no_file():
    code = "from jaxcnn.parts import reference_of\nclass Tiny: pass\nreference_of(Tiny)"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert "Tiny is defined in no file: put it into one, mine.py, and name it 'mine.py:Tiny'" in done.stderr


# What is made of them.


def test_call():
    @dataclass
    class Tiny:
        width: int
        depth: int = 2

    def anything(width, **more):
        return width, more

    assert call("t", Tiny, {"width": 1}) == Tiny(1)
    assert call("t", Tiny, {"width": 1}, {"depth": 5, "dtype": "float32"}) == Tiny(1, 5)
    assert call("t", Tiny, {"width": 1, "depth": 3}, {"depth": 5}) == Tiny(1, 3), "what is asked for goes first"
    assert call("t", anything, {"x": 1}, {"width": 2, "dtype": 3}) == (2, {"x": 1})
    assert call("t", partial(Tiny, depth=4), {"width": 1}) == Tiny(1, 4)
    assert list(arguments_of("t", Tiny)) == ["width", "depth"]


def refusing(width=1, depth=1):
    if depth == 2:
        raise UsageError("a depth of 2")
    return 1 / (width - 1)


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (refusing, {"widht": 2}, "unknown option of t 'widht': did you mean 'width'?"),
        (refusing, {"zz": 2}, "unknown option of t 'zz': valid choices are depth, width"),
        (refusing, {"depth": 2}, "t: a depth of 2"),
        (refusing, {}, "t cannot be made: ZeroDivisionError: division by zero (test_parts.py, line "),
        (
            lambda width: 1,
            {},
            "t cannot be made: TypeError: <lambda>() missing 1 required positional argument: 'width'",
        ),
        (3, {}, "t is 3: expected a class or a function"),
        (Path("x"), {}, "t is PosixPath('x'): expected a class or a function"),
        (sys, {}, "t is <module 'sys' (built-in)>: expected a class or a function"),
    ],
)
def test_what_cannot_be_made(factory, options, message):
    with pytest.raises(UsageError) as error:
        call("t", factory, options)
    assert str(error.value).startswith(message)


def test_what_came_with_a_run_is_data_too(tmp_path, monkeypatch):
    (tmp_path / "theirs" / "run").mkdir(parents=True)
    (tmp_path / "theirs" / "beside_a_run.py").write_text("tiny = 1\n")
    monkeypatch.chdir(tmp_path)
    finder = Finder.of_data((), never=tmp_path / "theirs" / "run")
    for reference in ("theirs/beside_a_run.py:tiny", "theirs.beside_a_run:tiny"):
        with pytest.raises(UsageError, match="beside_a_run"):
            finder.find(reference)
    assert Finder.of_data(("theirs",), never=tmp_path / "theirs" / "run").find("beside_a_run.py:tiny") == 1
