"""The data of a run: training items, validation sets, and the songs whose SDR is followed."""

from __future__ import annotations

from pathlib import Path

from ft.config import ModelConfig
from ft.data.examples import ValidationItems
from ft.data.items import Items, open_items
from ft.data.scan import SCAN, Scan
from ft.data.sources import Song, pool_from_sources, songs_from_sources
from ft.train_config import TrainConfig


class TrainingData:
    """What `train:` names, opened; every file has been looked at.

    Args:
        folder: of the run, where what was found out about files is kept; None: nothing is written.
    Raises:
        DataError: folders or files that are missing or cannot be used.
    """

    def __init__(self, config: ModelConfig, train: TrainConfig, folder: Path | None, progress: bool = False) -> None:
        scan = Scan(config, folder and folder / SCAN)
        self.items: Items = open_items(config, train, scan, progress)
        self.items_per_epoch: int = train.epoch_size or self.items.count
        self.validation: dict[str, ValidationItems] = {}
        options, track = train.validation, scan.has_peaks
        if options.pairs:
            pairs = songs_from_sources(options.pairs, scan, need_peak=track)
            self.validation["pairs"] = ValidationItems(config, options.items, songs=pairs)
        if options.instrumentals:
            vocals = pool_from_sources(options.vocals, scan) if options.vocals else None
            self.validation["mixed" if vocals else "instrumentals"] = ValidationItems(
                config,
                options.items,
                instrumentals=pool_from_sources(options.instrumentals, scan, track),
                vocals=vocals,
            )
        self.songs: list[Song] = songs_from_sources(options.songs, scan)
