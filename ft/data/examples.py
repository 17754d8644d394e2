"""Training data: crops of audio files, mixed on the fly.

An item is determined by (seed, epoch, index) alone, not by the number of workers or by what came before, so that a
resumed run sees what an uninterrupted one would have seen. Waveforms are mixed; the STFT is linear, so this equals
the sum of complex spectrograms of which the original speaks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from ft.audio.open import open_source
from ft.audio.source import AudioSource
from ft.config import AudioConfig
from ft.data import augment
from ft.data.augment_parts import Parts, chance
from ft.data.patches import read_waveform
from ft.data.scan import AudioFile, Pool, Remix, Song
from ft.errors import AudioError, DataError
from ft.files import sound_name
from ft.train_config import TrainConfig, VoxAug

Waveform = NDArray[np.float32]
Music = AudioFile | Remix | Song


@dataclass(frozen=True)
class Item:
    """One training example as waveforms (channels, samples)."""

    mixture: Waveform
    instrumental: Waveform
    peak: float
    """The track's scale before vocals were added; 0 where the crop's own peak is used."""
    has_vocals: bool
    headroom: float
    """Factor on the scale."""

    def in_mono(self) -> Item:
        """Makes it the item of a mono song."""
        return replace(self, mixture=augment.mono(self.mixture), instrumental=augment.mono(self.instrumental))


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
    """What reads a file, found out once: it holds nothing open between two reads."""
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


class MixtureItems:
    """Training items by (epoch, index): the original's voxaug, real pairs, and the augmentation of the configuration.

    Args:
        music: what items are drawn from.
        vocals: voices that are mixed in; None where pairs have their own.
    """

    def __init__(
        self, audio: AudioConfig, train: TrainConfig, music: Pool[Music], vocals: Pool[AudioFile] | None
    ) -> None:
        self.audio, self.train, self.music, self.vocals = audio, train, music, vocals
        self.parts = Parts(train.augment, audio.sample_rate)
        self.count = len(music.entries)
        self.read: Callable[..., Waveform] = read_crop

    def samples(self, frames: int) -> int:
        return (frames - 1) * self.audio.hop_length + self.audio.n_fft

    def item(self, epoch: int, index: int, frames: int) -> Item:
        """The item, mixed and augmented; the same for the same arguments and seed.

        Args:
            frames: STFT frames; its samples are those that these frames cover without padding.
        """
        rng = np.random.default_rng((self.train.seed, epoch, index))
        voxaug = self.train.voxaug
        item = self._item(rng, self._choice(rng, epoch, index), frames)
        if voxaug.mixup and rng.random() < voxaug.mixup:
            other = self._item(rng, self.music.entries[int(rng.integers(self.count))], frames)
            share = np.float32(rng.beta(voxaug.mixup_alpha, voxaug.mixup_alpha))
            item = Item(
                share * item.mixture + (1 - share) * other.mixture,
                share * item.instrumental + (1 - share) * other.instrumental,
                item.peak,
                item.has_vocals or other.has_vocals,
                item.headroom,
            )
        return item.in_mono() if chance(rng, self.train.augment.mono) else item

    def files(self, epoch: int, index: int, frames: int) -> list[Path]:
        """The files that an item is made of, found by making it again."""
        seen: list[Path] = []

        def read(file: AudioFile, start: int, samples: int, sample_rate: int, channels: int) -> Waveform:
            seen.append(file.path)
            return read_crop(file, start, samples, sample_rate, channels)

        recorder = copy.copy(self)
        recorder.read = read
        recorder.item(epoch, index, frames)
        return list(dict.fromkeys(seen))

    def _choice(self, rng: np.random.Generator, epoch: int, index: int) -> Music:
        """An instrumental, stems of several or a pair: all in turn, or by weight."""
        if self.music.probabilities is None:
            order = np.random.default_rng((self.train.seed, epoch)).permutation(self.count)
            return self.music.entries[int(order[index % self.count])]
        return self.music.draw(rng)

    def _item(self, rng: np.random.Generator, choice: Music, frames: int) -> Item:
        samples, options = self.samples(frames), self.train.augment
        if isinstance(choice, Song) and not self.train.voxaug.force:
            mixture, instrumental, gain = self._pair(rng, choice, samples)
            peak, has_vocals = (choice.mixture.peak or 0.0) * gain, True
        else:
            instrumental, peak = self._instrumental(rng, choice, samples)
            if options.filter_db:
                instrumental = augment.random_filter(rng, instrumental, options.filter_db, self.audio.sample_rate)
            own = self.parts.gain(rng)
            instrumental, peak = self.parts.part(rng, instrumental) * own, peak * float(own)
            mixture, has_vocals = self._with_vocals(rng, instrumental, samples)
        mixture, instrumental = self.parts.whole(rng, mixture, instrumental)
        if rng.random() < self.train.voxaug.swap_channels:
            mixture, instrumental = mixture[::-1], instrumental[::-1]
        headroom = 10 ** (rng.uniform(0, options.scale_db) / 20)
        if options.scale_db:
            peak = 0.0
        return Item(mixture, instrumental, peak, has_vocals, float(headroom))

    def _instrumental(self, rng: np.random.Generator, choice: Music, samples: int) -> tuple[Waveform, float]:
        """A crop of an instrumental, or of stems of several songs, and the largest magnitude there can be around it."""
        if isinstance(choice, Remix):
            files = choice.draw(rng)
        else:
            files = (choice.instrumental if isinstance(choice, Song) else choice,)
        speed = self.train.augment.instrumental_speed
        crops = [self._crop(rng, file, samples, speed) for file in files]
        waveform = crops[0] if len(crops) == 1 else np.sum(crops, axis=0)
        return waveform, sum(file.peak or 0.0 for file in files)

    def _pair(self, rng: np.random.Generator, song: Song, samples: int) -> tuple[Waveform, Waveform, float]:
        """Crops mixture and instrumental at one place, and sends both through one change of speed and one filter.

        Beside them the largest factor on the level of a part.
        """
        options, rate = self.train.augment, self.audio.sample_rate
        wanted, stretch = samples, self.parts.stretch(rng)
        samples = stretch.needed(wanted)
        factor, needed = self._speed(rng, samples, options.instrumental_speed)
        start = _random_start(rng, song.mixture, needed, rate)
        both = np.concatenate(
            [self.read(file, start, needed, rate, self.audio.channels) for file in (song.mixture, song.instrumental)]
        )
        if factor != 1:
            both = augment.change_speed(both, factor, samples)
        if options.filter_db:
            both = augment.random_filter(rng, both, options.filter_db, rate)
        mixture, instrumental = both[: self.audio.channels], both[self.audio.channels :]
        if not self.parts.apart:
            return mixture, instrumental, 1.0
        return self.parts.pair(rng, mixture, instrumental, stretch, wanted)

    def _with_vocals(self, rng: np.random.Generator, instrumental: Waveform, samples: int) -> tuple[Waveform, bool]:
        if self.vocals is None or not draw_vocals_wanted(rng, self.train.voxaug):
            return instrumental, False
        vocals = self.draw_vocals(rng, samples)
        if rng.random() < self.train.voxaug.second_vocal:
            vocals = vocals + self.draw_vocals(rng, samples)
        level = self.train.augment.level_db
        if level is not None:
            wanted = rng.normal(level, self.train.augment.level_spread_db)
            loudness = augment.rms(instrumental) / max(augment.rms(vocals), 1e-4)
            vocals = vocals * np.float32(min(loudness, 100.0) * 10 ** (wanted / 20)) if loudness > 0 else vocals
        return instrumental + self.parts.paused(rng, vocals) * self.parts.gain(rng), True

    def draw_vocals(self, rng: np.random.Generator, samples: int) -> Waveform:
        """A crop of a random voice: channel swap and mute as in voxaug, then the augmentation of the configuration."""
        assert self.vocals is not None
        options, voxaug = self.train.augment, self.train.voxaug
        vocals = self._crop(rng, self.vocals.draw(rng), samples, options.vocal_speed)
        if rng.random() < voxaug.swap_channels:
            vocals = vocals[::-1]
        if rng.random() < voxaug.mute_channel and vocals.shape[0] == 2:
            vocals = vocals.copy()
            vocals[int(rng.integers(2))] = 0
        if options.filter_db:
            vocals = augment.random_filter(rng, vocals, options.filter_db, self.audio.sample_rate)
        vocals = self.parts.widened(rng, self.parts.part(rng, self.parts.choir(rng, vocals)))
        if options.pan:
            vocals = augment.pan(rng, vocals, options.pan)
        if rng.random() < options.reverb:
            vocals = augment.reverberate(rng, vocals, self.audio.sample_rate)
        return vocals

    def _crop(self, rng: np.random.Generator, file: AudioFile, samples: int, semitones: float) -> Waveform:
        stretch = self.parts.stretch(rng)
        needed_for_stretch = stretch.needed(samples)
        factor, needed = self._speed(rng, needed_for_stretch, semitones)
        start = _random_start(rng, file, needed, self.audio.sample_rate)
        crop = self.read(file, start, needed, self.audio.sample_rate, self.audio.channels)
        if factor != 1:
            crop = augment.change_speed(crop, factor, needed_for_stretch)
        return self.parts.stretched(crop, stretch, samples)

    @staticmethod
    def _speed(rng: np.random.Generator, samples: int, semitones: float) -> tuple[float, int]:
        """A factor of at most `semitones` up or down, and the samples that are needed for it."""
        factor = 2 ** (rng.uniform(-semitones, semitones) / 12) if semitones else 1.0
        return factor, int(np.ceil(samples * factor))


def draw_vocals_wanted(rng: np.random.Generator, voxaug: VoxAug) -> bool:
    """Whether an item gets vocals: not with probability skip + (1 - skip) drop, 0.0445 at the original's values."""
    return rng.random() >= voxaug.skip_vocals and rng.random() >= voxaug.drop_vocals


class ValidationItems:
    """Deterministic items of a validation set: pairs, or instrumentals with vocal `index mod n`, or these alone."""

    def __init__(
        self,
        audio: AudioConfig,
        count: int,
        songs: Sequence[Song] = (),
        instrumentals: Pool[AudioFile] | None = None,
        vocals: Pool[AudioFile] | None = None,
    ) -> None:
        self.audio, self.count = audio, count
        self.songs, self.instrumentals, self.vocals = tuple(songs), instrumentals, vocals

    def items(self, frames: int) -> Iterator[Item]:
        """`count` items; the crop of each is drawn from its index alone."""
        samples = (frames - 1) * self.audio.hop_length + self.audio.n_fft
        rate, channels = self.audio.sample_rate, self.audio.channels
        for index in range(self.count):
            rng = np.random.default_rng(index)
            if self.songs:
                song = self.songs[index % len(self.songs)]
                start = _random_start(rng, song.mixture, samples, rate)
                mixture = read_crop(song.mixture, start, samples, rate, channels)
                instrumental = read_crop(song.instrumental, start, samples, rate, channels)
                peak = song.mixture.peak or 0.0
            else:
                assert self.instrumentals is not None
                file = self.instrumentals.entries[index % len(self.instrumentals.entries)]
                instrumental = read_crop(file, _random_start(rng, file, samples, rate), samples, rate, channels)
                mixture, peak = instrumental, file.peak or 0.0
                if self.vocals is not None:
                    voice = self.vocals.entries[index % len(self.vocals.entries)]
                    mixture = instrumental + read_crop(
                        voice, _random_start(rng, voice, samples, rate), samples, rate, channels
                    )
            yield Item(mixture, instrumental, peak, has_vocals=bool(self.songs or self.vocals), headroom=1.0)


def _random_start(rng: np.random.Generator, file: AudioFile, samples: int, rate: int) -> int:
    """First sample of a random crop, counted at `rate`; 0 of a file that is shorter."""
    length = int(file.samples * rate / file.sample_rate)
    return int(rng.integers(max(1, length - samples + 1)))
