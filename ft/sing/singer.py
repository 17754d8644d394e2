"""The sound of singing: the frames of a recording in the order of a score, at the pitch of a melody.

Where a consonant has no pitch it is the recording itself, not its resynthesis.
"""

from __future__ import annotations

import numpy as np

from ft.sing.pitch import Style, pitch_cents
from ft.sing.score import Score, write_score
from ft.sing.voice import FRAME_SECONDS, Voice, analyse, load_world

PEAK = 0.89
# Where the energy of held notes lies in produced singing: edges in Hz, and dB of the whole in each band (voiced frames
# of lead vocals and solo recordings). Speech of the same loudness has less above 1 kHz.
BAND_EDGES_HZ = (80, 300, 1000, 2000, 3000, 5000, 8000, 12000, 16000)
BAND_DB = (-5.0, -2.0, -11.0, -20.0, -24.0, -24.0, -26.0, -36.0)
MOST_BOOST_DB, MOST_CUT_DB = 12.0, 5.0
SONG_SECONDS, EXCERPT_SECONDS = 30.0, 25.0
LEAST_SYLLABLES, LEAST_TREBLE_DB = 8, -48.0


def sing_songs(recording: np.ndarray, sample_rate: int, seconds: float, seed: int) -> np.ndarray:
    """Half a minute of one song after another, each with its own style and its own part of a mono recording.

    Returns:
        `(samples,)` float32, about `seconds` long, peak 0.89; empty where the recording cannot be sung with, because it
        has too few syllables or next to nothing above 8 kHz.
    """
    if _treble_db(recording, sample_rate) < LEAST_TREBLE_DB:
        return np.zeros(0, np.float32)
    rng = np.random.default_rng(seed)
    songs = max(1, round(seconds / SONG_SECONDS))
    excerpt = min(round(EXCERPT_SECONDS * sample_rate), len(recording))
    sung = []
    for _ in range(songs):
        start = int(rng.integers(0, len(recording) - excerpt + 1))
        voice = analyse(recording[start : start + excerpt], sample_rate)
        sung.append(sing(voice, seconds / songs, rng))
    return np.concatenate(sung)


def sing(voice: Voice, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """One song of at least `seconds` with the syllables of `voice`; empty where it has fewer than eight.

    Returns:
        `(samples,)` float32 at the rate of the voice, peak 0.89.
    """
    if len(voice.syllables) < LEAST_SYLLABLES:
        return np.zeros(0, np.float32)
    style = Style.drawn(rng)
    spoken = 12 * np.log2(np.median(voice.f0[voice.f0 > 0]) / 440) + 69
    centre = float(np.clip(spoken + rng.uniform(2, 11 if spoken < 52 else 8), 45, 74))
    score = write_score(voice, seconds, centre, rng)
    source = np.concatenate(score.source)
    level = _smooth(np.concatenate(score.level), 9)
    envelope, aperiodicity, voiced = _frames(voice, source, rng)
    f0 = 440 * 2 ** ((pitch_cents(score, style, rng) / 100 - 69) / 12) * voiced
    envelope = _shaped(envelope, style, voiced, voice.sample_rate)
    envelope *= 10 ** (level / 10)[:, None]
    world = load_world()
    sung = world.synthesize(
        f0,
        np.ascontiguousarray(envelope),
        np.ascontiguousarray(np.clip(aperiodicity**style.breath, 1e-6, 1 - 1e-6)),
        voice.sample_rate,
        FRAME_SECONDS * 1000,
    )
    sung = with_consonants(sung, voice, source, level, voiced)
    sung += _breaths(score, len(sung), voice.sample_rate, rng) * np.sqrt(np.mean(sung**2))
    return (sung * (PEAK / np.abs(sung).max())).astype(np.float32)


def _treble_db(recording: np.ndarray, sample_rate: int) -> float:
    """The share of 8 to 12 kHz in the energy of a recording."""
    blocks = recording[: len(recording) // 2048 * 2048].reshape(-1, 2048)
    power = np.square(np.abs(np.fft.rfft(blocks * np.hanning(2048)))).sum(axis=0)
    frequencies = np.fft.rfftfreq(2048, 1 / sample_rate)
    treble = power[(frequencies >= 8000) & (frequencies < 12000)].sum()
    return float(10 * np.log10((treble + 1e-20) / (power.sum() + 1e-20)))


def _frames(voice: Voice, source: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Envelope, aperiodicity and voicing of each frame that is sung."""
    rest = np.isnan(source)
    at = np.where(rest, 0.0, source)
    lower = np.clip(np.floor(at).astype(int), 0, len(voice.f0) - 1)
    upper = np.minimum(lower + 1, len(voice.f0) - 1)
    share = (at - np.floor(at))[:, None]
    envelope = np.exp(
        (1 - share) * np.log(voice.envelope[lower] + 1e-16) + share * np.log(voice.envelope[upper] + 1e-16)
    )
    aperiodicity = (1 - share) * voice.aperiodicity[lower] + share * voice.aperiodicity[upper]
    envelope[rest] = 1e-16
    aperiodicity[rest] = 1.0
    # No frame of a throat is like the one before: a slow ripple of 1.5 dB over time and frequency.
    knots = _smooth_rows(rng.standard_normal((len(source), 24)), 9)
    bins = np.linspace(0, 1, envelope.shape[1]) ** 0.5 * (knots.shape[1] - 1)
    left = np.minimum(bins.astype(int), knots.shape[1] - 2)
    ripple = knots[:, left] * (1 - (bins - left)) + knots[:, left + 1] * (bins - left)
    envelope *= 10 ** (0.15 * ripple)
    return envelope, aperiodicity, (voice.f0[lower] > 0) & ~rest


def _smooth_rows(noise: np.ndarray, width: int) -> np.ndarray:
    total = np.cumsum(np.pad(noise, ((width, 0), (0, 0))), axis=0)
    rows = (total[width:] - total[:-width]) / width
    return rows / rows.std()


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    return np.convolve(np.pad(values, width // 2, mode="edge"), np.ones(width) / width, mode="valid")


def _shaped(envelope: np.ndarray, style: Style, voiced: np.ndarray, sample_rate: int) -> np.ndarray:
    """Moves the formants, and adds effort and the singer's formant to voiced frames."""
    bins = envelope.shape[1]
    at = np.clip(np.arange(bins) / style.formants, 0, bins - 1)
    lower = np.minimum(at.astype(int), bins - 2)
    share = at - lower
    logarithm = np.log(envelope[voiced])
    warped = np.exp((1 - share) * logarithm[:, lower] + share * logarithm[:, lower + 1])
    frequencies = np.linspace(0, sample_rate / 2, bins)
    shaped = envelope.copy()
    shaped[voiced] = warped * 10 ** (_sung_gain_db(warped, frequencies, style) / 10)
    return shaped


def _sung_gain_db(envelope: np.ndarray, frequencies: np.ndarray, style: Style) -> np.ndarray:
    """What brings the mean of spoken vowels to the spectrum of sung ones, for each bin."""
    mean = envelope.mean(axis=0)
    centres, gains = [], []
    for low, high, wanted in zip(BAND_EDGES_HZ, BAND_EDGES_HZ[1:], BAND_DB, strict=False):
        inside = (frequencies >= low) & (frequencies < high)
        octaves = max(0.0, float(np.log2(np.sqrt(low * high) / 1000)))
        found = 10 * np.log10(mean[inside].sum() / mean.sum())
        centres.append(np.sqrt(low * high))
        gains.append(wanted + style.effort_db * octaves - found if low >= 1000 else 0.0)
    gain = np.interp(np.log(np.maximum(frequencies, 1)), np.log(centres), np.clip(gains, -MOST_CUT_DB, MOST_BOOST_DB))
    return gain + style.ring_db * np.exp(-(((frequencies - 3000) / 600) ** 2))


def with_consonants(
    sung: np.ndarray, voice: Voice, source: np.ndarray, level: np.ndarray, voiced: np.ndarray
) -> np.ndarray:
    """Puts the recording itself where it runs at its own pace and has no pitch, so hisses and bursts stay sharp."""
    rate = voice.sample_rate
    steady = np.concatenate([np.isclose(np.diff(source), 1.0), [False]]) & ~voiced & ~np.isnan(source)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], steady.astype(int), [0]])))
    fade = round(0.004 * rate)
    ramp = np.sin(np.linspace(0, np.pi / 2, fade)) ** 2
    sung = sung.copy()
    for start, end in edges.reshape(-1, 2):
        if end - start < 3:
            continue
        first = round(start * FRAME_SECONDS * rate)
        origin = round(source[start] * FRAME_SECONDS * rate)
        length = min(round((end - start) * FRAME_SECONDS * rate), len(sung) - first, len(voice.waveform) - origin)
        if length < 2 * fade:
            continue
        weight = np.ones(length)
        weight[:fade] = ramp
        weight[-fade:] = ramp[::-1]
        gain = 10 ** (np.interp(np.arange(length), [0, length - 1], level[[start, end - 1]]) / 20)
        piece = voice.waveform[origin : origin + length] * gain
        sung[first : first + length] = sung[first : first + length] * np.sqrt(1 - weight**2) + piece * weight
    return sung


def _breaths(score: Score, samples: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Breathing in at the end of some rests, for a voice of unit power."""
    out = np.zeros(samples)
    for start, end in score.rests:
        length = round(min((end - start) * FRAME_SECONDS, rng.uniform(0.2, 0.45)) * rate)
        if rng.random() < 0.4 or length < 0.15 * rate:
            continue
        spectrum = np.fft.rfft(rng.standard_normal(length))
        frequencies = np.fft.rfftfreq(length, 1 / rate)
        tract = sum(np.exp(-(((frequencies - f) / w) ** 2)) for f, w in ((1500, 500), (2800, 700), (5500, 2500)))
        noise = np.fft.irfft(spectrum * (tract + 0.05 * (frequencies > 500)), length)
        shape = np.sin(np.pi * np.linspace(0, 1, length) ** 1.2) ** 2
        stop = min(round(end * FRAME_SECONDS * rate), samples)
        gain = 10 ** (rng.uniform(-38, -24) / 20)
        out[stop - length : stop] += gain * noise / np.sqrt(np.mean(noise**2)) * shape
    return out
