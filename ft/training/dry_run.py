"""What a training run would take, found by taking three steps of each of its stages; nothing is written."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ft.config import ModelConfig
from ft.data.loading import Batch
from ft.models import completed
from ft.settings import plain
from ft.train_config import Stage, TrainConfig
from ft.training.distributed import own_part
from ft.training.trainer import Trainer

STEPS = 3


@dataclass(frozen=True)
class MeasuredStage:
    """What was found of one stage; memory in bytes of one process."""

    stage: Stage
    steps: int
    """Counts all steps of the run in this stage."""
    activations: int
    """The most that forward and backward of one micro-batch hold at once beside weights, gradients and their like."""
    seconds_per_step: float
    items_per_second: float
    wait_share: float
    utilisation: float


@dataclass(frozen=True)
class Measured:
    """What was found; memory in bytes of one process."""

    parameters: int
    weights: int
    average: int
    gradients: int
    optimizer: int
    stages: tuple[MeasuredStage, ...]
    """Holds the stages that the run comes to, in turn."""
    processes: int

    @property
    def activations(self) -> int:
        """Gives the bytes of the stage that holds the most."""
        return max(stage.activations for stage in self.stages)

    @property
    def steps(self) -> int:
        """Counts the steps of the whole run."""
        return sum(stage.steps for stage in self.stages)

    @property
    def seconds(self) -> float:
        """Estimates the time of the whole run, without validation."""
        return sum(stage.steps * stage.seconds_per_step for stage in self.stages)

    @property
    def memory(self) -> int:
        """The most that is held at once."""
        return self.weights + self.average + self.gradients + self.optimizer + self.activations


def measure(trainer: Trainer) -> Measured:
    """Takes `STEPS` steps of each stage and one micro-batch more, the memory of which is followed.

    Stages of the same crops and batches are measured once.

    Raises:
        ConfigError, DataError, TrainingError: as the run itself would.
    """
    trainer.prepare()
    known: dict[Stage, MeasuredStage] = {}
    stages = []
    for stage, steps in list(trainer.planned()) or [(trainer.train.stages[0], 0)]:
        alike = dataclasses.replace(stage, last_epoch=1)
        if alike not in known:
            known[alike] = _measure_stage(trainer, stage)
        stages.append(dataclasses.replace(known[alike], stage=stage, steps=steps))
    parameters = [own_part(parameter.detach()) for parameter in trainer.network.parameters()]
    states = list(trainer.optimizer.state.values())
    return Measured(
        parameters=sum(parameter.numel() for parameter in trainer.network.parameters()),
        weights=_bytes(own_part(value) for value in trainer.network.state_dict().values()),
        average=_bytes(own_part(value) for value in trainer.average.values.values()),
        gradients=_bytes(parameters),
        optimizer=_bytes(own_part(leaf) for leaf in tree_leaves(states) if isinstance(leaf, Tensor)),
        stages=tuple(stages),
        processes=trainer.group.size,
    )


def _measure_stage(trainer: Trainer, stage: Stage) -> MeasuredStage:
    trainer.position.items = 0
    trainer.optimizer.zero_grad(set_to_none=True)
    batches = trainer.batches(stage, (STEPS + 1) * stage.accumulation + 1)
    trainer.step(batches, stage)  # the first one allocates
    trainer.clock = type(trainer.clock)()
    for _ in range(STEPS):
        trainer.step(batches, stage)
    speed = trainer.clock.values(trainer.rate)
    # Gradients are there before the memory is followed, so that what is added is none of theirs.
    for parameter in trainer.network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    activations = _activations(trainer, next(batches))
    return MeasuredStage(stage, steps=0, activations=activations, **speed)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _activations(trainer: Trainer, batch: Batch) -> int:
    device = trainer.device
    batch = batch.to(device)
    trainer.network.train()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        trainer.task.loss(trainer.network, batch, trainer.autocast).value.backward()
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveMemory() as memory:
        trainer.task.loss(trainer.network, batch, trainer.autocast).value.backward()
    return memory.peak


class _LiveMemory(TorchDispatchMode):
    """The most bytes that tensors made while it is on have held at once. CPUs count no such thing themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak = 0, 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = {id(leaf.untyped_storage()) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage(), before)
        return result

    def _count(self, storage: Any, before: set[int]) -> None:
        address = storage.data_ptr()
        if id(storage) in before or not address or address in self._known:
            return  # a view, or changed in place
        size = storage.nbytes()
        self._known.add(address)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, address, size)

    def _freed(self, address: int, size: int) -> None:
        self.live -= size
        self._known.discard(address)


def report(config: ModelConfig, train: TrainConfig, found: Measured) -> str:
    """The whole configuration as a YAML file, which would train the same, and under it as comments what was found."""
    days, hours = divmod(found.seconds / 3600, 24)
    time = f"{days:.0f} days {hours:.0f} hours" if days else f"{hours:.2f} hours"
    each = f" on each of {found.processes} processes" if found.processes > 1 else ""
    lines = [
        f"parameters    {found.parameters:,}",
        f"memory        {_mega(found.memory)}{each}: weights {_mega(found.weights)}, their average "
        f"{_mega(found.average)}, gradients {_mega(found.gradients)}, optimizer {_mega(found.optimizer)}, "
        f"activations {_mega(found.activations)}",
        *(f"step          {_step(stage, named=len(found.stages) > 1)}" for stage in found.stages),
        f"run           {found.steps:,} steps, {time} without validation",
    ]
    return effective_yaml(config, train) + "\n" + "\n".join(f"# {line}" for line in lines)


def _step(found: MeasuredStage, named: bool) -> str:
    share = f"{found.wait_share:.1%} of it waiting for data, {found.utilisation:.0%} of the matrix rate"
    which = f", {found.steps:,} times at {found.stage.frames} frames" if named else ""
    return f"{found.seconds_per_step:.3g} s, {found.items_per_second:.3g} items per second, {share}{which}"


def effective_yaml(config: ModelConfig, train: TrainConfig) -> str:
    """Every key of a configuration with its value, defaults included, as a YAML file has them."""
    import yaml

    sections = {**completed(config).to_sections(), "train": plain(dataclasses.asdict(train))}
    return yaml.safe_dump(sections, sort_keys=False, allow_unicode=True, width=120)


def _mega(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
