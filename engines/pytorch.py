"""A checkpoint in PyTorch, in float32: the reference that the other engines are compared with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.base import Array, Engine, EngineInfo
from ft.errors import CheckpointError, EngineError

if TYPE_CHECKING:
    from ft.models.frame_transformer import FrameTransformer

logger = logging.getLogger(__name__)


class PytorchEngine(Engine):
    """Runs a checkpoint as it is; also takes an exported ONNX file, whose weights it runs in PyTorch."""

    def __init__(self, model: Path, threads: int | None = None, device: str = "auto") -> None:
        """`threads`: of one operator on the CPU, None leaves it to PyTorch. `device`: auto, cpu, cuda or cuda:N."""
        super().__init__()
        self.model = model
        self.threads = threads
        self.device = device
        self._network: FrameTransformer | None = None
        self._info: EngineInfo | None = None

    def describe(self) -> EngineInfo:
        if self._info is None:
            raise EngineError(f"{self.model}: the engine is not open; use `with` around it")
        return self._info

    def _load(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise EngineError(
                f"torch is not installed and {self.model} is to run in it; pip install 'frame-transformer[train]', or "
                "export the model to ONNX"
            ) from error
        from ft.checkpoint import load_model

        device = _device(self.device)
        try:
            network = load_model(self.model)
        except CheckpointError as error:
            raise EngineError(str(error)) from error
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        self._network = network.to(device)
        self._info = EngineInfo(
            name="torch", model=str(self.model), device=device, precision="fp32", config=network.model_config
        )
        logger.debug("%s: torch %s on %s", self.model, torch.__version__, device)

    def _unload(self) -> None:
        self._network = None
        self._info = None

    def _infer(self, batch: Array) -> Array:
        import torch

        assert self._network is not None and self._info is not None
        try:
            # Convolutions on a GPU would otherwise round to TF32, 10 bits, and be no reference.
            with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
                magnitude = torch.from_numpy(np.ascontiguousarray(batch)).to(self._info.device)
                mask: Array = self._network.mask(magnitude).cpu().numpy()
        except RuntimeError as error:
            raise EngineError(
                f"{self.model}: PyTorch failed on {self._info.device}: {' '.join(str(error).split())}"
            ) from error
        return mask


def _device(wanted: str) -> str:
    """The device to run on: `auto` takes a GPU where there is one. Raises EngineError."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu":
        return wanted
    name, _, number = wanted.partition(":")
    if name != "cuda" or (number and not number.isdecimal()):
        raise EngineError(f"device {wanted}; expected auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available() or int(number or 0) >= torch.cuda.device_count():
        raise EngineError(f"device {wanted}: PyTorch finds {torch.cuda.device_count()} GPUs; use cpu")
    return wanted
