"""ONNX models in ONNX Runtime, on the CPU."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from engines.base import Array, Engine, EngineInfo, usable_cores
from ft.config import ModelConfig
from ft.errors import ConfigError, EngineError, one_line

if TYPE_CHECKING:
    import onnxruntime

logger = logging.getLogger(__name__)


class OrtEngine(Engine):
    """Runs a model that `ft export` wrote; all that must be known about it stands in the file's metadata."""

    def __init__(self, model: Path, threads: int | None = None) -> None:
        """`threads`: of one operator; None takes every core that the process may use."""
        super().__init__()
        self.model = model
        self.threads = threads or usable_cores()
        self._session: onnxruntime.InferenceSession | None = None
        self._info: EngineInfo | None = None

    def describe(self) -> EngineInfo:
        if self._info is None:
            raise EngineError(f"{self.model}: the engine is not open; use `with` around it")
        return self._info

    def _load(self) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(
                "onnxruntime is not installed and the model is an ONNX file; pip install 'frame-transformer[cpu]'"
            ) from error
        if not self.model.is_file():
            raise EngineError(f"{self.model}: no such file; expected a model that `ft export` wrote")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        # Waiting threads sleep, so that decoding, FFT and writing have the cores between two operators.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # A plan of all buffers at once takes a third more memory than giving each back to the arena, and is no faster.
        options.enable_mem_pattern = False
        options.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(str(self.model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise EngineError(f"{self.model}: ONNX Runtime cannot open it: {one_line(error)}") from error
        self._info = self._read_info(session)
        self._session = session
        logger.debug("%s: onnxruntime %s, %d threads", self.model, onnxruntime.__version__, self.threads)

    def _unload(self) -> None:
        self._session = None
        self._info = None

    def _infer(self, batch: Array) -> Array:
        assert self._session is not None
        try:
            mask: Array = self._session.run(["mask"], {"magnitude": batch})[0]
        except Exception as error:  # as above
            raise EngineError(f"{self.model}: ONNX Runtime failed: {one_line(error)}") from error
        return mask

    def _read_info(self, session: onnxruntime.InferenceSession) -> EngineInfo:
        metadata = session.get_modelmeta().custom_metadata_map
        if "ft_config" not in metadata or metadata.get("ft_io") != "magnitude":
            raise EngineError(
                f"{self.model}: an ONNX file without this project's metadata; expected a model that `ft export` wrote"
            )
        try:
            config = ModelConfig.from_dict(json.loads(metadata["ft_config"]))
        except (ConfigError, ValueError) as error:
            raise EngineError(f"{self.model}: its configuration cannot be read: {one_line(error)}") from error
        return EngineInfo(name="onnxruntime", model=str(self.model), device="cpu", precision="fp32", config=config)
