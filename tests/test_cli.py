"""The command line as a user meets it: what is accepted, and one clear line for what is not."""

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxcnn
from jaxcnn import arguments, backend, cli, process, runs
from jaxcnn.experiment import load_experiment
from jaxcnn.report import terminal
from jaxcnn.tasks import Classification
from jaxcnn.train.optimizers import AnyOptimizer
from jaxcnn.train.schedules import AnySchedule
from jaxcnn.typed import hints, leaves, takes, to_json, variants

ROOT = Path(__file__).parents[1]
DIGITS = "experiments/lenet_digits.py"
COMMAND = [sys.executable, "-c", "from jaxcnn.cli import main; main()"]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cli, "prepare_process", lambda *, distributed: None)


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that is to be refused and return the line on stderr."""

    def refused(*words, code=2):
        where = ["--runs-dir", str(tmp_path / "runs")] if words[0] == "train" else []
        assert cli._main([*words, *where]) == code
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1 and err.startswith("jaxcnn: error: "), err
        assert code == 1 or not list((tmp_path / "runs").glob("*/*")), "a run folder was left"
        return err.removeprefix("jaxcnn: error: ").rstrip()

    return refused


@pytest.fixture
def asked(monkeypatch):
    """Return the experiment and the options that a command would run."""

    def asked(*words):
        seen = {}

        def run(experiment, folder, **options):
            seen.update(experiment=experiment, folder=folder, **options)

        monkeypatch.setattr(runs, "run", run)
        monkeypatch.setattr(terminal, "result_table", lambda run: "")
        assert cli._main(["train", *words]) == 0
        return seen

    return asked


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "unknown command 'trian': did you mean 'train'?"),
        (
            "--frobnicate",
            "unknown command '--frobnicate': valid choices are data, evaluate, export, models, predict, summary, train",
        ),
        ("train", "which experiment? expected jaxcnn train experiments/NAME.py, or --resume RUN"),
        ("train --quiet", "which experiment?"),
        ("train ''", "which experiment?"),
        ("train experiments/lenet_digts.py", "unknown experiment file 'experiments/lenet_digts.py': did you mean "),
        ("train experiments", "experiments is a folder: expected a Python file"),
        ("train README.md", "README.md is not a Python file"),
        ("train --resume", "--resume needs a value"),
        ("train --resume /nowhere", "no run in /nowhere"),
        ("evaluate", "RUN is missing: expected a path, see jaxcnn evaluate --help"),
        ("evaluate /nowhere", "no run in /nowhere: it has no experiment.json"),
        ("evaluate a b", "unexpected argument 'b': see jaxcnn evaluate --help"),
        ("evaluate --chekpoint best", "unknown option --chekpoint: did you mean --checkpoint?"),
        ("evaluate a --split tset", "unknown --split 'tset': did you mean 'test'?"),
        ("evaluate a --split", "--split needs a value: expected test or val or train"),
        ("models foo", "unexpected argument 'foo': see jaxcnn models --help"),
        ("models --foo", "unknown option --foo"),
        ("models --family resnt", "unknown family 'resnt': did you mean 'resnet'?"),
        ("models --json=yes", "--json takes no value: write --json or --no-json"),
        ("summary", "NAME is missing: expected text, see jaxcnn summary --help"),
        ("summary resnt50", "unknown model 'resnt50': did you mean 'resnet50'?"),
        ("summary nets.py", "model.name is 'nets.py': expected nets.py:NAME, a network that it holds"),
        ("summary resnet50 --input 0", "--input is [0]: expected a list of whole numbers, 1 or more"),
        ("summary resnet50 --input x", "--input is ['x']: expected a list of whole numbers, 1 or more"),
        ("summary resnet50 --input 3 4", "--input is 3 4: expected a side, or height, width, channels"),
        ("summary resnet50 --num-classes 0", "--num-classes is 0: expected a whole number, 1 or more or None"),
        ("summary resnet20 --options shortcut", "--options takes pairs KEY VALUE: found shortcut"),
        ("summary resnet20 --options shortcut D", "unknown shortcut of resnet20 'D': valid choices are A"),
        ("summary vgg16 --input 20", "images of 20x20: this VGG needs at least 32x32"),
        ("summary lenet5 --input 5", "LeNet-5 got images of shape (1, 5, 5, 1); expected"),
    ],
)
def test_commands_that_cannot_be(refused, words, message):
    assert refused(*(word.strip("'") for word in words.split())).startswith(message)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("foo", "unexpected argument 'foo'"),
        ("--quiet true", "unexpected argument 'true'"),
        ("-x", "unexpected argument '-x'"),
        ("--quiet=true", "--quiet takes no value: write --quiet or --no-quiet"),
        ("--data.no-download=1", "--data.no-download takes no value: write --data.download or --data.no-download"),
        ("--optim.lerning-rate 0.1", "unknown option --optim.lerning-rate: did you mean --optim.learning-rate?"),
        ("--optim.lerning_rate=0.1", "unknown option --optim.lerning_rate: did you mean --optim.learning-rate?"),
        ("--data.no-downlod", "unknown option --data.no-downlod: did you mean --data.no-download?"),
        ("--no-seed 3", "unknown option --no-seed: did you mean --seed?"),
        ("--no-data.download", "unknown option --no-data.download: did you mean --data.download?"),
        ("--data.augment flp", "unknown --data.augment[0] 'flp': did you mean 'flip'?"),
        ("--data.augment.0.kind=flip", "unknown option --data.augment.0.kind: did you mean --data.augment?"),
        ("--data.train-crop x", "unknown --data.train-crop 'x': valid choices are random_resized_crop, scale_jitter"),
        ("--data.train-crop", "--data.train-crop needs a value"),
        ("--data.train-crop.area 0.1 1", "unknown option --data.train-crop.area: did you mean --data.train-crop?"),
        ("--se 3", "unknown option --se: did you mean --seed?"),
        ("-- --seed 3", "unknown option --: "),
        ("--seed", "--seed needs a value: expected a whole number in [0, 4294967295]"),
        ("--seed --quiet", "--seed needs a value: expected a whole number in [0, 4294967295]"),
        ("--seed x", "--seed is 'x': expected a whole number"),
        ("--seed 1.5", "--seed is '1.5': expected a whole number"),
        ("--seed -1", "--seed is -1: expected a whole number in [0, 4294967295]"),
        ("--seed=99999999999999999999", "--seed is 99999999999999999999: expected a whole number in [0, "),
        (
            "--seed 4294967295 --train.seeds 2",
            "seed is 4294967295: expected 0 to 4294967294, so that there are 2 seeds",
        ),
        ("--seed 3 4", "unexpected argument '4': see jaxcnn train --help"),
        ("--train.steps abc", "--train.steps is 'abc': expected a whole number, 1 or more or None"),
        ("--train.steps 1e3", "--train.steps is '1e3': expected a whole number, 1 or more or None"),
        ("--train.steps 3 --train.steps x", "--train.steps is 'x': expected a whole number, 1 or more or None"),
        ("--train.steps 0", "--train.steps is 0: expected a whole number, 1 or more or None"),
        ("--train.steps 99999999999999", "training for 1e+14 steps: expected fewer than 2**31"),
        ("--train.epochs abc", "--train.epochs is 'abc': expected a finite number above 0 or None"),
        ("--train.epochs -3", "--train.epochs is -3.0: expected a finite number above 0 or None"),
        ("--train.epochs -1e-3", "--train.epochs is -0.001: expected a finite number above 0 or None"),
        ("--train.epochs nan", "--train.epochs is nan: expected a finite number above 0 or None"),
        ("--train.epochs inf", "--train.epochs is inf: expected a finite number above 0 or None"),
        ("--train.epochs 1e308", "training for 1e+308 steps: expected fewer than 2**31"),
        ("--train.epochs None", "train.steps and train.epochs are both None: give one of them"),
        ("--train.batch-size 100000", "a batch of 100000 does not fit the 1437 training examples"),
        ("--train.batch-size 62", "batch size 62 does not divide over 8 devices: the nearest that does is 64"),
        ("--train.devices 9", "train.devices is 9: expected 1 to 8, the devices found"),
        ("--train.accumulation-steps 7", "train.accumulation_steps is 7"),
        ("--train.parallel pmp", "unknown --train.parallel 'pmp': did you mean 'pmap'?"),
        ("--train.remat yes", "unexpected argument 'yes': see jaxcnn train --help"),
        ("--train.callbacks earlystopping", "unknown --train.callbacks[0] 'earlystopping': did you mean 'early_stopp"),
        ("--train.label-smoothing 0.1", "unknown option --train.label-smoothing: did you mean --task.label-smoothing?"),
        ("--task.label-smoothing 1.5", "--task.label-smoothing is 1.5: expected a finite number in [0, 1)"),
        ("--task clasification", "unknown --task 'clasification': did you mean 'classification'?"),
        ("--task nowhere.py:mine", "unknown file 'nowhere.py': valid choices are finetune_resnet20"),
        ("--task", "--task needs a value"),
        ("--optim.learning-rate 0,1", "--optim.learning-rate is '0,1': expected a finite number above 0"),
        ("--optim.learning-rate 0", "--optim.learning-rate is 0.0: expected a finite number above 0"),
        ("--optim sdg", "unknown --optim 'sdg': did you mean 'sgd'?"),
        ("--optim None", "unknown --optim 'None': did you mean "),
        ("--optim sgd --optim.momentum 0.5", "unknown option --optim.momentum: did you mean --"),
        ("--optim.eps 1e-3", "unknown option --optim.eps: did you mean --optim?"),
        ("--optim rmsprop --optim.eps-in-sqrt maybe", "unexpected argument 'maybe'"),
        ("--optim nowhere:mine", "unknown module 'nowhere'"),
        ("--optim nowhere.py", "--optim is 'nowhere.py': expected nowhere.py:NAME, an optimiser that it holds"),
        ("--data.augment flip nets.py", "--data.augment[1] is 'nets.py': expected nets.py:NAME, a transform that it "),
        ("--optim optax:sdg", "unknown name in optax 'sdg': did you mean 'sgd'?"),
        ("--optim optax:sgd", "optax:sgd takes a learning_rate: give it among its options, such as 0.1"),
        (
            "--optim optax:sgd --optim.options learning_rate",
            "--optim.options takes pairs KEY VALUE: found learning_rate",
        ),
        ("--optim.decay bias", "optim.decay pattern 'bias' matches no parameter; nearest: 'fc2/bias'"),
        ("--schedule step", "--schedule.boundaries is missing: expected a list of whole numbers"),
        (
            "--schedule step --schedule.boundaries",
            "schedule.boundaries is (): expected increasing steps after the warm-",
        ),
        (
            "--schedule step --schedule.boundaries 3 x",
            "--schedule.boundaries is [3, 'x']: expected a list of whole num",
        ),
        (
            "--schedule step --schedule.boundaries 10 999999",
            "schedule.boundaries is (10, 999999): expected steps below",
        ),
        ("--schedule.boundaries 10", "unknown option --schedule.boundaries"),
        ("--schedule.warmup-steps 99999999", "schedule.warmup_steps is 99999999: expected fewer than the 899 in all"),
        ("--model.name resnt20", "unknown model 'resnt20': did you mean 'resnet20'?"),
        ("--model.num-classes 3", "the model has 3 logits, the data have 10 classes: set model.num_classes"),
        ("--model.dtype bf16", "unknown --model.dtype 'bf16': did you mean 'bfloat16'?"),
        ("--model.options", "--model.options takes pairs KEY VALUE: found nothing"),
        ("--model.options shortcut", "--model.options takes pairs KEY VALUE: found shortcut"),
        ("--model.options shortcut B", "unknown option of lenet5 'shortcut': valid choices are "),
        ("--model.name resnet20 --model.options shortcut D", "unknown shortcut of resnet20 'D': valid choices are A"),
        ("--data.source dgits", "unknown --data.source 'dgits': did you mean 'digits'?"),
        ("--data.source npz", "data.source npz needs data.path, the file to read"),
        ("--data.source npz --data.path /nowhere.npz", "data.path /nowhere.npz: no such file"),
        ("--data.name mnist", "data.name is 'mnist', which data.source digits does not read"),
        ("--data.train-split trian", "unknown split 'trian': did you mean 'train'?"),
        (
            "--data.train-split train[:9%] --data.test-split train[8%:]",
            "data.test_split 'train[8%:]' shares 14 examples",
        ),
        ("--data.image-size 10", "LeNet-5 got images of shape (1, 10, 10, 1); expected"),
        ("--data.image-size 100000", "1437 examples of image 100000x100000x1 are 13383 GiB"),
        ("--data.mean abc", "--data.mean is ['abc']: expected a list of finite numbers or None"),
        ("--data.mean 0.1 0.2 0.3", "data.mean has 3 numbers, the images have 1 channels"),
        ("--data.std 0", "--data.std is [0.0]: expected a list of finite numbers above 0 or None"),
        ("--name ..", "name is '..': expected letters"),
    ],
)
def test_options_that_cannot_be(refused, words, message):
    assert refused("train", DIGITS, *words.split()).startswith(message)


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", Path("/proc/none")):
        assert cli._main(["train", DIGITS, "--runs-dir", str(folder)]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"jaxcnn: error: run folder {folder}/lenet_digits/") and "cannot be written" in err


def test_epochs_asked_for_take_the_place_of_a_files_steps(asked):
    train = asked("experiments/resnet20_cifar10.py", "--train.epochs", "5")["experiment"].train
    assert (train.steps, train.epochs) == (None, 5.0)
    train = asked("experiments/resnet20_cifar10.py", "--train.epochs", "5", "--train.steps", "7")["experiment"].train
    assert train.steps == 7


def test_what_is_strange_but_right(asked, tmp_path):
    expected = load_experiment(DIGITS)
    assert asked(DIGITS)["experiment"] == expected
    found = asked(DIGITS, "--optim.learning-rate", "1e-3", "--seed", "3", "--train.epochs", "1")["experiment"]
    assert (found.optim.learning_rate, found.seed, found.train.epochs) == (0.001, 3, 1.0)
    for words in (
        ["--optim.learning-rate=1e-3", "--seed=3", "--train.epochs=1", DIGITS],
        ["--seed", "3", DIGITS, "--optim.learning_rate", "0.001", "--train.epochs", "1.0"],
        [DIGITS, "--seed", "2", "--seed", "3", "--optim.learning-rate", ".001", "--train.epochs", "1"],
    ):
        assert asked(*words)["experiment"] == found
    found = asked(
        DIGITS,
        "--paper",
        "two words",
        "--train.steps",
        "7",
        "--train.epochs",
        "None",
        "--data.source=npz",
        "--data.path=a b/c",
    )
    assert (found["experiment"].paper, found["experiment"].data.path) == ("two words", Path("a b/c"))
    assert (found["experiment"].train.steps, found["experiment"].train.epochs) == (7, None)
    found = asked(DIGITS, "--train.frozen", "--optim.decay", "*", "*bias", "--data.mean", ".5")["experiment"]
    assert (found.train.frozen, found.optim.decay, found.data.mean) == ((), ("*", "*bias"), (0.5,))
    found = asked(DIGITS, "--train.remat", "--data.no-download", "--train.no-remat", "--train.norms")["experiment"]
    assert (found.train.remat, found.train.norms, found.data.download) == (False, True, False)
    found = asked(DIGITS, "--data.augment", "flip", "pad_crop", "--train.callbacks", "early_stopping")["experiment"]
    assert found.data.augment == (jaxcnn.Flip(), jaxcnn.PadCrop())
    assert found.train.callbacks == (jaxcnn.EarlyStopping(),)
    assert asked(DIGITS, "--data.augment")["experiment"].data.augment == ()
    seen = asked("--runs-dir", str(tmp_path), "--quiet", DIGITS)
    assert seen["folder"] == tmp_path and seen["progress"] is False
    assert seen["command"] == f"jaxcnn train --runs-dir {tmp_path} --quiet {DIGITS}"


def test_one_of_several_is_chosen(asked):
    """What the file says, and both have, stays."""
    file = load_experiment(DIGITS)
    rate, decay = file.optim.learning_rate, file.optim.weight_decay

    def found(*words):
        return asked(DIGITS, *words)["experiment"]

    assert found("--optim", "adam").optim == jaxcnn.Adam(learning_rate=rate, weight_decay=decay)
    words = ("--optim.beta1", "0.5", "--optim=adamw", "--optim.learning_rate", "1e-3")
    assert found(*words).optim == jaxcnn.AdamW(learning_rate=0.001, beta1=0.5, weight_decay=decay)
    assert found("--optim", "momentum", "--optim.nesterov").optim == replace(file.optim, nesterov=True)
    assert found("--optim", "momentum").optim == file.optim == found().optim
    assert found("--schedule", "step", "--schedule.boundaries", "3", "4").schedule == jaxcnn.StepDecay(
        boundaries=(3, 4)
    )
    assert found("--schedule", "constant", "--schedule.warmup-steps", "5").schedule.warmup_steps == 5
    crop = found("--data.train-crop", "random_resized_crop", "--data.train-crop.area", "0.5", "1").data.train_crop
    assert crop == jaxcnn.RandomResizedCrop(area=(0.5, 1.0))
    assert found("--data.train-crop", "None").data.train_crop is None


def test_ones_own_parts(asked):
    found = asked(DIGITS, "--optim", "mine.py:rule", "--optim.options", "rate", "0.5", "--task", "pack.tasks:Angle")
    assert found["experiment"].optim == jaxcnn.Part(name="mine.py:rule", options={"rate": 0.5})
    assert found["experiment"].task == jaxcnn.Part(name="pack.tasks:Angle")
    found = asked(DIGITS, "--train.callbacks", "early_stopping", "mine.py:look")["experiment"]
    assert found.train.callbacks == (jaxcnn.EarlyStopping(), jaxcnn.Part(name="mine.py:look"))


def test_a_files_own_dataclass_has_options(asked, capsys, tmp_path):
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "losses.py").write_text(LOSSES)
    found = asked(str(tmp_path / "mine.py"), "--task.sharpness", "3", "--optim.learning-rate", "1")["experiment"]
    assert (found.task.sharpness, type(found.task).__name__, found.optim.learning_rate) == (3.0, "Focal", 1.0)
    with pytest.raises(SystemExit):
        cli._main(["train", str(tmp_path / "mine.py"), "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "--task.sharpness VALUE How much more hard ones count. (a finite number above 0; default: 2.0)" in out


MINE = """
from dataclasses import dataclass

import numpy as np
from flax import linen as nn
from jaxcnn import Classification

class tiny(nn.Module):
    width: int = 2

    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Conv(self.width, (3, 3))(x)).mean((1, 2)))

def one(x):
    return x

def noisy(key, batch, fields):
    raise ValueError("too loud\\nor not")

def look(step, metrics, state):
    return {"loss": metrics["val/loss"]}

@dataclass(frozen=True)
class Crop:
    def box(self, generator, height, width, size):
        return 1 / 0

class Harsh(Classification):
    def metrics(self, sums):
        raise RuntimeError("cannot say")

def source():
    return {"train": 3}
"""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model.name net.py:tiny", "unknown file 'net.py': did you mean 'nets.py'? (looked in {here}"),
        ("--model.name angle.py:tiny", "unknown file 'angle.py': did you mean 'nets.py'? (looked in {here}"),
        ("--model.name sub/nets.py:tiny", "unknown file 'sub/nets.py': did you mean 'nets.py'? (looked in {here}"),
        ("--model.name nets.py:tinny", "unknown name in nets.py 'tinny': did you mean 'tiny'?"),
        ("--model.name nets.py", "model.name is 'nets.py': expected nets.py:NAME, a network that it holds"),
        ("--model.name nets.py:np", "the module numpy is no model: expected a flax.linen.Module, its class"),
        ("--model.name nets.py:one", "one needs 'x': expected it among the model's options"),
        ("--model.name broken.py:tiny", "{here}/broken.py, line 2, cannot be run: ModuleNotFoundError: No module nam"),
        ("--model.name syntax.py:tiny", "{here}/syntax.py, line 1, cannot be run: SyntaxError: invalid syntax"),
        ("--model.name nets.py:tiny --model.options widht 3", "unknown option of tiny 'widht': did you mean 'width'?"),
        (
            "--model.name nets.py:tiny --model.options width x",
            "tiny cannot be called on float32[1, 28, 28, 1]: TypeError: Shapes must be 1D sequences of concrete values "
            "of integer type, got (3, 3, 1, 'x'). (nets.py, line 13)",
        ),
        ("--task nets.py:tiny", "task is a tiny: expected a jaxcnn.Task"),
        ("--data.augment nets.py:one", "one cannot be called with (key, batch, fields): too many positional"),
        (
            "--data.image-size 28 --data.train-crop nets.py:one",
            "data.train_crop.box cannot be called with (generator, height, width, size): None is not a callable",
        ),
        ("--data.source nets.py:source", "split 'train' is int, which has no length: expected arrays by field"),
        ("--train.callbacks nets.py:one", "callback one cannot be called with (step, metrics, state): too many"),
    ],
)
def test_ones_own_parts_that_cannot_be(refused, monkeypatch, tmp_path, words, message):
    at_home(tmp_path, monkeypatch)
    assert refused("train", "digits.py", *words.split()).startswith(message.format(here=tmp_path))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--data.augment nets.py:noisy", "ValueError: too loud (nets.py, line 19)"),
        ("--train.callbacks nets.py:look", "KeyError: 'val/loss' (nets.py, line 22)"),
        ("--data.image-size 28 --data.train-crop nets.py:Crop", "ZeroDivisionError: division by zero (nets.py, line"),
        ("--task nets.py:Harsh", "RuntimeError: cannot say (nets.py, line 31)"),
    ],
)
def test_ones_own_parts_that_fail(refused, monkeypatch, tmp_path, words, message):
    """One line, too, with the line that it comes from."""
    at_home(tmp_path, monkeypatch)
    options = ["--train.steps", "1", "--train.epochs", "None", "--train.batch-size", "8", "--quiet"]
    assert refused("train", "digits.py", *options, *words.split(), code=1).startswith(message)


def at_home(folder, monkeypatch):
    """Work in a folder that holds nothing but a user's files."""
    monkeypatch.chdir(folder)
    Path("angles").mkdir()  # a package, which no file is called after
    files = {"nets.py": MINE, "broken.py": "\nimport nowhere", "syntax.py": "def f(:", "angles/__init__.py": ""}
    for name, text in files.items():
        Path(name).write_text(text)
    Path("digits.py").write_text((ROOT / DIGITS).read_text())


def test_a_list_of_choices_ends(refused):
    line = refused("summary", "xyzzyqq")
    assert line.startswith("unknown model 'xyzzyqq': valid choices are alexnet, alexnet_2012, convnext_base, ")
    assert line.endswith(f", ... ({len(jaxcnn.models.MODELS)} in all)") and line.count(",") == 24


LOSSES = """
from __future__ import annotations
from dataclasses import dataclass
from jaxcnn import Classification
from jaxcnn.typed import Positive

@dataclass(frozen=True, kw_only=True)
class Focal(Classification):
    sharpness: Positive = 1.0
    \"\"\"How much more hard ones count.\"\"\"
"""
OWN = """
from jaxcnn import DataConfig, Experiment, ModelConfig, SGD, TrainConfig
from losses import Focal

EXPERIMENT = Experiment(
    name="mine",
    model=ModelConfig(name="lenet5"),
    data=DataConfig(source="digits"),
    task=Focal(sharpness=2),
    optim=SGD(),
    train=TrainConfig(batch_size=8, steps=2),
)
"""


def test_model_options_are_added_to_the_files(asked):
    resnet50 = "experiments/resnet50_imagenet.py"
    assert asked(resnet50)["experiment"].model.options == {"zero_gamma": True}
    words = ["--model.options", "shortcut", "C", "--seed", "1", "--model.options", "zero_gamma", "False"]
    found = asked(resnet50, *words)["experiment"]
    assert found.model.options == {"zero_gamma": False, "shortcut": "C"} and found.seed == 1


def helped(capsys, *words):
    """What `--help` prints, and that as one line."""
    with pytest.raises(SystemExit) as stop:
        cli._main([*words, "--help"])
    out, err = capsys.readouterr()
    assert stop.value.code == 0 and err == ""
    return out, " ".join(out.split())


def test_help_explains_every_field_and_shows_the_files_values(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out, line = helped(capsys, "train", DIGITS)
    assert max(map(len, out.splitlines())) <= 80
    experiment = load_experiment(DIGITS)
    for tree in (experiment, cli.Train()):
        for name, hint in (
            leaves(tree) | {name: kind for name, kind in hints(type(tree)).items() if variants(kind)}
        ).items():
            if name.endswith(".kind") or (name == "code" and tree is experiment):
                continue
            owner = tree
            *rooms, last = name.split(".")
            for room in rooms:
                owner = getattr(owner, room)
            text = arguments.docs(type(owner))[last]
            flag = arguments.flag_of(name)
            more = " KEY" * takes(hint, dict), " ..." * (takes(hint, tuple) or takes(hint, dict))
            shown = f"{flag}, {arguments._negated(flag)}" if hint is bool else f"{flag}{more[0]} VALUE{more[1]}"
            assert len(text) > 10 and f"{shown} {text} (" in line
    for shown in ("default: lenet_digits)", "default: 40.0)", "default: 0.05)", "default: 28)", "default: digits)"):
        assert shown in line
    assert "(a finite number above 0; default: 0.05)" in line and "(one of sgd, momentum, adagrad, " in line
    _, line = helped(capsys, "train", DIGITS, "--optim", "adam", "--schedule", "step", "--seed", "3")
    assert "--optim.beta1 VALUE Part of the mean gradient" in line and "--optim.momentum" not in line
    assert "--schedule.boundaries VALUE ... Steps from which" in line and "default: 0.05)" in line


@pytest.mark.parametrize("kind", [*variants(AnyOptimizer).values(), *variants(AnySchedule).values(), Classification])
def test_each_field_has_a_docstring(kind):
    assert arguments.docs(kind).keys() >= hints(kind).keys() - {"kind"}


def test_help_without_a_file(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for words in (
        ["--help"],
        ["data", "--help"],
        ["predict", "--help"],
        ["train", "--help"],
        ["evaluate", "-h"],
        ["models", "--help"],
        ["summary", "--help"],
    ):
        try:
            code = cli._main(words)
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert not code and out.startswith("usage: jaxcnn") and not err
        assert max(map(len, out.splitlines())) <= 80
    assert cli._main([]) == 2
    assert cli._main(["--version"]) == 0
    assert capsys.readouterr().out.endswith("0.1.0\n")


def test_models(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # narrower than the table: no number may be cut
    assert cli._main(["models", "--family", "resnet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = "resnet50 resnet 2015 1512.03385 224x224x3 25,557,032 4,089.2 M 427"
    assert row in [" ".join(line.split()) for line in lines]
    assert all(line == line.rstrip() for line in lines)
    assert cli._main(["models", "--json", "--family", "lenet"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["lenet5", "lenet5_valid", "lenet5_1998"]
    assert (rows[0]["params"], rows[0]["receptive_field"]) == (61_706, 16)


def test_summary(capsys):
    assert cli._main(["summary", "lenet5", "--num-classes", "7", "--options", "pooling", "avg"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "lenet5, one image of 28x28x1"
    assert [line.split()[0] for line in lines[3:]] == ["conv1", "conv2", "fc1", "fc2", "head", "total"]
    assert lines[3].split() == ["conv1", "Conv", "28x28x6", "156", "0.1", "M", "5", "0.02", "MiB"]
    assert lines[-1].split() == ["total", "61,451", "0.4", "M", "0.02", "MiB"]
    assert cli._main(["summary", "resnet20", "--stages", "--input", "64"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:]] == ["stem", "stage1", "stage2", "stage3", "head", "total"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A finished run of two steps, and its data."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 32), ("test", 9)):
        arrays |= {f"{split}_images": rng.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)}
        arrays |= {f"{split}_labels": np.arange(count) % 3}
    np.savez(folder / "data.npz", **arrays)
    experiment = load_experiment(ROOT / DIGITS)
    config = jaxcnn.DataConfig(source="npz", path=folder / "data.npz")
    train = jaxcnn.TrainConfig(batch_size=8, steps=2)
    experiment = jaxcnn.Experiment(
        name="tiny", model=experiment.model, data=config, optim=experiment.optim, train=train, seed=0
    )
    return runs.run(experiment, folder / "runs", progress=False)


def test_evaluate_and_resume(tiny, refused, capsys, tmp_path):
    folder = str(tiny.path)
    assert cli._main(["evaluate", folder]) == 0
    assert f"test accuracy  {100 * tiny.result['metrics']['test/accuracy']:.2f} %" in capsys.readouterr().out
    assert cli._main(["evaluate", "--split", "train", folder, "--checkpoint=best"]) == 0
    assert "train accuracy" in capsys.readouterr().out
    assert refused("evaluate", folder, "--split", "val") == "unknown split 'val': valid choices are test, train"
    assert refused("evaluate", str(tiny.path.parent)).startswith("unknown run folder")
    assert f"did you mean '{folder}'" in refused("evaluate", str(tiny.path.parent))
    # Settings that do not matter may differ, and a finished run is shown again.
    assert cli._main(["train", "--resume", folder, "--checkpoint.keep", "5", "--data.path", "/elsewhere"]) == 0
    assert tiny.result["params_sha256"][:16] in capsys.readouterr().out
    assert refused("train", "--resume", folder, "--seed", "3") == f"cannot resume {folder}: seed is 3, the run has 0"
    assert "cannot resume" in refused("train", DIGITS, "--resume", folder)


def test_a_run_finds_parts_where_it_is_told_and_nowhere_else(tiny, refused, monkeypatch, tmp_path, capsys):
    folder, values = tmp_path / "some/body", to_json(tiny.experiment)
    shutil.copytree(tiny.path, folder)
    (tmp_path / "site").mkdir()
    (tmp_path / "site/bulky.py").write_text("import optax\nrule = optax.sgd")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.chdir(tmp_path)
    optim = {"kind": "bulky:rule", "learning_rate": 0.1}
    (folder / "result.json").unlink()  # a finished run is only read back
    (folder / "experiment.json").write_text(json.dumps(values | {"optim": optim}))
    for command in (["train", "--resume", "some/body"], ["train", "--resume", "some/body", "--seed", "0"]):
        assert refused(*command).startswith("there is no module bulky (looked in ")
    assert "bulky" not in sys.modules
    # It is told where the run had it.
    program = json.loads((folder / "program.json").read_text())
    program["files"] = {"bulky.py": {"path": "/elsewhere/bulky.py", "sha256": "0"}}
    (folder / "program.json").write_text(json.dumps(program))
    line = refused("train", "--resume", "some/body")
    assert "; --code FOLDER or PACKAGE names another" in line and line.endswith(
        "; the run had it as /elsewhere/bulky.py)"
    )
    assert refused("train", "--resume", "some/body", "--code", "sit").startswith("--code sit is neither a folder nor")
    shutil.copy(tiny.path / "result.json", folder)
    words = ["train", "--resume", "some/body", "--code", "site"]
    assert cli._main(words) == 0 and tiny.result["params_sha256"][:16] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": {"batchsize": 8}}, "unknown field 'train.batchsize': did you mean 'train.batch_size'?"),
        ({"train": {"batch_size": "8"}}, "train.batch_size is '8': expected a whole number"),
        ({"train": 3}, "train is 3: expected the fields of TrainConfig"),
        ({"sede": 3}, "unknown field 'sede': did you mean 'seed'?"),
        (None, "is not valid JSON"),
    ],
)
def test_a_run_edited_by_hand(tiny, refused, tmp_path, change, message):
    path = tmp_path / "edited/experiment.json"
    path.parent.mkdir()
    values = to_json(tiny.experiment)
    path.write_text("{" if change is None else json.dumps(values | change))
    line = refused("evaluate", str(path.parent))
    assert line.startswith(str(path)) and message in line


def run_cli(*words, **environment):
    env = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "XLA_"))} | environment
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, env=env, cwd=ROOT, timeout=120)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, "batch size 64 does not divide over 3 devices"),
        ({"JAX_PLATFORMS": "nonsense"}, "JAX finds no device (Unable to initialize backend 'nonsense'"),
        ({"JAX_COORDINATOR_ADDRESS": "localhost:1"}, "--distributed: JAX_NUM_PROCESSES is '': expected a whole number"),
        ({"JAX_NUM_PROCESSES": "2"}, "--distributed: JAX_COORDINATOR_ADDRESS is not set: expected HOST:PORT"),
        ({}, "--distributed found no cluster: set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID ("),
    ],
)
def test_machines_that_do_not_fit(tmp_path, environment, message):
    words = [] if environment.keys() & {"XLA_FLAGS", "JAX_PLATFORMS"} else ["--distributed"]
    done = run_cli("train", DIGITS, "--runs-dir", str(tmp_path / "runs"), *words, **environment)
    assert done.returncode == 2 and done.stderr.startswith(f"jaxcnn: error: {message}"), done.stderr
    assert done.stderr.count("\n") == 1 and done.stdout == ""


@pytest.mark.e2e
def test_nothing_is_imported_needlessly():
    code = """
import contextlib, io, sys
from jaxcnn import cli
heavy = {"pandas", "tensorflow_datasets", "sklearn", "matplotlib", "orbax", "grain", "tensorboardX", "PIL", "scipy"}
for line in ("--help", "data --help", "models --family lenet", "summary lenet5", "train %s --data.image-size 0"):
    words = line.split()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        cli._main(words)
    if "--help" in words:
        assert "jax" not in sys.modules and "numpy" not in sys.modules
    assert not heavy & set(sys.modules), (words, heavy & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code % DIGITS], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_names_that_a_terminal_cannot_show_are_printed(monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "argv", ["jaxcnn", "--version"])
    monkeypatch.setattr(cli, "exit_on_second_interrupt", lambda said: None)
    with pytest.raises(SystemExit):
        cli.main()
    print("b\udcffth \u732b")
    out.flush()
    assert out.buffer.getvalue().endswith(b"b\\udcffth \\u732b\n")


def test_the_allocator_is_set_once_before_jax_starts_its_threads(monkeypatch):
    done = []
    monkeypatch.setattr(backend, "keep_freed_memory", lambda: done.append("allocator"))
    monkeypatch.setattr(jax, "devices", lambda: done.append("devices"))
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    monkeypatch.setattr(warnings, "filterwarnings", lambda *_: None)
    process.prepare_process(distributed=False)
    assert done == ["allocator", "devices"]


@pytest.mark.parametrize(
    "words",
    [["train", DIGITS], ["evaluate", "runs/none"], ["export", "runs/none"], ["predict", "--weights", "none", "none"]],
)
def test_commands_that_compute_prepare_the_process(monkeypatch, words):
    class Prepared(Exception):
        pass

    def prepare(*, distributed):
        raise Prepared

    monkeypatch.setattr(cli, "prepare_process", prepare)
    with pytest.raises(Prepared):
        cli._main(words)
