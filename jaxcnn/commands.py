"""What the commands of the command line share: choosing one, and reading an experiment from a file and its options."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from jaxcnn.arguments import parse, take_file, value_of
from jaxcnn.errors import UsageError, unknown

if TYPE_CHECKING:
    from jaxcnn.experiment import Experiment

Commands = Mapping[str, Callable[[list[str]], int | None]]
"""By name; they return their exit code, None for 0."""

_HELP = """FILE is a Python file that exports EXPERIMENT, as in experiments/.

Each option is a field of the experiment, or says how to run it. Defaults are FILE's."""


def call(group: str, commands: Commands, words: list[str]) -> int:
    """Call the command that the first word names, and return its exit code.

    Args:
        group: what comes before it, such as "data "; "": nothing.
        commands: to choose from.
        words: of the command line.

    Raises:
        UsageError: there is no such command.
    """
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: jaxcnn {group}COMMAND ...\n")
        for name, command in commands.items():
            print(f"  {name:10}{(command.__doc__ or '').splitlines()[0]}")
        version = "" if group else "; `--version` tells the version"
        print(f"\n`jaxcnn {group}COMMAND --help` explains each{version}.")
        return 0 if words else 2
    if words[0] not in commands:
        raise unknown(f"{group}command", words[0], commands)
    return commands[words[0]](words[1:]) or 0


def parse_experiment(
    chosen: Any,
    command: str,
    description: str | None,
    words: list[str],
    otherwise: "Callable[[], Experiment | None]" = lambda: None,
) -> "tuple[Any, Experiment]":
    """Return the options, which say what to do with it, and the experiment, from the words of a command.

    Args:
        chosen: the dataclass of options, with the defaults.
        command: as it is called.
        description: what `--help` says first.
        words: after the command.
        otherwise: returns the experiment where no file is named.

    Raises:
        UsageError: as arguments.parse; or there is no experiment.
    """
    from jaxcnn.experiment import load_experiment

    file, words = take_file(words)
    default = load_experiment(file) if file else otherwise()
    if default is None:
        if not {"-h", "--help"} & {*words}:
            other = ", or --resume RUN" * hasattr(chosen, "resume")
            raise UsageError(f"which experiment? expected {command} experiments/NAME.py{other}")
        default = _example()
    if value_of("--train.epochs", words) not in (None, "None") and value_of("--train.steps", words) is None:
        default = default.override({"train.epochs": 1.0, "train.steps": None})  # the file's steps give way
    options, experiment = parse((chosen, default), command, f"{description}\n\n{_HELP}", words, "file")
    return options, replace(experiment, code=default.code)


def _example() -> "Experiment":
    """Return the experiment that `--help` shows where no file says what the defaults are."""
    from jaxcnn.data.config import DataConfig
    from jaxcnn.experiment import Experiment
    from jaxcnn.models.config import ModelConfig
    from jaxcnn.train.config import TrainConfig
    from jaxcnn.train.optimizers import Momentum

    model, data = ModelConfig(name="lenet5"), DataConfig(source="digits")
    return Experiment(
        name="example", model=model, data=data, optim=Momentum(), train=TrainConfig(batch_size=64, epochs=10)
    )
