"""The state of a training run on disk: weights, optimizer, position and random numbers, in one safetensors file.

It is whole whether or not the network is sharded over processes, so that a run may go on with another number of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ft.checkpoint import check_shapes, write_tensors
from ft.errors import CheckpointError
from ft.training.averaging import WeightAverage
from ft.training.distributed import Group, sharded_like, whole

RNG, RNG_CUDA = "rng.cpu", "rng.cuda"


def save_state(
    path: Path,
    network: nn.Module,
    average: WeightAverage,
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
    group: Group,
) -> None:
    """Writes everything that `load_state` restores; whole or not at all. All processes call this, the first one writes.

    Args:
        facts: plain values: position, sums of the log, gradient scaler.
    """
    tensors = {f"model.{name}": value for name, value in network.state_dict().items()}
    tensors |= {f"average.{name}": value for name, value in average.values.items()}
    scalars: dict[str, Any] = {}
    for number, values in optimizer.state_dict()["state"].items():
        for key, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{number}.{key}"] = value
            else:
                scalars[f"{number}.{key}"] = value
    copies = whole_copies(tensors, group)
    for rank, numbers in enumerate(group.gather(_random_numbers(group.device))):
        copies |= {_rng_name(name, rank): value for name, value in numbers.items()}
    if group.rank:
        return
    state = {"facts": facts, "optimizer": scalars, "kind": type(optimizer).__name__, "processes": group.size}
    write_tensors(path, copies, {"ft_state": json.dumps(state)})


def load_state(
    path: Path, network: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer, group: Group
) -> dict[str, Any]:
    """Restores what `save_state` wrote into the objects given, and returns the facts.

    Where another number of processes wrote it, `processes` among the facts says so, and random numbers stay.

    Raises:
        CheckpointError: not such a file, or of another network or optimizer.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {})["ft_state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: no state of a training run ({error}); start without `resume`") from error
    wanted = type(optimizer).__name__
    if (kind := metadata.get("kind", wanted)) != wanted:
        raise CheckpointError(f"{path}: the state of another optimizer, {kind} and not {wanted}; set train.optimizer")
    groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}, "rng": {}}
    for name, value in tensors.items():
        group_name, _, rest = name.partition(".")
        groups[group_name][rest] = value
    _copy_weights(path, groups["model"], network.state_dict())
    if not groups["average"]:
        average.restart()
    elif average.values:
        _copy_weights(path, groups["average"], average.values)
    _load_optimizer(optimizer, groups["optimizer"], metadata["optimizer"])
    facts = metadata["facts"] | {"processes": metadata.get("processes", 1)}
    if facts["processes"] == group.size:
        _restore_random_numbers(groups["rng"], group)
    return facts


def whole_copies(tensors: Mapping[str, Tensor], group: Group) -> dict[str, Tensor]:
    """Copies on the CPU of tensors that may be sharded, in the first process; the others call this too."""
    copies = {}
    for name, value in tensors.items():
        full = whole(value.detach())
        if not group.rank:
            copies[name] = full.cpu().contiguous().clone()
    return copies


def _copy_weights(path: Path, found: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
    shapes = [{name: tuple(value.shape) for name, value in tensors.items()} for tensors in (found, into)]
    try:
        check_shapes(path, *shapes)
    except CheckpointError as error:
        raise CheckpointError(
            f"{error}; expected the state of this network, and not that of another network"
        ) from error
    with torch.no_grad():
        for name, target in into.items():
            target.copy_(sharded_like(found[name], target))


def _load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], scalars: Mapping[str, Any]
) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        parameter = parameters[int(number)]
        sharded = value.shape == parameter.shape and key != "step"
        state.setdefault(int(number), {})[key] = sharded_like(value, parameter) if sharded else value
    for name, scalar in scalars.items():
        number, _, key = name.partition(".")
        state.setdefault(int(number), {})[key] = scalar
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _rng_name(name: str, rank: int) -> str:
    return f"{name}.{rank}" if rank else name


def _random_numbers(device: torch.device) -> dict[str, Tensor]:
    numbers = {RNG: torch.get_rng_state()}
    if device.type == "cuda":
        numbers[RNG_CUDA] = torch.cuda.get_rng_state(device)
    return numbers


def _restore_random_numbers(saved: Mapping[str, Tensor], group: Group) -> None:
    kinds = {name: _rng_name(name, group.rank).removeprefix("rng.") for name in (RNG, RNG_CUDA)}
    if kinds[RNG] in saved:
        torch.set_rng_state(saved[kinds[RNG]])
    if group.device.type == "cuda" and kinds[RNG_CUDA] in saved:
        torch.cuda.set_rng_state(saved[kinds[RNG_CUDA]], group.device)
