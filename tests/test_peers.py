"""Networks of others that `bench.contest` trains beside ours."""

import dataclasses
import itertools

import pytest
import torch
from networks import tiny_config

from bench.peers import BsRoformer, OpenUnmix, band_edges
from ft.config import ModelConfig


def config_of(mask: str) -> ModelConfig:
    config = tiny_config()
    channels = config.audio.channels * (2 if mask == "complex" else 1)
    network = dataclasses.replace(config.network, mask=mask, in_channels=channels)
    return dataclasses.replace(config, network=network)


def small(kind: type) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if kind is OpenUnmix:
        config = config_of("magnitude")
        network = OpenUnmix(config, hidden=16, layers=2)
    else:
        config = config_of("complex")
        network = BsRoformer(config, width=8, depth=1, heads=2, head_width=4, bands=5)
    return network, torch.randn(3, config.network.in_channels, config.audio.bins, 12)


@pytest.mark.parametrize("kind", [OpenUnmix, BsRoformer])
def test_logits_have_the_shape_of_the_input_and_items_do_not_meet(kind):
    network, x = small(kind)
    network.eval()
    logits = network(x)
    assert logits.shape == x.shape
    torch.testing.assert_close(network(x[1:2]), logits[1:2], atol=1e-5, rtol=0)
    assert not torch.equal(network(x[..., :9]), logits[..., :9]), "frames must hear each other"


@pytest.mark.parametrize("kind", [OpenUnmix, BsRoformer])
def test_every_weight_learns(kind):
    network, x = small(kind)
    network(x).square().mean().backward()
    assert all(value.grad is not None and value.grad.abs().max() > 0 for value in network.parameters())


def test_open_unmix_has_the_parameters_of_the_original():
    """8.9 million (open-unmix README) at hidden 512; the original reads 1487 bins and writes 2049, here both 1472."""
    config = tiny_config()
    audio = dataclasses.replace(config.audio, n_fft=4096, hop_length=1024, bins=1472)
    network = dataclasses.replace(config.network, bins=1472)
    own = sum(p.numel() for p in OpenUnmix(dataclasses.replace(config, audio=audio, network=network)).parameters())
    fewer = 2 * 15 * 512 + 2 * 577 * 512 + 2 * 2 * 577 + 2 * 15 + 2 * 577  # fc1, fc3, bn3 and the four scales
    assert own + fewer == 8_893_348


def test_open_unmix_scales_each_bin_by_the_data():
    network, x = small(OpenUnmix)
    x = x * torch.linspace(0.1, 5, x.shape[2])[:, None] + 3
    network.fit(x)
    scaled = (x.transpose(2, 3) + network.shift) * network.scale
    torch.testing.assert_close(scaled.mean((0, 1, 2)), torch.zeros(x.shape[2]), atol=1e-4, rtol=0)
    torch.testing.assert_close(scaled.std((0, 1, 2)), torch.ones(x.shape[2]), atol=0.05, rtol=0)


@pytest.mark.parametrize(("bins", "bands"), [(32, 4), (512, 32), (512, 62), (64, 32)])
def test_bands_tile_the_bins(bins, bands):
    edges = band_edges(bins, bands)
    widths = [stop - start for start, stop in itertools.pairwise(edges)]
    assert (edges[0], edges[-1], len(widths)) == (0, bins, bands) and min(widths) >= 2


def test_bands_of_bs_roformer_hear_each_other():
    network, x = small(BsRoformer)
    network.eval()
    changed = x.clone()
    changed[:, :, -1] += 1  # the top band alone
    assert (network(changed) - network(x))[:, :, 0].abs().max() > 1e-6
