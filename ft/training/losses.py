"""The training objective: losses of a masked mixture, each item for itself.

X is the mixture, Y the stem that the mask keeps. Each loss is (batch,), so that the mean over micro-batches of equal
size is that of the large batch. All are finite for silence, and so are their gradients. They are computed in float32
whatever precision the network runs in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ft.config import AudioConfig
from ft.data.batches import Batch, scaled_magnitude, squared_magnitude, waveform_from_spectrogram
from ft.train_config import Losses

EPSILON = 1e-8
ENERGY_FLOOR = 1e-4
"""Share of the mixture's energy that counts as no error: ratios in dB stay within about 40 dB of those of the mixture
itself, also where the target is silent. After Wisdom et al., "What's all the fuss about free universal sound separation
data?", ICASSP 2021, whose share is 1e-3."""
NORM_FLOOR = 0.1
"""Share of the mixture's norm that spectral convergence is divided by where the target has less."""
MAGNITUDE_FLOOR = 1e-4
"""Share of the mixture's largest magnitude, added in squares, below which logarithms see no difference: -80 dB."""


@dataclass(frozen=True)
class Loss:
    """An objective and what it is made of."""

    value: Tensor
    """Scalar, the mean over the batch, to be differentiated."""
    parts: dict[str, Tensor]
    """Each weighted part of it, a detached scalar; they add up to `value`."""

    @classmethod
    def from_parts(cls, parts: Mapping[str, Tensor]) -> Loss:
        """Sums the means of weighted parts (batch,)."""
        means = {name: part.mean() for name, part in parts.items()}
        return cls(torch.stack(list(means.values())).sum(), {name: mean.detach() for name, mean in means.items()})


def separation_parts(mask: Tensor, batch: Batch, weights: Losses, audio: AudioConfig) -> dict[str, Tensor]:
    """The weighted losses (batch,) whose weight is not 0, by name.

    Args:
        mask: (batch, channels, bins, frames), in 0..1 or complex.
        weights: `ft.train_config.Losses`, which says what each loss is.
    """
    with torch.autocast(mask.device.type, enabled=False):
        real, imaginary = _masked(mask if mask.is_complex() else mask.float(), batch.mixture)
        parts = _spectral(mask, real, imaginary, batch, weights)
        if weights.on_waveforms:
            parts |= _temporal(torch.complex(real, imaginary), batch, weights, audio)
        return {name: getattr(weights, name) * value for name, value in parts.items()}


def _masked(mask: Tensor, mixture: Tensor) -> tuple[Tensor, Tensor]:
    """Real and imaginary part of mask X, through real products: complex autograd is slower."""
    if not mask.is_complex():
        return mask * mixture.real, mask * mixture.imag
    real = mask.real * mixture.real - mask.imag * mixture.imag
    return real, mask.real * mixture.imag + mask.imag * mixture.real


def _spectral(mask: Tensor, real: Tensor, imaginary: Tensor, batch: Batch, weights: Losses) -> dict[str, Tensor]:
    """Losses of the spectrogram at the model's own STFT."""
    parts, scale = {}, batch.scale.reshape(-1, 1, 1, 1)
    if weights.magnitude_l1:
        # The original clips the mixture, and so do we, rather than what the mask leaves of it.
        error = mask.abs() * batch.magnitude - scaled_magnitude(batch.target, batch.scale)
        parts["magnitude_l1"] = error.abs().mean((1, 2, 3))
    if weights.complex_l1 or weights.energy:
        squared = (real - batch.target.real).square() + (imaginary - batch.target.imag).square()
        if weights.complex_l1:
            # The root has no gradient at 0, hence the floor.
            parts["complex_l1"] = torch.sqrt(squared / scale.square() + EPSILON).mean((1, 2, 3))
        if weights.energy:
            energy = squared_magnitude(batch.mixture).sum((1, 2, 3))
            parts["energy"] = squared.sum((1, 2, 3)) / (energy + EPSILON * batch.scale.square())
    return parts


def _temporal(estimate: Tensor, batch: Batch, weights: Losses, audio: AudioConfig) -> dict[str, Tensor]:
    """Losses of waveforms. All are made from spectrograms in the same way, so that the bins which the network does not
    see and the half-covered ends are no error."""
    samples = (estimate.shape[-1] - 1) * audio.hop_length + audio.n_fft
    estimate = waveform_from_spectrogram(estimate, audio, samples)
    target = waveform_from_spectrogram(batch.target, audio, samples)
    mixture = waveform_from_spectrogram(batch.mixture, audio, samples)
    pairs = [(estimate, target)]
    if weights.stems == "both":
        pairs.append((mixture - estimate, mixture - target))
    parts = {}
    if weights.waveform_l1:
        parts["waveform_l1"] = (estimate - target).abs().mean((1, 2))
    for name, loss in (("si_sdr", si_sdr_loss), ("snr", snr_loss)):
        if getattr(weights, name):
            parts[name] = torch.stack([loss(*pair, mixture) for pair in pairs]).mean(0)
    if weights.on_stft:
        lengths = [stft_losses(estimate, target, mixture, n_fft, weights.stems) for n_fft in weights.stft_n_fft]
        for name, values in zip(("stft_convergence", "stft_log_magnitude"), zip(*lengths, strict=True), strict=True):
            if getattr(weights, name):
                parts[name] = torch.stack(values).mean(0)
    return parts


def si_sdr_loss(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """-10 log10((|a y|^2 + floor) / (|a y - e|^2 + floor)) with a = <e, y> / |y|^2, over channels and samples at once.

    Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, with a floor of `ENERGY_FLOOR` of the mixture's
    energy: for a silent target it is the energy of the estimate over the floor, in dB, and so 0 for silence.

    Args:
        estimate, target, mixture: (batch, channels, samples).
    Returns:
        (batch,) in dB; lower is better.
    """
    estimate, target = estimate.flatten(1), target.flatten(1)
    gain = (estimate * target).sum(1) / (target.square().sum(1) + EPSILON)
    return _ratio_loss(estimate, gain[:, None] * target, mixture)


def snr_loss(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """-10 log10((|y|^2 + floor) / (|y - e|^2 + floor)): `si_sdr_loss` without its free scale."""
    return _ratio_loss(estimate.flatten(1), target.flatten(1), mixture)


def _ratio_loss(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    floor = ENERGY_FLOOR * mixture.flatten(1).square().sum(1) + EPSILON
    error, energy = (estimate - target).square().sum(1), target.square().sum(1)
    return 10 * (torch.log10(error + floor) - torch.log10(energy + floor))


def stft_losses(estimate: Tensor, target: Tensor, mixture: Tensor, n_fft: int, stems: str) -> tuple[Tensor, Tensor]:
    """Spectral convergence | |E| - |Y| | / |Y| and mean | log |E| - log |Y| | at one window length.

    Yamamoto et al., "Parallel WaveGAN", ICASSP 2020, equations 4 and 5; a Hann window, a quarter of it as hop.
    Magnitudes are sqrt(|.|^2 + floor^2), floor being `MAGNITUDE_FLOOR` of the mixture's largest. The norm of a target
    weaker than `NORM_FLOOR` of the mixture is replaced by that, so that faint targets do not outweigh all others.

    Args:
        estimate, target, mixture: (batch, channels, samples), at least `n_fft` of them.
        stems: `masked` for these; `both` for the mean of these and of what they leave of the mixture.
    Returns:
        Two (batch,).
    """
    window = torch.hann_window(n_fft, device=estimate.device)
    specs = [torch.fft.rfft(x.unfold(-1, n_fft, n_fft // 4) * window) for x in (estimate, target, mixture)]
    pairs = [(specs[0], specs[1])]  # (batch, channels, frames, bins)
    if stems == "both":
        pairs.append((specs[2] - specs[0], specs[2] - specs[1]))
    whole = specs[2].abs()
    floor = MAGNITUDE_FLOOR**2 * whole.square().amax((1, 2, 3), keepdim=True) + EPSILON**2
    smallest = (NORM_FLOOR * torch.linalg.vector_norm(whole, dim=(1, 2, 3))).clamp_min(EPSILON)
    convergence, logarithmic = [], []
    for spec, wanted in pairs:
        powers = spec.abs().square() + floor, wanted.abs().square() + floor
        error = (powers[0].sqrt() - powers[1].sqrt()).square().sum((1, 2, 3))
        norm = torch.maximum(torch.linalg.vector_norm(wanted, dim=(1, 2, 3)), smallest)
        convergence.append(torch.sqrt(error / norm.square() + EPSILON))
        logarithmic.append((powers[0].log() - powers[1].log()).abs().mean((1, 2, 3)) / 2)
    return torch.stack(convergence).mean(0), torch.stack(logarithmic).mean(0)
