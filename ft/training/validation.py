"""Validation while training: the loss on two sets, and the SDR of whole songs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ft.config import AudioConfig, ModelConfig
from ft.data.batches import collate, left_right, mid_side, spectrogram
from ft.data.examples import Item, ValidationItems, read_crop
from ft.data.scan import Song
from ft.metrics import sdr
from ft.training.data import TrainingData
from ft.training.distributed import Group
from ft.training.tasks import Autocast, Network, Task

if TYPE_CHECKING:
    from ft.training.board import Board

SONG_WINDOW = 512
SONG_CONTEXT = 64
SILENT_PEAK = 1e-4
"""-80 dB of full scale: a stem that never exceeds it is silent, dither or not."""
EXAMPLES, EXAMPLE_SECONDS = 2, 5
"""What TensorBoard shows of the first validation set."""
ToMask = Callable[[Tensor, Tensor], Tensor]
"""Turns a complex spectrogram (1, channels, bins, frames) and its scale (1,) into the mask, real or complex."""


class Validation:
    """The scores of a network on the validation data of a run.

    Args:
        everywhere: whether each process sees all of the data, as it must where the network is sharded over them;
            otherwise each takes its share.
    """

    def __init__(
        self, data: TrainingData, task: Task, config: ModelConfig, group: Group, autocast: Autocast, everywhere: bool
    ) -> None:
        self.data, self.task, self.config, self.group, self.autocast = data, task, config, group, autocast
        self.everywhere = everywhere
        self.rank, self.step = (0, 1) if everywhere else (group.rank, group.size)
        self.songs = data.songs if task.separates else []

    @property
    def empty(self) -> bool:
        """Whether there is nothing to validate on."""
        return not (self.data.validation or self.songs)

    def scores(self, network: Network, frames: int) -> dict[str, float]:
        """Mean losses of crops of `frames` frames, and mean SDRs; the same in every process, all of which call this.

        The mean of values of which one is not finite is infinite: the worst that it can be.
        """
        scores = {}
        for name, items in self.data.validation.items():
            share = itertools.islice(enumerate(items.items(frames)), self.rank, None, self.step)
            losses = item_losses(self.task, network, share, self.group.device, self.autocast)
            scores[f"valid/loss_{name}"] = _mean(self._together(losses), worst=math.inf)
        if self.songs:
            found = song_sdrs(self.to_mask(network), self.songs[self.rank :: self.step], self.config, self.group.device)
            songs = self._together(found)
            for stem in ("vocals", "instrumental"):
                if values := [song[stem] for song in songs if stem in song]:
                    scores[f"valid/sdr_{stem}"] = _mean(values, worst=-math.inf)
        return scores

    def show(self, board: Board, network: Network, step: int) -> None:
        """Puts pictures and sound of a few seconds of validation data onto TensorBoard.

        Not where the network is sharded over processes: the one that has the board cannot run it alone.
        """
        audio, sets = self.config.audio, list(self.data.validation.values())
        if not sets and self.songs:
            sets = [ValidationItems(audio, EXAMPLES, songs=self.songs)]
        if sets and self.task.separates and not (self.everywhere and self.group.size > 1):
            items = sets[0].items(EXAMPLE_SECONDS * audio.sample_rate // audio.hop_length)
            board.examples(self.to_mask(network), itertools.islice(items, EXAMPLES), step, self.group.device)

    def to_mask(self, network: Network) -> ToMask:
        """How `song_sdrs` and `masked_song` run `network`."""
        return lambda mixture, scale: self.task.mask(network, mixture, scale, self.autocast)  # type: ignore[attr-defined]

    def _together(self, own: Sequence) -> list:
        """The values of all processes, in the order of the data."""
        if self.step == 1:
            return list(own)
        rounds = itertools.zip_longest(*self.group.gather(list(own)))
        return [value for values in rounds for value in values if value is not None]


def score(scores: Mapping[str, float]) -> float:
    """What the best network is the best in; higher is better, and -inf where any of the scores is not finite.

    The vocals' SDR of songs is what is wanted; without songs, the loss on the mixed set, as in the original, or pairs.
    """
    if not all(map(math.isfinite, scores.values())):
        return -math.inf
    order = [("valid/sdr_vocals", 1), *((f"valid/loss_{name}", -1) for name in ("mixed", "pairs", "instrumentals"))]
    return next((sign * scores[name] for name, sign in order if name in scores), float("-inf"))


def item_losses(
    task: Task, network: Network, items: Iterable[tuple[int, Item]], device: torch.device, autocast: Autocast
) -> list[float]:
    """The task's loss of each item, which comes with its index in its set."""
    return [
        task.validation_loss(network, collate([item]).to(device), autocast, index).value.item() for index, item in items
    ]


def _mean(values: Sequence[float], worst: float) -> float:
    """The mean, or `worst` where one of the values is not finite: such a network is not to look better by it."""
    return float(np.mean(values)) if all(map(math.isfinite, values)) else worst


def song_sdrs(
    to_mask: ToMask, songs: Iterable[Song], config: ModelConfig, device: torch.device
) -> list[dict[str, float]]:
    """Global SDR in dB of `vocals` and `instrumental` of each whole song, masked by the network being trained.

    A stem that is silent in a song has none there: its name is left out.
    """
    audio, scores = config.audio, []
    for song in songs:
        samples = round(song.mixture.samples * audio.sample_rate / song.mixture.sample_rate)
        files = (song.mixture, song.instrumental)
        mixture, instrumental = (
            torch.from_numpy(read_crop(file, 0, samples, audio.sample_rate, audio.channels)) for file in files
        )
        kept = masked_song(to_mask, mixture, config, device)
        rest = mixture - kept
        vocals, backing = (kept, rest) if config.mask_stem == "vocals" else (rest, kept)
        true = {"vocals": (mixture - instrumental).numpy(), "instrumental": instrumental.numpy()}
        found = {"vocals": vocals.numpy(), "instrumental": backing.numpy()}
        scores.append({stem: sdr(found[stem], wave) for stem, wave in true.items() if np.abs(wave).max() > SILENT_PEAK})
    return scores


def masked_song(to_mask: ToMask, mixture: Tensor, config: ModelConfig, device: torch.device) -> Tensor:
    """`mixture` (channels, samples) through the mask: the waveform of `mask_stem`."""
    audio = config.audio
    spec = spectrogram(mid_side(mixture, audio), audio, center=True)
    peak = spec.abs().max() if audio.normalize == "track" else None
    mask = torch.zeros_like(spec if config.network.mask == "complex" else spec.real)
    for start in range(0, spec.shape[2], SONG_WINDOW - 2 * SONG_CONTEXT):
        first, last = max(0, start - SONG_CONTEXT), start + SONG_WINDOW - SONG_CONTEXT
        scale = peak if peak is not None else spec[:, :, first:last].abs().max()
        window = spec[None, :, : audio.bins, first:last].to(device)
        window_mask = to_mask(window, scale.clamp_min(1e-8).reshape(1).to(device)).cpu()
        kept = slice(start, last - SONG_CONTEXT)
        mask[:, : audio.bins, kept] = window_mask[0, :, :, start - first :][:, :, : kept.stop - kept.start]
    if audio.extend_mask:
        mask[:, audio.bins :] = mask[:, audio.bins - audio.extend_mask : audio.bins].mean(dim=1, keepdim=True)
    return left_right(_inverse(spec * mask, audio, mixture.shape[1]), audio)


def _inverse(spec: Tensor, audio: AudioConfig, samples: int) -> Tensor:
    window = torch.hann_window(audio.n_fft)
    return torch.istft(spec, audio.n_fft, audio.hop_length, window=window, length=samples)
