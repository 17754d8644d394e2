"""One song through one model or several: blocks of the mixture in, blocks of its stems out.

blocks -> resample -> frames -> windows | -> engine | -> blend -> stems -> resample back;  mixture - stems = rest
               one thread               |  another  |               the caller's thread
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engines.runner import Runner
from ft.config import IO, ModelConfig
from ft.dsp import BlockQueue
from ft.errors import ConfigError
from ft.options import SeparateOptions
from ft.separate.back import Back
from ft.separate.front import Front, Inputs, Level, Meter, make_front
from ft.separate.pipeline import prefetch
from ft.stems import recipe
from ft.windows import Window, WindowPlan, cut_windows, window_grids

Array = NDArray[np.float32]
Stems = dict[str, Array]

_AHEAD = 1
"""Windows that are prepared while the engine holds its own."""


class ModelStream:
    """Turns songs into stems by one model; without state that outlives a song."""

    def __init__(self, runner: Runner, plan: WindowPlan, options: SeparateOptions) -> None:
        """
        Args:
            runner: of the open model.
            plan: of the windows, ignored where `options.windows` is `original`.
            options: those of quality.
        Raises:
            ConfigError: `postprocess` of a model that gives no mask of vocals alone.
        """
        info = runner.engine.describe()
        self.runner, self.config, self.io, self.options = runner, info.config, info.io, options
        plan = self.front(self.config.sample_rate).plan(plan)
        self.grids = window_grids(plan, options.windows, options.tta)
        if options.postprocess and (
            self.io != IO[0] or self.config.output.kind != "mask" or self.config.stems != ("vocals",)
        ):
            raise ConfigError(
                f"`postprocess`: {info.model} gives no masks of vocals; expected a model of one mask, vocals and "
                "instrumental, exported with `io` network"
            )

    def front(self, sample_rate: int) -> Front:
        """Makes the way in of a song. Raises AudioError for a sample rate that is none."""
        return make_front(self.config, self.io, sample_rate)

    def levels(self, blocks: Iterable[Array], sample_rate: int) -> Iterator[Level]:
        """Gives the level of a song by each of its blocks and those before; the last one is that of the whole."""
        front = make_front(self.config, IO[0], sample_rate)
        meter = Meter(front)
        for frames in front.frames(blocks):
            yield meter.level(frames)
            front.mixture.clear()

    def stems(self, blocks: Iterable[Array], sample_rate: int, level: Level | None, eager: bool) -> Iterator[Stems]:
        """Gives blocks of all stems, as `SongStream.stems` does."""
        front = self.front(sample_rate)
        cut = cut_windows(front.frames(blocks), *self.grids)
        windows = cut if eager else prefetch(cut, _AHEAD)
        back: Back | None = None
        try:
            for (window, own), result in self.runner.run(window_inputs(windows, front, level), eager=eager):
                back = back or Back(front, self.grids, self.options.postprocess)
                stems = back.push(window, own, result)
                if stems.shape[-1]:
                    yield self._named(front, stems)
            if back is not None:
                yield self._named(front, back.finish())
        finally:
            windows.close()  # type: ignore[attr-defined]

    def _named(self, front: Front, stems: Array) -> Stems:
        named = dict(zip(self.config.stems, stems, strict=True))
        mixture = front.mixture.take(stems.shape[-1])
        if self.config.rest is not None:
            named[self.config.rest] = mixture - (stems[0] if len(stems) == 1 else stems.sum(axis=0))
        return named


def window_inputs(
    windows: Iterator[Window], front: Front, level: Level | None
) -> Iterator[tuple[tuple[Window, Level], Inputs]]:
    """Gives each window and its level with what the network reads of it."""
    meter = Meter(front)
    for window in windows:
        own = meter.level(window.spec) if level is None else level
        yield (window, own), front.inputs(window, own)


class SongStream:
    """Turns songs into the stems of the first model; those of the others with the same names are averaged in."""

    def __init__(self, models: Sequence[ModelStream], by: Literal["mean", "median"] = "mean") -> None:
        """Raises ConfigError: a model that has none of the first one's stems."""
        self.models, self._by = tuple(models), by
        self.config: ModelConfig = models[0].config
        self._recipes = [
            {stem: signs for stem in self.config.stems if (signs := _made_of(stem, model.config.all_stems))}
            for model in models
        ]
        for number, (model, recipes) in enumerate(zip(models, self._recipes, strict=True), start=1):
            if not recipes:
                raise ConfigError(
                    f"ensemble: model {number} ({model.config.name}) gives {', '.join(model.config.all_stems)} and the "
                    f"first one {', '.join(self.config.stems)}; expected a stem in common"
                )

    def stems(
        self, blocks: Iterable[Array], sample_rate: int, levels: Sequence[Level | None], eager: bool = False
    ) -> Iterator[Stems]:
        """Gives blocks of stems (channels, samples), which together have as many samples as the mixture.

        Args:
            blocks: of the mixture (channels, samples), float32; read in another thread, but for `eager`.
            sample_rate: theirs, in Hz.
            levels: of the song, one for each model; None takes what came so far.
            eager: whether a window's stems are given as soon as its frames and one behind them are there, before more
                is read, for sound that comes in as it is played. This takes the overlap of engine and transforms away.
        Raises:
            AudioError: not one or two channels, or values that are not finite.
            EngineError: an engine failed.
        """
        if len(self.models) == 1:
            yield from self.models[0].stems(blocks, sample_rate, levels[0], eager)
            return
        shared = copies(iter(blocks), len(self.models) + 1)
        streams = [
            model.stems(own, sample_rate, level, eager)
            for model, own, level in zip(self.models, shared, levels, strict=False)
        ]
        mixture = _Pulled(shared[-1])
        parts = [_Pulled(np.concatenate([*stems.values()]) for stems in stream) for stream in streams]
        try:
            while (count := min(part.filled() for part in parts)) > 0:
                mixture.filled(count)
                yield self._together([part.take(count) for part in parts], mixture.take(count))
        finally:
            for stream in streams:
                stream.close()  # type: ignore[attr-defined]

    def _together(self, found: Sequence[Array], mixture: Array) -> Stems:
        stems: Stems = {}
        for stem in self.config.stems:
            own = []
            for model, recipes, values in zip(self.models, self._recipes, found, strict=True):
                if stem in recipes:
                    named = dict(zip(model.config.all_stems, values.reshape(-1, *mixture.shape), strict=True))
                    own.append(sum(sign * named[name] for name, sign in recipes[stem].items()))
            stems[stem] = np.mean(own, axis=0) if self._by == "mean" else np.median(own, axis=0)
        if self.config.rest is not None:
            stems[self.config.rest] = mixture - sum(stems.values())
        return stems


def _made_of(stem: str, known: Sequence[str]) -> dict[str, int]:
    """Which of a model's stems make up another one's."""
    return {stem: 1} if stem in known else recipe(stem, known)


class _Pulled(BlockQueue):
    """Blocks of a source that are read as they are wanted."""

    def __init__(self, source: Iterator[Array]) -> None:
        super().__init__()
        self._source = source

    def filled(self, least: int = 1) -> int:
        """Reads until so many samples are held, or to the end; gives how many are."""
        while self.size < least and (block := next(self._source, None)) is not None:
            self.append(block)
        return self.size


def copies(blocks: Iterator[Array], count: int) -> list[Iterator[Array]]:
    """Gives the same blocks so many times, to readers in several threads.

    Unlike `itertools.tee`, this may be read in threads at once, and forgets a block once all have taken it.
    """
    waiting: list[deque[Array]] = [deque() for _ in range(count)]
    turn = threading.Lock()

    def copy(own: deque[Array]) -> Iterator[Array]:
        while True:
            with turn:
                if not own:
                    block = next(blocks, None)
                    if block is None:
                        return
                    for queue in waiting:
                        queue.append(block)
                block = own.popleft()
            yield block

    return [copy(own) for own in waiting]
