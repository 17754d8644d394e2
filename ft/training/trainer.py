"""The trainer: its loop, and what it keeps of a run."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ft.config import ModelConfig
from ft.data.items import open_batches
from ft.data.loading import Batch, Batching, collate
from ft.errors import ConfigError, one_line
from ft.models import completed
from ft.progress import is_watched
from ft.train_config import Stage, TrainConfig
from ft.training.averaging import WeightAverage
from ft.training.checks import check_epoch
from ft.training.compiling import compiled_or_eager
from ft.training.data import TrainingData
from ft.training.distributed import Group, whole
from ft.training.guard import Guard, TrainingError
from ft.training.log import TrainingLog
from ft.training.new_network import has_unused, new_network
from ft.training.optimizers import make_optimizer
from ft.training.position import Position
from ft.training.resuming import check_saved, meaning, say_changes
from ft.training.run_folder import BEST, LAST, STATE, RunFolder
from ft.training.schedule import Schedule, planned
from ft.training.state import load_state, save_state
from ft.training.stop_signals import on_stop_signals
from ft.training.tasks import make_task
from ft.training.utilisation import CountFlops, StepClock, matrix_rate
from ft.training.validation import Validation, score

if TYPE_CHECKING:
    from ft.training.board import Board

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the state has been saved."""


class Trainer:
    """One training run in one folder.

    Args:
        folder: of the run; None: nothing is written.
    Raises:
        ConfigError, DataError, CheckpointError: the run cannot begin.
    """

    def __init__(
        self,
        config: ModelConfig,
        train: TrainConfig,
        folder: Path | None,
        group: Group,
        progress: bool = False,
    ) -> None:
        if train.precision == "float16" and group.device.type == "cpu":
            raise ConfigError("train.precision: float16 needs a GPU; on a CPU use bfloat16 or float32")
        self.config = config = completed(config)
        self.train, self.group = train, group
        self.device, self.progress = group.device, progress and not group.rank
        self.sharded = group.size > 1 and train.parallel == "fsdp"
        self.task = make_task(train, config)
        with group.first_alone():  # it writes what the others then read
            self.folder = RunFolder(folder, config, train, group)
            self.data = TrainingData(config, train, folder, self.progress)
        for stage, _ in self.planned():
            self.check_epoch(stage)
        self.validation = Validation(self.data, self.task, config, group, self.autocast, everywhere=self.sharded)
        torch.manual_seed(train.seed)
        fresh = folder is None or not (folder / STATE).exists()  # else its weights are about to be restored
        self.network = new_network(
            config, train, group, train.init_from if fresh else None, self.data.items if fresh else None
        )
        self.trained: Any = self.network
        self.average = WeightAverage(self.network, train.ema)
        self.optimizer = make_optimizer(train, self.network)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=train.precision == "float16")
        first = train.stages[0]
        per_epoch = max(1, self.data.items_per_epoch // self.items_per_step(first))
        decay = train.decay_steps or per_epoch * train.stages[-1].last_epoch
        self.schedule = Schedule(train.learning_rate, train.warmup_steps, decay, train.decay_target, train.decay_power)
        self.position = Position()
        self.guard = Guard(train.on_nan, train.nan_limit, self.data.items)
        self.clock, self.rate = StepClock(), 0.0
        self.sums: dict[str, float] = {}
        self.flops: dict[Stage, int] = {}
        self.asked = self.stopping = False  # in this process, and in all of them from the same step on
        self.log = TrainingLog(self.folder.writable, self._board if train.tensorboard else None)

    def autocast(self) -> contextlib.AbstractContextManager:
        """Gives the context in which the network runs."""
        dtype = DTYPES[self.train.precision]
        return torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32)

    def items_per_step(self, stage: Stage) -> int:
        """Items of one optimizer step, over all processes."""
        return stage.items * self.group.size

    def restore(self) -> None:
        """Goes back to the saved state of this folder. Raises CheckpointError."""
        assert self.folder.path is not None
        path = self.folder.path
        facts = load_state(path / STATE, self.network, self.average, self.optimizer, self.group)
        check_saved(path, facts, self.config, self.train)
        self.position = Position.saved(facts["position"], self.train, self.group.size)
        self.sums = dict(facts.get("sums", {}))
        if facts["scaler"]:  # empty where the run had another precision so far
            self.scaler.load_state_dict(facts["scaler"])
        if facts["processes"] != self.group.size:
            logger.warning(
                "saved by %d processes and resumed by %d: other random numbers from here on",
                facts["processes"],
                self.group.size,
            )
        if self.folder.writable is not None:
            say_changes(self.folder)
        if self.position.step:
            logger.info("resumed at step %d (epoch %d)", self.position.step, self.position.epoch)

    def run(self) -> None:
        """Trains to the end of the last stage (or `max_steps`, or `patience`). Ctrl-C saves and raises Interrupted."""
        self.folder.describe()
        self.log.begin(self.position.step)
        self.prepare()
        with on_stop_signals(self._stop), self._bar() as bar:
            while self.position.epoch < self.train.epochs and not self.finished:
                try:
                    self._run_epoch(bar)
                except torch.OutOfMemoryError as error:
                    raise self._too_large(error) from error
            self.save()  # before the last validation, which a second Ctrl-C ends
            if self.position.validated != self.position.step:
                stage = self.train.stage(self.position.epoch)
                self.validate(waited=not (self.train.validate_every or self._steps_left(stage)))
                self.save()
        self.log.close()
        self.group.wait()
        if self.folder.writable is not None:
            early = f", as {self.position.stale} validations were no better (train.patience)" if self._stale else ""
            logger.info("done after %d steps%s: %s", self.position.step, early, self.folder.writable / LAST)

    def _too_large(self, error: torch.OutOfMemoryError) -> TrainingError:
        stage = self.train.stage(self.position.epoch)
        return TrainingError(
            f"step {self.position.step}: {stage.batch_size} x {stage.frames} frames do not fit into the memory of "
            f"{self.device} ({one_line(error)[:120]}); lower the stage's batch_size and raise its accumulation, or set "
            "train.checkpoint_gradients: true, and `resume`"
        )

    def _board(self, folder: Path, step: int) -> Board:
        from ft.training.board import Board

        return Board(folder, self.config, step)

    def _stop(self) -> None:
        self.asked = True

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end before its last epoch has."""
        most = self.train.max_steps
        return self._stale or (most is not None and self.position.step >= most)

    @property
    def _stale(self) -> bool:
        return self.train.patience is not None and self.position.stale >= self.train.patience

    def prepare(self) -> None:
        """Compiles and wraps the network as the configuration says, and measures the device."""
        self.rate = matrix_rate(self.device, DTYPES[self.train.precision])
        if self.train.compile and self.sharded:
            logger.warning("train.compile: not with train.parallel: fsdp, so training goes on in eager")
        elif self.train.compile:
            stage = self.train.stage(self.position.epoch)
            batch = collate([self.data.items.item(*key) for key in self.keys(stage, 0)]).to(self.device)
            self.trained = compiled_or_eager(
                self.network,
                lambda run: self.task.validation_loss(run, batch, self.autocast).value,
                self.train.precision,
            )
        if self.group.size > 1 and not self.sharded:
            self.trained = self.group.replicate(self.trained, has_unused(self.network))

    def planned(self) -> Iterator[tuple[Stage, int]]:
        """The stages and how many optimizer steps the whole run takes in each; those past `max_steps` are left out."""
        return planned(self.train, self.data.items_per_epoch, self.group.size)

    def check_epoch(self, stage: Stage) -> None:
        """Raises ConfigError where an epoch is less than one step."""
        check_epoch(self.data.items_per_epoch, stage, self.group.size)

    def batching(self, stage: Stage) -> Batching:
        """This process's share of the items of a micro-batch."""
        return Batching(stage.batch_size, stage.frames, self.group.rank, self.group.size)

    def keys(self, stage: Stage, micro: int) -> list[tuple[int, int, int]]:
        """This process's items of a micro-batch, counted from where the run stands."""
        batch = self.position.items // (stage.batch_size * self.group.size) + micro
        return self.batching(stage).keys(self.position.epoch, batch)

    def batches(self, stage: Stage, count: int) -> Iterator[Batch]:
        """Gives the next `count` micro-batches of this epoch."""
        first = self.position.items // (stage.batch_size * self.group.size)
        numbers, pin = range(first, first + count), self.device.type == "cuda"
        return open_batches(
            self.data.items, self.batching(stage), self.position.epoch, numbers, self.train.workers, pin
        )

    def _steps_left(self, stage: Stage) -> int:
        """Optimizer steps to the end of this epoch."""
        return (self.data.items_per_epoch - self.position.items) // self.items_per_step(stage)

    def _run_epoch(self, bar: tqdm) -> None:
        stage, position, train = self.train.stage(self.position.epoch), self.position, self.train
        self.check_epoch(stage)
        steps = self._steps_left(stage)
        batches = self.batches(stage, steps * stage.accumulation)
        for _ in range(steps):
            taken = self.step(batches, stage)
            if taken:
                mean, rate = self.sums["loss"] / self.sums["steps"], self.optimizer.param_groups[0]["lr"]
                bar.set_postfix_str(f"loss {mean:.4f}, lr {rate:.2g}", refresh=False)
                bar.update()
                if position.step % train.log_every == 0:
                    self._log_steps()
                if train.validate_every and position.step % train.validate_every == 0:
                    self.validate()
            if self.stopping or (taken and position.step % train.save_every == 0):
                self.save()
            if self.stopping:
                raise Interrupted
            if self.finished:
                return
        if not train.validate_every and position.validated != position.step:
            self.validate()
        position.epoch, position.items = position.epoch + 1, 0
        self.save()

    def step(self, batches: Iterator[Batch], stage: Stage) -> bool:
        """One optimizer step over `accumulation` micro-batches; False where the guard passed over it."""
        self.network.train()
        self.clock.start()
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule(self.position.step)
        losses: list[Tensor] = []
        parts: dict[str, Tensor] = {}
        for micro in range(stage.accumulation):
            batch = self.clock.next(batches).to(self.device)
            with self._counted(stage), self._accumulating(micro + 1 < stage.accumulation):
                loss = self.task.loss(self.trained, batch, self.autocast)
                self.scaler.scale(loss.value / stage.accumulation).backward()
            losses.append(loss.value.detach().float())
            for name, part in loss.parts.items():
                share = part.float() / stage.accumulation
                parts[name] = parts[name] + share if name in parts else share
        scale = self.scaler.get_scale() if self.scaler.is_enabled() else None
        self.scaler.unscale_(self.optimizer)
        norm = whole(nn.utils.clip_grad_norm_(self.network.parameters(), self.train.clip_norm)).float()
        values, own = self._agree(losses, parts, norm)
        taken = self.guard.passes(values["loss"], values["grad_norm"], scale)
        if taken:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if taken:
            self.position.step += 1
            self.average.update(self.position.step)
            for name, value in {"steps": 1.0, **values}.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
        elif scale is None or not _finite(values["loss"]):  # the same in every process: all of them gather
            self._refuse(stage, own, values)
        self.position.items += self.items_per_step(stage)
        flops = self.flops[stage] * stage.accumulation
        self.clock.stop(self.items_per_step(stage), flops)
        return taken

    def _agree(
        self, losses: list[Tensor], parts: dict[str, Tensor], norm: Tensor
    ) -> tuple[dict[str, float], list[float]]:
        """Means over the processes of what a step gave, and this process's losses, in one transfer from the device.

        Whoever was asked to stop tells the others here, and nowhere else does a process begin to stop: each does so
        after the same step. A signal that comes later counts in the next one.
        """
        own = torch.stack(losses)
        stop = torch.tensor(float(self.asked), device=self.device)
        together = self.group.mean(torch.stack([own.mean(), norm, stop, *parts.values()]))
        loss, length, stopping, *rest = torch.cat([together, own]).tolist()
        self.stopping = stopping > 0
        values = {"loss": loss, "grad_norm": length, **dict(zip(parts, rest, strict=False))}
        return values, rest[len(parts) :]

    def _refuse(self, stage: Stage, own: list[float], values: dict[str, float]) -> None:
        bad = [micro for micro, loss in enumerate(own) if not _finite(loss)]
        if not bad and _finite(values["loss"]):  # a gradient says nothing of which it came from
            bad = list(range(stage.accumulation))
        keys = [key for micro in bad for key in self.keys(stage, micro)]
        suspects = self.group.gather(self.guard.name(keys) if keys else "")
        kind = "gradient" if _finite(values["loss"]) else "loss"
        value = values["grad_norm" if kind == "gradient" else "loss"]
        line = self.guard.refuse(f"the {kind} is {value}", self.position.step, self.position.epoch, suspects)
        if not self.group.rank:
            logger.warning("%s: skipped", line)
        self.log.write(self.position.step, self.position.epoch, skipped=line)

    @contextlib.contextmanager
    def _counted(self, stage: Stage) -> Iterator[None]:
        """Counts the operations of the first micro-batch of a stage, which is not compiled: whatever `torch.compile`
        meets while a dispatch mode is on it leaves to eager for good."""
        if stage in self.flops:
            yield
            return
        with torch.compiler.set_stance("force_eager"), CountFlops() as count:
            yield
        self.flops[stage] = count.total

    def _accumulating(self, more: bool) -> contextlib.AbstractContextManager:
        """Leaves gradients apart until the last micro-batch of a step."""
        if more and isinstance(self.trained, DistributedDataParallel):
            return self.trained.no_sync()
        return contextlib.nullcontext()

    def _log_steps(self) -> None:
        count = self.sums.pop("steps")
        means = {f"train/{name}": value / count for name, value in self.sums.items()}
        speed, rate = self.clock.values(self.rate), self.optimizer.param_groups[0]["lr"]
        self.sums, self.clock = {}, StepClock()
        if self.device.type == "cuda":
            speed["gpu_gigabytes"] = round(torch.cuda.max_memory_allocated(self.device) / 1e9, 2)
        self.log.write(self.position.step, self.position.epoch, **means, lr=rate, **speed)

    def validate(self, waited: bool = True) -> dict[str, float]:
        """Scores of the averaged weights, logged; saves them as `best` if they are the best so far.

        Args:
            waited: it counts for `patience`. One that only the end of a run is the reason for does not, as a run that
                goes on would not have it.
        """
        position = self.position
        position.validated = position.step
        if self.validation.empty:
            return {}
        with self.average.in_place():
            scores = self.validation.scores(self.network, self.train.stage(position.epoch).frames)
            self.log.write(position.step, position.epoch, **scores)
            if self.log.board is not None:
                self.validation.show(self.log.board, self.network, position.step)
        if not self.group.rank:
            logger.info("step %d: %s", position.step, ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
            if bad := [name for name, value in scores.items() if not _finite(value)]:
                logger.warning("step %d: %s not finite: these weights are no better", position.step, ", ".join(bad))
        if (found := score(scores, self.validation.stems)) > position.best:
            position.best, position.stale = found, 0
            self.folder.save_model(BEST, self.average, position.step, scores)
        elif waited:
            position.stale += 1
        return scores

    def save(self) -> None:
        """Saves the averaged model, and all that `resume` needs."""
        if self.folder.path is None:
            return
        self.folder.save_model(LAST, self.average, self.position.step, {})
        facts = {
            "position": asdict(self.position),
            "sums": self.sums,
            "scaler": self.scaler.state_dict(),
            "task": self.train.task,
            "model": meaning(self.config),
        }
        save_state(self.folder.path / STATE, self.network, self.average, self.optimizer, facts, self.group)

    def _bar(self) -> tqdm:
        """Steps, and beside them the mean loss since the last line of the log."""
        total = self.train.max_steps
        disable = not (self.progress and is_watched())
        return tqdm(
            total=total, initial=self.position.step, unit="step", desc="train", disable=disable, file=sys.stderr
        )


def _finite(value: float) -> bool:
    return value - value == 0
