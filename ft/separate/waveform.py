"""The two ends of a separation by a model that takes waveforms and gives stems.

Windows are cut along frames as for any model, so that its network sees what another one of the same weights would see.
The samples of a window are those that its frames cover. Two neighbours cannot be blended in their masks, which stay
inside the model; they are blended in their sound, each with the share that its frames have in every sample. Where both
agree on a mask, as they do behind enough context, this is what blending masks gives.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ft.config import ModelConfig
from ft.dsp import SILENT_SIDE, hann_window, left_right, mid_side, stand_in_side
from ft.separate.stream import Analysis, Output
from ft.windows import Window, rising_weights

Array = NDArray[np.float32]

SMALLEST_WEIGHT = 0.25
"""Of the squared windows over a sample, by whose sum a model divides. Between the centres of the first and the last
frame it is at least this; beyond them dividing by less would blow up what is there."""


def network_waveform(frames: Array, config: ModelConfig) -> Array:
    """The waveform (batch, channels, samples) that frames (channels, frames, n_fft) of a song cover.

    A mono song is given to a stereo network twice, or as the middle of what one hears that hears mid and side, with a
    side that stands in, as is a window of two equal channels. The channels of a stereo song are two items of a mono
    network.
    """
    audio = config.audio
    if has_no_side(frames, config):
        frames = frames.mean(axis=0, keepdims=True)
    hops = frames[..., : audio.hop_length].reshape(len(frames), -1)
    waveform = np.concatenate((hops, frames[:, -1, audio.hop_length :]), axis=1)
    waveform = np.pad(waveform, ((0, 0), (0, audio.covered - audio.n_fft)))
    if audio.channels == 1:
        return waveform[:, None]
    if audio.stereo == "mid-side" and len(waveform) == 1:
        frame_rate = audio.sample_rate / audio.hop_length
        delayed = stand_in_side(hops.reshape(1, -1, audio.hop_length).swapaxes(1, 2), frame_rate)
        side = np.zeros_like(waveform)
        side[:, : hops.shape[1]] = delayed.swapaxes(1, 2).reshape(1, -1)
        waveform = left_right(np.concatenate((waveform, side)))
    return np.broadcast_to(waveform, (audio.channels, waveform.shape[1]))[None]


def has_no_side(frames: Array, config: ModelConfig) -> bool:
    """Whether a window (channels, frames, n_fft) has two equal channels, for a network that hears mid and side."""
    if config.audio.stereo != "mid-side" or len(frames) != 2:
        return False
    mid, side = (np.abs(each).max(initial=0) for each in mid_side(frames))
    return bool(side <= SILENT_SIDE * mid)


class WaveformSynthesis(Output):
    """The way out: windows and their stems to vocals."""

    def __init__(self, config: ModelConfig, analysis: Analysis, fade: int) -> None:
        super().__init__(config, analysis)
        audio = config.audio
        self._hop = audio.hop_length
        square = np.zeros(audio.covered, np.float32)
        square[: audio.n_fft] = hann_window(audio.n_fft) ** 2
        self._square = square.reshape(-1, self._hop)
        self._rise = rising_weights(fade)
        self._left = fade + len(self._square) - 1
        """Hops behind the finished ones to which a window still gives something."""
        self._total = np.zeros((analysis.channels, 0, self._hop), np.float32)
        self._weight = np.zeros((0, self._hop), np.float32)
        self._skip = audio.n_fft // 2
        self._held = np.zeros((analysis.channels, 0), np.float32)
        """The newest hop, which may hold samples behind the end of the song."""
        self._samples = 0

    def _vocals(self, window: Window, result: Array) -> Array:
        vocals = result[:, self.config.stems.index("vocals")].reshape(-1, result.shape[-1] // self._hop, self._hop)
        channels, frames = window.spec.shape[:2]
        if channels < len(vocals) or has_no_side(window.spec, self.config):
            vocals = np.repeat(vocals.mean(axis=0, keepdims=True), channels, axis=0)
        weight, whole = self._squares(self._shares(window)), self._squares(np.ones(frames, np.float32))
        # The model divided by `whole`: times that it is the sum of all its frames, of which each shall give its share.
        share = np.divide(weight, whole, out=np.zeros_like(whole), where=whole > 0)
        total = vocals * (np.maximum(whole, SMALLEST_WEIGHT) * share)
        start, stop = window.finished.start, window.finished.stop
        total, weight = total[:, start:], weight[start:]
        count, left = stop - start, len(self._weight)
        total[:, :left] += self._total
        weight[:left] += self._weight
        behind = slice(count, count + self._left)
        self._total, self._weight = total[:, behind].copy(), weight[behind].copy()
        done = np.concatenate((self._held, self._divided(total[:, :count], weight[:count])), axis=1)
        end = max(done.shape[1] - self._hop, 0)
        self._held = done[:, end:]
        self._samples += end
        return done[:, :end]

    def _rest(self, samples: int) -> Array:
        rest = np.concatenate((self._held, self._divided(self._total, self._weight)), axis=1)
        return rest[:, : samples - self._samples]

    def _shares(self, window: Window) -> Array:
        """(frames,): the weight of each frame of a window against its neighbours."""
        shares = np.zeros(window.spec.shape[1], np.float32)
        start, stop = window.finished.start, window.finished.stop
        shares[start:stop] = 1
        if window.fade_in:
            shares[start : start + window.fade_in] = self._rise
        if window.fade_out:
            shares[stop : stop + window.fade_out] = self._rise[::-1]
        return shares

    def _squares(self, shares: Array) -> Array:
        """(hops, hop): the sum of the squared windows of frames, each times its share."""
        parts, frames = len(self._square), len(shares)
        squares = np.zeros((frames + parts - 1, self._hop), np.float32)
        for part, square in enumerate(self._square):
            squares[part : part + frames] += shares[:, None] * square
        return squares

    def _divided(self, total: Array, weight: Array) -> Array:
        """Samples (channels, samples) of finished hops, without those before the first sample of the song."""
        waveform = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0).reshape(len(total), -1)
        skip = min(self._skip, waveform.shape[1])
        self._skip -= skip
        return waveform[:, skip:]
