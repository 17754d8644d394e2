"""A cache of finished training examples: decoded, augmented and mixed once, read at random while a network trains.

A cache is a folder of `manifest.json`, which names the configuration it was made from, and shards in safetensors.
Each example lies there in its stems, as its instrumental and its vocals, with a checksum each. On disk they are int16:
16 bits a sample, with a scale of its own for each stem so that its peak is full scale, and rounded without dither; what
that adds lies 96 dB below the peak.

Kept apart, they can be mixed anew: the vocals of one example with the instrumental of another, at the level of a third,
so that a mixture hardly ever comes twice. What the configuration draws for a stem alone keeps its distribution, and so
does the level of the vocals over the others. It is that of the time in which there are vocals where `augment.pause`
silences some, for a voice is no louder for its pauses; the level over the whole crop then spreads a little more than it
was drawn. What stems owe to each other is lost, as in the key of a real song, and `augment.compress`, `clip` and
`mixture_codec`, which leave in each of them what the others did, are refused.

What an example is depends on (seed, epoch, index) alone. One is read by two reads of a megabyte wherever they lie, so
that the cache may be larger than memory.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ft.config import ModelConfig, Spectrogram
from ft.data.augment_parts import chance
from ft.data.examples import Item, Stems, in_mono
from ft.data.sources import VOCALS, data_stems
from ft.errors import ConfigError, DataError, one_line
from ft.settings import plain
from ft.train_config import Augment, TrainConfig, VoxAug

Waveform = NDArray[np.float32]

FORMAT = 2
MANIFEST = "manifest.json"
TOGETHER = ("compress", "clip", "mixture_codec")
"""Keys of `augment` by which stems leave their mark on each other."""
LARGEST_RAISE = 100.0
"""Vocals are raised by at most this factor: what is hardly there is noise."""
_MAKE = "make it with: ft data prepare cache CONFIG -o"


@dataclass(frozen=True)
class Manifest:
    """What a cache is. Two with the same facts, but for their number of examples, hold the same ones."""

    examples: int
    per_shard: int
    samples: int
    """Counts the samples of each example."""
    channels: int
    seed: int
    """Crops and augmentation were drawn with it."""
    made_from: dict[str, Any]
    format: int = FORMAT

    @property
    def stems(self) -> tuple[str, ...]:
        """Names the stems of each example, the vocals last."""
        return tuple(self.made_from["stems"])

    @property
    def shards(self) -> int:
        return -(-self.examples // self.per_shard)

    @property
    def key(self) -> str:
        """Stands in each shard, so that one of another cache is seen."""
        facts = {name: value for name, value in asdict(self).items() if name != "examples"}
        return f"{zlib.crc32(json.dumps(facts, sort_keys=True).encode()):08x}"


def made_from(config: ModelConfig, train: TrainConfig) -> dict[str, Any]:
    """Gives the values of a configuration that decide what examples are, as {"train.augment.pan": 0.3, ...}."""
    values: dict[str, Any] = {"stems": data_stems(train, config)}
    values |= {"audio.sample_rate": config.sample_rate, "audio.channels": config.channels}
    front = config.front
    if front.scale == "track-peak" and not train.augment.scale_db:  # then peaks of files are among the examples
        values["front.kind"] = front.kind
        if isinstance(front, Spectrogram):
            keys = ("n_fft", "hop_length", "win_length", "window", "ends", "stereo")
            values |= {f"front.{key}": getattr(front, key) for key in keys}
    pools = {name: getattr(train, name) for name in ("instrumentals", "vocals", "pairs")}
    for name, sources in {**pools, **{f"stems.{name}": sources for name, sources in train.stems.items()}}.items():
        values[f"train.{name}"] = [[value for value in asdict(source).values() if value] for source in sources]
    for name in ("voxaug", "augment"):
        values |= {f"train.{name}.{key}": value for key, value in asdict(getattr(train, name)).items()}
    del values["train.augment.mono"]  # drawn when an example is taken, as what is mixed anew is mono as a whole
    return plain(values)


def difference(recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """Gives the first value in which two results of `made_from` differ, in words; None where they agree.

    A key that one of them lacks has its default there: a later version may know more of them.

    >>> difference({"train.augment.pan": 0.3}, {"train.augment.pan": 0.0, "train.voxaug.mixup": 0.0})
    'train.augment.pan is 0.3 there and 0.0 here'
    """
    defaults = {f"train.augment.{key}": value for key, value in asdict(Augment()).items()}
    defaults |= {f"train.voxaug.{key}": value for key, value in asdict(VoxAug()).items()}
    for name in dict.fromkeys((*wanted, *recorded)):
        there, here = (values.get(name, plain(defaults.get(name))) for values in (recorded, wanted))
        if there != here:
            return f"{name} is {there} there and {here} here"
    return None


def read_cache_manifest(folder: Path) -> Manifest:
    """Gives the manifest of a cache. Raises DataError where there is none, or one of another format."""
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("format") != FORMAT:
            raise DataError(
                f"{path}: a cache of format {values.get('format')}, expected {FORMAT}; remove it and {_MAKE} {folder}"
            )
        return Manifest(**{name: values[name] for name in Manifest.__dataclass_fields__})
    except FileNotFoundError as error:
        raise DataError(f"{folder}: no cache in it; {_MAKE} {folder}") from error
    except (OSError, UnicodeDecodeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: not the manifest of a cache ({one_line(error)}); {_MAKE} {folder}") from error


def shard_path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"


@dataclass(frozen=True)
class Shard:
    """Says where in its file the stems of a shard begin, and what is known of each example."""

    path: Path
    offsets: dict[str, int]
    facts: dict[str, NDArray[Any]]


def open_shard(path: Path, manifest: Manifest) -> Shard:
    """Gives a shard without its sound. Raises DataError where it is missing, truncated, damaged or of another cache."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:  # compares the file's length with what its header promises
            key = (file.metadata() or {}).get("ft_cache")
            names = [name for name in file.keys() if name not in manifest.stems]  # noqa: SIM118 (no mapping)
            facts = {name: file.get_tensor(name) for name in names}
            shapes = {tuple(file.get_slice(stem).get_shape()) for stem in manifest.stems}
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except FileNotFoundError as error:
        raise DataError(f"{path}: missing; the cache is not whole, so run ft data prepare cache again") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise DataError(
            f"{path}: truncated or damaged ({one_line(error)}); run ft data prepare cache again, which mends it"
        ) from error
    if key != manifest.key or shapes != {(manifest.per_shard, manifest.channels, manifest.samples)}:
        raise DataError(f"{path}: belongs to another cache; run ft data prepare cache again, which replaces it")
    return Shard(path, {stem: 8 + size + header[stem]["data_offsets"][0] for stem in manifest.stems}, facts)


@dataclass(frozen=True)
class _Drawn:
    """What was drawn for an example."""

    numbers: dict[str, int]
    """Numbers of the examples that give the stems."""
    level: int
    """Number of the one that gives the level of the vocals."""
    starts: dict[str, int]
    """First samples of the stems."""
    swaps: frozenset[str]
    """Stems whose channels change places."""
    mono: bool


class CachedItems:
    """The examples of `train.cache` by (epoch, index): as they were made, or mixed anew (`train.cache.remix`).

    Each epoch takes the first stem of every example once, in an order of its own.
    """

    def __init__(self, config: ModelConfig, train: TrainConfig) -> None:
        """
        Raises:
            DataError: no cache, or one that is not whole.
            ConfigError: it was made from another configuration, its examples are too short for a stage, or they are
                not to be mixed anew.
        """
        assert train.cache is not None
        self.train, self.samples = train, config.front.samples
        folder = Path(train.cache.folder)
        together = [name for name in TOGETHER if getattr(train.augment, name)]
        if train.cache.remix and together:
            raise ConfigError(
                f"train.augment.{together[0]} with train.cache: mixed anew, an instrumental would keep what another "
                f"voice did to it; leave it out, or `set` 'train.cache={{folder: {folder}, remix: false}}'"
            )
        self.manifest = read_cache_manifest(folder)
        if (found := difference(self.manifest.made_from, made_from(config, train))) is not None:
            raise ConfigError(f"{folder}: a cache of another configuration: {found}; {_MAKE} ANOTHER_FOLDER")
        longest = max(stage.frames for stage in train.stages)
        if self.samples(longest) > self.manifest.samples:
            rate = config.sample_rate
            raise ConfigError(
                f"{folder}: examples of {self.manifest.samples / rate:.2f} s, and a stage of {longest} frames needs "
                f"{self.samples(longest) / rate:.2f} s; {_MAKE} ANOTHER_FOLDER"
            )
        self.shards = [open_shard(shard_path(folder, number), self.manifest) for number in range(self.manifest.shards)]
        names = self.shards[0].facts
        self.facts = {name: np.concatenate([shard.facts[name] for shard in self.shards]) for name in names}
        self.count = self.manifest.examples
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def item(self, epoch: int, index: int, frames: int) -> Item:
        """Gives the example, cut at random to `frames`. Raises DataError where a shard has been lost or damaged."""
        drawn, facts, samples = self._draw(epoch, index, frames), self.facts, self.samples(frames)
        stems: Stems = {}
        for stem, number in drawn.numbers.items():
            gain = self._gain(drawn) if stem == VOCALS else 1.0
            waveform = self._read(stem, number, drawn.starts[stem], samples, gain)
            stems[stem] = waveform[::-1] if stem in drawn.swaps else waveform
        peak = max(float(facts["peak"][number]) for stem, number in drawn.numbers.items() if stem != VOCALS)
        item = Item(stems, peak, float(facts["headroom"][drawn.level]))
        return in_mono(item) if drawn.mono else item

    def files(self, epoch: int, index: int, frames: int) -> list[Path]:
        """Gives the shards that an item is read from."""
        numbers = self._draw(epoch, index, frames).numbers.values()
        return [self.shards[number].path for number in dict.fromkeys(n // self.manifest.per_shard for n in numbers)]

    def _draw(self, epoch: int, index: int, frames: int) -> _Drawn:
        assert self.train.cache is not None
        rng, stems = np.random.default_rng((self.train.seed, epoch, index)), self.manifest.stems
        first = int(self._order_of(epoch)[index % self.count])
        spare = self.manifest.samples - self.samples(frames)
        starts = [int(start) for start in rng.integers(spare + 1, size=len(stems))]
        mono = self.train.augment.mono
        if not self.train.cache.remix:
            same = dict.fromkeys(stems, starts[0])
            return _Drawn(dict.fromkeys(stems, first), first, same, frozenset(), chance(rng, mono))
        *others, level = (int(number) for number in rng.integers(self.count, size=len(stems)))
        # Where a swap of channels is as likely as none, one more changes no probability; else there is none.
        whole, *own = (rng.random(len(stems)) < 0.5) & (self.train.voxaug.swap_channels == 0.5)
        swaps = frozenset(stem for stem, swap in zip(stems, (False, *own), strict=True) if swap != whole)
        numbers = dict(zip(stems, (first, *others), strict=True))
        return _Drawn(numbers, level, dict(zip(stems, starts, strict=True)), swaps, chance(rng, mono))

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, np.random.default_rng((self.train.seed, epoch)).permutation(self.count)
        return self._order[1]

    def _gain(self, drawn: _Drawn) -> float:
        """Factor on the vocals, for the level over the others that they have in example `level`."""
        other, level = drawn.numbers[VOCALS], drawn.level
        if self.train.augment.level_db is None or {*drawn.numbers.values()} == {level}:  # as loud as their files are
            return 1.0
        vocals = self.facts[f"{VOCALS}_rms"]

        def backing(numbers: Mapping[str, int]) -> float:
            """Root mean square of what is not sung, as of sounds that have nothing to do with each other."""
            squares = (self.facts[f"{stem}_rms"][n] ** 2 for stem, n in numbers.items() if stem != VOCALS)
            return float(np.sqrt(sum(squares)))

        if not (vocals[level] and backing(dict.fromkeys(drawn.numbers, level))):
            level = other
        here, there = backing(drawn.numbers), backing(dict.fromkeys(drawn.numbers, level))
        if not (here and there and vocals[other]):
            return 1.0
        return float(min(vocals[level] / there * here / vocals[other], LARGEST_RAISE))

    def _read(self, stem: str, number: int, start: int, samples: int, gain: float) -> Waveform:
        """(channels, samples) of an example's stem, times `gain`."""
        shard, row = divmod(number, self.manifest.per_shard)
        values = np.empty((self.manifest.channels, self.manifest.samples), np.int16)
        path = self.shards[shard].path
        try:
            with path.open("rb", buffering=0) as file:
                file.seek(self.shards[shard].offsets[stem] + row * values.nbytes)
                count = file.readinto(values.data.cast("B"))
        except OSError as error:
            raise DataError(f"{path}: can no longer be read ({error.strerror}); restore it, then `resume`") from error
        if count != values.nbytes or zlib.crc32(values.data) != self.facts[f"{stem}_crc"][number]:
            raise DataError(
                f"{path}: damaged in example {row}; remove it, run ft data prepare cache again, then `resume`"
            )
        waveform: Waveform = values[:, start : start + samples].astype(np.float32)
        waveform *= np.float32(self.facts[f"{stem}_scale"][number] * gain)
        return waveform
