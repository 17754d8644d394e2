"""Short training runs of the preset `tiny` on the library in small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ft.config import model_config_from_yaml
from ft.settings import load_yaml, override
from ft.train_config import train_config_from_yaml
from ft.training import utilisation
from ft.training.distributed import Group
from ft.training.log import LOG
from ft.training.trainer import Trainer

utilisation.CPU_SIZE = 64  # each run measures products, of which one in bfloat16 takes seconds on most processors

CPU = torch.device("cpu")
EXACT = ["network.dropout=0", "network.frame_dropout=0"]
"""For comparisons to 1e-5."""


def settings(music: Path, *assignments: str, **train: Any) -> dict:
    """A configuration with epochs of three steps of 2 x 2 items; `train` replaces keys of its section."""
    values = load_yaml("tiny")
    values["train"] = {
        "instrumentals": [str(music / "instrumentals")],
        "vocals": [str(music / "vocals")],
        "stages": [{"frames": 16, "last_epoch": 2, "batch_size": 2, "accumulation": 2}],
        "extra_epochs": 60,
        "epoch_size": 12,
        "warmup_steps": 2,
        "workers": 0,
        "log_every": 1,
        **train,
    }
    return override(values, assignments)


def trainer(folder: Path | None, values: dict, group: Group | None = None) -> Trainer:
    config, train = model_config_from_yaml(values, "test"), train_config_from_yaml(values, "test")
    return Trainer(config, train, folder, group or Group(CPU))


def log_lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [line["train/loss"] for line in log_lines(folder) if "train/loss" in line]
