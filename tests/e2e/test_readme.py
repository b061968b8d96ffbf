"""The README's own commands, run as a reader would: in a copy of the checkout's experiments, in real processes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [pytest.mark.e2e, pytest.mark.smoke]

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("JAX", "XLA_FLAGS"))}
ENVIRONMENT["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def commands() -> list[str]:
    """Return the `jaxcnn` command lines, without those that need another machine."""
    lines = [line.split("  #")[0].strip() for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    return [line for line in lines if line.startswith("jaxcnn ") and "--distributed" not in line]


def test_the_readme_works_as_written(tmp_path):
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    experiment, notebook, _ = (text for kind, text in BLOCKS if kind == "python")
    assert len(experiment.strip().splitlines()) <= 20
    (tmp_path / "experiments" / "my_digits.py").write_text(experiment)
    Image.new("L", (28, 28)).save(tmp_path / "digit.png")
    found = commands()
    assert len(found) >= 5
    for command in found:
        if "<hash>" in command:
            run = next((tmp_path / "runs" / "my_digits").iterdir())
            command = command.replace("<hash>", run.name)
        done = run_in(tmp_path, shlex.split(command))
        assert done.returncode == 0, (command, done.stderr)
        assert "Traceback" not in done.stderr
    images = "import numpy as np\nimages = np.zeros((2, 28, 28, 1), np.uint8)\n"
    done = run_in(tmp_path, [sys.executable, "-c", images + notebook])
    assert done.returncode == 0, done.stderr


def run_in(folder: Path, command: list[str]) -> subprocess.CompletedProcess:
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
