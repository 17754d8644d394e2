"""What the network must compute and move, counted from its configuration: no tracing, no torch.

Matrix products and convolutions only. Norms, activations and softmax are a few operations per value, and no engine
spends its arithmetic on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ft.config import NetworkConfig

CONV_WIDTH = 9


class Product(NamedTuple):
    """One product with weights, or of two activations."""

    flops: int
    """Two for each multiplication with its addition."""
    weights: int
    """Values of its weights."""
    activations: int
    """Values that it reads and writes."""


class Work(NamedTuple):
    """Sums over a network."""

    flops: int
    weights: int
    activations: int

    def bytes(self, item_size: int) -> int:
        """Traffic where each product reads its weights and inputs once and writes its outputs once."""
        return (self.weights + self.activations) * item_size


def count(network: NetworkConfig, batch: int, frames: int) -> Work:
    """The work for one batch of windows of `frames` frames."""
    found = list(_products(network, batch * frames, frames))
    return Work(*(sum(column) for column in zip(*found, strict=True)))


def _products(network: NetworkConfig, rows: int, frames: int) -> Iterator[Product]:
    """`rows`: frames of all windows of the batch."""
    for level in range(network.levels):
        width, features = network.width(level), network.features(level)
        before = network.in_channels if level == 0 else network.width(level - 1)
        wide = network.features(max(level - 1, 0))
        yield from _linear(rows, before, width, wide, 2 * wide)
        yield from _linear(rows, width, width, 2 * wide, features)
        yield from _linear(rows, before, width, wide, features, positionwise=False)
        yield from _attention(network, rows, frames, level)
        yield from _feed_forward(network, rows, width, features)
    for level in range(network.levels - 1):
        width, features = network.width(level), network.features(level)
        below = network.width(level + 1)
        yield from _linear(rows, below, width, features // 2, 2 * features)
        yield from _linear(rows, width, width, 2 * features, features)
        yield from _linear(rows, below, width, features // 2, features)
        roomy = network.decoder_block == "wide"
        hidden = 2 * features if roomy else features
        yield from _linear(rows, 2 * width, width, features, hidden)
        yield from _linear(rows, width, width, hidden, features, depthwise=not roomy)
        for _ in range(2):
            yield from _attention(network, rows, frames, level)
        yield from _feed_forward(network, rows, width, features)
    yield _mixing(rows, network.width(0), network.in_channels, network.bins)


def _linear(
    rows: int,
    in_channels: int,
    out_channels: int,
    in_features: int,
    out_features: int,
    positionwise: bool = True,
    depthwise: bool = True,
) -> Iterator[Product]:
    if in_features != out_features or positionwise:
        weights = in_channels * in_features * out_features
        yield Product(2 * rows * weights, weights, rows * in_channels * (in_features + out_features))
    if in_channels != out_channels or depthwise:
        yield _mixing(rows, in_channels, out_channels, out_features)


def _mixing(rows: int, in_channels: int, out_channels: int, features: int) -> Product:
    weights = in_channels * out_channels
    return Product(2 * rows * features * weights, weights, rows * features * (in_channels + out_channels))


def _attention(network: NetworkConfig, rows: int, frames: int, level: int) -> Iterator[Product]:
    if not (network.transformer and network.heads[level]):
        return
    width, features = network.width(level), network.features(level)
    group = width if network.attention_conv == "full" else 1
    values = rows * width * features
    for _ in range(3):
        yield from _linear(rows, width, width, features, features, depthwise=False)
        if network.attention_conv == "none":
            continue
        yield Product(2 * values * group * CONV_WIDTH, width * group * CONV_WIDTH, 2 * values)
    # Fused: scores are made and used without being written.
    yield Product(4 * values * frames, 0, 4 * values)
    yield from _linear(rows, width, width, features, features, depthwise=False)


def _feed_forward(network: NetworkConfig, rows: int, width: int, features: int) -> Iterator[Product]:
    if not network.transformer:
        return
    wide, mixing = features * network.expansion, network.feed_forward_mixing
    yield from _linear(rows, width, width, features, wide, depthwise=mixing)
    yield from _linear(rows, width, width, wide, features, depthwise=mixing)
