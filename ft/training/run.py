"""Training runs: from a configuration to a folder with a trained model."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from ft.config import load_yaml, model_config_from_yaml, override
from ft.errors import ConfigError
from ft.train_config import train_config_from_yaml
from ft.training.distributed import processes, select_device
from ft.training.guard import TrainingError
from ft.training.log import LOG
from ft.training.position import Position
from ft.training.run_folder import BEST, LAST, STATE
from ft.training.trainer import Interrupted, Trainer

logger = logging.getLogger(__name__)

__all__ = [
    "BEST",
    "LAST",
    "LOG",
    "STATE",
    "Interrupted",
    "Position",
    "Trainer",
    "TrainingError",
    "dry_run_from_yaml",
    "select_device",
    "train_from_yaml",
]


def train_from_yaml(
    source: str,
    assignments: Sequence[str] = (),
    output: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Runs the training that a YAML file or preset describes; returns the folder of the run.

    Started by `torchrun`, each process does its share.

    Raises:
        ConfigError, DataError, CheckpointError: before the first step.
        TrainingError: the loss or its gradient is not finite.
    """
    values = override(load_yaml(source), assignments)
    config, train = model_config_from_yaml(values, source), train_config_from_yaml(values, source)
    folder = output or Path("runs") / config.name
    if not resume and (folder / STATE).exists():
        raise ConfigError(f"{folder}: holds a run already; add --resume to go on with it, or -o FOLDER for a new one")
    command = ["train", source, "--resume", "-o", str(folder)]
    command += [word for item in assignments for word in ("--set", item)]
    command += ["--device", device] if device != "auto" else []
    with processes(device) as group:
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
    source: str, assignments: Sequence[str] = (), device: str = "auto", progress: bool = True
) -> str | None:
    """What the training that a YAML file or preset describes would take, found by three steps of each stage of it.

    Nothing is written.

    Returns:
        Lines for a user: the whole configuration in YAML, then parameters, memory and time as comments of it. None in
        all processes of `torchrun` but the first.
    Raises:
        ConfigError, DataError, CheckpointError, TrainingError: as the training would.
    """
    from ft.training.dry_run import measure, report

    values = override(load_yaml(source), assignments)
    config, train = model_config_from_yaml(values, source), train_config_from_yaml(values, source)
    with processes(device) as group:
        found = measure(Trainer(config, train, None, group, progress))
        return None if group.rank else report(config, train, found)
