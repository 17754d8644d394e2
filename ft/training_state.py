"""The state of a training run on disk: weights, optimizer, position and random numbers, in one safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ft.errors import CheckpointError, one_line
from ft.files import atomic_write

RNG, RNG_CUDA = "rng.cpu", "rng.cuda"


def save_state(
    path: Path, network: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer, facts: dict[str, Any]
) -> None:
    """Writes everything that `load_state` restores; whole or not at all.

    Args:
        facts: plain values: position, best score, gradient scaler.
    """
    from safetensors.torch import save_file

    tensors = {f"model.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.items()}
    scalars: dict[str, Any] = {}
    for number, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{key}"] = value
            else:
                scalars[f"{number}.{key}"] = value
    tensors[RNG] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors[RNG_CUDA] = torch.cuda.get_rng_state()
    copies = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    with atomic_write(path) as part:
        state = {"facts": facts, "optimizer": scalars, "kind": type(optimizer).__name__}
        save_file(copies, part, metadata={"ft_state": json.dumps(state)})


def load_state(
    path: Path, network: nn.Module, average: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Restores what `save_state` wrote into the objects given, and returns the facts.

    Raises:
        CheckpointError: not such a file, or of another network or optimizer.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["ft_state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: no state of a training run ({error}); start without --resume") from error
    wanted = type(optimizer).__name__
    if (kind := metadata.get("kind", wanted)) != wanted:
        raise CheckpointError(f"{path}: the state of another optimizer, {kind} and not {wanted}; set train.optimizer")
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}, "rng": {}}
    for name, value in tensors.items():
        group, _, rest = name.partition(".")
        groups[group][rest] = value
    try:
        network.load_state_dict(groups["model"])
    except RuntimeError as error:
        raise CheckpointError(f"{path}: the state of another network: {one_line(error)[:300]}") from error
    for name, value in groups["average"].items():
        average[name].copy_(value)
    state: dict[int, dict[str, Any]] = {}
    for name, value in groups["optimizer"].items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = value
    for name, scalar in metadata["optimizer"].items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = scalar
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    torch.set_rng_state(groups["rng"]["cpu"])
    if torch.cuda.is_available() and "cuda" in groups["rng"]:
        torch.cuda.set_rng_state(groups["rng"]["cuda"])
    return metadata["facts"]
