"""What the command line logs: how much, and how it looks on stderr."""

from __future__ import annotations

import logging

from ft.cli.flags import with_flags
from ft.songs.report import printable


class _OneLine(logging.Formatter):
    """Messages in one line, whatever the names of files hold; tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = printable(with_flags(record.message))
        return super().formatMessage(record)


class _SaidOnce(logging.Filter):
    """What engines say of themselves and of the machine, once, however many of them a command opens."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        line = record.getMessage()
        if record.name not in ("engines", "engines.devices") or line not in self._said:
            self._said.add(line)
            return True
        return False


def set_verbosity(verbose: bool, quiet: bool) -> None:
    """Sends the messages of this project to stderr: all of them, or warnings and errors only."""
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("ft: %(message)s"))
    handler.addFilter(_SaidOnce())
    for name in ("ft", "export", "engines", "bench"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
