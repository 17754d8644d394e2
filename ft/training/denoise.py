"""Pre-training by denoising (B.1): the network says what noise was added to its input.

Two steps of one trainer: `train.task: denoise`, then a separation run with `train.init_from:`. Both networks are the
same, so that every weight is handed over.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ft.config import ModelConfig
from ft.data.loading import Batch
from ft.models import make_network
from ft.models.signal import Signal
from ft.train_config import Denoise, TrainConfig
from ft.training.losses import Loss
from ft.training.tasks import Autocast, Network, mixture_of


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


def silent_loss(options: Denoise) -> float:
    """Gives what an estimate of no noise scores in training: E |e| = sigma sqrt(2 / pi).

    >>> round(silent_loss(Denoise(sigma=0.4)), 4)
    0.3192
    """
    return options.sigma * math.sqrt(2 / math.pi)
