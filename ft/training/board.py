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
import torch
from numpy.typing import NDArray

from ft.config import AudioConfig, ConfigError, ModelConfig
from ft.data.batches import batch_from_waveforms, collate
from ft.data.examples import Item
from ft.plots import HOP_LENGTH, MASK, N_FFT, draw_spectrogram, spectrograms
from ft.training.validation import ToMask, masked_song

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
        self._has_references = False

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One point of a curve for each value, by its name, e.g. `train/loss`."""
        from torch.utils.tensorboard.summary import scalar

        for name, value in values.items():
            self._writer.add_summary(scalar(name, float(value)), step)
        self._writer.flush()

    def examples(self, to_mask: ToMask, items: Iterable[Item], step: int, device: torch.device | None = None) -> None:
        """Writes pictures of mixture, vocals, estimate and mask of each item, and the sound of both estimates.

        The sound of the mixture and of both stems comes with the first call. Items of a few seconds, always the same
        ones, let one hear what a run learns.
        """
        device = device or torch.device("cpu")
        for number, item in enumerate(items, start=1):
            mixture, instrumental = torch.from_numpy(item.mixture.copy()), torch.from_numpy(item.instrumental.copy())
            with torch.no_grad():
                kept = masked_song(to_mask, mixture, self.config, device)
                batch = batch_from_waveforms(collate([item]).to(device), self.config)
                mask = to_mask(batch.mixture, batch.scale).abs().mean((0, 1)).float().cpu().numpy()
            rest = mixture - kept
            vocals, backing = (kept, rest) if self.config.mask_stem == "vocals" else (rest, kept)
            sounds = {"vocals": vocals, "instrumental": backing}
            if not self._has_references:
                true = {"mixture": mixture, "vocals": mixture - instrumental, "instrumental": instrumental}
                sounds |= {f"true {name}": waveform for name, waveform in true.items()}
            for name, waveform in sounds.items():
                self._sound(f"example {number}/{name}", waveform.numpy(), step)
            panels = {"mixture": mixture, "vocals, true": mixture - instrumental, "vocals, estimate": vocals}
            self._picture(f"example {number}", {name: panel.numpy() for name, panel in panels.items()}, mask, step)
        self._has_references = True
        self._writer.flush()

    def close(self) -> None:
        """Writes what is still waiting."""
        self._writer.close()

    def _sound(self, name: str, waveform: NDArray[np.float32], step: int) -> None:
        """A waveform (channels, samples) as 16-bit WAV; what goes beyond full scale is clipped."""
        import soundfile
        from tensorboard.compat.proto.summary_pb2 import Summary

        rate, file = self.config.audio.sample_rate, io.BytesIO()
        soundfile.write(file, waveform.T, rate, format="WAV", subtype="PCM_16")
        audio = Summary.Audio(
            sample_rate=rate,
            num_channels=len(waveform),
            length_frames=waveform.shape[1],
            encoded_audio_string=file.getvalue(),
            content_type="audio/wav",
        )
        self._writer.add_summary(Summary(value=[Summary.Value(tag=name, audio=audio)]), step)

    def _picture(
        self, name: str, waveforms: Mapping[str, NDArray[np.float32]], mask: NDArray[np.float32], step: int
    ) -> None:
        from torch.utils.tensorboard.summary import image

        if not self._draws:
            return
        try:
            pixels = draw_example(waveforms, mask, self.config.audio)
        except ImportError:
            self._draws = False
            logger.warning("no pictures for TensorBoard without matplotlib: pip install 'frame-transformer[plots]'")
            return
        self._writer.add_summary(image(name, pixels, dataformats="HWC"), step)


def draw_example(
    waveforms: Mapping[str, NDArray[np.float32]], mask: NDArray[np.float32], audio: AudioConfig
) -> NDArray[np.uint8]:
    """Spectrograms of waveforms (channels, samples) in dB below the peak of the first, and a mask (bins, frames) below.

    Returns:
        (height, width, 3).
    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = len(waveforms) + 1
    figure = Figure(figsize=(9, 2 * rows), dpi=80)
    canvas = FigureCanvasAgg(figure)
    # Places are given: finding them takes longer than all of the drawing.
    places = {"left": 0.06, "right": 0.93, "bottom": 0.22 / rows, "top": 1 - 0.12 / rows, "hspace": 0.2, "wspace": 0.02}
    grid = figure.subplots(rows, 2, sharex="col", width_ratios=[50, 1], gridspec_kw=places)
    for (axes, bar), (title, values) in zip(grid[:-1], spectrograms(waveforms).items(), strict=True):
        seconds = (0.0, len(values) * HOP_LENGTH / audio.sample_rate)
        image = draw_spectrogram(axes, values, seconds, audio.sample_rate / N_FFT, title)
        axes.minorticks_off()
        figure.colorbar(image, cax=bar, label="dB")
    axes, bar = grid[-1]
    seconds = (0.0, mask.shape[1] * audio.hop_length / audio.sample_rate)
    image = draw_spectrogram(axes, mask.T, seconds, audio.sample_rate / audio.n_fft, "mask", MASK)
    axes.minorticks_off()
    axes.set_xlabel("seconds")
    figure.colorbar(image, cax=bar)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
