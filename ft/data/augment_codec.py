"""There and back through MP3, Vorbis and Opus, in memory, as most music has gone before it is separated."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile

from ft.data.augment import Waveform, fit

CODECS: dict[str, tuple[str, str, tuple[float, float]]] = {
    "mp3": ("MP3", "MPEG_LAYER_III", (0.25, 0.75)),
    "vorbis": ("OGG", "VORBIS", (0.3, 1.0)),
    "opus": ("OGG", "OPUS", (0.5, 0.9)),
}
"""Format and subtype of libsndfile, and between which of its levels of compression is drawn: about 250 to 110 kbit/s
of MP3, 190 to 60 of Vorbis, 250 to 60 of Opus, of 44.1 kHz stereo. Of MP3 at lower rates libsndfile
writes no count of samples, and what is read has the delay of the encoder."""
_OPUS_RATE = 48_000
_WRITTEN = 4096
"""Samples written at once: libsndfile keeps a Vorbis block on the stack, and one of seconds overflows it."""


def through_random_codec(rng: np.random.Generator, waveform: Waveform, sample_rate: int) -> Waveform:
    """`waveform` (channels, samples) as one of `CODECS` gives it back, of the same length and in time with it.

    Opus knows few sample rates, so that it includes resampling; MP3 and Opus refuse some rates, for which Vorbis stands
    in.
    """
    name = list(CODECS)[int(rng.integers(len(CODECS)))]
    if sample_rate not in (32_000, 44_100, 48_000):
        name = "vorbis"
    low, high = CODECS[name][2]
    return through_codec(waveform, name, float(rng.uniform(low, high)), sample_rate)


def through_codec(waveform: Waveform, name: str, level: float, sample_rate: int) -> Waveform:
    """Sends sound through a codec of `CODECS` at a level of compression of libsndfile, 0 to 1.

    Encoders clip above full scale, so that louder sound is turned down before, and up again behind.
    """
    import soxr

    form, subtype, _ = CODECS[name]
    rate = _OPUS_RATE if name == "opus" else sample_rate
    loud = max(1.0, float(np.abs(waveform).max(initial=0)))
    samples = np.ascontiguousarray(waveform.T) / np.float32(loud)
    if rate != sample_rate:
        samples = soxr.resample(samples, sample_rate, rate, quality="LQ")
    options: dict[str, Any] = {"bitrate_mode": "CONSTANT"} if name == "mp3" else {}
    file = io.BytesIO()
    with soundfile.SoundFile(
        file, "w", rate, samples.shape[1], format=form, subtype=subtype, compression_level=level, **options
    ) as encoder:
        for start in range(0, len(samples), _WRITTEN):
            encoder.write(samples[start : start + _WRITTEN])
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32", always_2d=True)
    if rate != sample_rate:
        decoded = soxr.resample(decoded, rate, sample_rate, quality="LQ")
    return fit(np.ascontiguousarray(decoded.T, dtype=np.float32) * np.float32(loud), waveform.shape[1])
