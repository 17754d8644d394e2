"""TensorRT plans on a GPU: checked against their manifest, opened once, run without taking anything more."""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.base import Array, EngineInfo, Inputs
from engines.cuda import BACKENDS
from engines.cuda_pycuda import open_cuda
from engines.devices import Device, device_error
from engines.model_file import FileEngine, Windows
from engines.plan import PlanManifest, input_shapes, read_plan, rebuild_command
from engines.plan_cache import cache_folder, plans_folder
from engines.tensorrt_library import gpu_of, library, log_of, why_not
from engines.tensorrt_runner import PlanRunner
from ft.errors import CheckpointError, EngineError, OutOfDeviceMemory
from ft.files import atomic_write

logger = logging.getLogger(__name__)

NAMES = {"full": "tensorrt", "rtx": "tensorrt-rtx"}


class TensorrtEngine(FileEngine):
    """Runs a plan that `ft export --tensorrt` wrote, and no other."""

    def __init__(
        self,
        model: Path,
        device: str = "auto",
        *,
        windows: Windows | None = None,
        memory: str = "cuda-python",
        reason: str = "",
    ) -> None:
        """Nothing is read yet; see `FileEngine`.

        Args:
            model: the plan; its manifest lies beside it.
            windows: a warning tells where the plan has another window.
            memory: who handles device memory, cuda-python or pycuda.
        """
        super().__init__(model, device=device, windows=windows, reason=reason)
        if memory not in BACKENDS:
            raise EngineError(f"memory {memory}; expected {' or '.join(BACKENDS)}")
        self.memory = memory
        self._runner: PlanRunner | None = None
        self._held = contextlib.ExitStack()

    def _load(self) -> None:
        try:
            manifest, serialized = read_plan(self.model)
        except CheckpointError as error:
            raise EngineError(str(error)) from error
        problem = why_not(manifest, self.model, self.device)
        if problem is not None:
            raise EngineError(f"{self.model} cannot run here: {problem}")
        self._compare_windows(manifest)
        gpu = gpu_of(self.device)
        module = library(manifest.kind)
        try:
            self._open_plan(manifest, serialized, module, gpu.index)
        except OutOfDeviceMemory as error:
            self._unload()
            raise OutOfDeviceMemory(
                f"{self.model}: {manifest.batch} windows of {manifest.frames} frames do not fit into the memory of "
                f"{gpu} ({error}); {self._smaller(manifest)}"
            ) from error
        except BaseException:
            self._unload()
            raise
        info = EngineInfo(
            name=NAMES[manifest.kind],
            model=str(self.model),
            device="",
            precision=manifest.precision,
            config=manifest.config,
            io=manifest.io,
            version=manifest.version,
        )
        self._info = self._placed(info, Device(f"cuda:{gpu.index}", f"found {gpu.name}"))

    def _compare_windows(self, manifest: PlanManifest) -> None:
        """Says so where another window than that of the plan is expected."""
        if self.windows is None:
            return
        shapes = input_shapes(manifest.config, manifest.io, *self.windows)
        taking = next((profile for profile in manifest.profiles if profile.takes(shapes)), None)
        if taking == manifest.profiles[0]:
            return
        per_window = manifest.config.items_per_window
        items, frames = self.windows
        message = (
            f"{self.model}: its window is {manifest.batch * per_window} x {manifest.frames} frames, "
            f"{items} x {frames} will be given"
        )
        if taking is not None:
            logger.warning("%s; those run in its slower profile", message)
            return
        changes: dict[str, Any] = {"batch": max(manifest.batch, -(-items // per_window))}
        if frames > manifest.frames:
            changes["segment_seconds"] = frames / manifest.config.frame_rate
        again = rebuild_command(manifest, self.model, **changes)
        logger.warning("%s, which it does not take; build it again: %s", message, again)

    def _smaller(self, manifest: PlanManifest) -> str:
        """Says what to do where there is no memory for the plan."""
        if self.model.parent == plans_folder():  # built for what was asked for
            return "use a smaller `batch_size` or `segment_seconds`"
        changes: dict[str, Any] = {"batch": manifest.batch // 2}
        if manifest.batch == 1:
            changes = {"segment_seconds": manifest.frames / manifest.config.frame_rate / 2}
        return f"build it again: {rebuild_command(manifest, self.model, **changes)}"

    def _open_plan(self, manifest: PlanManifest, serialized: bytes, module: ModuleType, device: int) -> None:
        log = log_of(module)
        log.take_errors()
        cuda = open_cuda(self.memory, device)
        self._held.callback(cuda.close)
        self._held.callback(self._forget)
        with cuda.current():
            runtime = module.Runtime(log)
            engine = runtime.deserialize_cuda_engine(serialized)
            if engine is None:
                raise device_error(f"{self.model}: {module.__name__} cannot open it: {log.take_errors()}")
            make_context, save_kernels = _contexts(module, engine, manifest)
            runner = PlanRunner(module, engine, make_context, cuda, manifest.profiles)
            runner.owner = runtime
            save_kernels()
        self._runner = runner

        def close_runner() -> None:
            with cuda.current():
                runner.close()

        self._held.callback(close_runner)

    def _unload(self) -> None:
        super()._unload()
        try:
            self._held.close()
        except EngineError as error:  # of a device that is lost
            logger.debug("%s: closing failed: %s", self.model, error)

    def _forget(self) -> None:
        """TensorRT frees an engine with its last reference, which must come before that to the CUDA context."""
        self._runner = None
        gc.collect()

    def _infer(self, inputs: Inputs) -> Array:
        return self._start(inputs).result()

    def _start(self, inputs: Inputs) -> Any:
        runner = self._runner  # another thread may close the engine now
        if runner is None:
            raise EngineError(f"{self.model}: the engine was closed while it was in use")
        try:
            return runner.submit(dict(inputs))
        except EngineError as error:
            raise type(error)(f"{self.model}: {error}") from error

    @contextlib.contextmanager
    def _starting(self) -> Iterator[Callable[[Inputs], Callable[[], Array]]]:
        """No thread is needed: the GPU computes while the caller goes on. The runner has a lock of its own."""

        def start(inputs: Inputs) -> Callable[[], Array]:
            try:
                self._check_inputs(inputs)
                ticket = self._start(inputs)
            except EngineError as error:
                return _raising(error)
            return lambda: self._check_result(inputs, ticket.result())

        yield start


def _raising(error: EngineError) -> Callable[[], Array]:
    """The error comes in its turn, after the results of the batches before."""

    def fail() -> Array:
        raise error

    return fail


def _contexts(module: ModuleType, engine: Any, manifest: PlanManifest) -> tuple[Callable[[], Any], Callable[[], None]]:
    """What makes an execution context, and what keeps for the next time the kernels that TensorRT-RTX then compiled."""
    strategy = module.ExecutionContextAllocationStrategy.USER_MANAGED
    settings = engine.create_runtime_config() if manifest.kind == "rtx" else None
    if settings is None or not hasattr(settings, "create_runtime_cache"):
        return (lambda: engine.create_execution_context(strategy)), (lambda: None)
    settings.set_execution_context_allocation_strategy(strategy)
    path = cache_folder() / f"kernels-{manifest.plan_sha256[:16]}.cache"
    cache = settings.create_runtime_cache()
    known = path.read_bytes() if path.is_file() else b""
    if known:
        cache.deserialize(known)
    settings.set_runtime_cache(cache)

    def save() -> None:
        values = bytes(cache.serialize())
        if values == known:
            return
        try:
            with atomic_write(path) as part:
                part.write_bytes(values)
        except OSError as error:
            logger.debug("%s cannot be written, the next start compiles again: %s", path, error)

    return (lambda: engine.create_execution_context(settings)), save
