"""Windows over the frames of a song: which frames run through the network, which of them count, and how they blend.

    window i      |..context..|======== kept ========|..context..|
    window i + 1                              |..context..|======== kept ========|..context..|
                                                          |fade|

Context frames are computed and thrown away: at a window's border the network lacks a side, and no fade mends what it
makes there. Kept frames of two neighbours overlap by `fade` frames and are cross-faded. The first window has no left
context and the last one no right context, since there the song itself ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft.config import LEVELS, ModelConfig
from ft.errors import ConfigError

WINDOW_SECONDS = 20.0
SCORES_BYTES = 400_000_000
"""What the attention of the widest level may take for its scores. An engine may hold them all, and past some hundred
frames of a wide network they cost more time than context saves: with 45 million parameters and half the hop, 20 s take
6 GB and 1.3 times as long as the 8.4 s of this limit."""
CONTEXT_SECONDS = 1.0
OVERLAP = 0.05
"""What `ft separate` takes where nothing else is asked for."""

Array = NDArray[np.float32]
Frames = NDArray[Any]
"""(channels, frames, bins) of complex spectra, or (channels, frames, n_fft) of samples."""


def usual_segment_seconds(config: ModelConfig) -> float:
    """Of a window where nobody says: `WINDOW_SECONDS`, or as few as keep to `SCORES_BYTES`."""
    network, audio = config.network, config.audio
    maps = max(network.width(level) * network.heads[level] for level in range(LEVELS))
    frames = math.isqrt(SCORES_BYTES // (4 * maps))
    return max(min(WINDOW_SECONDS, frames * audio.hop_length / audio.sample_rate), 4 * CONTEXT_SECONDS)


@dataclass(frozen=True)
class WindowPlan:
    """Sizes in frames: a window, the context on each of its sides, and the cross-fade of two neighbours."""

    frames: int
    context: int
    fade: int

    @property
    def stride(self) -> int:
        """From the start of one window to the next."""
        return self.frames - 2 * self.context - self.fade

    @property
    def cost(self) -> float:
        """Frames that run per frame of a long song."""
        return self.frames / self.stride

    @classmethod
    def from_seconds(
        cls, segment_seconds: float, context_seconds: float, overlap: float, frames_per_second: float
    ) -> WindowPlan:
        """`overlap` is the share of the kept frames of a window that it cross-fades with the next one.

        Raises:
            ConfigError: a negative number, or a context that leaves no frame of the window.
        """
        if not 0 <= overlap <= 0.5:
            raise ConfigError(f"overlap: {overlap:g}, expected 0 to 0.5 of the kept frames")
        if context_seconds < 0:
            raise ConfigError(f"context: {context_seconds:g} seconds, expected 0 or more")
        if not 2 * context_seconds < segment_seconds < math.inf:
            raise ConfigError(
                f"window: {segment_seconds:g} seconds, expected a number above twice the context of {context_seconds:g}"
            )
        frames = max(round(segment_seconds * frames_per_second), 1)
        context = round(context_seconds * frames_per_second)
        kept = frames - 2 * context
        if kept < 1:
            raise ConfigError(f"window: {segment_seconds:g} seconds hold {frames} frames, all of which are context")
        return cls(frames, context, min(round(overlap * kept), kept // 2))


@dataclass(frozen=True)
class Window:
    """One window of a song, with the frames that are finished once its mask is known."""

    spec: Frames
    """Context included."""
    finished: slice
    """Frames of the window whose mask is complete with this window: from its kept start to the next one's."""
    fade_in: int
    """The first so many of them are blended with what the window before left."""
    fade_out: int
    """So many frames behind `finished` are left for the next window to blend; 0 at the end of the song."""


def cut_windows(blocks: Iterable[Frames], plan: WindowPlan) -> Iterator[Window]:
    """The windows of a song whose frames come in blocks of any size.

    A window is given when one frame behind it is there, so that the last one is known to be the last: it takes the
    frames that remain, more than two contexts and a fade of them.
    """
    held: list[Frames] = []
    frames = 0
    first = True
    for block in blocks:
        held.append(block)
        frames += block.shape[1]
        if frames <= plan.frames:
            continue
        spec = np.concatenate(held, axis=1)
        while spec.shape[1] > plan.frames:
            start = 0 if first else plan.context
            end = plan.frames - plan.context - plan.fade
            yield Window(spec[:, : plan.frames], slice(start, end), 0 if first else plan.fade, plan.fade)
            spec = spec[:, plan.stride :]
            first = False
        held, frames = [spec], spec.shape[1]
    if frames:
        spec = np.concatenate(held, axis=1)
        start = 0 if first else plan.context
        yield Window(spec, slice(start, frames), 0 if first else plan.fade, 0)


def rising_weights(fade: int) -> Array:
    """Weights (fade,) of the later of two neighbours; those of the earlier one are these reversed.

    They sum to one, and no frame is left to one of the two alone.
    """
    weights: Array = ((np.arange(fade) + 1) / (fade + 1)).astype(np.float32)
    return weights


class Blender:
    """Joins the masks of successive windows: context is dropped, neighbours are cross-faded."""

    def __init__(self, fade: int) -> None:
        self._rise = rising_weights(fade)[:, None]
        self._fall = self._rise[::-1]
        self._left: Array | None = None

    def push(self, window: Window, mask: Array) -> Array:
        """The mask (channels, frames, bins) of `window.finished`, from the mask of the whole window."""
        end = window.finished.stop
        blended = mask[:, window.finished]
        if window.fade_in:
            assert self._left is not None
            blended = blended.copy()
            head = blended[:, : window.fade_in]
            head *= self._rise
            head += self._left
        if window.fade_out:
            self._left = mask[:, end : end + window.fade_out] * self._fall
        return blended
