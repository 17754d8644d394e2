"""What every engine needs, looked at one by one: `ft doctor`.

Each check asks only what is there, opens no model and takes no memory of a GPU. Its findings say what is wrong and
give the line that mends it.
"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

from engines.devices import Gpus, find_gpus
from engines.machine import cpu_name, int8_products, memory_bytes
from ft import __version__
from ft.errors import EngineError, FtError, one_line
from ft.workers import usable_cores

INSTALL = {
    "openvino": "pip install 'frame-transformer[openvino]'",
    "torch": "pip install 'frame-transformer[train]'",
    "cuda-python": "pip install 'cuda-python>=12.8'",
}
_CUDA_WHEELS = ("nvidia-cublas", "nvidia-cublas-cu12", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13")


@dataclass(frozen=True)
class Finding:
    """Something wrong."""

    problem: str
    mend: str = ""
    """The line that mends it; empty where none does."""
    fatal: bool = True
    """Whether the engine cannot be used."""


@dataclass(frozen=True)
class Check:
    """One engine."""

    engine: str
    version: str | None
    findings: tuple[Finding, ...] = ()

    @property
    def usable(self) -> bool:
        return not any(finding.fatal for finding in self.findings)


def check_onnxruntime(gpus: Gpus) -> Check:
    """Checks ONNX Runtime on the CPU."""
    version, found = _onnxruntime()
    return Check("onnxruntime", version, (*found, *_both_wheels(gpus)))


def check_onnxruntime_cuda(gpus: Gpus) -> Check:
    """Checks ONNX Runtime with its CUDA provider."""
    from engines.ort import cuda_problem

    version, found = _onnxruntime()
    if found:
        return Check("onnxruntime-cuda", version, (*_no_gpu(gpus), *found))
    import onnxruntime

    findings = [*_no_gpu(gpus), *_both_wheels(gpus)]
    problem = cuda_problem()
    if problem is not None:
        what, _, mend = problem.partition("; ")
        others = [f"{name} {other}" for name in _CUDA_WHEELS if (other := _version(name))]
        if others and "cannot load" in what:
            what += f" (installed: {', '.join(others)})"
        findings.append(Finding(what, mend))
    findings += _old_driver(gpus, getattr(onnxruntime, "cuda_version", ""), "onnxruntime-gpu")
    return Check("onnxruntime-cuda", version, tuple(findings))


def check_torch_cuda(gpus: Gpus) -> Check:
    """Checks PyTorch on a GPU."""
    from engines.pytorch import cuda_problem

    found = _imports("torch", "safetensors")
    if not found and (problem := cuda_problem()) is not None:
        what, _, mend = problem.partition("; ")
        found = (Finding(what, mend),)
    return Check("torch-cuda", _version("torch"), (*_no_gpu(gpus), *found))


CHECKS: Mapping[str, Callable[[Gpus], Check]] = {
    "onnxruntime": check_onnxruntime,
    "onnxruntime-cuda": check_onnxruntime_cuda,
    "openvino": lambda gpus: Check("openvino", _version("openvino"), _imports("openvino")),
    "torch": lambda gpus: Check("torch", _version("torch"), _imports("torch", "safetensors")),
    "torch-cuda": check_torch_cuda,
    "tensorrt": lambda gpus: _tensorrt("tensorrt", "full", gpus),
    "tensorrt-rtx": lambda gpus: _tensorrt("tensorrt-rtx", "rtx", gpus),
}


def examine(engine: str | None = None, progress: Callable[[float], object] = lambda share: None) -> dict[str, Any]:
    """Gives all facts, or those of one engine, as `ft doctor --json` prints them.

    Args:
        progress: called with the share of the engines that were looked at.
    Returns:
        `machine`, with `int8`, the instruction set that multiplies in eight bits or None, `python`, `gpus` (`found`,
        `driver`, `cuda`, `reason`), `engines` (name -> `usable`, `version`, `findings`), and `auto`, what would run the
        shipped model: `engine`, `version`, `device`, `precision`, `reason`.
    """
    gpus = find_gpus()
    checks = []
    for number, (name, check) in enumerate(CHECKS.items(), 1):
        if engine in (None, name):
            checks.append(check(gpus))
        progress(number / len(CHECKS))
    return {
        "ft": __version__,
        "machine": {
            "system": platform.platform(),
            "processor": cpu_name(),
            "int8": int8_products(),
            "usable_cores": usable_cores(),
            "memory_bytes": memory_bytes(),
        },
        "python": {"version": platform.python_version(), "executable": sys.executable},
        "gpus": asdict(gpus),
        "engines": {
            check.engine: {
                "usable": check.usable,
                "version": check.version,
                "findings": [asdict(finding) for finding in check.findings],
            }
            for check in checks
        },
        "auto": _auto(),
    }


def as_text(facts: Mapping[str, Any]) -> str:
    """Gives the facts in two columns; under an engine, what is wrong and the line that mends it."""
    machine, gpus, auto = facts["machine"], facts["gpus"], facts["auto"]
    memory = f", {machine['memory_bytes'] / 2**30:.0f} GiB" if machine["memory_bytes"] else ""
    processor = f"{machine['processor']}, {machine['usable_cores']} usable cores{memory}"
    rows = [
        ("ft", facts["ft"]),
        ("machine", machine["system"]),
        ("", processor),
        ("int8", f"{machine['int8'] or 'no VNNI'}: on the CPU default runs in {'int8' if machine['int8'] else 'fp32'}"),
        ("python", f"{facts['python']['version']}, {facts['python']['executable']}"),
    ]
    for gpu in gpus["found"]:
        capability = ".".join(map(str, gpu["compute_capability"]))
        size = gpu["memory_bytes"] / 2**30
        rows.append((f"cuda:{gpu['index']}", f"{gpu['name']}, compute capability {capability}, {size:.0f} GiB"))
    if not gpus["found"]:
        rows.append(("gpu", gpus["reason"]))
    if gpus["driver"] or gpus["cuda"]:
        rows.append(("driver", f"{gpus['driver'] or 'unknown'}, CUDA up to {gpus['cuda'] or 'unknown'}"))
    rows.append(("", ""))
    for name, engine in facts["engines"].items():
        version = engine["version"] or ""
        rows.append((name, " ".join(filter(None, [version, "usable" if engine["usable"] else "NOT usable"]))))
        for finding in engine["findings"]:
            rows.append(("", f"  {finding['problem']}"))
            if finding["mend"]:
                rows.append(("", f"  -> {finding['mend']}"))
    rows.append(("", ""))
    if "problem" in auto:
        rows.append(("auto", f"nothing runs the shipped model: {auto['problem']}"))
    else:
        where = f"{auto['engine']} {auto['version']} on {auto['device']}, {auto['precision'].partition(' ')[0]}"
        rows.append(("auto", f"{where} ({auto['reason']})"))
    width = max(len(name) for name, _ in rows) + 2
    return "\n".join(f"{name:{width}}{text}".rstrip() for name, text in rows)


def _auto() -> dict[str, str]:
    """Gives what would run the shipped model; it is opened, since only that shows it."""
    from engines import load_engine

    try:
        with load_engine() as engine:
            info = engine.describe()
    except FtError as error:
        return {"problem": str(error)}
    return {
        "engine": info.name,
        "version": info.version,
        "device": info.device,
        "precision": info.precision,
        "reason": info.reason,
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _imports(*modules: str) -> tuple[Finding, ...]:
    """Says which of the modules cannot be imported, and why."""
    for name in modules:
        mend = INSTALL.get(name, INSTALL["torch"])
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            missing = isinstance(error, ModuleNotFoundError) and error.name == name
            why = "is not installed" if missing else f"is installed and cannot be imported: {one_line(error)}"
            return (Finding(f"{name} {why}", mend),)
    return ()


def _onnxruntime() -> tuple[str | None, tuple[Finding, ...]]:
    """Its version, or why there is none."""
    from engines.ort import import_onnxruntime

    try:
        return import_onnxruntime().__version__, ()
    except EngineError as error:
        what, _, mend = str(error).rpartition("; ")
        return None, (Finding(what, mend),)


def _both_wheels(gpus: Gpus) -> tuple[Finding, ...]:
    """onnxruntime and onnxruntime-gpu write to one folder: what is there now is a mixture of both."""
    from engines.ort import CPU_BUILD, GPU_BUILD

    cpu, gpu = _version("onnxruntime"), _version("onnxruntime-gpu")
    if cpu is None or gpu is None:
        return ()
    problem = f"onnxruntime {cpu} and onnxruntime-gpu {gpu} are both installed and overwrite each other's files"
    return (Finding(problem, GPU_BUILD if gpus.found else CPU_BUILD, fatal=False),)


def _no_gpu(gpus: Gpus) -> tuple[Finding, ...]:
    return () if gpus.found else (Finding(gpus.reason),)


def _old_driver(gpus: Gpus, needed: str, what: str) -> tuple[Finding, ...]:
    """A driver runs programs of its own CUDA's major version and of older ones."""
    if not gpus.found or gpus.cuda is None or not needed or int(needed.split(".")[0]) <= int(gpus.cuda.split(".")[0]):
        return ()
    problem = f"{what} is built for CUDA {needed}, and the driver {gpus.driver} runs up to {gpus.cuda}"
    return (Finding(problem, "install a newer NVIDIA driver"),)


def _tensorrt(engine: str, kind: str, gpus: Gpus) -> Check:
    from engines.tensorrt_library import INSTALL as BRINGS
    from engines.tensorrt_library import library

    findings, version = [*_no_gpu(gpus)], None
    try:
        version = library(kind).__version__
    except EngineError as error:
        findings.append(Finding(str(error).removesuffix(BRINGS[kind]).rstrip(";: "), BRINGS[kind]))
    if not _has("cuda.bindings"):
        findings.append(Finding("cuda-python, which handles device memory, is not installed", INSTALL["cuda-python"]))
        if _has("pycuda"):
            findings.append(Finding("pycuda is installed, and is taken with `memory` pycuda", fatal=False))
    return Check(engine, version, tuple(findings))


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False
