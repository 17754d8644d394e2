"""The objective against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from ft.losses import separation_loss
from ft.train_config import Losses

SHAPE = (2, 2, 4, 3)


def example() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    mixture = torch.full(SHAPE, 3 + 4j)  # magnitude 5
    target = torch.full(SHAPE, 1j)
    return torch.full(SHAPE, 0.5), mixture, target, torch.tensor([10.0, 4.0])


def test_magnitude_l1_by_hand():
    mask, mixture, target, scale = example()
    # item 1: 0.5 * 0.5 - 0.1 = 0.15;  item 2: 0.5 * clip(5 / 4) - 0.25 = 0.25
    loss = separation_loss(mask, mixture, target, scale, Losses())
    assert loss.tolist() == pytest.approx([0.15, 0.25])


def test_complex_losses_by_hand():
    mask, mixture, target, scale = example()
    # 0.5 (3 + 4j) - j = 1.5 + 1j, of energy 3.25 against 25
    energy = separation_loss(mask, mixture, target, scale, Losses(0, 0, 1))
    assert energy.tolist() == pytest.approx([0.13, 0.13])
    distance = separation_loss(mask, mixture, target, scale, Losses(0, 2, 0))
    assert distance.tolist() == pytest.approx([2 * 3.25**0.5 / 10, 2 * 3.25**0.5 / 4], rel=1e-4)


def test_weights_add_up():
    arguments = example()
    parts = [separation_loss(*arguments, weights) for weights in (Losses(1, 0, 0), Losses(0, 1, 0), Losses(0, 0, 1))]
    whole = separation_loss(*arguments, Losses(1, 1, 1))
    assert torch.allclose(whole, sum(parts))


def test_perfect_mask_is_no_loss():
    _, mixture, _, scale = example()
    loss = separation_loss(torch.ones(SHAPE), mixture, mixture, scale, Losses(1, 0, 1))
    assert loss.tolist() == [0, 0]


@pytest.mark.parametrize("weights", [Losses(1, 0, 0), Losses(0, 1, 0), Losses(0, 0, 1)])
def test_gradient_is_finite_on_silence_and_on_a_perfect_mask(weights):
    for mixture in (torch.zeros(SHAPE, dtype=torch.complex64), torch.full(SHAPE, 1 + 1j)):
        mask = torch.ones(SHAPE, requires_grad=True)
        separation_loss(mask, mixture, mixture, torch.full((2,), 1e-8), weights).mean().backward()
        assert torch.isfinite(mask.grad).all()
