"""Progress bars: on stderr, and only where a person watches."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[float, float | None], object]
"""Called with the seconds of audio that are done and those there are in all, None where nobody knows yet. Giving back
False asks to stop: `Cancelled` is raised then."""


@contextmanager
def seconds_bar(name: str, quiet: bool = False) -> Iterator[Progress]:
    """A bar in seconds of audio; silent where stderr is no terminal."""
    from tqdm import tqdm

    shown = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s [{elapsed}<{remaining}]"
    disable = quiet or not sys.stderr.isatty()
    with tqdm(desc=name, total=0.0, unit="s", disable=disable, leave=False, bar_format=shown, file=sys.stderr) as bar:

        def update(done: float, total: float | None) -> None:
            bar.total = total or 0.0
            bar.update(done - bar.n)

        yield update


@contextmanager
def share_bar(name: str, quiet: bool = False) -> Iterator[Callable[[float], None]]:
    """A bar that is told the share that is done, 0 to 1; silent where stderr is no terminal."""
    from tqdm import tqdm

    shown = "{desc}: {percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
    disable = quiet or not sys.stderr.isatty()
    with tqdm(desc=name, total=1.0, disable=disable, leave=False, bar_format=shown, file=sys.stderr) as bar:

        def update(share: float) -> None:
            bar.update(share - bar.n)

        yield update
