"""The sound of one singer: the frames of a recording in the order of a score, at the pitch of a melody.

Where a consonant has no pitch it is the recording itself, not its resynthesis.
"""

from __future__ import annotations

import numpy as np

from ft.sing.pitch import pitch_cents, wander
from ft.sing.score import Score
from ft.sing.style import Style
from ft.sing.voice import FRAME_SECONDS, Voice, load_world, smooth

# Where the energy of held notes lies in produced singing: edges in Hz, and dB of the whole in each band (voiced frames
# of lead vocals and solo recordings). Speech of the same loudness has less from 1 to 5 kHz.
BAND_EDGES_HZ = (80, 300, 1000, 2000, 3000, 5000, 8000, 12000, 16000)
BAND_DB = (-5.0, -2.0, -11.0, -20.0, -24.0, -31.0, -35.0, -43.0)
MOST_BOOST_DB, MOST_CUT_DB = 12.0, 8.0
SILENCE_DB = -160.0


def render(voice: Voice, score: Score, style: Style, rng: np.random.Generator, chord: int | None = None) -> np.ndarray:
    """One singer alone and dry, `(samples,)` at the rate of the voice, of the loudness of the recording.

    Args:
        chord: which of the notes' other pitches is sung instead of the melody.
    """
    source = np.concatenate(score.source)
    rest = np.isnan(source)
    at = np.where(rest, 0.0, source)
    lower = np.clip(np.floor(at).astype(int), 0, len(voice.f0) - 1)
    upper = np.minimum(lower + 1, len(voice.f0) - 1)
    share = (at - np.floor(at)).astype(np.float32)[:, None]
    voiced = (voice.f0[lower] > 0) & ~rest
    cents = pitch_cents(score, style, rng, chord) + _intonation(voice, lower, voiced, style)
    level = _levels(score, style, rng)
    creak = _creak(score, style, rng)
    f0 = 440 * 2 ** ((cents / 100 - 69) / 12) * voiced * creak
    level = level - 5.0 * (creak != 1)

    envelope = voice.envelope_db[lower] * (1 - share) + voice.envelope_db[upper] * share
    envelope = _moved(envelope, style.formants)
    frequencies = np.linspace(0, voice.sample_rate / 2, envelope.shape[1])
    if voiced.any():
        envelope[voiced] += _sung_gain_db(envelope[voiced], frequencies, style).astype(np.float32)
    envelope += _ripple(len(source), envelope.shape[1], rng)
    octaves = np.clip(np.log2(np.maximum(frequencies, 1) / 1000), 0, 3.5)
    envelope += (style.effort_slope * level)[:, None].astype(np.float32) * octaves.astype(np.float32)
    envelope += level[:, None].astype(np.float32)
    aperiodicity = voice.aperiodicity[lower] * (1 - share) + voice.aperiodicity[upper] * share
    airy = np.clip(np.log2(np.maximum(frequencies, 1) / 3000) / np.log2(10 / 3), 0, 1)
    aperiodicity = np.maximum(aperiodicity**style.breath, style.air * airy)
    if style.mode == "whisper":
        f0 = f0 * 0
        aperiodicity[:] = 1.0
        envelope += (-14 * np.clip(1 - frequencies / 1500, 0, 1) - 6).astype(np.float32)
    envelope[rest], aperiodicity[rest] = SILENCE_DB, 1.0
    sung: np.ndarray = load_world().synthesize(
        f0,
        np.exp(envelope * np.float32(np.log(10) / 10)).astype(np.float64),
        np.ascontiguousarray(np.clip(aperiodicity, 1e-6, 1 - 1e-6), dtype=np.float64),
        voice.sample_rate,
        FRAME_SECONDS * 1000,
    )
    return with_consonants(sung, voice, source, level + style.hiss_db, voiced)


def _moved(envelope: np.ndarray, factor: float) -> np.ndarray:
    """Gives the envelope (dB) of a throat `1 / factor` as long."""
    if abs(factor - 1) < 0.002:
        return envelope
    bins = envelope.shape[1]
    at = np.clip(np.arange(bins) / factor, 0, bins - 1)
    lower = np.minimum(at.astype(int), bins - 2)
    share = (at - lower).astype(np.float32)
    return np.take(envelope, lower, axis=1) * (1 - share) + np.take(envelope, lower + 1, axis=1) * share


def _intonation(voice: Voice, lower: np.ndarray, voiced: np.ndarray, style: Style) -> np.ndarray:
    """What is kept of the recording's own pitch, in cents: all of its shape in a verse, else what is fast in it."""
    spoken = voice.f0 > 0
    if not spoken.any() or not style.inflection:
        return np.zeros(len(lower))
    frames = np.arange(len(voice.f0))
    cents = np.interp(frames, frames[spoken], 1200 * np.log2(voice.f0[spoken]))
    slow = np.full(len(cents), np.median(cents[spoken])) if style.mode == "verse" else smooth(cents, 31)
    most = 500.0 if style.mode == "verse" else 60.0
    return style.inflection * np.clip(cents - slow, -most, most)[lower] * voiced


def _levels(score: Score, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Loudness of each frame in dB: of the syllables, of the shape of each note, and shimmer."""
    level = smooth(np.concatenate(score.level), 9)
    for note in score.notes:
        place = np.linspace(0, 1, note.end - note.start)
        if len(place) > 80:
            swell, fall = rng.uniform(-0.5, 1) * style.dynamics_db, rng.uniform(0, 1) * style.dynamics_db
            level[note.start : note.end] += swell * np.sin(np.pi * place) - fall * place
    return level + style.shimmer_db * wander(score.frames, 0.03, rng)


def _creak(score: Score, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Factor on F0: half of it and irregular where the voice creaks, at ends of phrases, or here and there."""
    factor = np.ones(score.frames)
    often = 0.5 if style.mode == "creaky" else 0.04
    for index, note in enumerate(score.notes):
        last = index + 1 == len(score.notes) or score.notes[index + 1].start in score.starts
        if rng.random() < (often if last else 0.4 * often) and note.cents < 6600:
            start = note.end - int(rng.uniform(0.2, 0.5) * (note.end - note.start))
            factor[start : note.end] = 0.5 * np.exp(rng.normal(0, 0.06, note.end - start))
    return factor


def _ripple(frames: int, bins: int, rng: np.random.Generator) -> np.ndarray:
    """No frame of a throat is like the one before: a ripple of dB over time and frequency, slow and fast."""
    at = np.linspace(0, 1, bins) ** 0.5
    total = np.zeros((frames, bins), np.float32)
    for knots, width, size in ((24, 9, 1.5), (64, 4, 1.0)):
        noise = np.cumsum(np.pad(rng.standard_normal((frames, knots), dtype=np.float32), ((width, 0), (0, 0))), axis=0)
        rows = (noise[width:] - noise[:-width]) * np.float32(size / np.sqrt(width))
        hats = np.maximum(1 - np.abs(at * (knots - 1) - np.arange(knots)[:, None]), 0)  # linear interpolation
        total += rows @ hats.astype(np.float32)
    return total


def _sung_gain_db(envelope_db: np.ndarray, frequencies: np.ndarray, style: Style) -> np.ndarray:
    """Gives what brings the mean of recorded vowels to the spectrum of sung ones, for each bin."""
    mean = np.exp(envelope_db * np.float32(np.log(10) / 10)).mean(axis=0).astype(np.float64)
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


def breaths(score: Score, samples: int, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Breathing in at the end of some rests, for a voice of unit power, `(samples,)`."""
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
        gain = 10 ** (rng.uniform(-38, -22) / 20)
        out[stop - length : stop] += gain * noise / np.sqrt(np.mean(noise**2)) * shape
    return out
