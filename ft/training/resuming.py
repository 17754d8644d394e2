"""What a run that is resumed must have in common with the one that was saved, and what is told of the rest."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ft.config import ModelConfig
from ft.errors import CheckpointError
from ft.format_1 import NETWORK
from ft.train_config import TrainConfig
from ft.training.run_folder import LAST, RunFolder, flat

logger = logging.getLogger(__name__)

DRAWN = ("train.seed", "train.instrumentals", "train.vocals", "train.stems", "train.pairs", "train.cache",
         "train.epoch_size", "train.voxaug", "train.augment")  # fmt: skip
"""What begins the keys by which examples are drawn."""
SCHEDULED = ("train.stages", "train.extra_epochs")
FREE = ("model.name", "model.license", "segment.", "network.dropout", "network.frame_dropout")
"""What begins the keys of a model that may change on the way."""


def meaning(config: ModelConfig) -> dict[str, Any]:
    """Gives what decides what the weights mean, by its key in YAML."""
    return {key: value for key, value in flat(config.to_sections()).items() if not key.startswith(FREE)}


def check_saved(path: Path, facts: Mapping[str, Any], config: ModelConfig, train: TrainConfig) -> None:
    """Compares a run with the facts of its saved state.

    Raises:
        CheckpointError: it had another task, or its weights were trained to mean something else; older states do not
            say what.
    """
    if (task := facts.get("task", "separate")) != train.task:
        raise CheckpointError(
            f"{path}: a run of train.task {task} and not {train.task}; begin another with -o, and "
            f"train.init_from: {path / LAST}"
        )
    saved = _of_first_format(facts.get("model", {}))
    for key, value in meaning(config).items():
        if (found := saved.get(key, value)) != value:
            raise CheckpointError(
                f"{path}: a run of {key} {found} and not {value}; go on with {found}, or begin another with -o"
            )


def _of_first_format(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """Gives the meaning that a state holds, whichever format it was written in."""
    if "model.mask_stem" not in saved:
        return saved
    audio = {key.removeprefix("audio."): value for key, value in saved.items() if key.startswith("audio.")}
    network = {key: saved[f"model.{key}"] for key in (*NETWORK, "mask", "attention") if f"model.{key}" in saved}
    return meaning(ModelConfig.from_dict({"audio": audio, "network": network, "mask_stem": saved["model.mask_stem"]}))


def say_changes(folder: RunFolder) -> None:
    """Logs what of the configuration is another since the run was last begun."""
    changes = folder.changes() or {}
    for name, (there, here) in changes.items():
        log = logger.warning if name in SCHEDULED else logger.info  # older versions counted epochs from 0
        log("%s: %s -> %s", name, *(json.dumps(value, ensure_ascii=False) for value in (there, here)))
    if drawn := [name for name in changes if name.startswith(DRAWN)]:
        logger.warning("other examples from here on than those of the run before, by %s", ", ".join(drawn))
