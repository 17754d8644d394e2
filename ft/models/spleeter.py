"""The U-Nets of Spleeter (Hennequin, Khlif, Voituret, Moussallam, "Spleeter: a fast and efficient music source
separation tool with pre-trained models", 2020; the network is that of Jansson et al., "Singing Voice Separation with
Deep U-Net Convolutional Networks", 2017): one for each stem, whose magnitudes the output turns into ratio masks.

They run over (bins, frames) where the original runs over (frames, bins); its kernels are transposed when they are read.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ft.config import ModelConfig, Output, Segment, Spectrogram
from ft.config import Network as Choice
from ft.errors import ConfigError
from ft.models import Sizes
from ft.models.network import SeparationNetwork

KERNEL = 5
LEAK = 0.2


@dataclass(frozen=True)
class Config:
    """The numbers of Spleeter's networks; the defaults are those of the model of two stems."""

    filters: tuple[int, ...] = (16, 32, 64, 128, 256, 512)
    """Channels behind each convolution that halves bins and frames, from the outermost on."""
    activation: Literal["relu", "elu"] = "relu"
    """`relu`, leaky on the way down; the models of four and five stems have `elu` both ways."""
    across: Literal["sigmoid", "softmax"] = "sigmoid"
    """What makes the factors of the mixture: each stem's by itself, or, with five stems, all of them together."""

    def __post_init__(self) -> None:
        if not self.filters or min(self.filters) < 1:
            raise ConfigError(f"filters: {list(self.filters)}, expected one or more numbers of at least 1")


class Affine(nn.Module):
    """A gain and a shift for each channel: the original's batch norms, whose statistics stayed at 0 and 1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = torch.zeros_like(self.bias), torch.ones_like(self.bias)
        return F.batch_norm(x, mean, variance, self.weight, self.bias, eps=0.0)  # one node, one pass over memory


class UNet(nn.Module):
    """Halves bins and frames once for each number of `filters`, and doubles them again."""

    def __init__(self, channels: int, numbers: Config) -> None:
        super().__init__()
        down = numbers.filters
        up = (*down[-2::-1], 1)
        reads = (down[-1], *(2 * width for width in up[:-1]))  # beside what came on the way down
        self.down = nn.ModuleList(nn.Conv2d(*pair, KERNEL, 2) for pair in itertools.pairwise((channels, *down)))
        self.down_gains = nn.ModuleList(Affine(width) for width in down[:-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(*pair, KERNEL, 2, padding=1) for pair in zip(reads, up, strict=True))
        self.up_gains = nn.ModuleList(Affine(width) for width in up)
        self.last = nn.Conv2d(1, channels, 4, dilation=2, padding=3)
        self.is_elu = numbers.activation == "elu"

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, bins, frames) to the same, before a sigmoid."""
        skips = []
        for conv, gain in zip(self.down[:-1], self.down_gains, strict=True):
            skips.append(conv(F.pad(x, (1, 2, 1, 2))))
            raised = gain(skips[-1])
            x = F.elu(raised) if self.is_elu else F.leaky_relu(raised, LEAK)
        x = self.down[-1](F.pad(x, (1, 2, 1, 2)))
        for number, (conv, gain) in enumerate(zip(self.up, self.up_gains, strict=True)):
            x = conv(torch.cat((skips.pop(), x), dim=1) if number else x)[..., :-1, :-1]
            x = gain(F.elu(x) if self.is_elu else F.relu(x))
        return self.last(x)


class Network(SeparationNetwork):
    """Estimates the magnitudes of each stem: a factor times those of the mixture."""

    def __init__(self, numbers: Config, sizes: Sizes) -> None:
        """Raises ConfigError: complex values."""
        super().__init__()
        if sizes.parts > 1:
            raise ConfigError("network.kind: spleeter reads magnitudes, expected front.values: magnitude")
        self.sizes, self.is_shared = sizes, numbers.across == "softmax"
        self.stems: Any = nn.ModuleList(UNet(sizes.reads, numbers) for _ in sizes.stems)

    def forward(self, x: Tensor) -> Tensor:
        """Gives magnitudes (batch, [stems,] channels, bins, frames) of those of the mixture."""
        seen = x.to(self.stems[0].last.weight.dtype)
        found = torch.stack([network(seen) for network in self.stems], dim=1)
        factors = found.softmax(dim=1) if self.is_shared else found.sigmoid()
        return self.sizes.by_stem((factors.to(x.dtype) * x.unsqueeze(1)).flatten(1, 2))


def tiny() -> ModelConfig:
    """Gives the model of tests: ratio masks of vocals and drums, three halvings."""
    return ModelConfig(
        name="tiny-spleeter",
        stems=("vocals", "drums"),
        rest=None,
        front=Spectrogram(n_fft=256, hop_length=128, bins=64, scale="none", ends="zeros"),
        output=Output("magnitude", combine="ratio"),
        segment=Segment(context=0.02, frames=64),
        network=Choice("spleeter", {"filters": [4, 6, 8]}),
    )
