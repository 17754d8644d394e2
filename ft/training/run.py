"""Training runs: from a configuration to a folder with a trained model.

torch, which takes seconds to import, is imported when nothing can be said against a run any more.
"""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path

from ft.config import ModelConfig, load_yaml, model_config_from_yaml, override
from ft.train_config import TrainConfig, train_config_from_yaml
from ft.training.checks import check_device, check_run

logger = logging.getLogger(__name__)


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
    check_device(device)
    config, train = _configuration(source, assignments)
    folder = output or Path("runs") / config.name
    check_run(config, train, folder, resume)
    from ft.training.distributed import processes
    from ft.training.trainer import Interrupted, Trainer

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
    check_device(device)
    config, train = _configuration(source, assignments)
    check_run(config, train, None, resume=False)
    from ft.training.distributed import processes
    from ft.training.dry_run import measure, report
    from ft.training.trainer import Trainer

    with processes(device) as group:
        found = measure(Trainer(config, train, None, group, progress))
        return None if group.rank else report(config, train, found)


def _configuration(source: str, assignments: Sequence[str]) -> tuple[ModelConfig, TrainConfig]:
    """The model and the training of a YAML file or preset. Raises ConfigError."""
    values = override(load_yaml(source), assignments)
    return model_config_from_yaml(values, source), train_config_from_yaml(values, source)
