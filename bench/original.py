"""One song, separated in the original's way and by engines of this project, all in turn."""

from __future__ import annotations

import logging
import statistics
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bench.rows import ModelFile
from bench.runners import Array, Spec
from bench.worker import Worker, WorkerError, in_turn
from ft.audio.open import read_audio

logger = logging.getLogger(__name__)

PLAIN = "plain"
"""Name of the plain implementation, which separates in the original's way."""


class Songs(NamedTuple):
    """What all of them took and gave."""

    seconds: dict[str, float]
    """The median of each that ran to the end, by its name; `PLAIN` among them."""
    stems: dict[str, dict[str, Array]]
    """What each of them gave."""
    failures: dict[str, str]
    """Why the others did not."""

    def fastest(self, names: Iterable[str]) -> str | None:
        return min((name for name in names if name in self.seconds), key=self.seconds.__getitem__, default=None)

    def note(self, names: Iterable[str]) -> str:
        """Seconds or failure of each."""
        told = {name: f"{seconds:.2f} s" for name, seconds in self.seconds.items()}
        told |= {name: f"failed: {reason}" for name, reason in self.failures.items()}
        return ", ".join(f"{name} {told[name]}" for name in names)


def separate_in_both_ways(
    song: Path, candidates: Mapping[str, tuple[ModelFile, str]], baseline: str, rounds: int
) -> Songs:
    """Runs the plain implementation and all candidates in turn; one that fails leaves the others as they are.

    Args:
        song: At the model's rate.
        candidates: Files of one network, with the runtime of each, by name; the plain implementation loads the first.
        baseline: Its Python file.
    """
    model = next(iter(candidates.values()))[0]
    specs = {
        name: Spec("song", file.path, runtime=runtime, song=str(song)) for name, (file, runtime) in candidates.items()
    }
    specs[PLAIN] = Spec("baseline-song", model.path, song=str(song), baseline=baseline)
    workers: dict[str, Worker] = {}
    stems: dict[str, dict[str, Array]] = {}
    failures: dict[str, str] = {}

    def leave(name: str, error: WorkerError) -> None:
        logger.warning("%s failed: %s", name, error)
        failures[name] = str(error)
        workers.pop(name).close()

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        saved = str(Path(folder) / "stems.npy")
        for name, spec in specs.items():
            workers[name] = worker = stack.enter_context(Worker(spec))
            try:
                worker.ask("open")
                if name != PLAIN:  # which takes minutes, and gains nothing by a run that does not count
                    answer = worker.ask("run")
                    files = answer["files"].items()
                    stems[name] = {stem: read_audio(Path(file))[0] / answer["gain"] for stem, file in files}
            except WorkerError as error:
                leave(name, error)
        calls: dict[str, Callable[[], float]] = {
            name: partial(worker.seconds, warm=0, save=saved if name == PLAIN else None)
            for name, worker in workers.items()
        }
        compared = PLAIN in calls and len(calls) > 1
        times = in_turn(calls, rounds, leave) if compared else {}
        if PLAIN in times:
            stems[PLAIN] = dict(zip(model.config.all_stems, np.load(saved), strict=True))
    return Songs({name: statistics.median(values) for name, values in times.items()}, stems, failures)
