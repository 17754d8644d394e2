"""What can be said against a run before torch is imported and before anything is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ft.checkpoint import load_config
from ft.config import ModelConfig, Spectrogram
from ft.data.sources import check_sources, check_validation
from ft.errors import CheckpointError, ConfigError
from ft.files import check_writable
from ft.models import DENOISING, Sizes
from ft.train_config import Stage, TrainConfig

STATE = "state.safetensors"
"""What a run needs to be resumed, in its folder."""


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
    check_task(config, train)
    check_sources(train, config)
    check_validation(train, config)
    if train.epoch_size is not None and not resume:
        for stage in train.stages:
            check_epoch(train.epoch_size, stage)
    if train.init_from and not resume:
        check_weights(train.init_from, config)


def check_weights(source: str, config: ModelConfig) -> None:
    """Raises CheckpointError where the weights in a file are those of a network of another kind or size."""
    facts = [_sizes(each) for each in (load_config(source), config)]
    for name, value in facts[1].items():
        if (found := facts[0].get(name, value)) != value:
            raise CheckpointError(f"{source}: weights of a network whose {name} is {found}, expected {value}")


def _sizes(config: ModelConfig) -> dict[str, Any]:
    """What the shapes of a network's weights follow from, but for its own numbers, by the words for it."""
    sizes = Sizes.of(config)
    channels = {"number of channels read": sizes.reads, "number of channels given": sizes.gives}
    bins = {"number of bins": sizes.values} if isinstance(config.front, Spectrogram) else {}
    return {"kind": config.network.kind, **channels, "number of stems": len(config.stems), **bins}


def check_epoch(items: int, stage: Stage, processes: int = 1) -> None:
    """Raises ConfigError where an epoch of so many items is less than one step."""
    if items < stage.items * processes:
        more = f" x {processes} processes" if processes > 1 else ""
        raise ConfigError(
            f"an epoch of {items} items is less than one step of {stage.batch_size} x {stage.accumulation}{more}; "
            "raise train.epoch_size or lower the accumulation"
        )


def check_task(config: ModelConfig, train: TrainConfig) -> None:
    """Raises ConfigError where the network cannot do the task, or the examples are too short or long for it."""
    kind, segment = config.network.kind, config.segment
    if train.task == "denoise" and kind not in DENOISING:
        raise ConfigError(f"train.task: denoise with a network of kind {kind}; it is for {', '.join(DENOISING)} alone")
    for stage in train.stages:
        if stage.frames % segment.multiple or (segment.frames or stage.frames) != stage.frames:
            expected = f"a multiple of {segment.multiple}" if segment.frames is None else f"{segment.frames}"
            raise ConfigError(f"train.stages: crops of {stage.frames} frames; this network takes {expected}")
    frames = min(stage.frames for stage in train.stages)
    samples, losses = config.front.samples(frames), train.losses
    if train.task == "separate" and losses.on_stft and max(losses.stft_n_fft) > samples:
        raise ConfigError(
            f"train.losses.stft_n_fft: {max(losses.stft_n_fft)} is more than the {samples} samples of a crop of "
            f"{frames} frames; leave it out, or raise the frames of train.stages"
        )
    if config.front.kind == "waveform" and losses.on_spectra and samples < Spectrogram.n_fft:
        raise ConfigError(
            f"train.losses: spectra of {Spectrogram.n_fft} samples, and a crop of {frames} frames has {samples}; raise "
            "the frames of train.stages"
        )


def check_device(name: str) -> str:
    """Gives the device `auto`, `cpu` or `cuda[:N]` as torch spells it. Raises ConfigError for the name of no device.

    >>> check_device("CUDA:0")
    'cuda:0'
    """
    spelled = name.lower()
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", spelled):
        raise ConfigError(f"device '{name}', expected auto, cpu or cuda[:N]")
    return spelled
