"""What is told of a run: a record of each input and one of all, as lines of JSON and in words."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

EXIT_FAILED = 1
EXIT_INTERRUPTED = 130

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, breaks of lines, turns of direction, and the surrogates that stand for bytes of no encoding."""


def printable(text: object, encoding: str = "utf-8") -> str:
    """The text in one line that every terminal and every JSON reader takes: what would not go becomes its escape.

    >>> print(printable("a\\nb\\udcff"))
    a\\nb\\xff
    """
    escaped = _UNPRINTABLE.sub(lambda found: _escape(found.group()), str(text))
    return escaped.encode(encoding, "backslashreplace").decode(encoding)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


@dataclass(frozen=True, kw_only=True)
class SongRecord:
    """What became of one input."""

    input: Path | str
    status: Literal["done", "skipped", "failed", "copied"] = "done"
    files: Mapping[str, Path] = field(default_factory=dict)
    """The file of each stem; none where it failed."""
    images: Mapping[str, Path] = field(default_factory=dict)
    audio_seconds: float | None = None
    offset_seconds: float | None = None
    """Seconds by which the sound starts later than its file, as in a video (`ft.audio.source.AudioInfo.offset`)."""
    wall_seconds: float | None = None
    engine: str | None = None
    device: str | None = None
    precision: str | None = None
    model: str | None = None
    gain: float | None = None
    """By which all stems were multiplied so that none clips; 1 where none would have."""
    clipped: int | None = None
    """Samples that were clamped, where no gain could be known before."""
    warnings: tuple[str, ...] = ()
    error: str | None = None

    @property
    def x_realtime(self) -> float | None:
        return x_realtime(self.audio_seconds, self.wall_seconds)

    def changed(self, **changes: Any) -> Self:
        """The record with other values of some fields."""
        return replace(self, **changes)

    def to_json(self) -> str:
        """One line of JSON in ASCII, of every field and `x_realtime`.

        A byte of a name that is not UTF-8, as 0xff, stands as `\\udcff`: Python's `json.loads` gives what `os.fsencode`
        makes the name of again.
        """
        values: dict[str, Any] = {"type": "song"}
        for item in fields(self):
            values[item.name] = getattr(self, item.name)
            if item.name == "wall_seconds":
                values["x_realtime"] = self.x_realtime
        return _line(values)


class Summary:
    """Counts the records of a run and says what it came to.

    Args:
        inputs: how many there are to do; None where that is told by what is added.
    """

    def __init__(self, inputs: int | None = None) -> None:
        self.counts = {"done": 0, "skipped": 0, "copied": 0, "failed": 0}
        self.audio_seconds = 0.0
        self.wall_seconds = 0.0
        """The seconds that the songs took, one after the other; the caller may put that of the run in its place."""
        self.failures: list[tuple[str, str]] = []
        """Each input that failed, and its error."""
        self.interrupted = False
        self._inputs = inputs

    def add(self, record: SongRecord) -> None:
        self.counts[record.status] += 1
        if record.status == "failed":
            self.failures.append((str(record.input), record.error or "failed"))
        else:
            self.audio_seconds += record.audio_seconds or 0.0
        self.wall_seconds += record.wall_seconds or 0.0

    @property
    def told(self) -> int:
        """Records so far."""
        return sum(self.counts.values())

    @property
    def inputs(self) -> int:
        return max(self._inputs or 0, self.told)

    @property
    def left(self) -> int:
        """Inputs of which there is no record, because the run ended before."""
        return self.inputs - self.told

    @property
    def x_realtime(self) -> float | None:
        return x_realtime(self.audio_seconds, self.wall_seconds)

    @property
    def exit_code(self) -> int:
        """0 where every input was done, 1 where some were not, 130 where the run was interrupted."""
        if self.interrupted:
            return EXIT_INTERRUPTED
        return EXIT_FAILED if self.failures or self.left else 0

    def to_json(self) -> str:
        """The last line of a report, in JSON."""
        return _line(
            {
                "type": "summary",
                "inputs": self.inputs,
                **self.counts,
                "left": self.left,
                "audio_seconds": self.audio_seconds,
                "wall_seconds": self.wall_seconds,
                "x_realtime": self.x_realtime,
                "failures": [{"input": path, "error": error} for path, error in self.failures],
                "interrupted": self.interrupted,
            }
        )


def sum_line(summary: Summary) -> str:
    """Says in one line what a run came to, each failure having been told before.

    >>> summary = Summary(3)
    >>> summary.add(SongRecord(input="a.wav", status="failed", error="a.wav: empty"))
    >>> summary.add(SongRecord(input="b.wav", audio_seconds=60.0, wall_seconds=2.0))
    >>> sum_line(summary)
    '3 inputs: 1 done, 1 failed, 1 left; 60.0 s of audio in 2.0 s, 30.0 times real time'
    """
    counts = {**summary.counts, "left": summary.left}
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    line = f"{summary.inputs} inputs: {said}"
    if summary.counts["done"] and summary.x_realtime:
        times = f"{summary.wall_seconds:.1f} s, {summary.x_realtime:.1f} times real time"
        line += f"; {summary.audio_seconds:.1f} s of audio in {times}"
    return line


def x_realtime(audio_seconds: float | None, wall_seconds: float | None) -> float | None:
    """Seconds of audio to a second of time; None where one of them is not known."""
    if audio_seconds is None or not wall_seconds:
        return None
    return audio_seconds / wall_seconds


def _line(values: Mapping[str, Any]) -> str:
    return json.dumps({name: _plain(name, value) for name, value in values.items()}, allow_nan=False)


def _plain(name: str, value: Any) -> Any:
    """The value as JSON has it: paths and text printable, numbers to a millisecond or six digits, no NaN."""
    if isinstance(value, Mapping):
        return {str(_plain(key, key)): _plain(key, each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(name, each) for each in value]
    if isinstance(value, float):
        return round(value, 6 if name == "gain" else 3) if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return (
        _plain(name, value.item()) if getattr(value, "ndim", None) == 0 else str(value)
    )  # numbers of NumPy, and paths
