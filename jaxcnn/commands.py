"""What the commands of the command line share: choosing one, and reading its options and an experiment from words."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from jaxcnn.arguments import filled, parse, take_file, value_of
from jaxcnn.errors import UsageError, unknown

if TYPE_CHECKING:
    from jaxcnn.experiment import Experiment


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command: its docstring is what `--help` says first, its fields are its options; called, it does its work."""

    positional: ClassVar[str] = ""
    """The field that is no option."""

    @classmethod
    def main(cls, called: str, words: Sequence[str]) -> int | None:
        """Do what words after the command ask for, and return the exit code, None for 0.

        Args:
            called: the command, as it was called.
            words: after it.

        Raises:
            UsageError: as `arguments.parse`.
        """
        (parsed,) = parse((cls,), called, inspect.getdoc(cls) or "", words, cls.positional)
        return parsed()


@dataclass(frozen=True, kw_only=True)
class OfExperiment(Command):
    """A command whose options are those of an experiment, too, which a file exports.

    It is called with the experiment, and with the words that it was asked for by.
    """

    positional = "file"

    @classmethod
    def without_file(cls, words: Sequence[str]) -> "Experiment | None":
        """Return the experiment where no file is named; None: one has to be."""
        return None

    @classmethod
    def main(cls, called: str, words: Sequence[str]) -> None:
        """See `Command`; UsageError, too, where there is no experiment."""
        from jaxcnn.experiment import load_experiment

        file, rest = take_file(words)
        default = load_experiment(file) if file else cls.without_file(rest)
        if default is None:
            if not {"-h", "--help"} & {*rest}:
                other = ", or --resume RUN" * hasattr(cls, "resume")
                raise UsageError(f"which experiment? expected {called} experiments/NAME.py{other}")
            default = _example()
        if value_of("--train.epochs", rest) not in (None, "None") and value_of("--train.steps", rest) is None:
            default = default.override({"train.epochs": 1.0, "train.steps": None})  # the file's steps give way
        command, experiment = parse((cls, default), called, f"{inspect.getdoc(cls)}\n\n{_HELP}", rest, "file")
        command(replace(experiment, code=default.code), [*called.split(), *words])


_HELP = """FILE is a Python file that exports EXPERIMENT, as in experiments/.

Each option is a field of the experiment, or says how to run it. Defaults are FILE's."""


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


def call(group: str, commands: Mapping[str, Any], words: Sequence[str]) -> int:
    """Call the command that the first word names, and return its exit code.

    Args:
        group: what comes before it, such as "jaxcnn data".
        commands: to choose from, by name: subclasses of `Command`, or others for which this is called.
        words: of the command line, after the group.

    Raises:
        UsageError: there is no such command.
    """
    if not words or words[0] in ("-h", "--help"):
        print(f"usage: {group} COMMAND ...\n")
        for name, command in commands.items():
            says = (inspect.getdoc(command) or "").splitlines()[0]
            print(filled(says, f"  {name:10}", " " * 12))
        version = "; `--version` tells the version" * (group == "jaxcnn")
        print(f"\n`{group} COMMAND --help` explains each{version}.")
        return 0 if words else 2
    if words[0] not in commands:
        raise unknown(f"{group} command".removeprefix("jaxcnn "), words[0], commands)
    return commands[words[0]].main(f"{group} {words[0]}", words[1:]) or 0
