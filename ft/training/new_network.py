"""The network of a run at its beginning: random or loaded weights, on the device or shared out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from ft.checkpoint import check_shapes, expected_shapes, is_unused, load_model
from ft.config import ModelConfig
from ft.models.frame_transformer import FrameTransformer
from ft.train_config import TrainConfig
from ft.training.compiling import checkpoint_levels
from ft.training.distributed import Group

logger = logging.getLogger(__name__)

RANK_SEED = 7919
"""Added to the seed once for each process before this one, so that their dropout differs."""


@runtime_checkable
class Fitted(Protocol):
    """A network that knows how its inputs are spread before it learns."""

    wants_fit: bool

    def fit(self, inputs: Tensor) -> None:
        """Fits the network to inputs (batch, channels, bins, frames)."""


def new_network(
    config: ModelConfig,
    train: TrainConfig,
    group: Group,
    source: str | None,
    given: nn.Module | None = None,
    first_inputs: Callable[[], Tensor] | None = None,
) -> nn.Module:
    """The network where it will train: all of it on this process's device, or this process's share of it.

    Args:
        given: taken as it is, instead of a frame transformer.
        source: what to load the weights from, as `train.init_from` has it.
        first_inputs: gives inputs (batch, channels, bins, frames), the same in every process, to which a network that
            wants it is fitted where no weights are loaded.
    Raises:
        CheckpointError: weights that cannot be loaded or do not fit.
    """
    network = given if given is not None else FrameTransformer(config.network)
    if source:
        load_weights(network, source, config)
        if not group.rank:
            logger.info("begins with the weights of %s", source)
    elif first_inputs is not None and isinstance(network, Fitted) and network.wants_fit:
        network.fit(first_inputs())
    if train.checkpoint_gradients:
        checkpoint_levels(network)
    if group.size > 1 and train.parallel == "fsdp":
        group.shard(network)
    if group.rank:
        torch.manual_seed(train.seed + RANK_SEED * group.rank)
    return network.to(group.device)


def load_weights(network: nn.Module, source: str, config: ModelConfig) -> None:
    """Every weight of a checkpoint, an exported .onnx or `default` into `network`.

    Raises:
        CheckpointError: no such file, or tensors that do not fit, which it names.
    """
    weights = load_model(source).state_dict()
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    check_shapes(Path(source), shapes, expected_shapes(config))
    network.load_state_dict(weights)


def has_unused(network: nn.Module, config: ModelConfig) -> bool:
    """Whether there are parameters that never get a gradient."""
    return any(is_unused(name, tuple(value.shape), config) for name, value in network.named_parameters())
