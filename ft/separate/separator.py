"""Separation: a mixture in, its stems out, in memory that does not grow with length.

Where a model has a rest, that is the mixture minus its other stems at the mixture's own rate, so that all sum to the
mixture whatever the network and the resampling do.
"""

from __future__ import annotations

import logging
from collections import deque
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
from ft.audio.source import BLOCK_SAMPLES, MAX_CHANNELS
from ft.config import ModelConfig
from ft.errors import AudioError, ConfigError
from ft.files import DEFAULT_MODEL
from ft.options import SeparateOptions
from ft.progress import Progress, cancellable, report_or_cancel
from ft.separate.front import OF_SONG, Level
from ft.separate.stream import ModelStream, SongStream, copies
from ft.stems import chosen
from ft.windows import WindowPlan, window_grids

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
                of them are an ensemble: stems of equal names are averaged into those of the first.
            options: all else that can be chosen; None for the usual. Batch and segment are those of a plan where
                nothing else is said. Only under `device` auto, and without TensorRT, does another engine go on with
                the next song where a GPU is lost.
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
            self.outputs = chosen(self.config.all_stems, options.stem, options.two_stems)
            self.model = "+".join(map(model_name, self._models))
            built = [None if isinstance(model, Engine) else plan_window(model) for model in self._models]
            self.plans = [self._planned(config, window) for config, window in zip(configs, built, strict=True)]
            self.plan = self.plans[0]
            usual_batch = next((window[0] for window in built if window is not None), 1)
            batch_size = usual_batch if options.batch_size is None else options.batch_size
            self._runners = [
                self._opened(model, plan, batch_size) for model, plan in zip(self._models, self.plans, strict=True)
            ]
            self.song_stream()  # refuses what a model cannot do, before a song is opened
            logger.debug("%s: %s; %s, %d at once", self.model, self.config, self.plan, self.batch_size)
            self._closing = self._closing.pop_all()

    def _config_of(self, model: Model | None) -> ModelConfig:
        if isinstance(model, Engine):
            model.open()
            return model.describe().config
        return read_config(model)

    def _planned(self, config: ModelConfig, built: tuple[int, float] | None) -> WindowPlan:
        """The windows of a model; `built` is what a plan was built for. Raises ConfigError."""
        options = self.options
        changes: dict[str, Any] = {} if built is None else {"seconds": built[1]}
        if options.segment_seconds is not None:
            changes["seconds"] = options.segment_seconds
        if options.context_seconds is not None:
            changes |= {"context": options.context_seconds, "lookahead": None}
        if options.overlap is not None:
            changes["overlap"] = options.overlap
        return WindowPlan.of(replace(config.segment, **changes), config.frame_rate)

    def song_stream(self) -> SongStream:
        """Makes what turns songs into stems. Raises ConfigError for what a model cannot do."""
        models = [
            ModelStream(runner, plan, self.options) for runner, plan in zip(self._runners, self.plans, strict=True)
        ]
        return SongStream(models, self.options.ensemble_by)

    def _opened(self, model: Model | None, plan: WindowPlan, batch_size: int) -> Runner:
        """A runner of an open engine, which `close` closes where it is not the caller's."""
        if isinstance(model, Engine):
            return Runner(model, batch_size)
        options, is_plan = self.options, plan_window(model) is not None
        config = read_config(model)
        size = max(grid.frames for grid in window_grids(plan, options.windows, options.tta))

        def load(windows: int, device: str) -> Engine:
            shape = (windows * config.items_per_window, size)
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

        Args:
            progress: called with the seconds done and those there are; where it gives back False this stops.
        Raises:
            AudioError: no samples, not one or two channels, or values that are not finite.
            Cancelled: `progress` asked to stop.
            EngineError: the engine failed.
        """
        mixture = np.asarray(mixture)
        if mixture.ndim != 2 or not 1 <= mixture.shape[0] <= MAX_CHANNELS or mixture.shape[1] == 0:
            raise AudioError(f"mixture of shape {mixture.shape}; expected (channels, samples) of 1 or 2 channels")
        seconds = mixture.shape[1] / sample_rate if sample_rate > 0 else None
        levels = self.levels(cancellable(_cut(mixture), progress, "mixture", seconds), sample_rate)
        stems = {stem: np.empty(mixture.shape, np.float32) for stem in self.config.all_stems}
        done = 0
        for block in self.stream(_cut(mixture), sample_rate, levels):
            for stem, samples in block.items():
                stems[stem][:, done : done + samples.shape[1]] = samples
            done += samples.shape[1]
            report_or_cancel(progress, "mixture", done / sample_rate, seconds)
        return stems

    def levels(self, blocks: Iterable[Array], sample_rate: int) -> tuple[Level | None, ...]:
        """Gives what `stream` takes as `levels`: how loud a whole song is to each model.

        None, without reading a block, for models that need not know it.
        """
        models = self.song_stream().models
        wanted = [model for model in models if model.config.front.scale in OF_SONG]
        if not wanted:
            return (None,) * len(models)
        shared = copies(iter(blocks), len(wanted))
        running = [model.levels(own, sample_rate) for model, own in zip(wanted, shared, strict=True)]
        last = deque(zip(*running, strict=True), maxlen=1)  # in step, so that no block waits for long
        found = iter(last.pop() if last else (None,) * len(wanted))
        return tuple(next(found) if model in wanted else None for model in models)

    def stream(
        self,
        blocks: Iterable[Array],
        sample_rate: int,
        levels: Sequence[Level | None] | None = None,
        *,
        eager: bool = False,
    ) -> Iterator[dict[str, Array]]:
        """Gives blocks of stems (channels, samples), as blocks of the mixture come in; those may have any sizes.

        The stems lag behind by a few windows, and together have as many samples as the mixture. `blocks` is read in
        another thread.

        Args:
            levels: `levels` of the song. Without them a model that is scaled by the song is scaled by what came so
                far, up to each window's end.
            eager: whether a window's stems are given before the one behind it is read, for sound that comes in as it
                is played. It takes longer.
        Raises:
            AudioError: not one or two channels, or values that are not finite.
            EngineError: the engine failed.
        """
        return self.song_stream().stems(blocks, sample_rate, levels or (None,) * len(self._models), eager)

    def ready(self) -> None:
        """Goes on with another engine where a device was lost. Raises DeviceLost where none is allowed."""
        for runner in self._runners:
            runner.ready()


def model_name(model: Model | None) -> str:
    """What `{model}` stands for in names.

    >>> model_name("models/best.onnx"), model_name(None)
    ('best', 'default')
    """
    if isinstance(model, Engine):
        return Path(model.describe().model).stem
    return DEFAULT_MODEL if model is None else Path(model).stem


def _cut(mixture: Array) -> Iterator[Array]:
    for start in range(0, mixture.shape[1], BLOCK_SAMPLES):
        yield mixture[:, start : start + BLOCK_SAMPLES]
