"""A process that holds one runner and runs it when it is told to.

Each runner has a process of its own, so that its memory and its first output are its own; all of them are driven in
turn from one place, so that their times can be compared. Requests and answers are lines of JSON; what a runtime prints
goes to standard error.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Self, TypeVar
from unittest import mock

import numpy as np

from bench.machine import peak_memory_mb
from bench.runners import RUNNERS, Runner, Spec
from ft.errors import FtError, one_line

logger = logging.getLogger(__name__)

Key = TypeVar("Key", bound=Hashable)

PATIENCE_SECONDS = 10


def make_runner(spec: Spec) -> Runner:
    """Makes the runner for a spec; it is not open yet. Raises FtError for a kind that is unknown."""
    if spec.kind in ("song", "windows"):
        from bench.songs import SongRunner, WindowsRunner

        return SongRunner(spec) if spec.kind == "song" else WindowsRunner(spec)
    if spec.kind not in RUNNERS:
        raise FtError(f"runner {spec.kind}; expected song, windows or one of {', '.join(RUNNERS)}")
    return RUNNERS[spec.kind](spec)


class WorkerError(FtError):
    """A worker could not do what it was asked for; the text is its reason."""


class Worker:
    """The other end of the process."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with the worker
        command = [sys.executable, "-m", "bench.worker", json.dumps(asdict(spec))]
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Sends one request and waits for the answer. Raises WorkerError."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **values}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self._process.wait()
            raise WorkerError(f"its process ended with {code}: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def seconds(self, warm: int = 1, save: str | None = None) -> float:
        """One timed run, after `warm` runs that are not; see `_Handler.run`. Raises WorkerError."""
        return float(self.ask("run", warm=warm, save=save)["seconds"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the process: asked to, so that it can clean up, and killed where it does not in time."""
        assert self._process.stdin is not None and self._process.stdout is not None
        # A process that has ended never reads what it was told.
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"


def in_turn(
    calls: Mapping[Key, Callable[[], float]],
    rounds: int,
    leave: Callable[[Key, WorkerError], None] | None = None,
    what: str = "",
) -> dict[Key, list[float]]:
    """Makes each call once in each round, every other round in the opposite order, and gives their results.

    Args:
        leave: is told of a call that failed; that one is not made again and has no times, and the others go on.
        what: is logged with the number of each round; nothing is logged where it is empty.
    Raises:
        WorkerError: a call failed, and there is no `leave`.
    """
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for number in range(rounds):
        if what:
            logger.info("%s, round %d of %d", what, number + 1, rounds)
        for key in list(times)[:: 1 if number % 2 == 0 else -1]:
            try:
                times[key].append(calls[key]())
            except WorkerError as error:
                if leave is None:
                    raise
                del times[key]
                leave(key, error)
    return times


@contextmanager
def fresh_compilations(folder: Path) -> Iterator[None]:
    """Gives torch.compile an empty cache in workers that start within: a first output is that of a first use."""
    with mock.patch.dict(os.environ, TORCHINDUCTOR_CACHE_DIR=str(folder / "inductor")):
        yield


def serve(runner: Runner, requests: IO[str], answers: IO[str]) -> None:
    """Answers requests until there are no more."""
    handler = _Handler(runner)
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(handler, request.pop("do"))(**request)
        except Exception as error:  # the runtimes' errors have no common base; the driver prints them as a row's reason
            answer = {"error": one_line(error) or type(error).__name__}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


class _Handler:
    """One method for each request."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.batch: Any = None

    def open(self, batch: str | None = None) -> dict[str, Any]:
        """`batch`: an .npy file with the input of every run."""
        self.batch = None if batch is None else np.load(batch)
        start = time.perf_counter()
        facts = self.runner.open()
        return {**facts, "seconds": time.perf_counter() - start}

    def run(self, warm: int = 0, save: str | None = None) -> dict[str, Any]:
        """One timed run; its result goes to the .npy file `save`."""
        for _ in range(warm):
            self.runner.run(self.batch)
        start = time.perf_counter()
        result = self.runner.run(self.batch)
        seconds = time.perf_counter() - start
        if save is not None and result is not None:
            np.save(save, result)
        return {"seconds": seconds, **self.runner.details()}

    def stream(self, count: int) -> dict[str, Any]:
        """`count` runs in a row."""
        start = time.perf_counter()
        self.runner.stream(self.batch, count)
        return {"seconds": (time.perf_counter() - start) / count}

    def memory(self) -> dict[str, Any]:
        return {"peak_mb": peak_memory_mb()}


def main() -> None:
    """Keeps the pipe to the driver for answers alone, whatever a library prints."""
    spec = Spec(**json.loads(sys.argv[1]))
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)
        runner = make_runner(spec)
        try:
            serve(runner, sys.stdin, answers)
        finally:
            runner.close()


if __name__ == "__main__":
    main()
