"""BS-RoFormer (Lu, Wang, Kong, Hung, "Music Source Separation with Band-Split RoPE Transformer", 2023): bands of a
complex spectrum become tokens, transformers go along time and along bands in turn, and each band's tokens become its
part of a mask for each stem.

As in the implementation that the field's weights are for, but that bands of one width, which lie beside each other, are
one product.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ft.config import ModelConfig, Output, Spectrogram
from ft.config import Network as Choice
from ft.errors import ConfigError
from ft.models import Sizes
from ft.models.frame_layers import NativeRotaryEmbedding, RotaryEmbedding, uniform
from ft.models.network import SeparationNetwork
from ft.settings import positive


@dataclass(frozen=True)
class Config:
    """The numbers of a BS-RoFormer; the defaults are those of the paper."""

    width: int = 384
    """Features of a token."""
    depth: int = 12
    """Pairs of a transformer along time and one along bands."""
    heads: int = 8
    head_width: int = 64
    bands: tuple[int, ...] = (*[2] * 24, *[4] * 12, *[12] * 8, *[24] * 8, *[48] * 8, 128, 129)
    """Bins of each band, from the lowest on."""
    expansion: int = 4
    """Width of the feed-forward parts, in tokens."""
    mask_depth: int = 2
    """Linear maps that make a band's mask of its tokens."""
    mask_expansion: int = 4
    """Width between these, in tokens."""

    def __post_init__(self) -> None:
        positive(self, "width", "depth", "heads", "head_width", "expansion", "mask_depth", "mask_expansion")
        if not self.bands or min(self.bands) < 1:
            raise ConfigError(f"bands: {list(self.bands)}, expected numbers of at least 1, the bins of each band")
        if self.head_width % 2:
            raise ConfigError(f"head_width: {self.head_width}, expected an even number")


class RootMeanSquareNorm(nn.Module):
    """RMS norm with a gain for each value, of each group of values (*groups, 1, width) where there are groups."""

    def __init__(self, width: int, groups: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones((width,) if groups is None else (groups, 1, width)))

    def forward(self, x: Tensor) -> Tensor:
        # A spectrum's values reach hundreds, whose squares fp16 does not hold; bf16 does, and has fused kernels.
        wide = x.float() if x.dtype == torch.float16 else x
        return (F.rms_norm(wide, x.shape[-1:], eps=1e-12) * self.weight.to(wide.dtype)).to(x.dtype)


class BandLinear(nn.Module):
    """A linear map for each band: (..., bands, frames, in) -> (*outer, bands, frames, out)."""

    def __init__(self, bands: tuple[int, ...], in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = uniform((*bands, in_features, out_features), in_features)
        self.bias = uniform((*bands, 1, out_features), in_features)

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight) + self.bias


class Attention(nn.Module):
    """Self-attention with rotary positions (Su et al. 2021) and a gate for each head, behind an RMS norm."""

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads, self.head_width = heads, head_width
        self.norm = RootMeanSquareNorm(width)
        self.rotary = RotaryEmbedding(2 * head_width, "fixed")  # of which the first half turns: all of a head
        self.qkv = nn.Linear(width, 3 * heads * head_width, bias=False)
        self.gates = nn.Linear(width, heads)
        self.out = nn.Linear(heads * head_width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(sequences, positions, width)."""
        x = self.norm(x)
        cos, sin = self.rotary.angles(x.shape[1])
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, self.head_width)).permute(2, 0, 3, 1, 4)
        attended = self._attend(self.rotary(query, cos, sin), self.rotary(key, cos, sin), value)
        attended = attended * self.gates(x).sigmoid().transpose(1, 2).unsqueeze(-1)
        return self.out(attended.transpose(1, 2).flatten(2))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # Written out where that trains faster, as in the frame transformer.
        if self.training and query.device.type == "cpu":
            scores = (query / math.sqrt(self.head_width)) @ key.transpose(-1, -2)
            return torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype) @ value
        return F.scaled_dot_product_attention(query, key, value)


class Transformer(nn.Module):
    """Attention, then norm, widening, GELU and narrowing, each added to what it read."""

    def __init__(self, numbers: Config) -> None:
        super().__init__()
        width, wide = numbers.width, numbers.width * numbers.expansion
        self.attention = Attention(width, numbers.heads, numbers.head_width)
        self.feed_forward = nn.Sequential(
            RootMeanSquareNorm(width), nn.Linear(width, wide), nn.GELU(), nn.Linear(wide, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        return x + self.feed_forward(x)


class Bands(nn.Module):
    """The way from the bins of some bands of one width to their tokens, and from these to their masks."""

    def __init__(self, numbers: Config, sizes: Sizes, count: int, bins: int) -> None:
        super().__init__()
        self.count, self.bins = count, bins
        width, hidden, stems = numbers.width, numbers.width * numbers.mask_expansion, len(sizes.stems)
        self.norm = RootMeanSquareNorm(bins * sizes.reads, count)
        self.split = BandLinear((count,), bins * sizes.reads, width)
        widths = [width, *[hidden] * (numbers.mask_depth - 1), 2 * bins * sizes.gives]
        self.masks = nn.ModuleList(BandLinear((stems, count), *pair) for pair in itertools.pairwise(widths))

    def tokens(self, x: Tensor) -> Tensor:
        """(batch, bins of these bands, frames, channels) -> (batch, bands, frames, width)."""
        x = x.unflatten(1, (self.count, self.bins)).transpose(2, 3).flatten(3)
        return self.split(self.norm(x))

    def mask(self, tokens: Tensor) -> Tensor:
        """(batch, bands, frames, width) -> (batch, stems, bins of these bands, frames, channels)."""
        x = tokens.unsqueeze(1)
        for number, linear in enumerate(self.masks):
            x = linear(torch.tanh(x) if number else x)
        half = x.shape[-1] // 2  # a gated linear unit, in slices: engines run a Split before a Sigmoid wrongly
        x = x[..., :half] * x[..., half:].sigmoid()
        return x.unflatten(-1, (self.bins, -1)).transpose(3, 4).flatten(2, 3)


class Network(SeparationNetwork):
    """Estimates a complex mask for each stem of a complex spectrum."""

    twins: Mapping = {RotaryEmbedding: NativeRotaryEmbedding}
    keeps_float32 = (RotaryEmbedding,)

    def __init__(self, numbers: Config, sizes: Sizes) -> None:
        """Raises ConfigError: bands that are not all bins, or values that are not complex."""
        super().__init__()
        if sum(numbers.bands) != sizes.values:
            raise ConfigError(
                f"bands: of {sum(numbers.bands)} bins in all, expected the {sizes.values} of the front end"
            )
        if sizes.parts == 1:
            raise ConfigError("network.kind: bs-roformer reads complex values, expected front.values: complex")
        self.sizes = sizes
        groups = [(len(list(group)), bins) for bins, group in itertools.groupby(numbers.bands)]
        self.bands: Any = nn.ModuleList(Bands(numbers, sizes, count, bins) for count, bins in groups)
        self.transformers = nn.ModuleList(Transformer(numbers) for _ in range(2 * numbers.depth))
        self.norm = RootMeanSquareNorm(numbers.width)

    def forward(self, x: Tensor) -> Tensor:
        """Gives masks (batch, [stems,] channels, bins, frames) for values (batch, channels, bins, frames)."""
        spec = x.to(self.norm.weight.dtype).permute(0, 2, 3, 1)
        tokens = torch.cat(self._each_group(Bands.tokens, spec, [group.count * group.bins for group in self.bands]), 1)
        for number, transformer in enumerate(self.transformers):
            rows = tokens.transpose(1, 2) if number % 2 else tokens  # along time first, then along bands
            rows = transformer(rows.flatten(0, 1)).reshape(rows.shape)
            tokens = rows.transpose(1, 2) if number % 2 else rows
        masks = torch.cat(self._each_group(Bands.mask, self.norm(tokens), [group.count for group in self.bands]), 2)
        return self.sizes.by_stem(masks.permute(0, 1, 4, 2, 3).flatten(1, 2))

    def _each_group(self, way: Callable[[Bands, Tensor], Tensor], x: Tensor, sizes: list[int]) -> list[Tensor]:
        """What `way` makes of the parts of the second axis that belong to each group of bands."""
        ends = list(itertools.accumulate(sizes))
        return [way(group, x[:, end - size : end]) for group, size, end in zip(self.bands, sizes, ends, strict=True)]

    def matrices(self) -> Iterator[str]:
        yield from super().matrices()
        for name, module in self.named_modules():
            if isinstance(module, BandLinear):
                yield f"{name}.weight"


def tiny() -> ModelConfig:
    """Gives the model of tests: complex masks of the vocals, eight bands."""
    numbers = {"width": 16, "depth": 1, "heads": 2, "head_width": 8, "bands": [4, 4, 4, 4, 16, 16, 32, 49]}
    return ModelConfig(
        name="tiny-bs-roformer",
        front=Spectrogram(n_fft=256, hop_length=128, values="complex", scale="none"),
        output=Output("complex-mask"),
        network=Choice("bs-roformer", {**numbers, "expansion": 2, "mask_expansion": 2}),
    )
