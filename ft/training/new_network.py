"""The network of a run at its beginning: random or loaded weights, on the device or shared out."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import nn

from ft.checkpoint import check_shapes, load_model
from ft.config import ModelConfig
from ft.data.items import Items
from ft.data.loading import collate
from ft.models import make_network
from ft.models.network import SeparationNetwork
from ft.models.signal import Signal
from ft.train_config import TrainConfig
from ft.training.compiling import checkpoint_levels
from ft.training.distributed import Group
from ft.training.tasks import mixture_of

logger = logging.getLogger(__name__)

FIT_ITEMS = 64
"""By which a network that wants it is fitted to its inputs."""
RANK_SEED = 7919
"""Added to the seed once for each process before this one, so that their dropout differs."""


def new_network(
    config: ModelConfig,
    train: TrainConfig,
    group: Group,
    source: str | None,
    items: Items | None = None,
) -> SeparationNetwork:
    """Gives the network where it will train: all of it on this process's device, or this process's share of it.

    Args:
        source: what to load the weights from, as `train.init_from` has it.
        items: to which a network that wants it is fitted where no weights are loaded.
    Raises:
        CheckpointError: weights that cannot be loaded or do not fit.
    """
    network = make_network(config)
    if source:
        load_weights(network, source)
        if not group.rank:
            logger.info("begins with the weights of %s", source)
    elif items is not None and network.wants_fit:
        frames, signal = train.stages[0].frames, Signal(config)
        batch = collate([items.item(0, index, frames) for index in range(FIT_ITEMS)])
        network.fit(signal.inputs(*mixture_of(batch, signal)))
    if train.checkpoint_gradients:
        checkpoint_levels(network)
    if group.size > 1 and train.parallel == "fsdp":
        group.shard(network)
    if group.rank:
        torch.manual_seed(train.seed + RANK_SEED * group.rank)
    return network.to(group.device)


def load_weights(network: nn.Module, source: str) -> None:
    """Every weight of a checkpoint, an exported .onnx or `default` into `network`.

    Raises:
        CheckpointError: no such file, or tensors that do not fit, which it names.
    """
    weights = load_model(source).state_dict()
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    check_shapes(Path(source), shapes, {name: tuple(value.shape) for name, value in network.state_dict().items()})
    network.load_state_dict(weights)


def has_unused(network: SeparationNetwork) -> bool:
    """Says whether there are parameters that never get a gradient."""
    return any(network.is_unused(name) for name, _ in network.named_parameters())
