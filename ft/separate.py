"""Separation: a mixture in, its vocals and instrumental out, in memory that does not grow with length.

    blocks -> resample -> STFT -> windows | -> engine | -> blend -> mask -> inverse STFT -> resample back -> vocals
              one thread                  |  another  |   the caller's thread          mixture - vocals = instrumental

Vocals come from the inverse STFT. The instrumental is the rest of the mixture at its own rate, so the stems sum to the
mixture whatever the network and the resampling do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engines import load_engine, plan_window, read_config
from engines.base import Batch, Engine, WaveformBatch
from engines.runner import Runner, open_runner
from ft.audio import BLOCK_SAMPLES, MAX_CHANNELS, BitDepth, StemWriter, audio_info, read_blocks
from ft.dsp import magnitude, spectra
from ft.errors import AudioError, ConfigError
from ft.pipeline import prefetch
from ft.progress import Progress
from ft.song_files import SeparatedFile, song_folder
from ft.stream import Analysis, Output, Synthesis, network_input
from ft.waveform import WaveformSynthesis, network_waveform
from ft.windows import CONTEXT_SECONDS, OVERLAP, Window, WindowPlan, cut_windows, usual_window_seconds

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]

_AHEAD = 1
"""Windows that are prepared while the engine holds its own."""


class Separator:
    """Separates sound with one model, which stays loaded until `close` or the end of `with`.

    >>> stems = Separator().separate(mixture, 44100)  # doctest: +SKIP
    """

    def __init__(
        self,
        engine: Engine | str | Path | None = None,
        *,
        batch_size: int | None = None,
        window_seconds: float | None = None,
        context_seconds: float = CONTEXT_SECONDS,
        overlap: float = OVERLAP,
        threads: int | None = None,
        runtime: str = "auto",
        device: str = "auto",
        memory: str = "cuda-python",
    ) -> None:
        """Opens the engine, which logs at INFO what runs the model and why.

        Args:
            engine: a model file, None or `default` for the shipped one, or an engine, which its owner closes.
            batch_size: windows that run at once; more of them take more memory and give the same result. It is lowered,
                with a warning, where a device has no memory for them. None takes 1, or what a plan was built for.
            window_seconds: what runs through the network at once, context included. None takes what
                `ft.windows.usual_window_seconds` says for the network, or what a plan was built for.
            context_seconds: on each side of a window, computed and thrown away.
            overlap: share of the frames between the contexts that two windows cross-fade, 0 to 0.5.
            threads: of the engine; None takes every core that the process may use.
            runtime: auto, onnxruntime, openvino, torch or tensorrt, for a model file.
            device: auto, cpu, cuda or cuda:N, for a model file. Only under auto, and without TensorRT, does another
                engine go on with the next song where a GPU is lost.
            memory: who handles the memory of a GPU for TensorRT: cuda-python or pycuda.
        Raises:
            CheckpointError: no such model, or none of this project.
            ConfigError: a value out of range.
            OutOfDeviceMemory: the device has no memory for one window, or for what a plan was built for.
            EngineError: the model cannot be opened.
        """
        built: tuple[int, float] | None = None
        if isinstance(engine, Engine):
            engine.open()
            self.config = engine.describe().config
        else:
            self.config = read_config(engine)
            built = plan_window(engine)
        usual_batch, usual_seconds = built or (1, usual_window_seconds(self.config))
        batch_size = usual_batch if batch_size is None else batch_size
        window_seconds = usual_seconds if window_seconds is None else window_seconds
        if batch_size < 1:
            raise ConfigError(f"batch size: {batch_size}, expected 1 or more")
        audio = self.config.audio
        self.plan = WindowPlan.from_seconds(
            window_seconds, context_seconds, overlap, audio.sample_rate / audio.hop_length
        )
        self._owned = not isinstance(engine, Engine)
        if isinstance(engine, Engine):
            self._runner = Runner(engine, batch_size)
        else:
            items, frames = audio.items_per_window, self.plan.frames

            def load(windows: int, device: str) -> Engine:
                shape = (windows * items, frames)
                return load_engine(engine, threads, runtime=runtime, device=device, windows=shape, memory=memory)

            is_plan = built is not None
            self._runner = open_runner(load, batch_size, device, is_plan, is_plan or runtime == "tensorrt")
        self._waveform = self.engine.describe().io == "waveform"

    @property
    def engine(self) -> Engine:
        """What runs the model now."""
        return self._runner.engine

    @property
    def batch_size(self) -> int:
        """Windows that run at once: what was asked for, or fewer where the device had no memory for them."""
        return self._runner.batch_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the model, unless the engine was given as such."""
        if self._owned:
            self.engine.close()

    def separate(self, mixture: Array, sample_rate: int, progress: Progress | None = None) -> dict[str, Array]:
        """The stems of a whole mixture (channels, samples), full scale at 1, each of the same shape.

        Raises:
            AudioError: no samples, not one or two channels, or values that are not finite.
            EngineError: the engine failed.
        """
        mixture = np.asarray(mixture)
        if mixture.ndim != 2 or not 1 <= mixture.shape[0] <= MAX_CHANNELS or mixture.shape[1] == 0:
            raise AudioError(f"mixture of shape {mixture.shape}; expected (channels, samples) of 1 or 2 channels")
        peak = self.track_peak(_cut(mixture), sample_rate)
        stems = {stem: np.empty(mixture.shape, np.float32) for stem in self.config.stems}
        done = 0
        for block in self.stream(_cut(mixture), sample_rate, peak):
            for stem, samples in block.items():
                stems[stem][:, done : done + samples.shape[1]] = samples
            done += samples.shape[1]
            if progress is not None:
                progress(done / sample_rate, mixture.shape[1] / sample_rate)
        return stems

    def track_peak(self, blocks: Iterable[Array], sample_rate: int) -> float | None:
        """The largest magnitude of a song's spectrogram, which `stream` takes as `peak`.

        None, without reading a block, where the model scales each window for itself.
        """
        if self.config.audio.normalize != "track":
            return None
        peak, analysis = 0.0, Analysis(self.config, sample_rate)
        for spec in analysis.frames(blocks):
            peak = max(peak, float(magnitude(spec).max(initial=0)))
            analysis.drop()
        return peak

    def stream(
        self, blocks: Iterable[Array], sample_rate: int, peak: float | None = None
    ) -> Iterator[dict[str, Array]]:
        """Blocks of stems (channels, samples), as blocks of the mixture come in; those may have any sizes.

        The stems lag behind by a few windows, and together have as many samples as the mixture. `blocks` is read in
        another thread.

        Args:
            peak: `track_peak` of the song, for a model that scales by it. Without it such a model scales by the peak
                of what came so far, up to each window's end.
        Raises:
            AudioError: not one or two channels, or values that are not finite.
            EngineError: the engine failed.
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
        for window, result in self._runner.run(self._inputs(windows, peak)):
            if output is None:
                output = kind(self.config, analysis, self.plan.fade)
            yield self._stems(analysis, output.push(window, result))
        if output is not None:
            yield self._stems(analysis, output.finish())

    def _stems(self, analysis: Analysis, vocals: Array) -> dict[str, Array]:
        stems = {"vocals": vocals, "instrumental": analysis.take(vocals.shape[1]) - vocals}
        return {stem: stems[stem] for stem in self.config.stems}

    def _inputs(self, windows: Iterator[Window], peak: float | None) -> Iterator[tuple[Window, Batch]]:
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

    def separate_file(
        self,
        path: str | Path,
        output_dir: str | Path = "separated",
        *,
        bit_depth: BitDepth | None = None,
        progress: Progress | None = None,
    ) -> SeparatedFile:
        """Writes `output_dir/<song>/<stem>.wav` with the sample rate, channels and length of the input.

        Args:
            bit_depth: of the stems; None keeps that of the input (16 for formats without one).
            progress: called with the seconds of audio done and those there are.
        Raises:
            AudioError: the file cannot be read, or the stems cannot be written; none of them is there then.
            EngineError: the engine failed, or its device was lost at an earlier file; nothing is written then.
        """
        start = time.perf_counter()
        self._runner.ready()
        info = audio_info(Path(path))
        folder = song_folder(info.path, Path(output_dir), self.config.stems)
        peak = self.track_peak(read_blocks(info.path), info.sample_rate)
        depth = bit_depth or info.bit_depth
        done = 0
        with StemWriter(folder, self.config.stems, info.channels, info.sample_rate, depth) as writer:
            for stems in self.stream(read_blocks(info.path), info.sample_rate, peak):
                writer.write(stems)
                done += stems["vocals"].shape[1]
                if progress is not None:
                    progress(done / info.sample_rate, info.seconds)
            writer.commit()
        warnings = []
        if writer.gain < 1:
            decibels = 20 * np.log10(writer.gain)
            warnings.append(
                f"{path}: {depth} bit would clip; all stems were lowered by one gain of {writer.gain:.4f} "
                f"({decibels:.2f} dB). --bit-depth float keeps the level"
            )
        if done != info.samples:
            found, expected = done / info.sample_rate, info.seconds
            warnings.append(f"{path}: ends after {found:.1f} s; its header says {expected:.1f} s")
        for warning in warnings:
            logger.warning(warning)
        wall = time.perf_counter() - start
        return SeparatedFile(writer.files, done / info.sample_rate, wall, writer.gain, tuple(warnings))


def _cut(mixture: Array) -> Iterator[Array]:
    for start in range(0, mixture.shape[1], BLOCK_SAMPLES):
        yield mixture[:, start : start + BLOCK_SAMPLES]
