"""What each output format can hold: sample rates, bit depths and bitrates, and how libsndfile is told of them.

libsndfile has one scale of compression from 0 to 1 for all its encoders. What it stands for was measured with
libsndfile 1.2.2 (LAME 3.100, libopus 1.4, libvorbis 1.3.7) and is tested by the size of the files:

- mp3, constant: `high - level * (high - low)` kbit/s, of which LAME takes the nearest that MPEG has; low and high are
  32 and 320 from 32 kHz on, 8 and 160 from 16 kHz on, 8 and 64 below. A level of 1 is refused.
- opus: `256 - level * 250` kbit/s for each channel, as the mean of a variable rate.
- Vorbis: a quality of `1 - level`. Its files name a nominal rate, which libvorbis has in tables for some sample rates;
  the encoder is asked for it. The real one depends on the music and is mostly lower.
"""

from __future__ import annotations

import functools
import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile

from ft.audio.source import AudioInfo
from ft.errors import AudioError
from ft.options import LOSSLESS, MPEG1_BITRATES, MPEG2_BITRATES, BitDepth, Format, SeparateOptions

DEFAULT_BITRATES: dict[str, int] = {"ogg": 192, "opus": 160, "mp3": 256}
"""kbit/s."""

_RATES: dict[str, tuple[int, ...]] = {
    "opus": (8000, 12000, 16000, 24000, 48000),
    "mp3": (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000),
}
"""Sample rates of formats that have no others."""
_VORBIS_LIMIT, _VORBIS_HIGHEST = 200_000, 192_000
"""Above 200 kHz libvorbis has no mode, and libsndfile crashes (1.2.2)."""
_FLAC_LIMIT, _FLAC_ANY = 655_350, 65_535
"""A FLAC frame holds a rate up to 65,535 Hz in Hz, and a higher one in tens of them."""
_VORBIS_TABLES = (8000, 48000)
"""Outside of these sample rates libvorbis names no bitrate."""


@dataclass(frozen=True)
class StemFormat:
    """How the stems of one song are written."""

    name: Format
    bit_depth: BitDepth | None
    """None of lossy formats."""
    bitrate: int | None
    """kbit/s; None of lossless formats."""
    sample_rate: int
    """The rate of the files: the song's, or the nearest that the format can hold."""

    @property
    def clips(self) -> bool:
        """Whether values above full scale have to be lowered: everywhere but in float WAV."""
        return self.bit_depth != "float"


def stem_format(options: SeparateOptions, info: AudioInfo) -> StemFormat:
    """The format of the stems of a song.

    A bitrate that the format has, but not at this sample rate or with these channels, becomes the nearest that it has.

    Raises:
        AudioError: FLAC cannot hold the sample rate.
    """
    name = options.format
    rate = nearest_rate(name, info.sample_rate)
    if name in LOSSLESS:
        if name == "flac" and not _fits_flac(rate):
            raise AudioError(
                f"{info.path}: {rate} Hz; expected for flac at most {_FLAC_LIMIT} Hz, above {_FLAC_ANY} in tens. "
                "`format` wav holds every rate"
            )
        depth = options.bit_depth or info.bit_depth
        return StemFormat(name, "24" if (name, depth) == ("flac", "float") else depth, None, rate)
    bitrate = _nearest_bitrate(name, options.bitrate or DEFAULT_BITRATES[name], rate, info.channels)
    return StemFormat(name, None, bitrate, rate)


def format_notes(format: StemFormat, options: SeparateOptions, info: AudioInfo) -> list[str]:
    """What a user should know of what a format cannot hold, in a line each; mostly nothing."""
    notes = []
    if format.sample_rate != info.sample_rate:
        notes.append(f"{format.name} cannot hold {info.sample_rate} Hz; the stems have {format.sample_rate} Hz")
    asked = options.bitrate or DEFAULT_BITRATES.get(format.name)
    if format.bitrate != asked:
        sound = f"{format.sample_rate} Hz {'mono' if info.channels == 1 else 'stereo'}"
        notes.append(f"{format.name} cannot hold {sound} in {asked} kbit/s; the stems have {format.bitrate} kbit/s")
    return notes


def nearest_rate(name: Format, sample_rate: int) -> int:
    """The sample rate in Hz that a format gets: the lowest that loses nothing, or else the highest it has.

    >>> nearest_rate("opus", 44100), nearest_rate("mp3", 44100), nearest_rate("mp3", 96000), nearest_rate("wav", 37000)
    (48000, 44100, 48000, 37000)
    """
    if name == "ogg":
        return sample_rate if sample_rate <= _VORBIS_LIMIT else _VORBIS_HIGHEST
    rates = _RATES.get(name, (sample_rate,))
    return min((rate for rate in rates if rate >= sample_rate), default=rates[-1])


def encoder_settings(format: StemFormat, channels: int) -> dict[str, Any]:
    """Arguments of `soundfile.SoundFile` beside the file, its rate and its channels; for all formats but wav."""
    if format.name == "flac":
        return {"format": "FLAC", "subtype": f"PCM_{format.bit_depth}"}
    assert format.bitrate is not None
    if format.name == "mp3":
        _, low, high = _lame(format.sample_rate)
        # A quarter more, so that neither rounding nor cutting makes it the next lower one.
        level = max(0.0, (high - format.bitrate - 0.25) / (high - low))
        kind = {"format": "MP3", "subtype": "MPEG_LAYER_III"}
        return {**kind, "compression_level": level, "bitrate_mode": "CONSTANT"}
    if format.name == "opus":
        level = (256 - format.bitrate / channels) / 250
    else:
        rates, levels = _vorbis_scale(format.sample_rate, channels)
        level = float(np.interp(format.bitrate, rates, levels))
    subtype = "OPUS" if format.name == "opus" else "VORBIS"
    return {"format": "OGG", "subtype": subtype, "compression_level": min(max(level, 0.0), 1.0)}


def _fits_flac(sample_rate: int) -> bool:
    return sample_rate <= _FLAC_ANY or (sample_rate <= _FLAC_LIMIT and sample_rate % 10 == 0)


def _nearest_bitrate(name: Format, bitrate: int, sample_rate: int, channels: int) -> int:
    if name == "mp3":
        choices, _, _ = _lame(sample_rate)
        return min(choices, key=lambda rate: (abs(rate - bitrate), -rate))
    if name == "opus":
        return min(max(bitrate, 6 * channels), 256 * channels)
    rates, _ = _vorbis_scale(sample_rate, channels)
    return round(min(max(bitrate, rates[0]), rates[-1]))


def _lame(sample_rate: int) -> tuple[tuple[int, ...], int, int]:
    """Bitrates of an mp3, and those of libsndfile's compression levels 1 and 0."""
    if sample_rate >= 32000:
        return MPEG1_BITRATES, 32, 320
    return (MPEG2_BITRATES, 8, 160) if sample_rate >= 16000 else ((64,), 8, 64)


@functools.cache
def _vorbis_scale(sample_rate: int, channels: int) -> tuple[list[float], list[float]]:
    """Nominal kbit/s, rising, and the compression levels that give them; between them libvorbis is linear, too.

    Where it names none, those of the nearest sample rate that has some are taken: above, its files are up to a tenth
    larger; below, they shrink with the rate.
    """
    lowest, highest = _VORBIS_TABLES
    known = min(max(sample_rate, lowest), highest)
    levels = [step / 10 for step in range(10, -1, -1)]
    share = min(sample_rate / lowest, 1.0)
    return [share * _vorbis_nominal(known, channels, level) for level in levels], levels


def _vorbis_nominal(sample_rate: int, channels: int, level: float) -> float:
    """The nominal kbit/s that a Vorbis file names in its first header (Vorbis I specification, 4.2.2)."""
    file = io.BytesIO()
    settings = {"format": "OGG", "subtype": "VORBIS", "compression_level": level}
    with soundfile.SoundFile(file, "w", sample_rate, channels, **settings) as sound:
        sound.write(np.zeros((1, channels), np.float32))
    header = file.getvalue()
    # packet type, "vorbis", version, channels, rate, maximum, nominal
    (nominal,) = struct.unpack_from("<i", header, header.index(b"\x01vorbis") + 20)
    return float(nominal) / 1000
