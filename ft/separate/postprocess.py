"""Silencing the vocals where a mask holds no clear vocals for long, as the original implementation does.

Frames in which the instrumental's mask is above a threshold at every bin are taken for frames without a voice; a run of
many of them gets a mask of 1, faded at its ends. The idea and the rules, with their quirks, are those of
`merge_artifacts` of tsurumeso/vocal-remover (MIT):

- a run counts where its last frame is more than `min_range` frames behind its first one;
- a run that begins less than `fade` frames behind the last one that counted begins `2 * fade` frames before that one's
  end instead, so that the gap is closed, with a second rise inside the run before;
- a run at the very beginning of the song does not fade in, one at its very end does fade out.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ft.dsp import BlockQueue
from ft.windows import Frames

Array = NDArray[np.float32]

THRESHOLD = 0.05
MIN_RANGE = 64
FADE = 32
"""In frames, but for the threshold; those of the original."""


class QuietFrames:
    """Takes the vocals out of frames of masks that hold none for long, `QuietRuns.delay` frames behind."""

    def __init__(self, of: str) -> None:
        """`of`: whether masks keep the vocals (`stems`) or the instrumental (`rest`)."""
        self._of_vocals = of == "stems"
        self._runs = QuietRuns()
        self._spec, self._masks = BlockQueue(), BlockQueue()

    def push(self, spec: Frames, masks: Frames) -> tuple[Frames, Frames]:
        """Gives the frames of the mixture and of the masks, (channels, frames, bins) both, that are known now."""
        self._spec.append(spec)
        self._masks.append(masks)
        instrumental = 1 - masks if self._of_vocals else masks
        return self._weighted(self._runs.push(instrumental.min(axis=(0, 2))))

    def finish(self) -> tuple[Frames, Frames]:
        """Gives the rest, once something was pushed."""
        return self._weighted(self._runs.finish())

    def _weighted(self, weights: Array) -> tuple[Frames, Frames]:
        # mask + weight * (1 - mask) for the instrumental; what is above the network's bins goes with its frame.
        spec, masks = self._spec.take(len(weights)), self._masks.take(len(weights))
        vocals = (masks if self._of_vocals else 1 - masks) * (1 - weights[:, None])
        return spec, vocals if self._of_vocals else 1 - vocals


class QuietRuns:
    """The weights (frames,) by which a mask goes to 1, from the lowest value of each of its frames as they come.

    A frame's weight is known `delay` frames later, 3 * fade + min_range: the frames of a gap that closes hang on
    whether the run behind it is long enough. With the original's numbers these are 160 frames, 3.7 s at a hop of 1024
    and 44.1 kHz.
    """

    def __init__(self, threshold: float = THRESHOLD, min_range: int = MIN_RANGE, fade: int = FADE) -> None:
        if min_range < 2 * fade:
            raise ValueError(f"min_range: {min_range}, expected at least twice the fade of {fade}")
        self.delay = max(3 * fade, 1) + min_range
        self._threshold, self._min_range, self._fade = threshold, min_range, fade
        self._rise = np.linspace(0, 1, fade).astype(np.float32)
        self._fall = np.linspace(1, 0, fade).astype(np.float32)
        self._weights = np.zeros(0, np.float32)
        """The weights of frames that are not given yet."""
        self._given = 0
        self._first: int | None = None
        """Frame where the present run begins; None outside of one."""
        self._counts = False
        """Whether the present run is long enough already."""
        self._end: int | None = None
        """Last frame of the last run that counted."""

    def push(self, lowest: Array) -> Array:
        """The weights (frames,) that are known once the next frames have come; `lowest` is (frames,)."""
        start = self._given + len(self._weights)
        self._weights = np.pad(self._weights, (0, len(lowest)))
        loud = lowest > self._threshold
        borders = [0, *(np.flatnonzero(np.diff(loud)) + 1).tolist(), len(loud)]
        for begin, end in pairwise(borders):
            if begin < end and loud[begin]:
                self._extend(start + begin, start + end)
            elif begin < end:
                self._close(start + begin)
        return self._give(len(self._weights) - self.delay)

    def finish(self) -> Array:
        """The rest, as many as frames have come in all."""
        self._close(self._given + len(self._weights))
        return self._give(len(self._weights))

    def _extend(self, begin: int, end: int) -> None:
        """Frames `begin` to `end`, exclusive, belong to the present run, or begin one."""
        if self._first is None:
            self._first, self._counts = begin, False
        if self._counts:
            self._set(begin, end, 1)
        elif end - 1 - self._first > self._min_range:
            self._counts = True
            first = self._first
            if self._end is not None and first - self._end < self._fade:
                first = self._end - 2 * self._fade
            if first > 0:
                self._set(first, first + self._fade, self._rise)
                first += self._fade
            self._set(first, end, 1)

    def _close(self, end: int) -> None:
        """The present run, if there is one, holds no frame from `end` on."""
        if self._first is not None and self._counts:
            self._end = end - 1  # the frame that the fade leaves out
            self._set(self._end - self._fade, self._end, self._fall)
            self._set(self._end, end, 0)
        self._first = None

    def _set(self, begin: int, end: int, weights: Array | int) -> None:
        self._weights[begin - self._given : end - self._given] = weights

    def _give(self, count: int) -> Array:
        count = max(count, 0)
        weights, self._weights = self._weights[:count], self._weights[count:]
        self._given += count
        return weights
