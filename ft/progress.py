"""Progress bars: on stderr, and only where a person watches."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from ft.errors import Cancelled

if TYPE_CHECKING:
    from tqdm import tqdm

T = TypeVar("T")

Progress = Callable[[float, float | None], object]
"""Called with the seconds of audio that are done and those there are in all, None where nobody knows yet. Giving back
False asks to stop: `Cancelled` is raised then."""


def report_or_cancel(progress: Progress | None, path: Path | str, done: float, total: float | None) -> None:
    """Tells of the progress. Raises Cancelled where that asks to stop."""
    if progress is not None:
        answer = progress(done, total)
        if isinstance(answer, bool | np.bool_) and not answer:
            raise Cancelled(f"{path}: cancelled after {done:.1f} s of audio")


def cancellable(blocks: Iterable[T], progress: Progress | None, path: Path | str, total: float | None) -> Iterator[T]:
    """Gives the blocks of a pass that only looks, which may be cancelled too."""
    for block in blocks:
        report_or_cancel(progress, path, 0.0, total)
        yield block


def is_watched() -> bool:
    """Says whether stderr is a terminal; it may be closed, or never have been there, as in a service."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


@dataclass
class BatchProgress:
    """Counts the songs of a batch, each of which may have a bar of its own."""

    count: int
    number: int = 0
    """Number of the song that is being done, from 1."""
    _spent: float = 0.0
    _worked: float = 0.0
    """Seconds and songs of those before this one that were worked on; one that is left out tells nothing."""
    _begun: float = 0.0
    _now: float = 0.0
    _share: float | None = None
    """Share of this song that is done; None where nothing was told of it yet."""

    def begin(self) -> None:
        """Goes on to the next song."""
        if self._share is not None:
            self._spent, self._worked = self._spent + self._now - self._begun, self._worked + self._share
        self.number, self._share = self.number + 1, None

    def told(self, share: float) -> str:
        """Gives what is done of the batch, and the time that is left at the pace of the songs that were worked on.

        Args:
            share: of the song that is done, 0 to 1.
        """
        from tqdm import tqdm

        self._now = time.monotonic()
        if self._share is None:
            self._begun = self._now
        self._share = share
        done = (self.number - 1 + share) / self.count
        spent, worked = self._spent + self._now - self._begun, self._worked + share
        if not worked:
            return f"all {done:.0%}"
        return f"all {done:.0%}, {tqdm.format_interval(spent / worked * (self.count - self.number + 1 - share))} left"


@contextmanager
def seconds_bar(name: str, quiet: bool = False, batch: BatchProgress | None = None) -> Iterator[Progress]:
    """Shows a bar in seconds of audio; silent where stderr is no terminal.

    Args:
        batch: where the song stands among others.
    """
    shown = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]{postfix}"
    if batch is not None and batch.count > 1:
        name = f"{batch.number} of {batch.count}: {name}"
    with _bar(name, quiet, total=0.0, unit="s", bar_format=shown) as bar:

        def update(done: float, total: float | None) -> None:
            bar.total = total or 0.0
            if batch is not None and batch.count > 1:
                bar.set_postfix_str(batch.told(min(done / total, 1.0) if total else 0.0), refresh=False)
            bar.update(done - bar.n)

        yield update


@contextmanager
def share_bar(name: str, quiet: bool = False) -> Iterator[Callable[[float], None]]:
    """Shows a bar that is told the share that is done, 0 to 1; not there before, nor where stderr is no terminal."""
    shown = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    with _bar(name, quiet, total=1.0, delay=0.01, bar_format=shown) as bar:

        def update(share: float) -> None:
            bar.update(share - bar.n)

        yield update


def _bar(name: str, quiet: bool, **settings: Any) -> tqdm:
    from tqdm import tqdm

    return tqdm(desc=name, disable=quiet or not is_watched(), leave=False, file=sys.stderr, **settings)
