"""The trainer: loop, validation, logs, checkpoints and resuming."""

from __future__ import annotations

import contextlib
import json
import logging
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ft import __version__
from ft.batches import Waveforms, batch_from_waveforms, load_batches
from ft.checkpoint import save_checkpoint
from ft.config import ModelConfig, load_yaml, model_config_from_yaml, override
from ft.data import MixtureItems, ValidationItems
from ft.errors import ConfigError, DataError, FtError
from ft.files import atomic_write
from ft.losses import separation_loss
from ft.models.frame_transformer import FrameTransformer
from ft.scan import Scan, music_from_sources, pool_from_sources, songs_from_sources
from ft.schedule import Schedule
from ft.train_config import Stage, TrainConfig, train_config_from_yaml
from ft.training_state import load_state, save_state
from ft.validate import mean_loss, song_sdr

logger = logging.getLogger(__name__)

STATE, LAST, BEST, LOG = "state.safetensors", "last.safetensors", "best.safetensors", "log.jsonl"
AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingError(FtError):
    """A run cannot go on."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C; the state has been saved."""


def train_from_yaml(
    source: str,
    assignments: Sequence[str] = (),
    output: Path | None = None,
    resume: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Path:
    """Runs the training that a YAML file or preset describes; returns the folder of the run.

    Raises:
        ConfigError, DataError, CheckpointError: before the first step.
        TrainingError: the loss is not finite.
    """
    values = override(load_yaml(source), assignments)
    config, train = model_config_from_yaml(values, source), train_config_from_yaml(values, source)
    folder = output or Path("runs") / config.name
    if not resume and (folder / STATE).exists():
        raise ConfigError(f"{folder}: holds a run already; add --resume to go on with it, or -o FOLDER for a new one")
    trainer = Trainer(config, train, folder, select_device(device), progress)
    if resume:
        trainer.restore()
    command = ["ft", "train", source, "--resume", "-o", str(folder)]
    command += [word for item in assignments for word in ("--set", item)]
    command += ["--device", device] if device != "auto" else []
    try:
        trainer.run()
    except Interrupted:
        logger.warning("stopped at step %d and saved; go on with: %s", trainer.position.step, shlex.join(command))
        raise
    return folder


def select_device(name: str) -> torch.device:
    """The device for `auto`, `cpu` or `cuda[:N]`. Raises ConfigError for a GPU that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdigit()):
        raise ConfigError(f"device '{name}', expected auto, cpu or cuda[:N]")
    if kind == "cuda" and int(number or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device '{name}': {torch.cuda.device_count()} CUDA devices seen; use --device cpu")
    return torch.device(name)


@dataclass
class Position:
    """Where a run stands."""

    epoch: int = 0
    batch: int = 0
    """Micro-batches of this epoch that are done."""
    step: int = 0
    """Optimizer steps done."""
    best: float = float("-inf")
    """Best validation score so far; higher is better."""


class Trainer:
    """One training run in one folder."""

    def __init__(
        self, config: ModelConfig, train: TrainConfig, folder: Path, device: torch.device, progress: bool = False
    ) -> None:
        if train.precision == "float16" and device.type == "cpu":
            raise ConfigError("train.precision: float16 needs a GPU; on a CPU use bfloat16 or float32")
        self.config, self.train, self.folder, self.device, self.progress = config, train, folder, device, progress
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be the folder of a run: {error.strerror}; choose another") from error
        self._open_data()
        torch.manual_seed(train.seed)
        self.network = FrameTransformer(config.network).to(device)
        self.average = {name: value.detach().clone() for name, value in self.network.state_dict().items()}
        self.optimizer = _optimizer(train, self.network)
        self.scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "float16")
        first = train.stages[0]
        per_epoch = max(1, self.items_per_epoch // (first.batch_size * first.accumulation))
        decay = train.decay_steps or per_epoch * train.stages[-1].last_epoch
        self.schedule = Schedule(train.learning_rate, train.warmup_steps, decay, train.decay_target, train.decay_power)
        self.position = Position()
        self.stopping = False
        self.validated = -1
        self.board = _board(folder) if train.tensorboard else None

    def _open_data(self) -> None:
        train, validation = self.train, self.train.validation
        if not (train.instrumentals or train.pairs):
            raise DataError("train.instrumentals: none; name a folder, e.g. --set train.instrumentals=music/")
        if not (train.vocals or train.pairs):
            raise DataError("train.vocals: none; name a folder, e.g. --set train.vocals=voices/")
        if train.voxaug.force and not train.vocals:
            raise DataError(
                "train.vocals: none, and train.voxaug.force takes pairs as instrumentals only; name a folder of "
                "vocals, or --set train.voxaug.force=false"
            )
        track = self.config.audio.normalize == "track"
        scan = Scan(self.config.audio, self.folder / "scan.json")
        own_scale = train.augment.scale_db > 0  # drawn for each crop, so that peaks of files are not asked for
        music = music_from_sources(train.instrumentals, train.pairs, scan, track and not own_scale, self.progress)
        vocals = pool_from_sources(train.vocals, scan, progress=self.progress) if train.vocals else None
        self.items = MixtureItems(self.config.audio, train, music, vocals)
        self.items_per_epoch = train.epoch_size or self.items.count
        self.validation: dict[str, ValidationItems] = {}
        count = validation.items
        if validation.pairs:
            pairs = songs_from_sources(validation.pairs, scan, track)
            self.validation["pairs"] = ValidationItems(self.config.audio, count, songs=pairs)
        if validation.instrumentals and validation.vocals:
            pools = [pool_from_sources(validation.instrumentals, scan, track)]
            pools.append(pool_from_sources(validation.vocals, scan))
            self.validation["mixed"] = ValidationItems(
                self.config.audio, count, instrumentals=pools[0], vocals=pools[1]
            )
        self.songs = songs_from_sources(validation.songs, scan)

    def restore(self) -> None:
        """Goes back to the saved state of this folder. Raises CheckpointError."""
        facts = load_state(self.folder / STATE, self.network, self.average, self.optimizer)
        self.position = Position(**facts["position"])
        if facts["scaler"]:  # empty where the run had another precision so far
            self.scaler.load_state_dict(facts["scaler"])
        if self.position.step:
            logger.info("resumed at step %d (epoch %d)", self.position.step, self.position.epoch)

    def run(self) -> None:
        """Trains to the end of the last stage (or `max_steps`). Ctrl-C saves and raises Interrupted."""
        self._write_description()
        with self._ctrl_c(), self._bar() as bar:
            while self.position.epoch < self.train.epochs and not self._finished():
                self._run_epoch(bar)
            self.save()  # before the last validation, which a second Ctrl-C ends
            if self.validated != self.position.step:
                self.validate()
                self.save()
        logger.info("done after %d steps: %s", self.position.step, self.folder / LAST)

    def _finished(self) -> bool:
        return self.train.max_steps is not None and self.position.step >= self.train.max_steps

    def _run_epoch(self, bar: tqdm) -> None:
        stage = self.train.stage(self.position.epoch)
        steps = self.items_per_epoch // (stage.batch_size * stage.accumulation)
        if steps == 0:
            raise ConfigError(
                f"an epoch of {self.items_per_epoch} items is less than one step of {stage.batch_size} x "
                f"{stage.accumulation}; raise train.epoch_size or lower the accumulation"
            )
        batches = load_batches(
            self.items,
            self.position.epoch,
            self.position.batch,
            steps * stage.accumulation,
            stage.batch_size,
            stage.frames,
            self.train.workers,
            pin=self.device.type == "cuda",
        )
        started, losses = time.monotonic(), []
        while self.position.batch < steps * stage.accumulation:
            losses.append(self._step(batches, stage))
            bar.update()
            step = self.position.step
            if step % self.train.log_every == 0:
                seconds = (time.monotonic() - started) / len(losses)
                loss, rate = sum(losses) / len(losses), self.optimizer.param_groups[0]["lr"]
                bar.set_postfix_str(f"loss {loss:.4f}, lr {rate:.2g}, {seconds:.2f} s/step")
                self._log(**{"train/loss": loss, "lr": rate, "seconds_per_step": round(seconds, 3)})
                started, losses = time.monotonic(), []
            if self.train.validate_every and step % self.train.validate_every == 0:
                self.validate()
                started, losses = time.monotonic(), []
            if step % self.train.save_every == 0 or self.stopping:
                self.save()
            if self.stopping:
                raise Interrupted
            if self._finished():
                return
        self.position.epoch, self.position.batch = self.position.epoch + 1, 0
        if not self.train.validate_every:
            self.validate()
        self.save()

    def _step(self, batches: Iterator[Waveforms], stage: Stage) -> float:
        """One optimizer step over `accumulation` micro-batches; the mean of their losses."""
        self.network.train()
        rate = self.schedule(self.position.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        total = torch.zeros((), device=self.device)
        for _ in range(stage.accumulation):
            loss = self._loss(next(batches).to(self.device)) / stage.accumulation
            self.scaler.scale(loss).backward()
            total += loss.detach()
        value = total.item()
        if not torch.isfinite(total):
            raise TrainingError(
                f"the loss is {value} at step {self.position.step}; the last saved state is whole: lower "
                f"train.learning_rate and go on with --resume"
            )
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.position.step += 1
        self.position.batch += stage.accumulation
        self._update_average()
        return value

    def _loss(self, waveforms: Waveforms) -> Tensor:
        batch = batch_from_waveforms(waveforms, self.config)
        mask = self._mask(batch.magnitude).float()
        return separation_loss(mask, batch.mixture, batch.target, batch.scale, self.train.losses).mean()

    def _mask(self, magnitude: Tensor) -> Tensor:
        dtype = AUTOCAST[self.train.precision]
        scaled = self.network.scale_input(magnitude)
        with torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None):
            logits = self.network(scaled)
        return torch.sigmoid(logits.float())

    @torch.no_grad()
    def _update_average(self) -> None:
        # Early on, a short memory: else the random start would stay in the average for long.
        decay = min(self.train.ema, self.position.step / (self.position.step + 10))
        for name, value in self.network.state_dict().items():
            self.average[name].lerp_(value, 1 - decay) if decay else self.average[name].copy_(value)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """The average of the weights in the network's place, in eval mode."""
        own = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.average)
        self.network.eval()
        try:
            yield
        finally:
            self.network.load_state_dict(own)

    def validate(self) -> dict[str, float]:
        """Scores of the averaged weights, logged; saves them as `best` if they are the best so far."""
        self.validated = self.position.step
        scores: dict[str, float] = {}
        frames = self.train.stage(self.position.epoch).frames
        with self._averaged(), torch.no_grad():
            for name, items in self.validation.items():
                scores[f"valid/loss_{name}"] = mean_loss(
                    self._mask, items.items(frames), self.config, self.train.losses, self.device
                )
            if self.songs:
                sdr = song_sdr(self._mask, self.songs, self.config, self.device)
                scores |= {f"valid/sdr_{stem}": value for stem, value in sdr.items()}
        if not scores:
            return scores
        self._log(**scores)
        logger.info("step %d: %s", self.position.step, ", ".join(f"{k} {v:.4f}" for k, v in scores.items()))
        # The songs' SDR is what is wanted; without songs, the loss on the mixed set, as in the original.
        score = scores.get("valid/sdr_vocals", -scores.get("valid/loss_mixed", scores.get("valid/loss_pairs", 0.0)))
        if score > self.position.best:
            self.position.best = score
            self._save_model(BEST, scores)
        return scores

    def save(self) -> None:
        """The averaged model, and all that `--resume` needs."""
        self._save_model(LAST, {})
        facts = {"position": asdict(self.position), "scaler": self.scaler.state_dict()}
        save_state(self.folder / STATE, self.network, self.average, self.optimizer, facts)

    def _save_model(self, name: str, scores: dict[str, float]) -> None:
        extra = {"ft_train": json.dumps({"step": self.position.step, "scores": scores, "train": asdict(self.train)})}
        save_checkpoint(self.folder / name, self.average, self.config, extra)

    def _write_description(self) -> None:
        description = {
            "ft": __version__,
            "torch": torch.__version__,
            "device": str(self.device),
            "model": self.config.to_dict(),
            "train": asdict(self.train),
        }
        with atomic_write(self.folder / "config.json") as part:
            part.write_text(json.dumps(description, indent=1), encoding="utf-8")

    def _log(self, **values: float) -> None:
        position = {"step": self.position.step, "epoch": self.position.epoch, "time": round(time.time(), 1)}
        with (self.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(position | values) + "\n")
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, self.position.step)
            self.board.flush()

    def _bar(self) -> tqdm:
        total = self.train.max_steps
        disable = None if self.progress else True
        return tqdm(
            total=total, initial=self.position.step, unit="step", desc="train", disable=disable, file=sys.stderr
        )

    @contextlib.contextmanager
    def _ctrl_c(self) -> Iterator[None]:
        """The first Ctrl-C ends the run after the step it falls into, the second at once."""

        def stop(number: int, frame: Any) -> None:
            self.stopping = True
            signal.signal(signal.SIGINT, before)

        try:
            before = signal.signal(signal.SIGINT, stop)
        except ValueError:  # not the main thread: whoever started the trainer there handles signals
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _board(folder: Path) -> Any:
    """A TensorBoard writer. Raises ConfigError where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ConfigError("train.tensorboard needs tensorboard: pip install 'frame-transformer[train]'") from error
    return SummaryWriter(folder)


def _optimizer(train: TrainConfig, network: torch.nn.Module) -> torch.optim.Optimizer:
    parameters, rate, decay = network.parameters(), train.learning_rate, train.weight_decay
    if train.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=0.9, nesterov=True)
    kinds = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "radam": torch.optim.RAdam,
        "rmsprop": torch.optim.RMSprop,
    }
    return kinds[train.optimizer](parameters, lr=rate, weight_decay=decay)
