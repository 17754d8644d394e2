"""Separation: a mixture in, its vocals and instrumental out, in memory that does not grow with length.

Vocals come from the inverse STFT. The instrumental is the rest of the mixture at its own rate, so the stems sum to the
mixture whatever the network and the resampling do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engines import load_engine, plan_window, read_config
from engines.base import Engine
from engines.runner import Runner, open_runner
from ft.audio import BLOCK_SAMPLES, MAX_CHANNELS, audio_info, read_blocks
from ft.config import ModelConfig
from ft.dsp import magnitude
from ft.errors import AudioError, ConfigError
from ft.formats import stem_format
from ft.options import SeparateOptions
from ft.progress import Progress
from ft.song_files import SeparatedFile, song_folder
from ft.song_stream import SongStream, check_ensemble
from ft.stem_files import StemWriter
from ft.stream import Analysis
from ft.windows import CONTEXT_SECONDS, OVERLAP, WindowPlan, usual_segment_seconds

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]

Model = Engine | str | Path


class Separator:
    """Separates sound with one model, which stays loaded until `close` or the end of `with`.

    >>> stems = Separator().separate(mixture, 44100)  # doctest: +SKIP
    """

    def __init__(
        self,
        models: Model | Sequence[Model] | None = None,
        options: SeparateOptions | None = None,
        **changes: Any,
    ) -> None:
        """Opens the engine, which logs at INFO what runs the model and why.

        Args:
            models: a model file, None or `default` for the shipped one, or an engine, which its owner closes. Several
                of them are an ensemble, whose masks are combined; they must read the same spectrograms.
            options: all else that can be chosen; None for the usual. Batch and segment are those of a plan where nothing else is said, and
                only under `device` auto, and without TensorRT, does another engine go on with the next song where a GPU
                is lost.
            changes: fields of `SeparateOptions` by name, in place of those of `options`.
        Raises:
            CheckpointError: no such model, or none of this project.
            ConfigError: a value out of range, or models that do not go together.
            OutOfDeviceMemory: the device has no memory for one window, or for what a plan was built for.
            EngineError: the model cannot be opened.
        """
        self.options = options = replace(options or SeparateOptions(), **changes)
        self._models = list(models) if isinstance(models, Sequence) and not isinstance(models, str) else [models]
        if not self._models:
            raise ConfigError("no model; expected at least one")
        self._closing = ExitStack()
        with self._closing:
            configs = [self._config_of(model) for model in self._models]
            self.config = configs[0]
            check_ensemble(configs)
            plans = [plan_window(model) for model in self._models if not isinstance(model, Engine)]
            plans = [plan_window(model) for model in self._models if not isinstance(model, Engine)]
            built = next(filter(None, plans), None)
            usual_batch, usual_seconds = built or (1, min(map(usual_segment_seconds, configs)))
            audio = self.config.audio
            self.plan = WindowPlan.from_seconds(
                usual_seconds if options.segment_seconds is None else options.segment_seconds,
                CONTEXT_SECONDS if options.context_seconds is None else options.context_seconds,
                OVERLAP if options.overlap is None else options.overlap,
                audio.sample_rate / audio.hop_length,
            )
            batch_size = usual_batch if options.batch_size is None else options.batch_size
            self._runners = [self._opened(model, batch_size) for model in self._models]
            self._closing = self._closing.pop_all()

    def _config_of(self, model: Model | None) -> ModelConfig:
        if isinstance(model, Engine):
            model.open()
            return model.describe().config
        return read_config(model)

    def _opened(self, model: Model | None, batch_size: int) -> Runner:
        """A runner of an open engine, which `close` closes where it is not the caller's."""
        if isinstance(model, Engine):
            return Runner(model, batch_size)
        options, is_plan = self.options, plan_window(model) is not None
        items = read_config(model).audio.items_per_window

        def load(windows: int, device: str) -> Engine:
            shape = (windows * items, self.plan.frames)
            return load_engine(
                model, options.threads, runtime=options.runtime, device=device, windows=shape, memory=options.memory
            )

        gpu_only = is_plan or options.runtime == "tensorrt"
        runner = open_runner(load, batch_size, options.device, is_plan, gpu_only)
        self._closing.callback(lambda: runner.engine.close())
        return runner

    @property
    def engine(self) -> Engine:
        """What runs the model now."""
        return self._runners[0].engine

    @property
    def batch_size(self) -> int:
        """Windows that run at once: what was asked for, or fewer where the device had no memory for them."""
        return self._runners[0].batch_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the models, but for engines that were given as such."""
        self._closing.close()

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
        song = SongStream(self._runners, self.plan, self.options)
        return song.stems(blocks, sample_rate, peak)

    def separate_file(
        self,
        path: str | Path,
        output_dir: str | Path = "separated",
        *,
        progress: Progress | None = None,
    ) -> SeparatedFile:
        """Writes `output_dir/<song>/<stem>.wav` with the sample rate, channels and length of the input.

        Args:
            progress: called with the seconds of audio done and those there are.
        Raises:
            AudioError: the file cannot be read, or the stems cannot be written; none of them is there then.
            EngineError: the engine failed, or its device was lost at an earlier file; nothing is written then.
        """
        start = time.perf_counter()
        for runner in self._runners:
            runner.ready()
        info = audio_info(Path(path))
        folder = song_folder(info.path, Path(output_dir), self.config.stems)
        peak = self.track_peak(read_blocks(info.path), info.sample_rate)
        format = stem_format(self.options, info)
        files = {stem: folder / f"{stem}.{format.name}" for stem in self.config.stems}
        done = 0
        with StemWriter(files, info.channels, info.sample_rate, format) as writer:
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
                f"{path}: {format.bit_depth} bit would clip; all stems were lowered by one gain of {writer.gain:.4f} "
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
