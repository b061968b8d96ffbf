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

from jaxcnn.data import DataConfig, Dataset, Description, Examples, eval_batch, eval_batches, load
from jaxcnn.data.order import batches_per_epoch
from jaxcnn.errors import RunError, UsageError
from jaxcnn.keys import init_key
from jaxcnn.parts import Finder, made
from jaxcnn.runs.build import find_model, find_task, load_together
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.tasks import Task
from jaxcnn.tasks.check import check_fields, check_init, check_kinds, check_model
from jaxcnn.train.batch_stats import exact_batch_stats, make_moments_step, whole_batches
from jaxcnn.train.config import CheckpointConfig, EvalConfig, TrainConfig
from jaxcnn.train.evaluate import Scores, evaluate
from jaxcnn.train.inputs import Inputs, InputStream, batch_like
from jaxcnn.train.loop import Timetable
from jaxcnn.train.optim import make_optimizer, standard_promotion
from jaxcnn.train.optimizers import find_optimizer
from jaxcnn.train.parallel import Parallel, check_parts, gathered
from jaxcnn.train.schedules import current_learning_rate, find_schedule, make_schedule
from jaxcnn.train.state import TrainState, create_state, params_sha256
from jaxcnn.train.step import make_eval_step, make_train_step

if TYPE_CHECKING:
    from jaxcnn.experiment import Experiment

# Steps between the moments at which several processes agree on whether a signal came to one of them.
_AGREE_EVERY = 10


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
        tx: optax.GradientTransformation | Callable[[Any], optax.GradientTransformation],
        task: Task,
        data: Any,
        *,
        train: TrainConfig,
        eval: EvalConfig | None = None,
        checkpoint: CheckpointConfig | None = None,
        seed: int = 0,
        schedule: optax.Schedule | None = None,
        variables: Mapping[str, Any] | Callable[[jax.Array], Mapping[str, Any]] | None = None,
        callbacks: Sequence[Any] = (),
        finder: Finder | None = None,
        devices: Sequence[jax.Device] | None = None,
        stop: StopFlag | None = None,
    ) -> None:
        """Put the parts together; nothing is compiled before it is first called.

        Args:
          model: any Linen module.
          tx: any Optax transformation, which is given the loss as `value` if it takes it; or a function that makes it
            from the shapes of the parameters.
          task: what is asked of the network.
          data: a `Dataset`, or what `jaxcnn.data.load` takes as `source`.
          train, eval, checkpoint: length, batches and devices; when to evaluate; what `fit` keeps in a folder.
          seed: the one source of randomness.
          schedule: of the learning rate, to be logged.
          variables: to start from, or a function of the key that they are drawn from; None: initialised.
          callbacks: called with each row, after those of `train`; see `jaxcnn.train.callbacks`.
          finder: of callbacks that `train` names.
          devices: to train on; None: as many as `train` says.
          stop: polled between batches.

        Raises:
          UsageError: the parts do not go together.
        """
        self.stop = StopFlag() if stop is None else stop
        check_kinds(model, tx, task)
        if not isinstance(data, Dataset | Description):
            data = load(DataConfig(), source=data, like=task.example, poll=self.stop.check)
        self.model, self.task, self.data = model, task, data
        self.train, self.eval, self.checkpoint = train, eval or EvalConfig(), checkpoint or CheckpointConfig()
        self.seed, self.key = seed, jax.random.key(seed)
        self.callbacks = [made(each, finder or Finder()) for each in (*train.callbacks, *callbacks)]
        self.state: TrainState | None = None
        self.rows: list[dict[str, Any]] = []
        self.parallel = Parallel(train.batch_size, train.parallel, devices or train.devices, train.deterministic)
        check_parts(train.batch_size, train.accumulation_steps, len(self.parallel.devices))
        self.timetable = timetable(train, self.eval, self.checkpoint, data)
        check_fields(task, data.fields)
        self.start, self.schedule = variables, schedule
        self.variables_like = check_init(task, model, self.batch_like(1))
        check_model(task, model, self.variables_like, self.batch_like, data.fields)
        tx = tx(self.variables_like["params"]) if callable(tx) else tx
        self.tx = standard_promotion(tx)
        self._rate = schedule and jax.jit(lambda opt_state, step: current_learning_rate(schedule, opt_state, step - 1))
        self.step = self.make_step(self.parallel.axis_name)

    @classmethod
    def from_experiment(
        cls,
        experiment: "Experiment",
        *,
        data: Any = None,
        begun: Description | None = None,
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
        finder = finder or experiment.finder
        task, config, train = find_task(experiment.task, finder), experiment.data, experiment.train
        network, weights = partial(find_model, experiment.model, finder), None
        if experiment.model.weights is not None and begun is None and data is None:
            from jaxcnn.weights.pretrained import Pretrained

            key = init_key(jax.random.key(experiment.seed))
            weights = Pretrained(experiment.model, lambda fields: network(task.outputs(fields)), key)
        if data is None:
            own = config.mean is not None or config.std is not None or config.per_pixel_mean
            norms = begun.norms if begun else None if own or weights is None else weights.norms
            data = load_together(config, task, finder, stop.check, begun.streamed if begun else None, norms)
            if weights is not None and weights.model is None:
                weights.norms(data.shapes, data.fields)
        elif isinstance(data, Description):
            augment = tuple(made(transform, finder) for transform in config.augment)
            data = replace(data, augment=augment, last_batch=config.last_batch)
        model = network(task.outputs(data.fields))
        optim, schedule = find_optimizer(experiment.optim, finder), find_schedule(experiment.schedule, finder)
        whole: dict[str, Any] = {"train": train, "eval": experiment.eval, "checkpoint": experiment.checkpoint}
        steps = timetable(**whole, data=data).total_steps
        return cls(
            model,
            lambda params_like: make_optimizer(optim, schedule, steps, params_like, train.frozen),
            task,
            data,
            **whole,
            seed=experiment.seed,
            schedule=optim.learning_rate and make_schedule(schedule, optim.learning_rate, steps),
            variables=weights,
            finder=finder,
            stop=stop,
        )

    def make_step(self, axis_name: str | None = None) -> Callable:
        """Return the training step, not compiled; with `axis_name` that of one device."""
        names = ("accumulation_steps", "ema_decay", "frozen", "remat", "norms", "sync_batch_norm")
        asked = {name: getattr(self.train, name) for name in names}
        return make_train_step(self.model, self.tx, self.task, axis_name=axis_name, **asked)

    # The state ---------------------------------------------------------------------------------------------------

    def batch_like(self, rows: int) -> Any:
        """Return the shapes of a batch of so many rows, as the model is given it."""
        return jax.eval_shape(eval_batch, batch_like(self.data, rows), self.data.norms)

    def initial_state(self, key: jax.Array | None = None) -> TrainState:
        """Return the state before the first step, replicated over the devices; of its own seed, or of another key."""
        key = self.key if key is None else key
        return self.parallel.place(self._create_state(self._variables(key), key=key))

    def _variables(self, key: jax.Array) -> Any:
        if self.start is None:
            return self.task.init(self.model, init_key(key), self.batch_like(1))
        return self.start(init_key(key)) if callable(self.start) else self.start

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

    def weights_sha256(self, key: jax.Array) -> str | None:
        """Return that of the variables that the run of a key starts from; None: it is initialised."""
        return None if self.start is None else params_sha256(self._variables(key))

    def learning_rate(self, state: TrainState) -> float | None:
        """Return the rate that the last update used; None: it is not known."""
        return None if self._rate is None else np.asarray(self._rate(state.opt_state, state.step)).item()

    # Training ----------------------------------------------------------------------------------------------------

    @cached_property
    def inputs(self) -> Inputs:
        """What training steps are made from."""
        train, total = self.train, self.timetable.total_steps
        return Inputs(self.data, self._norms, train.batch_size, total, self.parallel)

    @cached_property
    def _norms(self) -> Any:
        return self.parallel.place(self.data.norms)

    @cached_property
    def train_step(self) -> Callable:
        """The compiled training step, from state and `inputs.at(step)` to state and sums."""
        return self.parallel.compile_train(self.step, self.inputs.batch)

    @cached_property
    def stream(self) -> InputStream:
        """The inputs of its own seed."""
        return self.inputs.stream(self.key)

    def on(self, devices: Sequence[jax.Device]) -> "Trainer":
        """Return this trainer on other devices."""
        names = ("eval", "checkpoint", "seed", "schedule", "callbacks", "stop")
        same: dict[str, Any] = {name: getattr(self, name) for name in names} | {"variables": self.start}
        train = replace(self.train, callbacks=())
        return Trainer(self.model, self.tx, self.task, self.data, train=train, devices=devices, **same)

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
        self.rows = record.rows
        with StopFlag() as self.stop, contextlib.nullcontext() if record.folder is None else record.folder.locked():
            metrics = record.train()
        self.state = record.state
        return metrics

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
        """Raise Stopped on a signal, as `stop_requested` tells of it."""
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
        run, norms = self.parallel.compile_eval(step, lambda given: eval_batch(*given)), self._norms
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
    epoch = batches_per_epoch(data.sizes["train"], train.batch_size, data.last_batch)
    # Exactly, as the numbers are written: in floats, 1.1 epochs may be a step more.
    steps = train.steps or math.ceil(Fraction(repr(train.epochs)) * epoch)
    if steps >= 2**31:
        raise UsageError(
            f"training for {min(steps, 10**308):.3g} steps: expected fewer than 2**31, what a 32-bit counter holds"
        )
    return Timetable(
        total_steps=max(1, steps),
        batch_size=train.batch_size,
        log_every=train.log_every,
        eval_every=eval.every or max(1, math.ceil(epoch)),
        checkpoint_every=checkpoint.every,
    )
