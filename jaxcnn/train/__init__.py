"""Training: state, step, optimisers, compilation, checkpoints, log, loop."""
