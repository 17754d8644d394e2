"""What the engines that run a model file share: the file's own description, read before any runtime sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from engines.base import Engine, EngineInfo
from engines.devices import Device
from ft.checkpoint import IO_KEY, config_from_metadata, io_of, read_metadata
from ft.config import IO
from ft.errors import CheckpointError, EngineError
from ft.workers import usable_cores

Windows = tuple[int, int]
"""(batch, frames) of the streaming window."""


class FileEngine(Engine):
    """Runs a model file; all that must be known about it stands in its metadata."""

    def __init__(
        self,
        model: Path,
        threads: int | None = None,
        device: str = "auto",
        *,
        windows: Windows | None = None,
        reason: str = "",
    ) -> None:
        """Nothing is read yet.

        Args:
            model: the file.
            threads: of one operator; None takes every core that the process may use.
            device: auto, cpu, cuda or cuda:N.
            windows: (batch, frames) that most batches will have; any other runs too.
            reason: why this runtime was taken; where it is empty, the log names the reason for the device.
        """
        super().__init__()
        self.model = model
        self.threads = threads or usable_cores()
        self.device = device
        self.windows = windows
        self.reason = reason
        self._info: EngineInfo | None = None

    def describe(self) -> EngineInfo:
        if self._info is None:
            raise EngineError(f"{self.model}: the engine is not open; use `with` around it")
        return self._info

    def _usual(self, info: EngineInfo) -> tuple[int, int] | None:
        """The items and the size of the free axis that most batches will have."""
        if self.windows is None:
            return None
        batch, frames = self.windows
        return batch, info.config.size(info.io, frames)

    def _unload(self) -> None:
        self._info = None

    def _placed(self, info: EngineInfo, device: Device) -> EngineInfo:
        """`info` with the device and the reasons filled in."""
        reasons = [self.reason] if device.reason in ("", self.reason) else [self.reason, device.reason]
        return replace(info, device=device.name, reason="; ".join(filter(None, reasons)))


def read_info(path: Path, name: str, version: str) -> EngineInfo:
    """Gives the description of an exported ONNX file for the engine `name`, without the device.

    Raises:
        EngineError: no such file, no ONNX file, or none that `ft export` wrote.
    """
    if not path.is_file():
        raise EngineError(f"{path}: no such file; expected a model that `ft export` wrote")
    try:
        metadata = read_metadata(path)
        config = config_from_metadata(path, metadata)
    except CheckpointError as error:
        raise EngineError(str(error)) from error
    found = metadata.get(IO_KEY, IO[0])
    if (io := io_of(found)) is None:
        raise EngineError(f"{path}: takes {found[:40]!r} ({IO_KEY}); this version runs {' and '.join(IO)}")
    return EngineInfo(
        name=name,
        model=str(path),
        device="",
        precision=metadata.get("ft_precision", "fp32")[:40],
        config=config,
        io=io,
        version=version,
    )
