"""Training data: crops of audio files, mixed on the fly.

An item is determined by (seed, epoch, index) alone, not by the number of workers or by what came before, so that a
resumed run sees what an uninterrupted one would have seen. Waveforms are mixed; the STFT is linear, so this equals
the sum of complex spectrograms of which the original speaks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import soundfile
from numpy.typing import NDArray

from ft import augment
from ft.config import AudioConfig
from ft.errors import DataError
from ft.scan import AudioFile, Pool, Song
from ft.train_config import TrainConfig, VoxAug

Waveform = NDArray[np.float32]


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


def read_crop(file: AudioFile, start: int, samples: int, sample_rate: int, channels: int) -> Waveform:
    """(channels, samples) from sample `start` of the file, both counted at `sample_rate`; silence behind its end.

    Raises:
        DataError: the file changed since it was scanned.
    """
    ratio = file.sample_rate / sample_rate
    try:
        with soundfile.SoundFile(file.path) as source:
            source.seek(min(int(start * ratio), max(source.frames - 1, 0)))
            waveform = source.read(int(np.ceil(samples * ratio)), dtype="float32", always_2d=True).T
    except (soundfile.SoundFileError, RuntimeError) as error:
        raise DataError(f"{file.path}: can no longer be read ({error}); restore it, then --resume") from error
    waveform = augment.fit(_to_rate(waveform, file.sample_rate, sample_rate), samples)
    if waveform.shape[0] != channels:
        mean = waveform.mean(axis=0, keepdims=True)
        waveform = np.repeat(mean, channels, axis=0)
    return waveform.astype(np.float32)


def _to_rate(waveform: Waveform, rate: int, wanted: int) -> Waveform:
    if rate == wanted:
        return waveform
    import soxr

    return soxr.resample(np.ascontiguousarray(waveform.T), rate, wanted, quality="HQ").T.astype(np.float32)


class MixtureItems:
    """Training items by (epoch, index): the original's voxaug, real pairs, and the augmentation of the configuration.

    Args:
        frames: STFT frames of an item; its samples are those that these frames cover without padding.
    """

    def __init__(
        self, audio: AudioConfig, train: TrainConfig, music: Pool[AudioFile | Song], vocals: Pool[AudioFile] | None
    ) -> None:
        self.audio, self.train, self.music, self.vocals = audio, train, music, vocals
        self.count = len(music.entries)

    def samples(self, frames: int) -> int:
        return (frames - 1) * self.audio.hop_length + self.audio.n_fft

    def item(self, epoch: int, index: int, frames: int) -> Item:
        """The item, mixed and augmented; the same for the same arguments and seed."""
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
        return item

    def _choice(self, rng: np.random.Generator, epoch: int, index: int) -> AudioFile | Song:
        """An instrumental or a pair: all in turn, or by weight."""
        if self.music.probabilities is None:
            order = np.random.default_rng((self.train.seed, epoch)).permutation(self.count)
            return self.music.entries[int(order[index % self.count])]
        return self.music.draw(rng)

    def _item(self, rng: np.random.Generator, choice: AudioFile | Song, frames: int) -> Item:
        samples, options = self.samples(frames), self.train.augment
        if isinstance(choice, Song) and not self.train.voxaug.force:
            mixture, instrumental = self._pair(rng, choice, samples)
            peak, has_vocals = choice.mixture.peak or 0.0, True
        else:
            file = choice.instrumental if isinstance(choice, Song) else choice
            instrumental = self._crop(rng, file, samples, options.instrumental_speed)
            if options.filter_db:
                instrumental = augment.random_filter(rng, instrumental, options.filter_db, self.audio.sample_rate)
            mixture, has_vocals = self._with_vocals(rng, instrumental, samples)
            peak = file.peak or 0.0
        if rng.random() < self.train.voxaug.swap_channels:
            mixture, instrumental = mixture[::-1], instrumental[::-1]
        headroom = 10 ** (rng.uniform(0, options.scale_db) / 20)
        if options.scale_db:
            peak = 0.0
        return Item(mixture, instrumental, peak, has_vocals, float(headroom))

    def _pair(self, rng: np.random.Generator, song: Song, samples: int) -> tuple[Waveform, Waveform]:
        """The same crop of mixture and instrumental, through the same change of speed and the same filter."""
        options, rate = self.train.augment, self.audio.sample_rate
        factor, needed = self._speed(rng, samples, options.instrumental_speed)
        start = self._start(rng, song.mixture, needed)
        both = np.concatenate(
            [read_crop(file, start, needed, rate, self.audio.channels) for file in (song.mixture, song.instrumental)]
        )
        if factor != 1:
            both = augment.change_speed(both, factor, samples)
        if options.filter_db:
            both = augment.random_filter(rng, both, options.filter_db, rate)
        return both[: self.audio.channels], both[self.audio.channels :]

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
        return instrumental + vocals, True

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
        if options.pan:
            vocals = augment.pan(rng, vocals, options.pan)
        if rng.random() < options.reverb:
            vocals = augment.reverberate(rng, vocals, self.audio.sample_rate)
        return vocals

    def _crop(self, rng: np.random.Generator, file: AudioFile, samples: int, semitones: float) -> Waveform:
        factor, needed = self._speed(rng, samples, semitones)
        start = self._start(rng, file, needed)
        crop = read_crop(file, start, needed, self.audio.sample_rate, self.audio.channels)
        return augment.change_speed(crop, factor, samples) if factor != 1 else crop

    @staticmethod
    def _speed(rng: np.random.Generator, samples: int, semitones: float) -> tuple[float, int]:
        """A factor of at most `semitones` up or down, and the samples that are needed for it."""
        factor = 2 ** (rng.uniform(-semitones, semitones) / 12) if semitones else 1.0
        return factor, int(np.ceil(samples * factor))

    def _start(self, rng: np.random.Generator, file: AudioFile, samples: int) -> int:
        length = int(file.samples * self.audio.sample_rate / file.sample_rate)
        return int(rng.integers(max(1, length - samples + 1)))


def draw_vocals_wanted(rng: np.random.Generator, voxaug: VoxAug) -> bool:
    """Whether an item gets vocals: not with probability skip + (1 - skip) drop, 0.0445 at the original's values."""
    return rng.random() >= voxaug.skip_vocals and rng.random() >= voxaug.drop_vocals


class ValidationItems:
    """Deterministic items of a validation set: pairs, or instrumentals with vocal `index mod n` mixed in."""

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
                assert self.instrumentals is not None and self.vocals is not None
                file = self.instrumentals.entries[index % len(self.instrumentals.entries)]
                voice = self.vocals.entries[index % len(self.vocals.entries)]
                instrumental = read_crop(file, _random_start(rng, file, samples, rate), samples, rate, channels)
                vocals = read_crop(voice, _random_start(rng, voice, samples, rate), samples, rate, channels)
                mixture, peak = instrumental + vocals, file.peak or 0.0
            yield Item(mixture, instrumental, peak, has_vocals=True, headroom=1.0)


def _random_start(rng: np.random.Generator, file: AudioFile, samples: int, rate: int) -> int:
    length = int(file.samples * rate / file.sample_rate)
    return int(rng.integers(max(1, length - samples + 1)))
