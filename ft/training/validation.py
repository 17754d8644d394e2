"""Validation while training: the loss on two sets, and the SDR of whole songs."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from engines.pytorch import NetworkEngine
from ft.config import ModelConfig
from ft.data.augment_parts import mixed
from ft.data.examples import Item, ValidationItems, read_song
from ft.data.loading import collate
from ft.data.sources import Song
from ft.errors import NotFinite
from ft.metrics import sdr
from ft.separate import Separator
from ft.stems import SILENT_PEAK, STEMS
from ft.training.data import TrainingData
from ft.training.distributed import Group
from ft.training.tasks import Autocast, Network, Task

if TYPE_CHECKING:
    from ft.training.board import Board

logger = logging.getLogger(__name__)

EXAMPLES, EXAMPLE_SECONDS = 2, 5
"""What TensorBoard shows of the first validation set."""


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

    @property
    def stems(self) -> tuple[str, ...]:
        """What the best network is the best in: the model's stems; of vocals and instrumental, the vocals."""
        stems, names = self.config.stems, self.config.all_stems
        return ("vocals",) if {*names} == {*STEMS} else stems

    def separator(self, network: nn.Module) -> Separator:
        """Gives what `ft separate` would make of the network."""
        return Separator(NetworkEngine(network, self.config, self.group.device, self.autocast))

    def scores(self, network: nn.Module, frames: int) -> dict[str, float]:
        """Mean losses of crops of `frames` frames, and mean SDRs; the same in every process, all of which call this.

        The mean of values of which one is not finite is infinite: the worst that it can be.
        """
        scores = {}
        for name, items in self.data.validation.items():
            share = itertools.islice(enumerate(items.items(frames)), self.rank, None, self.step)
            losses = item_losses(self.task, network, share, self.group.device, self.autocast)
            scores[f"valid/loss_{name}"] = _mean(self._together(losses), worst=math.inf)
        if self.songs:
            with self.separator(network) as separator:
                found = [song_sdrs(separator, song) for song in self.songs[self.rank :: self.step]]
            songs = self._together(found)
            for stem in self.config.all_stems:
                if values := [song[stem] for song in songs if stem in song]:
                    scores[f"valid/sdr_{stem}"] = _mean(values, worst=-math.inf)
        return scores

    def show(self, board: Board, network: nn.Module, step: int) -> None:
        """Puts pictures and sound of a few seconds of validation data onto TensorBoard.

        Not where the network is sharded over processes: the one that has the board cannot run it alone.
        """
        sets = list(self.data.validation.values())
        if not sets and self.songs:
            sets = [ValidationItems(self.config, EXAMPLES, songs=self.songs)]
        if sets and self.task.separates and not (self.everywhere and self.group.size > 1):
            items = sets[0].items(round(EXAMPLE_SECONDS * self.config.frame_rate))
            try:
                with self.separator(network) as separator:
                    board.examples(separator, itertools.islice(items, EXAMPLES), step)
            except NotFinite as error:
                logger.warning("step %d: nothing to hear on TensorBoard: %s", step, error)

    def _together(self, own: Sequence) -> list:
        """Gives the values of all processes, in the order of the data."""
        if self.step == 1:
            return list(own)
        rounds = itertools.zip_longest(*self.group.gather(list(own)))
        return [value for values in rounds for value in values if value is not None]


def score(scores: Mapping[str, float], stems: Sequence[str]) -> float:
    """Scores a network, so that the best is kept; higher is better, and -inf where any of the scores is not finite.

    The mean SDR of `stems` of songs is what is wanted; without songs, the loss on the mixed set, as in the original, or
    pairs.
    """
    if not all(map(math.isfinite, scores.values())):
        return -math.inf
    if found := [scores[name] for stem in stems if (name := f"valid/sdr_{stem}") in scores]:
        return float(np.mean(found))
    names = (f"valid/loss_{name}" for name in ("mixed", "pairs", "instrumentals"))
    return next((-scores[name] for name in names if name in scores), -math.inf)


def item_losses(
    task: Task, network: Network, items: Iterable[tuple[int, Item]], device: torch.device, autocast: Autocast
) -> list[float]:
    """Gives the task's loss of each item, which comes with its index in its set."""
    return [
        task.validation_loss(network, collate([item]).to(device), autocast, index).value.item() for index, item in items
    ]


def _mean(values: Sequence[float], worst: float) -> float:
    """Gives the mean, or `worst` where one of the values is not finite: such a network is not to look better by it."""
    return float(np.mean(values)) if all(map(math.isfinite, values)) else worst


def song_sdrs(separator: Separator, song: Song) -> dict[str, float]:
    """Gives the global SDR in dB of each stem of a whole song, and of the rest, as they are separated.

    A stem that is silent in the song has none: its name is left out. Estimates that are not finite have NaN.
    """
    config, file = separator.config, song.file
    samples = round(file.samples * config.sample_rate / file.sample_rate)
    true = read_song(song, song.stems, 0, samples, config)
    audible = {stem: wave for stem, wave in true.items() if np.abs(wave).max() > SILENT_PEAK}
    try:
        found = separator.separate(mixed(true), config.sample_rate)
    except NotFinite:
        return dict.fromkeys(audible, math.nan)
    return {stem: sdr(found[stem], wave) for stem, wave in audible.items()}
