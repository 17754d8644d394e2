"""Runs of `test_train_distributed.py` in one of two processes: torchrun --nproc-per-node 2 distributed_runs.py FOLDER.

FOLDER holds `values.json`, the configuration.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from training import trainer

from ft.settings import override
from ft.training.distributed import Group, processes
from ft.training.trainer import Interrupted

UNSEEN = "train.validation={}"


def run(group: Group, folder: Path, values: dict, *changes: str, stops: tuple[int, ...]) -> None:
    """Runs to each number of steps in turn; from the second on, a new trainer goes on with what was saved.

    Only the last of them validates: sharded parameters cost milliseconds each whenever they are gathered.
    """
    for number, stop in enumerate(stops):
        early = [UNSEEN] if stop != stops[-1] else []
        made = trainer(folder, override(values, [*changes, *early, f"train.max_steps={stop}"]), group)
        if number:
            torch.manual_seed(999)
            made.restore()
        made.run()


def run_signalled(group: Group, folder: Path, values: dict) -> None:
    """A signal comes to one process only, and once the two have agreed upon the first step."""
    made = trainer(folder, values, group)
    update = made.average.update

    def signalled(step: int) -> None:
        update(step)
        if group.rank and step == 1:
            made._stop()

    made.average.update = signalled  # type: ignore[method-assign]
    try:
        made.run()
    except Interrupted:
        (folder / f"interrupted-{group.rank}-{made.position.step}").touch()


def main() -> None:
    folder = Path(sys.argv[1])
    values = json.loads((folder / "values.json").read_text())
    sharded = "train.parallel=fsdp"
    bare = (sharded, "network.transformer=false", "network.frame_dropout=0.1", "train.optimizer=adamw", UNSEEN)
    with processes("cpu") as group:
        run(group, folder / "ddp", values, stops=(1, 2))
        run(group, folder / "fsdp", values, sharded, stops=(2,))
        run(group, folder / "straight", values, *bare, stops=(2,))
        run(group, folder / "stopped", values, *bare, stops=(1, 2))
        run_signalled(group, folder / "signalled", override(values, [*bare, "train.max_steps=4"]))


if __name__ == "__main__":
    main()
