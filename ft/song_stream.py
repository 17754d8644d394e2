"""One song through the models: blocks of the mixture in, blocks of its stems out.

blocks -> resample -> STFT -> windows | -> engine | -> blend -> mask -> inverse STFT -> resample back -> vocals
          one thread                  |  another  |   the caller's thread          mixture - vocals = instrumental
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from engines.base import Batch, WaveformBatch
from engines.runner import Runner
from ft.config import ModelConfig
from ft.dsp import magnitude, spectra
from ft.errors import ConfigError
from ft.options import SeparateOptions
from ft.pipeline import prefetch
from ft.stream import Analysis, Output, Synthesis, network_input
from ft.waveform import WaveformSynthesis, network_waveform
from ft.windows import Window, WindowPlan, cut_windows

Array = NDArray[np.float32]

_AHEAD = 1
"""Windows that are prepared while the engine holds its own."""


class SongStream:
    """What turns one song into its stems; made anew for each, and without state that outlives it."""

    def __init__(self, runners: Sequence[Runner], plan: WindowPlan, options: SeparateOptions) -> None:
        """
        Args:
            runners: of the models, open, whose masks are combined; all of the same `AudioConfig`.
            plan: of the windows, ignored where `options.windows` is `original`.
            options: those of quality.
        """
        (self._runner,) = runners
        self.plan = plan
        self.options = options
        info = self._runner.engine.describe()
        self.config = info.config
        self._waveform = info.io == "waveform"

    def stems(
        self, blocks: Iterable[Array], sample_rate: int, peak: float | None = None, *, eager: bool = False
    ) -> Iterator[dict[str, Array]]:
        """Blocks of stems (channels, samples), which together have as many samples as the mixture.

        Args:
            blocks: of the mixture (channels, samples), float32; read in another thread.
            sample_rate: theirs, in Hz.
            peak: of the song's magnitudes, for models that scale by it; None takes that of what came so far.
            eager: whether a window's stems are given before anything behind the next window is read, for a source that
                comes in as it is played. This takes the overlap of engine and transforms away.
        Raises:
            AudioError: not one or two channels, or values that are not finite.
            EngineError: an engine failed.
        """
        analysis = Analysis(self.config, sample_rate, "waveform" if self._waveform else "magnitude")
        windows = prefetch(cut_windows(analysis.frames(blocks), self.plan), _AHEAD)
        try:
            yield from self._synthesise(analysis, windows, peak)
        finally:
            windows.close()  # type: ignore[attr-defined]

    def _synthesise(
        self, analysis: Analysis, windows: Iterator[Window], peak: float | None
    ) -> Iterator[dict[str, Array]]:
        output: Output | None = None
        kind = WaveformSynthesis if self._waveform else Synthesis
        for window, result in self._runner.run(self.inputs(windows, peak)):
            if output is None:
                output = kind(self.config, analysis, self.plan.fade)
            yield self._stems(analysis, output.push(window, result))
        if output is not None:
            yield self._stems(analysis, output.finish())

    def _stems(self, analysis: Analysis, vocals: Array) -> dict[str, Array]:
        stems = {"vocals": vocals, "instrumental": analysis.take(vocals.shape[1]) - vocals}
        return {stem: stems[stem] for stem in self.config.stems}

    def inputs(self, windows: Iterator[Window], peak: float | None) -> Iterator[tuple[Window, Batch]]:
        """Each window with what the network takes of it."""
        scale = peak or 0.0
        for window in windows:
            if self._waveform:
                scale = self._waveform_scale(window, scale, peak)
                waveform = network_waveform(window.spec, self.config)
                yield window, WaveformBatch(waveform, np.full(len(waveform), scale, np.float32))
            else:
                values = magnitude(window.spec)
                scale = self._scale(values, scale, peak)
                yield window, network_input(values, scale, self.config)

    def _scale(self, values: Array, scale: float, peak: float | None) -> float:
        """By what the magnitudes of a window are divided; `scale` is that of the window before."""
        if self.config.audio.normalize == "window":
            return float(values.max())
        return max(scale, float(values.max())) if peak is None else scale

    def _waveform_scale(self, window: Window, scale: float, peak: float | None) -> float:
        """The same for a model that takes samples; 0 where it finds the peak of a window by itself."""
        audio = self.config.audio
        if audio.normalize == "window" and audio.channels >= len(window.spec):  # else it sees one channel at a time
            return 0.0
        if audio.normalize == "track" and peak is not None:
            return scale
        return self._scale(magnitude(spectra(window.spec)), scale, peak)


def check_ensemble(configs: Sequence[ModelConfig]) -> None:
    """Raises ConfigError where the masks of these models cannot be combined."""
    if len(configs) > 1:
        raise ConfigError("several models: not yet")
