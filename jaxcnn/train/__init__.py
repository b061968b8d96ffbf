"""Training: state, step, optimisers, compilation, checkpoints, log, loop; by name, what a loop of one's own needs.

state = create_state(task.init(model, key, batch), tx, key)
step = jaxcnn.jit(make_train_step(model, tx, task), donate_argnums=0)
state, sums = step(state, batch)
"""

from jaxcnn.train.config import CheckpointConfig, EvalConfig, TrainConfig
from jaxcnn.train.evaluate import Scores, evaluate
from jaxcnn.train.optim import make_optimizer
from jaxcnn.train.schedules import make_schedule
from jaxcnn.train.state import TrainState, create_state
from jaxcnn.train.step import make_eval_step, make_train_step

__all__ = [
    "CheckpointConfig",
    "EvalConfig",
    "Scores",
    "TrainConfig",
    "TrainState",
    "create_state",
    "evaluate",
    "make_eval_step",
    "make_optimizer",
    "make_schedule",
    "make_train_step",
]
