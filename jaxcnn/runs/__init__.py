"""Runs: an experiment put together, trained into a folder, and read back."""

from jaxcnn.runs.api import evaluate, resume, run
from jaxcnn.runs.loaded import Run, load_run
from jaxcnn.runs.seeds import run_seeds
from jaxcnn.runs.trainer import Trainer

__all__ = ["Run", "Trainer", "evaluate", "load_run", "resume", "run", "run_seeds"]
