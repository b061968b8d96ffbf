"""Runs: an experiment put together, trained into a folder, and read back."""

from jaxcnn.runs.api import Run, evaluate, load_run, resume, run

__all__ = ["Run", "evaluate", "load_run", "resume", "run"]
