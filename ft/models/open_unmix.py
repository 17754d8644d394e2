"""Open-Unmix (Stöter, Uhlich, Liutkus, Mitsufuji, "Open-Unmix - A Reference Implementation for Music Source
Separation", 2019): three bidirectional LSTMs over frames, between linear maps.

Modules and tensors are named as in the original, whose 8 893 348 parameters these are at n_fft 4096, hop 1024, two
channels, `hidden` 512 and `read_bins` 1487.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ft.config import ModelConfig, Output, Spectrogram
from ft.config import Network as Choice
from ft.errors import ConfigError
from ft.models import Sizes
from ft.models.network import SeparationNetwork
from ft.settings import positive


@dataclass(frozen=True)
class Config:
    """The numbers of an Open-Unmix; the defaults are those of umxhq."""

    hidden: int = 512
    """Features of a frame between the linear maps; each direction of an LSTM has half of them."""
    layers: int = 3
    read_bins: int | None = None
    """The lowest bins, which the network reads; it gives all. None: all."""
    dropout: float = 0.4
    """Between the LSTMs."""

    def __post_init__(self) -> None:
        positive(self, "hidden", "layers", *(["read_bins"] if self.read_bins is not None else []))
        if self.hidden % 2:
            raise ConfigError(f"hidden: {self.hidden}, expected an even number")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout: {self.dropout}, expected 0 <= x < 1")


class Network(SeparationNetwork):
    """Estimates the magnitudes of one stem: a mask of at least 0 times those of the mixture."""

    wants_fit = True
    keeps_float32 = (nn.LSTM, nn.BatchNorm1d)

    def __init__(self, numbers: Config, sizes: Sizes) -> None:
        """Raises ConfigError: several stems, complex values, or more bins to read than there are."""
        super().__init__()
        if len(sizes.stems) > 1:
            raise ConfigError(
                f"network.kind: open-unmix estimates one stem, not {', '.join(sizes.stems)}; expected kind: several, "
                "with one for each"
            )
        if sizes.parts > 1:
            raise ConfigError("network.kind: open-unmix reads magnitudes, expected front.values: magnitude")
        self.sizes, self.read = sizes, numbers.read_bins or sizes.values
        if self.read > sizes.values:
            raise ConfigError(f"read_bins: {self.read}, expected at most the {sizes.values} of the front end")
        hidden, given = numbers.hidden, sizes.gives * sizes.values
        self.input_mean = nn.Parameter(torch.zeros(self.read))
        self.input_scale = nn.Parameter(torch.ones(self.read))
        self.fc1 = nn.Linear(sizes.reads * self.read, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        dropout = numbers.dropout if numbers.layers > 1 else 0.0
        self.lstm = nn.LSTM(hidden, hidden // 2, numbers.layers, batch_first=True, bidirectional=True, dropout=dropout)
        self.fc2 = nn.Linear(2 * hidden, hidden, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc3 = nn.Linear(hidden, given, bias=False)
        self.bn3 = nn.BatchNorm1d(given)
        self.output_scale = nn.Parameter(torch.ones(sizes.values))
        self.output_mean = nn.Parameter(torch.ones(sizes.values))

    @torch.no_grad()
    def fit(self, inputs: Tensor) -> None:
        """Brings each bin that is read to mean 0 and deviation 1, as the original's training does."""
        seen = inputs[:, :, : self.read]
        deviation = seen.std((0, 1, 3))
        self.input_mean.copy_(-seen.mean((0, 1, 3)))
        self.input_scale.copy_(1 / deviation.clamp_min(1e-4 * deviation.max()).clamp_min(1e-8))

    def forward(self, x: Tensor) -> Tensor:
        """Gives magnitudes (batch, channels, bins, frames) of those of the mixture."""
        mixture = x[:, : self.sizes.gives]
        x = x[:, :, : self.read].to(self.fc1.weight.dtype).transpose(2, 3)
        x = ((x + self.input_mean) * self.input_scale).transpose(1, 2).flatten(2)  # (batch, frames, channels * bins)
        x = torch.tanh(self._normed(self.bn1, self.fc1(x)))
        # In float32: the recurrence of half precision has no fast kernel on a CPU.
        with torch.autocast(x.device.type, enabled=False):
            recurrent, _ = self.lstm(x.float())
        x = F.relu(self._normed(self.bn2, self.fc2(torch.cat((x, recurrent.to(x.dtype)), dim=-1))))
        x = self._normed(self.bn3, self.fc3(x)).unflatten(2, (self.sizes.gives, self.sizes.values))
        return F.relu(x * self.output_scale + self.output_mean).permute(0, 2, 3, 1) * mixture

    @staticmethod
    def _normed(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
        """Batch norm over all frames of (batch, frames, features), in float32 as its running statistics are."""
        return norm(x.flatten(0, 1).float()).reshape(x.shape).to(x.dtype)


def tiny() -> ModelConfig:
    """Gives the model of tests: magnitudes of the vocals."""
    return ModelConfig(
        name="tiny-open-unmix",
        front=Spectrogram(n_fft=512, hop_length=256),
        output=Output("magnitude"),
        network=Choice("open-unmix", {"hidden": 16, "layers": 2, "read_bins": 180}),
    )
