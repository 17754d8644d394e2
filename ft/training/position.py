"""Says where a training run stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ft.train_config import TrainConfig


@dataclass
class Position:
    """Says where a run stands."""

    epoch: int = 0
    items: int = 0
    """Items of this epoch that are done, by all processes."""
    step: int = 0
    """Optimizer steps done."""
    best: float = float("-inf")
    """Best validation score so far; higher is better."""
    stale: int = 0
    """Validations since then."""
    validated: int = -1
    """Step of the last validation."""

    @classmethod
    def saved(cls, values: Mapping[str, Any], train: TrainConfig, processes: int) -> Position:
        """The position that was saved, at the beginning of a micro-batch: where batches are of another size now, items
        are left out and none comes twice.

        Args:
            values: its fields; older states count micro-batches of one process, `batch`, and not items.
        """
        values = dict(values)
        stage = train.stage(values["epoch"])
        if "batch" in values:
            values["items"] = values.pop("batch") * stage.batch_size
        together = stage.batch_size * processes
        return cls(**{**values, "items": -(-values["items"] // together) * together})
