"""Networks of others, restated from their papers, to be trained and scored as ours is (`bench.contest`).

Each takes what `ft.data.batches.network_input` gives, (batch, channels, bins, frames), and returns logits of that
shape, so that the same task, losses and validation hold for all.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ft.config import ModelConfig


class OpenUnmix(nn.Module):
    """Open-Unmix (Stöter, Uhlich, Liutkus, Mitsufuji 2019): three bidirectional LSTMs over frames, between two linears.

    8.9 million parameters at the original's 4096-point transform and a hidden width of 512, of which the network reads
    1487 bins and masks 2049. Here it reads and masks `config.audio.bins`, and the mask is a sigmoid instead of a
    rectifier, so that the losses of this project hold.
    """

    def __init__(self, config: ModelConfig, hidden: int = 512, layers: int = 3) -> None:
        super().__init__()
        channels, bins = config.audio.channels, config.audio.bins
        self.shift = nn.Parameter(torch.zeros(bins))
        self.scale = nn.Parameter(torch.ones(bins))
        self.fc1 = nn.Linear(channels * bins, hidden, bias=False)
        self.bn1 = nn.BatchNorm1d(hidden)
        dropout = 0.4 if layers > 1 else 0.0
        self.lstm = nn.LSTM(hidden, hidden // 2, layers, batch_first=True, bidirectional=True, dropout=dropout)
        self.fc2 = nn.Linear(2 * hidden, hidden, bias=False)
        self.bn2 = nn.BatchNorm1d(hidden)
        self.fc3 = nn.Linear(hidden, channels * bins, bias=False)
        self.bn3 = nn.BatchNorm1d(channels * bins)
        self.out_scale = nn.Parameter(torch.ones(bins))
        self.out_shift = nn.Parameter(torch.zeros(bins))

    wants_fit = True

    @torch.no_grad()
    def fit(self, inputs: Tensor) -> None:
        """Sets the scale of each bin by inputs (batch, channels, bins, frames), as the original's training does."""
        mean, deviation = inputs.mean((0, 1, 3)), inputs.std((0, 1, 3))
        self.shift.copy_(-mean)
        self.scale.copy_(1 / deviation.clamp_min(1e-4 * deviation.max()))

    def forward(self, x: Tensor) -> Tensor:
        channels, bins = x.shape[1:3]
        x = (x.transpose(2, 3) + self.shift) * self.scale
        x = self._normed(self.bn1, self.fc1(x.transpose(1, 2).flatten(2)))
        x = torch.tanh(x)
        # In float32: the recurrence of half precision has no fast kernel on a CPU.
        with torch.autocast(x.device.type, enabled=False):
            recurrent, _ = self.lstm(x.float())
        x = F.relu(self._normed(self.bn2, self.fc2(torch.cat((x, recurrent), dim=-1))))
        x = self._normed(self.bn3, self.fc3(x)).unflatten(2, (channels, bins))
        return (x * self.out_scale + self.out_shift).permute(0, 2, 3, 1)

    @staticmethod
    def _normed(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
        """Batch norm over all frames of (batch, frames, features)."""
        return norm(x.flatten(0, 1)).reshape(x.shape)


def band_edges(bins: int, bands: int) -> list[int]:
    """Bins at which bands begin, and the last one's end: of about equal width in mel, each of at least two bins.

    >>> band_edges(32, 4)
    [0, 5, 12, 20, 32]
    """
    top = math.log1p(bins / 16)
    wanted = [16 * math.expm1(top * band / bands) for band in range(bands + 1)]
    edges = [0]
    for band in range(1, bands):
        edges.append(min(max(round(wanted[band]), edges[-1] + 2), bins - 2 * (bands - band)))
    return [*edges, bins]


class RootMeanSquareNorm(nn.RMSNorm):
    """In the precision of its input, for which there are fused kernels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Self-attention with rotary positions (Su et al. 2021) and a gate for each head, behind an RMS norm."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.norm = RootMeanSquareNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.gates = nn.Linear(width, heads)
        self.out = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(sequences, positions, width)."""
        x = self.norm(x)
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4)
        attended = self._attend(self._turn(query), self._turn(key), value)
        attended = attended * self.gates(x).sigmoid().transpose(1, 2).unsqueeze(-1)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Written out where that trains faster, as in ours (`ft.models.frame_transformer`).
        if self.training and query.device.type == "cpu":
            scores = (query / math.sqrt(self.head_width)) @ key.transpose(-1, -2)
            return torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype) @ value
        return F.scaled_dot_product_attention(query, key, value)

    def _turn(self, x: Tensor) -> Tensor:
        half = self.head_width // 2
        rate = 10000.0 ** (-torch.arange(half, device=x.device) / half)
        angle = torch.arange(x.shape[2], device=x.device)[:, None] * rate
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        first, second = x[..., :half], x[..., half:]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class FeedForward(nn.Sequential):
    """Norm, widening, GELU, narrowing."""

    def __init__(self, width: int, expansion: int = 4) -> None:
        super().__init__(
            RootMeanSquareNorm(width),
            nn.Linear(width, expansion * width),
            nn.GELU(),
            nn.Linear(expansion * width, width),
        )


class BsRoformer(nn.Module):
    """Band-split RoPE transformer (Lu, Wang, Kong, Hung 2023): bands of a complex spectrum become tokens, transformers
    go along time and along bands in turn, and each band's tokens become its complex mask.

    The paper's network has 12 such pairs of width 384 and 62 bands; this one is small.
    """

    def __init__(
        self,
        config: ModelConfig,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
        head_width: int = 16,
        bands: int = 32,
    ) -> None:
        super().__init__()
        self.edges = band_edges(config.audio.bins, bands)
        self.parts = 2 * config.audio.channels
        sizes = [self.parts * (stop - start) for start, stop in itertools.pairwise(self.edges)]
        self.split = nn.ModuleList(nn.Sequential(RootMeanSquareNorm(size), nn.Linear(size, width)) for size in sizes)
        self.attentions = nn.ModuleList(Attention(width, heads, head_width) for _ in range(2 * depth))
        self.feed_forwards = nn.ModuleList(FeedForward(width) for _ in range(2 * depth))
        self.norm = RootMeanSquareNorm(width)
        self.masks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 4 * width), nn.Tanh(), nn.Linear(4 * width, 2 * size), nn.GLU())
            for size in sizes
        )

    def forward(self, x: Tensor) -> Tensor:
        parts = x.shape[1]
        x = x.permute(0, 3, 2, 1)  # (batch, frames, bins, parts)
        bands = zip(self.split, self.edges, self.edges[1:], strict=False)
        tokens = torch.stack([split(x[:, :, start:stop].flatten(2)) for split, start, stop in bands], dim=2)
        for index, (attention, feed_forward) in enumerate(zip(self.attentions, self.feed_forwards, strict=True)):
            along_time = index % 2 == 0
            rows = tokens.transpose(1, 2) if along_time else tokens
            flat = rows.reshape(-1, *rows.shape[2:])
            flat = flat + attention(flat)
            flat = flat + feed_forward(flat)
            rows = flat.reshape(rows.shape)
            tokens = rows.transpose(1, 2) if along_time else rows
        tokens = self.norm(tokens)
        masks = [mask(tokens[:, :, band]).unflatten(-1, (-1, parts)) for band, mask in enumerate(self.masks)]
        return torch.cat(masks, dim=2).permute(0, 3, 2, 1)


PEERS = {"open-unmix": OpenUnmix, "bs-roformer": BsRoformer}
