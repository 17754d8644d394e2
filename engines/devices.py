"""NVIDIA GPUs, found through the driver alone, and which device an engine takes.

Only what the driver library tells is read; no setting of a GPU is touched, and no memory is taken on it.
"""

from __future__ import annotations

import ctypes
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ft.errors import DeviceLost, EngineError, OutOfDeviceMemory

logger = logging.getLogger(__name__)

NO_GPU = "no NVIDIA GPU here"
"""The reason for the CPU on a machine that has nothing else; `Gpus.reason` says how that was seen."""
NO_DEVICE, STUB_LIBRARY = 100, 34
"""What cuInit returns where there is no GPU, or only the library that programs are linked against."""
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_PCI = Path("/sys/bus/pci/devices")
_NVIDIA, _DISPLAY = "0x10de", "0x03"

_MEMORY_WORDS = ("out of memory", "failed to allocate", "alloc_failed", "std::bad_alloc", "erroroutofmemory")
# Errors after which CUDA refuses everything else in the process: the GPU is off the bus, or its context is broken.
_LOST_WORDS = (
    "gpu is lost",
    "device is lost",
    "unspecified launch failure",
    "illegal memory access",
    "illegal instruction",
    "misaligned address",
    "uncorrectable ecc",
    "device-side assert",
    "no cuda-capable device",
    "devices are busy or unavailable",
    "launch timed out",
    "contained by hardware",
    "error_launch_failed",
    "error_illegal_address",
    "error_device_unavailable",
    "error_ecc_uncorrectable",
)


@dataclass(frozen=True)
class Gpu:
    """One GPU as the driver counts them, CUDA_VISIBLE_DEVICES included."""

    index: int
    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.name} (cuda:{self.index})"


@dataclass(frozen=True)
class Gpus:
    """What was found."""

    found: tuple[Gpu, ...] = ()
    driver: str | None = None
    """Version of the driver, e.g. 580.65.06."""
    cuda: str | None = None
    """Newest CUDA version that the driver runs, e.g. 13.0."""
    reason: str = ""
    """Why there is none; empty where there is one."""
    broken: bool = False
    """Whether there is a GPU that cannot be used."""


@dataclass(frozen=True)
class Device:
    """Says where an engine computes, and why there."""

    name: str
    """cpu or cuda:N."""
    reason: str

    @property
    def index(self) -> int:
        """N of cuda:N; 0 for the CPU."""
        return int(self.name.partition(":")[2] or 0)

    @property
    def is_gpu(self) -> bool:
        return self.name != "cpu"


def find_gpus() -> Gpus:
    """Gives the GPUs of this machine, with the reason where there is none. That there is none is no error."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        cuda = ctypes.CDLL(name)
    except OSError:
        if _has_nvidia_card():
            return Gpus(reason=f"an NVIDIA card is there, but not its driver ({name}); install the driver", broken=True)
        return Gpus(reason=f"no GPU found (no NVIDIA driver, {name})")
    status = cuda.cuInit(0)
    if status in (NO_DEVICE, STUB_LIBRARY):
        return Gpus(driver=_driver_version(), reason="no GPU found (the NVIDIA driver sees none)")
    if status:
        return Gpus(
            driver=_driver_version(),
            reason=f"the NVIDIA driver cannot start: cuInit gave {status} ({_error_name(cuda, status)}); "
            "nvidia-smi says more, and a restart mends a driver that was just updated",
            broken=True,
        )
    number = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(number))
    found = tuple(_read_gpu(cuda, index) for index in range(number.value))
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    newest = f"{version.value // 1000}.{version.value % 1000 // 10}"
    reason = "" if found else "no GPU found (CUDA_VISIBLE_DEVICES hides them, or there is none)"
    return Gpus(found, _driver_version(), newest, reason)


def parse_device(wanted: str) -> tuple[str, int]:
    """`auto`, `cpu` or `cuda`, and the number of the GPU. Raises EngineError for any other text."""
    name, separator, number = wanted.partition(":")
    if name in ("auto", "cpu", "cuda") and (not separator or (name == "cuda" and number.isdecimal())):
        return name, int(number or 0)
    raise EngineError(f"device {wanted}; expected auto, cpu, cuda or cuda:N")


def choose_device(wanted: str, problem: Callable[[Gpu], str | None]) -> Device:
    """Gives the device for an engine: a GPU where `auto` finds one that the engine can use.

    Args:
        wanted: auto, cpu, cuda or cuda:N.
        problem: Why the engine cannot use a GPU, with what mends it; None where it can.
    Raises:
        EngineError: another text, or a GPU was asked for and cannot be used. Under `auto` that is a warning.
    """
    name, number = parse_device(wanted)
    if name == "cpu":
        return Device("cpu", "asked for")
    gpus = find_gpus()
    if number < len(gpus.found):
        gpu = gpus.found[number]
        why_not = problem(gpu)
        if why_not is None:
            return Device(f"cuda:{number}", f"asked for {gpu.name}" if name == "cuda" else f"found {gpu.name}")
        if name == "auto":
            return instead_of_gpu(f"{gpu} is not used: {why_not}")
        raise EngineError(f"device {wanted}: {gpu.name} cannot be used: {why_not}")
    if name == "cuda":
        missing = f"there are {len(gpus.found)} GPUs, counted from 0" if gpus.found else gpus.reason
        raise EngineError(f"device {wanted}: {missing}; use `device` cpu")
    if gpus.broken:
        return instead_of_gpu(gpus.reason)
    logger.debug("%s", gpus.reason)
    return Device("cpu", NO_GPU)


def instead_of_gpu(why_not: str) -> Device:
    """Gives the CPU, in place of a GPU that is there; says so."""
    logger.warning("%s; running on the CPU", why_not)
    return Device("cpu", why_not)


def device_error(message: str) -> EngineError:
    """Gives the kind of error that a runtime's text tells of: no memory, a lost device, or any other.

    >>> type(device_error("CUDA failure 2: out of memory")).__name__
    'OutOfDeviceMemory'
    """
    text = message.lower()
    if any(words in text for words in _LOST_WORDS):
        return DeviceLost(message)
    if any(words in text for words in _MEMORY_WORDS):
        return OutOfDeviceMemory(message)
    return EngineError(message)


def _read_gpu(cuda: ctypes.CDLL, index: int) -> Gpu:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, len(name), device)
    cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
    cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(index, name.value.decode(errors="replace"), (major.value, minor.value), memory.value)


def _error_name(cuda: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorName(status, ctypes.byref(text))
    return text.value.decode() if text.value else "unknown"


def open_nvml() -> ctypes.CDLL | None:
    """Opens the NVIDIA driver's management library, for `nvmlShutdown` to close; None where there is none."""
    try:
        nvml = ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError:
        return None
    return None if nvml.nvmlInit_v2() else nvml


def _driver_version() -> str | None:
    """Asks the NVIDIA driver's management library for its version."""
    if (nvml := open_nvml()) is None:
        return None
    version = ctypes.create_string_buffer(96)
    failed = nvml.nvmlSystemGetDriverVersion(version, len(version))
    nvml.nvmlShutdown()
    return None if failed else version.value.decode(errors="replace")


def _has_nvidia_card() -> bool:
    """Says whether Linux lists an NVIDIA display device, with or without its driver."""
    for device in _PCI.glob("*"):
        try:
            vendor, kind = ((device / name).read_text(encoding="ascii") for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor.startswith(_NVIDIA) and kind.startswith(_DISPLAY):
            return True
    return False
