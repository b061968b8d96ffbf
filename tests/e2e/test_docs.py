"""docs/adding-a-model.md, carried out as written: in a copy of the package and of the tests, in real processes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/adding-a-model.md").read_text(), flags=re.DOTALL)
TABLE = re.compile(r"^(?:MODELS|FAMILIES)\b.*= \{\n", flags=re.MULTILINE)


def add_row(path: Path, addition: str) -> None:
    """Put the addition's import after the docstring of the module at `path`, and its row first in the table."""
    imports, row = TABLE.split(addition)
    text = path.read_text()
    docstring_end = text.index('"""\n', 3) + 4
    text = text[:docstring_end] + "\n" + imports + text[docstring_end:]
    text, count = TABLE.subn(lambda match: match[0] + row.removesuffix("}\n"), text)
    assert count == 1
    path.write_text(text)


def run_in(folder: Path, command: list[str]) -> str:
    """Return what the command prints; it finds the copy of the package first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout


@pytest.mark.slow
def test_a_model_is_added_as_the_page_says(tmp_path):
    for folder in ("jaxcnn", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    model_file, model_row, test_row = (text for kind, text in BLOCKS if kind == "python")
    (tmp_path / "jaxcnn/models/nin.py").write_text(model_file)
    add_row(tmp_path / "jaxcnn/models/__init__.py", model_row)
    add_row(tmp_path / "tests/models/test_behaviour.py", test_row)

    (commands,) = (text.splitlines() for kind, text in BLOCKS if kind == "sh")
    summary, tests = (run_in(tmp_path, shlex.split(command)) for command in commands)
    assert "966,986" in summary
    assert " passed" in tests
    used = (
        "import jax, jax.numpy as jnp, jaxcnn\n"
        "model, images = jaxcnn.create('nin'), jnp.ones((2, 32, 32, 3))\n"
        "variables = model.init(jax.random.key(0), images)\n"
        "maps = jaxcnn.features(model, variables, images, ['stage2', 'stage3'])\n"
        "print([stage.name for stage in model.stages], *(maps[name].shape for name in maps))"
    )
    expected = "['stage1', 'stage2', 'stage3', 'head'] (2, 16, 16, 192) (2, 8, 8, 192)"
    assert run_in(tmp_path, [sys.executable, "-c", used]).strip() == expected


def test_the_example_is_formatted_as_the_project_is():
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "--check", "--stdin-filename", "jaxcnn/models/nin.py", "-"],
        cwd=ROOT,
        input=BLOCKS[0][1],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
