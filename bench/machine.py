"""The machine that figures come from: its name, its versions, its load and the memory of its GPUs."""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from engines.devices import find_gpus, open_nvml
from engines.machine import INT8_FEATURES, cpu_features, cpu_name, memory_bytes
from ft.workers import usable_cores

PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx-cu13-libs", "numpy")
# Instruction sets that decide how fast low precision can be.
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", *INT8_FEATURES)


def describe_machine() -> dict[str, Any]:
    """Gives what the figures depend on, JSON-ready."""
    gpus = find_gpus()
    features = cpu_features()
    return {
        "name": f"{cpu_name()}, {usable_cores()} cores" + "".join(f", {gpu.name}" for gpu in gpus.found[:1]),
        "cpu": cpu_name(),
        "features": [feature for feature in FEATURES if feature in features],
        "cores": usable_cores(),
        "memory_gb": round((memory_bytes() or 0) / 2**30, 1),
        "gpus": [{"name": gpu.name, "memory_gb": round(gpu.memory_bytes / 2**30, 1)} for gpu in gpus.found],
        "driver": gpus.driver,
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_versions() -> dict[str, str]:
    """Python's and those of the packages that compute."""
    found = {"python": platform.python_version()}
    for package in ("frame-transformer", *PACKAGES):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def load_average() -> float | None:
    """Processes that wanted a core in the last minute; figures from a busy machine are worth less."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def slug(name: str) -> str:
    """Gives a name as part of a file's name.

    >>> slug("AMD EPYC 9B45, 2 cores")
    'amd-epyc-9b45-2-cores'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def use_cores(count: int) -> None:
    """Lets this process and its children run on `count` cores only, where the system can say so."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def peak_memory_mb() -> float:
    """Gives the most memory that this process ever held."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return int(dict(line.split(":", 1) for line in status.splitlines())["VmHWM"].split()[0]) * 1024 / 1e6
    except (OSError, KeyError):  # not Linux
        pass
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


_nvml = functools.cache(open_nvml)


class _NvmlMemory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def device_memory_mb(device: str) -> float | None:
    """Memory in use on a GPU (`cuda:N`), by all processes; None for the CPU or where the driver does not say.

    CUDA_VISIBLE_DEVICES renumbers GPUs for programs and not for the driver's counters; where it is set, a GPU is looked
    up by the number or UUID that it gives.
    """
    if device == "cpu":
        return None
    if (nvml := _nvml()) is None:
        return None
    index = int(device.partition(":")[2] or 0)
    visible = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    handle, memory = ctypes.c_void_p(), _NvmlMemory()
    if visible and not visible[index].isdecimal():
        failed = nvml.nvmlDeviceGetHandleByUUID(visible[index].encode(), ctypes.byref(handle))
    else:
        number = int(visible[index]) if visible else index
        failed = nvml.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle))
    if failed or nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
        return None
    return float(memory.used / 1e6)
