"""The front end and the output of a model in torch: for training, and for what is exported.

The twin of `ft/separate/front.py` and `ft/separate/back.py`, which stream in NumPy; a test holds both equal. Signals
are complex spectra (batch, ..., channels, bins, frames) of all bins, of mid and side where the network reads those, or
samples (batch, ..., channels, samples).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ft.config import ModelConfig, Output, Spectrogram
from ft.dsp import SIDE_LEVEL, SILENT_SIDE, side_delay, window_of

EDGE_WEIGHT = 0.25
"""Smallest sum of the squared windows over a sample by which an inverse transform divides."""
TINY = 1e-8


class Level(NamedTuple):
    """By what the samples or spectra of each item are brought to the size that the network knows."""

    scale: Tensor
    """(batch,), what they are divided by."""
    mean: Tensor | None = None
    """(batch,), what is taken from samples before."""


class Signal:
    """What the network of a model reads of waveforms, and what its output means."""

    def __init__(self, config: ModelConfig) -> None:
        self.config, self.front, self.output = config, config.front, config.output
        self.stems = len(config.stems)

    def transformed(self, waveform: Tensor, center: bool = False) -> Tensor:
        """Gives the signal of waveforms (batch, ..., channels, samples).

        Args:
            center: whether frame t is centred on sample t * hop, the ends being reflected, as in a whole song.
        """
        front = self.front
        if not isinstance(front, Spectrogram):
            return waveform
        if self.config.is_mid_side:
            waveform = mid_side(waveform)
        window = self._window(waveform.device)
        flat = waveform.reshape(-1, waveform.shape[-1])
        pad_mode = "reflect" if front.ends == "reflect" else "constant"
        spec = torch.stft(
            flat, front.n_fft, front.hop_length, window=window, center=center, pad_mode=pad_mode, return_complex=True
        )
        return spec.reshape(*waveform.shape[:-1], *spec.shape[-2:])

    def waveform(self, signal: Tensor, samples: int) -> Tensor:
        """Gives the waveforms (batch, ..., channels, samples) of what `transformed` made without centring.

        The first and last samples lie under one window's foot; there the sum is divided by no less than `EDGE_WEIGHT`.
        Missing high bins are silent.
        """
        front = self.front
        if not isinstance(front, Spectrogram):
            return F.pad(signal, (0, samples - signal.shape[-1]))
        window = self._window(signal.device)
        full = F.pad(signal, (0, 0, 0, front.all_bins - signal.shape[-2])).transpose(-1, -2)
        total = self._overlapped(torch.fft.irfft(full, front.n_fft) * window)
        weight = self._overlapped(window.square().expand(signal.shape[-1], -1))
        waveform = (total / weight.clamp_min(EDGE_WEIGHT))[..., :samples]
        waveform = F.pad(waveform, (0, samples - waveform.shape[-1]))
        return left_right(waveform) if self.config.is_mid_side else waveform

    def level(self, signal: Tensor) -> Level:
        """Gives the level of each item by itself, as of a song that is as long as this."""
        rule = self.front.scale
        if rule in ("track-peak", "window-peak"):
            return Level(magnitude_peak(signal).clamp_min(TINY))
        if rule == "track-deviation":
            mono = self._samples(signal).mean(1)
            mean = None if isinstance(self.front, Spectrogram) else mono.mean(-1)
            return Level(mono.std(-1).clamp_min(TINY), mean)
        return Level(torch.full((len(signal),), 1.0 if rule == "none" else float(rule), device=signal.device))

    def inputs(self, mixture: Tensor, level: Level) -> Tensor:
        """Gives what the network reads of a mixture's signal (batch, channels, ...)."""
        front, scale = self.front, level.scale.clamp_min(TINY).reshape(-1, *[1] * (mixture.ndim - 1))
        if not isinstance(front, Spectrogram):
            mean = 0 if level.mean is None else level.mean.reshape(-1, 1, 1)
            return (mixture - mean) / scale
        seen = mixture[..., : front.used_bins, :]
        if front.values == "complex":
            return torch.cat((seen.real, seen.imag), dim=1) / scale
        values = seen.abs() / scale
        if front.scale in ("track-peak", "window-peak"):
            values = values.clamp(max=1)
        if self.config.is_mid_side:
            values = self._with_side(values)
        return values.log1p() if front.values == "log1p-magnitude" else values

    def estimates(self, result: Tensor, mixture: Tensor, level: Level) -> Tensor:
        """Gives the signals (batch, stems, channels, ...) that a network's activated output means.

        Spectra have the bins that the network gives.

        Args:
            result: (batch, [stems,] channels, ...).
            mixture: the signal of the mixture (batch, channels, ...).
        """
        return self.of_stems(self.given(result, mixture, level), mixture)

    def of_stems(self, given: Tensor, mixture: Tensor) -> Tensor:
        """Gives what the stems are where a network gives `given`, and the other way round (`Output.of`)."""
        return given if self.output.of == "stems" else mixture[:, None, :, : given.shape[-2]] - given

    def given(self, result: Tensor, mixture: Tensor, level: Level) -> Tensor:
        """Gives the signals that a network gives itself: those of the stems, or of the rest (`Output.of`).

        Masks are laid on by real products, as complex ones take longer to differentiate.
        """
        output = self.output
        y = result.float().reshape(len(result), self.stems, -1, *result.shape[-(mixture.ndim - 2) :])
        scale = level.scale.clamp_min(TINY).reshape(-1, *[1] * (y.ndim - 1))
        if output.kind == "waveform":
            mean = 0 if level.mean is None else level.mean.reshape(-1, 1, 1, 1)
            return (y * scale + mean) * output.gain
        seen = mixture[:, None, :, : y.shape[-2]]
        if output.kind == "magnitude" and output.combine == "none":
            y, seen = y * scale, torch.polar(torch.ones_like(seen.real), seen.angle())
        elif output.kind == "magnitude":
            y = ratio_masks(y, output.exponent)
        y = y * output.gain
        if output.of == "rest":  # the gain is the stem's, so the rest has 1 - gain * (1 - mask)
            y = y + (1 - output.gain)
        if output.parts == 1:
            return torch.complex(y * seen.real, y * seen.imag)
        real, imaginary = y.chunk(2, dim=2)
        if output.kind == "spectrum":
            return torch.complex(real * scale, imaginary * scale)
        return torch.complex(real * seen.real - imaginary * seen.imag, real * seen.imag + imaginary * seen.real)

    def _samples(self, signal: Tensor) -> Tensor:
        if not isinstance(self.front, Spectrogram):
            return signal
        return self.waveform(signal, self.front.samples(signal.shape[-1]))

    def _window(self, device: torch.device) -> Tensor:
        assert isinstance(self.front, Spectrogram)
        front = self.front
        return torch.from_numpy(window_of(front.n_fft, front.win_length, front.window)).to(device)

    def _overlapped(self, frames: Tensor) -> Tensor:
        """The sum (..., samples) of frames (..., frames, n_fft), each a hop behind the one before."""
        front = self.front
        assert isinstance(front, Spectrogram)
        parts = front.covered // front.hop_length
        hops = F.pad(frames, (0, front.covered - front.n_fft)).unflatten(-1, (parts, front.hop_length))
        shifted = [F.pad(hops[..., part, :], (0, 0, part, parts - 1 - part)) for part in range(parts)]
        return torch.stack(shifted).sum(0).flatten(-2)

    def _with_side(self, magnitude: Tensor) -> Tensor:
        """Mid and side (batch, 2, bins, frames), with `ft.dsp.stand_in_side` where there is none, as in a mono song."""
        mid, side = magnitude[:, :1], magnitude[:, 1:]
        delay = side_delay(magnitude.shape[-1], self.config.frame_rate)
        is_silent = side.amax((1, 2, 3), keepdim=True) <= SILENT_SIDE * mid.amax((1, 2, 3), keepdim=True)
        return torch.cat((mid, torch.where(is_silent, mid.roll(delay, -1) * SIDE_LEVEL, side)), dim=1)


class Runnable(nn.Module):
    """A network with its activation: from `ModelConfig.reads` to `ModelConfig.gives`, which engines run."""

    def __init__(self, network: nn.Module, output: Output) -> None:
        super().__init__()
        self.network, self.output = network, output

    def forward(self, x: Tensor) -> Tensor:
        return activated(self.network(x), self.output)


def activated(result: Tensor, output: Output) -> Tensor:
    """Gives what a model gives of what its network gave, in float32."""
    functions = {"sigmoid": torch.sigmoid, "relu": torch.relu}
    return functions.get(output.activation or "none", torch.Tensor.float)(result.float())


def magnitude_peak(signal: Tensor) -> Tensor:
    """Gives the largest absolute value (batch,) of each item; the root is taken of the largest square only."""
    squared = signal.real.square() + signal.imag.square() if signal.is_complex() else signal.square()
    return squared.flatten(1).amax(1).sqrt()


def ratio_masks(magnitudes: Tensor, exponent: float) -> Tensor:
    """Gives each stem's magnitude (batch, stems, ...) to a power over the sum of all (Spleeter, Open-Unmix)."""
    powers = magnitudes.clamp_min(0) ** exponent
    return (powers + 1e-10 / powers.shape[1]) / (powers.sum(1, keepdim=True) + 1e-10)


def mid_side(waveform: Tensor) -> Tensor:
    """Gives middle and side (..., 2, samples) of left and right."""
    left, right = waveform.unbind(-2)
    return torch.stack(((left + right) / 2, (left - right) / 2), dim=-2)


def left_right(waveform: Tensor) -> Tensor:
    """Gives left and right (..., 2, samples) of middle and side."""
    mid, side = waveform.unbind(-2)
    return torch.stack((mid + side, mid - side), dim=-2)
