"""What the command line logs: how much, and how it looks on stderr."""

from __future__ import annotations

import logging

from ft.report import printable


class _OneLine(logging.Formatter):
    """Messages in one line, whatever the names of files hold; tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        record.message = printable(record.message)
        return super().formatMessage(record)


def set_verbosity(verbose: bool, quiet: bool) -> None:
    """Sends the messages of this project to stderr: all of them, or warnings and errors only."""
    level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("ft: %(message)s"))
    for name in ("ft", "export", "engines", "bench"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level)
        logger.propagate = False
