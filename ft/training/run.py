"""Training runs: from a configuration to a folder with a trained model.

torch, which takes seconds to import, is imported when nothing can be said against a run any more.
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ft.config import ModelConfig, model_config_from_yaml
from ft.settings import load_yaml, override
from ft.train_config import TrainConfig, train_config_from_yaml
from ft.training.checks import check_device, check_run
from ft.workers import usable_cores

logger = logging.getLogger(__name__)


def train_from_yaml(
    source: str,
    assignments: Sequence[str] = (),
    output: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    threads: int | None = None,
    progress: bool = True,
) -> Path:
    """Runs the training that a YAML file or preset describes; returns the folder of the run.

    Started by `torchrun`, each process does its share.

    Args:
        threads: of the processor that compute; None: as `compute_threads` chooses.

    Raises:
        ConfigError, DataError, CheckpointError: before the first step.
        TrainingError: the loss or its gradient is not finite.
    """
    check_device(device)
    config, train = _configuration(source, assignments)
    folder = output or Path("runs") / config.name
    check_run(config, train, folder, resume)
    from ft.training.distributed import processes
    from ft.training.trainer import Interrupted, Trainer

    command = ["train", source, "--resume", "-o", str(folder)]
    command += [word for item in assignments for word in ("--set", item)]
    command += ["--device", device] if device != "auto" else []
    command += ["--threads", str(threads)] if threads else []
    with processes(device) as group, computing(threads, train.workers, group.rank):
        trainer = Trainer(config, train, folder, group, progress)
        if resume:
            trainer.restore()
        try:
            trainer.run()
        except Interrupted:
            if not group.rank:
                several = ["torchrun", "--nproc-per-node", str(group.size), "-m"] if group.size > 1 else []
                line = shlex.join([*several, "ft", *command])
                logger.warning("stopped at step %d and saved; go on with: %s", trainer.position.step, line)
            raise
    return folder


def dry_run_from_yaml(
    source: str,
    assignments: Sequence[str] = (),
    device: str = "auto",
    threads: int | None = None,
    progress: bool = True,
) -> str | None:
    """What the training that a YAML file or preset describes would take, found by three steps of each stage of it.

    Nothing is written.

    Returns:
        Lines for a user: the whole configuration in YAML, then parameters, memory and time as comments of it. None in
        all processes of `torchrun` but the first.
    Raises:
        ConfigError, DataError, CheckpointError, TrainingError: as the training would.
    """
    check_device(device)
    config, train = _configuration(source, assignments)
    check_run(config, train, None, resume=False)
    from ft.training.distributed import processes
    from ft.training.dry_run import measure, report
    from ft.training.trainer import Trainer

    with processes(device) as group, computing(threads, train.workers, group.rank):
        found = measure(Trainer(config, train, None, group, progress))
        return None if group.rank else report(config, train, found)


def compute_threads(threads: int | None, workers: int, most: int) -> tuple[int, str]:
    """Says how many threads compute, and why.

    Processes that load items run all the time as well. Where more threads than cores wait for each other at the end of
    every operation, a step takes many times as long as with one thread. What else runs is not counted: a run that is
    resumed would find the load that it left itself.

    Args:
        threads: what was asked for; None: the cores that this process may use, less `workers`, but at least one.
        workers: processes that load items.
        most: what PyTorch takes by itself: a thread for each core without its hyper-threads, or OMP_NUM_THREADS.
    """
    if threads is not None:
        return threads, "`threads`"
    if "OMP_NUM_THREADS" in os.environ:  # torchrun sets it too
        return most, "OMP_NUM_THREADS"
    cores = usable_cores()
    return max(1, min(most, cores - workers)), f"{cores} usable cores, {workers} for train.workers"


@contextmanager
def computing(threads: int | None, workers: int, rank: int = 0) -> Iterator[None]:
    """Computes with so many threads of the processor, as `compute_threads` has it; the first process says so."""
    import torch

    before = torch.get_num_threads()
    number, reason = compute_threads(threads, workers, before)
    torch.set_num_threads(number)
    if not rank:
        logger.info("threads that compute: %d (%s)", number, reason)
        cores, load = usable_cores(), os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        if number > 1 and load > cores:
            logger.info("the machine is busy (a load of %.1f on %d cores): fewer `threads` may be faster", load, cores)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _configuration(source: str, assignments: Sequence[str]) -> tuple[ModelConfig, TrainConfig]:
    """Gives the model and the training of a YAML file or preset. Raises ConfigError."""
    values = override(load_yaml(source), assignments)
    return model_config_from_yaml(values, source), train_config_from_yaml(values, source)
