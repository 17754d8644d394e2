"""Cases through workers: one process each, replaced when it dies or takes too long, and what all of them gave."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .cases import Campaign, Case

TESTS = Path(__file__).parents[1]
START_SECONDS = 60.0
"""More for the first run of a worker, which imports everything."""


class Worker:
    """A process of `worker.py`; it lives as long as nothing goes wrong with it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None
        folder.mkdir(parents=True)

    def run(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What the worker answers; where it does not, only `problems`."""
        if self._process is None:
            self._process = self._start()
            seconds += START_SECONDS
        process = self._process
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else ""
        if line:
            result: dict[str, Any] = json.loads(line)
            return result
        self.close()
        code = process.returncode
        problem = f"did not end within {seconds:.0f} s" if not ready else f"died: {_name_of(-code)}"
        trace = (self._folder / "trace").read_text(errors="replace")
        return {"problems": [problem], "stderr": trace[-2000:], "failed": [], "peak": 0}

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self) -> subprocess.Popen[str]:
        paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_WAIT_POLICY": "PASSIVE",
            "MALLOC_ARENA_MAX": "2",  # each arena takes 64 MB of the address space that is limited
            "XDG_CACHE_HOME": str(self._folder / "cache"),
            "FT_FUZZ_FOLDER": str(self._folder / "run"),
        }
        with (self._folder / "trace").open("w") as trace:
            return subprocess.Popen(
                [sys.executable, "-m", "fuzz.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=trace,
                text=True,
                env=environment,
                cwd=self._folder,
            )

    def try_cases(self, campaign: Campaign, cases: list[Case]) -> dict[str, Any]:
        """Writes the files, runs them and removes all again."""
        folder = self._folder / "run"
        folder.mkdir()
        try:
            for case in cases:
                for name, content in case.files.items():
                    (folder / name).write_bytes(content)
            job = campaign.job(cases, folder)
            return {**self.run(job, campaign.seconds), "arguments": job["arguments"]}
        finally:
            shutil.rmtree(folder)


@dataclass
class Report:
    """What a campaign found."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(kind, outcome): done, failed or problem."""
    findings: list[dict[str, Any]] = field(default_factory=list)
    peak: tuple[int, int] = (0, 0)
    """Bytes of memory of a worker, the most, and the seed where it was reached."""
    slowest: tuple[float, int] = (0.0, 0)
    """Seconds of a run, the most, and its seed."""
    seconds: float = 0.0

    @property
    def cases(self) -> int:
        return sum(self.outcomes.values())

    def lines(self) -> Iterator[str]:
        kinds = sorted({kind for kind, _ in self.outcomes})
        yield f"{'':14}{'done':>8}{'failed':>8}{'problem':>8}"
        for kind in kinds:
            yield f"{kind:14}" + "".join(f"{self.outcomes[kind, name]:8d}" for name in ("done", "failed", "problem"))
        yield (
            f"{self.cases} cases in {self.seconds:.0f} s ({self.cases / max(self.seconds, 1e-9):.1f} a second), "
            f"slowest run {self.slowest[0]:.1f} s (seed {self.slowest[1]}), at most {self.peak[0] / 1e6:.0f} MB "
            f"(seed {self.peak[1]})"
        )


def run_campaign(campaign: Campaign, seeds: Iterable[int], workers: int = 1, say: Any = None) -> Report:
    """Runs the cases of `seeds`; `say` is called with each finding."""
    report, lock = Report(), threading.Lock()
    begun = time.perf_counter()
    groups = iter(_groups(campaign, seeds))

    def work(folder: Path) -> None:
        worker = Worker(folder)
        try:
            while True:
                with lock:
                    cases = next(groups, None)
                if cases is None:
                    return
                result = worker.try_cases(campaign, cases)
                alone = {}
                if result["problems"] and len(cases) > 1:
                    alone = {case.seed: worker.try_cases(campaign, [case]) for case in cases}
                with lock:
                    _count(report, cases, result, alone, say)
        finally:
            worker.close()

    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory) as folder, ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work, Path(folder) / str(number)) for number in range(workers)]:
            future.result()
    report.seconds = time.perf_counter() - begun
    return report


def _groups(campaign: Campaign, seeds: Iterable[int]) -> Iterator[list[Case]]:
    """Cases whose seeds lie in one block of `together`, so that they share their options."""
    held: list[int] = []
    for seed in seeds:
        if held and seed // campaign.together != held[0] // campaign.together:
            yield [campaign.case(each) for each in held]
            held = []
        held.append(seed)
    if held:
        yield [campaign.case(each) for each in held]


def _count(
    report: Report, cases: list[Case], result: dict[str, Any], alone: dict[int, dict[str, Any]], say: Any
) -> None:
    if result.get("peak", 0) > report.peak[0]:
        report.peak = result["peak"], cases[0].seed
    report.slowest = max(report.slowest, (result.get("seconds", 0), cases[0].seed))
    guilty = [case for case in cases if not alone or alone[case.seed]["problems"]]
    for case in cases:
        own = alone.get(case.seed, result)
        wrong = bool(result["problems"]) and case in guilty
        report.outcomes[case.kind, "problem" if wrong else "failed" if case.name in own["failed"] else "done"] += 1
        if wrong:
            _add(report, [case], own, say)
    if result["problems"] and not guilty:  # only together
        _add(report, cases, result, say)


def _add(report: Report, cases: list[Case], result: dict[str, Any], say: Any) -> None:
    finding = {
        "seeds": [case.seed for case in cases],
        "kind": cases[0].kind,
        "damage": [list(case.damage) for case in cases],
        "problems": result["problems"],
        **{key: result.get(key) for key in ("code", "stderr", "error", "seconds", "arguments")},
    }
    report.findings.append(finding)
    if say is not None:
        say(finding)


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"exit code {-number}"
