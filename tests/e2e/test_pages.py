"""The README and the guides, followed as a reader would: their files, commands and code, in real processes.

A block of Python after "Save this as `NAME`" is that file. Commands are run in their order; the Python that is left is
run after them, as one program.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"(?:[Ss]ave (?:this|it) as `([\w.]+)`[^`]*)?```(\w+)\n(.*?)```", flags=re.DOTALL)
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("JAX", "XLA_FLAGS"))}
ENVIRONMENT["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
ENVIRONMENT["PYTHONPATH"] = str(ROOT)
# What pages take for granted.
GIVEN = """
import numpy as np
labels = np.arange(100, dtype=np.int32) % 10
images = np.full((100, 28, 28, 1), 0, np.uint8) + labels.astype(np.uint8)[:, None, None, None] * 20
"""
# Commands that need several machines, or that tests/e2e/test_own_parts.py runs.
ELSEWHERE = ("--distributed", "examples/")


def parts_of(page):
    """The files of a page by name, its commands, and the rest of its Python."""
    found = BLOCK.findall((ROOT / page).read_text())
    files = {name: text for name, kind, text in found if name}
    lines = [line.split("  #")[0].strip() for _, kind, text in found if kind == "sh" for line in text.splitlines()]
    commands = [line for line in lines if line.startswith("jaxcnn ") and not any(word in line for word in ELSEWHERE)]
    return files, commands, "\n".join(text for name, kind, text in found if kind == "python" and not name)


def run_in(folder, *command):
    """What the command prints."""
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout


def follow(page, folder):
    """Do what a page says in a folder, after the README's first file; return its files, commands and code."""
    files, commands, code = parts_of(page)
    for name, text in {**parts_of("README.md")[0], **files}.items():
        (folder / name).write_text(text)
    Image.new("L", (28, 28)).save(folder / "digit.png")

    def newest(name):
        return max((folder / "runs" / name).iterdir(), key=lambda path: path.stat().st_ctime_ns).name

    def filled_in(text):
        return re.sub(r"runs/(\w+)/<hash>", lambda match: f"runs/{match[1]}/{newest(match[1])}", text)

    for command in commands:
        run_in(folder, *shlex.split(filled_in(command)))
    if code:
        run_in(folder, sys.executable, "-c", GIVEN + filled_in(code))
    return files, commands, code


@pytest.mark.slow
@pytest.mark.smoke
def test_the_readme(tmp_path):
    files, commands, code = follow("README.md", tmp_path)
    assert list(files) == ["my_digits.py"] and len(commands) >= 8 and "Trainer" in code and "jaxcnn.jit" in code


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "at_least"),
    [
        ("docs/own-parts.md", (1, 3, "Trainer")),
        ("docs/own-loop.md", (0, 0, "make_train_step")),
        ("docs/tasks.md", (0, 0, "class Pairs")),
        ("docs/runs.md", (0, 6, "load_run")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_guide(page, at_least, tmp_path):
    files, commands, code = follow(page, tmp_path)
    assert len(files) >= at_least[0] and len(commands) >= at_least[1] and at_least[2] in code


def test_the_loop_of_ones_own_takes_forty_lines():
    assert len(parts_of("docs/own-loop.md")[2].strip().splitlines()) <= 40


@pytest.mark.parametrize(
    "page", ["README.md", *(f"docs/{name}.md" for name in ("own-parts", "own-loop", "tasks", "runs", "weights"))]
)
def test_code_is_formatted_as_the_project_is(page, tmp_path):
    for number, (_, kind, text) in enumerate(BLOCK.findall((ROOT / page).read_text())):
        if kind == "python":
            (tmp_path / f"block{number}.py").write_text(text)
    config = ["--config", str(ROOT / "pyproject.toml")]
    run_in(tmp_path, sys.executable, "-m", "ruff", "format", *config, "--check", str(tmp_path))
    run_in(tmp_path, sys.executable, "-m", "ruff", "check", *config, "--select", "F", "--ignore", "F821", str(tmp_path))


def test_links_lead_somewhere():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for link in re.findall(r"\]\(([^)#:]+)[^):]*\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


def test_the_path_of_a_batch_names_what_there_is():
    text = (ROOT / "docs/architecture.md").read_text()
    names = re.findall(r"^ +\d+\. +([\w.]+)", text.partition("## The path of one batch")[2].partition("\n## ")[0], re.M)
    assert 8 <= len(names) <= 12
    sources = "\n".join(path.read_text() for path in (ROOT / "jaxcnn").rglob("*.py"))
    for name in names:
        if name not in ("jax.value_and_grad", "tx.update"):  # not ours
            for part in name.split("."):
                assert re.search(rf"^ *(class|def) {part}\b", sources, re.M), f"there is no {name}"
