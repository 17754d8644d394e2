"""Evaluation: songs with true stems through separators and baselines, and what each of them scores.

A song at a time, read whole: while one is scored, it, its stems and one estimate of each are in memory.
"""

from __future__ import annotations

import logging
import statistics
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ft.config import AudioConfig
from ft.errors import AudioError, ConfigError, EngineError, one_line
from ft.evaluation.baselines import ideal_mask, repet_sim, silence, the_mixture
from ft.evaluation.scores import METRICS, SongScorer, StemScores
from ft.evaluation.songs import (
    Array,
    Estimates,
    Made,
    SongFolder,
    SongSound,
    find_estimates,
    find_song_folders,
    read_estimates,
    read_song,
)
from ft.files import FP32_MODEL, model_path
from ft.separate.separator import Separator, model_name
from ft.stems import STEMS

logger = logging.getLogger(__name__)

LEAST_RESIDUAL_DB = 30.0
"""A mixture of which its stems miss more than lies this far below it is not their sum."""
BASELINES = ("silence", "mixture", "repet-sim", "ideal-ratio-mask", "ideal-phase-mask")


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What is evaluated, and how.

    Raises:
        ConfigError: an unknown baseline, metric or stem, or a negative tolerance.
    """

    models: Sequence[str] = ()
    """Models, one row each; the shipped one in float32 where there are no estimates either."""
    estimates: Sequence[Path] = ()
    """Folders of stems that something else wrote, one row each."""
    length_tolerance: int = 0
    """Samples by which these may be longer or shorter than the song: their ends are cut, or silent."""
    metrics: Sequence[str] = tuple(METRICS)
    stems: Sequence[str] = STEMS
    baselines: Sequence[str] = BASELINES
    device: str = "auto"
    runtime: str = "auto"

    def __post_init__(self) -> None:
        known = {"metrics": METRICS, "stems": STEMS, "baselines": BASELINES}
        for name, values in known.items():
            for value in getattr(self, name):
                if value not in values:
                    raise ConfigError(f"{name}: '{value}', expected some of {', '.join(values)}")
            if not getattr(self, name) and name != "baselines":
                raise ConfigError(f"{name}: none; expected some of {', '.join(values)}")
        if self.length_tolerance < 0:
            raise ConfigError(f"length_tolerance: {self.length_tolerance}; expected 0 samples or more")


@dataclass(frozen=True)
class RowInfo:
    """What a row of the table is."""

    name: str
    kind: Literal["baseline", "engine", "estimates"]
    definition: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass
class SongResult:
    """What became of one song."""

    name: str
    path: Path
    error: str | None = None
    sample_rate: int | None = None
    channels: int | None = None
    samples: int | None = None
    residual_db: float | None = None
    wall_seconds: float = 0.0
    rows: dict[str, dict[str, StemScores]] = field(default_factory=dict)
    """Scores of each row and stem."""
    made: Made | None = None
    """Says which files its stems were made of."""
    estimates: dict[str, Made] = field(default_factory=dict)
    """Says which files the stems of each row were made of that something else wrote."""
    problems: list[str] = field(default_factory=list)
    """Estimates that are missing or do not fit, each with its row."""
    notes: list[str] = field(default_factory=list)
    """What makes its figures less than they seem."""

    @property
    def failed(self) -> bool:
        return self.error is not None or bool(self.problems)


@dataclass
class Evaluation:
    """All of a run; `ft.evaluation.report` makes text and JSON of it."""

    options: EvaluateOptions
    rows: list[RowInfo]
    found: int
    """Songs that there are to do."""
    songs: list[SongResult] = field(default_factory=list)
    interrupted: bool = False

    @property
    def failed(self) -> list[SongResult]:
        """Songs that could not be read, and those of which an estimate is missing or does not fit."""
        return [song for song in self.songs if song.failed]

    def values(self, row: str, stem: str, metric: str) -> list[float]:
        """The figures of all songs that have one."""
        scores = (song.rows[row][stem].scores for song in self.songs if song.error is None and row in song.rows)
        return [each[metric] for each in scores if metric in each]

    def aggregate(self, row: str, stem: str, metric: str) -> dict[str, Any]:
        """`n` songs with a figure, those `left_out`, and over the n their `mean` and `median`; None where n is 0."""
        values = self.values(row, stem, metric)
        known = {"n": len(values), "left_out": len(self.songs) - len(values), "mean": None, "median": None}
        return known if not values else {**known, "mean": statistics.fmean(values), "median": statistics.median(values)}


class Row(ABC):
    """Something that gives estimates of songs."""

    info: RowInfo

    @abstractmethod
    def estimate(self, song: SongFolder, sound: SongSound) -> Estimates:
        """Its stems of a song. Raises AudioError or EngineError."""


class _Baseline(Row):
    def __init__(self, info: RowInfo, estimate: Callable[[SongSound], dict[str, Array]]) -> None:
        self.info, self._estimate = info, estimate

    def estimate(self, song: SongFolder, sound: SongSound) -> Estimates:
        return Estimates(self._estimate(sound))


class _EngineRow(Row):
    def __init__(self, name: str, model: str, separator: Separator) -> None:
        self._separator = separator
        engine, plan = separator.engine.describe(), separator.plan
        self.info = RowInfo(
            name,
            "engine",
            f"{engine.name} on {engine.device}, {engine.precision}",
            {
                "model": model,
                "sha256": _digest(Path(engine.model)),
                "engine": engine.name,
                "device": engine.device,
                "precision": engine.precision,
                "version": engine.version,
                "window_frames": {"frames": plan.frames, "context": plan.context, "fade": plan.fade},
                "config": separator.config.to_dict(),
            },
        )

    def estimate(self, song: SongFolder, sound: SongSound) -> Estimates:
        self._separator.ready()
        return Estimates(self._separator.separate(sound.mixture, sound.sample_rate))


class _EstimatesRow(Row):
    def __init__(self, name: str, folder: Path, alone: bool, tolerance: float) -> None:
        self.info = RowInfo(name, "estimates", f"stems in {folder}", {"folder": str(folder)})
        self._folder, self._alone, self._tolerance = folder, alone, tolerance

    def estimate(self, song: SongFolder, sound: SongSound) -> Estimates:
        return read_estimates(self._folder, song, sound, self._alone, self._tolerance)


def evaluate(
    folders: Sequence[Path],
    options: EvaluateOptions | None = None,
    progress: Callable[[float], object] | None = None,
) -> Evaluation:
    """Scores every row on every song below the folders; a song that fails is named and the others go on.

    An interruption ends it early, with what was done so far.

    Args:
        progress: called with the share that is done.
    Raises:
        AudioError: no such folder, no song in one, or estimates of none of the songs.
        ConfigError: wrong options.
        CheckpointError, EngineError: a model that cannot be opened.
    """
    options = options or EvaluateOptions()
    songs = find_song_folders(folders)
    with _opened(options, songs) as rows:
        evaluation = Evaluation(options, [row.info for row in rows], len(songs))
        try:
            for index, song in enumerate(songs):

                def share(done: float, index: int = index) -> None:
                    if progress is not None:
                        progress((index + done) / len(songs))

                result = _evaluate_song(song, rows, options, share)
                evaluation.songs.append(result)
                took = f"{result.wall_seconds:.1f} s" + ", failed" * result.failed
                logger.info("%s: song %d of %d, %s", song.name, index + 1, len(songs), took)
                share(1.0)
        except KeyboardInterrupt:
            evaluation.interrupted = True
    return evaluation


def _evaluate_song(
    song: SongFolder, rows: Sequence[Row], options: EvaluateOptions, share: Callable[[float], None]
) -> SongResult:
    result, start = SongResult(song.name, song.path), time.perf_counter()
    try:
        sound = read_song(song.path)
    except (AudioError, MemoryError) as error:
        result.error = str(error) or f"{song.path}: {type(error).__name__} while it was read"
        return result
    result.sample_rate, result.residual_db = sound.sample_rate, sound.residual_db
    result.channels, result.samples = sound.mixture.shape
    result.made = sound.made
    if sound.residual_db < LEAST_RESIDUAL_DB and sound.mixture.any():
        result.notes.append(
            f"the mixture is not the sum of its stems: what they miss is {-sound.residual_db:+.0f} dB of it, expected "
            f"{-LEAST_RESIDUAL_DB:.0f} or less; stems that add up to it cannot be right, and score less"
        )
    try:
        _score_rows(song, sound, rows, options, result, share)
    except MemoryError:
        result.rows, result.error = {}, f"{song.path}: too little memory to score it"
    result.wall_seconds = time.perf_counter() - start
    return result


def _score_rows(
    song: SongFolder,
    sound: SongSound,
    rows: Sequence[Row],
    options: EvaluateOptions,
    result: SongResult,
    share: Callable[[float], None],
) -> None:
    scorer = SongScorer(sound.stems, sound.sample_rate, options.metrics)
    for number, row in enumerate(rows):
        try:
            found = row.estimate(song, sound)
        except (AudioError, EngineError, MemoryError) as error:
            found = Estimates({}, dict.fromkeys(STEMS, one_line(error) or type(error).__name__))
        if found.made.files:
            result.estimates[row.info.name] = found.made
        estimates, problems = found.stems, found.problems
        for stem in [stem for stem, wave in estimates.items() if not np.isfinite(wave).all()]:
            del estimates[stem]
            problems[stem] = f"{stem}: values that are not finite"
        for problem in dict.fromkeys(problems[stem] for stem in options.stems if stem in problems):
            result.problems.append(f"{row.info.name}: {problem}")
        scores = scorer.score(estimates, problems)
        result.rows[row.info.name] = {stem: scores[stem] for stem in options.stems}
        share((number + 1) / len(rows))


@contextmanager
def _opened(options: EvaluateOptions, songs: Sequence[SongFolder]) -> Iterator[list[Row]]:
    """The rows in the order of the table: what counts for nothing first, the ceilings last."""
    for folder in options.estimates:
        if not folder.is_dir():
            raise AudioError(f"`estimates` {folder}: no such folder; expected one with a folder of stems for each song")
        _check_estimates(folder, songs)
    models = list(options.models) or ([] if options.estimates else [FP32_MODEL])
    names = _distinct([str(model) for model in models], [str(folder) for folder in options.estimates])
    with ExitStack() as stack:
        rows: list[Row] = []
        configs: list[AudioConfig] = []
        for model in models:
            separator = Separator(model, device=options.device, runtime=options.runtime)
            rows.append(_EngineRow(next(names), model, stack.enter_context(separator)))
            configs.append(separator.config.audio)
        for folder in options.estimates:
            rows.append(_EstimatesRow(next(names), folder, len(songs) == 1, options.length_tolerance))
        yield [*_floor(options), *rows, *_ceilings(options, configs or [_shipped()])]


def _check_estimates(folder: Path, songs: Sequence[SongFolder]) -> None:
    """Raises AudioError where a folder has stems of no song, which is said before the work."""
    problems = []
    for song in songs:
        try:
            find_estimates(folder, song, len(songs) == 1)
        except AudioError as error:
            problems.append(error)
        else:
            return
    raise AudioError(f"`estimates` {folder}: stems of none of the songs; the first: {problems[0]}")


def _floor(options: EvaluateOptions) -> Iterator[Row]:
    known: dict[str, tuple[str, Callable[[SongSound], dict[str, Array]]]] = {
        "silence": ("silence for both stems", lambda song: silence(song.mixture)),
        "mixture": ("the mixture for both stems", lambda song: the_mixture(song.mixture)),
        "repet-sim": (
            "what repeats, by the median of the most similar frames (Rafii and Pardo 2012)",
            lambda song: repet_sim(song.mixture, song.sample_rate),
        ),
    }
    for name, (definition, estimate) in known.items():
        if name in options.baselines:
            yield _Baseline(RowInfo(name, "baseline", definition), estimate)


def _ceilings(options: EvaluateOptions, configs: Sequence[AudioConfig]) -> Iterator[Row]:
    """Ideal masks, for each STFT that a model of the table has."""
    # By what such a mask depends on: one that is extended has no band, and its scale is its own.
    different = {
        (each.sample_rate, each.n_fft, each.hop_length, each.stereo, 0 if each.extend_mask else each.bins): each
        for each in reversed(configs)
    }
    rates = {audio.sample_rate for audio in configs}
    for audio in reversed(different.values()):
        band = "" if audio.extend_mask else f", bins 0 to {audio.bins - 1}"
        where = f"n_fft {audio.n_fft}, hop {audio.hop_length}, {audio.sample_rate} Hz, {audio.stereo}{band}"
        rate = f"{audio.sample_rate} Hz, " if len(rates) > 1 else ""
        suffix = "" if len(different) == 1 else f" ({audio.n_fft}/{audio.hop_length}, {rate}{audio.stereo}{band})"
        kinds: dict[str, tuple[Literal["ratio", "phase"], str]] = {
            "ideal-ratio-mask": ("ratio", "|V| / (|V| + |I|) of the true stems"),
            "ideal-phase-mask": ("phase", "Re(V / X) of the truth, cut to 0..1"),
        }
        for name, (kind, formula) in kinds.items():
            if name in options.baselines:
                info = RowInfo(name + suffix, "baseline", f"{formula}, at {where}", {"stft": where})
                yield _Baseline(info, _ideal(audio, kind))


def _ideal(audio: AudioConfig, kind: Literal["ratio", "phase"]) -> Callable[[SongSound], dict[str, Array]]:
    return lambda song: ideal_mask(song.mixture, song.stems, song.sample_rate, audio, kind)


def _shipped() -> AudioConfig:
    """The front end of the shipped model, where no other is evaluated."""
    from ft.checkpoint import load_config

    return load_config(model_path(FP32_MODEL)).audio


def _distinct(models: Sequence[str], folders: Sequence[str]) -> Iterator[str]:
    """Short names of rows, in full where two would be the same."""
    full = [*models, *folders]
    if len(set(full)) < len(full):
        double = next(each for each in full if full.count(each) > 1)
        raise ConfigError(f"{double}: given twice; expected each model and folder once")
    short = [*map(model_name, models), *(Path(each).resolve().name for each in folders)]
    taken = [*short, *BASELINES]
    return iter([long if taken.count(name) > 1 else name for name, long in zip(short, full, strict=True)])


def _digest(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
