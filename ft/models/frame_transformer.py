"""The frame transformer: a position-wise residual U-Net over spectrogram frames with a multichannel transformer
at each level.

After the public implementation by Carper (github.com/carperbr/frame-transformer, MIT), whose words are kept:
*position-wise* is a linear map along the frequency axis of one frame, *depth-wise* a linear map across channels,
*multichannel* means that every channel owns its position-wise matrix.

The public layout is (batch, channels, bins, frames). Inside, features come last: (batch, channels, frames, features).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ft.config import ModelConfig, Output, Spectrogram
from ft.config import Network as Choice
from ft.errors import ConfigError
from ft.models import Sizes
from ft.models.frame_layers import (
    BinAffine,
    FrameDrop,
    FrameNorm,
    MultichannelLinear,
    MultichannelMultiheadAttention,
    NativeRotaryEmbedding,
    RotaryEmbedding,
    SquaredReLU,
    mix_channels,
    uniform,
)
from ft.models.network import SeparationNetwork
from ft.settings import positive


@dataclass(frozen=True)
class Config:
    """The numbers of a frame transformer; the defaults are those of the preset `base`."""

    input_power: float = 1.0
    """Exponent of the magnitude (0..1) before it is brought to [-1, 1]; below 1, quiet partials stand out more."""
    standardize: bool = False
    """Whether each bin of each channel is brought to mean 0 and deviation 1 over the training data before the network,
    and gets a scale and a shift of its own behind it, all learned further; as in Open-Unmix."""
    channels: int = 4
    multipliers: tuple[int, ...] = (1, 2, 4, 6, 12, 24)
    """Channels of level l are `channels * multipliers[l]`."""
    heads: tuple[int, ...] = (16, 8, 4, 4, 4, 4)
    """Heads of the attention at each level; without heads, blocks do not attend and are their feed-forward part."""
    expansion: int = 4
    """Width of the feed-forward part, in features of its level."""
    dropout: float = 0.1
    """In the transformer blocks."""
    frame_dropout: float = 0.1
    """In the residual blocks of the U-Net."""
    transformer: bool = True
    """Whether each level has its transformer block; without, what is left is the position-wise U-Net."""
    attention_conv: Literal["grouped", "full", "none"] = "grouped"
    """Convolution along time behind the q, k and v projections: each channel for itself, across channels, or none."""
    rotary: Literal["learned", "fixed", "none"] = "learned"
    activation: Literal["gelu", "squared-relu"] = "squared-relu"
    """In the feed-forward part of the transformer blocks; the U-Net's blocks always use GELU."""
    feed_forward_mixing: bool = False
    """Whether the feed-forward linears also mix channels (and own the third norm that the original never applies)."""
    decoder_block: Literal["wide", "narrow"] = "wide"
    """Second residual block of a decoder: F -> 2F -> F, the second linear without channel mixing, or F -> F -> F."""
    qk_norm_order: Literal["rotary-first", "norm-first"] = "rotary-first"
    qk_norm: bool = True
    """Whether queries and keys are normalised."""

    def __post_init__(self) -> None:
        positive(self, "channels", "expansion", "input_power")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ConfigError(f"multipliers: {list(self.multipliers)}, expected numbers of at least 1, one per level")
        if len(self.heads) != self.levels or min(self.heads) < 0:
            raise ConfigError(
                f"heads: {list(self.heads)}, expected {self.levels} numbers of at least 0, as many as multipliers"
            )
        for name in ("dropout", "frame_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}: {getattr(self, name)}, expected 0 <= x < 1")

    @property
    def levels(self) -> int:
        """How many there are; each but the first halves the bins."""
        return len(self.multipliers)

    def width(self, level: int) -> int:
        """Channels at `level`, counted from 0."""
        return self.channels * self.multipliers[level]

    def check(self, bins: int) -> None:
        """Raises ConfigError where levels cannot halve so many bins, or heads not share them."""
        step = 2 ** (self.levels - 1)
        if bins % step:
            raise ConfigError(f"bins: {bins}, expected a multiple of {step}, so that {self.levels} levels can halve it")
        for level, heads in enumerate(self.heads):
            if heads and (bins >> level) % heads:
                raise ConfigError(f"heads: {heads} do not divide the {bins >> level} features of level {level + 1}")


class FrameEncoder(nn.Module):
    """Pre-norm residual block that may halve the features and change the channels."""

    def __init__(
        self, in_channels: int, out_channels: int, features: int, dropout: float, downsample: bool = True
    ) -> None:
        super().__init__()
        out_features = features // 2 if downsample else features
        self.norm1 = FrameNorm(features)
        self.linear1 = MultichannelLinear(in_channels, out_channels, features, features * 2)
        self.linear2 = MultichannelLinear(out_channels, out_channels, features * 2, out_features)
        self.identity = MultichannelLinear(in_channels, out_channels, features, out_features, positionwise=False)
        self.dropout = FrameDrop(dropout)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.linear2(F.gelu(self.linear1(self.norm1(x))))
        return self.identity(x) + self.dropout(hidden)


class FrameDecoder(nn.Module):
    """Two residual blocks: one that doubles the features, one that takes in the encoder's output of that level."""

    def __init__(self, in_channels: int, out_channels: int, features: int, dropout: float, wide: bool) -> None:
        super().__init__()
        self.norm = FrameNorm(features // 2)
        self.linear1 = MultichannelLinear(in_channels, out_channels, features // 2, features * 2)
        self.linear2 = MultichannelLinear(out_channels, out_channels, features * 2, features)
        self.identity = MultichannelLinear(in_channels, out_channels, features // 2, features)
        self.dropout = FrameDrop(dropout)
        self.norm2 = FrameNorm(features)
        hidden = features * 2 if wide else features
        self.linear3 = MultichannelLinear(out_channels * 2, out_channels, features, hidden)
        self.linear4 = MultichannelLinear(out_channels, out_channels, hidden, features, depthwise=not wide)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        hidden = self.linear2(F.gelu(self.linear1(self.norm(x))))
        x = self.identity(x) + self.dropout(hidden)
        # The original declares a dropout behind this second block and never applies it.
        return x + self.linear4(F.gelu(self.linear3(self.norm2(torch.cat((x, skip), dim=1)))))


class _FeedForward(nn.Module):
    """What both transformer blocks share: the feed-forward linears under the original's names."""

    def __init__(self, channels: int, features: int, config: Config) -> None:
        super().__init__()
        wide, mixing = features * config.expansion, config.feed_forward_mixing
        self.linear1 = MultichannelLinear(channels, channels, features, wide, depthwise=mixing)
        self.linear2 = MultichannelLinear(channels, channels, wide, features, depthwise=mixing)
        self.activation = nn.GELU() if config.activation == "gelu" else SquaredReLU()

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.linear2(self.activation(self.linear1(x)))


class FrameTransformerEncoder(_FeedForward):
    """Pre-norm transformer block over the frames of one level."""

    def __init__(self, channels: int, features: int, heads: int, config: Config) -> None:
        super().__init__(channels, features, config)
        self.attends = heads > 0
        if self.attends:
            self.norm1 = FrameNorm(features)
            self.attn = MultichannelMultiheadAttention(channels, features, heads, config)
        self.norm2 = FrameNorm(features)
        if config.feed_forward_mixing:
            # Never applied by the original either; it is there so that its weights load one to one.
            self.norm3 = FrameNorm(features * config.expansion)
        self.dropout1 = FrameDrop(config.dropout)
        self.dropout2 = FrameDrop(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        if self.attends:
            x = x + self.dropout1(self.attn(self.norm1(x)))
        return x + self.dropout2(self.feed_forward(self.norm2(x)))


class FrameTransformerDecoder(_FeedForward):
    """Pre-norm transformer block that also attends to the raw encoder output of its level."""

    def __init__(self, channels: int, features: int, heads: int, config: Config) -> None:
        super().__init__(channels, features, config)
        self.attends = heads > 0
        if self.attends:
            self.norm1 = FrameNorm(features)
            self.attn1 = MultichannelMultiheadAttention(channels, features, heads, config)
            self.norm2 = FrameNorm(features)
            self.attn2 = MultichannelMultiheadAttention(channels, features, heads, config)
        self.norm3 = FrameNorm(features)
        self.dropout1 = FrameDrop(config.dropout)
        self.dropout2 = FrameDrop(config.dropout)
        self.dropout3 = FrameDrop(config.dropout)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        if self.attends:
            x = x + self.dropout1(self.attn1(self.norm1(x)))
            x = x + self.dropout2(self.attn2(self.norm2(x), memory=skip))
        return x + self.dropout3(self.feed_forward(self.norm3(x)))


class FrameTransformer(SeparationNetwork):
    """Estimates a mask for each bin of each channel: the logits of one in 0..1, or a complex one's parts.

    Modules are named `enc1` to `enc6`, `dec5` to `dec1` (of six levels) and `<name>_transformer`, as in the original.
    """

    twins: Mapping = {RotaryEmbedding: NativeRotaryEmbedding}
    keeps_float32 = (RotaryEmbedding,)

    def __init__(self, numbers: Config, sizes: Sizes) -> None:
        """Raises ConfigError: levels that cannot halve the bins, or heads that do not share them."""
        super().__init__()
        numbers.check(sizes.values)
        self.numbers, self.sizes = numbers, sizes
        self.wants_fit = numbers.standardize
        for level in range(numbers.levels):
            before = sizes.reads if level == 0 else numbers.width(level - 1)
            width, heads = numbers.width(level), numbers.heads[level]
            features = sizes.values >> max(level - 1, 0)
            name = f"enc{level + 1}"
            encoder = FrameEncoder(before, width, features, numbers.frame_dropout, downsample=level > 0)
            self.add_module(name, encoder)
            if numbers.transformer:
                block = FrameTransformerEncoder(width, sizes.values >> level, heads, numbers)
                self.add_module(f"{name}_transformer", block)
        for level in reversed(range(numbers.levels - 1)):
            width, features = numbers.width(level), sizes.values >> level
            wide = numbers.decoder_block == "wide"
            name = f"dec{level + 1}"
            decoder = FrameDecoder(numbers.width(level + 1), width, features, numbers.frame_dropout, wide)
            self.add_module(name, decoder)
            if numbers.transformer:
                transformer = FrameTransformerDecoder(width, features, numbers.heads[level], numbers)
                self.add_module(f"{name}_transformer", transformer)
        given = sizes.gives * len(sizes.stems)
        self.out = uniform((given, numbers.width(0)), given)
        if numbers.standardize:
            self.standard_in = BinAffine(sizes.reads, sizes.values)
            self.standard_out = BinAffine(given, sizes.values)

    def fit(self, inputs: Tensor) -> None:
        self.standard_in.fit(self.prepared(inputs))

    def prepared(self, x: Tensor) -> Tensor:
        """Gives 2 m^p - 1 of magnitudes m in 0..1, the power p being `input_power`.

        Of complex values, in parts (batch, 2 * channels, bins, frames), the magnitude is raised and the phase kept.
        """
        power = self.numbers.input_power
        if self.sizes.parts == 1:
            return 2 * (x if power == 1 else x**power) - 1
        real, imaginary = x.chunk(2, dim=1)
        size = (real.square() + imaginary.square()).sqrt()
        return x * (size.clamp(max=1) ** power / size.clamp_min(1e-12)).repeat(1, 2, 1, 1)

    def forward(self, x: Tensor, prepared: bool = False) -> Tensor:
        """Gives the logits of the mask.

        Args:
            x: (batch, channels, bins, frames), any number of frames; magnitudes in 0..1, or complex values in parts.
            prepared: whether `x` is what `prepared` gives, as where noise was added to it.
        Returns:
            (batch, [stems,] channels, bins, frames).
        Raises:
            ValueError: the channels or bins are not those that the network was made for.
        """
        expected = (self.sizes.reads, self.sizes.values)
        if x.ndim != 4 or tuple(x.shape[1:3]) != expected:
            raise ValueError(
                f"input of shape {tuple(x.shape)}; expected (batch, {expected[0]} channels, {expected[1]} bins, frames)"
            )
        x = (x if prepared else self.prepared(x)).to(self.out.dtype)
        x = x.transpose(2, 3)  # (batch, channels, frames, features)
        if self.numbers.standardize:
            x = self.standard_in(x)
        skips = []
        for level in range(1, self.numbers.levels + 1):
            x = self.get_submodule(f"enc{level}")(x)
            if self.numbers.transformer:
                x = self.get_submodule(f"enc{level}_transformer")(x)
            skips.append(x)
        for level in range(self.numbers.levels - 1, 0, -1):
            skip = skips[level - 1]
            x = self.get_submodule(f"dec{level}")(x, skip)
            if self.numbers.transformer:
                x = self.get_submodule(f"dec{level}_transformer")(x, skip)
        x = mix_channels(x, self.out)
        if self.numbers.standardize:
            x = self.standard_out(x)
        return self.sizes.by_stem(x.transpose(2, 3))

    def is_unused(self, name: str) -> bool:
        encoder_norm3 = name.startswith("enc") and "_transformer.norm3." in name
        return super().is_unused(name) or (self.numbers.feed_forward_mixing and encoder_norm3)

    def matrices(self) -> Iterator[str]:
        return (name for name, _ in self.named_parameters() if name.endswith(".weight_pw"))


Network = FrameTransformer


def tiny() -> ModelConfig:
    """Gives the model of tests: two levels, a mask of the vocals."""
    numbers = {"channels": 1, "multipliers": [1, 2], "heads": [4, 2], "expansion": 2}
    return ModelConfig(
        name="tiny",
        front=Spectrogram(n_fft=1024, hop_length=512, bins=64, scale="window-peak"),
        output=Output("mask"),
        network=Choice("frame-transformer", numbers),
    )
