"""The way in: blocks of a mixture to frames, and windows of them to what a network reads.

The NumPy twin of `ft/models/signal.py`, which streams; a test holds both equal.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ft.audio.source import MAX_CHANNELS, first_bad
from ft.config import IO, ModelConfig, Spectrogram, Waveform
from ft.dsp import (
    SILENT_SIDE,
    BlockQueue,
    StreamingFrames,
    StreamingResampler,
    StreamingStft,
    left_right,
    magnitude,
    mid_side,
    spectra,
    stand_in_side,
    window_of,
)
from ft.errors import AudioError
from ft.windows import Frames, Grid, Window, WindowPlan, rising_weights

Array = NDArray[np.float32]
Inputs = dict[str, Array]
EDGE_WEIGHT = 0.25
"""Smallest sum of the squared windows over a sample by which a file with transforms inside divides."""
OF_SONG = ("track-peak", "track-deviation")
"""Scales that are one for the whole song, which has to be heard for them."""


class Level(NamedTuple):
    """By what a song is brought to the size that its network knows (`ft.config.Scale`)."""

    scale: float
    """What its values are divided by; 0 of silence."""
    mean: float = 0.0
    """What is taken from its samples before."""


class Front(ABC):
    """What turns a song into frames, and windows of them into what the network reads; made anew for each song.

    It holds what came in until that is taken from `mixture`.
    """

    skip = 0
    """Samples at the model's rate that stand in front of the song in its frames."""

    def __init__(self, config: ModelConfig, sample_rate: int) -> None:
        """Raises AudioError: a sample rate (Hz) that is none."""
        if not 0 < sample_rate < math.inf:
            raise AudioError(f"sample rate: {sample_rate}, expected a number of Hz above 0")
        self.config = config
        self.sample_rate = sample_rate
        self.channels = 0
        self.samples = 0
        """Samples that came in."""
        self.model_samples = 0
        """Samples at the model's rate."""
        self.mixture = BlockQueue()
        """What came in and was not taken."""
        self._sum = self._squares = 0.0

    def frames(self, blocks: Iterable[Array]) -> Iterator[Frames]:
        """Gives frames (channels, frames, values) at the model's rate; a song in mono has the one channel it has.

        Raises:
            AudioError: not one or two channels, or values that are not finite.
        """
        resampler: StreamingResampler | None = None
        for block in blocks:
            block = self._checked(block)
            if resampler is None:
                self.channels = block.shape[0]
                resampler = StreamingResampler(self.sample_rate, self.config.sample_rate, self.channels)
                self._begin()
            self.mixture.append(block)
            self.samples += block.shape[1]
            yield self._counted(resampler.push(block))
        if resampler is not None:
            yield self._counted(resampler.finish())
            if self.model_samples == 0 and self.samples:  # less than one sample at the model's rate
                yield self._counted(np.zeros((self.channels, 1), np.float32))
            yield self._finish()

    def plan(self, plan: WindowPlan) -> WindowPlan:
        """Gives the windows to cut where the network is to see those of `plan`."""
        return plan

    def weights(self, grid: Grid) -> tuple[Array, Array]:
        """Gives the weights (fade, 1 or hop_length) of the later of two neighbours, and those of the earlier one."""
        samples = 1 if isinstance(self.config.front, Spectrogram) else self.config.front.hop_length
        rise = rising_weights(grid.fade, samples)
        return rise, rise[::-1, ::-1]

    @abstractmethod
    def peak(self, frames: Frames) -> float:
        """Gives the largest value of frames, 0 of none."""

    @abstractmethod
    def inputs(self, window: Window, level: Level) -> Inputs:
        """Gives what the network reads of a window, by the names of `ModelConfig.tensors`."""

    @abstractmethod
    def _begin(self) -> None:
        """Prepares for a song whose channels are known now."""

    @abstractmethod
    def _push(self, waveform: Array) -> Frames:
        """Frames that samples (channels, samples) at the model's rate complete."""

    @abstractmethod
    def _finish(self) -> Frames:
        """Frames of the end of the song."""

    def _counted(self, waveform: Array) -> Frames:
        self.model_samples += waveform.shape[1]
        if self.config.front.scale == "track-deviation":
            mono = waveform.mean(axis=0, dtype=np.float64)
            self._sum += float(mono.sum())
            self._squares += float((mono**2).sum())
        return self._push(waveform)

    @property
    def deviation(self) -> Level:
        """The deviation of the mono mixture of what came so far, and its mean; for a model that is scaled by it."""
        count = max(self.model_samples, 1)
        mean = self._sum / count
        return Level(math.sqrt(max(self._squares / count - mean**2, 0.0)), mean)

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

    def _items(self, values: Array) -> Array:
        """What the network reads, (batch, channels, ...), of values (channels, ...) of a song.

        A song in mono is given to a stereo network twice. The channels of a stereo song are two items of a mono
        network, or one that is their mean.
        """
        channels = self.config.channels
        if channels == 1 and self.config.mono == "mix":
            values = values.mean(axis=0, keepdims=True)
        return values[:, None] if channels == 1 else np.broadcast_to(values, (channels, *values.shape[1:]))[None]

    def _filled(self, values: Array, size: int) -> Array:
        """`values`, with `size` of each frame on the last axis and silence up to frames that the network takes."""
        segment = self.config.segment
        multiple = (segment.frames or segment.multiple) * size
        missing = -values.shape[-1] % multiple
        return np.pad(values, ((0, 0),) * (values.ndim - 1) + ((0, missing),)) if missing else values


class SpectrogramFront(Front):
    """Gives frames of complex spectra (channels, frames, bins), of all bins."""

    def __init__(self, config: ModelConfig, sample_rate: int) -> None:
        super().__init__(config, sample_rate)
        assert isinstance(config.front, Spectrogram)
        self.front = front = config.front
        self.window = window_of(front.n_fft, front.win_length, front.window)

    def _begin(self) -> None:
        front = self.front
        self._stft = StreamingStft(self.channels, front.n_fft, front.hop_length, self.window, front.ends)

    def _push(self, waveform: Array) -> Frames:
        return self._stft.push(mid_side(waveform) if self.config.is_mid_side and len(waveform) == 2 else waveform)

    def _finish(self) -> Frames:
        return self._stft.finish()

    def peak(self, frames: Frames) -> float:
        return float(magnitude(frames).max(initial=0))

    def inputs(self, window: Window, level: Level) -> Inputs:
        front, config = self.front, self.config
        (spec,) = config.reads
        seen = window.spec[..., : front.used_bins].swapaxes(1, 2)
        factor = 1 / level.scale if level.scale > 0 else 0.0
        if front.values == "complex":
            scaled = self._items(np.multiply(seen, np.float32(factor), order="C"))
            return {spec.name: self._filled(np.concatenate((scaled.real, scaled.imag), axis=1), 1)}
        scaled = np.multiply(magnitude(seen), factor, order="C")
        if front.scale in ("track-peak", "window-peak"):
            scaled = np.minimum(scaled, 1)
        if config.is_mid_side:
            mid, side = scaled[:1], scaled[1:]
            if side.max(initial=0) <= SILENT_SIDE * mid.max(initial=0):
                scaled = np.concatenate((mid, stand_in_side(mid, config.frame_rate)))
        if front.values == "log1p-magnitude":
            scaled = np.log1p(scaled)
        return {spec.name: self._filled(self._items(scaled), 1)}


class WaveformFront(Front):
    """Gives frames of samples (channels, frames, hop_length)."""

    def __init__(self, config: ModelConfig, sample_rate: int) -> None:
        super().__init__(config, sample_rate)
        assert isinstance(config.front, Waveform)
        self.hop = config.front.hop_length

    def _begin(self) -> None:
        self._left = np.zeros((self.channels, 0), np.float32)

    def _push(self, waveform: Array) -> Frames:
        waveform = np.concatenate((self._left, waveform), axis=1)
        count = waveform.shape[1] // self.hop
        self._left = waveform[:, count * self.hop :]
        return waveform[:, : count * self.hop].reshape(self.channels, count, self.hop)

    def _finish(self) -> Frames:
        missing = -self._left.shape[1] % self.hop
        return self._push(np.zeros((self.channels, missing), np.float32))

    def peak(self, frames: Frames) -> float:
        return float(np.abs(frames).max(initial=0))

    def inputs(self, window: Window, level: Level) -> Inputs:
        (spec,) = self.config.reads
        scaled = (joined(window.spec) - np.float32(level.mean)) / np.float32(level.scale or 1.0)
        return {spec.name: self._filled(self._items(scaled), self.hop)}


class WholeFront(SpectrogramFront):
    """Gives frames of samples (channels, frames, hop_length) to a file that holds the transforms of its spectrogram.

    The song is mirrored at its ends, as the frames of its spectrogram are, and a window is as many hops longer as one
    frame covers: a hop at its border lacks frames of its inverse transform.
    """

    def __init__(self, config: ModelConfig, sample_rate: int) -> None:
        super().__init__(config, sample_rate)
        self.hop, self.parts = self.front.hop_length, self.front.covered // self.front.hop_length
        self.skip = self.front.n_fft // 2

    def plan(self, plan: WindowPlan) -> WindowPlan:
        more = self.parts - 1
        return replace(plan, frames=plan.frames + more, fade=plan.fade + more)

    def weights(self, grid: Grid) -> tuple[Array, Array]:
        """Gives the shares of two neighbours in the samples between them, each (fade, hop_length).

        A window has the share that its frames have in a sample, where these are blended as masks would be. So windows
        of sound give what windows of masks give, wherever both agree on a mask.
        """
        if not isinstance(grid, WindowPlan):
            return super().weights(grid)
        more, fade = self.parts - 1, grid.fade - self.parts + 1
        frame = np.arange(-more, fade + more)  # counted from the first that fades
        later = np.concatenate((np.zeros(more), rising_weights(fade)[:, 0], np.ones(more))).astype(np.float64)
        whole = self._covering(np.ones_like(later))
        shares = []
        for share, present in ((later, frame >= -grid.left), (1 - later, frame < fade + grid.right)):
            own = self._covering(share * present)
            divided = self._covering(present.astype(np.float64))  # a file divides by no less than EDGE_WEIGHT
            scale = np.maximum(divided, EDGE_WEIGHT) / np.maximum(divided, 1e-30)
            shares.append((own * scale / whole).astype(np.float32))
        return shares[0], shares[1]

    def _covering(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """(hops, hop_length): the sum of the squared windows of frames times their shares, where all lie over a hop."""
        square = np.zeros(self.front.covered)
        square[: self.front.n_fft] = self.window**2
        parts = square.reshape(self.parts, self.hop)
        hops = len(shares) - self.parts + 1
        return sum(shares[self.parts - 1 - part :][:hops, None] * parts[part] for part in range(self.parts))

    def _begin(self) -> None:
        self._pieces = StreamingFrames(self.channels, self.front.n_fft, self.hop, self.front.ends)

    def _push(self, waveform: Array) -> Frames:
        return self._pieces.push(waveform)[..., : self.hop]

    def _finish(self) -> Frames:
        pieces = self._pieces.finish()
        end = pieces[:, -1:, self.hop :].reshape(self.channels, -1)
        end = np.pad(end, ((0, 0), (0, self.front.covered - self.front.n_fft)))
        return np.concatenate((pieces[..., : self.hop], end.reshape(self.channels, -1, self.hop)), axis=1)

    def peak(self, frames: Frames) -> float:
        pieces = sliding_window_view(joined(frames), self.front.n_fft, axis=1)[:, :: self.hop]
        seen = mid_side(pieces) if self.config.is_mid_side and len(pieces) == 2 else pieces
        return super().peak(spectra(seen, self.window))

    def inputs(self, window: Window, level: Level) -> Inputs:
        hops = window.spec
        if has_no_side(hops, self.config):
            hops = hops.mean(axis=0, keepdims=True)
        waveform = joined(hops)
        if self.config.is_mid_side and len(waveform) == 1:
            known = hops.shape[1] - self.parts + 1
            delayed = stand_in_side(hops[:, :known].swapaxes(1, 2), self.config.frame_rate).swapaxes(1, 2)
            side = np.pad(delayed.reshape(1, -1), ((0, 0), (0, (self.parts - 1) * self.hop)))
            waveform = left_right(np.concatenate((waveform, side)))
        items = self._items(waveform)
        alone = self.config.channels >= len(window.spec) and self.front.scale == "window-peak"
        scale = 0.0 if alone else level.scale  # which it finds by itself
        return {"waveform": items, "scale": np.full(len(items), scale, np.float32)}


def has_no_side(frames: Frames, config: ModelConfig) -> bool:
    """Says whether a window of samples (channels, ...) is mono on two channels, for a network of mid and side."""
    if not config.is_mid_side or len(frames) != 2:
        return False
    mid, side = (np.abs(each).max(initial=0) for each in mid_side(frames))
    return bool(side <= SILENT_SIDE * mid)


def make_front(config: ModelConfig, io: str, sample_rate: int) -> Front:
    """Makes the way in of a song for a model whose file takes `io` (`ft.config.IO`)."""
    if isinstance(config.front, Waveform):
        return WaveformFront(config, sample_rate)
    return SpectrogramFront(config, sample_rate) if io == IO[0] else WholeFront(config, sample_rate)


def joined(frames: Frames) -> Array:
    """Gives the samples (channels, samples) of frames of samples."""
    return frames.reshape(len(frames), -1)


class Meter:
    """Finds the level of a song, from all of its frames or from those that came so far."""

    def __init__(self, front: Front) -> None:
        self.front, self._rule = front, front.config.front.scale
        self._peak = 0.0

    def level(self, frames: Frames) -> Level:
        """Gives the level by the next frames (channels, frames, values) of a song and, of a song's, those before."""
        if self._rule == "track-deviation":
            return self.front.deviation
        if self._rule == "track-peak":
            self._peak = max(self._peak, self.front.peak(frames))
            return Level(self._peak)
        if self._rule == "window-peak":
            return Level(self.front.peak(frames))
        return Level(1.0 if self._rule == "none" else float(self._rule))
