"""The training loop that every task shares: steps, checkpoints, logs, optimizers."""
