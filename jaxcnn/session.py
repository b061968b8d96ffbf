"""What an experiment turns into: data on the devices, a model, an optimiser, compiled steps."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data import Dataset, Split, load, normalisation
from jaxcnn.data.augment import normalize
from jaxcnn.data.resident import Arrays, Stream, eval_batches, make_batch
from jaxcnn.errors import UsageError
from jaxcnn.experiment import Experiment
from jaxcnn.layers import BatchNorm
from jaxcnn.models import create
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.tasks import Classification
from jaxcnn.train.evaluate import evaluate
from jaxcnn.train.loop import Timetable
from jaxcnn.train.optim import make_optimizer
from jaxcnn.train.parallel import make_parallel
from jaxcnn.train.schedules import current_learning_rate, make_schedule
from jaxcnn.train.state import TrainState, create_state
from jaxcnn.train.step import AUGMENT_KEY, SHUFFLE_KEY, make_eval_step, make_train_step, step_key

# Steps between the moments at which several processes agree on whether a signal came to one of them.
_AGREE_EVERY = 10


class Session:
    """One experiment, ready to train and evaluate on this machine's devices.

    Raises:
      UsageError: a field has a value that cannot be.
    """

    def __init__(self, experiment: Experiment, stop: StopFlag) -> None:
        """Load the data and put everything together; nothing is compiled before it is first called."""
        train = experiment.train
        _check(experiment)
        self.experiment, self.stop = experiment, stop
        self.parallel = make_parallel(
            train.parallel, train.batch_size, devices=train.devices, sync_batch_norm=train.sync_batch_norm
        )
        _check_parts(train.batch_size, train.accumulation_steps, self.parallel.mesh.size)
        self.dataset: Dataset = load(experiment.data)
        self.num_classes = experiment.model.num_classes or len(self.dataset.class_names)
        if self.num_classes < len(self.dataset.class_names):
            raise UsageError(
                f"model.num_classes is {self.num_classes}: the data set has {len(self.dataset.class_names)} classes"
            )
        options: dict[str, Any] = experiment.model.options
        self.model = create(
            experiment.model.name,
            num_classes=self.num_classes,
            dtype=experiment.model.dtype,
            axis_name=self.parallel.norm_axis,
            **options,
        )
        self.task = Classification(label_smoothing=train.label_smoothing)
        self.timetable = _timetable(experiment, len(self.dataset.train))

        key = jax.random.key(experiment.seed)
        self.mean, self.std = normalisation(experiment.data, self.dataset.train.images)
        self.image_shape = self.dataset.train.images.shape[1:]
        images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        variables = jax.eval_shape(self.model.init, key, images)
        self.tx = make_optimizer(experiment.optim, experiment.schedule, self.timetable.total_steps, variables["params"])
        self._initial = partial(create_state, self.model, self.tx, key, images, ema=train.ema_decay is not None)
        rate = make_schedule(experiment.schedule, experiment.optim.learning_rate, self.timetable.total_steps)
        self._learning_rate = jax.jit(partial(current_learning_rate, rate))

        step = make_train_step(
            self.model,
            self.tx,
            self.task,
            accumulation_steps=train.accumulation_steps,
            ema_decay=train.ema_decay,
            axis_name=self.parallel.step_axis,
        )
        self.train_step = self.parallel.compile_train(step, self.train_batch)
        self._eval_step = self.parallel.compile_eval(make_eval_step(self.model, self.task), self._eval_batch)
        examples = self.dataset.train
        shuffle_key = jax.random.fold_in(key, SHUFFLE_KEY)
        self._stream = Stream(shuffle_key, len(examples), train.batch_size, self.parallel.place)
        self._arrays = self.parallel.place(Arrays(examples.images, examples.labels, self.mean, self.std))
        self._key_data = self.parallel.place(np.array(jax.random.key_data(key)))  # a copy: the state is donated

    def initial_state(self) -> TrainState:
        """Return the state before the first step, replicated over the devices."""
        return self.parallel.place(self._initial())

    def arguments(self, step: int) -> tuple:
        """Return what the compiled training step is given at `step`."""
        perms, offset = self._stream.at(step)
        return self._arrays, perms, offset, self._key_data, np.int32(step)

    def train_batch(self, arrays, perms, offset, key_data, step):
        """Return the training batch of what `arguments` gave; pure, part of the compiled step."""
        key = step_key(key_data, AUGMENT_KEY, step)
        return make_batch(arrays, perms, offset, key, self.experiment.data, self.experiment.train.batch_size)

    def _eval_batch(self, image, label, mask, mean, std):
        return {"image": normalize(image, mean, std), "label": label, "mask": mask}

    def learning_rate(self, state: TrainState) -> float:
        """Return the rate that the last update used."""
        return np.asarray(self._learning_rate(state.opt_state, state.step - 1)).item()

    def stop_requested(self, step: int) -> int | None:
        """Return the signal that asked for a stop, if any; with several processes they all answer alike."""
        if jax.process_count() == 1:
            return self.stop.signum
        if step % _AGREE_EVERY:
            return None
        from jax.experimental import multihost_utils

        return int(multihost_utils.process_allgather(np.int32(self.stop.signum or 0)).max()) or None

    def _poll(self, number: int) -> None:
        if signum := self.stop_requested(number):
            raise Stopped(signum)

    def evaluate(self, variables: Any, split: Split) -> tuple[dict[str, float], np.ndarray]:
        """Return metrics and logits over a split, each example counted once.

        Raises:
          Stopped: on a signal, between two batches.
        """
        devices = self.parallel.mesh.size
        batch_size = -(-min(self.experiment.eval.batch_size, len(split)) // devices) * devices

        def step(variables: Any, batch: Mapping[str, np.ndarray]):
            return self._eval_step(variables, (*batch.values(), self.mean, self.std))

        batches: Iterator[Mapping[str, np.ndarray]] = eval_batches(split, batch_size)
        return evaluate(step, variables, batches, self.task, len(split), self._poll)

    def recompute_batch_stats(self, state: TrainState) -> TrainState:
        """Return the state with BatchNorm's statistics exact over the training images, not augmented.

        He et al. 2015 do this after training. Each layer's mean and variance come from whole batches in the
        training mode: the mean of the batch means, and the mean of the batch variances plus the variance of the
        batch means. The few images that do not fill the last batch are left out.
        """
        if not state.batch_stats:
            return state
        return state.replace(batch_stats=self.parallel.place(_exact_batch_stats(self, state)))  # type: ignore[attr-defined]


def _exact_batch_stats(session: Session, state: TrainState) -> Any:
    model = session.model.clone(axis_name=None)  # one global view

    momenta: dict[tuple[str, ...], float] = {}

    def note_momentum(call, args, kwargs, context):
        if isinstance(context.module, BatchNorm):
            momenta[context.module.path] = context.module.momentum
        return call(*args, **kwargs)

    def batch_statistics(variables, image, mean, std):
        # The moving average is momentum * old + (1 - momentum) * batch: from old = 0 follows the batch's own.
        empty = {"params": variables["params"], "batch_stats": jax.tree.map(jnp.zeros_like, variables["batch_stats"])}
        with nn.intercept_methods(note_momentum):
            _, updated = model.apply(
                empty, normalize(image, mean, std), train=True, mutable=["batch_stats"], rngs={"dropout": key}
            )
        return jax.tree_util.tree_map_with_path(
            lambda path, moved: moved / (1.0 - momenta[tuple(part.key for part in path[:-1])]), updated["batch_stats"]
        )

    key = jax.random.key(0)  # dropout in the training mode; it stands before no BatchNorm in these networks
    compute = jax.jit(batch_statistics)
    means: list[Any] = []
    train, size = session.dataset.train, session.experiment.train.batch_size
    for start in range(0, len(train) - size + 1, size):
        session._poll(start // size)
        stats = compute(state.variables, train.images[start : start + size], session.mean, session.std)
        means.append(jax.tree.map(lambda x: np.asarray(x, np.float64), stats))

    def combine(path, *values):
        stacked = np.stack(values)
        if path[-1].key != "var":
            return stacked.mean(0).astype(np.float32)
        of_means = np.stack([_at(m, path[:-1])["mean"] for m in means]).var(0)
        return (stacked.mean(0) + of_means).astype(np.float32)

    return jax.tree_util.tree_map_with_path(combine, means[0], *means[1:])


def _at(tree: Any, path: Any) -> Any:
    for part in path:
        tree = tree[part.key]
    return tree


def _check(experiment: Experiment) -> None:
    train = experiment.train
    positive = {
        "train.batch_size": train.batch_size,
        "train.steps": train.steps,
        "train.epochs": train.epochs,
        "train.log_every": train.log_every,
        "train.accumulation_steps": train.accumulation_steps,
        "eval.every": experiment.eval.every,
        "eval.batch_size": experiment.eval.batch_size,
        "checkpoint.every": experiment.checkpoint.every,
        "checkpoint.keep": experiment.checkpoint.keep,
    }
    for name, value in positive.items():
        if value is not None and value <= 0:
            raise UsageError(f"{name} is {value}: expected a number above 0")
    if train.steps is None and train.epochs is None:
        raise UsageError("train.steps and train.epochs are both None: give one of them")
    if train.ema_decay is not None and not 0.0 < train.ema_decay < 1.0:
        raise UsageError(f"train.ema_decay is {train.ema_decay}: expected a value between 0 and 1, such as 0.999")
    if not 0 <= experiment.seed < 2**32:
        raise UsageError(f"seed is {experiment.seed}: expected 0 to {2**32 - 1}")
    if not experiment.name or not set(experiment.name) <= set(_NAME):
        raise UsageError(f"name is {experiment.name!r}: expected letters, digits, '_', '-' and '.', as in lenet_mnist")


_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."


def _check_parts(batch_size: int, parts: int, devices: int) -> None:
    if batch_size % (parts * devices):
        raise UsageError(
            f"train.accumulation_steps is {parts}: batch size {batch_size} on {devices} devices does not divide "
            f"into as many parts; expected a divisor of {batch_size // devices}"
        )


def _timetable(experiment: Experiment, num_train: int) -> Timetable:
    train = experiment.train
    epoch = -(-num_train // train.batch_size)
    steps = train.steps
    if steps is None:
        assert train.epochs is not None
        steps = int(np.ceil(train.epochs * num_train / train.batch_size))
    return Timetable(
        total_steps=max(1, steps),
        batch_size=train.batch_size,
        log_every=train.log_every,
        eval_every=experiment.eval.every or epoch,
        checkpoint_every=experiment.checkpoint.every,
    )
