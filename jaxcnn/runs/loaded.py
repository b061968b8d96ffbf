"""A run folder read back: its experiment, its metrics, its network, what it predicts."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import UInt8

from jaxcnn import backend
from jaxcnn.data import Description, eval_batch, eval_batches
from jaxcnn.data.framing import preprocessing
from jaxcnn.data.stores.arrays import check_images
from jaxcnn.environment import version
from jaxcnn.errors import RunError, UsageError, unknown
from jaxcnn.experiment import Experiment
from jaxcnn.parts import Finder
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.runs.folder import RunFolder
from jaxcnn.runs.identity import Sources, sources_of
from jaxcnn.runs.trainer import Trainer
from jaxcnn.train.checkpoint import DamagedCheckpoint
from jaxcnn.train.state import TrainState
from jaxcnn.typed import check

if TYPE_CHECKING:
    import pandas


def load_run(folder: str | Path, *, code: Sequence[str | Path] = ()) -> "Run":
    """Return the run in a folder, finished or not.

    Args:
      folder: of the run.
      code: folders that its own parts may be imported from, beside the working folder, and names of installed
        packages. Nothing else is imported: a run folder is data, and may be somebody else's.

    Raises:
      UsageError: there is none, or no such code.
    """
    folder = Path(folder)
    if not (folder / "experiment.json").is_file():
        inside = [*folder.glob("*/experiment.json"), *folder.glob("*/*/experiment.json")]
        near = [str(path.parent) for path in inside or folder.parent.parent.glob("*/*/experiment.json")]
        if near:
            raise unknown("run folder", str(folder), near)
        raise UsageError(f"no run in {folder}: it has no experiment.json")
    files = RunFolder(folder).find("program").get("files", {})
    before = {name: file["path"] for name, file in files.items()}
    return Run(folder, Finder.of_data(code, before, never=folder))


class Run:
    """A run folder, without its data set. Attributes are read when first asked for."""

    def __init__(self, path: Path, finder: Finder, experiment: Experiment | None = None) -> None:
        """Use `run`, `resume` or `load_run`."""
        self.path, self.finder, self.folder = path, finder, RunFolder(path)
        if experiment is not None:
            self.experiment = experiment

    def __repr__(self) -> str:
        """Return the path and the status."""
        return f"Run({str(self.path)!r}, {self.result.get('status', 'unfinished')})"

    @cached_property
    def experiment(self) -> Experiment:
        """The experiment, rebuilt from `experiment.json`."""
        return self._made_of("experiment", lambda values: check(Experiment, values, ""))

    def _made_of(self, name: str, make: Callable[[dict[str, Any]], Any]) -> Any:
        """Return what `make` makes of a file, or tell which version can."""
        values = self.folder.read(name)
        try:
            return make(values)
        except UsageError as error:
            then, now = self.folder.find("environment").get("jaxcnn"), version("jaxcnn")
            writer = "" if then in (None, now) else f" (jaxcnn {then} wrote it, this is {now})"
            raise UsageError(f"{self.path / name}.json: {error}{writer}") from error

    @cached_property
    def sources(self) -> Sources:
        """Today's sources of it."""
        return sources_of(self.experiment, self.finder)

    @property
    def result(self) -> dict[str, Any]:
        """What `result.json` holds; {} for a run that is under way or was killed."""
        return self.folder.find("result")

    @property
    def metrics(self) -> "pandas.DataFrame":
        """The rows of `metrics.jsonl`, one for each step that has any, indexed by step."""
        import pandas

        rows: dict[int, dict[str, Any]] = {}
        for row in self.folder.rows:
            rows.setdefault(row["step"], {}).update(row)
        return pandas.DataFrame(list(rows.values())).set_index("step") if rows else pandas.DataFrame()

    @cached_property
    def description(self) -> Description:
        """What its data are, without them."""
        return self._made_of("data", Description.from_json)

    @property
    def preprocessing(self) -> Preprocessing | None:
        """From an image file to the network's input, as the run's own images came to be; None: they are no files."""
        norms = self.description.norms
        return norms and preprocessing(self.description.shapes["image"], self.experiment.data, *norms)

    @cached_property
    def trainer(self) -> Trainer:
        """Its parts put together, on one device."""
        experiment = on_devices(self.experiment, jax.process_count())
        return Trainer.from_experiment(experiment, data=self.description, finder=self.finder)

    @property
    def model(self) -> nn.Module:
        """The network."""
        return self.trainer.model

    @cached_property
    def state(self) -> TrainState:
        """The state of the newest good checkpoint, on one device; a damaged one is reported on stderr."""
        return self.restore("last")

    def restore(self, which: str, trainer: Trainer | None = None) -> TrainState:
        """Return the state of the "last" good or the "best" checkpoint, on one device or on a trainer's.

        Raises:
          UsageError: there is none.
          RunError: it is damaged, and the last one there is.
        """
        trainer, checkpoints = trainer or self.trainer, self.folder.checkpoints
        like = trainer.abstract_state()
        if changed := self._changed():
            print(f"jaxcnn: {', '.join(changed)} changed since {self.path} was trained", file=sys.stderr)
        if which == "last":
            try:
                state, _, reports = checkpoints.restore_newest(like)
            except LookupError as error:
                raise UsageError(f"{self.path} has no checkpoint yet") from error
            for report in reports:
                print(f"jaxcnn: {report}", file=sys.stderr)
            return state
        if which != "best":
            raise unknown("checkpoint", which, ["best", "last"])
        return checkpoints.listed(lambda: self._best(trainer, like))

    def _best(self, trainer: Trainer, like: Any) -> TrainState:
        checkpoints, step = self.folder.checkpoints, self.folder.best_step(*trainer.task.best)
        if step is None:
            raise UsageError(f"{self.path} has no best checkpoint: it was never evaluated while training")
        try:
            return checkpoints.restore(step, like)[0]
        except DamagedCheckpoint as error:
            raise RunError(f"checkpoint {checkpoints.path(step)} is damaged: {error}") from error

    def _changed(self) -> list[str]:
        """Return the names of the user's files that are others than those of the run."""
        saved = self.folder.find("program")
        if not saved or self.sources.sha256 in saved["sources"]:
            return []
        then = {name: file["sha256"] for name, file in saved["files"].items()}
        return [name for name, file in self.sources.files.items() if file["sha256"] != then.get(name)]

    @cached_property
    def _predict(self) -> Any:
        task, model, norms = self.trainer.task, self.model, self.description.norms

        def predict(variables: Any, images: jax.Array) -> Any:
            batch = eval_batch({"image": images, "mask": jax.numpy.ones(len(images), bool)}, norms)
            return task.predict(task.forward(model, variables, batch, None, False)[0])

        return backend.jit(predict)

    def predict(self, images: UInt8[np.ndarray, "n height width channels"]) -> Any:
        """Return what the task predicts by the newest checkpoint: of classes, probabilities [n, classes].

        Args:
          images: whole numbers 0 to 255, of the shape that the run was trained on.

        Raises:
          UsageError: images of another shape, type or range, or none.
        """
        split = check_images(images, self.description.shapes["image"].shape, "images to predict")
        batches = eval_batches(split, min(self.experiment.eval.batch_size, len(split)))
        parts = [self._predict(self.state.variables, batch["image"]) for batch in batches]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays)[: len(split)], *parts)


def on_devices(experiment: Experiment, devices: int) -> Experiment:
    """Return the experiment as so many devices can score it: parts of a batch and pmap are for training."""
    train = replace(experiment.train, devices=devices, parallel="jit", accumulation_steps=1)
    return replace(experiment, train=train)
