"""The folder of a training run: its description, its models and what `resume` needs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ft import __version__
from ft.checkpoint import save_checkpoint
from ft.config import ModelConfig
from ft.errors import ConfigError, one_line
from ft.files import atomic_write, check_writable
from ft.models import completed
from ft.settings import plain
from ft.train_config import TrainConfig
from ft.training.checks import STATE as STATE

if TYPE_CHECKING:
    from ft.training.averaging import WeightAverage
    from ft.training.distributed import Group

logger = logging.getLogger(__name__)

LAST, BEST, DESCRIPTION = "last.safetensors", "best.safetensors", "config.json"


class RunFolder:
    """Keeps one run. The first of its processes writes, and all of them call what gathers a sharded network.

    Args:
        path: made where it is missing, by what is written first; None: nothing is kept.
    Raises:
        FtError: it cannot be written.
    """

    def __init__(self, path: Path | None, config: ModelConfig, train: TrainConfig, group: Group) -> None:
        self.path, self.config, self.train, self.group = path, config, train, group
        if path is not None:
            check_writable(path / STATE)

    @property
    def writable(self) -> Path | None:
        """The folder for the process that writes; None for the others."""
        return None if self.group.rank else self.path

    def describe(self) -> None:
        """Writes what the run is: versions, device and the whole configuration; another one that was there is kept."""
        if self.writable is None:
            return
        import torch

        description = {
            "ft": __version__,
            "torch": torch.__version__,
            "device": str(self.group.device),
            "processes": self.group.size,
            **self._configuration(),
        }
        path = self.writable / DESCRIPTION
        if self.changes() != {}:
            path.replace(next(other for other in _numbered(path) if not other.exists()))
        with atomic_write(path) as part:
            part.write_text(json.dumps(description, indent=1), encoding="utf-8")

    def changes(self) -> dict[str, tuple[Any, Any]] | None:
        """Keys of the configuration, as YAML has them, whose value is another one than that which the folder describes:
        the value there and the one here, None where a key is not among them.

        What an older version did not know had its default there. None where the description cannot be read.
        """
        assert self.path is not None
        try:
            described = json.loads((self.path / DESCRIPTION).read_text(encoding="utf-8"))
            there = _keys(described)
        except FileNotFoundError:
            return {}
        except (ConfigError, OSError, ValueError, KeyError, TypeError) as error:
            logger.warning("%s: cannot be compared with (%s)", self.path / DESCRIPTION, one_line(error))
            return None
        here = _keys(self._configuration())
        defaults = _keys({"model": completed(ModelConfig()).to_dict(), "train": plain(asdict(TrainConfig()))})
        pairs = {name: (there.get(name, defaults.get(name)), here.get(name)) for name in (*here, *there)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def _configuration(self) -> dict[str, Any]:
        return {"model": completed(self.config).to_dict(), "train": plain(asdict(self.train))}

    def save_model(self, name: str, average: WeightAverage, step: int, scores: Mapping[str, float]) -> None:
        """Writes the averaged weights as a checkpoint."""
        if self.path is None:
            return
        from ft.training.state import whole_copies

        weights = whole_copies(average.state(), self.group)
        if self.writable is not None:
            facts: dict[str, Any] = {"step": step, "scores": dict(scores), "train": plain(asdict(self.train))}
            save_checkpoint(self.writable / name, weights, self.config, {"ft_train": json.dumps(facts)})


def _numbered(path: Path) -> Iterator[Path]:
    """config.1.json, config.2.json and so on, for config.json."""
    return (path.with_suffix(f".{number}{path.suffix}") for number in count(1))


def _keys(described: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a model and a training by their keys in YAML: front.bins, network.heads, train.augment.pan."""
    return flat({**ModelConfig.from_dict(described["model"]).to_sections(), "train": described["train"]})


def flat(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Gives values by their keys with those of the sections before them.

    >>> flat({"train": {"augment": {"pan": 0.3}}})
    {'train.augment.pan': 0.3}
    """
    found, waiting = {}, [*sections.items()]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{name}.{key}", item) for key, item in value.items()]
        else:
            found[name] = value
    return found
