"""Conv-TasNet (Luo and Mesgarani, "Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude Masking for Speech
Separation", 2019): a learned transform of samples, masks for it from dilated convolutions, and its learned inverse.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from ft.config import ModelConfig, Output, Waveform
from ft.config import Network as Choice
from ft.errors import ConfigError
from ft.models import Sizes
from ft.models.network import SeparationNetwork
from ft.settings import positive


@dataclass(frozen=True)
class Config:
    """The numbers of a Conv-TasNet, with the paper's letters; the defaults are those of its best network."""

    filters: int = 512
    """N, of the transform."""
    length: int = 16
    """L, samples of a filter; each begins half of them behind the one before."""
    bottleneck: int = 128
    """B, channels between the blocks."""
    hidden: int = 512
    """H, channels inside a block."""
    kernel: int = 3
    """P, of the convolutions in blocks."""
    blocks: int = 8
    """X, of which each hears twice as far as the one before,"""
    repeats: int = 3
    """R, and how often they begin anew."""

    def __post_init__(self) -> None:
        positive(self, "filters", "length", "bottleneck", "hidden", "kernel", "blocks", "repeats")
        if self.length % 4:
            raise ConfigError(f"length: {self.length}, expected a multiple of 4")
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel: {self.kernel}, expected an odd number")


class GlobalNorm(nn.GroupNorm):
    """Layer norm over all channels and frames of an item (gLN), in float32: half precision cannot sum that many."""

    def __init__(self, channels: int) -> None:
        super().__init__(1, channels, eps=1e-8)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class Block(nn.Module):
    """A dilated convolution of each channel between two that mix them, added to what it read."""

    def __init__(self, numbers: Config, dilation: int) -> None:
        super().__init__()
        around, hidden, kernel = numbers.bottleneck, numbers.hidden, numbers.kernel
        reach = dilation * (kernel // 2)
        self.layers = nn.Sequential(
            *(nn.Conv1d(around, hidden, 1), nn.PReLU(), GlobalNorm(hidden)),
            nn.Conv1d(hidden, hidden, kernel, padding=reach, dilation=dilation, groups=hidden),
            *(nn.PReLU(), GlobalNorm(hidden), nn.Conv1d(hidden, around, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Network(SeparationNetwork):
    """Estimates the samples of each stem."""

    keeps_float32 = (GlobalNorm,)

    def __init__(self, numbers: Config, sizes: Sizes) -> None:
        """Raises ConfigError: filters that the front end's frames are no multiple of."""
        super().__init__()
        filters, stride = numbers.filters, numbers.length // 2
        if sizes.values % stride:
            raise ConfigError(f"length: {numbers.length}; expected half of it to divide hop_length {sizes.values}")
        self.sizes = sizes
        self.encoder = nn.Conv1d(sizes.reads, filters, numbers.length, stride, stride // 2, bias=False)
        blocks = (Block(numbers, 2**number) for _ in range(numbers.repeats) for number in range(numbers.blocks))
        self.masks = nn.Sequential(
            *(GlobalNorm(filters), nn.Conv1d(filters, numbers.bottleneck, 1), *blocks, nn.PReLU()),
            *(nn.Conv1d(numbers.bottleneck, filters * len(sizes.stems), 1), nn.Sigmoid()),
        )
        self.decoder = nn.ConvTranspose1d(filters, sizes.gives, numbers.length, stride, stride // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Gives samples (batch, [stems,] channels, samples) of those of the mixture (batch, channels, samples)."""
        encoded = F.relu(self.encoder(x.to(self.encoder.weight.dtype)))
        masks = self.masks(encoded).unflatten(1, (len(self.sizes.stems), -1))
        stems = self.decoder((masks * encoded.unsqueeze(1)).flatten(0, 1))
        return self.sizes.by_stem(stems.unflatten(0, (-1, len(self.sizes.stems))).flatten(1, 2))


def tiny() -> ModelConfig:
    """Gives the model of tests: samples of the vocals."""
    numbers = {"filters": 16, "bottleneck": 8, "hidden": 12, "blocks": 2, "repeats": 2}
    return ModelConfig(
        name="tiny-conv-tasnet",
        front=Waveform(hop_length=256),
        output=Output("waveform"),
        network=Choice("conv-tasnet", numbers),
    )
