"""The steps of a run: how many there are, and their learning rate, as the original's trainer has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ft.train_config import Stage, TrainConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then polynomial decay. At optimizer step t (from 0), with N = warmup_steps, D = N + decay_steps:

    t <= N: base (t + 1) / (N + 1). After it: (base - target) (1 - (t - N) / (D - N))^power + target, and target
    from step D on; the original lets the rate fall below zero there.
    """

    base: float
    warmup_steps: int
    decay_steps: int
    target: float = 1e-12
    power: float = 1.0

    def __call__(self, step: int) -> float:
        """Gives the rate at `step`.

        >>> rates = Schedule(base=1e-4, warmup_steps=10, decay_steps=20)
        >>> [f"{rates(step):.3g}" for step in (0, 1, 10, 11, 29, 30, 99)]
        ['9.09e-06', '1.82e-05', '0.0001', '9.5e-05', '5e-06', '1e-12', '1e-12']
        """
        if step <= self.warmup_steps:
            return self.base * (step + 1) / (self.warmup_steps + 1)
        left = max(0.0, 1 - (step - self.warmup_steps) / max(self.decay_steps, 1))
        return (self.base - self.target) * left**self.power + self.target


def planned(train: TrainConfig, items_per_epoch: int, processes: int) -> Iterator[tuple[Stage, int]]:
    """Gives the stages and how many steps the whole run takes in each; those past `max_steps` are left out."""
    left, done = train.max_steps, 0
    for stage in train.stages:
        last = train.epochs if stage is train.stages[-1] else stage.last_epoch
        steps = (last - done) * (items_per_epoch // (stage.items * processes))
        if left is not None and left <= 0:
            return
        yield stage, steps if left is None else min(steps, left)
        done, left = last, None if left is None else left - steps
