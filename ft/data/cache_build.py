"""Making a cache of finished training examples (`ft.data.cache`): by many processes, and whole or not at all."""

from __future__ import annotations

import json
import shutil
import signal
import zlib
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ft.config import ModelConfig
from ft.data.augment import rms
from ft.data.cache import (
    MANIFEST,
    Manifest,
    difference,
    made_from,
    open_shard,
    read_cache_manifest,
    shard_path,
)
from ft.data.examples import MixtureItems
from ft.data.items import mixture_items
from ft.data.scan import SCAN, Scan
from ft.data.sources import VOCALS
from ft.errors import DataError, one_line
from ft.files import atomic_write
from ft.songs.parts import Outputs
from ft.train_config import TrainConfig
from ft.workers import each_done

PER_SHARD = 64
"""Examples of a file; 135 MB of six seconds in stereo."""
STEPS = 32767
"""Quantisation steps from 0 to the highest value of a waveform: its error is 96 dB below that, or more."""
FACTS = {"scale": "f4", "rms": "f4", "crc": "u4"}
"""What is kept of each stem of an example beside its sound, and its type.

`vocals_rms` is that of the time with vocals where the configuration has pauses.
"""


def build_cache(
    config: ModelConfig,
    train: TrainConfig,
    folder: Path,
    examples: int,
    seconds: float | None = None,
    jobs: int = 1,
    per_shard: int = PER_SHARD,
    progress: Callable[[float], object] | None = None,
) -> Manifest:
    """Makes what is missing of a cache of `examples`, rounded up to whole shards. Example k is item k of epoch 0.

    A cache that is there already grows; with the same number of examples it is completed, and damaged shards are made
    again.

    Args:
        seconds: of an example; by default of the longest stage, which it must not be below.
        jobs: processes.
        progress: called with the share that is done.
    Raises:
        DataError: audio that cannot be used, a folder that cannot be written, or too little room on the disk.
    """
    train = replace(train, cache=None, augment=replace(train.augment, mono=0.0))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with Outputs([folder / MANIFEST]):  # which no other run writes meanwhile
            items = mixture_items(config, train, Scan(config, folder / SCAN))
            manifest, frames = _manifest(items, folder, examples, seconds, per_shard)
            items.train = replace(train, seed=manifest.seed)
            missing = _missing(folder, manifest)
            _check_room(folder, manifest, len(missing))
            begun = (folder / MANIFEST).exists()
            if not begun:
                _write_manifest(folder, manifest)
            done = manifest.shards - len(missing)
            write = partial(_write_shard, items, folder, manifest, frames)
            for _ in each_done(write, missing, jobs, _begin):
                done += 1
                if progress is not None:
                    progress(done / manifest.shards)
            if begun:  # one that grows can be used as it was until it has grown
                _write_manifest(folder, manifest)
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return manifest


def _write_manifest(folder: Path, manifest: Manifest) -> None:
    with atomic_write(folder / MANIFEST) as part:
        part.write_text(json.dumps(asdict(manifest), indent=1), encoding="utf-8")


def _manifest(
    items: MixtureItems, folder: Path, examples: int, seconds: float | None, per_shard: int
) -> tuple[Manifest, int]:
    """Says what the cache is to be, and its STFT frames. Raises DataError where another one is there."""
    config, front, train = items.config, items.config.front, items.train
    frames, rate = max(stage.frames for stage in train.stages), config.sample_rate
    if seconds is not None:
        wanted = front.frames(round(seconds * rate) + front.hop_length - 1)
        if wanted < frames:
            least = front.samples(frames) / rate
            raise DataError(f"`seconds` {seconds:g}: a stage has {frames} frames; expected at least {least:.2f}")
        frames = wanted
    whole = -(-examples // per_shard) * per_shard
    made = made_from(config, train)
    manifest = Manifest(whole, per_shard, front.samples(frames), config.channels, train.seed, made)
    if not (folder / MANIFEST).exists():
        return manifest, frames
    there = read_cache_manifest(folder)
    if (found := difference(there.made_from, made)) is not None:
        raise DataError(f"{folder}: holds a cache of another configuration: {found}; choose another -o")
    if seconds is not None and there.samples != manifest.samples:
        lengths = f"{there.samples / rate:.2f} s and not {manifest.samples / rate:.2f} s"
        raise DataError(f"{folder}: holds a cache of examples of {lengths}; choose another -o")
    frames = front.frames(there.samples)
    if front.samples(frames) != there.samples:
        raise DataError(f"{folder}: holds a cache for another STFT; choose another -o")
    return replace(there, examples=max(there.examples, -(-examples // there.per_shard) * there.per_shard)), frames


def _missing(folder: Path, manifest: Manifest) -> list[int]:
    """Numbers of the shards that are not there, or not as they were written."""
    there = {path.name for path in folder.glob("*.safetensors")}
    names = (shard_path(folder, number).name for number in range(manifest.shards))
    return [n for n, name in enumerate(names) if name not in there or not _is_whole(folder, n, manifest)]


def _is_whole(folder: Path, number: int, manifest: Manifest) -> bool:
    """Says whether a shard is there with every byte as it was written."""
    try:
        shard = open_shard(shard_path(folder, number), manifest)
        with shard.path.open("rb") as file:
            for stem, offset in shard.offsets.items():
                file.seek(offset)
                for checksum in shard.facts[f"{stem}_crc"]:
                    if zlib.crc32(file.read(2 * manifest.channels * manifest.samples)) != checksum:
                        return False
    except DataError:
        return False
    return True


def _check_room(folder: Path, manifest: Manifest, missing: int) -> None:
    needed = missing * manifest.per_shard * 2 * len(manifest.stems) * manifest.channels * manifest.samples
    free = shutil.disk_usage(folder).free
    if needed > free:
        begun = (folder / MANIFEST).exists() and read_cache_manifest(folder).examples >= manifest.examples
        advice = "ask for fewer `examples`"
        if begun:  # a cache does not shrink
            advice = f"the cache in it has {manifest.examples} examples to get: make room, or choose another -o"
        raise DataError(f"{folder}: {needed / 1e9:.1f} GB are needed and {free / 1e9:.1f} GB free; {advice}")


def _begin() -> None:
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends Ctrl-C to all, and a shard is to be finished
    torch.set_num_threads(1)


def _active_rms(waveform: NDArray[np.float32], quantised: NDArray[np.int16]) -> float:
    """Root mean square over the samples in which there is sound, so that pauses make nothing quieter."""
    share = float(np.mean(quantised.any(axis=0)))
    return rms(waveform) / share**0.5 if share else 0.0


def _write_shard(items: MixtureItems, folder: Path, manifest: Manifest, frames: int, number: int) -> None:
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    shape = (manifest.per_shard, manifest.channels, manifest.samples)
    tensors: dict[str, NDArray] = {stem: np.empty(shape, np.int16) for stem in manifest.stems}
    kinds = {f"{stem}_{name}": kind for stem in manifest.stems for name, kind in FACTS.items()}
    kinds |= {"peak": "f4", "headroom": "f4"}
    facts: dict[str, list[float]] = {name: [] for name in kinds}
    for row in range(manifest.per_shard):
        index = number * manifest.per_shard + row
        item = items.item(0, index, frames)
        for stem, waveform in item.stems.items():
            scale = float(np.abs(waveform).max()) / STEPS
            if not np.isfinite(scale):
                raise DataError(f"example {index}: values that are not finite; look for them with ft data check")
            tensors[stem][row] = np.rint(waveform / max(scale, 1e-30))
            facts[f"{stem}_scale"].append(scale)
            rests = stem == VOCALS and items.train.augment.pause
            facts[f"{stem}_rms"].append(_active_rms(waveform, tensors[stem][row]) if rests else rms(waveform))
            facts[f"{stem}_crc"].append(zlib.crc32(tensors[stem][row]))
        facts["peak"].append(item.peak)
        facts["headroom"].append(item.headroom)
    tensors |= {name: np.array(values, kinds[name]) for name, values in facts.items()}
    try:
        with atomic_write(shard_path(folder, number)) as part_path:
            save_file(tensors, part_path, {"ft_cache": manifest.key})
    except SafetensorError as error:
        raise DataError(f"{folder}: cannot be written: {one_line(error)}") from error
