"""A network, an optimiser, a task and data, put together on this machine's devices: `Trainer`."""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax
from flax import linen as nn

from jaxcnn import data as data_sets
from jaxcnn.data import DataConfig, Dataset, Examples, eval_batches
from jaxcnn.data.order import batches_per_epoch
from jaxcnn.data.prepared import eval_batch
from jaxcnn.errors import RunError, UsageError
from jaxcnn.parts import Finder
from jaxcnn.runs.build import find_model, find_task, norms_of_weights, pretrained
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.tasks import Task
from jaxcnn.tasks.check import check_fields, check_model
from jaxcnn.train.batch_stats import exact_batch_stats, make_moments_step, whole_batches
from jaxcnn.train.callbacks import Function, find_callback
from jaxcnn.train.config import CheckpointConfig, EvalConfig, TrainConfig
from jaxcnn.train.evaluate import Scores, evaluate
from jaxcnn.train.inputs import Inputs, batch_like
from jaxcnn.train.loop import Timetable
from jaxcnn.train.optim import make_optimizer, standard_promotion
from jaxcnn.train.optimizers import find_optimizer
from jaxcnn.train.parallel import Parallel, check_parts, gathered
from jaxcnn.train.schedules import current_learning_rate, find_schedule, make_schedule
from jaxcnn.train.state import TrainState, create_state, init_key, params_sha256
from jaxcnn.train.step import make_eval_step, make_train_step

if TYPE_CHECKING:
    from jaxcnn.experiment import Experiment

# Steps between the moments at which several processes agree on whether a signal came to one of them.
_AGREE_EVERY = 10
# What belongs to the devices, or to one seed.
_COMPILED = frozenset({"inputs", "train_step", "_eval_step", "_create_state"})


class Trainer:
    """Trains and scores a network.

        trainer = Trainer(model, optax.adam(1e-3), Classification(), data, train=TrainConfig(batch_size=64, epochs=5))
        trainer.fit()                      # {"test/loss": ..., "test/accuracy": ...}

    Attributes:
      model, tx, task, data: what it was made of.
      timetable: the steps at which things happen.
      parallel: the devices.
      state: the state after `fit`; None before.
      rows: of metrics, as they are logged.
    """

    def __init__(
        self,
        model: nn.Module,
        tx: optax.GradientTransformation,
        task: Task,
        data: Any,
        *,
        train: TrainConfig,
        eval: EvalConfig | None = None,
        checkpoint: CheckpointConfig | None = None,
        seed: int = 0,
        learning_rate: optax.Schedule | None = None,
        variables: Mapping[str, Any] | None = None,
        callbacks: Sequence[Any] = (),
        finder: Finder | None = None,
        stop: StopFlag | None = None,
    ) -> None:
        """Put the parts together; nothing is compiled before it is first called.

        Args:
          model: any Linen module.
          tx: any Optax transformation; it is given the loss as `value` if it takes it.
          task: what is asked of the network.
          data: a `Dataset`, or what `jaxcnn.data.load` takes as `source`.
          train: length, batches, devices.
          eval: when to evaluate.
          checkpoint: what to keep, where `fit` is given a folder.
          seed: the one source of randomness.
          learning_rate: by the step, to be logged.
          variables: to start from; None: initialised.
          callbacks: called with each row, after those of `train`; see `jaxcnn.train.callbacks`.
          finder: of callbacks that `train` names.
          stop: polled between batches.

        Raises:
          UsageError: the parts do not go together.
        """
        self.stop = StopFlag() if stop is None else stop
        if not isinstance(data, Dataset | data_sets.Description):
            data = data_sets.load(DataConfig(), source=data, like=task.example, poll=self.stop.check)
        self.model, self.tx, self.task, self.data = model, standard_promotion(tx), task, data
        self.train, self.eval, self.checkpoint = train, eval or EvalConfig(), checkpoint or CheckpointConfig()
        self.seed, self.key = seed, jax.random.key(seed)
        self._callbacks = (*train.callbacks, *callbacks), finder or Finder()
        self.callbacks_of_a_run()  # they are all there
        self.state: TrainState | None = None
        self.rows: list[dict[str, Any]] = []
        self.parallel = Parallel(train.batch_size, train.parallel, train.devices)
        check_parts(train.batch_size, train.accumulation_steps, len(self.parallel.devices))
        self.timetable = timetable(train, self.eval, self.checkpoint, data)
        check_fields(task, data.fields)
        self.start = variables
        check_model(task, model, self.variables_like, self.batch_like, data.fields)
        self._rate = learning_rate and jax.jit(
            lambda opt_state, step: current_learning_rate(learning_rate, opt_state, step - 1)
        )
        self.step = make_train_step(
            model,
            self.tx,
            task,
            accumulation_steps=train.accumulation_steps,
            ema_decay=train.ema_decay,
            frozen=train.frozen,
            remat=train.remat,
            norms=train.norms,
            axis_name=self.parallel.axis_name,
            sync_batch_norm=train.sync_batch_norm,
        )

    @classmethod
    def from_experiment(
        cls,
        experiment: "Experiment",
        *,
        data: Any = None,
        begun: "data_sets.Description | None" = None,
        finder: Finder | None = None,
        stop: StopFlag | None = None,
    ) -> "Trainer":
        """Return the trainer of an experiment.

        Args:
          experiment: of one seed; of several, the first.
          data: in place of the experiment's: a `Dataset`, or its `Description`, which is enough for all but to fit and
            to score.
          begun: of a run that goes on: normalised and streamed as it began, and not started from weights again.
          finder: of the parts that it names; None: beside its file, in the working folder, installed.
          stop: polled while data is loaded and between batches.

        Raises:
          UsageError: a field has a value that cannot be.
          Stopped: on a signal, while the data is loaded.
        """
        stop = StopFlag() if stop is None else stop
        finder = finder or Finder(() if experiment.code is None else (experiment.code,))
        task, key = find_task(experiment.task, finder), jax.random.key(experiment.seed)
        weights = experiment.model.weights is not None and begun is None and data is None
        if data is None:
            data = data_sets.load(
                experiment.data,
                finder=finder,
                like=task.example,
                streamed=begun and begun.streamed,
                norms=begun.norms if begun else data_sets.NO_NORMS if weights else None,
                poll=stop.check,
            )
        model = find_model(experiment.model, task.outputs(data.fields), finder)
        variables = None
        if weights:
            variables = pretrained(experiment.model, model, _images_like(data), init_key(key))
            norms = norms_of_weights(experiment.model, data, variables)
            data = replace(data, norms=norms or data_sets.normalisation(experiment.data, data.train, stop.check))
        train, optim, schedule = experiment.train, experiment.optim, experiment.schedule
        steps = timetable(train, experiment.eval, experiment.checkpoint, data).total_steps
        optim, schedule = find_optimizer(optim, finder), find_schedule(schedule, finder)
        like = initial_shapes(model, task, data)["params"]
        rate = None if optim.learning_rate is None else make_schedule(schedule, optim.learning_rate, steps)
        return cls(
            model,
            make_optimizer(optim, schedule, steps, like, train.frozen),
            task,
            data,
            train=train,
            eval=experiment.eval,
            checkpoint=experiment.checkpoint,
            seed=experiment.seed,
            learning_rate=rate,
            variables=variables,
            finder=finder,
            stop=stop,
        )

    # The state ---------------------------------------------------------------------------------------------------

    @cached_property
    def variables_like(self) -> Any:
        """Shapes of the model's variables."""
        return initial_shapes(self.model, self.task, self.data)

    def batch_like(self, rows: int) -> Any:
        """Return the shapes of a batch of so many rows, as the model is given it."""
        return _model_batch(self.data, rows)

    def initial_state(self) -> TrainState:
        """Return the state before the first step, replicated over the devices."""
        variables = self.start
        if variables is None:
            variables = self.task.init(self.model, init_key(self.key), self.batch_like(1))
        return self.parallel.place(self._create_state(variables, key=self.key))

    def abstract_state(self, sharding: jax.sharding.Sharding | None = None) -> TrainState:
        """Return the state's shapes, dtypes and sharding: what a checkpoint is restored into."""
        shapes = jax.eval_shape(self._create_state, self.variables_like, key=self.key)
        sharding = sharding or self.parallel.replicated
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)

    @cached_property
    def _create_state(self) -> Callable[..., TrainState]:
        # One program: the optimiser's zeros alone would be one for each shape.
        def create(variables: Any, key: jax.Array) -> TrainState:
            return create_state(variables, self.tx, key, ema=self.train.ema_decay is not None)

        return jax.jit(create)

    @property
    def weights_sha256(self) -> str | None:
        """Of the variables that it starts from; None: it is initialised."""
        return None if self.start is None else params_sha256(self.start)

    def learning_rate(self, state: TrainState) -> float | None:
        """Return the rate that the last update used; None: it is not known."""
        return None if self._rate is None else np.asarray(self._rate(state.opt_state, state.step)).item()

    # Training ----------------------------------------------------------------------------------------------------

    @cached_property
    def inputs(self) -> Inputs:
        """What each step is given."""
        train, total = self.train, self.timetable.total_steps
        return Inputs(self.data, train.batch_size, total, self.key, self.parallel)

    @cached_property
    def train_step(self) -> Callable:
        """The compiled training step, from state and `inputs.at(step)` to state and sums."""
        return self.parallel.compile_train(self.step, self.inputs.batch)

    def of_seed(self, seed: int, device: jax.Device | None = None) -> "Trainer":
        """Return the trainer of another seed.

        Args:
          seed: of all that is random.
          device: to train on, where it is another; None: here, with the same arrays and compiled steps.
        """
        other: Trainer = object.__new__(Trainer)
        own: dict[str, Any] = {"seed": seed, "key": jax.random.key(seed), "rows": [], "state": None}
        if device is None:
            shared = ("train_step", "_eval_step", "_create_state", "variables_like")
            own |= {name: getattr(self, name) for name in shared}
            own["inputs"] = self.inputs.of_seed(own["key"])
        else:
            own["parallel"] = Parallel(self.train.batch_size, devices=[device])
        vars(other).update({name: value for name, value in vars(self).items() if name not in _COMPILED} | own)
        return other

    def compile_meanwhile(self, step: int) -> Callable[[], Any]:
        """Begin to compile the training step, which is to go on from `step`, and return what waits for that."""
        return self.parallel.compile_meanwhile(self.train_step, self.abstract_state(), self.inputs.like(step))

    def callbacks_of_a_run(self) -> list[Function]:
        """Return the callbacks of one run, which know of no other."""
        callbacks, finder = self._callbacks
        return [find_callback(each, finder) for each in callbacks]

    def fit(self, folder: str | Path | None = None, *, progress: bool = True) -> dict[str, float]:
        """Train to the end and return the final metrics; they, and all rows, are in `rows`, the state in `state`.

        Args:
          folder: where to keep log, checkpoints and result; a run that was interrupted there goes on. None: nothing is
            kept on the disk.
          progress: show progress on stderr.

        Raises:
          UsageError: the run in the folder is of other data, or another process is using it.
          RunError: the loss is not finite, or the disk is full.
          Stopped: on SIGTERM or Ctrl-C, after saving.
        """
        from jaxcnn.runs.record import Record

        record = Record(self, None if folder is None else Path(folder), progress=progress)
        with self.stop, contextlib.nullcontext() if record.folder is None else record.folder.locked():
            return record.train()

    def stop_requested(self, step: int) -> int | None:
        """Return the signal that asked for a stop, if any; with several processes they all answer alike.

        Raises:
          RunError: with several processes, in all of them where the input of one has failed.
        """
        if jax.process_count() == 1:
            return self.stop.signum
        # Before anything is written, in any case.
        if step % _AGREE_EVERY and not self.timetable.logs(step) and not self.timetable.saves(step):
            return None
        failure = self.inputs.failure
        codes = gathered(-1 if failure is not None else self.stop.signum or 0)
        if (codes < 0).any():
            raise failure or RunError("another process failed: see its message")
        return int(codes.max()) or None

    def poll(self, number: int) -> None:
        """Raise Stopped on a signal, now and then where several processes are to agree on it."""
        if signum := self.stop_requested(number):
            raise Stopped(signum)

    # Scores ------------------------------------------------------------------------------------------------------

    def evaluate(self, split: str | Examples = "test", state: TrainState | None = None) -> Scores:
        """Return the scores over a split, each example counted once.

        Args:
          split: "train", "val", "test", or the examples; training examples are not augmented.
          state: to score; None: that after `fit`.

        Raises:
          UsageError: there is no such split, or no state yet.
          Stopped: on a signal, between two batches.
        """
        examples = self.data.split(split) if isinstance(split, str) else split
        state = state or self.state
        if state is None:
            raise UsageError("there is no state to evaluate: call fit() first, or give one")
        batch_size = self.parallel.round_up(min(self.eval.batch_size, len(examples)))
        step = partial(self._eval_step, state.variables)
        return evaluate(step, eval_batches(examples, batch_size), self.task, examples, self.poll)

    @cached_property
    def _eval_step(self) -> Callable:
        return self.compiled(make_eval_step(self.model, self.task))

    def compiled(self, step: Callable) -> Callable:
        """Return `run(variables, batch)`: a step over a batch as it is stored on the host, compiled."""
        run, norms = self.parallel.compile_eval(step, lambda given: eval_batch(*given)), self.inputs.shared["norms"]
        return lambda variables, batch: run(variables, (dict(batch), norms))

    def recompute_batch_stats(self, state: TrainState) -> TrainState:
        """Return the state with BatchNorm's statistics exact over the training images, which are not augmented.

        Raises:
          Stopped: on a signal, between two batches.
        """
        if not state.batch_stats:
            return state
        step = partial(self.compiled(make_moments_step(self.model, self.task)), state.variables)
        batches = whole_batches(self.data.train, self.train.batch_size)
        found = exact_batch_stats(step, batches, self.poll)
        return state.replace(batch_stats=self.parallel.place(found))  # type: ignore[attr-defined]


def timetable(train: TrainConfig, eval: EvalConfig, checkpoint: CheckpointConfig, data: Any) -> Timetable:
    """Return the steps at which things happen.

    Raises:
      UsageError: there are more than a counter holds, or fewer examples than a batch has.
    """
    examples = data.sizes["train"]
    if train.batch_size > examples:
        have = f"the {examples} training examples: expected 1 to {examples}"
        raise UsageError(f"a batch of {train.batch_size} does not fit {have}")
    epoch = batches_per_epoch(examples, train.batch_size, data.last_batch)
    if train.steps is None:
        assert train.epochs is not None
        # Exactly, as the numbers are written: in floats, 1.1 epochs may be a step more.
        steps = math.ceil(Fraction(repr(train.epochs)) * epoch)
    else:
        steps = train.steps
    if steps >= 2**31:
        raise UsageError(f"training for {steps:.3g} steps: expected fewer than 2**31, what a 32-bit counter holds")
    return Timetable(
        total_steps=max(1, steps),
        batch_size=train.batch_size,
        log_every=train.log_every,
        eval_every=eval.every or max(1, math.ceil(epoch)),
        checkpoint_every=checkpoint.every,
    )


_shapes: dict[Any, Any] = {}


def initial_shapes(model: nn.Module, task: Task, data: Any) -> Any:
    """Return the shapes of a model's variables. The last are remembered: the optimiser's maker asks for them, too."""
    batch = _model_batch(data, 1)
    key = (id(model), id(task), str(batch))
    if key not in _shapes:
        _shapes.clear()
        found = jax.eval_shape(lambda key: task.init(model, key, batch), jax.random.key(0))
        _shapes[key] = found, model, task  # which are kept, so that their ids stay theirs
    return _shapes[key][0]


def _model_batch(data: Any, rows: int) -> Any:
    return jax.eval_shape(eval_batch, batch_like(data, rows), data.norms)


def _images_like(data: Any) -> jax.ShapeDtypeStruct:
    return _model_batch(data, 1)["image"]
