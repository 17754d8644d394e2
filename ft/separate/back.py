"""The way out: what a network gave of each window to stems at the song's rate.

result -> of the song's channels -> blended along the frames -> stems' spectra or samples -> inverse -> resampled

What is blended is the network's output, masks or estimates: all that becomes of masks is linear. The NumPy twin of
`ft/models/signal.py`, which streams; a test holds both equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ft.config import ModelConfig, Spectrogram
from ft.dsp import BlockQueue, StreamingIstft, StreamingResampler, left_right, window_of
from ft.separate.front import Front, Level, WholeFront, has_no_side
from ft.separate.postprocess import QuietFrames
from ft.windows import Blender, Frames, Grid, Window

Array = NDArray[np.float32]

FLOOR = 1e-10
"""What is added to the sum of magnitudes to the power of a ratio, so that silence is shared equally."""


class Back:
    """What turns results of windows into stems (stems, channels, samples); made anew for each song."""

    def __init__(self, front: Front, grids: Sequence[Grid], postprocess: bool = False) -> None:
        """
        Args:
            front: the way in of the same song, whose channels are known.
            grids: those of the windows, whose results are averaged.
            postprocess: whether vocals are silenced where their mask is low for long.
        """
        self.front, self.config, self.channels = front, front.config, front.channels
        self.stems = len(self.config.stems)
        spectrogram, outputs = self.config.front, self.stems * self.channels
        self._istft: StreamingIstft | None = None
        if isinstance(spectrogram, Spectrogram) and not isinstance(front, WholeFront):
            window = window_of(spectrogram.n_fft, spectrogram.win_length, spectrogram.window)
            self._istft = StreamingIstft(outputs, spectrogram.n_fft, spectrogram.hop_length, window)
        self._mean = GridMean([Blender(*front.weights(grid)) for grid in grids])
        self._quiet = QuietFrames(self.config.output.of) if postprocess else None
        self._resampler = StreamingResampler(self.config.sample_rate, front.sample_rate, outputs)
        self._skip = front.skip
        self._model_samples = self._samples = 0

    def push(self, window: Window, level: Level, result: Array) -> Array:
        """Gives the samples (stems, channels, samples) that one window completes."""
        values = self._of_song(window, level, result)
        spec, values = self._mean.push(window, values.reshape(-1, *values.shape[2:]))
        if self._quiet is not None:
            spec, values = self._quiet.push(spec, values)
        return self._resampled(self._waveform(spec, values))

    def finish(self) -> Array:
        """Gives the rest, so that there are as many samples as came in."""
        parts = []
        if self._quiet is not None:
            parts.append(self._resampled(self._waveform(*self._quiet.finish())))
        if self._istft is not None:
            end = self._istft.finish(self.front.model_samples)
            parts.append(self._resampled(self._stereo(end.reshape(self.stems, self.channels, -1))))
        parts.append(self._shaped(self._resampler.finish()))
        rest = np.concatenate(parts, axis=-1)
        missing = self.front.samples - (self._samples - rest.shape[-1])
        return np.pad(rest[..., :missing], ((0, 0), (0, 0), (0, max(missing - rest.shape[-1], 0))))

    def _of_song(self, window: Window, level: Level, result: Array) -> Frames:
        """What a network gave, (stems, channels, frames, values) of the song's channels and at its level."""
        config, frames = self.config, window.spec.shape[1]
        items, parts = len(result), config.output.parts
        if isinstance(self.front, WholeFront):
            result = result[:, : self.stems]
        values: Frames = result.reshape(items, self.stems, parts * config.channels, -1, result.shape[-1])
        if parts == 2:
            real, imaginary = np.split(values, 2, axis=2)
            values = real + 1j * imaginary
        if self._istft is None:  # samples, of which each frame has some
            values = values.reshape(*values.shape[:3], -1, config.front.hop_length)
        else:
            values = values.swapaxes(3, 4)
        values = values.swapaxes(0, 1).reshape(self.stems, items * config.channels, *values.shape[3:])[:, :, :frames]
        if config.output.kind in ("magnitude", "spectrum", "waveform"):
            values = values * np.float32(level.scale) + np.float32(level.mean)
        return self._of_channels(values, window)

    def _of_channels(self, values: Frames, window: Window) -> Frames:
        """`values` (stems, channels, ...) for as many channels as the song has."""
        channels = self.channels
        if isinstance(self.front, WholeFront) and has_no_side(window.spec, self.config):
            return np.repeat(values.mean(axis=1, keepdims=True), channels, axis=1)
        if values.shape[1] > channels:
            is_mid_side = self.config.is_mid_side and self._istft is not None
            return values[:, :1] if is_mid_side else values.mean(axis=1, keepdims=True)
        return values if values.shape[1] == channels else np.repeat(values, channels, axis=1)

    def _waveform(self, spec: Frames, values: Frames) -> Array:
        """Samples (stems, channels, samples) at the model's rate of finished frames (stems * channels, frames, ...)."""
        if values.shape[1] == 0:
            return np.zeros((self.stems, self.channels, 0), np.float32)
        values = values.reshape(self.stems, self.channels, *values.shape[1:])
        if self._istft is not None:
            estimates = stem_spectra(values, spec, self.config)
            sound = self._istft.push(estimates.reshape(-1, *estimates.shape[2:]))
            return self._stereo(sound.reshape(self.stems, self.channels, -1))
        sound = values.reshape(self.stems, self.channels, -1)
        if not isinstance(self.front, WholeFront):  # whose file has multiplied
            sound = sound * np.float32(self.config.output.gain)
        skipped = min(self._skip, sound.shape[-1])
        self._skip -= skipped
        sound = sound[..., skipped:]
        done = sound[..., : max(self.front.model_samples - self._model_samples, 0)]
        self._model_samples += done.shape[-1]
        return done

    def _stereo(self, sound: Array) -> Array:
        is_mid_side = self.config.is_mid_side and self.channels == 2
        return left_right(sound.swapaxes(0, 1)).swapaxes(0, 1) if is_mid_side else sound

    def _resampled(self, waveform: Array) -> Array:
        return self._shaped(self._resampler.push(waveform.reshape(self.stems * self.channels, -1)))

    def _shaped(self, samples: Array) -> Array:
        self._samples += samples.shape[-1]
        return samples.reshape(self.stems, self.channels, -1)


def stem_spectra(values: Frames, spec: Frames, config: ModelConfig) -> Frames:
    """Gives the spectra (stems, channels, frames, bins) that a network's output means, without silent high bins.

    Args:
        values: (stems, channels, frames, bins of the network), magnitudes and spectra at the song's level.
        spec: of the mixture (channels, frames, bins).
    """
    output = config.output
    seen = spec[..., : values.shape[-1]]
    if output.kind == "mask":
        masks = values if output.of == "stems" else 1 - values
        if output.above == "rest":
            estimates = masks * seen
        else:
            kept = np.ones_like(masks[..., :1]) if output.above == "stem" else _mean_of(masks[..., -output.above :])
            above = np.broadcast_to(kept, (*masks.shape[:-1], spec.shape[-1] - masks.shape[-1]))
            estimates = np.concatenate((masks, above), axis=-1) * spec
    elif output.kind == "complex-mask":
        estimates = values * seen
    elif output.kind == "spectrum":
        estimates = values
    elif output.combine == "ratio":
        powers = np.maximum(values, 0) ** np.float32(output.exponent)
        estimates = (powers + FLOOR / len(powers)) / (powers.sum(axis=0) + FLOOR) * seen
    else:
        estimates = values * np.exp(1j * np.angle(seen))
    return estimates * np.float32(output.gain) if output.gain != 1 else estimates


def _mean_of(masks: Array) -> Array:
    mean: Array = masks.mean(axis=-1, keepdims=True)
    return mean


class GridMean:
    """The result for a song from those of its windows on one grid, blended, or on several, averaged frame by frame."""

    def __init__(self, blenders: Sequence[Blender]) -> None:
        self._blenders = blenders
        self._values = [BlockQueue() for _ in blenders]
        self._spec = BlockQueue()

    @property
    def waiting(self) -> int:
        """Frames of the grid that is ahead of the others."""
        return max(queue.size for queue in self._values)

    def push(self, window: Window, values: Frames) -> tuple[Frames, Frames]:
        """Gives the frames that every grid has finished now: the mixture's, and those of `values`."""
        spec, blended = window.spec[:, window.finished], self._blenders[window.grid].push(window, values)
        if len(self._values) == 1:
            return spec, blended
        if window.grid == 0:
            self._spec.append(spec)
        self._values[window.grid].append(blended)
        count = min(queue.size for queue in self._values)
        if count == 0:
            return spec[:, :0], blended[:, :0]
        total = self._values[0].take(count).copy()
        for queue in self._values[1:]:
            total += queue.take(count)
        total /= len(self._values)
        return self._spec.take(count), total
