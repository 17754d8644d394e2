"""What is wrong with what a run of `ft` wrote to standard output and error."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

_RECORD = {"type", "input", "status", "files", "audio_seconds", "wall_seconds", "x_realtime", "warnings", "error"}
NOTES = ("; the stems have ", " does not say everything; assumed: ")
"""Of lines that may come before: that a format cannot hold the sample rate, and of imports."""
RAW = {"f32le": "<f4", "s16le": "<i2"}


def judge_errors(job: dict[str, Any], result: dict[str, Any], failed: list[str]) -> Iterator[str]:
    """One line for each input that failed, and nothing else where it was the only one."""
    lines = [line for line in result["stderr"].splitlines() if not any(note in line for note in NOTES)]
    if len(job["inputs"]) == 1 and result["code"] == 1 and len(lines) != 1:
        yield f"{len(lines)} lines on stderr for one input that failed"
    if len(job["inputs"]) > 1:
        for name in failed:
            if (count := sum(line.startswith("ft: ") and name in line for line in lines)) != 1:
                yield f"{name}: {count} lines that name it"


def judge_listing(job: dict[str, Any], result: dict[str, Any]) -> Iterator[str]:
    """Standard output, in words or as JSON, against the files that are there."""
    there = [file for item in job["inputs"] for file in item["files"] if Path(file).exists()]
    if "--json" not in job["arguments"]:
        if (listed := result["stdout"].splitlines()) != there:
            yield f"stdout lists {len(listed)} files, {len(there)} are there"
        return
    try:
        records = [json.loads(line, parse_constant=_no_constant) for line in result["stdout"].splitlines()]
        yield from _records(job, result, records, there)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        yield f"stdout is not as promised: {type(error).__name__}: {error}"


def _records(
    job: dict[str, Any], result: dict[str, Any], records: list[dict[str, Any]], there: list[str]
) -> Iterator[str]:
    *songs, summary = records
    if summary["type"] != "summary" or [song["input"] for song in songs] != [item["path"] for item in job["inputs"]]:
        yield "JSON: not one line for each input and one of all"
        return
    bad = [song for song in songs if song["status"] == "failed"]
    for song in songs:
        if not set(song) >= _RECORD or song["type"] != "song":
            yield f"JSON: {song['input']}: keys {sorted(song)}"
        if song["status"] == "failed":
            if not song["error"] or song["files"] or f"ft: {song['error']}" not in result["stderr"].splitlines():
                yield f"JSON: {song['input']}: its error is not the line on stderr"
        elif song["status"] != "done" or song["error"] is not None:
            yield f"JSON: {song['input']}: {song['status']}, {song['error']}"
        else:
            yield from _lengths(song)
    if [file for song in songs for file in song["files"].values()] != there:
        yield "JSON: names other files than are there"
    if [failure["input"] for failure in summary["failures"]] != [song["input"] for song in bad]:
        yield "JSON: the summary has other failures than the records"
    counts = {key: summary[key] for key in ("inputs", "done", "failed", "skipped", "copied", "left", "interrupted")}
    done = len(songs) - len(bad)
    if list(counts.values()) != [len(songs), done, len(bad), 0, 0, 0, False]:
        yield f"JSON: the summary has {counts}, the records {done} done and {len(bad)} failed"
    if result["code"] != int(bool(bad)):
        yield f"JSON: {len(bad)} failed, exit code {result['code']}"


def _lengths(song: dict[str, Any]) -> Iterator[str]:
    for file in song["files"].values():
        info = soundfile.info(file)
        if abs(info.frames / info.samplerate - song["audio_seconds"]) > 0.001:
            yield f"JSON: {song['audio_seconds']} s, {file} has {info.frames / info.samplerate:.4f} s"


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def judge_pipe(job: dict[str, Any], result: dict[str, Any]) -> Iterator[str]:
    """One stem in standard output, where the run says that it is whole."""
    (item,) = job["inputs"]
    if result["error"] or result["code"] != 0:
        if item["must"] == "done":
            yield f"{item['name']}: failed, and nothing is wrong with it"
        return
    if item["must"] == "fail":
        yield f"{item['name']}: done, and it must fail"
    data, raw = (Path(job["folder"]) / "stdout").read_bytes(), job["pipe"]["raw"]
    if raw is not None:
        if len(data) != Path(item["path"]).stat().st_size:
            yield f"{len(data)} bytes of bare samples from {Path(item['path']).stat().st_size}"
        elif not np.isfinite(np.frombuffer(data, RAW[raw])).all():
            yield "bare samples that are not finite"
        return
    try:
        samples, rate = soundfile.read(io.BytesIO(data), always_2d=True)
    except soundfile.LibsndfileError as error:
        yield f"stdout cannot be read: {error}"
        return
    if not len(samples) or not np.isfinite(samples).all():
        yield f"{len(samples)} samples in stdout, or some that are not finite"
    mixture = read_whole(Path(item["path"]))
    if mixture is not None and Path(item["path"]).suffix in (".wav", ".flac", ".ogg", ".opus"):
        expected = (mixture[1], *mixture[0].shape)
        if len(mixture[0]) and (rate, *samples.shape) != expected:
            yield f"a stem of {(rate, *samples.shape)}, the input has {expected}"


def read_whole(path: Path) -> tuple[np.ndarray, int] | None:
    """The input as libsndfile gives it; None where it does not give all it promised."""
    try:
        with soundfile.SoundFile(path) as file:
            promised = file.frames
            if promised > 1 << 24:
                return None
            samples, rate = file.read(dtype="float64", always_2d=True), file.samplerate
    except (soundfile.SoundFileError, ValueError):
        return None
    return (samples, rate) if len(samples) == promised else None
