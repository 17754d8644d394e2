"""What a network meets in real songs: the windows by which int8 finds its ranges."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engines.base import Array, Engine, EngineInfo
from ft.audio.open import read_audio
from ft.config import ModelConfig
from ft.data.scan import audio_files
from ft.errors import AudioError, DataError, ExportError
from ft.separate import Separator

logger = logging.getLogger(__name__)

WINDOWS = 12
"""More of them moved the error of the shipped model's mask by less than half a decibel."""


@dataclass(frozen=True)
class Calibration:
    """Inputs of a network, window by window, and where they come from."""

    inputs: list[Array]
    """(batch, channels, bins, frames) each."""
    files: list[str]
    seconds: float
    """Of all windows, contexts included."""


class _Listener(Engine):
    """Keeps what it is given, and answers with a mask of zeros."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.heard: list[Array] = []

    def describe(self) -> EngineInfo:
        return EngineInfo("none", "none", "cpu", "fp32", self.config)

    def _load(self) -> None:
        pass

    def _unload(self) -> None:
        pass

    def _infer(self, batch: Array) -> Array:
        self.heard.append(batch)
        return np.zeros_like(batch)


def calibration_files(folder: Path) -> list[Path]:
    """The songs in a folder. Raises ExportError where there is no folder or no song in it."""
    try:
        return audio_files(folder)
    except DataError as error:
        raise ExportError(f"{error}; int8 is calibrated with real sound, --calibrate FOLDER") from error


def calibration_windows(folder: Path, config: ModelConfig, count: int = WINDOWS) -> Calibration:
    """Windows of the songs in `folder`, as `ft separate` gives them to an engine, from as many songs as there are.

    Raises:
        ExportError: no folder, or nothing in it that can be read and heard.
    """
    files = calibration_files(folder)
    step = max(len(files) / count, 1.0)
    chosen = [files[int(index * step)] for index in range(min(len(files), count))]
    inputs: list[Array] = []
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
    seconds = sum(window.shape[-1] for window in inputs) * config.audio.hop_length / config.audio.sample_rate
    return Calibration(inputs, heard, seconds)


def _windows(file: Path, config: ModelConfig) -> list[Array]:
    """The windows of one song, without silent ones."""
    listener = _Listener(config)
    try:
        mixture, sample_rate = read_audio(file)
        Separator(listener).separate(mixture, sample_rate)
    except AudioError as error:
        logger.warning("%s; left out of the calibration", error)
        return []
    return [window for window in listener.heard if window.any()]
