"""The objective against values worked out by hand or with NumPy, on silence, and on real sound."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sounds import batch_of, vocals_and_mixture

from ft.config import ConfigError, ModelConfig, Output, Spectrogram, Waveform
from ft.models.frame_transformer import tiny
from ft.models.signal import Level, Signal
from ft.settings import build
from ft.train_config import Losses
from ft.training.losses import EPSILON, Loss, Objective, si_sdr_loss, snr_loss, stft_losses
from ft.training.tasks import mixture_of, true_stems

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
    config = replace(tiny(), channels=2, front=Spectrogram(n_fft=6, hop_length=3))
    result = torch.full(SHAPE, mask)
    if isinstance(mask, complex):
        config = replace(config, output=Output("complex-mask"))
        result = torch.cat((result.real, result.imag), 1)
    objective, scale = Objective(config, weights), torch.tensor([10.0, 5.0])
    objective.by_peak = True
    arguments = result, torch.full((2, 1, *SHAPE[1:]), 1j), torch.full(SHAPE, 3 + 4j), Level(scale)
    (part,) = objective.parts(*arguments).values()
    return part.tolist()


def test_spectral_losses_by_hand():
    # item 1: 0.5 * 0.5 - 0.1 = 0.15;  item 2: 0.5 * 5 / 5 - 0.2 = 0.3
    assert by_hand(Losses()) == pytest.approx([0.15, 0.3])
    # 0.5 (3 + 4j) - j = 1.5 + 1j, of energy 3.25 against 25
    assert by_hand(only(energy=1)) == pytest.approx([0.13, 0.13])
    assert by_hand(only(complex_l1=2)) == pytest.approx([2 * 3.25**0.5 / 10, 2 * 3.25**0.5 / 5], rel=1e-4)


def test_complex_masks_by_hand():
    # 0.5j (3 + 4j) - j = -2 + 0.5j, of energy 4.25; the magnitude is that of a mask of 0.5
    assert by_hand(Losses(), 0.5j) == pytest.approx([0.15, 0.3])
    assert by_hand(only(energy=1), 0.5j) == pytest.approx([0.17, 0.17])


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return tiny()


@pytest.fixture(scope="module")
def sound() -> tuple[torch.Tensor, torch.Tensor]:
    """Vocals and mixture of two items (batch, channels, samples) of the example."""
    return vocals_and_mixture()


def compared(vocals, mixture, config) -> tuple[torch.Tensor, torch.Tensor, Level]:
    """Targets, mixture and level of a batch, as `Objective.parts` takes them behind the network's output."""
    signal, batch = Signal(config), batch_of(vocals, mixture)
    return signal.transformed(true_stems(batch, config.stems)), *mixture_of(batch, signal)


def parts_of(weights: Losses, vocals, mixture, config, mask: float = 0.3) -> dict[str, torch.Tensor]:
    targets, spec, level = compared(vocals, mixture, config)
    result = torch.full(config.reads[0].sized(len(spec), spec.shape[-1]), mask)
    return Objective(config, weights).parts(result, targets, spec, level)


OF_ONE_MASK = {
    ("stems", "left-right", "both"): (0.0251311, 0.0286225, 0.3664236, 0.0279153, 2.2530787, -1.4930296, 0.6935405,
                                      0.1509348),
    ("stems", "left-right", "masked"): (0.0251311, 0.0286225, 0.3664236, 0.0279153, 6.2293921, 0.7598853, 0.8495421,
                                        0.2024267),
    ("rest", "mid-side", "both"): (0.0264729, 0.0299032, 0.3175537, 0.0264036, 0.8707869, -2.0415564, 0.6853511,
                                   0.1487884),
    ("rest", "mid-side", "masked"): (0.0264729, 0.0299032, 0.3175537, 0.0264036, -2.9573317, -4.2944708, 0.5193527,
                                     0.0969291),
}  # fmt: skip
"""Losses of a random mask of the first item, by the code that knew masks of vocals and instrumental alone."""


@pytest.mark.parametrize("case", OF_ONE_MASK)
def test_losses_of_one_mask_are_what_they_were(sound, config, case):
    of, stereo, stems = case
    config = replace(config, output=Output("mask", of=of), front=replace(config.front, stereo=stereo))
    targets, spec, level = compared(*sound, config)
    mask = torch.rand(2, 2, 64, spec.shape[-1], generator=torch.Generator().manual_seed(0))
    weights = only(**dict.fromkeys(NAMES, 1.0), stems=stems)
    parts = Objective(config, weights).parts(mask, targets, spec, level)
    assert [parts[name][0].item() for name in NAMES] == pytest.approx(OF_ONE_MASK[case], rel=2e-6, abs=1e-6)


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
    arguments = [torch.from_numpy(x.astype(np.float32))[:, None] for x in (estimate, vocals, mixture)]
    for rest in (False, True):
        found = stft_losses(*arguments, 512, rest)
        for item in range(2):
            pairs = [(estimate[item], vocals[item])]
            if rest:
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
    other = replace(config, output=Output("mask", of="rest"))
    both = parts_of(only(**dict.fromkeys(names, 1.0)), *sound, config)
    weights = only(**dict.fromkeys(names, 1.0), stems="masked")
    single = parts_of(weights, *sound, config), parts_of(weights, *sound, other, 0.7)
    for name in names:
        assert torch.allclose(both[name], (single[0][name] + single[1][name]) / 2, rtol=1e-3), name
        assert not torch.allclose(both[name], single[0][name], rtol=0.05), name


def test_several_lengths_are_averaged(sound, config):
    single = [parts_of(only(stft_convergence=1, stft_n_fft=(n,)), *sound, config) for n in (256, 1024)]
    both = parts_of(only(stft_convergence=1, stft_n_fft=(256, 1024)), *sound, config)
    assert torch.allclose(both["stft_convergence"], sum(part["stft_convergence"] for part in single) / 2)


def test_errors_are_those_of_left_and_right_waveforms_whatever_the_network_sees(sound, config):
    """A constant mask leaves the same sound, whichever channels it is laid on."""
    other = replace(config, front=replace(config.front, stereo="mid-side"))
    weights = only(waveform_l1=1, si_sdr=1, snr=1, stft_convergence=1, stft_log_magnitude=1)
    plain, turned = (parts_of(weights, *sound, each) for each in (config, other))
    for name, values in plain.items():
        assert torch.allclose(values, turned[name], rtol=1e-3), name


def test_waveform_l1_is_in_units_of_full_scale(config):
    """Noise within the network's bins; away from the ends, the inverse transform is exact."""
    time = torch.arange(config.front.samples(64)) / config.sample_rate
    mixture = (0.5 * torch.sin(2 * torch.pi * 500 * time)).expand(1, 2, -1)
    (value,) = parts_of(only(waveform_l1=1), 0 * mixture, mixture, config)["waveform_l1"].tolist()
    assert value == pytest.approx(0.3 * 0.5 * 2 / np.pi, rel=0.05)


KINDS = ("mask", "complex-mask", "magnitude", "spectrum", "waveform")


def of_kind(config: ModelConfig, kind: str, stems: tuple[str, ...] = ("vocals",)) -> ModelConfig:
    front = Waveform(hop_length=512) if kind == "waveform" else config.front
    rest = None if len(stems) > 1 else "others"
    return replace(config, front=front, output=Output(kind, activation="none"), stems=stems, rest=rest)


def ideal(kind: str, targets: torch.Tensor, mixture: torch.Tensor, level: Level) -> torch.Tensor:
    """What a network of these bins gives that makes no mistake, but for phases where it gives none."""
    seen, scale = mixture[:, None], level.scale.reshape(-1, 1, 1, 1, 1)
    if kind == "waveform":
        return targets
    if kind == "mask":
        return torch.nan_to_num((targets / seen).abs().clamp(0, 1), nan=0.0)[..., :64, :]
    if kind == "magnitude":
        return (targets.abs() / scale)[..., :64, :]
    values = torch.nan_to_num(targets / seen, nan=0.0) if kind == "complex-mask" else targets / scale
    return torch.cat((values.real, values.imag), 2)[..., :64, :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_perfect_estimates_are_best_and_gradients_finite(sound, config, name, kind):
    """Also for silent vocals, silent instrumentals and silence, at a perfect output and at others."""
    vocals, mixture = sound
    vocals = torch.stack((vocals[0], mixture[1], 0 * mixture[1], 0 * mixture[1]))
    mixture = torch.stack((mixture[0], mixture[1], mixture[1], 0 * mixture[1]))
    config = of_kind(config, kind)
    objective, (targets, spec, level) = Objective(config, only(**{name: 1.0})), compared(vocals, mixture, config)
    best = ideal(kind, targets, spec, level)
    values = []
    for result in (best, 0.9 * best + 0.05 * best.std(), torch.ones_like(best)):
        result = result.clone().requires_grad_()
        loss = objective.parts(result[:, 0], targets, spec, level)[name]
        loss.sum().backward()
        assert torch.isfinite(loss).all() and torch.isfinite(result.grad).all()
        values.append(loss.detach())
    has_phase = kind not in ("mask", "magnitude")
    first = values[0] if has_phase else values[0][1:]
    others = torch.stack(values[1:])[:, -len(first) :]
    assert (first <= others + 1e-4).all()
    assert values[0][3] <= EPSILON**0.5 + 1e-6, "silence is no error"


@pytest.mark.parametrize("kind", KINDS)
def test_losses_of_several_stems_are_the_means_of_theirs(sound, config, kind):
    """Of each alone beside the others as its rest."""
    names = ("vocals", "instrumental")
    config = of_kind(config, kind, names)
    weights = only(**dict.fromkeys(NAMES, 1.0), stems="masked")
    targets, spec, level = compared(*sound, config)
    result = ideal(kind, targets, spec, level) * 0.7
    both = Objective(config, weights).parts(result, targets, spec, level)
    alone = [
        Objective(of_kind(config, kind, (name,)), weights).parts(result[:, stem], targets[:, [stem]], spec, level)
        for stem, name in enumerate(names)
    ]
    for name in NAMES:
        torch.testing.assert_close(both[name], (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-6)


def test_losses_are_float32_within_autocast(sound, config):
    plain = parts_of(ALL, *sound, config)
    targets, spec, level = compared(*sound, config)
    mask = torch.full((2, 2, 64, spec.shape[-1]), 0.3, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        inside = Objective(config, ALL).parts(mask, targets, spec, level)
    rounded = mask.flatten()[0].item() / 0.3
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
