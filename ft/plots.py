"""Figures from arrays. What draws takes an `Axes` and returns the image in it, for a colour bar; nothing is shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ft.dsp import StreamingStft, magnitude
from ft.errors import ConfigError
from ft.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float32]

FLOOR_DB = -80.0
N_FFT, HOP_LENGTH = 2048, 1024
LOWEST_HZ, HIGHEST_HZ = 40.0, 20000.0


@dataclass(frozen=True)
class Scale:
    """What the colours say."""

    lowest: float
    highest: float
    colours: str
    label: str


DECIBELS = Scale(FLOOR_DB, 0, "magma", "dB below the peak of the mixture")
MASK = Scale(0, 1, "gray", "mask")


def check_matplotlib() -> None:
    """Raises ConfigError where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise ConfigError("pictures need matplotlib: pip install 'frame-transformer[plots]'")


def mean_power(spec: NDArray[np.complex64]) -> Array:
    """Gives the power (frames, bins) of a spectrogram (channels, frames, bins), the mean of its channels."""
    power: Array = np.mean(np.square(magnitude(spec)), axis=0)
    return power


def decibels(power: Array, reference: float) -> Array:
    """Power in dB above the power `reference`, clipped to -80..0 dB; silence is at the floor of any reference."""
    relative = power / max(reference, 1e-30)
    return np.clip(10 * np.log10(np.maximum(relative, 1e-30)), FLOOR_DB, 0).astype(np.float32)


def spectrograms(waveforms: Mapping[str, Array]) -> dict[str, Array]:
    """Spectrograms (frames, bins) of waveforms (channels, samples), in dB below the peak of the first one."""
    powers = {}
    for title, waveform in waveforms.items():
        stft = StreamingStft(waveform.shape[0], N_FFT, HOP_LENGTH)
        powers[title] = mean_power(np.concatenate([stft.push(waveform), stft.finish()], axis=1))
    peak = float(next(iter(powers.values())).max())
    return {title: decibels(power, peak) for title, power in powers.items()}


def draw_spectrogram(
    axes: Axes,
    values: Array,
    seconds: tuple[float, float],
    hertz_per_bin: float,
    title: str,
    scale: Scale = DECIBELS,
) -> Any:
    """One panel: seconds to the right, frequency upwards on a logarithmic axis. Returns the image, for a colour bar.

    Args:
        values: (frames, bins), each of a colour of `scale`.
        seconds: where the first frame begins and the last one ends.
    """
    bins = values.shape[1]
    extent = (*seconds, 0.5 * hertz_per_bin, (bins - 0.5) * hertz_per_bin)  # without bin 0, which has no logarithm
    axes.set_yscale("log")
    image = axes.imshow(
        values[:, 1:].T,
        origin="lower",
        aspect="auto",
        extent=extent,
        vmin=scale.lowest,
        vmax=scale.highest,
        cmap=scale.colours,
    )
    axes.set_yticks([100, 1000, 10000], ["0.1", "1", "10"])
    axes.set_ylim(LOWEST_HZ, min(HIGHEST_HZ, (bins - 1) * hertz_per_bin))
    axes.set_ylabel("kHz")
    axes.set_title(title, loc="left")
    return image


def save_panels(
    file: Path, panels: Mapping[str, Array], seconds: float, hertz_per_bin: float, scale: Scale, height: float
) -> None:
    """Writes a PNG with a panel for each title, all with one colour bar.

    Args:
        panels: (frames, bins), as long as each other.
        seconds: how long they are.
        height: of each panel, in inches of 100 dots.
    """
    from matplotlib.figure import Figure

    total = height * len(panels)
    bottom, top = 0.5 / total, 1 - 0.3 / total
    figure = Figure(figsize=(11, total))
    # Places are given: finding them takes longer than all of the drawing.
    places = {"left": 0.05, "right": 0.905, "bottom": bottom, "top": top, "hspace": 0.15}
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, gridspec_kw=places)[:, 0]
    for each, (title, values) in zip(axes, panels.items(), strict=True):
        image = draw_spectrogram(each, values, (0, seconds), hertz_per_bin, title, scale)
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, cax=figure.add_axes((0.92, bottom, 0.015, top - bottom)), label=scale.label)
    figure.savefig(file, format="png", dpi=100)


def save_spectrograms(path: str | Path, waveforms: Mapping[str, Array], sample_rate: int) -> Path:
    """Writes a PNG with a panel for each waveform (channels, samples), all in dB below the peak of the mixture.

    Args:
        waveforms: as long as each other, the mixture first.
    Raises:
        ConfigError: matplotlib is not installed.
    """
    check_matplotlib()
    seconds = max(waveform.shape[1] for waveform in waveforms.values()) / sample_rate
    with atomic_write(path) as part:
        save_panels(part, spectrograms(waveforms), seconds, sample_rate / N_FFT, DECIBELS, height=2.6)
    return Path(path)
