"""The folder of a training run: its description, its models and what `--resume` needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft import __version__
from ft.checkpoint import save_checkpoint
from ft.config import ModelConfig, plain
from ft.files import atomic_write, check_writable
from ft.train_config import TrainConfig

if TYPE_CHECKING:
    from ft.training.averaging import WeightAverage
    from ft.training.distributed import Group

STATE, LAST, BEST, DESCRIPTION = "state.safetensors", "last.safetensors", "best.safetensors", "config.json"


class RunFolder:
    """Where one run is kept. The first of its processes writes, and all of them call what gathers a sharded network.

    Args:
        path: made where it is missing, by what is written first; None: nothing is kept.
        models: whether models are kept; a network that is not `config`'s has its state only.
    Raises:
        FtError: it cannot be written.
    """

    def __init__(
        self, path: Path | None, config: ModelConfig, train: TrainConfig, group: Group, models: bool = True
    ) -> None:
        self.models = models
        self.path, self.config, self.train, self.group = path, config, train, group
        if path is not None:
            check_writable(path / STATE)

    @property
    def writable(self) -> Path | None:
        """The folder for the process that writes; None for the others."""
        return None if self.group.rank else self.path

    def describe(self) -> None:
        """Writes what the run is: versions, device and the whole configuration."""
        if self.writable is None:
            return
        import torch

        description = {
            "ft": __version__,
            "torch": torch.__version__,
            "device": str(self.group.device),
            "processes": self.group.size,
            "model": self.config.to_dict(),
            "train": plain(asdict(self.train)),
        }
        with atomic_write(self.writable / DESCRIPTION) as part:
            part.write_text(json.dumps(description, indent=1), encoding="utf-8")

    def save_model(self, name: str, average: WeightAverage, step: int, scores: Mapping[str, float]) -> None:
        """Writes the averaged weights as a checkpoint."""
        if self.path is None or not self.models:
            return
        from ft.training.state import whole_copies

        weights = whole_copies(average.state(), self.group)
        if self.writable is not None:
            facts: dict[str, Any] = {"step": step, "scores": dict(scores), "train": plain(asdict(self.train))}
            save_checkpoint(self.writable / name, weights, self.config, {"ft_train": json.dumps(facts)})
