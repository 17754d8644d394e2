"""The two ends of a separation as streams: a mixture to frames, and masks to vocals.

What the network reads and what its mask means is decided here: the scale, mono and stereo, and the bins above its band.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ft.audio.source import MAX_CHANNELS, first_bad
from ft.config import AudioConfig, ModelConfig
from ft.dsp import (
    SILENT_SIDE,
    StreamingFrames,
    StreamingIstft,
    StreamingResampler,
    StreamingStft,
    istft,
    left_right,
    mid_side,
    stand_in_side,
    stft,
)
from ft.errors import AudioError
from ft.separate.masks import GridMean, Postprocess
from ft.songs.pictures import Pictures
from ft.windows import Frames, Grid, Window

Array = NDArray[np.float32]
Spec = NDArray[np.complex64]

_TINY = np.finfo(np.float32).tiny


class Analysis:
    """The way in: blocks of the mixture to frames. It holds what came in until `take` asks for it."""

    def __init__(
        self, config: ModelConfig, sample_rate: int, io: Literal["magnitude", "waveform"] = "magnitude"
    ) -> None:
        """`io`: whether frames are spectra (channels, frames, bins) or samples (channels, frames, n_fft)."""
        if not 0 < sample_rate < math.inf:
            raise AudioError(f"sample rate: {sample_rate}, expected a number of Hz above 0")
        self.config = config
        self.sample_rate = sample_rate
        self._transform = StreamingStft if io == "magnitude" else StreamingFrames
        self._mid_side = config.audio.stereo == "mid-side" and io == "magnitude"
        self.channels = 0
        self.samples = 0
        """Samples that came in."""
        self.model_samples = 0
        """The same at the model's rate; known when all have come in."""
        self._mixture: deque[Array] = deque()

    def frames(self, blocks: Iterable[Array]) -> Iterator[Frames]:
        """Frames (channels, frames, bins or n_fft) at the model's rate.

        The channels of spectra are those of `AudioConfig.stereo`; a song in mono has the one it has.
        """
        audio = self.config.audio
        stft: StreamingStft | StreamingFrames | None = None
        for block in blocks:
            block = self._checked(block)
            if stft is None:
                self.channels = block.shape[0]
                resampler = StreamingResampler(self.sample_rate, audio.sample_rate, self.channels)
                stft = self._transform(self.channels, audio.n_fft, audio.hop_length)
            self._mixture.append(block)
            self.samples += block.shape[1]
            yield stft.push(self._seen(resampler.push(block)))
        if stft is not None:
            yield stft.push(self._seen(resampler.finish()))
            if stft.samples == 0 and self.samples:  # less than one sample at the model's rate
                yield stft.push(np.zeros((self.channels, 1), np.float32))
            self.model_samples = stft.samples
            yield stft.finish()

    def _seen(self, waveform: Array) -> Array:
        return mid_side(waveform) if self._mid_side and len(waveform) == 2 else waveform

    def drop(self) -> None:
        """Forgets what came in and was not taken: for a pass that only looks."""
        self._mixture.clear()

    def take(self, count: int) -> Array:
        """The next `count` samples (channels, samples) of the mixture."""
        taken = []
        while count:
            block = self._mixture.popleft()
            if block.shape[1] > count:
                self._mixture.appendleft(block[:, count:])
                block = block[:, :count]
            taken.append(block)
            count -= block.shape[1]
        return np.concatenate(taken, axis=1) if taken else np.zeros((self.channels, 0), np.float32)

    def _checked(self, block: Array) -> Array:
        block = np.asarray(block)
        if block.dtype.kind != "f":
            raise AudioError(f"samples of type {block.dtype}; expected float32, full scale at 1")
        block = block.astype(np.float32, copy=False)
        channels = self.channels or MAX_CHANNELS
        if block.ndim != 2 or not 1 <= block.shape[0] <= channels or block.shape[0] < self.channels:
            expected = f"{self.channels}, as before" if self.channels else "1 or 2 channels"
            raise AudioError(f"block of shape {block.shape}; expected (channels, samples) with {expected}")
        if (bad := first_bad(block)) is not None:
            raise AudioError(f"{bad[1]} near {self.samples / self.sample_rate:.1f} s")
        return block


class Output(ABC):
    """The way out: what an engine made of each window, to vocals at the mixture's rate."""

    def __init__(self, config: ModelConfig, analysis: Analysis) -> None:
        self.config = config
        self.analysis = analysis
        self.resampler = StreamingResampler(config.audio.sample_rate, analysis.sample_rate, analysis.channels)
        self.samples = 0

    def push(self, window: Window, result: Array) -> Array:
        """The samples (channels, samples) that one window completes."""
        vocals = self.resampler.push(self._vocals(window, result))
        self.samples += vocals.shape[1]
        return vocals

    def finish(self) -> Array:
        """The rest, so that there are as many samples as came in."""
        end = self._rest(self.analysis.model_samples)
        vocals = np.concatenate((self.resampler.push(end), self.resampler.finish()), axis=1)
        missing = self.analysis.samples - self.samples
        return np.pad(vocals[:, :missing], ((0, 0), (0, max(missing - vocals.shape[1], 0))))

    @abstractmethod
    def _vocals(self, window: Window, result: Array) -> Array:
        """Vocals (channels, samples) at the model's rate."""

    @abstractmethod
    def _rest(self, samples: int) -> Array:
        """What is left of vocals of `samples` samples in all."""


class Synthesis(Output):
    """From masks (channels, frames, bins): they become one for the song, and its frames go through the inverse STFT."""

    def __init__(
        self,
        config: ModelConfig,
        analysis: Analysis,
        grids: Sequence[Grid],
        postprocess: bool = False,
        pictures: Pictures | None = None,
    ) -> None:
        """
        Args:
            grids: those of the windows.
            postprocess: whether frames without vocals are silenced (`ft.separate.postprocess`).
            pictures: is given every finished frame.
        """
        super().__init__(config, analysis)
        self.mean = GridMean(grids)
        self.postprocess = Postprocess(config) if postprocess else None
        self.pictures = pictures
        self.istft = StreamingIstft(analysis.channels, config.audio.n_fft, config.audio.hop_length)
        self._mid_side = config.audio.stereo == "mid-side" and analysis.channels == 2

    def _vocals(self, window: Window, result: Array) -> Array:
        spec, mask = self.mean.push(window, result)
        vocals = vocals_mask(mask, self.config)
        if self.postprocess is not None:
            spec, vocals = self.postprocess.push(spec, mask, vocals)
        return self._sound(spec, vocals)

    def _rest(self, samples: int) -> Array:
        head = self._sound(*self.postprocess.finish()) if self.postprocess is not None else None
        rest = self.istft.finish(samples)
        rest = left_right(rest) if self._mid_side else rest
        return rest if head is None else np.concatenate((head, rest), axis=1)

    def _sound(self, spec: Spec, vocals: Array) -> Array:
        if spec.shape[1] == 0:
            return np.zeros((spec.shape[0], 0), np.float32)
        if self.pictures is not None:
            self.pictures.add(*self._pictured(spec, vocals))
        sound = self.istft.push(spec * vocals)
        return left_right(sound) if self._mid_side else sound

    def _pictured(self, spec: Spec, vocals: Array) -> tuple[Array, Spec]:
        """The mask of the instrumental and the spectrum, both of left and right, as they are drawn."""
        if not self._mid_side:
            return 1 - vocals, spec
        whole, rest = left_right(spec), left_right((spec * (1 - vocals)).astype(np.complex64, copy=False))
        mask: Array = np.minimum(np.abs(rest) / np.maximum(np.abs(whole), _TINY), 1)
        return mask, whole


def song_spectrum(song: Array, audio: AudioConfig) -> Spec:
    """The spectra (channels, frames, bins) of a whole song (channels, samples) at the model's rate, as frames of
    `Analysis` are: of mid and side where the model hears those."""
    seen = mid_side(song) if audio.stereo == "mid-side" and len(song) == 2 else song
    return stft(seen, audio.n_fft, audio.hop_length).swapaxes(1, 2)


def song_waveform(spec: Spec, audio: AudioConfig, samples: int) -> Array:
    """The inverse of `song_spectrum`: (channels, samples)."""
    song = istft(spec.swapaxes(1, 2), audio.n_fft, audio.hop_length, samples)
    return left_right(song) if audio.stereo == "mid-side" and len(song) == 2 else song


def network_input(values: Array, scale: float, config: ModelConfig) -> Array:
    """Magnitudes (channels, frames, bins) of a song as the network takes them: (batch, channels, bins, frames) in 0..1.

    A mono song is given to a stereo network twice, or as the mid of one that hears mid and side, with a side that
    stands in (`stand_in_side`), as it does in a window of a stereo song whose side is silent. The channels of a stereo
    song are two items of a mono network.
    """
    values = values[..., : config.audio.bins].swapaxes(1, 2)
    scaled = np.minimum(np.multiply(values, 1 / scale if scale > 0 else 0.0, order="C"), 1)
    if config.audio.channels == 1:
        return scaled[:, None]
    if config.audio.stereo == "mid-side":
        mid, side = scaled[:1], scaled[1:]
        if side.max(initial=0) <= SILENT_SIDE * mid.max(initial=0):
            scaled = np.concatenate((mid, stand_in_side(mid, config.audio.sample_rate / config.audio.hop_length)))
    return np.broadcast_to(scaled, (config.audio.channels, *scaled.shape[1:]))[None]


def song_mask(mask: Array, channels: int, config: ModelConfig) -> Array:
    """The mask (channels, frames, bins) of a song from what the network gave for `network_input`."""
    mask = mask.reshape(-1, *mask.shape[2:]).swapaxes(1, 2)
    if channels == len(mask):
        return mask
    return mask[:1] if config.audio.stereo == "mid-side" else mask.mean(axis=0, keepdims=True)


def vocals_mask(mask: Array, config: ModelConfig) -> Array:
    """The mask of the vocals for every bin of the spectrogram, from the blended mask of the network's bins.

    Above the network's bins vocals are silent, or follow its highest bins (`extend_mask`). The original's networks see
    all bins but the last one, and their mask of the instrumental is 0 there: it stays with the vocals.
    """
    audio = config.audio
    vocals = mask if config.mask_stem == "vocals" else 1 - mask
    above = np.zeros((*mask.shape[:2], audio.n_fft // 2 + 1 - audio.bins), np.float32)
    if audio.extend_mask:
        above += vocals[..., -audio.extend_mask :].mean(axis=-1, keepdims=True)
    elif config.mask_stem == "instrumental" and audio.bins == audio.n_fft // 2:
        above += 1
    return np.concatenate((vocals, above), axis=-1)
