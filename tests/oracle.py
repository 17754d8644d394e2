"""The network and its first way of separating, written straight from their formulas in the original layout.

(batch, channels, features, frames) throughout, PyTorch eager, float32, nothing fused and nothing clever: what the
project's network must equal, and what its speed is compared with (`python -m bench.bars`). Weights come from a
checkpoint of this project and are turned to the original's orientation: a position-wise matrix is (channels, out, in),
the convolution runs over (features, frames).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ft.config import ModelConfig
from ft.dsp import istft, stft
from ft.models import numbers_of

Array = NDArray[np.float32]

WINDOW_FRAMES = 512
PADDING_FRAMES = 1024


class Oracle:
    """Computes what `FrameTransformer` computes, from its configuration and its state dict."""

    def __init__(self, config: ModelConfig, state: dict[str, Tensor]) -> None:
        self.config, self.numbers = config, numbers_of(config)
        self.weights = {name: _original_layout(name, tensor.float()) for name, tensor in state.items()}

    def mask(self, magnitude: Tensor) -> Tensor:
        """Mask in 0..1 of the shape of `magnitude` (batch, channels, bins, frames) in 0..1."""
        return torch.sigmoid(self.logits(2 * magnitude**self.numbers.input_power - 1))

    def logits(self, x: Tensor) -> Tensor:
        skips = []
        x = self.standardized("standard_in", x)
        for level in range(1, self.numbers.levels + 1):
            x = self.encoder(f"enc{level}", x)
            x = self.transformer(f"enc{level}_transformer", x, self.numbers.heads[level - 1])
            skips.append(x)
        for level in range(self.numbers.levels - 1, 0, -1):
            skip = skips[level - 1]
            x = self.decoder(f"dec{level}", x, skip)
            x = self.transformer(f"dec{level}_transformer", x, self.numbers.heads[level - 1], skip)
        return self.standardized("standard_out", mix(self.weights["out"], x))

    def standardized(self, name: str, x: Tensor) -> Tensor:
        if not self.numbers.standardize:
            return x
        return x * self.weights[f"{name}.scale"].mT + self.weights[f"{name}.shift"].mT

    def linear(self, name: str, x: Tensor) -> Tensor:
        """Position-wise, then depth-wise, as far as there are weights for them."""
        if f"{name}.weight_pw" in self.weights:
            x = torch.matmul(self.weights[f"{name}.weight_pw"], x)
        if f"{name}.weight_dw" in self.weights:
            x = mix(self.weights[f"{name}.weight_dw"], x)
        return x

    def norm(self, name: str, x: Tensor) -> Tensor:
        """LayerNorm over the features of each frame."""
        weight, bias = self.weights[f"{name}.norm.weight"], self.weights[f"{name}.norm.bias"]
        return F.layer_norm(x.transpose(2, 3), weight.shape, weight, bias).transpose(2, 3)

    def encoder(self, name: str, x: Tensor) -> Tensor:
        hidden = self.linear(f"{name}.linear1", self.norm(f"{name}.norm1", x))
        return self.linear(f"{name}.identity", x) + self.linear(f"{name}.linear2", F.gelu(hidden))

    def decoder(self, name: str, x: Tensor, skip: Tensor) -> Tensor:
        hidden = self.linear(f"{name}.linear1", self.norm(f"{name}.norm", x))
        x = self.linear(f"{name}.identity", x) + self.linear(f"{name}.linear2", F.gelu(hidden))
        both = torch.cat((x, skip), dim=1)
        hidden = self.linear(f"{name}.linear3", self.norm(f"{name}.norm2", both))
        return x + self.linear(f"{name}.linear4", F.gelu(hidden))

    def transformer(self, name: str, x: Tensor, heads: int, skip: Tensor | None = None) -> Tensor:
        """Self-attention, attention to the encoder's raw output where there is one, feed-forward; pre-norm."""
        if heads and skip is None:
            x = x + self.attention(f"{name}.attn", self.norm(f"{name}.norm1", x), None, heads)
        elif heads:
            x = x + self.attention(f"{name}.attn1", self.norm(f"{name}.norm1", x), None, heads)
            x = x + self.attention(f"{name}.attn2", self.norm(f"{name}.norm2", x), skip, heads)
        normed = self.norm(f"{name}.norm2" if skip is None else f"{name}.norm3", x)
        hidden = self.linear(f"{name}.linear1", normed)
        hidden = F.gelu(hidden) if self.numbers.activation == "gelu" else torch.relu(hidden) ** 2
        return x + self.linear(f"{name}.linear2", hidden)

    def attention(self, name: str, x: Tensor, memory: Tensor | None, heads: int) -> Tensor:
        memory = x if memory is None else memory
        query = self.project(f"{name}.q", x, heads)
        key = self.project(f"{name}.k", memory, heads)
        value = self.project(f"{name}.v", memory, heads)
        features = x.shape[2]
        scores = torch.matmul(query, key.transpose(-1, -2)) / features**0.5
        attended = torch.matmul(torch.softmax(scores, dim=-1), value)
        return self.linear(f"{name}.out_proj", attended.transpose(3, 4).flatten(2, 3))

    def project(self, name: str, x: Tensor, heads: int) -> Tensor:
        """(batch, channels, features, frames) -> (batch, channels, heads, frames, head width)."""
        x = self.linear(f"{name}_proj.0", x)
        kernel = self.weights[f"{name}_proj.1.weight"]
        x = F.conv2d(x, kernel, padding=(0, kernel.shape[3] // 2), groups=x.shape[1] // kernel.shape[1])
        x = x.unflatten(2, (heads, -1)).transpose(3, 4)
        if name.endswith(".v"):
            return x
        freqs = self.weights[f"{name.rpartition('.')[0]}.rotary_embedding.freqs"]
        weight, bias = self.weights[f"{name}_norm.norm.weight"], self.weights[f"{name}_norm.norm.bias"]
        if self.numbers.qk_norm_order == "norm-first":
            return rotate(F.layer_norm(x, weight.shape, weight, bias), freqs)
        return F.layer_norm(rotate(x, freqs), weight.shape, weight, bias)


def mix(weight: Tensor, x: Tensor) -> Tensor:
    """Channels mixed by `weight` (out, in)."""
    return torch.matmul(weight, x.flatten(2)).unflatten(2, x.shape[2:])


def rotate(x: Tensor, freqs: Tensor) -> Tensor:
    """Pair (2i, 2i + 1) of (..., frames, head width) turned by frame times `freqs[i]`; the rest passes."""
    if len(freqs) == 0:
        return x
    angle = torch.arange(x.shape[-2], dtype=torch.float32)[:, None] * freqs
    turned, rest = x[..., : 2 * len(freqs)], x[..., 2 * len(freqs) :]
    even, odd = turned[..., 0::2], turned[..., 1::2]
    pairs = (even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin())
    return torch.cat((torch.stack(pairs, dim=-1).flatten(-2), rest), dim=-1)


def load(model: str) -> Oracle:
    """The oracle with the weights of a checkpoint or of an exported fp32 model."""
    from ft.checkpoint import load_model

    network = load_model(model)
    return Oracle(network.model_config, {name: tensor.detach() for name, tensor in network.state_dict().items()})


@torch.inference_mode()
def separate(oracle: Oracle, mixture: Array, padding: int = PADDING_FRAMES) -> dict[str, Array]:
    """Stems (channels, samples) of a whole mixture at the model's rate, in the original's way.

    Windows of 512 frames follow each other without overlap; each runs with `padding` frames of its neighbours on both
    sides, silence beyond the ends of the song. Everything is scaled by the song's peak.
    """
    front = oracle.config.front
    spec = stft(mixture, front.n_fft, front.hop_length)
    values = np.abs(spec)
    frames = spec.shape[2]
    windows = frames // WINDOW_FRAMES + 1
    scaled = np.zeros((spec.shape[0], front.used_bins, windows * WINDOW_FRAMES + 2 * padding), np.float32)
    scaled[:, :, padding : padding + frames] = values[:, : front.used_bins] / max(float(values.max()), 1e-12)
    masks = []
    for start in range(0, windows * WINDOW_FRAMES, WINDOW_FRAMES):
        part = torch.from_numpy(scaled[None, :, :, start : start + WINDOW_FRAMES + 2 * padding])
        masks.append(oracle.mask(part)[0, :, :, padding : padding + WINDOW_FRAMES].numpy())
    mask = np.concatenate(masks, axis=2)[:, :, :frames]
    mask = np.pad(mask, ((0, 0), (0, spec.shape[1] - front.used_bins), (0, 0)))  # bins above the network's have no mask
    found = istft(mask * spec, front.n_fft, front.hop_length, mixture.shape[1])
    rest = istft((1 - mask) * spec, front.n_fft, front.hop_length, mixture.shape[1])
    stem, other = oracle.config.all_stems if oracle.config.output.of == "stems" else oracle.config.all_stems[::-1]
    return {stem: found, other: rest}


def _original_layout(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(".weight_pw"):
        return tensor.transpose(1, 2).contiguous()
    if name.endswith("_proj.1.weight"):
        return tensor.transpose(2, 3).contiguous()
    return tensor
