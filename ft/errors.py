"""Errors a user can cause or mend. Each carries one line fit to be printed and an exit code."""

from __future__ import annotations


class FtError(Exception):
    """Base of all errors of this project; `str(error)` is one line for the user."""

    exit_code = 1


LONGEST_TEXT = 700
"""Characters of an error of another library that are shown."""


def one_line(error: BaseException) -> str:
    """The text of an error of another library: no line breaks, nothing a terminal would obey, and not without end.

    >>> one_line(ValueError("first,\\n  second"))
    'first, second'
    """
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(str(error).split()))
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]}..."


class ConfigError(FtError):
    """A configuration file or value is not what is expected."""

    exit_code = 2


class AudioError(FtError):
    """An audio file or array cannot be read, written or used."""


class Cancelled(FtError):
    """Whoever watches the progress asked to stop; nothing was written."""

    exit_code = 130


class DataError(FtError):
    """A training or validation folder does not hold what training needs."""


class CheckpointError(FtError):
    """A checkpoint or model file is missing, damaged or of another kind."""


class ExportError(FtError):
    """An export was not written because it failed or did not equal PyTorch."""


class EngineError(FtError):
    """An engine cannot be opened or run."""


class NotFinite(EngineError):
    """A model gave values that are not finite."""


class OutOfDeviceMemory(EngineError):
    """A batch does not fit into the memory of the device; a smaller one may."""


class DeviceLost(EngineError):
    """The device stopped answering; nothing more can run on it in this process."""
