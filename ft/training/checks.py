"""What can be said against a run before torch is imported and before anything is written."""

from __future__ import annotations

import re
from pathlib import Path

from ft.checkpoint import load_config
from ft.config import AudioConfig, ModelConfig
from ft.data.scan import check_folders, check_sources
from ft.errors import ConfigError
from ft.files import check_writable
from ft.train_config import Stage, TrainConfig
from ft.training.run_folder import STATE


def check_run(config: ModelConfig, train: TrainConfig, folder: Path | None, resume: bool) -> None:
    """Looks at what a run begins with, all that takes no reading of audio.

    Args:
        folder: of the run; None: nothing is written.
    Raises:
        ConfigError, DataError, CheckpointError, FtError: the run cannot begin.
    """
    if folder is not None:
        there = (folder / STATE).exists()
        if there and not resume:
            raise ConfigError(
                f"{folder}: holds a run already; add `resume` to go on with it, or `output` FOLDER for a new one"
            )
        if resume and not there:
            raise ConfigError(f"{folder}: no run to go on with ({STATE} is missing); start without `resume`")
        check_writable(folder / STATE)
    check_sources(train)
    sets = train.validation
    check_folders([source.folder for source in (*sets.pairs, *sets.instrumentals, *sets.vocals, *sets.songs)])
    if train.epoch_size is not None and not resume:
        for stage in train.stages:
            check_epoch(train.epoch_size, stage)
    if train.task == "separate":
        check_crops(config.audio, train)
    if train.init_from and not resume:
        load_config(train.init_from)


def check_epoch(items: int, stage: Stage, processes: int = 1) -> None:
    """Raises ConfigError where an epoch of so many items is less than one step."""
    if items < stage.batch_size * stage.accumulation * processes:
        more = f" x {processes} processes" if processes > 1 else ""
        raise ConfigError(
            f"an epoch of {items} items is less than one step of {stage.batch_size} x {stage.accumulation}{more}; "
            "raise train.epoch_size or lower the accumulation"
        )


def check_crops(audio: AudioConfig, train: TrainConfig) -> None:
    """Raises ConfigError where a window of a loss is longer than a crop."""
    frames = min(stage.frames for stage in train.stages)
    samples, longest = (frames - 1) * audio.hop_length + audio.n_fft, max(train.losses.stft_n_fft)
    if train.losses.on_stft and longest > samples:
        raise ConfigError(
            f"train.losses.stft_n_fft: {longest} is more than the {samples} samples of a crop of {frames} frames; "
            "leave it out, or raise the frames of train.stages"
        )


def check_device(name: str) -> str:
    """The device `auto`, `cpu` or `cuda[:N]` as torch spells it. Raises ConfigError for the name of no device.

    >>> check_device("CUDA:0")
    'cuda:0'
    """
    spelled = name.lower()
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", spelled):
        raise ConfigError(f"device '{name}', expected auto, cpu or cuda[:N]")
    return spelled
