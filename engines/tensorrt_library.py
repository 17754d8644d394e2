"""The two TensorRTs: finding them, their log, and whether a plan can run here."""

from __future__ import annotations

import functools
import importlib
import logging
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.devices import Gpu, find_gpus, parse_device
from engines.plan import KINDS, Kind, PlanManifest, rebuild_command
from ft.errors import EngineError, one_line

logger = logging.getLogger(__name__)

MODULES = {"full": ("tensorrt",), "rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
OLDEST = {"full": (10, 15), "rtx": (1, 2)}
INSTALL = {
    "full": "pip install 'frame-transformer[tensorrt]' (the package tensorrt, which fetches its libraries, some "
    "gigabytes, from NVIDIA's own package index, and cuda-python)",
    "rtx": "pip install 'frame-transformer[rtx]' (tensorrt-rtx-cu13-bindings and -libs)",
}
_KEPT = 20


def library(kind: Kind | str) -> ModuleType:
    """Gives the module of one TensorRT.

    Raises:
        EngineError: it is not installed, too old, or lacks its libraries; the message says what brings it.
    """
    found: Exception | None = None
    for name in MODULES[kind]:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                found = error
        except (ImportError, OSError, RuntimeError) as error:  # the module is there and its libraries are not
            found = error
        else:
            # A folder of that name without the package in it imports as an empty module.
            if not hasattr(module, "Runtime"):
                continue
            if _numbers(module.__version__) < OLDEST[kind]:
                oldest = ".".join(map(str, OLDEST[kind]))
                raise EngineError(
                    f"{KINDS[kind]} {module.__version__} is too old, {oldest} or later is needed: {INSTALL[kind]}"
                )
            return module
    if found is not None:
        raise EngineError(f"{KINDS[kind]} cannot be loaded ({one_line(found)}); {INSTALL[kind]}") from found
    raise EngineError(f"{KINDS[kind]} is not installed; {INSTALL[kind]}")


def installed() -> dict[str, str]:
    """Version of each TensorRT that can be loaded."""
    versions = {}
    for kind in KINDS:
        try:
            versions[kind] = library(kind).__version__
        except EngineError as error:
            logger.debug("%s", error)
    return versions


def gpu_of(device: str) -> Gpu:
    """Gives the GPU that `device` (auto, cuda or cuda:N) means. Raises EngineError where there is none."""
    name, number = parse_device(device)
    if name == "cpu":
        raise EngineError("TensorRT runs on NVIDIA GPUs only; use `device` auto")
    gpus = find_gpus()
    if number < len(gpus.found):
        return gpus.found[number]
    raise EngineError(
        f"device {device}: there are {len(gpus.found)} GPUs, counted from 0" if gpus.found else gpus.reason
    )


def target_of(gpu: Gpu) -> str:
    """Its compute capability as plans name it, e.g. sm86."""
    major, minor = gpu.compute_capability
    return f"sm{major}{minor}"


def why_not(manifest: PlanManifest, plan: Path, device: str = "auto") -> str | None:
    """Says why a plan cannot run here, with the command that builds one that can; None where it can."""
    name = KINDS[manifest.kind]
    try:
        gpu = gpu_of(device)
        module = library(manifest.kind)
    except EngineError as error:
        return str(error)
    target = target_of(gpu)
    if module.__version__ != manifest.version:
        problem = f"it was built by {name} {manifest.version}, and {module.__version__} is installed"
    elif target not in manifest.targets:
        problem = f"it was built for {', '.join(manifest.targets)}, and {gpu} is {target}"
        if manifest.kind == "rtx" and not hasattr(module.ComputeCapability, target.upper()):
            return f"{problem}, which {name} {manifest.version} does not know; use TensorRT (full) or an .onnx"
    else:
        return None
    return f"{problem}; build it again: {rebuild_command(manifest, plan, target)}"


@functools.cache
def log_of(module: ModuleType) -> Any:
    """Gives the log that this TensorRT writes to; there is one for the whole process, since TensorRT keeps the first.

    Its `errors` are the last lines of the level ERROR, and `take_errors` gives and forgets them.
    """
    severity = module.ILogger.Severity

    class Log(module.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, level: Any, message: str) -> None:
            if level in (severity.ERROR, severity.INTERNAL_ERROR):
                self.errors = [*self.errors, " ".join(message.split())][-_KEPT:]
            if level != severity.VERBOSE:
                logger.debug("%s: %s", module.__name__, message)

        def take_errors(self) -> str:
            errors, self.errors = self.errors, []
            return "; ".join(dict.fromkeys(errors)) or "it gave no reason"

    return Log()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdecimal())
