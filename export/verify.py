"""Parity of an exported graph with PyTorch, measured before the file gets its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ft.config import ModelConfig
from ft.errors import ExportError, one_line
from ft.models.frame_transformer import FrameTransformer

LIMIT = 5e-6
"""Largest relative L2 distance between the masks; what float32 in another order of adding gives is about 1e-6."""
SHAPES = {"usual": (1, 256), "odd": (3, 61), "smallest": (1, 1), "large": (2, 512)}
"""Batch and frames of each comparison."""


@dataclass(frozen=True)
class Parity:
    """How far the mask of a graph is from PyTorch's at one shape."""

    name: str
    shape: tuple[int, int, int, int]
    distance: float
    """Relative L2: the norm of the difference over the norm of PyTorch's mask."""


def verify(path: Path, model: FrameTransformer, config: ModelConfig, limit: float = LIMIT) -> list[Parity]:
    """Runs the graph at `path` in ONNX Runtime and `model` in PyTorch on the same magnitudes.

    Returns:
        One entry for each of `SHAPES`.
    Raises:
        ExportError: ONNX Runtime is missing or refuses the graph, a mask has another shape, is not finite or is
            farther from PyTorch's than `limit`; the shape and the distance are named.
    """
    run = _onnxruntime(path)
    results = []
    for name, (batch, frames) in SHAPES.items():
        magnitude = synthetic_magnitude(config, batch, frames)
        with torch.inference_mode():
            expected = model.mask(torch.from_numpy(magnitude)).numpy()
        where = f"at the {name} shape {magnitude.shape}"
        mask = run(magnitude, where)
        if mask.shape != expected.shape:
            raise ExportError(f"{where} the graph gave a mask of shape {mask.shape}; nothing was written")
        if not np.isfinite(mask).all():
            raise ExportError(f"{where} the mask of the graph is not finite; nothing was written")
        distance = relative_l2(mask, expected)
        if not distance <= limit:
            raise ExportError(
                f"{where} the mask of the graph differs from PyTorch's by {distance:.2g} (relative L2), "
                f"at most {limit:.2g} is allowed; nothing was written"
            )
        results.append(Parity(name, magnitude.shape, distance))
    return results


def relative_l2(estimate: np.ndarray, target: np.ndarray) -> float:
    """Norm of the difference over the norm of `target`, in float64."""
    difference = estimate.astype(np.float64) - target
    return float(np.linalg.norm(difference) / np.linalg.norm(target.astype(np.float64)))


def synthetic_magnitude(config: ModelConfig, batch: int, frames: int) -> np.ndarray:
    """Spectra such as a network meets: sung harmonics with vibrato, chords, noise bursts and silence.

    Returns:
        (batch, channels, bins, frames) float32 in 0..1, each item with its peak at 1; the same at every call.
    """
    audio = config.audio
    samples = audio.n_fft + audio.hop_length * (frames - 1)
    time = np.arange(samples) / audio.sample_rate
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(audio.n_fft) / audio.n_fft)
    starts = audio.hop_length * np.arange(frames)
    items = []
    for index in range(batch):
        random = np.random.default_rng(index)
        waveform = synthetic_song(time, audio.channels, random)
        pieces = waveform[:, starts[:, None] + np.arange(audio.n_fft)]  # (channels, frames, n_fft)
        magnitude = np.abs(np.fft.rfft(pieces * window))[..., : audio.bins].swapaxes(1, 2)
        items.append(magnitude / magnitude.max())
    return np.stack(items).astype(np.float32)


def synthetic_song(time: np.ndarray, channels: int, random: np.random.Generator) -> np.ndarray:
    """(channels, samples): a voice in the middle, a chord and a beat that differ between the channels."""
    pitch = random.uniform(110, 440)
    vibrato = 0.3 * np.sin(2 * np.pi * 5.5 * time)
    voice = sum(np.sin(k * (2 * np.pi * pitch * time + vibrato)) / k for k in range(1, 13))
    sung = (np.sin(2 * np.pi * 0.4 * time + random.uniform(0, 6)) > -0.5).astype(float)
    beat = random.standard_normal(time.size) * np.exp(-30 * (time % 0.5))
    song = []
    for _ in range(channels):
        chord = sum(np.sin(2 * np.pi * pitch / 2 * step * time + random.uniform(0, 6)) for step in (1, 1.26, 1.5))
        song.append(voice * sung + random.uniform(0.1, 0.5) * chord + random.uniform(0.1, 0.5) * beat)
    return np.stack(song)


def _onnxruntime(path: Path) -> Callable[[np.ndarray, str], np.ndarray]:
    """A function that runs the graph; its second argument says where, for the error."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            "an export is compared in ONNX Runtime before it is written; pip install 'frame-transformer[cpu]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class of their own
        raise ExportError(f"ONNX Runtime {onnxruntime.__version__} refuses the graph: {one_line(error)}") from error

    def run(magnitude: np.ndarray, where: str) -> np.ndarray:
        try:
            return session.run(["mask"], {"magnitude": magnitude})[0]
        except Exception as error:
            raise ExportError(f"{where} ONNX Runtime failed: {one_line(error)}; nothing was written") from error

    return run
