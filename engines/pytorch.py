"""A checkpoint in PyTorch, in float32: the reference that the other engines are compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.base import Array, EngineInfo
from engines.devices import Gpu, choose_device, device_error
from engines.model_file import FileEngine, Windows
from ft.errors import CheckpointError, EngineError, one_line

if TYPE_CHECKING:
    from ft.models.frame_transformer import FrameTransformer

MISSING = "pip install 'frame-transformer[train]'"


class PytorchEngine(FileEngine):
    """Runs a checkpoint as it is; also takes an exported ONNX file, whose weights it runs in PyTorch."""

    def __init__(
        self,
        model: Path,
        threads: int | None = None,
        device: str = "auto",
        *,
        windows: Windows | None = None,
        reason: str = "",
    ) -> None:
        """As `FileEngine`, but `threads` None leaves their number to PyTorch."""
        super().__init__(model, threads, device, windows=windows, reason=reason)
        self._set_threads = threads
        self._network: FrameTransformer | None = None

    def _load(self) -> None:
        try:
            import torch
        except ImportError as error:
            raise EngineError(
                f"torch is not installed and {self.model} is to run in it; {MISSING}, or export the model to ONNX"
            ) from error
        from ft.checkpoint import load_model

        device = choose_device(self.device, cuda_problem)
        try:
            network = load_model(self.model)
        except CheckpointError as error:
            raise EngineError(str(error)) from error
        if network.config.mask == "complex":
            raise EngineError(
                f"{self.model}: its mask is complex, which networks can be trained and scored with and no engine runs; "
                "expected model.mask: magnitude"
            )
        if self._set_threads is not None:
            torch.set_num_threads(self._set_threads)
        try:
            self._network = network.to(device.name)
        except RuntimeError as error:
            raise device_error(f"{self.model}: PyTorch cannot load it on {device.name}: {one_line(error)}") from error
        info = EngineInfo(
            name="torch",
            model=str(self.model),
            device=device.name,
            precision="fp32",
            config=network.model_config,
            version=torch.__version__,
        )
        self._info = self._placed(info, device)

    def _unload(self) -> None:
        super()._unload()
        self._network = None

    def _infer(self, batch: Array) -> Array:
        import torch

        assert self._network is not None and self._info is not None
        try:
            # Convolutions on a GPU would otherwise round to TF32, 10 bits, and be no reference.
            with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
                magnitude = torch.from_numpy(np.ascontiguousarray(batch)).to(self._info.device)
                mask: Array = self._network.mask(magnitude).cpu().numpy()
        except RuntimeError as error:
            raise device_error(f"{self.model}: PyTorch failed on {self._info.device}: {one_line(error)}") from error
        return mask


def cuda_problem(gpu: Gpu | None = None) -> str | None:
    """Why PyTorch cannot use a GPU that the driver sees, with what mends it; None where it can."""
    import torch

    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a build for the CPU; pip install --force-reinstall 'torch>=2.11,<2.14'"
    if not torch.cuda.is_available():
        return (
            f"torch {torch.__version__} is built for CUDA {torch.version.cuda} and cannot start it; "
            "the driver may be too old for it: install a newer driver, or a torch for its CUDA"
        )
    if gpu is not None and gpu.index >= torch.cuda.device_count():
        return f"torch {torch.__version__} sees {torch.cuda.device_count()} GPUs"
    return None
