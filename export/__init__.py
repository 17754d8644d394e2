"""Turning checkpoints into files that engines run."""
