"""The optimizer of a run."""

from __future__ import annotations

from typing import Any

import torch

from ft.train_config import TrainConfig

FUSED = ("adam", "adamw", "sgd")
"""torch has one kernel for all weights of these, on CPUs and NVIDIA GPUs: a third of the time, equal results."""


def make_optimizer(train: TrainConfig, network: torch.nn.Module) -> torch.optim.Optimizer:
    """The optimizer that `train.optimizer` names, over all parameters of `network`, which lie where they will train."""
    parameters = list(network.parameters())
    options = _options(train, sharded=any(hasattr(parameter, "device_mesh") for parameter in parameters))
    kinds: dict[str, Any] = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "radam": torch.optim.RAdam,
        "rmsprop": torch.optim.RMSprop,
    }
    return kinds[train.optimizer](parameters, **options)


def _options(train: TrainConfig, sharded: bool) -> dict[str, Any]:
    options: dict[str, Any] = {"lr": train.learning_rate, "weight_decay": train.weight_decay}
    if train.optimizer == "sgd":
        options |= {"momentum": 0.9, "nesterov": True}
    if train.optimizer in FUSED and not (sharded and train.optimizer == "sgd"):  # which torch cannot for shards
        options["fused"] = True
    return options
