"""What a run trains: separation, or the denoising that comes before it.

A task turns a batch of waveforms into a loss by way of a network that it only calls. The network may be wrapped (for
several GPUs) or compiled, so that nothing else is asked of it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from torch import Tensor

from ft.config import ModelConfig
from ft.data.batches import Waveforms, batch_from_waveforms, mask_from_logits, network_input
from ft.train_config import TrainConfig
from ft.training.checks import check_crops
from ft.training.losses import Loss, separation_parts

Network = Callable[[Tensor], Tensor]
"""Turns what `ft.data.batches.network_input` gives into logits of that shape."""
Autocast = Callable[[], AbstractContextManager]
"""Makes the context in which the network, and only the network, runs."""


class Task(Protocol):
    """What a run trains."""

    name: str
    needs_vocals: bool
    """Whether there have to be vocals, or pairs that hold them."""
    separates: bool
    """Whether the network gives a mask, so that songs can be separated and scored."""

    def loss(self, network: Network, waveforms: Waveforms, autocast: Autocast) -> Loss:
        """The objective of a batch, to be differentiated. Its mean over micro-batches of equal size is that of the
        large batch."""
        ...

    def validation_loss(self, network: Network, waveforms: Waveforms, autocast: Autocast, index: int = 0) -> Loss:
        """What is followed in validation. Random numbers of the training run are neither drawn nor moved.

        Args:
            index: of the item in its set; what is drawn for it follows from this, the same at every validation.
        """
        ...


def make_task(train: TrainConfig, config: ModelConfig) -> Task:
    """The task that `train.task` names."""
    if train.task == "denoise":
        from ft.training.denoise import DenoiseTask

        return DenoiseTask(train, config)
    return SeparationTask(train, config)


class SeparationTask:
    """The network gives the mask of one stem of the mixture (A.6)."""

    name = "separate"
    needs_vocals = True
    separates = True

    def __init__(self, train: TrainConfig, config: ModelConfig) -> None:
        """Raises ConfigError: a window of a loss is longer than a crop."""
        self.weights, self.config = train.losses, config
        check_crops(config.audio, train)

    def loss(self, network: Network, waveforms: Waveforms, autocast: Autocast) -> Loss:
        """The weighted losses of `train.losses`."""
        batch = batch_from_waveforms(waveforms, self.config)
        mask = self.mask(network, batch.mixture, batch.scale, autocast)
        return Loss.from_parts(separation_parts(mask, batch, self.weights, self.config.audio))

    def validation_loss(self, network: Network, waveforms: Waveforms, autocast: Autocast, index: int = 0) -> Loss:
        """Gives `loss` of a batch of validation; nothing is drawn at random for it."""
        return self.loss(network, waveforms, autocast)

    def mask(self, network: Network, mixture: Tensor, scale: Tensor, autocast: Autocast) -> Tensor:
        """The mask of a complex spectrogram (batch, channels, bins, frames), one `scale` for each item.

        It is float32 in 0..1, or complex64 where `model.mask` says so.
        """
        x = network_input(mixture, scale, self.config)
        with autocast():
            logits = network(x)
        return mask_from_logits(logits, self.config)
