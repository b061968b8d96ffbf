"""An experiment ready to run: its blueprint, with the data on the devices and the steps compiled."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxcnn.data import Dataset, Examples, Split, normalisation
from jaxcnn.data.bad import Bad
from jaxcnn.data.dataset import eval_batches
from jaxcnn.data.order import Order
from jaxcnn.data.prepared import Norms, eval_batch, training_batch
from jaxcnn.data.resident import Arrays, Stream, gather
from jaxcnn.data.sources import open_store, streams, take
from jaxcnn.data.streaming import Reader
from jaxcnn.errors import RunError, UsageError
from jaxcnn.experiment import Experiment
from jaxcnn.runs.blueprint import Blueprint
from jaxcnn.stop import StopFlag, Stopped
from jaxcnn.tasks import Classification
from jaxcnn.train.batch_stats import exact_batch_stats, make_moments_step, whole_batches
from jaxcnn.train.evaluate import Scores, evaluate
from jaxcnn.train.parallel import Window, agree, make_parallel, together, windowed_step
from jaxcnn.train.schedules import current_learning_rate, make_schedule
from jaxcnn.train.state import TrainState, init_key, params_sha256
from jaxcnn.train.step import AUGMENT_KEY, CROP_KEY, SHUFFLE_KEY, make_eval_step, make_train_step, step_key

if TYPE_CHECKING:
    from jaxcnn.weights import Variables

# Steps between the moments at which several processes agree on whether a signal came to one of them.
_AGREE_EVERY = 10


class Session(Blueprint):
    """One experiment, ready to train and evaluate on this machine's devices.

    Raises:
      UsageError: a field has a value that cannot be.
      Stopped: on a signal, while the data is loaded.
    """

    def __init__(
        self,
        experiment: Experiment,
        stop: StopFlag,
        norms: tuple[np.ndarray, np.ndarray] | None = None,
        streamed: bool | None = None,
    ) -> None:
        """Load the data and put everything together; nothing is compiled before it is first called.

        Args:
          experiment: what to put together.
          stop: polled while data is loaded and between batches.
          norms: mean and standard deviation to normalise by, where a run has them, whose checkpoint then takes the
            place of the weights it started from.
          streamed: whether examples are read while the network trains, where a run has begun so; None: as the
            experiment and the free memory have it.
        """
        train = experiment.train
        self.stop = stop
        self.parallel = make_parallel(
            train.parallel, train.batch_size, devices=train.devices, sync_batch_norm=train.sync_batch_norm
        )
        _check_parts(train.batch_size, train.accumulation_steps, self.parallel.mesh.size)
        data = experiment.data
        with together():
            store = open_store(data, stop.check)
            self.ignored = store.ignored
            streamed = streams(data, store) if streamed is None else streamed
        self.streamed = agree(streamed)
        with together():
            self.dataset: Dataset = take(data, store, self.streamed, stop.check)
        examples = self.dataset.train
        super().__init__(
            experiment,
            examples=len(examples),
            class_names=self.dataset.class_names,
            image_shape=examples.image_shape,
        )
        self.task = Classification(label_smoothing=train.label_smoothing)
        self._take_weights(experiment.model.weights is not None and norms is None)
        with together():
            self.mean, self.std = norms or _normalisation(experiment, examples, self.pretrained, stop.check)
        rate = make_schedule(experiment.schedule, experiment.optim.learning_rate, self.timetable.total_steps)
        self._learning_rate = jax.jit(lambda opt_state, step: current_learning_rate(rate, opt_state, step - 1))

        step = make_train_step(
            self.model,
            self.tx,
            self.task,
            accumulation_steps=train.accumulation_steps,
            ema_decay=train.ema_decay,
            frozen=train.frozen,
            remat=train.remat,
            axis_name=self.parallel.step_axis,
            sync_batch_norm=self.parallel.sync_batch_norm,
        )
        self._windowed_step = windowed_step(step)
        self.train_step = self.parallel.compile_train(step, self.train_batch)
        self._eval_step = self.parallel.compile_eval(make_eval_step(self.model, self.task), eval_batch)
        self.norms = self.parallel.place(Norms(self.mean, self.std))
        self._shared = (self.norms, self.parallel.place(Arrays.of(examples)) if isinstance(examples, Split) else None)
        self._take_stream()
        self.poll(0)

    def for_seed(self, seed: int) -> "Session":
        """Return the session of another seed, with the same data, arrays on the devices and compiled steps."""
        other = copy.copy(self)
        other.experiment = replace(self.experiment, seed=seed)
        other.key = jax.random.key(seed)
        other._take_weights(self.pretrained is not None)
        other._take_stream()
        return other

    def _take_weights(self, wanted: bool) -> None:
        self.pretrained: Variables | None = None
        if wanted:
            from jaxcnn.runs.pretrained import pretrained

            # A head for another number of classes is drawn by our key.
            self.pretrained = pretrained(self.experiment.model, self.model, self.images, init_key(self.key))
        self.weights_sha256 = None if self.pretrained is None else params_sha256(self.pretrained)

    def _take_stream(self) -> None:
        self._key_data = self.parallel.place(np.array(jax.random.key_data(self.key)))  # a copy: the state is donated
        self._failure: RunError | None = None
        train = self.dataset.train
        order = order_of(self.experiment, len(train))
        if isinstance(train, Reader):
            rows = self.parallel.rows(order.batch_size)
            self._feed = train.stream(order, rows, self.timetable.total_steps, crop_key(self.experiment))
        elif isinstance(train, Split):
            self._stream = Stream(order, self.parallel.place)

    def compile_meanwhile(self, step: int) -> Callable[[], Any]:
        """Begin to compile the training step, which is to go on from `step`, and return what waits for that."""
        state, window = self.abstract_state(self.parallel.replicated), self.parallel.window({})
        return self.parallel.compile_meanwhile(self.train_step, state, window, self.example_arguments(step))

    def initial_state(self) -> TrainState:
        """Return the state before the first step, replicated over the devices."""
        return self.parallel.place(self.create_state(self.pretrained))

    def arguments(self, step: int) -> tuple:
        """Return what the compiled training step is given at `step`; what is shared by all seeds comes first."""
        if self.streamed:
            where: tuple = (self.parallel.shard(self._fed_batch(step)),)
        else:
            where = self._stream.at(step)
        return self._shared, *where, self._key_data, np.int32(step)

    def _fed_batch(self, step: int) -> dict[str, np.ndarray]:
        """Return this process's rows of a streamed batch."""
        if self._failure is None:
            try:
                batch = self._feed.at(step)
                return {name: batch[name] for name in ("image", "label", "mask")}
            except RunError as error:
                if jax.process_count() == 1:
                    raise
                self._failure = error
        # The other processes would wait for this one: it goes on, with rows that do not count, until all have agreed.
        rows = self.parallel.rows(self.experiment.train.batch_size)
        size = rows.stop - rows.start
        image = np.zeros((size, *self.dataset.train.image_shape), np.uint8)
        return {"image": image, "label": np.zeros(size, np.int32), "mask": np.zeros(size, bool)}

    def example_arguments(self, step: int) -> tuple:
        """Return arguments of the same shapes, without waiting for a streamed batch."""
        if not self.streamed:
            return self.arguments(step)
        rows, image = self.experiment.train.batch_size, self.dataset.train.image_shape
        shapes = {"image": ((rows, *image), np.uint8), "label": ((rows,), np.int32), "mask": ((rows,), np.bool_)}
        batch = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=self.parallel.sharded)
            for name, (shape, dtype) in shapes.items()
        }
        return self._shared, batch, self._key_data, np.int32(step)

    def bad_examples(self) -> dict[str, list[tuple[int, str, str]]]:
        """Return index, name and reason of the examples of each streamed split that turned out to be of no use."""
        streamed = {name: split for name, split in self.dataset.splits().items() if isinstance(split, Reader)}
        found = {
            name: [(index, *bad) for index, bad in sorted(split.unusable.items())] for name, split in streamed.items()
        }
        return {name: bad for name, bad in found.items() if bad}

    def restore_bad_examples(self, found: Mapping[str, Sequence[tuple[int, str, str]]]) -> None:
        """Take up what `bad_examples` returned."""
        splits = self.dataset.splits()
        for name, bad in found.items():
            split = splits[name]
            if isinstance(split, Reader):
                split.restore_unusable({index: Bad(*rest) for index, *rest in bad})

    def close(self) -> None:
        """Stop the threads that make batches."""
        if self.streamed:
            self._feed.close()

    def run_step(self, state: TrainState, window: Window, arguments: tuple) -> tuple[TrainState, Window, jax.Array]:
        """Return what the compiled training step does, where it trains on one device; pure."""
        return self._windowed_step(state, window, self.train_batch(*arguments))

    def train_batch(self, shared, *arguments):
        """Return the training batch of what `arguments` gave; pure, part of the compiled step."""
        (norms, arrays), (*where, key_data, step) = shared, arguments
        data, batch_size = self.experiment.data, self.experiment.train.batch_size
        if arrays is None:
            (batch,) = where
        else:
            perms, offset = where
            batch = gather(arrays, perms, offset, batch_size, data.last_batch)
        return training_batch(batch, step_key(key_data, AUGMENT_KEY, step), norms, data, self.num_classes)

    def learning_rate(self, state: TrainState) -> float:
        """Return the rate that the last update used."""
        return np.asarray(self._learning_rate(state.opt_state, state.step)).item()

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
        from jax.experimental import multihost_utils

        code = -1 if self._failure is not None else self.stop.signum or 0
        codes = multihost_utils.process_allgather(np.int32(code))
        if (codes < 0).any():
            raise self._failure or RunError("another process failed: see its message")
        return int(codes.max()) or None

    def poll(self, number: int) -> None:
        """Raise Stopped on a signal, now and then where several processes are to agree on it."""
        if signum := self.stop_requested(number):
            raise Stopped(signum)

    def evaluate(self, variables: Any, split: Examples) -> Scores:
        """Return the scores over a split, each example counted once.

        Raises:
          Stopped: on a signal, between two batches.
        """
        batch_size = self.parallel.round_up(min(self.experiment.eval.batch_size, len(split)))
        batches, step = eval_batches(split, batch_size), self._fed(self._eval_step)
        return evaluate(step, variables, batches, self.task, split, self.poll)

    def recompute_batch_stats(self, state: TrainState) -> TrainState:
        """Return the state with BatchNorm's statistics exact over the training images, which are not augmented.

        Raises:
          Stopped: on a signal, between two batches.
        """
        if not state.batch_stats:
            return state
        step = make_moments_step(self.model)  # in the global view
        step = self._fed(self.parallel.compile_eval(step, eval_batch))
        batches = whole_batches(self.dataset.train, self.experiment.train.batch_size)
        batch_stats = self.parallel.place(exact_batch_stats(step, state.variables, batches, self.poll))
        return state.replace(batch_stats=batch_stats)  # type: ignore[attr-defined]

    def _fed(self, compiled: Callable) -> Callable:
        """Return a step of `compile_eval` as a function of variables and a batch on the host."""
        return lambda variables, batch: compiled(variables, (batch["image"], batch["label"], batch["mask"], self.norms))


def order_of(experiment: Experiment, examples: int) -> Order:
    """Return the order in which an experiment visits so many training examples."""
    key = jax.random.fold_in(jax.random.key(experiment.seed), SHUFFLE_KEY)
    return Order(key, examples, experiment.train.batch_size, experiment.data.last_batch)


def crop_key(experiment: Experiment) -> tuple[int, int]:
    """Return what the host's random crops are drawn from."""
    # JAX's other generators have keys of four words.
    first, second, *_ = jax.random.key_data(jax.random.fold_in(jax.random.key(experiment.seed), CROP_KEY)).tolist()
    return first, second


def _normalisation(
    experiment: Experiment, examples: Examples, variables: "Variables | None", poll: Callable[[], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation, for pixels in 0..1: the experiment's, its weights' or the images'."""
    data = experiment.data
    preprocessing = None if variables is None else variables.preprocessing
    if preprocessing is None or data.mean is not None or data.std is not None or data.per_pixel_mean:
        return normalisation(data, examples, poll)
    name = f"model.weights {experiment.model.weights}"
    if preprocessing.channels == "BGR":
        raise UsageError(f"{name} expects blue first; images here have red first: give data.mean and data.std to go on")
    unit = 255 * preprocessing.scale
    mean, std = (
        np.asarray(values, np.float32) / np.float32(unit) for values in (preprocessing.mean, preprocessing.std)
    )
    shape = examples.image_shape
    if mean.shape not in (shape, shape[-1:]) or std.shape != shape[-1:]:
        raise UsageError(
            f"{name} subtracts a mean of shape {mean.shape}, the images are {shape}: give data.mean and data.std"
        )
    return mean, std


def _check_parts(batch_size: int, parts: int, devices: int) -> None:
    share = batch_size // devices
    if share % parts:
        nearest = min((n for n in range(1, share + 1) if share % n == 0), key=lambda n: abs(n - parts))
        raise UsageError(
            f"train.accumulation_steps is {parts}: each of {devices} devices has {share} images of a batch, which do "
            f"not divide into as many parts; the nearest number that does is {nearest}"
        )
