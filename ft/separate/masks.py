"""What becomes of the masks of windows before they meet the spectrogram: models combined, grids averaged, silence made.

    model 1 \\
    model 2  > combined, window by window -> blended on each grid -> mean of the grids -> postprocess
    model 3 /

Everything here holds what one window or one delay needs, however long the song is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ft.config import ModelConfig
from ft.errors import ConfigError
from ft.separate.postprocess import QuietRuns
from ft.windows import Blender, Frames, Grid, Window

Array = NDArray[np.float32]
Spec = NDArray[np.complex64]


def check_ensemble(configs: Sequence[ModelConfig]) -> None:
    """Whether the masks of these models can be combined: all of them must read the same spectrogram.

    Raises:
        ConfigError: names the first difference.
    """
    first = configs[0]
    for number, config in enumerate(configs[1:], start=2):
        for name in ("sample_rate", "stereo", "n_fft", "hop_length", "bins"):
            found, expected = getattr(config.audio, name), getattr(first.audio, name)
            if found != expected:
                raise ConfigError(
                    f"ensemble: model {number} ({config.name}) has {name} {found} and the first one ({first.name}) "
                    f"{expected}; expected models that agree in it"
                )


def combined(masks: Sequence[Array], configs: Sequence[ModelConfig], by: Literal["mean", "median"]) -> Array:
    """One mask (channels, frames, bins) of a window from those of several models, for the first one's `mask_stem`."""
    stem = configs[0].mask_stem
    if len(masks) == 1:
        return masks[0]
    same = [mask if config.mask_stem == stem else 1 - mask for mask, config in zip(masks, configs, strict=True)]
    return _mean(same) if by == "mean" else np.median(same, axis=0)


class GridMean:
    """The mask of a song from those of its windows on one grid, blended, or on several, averaged frame by frame."""

    def __init__(self, grids: Sequence[Grid]) -> None:
        self._blenders = [Blender(grid.fade) for grid in grids]
        self._masks = [FrameQueue() for _ in grids]
        self._spec = FrameQueue()

    @property
    def waiting(self) -> int:
        """Frames of the grid that is ahead of the others."""
        return max(queue.frames for queue in self._masks)

    def push(self, window: Window, mask: Array) -> tuple[Spec, Array]:
        """The next frames that every grid has finished: the spectrogram, and the mask (channels, frames, bins)."""
        spec, blended = window.spec[:, window.finished], self._blenders[window.grid].push(window, mask)
        if len(self._masks) == 1:
            return spec, blended
        if window.grid == 0:
            self._spec.append(spec)
        self._masks[window.grid].append(blended)
        count = min(queue.frames for queue in self._masks)
        if count == 0:
            return spec[:, :0], blended[:, :0]
        return self._spec.take(count), _mean([queue.take(count) for queue in self._masks])


class Postprocess:
    """Takes the vocals out of frames that hold none for long `QuietRuns.delay` frames behind."""

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._runs = QuietRuns()
        self._spec = FrameQueue()
        self._vocals = FrameQueue()

    def push(self, spec: Spec, mask: Array, vocals: Array) -> tuple[Spec, Array]:
        """The frames of the spectrogram and of the vocals' mask that are known now.

        Args:
            spec: (channels, frames, bins), and `vocals` the same of their mask.
            mask: of the network's bins.
        """
        instrumental = mask if self._config.mask_stem == "instrumental" else 1 - mask
        self._spec.append(spec)
        self._vocals.append(vocals)
        return self._weighted(self._runs.push(instrumental.min(axis=(0, 2))))

    def finish(self) -> tuple[Spec, Array]:
        """The rest, once something was pushed."""
        return self._weighted(self._runs.finish())

    def _weighted(self, weights: Array) -> tuple[Spec, Array]:
        # mask + weight * (1 - mask) for the instrumental; what is above the network's bins goes with its frame.
        spec, vocals = self._spec.take(len(weights)), self._vocals.take(len(weights))
        return spec, vocals * (1 - weights[:, None])


class FrameQueue:
    """Frames (channels, frames, bins) that come and go in blocks of different sizes."""

    def __init__(self) -> None:
        self.frames = 0
        self._blocks: deque[Frames] = deque()
        self._empty: Frames

    def append(self, block: Frames) -> None:
        """Puts frames behind the others."""
        self._empty = block[:, :0]
        self._blocks.append(block)
        self.frames += block.shape[1]

    def take(self, count: int) -> Frames:
        """The first `count` of its frames; something must have been appended before."""
        self.frames -= count
        taken = [self._empty]
        while count:
            block = self._blocks.popleft()
            if block.shape[1] > count:
                self._blocks.appendleft(block[:, count:])
                block = block[:, :count]
            taken.append(block)
            count -= block.shape[1]
        return np.concatenate(taken, axis=1)


def _mean(masks: Sequence[Array]) -> Array:
    total = masks[0] + masks[1]
    for mask in masks[2:]:
        total += mask
    total /= len(masks)
    return total
