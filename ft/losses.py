"""The training objective, from a mask and complex spectrograms."""

from __future__ import annotations

import torch
from torch import Tensor

from ft.train_config import Losses

EPSILON = 1e-8


def separation_loss(mask: Tensor, mixture: Tensor, target: Tensor, scale: Tensor, weights: Losses) -> Tensor:
    """Weighted sum of the losses whose weight is not zero, one value per item.

    Args:
        mask: (batch, channels, bins, frames) in 0..1.
        mixture: complex spectrogram of the same shape.
        target: complex spectrogram of the stem that the mask keeps.
        scale: (batch,) what the magnitudes are divided by; clipping at 1 as in the original's objective.
        weights: `ft.train_config.Losses`.
    Returns:
        (batch,); the mean over a batch equals the original's mean over everything.
    """
    scale = scale.reshape(-1, 1, 1, 1)
    loss = mask.new_zeros(mask.shape[0])
    if weights.magnitude_l1:
        magnitude, wanted = ((spec.abs() / scale).clamp(0, 1) for spec in (mixture, target))
        loss = loss + weights.magnitude_l1 * (mask * magnitude - wanted).abs().mean((1, 2, 3))
    if weights.complex_l1 or weights.energy:
        squared = squared_error(mask, mixture, target)
        if weights.complex_l1:
            # The root has no gradient at 0, hence the floor.
            distance = torch.sqrt(squared / scale.square() + EPSILON)
            loss = loss + weights.complex_l1 * distance.mean((1, 2, 3))
        if weights.energy:
            energy = mixture.abs().square().sum((1, 2, 3))
            loss = loss + weights.energy * squared.sum((1, 2, 3)) / (energy + EPSILON * scale.reshape(-1).square())
    return loss


def squared_error(mask: Tensor, mixture: Tensor, target: Tensor) -> Tensor:
    """|mask X - Y|^2, real valued, through real products (complex autograd is slower)."""
    real = mask * mixture.real - target.real
    imaginary = mask * mixture.imag - target.imag
    return real.square() + imaginary.square()
