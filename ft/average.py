"""The mean of the weights of several models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ft.checkpoint import load_model, save_checkpoint
from ft.errors import CheckpointError


def average_models(sources: Sequence[str | Path], output: Path, force: bool = False) -> None:
    """Writes a checkpoint whose weights are the mean of those of `sources`, with the configuration of the first.

    Of models that have a part of their training in common, the mean often does better on new data than each of them
    (Wortsman et al., "Model soups", ICML 2022); of others it is noise.

    Args:
        sources: checkpoints, exported .onnx files or `default`, with one network among them.
    Raises:
        CheckpointError: fewer than two, other networks, a file that cannot be read, or an output that is there.
    """
    if len(sources) < 2:
        raise CheckpointError(f"{len(sources)} model to average; expected at least two")
    if output.exists() and not force:
        raise CheckpointError(f"{output}: exists; --force replaces it")
    models = [load_model(source) for source in sources]
    first = models[0].model_config
    for source, model in zip(sources[1:], models[1:], strict=True):
        if (model.model_config.audio, model.model_config.network) != (first.audio, first.network):
            raise CheckpointError(f"{source}: another network or spectrogram than {sources[0]}; see ft info of both")
        if (masked := model.model_config.mask_stem) != first.mask_stem:
            raise CheckpointError(f"{source}: its mask keeps {masked}, that of {sources[0]} {first.mask_stem}")
    states = [model.state_dict() for model in models]
    mean = {name: _mean([state[name] for state in states]) for name in states[0]}
    save_checkpoint(output, mean, first, {"averaged": [Path(source).name for source in sources]})


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value.double() for value in values]).mean(0).to(values[0].dtype)
