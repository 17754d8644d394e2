"""Running a generator in a thread of its own, so that its work overlaps with its reader's."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

Item = TypeVar("Item")

PATIENCE_SECONDS = 10
_END = object()


def prefetch(items: Iterable[Item], depth: int) -> Iterator[Item]:
    """Gives the items, made in another thread that runs at most `depth` items ahead.

    An error raised while making an item is raised here, in its place. When the reader stops early, the thread ends
    before this generator does, so that no file is left open; a source that waits for ever is left to the end of the
    process after `PATIENCE_SECONDS`.
    """
    ready: queue.Queue[Any] = queue.Queue(depth)
    stop = threading.Event()
    failure: list[BaseException] = []

    def fill() -> None:
        iterator = iter(items)
        try:
            for item in iterator:
                if not _put(ready, item, stop):
                    break
        except BaseException as error:  # handed to the reader, which raises it
            failure.append(error)
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
            _put(ready, _END, stop)

    thread = threading.Thread(target=fill, name="prefetch", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            yield item
        if failure:
            raise failure[0]
    finally:
        stop.set()
        thread.join(PATIENCE_SECONDS)


def _put(ready: queue.Queue[Any], item: Any, stop: threading.Event) -> bool:
    """Whether `item` was taken before `stop` was set."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.05)
        except queue.Full:
            continue
        return True
    return False
