"""What a network meets in real songs: the windows by which int8 finds its ranges."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.base import Array, Engine, EngineInfo, Inputs
from ft.audio.open import read_audio
from ft.config import IO, ModelConfig
from ft.data.scan import audio_files
from ft.errors import AudioError, DataError, ExportError
from ft.separate import Separator

logger = logging.getLogger(__name__)

WINDOWS = 12
"""More of them moved the error of the shipped model's mask by less than half a decibel."""


@dataclass(frozen=True)
class Calibration:
    """Inputs of a network, window by window, and where they come from."""

    inputs: list[Inputs]
    """Arrays by name, as an engine takes them."""
    files: list[str]
    seconds: float
    """Seconds of all windows, contexts included."""


class RecordingEngine(Engine):
    """Keeps what it is given and what another engine makes of it; without one it answers with zeros."""

    def __init__(self, config: ModelConfig, engine: Engine | None = None) -> None:
        super().__init__()
        self.config, self.engine = config, engine
        self.inputs: list[Inputs] = []
        self.results: list[Array] = []

    def describe(self) -> EngineInfo:
        if self.engine is not None:
            return self.engine.describe()
        return EngineInfo("none", "none", "cpu", "fp32", self.config)

    def _load(self) -> None:
        if self.engine is not None:
            self.engine.open()

    def _unload(self) -> None:
        if self.engine is not None:
            self.engine.close()

    def _infer(self, inputs: Inputs) -> Array:
        info = self.describe()
        zeros = np.zeros(info.gives.sized(*info.size(inputs)), np.float32)
        result = zeros if self.engine is None else self.engine.run(inputs)
        self.inputs.append(inputs)
        self.results.append(result)
        return result


def calibration_files(folder: Path) -> list[Path]:
    """The songs in a folder. Raises ExportError where there is no folder or no song in it."""
    try:
        return audio_files(folder)
    except DataError as error:
        raise ExportError(f"{error}; int8 is calibrated with real sound, a folder in `calibrate`") from error


def calibration_windows(folder: Path, config: ModelConfig, count: int = WINDOWS) -> Calibration:
    """Windows of the songs in `folder`, as `ft separate` gives them to an engine, from as many songs as there are.

    Raises:
        ExportError: no folder, or nothing in it that can be read and heard.
    """
    files = calibration_files(folder)
    step = max(len(files) / count, 1.0)
    chosen = [files[int(index * step)] for index in range(min(len(files), count))]
    inputs: list[Inputs] = []
    heard: list[str] = []
    for index, file in enumerate(chosen):
        windows = _windows(file, config)
        # What is left is shared by the songs that are left, so that short ones are made up for.
        wanted = min(-(-(count - len(inputs)) // (len(chosen) - index)), len(windows))
        inputs += [windows[int((number + 0.5) * len(windows) / wanted)] for number in range(wanted)]
        if wanted:
            heard.append(file.relative_to(folder).as_posix())
    if not inputs:
        raise ExportError(f"{folder}: none of its {len(files)} audio files holds sound; int8 needs some to calibrate")
    size = sum(array.shape[-1] for window in inputs for array in window.values())
    seconds = size / config.size(IO[0], 1) / config.frame_rate
    return Calibration(inputs, heard, seconds)


def _windows(file: Path, config: ModelConfig) -> list[Inputs]:
    """The windows of one song, without silent ones."""
    recording = RecordingEngine(config)
    try:
        mixture, sample_rate = read_audio(file)
        Separator(recording).separate(mixture, sample_rate)
    except AudioError as error:
        logger.warning("%s; left out of the calibration", error)
        return []
    return [window for window in recording.inputs if any(array.any() for array in window.values())]
