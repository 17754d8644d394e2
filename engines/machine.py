"""The processor and the memory of this machine, as the system tells of them."""

from __future__ import annotations

import functools
import os
import platform
import re
import sys
from pathlib import Path

INT8_FEATURES = ("avx512_vnni", "avx_vnni", "amx_int8", "i8mm", "asimddp")
"""VNNI and its like: instruction sets that multiply in eight bits."""
UNKNOWN = "not known"
"""Most processors of today have one; without, int8 takes no longer than fp32."""


def cpu_name() -> str:
    """Gives the model, with family and generation where its maker's name alone says nothing.

    Virtual machines often call every generation of a CPU by one name.
    """
    name = re.sub(r"\((R|TM)\)|\bCPU\b|@.*|\b\d+-Core Processor\b", "", cpu_field("model name", "Model"))
    name = " ".join(name.split()) or platform.processor() or platform.machine()
    if re.search(r"\d", name):
        return name
    family, model = cpu_field("cpu family"), cpu_field("model")
    return f"{name} (family {family}, model {model})" if family else name


def cpu_features() -> frozenset[str]:
    """Instruction sets of the processor, as /proc/cpuinfo names them; of Apple's own, that which all of them have."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return frozenset({"asimddp"})
    return frozenset(cpu_field("flags", "Features").split())


def int8_products() -> str | None:
    """The instruction set that multiplies in eight bits, or `UNKNOWN` where the system does not say; None without one.

    Without one the shipped model takes as long in int8 as in fp32 (6.1 and 6.3 s of a core for a minute of sound).
    """
    features = cpu_features()
    return next((name for name in INT8_FEATURES if name in features), None if features else UNKNOWN)


def memory_bytes() -> int | None:
    """Gives the memory of the whole machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def cpu_field(*names: str) -> str:
    """Gives what /proc/cpuinfo says of the first core under the first of these names that it has; else nothing."""
    return next((_cpu_fields()[name] for name in names if name in _cpu_fields()), "")


@functools.cache
def _cpu_fields() -> dict[str, str]:
    """Reads what /proc/cpuinfo says of the first core."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
