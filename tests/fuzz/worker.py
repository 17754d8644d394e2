"""A process that runs `ft` again and again, as a program of its own would, and says what came out.

Reads one JSON object per line: `arguments` of `ft`, `memory` (bytes of address space above what it has after its first
run), and what `judge.py` needs. Writes one per line: the exit `code`, `stdout`, `stderr`, `error` (a traceback of what
was not caught), `seconds`, `files` (open ones), `peak` (bytes of memory, the most so far) and `problems`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import resource
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .judge import judge

PIECE = 5_001
"""Bytes that come through the pipe at once, no whole number of samples."""


def serve() -> None:
    faulthandler.enable()
    reply = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print while results are judged
    limited = False
    for line in sys.stdin:
        job = json.loads(line)
        result = run(job["arguments"], Path(job["folder"]), job.get("program"), job.get("stdin"))
        result["problems"] = judge(job, result)
        if not limited and job["memory"]:
            limited = True
            _limit(job["memory"])
        print(json.dumps(result), file=reply, flush=True)


def run(arguments: list[str], folder: Path, program: str | None = None, stdin: str | None = None) -> dict[str, Any]:
    """One call of `ft`, or of the text of another program, which stands in its place in `folder`.

    Args:
        stdin: a file that comes in through a pipe; nothing comes otherwise.
    """
    from ft.cli import main

    code, error = 0, ""
    start = time.perf_counter()
    with _captured(folder) as (out, err), _piped(stdin):
        try:
            if program is None:
                main(arguments, prog_name="ft", standalone_mode=True)
            else:
                os.chdir(folder)
                exec(program, {})
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        except BaseException:
            error = traceback.format_exc()
        os.chdir("/")
        for logger in map(logging.getLogger, ("ft", "export", "engines", "bench")):
            logger.handlers.clear()  # they hold the stream of this run
    return {
        "code": code,
        "error": error,
        "stdout": out.read_bytes().decode(errors="replace"),
        "stderr": err.read_bytes().decode(errors="replace"),
        "seconds": round(time.perf_counter() - start, 3),
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


@contextlib.contextmanager
def _piped(path: str | None) -> Iterator[None]:
    """Python's standard input is a pipe into which a thread writes the file; the descriptor 0 stays the one of jobs."""
    data, kept = Path(path).read_bytes() if path else b"", sys.stdin
    reader, writer = os.pipe()

    def feed() -> None:
        with contextlib.suppress(BrokenPipeError), os.fdopen(writer, "wb", buffering=0) as file:
            for start in range(0, len(data), PIECE):
                file.write(data[start : start + PIECE])

    thread = threading.Thread(target=feed)
    thread.start()
    sys.stdin = os.fdopen(reader, "r", encoding="utf-8")
    try:
        yield
    finally:
        sys.stdin.close()
        sys.stdin = kept
        thread.join()


@contextlib.contextmanager
def _captured(folder: Path) -> Iterator[tuple[Path, Path]]:
    """What is written to standard output and error, by C libraries too, goes into two files."""
    paths = folder / "stdout", folder / "stderr"
    kept = [os.dup(1), os.dup(2)]
    for number, path in enumerate(paths, 1):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    try:
        yield paths
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, number)
            os.close(descriptor)


def _limit(more: int) -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    serve()
