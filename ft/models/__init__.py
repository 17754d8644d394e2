"""The networks, by kind.

Each kind is a module with `Config`, a frozen dataclass of its numbers; `Network`, a `SeparationNetwork`, made of these
and of `Sizes`; and `tiny()`, the `ModelConfig` of a small one for tests. This file imports no torch.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

from ft.config import ModelConfig, Spectrogram
from ft.errors import ConfigError
from ft.settings import build, plain

if TYPE_CHECKING:
    from torch import Tensor

    from ft.models.network import SeparationNetwork

NETWORKS = {
    "frame-transformer": "ft.models.frame_transformer",
    "open-unmix": "ft.models.open_unmix",
    "bs-roformer": "ft.models.bs_roformer",
    "conv-tasnet": "ft.models.conv_tasnet",
    "spleeter": "ft.models.spleeter",
    "several": "ft.models.several",
}
DENOISING = ("frame-transformer",)
"""Kinds that can be pre-trained by the noise that is added to their input: they have `prepared`."""


@dataclass(frozen=True)
class Sizes:
    """What a network has to fit: the axes of what it reads and gives."""

    reads: int
    """Channels of its input, real and imaginary parts counted."""
    gives: int
    """Channels of its output for each stem."""
    stems: tuple[str, ...]
    values: int
    """Bins of a frame, or samples of one in front of a waveform network."""
    parts: int = 1
    """Real numbers of each value that is read."""
    sample_rate: int = 44100
    activation: Literal["sigmoid", "relu", "none"] = "none"
    """What follows the network (`Output.activation`)."""

    @classmethod
    def of(cls, config: ModelConfig) -> Sizes:
        """Gives those of a model."""
        front, channels = config.front, config.channels
        parts, values = (front.parts, front.used_bins) if isinstance(front, Spectrogram) else (1, front.hop_length)
        return cls(
            channels * parts,
            channels * config.output.parts,
            config.stems,
            values,
            parts,
            config.sample_rate,
            config.output.activation or "none",
        )

    def by_stem(self, x: Tensor) -> Tensor:
        """Gives (batch, channels of all stems, ...) the axis of stems that a network's output has where they are many.

        >>> import torch
        >>> Sizes(1, 2, ("vocals", "drums"), 8).by_stem(torch.zeros(1, 4, 8, 3)).shape
        torch.Size([1, 2, 2, 8, 3])
        """
        return x.unflatten(1, (len(self.stems), self.gives)) if len(self.stems) > 1 else x


def module_of(kind: str) -> ModuleType:
    """Imports the module of a kind of network. Raises ConfigError for an unknown kind."""
    if kind not in NETWORKS:
        raise ConfigError(f"network.kind: {kind!r}, expected {', '.join(NETWORKS)}")
    return importlib.import_module(NETWORKS[kind])


def numbers_of(config: ModelConfig) -> Any:
    """Gives the numbers of a model's network as the `Config` of its kind. Raises ConfigError."""
    return build(module_of(config.network.kind).Config, config.network.numbers, "network")


def make_network(config: ModelConfig) -> SeparationNetwork:
    """Makes the network of a model with random weights. Raises ConfigError for numbers that do not fit."""
    return module_of(config.network.kind).Network(numbers_of(config), Sizes.of(config))


def completed(config: ModelConfig) -> ModelConfig:
    """Gives the configuration with every number of its network, also those left at their defaults.

    So it is written into files, which mean the same when a default has changed. Raises ConfigError.
    """
    numbers = plain(dataclasses.asdict(numbers_of(config)))
    return dataclasses.replace(config, network=dataclasses.replace(config.network, numbers=numbers))


def count_parameters(config: ModelConfig) -> int:
    """Counts the trainable values of a model's network without taking memory for them. Raises ConfigError."""
    import torch

    with torch.device("meta"):
        return sum(parameter.numel() for parameter in make_network(config).parameters())
