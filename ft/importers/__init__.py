"""Weights of other implementations as checkpoints of this one."""
