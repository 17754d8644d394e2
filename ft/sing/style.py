"""How somebody sings, drawn once per song, and who else sings along."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ft.sing.melody import CHORD

MODES = ("sung", "verse", "breathy", "creaky", "whisper")
MODE_SHARES = (0.74, 0.12, 0.07, 0.04, 0.03)


@dataclass(frozen=True)
class Style:
    """How somebody sings.

    Attributes:
        mode: one of `MODES`; a verse is rhythmic speech.
        formants: factor on the frequencies of the envelope, 0.85 (a longer throat) to 1.2.
        onset_hz: natural frequency of the step from note to note.
        damping: below 1 overshoots.
        vibrato_cents, vibrato_hz: how deep and fast the vibrato of long notes is.
        drift_cents: size of slow wandering off the note.
        jitter_cents: size of the change from one 5 ms to the next.
        shimmer_db: size of the change of loudness within 30 ms.
        inflection: share of the recording's own intonation that is kept.
        ring_db: boost around 3 kHz, the singer's formant.
        effort_db: more (or less) above 1 kHz than usual, per octave.
        effort_slope: dB per octave above 1 kHz that each dB of loudness adds: who sings louder sings brighter.
        hiss_db: gain of consonants without pitch.
        breath: exponent on aperiodicity, below 1 is breathier.
        air: least share of noise at 10 kHz in voiced frames.
        dynamics_db: how much notes differ in loudness.
    """

    mode: str = "sung"
    formants: float = 1.0
    onset_hz: float = 6.0
    damping: float = 0.7
    vibrato_cents: float = 0.0
    vibrato_hz: float = 5.5
    drift_cents: float = 0.0
    jitter_cents: float = 0.0
    shimmer_db: float = 0.0
    inflection: float = 0.0
    scoop_share: float = 0.0
    scoop_cents: float = 0.0
    ring_db: float = 0.0
    effort_db: float = 0.0
    effort_slope: float = 0.0
    hiss_db: float = 0.0
    breath: float = 1.0
    air: float = 0.0
    dynamics_db: float = 0.0

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> Style:
        mode = str(rng.choice(MODES, p=MODE_SHARES))
        tuned = rng.random() < 0.3  # as after pitch correction
        breath = {"breathy": rng.uniform(0.25, 0.5)}.get(mode, rng.uniform(0.6, 1.2))
        return cls(
            mode=mode,
            formants=float(np.exp(rng.uniform(np.log(0.85), np.log(1.2)))) if rng.random() < 0.6 else 1.0,
            onset_hz=float(rng.uniform(8, 14) if tuned else rng.uniform(3.5, 7)),
            damping=float(rng.uniform(0.8, 1.0) if tuned else rng.uniform(0.5, 0.8)),
            vibrato_cents=float(rng.choice([0, 25, 50, 85], p=[0.2, 0.35, 0.3, 0.15]) * rng.uniform(0.7, 1.2)),
            vibrato_hz=float(rng.uniform(4.8, 6.6)),
            drift_cents=float(rng.uniform(1, 4) if tuned else rng.uniform(6, 18)),
            jitter_cents=float(rng.uniform(1, 4) if tuned else rng.uniform(3, 12)),
            shimmer_db=float(rng.uniform(0.3, 1.2)),
            inflection=float(rng.uniform(0.3, 0.8) if mode == "verse" else rng.uniform(0.0, 0.2)),
            scoop_share=float(rng.uniform(0.1, 0.5)),
            scoop_cents=float(rng.uniform(60, 250)),
            ring_db=float(rng.uniform(0, 5)),
            effort_db=float(rng.normal(0, 1.8)),
            effort_slope=float(rng.uniform(0.1, 0.4)),
            hiss_db=float(rng.uniform(1, 9)),
            breath=float(breath),
            air=float(rng.uniform(0.1, 0.6)),
            dynamics_db=float(rng.uniform(1, 4)),
        )

    def alike(self, rng: np.random.Generator, apart: float) -> Style:
        """Somebody who sings along: the same singer again, or, the more `apart` (0 to 1), another one."""
        return replace(
            self,
            formants=float(np.clip(self.formants * np.exp(rng.normal(0, 0.01 + 0.08 * apart)), 0.8, 1.25)),
            onset_hz=self.onset_hz * float(rng.uniform(0.8, 1.25)),
            vibrato_cents=self.vibrato_cents * float(rng.uniform(0.4, 1.2)),
            vibrato_hz=self.vibrato_hz * float(rng.uniform(0.93, 1.07)),
            drift_cents=self.drift_cents + float(rng.uniform(2, 8)),
            hiss_db=self.hiss_db - float(rng.uniform(0, 8)),  # doubles leave their consonants to the lead
            breath=self.breath * float(rng.uniform(0.7, 1.0)),
        )


@dataclass(frozen=True)
class Part:
    """One of those who sing at once.

    Attributes:
        chord: index into `CHORD` of what is sung instead of the melody, or None.
        pan: -1 left to 1 right.
        late_seconds: how far apart from the others it may sing, half the range.
    """

    style: Style
    chord: int | None
    gain_db: float
    pan: float
    late_seconds: float


def draw_parts(style: Style, rng: np.random.Generator) -> list[Part]:
    """Alone, doubled left and right, in harmony, or a choir."""
    kind = str(rng.choice(["alone", "double", "wide", "harmony", "choir"], p=[0.46, 0.12, 0.2, 0.16, 0.06]))
    lead = Part(style, None, 0.0, 0.0, 0.0)
    if kind == "alone":
        return [lead]
    if kind == "double":
        return [lead, Part(style.alike(rng, 0), None, float(rng.uniform(-9, -2)), float(rng.uniform(-0.3, 0.3)), 0.02)]
    if kind == "wide":
        gain, pan = float(rng.uniform(-8, 2)), float(rng.uniform(0.6, 1.0))
        return [lead] + [Part(style.alike(rng, 0.1), None, gain, side * pan, 0.025) for side in (-1, 1)]
    if kind == "harmony":
        gain = float(rng.uniform(-10, -2))
        chords = rng.permutation(len(CHORD))[: int(rng.integers(1, 3))]
        pans = rng.uniform(0.2, 0.9, len(chords)) * (-1) ** np.arange(len(chords))
        return [lead] + [
            Part(style.alike(rng, 0.3), int(chord), gain, float(pan), 0.03)
            for chord, pan in zip(chords, pans, strict=True)
        ]
    size = int(rng.integers(4, 6))
    voices = [None if rng.random() < 0.5 else int(rng.integers(len(CHORD))) for _ in range(size)]
    return [
        Part(style.alike(rng, 1), chord, float(rng.uniform(-3, 0)), float(pan), 0.045)
        for chord, pan in zip(voices, np.linspace(-0.9, 0.9, size), strict=True)
    ]
