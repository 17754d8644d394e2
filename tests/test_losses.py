"""The objective against values worked out by hand or with NumPy, on silence, and on real sound."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from sounds import vocals_and_mixture, waveforms

from ft.config import AudioConfig, ConfigError, ModelConfig, load_model_config
from ft.data.batches import Batch, batch_from_waveforms, scaled_magnitude
from ft.settings import build
from ft.train_config import Losses
from ft.training.losses import EPSILON, Loss, separation_parts, si_sdr_loss, snr_loss, stft_losses

SHAPE = (2, 2, 4, 3)
NAMES = (
    "magnitude_l1",
    "complex_l1",
    "energy",
    "waveform_l1",
    "si_sdr",
    "snr",
    "stft_convergence",
    "stft_log_magnitude",
)


def only(**weights: float) -> Losses:
    return Losses(**{"magnitude_l1": 0, "stft_n_fft": (256, 512), **weights})


ALL = only(**{name: 0.5 + number for number, name in enumerate(NAMES)})


def by_hand(weights: Losses, mask: complex = 0.5) -> list[float]:
    """The one loss asked for, of constant spectrograms: X of magnitude 5 and Y of 1."""
    mixture, scale = torch.full(SHAPE, 3 + 4j), torch.tensor([10.0, 4.0])
    batch = Batch(scaled_magnitude(mixture, scale), mixture, torch.full(SHAPE, 1j), scale)
    (part,) = separation_parts(torch.full(SHAPE, mask), batch, weights, AudioConfig()).values()
    return part.tolist()


def test_spectral_losses_by_hand():
    # item 1: 0.5 * 0.5 - 0.1 = 0.15;  item 2: 0.5 * clip(5 / 4) - 0.25 = 0.25
    assert by_hand(Losses()) == pytest.approx([0.15, 0.25])
    # 0.5 (3 + 4j) - j = 1.5 + 1j, of energy 3.25 against 25
    assert by_hand(only(energy=1)) == pytest.approx([0.13, 0.13])
    assert by_hand(only(complex_l1=2)) == pytest.approx([2 * 3.25**0.5 / 10, 2 * 3.25**0.5 / 4], rel=1e-4)


def test_complex_masks_by_hand():
    # 0.5j (3 + 4j) - j = -2 + 0.5j, of energy 4.25; the magnitude is that of a mask of 0.5
    assert by_hand(Losses(), 0.5j) == pytest.approx([0.15, 0.25])
    assert by_hand(only(energy=1), 0.5j) == pytest.approx([0.17, 0.17])


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return load_model_config("tiny")


@pytest.fixture(scope="module")
def sound() -> tuple[torch.Tensor, torch.Tensor]:
    """Vocals and mixture of two items (batch, channels, samples) of the example."""
    return vocals_and_mixture()


def parts_of(weights: Losses, vocals, mixture, config, mask=None) -> dict[str, torch.Tensor]:
    batch = batch_from_waveforms(waveforms(vocals, mixture), config)
    mask = torch.full_like(batch.magnitude, 0.3) if mask is None else mask
    return separation_parts(mask, batch, weights, config.audio)


def test_parts_are_named_weighted_and_add_up(sound, config):
    parts = parts_of(ALL, *sound, config)
    assert set(parts) == set(NAMES)
    for number, name in enumerate(NAMES):
        single = parts_of(only(**{name: 1.0}), *sound, config)
        assert set(single) == {name}
        assert torch.allclose(parts[name], (0.5 + number) * single[name])
    loss = Loss.from_parts(parts)
    assert loss.value.item() == pytest.approx(sum(part.item() for part in loss.parts.values()))


def test_mean_over_micro_batches_is_that_of_the_large_batch(sound, config):
    whole = Loss.from_parts(parts_of(ALL, *sound, config)).value
    single = [Loss.from_parts(parts_of(ALL, *(x[i : i + 1] for x in sound), config)).value for i in range(2)]
    assert whole.item() == pytest.approx(sum(single).item() / 2, rel=1e-5)


def numpy_si_sdr(estimate: np.ndarray, target: np.ndarray) -> float:
    scaled = np.vdot(estimate, target) / np.vdot(target, target) * target
    return 10 * np.log10(np.sum(scaled**2) / np.sum((scaled - estimate) ** 2))


def test_ratios_are_those_of_the_literature_where_targets_are_not_faint(sound):
    vocals, mixture = sound
    generator = torch.Generator().manual_seed(0)
    estimate = 0.7 * vocals + 0.3 * vocals.std() * torch.randn(vocals.shape, generator=generator)
    e, y = estimate.numpy().astype(np.float64), vocals.numpy().astype(np.float64)
    # A mixture as faint as that adds next to nothing, so that the plain definitions are left.
    si_sdr, snr = (loss(estimate, vocals, 1e-3 * mixture).tolist() for loss in (si_sdr_loss, snr_loss))
    assert si_sdr == pytest.approx([-numpy_si_sdr(*pair) for pair in zip(e, y, strict=True)], abs=0.01)
    assert snr == pytest.approx(-10 * np.log10(np.sum(y**2, (1, 2)) / np.sum((y - e) ** 2, (1, 2))), abs=0.01)
    louder = si_sdr_loss(5 * estimate, vocals, 1e-3 * mixture).tolist()
    assert louder == pytest.approx(si_sdr, abs=0.01)


def test_ratios_of_silent_targets_fall_with_the_estimate(sound):
    mixture = sound[1]
    for loss in (si_sdr_loss, snr_loss):
        values = [loss(gain * mixture, 0 * mixture, mixture)[0].item() for gain in (1.0, 0.1, 0.01, 0.0)]
        assert values == pytest.approx([40, 20, 3, 0], abs=0.05)


def numpy_magnitudes(waveform: np.ndarray, n_fft: int) -> np.ndarray:
    starts = range(0, waveform.shape[1] - n_fft + 1, n_fft // 4)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft)
    return np.abs([[np.fft.rfft(channel[s : s + n_fft] * window) for s in starts] for channel in waveform])


def test_stft_losses_are_those_of_the_paper(sound):
    vocals, mixture = (x.numpy().astype(np.float64) for x in sound)
    estimate = 0.6 * vocals + 0.1 * mixture
    arguments = [torch.from_numpy(x.astype(np.float32)) for x in (estimate, vocals, mixture)]
    for stems in ("masked", "both"):
        found = stft_losses(*arguments, 512, stems)
        for item in range(2):
            pairs = [(estimate[item], vocals[item])]
            if stems == "both":
                pairs.append((mixture[item] - estimate[item], mixture[item] - vocals[item]))
            floor = 1e-4 * numpy_magnitudes(mixture[item], 512).max()
            convergence, logarithmic = [], []
            for pair in pairs:
                e, y = (np.sqrt(numpy_magnitudes(x, 512) ** 2 + floor**2) for x in pair)
                convergence.append(np.linalg.norm(e - y) / np.linalg.norm(y))
                logarithmic.append(np.mean(np.abs(np.log(e) - np.log(y))))
            assert found[0][item].item() == pytest.approx(np.mean(convergence), rel=1e-3)
            assert found[1][item].item() == pytest.approx(np.mean(logarithmic), rel=1e-3)


def test_both_stems_count_the_same(sound, config):
    """The mean of what the mask of each stem alone would score."""
    names = ("si_sdr", "snr", "stft_convergence", "stft_log_magnitude")
    other = dataclasses.replace(config, mask_stem="instrumental")
    both = parts_of(only(**dict.fromkeys(names, 1.0)), *sound, config)
    weights = only(**dict.fromkeys(names, 1.0), stems="masked")
    single = parts_of(weights, *sound, config), parts_of(weights, *sound, other, torch.full((2, 2, 64, 16), 0.7))
    for name in names:
        assert torch.allclose(both[name], (single[0][name] + single[1][name]) / 2, rtol=1e-3), name
        assert not torch.allclose(both[name], single[0][name], rtol=0.05), name


def test_several_lengths_are_averaged(sound, config):
    single = [parts_of(only(stft_convergence=1, stft_n_fft=(n,)), *sound, config) for n in (256, 1024)]
    both = parts_of(only(stft_convergence=1, stft_n_fft=(256, 1024)), *sound, config)
    assert torch.allclose(both["stft_convergence"], sum(part["stft_convergence"] for part in single) / 2)


def test_errors_are_those_of_left_and_right_waveforms_whatever_the_network_sees(sound, config):
    """A constant mask leaves the same sound, whichever channels it is laid on."""
    audio = dataclasses.replace(config.audio, stereo="mid-side")
    other = dataclasses.replace(config, audio=audio)
    weights = only(waveform_l1=1, si_sdr=1, snr=1, stft_convergence=1, stft_log_magnitude=1)
    plain, turned = (parts_of(weights, *sound, each) for each in (config, other))
    for name, values in plain.items():
        assert torch.allclose(values, turned[name], rtol=1e-3), name


def test_waveform_l1_is_in_units_of_full_scale(config):
    """Noise within the network's bins; away from the ends, the inverse transform is exact."""
    samples = 63 * config.audio.hop_length + config.audio.n_fft
    time = torch.arange(samples) / config.audio.sample_rate
    mixture = (0.5 * torch.sin(2 * torch.pi * 500 * time)).expand(1, 2, -1)
    (value,) = parts_of(only(waveform_l1=1), 0 * mixture, mixture, config)["waveform_l1"].tolist()
    assert value == pytest.approx(0.3 * 0.5 * 2 / np.pi, rel=0.05)


@pytest.mark.parametrize("kind", ["magnitude", "complex"])
@pytest.mark.parametrize("name", NAMES)
def test_perfect_estimates_are_best_and_gradients_finite(sound, config, name, kind):
    """Also for silent vocals, silent instrumentals and silence, at a perfect mask and at others."""
    vocals, mixture = sound
    vocals = torch.stack((vocals[0], mixture[1], 0 * mixture[1], 0 * mixture[1]))
    mixture = torch.stack((mixture[0], mixture[1], mixture[1], 0 * mixture[1]))
    batch = batch_from_waveforms(waveforms(vocals, mixture), config)
    ideal = batch.target / batch.mixture
    if kind == "magnitude":
        ideal = ideal.abs().clamp(0, 1)
    ideal = torch.nan_to_num(ideal, nan=0.0)
    values = []
    for mask in (ideal, 0.9 * ideal + 0.05, torch.ones_like(ideal)):
        mask = mask.clone().requires_grad_()
        loss = separation_parts(mask, batch, only(**{name: 1.0}), config.audio)[name]
        loss.sum().backward()
        assert torch.isfinite(loss).all()
        assert torch.isfinite(torch.view_as_real(mask.grad) if kind == "complex" else mask.grad).all()
        values.append(loss.detach())
    best = values[0] if kind == "complex" else values[0][1:]
    others = torch.stack(values[1:])[:, -len(best) :]
    assert (best <= others + 1e-4).all()
    assert values[0][3] <= EPSILON**0.5 + 1e-6, "silence is no error"


def test_losses_are_float32_within_autocast(sound, config):
    plain = parts_of(ALL, *sound, config)
    with torch.autocast("cpu", torch.bfloat16):
        inside = parts_of(ALL, *sound, config, mask=torch.full((2, 2, 64, 16), 0.3, dtype=torch.bfloat16))
    rounded = torch.tensor(0.3, dtype=torch.bfloat16).item() / 0.3
    for name, values in inside.items():
        assert values.dtype == torch.float32
        assert torch.allclose(values, plain[name], rtol=5 * (rounded - 1) + 1e-2), name


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"magnitude_l1": 0}, "losses: no weight above 0, expected one of magnitude_l1, complex_l1"),
        ({"si_sdr": -1}, "losses: si_sdr: -1.0, expected 0 or more"),
        ({"stft_n_fft": [1024, 30]}, r"losses: stft_n_fft: \[1024, 30\], expected numbers of samples divisible by 4"),
        ({"stft_n_fft": []}, "stft_n_fft"),
    ],
)
def test_wrong_weights_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        build(Losses, values, "losses")
