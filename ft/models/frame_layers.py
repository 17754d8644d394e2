"""The layers of the frame transformer: linear maps with weights for each channel, attention over frames.

Features come last inside: (batch, channels, frames, features). Each position-wise map is one batched matrix product
against a weight (channels, in, out).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from ft.models.frame_transformer import Config

CONV_WIDTH = 9
COLUMNS_APART = 32


class MultichannelLinear(nn.Module):
    """Position-wise, then depth-wise linear map without biases.

    `weight_pw` (in_channels, in_features, out_features) exists if the features change or `positionwise`;
    `weight_dw` (out_channels, in_channels) exists if the channels change or `depthwise`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        in_features: int,
        out_features: int,
        positionwise: bool = True,
        depthwise: bool = True,
    ) -> None:
        super().__init__()
        self.weight_pw: nn.Parameter | None = None
        self.weight_dw: nn.Parameter | None = None
        if in_features != out_features or positionwise:
            self.weight_pw = uniform((in_channels, in_features, out_features), in_features)
        if in_channels != out_channels or depthwise:
            self.weight_dw = uniform((out_channels, in_channels), in_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in_channels, frames, in_features) -> (batch, out_channels, frames, out_features)."""
        if self.weight_pw is not None:
            x = each_channel(x, self.weight_pw) if self.training else torch.matmul(x, self.weight_pw)
        if self.weight_dw is not None:
            x = mix_channels(x, self.weight_dw, self.training)
        return x


def each_channel(x: Tensor, weight: Tensor) -> Tensor:
    """(batch, channels, frames, in) -> (batch, channels, frames, out): a product for each channel, `weight` (channels,
    in, out), over the frames of the whole batch.

    `torch.matmul` would make one for each item, and sum the gradients of as many copies of the weights. The result, and
    what is computed from it element by element, lies in memory with the channels outermost, so that the next product
    need not move it.
    """
    batch, channels, frames, _ = x.shape
    rows = x.transpose(0, 1).reshape(channels, batch * frames, -1)
    return torch.bmm(rows, weight).unflatten(1, (batch, frames)).transpose(0, 1)


def mix_channels(x: Tensor, weight: Tensor, whole: bool = False) -> Tensor:
    """(batch, in, frames, features) -> (batch, out, frames, features): one product of `weight` (out, in) for each item,
    or for the `whole` batch (see `each_channel`)."""
    frames, features = x.shape[2], x.shape[3]
    if whole:
        mixed = _MixedRows.apply(weight, x.transpose(0, 1).reshape(x.shape[1], -1))
        return mixed.unflatten(1, (x.shape[0], frames, features)).transpose(0, 1)
    mixed = torch.matmul(weight, x.flatten(2))  # (batch, out, frames * features)
    return mixed.reshape(x.shape[0], weight.shape[0], frames, features)


class _MixedRows(torch.autograd.Function):
    """`weight` (out, in) times `rows` (in, columns), whose gradient does not end the process.

    The gradient of the weights sums over all columns. Where the processor has AMX, oneDNN (torch 2.13), on one thread,
    divides by zero, SIGFPE, in a product of bfloat16 matrices of which the first has exactly 3 * 2^19 values: two rows
    of 16 x 128 frames of 384 bins. Without the last few columns, which are added by themselves, no such round number is
    left.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Tensor) -> Tensor:
        mixed = torch.mm(weight, rows)
        ctx.save_for_backward(weight, rows.to(mixed.dtype))
        ctx.dtype = rows.dtype
        return mixed

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        weight, rows = ctx.saved_tensors
        long, short = slice(None, -COLUMNS_APART), slice(-COLUMNS_APART, None)
        of_weight = gradient[:, long] @ rows[:, long].T + gradient[:, short] @ rows[:, short].T
        return of_weight.to(weight.dtype), (weight.to(gradient.dtype).T @ gradient).to(ctx.dtype)


def uniform(shape: tuple[int, ...], fan_in: int) -> nn.Parameter:
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))


class FrameNorm(nn.Module):
    """LayerNorm over the features of each frame; one affine pair shared by all channels."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.ndim == 4:  # as it lies in memory, see `each_channel`
            return self.norm(x.transpose(0, 1)).transpose(0, 1)
        return self.norm(x)


class BinAffine(nn.Module):
    """A scale and then a shift for each bin of each channel, over (batch, channels, frames, bins).

    Stoeter et al., "Open-Unmix - A Reference Implementation for Music Source Separation", 2019: its input and output
    scalers. Without the first, the loud low bins make up nearly all that a norm over the bins of a frame lets through.
    """

    LEAST_DEVIATION = 1e-2
    """Share of the largest deviation of a bin, below which no bin is raised further."""

    def __init__(self, channels: int, bins: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, bins))
        self.shift = nn.Parameter(torch.zeros(channels, 1, bins))

    @torch.no_grad()
    def fit(self, inputs: Tensor) -> None:
        """Mean 0 and deviation 1 for each bin of inputs (batch, channels, bins, frames)."""
        deviation, mean = (value[:, None] for value in torch.std_mean(inputs, (0, 3)))
        self.scale.copy_(1 / deviation.clamp_min(self.LEAST_DEVIATION * deviation.max()).clamp_min(1e-8))
        self.shift.copy_(-mean * self.scale)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


class FrameDrop(nn.Dropout):
    """Element-wise dropout; the name is the original's."""


class SquaredReLU(nn.Module):
    """relu(x)^2 (So et al. 2021, Primer)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.square(torch.relu(x))


class RotaryEmbedding(nn.Module):
    """Rotary position embedding in interleaved pairs (Su et al. 2021, section 3.4.2) on the first half of a head.

    With dim = head_width // 2 there are dim // 2 frequencies 10000^(-2i / dim); pair (2i, 2i + 1) turns by frame
    times frequency, the values behind the pairs pass unchanged. A head of fewer than four values has no frequency.
    """

    def __init__(self, head_width: int, kind: Literal["learned", "fixed", "none"]) -> None:
        super().__init__()
        dim = head_width // 2 if kind != "none" else 0
        freqs = 10000.0 ** (-2 * torch.arange(dim // 2) / max(dim, 1))
        if kind == "learned":
            self.freqs = nn.Parameter(freqs)
        else:
            self.register_buffer("freqs", freqs)

    def angles(self, frames: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine (frames, pairs), in float32 whatever the network computes in."""
        with torch.autocast(self.freqs.device.type, enabled=False):
            position = torch.arange(frames, device=self.freqs.device, dtype=torch.float32)
            angle = position[:, None] * self.freqs.float()[None, :]
            return angle.cos(), angle.sin()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotates `x` (batch, heads, frames, head_width) by `angles(frames)`."""
        pairs = self.freqs.shape[0]
        if pairs == 0:
            return x
        turned, rest = x[..., : 2 * pairs], x[..., 2 * pairs :]
        even, odd = turned.unflatten(-1, (pairs, 2)).unbind(-1)
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)
        return torch.cat((turned, rest), dim=-1)


class MultichannelMultiheadAttention(nn.Module):
    """Attention over the frames of each channel and head; the channels meet only in a `full` convolution."""

    def __init__(self, channels: int, features: int, heads: int, config: Config) -> None:
        super().__init__()
        self.heads = heads
        self.head_width = features // heads
        self.scale = 1 / math.sqrt(features)  # the original divides by the root of all features, not of one head's
        self.norm_first = config.qk_norm_order == "norm-first"
        groups = channels if config.attention_conv == "grouped" else 1

        def projection() -> nn.Sequential:
            linear = self._linear(channels, features)
            if config.attention_conv == "none":
                return nn.Sequential(linear)
            return nn.Sequential(linear, FrameConvolution(channels, groups))

        def norm() -> nn.Module:
            return FrameNorm(self.head_width) if config.qk_norm else nn.Identity()

        self.rotary_embedding = RotaryEmbedding(self.head_width, config.rotary)
        self.q_proj = projection()
        self.k_proj = projection()
        self.v_proj = projection()
        self.q_norm = norm()
        self.k_norm = norm()
        self.out_proj = self._linear(channels, features)

    @staticmethod
    def _linear(channels: int, features: int) -> MultichannelLinear:
        return MultichannelLinear(channels, channels, features, features, depthwise=False)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        """(batch, channels, frames, features); keys and values come from `memory` where it is given."""
        memory = x if memory is None else memory
        cos, sin = self.rotary_embedding.angles(x.shape[2])
        query = self._turn(self._split(self.q_proj(x)), self.q_norm, cos, sin)
        key = self._turn(self._split(self.k_proj(memory)), self.k_norm, cos, sin)
        value = self._split(self.v_proj(memory))
        return self.out_proj(self._merge(self._attend(query, key, value), x))

    LONGEST_PLAIN = 512
    """Frames up to which training on a CPU writes attention out; its memory grows with their square."""

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        # The gradient of the fused attention takes three times as long on a CPU as that of the products themselves.
        if self.training and query.device.type == "cpu" and query.shape[2] <= self.LONGEST_PLAIN:
            scores = (query * self.scale) @ key.transpose(-1, -2)
            wide = torch.promote_types(scores.dtype, torch.float32)
            return torch.softmax(scores, dim=-1, dtype=wide).to(value.dtype) @ value
        return F.scaled_dot_product_attention(query, key, value, scale=self.scale)

    def _split(self, x: Tensor) -> Tensor:
        """(batch, channels, frames, features) -> (batch * channels, heads, frames, head_width)."""
        return x.reshape(-1, x.shape[2], self.heads, self.head_width).transpose(1, 2)

    def _merge(self, attended: Tensor, like: Tensor) -> Tensor:
        return attended.transpose(1, 2).reshape(-1, *like.shape[1:])

    def _turn(self, x: Tensor, norm: nn.Module, cos: Tensor, sin: Tensor) -> Tensor:
        if self.norm_first:
            return self.rotary_embedding(norm(x), cos, sin)
        return norm(self.rotary_embedding(x, cos, sin))


class FrameConvolution(nn.Conv2d):
    """Convolution along time over (batch, channels, frames, features), the same kernel for every feature.

    On a CPU a kernel of 9 x 1 is what convolution libraries are worst at: with one channel, forward and backward take
    14 times as long as the same map as a product with a banded matrix (frames, frames), which training therefore uses.
    """

    LONGEST_BAND = 512
    """Frames up to which the banded product is used; its cost grows with their square."""

    def __init__(self, channels: int, groups: int) -> None:
        padding = (CONV_WIDTH // 2, 0)
        super().__init__(channels, channels, (CONV_WIDTH, 1), padding=padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        each_alone = self.groups == self.in_channels
        if self.training and x.device.type == "cpu" and each_alone and x.shape[2] <= self.LONGEST_BAND:
            return torch.matmul(self._band(x.shape[2]), x)
        return super().forward(x)

    def _band(self, frames: int) -> Tensor:
        """(channels, frames, frames), row t of which holds the kernel around column t."""
        channels, half = self.in_channels, CONV_WIDTH // 2
        columns = torch.arange(frames)[:, None] + torch.arange(CONV_WIDTH)[None, :]
        kernel = self.weight.reshape(channels, 1, CONV_WIDTH).expand(channels, frames, CONV_WIDTH)
        band = kernel.new_zeros(channels, frames, frames + 2 * half)
        return band.scatter(2, columns.expand_as(kernel), kernel)[:, :, half:-half]


class NativeRotaryEmbedding(RotaryEmbedding):
    """Becomes one RotaryEmbedding node (ONNX opset 23)."""

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        pairs = self.freqs.shape[0]
        if pairs == 0:
            return x
        batch, frames = x.shape[0], x.shape[2]
        cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        # The operator looks the angles up by position; without positions it wants one copy of them for each item.
        position = torch.arange(frames).expand(batch, frames)
        return torch.onnx.ops.rotary_embedding(x, cos, sin, position, interleaved=True, rotary_embedding_dim=2 * pairs)
