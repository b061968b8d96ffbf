"""The command line: parse, call, print; nothing else.

Exit codes: 0 done, 1 the run failed, 2 a mistake in what was asked for, 130 Ctrl-C, 143 SIGTERM.
"""

import ast
import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from jaxcnn.errors import RunError, UsageError, nearest, unknown
from jaxcnn.stop import Stopped

if TYPE_CHECKING:
    from jaxcnn.experiment import Experiment


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(_main(list(sys.argv[1:] if arguments is None else arguments)))


def _main(arguments: list[str]) -> int:
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(_usage())
            return 0 if arguments else 2
        if arguments[0] == "--version":
            from importlib import metadata

            print(metadata.version("jaxcnn"))
            return 0
        if arguments[0] not in COMMANDS:
            raise unknown("command", arguments[0], COMMANDS)
        COMMANDS[arguments[0]](arguments[1:])
        sys.stdout.flush()
        return 0
    except UsageError as error:
        return _say(f"error: {error}", 2)
    except RunError as error:
        return _say(f"error: {error}", 1)
    except Stopped as stopped:
        return _say(str(stopped), stopped.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted; the last checkpoint is good", 130)
    except BrokenPipeError:  # `jaxcnn models | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _say(f"error: {error.strerror or error}: {error.filename or 'while writing'}", 1)


def _say(text: str, code: int) -> int:
    print("jaxcnn: " + " ".join(text.split("\n")), file=sys.stderr)
    return code


def _usage() -> str:
    lines = [f"  {name:10}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxcnn COMMAND ...",
            "",
            *lines,
            "",
            "`jaxcnn COMMAND --help` explains each; `--version` tells the version.",
        ]
    )


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


def _train(arguments: list[str]) -> None:
    """Train an experiment, or go on with one that was interrupted."""
    from jaxcnn import runs
    from jaxcnn.experiment import flatten, load_experiment, to_dict

    command = " ".join(["jaxcnn", "train", *arguments])
    file = arguments.pop(0) if arguments and not arguments[0].startswith("-") else None
    folder = _value_of("--resume", arguments)
    if file is not None:
        default = load_experiment(file)
    elif folder is not None:
        default = runs.load_run(folder).experiment
    elif set(arguments) & {"-h", "--help"}:
        default = _example()
    else:
        raise UsageError("which experiment? expected jaxcnn train experiments/NAME.py, or --resume RUN")
    default, arguments = _take_model_options(default, arguments)

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        options: Annotated[_RunOptions, tyro.conf.arg(name="")] = _RunOptions()
        experiment: Annotated[type(default), tyro.conf.arg(name="")] = default  # type: ignore[valid-type]

    fields = [name for name, _ in flatten(to_dict(default))]
    _check_flags(arguments, [*fields, "resume", "runs_dir", "distributed", "quiet", "help"])
    parsed = _parse(Arguments, "train [FILE]", _train.__doc__ or "", arguments)
    options, experiment = parsed.options, parsed.experiment
    _prepare_process(distributed=options.distributed)
    if options.resume is not None:
        run = runs.resume(options.resume, experiment, progress=not options.quiet, command=command)
    else:
        run = runs.run(experiment, options.runs_dir, progress=not options.quiet, command=command)
    _show_result(run)


def _evaluate(arguments: list[str]) -> None:
    """Score a run's checkpoint."""
    from jaxcnn import runs

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        run: Annotated[Path, tyro.conf.Positional]
        """The run folder."""
        split: Literal["test", "val", "train"] = "test"
        """Which examples; training images are not augmented."""
        checkpoint: Literal["last", "best"] = "last"
        """The newest, or the best by validation accuracy."""

    _check_flags(arguments, ["split", "checkpoint", "help"])
    parsed = _parse(Arguments, "evaluate", _evaluate.__doc__ or "", arguments)
    _prepare_process(distributed=False)
    from jaxcnn.report.tables import metric_name, metric_value

    metrics = runs.evaluate(parsed.run, split=parsed.split, checkpoint=parsed.checkpoint)
    _print_table(["metric", "value"], [(metric_name(k), metric_value(k, v)) for k, v in metrics.items()])


def _models(arguments: list[str]) -> None:
    """List the models with their parameters and multiply-adds."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        pass

    _check_flags(arguments, ["help"])
    _parse(Arguments, "models", _models.__doc__ or "", arguments)
    from jaxcnn.models.summary import model_rows

    rows = [
        (
            r.name,
            str(r.year),
            r.paper,
            "x".join(map(str, r.input_shape)),
            f"{r.params:,}",
            f"{r.macs / 1e6:,.1f} M",
        )
        for r in model_rows()
    ]
    _print_table(["name", "year", "paper", "input", "parameters", "MACs"], rows, right=(4, 5))


def _summary(arguments: list[str]) -> None:
    """Print a model's stages: output, parameters, multiply-adds, receptive field."""

    @dataclass(frozen=True, kw_only=True)
    class Arguments:
        name: Annotated[str, tyro.conf.Positional]
        """A name that `jaxcnn models` lists."""
        input: int | None = None
        """Side of the square input in pixels; None: the size the model was published with."""
        num_classes: int | None = None
        """Logits; None: as published."""
        layers: bool = False
        """One row for each layer in place of each stage."""

    _check_flags(arguments, ["input", "num_classes", "layers", "help"])
    parsed = _parse(Arguments, "summary", _summary.__doc__ or "", arguments)
    from jaxcnn.models import MODELS, create, summary

    model = create(parsed.name) if parsed.num_classes is None else create(parsed.name, num_classes=parsed.num_classes)
    shape = MODELS[parsed.name].input_shape
    if parsed.input is not None:
        if parsed.input < 1:
            raise UsageError(f"--input is {parsed.input}: expected a size in pixels, such as {shape[0]}")
        shape = (parsed.input, parsed.input, shape[2])
    found = (summary.summarize if parsed.layers else summary.stage_rows)(model, shape)
    rows = [
        (
            row.path,
            row.kind,
            "x".join(map(str, row.output_shape)),
            f"{row.params:,}",
            f"{row.macs / 1e6:,.1f} M",
            "-" if row.receptive_field is None else str(row.receptive_field),
            f"{row.activation_bytes / 2**20:,.2f} MiB",
        )
        for row in found
    ]
    params, macs = sum(row.params for row in found), sum(row.macs for row in found)
    rows.append(("total", "", "", f"{params:,}", f"{macs / 1e6:,.1f} M", "", ""))
    header = ["stage", "kind", "output", "parameters", "MACs", "sees", "activations"]
    print(f"{parsed.name}, one image of {'x'.join(map(str, shape))}, float32")
    _print_table(header, rows, right=(3, 4, 5, 6))


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "models": _models,
    "summary": _summary,
}


def _prepare_process(*, distributed: bool) -> None:
    """Set what belongs to a process and not to the library: the compilation cache, the cluster."""
    import jax

    if jax.config.jax_compilation_cache_dir is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jaxcnn" / "xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if distributed:
        address = os.environ.get("JAX_COORDINATOR_ADDRESS")
        try:
            if address is None:
                jax.distributed.initialize()
            else:
                count, number = (int(os.environ[name]) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
                jax.distributed.initialize(address, num_processes=count, process_id=number)
        except (KeyError, ValueError, RuntimeError) as error:
            raise UsageError(
                f"--distributed found no cluster ({error}): set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and "
                "JAX_PROCESS_ID"
            ) from error


def _parse(kind: Any, name: str, description: str, arguments: list[str]) -> Any:
    """Parse with tyro; its errors, which are boxes of several lines, come back as one line."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(kind, prog=f"jaxcnn {name}", description=description, args=arguments)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(_one_line(said.getvalue())) from None


def _one_line(box: str) -> str:
    lines = [line.strip("│╭╰╮╯─ \t") for line in box.splitlines()]
    parts: list[str] = []
    for line in lines[1:]:
        if not line:
            break
        parts.append(line)
    text = " ".join(parts) or " ".join(line for line in lines if line)
    if found := re.search(r"invalid choice '([^']*)' for argument '([^']*)'. Expected one of \((.*)\)", text):
        value, argument, choices = found.groups()
        return str(unknown(f"value of {argument}:", value, re.findall(r"'([^']*)'", choices)))
    return text


def _check_flags(arguments: Sequence[str], fields: Sequence[str]) -> None:
    """Raise for a flag that no field has, with the nearest that exists."""
    known = {"--" + field.replace("_", "-") for field in fields}
    known |= {_negated(flag) for flag in known}
    for argument in arguments:
        flag = argument.split("=")[0].replace("_", "-")
        if argument.startswith("--") and flag not in known:
            guess = nearest(flag, known)
            hint = f"did you mean {guess}?" if guess else "see --help for all"
            raise UsageError(f"unknown option {argument.split('=')[0]}: {hint}")


def _negated(flag: str) -> str:
    head, dot, last = flag[2:].rpartition(".")
    return f"--{head}{dot}no-{last}"


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    for number, argument in enumerate(arguments):
        if argument == flag and number + 1 < len(arguments):
            return arguments[number + 1]
        if argument.startswith(flag + "="):
            return argument.split("=", 1)[1]
    return None


def _take_model_options(default: "Experiment", arguments: list[str]) -> tuple["Experiment", list[str]]:
    """Merge `--model.options KEY VALUE ...` into the experiment's, which tyro would refuse to extend."""
    if "--model.options" not in arguments:
        return default, arguments
    start = arguments.index("--model.options")
    end = next((n for n in range(start + 1, len(arguments)) if arguments[n].startswith("--")), len(arguments))
    words = arguments[start + 1 : end]
    if not words or len(words) % 2:
        raise UsageError(f"--model.options takes pairs KEY VALUE: found {' '.join(words) or 'nothing'}")
    given = dict(zip(words[::2], map(_literal, words[1::2]), strict=True))
    model = replace(default.model, options=default.model.options | given)
    return replace(default, model=model), arguments[:start] + arguments[end:]


def _literal(word: str) -> Any:
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word


def _example() -> "Experiment":
    """Return what `jaxcnn train --help` shows where no file says what the defaults are."""
    from jaxcnn import DataConfig, Experiment, ModelConfig, OptimConfig, TrainConfig

    return Experiment(
        name="example",
        model=ModelConfig(name="lenet5"),
        data=DataConfig(source="digits"),
        optim=OptimConfig(),
        train=TrainConfig(batch_size=64, epochs=10),
    )


def _show_result(run: Any) -> None:
    import jax

    if jax.process_index() != 0:
        return
    from jaxcnn.report.tables import final_table

    rows = final_table(run.result, run.data["class_names"])
    figures = sorted((run.path / "figures").glob("*.png"))
    rows += [("figure", str(path)) for path in figures] + [("run folder", str(run.path))]
    _print_table([run.experiment.name, ""], rows)


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(name, justify="right" if number in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:  # piped: no wrapping at 80 columns
        console = Console(highlight=False, width=200)
    console.print(table)
