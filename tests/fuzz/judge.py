"""What is wrong with what a run of `ft` left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from .judge_streams import judge_errors, judge_listing, judge_pipe, read_whole

LONGEST_LINE = 1500
BY_FFMPEG = (".m4a", ".mp4")
"""Suffixes of inputs that libsndfile is not asked for first, and may read otherwise."""
ESTIMATE = 1152
"""Samples by which libsndfile's estimate of an MP3 without a count may be too high."""
LEFT_OVER = 16
"""Files that may be open after a run: the worker's own and those of libraries, such as ONNX Runtime's data base."""


def judge(job: dict[str, Any], result: dict[str, Any]) -> list[str]:
    """One line for each thing that must not be.

    Args:
        job: `inputs`, each with `name`, `path`, `must` (done, fail or empty) and `files`, those promised; `output`,
            the folder; `forbidden`, a file that must not be there; `codes`, the exit codes that are right; `lists`,
            whether stdout lists the files; `pipe`, where a stem went there.
        result: of `worker.run`.
    """
    problems = list(_streams(job, result))
    if result["code"] not in job["codes"] and not result["error"]:
        problems.append(f"exit code {result['code']}")
    if result["files"] > LEFT_OVER + job.get("open", 0):
        problems.append(f"{result['files']} files are open")
    if job.get("forbidden") and Path(job["forbidden"]).exists():
        problems.append("code from the file was run")
    if job.get("pipe"):
        problems += judge_pipe(job, result)
        failed = job["inputs"] if result["code"] else []
    else:
        failed = [item for item in job["inputs"] if not _input(item, result, problems)]
    problems += judge_errors(job, result, [item["name"] for item in failed])
    if job.get("lists") and not result["error"]:
        problems += judge_listing(job, result)
    if not result["error"] and job["inputs"] and (result["code"] == 0) != (not failed):
        problems.append(f"exit code {result['code']} with {len(failed)} of {len(job['inputs'])} inputs without files")
    result["failed"] = [item["name"] for item in failed]
    promised = {Path(file) for item in job["inputs"] for file in item["files"]}
    for path in sorted(Path(job["output"]).rglob("*")):
        if path.name == ".ft-output" or path in promised:
            continue
        if not path.is_dir() or not any(path.iterdir()):
            problems.append(f"left behind: {path.relative_to(job['output'])}")
    return problems


def _streams(job: dict[str, Any], result: dict[str, Any]) -> Iterator[str]:
    if result["error"]:
        yield f"not caught: {result['error'].strip().splitlines()[-1]}"
    for line in result["stderr"].splitlines():
        if not line.startswith(("ft: ", "  ")) and not (
            result["code"] == 2 and line.startswith(("Usage:", "Try ", "Error:", ""))
        ):
            yield f"on stderr: {line[:200]}"
        elif not line.isprintable():
            yield f"not printable: {line[:200]!r}"
        elif len(line) > LONGEST_LINE:
            yield f"a line of {len(line)} characters: {line[:100]}"
    if result["code"] == 1 and not result["stderr"].startswith("ft: "):
        yield "exit code 1 without a line"


def _input(item: dict[str, Any], result: dict[str, Any], problems: list[str]) -> bool:
    """Whether an input was done; adds to `problems`."""
    name, files = item["name"], list(map(Path, item["files"]))
    there = [file for file in files if file.exists()]
    if there and len(there) < len(files):
        problems.append(f"{name}: only {', '.join(file.name for file in there)}")
    if not there:
        if item["must"] == "done":
            problems.append(f"{name}: failed, and nothing is wrong with it")
        if not any(name in line for line in result["stderr"].splitlines()) and not result["error"]:
            problems.append(f"{name}: failed without a line that names it")
        return False
    if item["must"] == "fail":
        problems.append(f"{name}: done, and it must fail")
    wrong = _checkpoint(there[0]) if there[0].suffix == ".safetensors" else _stems(Path(item["path"]), there)
    problems += (f"{name}: {problem}" for problem in wrong)
    return True


def _checkpoint(file: Path) -> Iterator[str]:
    """What is wrong with an imported model."""
    from ft.checkpoint import load_model

    try:
        load_model(file)
    except Exception as error:
        yield f"{file.name} cannot be read: {error}"


def _stems(path: Path, files: list[Path]) -> Iterator[str]:
    """What is wrong with the stems of a song."""
    stems, facts = [], set()
    for file in files:
        try:
            samples, rate = soundfile.read(file, dtype="float64", always_2d=True)
        except Exception as error:
            yield f"{file.name} cannot be read: {error}"
            return
        stems.append(samples)
        facts.add((rate, *samples.shape))
        if not np.isfinite(samples).all():
            yield f"{file.name} holds values that are not finite"
    if len(facts) > 1 or not len(stems[0]):
        yield f"stems of {facts}"
        return
    mixture = None if path.suffix in BY_FFMPEG else read_whole(path)
    if mixture is None:
        return
    samples, rate = mixture
    ((rate_out, length, channels),) = facts
    lossy = files[0].suffix not in (".wav", ".flac")
    expected = round(len(samples) * rate_out / rate) if lossy else len(samples)
    if not len(samples) or (path.suffix == ".mp3" and length != expected):  # counts and lengths of 0 are not believed
        if length < expected - ESTIMATE * rate_out / rate:
            yield f"stems of {length} samples, the input has {expected}"
        return
    if (abs(length - expected) > lossy, channels) != (False, samples.shape[1]) or (rate_out != rate and not lossy):
        yield f"stems of {facts}, the input has {(rate, *samples.shape)}"
    elif len(stems) > 1 and not lossy:
        total = sum(stems)
        power = float(np.vdot(samples, samples))
        gain = float(np.vdot(total, samples)) / power if power > 1e-9 else 1.0
        error = float(np.abs(total - gain * samples).max())
        if error > 4 / 32768 + 1e-4 * abs(gain) * float(np.abs(samples).max()):
            yield f"stems do not sum to the input: {error:.3g} off"
