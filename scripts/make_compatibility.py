"""Make tests/compatibility/run anew: a small finished run, which later versions are to read.

python scripts/make_compatibility.py

Not after each change: it is there so that later versions read what an older one wrote. Once the layout of run folders
changes on purpose, a run of the new version goes beside it.
"""

import shutil
import tempfile
from pathlib import Path

import jaxcnn

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "compatibility"
KEPT = ("*.json", "*.jsonl", "*.npz", "checkpoints")


def main() -> None:
    experiment = jaxcnn.load_experiment(FOLDER / "experiment.py")
    with tempfile.TemporaryDirectory() as runs:
        run = jaxcnn.run(experiment, runs)
        shutil.rmtree(FOLDER / "run", ignore_errors=True)
        for path in [path for pattern in KEPT for path in sorted(run.path.glob(pattern))]:
            target = FOLDER / "run" / path.name
            if path.is_dir():
                shutil.copytree(path, target)
            else:
                target.parent.mkdir(exist_ok=True)
                shutil.copyfile(path, target)
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    print(f"{FOLDER / 'run'}: {size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
