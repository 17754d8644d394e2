"""What an evaluation came to: a table for people, JSON for programs."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ft.evaluation.evaluate import Evaluation, SongResult
from ft.evaluation.scores import METRICS, StemScores, shown_metrics
from ft.evaluation.songs import Made
from ft.files import atomic_write
from ft.songs.report import EXIT_FAILED, EXIT_INTERRUPTED, printable
from ft.stems import formula

SCHEMA = "ft-evaluate-1"
"""Names the form of the JSON; its number changes where a field changes its meaning or goes."""
AGGREGATION = (
    "n is the number of songs that have a figure; mean and median are over these n songs, and left_out says how many "
    "songs have none. The median of a BSSEval v4 figure is museval's median of medians."
)
LONGEST_LIST = 20
"""Lines of what was left out that are printed; the JSON has all."""


def exit_code(evaluation: Evaluation) -> int:
    """0, 1 where a song or an estimate failed, 130 where it was interrupted."""
    if evaluation.interrupted:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if evaluation.failed else 0


def report_lines(evaluation: Evaluation) -> Iterator[str]:
    """Gives the table, what was left out of it, and what its columns are."""
    read = [song for song in evaluation.songs if song.error is None]
    shown = shown_metrics(evaluation.options.metrics)
    if read:
        for stem in evaluation.stems:
            yield from _table(evaluation, stem, shown, len(read))
            yield ""
        for row in evaluation.rows:
            yield f"{printable(row.name)}: {printable(row.definition)}"
        for name in shown:
            yield f"{METRICS[name].title}: {METRICS[name].definition}"
        yield ""
    if lines := list(_made_lines(evaluation, read)):
        yield "what the stems were made of:"
        yield from (f"  {printable(line)}" for line in _shortened(lines))
    if notes := [f"{song.name}: {note}" for song in read for note in song.notes]:
        yield "to be known of the figures:"
        yield from (f"  {printable(note)}" for note in _shortened(notes))
    yield from _left_out(evaluation)
    if evaluation.interrupted or evaluation.failed:
        what = "interrupted" if evaluation.interrupted else "done"
        yield f"{what}: {len(evaluation.songs)} of {evaluation.found} songs, {len(evaluation.failed)} of them failed"


def _table(evaluation: Evaluation, stem: str, shown: list[str], songs: int) -> Iterator[str]:
    over = _songs(songs) + ", mean / median over those with a figure" * (songs > 1)
    width = max(len(row.name) for row in evaluation.rows) + 2
    columns = {name: max(len(METRICS[name].title) + 3, 11 if songs == 1 else 18) for name in shown}
    yield f"{stem}, {over}"
    yield " " * width + "".join(METRICS[name].title.rjust(columns[name]) for name in shown)
    yield " " * width + "".join(METRICS[name].unit.rjust(columns[name]) for name in shown)
    for row in evaluation.rows:
        cells = (_cell(evaluation, row.name, stem, name, songs).rjust(columns[name]) for name in shown)
        yield printable(row.name).ljust(width) + "".join(cells)


def _cell(evaluation: Evaluation, row: str, stem: str, metric: str, songs: int) -> str:
    found = evaluation.aggregate(row, stem, metric)
    if not found["n"]:
        return "-"
    if songs == 1:
        return f"{found['mean']:.2f}"
    few = f" n={found['n']}" if found["n"] < songs else ""
    return f"{found['mean']:.2f} / {found['median']:.2f}{few}"


def _made_lines(evaluation: Evaluation, read: list[SongResult]) -> Iterator[str]:
    """Sums, differences and cut ends, each with the number of songs that have it."""
    rows = evaluation.rows
    known = [("the songs", [song.made for song in read if song.made is not None])]
    known += [(row.name, [song.estimates[row.name] for song in read if row.name in song.estimates]) for row in rows]
    for who, made in known:
        for stem in evaluation.stems:
            recipes = Counter(formula(each.recipes[stem]) for each in made if stem in each.recipes)
            for recipe, count in recipes.most_common():
                if recipe != stem:
                    yield f"{who}, {stem}: {recipe} ({_songs(count)})"
        if changed := [max(map(abs, each.longer.values())) for each in made if each.longer]:
            yield f"{who}: cut, or silence added, at the end: up to {max(changed)} samples ({_songs(len(changed))})"


def _songs(count: int) -> str:
    return "1 song" if count == 1 else f"{count} songs"


def _left_out(evaluation: Evaluation) -> Iterator[str]:
    """Songs that failed, then figures that are in no mean, each with its reason."""
    lines = [f"{printable(song.error)}" for song in evaluation.songs if song.error is not None]
    if lines:
        yield f"{len(lines)} of {len(evaluation.songs)} songs failed and are in no figure:"
        yield from (f"  {line}" for line in _shortened(lines))
    lines = [line for song in evaluation.songs for line in _song_left_out(song)]
    if lines:
        yield "left out of the figures:"
        yield from (f"  {printable(line)}" for line in _shortened(lines))


def _song_left_out(song: SongResult) -> Iterator[str]:
    for row, stems in song.rows.items():
        lines: dict[str, list[str]] = {}
        for stem, found in stems.items():
            for reason in dict.fromkeys(found.left_out.values()):
                metrics = [METRICS[name].title for name, why in found.left_out.items() if why == reason]
                every = len(metrics) == len(found.left_out) + len(found.scores)
                lines.setdefault(f"{'all' if every else ', '.join(metrics)}: {reason}", []).append(stem)
        yield from (f"{song.name}, {row}, {' and '.join(stems)}: {line}" for line, stems in lines.items())


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - LONGEST_LIST
    return lines if more <= 0 else [*lines[:LONGEST_LIST], f"and {more} more; `json` FILE has all"]


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Plain values of all that is known; no NaN and no infinity is among them."""
    import numpy as np

    from ft import __version__

    options = evaluation.options
    return {
        "schema": SCHEMA,
        "versions": {
            "frame-transformer": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
        },
        "options": {
            "engines": [str(model) for model in options.models],
            "estimates": [str(folder) for folder in options.estimates],
            "metrics": list(options.metrics),
            "stems": evaluation.stems,
            "baselines": list(options.baselines),
            "length_tolerance": int(options.length_tolerance),
        },
        "definitions": {name: asdict(metric) for name, metric in METRICS.items() if name in options.metrics},
        "aggregation": AGGREGATION,
        "rows": [
            {"name": row.name, "kind": row.kind, "definition": row.definition, **row.facts} for row in evaluation.rows
        ],
        "songs_found": evaluation.found,
        "songs_failed": len(evaluation.failed),
        "interrupted": evaluation.interrupted,
        "songs": [_song(song) for song in evaluation.songs],
        "aggregate": {
            row.name: {
                stem: {name: evaluation.aggregate(row.name, stem, name) for name in options.metrics}
                for stem in evaluation.stems
            }
            for row in evaluation.rows
        },
    }


def _song(song: SongResult) -> dict[str, Any]:
    return {
        "name": printable(song.name),
        "path": printable(song.path),
        "status": "done" if song.error is None else "failed",
        "error": None if song.error is None else printable(song.error),
        "problems": [printable(problem) for problem in song.problems],
        "notes": [printable(note) for note in song.notes],
        "sample_rate": song.sample_rate,
        "channels": song.channels,
        "samples": song.samples,
        "stems_to_mixture_db": song.residual_db,
        "made_of": None if song.made is None else _made(song.made),
        "estimates_made_of": {row: _made(made) for row, made in song.estimates.items()},
        "wall_seconds": round(song.wall_seconds, 3),
        "rows": {row: {stem: _scores(found) for stem, found in stems.items()} for row, stems in song.rows.items()},
    }


def _made(made: Made) -> dict[str, Any]:
    return {
        "files": {stem: printable(name) for stem, name in made.files.items()},
        "stems": {stem: formula(recipe) for stem, recipe in made.recipes.items()},
        "samples_longer": {printable(name): samples for name, samples in made.longer.items()},
    }


def _scores(found: StemScores) -> dict[str, Any]:
    windows = None if found.windows is None else {"used": found.windows[0], "of": found.windows[1]}
    return {"scores": found.scores, "left_out": found.left_out, "v4_windows": windows}


def save_json(path: Path, evaluation: Evaluation) -> None:
    """Writes `to_json` to a file. Raises OSError."""
    text = json.dumps(to_json(evaluation), indent=1, allow_nan=False)
    with atomic_write(path) as part:
        part.write_text(text + "\n", encoding="utf-8")
