"""Evaluation: songs with true stems through separators and baselines, and what each of them scores.

A song at a time, read whole: while one is scored, it, its stems and one estimate of each are in memory.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ft.config import ModelConfig
from ft.errors import AudioError, ConfigError, EngineError, one_line
from ft.evaluation.rows import BASELINES, Row, ceilings, engine_row, estimates_row, floor
from ft.evaluation.scores import METRICS, SongScorer, StemScores
from ft.evaluation.songs import (
    Estimates,
    Made,
    SongFolder,
    SongSound,
    find_estimates,
    find_song_folders,
    read_song,
)
from ft.files import FP32_MODEL
from ft.separate.separator import Separator, model_name
from ft.stems import STEMS

logger = logging.getLogger(__name__)

LEAST_RESIDUAL_DB = 30.0
"""A mixture of which its stems miss more than lies this far below it is not their sum."""


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What is evaluated, and how.

    Raises:
        ConfigError: an unknown baseline or metric, or a negative tolerance.
    """

    models: Sequence[str] = ()
    """Models, one row each; the shipped one in float32 where there are no estimates either."""
    estimates: Sequence[Path] = ()
    """Folders of stems that something else wrote, one row each."""
    length_tolerance: int = 0
    """Samples by which these may be longer or shorter than the song: their ends are cut, or silent."""
    metrics: Sequence[str] = tuple(METRICS)
    stems: Sequence[str] = ()
    """The stems that are scored; none: all that models and estimates have, and a song."""
    baselines: Sequence[str] = BASELINES
    device: str = "auto"
    runtime: str = "auto"

    def __post_init__(self) -> None:
        for name, values in {"metrics": tuple(METRICS), "baselines": BASELINES}.items():
            for value in getattr(self, name):
                if value not in values:
                    raise ConfigError(f"{name}: '{value}', expected some of {', '.join(values)}")
        if not self.metrics:
            raise ConfigError(f"metrics: none; expected some of {', '.join(METRICS)}")
        if self.length_tolerance < 0:
            raise ConfigError(f"length_tolerance: {self.length_tolerance}; expected 0 samples or more")


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
    rows: list[Row]
    found: int
    """Songs that there are to do."""
    songs: list[SongResult] = field(default_factory=list)
    interrupted: bool = False

    @property
    def failed(self) -> list[SongResult]:
        """Songs that could not be read, and those of which an estimate is missing or does not fit."""
        return [song for song in self.songs if song.failed]

    @property
    def stems(self) -> list[str]:
        """Gives the stems that were asked for, or those that songs were scored for, vocals and instrumental first."""
        met = [stem for song in self.songs for scores in song.rows.values() for stem in scores]
        return list(dict.fromkeys(self.options.stems or [*(stem for stem in STEMS if stem in met or not met), *met]))

    def values(self, row: str, stem: str, metric: str) -> list[float]:
        """The figures of all songs that have one."""
        known = (song.rows[row] for song in self.songs if song.error is None and row in song.rows)
        scores = (stems[stem].scores for stems in known if stem in stems)
        return [each[metric] for each in scores if metric in each]

    def aggregate(self, row: str, stem: str, metric: str) -> dict[str, Any]:
        """`n` songs with a figure, those `left_out`, and over the n their `mean` and `median`; None where n is 0."""
        values = self.values(row, stem, metric)
        known = {"n": len(values), "left_out": len(self.songs) - len(values), "mean": None, "median": None}
        return known if not values else {**known, "mean": statistics.fmean(values), "median": statistics.median(values)}


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
        given = dict.fromkeys(stem for song in songs for row in rows for stem in row.gives(song))
        if strange := [stem for stem in options.stems if stem not in given]:
            raise ConfigError(f"stems: '{strange[0]}', expected some of {', '.join(given)}")
        evaluation = Evaluation(options, rows, len(songs))
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
    given = dict.fromkeys(stem for row in rows for stem in row.gives(song))
    try:
        sound = read_song(song.path, options.stems, given)
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
        _score_rows(song, sound, given, rows, options, result, share)
    except MemoryError:
        result.rows, result.error = {}, f"{song.path}: too little memory to score it"
    result.wall_seconds = time.perf_counter() - start
    return result


def _score_rows(
    song: SongFolder,
    sound: SongSound,
    given: Collection[str],
    rows: Sequence[Row],
    options: EvaluateOptions,
    result: SongResult,
    share: Callable[[float], None],
) -> None:
    scorer = SongScorer(sound.stems, sound.sample_rate, options.metrics)
    scored = options.stems or [stem for stem in sound.stems if stem in given]
    for number, row in enumerate(rows):
        try:
            found = row.estimate(song, sound)
        except (AudioError, EngineError, MemoryError) as error:
            found = Estimates({}, dict.fromkeys(sound.stems, one_line(error) or type(error).__name__))
        if found.made.files:
            result.estimates[row.name] = found.made
        estimates, problems = found.stems, found.problems
        for stem in [stem for stem, wave in estimates.items() if not np.isfinite(wave).all()]:
            del estimates[stem]
            problems[stem] = f"{stem}: values that are not finite"
        asked = options.stems or row.gives(song) or scored
        for problem in dict.fromkeys(problems[stem] for stem in asked if stem in problems):
            result.problems.append(f"{row.name}: {problem}")
        scores = scorer.score(estimates, problems)
        result.rows[row.name] = {stem: scores[stem] for stem in scored}
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
        configs: list[ModelConfig] = []
        for model in models:
            separator = Separator(model, device=options.device, runtime=options.runtime)
            rows.append(engine_row(next(names), model, stack.enter_context(separator)))
            configs.append(separator.config)
        for folder in options.estimates:
            rows.append(estimates_row(next(names), folder, len(songs) == 1, options.length_tolerance))
        yield [*floor(options.baselines), *rows, *ceilings(options.baselines, configs)]


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


def _distinct(models: Sequence[str], folders: Sequence[str]) -> Iterator[str]:
    """Short names of rows, in full where two would be the same."""
    full = [*models, *folders]
    if len(set(full)) < len(full):
        double = next(each for each in full if full.count(each) > 1)
        raise ConfigError(f"{double}: given twice; expected each model and folder once")
    short = [*map(model_name, models), *(Path(each).resolve().name for each in folders)]
    taken = [*short, *BASELINES]
    return iter([long if taken.count(name) > 1 else name for name, long in zip(short, full, strict=True)])
