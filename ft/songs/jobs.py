"""Batches in JSON, of the form that the original implementation reads: what to separate, and what to copy unchanged.

[{"output": "folder", "convert": ["song.flac"], "copy": ["instrumental.wav"]}]
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from ft.errors import AudioError, ConfigError, one_line
from ft.files import STDIN
from ft.options import SeparateOptions
from ft.songs.inputs import Song, checked, failures_first, to_do, with_files
from ft.songs.names import MASK, Names
from ft.songs.parts import Outputs, part_of, remove_parts
from ft.songs.report import SongRecord

KEYS = ("output", "convert", "copy")
EXPECTED = "an object of output, convert and copy"
TEMPLATE = "{song}_{stem}.{ext}"
COPIED_STEM = "instrumental"
TITLES = {COPIED_STEM: "Instruments"}
"""Names of the original implementation. It calls the others Vocals and Mask, and so Drums is what it would say."""
SHOWN = 3


@dataclass(frozen=True)
class Job:
    """What goes into one folder."""

    output: Path
    convert: tuple[Path, ...]
    """Files to separate."""
    copy: tuple[Path, ...]
    """Files that are instrumentals already."""


@dataclass(frozen=True)
class Work:
    """What jobs come to."""

    songs: list[Song]
    """To separate."""
    copies: list[Song]
    """To copy, each with one file."""


def read_jobs(path: Path) -> list[Job]:
    """The jobs of a file, in order: one object or a list of them. Relative paths are relative to the file's folder.

    Raises:
        ConfigError: not JSON, not of this form, without a job, or a file that it names is missing.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_object)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a JSON file of jobs") from error
    except (ValueError, RecursionError) as error:  # wrong bytes, wrong JSON, a number of thousands of digits
        raise ConfigError(
            f"{path}: not JSON of jobs ({one_line(error)}); expected {EXPECTED}, or a list of such"
        ) from error
    if document == []:
        raise ConfigError(f"{path}: an empty list; expected {EXPECTED}, or a list of such")
    reader = _Reader(path)
    if isinstance(document, list):
        jobs = [reader.job(entry, f"[{number}]") for number, entry in enumerate(document)]
    else:
        jobs = [reader.job(document, "")]
    reader.check_files()
    return jobs


def work_of(jobs: Sequence[Job], stems: Sequence[str], options: SeparateOptions, model: str) -> Work:
    """What to separate and what to copy, with the files each gets.

    These are called `<song>_Instruments` and `<song>_Vocals`, a copy `<song>_Instruments` with its own suffix, but
    where `options` have a template of their own.

    Args:
        stems: those of the model.
        model: what stands for {model} in that template.
    Raises:
        ConfigError: the model has no such stem, or the template leads out of the output folder.
    """
    titles = {stem: TITLES.get(stem, stem.capitalize()) for stem in (*stems, MASK)}
    names = Names.of(options, stems, model, TEMPLATE, titles)
    title = TITLES[COPIED_STEM] if names.template == TEMPLATE else COPIED_STEM
    songs, copies = list[tuple[Song, Path]](), list[tuple[Song, Path]]()
    for job in jobs:
        songs += [(with_files(Song(path), job.output, names), job.output) for path in job.convert]
        for path in job.copy:
            file = names.file(path.stem, PurePath(), title, path.suffix[1:], path.suffix[1:])
            if not path.suffix:
                file = file.with_name(file.name.rstrip("."))
            elif file.suffix != path.suffix:  # that of the template
                file = file.with_name(file.name + path.suffix)
            copies.append((Song(path, files={COPIED_STEM: job.output / file}), job.output))
    ready = checked([*songs, *copies])
    return Work(failures_first(ready[: len(songs)]), failures_first(ready[len(songs) :]))


def copy_song(song: Song, options: SeparateOptions) -> SongRecord:
    """Copies a song to its one file, byte by byte, whole or not at all.

    Raises:
        AudioError: it cannot be read, the file cannot be written, or is there and may not be replaced.
    """
    start = time.perf_counter()
    record = SongRecord(input=song.path, status="copied", files=song.files)
    if not to_do(song, options):
        remove_parts(song.outputs)  # of runs that were killed
        return record.changed(status="skipped")
    (target,) = song.outputs
    with Outputs([target], song.marks) as outputs:
        if not to_do(song, options):  # another run ended meanwhile
            return record.changed(status="skipped")
        try:
            shutil.copyfile(song.path, part_of(target))
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise AudioError(f"{song.path}: cannot be copied to {target}: {reason}; nothing was written") from error
        outputs.commit()
    return record.changed(wall_seconds=time.perf_counter() - start)


class _Reader:
    """Checks what JSON holds, and says where in it something is wrong."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._files: list[tuple[Path, str]] = []

    def error(self, position: str, problem: str) -> ConfigError:
        position = position.removeprefix(".")
        return ConfigError(f"{self.path}: {position}: {problem}" if position else f"{self.path}: {problem}")

    def job(self, entry: Any, position: str) -> Job:
        if not isinstance(entry, dict):
            raise self.error(position, f"{_kind(entry)}; expected {EXPECTED}")
        for name in entry:
            if name not in KEYS:
                raise self.error(position, f"the key {name!r} is unknown; expected {EXPECTED}")
        if "output" not in entry:
            raise self.error(position, f"the key 'output' is missing; expected {EXPECTED}")
        output = self.resolved(entry["output"], f"{position}.output")
        convert, copy = (self.files(entry.get(name, []), f"{position}.{name}") for name in ("convert", "copy"))
        if not convert and not copy:
            raise self.error(position, "nothing to convert or copy; expected at least one file")
        return Job(output, convert, copy)

    def files(self, values: Any, position: str) -> tuple[Path, ...]:
        if not isinstance(values, list):
            raise self.error(position, f"{_kind(values)}; expected a list of files")
        paths = [self.resolved(value, f"{position}[{number}]") for number, value in enumerate(values)]
        self._files += [(path, f"{position}[{number}]") for number, path in enumerate(paths)]
        return tuple(dict.fromkeys(paths))

    def resolved(self, value: Any, position: str) -> Path:
        if not isinstance(value, str) or not value:
            raise self.error(position, f"{_kind(value)}; expected a path")
        try:
            encoded = os.fsencode(value)
        except UnicodeEncodeError:
            encoded = b"\0"
        if b"\0" in encoded:
            raise self.error(position, "a name that no file can have; expected a path")
        path = self.path.parent / value
        return path if path != STDIN else path.absolute()

    def check_files(self) -> None:
        """Raises ConfigError for what is no file, of several for the first few in one line."""
        wrong = [f"{position.removeprefix('.')}: {why}" for path, position in self._files if (why := _no_file(path))]
        if wrong:
            named, rest = ", ".join(wrong[:SHOWN]), f", and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
            raise ConfigError(f"{self.path}: {named}{rest}; expected files, with paths from {self.path.parent}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object without a key that stands twice, of which one would be dropped without a word."""
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double!r} stands twice in one object")
    return values


def _no_file(path: Path) -> str | None:
    """What stands there in place of a file; None where one does."""
    try:
        return None if path.is_file() else f"{path} is a folder" if path.is_dir() else f"{path} is missing"
    except OSError as error:
        return f"{path} ({error.strerror})"


def _kind(value: Any) -> str:
    """What a value of JSON is, in words."""
    words = {str: "a text", bool: "true or false", int: "a number", float: "a number", dict: "an object"}
    if value == "":
        return "an empty text"
    return "a list" if isinstance(value, list) else words.get(type(value), "null")
