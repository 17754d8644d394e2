"""Processes that work for another one."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

PROGRAM = """
import os, time
from ft.workers import process_pool

if __name__ == "__main__":
    with process_pool(2, print, ("ready",)) as pool:
        print(*[pool.submit(os.getpid).result() for _ in range(2)], flush=True)
        for _ in range(6):
            pool.submit(time.sleep, 60)
        time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_the_process_that_was_killed(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, tmp_path / "program.py"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as run:
        assert run.stdout is not None
        line = run.stdout.readline()
        while "ready" in line:  # a worker may have begun before the first has answered
            line = run.stdout.readline()
        workers = {int(word) for word in line.split()}
        run.kill()
        deadline = time.monotonic() + 20
        while any(alive(worker) for worker in workers):
            assert time.monotonic() < deadline, "they go on"
            time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
