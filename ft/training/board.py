"""TensorBoard for a run: curves, pictures of spectrograms and masks, and a few seconds of separated sound.

tensorboard --logdir runs/NAME
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft.config import ConfigError, ModelConfig
from ft.data.examples import Item
from ft.plots import DECIBELS, HOP_LENGTH, MASK, N_FFT, draw_spectrogram, spectrograms
from ft.separate import Separator

logger = logging.getLogger(__name__)


class Board:
    """Writes TensorBoard's events into a folder.

    Args:
        step: where the run stands. What an earlier process wrote of later steps, which a resumed run takes once more,
            is not shown.
    Raises:
        ConfigError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, config: ModelConfig, step: int = 0) -> None:
        try:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from torch.utils.tensorboard import FileWriter
        except ImportError as error:
            raise ConfigError("train.tensorboard needs tensorboard: pip install 'frame-transformer[train]'") from error
        self.config = config
        self._writer: Any = FileWriter(str(folder))
        if step:
            self._writer.add_event(Event(session_log=SessionLog(status=SessionLog.START)), step + 1)
        self._draws = True
        self._told = False

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of a curve for each value, by its name, e.g. `train/loss`."""
        from torch.utils.tensorboard.summary import scalar

        for name, value in values.items():
            self._writer.add_summary(scalar(name, float(value)), step)
        self._writer.flush()

    def examples(self, separator: Separator, items: Iterable[Item], step: int) -> None:
        """Puts down for each item a picture of the mixture, the stems and their estimates, and the sound of these.

        The sound of the mixture and of the true stems comes with the first call. Items of a few seconds, always the
        same ones, let one hear what a run learns.
        """
        for number, item in enumerate(items, start=1):
            sounds = separator.separate(item.mixture, self.config.sample_rate)
            panels = {"mixture": item.mixture}
            for stem in self.config.stems:
                if stem in item.stems:
                    panels[f"{stem}, true"] = item.stems[stem]
                panels[f"{stem}, estimate"] = sounds[stem]
            if not self._told:
                true = {"mixture": item.mixture, **item.stems}
                sounds = {**sounds, **{f"true {name}": waveform for name, waveform in true.items()}}
            for name, waveform in sounds.items():
                self._sound(f"example {number}/{name}", waveform, step)
            self._picture(f"example {number}", panels, step)
        self._told = True
        self._writer.flush()

    def close(self) -> None:
        """Writes what is still waiting."""
        self._writer.close()

    def _sound(self, name: str, waveform: NDArray[np.float32], step: int) -> None:
        """Gives a waveform (channels, samples) as 16-bit WAV; what goes beyond full scale is clipped."""
        import soundfile
        from tensorboard.compat.proto.summary_pb2 import Summary

        rate, file = self.config.sample_rate, io.BytesIO()
        soundfile.write(file, waveform.T, rate, format="WAV", subtype="PCM_16")
        audio = Summary.Audio(
            sample_rate=rate,
            num_channels=len(waveform),
            length_frames=waveform.shape[1],
            encoded_audio_string=file.getvalue(),
            content_type="audio/wav",
        )
        self._writer.add_summary(Summary(value=[Summary.Value(tag=name, audio=audio)]), step)

    def _picture(self, name: str, waveforms: Mapping[str, NDArray[np.float32]], step: int) -> None:
        from torch.utils.tensorboard.summary import image

        if not self._draws:
            return
        try:
            pixels = draw_example(waveforms, self.config.sample_rate)
        except ImportError:
            self._draws = False
            logger.warning("no pictures for TensorBoard without matplotlib: pip install 'frame-transformer[plots]'")
            return
        self._writer.add_summary(image(name, pixels, dataformats="HWC"), step)


def draw_example(waveforms: Mapping[str, NDArray[np.float32]], sample_rate: int) -> NDArray[np.uint8]:
    """Spectrograms of waveforms (channels, samples) in dB below the peak of the first, which is the mixture, and below
    them what share of its magnitudes the last one has.

    Returns:
        (height, width, 3).
    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = {title: (values, DECIBELS) for title, values in spectrograms(waveforms).items()}
    mixture, *_, last = panels
    share = np.power(10, (panels[last][0] - panels[mixture][0]) / 20, dtype=np.float32)
    panels[f"{last} / {mixture}"] = share, MASK
    rows = len(panels)
    figure = Figure(figsize=(9, 2 * rows), dpi=80)
    canvas = FigureCanvasAgg(figure)
    # Places are given: finding them takes longer than all of the drawing.
    places = {"left": 0.06, "right": 0.93, "bottom": 0.22 / rows, "top": 1 - 0.12 / rows, "hspace": 0.2, "wspace": 0.02}
    grid = figure.subplots(rows, 2, sharex="col", width_ratios=[50, 1], gridspec_kw=places)
    for (axes, bar), (title, (values, scale)) in zip(grid, panels.items(), strict=True):
        seconds = (0.0, len(values) * HOP_LENGTH / sample_rate)
        image = draw_spectrogram(axes, values, seconds, sample_rate / N_FFT, title, scale)
        axes.minorticks_off()
        figure.colorbar(image, cax=bar, label="dB" if scale is DECIBELS else None)
    axes.set_xlabel("seconds")
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
