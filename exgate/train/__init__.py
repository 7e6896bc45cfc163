"""Training: the loop, the optimizer and its schedules, checkpoints, and the record of a run."""
