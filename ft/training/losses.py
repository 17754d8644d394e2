"""The training objective: losses of estimates, each item for itself.

X is the mixture, Y what a network is to give: its stems, or the rest where its mask is of that. Each loss is (batch,),
a mean over stems, so that the mean over micro-batches of equal size is that of the large batch. All are finite for
silence, and so are their gradients. They are computed in float32 whatever precision the network runs in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ft.config import ModelConfig
from ft.models.signal import Level, Signal, magnitude_peak
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


class Objective:
    """The losses of `weights` for what the network of a model gives.

    Args:
        weights: `ft.train_config.Losses`, which says what each loss is.
    """

    def __init__(self, config: ModelConfig, weights: Losses) -> None:
        self.signal, self.weights = Signal(config), weights
        self.spectra = Signal(ModelConfig(channels=config.channels))
        """What gives spectra of waveforms where a network has none."""
        self.by_peak = config.front.scale in ("track-peak", "window-peak")
        self.with_rest = weights.stems == "both" and config.rest is not None

    def parts(self, result: Tensor, targets: Tensor, mixture: Tensor, level: Level) -> dict[str, Tensor]:
        """Gives the weighted losses (batch,) whose weight is not 0, by name.

        Args:
            result: what the network gave, activated: (batch, [stems,] channels, ...).
            targets: the signals of the true stems (batch, stems, channels, ...), in the model's order.
            mixture: the signal of the mixture (batch, channels, ...).
            level: of the mixture, as the network read it.
        """
        parts: dict[str, Tensor] = {}
        with torch.autocast(result.device.type, enabled=False):
            estimates = self.signal.given(result, mixture, level)
            sounds = [estimates, self.signal.of_stems(targets, mixture), mixture[:, None]]
            is_spectral, frames = mixture.is_complex(), estimates.shape[-1]
            if is_spectral:
                sounds = [sound[..., : estimates.shape[-2], :] for sound in sounds]
            if self.weights.on_spectra:
                spectra = sounds if is_spectral else [self.spectra.transformed(sound) for sound in sounds]
                scale = level.scale if self.by_peak and is_spectral else magnitude_peak(spectra[2])
                parts |= self._spectral(spectra, scale)
            if self.weights.on_waveforms:
                if is_spectral:
                    # All are made from spectrograms in the same way, so that the bins which the network does not see
                    # and the half-covered ends are no error.
                    samples = self.signal.front.samples(frames)
                    sounds = [self.signal.waveform(sound, samples) for sound in sounds]
                parts |= self._temporal(sounds)
            return {name: getattr(self.weights, name) * value for name, value in parts.items()}

    def _spectral(self, spectra: Sequence[Tensor], scale: Tensor) -> dict[str, Tensor]:
        """Losses of estimates, targets and mixture (batch, stems, channels, bins, frames)."""
        estimates, targets, mixture = spectra
        parts, weights, scale = {}, self.weights, scale.clamp_min(EPSILON).reshape(-1, 1, 1, 1, 1)
        if weights.magnitude_l1:
            error = estimates.abs() / scale - (targets.abs() / scale).clamp(max=1)
            parts["magnitude_l1"] = error.abs().mean((1, 2, 3, 4))
        if weights.complex_l1 or weights.energy:
            squared = (estimates.real - targets.real).square() + (estimates.imag - targets.imag).square()
            if weights.complex_l1:
                # The root has no gradient at 0, hence the floor.
                parts["complex_l1"] = torch.sqrt(squared / scale.square() + EPSILON).mean((1, 2, 3, 4))
            if weights.energy:
                energy = (mixture.real.square() + mixture.imag.square()).sum((2, 3, 4))
                parts["energy"] = (squared.sum((2, 3, 4)) / (energy + EPSILON * scale.flatten(1).square())).mean(1)
        return parts

    def _temporal(self, waveforms: Sequence[Tensor]) -> dict[str, Tensor]:
        """Losses of estimates, targets and mixture (batch, stems, channels, samples)."""
        estimates, targets, mixture = waveforms
        weights, parts = self.weights, {}
        if weights.waveform_l1:
            parts["waveform_l1"] = (estimates - targets).abs().mean((1, 2, 3))
        if weights.on_stft:
            lengths = [stft_losses(estimates, targets, mixture, n, self.with_rest) for n in weights.stft_n_fft]
            for index, name in enumerate(("stft_convergence", "stft_log_magnitude")):
                if getattr(weights, name):
                    parts[name] = torch.stack([values[index] for values in lengths]).mean(0)
        for name, loss in (("si_sdr", si_sdr_loss), ("snr", snr_loss)):
            if getattr(weights, name):
                sides = both_sides(estimates, targets, mixture, self.with_rest)
                parts[name] = torch.cat([loss(*pair, mixture) for pair in sides], dim=1).mean(1)
        return parts


def both_sides(estimates: Tensor, targets: Tensor, mixture: Tensor, rest: bool) -> list[tuple[Tensor, Tensor]]:
    """Gives estimates and targets (batch, stems, ...), and with `rest` what both leave of the mixture."""
    left = [mixture - each.sum(1, keepdim=True) for each in (estimates, targets) if rest]
    return [(estimates, targets), *([(left[0], left[1])] if rest else [])]


def si_sdr_loss(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """-10 log10((|a y|^2 + floor) / (|a y - e|^2 + floor)) with a = <e, y> / |y|^2, over channels and samples at once.

    Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019, with a floor of `ENERGY_FLOOR` of the mixture's
    energy: for a silent target it is the energy of the estimate over the floor, in dB, and so 0 for silence.

    Args:
        estimate, target, mixture: (..., channels, samples).
    Returns:
        (...) in dB; lower is better.
    """
    estimate, target = estimate.flatten(-2), target.flatten(-2)
    gain = (estimate * target).sum(-1) / (target.square().sum(-1) + EPSILON)
    return _ratio_loss(estimate, gain[..., None] * target, mixture)


def snr_loss(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    """-10 log10((|y|^2 + floor) / (|y - e|^2 + floor)): `si_sdr_loss` without its free scale."""
    return _ratio_loss(estimate.flatten(-2), target.flatten(-2), mixture)


def _ratio_loss(estimate: Tensor, target: Tensor, mixture: Tensor) -> Tensor:
    floor = ENERGY_FLOOR * mixture.flatten(-2).square().sum(-1) + EPSILON
    error, energy = (estimate - target).square().sum(-1), target.square().sum(-1)
    return 10 * (torch.log10(error + floor) - torch.log10(energy + floor))


def stft_losses(estimates: Tensor, targets: Tensor, mixture: Tensor, n_fft: int, rest: bool) -> tuple[Tensor, Tensor]:
    """Spectral convergence | |E| - |Y| | / |Y| and mean | log |E| - log |Y| | at one window length.

    Yamamoto et al., "Parallel WaveGAN", ICASSP 2020, equations 4 and 5; a Hann window, a quarter of it as hop.
    Magnitudes are sqrt(|.|^2 + floor^2), floor being `MAGNITUDE_FLOOR` of the mixture's largest. The norm of a target
    weaker than `NORM_FLOOR` of the mixture is replaced by that, so that faint targets do not outweigh all others.

    Args:
        estimates, targets: (batch, stems, channels, samples), at least `n_fft` of them; `mixture` has one stem.
        rest: whether what they leave of the mixture counts as a stem.
    Returns:
        Two (batch,), means over the stems.
    """
    window, values = torch.hann_window(n_fft, device=estimates.device), (2, 3, 4)  # channels, frames, bins
    spec, wanted, whole = (
        torch.fft.rfft(x.unfold(-1, n_fft, n_fft // 4) * window) for x in (estimates, targets, mixture)
    )
    size = whole.abs()
    floor = MAGNITUDE_FLOOR**2 * size.square().amax(values, keepdim=True) + EPSILON**2
    smallest = (NORM_FLOOR * torch.linalg.vector_norm(size, dim=values)).clamp_min(EPSILON)
    convergence, logarithmic = [], []
    for found, true in both_sides(spec, wanted, whole, rest):
        powers = found.abs().square() + floor, true.abs().square() + floor
        error = (powers[0].sqrt() - powers[1].sqrt()).square().sum(values)
        norm = torch.maximum(torch.linalg.vector_norm(true, dim=values), smallest)
        convergence.append(torch.sqrt(error / norm.square() + EPSILON))
        logarithmic.append((powers[0].log() - powers[1].log()).abs().mean(values) / 2)
    return torch.cat(convergence, dim=1).mean(1), torch.cat(logarithmic, dim=1).mean(1)
