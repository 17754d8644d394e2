"""The metrics of `ft evaluate`: their definitions, and all of them for one song."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ft.errors import ConfigError
from ft.metrics import BssReferences, bleedless_fullness, l1_freq, log_frequency_l1, mel_levels, sdr, si_sdr
from ft.stems import SILENT_PEAK, STEMS

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Metric:
    """What a figure is."""

    title: str
    unit: Literal["dB", "0-100"]
    better: Literal["higher", "lower"]
    definition: str


_ERRATIC = "of BSSEval v4, as v4_sdr; erratic for stems of a limited band, as museval's"
_DEFINITIONS: dict[str, tuple[str, Literal["dB", "0-100"], str]] = {
    "sdr": (
        "SDR",
        "dB",
        "global signal-to-distortion ratio: 10 log10 of the reference's energy over the error's, over the whole song "
        "and all channels at once, 1e-10 added to both (Music Demixing Challenge 2021; MSST's sdr)",
    ),
    "si_sdr": (
        "SI-SDR",
        "dB",
        "scale-invariant SDR (Le Roux et al. 2019): as sdr, with the reference scaled to be the projection of the "
        "estimate on it, one factor for all channels, mean not removed",
    ),
    "v4_sdr": (
        "v4 SDR",
        "dB",
        "BSSEval v4 as museval: median over windows of 1 s, hop 1 s, of the image SDR of vocals and instrumental, "
        "of others among all but the instrumental, filters of 512 samples of the whole song; windows in which a "
        "reference or an estimate is silent do not count",
    ),
    "v4_isr": ("v4 ISR", "dB", f"image-to-spatial-distortion ratio {_ERRATIC}"),
    "v4_sir": ("v4 SIR", "dB", f"signal-to-interference ratio {_ERRATIC}"),
    "v4_sar": ("v4 SAR", "dB", f"signal-to-artifacts ratio {_ERRATIC}"),
    "v3_sdr": (
        "v3 SDR",
        "dB",
        "BSSEval v3 as mir_eval's bss_eval_sources without permutation: SDR of the whole song with filters of 512 "
        "samples, of stems as in v4_sdr, mixed down to one channel (the mean)",
    ),
    "v3_sir": ("v3 SIR", "dB", "signal-to-interference ratio of BSSEval v3, as v3_sdr"),
    "v3_sar": ("v3 SAR", "dB", "signal-to-artifacts ratio of BSSEval v3, as v3_sdr"),
    "l1_freq": (
        "L1 freq",
        "0-100",
        "MSST's l1_freq: 100 / (1 + 10 d), d the mean absolute difference of STFT magnitudes (n_fft 2048, hop 1024, no "
        "window function)",
    ),
    "log_frequency_l1": (
        "log-f L1",
        "dB",
        "mean absolute difference in dB of the 512 mel bands that bleedless and fullness take, all of them",
    ),
    "bleedless": (
        "bleedless",
        "0-100",
        "MSST's bleedless: 100 / (1 + d), d the mean in dB by which mel bands (512, n_fft 4096, hop 1024, floor 80 dB "
        "below the peak) are louder than the reference's, over those that are",
    ),
    "fullness": ("fullness", "0-100", "MSST's fullness: as bleedless, over the bands that are quieter"),
}
METRICS = {
    name: Metric(title, unit, "lower" if name == "log_frequency_l1" else "higher", definition)
    for name, (title, unit, definition) in _DEFINITIONS.items()
}
"""Holds the metrics by their names in the JSON."""

SHOWN = ("sdr", "si_sdr", "v4_sdr", "v3_sdr", "v3_sir", "l1_freq", "log_frequency_l1", "bleedless", "fullness")
"""The table has these where nothing else was asked for; the JSON has all. The ratios of version 4 other than its SDR
hang on filters that stems of a limited band leave undetermined, and windows cut their tails off: museval gives the
ideal mask an SIR of -2 dB on such a song, and so do we."""


def check_metrics(text: str) -> tuple[str, ...]:
    """The metrics of a list with commas, in their order; `all` stands for all, case for nothing. Raises ConfigError."""
    names = [name.strip().lower() for name in text.split(",")]
    for name in names:
        if name not in (*METRICS, "all"):
            raise ConfigError(f"`metrics` {name}: no such metric; expected all or some of {', '.join(METRICS)}")
    return tuple(METRICS) if "all" in names else tuple(name for name in METRICS if name in names)


def shown_metrics(metrics: Sequence[str]) -> list[str]:
    """Gives those that the table and the picture show: all that were asked for, and of everything `SHOWN`."""
    return [name for name in metrics if name in SHOWN] if set(metrics) == set(METRICS) else list(metrics)


@dataclass
class StemScores:
    """What one estimate of one stem got."""

    scores: dict[str, float] = field(default_factory=dict)
    """Finite figures by metric."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Why a metric has none."""
    windows: tuple[int, int] | None = None
    """Counts the windows of BSSEval v4 that count, and all."""


class SongScorer:
    """Scores estimates of one song; what depends on the references alone is computed once.

    Args:
        references: the stems, each (channels, samples).
        metrics: names of `METRICS`.
    """

    def __init__(self, references: Mapping[str, Array], sample_rate: int, metrics: Sequence[str]) -> None:
        self.references, self.sample_rate, self.metrics = references, sample_rate, metrics
        self._silent = {stem: _is_silent(wave) for stem, wave in references.items()}
        self._levels: dict[str, Array] = {}
        self._stacked: dict[tuple[str, tuple[str, ...]], BssReferences] = {}

    def score(self, estimates: Mapping[str, Array], problems: Mapping[str, str]) -> dict[str, StemScores]:
        """The scores of each stem.

        Args:
            estimates: of the references' shapes; some may be missing.
            problems: why the missing ones are.
        """
        results = {}
        for stem in self.references:
            results[stem] = result = StemScores()
            reason = problems.get(stem) or ("the reference is silent" if self._silent[stem] else None)
            if stem not in estimates and reason is None:
                reason = "no estimate"
            if reason is not None:
                result.left_out = dict.fromkeys(self.metrics, reason)
            else:
                self._score_alone(stem, estimates[stem], result)
        self._score_together(estimates, results)
        for result in results.values():
            for name, value in list(result.scores.items()):
                if not math.isfinite(value):
                    del result.scores[name]
                    result.left_out[name] = "infinite: nothing to divide by" if value > 0 else "nothing of the target"
        return results

    def _score_alone(self, stem: str, estimate: Array, result: StemScores) -> None:
        """The metrics that look at one stem."""
        target, wanted = self.references[stem], set(self.metrics)
        if "sdr" in wanted:
            result.scores["sdr"] = sdr(estimate, target)
        if "si_sdr" in wanted:
            if estimate.any():
                result.scores["si_sdr"] = si_sdr(estimate, target)
            else:
                result.left_out["si_sdr"] = "the estimate is silent"
        if "l1_freq" in wanted:
            result.scores["l1_freq"] = l1_freq(estimate, target)
        if wanted & {"log_frequency_l1", "bleedless", "fullness"}:
            if stem not in self._levels:
                self._levels[stem] = mel_levels(target, self.sample_rate)
            levels = mel_levels(estimate, self.sample_rate)
            bleedless, fullness = bleedless_fullness(levels, self._levels[stem])
            found = {"bleedless": bleedless, "fullness": fullness}
            found["log_frequency_l1"] = log_frequency_l1(levels, self._levels[stem])
            result.scores |= {name: value for name, value in found.items() if name in wanted}

    def _score_together(self, estimates: Mapping[str, Array], results: Mapping[str, StemScores]) -> None:
        """The metrics that look at stems together: vocals and instrumental, and the others among all but the latter."""
        others = tuple(stem for stem in self.references if stem in estimates and stem != "instrumental")
        pair = tuple(stem for stem in self.references if stem in STEMS)
        for version in ("v4_", "v3_"):
            names = [name for name in self.metrics if name.startswith(version)]
            for group, stems in ((pair, pair), (others, tuple(stem for stem in others if stem not in STEMS))):
                scored = [stem for stem in stems if names and names[0] not in results[stem].left_out]
                if not scored:
                    continue
                if reason := self._why_not_together(group, estimates):
                    for stem in scored:
                        results[stem].left_out |= dict.fromkeys(names, reason)
                else:
                    self._score_group(version, group, estimates, {stem: results[stem] for stem in scored})

    def _score_group(
        self, version: str, group: tuple[str, ...], estimates: Mapping[str, Array], results: Mapping[str, StemScores]
    ) -> None:
        def stacked(waves: Mapping[str, Array]) -> Array:
            return np.stack([_mixed_down(waves[stem])[None] if version == "v3_" else waves[stem] for stem in group])

        if (version, group) not in self._stacked:
            self._stacked[version, group] = BssReferences(stacked(self.references))
        references, windows = self._stacked[version, group], None
        if version == "v3_":
            found = vars(references.v3(stacked(estimates), permute=False))
        else:
            every = references.v4(stacked(estimates), self.sample_rate, self.sample_rate)
            found, windows = every.medians(), (int((~np.isnan(every.sdr).any(axis=0)).sum()), every.sdr.shape[1])
        for stem, result in results.items():
            result.windows = windows or result.windows
            for name in self.metrics:
                if name.startswith(version):
                    value = float(found[name.removeprefix(version)][group.index(stem)])
                    if math.isnan(value):
                        result.left_out[name] = "no window with sound in all stems"
                    else:
                        result.scores[name] = value

    def _why_not_together(self, group: Sequence[str], estimates: Mapping[str, Array]) -> str | None:
        for stem in group:
            if stem not in estimates:
                return f"BSSEval needs all stems, and there is no {stem}"
            if self._silent[stem] or not _mixed_down(self.references[stem]).any():
                return f"BSSEval needs sound in all stems, and the reference of {stem} is silent"
            if not _mixed_down(estimates[stem]).any():
                return f"BSSEval needs sound in all stems, and the estimate of {stem} is silent"
        return None


def _mixed_down(wave: Array) -> Array:
    return wave.mean(axis=0)


def _is_silent(wave: Array) -> bool:
    return bool(np.abs(wave).max() <= SILENT_PEAK)
