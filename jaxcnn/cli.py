"""The command line: parse, call, print; nothing else.

Exit codes: 0 done, 1 the run failed, 2 a mistake in what was asked for, 130 Ctrl-C, 143 SIGTERM.
"""

import contextlib
import json
import os
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jaxcnn.arguments import parse, take_file, value_of
from jaxcnn.errors import RunError, UsageError, unknown
from jaxcnn.stop import StopFlag, Stopped, exit_on_second_interrupt
from jaxcnn.typed import Count, Option

if TYPE_CHECKING:
    from jaxcnn.experiment import Experiment


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None:  # a process of its own
        exit_on_second_interrupt("jaxcnn: interrupted" + "; the last checkpoint is good" * (words[:1] == ["train"]))
    sys.exit(_main(words))


def _main(arguments: list[str]) -> int:
    try:
        if arguments[:1] == ["--version"]:
            from jaxcnn import __version__

            print(__version__)
            return 0
        # From the start, so that a signal while JAX is imported is one to stop at, too.
        with StopFlag() if arguments[:1] in (["train"], ["evaluate"], ["data"]) else contextlib.nullcontext():
            code = _call("", COMMANDS, arguments)
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


Commands = Mapping[str, Callable[[list[str]], int | None]]
"""By name; they return their exit code, None for 0."""


def _call(group: str, commands: Commands, arguments: list[str]) -> int:
    """Call the command that the first word names, and return its exit code.

    Args:
        group: what comes before it, such as "data "; "": nothing.
        commands: to choose from.
        arguments: the words.

    Raises:
        UsageError: there is no such command.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: jaxcnn {group}COMMAND ...\n")
        for name, command in commands.items():
            print(f"  {name:10}{(command.__doc__ or '').splitlines()[0]}")
        version = "" if group else "; `--version` tells the version"
        print(f"\n`jaxcnn {group}COMMAND --help` explains each{version}.")
        return 0 if arguments else 2
    if arguments[0] not in commands:
        raise unknown(f"{group}command", arguments[0], commands)
    return commands[arguments[0]](arguments[1:]) or 0


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


EXPERIMENT_HELP = """FILE is a Python file that exports EXPERIMENT, as in experiments/.

Each option is a field of the experiment, or says how to run it. Defaults are FILE's."""


def _train(arguments: list[str]) -> None:
    """Train an experiment, or go on with one that was interrupted."""
    from jaxcnn import runs
    from jaxcnn.experiment import load_experiment

    command = shlex.join(["jaxcnn", "train", *arguments])
    file, arguments = take_file(arguments)
    folder = value_of("--resume", arguments)
    if file:
        default = load_experiment(file)
    elif folder is not None:
        default = runs.load_run(folder).experiment
    elif {"-h", "--help"} & set(arguments):
        default = example()
    else:
        raise UsageError("which experiment? expected jaxcnn train experiments/NAME.py, or --resume RUN")
    description = f"{_train.__doc__}\n\n{EXPERIMENT_HELP}"
    options, experiment = parse_experiment(_RunOptions(), default, "jaxcnn train", description, arguments)
    _prepare_process(distributed=options.distributed)
    shared: dict[str, Any] = {"progress": not options.quiet, "command": command}
    if options.resume is not None:
        own = {"code": options.code, "accept_program": options.accept_program}
        run = runs.resume(options.resume, experiment, **shared, **own)
    elif experiment.train.seeds > 1:
        _show_seeds(runs.run_seeds(experiment, options.runs_dir, **shared))
        return
    else:
        run = runs.run(experiment, options.runs_dir, **shared)
    _show_result(run)


def parse_experiment(
    chosen: Any, default: "Experiment", command: str, description: str, arguments: list[str]
) -> "tuple[Any, Experiment]":
    """Return the options, which say what to do with it, and the experiment, from the words of a command.

    Args:
        chosen: the dataclass of options, with the defaults.
        default: the file's experiment.
        command: as it is called.
        description: what `--help` says first.
        arguments: the words, without the file.

    Raises:
        UsageError: as arguments.parse.
    """
    steps = value_of("--train.steps", arguments)
    if value_of("--train.epochs", arguments) not in (None, "None") and steps is None:
        default = default.override({"train.epochs": 1.0, "train.steps": None})  # the file's steps give way
    options, experiment = parse((chosen, default), command, description, arguments, "file")
    return options, replace(experiment, code=default.code)


def _evaluate(arguments: list[str]) -> None:
    """Score a run's checkpoint."""
    from jaxcnn import runs

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
    _prepare_process(distributed=False)
    from jaxcnn.report.tables import metric_name, metric_value

    options = {name: value for name, value in vars(parsed).items() if name != "run"}
    metrics = runs.evaluate(parsed.run, **options)
    print_table(["metric", "value"], [(metric_name(k), metric_value(k, v)) for k, v in metrics.items()])


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
    _prepare_process(distributed=False)
    from jaxcnn.runs.export import export

    output = parsed.output or parsed.run / "export"
    paths = export(parsed.run, output, checkpoint=parsed.checkpoint, code=parsed.code)
    print_table(["file", "MiB"], [(str(path), f"{path.stat().st_size / 2**20:,.2f}") for path in paths], right=(1,))


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

    found = model_rows(parsed.family)
    if parsed.json:
        print(json.dumps([asdict(row) for row in found], indent=1))
        return
    rows = [
        (
            row.name,
            row.family,
            str(row.year),
            row.paper,
            _by(row.input_shape),
            f"{row.params:,}",
            _mega(row.macs),
            _field(row.receptive_field),
        )
        for row in found
    ]
    header = ["name", "family", "year", "paper", "input", "parameters", "MACs", "sees"]
    print_table(header, rows, right=(5, 6, 7))


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
    from jaxcnn.runs.build import find_model

    published = MODELS[parsed.name].input_shape if parsed.name in MODELS else (224, 224, 3)
    config = ModelConfig(name=parsed.name, num_classes=parsed.num_classes, options=parsed.options)
    model = find_model(config, None, Finder())
    if len(parsed.input) not in (0, 1, 3):
        raise UsageError(f"--input is {' '.join(map(str, parsed.input))}: expected a side, or height, width, channels")
    shape = (parsed.input * 2 + published[2:] if len(parsed.input) == 1 else parsed.input) or published
    found = (summary.stage_rows if parsed.stages else summary.summarize)(model, shape)

    def numbers(params: int, macs: int, sees: str, memory: int) -> tuple[str, ...]:
        return f"{params:,}", _mega(macs), sees, f"{memory / 2**20:,.2f} MiB"

    rows = [
        (
            row.path,
            row.kind,
            _by(row.output_shape),
            *numbers(row.params, row.macs, _field(row.receptive_field), row.activation_bytes),
        )
        for row in found
    ]
    sums = [sum(column) for column in zip(*((r.params, r.macs, r.activation_bytes) for r in found), strict=True)]
    rows.append(("total", "", "", *numbers(sums[0], sums[1], "", sums[2])))
    header = ["stage" if parsed.stages else "layer", "kind", "output", "parameters", "MACs", "sees", "activations"]
    print(f"{parsed.name}, one image of {_by(shape)}")
    print_table(header, rows, right=(3, 4, 5, 6))


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _mega(macs: int) -> str:
    return f"{macs / 1e6:,.1f} M"


def _field(pixels: int | None) -> str:
    return "-" if pixels is None else f"{pixels:,}"


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
    _prepare_process(distributed=False)
    from jaxcnn.weights import load
    from jaxcnn.weights.predict import predict

    model, variables = load(parsed.model, parsed.weights)
    found = predict(model, variables, parsed.images, parsed.top)
    if parsed.json:
        guesses = [{"image": str(i), "top": [asdict(g) for g in f]} for i, f in zip(parsed.images, found, strict=True)]
        print(json.dumps(guesses, indent=1))
        return
    rows = [
        (str(image), f"{guess.probability:.4f}", str(guess.index), guess.name)
        for image, best in zip(parsed.images, found, strict=True)
        for guess in best
    ]
    print_table(["image", "probability", "index", "class"], rows, right=(1, 2))


def _data(arguments: list[str]) -> int:
    """Look into data sets, see what augmentation does, write copies that are read faster."""
    from jaxcnn.cli_data import COMMANDS as COMMANDS_OF_DATA

    return _call("data ", COMMANDS_OF_DATA, arguments)


COMMANDS: Commands = {
    "train": _train,
    "evaluate": _evaluate,
    "export": _export,
    "models": _models,
    "summary": _summary,
    "predict": _predict,
    "data": _data,
}


def _prepare_process(*, distributed: bool) -> None:
    """Set what belongs to a process and not to the library: the allocator, the compilation cache, the cluster."""
    import jax

    from jaxcnn import backend

    backend.keep_freed_memory()
    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxcnn" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.01)
        # A process killed, or a disk full, while it was written: what is there is not used, and that is all.
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    cluster = _cluster() if distributed else {}
    try:
        if distributed:
            jax.distributed.initialize(**cluster)
        jax.devices()
    except (ValueError, RuntimeError) as error:
        what = f"--distributed found no cluster: set {', '.join(_CLUSTER)}" if distributed else "JAX finds no device"
        raise UsageError(f"{what} ({str(error).splitlines()[0]})") from error


_CLUSTER = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def _cluster() -> dict[str, Any]:
    """Return how the environment describes the cluster; {}: JAX is to find it."""
    address, *counts = (os.environ.get(name, "") for name in _CLUSTER)
    if not address and not any(counts):
        return {}
    if not address:
        raise UsageError(f"--distributed: {_CLUSTER[0]} is not set: expected HOST:PORT of the first process")
    for name, value in zip(_CLUSTER[1:], counts, strict=True):
        if not value.isdecimal():
            raise UsageError(f"--distributed: {name} is {value!r}: expected a whole number")
    return {"coordinator_address": address, "num_processes": int(counts[0]), "process_id": int(counts[1])}


def example() -> "Experiment":
    """Return the experiment that `--help` shows where no file says what the defaults are."""
    from jaxcnn import DataConfig, Experiment, ModelConfig, Momentum, TrainConfig

    return Experiment(
        name="example",
        model=ModelConfig(name="lenet5"),
        data=DataConfig(source="digits"),
        optim=Momentum(),
        train=TrainConfig(batch_size=64, epochs=10),
    )


def _show_result(run: Any) -> None:
    import jax

    if jax.process_index() != 0:
        return
    from jaxcnn.report.tables import final_table

    rows = final_table(run.result, run.description.class_names)
    figures = sorted((run.path / "figures").glob("*.png"))
    rows += [("figure", str(path)) for path in figures] + [("run folder", str(run.path))]
    print_table([run.experiment.name, ""], rows)


def _show_seeds(found: Sequence[Any]) -> None:
    """Print what each seed's run came to, and their mean; raise RunError if some failed."""
    from jaxcnn.report.results import Measured
    from jaxcnn.report.tables import metric_name, metric_value

    metric, scores, rows, failed = "", [], [], []
    for run in found:
        result = run.result
        if result["status"] == "finished":
            metric = result["metric"]
            scores.append(result["metrics"][metric])
            rows.append((str(result["seed"]), metric_value(metric, scores[-1]), str(run.path)))
        else:
            rows.append((str(result["seed"]), result["status"], str(run.path)))
            failed.append(f"seed {result['seed']}: {result['error']}")
    if scores:
        rows.append(("mean", Measured.of(scores).text(metric), ""))
    print_table(["seed", metric_name(metric), "run folder"], rows)
    if failed:
        raise RunError(f"{len(failed)} of {len(found)} seeds failed: {'; '.join(failed)}")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Print columns as wide as they need, whatever the terminal: a number cut in two is worse than a long line."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, ["-" * width for width in widths], *rows):
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
