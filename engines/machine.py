"""The processor and the memory of this machine, as the system tells of them."""

from __future__ import annotations

import functools
import os
import platform
import re
from pathlib import Path


def cpu_name() -> str:
    """The model, with family and generation where its maker's name alone says nothing.

    Virtual machines often call every generation of a CPU by one name.
    """
    name = re.sub(r"\((R|TM)\)|\bCPU\b|@.*|\b\d+-Core Processor\b", "", cpu_field("model name", "Model"))
    name = " ".join(name.split()) or platform.processor() or platform.machine()
    if re.search(r"\d", name):
        return name
    family, model = cpu_field("cpu family"), cpu_field("model")
    return f"{name} (family {family}, model {model})" if family else name


def memory_bytes() -> int | None:
    """Of the whole machine; None where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def cpu_field(*names: str) -> str:
    """What /proc/cpuinfo says of the first core under the first of these names that it has; else nothing."""
    return next((_cpu_fields()[name] for name in names if name in _cpu_fields()), "")


@functools.cache
def _cpu_fields() -> dict[str, str]:
    """Those of the first core in /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return {}
    first = text.split("\n\n", 1)[0]
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}
