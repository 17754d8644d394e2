"""Training: the loop, its tasks and losses, its data on the device, its state on disk."""
