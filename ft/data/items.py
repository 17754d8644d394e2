"""Opens what training items come from, audio folders or a cache of finished examples, and reads batches ahead.

items = open_items(config, train, folder, progress)     whatever the configuration names
batches = open_batches(items, batching, epoch, numbers, workers, pin)
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Protocol

from ft.config import ModelConfig
from ft.data.examples import Item, MixtureItems
from ft.data.loading import Batch, Batching, collate, load_batches
from ft.data.scan import Scan
from ft.data.sources import VOCALS, check_sources, music_from_sources, pool_from_sources
from ft.train_config import TrainConfig

AHEAD = 2
"""Batches that each worker has ready."""


class Items(Protocol):
    """Training items; each is determined by its arguments and the seed alone."""

    @property
    def count(self) -> int:
        """Different items, as many as an epoch has by default."""

    def item(self, epoch: int, index: int, frames: int) -> Item:
        """Item `index` of an epoch, long enough for `frames` STFT frames without padding. Raises DataError."""


def open_items(config: ModelConfig, train: TrainConfig, scan: Scan | None = None, progress: bool = False) -> Items:
    """Gives the training items of a configuration: those of `train.cache` where it is set, else mixed from audio files.

    Args:
        scan: what is known of the files, and where that is kept; None keeps nothing.
    Raises:
        DataError: folders that are missing or not as expected, or a cache that is not whole.
        ConfigError: a cache of another configuration.
    """
    if train.cache is not None:
        from ft.data.cache import CachedItems

        return CachedItems(config, train)
    return mixture_items(config, train, scan, progress)


def mixture_items(
    config: ModelConfig, train: TrainConfig, scan: Scan | None = None, progress: bool = False
) -> MixtureItems:
    """Items mixed from the audio files of the configuration, whether or not it names a cache. Raises DataError."""
    train = dataclasses.replace(train, cache=None)
    check_sources(train, config)
    scan = scan or Scan(config)
    # Where the scale is drawn for each crop, peaks of files are not asked for.
    need_peak = scan.has_peaks and not train.augment.scale_db
    music = music_from_sources(train, scan, need_peak, progress)
    voices = train.stems.get(VOCALS, train.vocals)
    vocals = pool_from_sources(voices, scan, progress=progress) if voices else None
    return MixtureItems(config, train, music, vocals)


def open_batches(
    items: Items, batching: Batching, epoch: int, numbers: range, workers: int, pin: bool = False
) -> Iterator[Batch]:
    """Gives the batches of an epoch with these `numbers`, in order, read ahead by `workers`; as `load_batches`.

    Items of audio files are made by processes. A cache is read by threads: that is copying, during which Python is
    free, and what a thread has made need not be moved from another process, which takes longer than making it.

    Raises:
        DataError: when its turn has come, what a file has wrong.
    """
    if isinstance(items, MixtureItems):
        yield from load_batches(items, batching, epoch, numbers, workers, pin)
        return

    def load(number: int) -> Batch:
        batch = collate([items.item(*key) for key in batching.keys(epoch, number)])
        return batch.pin_memory() if pin else batch

    left = iter(numbers)
    waiting: deque[Future[Batch]] = deque()
    pool = ThreadPoolExecutor(max(workers, 1), "examples")
    try:
        while True:
            for number in islice(left, AHEAD * max(workers, 1) - len(waiting)):
                waiting.append(pool.submit(load, number))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
