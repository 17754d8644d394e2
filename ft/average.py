"""The mean of the weights of several models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ft.checkpoint import check_output, load_config, load_model, save_checkpoint
from ft.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor


def average_models(sources: Sequence[str | Path], output: Path, force: bool = False) -> None:
    """Writes a checkpoint whose weights are the mean of those of `sources`, with the configuration of the first.

    Of models that have a part of their training in common, the mean often does better on new data than each of them
    (Wortsman et al., "Model soups", ICML 2022); of others it is noise.

    Args:
        sources: checkpoints, exported .onnx files or `default`, with one network among them.
    Raises:
        CheckpointError: fewer than two, other networks, a file that cannot be read, or an output that is there.
        FtError: the output cannot be written.
    """
    if len(sources) < 2:
        raise CheckpointError(f"{len(sources)} model to average; expected at least two")
    check_output(output, force)
    first, *others = [load_config(source) for source in sources]
    for source, config in zip(sources[1:], others, strict=True):
        for name in ("sample_rate", "channels", "stems", "rest", "front", "output", "network"):
            if getattr(config, name) != getattr(first, name):
                raise CheckpointError(f"{source}: another {name} than {sources[0]}; see ft info of both")
    states = [load_model(source).state_dict() for source in sources]
    mean = {name: _mean([state[name] for state in states]) for name in states[0]}
    save_checkpoint(output, mean, first, {"averaged": [Path(source).name for source in sources]})


def _mean(values: Sequence[Tensor]) -> Tensor:
    import torch

    return torch.stack([value.double() for value in values]).mean(0).to(values[0].dtype)
