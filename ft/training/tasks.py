"""What a run trains: separation, or the denoising that comes before it.

A task turns a batch of waveforms into a loss by way of a network that it only calls. The network may be wrapped (for
several GPUs) or compiled, so that nothing else is asked of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from ft.config import ModelConfig
from ft.data.loading import Batch
from ft.models import make_network
from ft.models.signal import Level, Signal, activated
from ft.stems import recipe
from ft.train_config import Denoise, TrainConfig
from ft.training.checks import check_task
from ft.training.losses import Loss, Objective

Network = Callable[..., Tensor]
"""A network of `ft.models`, before its activation."""
Autocast = Callable[[], AbstractContextManager]
"""Makes the context in which the network, and only the network, runs."""


class Task(Protocol):
    """What a run trains."""

    name: str
    separates: bool
    """Whether the network gives stems, so that songs can be separated and scored."""

    def loss(self, network: Network, batch: Batch, autocast: Autocast) -> Loss:
        """The objective of a batch, to be differentiated. Its mean over micro-batches of equal size is that of the
        large batch."""
        ...

    def validation_loss(self, network: Network, batch: Batch, autocast: Autocast, index: int = 0) -> Loss:
        """Gives what is followed in validation. Random numbers of the training run are neither drawn nor moved.

        Args:
            index: of the item in its set; what is drawn for it follows from this, the same at every validation.
        """
        ...


def make_task(train: TrainConfig, config: ModelConfig) -> Task:
    """Gives the task that `train.task` names. Raises ConfigError where it does not go with the model (`check_task`)."""
    check_task(config, train)
    return DenoiseTask(train, config) if train.task == "denoise" else SeparationTask(train, config)


class SeparationTask:
    """The network gives the stems of the mixture, or the masks that make them."""

    name = "separate"
    separates = True

    def __init__(self, train: TrainConfig, config: ModelConfig) -> None:
        self.config, self.signal = config, Signal(config)
        self.objective = Objective(config, train.losses)

    def loss(self, network: Network, batch: Batch, autocast: Autocast) -> Loss:
        """Gives the weighted losses of `train.losses`."""
        mixture, level = mixture_of(batch, self.signal)
        targets = self.signal.transformed(true_stems(batch, self.config.stems))
        x = self.signal.inputs(mixture, level)
        with autocast():
            result = network(x)
        result = activated(result, self.config.output)
        return Loss.from_parts(self.objective.parts(result, targets, mixture, level))

    def validation_loss(self, network: Network, batch: Batch, autocast: Autocast, index: int = 0) -> Loss:
        """Gives `loss` of a batch of validation; nothing is drawn for it."""
        return self.loss(network, batch, autocast)


def true_stems(batch: Batch, names: Sequence[str]) -> Tensor:
    """Gives waveforms (batch, stems, channels, samples) of these names, made of what the batch has."""
    recipes = (recipe(name, batch.stems) for name in names)
    sums = (torch.stack([sign * batch.stems[name] for name, sign in signs.items()]).sum(0) for signs in recipes)
    return torch.stack([*sums], dim=1)


def mixture_of(batch: Batch, signal: Signal) -> tuple[Tensor, Level]:
    """Gives the signal of a batch's mixture, and its level: that of its tracks, or of the crops where they are louder.

    What is scaled by a peak or deviation is scaled further by the headroom of each item.
    """
    mixture = signal.transformed(batch.mixture)
    level, rule = signal.level(mixture), signal.front.scale
    if rule == "none" or not isinstance(rule, str):
        return mixture, level
    scale = torch.maximum(level.scale, batch.peak) if rule == "track-peak" else level.scale
    return mixture, Level(scale * batch.headroom, level.mean)


class DenoiseTask:
    """The network gives the noise; what a batch holds of music is its mixture, with vocals or without.

    In training, noise is drawn from the device's default generator, which `ft.training.state` saves beside the weights;
    in validation from one of each item's own, so that each validation sees the same noise and each item another.
    """

    name = "denoise"
    separates = False

    def __init__(self, train: TrainConfig, config: ModelConfig) -> None:
        self.options, self.seed, self.signal = train.denoise, train.seed, Signal(config)
        with torch.device("meta"):
            self.prepared: Callable[[Tensor], Tensor] = make_network(config).prepared  # type: ignore[assignment]

    def loss(self, network: Network, batch: Batch, autocast: Autocast) -> Loss:
        """Mean of | f(x) - noise |."""
        return self._loss(network, batch, autocast, None, 1.0)

    def validation_loss(self, network: Network, batch: Batch, autocast: Autocast, index: int = 0) -> Loss:
        """Half of `loss`, which is what | (f(x) + 1) / 2 - (noise + 1) / 2 | comes to."""
        generator = torch.Generator(batch.peak.device).manual_seed(self.seed + index)
        return self._loss(network, batch, autocast, generator, 0.5)

    def _loss(
        self,
        network: Network,
        batch: Batch,
        autocast: Autocast,
        generator: torch.Generator | None,
        weight: float,
    ) -> Loss:
        clean = self.prepared(self.signal.inputs(*mixture_of(batch, self.signal)))
        noisy, noise = add_noise(clean, self.options, generator)
        with autocast():
            estimate = network(noisy, prepared=True)
        distance = (estimate.float() - noise).abs().mean((1, 2, 3))
        return Loss.from_parts({"noise_l1": weight * distance})


def add_noise(clean: Tensor, options: Denoise, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """sqrt(gamma) x + sqrt(1 - gamma) e and e, of the shape of x, with e drawn from N(0, sigma^2) for each value."""
    noise = torch.empty_like(clean).normal_(0, options.sigma, generator=generator)
    return math.sqrt(options.gamma) * clean + math.sqrt(1 - options.gamma) * noise, noise
