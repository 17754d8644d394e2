"""What is left in memory of a model that was closed."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from ft.separate import Separator

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

def cycle(model):
    with Separator(model, runtime=sys.argv[1], device="cpu") as separator:
        separator.separate(song, 44100)
        used = megabytes()
    return used, megabytes()

song = 0.1 * np.random.default_rng(0).standard_normal((2, 5 * 44100)).astype(np.float32)
print(json.dumps([cycle(sys.argv[2]) for _ in range(int(sys.argv[3]))]))
"""
SETTLING, CYCLES = 4, 8
"""Allocators keep what they may need again, and after a few cycles no more than that."""
WEIGHTS = 31
"""MB that the shipped model's weights take at least, in fp16; each closed model that stayed would add them."""


LONG = pytest.mark.long


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "runtime", ["onnxruntime", *(pytest.param(name, marks=LONG) for name in ("openvino", "torch"))]
)
def test_a_closed_model_leaves_no_memory_behind(tiny_onnx, runtime):
    # OpenVINO compiles the shipped model for seconds; what a window takes shows with the tiny one too.
    model = tiny_onnx if runtime == "openvino" else "default"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, runtime, str(model), str(CYCLES)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},
    )
    cycles = json.loads(run.stdout)[SETTLING:]
    used, left = zip(*cycles, strict=True)
    assert min(used) > max(left) + 30, cycles  # else nothing was taken that could be given back
    assert left[-1] < left[0] + WEIGHTS * (len(cycles) - 1) / 2, cycles
