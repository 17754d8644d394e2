"""One song through the models: blocks of the mixture in, blocks of its stems out.

blocks -> resample -> STFT -> windows | -> engine | -> blend -> mask -> inverse STFT -> resample back -> vocals
          one thread                  |  another  |   the caller's thread          mixture - vocals = instrumental

Windows may lie on several grids, and each may run through several models: `masks` makes one of what comes out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from engines.base import Batch, WaveformBatch
from engines.runner import Runner
from ft.config import ModelConfig
from ft.dsp import magnitude, mid_side, spectra
from ft.errors import ConfigError
from ft.options import SeparateOptions
from ft.separate.masks import check_ensemble, combined
from ft.separate.pipeline import prefetch
from ft.separate.stream import Analysis, Output, Synthesis, network_input, song_mask
from ft.separate.waveform import WaveformSynthesis, network_waveform
from ft.songs.pictures import Pictures
from ft.windows import Window, WindowPlan, cut_windows, window_grids

__all__ = ["SongStream", "check_ensemble"]

Array = NDArray[np.float32]

_AHEAD = 1
"""Windows that are prepared while the engine holds its own."""


class SongStream:
    """What turns one song into its stems; made anew for each, and without state that outlives it."""

    def __init__(self, runners: Sequence[Runner], plan: WindowPlan, options: SeparateOptions) -> None:
        """
        Args:
            runners: of the models, open, whose masks are combined (`check_ensemble`).
            plan: of the windows, ignored where `options.windows` is `original`.
            options: those of quality.
        Raises:
            ConfigError: something that needs masks, of a model that gives none.
        """
        self._runners = tuple(runners)
        self.plan = plan
        self.options = options
        infos = [runner.engine.describe() for runner in runners]
        self.configs = [info.config for info in infos]
        self.config = self.configs[0]
        self.grids = window_grids(plan, options.windows, options.tta)
        self._waveform = any(info.io == "waveform" for info in infos)
        for info in infos:
            if info.io == "waveform":
                self._check_waveform(info.model)

    def _check_waveform(self, model: str) -> None:
        """Raises ConfigError for what a model that gives stems cannot do."""
        options = self.options
        wanted = {
            "--tta": options.tta,
            "--windows original": options.windows == "original",
            "--postprocess": options.postprocess,
            "--images": options.images,
            "--ensemble": len(self._runners) > 1,
        }
        for name, asked in wanted.items():
            if asked:
                raise ConfigError(
                    f"{name}: {model} takes waveforms and gives no masks; expected a model exported without "
                    "--io waveform"
                )

    def stems(
        self,
        blocks: Iterable[Array],
        sample_rate: int,
        peak: float | None = None,
        *,
        eager: bool = False,
        pictures: Pictures | None = None,
    ) -> Iterator[dict[str, Array]]:
        """Blocks of stems (channels, samples), which together have as many samples as the mixture.

        Args:
            blocks: of the mixture (channels, samples), float32; read in another thread, but for `eager`.
            sample_rate: theirs, in Hz.
            peak: of the song's magnitudes, for models that scale by it; None takes that of what came so far.
            eager: whether a window's stems are given as soon as its frames and one behind them are there, before more
                is read, for a source that comes in as it is played. This takes the overlap of engine and transforms
                away.
            pictures: what draws the masks and spectra of the song; the caller commits them.
        Raises:
            AudioError: not one or two channels, or values that are not finite.
            EngineError: an engine failed.
        """
        analysis = Analysis(self.config, sample_rate, "waveform" if self._waveform else "magnitude")
        cut = cut_windows(analysis.frames(blocks), *self.grids)
        windows = cut if eager else prefetch(cut, _AHEAD)
        try:
            yield from self._synthesise(analysis, windows, peak, eager, pictures)
        finally:
            windows.close()  # type: ignore[attr-defined]

    def _synthesise(
        self,
        analysis: Analysis,
        windows: Iterator[Window],
        peak: float | None,
        eager: bool,
        pictures: Pictures | None,
    ) -> Iterator[dict[str, Array]]:
        output: Output | None = None
        results = self._results(windows, peak, eager) if self._waveform else self._masks(windows, peak, eager)
        for window, result in results:
            if output is None and self._waveform:
                output = WaveformSynthesis(self.config, analysis, self.plan.fade)
            elif output is None:
                output = Synthesis(self.config, analysis, self.grids, self.options.postprocess, pictures)
            vocals = output.push(window, result)
            if vocals.shape[1]:
                yield self._stems(analysis, vocals)
        if output is not None:
            yield self._stems(analysis, output.finish())

    def _stems(self, analysis: Analysis, vocals: Array) -> dict[str, Array]:
        stems = {"vocals": vocals, "instrumental": analysis.take(vocals.shape[1]) - vocals}
        return {stem: stems[stem] for stem in self.config.stems}

    def _results(self, windows: Iterator[Window], peak: float | None, eager: bool) -> Iterator[tuple[Window, Array]]:
        """Each window with what the one model makes of it."""
        return self._runners[0].run(self.inputs(windows, peak), eager=eager)

    def _masks(self, windows: Iterator[Window], peak: float | None, eager: bool) -> Iterator[tuple[Window, Array]]:
        """Each window with the mask (channels, frames, bins) that all models together give it."""
        # The models run in step, so that no window waits longer for one of them than batches are in flight.
        copies = _copies(windows, len(self._runners))
        runs = [
            runner.run(self.inputs(own, peak, config), eager=eager)
            for runner, config, own in zip(self._runners, self.configs, copies, strict=True)
        ]
        for results in zip(*runs, strict=True):
            window = results[0][0]
            masks = [
                song_mask(result, window.spec.shape[0], config)
                for (_, result), config in zip(results, self.configs, strict=True)
            ]
            yield window, combined(masks, self.configs, self.options.ensemble_by)

    def inputs(
        self, windows: Iterator[Window], peak: float | None, config: ModelConfig | None = None
    ) -> Iterator[tuple[Window, Batch]]:
        """Each window with what the network of `config`, or else of the first model, takes of it."""
        config = config or self.config
        scale = peak or 0.0
        for window in windows:
            if self._waveform:
                scale = self._waveform_scale(window, scale, peak)
                waveform = network_waveform(window.spec, config)
                yield window, WaveformBatch(waveform, np.full(len(waveform), scale, np.float32))
            else:
                values = magnitude(window.spec)
                scale = _scale(values, scale, peak, config)
                yield window, network_input(values, scale, config)

    def _waveform_scale(self, window: Window, scale: float, peak: float | None) -> float:
        """The scale of a window for a model that takes samples; 0 where it finds the peak of a window by itself."""
        audio = self.config.audio
        if audio.normalize == "window" and audio.channels >= len(window.spec):  # else it sees one channel at a time
            return 0.0
        if audio.normalize == "track" and peak is not None:
            return scale
        frames = mid_side(window.spec) if audio.stereo == "mid-side" and len(window.spec) == 2 else window.spec
        return _scale(magnitude(spectra(frames)), scale, peak, self.config)


def _scale(values: Array, scale: float, peak: float | None, config: ModelConfig) -> float:
    """By what the magnitudes of a window are divided; `scale` is that of the window before."""
    if config.audio.normalize == "window":
        return float(values.max())
    return max(scale, float(values.max())) if peak is None else scale


def _copies(windows: Iterator[Window], count: int) -> list[Iterator[Window]]:
    """The same windows so many times. Unlike `itertools.tee`, this forgets each of them once all have taken it."""
    waiting: list[deque[Window]] = [deque() for _ in range(count)]

    def copy(own: deque[Window]) -> Iterator[Window]:
        while own or _share(windows, waiting):
            yield own.popleft()

    return [copy(own) for own in waiting]


def _share(windows: Iterator[Window], waiting: Sequence[deque[Window]]) -> bool:
    """Gives the next window to all; returns whether there was one."""
    for window in windows:
        for queue in waiting:
            queue.append(window)
        return True
    return False
