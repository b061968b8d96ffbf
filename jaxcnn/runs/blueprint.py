"""What an experiment turns into, given the shape of its data: nothing compiled, nothing on a device."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.order import batches_per_epoch
from jaxcnn.errors import UsageError
from jaxcnn.experiment import Experiment
from jaxcnn.models import checked_options, create
from jaxcnn.train.loop import Timetable
from jaxcnn.train.optim import make_optimizer
from jaxcnn.train.state import TrainState, create_state, init_key


class Blueprint:
    """Model, optimiser, timetable and the state before the first step."""

    def __init__(
        self,
        experiment: Experiment,
        *,
        examples: int,
        class_names: Sequence[str],
        image_shape: Sequence[int],
    ) -> None:
        """Put the parts together.

        Args:
          experiment: what to build.
          examples: size of the training split.
          class_names: the data set's.
          image_shape: height, width, channels.

        Raises:
          UsageError: a field has a value that cannot be.
        """
        self.experiment = experiment
        self.image_shape = tuple(image_shape)
        self.num_classes = experiment.model.num_classes or len(class_names)
        if self.num_classes < len(class_names):
            raise UsageError(f"model.num_classes is {self.num_classes}: the data set has {len(class_names)} classes")
        name = experiment.model.name
        options = checked_options(name, experiment.model.options)
        self.model = create(name, num_classes=self.num_classes, dtype=experiment.model.dtype, **options)
        self.timetable = _timetable(experiment, examples)
        self.key = jax.random.key(experiment.seed)
        self.images = jax.ShapeDtypeStruct((1, *self.image_shape), jnp.float32)
        self._shapes = jax.eval_shape(self.model.init, self.key, self.images)
        params, total_steps = self._shapes["params"], self.timetable.total_steps
        self.tx = make_optimizer(experiment.optim, experiment.schedule, total_steps, params, experiment.train.frozen)
        ema = experiment.train.ema_decay is not None
        # One program: the optimiser's zeros alone would be one for each shape.
        self._create_state = jax.jit(partial(create_state, self.model, self.tx, images=self.images, ema=ema))

    def create_state(self, variables: Any = None) -> TrainState:
        """Return the state before the first step, from `variables` where they are given."""
        if variables is None:
            variables = self.model.init(init_key(self.key), self.images)
        return self._create_state(key=self.key, variables=variables)

    def abstract_state(self, sharding: jax.sharding.Sharding) -> TrainState:
        """Return the state's shapes, dtypes and sharding: what a checkpoint is restored into."""
        shapes = jax.eval_shape(self._create_state, key=self.key, variables=self._shapes)
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)


def _timetable(experiment: Experiment, examples: int) -> Timetable:
    train, last_batch = experiment.train, experiment.data.last_batch
    epoch = batches_per_epoch(examples, train.batch_size, last_batch)
    if train.steps is not None:
        steps: float = train.steps
    elif last_batch == "continue":
        assert train.epochs is not None
        steps = np.ceil(train.epochs * examples / train.batch_size)  # of whole numbers, where epochs are
    else:
        assert train.epochs is not None
        steps = np.ceil(train.epochs * epoch)
    if steps >= 2**31:
        raise UsageError(f"training for {steps:.3g} steps: expected fewer than 2**31, what a 32-bit counter holds")
    return Timetable(
        total_steps=max(1, int(steps)),
        batch_size=train.batch_size,
        log_every=train.log_every,
        eval_every=experiment.eval.every or max(1, math.ceil(epoch)),
        checkpoint_every=experiment.checkpoint.every,
    )
