"""Training data: crops of audio files, mixed on the fly.

An item is determined by (seed, epoch, index) alone, not by the number of workers or by what came before, so that a
resumed run sees what an uninterrupted one would have seen. Waveforms are mixed; the STFT is linear, so this equals
the sum of complex spectrograms of which the original speaks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ft.audio.open import open_source
from ft.audio.source import AudioSource
from ft.config import ModelConfig
from ft.data import augment
from ft.data.augment_parts import Parts, chance, mixed, stretch
from ft.data.patches import read_waveform
from ft.data.scan import AudioFile
from ft.data.sources import INSTRUMENTAL, VOCALS, Music, Pool, Remix, Song, data_stems
from ft.errors import AudioError, DataError
from ft.files import sound_name
from ft.train_config import TrainConfig, VoxAug

Waveform = NDArray[np.float32]
Stems = dict[str, Waveform]
"""Waveforms (channels, samples) by stem."""


@dataclass(frozen=True)
class Item:
    """One training example."""

    stems: Stems
    """What the mixture is the sum of."""
    peak: float
    """The largest magnitude of the track that it is from; 0 where the crop's own is taken."""
    headroom: float
    """Factor on the scale."""

    @property
    def mixture(self) -> Waveform:
        """Gives the sum of the stems (channels, samples)."""
        return mixed(self.stems)


def read_crop(file: AudioFile, start: int, samples: int, sample_rate: int, channels: int) -> Waveform:
    """(channels, samples) from sample `start` of the file, both counted at `sample_rate`; silence behind its end.

    Of a patch, from the beginning of the frame in which `start` lies.

    Raises:
        DataError: the file changed since it was scanned.
    """
    if file.patch is not None:
        return _channels(augment.fit(read_waveform(file.path, file.patch, start, samples), samples), channels)
    ratio = file.sample_rate / sample_rate
    try:
        waveform = _read(file, int(start * ratio), int(np.ceil(samples * ratio)))
    except (soundfile.SoundFileError, RuntimeError, AudioError, OSError) as error:
        raise DataError(f"{file.path}: can no longer be read ({error}); restore it, then `resume`") from error
    return _channels(augment.fit(_to_rate(waveform, file.sample_rate, sample_rate), samples), channels)


def _read(file: AudioFile, start: int, samples: int) -> Waveform:
    """So many samples of a file at its own rate, fewer at its end."""
    if not file.by_libsndfile:
        start = min(start, file.samples - 1)
        return _opened(file.path).part(start, min(samples, file.samples - start))
    with soundfile.SoundFile(sound_name(file.path)) as source:
        source.seek(min(start, max(source.frames - 1, 0)))
        waveform: Waveform = source.read(samples, dtype="float32", always_2d=True).T
    return waveform


@lru_cache(256)
def _opened(path: Path) -> AudioSource:
    """Gives what reads a file, found out once: it holds nothing open between two reads."""
    return open_source(path, allow_truncated=True)


def _channels(waveform: Waveform, channels: int) -> Waveform:
    if waveform.shape[0] != channels:
        waveform = np.repeat(waveform.mean(axis=0, keepdims=True), channels, axis=0)
    return waveform.astype(np.float32)


def _to_rate(waveform: Waveform, rate: int, wanted: int) -> Waveform:
    if rate == wanted:
        return waveform
    import soxr

    return soxr.resample(np.ascontiguousarray(waveform.T), rate, wanted, quality="HQ").T.astype(np.float32)


def read_song(
    song: Song, names: Iterable[str], start: int, samples: int, config: ModelConfig, read: Callable = read_crop
) -> Stems:
    """Reads stems of a song at one place, as `read_crop` reads a file. Raises DataError."""
    signs = {name: song.stems[name] for name in names}
    files = dict.fromkeys(file for each in signs.values() for file in each)
    crops = {file: read(song.files[file], start, samples, config.sample_rate, config.channels) for file in files}
    return {
        name: reduce(np.add, (crops[file] if sign > 0 else -crops[file] for file, sign in each.items()))
        for name, each in signs.items()
    }


class MixtureItems:
    """Training items by (epoch, index): the original's voxaug, real songs, and the augmentation of the configuration.

    Args:
        music: what items are drawn from.
        vocals: voices that are mixed in; None where songs have their own.
    """

    def __init__(
        self, config: ModelConfig, train: TrainConfig, music: Pool[Music], vocals: Pool[AudioFile] | None
    ) -> None:
        self.config, self.train, self.music, self.vocals = config, train, music, vocals
        self.names = data_stems(train, config)
        self.parts = Parts(train.augment, config.sample_rate)
        self.count = len(music.entries)
        self.read: Callable[..., Waveform] = read_crop

    def item(self, epoch: int, index: int, frames: int) -> Item:
        """Gives the item, mixed and augmented; the same for the same arguments and seed.

        Args:
            frames: its samples are those that so many cover without padding.
        """
        rng = np.random.default_rng((self.train.seed, epoch, index))
        voxaug = self.train.voxaug
        item = self._item(rng, self._choice(rng, epoch, index), frames)
        if voxaug.mixup and rng.random() < voxaug.mixup:
            other = self._item(rng, self.music.entries[int(rng.integers(self.count))], frames)
            share = np.float32(rng.beta(voxaug.mixup_alpha, voxaug.mixup_alpha))
            blended = {name: share * item.stems[name] + (1 - share) * other.stems[name] for name in self.names}
            item = replace(item, stems=blended)
        return in_mono(item) if chance(rng, self.train.augment.mono) else item

    def files(self, epoch: int, index: int, frames: int) -> list[Path]:
        """Gives the files that an item is made of, found by making it again."""
        seen: list[Path] = []

        def read(file: AudioFile, *crop: int) -> Waveform:
            seen.append(file.path)
            return read_crop(file, *crop)

        watched = copy.copy(self)
        watched.read = read
        watched.item(epoch, index, frames)
        return list(dict.fromkeys(seen))

    def _choice(self, rng: np.random.Generator, epoch: int, index: int) -> Music:
        """Gives an instrumental, stems of several songs or a song: all in turn, or by weight."""
        if self.music.probabilities is None:
            order = np.random.default_rng((self.train.seed, epoch)).permutation(self.count)
            return self.music.entries[int(order[index % self.count])]
        return self.music.draw(rng)

    def _item(self, rng: np.random.Generator, choice: Music, frames: int) -> Item:
        samples, options = self.config.front.samples(frames), self.train.augment
        if isinstance(choice, Song) and not self.train.voxaug.force:
            stems, gain = self._song(rng, choice, samples)
            peak = choice.peak() * gain
        else:
            stems, peak = self._backing(rng, choice, samples)
            self._add_vocals(rng, stems, samples)
        stems = self.parts.whole(rng, {name: stems[name] for name in self.names})
        if rng.random() < self.train.voxaug.swap_channels:
            stems = {name: waveform[::-1] for name, waveform in stems.items()}
        headroom = 10 ** (rng.uniform(0, options.scale_db) / 20)
        return Item(stems, 0.0 if options.scale_db else peak, float(headroom))

    def _backing(self, rng: np.random.Generator, choice: Music, samples: int) -> tuple[Stems, float]:
        """Crops of all stems but the vocals, each treated for itself, and the largest magnitude there can be around."""
        options, stems, peaks = self.train.augment, dict[str, Waveform](), dict[str, float]()
        if isinstance(choice, Remix):
            songs = choice.draw(rng)
        else:
            songs = [choice if isinstance(choice, Song) else Song.of(INSTRUMENTAL, choice)]
        for song in songs:
            names = [name for name in song.stems if name != VOCALS]
            for name, crop in self._crops(rng, song, names, samples, options.instrumental_speed).items():
                stems[name] = stems[name] + crop if name in stems else crop
                peaks[name] = peaks.get(name, 0.0) + song.peak(name)
        for name in stems:
            if options.filter_db:
                stems[name] = augment.random_filter(rng, stems[name], options.filter_db, self.config.sample_rate)
            own = self.parts.gain(rng)
            stems[name], peaks[name] = self.parts.part(rng, stems[name]) * own, peaks[name] * float(own)
        return stems, sum(peaks.values())

    def _song(self, rng: np.random.Generator, song: Song, samples: int) -> tuple[Stems, float]:
        """Crops all stems at one place, and sends them through one change of speed and one filter.

        Beside them the largest factor on the level of a part.
        """
        options = self.train.augment
        stems = self._crops(rng, song, self.names, samples, options.instrumental_speed)
        if options.filter_db:
            together = augment.random_filter(
                rng, np.concatenate([*stems.values()]), options.filter_db, self.config.sample_rate
            )
            stems = dict(zip(stems, np.split(together, len(stems)), strict=True))
        return self.parts.song(rng, stems) if self.parts.apart else (stems, 1.0)

    def _add_vocals(self, rng: np.random.Generator, stems: Stems, samples: int) -> None:
        backing = mixed(stems)
        if VOCALS in self.names:
            stems[VOCALS] = np.zeros_like(backing)
        if self.vocals is None or not draw_vocals_wanted(rng, self.train.voxaug):
            return
        vocals = self.draw_vocals(rng, samples)
        if rng.random() < self.train.voxaug.second_vocal:
            vocals = vocals + self.draw_vocals(rng, samples)
        level = self.train.augment.level_db
        if level is not None:
            wanted = rng.normal(level, self.train.augment.level_spread_db)
            loudness = augment.rms(backing) / max(augment.rms(vocals), 1e-4)
            vocals = vocals * np.float32(min(loudness, 100.0) * 10 ** (wanted / 20)) if loudness > 0 else vocals
        stems[VOCALS] = self.parts.paused(rng, vocals) * self.parts.gain(rng)

    def draw_vocals(self, rng: np.random.Generator, samples: int) -> Waveform:
        """A crop of a random voice: channel swap and mute as in voxaug, then the augmentation of the configuration."""
        assert self.vocals is not None
        options, voxaug, rate = self.train.augment, self.train.voxaug, self.config.sample_rate
        voice = Song.of(VOCALS, self.vocals.draw(rng))
        vocals = self._crops(rng, voice, [VOCALS], samples, options.vocal_speed)[VOCALS]
        if rng.random() < voxaug.swap_channels:
            vocals = vocals[::-1]
        if rng.random() < voxaug.mute_channel and vocals.shape[0] == 2:
            vocals = vocals.copy()
            vocals[int(rng.integers(2))] = 0
        if options.filter_db:
            vocals = augment.random_filter(rng, vocals, options.filter_db, rate)
        vocals = self.parts.widened(rng, self.parts.part(rng, self.parts.choir(rng, vocals)))
        if options.pan:
            vocals = augment.pan(rng, vocals, options.pan)
        if rng.random() < options.reverb:
            vocals = augment.reverberate(rng, vocals, rate)
        return vocals

    def _crops(
        self, rng: np.random.Generator, song: Song, names: Sequence[str], samples: int, semitones: float
    ) -> Stems:
        """Stems of a song at one random place, through one change of pitch, tempo and speed."""
        change = self.parts.stretch(rng)
        needed_for_stretch = change.needed(samples)
        factor = 2 ** (rng.uniform(-semitones, semitones) / 12) if semitones else 1.0
        needed = int(np.ceil(needed_for_stretch * factor))
        start = _random_start(rng, song.file, needed, self.config.sample_rate)
        stems = read_song(song, names, start, needed, self.config, self.read)
        if factor != 1:
            stems = {name: augment.change_speed(crop, factor, needed_for_stretch) for name, crop in stems.items()}
        return {name: stretch(crop, change, samples, self.config.sample_rate) for name, crop in stems.items()}


def in_mono(item: Item) -> Item:
    """Gives the same of a mono song."""
    return replace(item, stems={name: augment.mono(waveform) for name, waveform in item.stems.items()})


def draw_vocals_wanted(rng: np.random.Generator, voxaug: VoxAug) -> bool:
    """Whether an item gets vocals: not with probability skip + (1 - skip) drop, 0.0445 at the original's values."""
    return rng.random() >= voxaug.skip_vocals and rng.random() >= voxaug.drop_vocals


class ValidationItems:
    """Deterministic items of a validation set: songs, or instrumentals with vocal `index mod n`, or these alone."""

    def __init__(
        self,
        config: ModelConfig,
        count: int,
        songs: Sequence[Song] = (),
        instrumentals: Pool[AudioFile] | None = None,
        vocals: Pool[AudioFile] | None = None,
    ) -> None:
        self.config, self.count = config, count
        own = instrumentals.entries if instrumentals else ()
        self.songs = [*songs, *(Song.of(INSTRUMENTAL, file) for file in own)]
        self.voices = [Song.of(VOCALS, file) for file in vocals.entries] if vocals else []

    def items(self, frames: int) -> Iterator[Item]:
        """`count` items; the crop of each is drawn from its index alone."""
        samples, rate = self.config.front.samples(frames), self.config.sample_rate
        for index in range(self.count):
            rng = np.random.default_rng(index)
            stems: Stems = {}
            for songs in filter(None, (self.songs, self.voices)):
                song = songs[index % len(songs)]
                start = _random_start(rng, song.file, samples, rate)
                stems |= read_song(song, song.stems, start, samples, self.config)
            yield Item(stems, self.songs[index % len(self.songs)].peak(), headroom=1.0)


def _random_start(rng: np.random.Generator, file: AudioFile, samples: int, rate: int) -> int:
    """First sample of a random crop, counted at `rate`; 0 of a file that is shorter."""
    length = int(file.samples * rate / file.sample_rate)
    return int(rng.integers(max(1, length - samples + 1)))
