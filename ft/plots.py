"""Figures from arrays. Every function takes and returns an `Axes` or a `Figure` and shows nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ft.dsp import StreamingStft, magnitude
from ft.errors import FtError
from ft.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FLOOR_DB = -80.0
N_FFT, HOP_LENGTH = 2048, 1024
LOWEST_HZ, HIGHEST_HZ = 40.0, 20000.0


def spectrogram_db(waveform: NDArray[np.float32], reference: float | None = None) -> tuple[NDArray[np.float32], float]:
    """Mean power of the channels of a Hann spectrogram, in dB.

    Args:
        waveform: (channels, samples).
        reference: the magnitude that is 0 dB; by default the largest one.
    Returns:
        (bins, frames) clipped to -80..0 dB, and the reference.
    """
    stft = StreamingStft(waveform.shape[0], N_FFT, HOP_LENGTH)
    spec = np.concatenate([stft.push(waveform), stft.finish()], axis=1)  # (channels, frames, bins)
    power = np.sqrt(np.mean(np.square(magnitude(spec).reshape(spec.shape[0], -1)), axis=0)).reshape(spec.shape[1:])
    reference = float(power.max()) if reference is None else reference
    decibels = 20 * np.log10(np.maximum(power, 1e-12) / max(reference, 1e-12))
    return np.clip(decibels, FLOOR_DB, 0).T.astype(np.float32), reference


def draw_spectrogram(axes: Axes, decibels: NDArray[np.float32], sample_rate: int, title: str) -> Any:
    """One panel: seconds to the right, frequency upwards on a logarithmic axis. Returns the image, for a colour bar."""
    bins, frames = decibels.shape
    hertz = np.arange(bins) * sample_rate / N_FFT
    seconds = np.arange(frames) * HOP_LENGTH / sample_rate
    image = axes.pcolormesh(seconds, hertz, decibels, vmin=FLOOR_DB, vmax=0, cmap="magma", rasterized=True)
    axes.set_yscale("log")
    axes.set_ylim(LOWEST_HZ, min(HIGHEST_HZ, sample_rate / 2))
    axes.set_yticks([100, 1000, 10000], ["0.1", "1", "10"])
    axes.set_ylabel("kHz")
    axes.set_title(title, loc="left")
    return image


def save_spectrograms(path: str | Path, waveforms: Mapping[str, NDArray[np.float32]], sample_rate: int) -> Path:
    """Writes a PNG with a panel for each waveform, all in dB below the peak of the first one.

    Raises:
        FtError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FtError("pictures need matplotlib: pip install 'frame-transformer[plots]'") from error
    figure = Figure(figsize=(11, 2.6 * len(waveforms)), layout="constrained")
    panels = figure.subplots(len(waveforms), 1, sharex=True, squeeze=False)[:, 0]
    reference = None
    for axes, (title, waveform) in zip(panels, waveforms.items(), strict=True):
        decibels, reference = spectrogram_db(waveform, reference)
        image = draw_spectrogram(axes, decibels, sample_rate, title)
    panels[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=list(panels), label=f"dB below the peak of {next(iter(waveforms))}", pad=0.01)
    path = Path(path)
    with atomic_write(path) as part:
        figure.savefig(part, format="png", dpi=100)
    return path
