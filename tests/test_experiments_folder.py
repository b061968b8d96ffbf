"""Every file in experiments/: it loads, its parts fit together, and its values are those that were reviewed.

After a change that is meant: python tests/test_experiments_folder.py
"""

import ast
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from jaxcnn.data import Description, Label, Norms
from jaxcnn.data.fields import Image as Images
from jaxcnn.experiment import load_experiment
from jaxcnn.models import MODELS
from jaxcnn.runs import Trainer, load_run
from jaxcnn.typed import to_json

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "experiments").glob("*.py"))
GOLDEN = Path(__file__).parent / "golden_experiments"

# Training examples, image size and classes of each data set, which the recipes' steps and boundaries are made for.
SHAPES = {
    "digits": (1_437, (28, 28, 1), 10),
    "mnist": (60_000, (28, 28, 1), 10),
    "fashion_mnist": (60_000, (28, 28, 1), 10),
    "cifar10": (45_000, (32, 32, 3), 10),
    "imagenette/full-size-v2": (9_469, (224, 224, 3), 10),
    "imagenet2012": (1_281_167, (224, 224, 3), 1_000),
    "folder": (10_000, (224, 224, 3), 12),
}

every_file = pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])


def flatten(values, prefix=""):
    """A tree as one line a field, for a difference that reads well."""
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {json.dumps(value)}\n"


def text(path):
    return "".join(flatten(to_json(load_experiment(path))))


@every_file
def test_values_are_those_that_were_reviewed(path):
    assert (GOLDEN / f"{path.stem}.txt").read_text() == text(path), f"if this is meant: python {__file__}"


def test_there_is_a_golden_text_for_each():
    assert [path.stem for path in sorted(GOLDEN.glob("*.txt"))] == [path.stem for path in FILES]


@every_file
def test_the_parts_fit_together(path):
    experiment = load_experiment(path)
    examples, shape, classes = SHAPES[experiment.data.name or experiment.data.source]
    size = experiment.data.image_size
    height, width, channels = (size, size, shape[2]) if size else shape
    data = Description(
        {"image": Images(channels), "label": Label(tuple(map(str, range(classes))))},
        {
            "image": jax.ShapeDtypeStruct((height, width, channels), np.uint8),
            "label": jax.ShapeDtypeStruct((), np.int32),
        },
        {"train": examples, "test": 100},
        Norms(np.zeros(channels, np.float32), np.ones(channels, np.float32)),
        streamed=True,
    )
    trainer = Trainer.from_experiment(experiment, data=data)
    assert trainer.abstract_state().params and trainer.timetable.total_steps >= 100
    assert experiment.name == path.stem
    published = MODELS[experiment.model.name].input_shape
    said = f"at {height}x{width}" in ast.get_docstring(ast.parse(path.read_text())).splitlines()[0]
    assert said or (height, width) == published[:2], "images of another size than the model was published for"


@every_file
def test_the_docstring_tells_what_it_is(path):
    experiment, words = load_experiment(path), ast.get_docstring(ast.parse(path.read_text()))
    assert words.splitlines()[0].endswith(".")
    for start in ("Paper: ", "Recipe: ", f"Command: jaxcnn train experiments/{path.name}"):
        assert any(line.startswith(start) for line in words.splitlines()), f"no {start}"
    if experiment.data.source == "tfds":
        assert experiment.paper, "a data set of the field without a paper"


def test_two_copies_of_the_recipe_differ_in_what_they_say():
    resnet, plain = (load_experiment(ROOT / f"experiments/{name}20_cifar10.py") for name in ("resnet", "plain"))
    ours, theirs = (set(flatten(to_json(experiment))) for experiment in (resnet, plain))
    assert {line.split(" =")[0] for line in ours ^ theirs} == {"name", "model.name", "paper", "published"}
    for experiment in (resnet, plain):
        tenth = load_experiment(ROOT / f"experiments/{experiment.name}_tenth.py")
        changed = set(flatten(to_json(experiment))) ^ set(flatten(to_json(tenth)))
        assert {line.split(" =")[0] for line in changed} == {"name", "schedule.boundaries", "train.steps"}
        assert tenth.train.steps * 10 == experiment.train.steps


@pytest.mark.slow
@pytest.mark.e2e
def test_a_folder_of_images_of_ones_own(tmp_path):
    """ResNet-18, one step, on images of many sizes: what `resnet18_imagefolder` is for."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 3)):
        for name in ("ant", "bee"):
            (tmp_path / "images" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (30 + 3 * i, 40 - i, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "images" / split / name / f"{i}.jpg")
    words = "--data.image-size 32 --schedule.warmup-steps 0 --train.steps 1 --train.batch-size 8"
    command = [sys.executable, "-c", "from jaxcnn.cli import main; main()", "train"]
    command += [ROOT / "experiments/resnet18_imagefolder.py", "--data.path", "images", *words.split()]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs/resnet18_imagefolder").iterdir()
    result = json.loads((folder / "result.json").read_text())
    assert result["step"] == 1 and result["metrics"]["test/accuracy"] * 6 % 1 == pytest.approx(0)
    assert load_run(folder).description.class_names == ("ant", "bee")
    assert "classes" in done.stdout and str(folder.relative_to(tmp_path)) in done.stdout


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for old in GOLDEN.glob("*.txt"):
        old.unlink()
    for path in FILES:
        (GOLDEN / f"{path.stem}.txt").write_text(text(path))
