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
from typing import Any, Literal

from jaxcnn.arguments import parse, value_of
from jaxcnn.commands import Commands, call, parse_experiment
from jaxcnn.errors import RunError, UsageError
from jaxcnn.process import prepare_process
from jaxcnn.stop import StopFlag, Stopped, exit_on_second_interrupt
from jaxcnn.typed import Count, Option


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # a process of its own
        exit_on_second_interrupt("jaxcnn: interrupted" + "; the last checkpoint is good" * (words[:1] == ["train"]))
    sys.exit(_main(words))


def _main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["--version"]:
            print(metadata.version("jaxcnn"))
            return 0
        # From the start, so that a signal while JAX is imported is one to stop at, too.
        with StopFlag() if arguments[:1] in (["train"], ["evaluate"], ["data"]) else contextlib.nullcontext():
            code = call("", COMMANDS, arguments)
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
    except OSError as error:
        return _say(f"error: {error.strerror or error}: {error.filename or 'while writing'}", 1)
    except RuntimeError as error:
        # JAX's own type for it can only be named by importing JAX.
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return _say(f"error: out of device memory: {_SMALLER}", 1)


_SMALLER = "a smaller train.batch_size or data.image_size, or more train.accumulation_steps, needs less"


def _say(text: str, code: int) -> int:
    print("jaxcnn: " + " ".join(text.split("\n")), file=sys.stderr)
    return code


@dataclass(frozen=True, kw_only=True)
class _RunOptions:
    resume: Path | None = None
    """Go on with the run in this folder; FILE may then be left out, and nothing that matters may differ."""
    runs_dir: Path = Path("runs")
    """Where run folders are made: RUNS_DIR/<name>/<hash of the experiment>."""
    distributed: bool = False
    """One process of several: the cluster is found by JAX (Slurm, TPU pods, Kubernetes), or described by
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. RUNS_DIR must be shared."""
    quiet: bool = False
    """Show no progress."""
    code: tuple[Path, ...] = ()
    """With --resume: folders that the run's own parts (nets.py:tiny) may be imported from, beside the working
    folder."""
    accept_program: bool = False
    """With --resume: go on even where code has changed what the run computes."""


def _train(arguments: list[str]) -> None:
    """Train an experiment, or go on with one that was interrupted."""
    from jaxcnn import runs

    folder = value_of("--resume", arguments)
    resumed = lambda: None if folder is None else runs.load_run(folder).experiment  # noqa: E731
    options, experiment = parse_experiment(_RunOptions(), "jaxcnn train", _train.__doc__, arguments, resumed)
    prepare_process(distributed=options.distributed)
    shared: dict[str, Any] = {"progress": not options.quiet, "command": shlex.join(["jaxcnn", "train", *arguments])}
    from jaxcnn.report.terminal import check_seeds, result_table, seeds_table

    if options.resume is None and experiment.train.seeds > 1:
        found = runs.run_seeds(experiment, options.runs_dir, **shared)
        print(seeds_table(found))
        check_seeds(found)
        return
    if options.resume is None:
        run = runs.run(experiment, options.runs_dir, **shared)
    else:
        own = {"code": options.code, "accept_program": options.accept_program}
        run = runs.resume(options.resume, experiment, **shared, **own)
    import jax

    if jax.process_index() == 0:
        print(result_table(run))


def _evaluate(arguments: list[str]) -> None:
    """Score a run's checkpoint."""
    from jaxcnn import runs
    from jaxcnn.report.terminal import metrics_table

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        run: Path
        """The run folder."""
        split: Literal["test", "val", "train"] = "test"
        """Which examples; training images are not augmented."""
        checkpoint: Literal["last", "best"] = "last"
        """The newest, or the best on the validation split."""
        views: Literal["center", "ten_crop", "multi_scale"] = "center"
        """What of each image is scored: what the run itself does; four corners, the centre and their mirror images; or
        the whole image, and its mirror image, at several scales. Probabilities are averaged."""
        scales: tuple[int, ...] = ()
        """Short sides in pixels for multi_scale, such as 224 256 384."""
        resize_to: Count | None = None
        """Length that the short side is scaled to before crops of data.image_size; None: the run's own."""
        code: tuple[Path, ...] = ()
        """Folders that the run's own parts (nets.py:tiny) may be imported from, beside the working folder."""

    (parsed,) = parse((Arguments,), "jaxcnn evaluate", _evaluate.__doc__ or "", arguments, "run")
    prepare_process(distributed=False)
    options = {name: value for name, value in vars(parsed).items() if name != "run"}
    print(metrics_table(runs.evaluate(parsed.run, **options)))


def _export(arguments: list[str]) -> None:
    """Write a run's network for other programs: weights, and a StableHLO module."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        run: Path
        """The run folder."""
        output: Path | None = None
        """Folder for the files; None: RUN/export."""
        checkpoint: Literal["last", "best"] = "last"
        """The newest, or the best on the validation split."""
        code: tuple[Path, ...] = ()
        """Folders that the run's own parts (nets.py:tiny) may be imported from, beside the working folder."""

    (parsed,) = parse((Arguments,), "jaxcnn export", _export.__doc__ or "", arguments, "run")
    prepare_process(distributed=False)
    from jaxcnn.report.terminal import table
    from jaxcnn.runs.export import export

    output = parsed.output or parsed.run / "export"
    paths = export(parsed.run, output, checkpoint=parsed.checkpoint, code=parsed.code)
    print(table(["file", "MiB"], [(str(path), f"{path.stat().st_size / 2**20:,.2f}") for path in paths], right=(1,)))


def _models(arguments: list[str]) -> None:
    """List the models with their parameters, multiply-adds and receptive fields."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        family: str | None = None
        """The models of one family only, such as resnet; None: all."""
        json: bool = False
        """Print a JSON list in place of a table."""

    (parsed,) = parse((Arguments,), "jaxcnn models", _models.__doc__ or "", arguments)
    from jaxcnn.models.summary import model_rows
    from jaxcnn.report.terminal import models_table

    found = model_rows(parsed.family)
    if parsed.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
        return
    print(models_table(found))


_SUMMARY_HELP = """Numbers are for one image; "activations" is the memory of each layer's output, "sees" the receptive
field in pixels. A model made with auxiliary heads (--options aux_heads True) counts with them, as it is trained."""


def _summary(arguments: list[str]) -> None:
    """Print a model layer by layer: output, parameters, multiply-adds, receptive field, activation memory."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
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

    (parsed,) = parse((Arguments,), "jaxcnn summary", f"{_summary.__doc__}\n\n{_SUMMARY_HELP}", arguments, "name")
    from jaxcnn.models import MODELS, summary
    from jaxcnn.models.config import ModelConfig
    from jaxcnn.parts import Finder
    from jaxcnn.report.terminal import by, summary_table
    from jaxcnn.runs.build import find_model

    published = MODELS[parsed.name].input_shape if parsed.name in MODELS else (224, 224, 3)
    config = ModelConfig(name=parsed.name, num_classes=parsed.num_classes, options=parsed.options)
    model = find_model(config, None, Finder())
    if len(parsed.input) not in (0, 1, 3):
        raise UsageError(f"--input is {' '.join(map(str, parsed.input))}: expected a side, or height, width, channels")
    shape = (parsed.input * 2 + published[2:] if len(parsed.input) == 1 else parsed.input) or published
    found = (summary.stage_rows if parsed.stages else summary.summarize)(model, shape)

    print(f"{parsed.name}, one image of {by(shape)}")
    print(summary_table(found, "stage" if parsed.stages else "layer"))


def _predict(arguments: list[str]) -> None:
    """Print the most probable classes of images, by weights of another library or of our own."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        images: tuple[Path, ...] = ()
        """Image files."""
        weights: Path | None = None
        """A .safetensors, .pth or .h5 file."""
        model: str = "jaxcnn"
        """What the weights are of, such as torchvision/resnet50 or timm/vgg16; jaxcnn: the file, one of
        jaxcnn.weights.save, says it."""
        top: Count = 5
        """How many classes."""
        json: bool = False
        """Print a JSON list in place of a table."""

    (parsed,) = parse((Arguments,), "jaxcnn predict", _predict.__doc__ or "", arguments, "images")
    if parsed.weights is None:
        raise UsageError("which weights? expected --weights FILE, see jaxcnn predict --help")
    if not parsed.images:
        raise UsageError("which images? expected jaxcnn predict --weights FILE IMAGE ...")
    prepare_process(distributed=False)
    from jaxcnn.report.terminal import guesses_table
    from jaxcnn.weights import load
    from jaxcnn.weights.predict import predict

    model, variables = load(parsed.model, parsed.weights)
    found = predict(model, variables, parsed.images, parsed.top)
    if parsed.json:
        guesses = [{"image": str(i), "top": [asdict(g) for g in f]} for i, f in zip(parsed.images, found, strict=True)]
        print(json.dumps(guesses, indent=1))
        return
    print(guesses_table(parsed.images, found))


def _data(arguments: list[str]) -> int:
    """Look into data sets, see what augmentation does, write copies that are read faster."""
    from jaxcnn.cli_data import COMMANDS as COMMANDS_OF_DATA

    return call("data ", COMMANDS_OF_DATA, arguments)


COMMANDS: Commands = {
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
    "models": _models,
    "summary": _summary,
    "predict": _predict,
    "data": _data,
}
