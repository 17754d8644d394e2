"""Networks in PyTorch: those in memory, and checkpoints in float32, the reference of the other engines."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engines.base import Array, Engine, EngineInfo, Inputs
from engines.devices import Gpu, choose_device, device_error
from engines.model_file import FileEngine, Windows
from ft.config import ModelConfig
from ft.errors import CheckpointError, EngineError, one_line

if TYPE_CHECKING:
    import torch

MISSING = "pip install 'frame-transformer[train]'"


class NetworkEngine(Engine):
    """Runs a network that is in memory, as it stands: it is neither moved nor put into another mode."""

    def __init__(
        self,
        network: Callable[[torch.Tensor], torch.Tensor],
        config: ModelConfig,
        device: torch.device | str = "cpu",
        autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext,
        precision: str = "fp32",
    ) -> None:
        """
        Args:
            network: a module of `ft.models`, or what calls one; it may be wrapped or compiled.
            config: the model that it belongs to.
            device: where it lies.
            autocast: makes the context in which it runs.
            precision: what it computes in, for `describe`.
        """
        import torch

        super().__init__()
        self.network, self._device, self._autocast = network, torch.device(device), autocast
        self._info = EngineInfo("torch", config.name, str(device), precision, config, version=torch.__version__)

    def describe(self) -> EngineInfo:
        return self._info

    def _load(self) -> None:
        pass

    def _unload(self) -> None:
        pass

    def _infer(self, inputs: Inputs) -> Array:
        return computed(self.network, self._info, inputs, self._device, self._autocast)


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
        """Reads nothing yet; see `FileEngine`. `threads` None leaves their number to PyTorch."""
        super().__init__(model, threads, device, windows=windows, reason=reason)
        self._set_threads = threads
        self._network: torch.nn.Module | None = None

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

    def _infer(self, inputs: Inputs) -> Array:
        assert self._network is not None and self._info is not None
        return computed(self._network, self._info, inputs, self._info.device)


def computed(
    network: Callable[[torch.Tensor], torch.Tensor],
    info: EngineInfo,
    inputs: Inputs,
    device: torch.device | str,
    autocast: Callable[[], AbstractContextManager] = contextlib.nullcontext,
) -> Array:
    """Gives what a model gives of its one input. Raises EngineError, and its subclasses for the device."""
    import torch

    from ft.models.signal import activated

    (given,) = inputs.values()
    try:
        # Convolutions on a GPU would otherwise round to TF32, 10 bits, and be no reference.
        with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
            x = torch.tensor(given).to(device)
            with autocast():
                result = network(x)
            values: Array = activated(result, info.config.output).cpu().numpy()
    except RuntimeError as error:
        raise device_error(f"{info.model}: PyTorch failed on {info.device}: {one_line(error)}") from error
    return np.ascontiguousarray(values)


def cuda_problem(gpu: Gpu | None = None) -> str | None:
    """Says why PyTorch cannot use a GPU that the driver sees, with what mends it; None where it can."""
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
