"""Windows over the frames of a song: which frames run through the network, which of them count, and how they blend.

    window i      |..context..|======== kept ========|..context..|
    window i + 1                              |..context..|======== kept ========|..context..|
                                                          |fade|

Context frames are computed and thrown away: at a window's border the network lacks a side, and no fade mends what it
makes there. Kept frames of two neighbours overlap by `fade` frames and are cross-faded. The first window has no left
context and the last one no right context, since there the song itself ends.

Several grids of windows over one song, whose results are then averaged, are cut in one pass over its frames.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ft.config import Segment
from ft.errors import ConfigError

SHIFTS = 3
"""Grids whose masks are averaged, each a third of a stride behind the one before."""
CROP, PADDING = 512, 1024
AVERAGED_CROP, AVERAGED_PADDINGS = 256, (256, 512, 1024)
"""Frames of the original implementation's windows: what they keep, and what they take on each side of it."""

Array = NDArray[np.float32]
Frames = NDArray[Any]
"""(channels, frames, bins) of complex spectra, or (channels, frames, hop_length) of samples."""


@dataclass(frozen=True)
class WindowPlan:
    """Sizes in frames: a window, the context at each of its ends, and the cross-fade of two neighbours."""

    frames: int
    left: int
    right: int
    fade: int
    shift: int = 0
    """By so much the first window is shorter, and all borders come earlier; less than `stride`."""
    multiple: int = 1
    """The frames of the last window are filled up to a multiple of this; to `frames` where those are fixed."""

    @property
    def stride(self) -> int:
        """Frames from the start of one window to the next."""
        return self.frames - self.left - self.right - self.fade

    @property
    def cost(self) -> float:
        """Frames that run per frame of a long song."""
        return self.frames / self.stride

    @classmethod
    def of(cls, segment: Segment, frame_rate: float) -> WindowPlan:
        """Gives the windows of a segment at so many frames a second.

        Raises:
            ConfigError: a context that leaves no frame of the window, or other frames than the network takes.
        """
        seconds, both = segment.seconds, segment.context + segment.right
        if segment.frames is not None:
            seconds = segment.frames / frame_rate
        if not both < seconds < math.inf:
            raise ConfigError(f"`segment_seconds` {seconds:g}: expected more than the {both:g} seconds of its context")
        frames = segment.frames or -(-max(round(seconds * frame_rate), 1) // segment.multiple) * segment.multiple
        left, right = round(segment.context * frame_rate), round(segment.right * frame_rate)
        kept = frames - left - right
        if kept < 1:
            raise ConfigError(f"`segment_seconds` {seconds:g}: its {frames} frames are all context")
        fade = min(round(segment.overlap * kept), kept // 2)
        return cls(frames, left, right, fade, multiple=segment.frames or segment.multiple)


@dataclass(frozen=True)
class OriginalCrops:
    """Windows of the original implementation, in frames: what each keeps, and what it takes on each side of that.

    All of them have the same size: outside the song stands silence, also in what the last crop lacks. Nothing fades.
    """

    crop: int
    padding: int

    @property
    def frames(self) -> int:
        """Frames of a window."""
        return self.crop + 2 * self.padding

    @property
    def fade(self) -> int:
        """None: crops follow each other."""
        return 0


Grid = WindowPlan | OriginalCrops


def window_grids(
    plan: WindowPlan, windows: Literal["blended", "original"] = "blended", tta: bool = False
) -> list[Grid]:
    """The grids of windows of a song: `plan`, or the original's crops; with `tta` several, whose masks are averaged.

    The grids of a plan lie a third of a stride apart, so that what is near a border in one is far from it in another.
    """
    if windows == "original":
        crops = [OriginalCrops(AVERAGED_CROP, padding) for padding in AVERAGED_PADDINGS]
        return list(crops) if tta else [OriginalCrops(CROP, PADDING)]
    shifts = [plan.stride * index // SHIFTS for index in range(SHIFTS)] if tta else [0]
    return [replace(plan, shift=shift) for shift in shifts]


@dataclass(frozen=True)
class Window:
    """One window of a song, with the frames that are finished once it ran."""

    spec: Frames
    """All of its frames, context included."""
    finished: slice
    """Its frames that are complete with this window: from its kept start to the next one's."""
    fade_in: int
    """The first so many of them are blended with what the window before left."""
    fade_out: int
    """So many frames behind `finished` are left for the next window to blend; 0 at the end of the song."""
    grid: int = 0
    """Which of the grids it belongs to."""


def cut_windows(blocks: Iterable[Frames], *grids: Grid) -> Iterator[Window]:
    """The windows of a song whose frames come in blocks of any size, on one grid or on several.

    Each is given as soon as its frames are there, those of several grids in turn, so that no grid runs ahead of another
    by more than a window. A window of a `WindowPlan` waits for one frame behind it, so that the last one is known to be
    the last: it takes the frames that remain, more than two contexts and a fade of them.
    """
    cutters = [_cutter(grid, index) for index, grid in enumerate(grids)]
    for block in blocks:
        while block.shape[1]:
            count = min(cutter.missing for cutter in cutters)
            for cutter in cutters:
                yield from cutter.push(block[:, :count])
            block = block[:, count:]
    for cutter in cutters:
        yield from cutter.finish()


class _Cutter(ABC):
    """Cuts the windows of one grid from frames as they come."""

    def __init__(self, grid: int, needed: int) -> None:
        self._grid = grid
        self._needed = needed
        """Frames that must be held for the next window."""
        self._held: list[Frames] = []
        self.missing = needed
        """How many of them have not come yet; at least 1."""

    def push(self, block: Frames) -> Iterator[Window]:
        """The window that is complete with `block` (channels, frames, bins) of at most `missing` frames, if one is."""
        self._held.append(block)
        self.missing -= block.shape[1]
        if self.missing == 0:
            yield self._next(self._taken())
            self.missing = self._needed - sum(block.shape[1] for block in self._held)

    def finish(self) -> Iterator[Window]:
        """The windows at the end of the song."""
        if self._held:
            yield from self._last(self._taken())

    def _taken(self) -> Frames:
        spec: Frames = np.concatenate(self._held, axis=1)
        self._held = []
        return spec

    @abstractmethod
    def _next(self, spec: Frames) -> Window:
        """The window that begins with `spec`; what the next one needs of it goes back to `_held`."""

    @abstractmethod
    def _last(self, spec: Frames) -> Iterator[Window]:
        """The windows of the frames that remain."""


class _PlanCutter(_Cutter):
    def __init__(self, plan: WindowPlan, grid: int) -> None:
        super().__init__(grid, plan.frames - plan.shift + 1)
        self._plan = plan
        self._start = self._fade_in = 0

    def _next(self, spec: Frames) -> Window:
        plan, frames = self._plan, self._needed - 1
        end = frames - plan.right - plan.fade
        window = Window(spec[:, :frames], slice(self._start, end), self._fade_in, plan.fade, self._grid)
        self._held = [spec[:, end - plan.left :]]
        self._start, self._fade_in, self._needed = plan.left, plan.fade, plan.frames + 1
        return window

    def _last(self, spec: Frames) -> Iterator[Window]:
        yield Window(spec, slice(self._start, spec.shape[1]), self._fade_in, 0, self._grid)


class _CropCutter(_Cutter):
    def __init__(self, crops: OriginalCrops, grid: int) -> None:
        super().__init__(grid, crops.crop + crops.padding)
        self._crops = crops

    def push(self, block: Frames) -> Iterator[Window]:
        if not self._held:  # the first block of the song
            self._held = [_silence(block, self._crops.padding)]
        yield from super().push(block)

    def _next(self, spec: Frames) -> Window:
        crop, padding = self._crops.crop, self._crops.padding
        self._needed = self._crops.frames
        self._held = [spec[:, crop:]]
        return Window(spec, slice(padding, padding + crop), 0, 0, self._grid)

    def _last(self, spec: Frames) -> Iterator[Window]:
        crop, padding = self._crops.crop, self._crops.padding
        while (remaining := spec.shape[1] - padding) > 0:
            whole = np.concatenate((spec, _silence(spec, max(self._crops.frames - spec.shape[1], 0))), axis=1)
            finished = slice(padding, padding + min(crop, remaining))
            yield Window(whole[:, : self._crops.frames], finished, 0, 0, self._grid)
            spec = spec[:, crop:]


def _cutter(grid: Grid, index: int) -> _Cutter:
    return _PlanCutter(grid, index) if isinstance(grid, WindowPlan) else _CropCutter(grid, index)


def _silence(like: Frames, frames: int) -> Frames:
    return np.zeros((like.shape[0], frames, like.shape[2]), like.dtype)


def rising_weights(fade: int, samples: int = 1) -> Array:
    """Gives the weights (fade, samples) of the later of two neighbours; those of the earlier one are these reversed.

    They sum to one, and no frame is left to one of the two alone.

    Args:
        samples: of a frame that are faded one by one, where they follow each other in time; 1 for bins.
    """
    weights = (np.arange(fade * samples) + 1) / (fade * samples + 1)
    return weights.reshape(fade, samples).astype(np.float32)


class Blender:
    """Joins what comes of successive windows: context is dropped, neighbours are cross-faded."""

    def __init__(self, rise: Array, fall: Array) -> None:
        """`rise` are the weights (fade, 1 or values) of the later neighbour, `fall` those of the earlier one."""
        self._rise = rise
        self._fall = fall
        self._left: Frames | None = None

    def push(self, window: Window, values: Frames) -> Frames:
        """Gives the values (channels, frames, values) of `window.finished`, from those of the whole window."""
        start, stop = window.finished.start, window.finished.stop
        kept = values[:, start : stop + window.fade_out]
        if window.fade_in or window.fade_out:
            kept = kept.copy()
        if window.fade_in:
            kept[:, : window.fade_in] *= self._rise[: kept.shape[1]]
        if window.fade_out:
            kept[:, -window.fade_out :] *= self._fall
        if self._left is not None:
            missing = self._left.shape[1] - kept.shape[1]
            kept = np.pad(kept, ((0, 0), (0, max(missing, 0)), (0, 0)))
            kept[:, : self._left.shape[1]] += self._left
        self._left = kept[:, stop - start :] if window.fade_out else None
        return kept[:, : stop - start]
