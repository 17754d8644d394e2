"""A graph that takes waveforms against the ordinary path: transforms of `ft.dsp`, and the mask from PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines import load_engine
from engines.base import Array, Engine, WaveformBatch
from export.verify import SHAPES, synthetic_song
from ft.config import ModelConfig
from ft.dsp import StreamingFrames, magnitude
from ft.errors import EngineError, ExportError
from ft.metrics import sdr
from ft.models.frame_transformer import FrameTransformer
from ft.separate.stream import network_input, song_mask, song_spectrum, song_waveform, vocals_mask
from ft.separate.waveform import network_waveform

LIMIT = 80.0
"""Decibels of signal to noise that each stem of a float32 graph has at least; about 120 are usual."""


def verify_waveform(path: Path, model: FrameTransformer, config: ModelConfig, limit: float = LIMIT) -> dict[str, Any]:
    """Runs the graph at `path` in ONNX Runtime and the ordinary path on the same songs.

    Returns:
        `engine`, `stems_snr_db` (the worst of all stems, songs and shapes), `stems_snr_limit_db`, `finite` and `shapes`
        (of the waveforms).
    Raises:
        ExportError: ONNX Runtime is missing or refuses the graph, values are not finite, or a stem has less than
            `limit` decibels; shape and figure are named.
    """
    worst, shapes = float("inf"), []
    try:
        with load_engine(path, runtime="onnxruntime", device="cpu") as engine:
            info = engine.describe()
            for name, (batch, frames) in SHAPES.items():
                found, shape = _worst_stem(engine, model, config, batch, max(frames, 2))
                if not found >= limit:
                    raise ExportError(
                        f"at the {name} shape {shape} a stem of the graph has {found:.1f} dB of signal to noise "
                        f"against the ordinary path, at least {limit:g} are wanted; nothing was written"
                    )
                worst = min(worst, found)
                shapes.append(list(shape))
    except EngineError as error:
        raise ExportError(f"{error}; nothing was written") from error
    return {
        "engine": f"{info.name} {info.version}",
        "stems_snr_db": round(worst, 1),
        "stems_snr_limit_db": limit,
        "finite": True,
        "shapes": shapes,
    }


def ordinary_vocals(model: FrameTransformer, config: ModelConfig, song: Array, scale: float) -> Array:
    """Vocals (channels, samples) of a song as `ft separate` makes them in one window, the network being in PyTorch.

    `scale` is what its magnitudes are divided by; 0 takes their peak.
    """
    audio = config.audio
    spec = song_spectrum(song, audio)
    values = magnitude(spec)
    inputs = network_input(values, scale or float(values.max()), config)
    with torch.inference_mode():
        mask = model.mask(torch.tensor(inputs)).numpy()
    masked = spec * vocals_mask(song_mask(mask, len(song), config), config)
    return song_waveform(masked, audio, song.shape[1])


def _worst_stem(
    engine: Engine, model: FrameTransformer, config: ModelConfig, batch: int, frames: int
) -> tuple[float, tuple[int, ...]]:
    """The lowest signal to noise in decibels of a stem of so many songs, and the shape of the waveforms."""
    audio = config.audio
    samples = audio.hop_length * (frames - 1)
    time = np.arange(samples) / audio.sample_rate
    songs: list[Array] = []
    for index in range(batch):
        song = 0.1 * synthetic_song(time, audio.channels, np.random.default_rng(index))
        songs.append(song.astype(np.float32))
    # A model that scales by the window finds the peak by itself; every second song has a scale of its own all the same.
    scales = [
        0.0 if audio.normalize == "window" and index % 2 == 0 else _peak(song, config) * (1 - 0.3 * (index % 2))
        for index, song in enumerate(songs)
    ]
    waveforms = np.concatenate([_padded(song, config) for song in songs])
    stems = engine.run(WaveformBatch(waveforms, np.array(scales, np.float32)))
    begin = audio.n_fft // 2
    worst = float("inf")
    for item, found in enumerate(stems[..., begin : begin + samples]):
        vocals = ordinary_vocals(model, config, songs[item], scales[item])
        expected = {"vocals": vocals, "instrumental": songs[item] - vocals}
        for index, stem in enumerate(config.stems):
            worst = min(worst, sdr(found[index], expected[stem]))
    return worst, waveforms.shape


def _peak(song: Array, config: ModelConfig) -> float:
    return float(magnitude(song_spectrum(song, config.audio)).max())


def _padded(song: Array, config: ModelConfig) -> Array:
    """(1, channels, samples): a song mirrored at its ends, as the graph is to be given it."""
    frames = StreamingFrames(len(song), config.audio.n_fft, config.audio.hop_length)
    return network_waveform(np.concatenate((frames.push(song), frames.finish()), axis=1), config)
