"""The command line: parse, call, print; nothing else.

Exit codes: 0 done, 1 the run failed, 2 a mistake in what was asked for, 130 Ctrl-C, 143 SIGTERM.
"""

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxcnn import cli_data
from jaxcnn.arguments import value_of
from jaxcnn.commands import Command, OfExperiment, call
from jaxcnn.errors import RunError, UsageError
from jaxcnn.parts import is_of_part, told
from jaxcnn.process import prepare_process
from jaxcnn.stop import StopFlag, Stopped, exit_on_second_interrupt
from jaxcnn.typed import Count, Option

if TYPE_CHECKING:
    from jaxcnn.experiment import Experiment


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # a process of its own
        sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # it was closed
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a name may be no UTF-8
        exit_on_second_interrupt("jaxcnn: interrupted" + "; the last checkpoint is good" * (words[:1] == ["train"]))
    sys.exit(_main(words))


def _main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["--version"]:
            print(metadata.version("jaxcnn"))
            return 0
        # From the start, so that a signal while JAX is imported is one to stop at, too.
        with StopFlag() if arguments[:1] in (["train"], ["evaluate"], ["data"]) else contextlib.nullcontext():
            code = call("jaxcnn", COMMANDS, arguments)
        sys.stdout.flush()
        return code
    except UsageError as error:
        return _say(f"error: {error}", 2)
    except RunError as error:
        return _say(f"error: {error}", 1)
    except Stopped as stopped:
        return _say(str(stopped), stopped.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:  # `jaxcnn models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except MemoryError:
        return _say(f"error: out of memory: {_SMALLER}", 1)
    except Exception as error:
        # JAX's own type for it can only be named by importing JAX.
        if isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
            return _say(f"error: out of device memory: {_SMALLER}", 1)
        if is_of_part(error):
            return _say(f"error: {told(error)}", 1)
        if isinstance(error, OSError):
            return _say(f"error: {error.strerror or error}: {error.filename or 'while writing'}", 1)
        raise


_SMALLER = "a smaller train.batch_size or data.image_size, or more train.accumulation_steps, needs less"


def _say(text: str, code: int) -> int:
    print("jaxcnn: " + " ".join(line.strip() for line in text.splitlines()), file=sys.stderr)
    return code


@dataclass(frozen=True, kw_only=True)
class Train(OfExperiment):
    """Train an experiment, or go on with one that was interrupted."""

    resume: Path | None = None
    """Go on with the run in this folder; FILE may then be left out, and nothing that matters may differ."""
    runs_dir: Path = Path("runs")
    """Where run folders are made: RUNS_DIR/<name>/<hash of the experiment>."""
    distributed: bool = False
    """One process of several: the cluster is found by JAX (Slurm, TPU pods, Kubernetes), or described by
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. RUNS_DIR must be shared."""
    quiet: bool = False
    """Show no progress."""
    code: tuple[str, ...] = ()
    """With --resume: folders and packages that the run's own parts (nets.py:tiny) may be imported from, too."""
    accept_program: bool = False
    """With --resume: go on even where code has changed what the run computes."""

    @classmethod
    def without_file(cls, words: Sequence[str]) -> "Experiment | None":
        """Return that of the run to go on with."""
        from jaxcnn import runs

        folder = value_of("--resume", words)
        return None if folder is None else runs.load_run(folder).experiment

    def __call__(self, experiment: "Experiment", command: Sequence[str]) -> None:
        prepare_process(distributed=self.distributed)
        import jax

        from jaxcnn import runs
        from jaxcnn.report.terminal import check_seeds, result_table, seeds_table

        shared: dict[str, Any] = {"progress": not self.quiet, "command": shlex.join(command)}
        if self.resume is not None:
            own: dict[str, Any] = {"code": self.code, "accept_program": self.accept_program}
            run = runs.resume(self.resume, experiment, **shared, **own)
        elif experiment.train.seeds > 1:
            found = runs.run_seeds(experiment, self.runs_dir, **shared)
            print(seeds_table(found))
            return check_seeds(found)
        else:
            run = runs.run(experiment, self.runs_dir, **shared)
        if jax.process_index() == 0:
            print(result_table(run))


@dataclass(frozen=True, kw_only=True)
class _OfRun(Command):
    positional = "run"
    run: Path
    """The run folder."""
    checkpoint: Literal["last", "best"] = "last"
    """The newest, or the best on the validation split."""
    code: tuple[str, ...] = ()
    """Folders and packages beside the working folder that the run's own parts (nets.py:tiny) may be imported from."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(_OfRun):
    """Score a run's checkpoint."""

    split: Literal["test", "val", "train"] = "test"
    """Which examples; training images are not augmented."""
    views: Literal["center", "ten_crop", "multi_scale"] = "center"
    """What of each image is scored: what the run itself does; four corners, the centre and their mirror images; or
    the whole image, and its mirror image, at several scales. Probabilities are averaged."""
    scales: tuple[int, ...] = ()
    """Short sides in pixels for multi_scale, such as 224 256 384."""
    resize_to: Count | None = None
    """Length that the short side is scaled to before crops of data.image_size; None: the run's own."""
    data_path: Path | None = None
    """Where the run's data are now; None: where they were."""

    def __call__(self) -> None:
        prepare_process(distributed=False)
        from jaxcnn import runs
        from jaxcnn.report.terminal import metrics_table

        options = {name: value for name, value in vars(self).items() if name != "run"}
        print(metrics_table(runs.evaluate(self.run, **options)))


@dataclass(frozen=True, kw_only=True)
class Export(_OfRun):
    """Write a run's network for other programs: weights, and a StableHLO module."""

    output: Path | None = None
    """Folder for the files; None: RUN/export."""

    def __call__(self) -> None:
        prepare_process(distributed=False)
        from jaxcnn.report.terminal import files_table
        from jaxcnn.runs.export import export

        output = self.output or self.run / "export"
        print(files_table(export(self.run, output, checkpoint=self.checkpoint, code=self.code)))


@dataclass(frozen=True, kw_only=True)
class Models(Command):
    """List the models with their parameters, multiply-adds and receptive fields."""

    family: str | None = None
    """The models of one family only, such as resnet; None: all."""
    json: bool = False
    """Print a JSON list in place of a table."""

    def __call__(self) -> None:
        from jaxcnn.models.summary import model_rows
        from jaxcnn.report.terminal import models_table

        found = model_rows(self.family)
        print(json.dumps([asdict(row) for row in found], indent=1) if self.json else models_table(found))


@dataclass(frozen=True, kw_only=True)
class Summary(Command):
    """Print a model layer by layer: output, parameters, multiply-adds, receptive field, activation memory.

    Numbers are for one image; "activations" is the memory of each layer's output, "sees" the receptive field in pixels.
    A model made with auxiliary heads (--options aux_heads True) counts with them, as it is trained.
    """

    positional = "name"
    name: str
    """A name that `jaxcnn models` lists, or your own, nets.py:tiny."""
    input: tuple[Count, ...] = ()
    """Side of the square input in pixels, or its height, width and channels; left out: as it was published."""
    num_classes: Count | None = None
    """Outputs; None: as published."""
    stages: bool = False
    """One row for each stage in place of each layer."""
    options: dict[str, Option] = field(default_factory=dict)
    """The model's own options, as pairs KEY VALUE, such as shortcut A."""

    def __call__(self) -> None:
        from jaxcnn.models import MODELS, summary
        from jaxcnn.models.config import ModelConfig
        from jaxcnn.parts import Finder
        from jaxcnn.report.terminal import by, summary_table
        from jaxcnn.runs.build import find_model

        published = MODELS[self.name].input_shape if self.name in MODELS else (224, 224, 3)
        config = ModelConfig(name=self.name, num_classes=self.num_classes, options=self.options)
        model = find_model(config, Finder(), None)
        if len(self.input) not in (0, 1, 3):
            given = " ".join(map(str, self.input))
            raise UsageError(f"--input is {given}: expected a side, or height, width, channels")
        shape = (self.input * 2 + published[2:] if len(self.input) == 1 else self.input) or published
        found = (summary.stage_rows if self.stages else summary.summarize)(model, shape)

        print(f"{self.name}, one image of {by(shape)}")
        print(summary_table(found, "stage" if self.stages else "layer"))


@dataclass(frozen=True, kw_only=True)
class Predict(Command):
    """Print the most probable classes of images, by weights of another library or of our own."""

    positional = "images"
    images: tuple[Path, ...]
    """Image files."""
    weights: Path
    """A .safetensors, .pth or .h5 file."""
    model: str = "jaxcnn"
    """What the weights are of, such as torchvision/resnet50 or timm/vgg16; jaxcnn: the file, one of
    jaxcnn.weights.save, says it."""
    top: Count = 5
    """How many classes."""
    json: bool = False
    """Print a JSON list in place of a table."""

    def __call__(self) -> None:
        prepare_process(distributed=False)
        from jaxcnn.report.terminal import guesses_table
        from jaxcnn.weights import load
        from jaxcnn.weights.predict import predict

        model, variables = load(self.model, self.weights)
        found = predict(model, variables, self.images, self.top)
        rows = [{"image": str(i), "top": [asdict(g) for g in f]} for i, f in zip(self.images, found, strict=True)]
        print(json.dumps(rows, indent=1) if self.json else guesses_table(self.images, found))


_ALL = (Train, Evaluate, Export, Models, Summary, Predict, cli_data.Data)
COMMANDS = {command.__name__.lower(): command for command in _ALL}
