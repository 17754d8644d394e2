"""The trainer: it learns, resumes as if never stopped, accumulates exactly, and stops politely."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from training import CPU, EXACT, log_lines, losses, settings, trainer

from ft.checkpoint import load_model
from ft.config import ModelConfig, model_config_from_yaml
from ft.data.examples import MixtureItems
from ft.data.loading import Batching, collate, load_batches
from ft.data.scan import Scan
from ft.data.sources import pool_from_sources
from ft.errors import ConfigError, DataError, FtError
from ft.models import make_network
from ft.models.frame_transformer import tiny
from ft.models.signal import Signal
from ft.settings import load_yaml, override
from ft.train_config import Augment, Source, TrainConfig, train_config_from_yaml
from ft.training.averaging import WeightAverage
from ft.training.distributed import Group, select_device
from ft.training.log import LOG
from ft.training.losses import Objective
from ft.training.run import compute_threads, computing, train_from_yaml
from ft.training.run_folder import LAST
from ft.training.tasks import make_task, mixture_of, true_stems
from ft.training.trainer import Interrupted, Trainer


def items_of(music: Path, config: ModelConfig) -> MixtureItems:
    scan = Scan(config)
    pools = [pool_from_sources([Source(str(music / name))], scan, True) for name in ("instrumentals", "vocals")]
    return MixtureItems(config, TrainConfig(), *pools)


def scaled(scale: str) -> ModelConfig:
    return dataclasses.replace(tiny(), front=dataclasses.replace(tiny().front, scale=scale))


def test_overfits_one_batch(music):
    config = model_config_from_yaml(override(load_yaml("tiny"), [*EXACT, "network.channels=4"]), "test")
    source = items_of(music, config)
    batch = collate([source.item(0, index, 8) for index in range(2)])
    torch.manual_seed(0)
    network, task = make_network(config), make_task(TrainConfig(), config)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    seen = []
    for _ in range(80):
        loss = task.loss(network, batch, contextlib.nullcontext).value
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        seen.append(loss.item())
    assert seen[-1] < 0.1 * seen[0]


def write_toy_songs(folder: Path) -> None:
    """Voices that are harmonic tones with vibrato, music that is bursts of noise: a task that is soon learned."""
    rng, rate = np.random.default_rng(0), 44100
    time = np.arange(4 * rate) / rate
    for number in range(3):
        phase = 2 * np.pi * (200 + 60 * number) * (time + 0.002 * np.sin(2 * np.pi * 5 * time))
        voice = sum(np.sin(harmonic * phase) / harmonic for harmonic in range(1, 9))
        bursts = rng.standard_normal(len(time)) * (np.sin(2 * np.pi * (1 + number) * time) > 0)
        for name, waveform in (("voice", 0.1 * voice), ("bursts", 0.2 * bursts)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / name / f"{number}.wav", waveform, rate)


def test_learns_more_than_a_constant_mask(tmp_path):
    """The validation loss is far below the least that one constant for all bins and frames can reach."""
    write_toy_songs(tmp_path)
    voices, bursts = [str(tmp_path / "voice")], [str(tmp_path / "bursts")]
    values = settings(
        tmp_path,
        vocals=voices,
        instrumentals=bursts,
        validation={"instrumentals": bursts, "vocals": voices, "items": 4},
        max_steps=60,
        learning_rate=1e-2,
        warmup_steps=5,
        epoch_size=1000,
        stages=[{"frames": 16, "last_epoch": 9, "batch_size": 4, "accumulation": 1}],
        voxaug={"skip_vocals": 0, "drop_vocals": 0},
    )
    run = trainer(tmp_path / "run", values)
    run.run()
    learned = run.validate()["valid/loss_mixed"]
    constants = []
    for value in torch.linspace(0, 1, 21):
        total = 0.0
        for item in run.data.validation["mixed"].items(16):
            batch, signal = collate([item]), Signal(run.config)
            mixture, level = mixture_of(batch, signal)
            targets = signal.transformed(true_stems(batch, run.config.stems))
            mask = torch.full_like(mixture.real[:, :, : run.config.front.used_bins], float(value))
            total += Objective(run.config, run.train.losses).parts(mask, targets, mixture, level)["magnitude_l1"].item()
        constants.append(total / 4)
    assert learned < 0.7 * min(constants)


@pytest.mark.parametrize("scale", ["track-peak", "window-peak"])
def test_scale_follows_the_configuration(music, scale):
    config = scaled(scale)
    source, signal = items_of(music, config), Signal(config)
    mixture, level = mixture_of(collate([source.item(0, index, 40) for index in range(8)]), signal)
    peak = mixture.abs().amax((1, 2, 3))
    assert (level.scale >= peak * (1 - 1e-6)).all() and (level.scale > 1.1 * peak).any() == (scale == "track-peak")
    magnitude = signal.inputs(mixture, level)
    assert magnitude.min() >= 0 and magnitude.max() <= 1


@pytest.mark.parametrize("scale", ["track-peak", "window-peak"])
def test_drawn_scale_lies_above_the_own_peak(music, scale):
    config = scaled(scale)
    scan = Scan(config)
    pools = [pool_from_sources([Source(str(music / name))], scan) for name in ("instrumentals", "vocals")]
    source = MixtureItems(config, TrainConfig(augment=Augment(scale_db=12)), *pools)
    mixture, level = mixture_of(collate([source.item(0, index, 40) for index in range(64)]), Signal(config))
    decibels = 20 * torch.log10(level.scale / mixture.abs().amax((1, 2, 3)))
    assert decibels.min() >= -1e-3 and decibels.max() > 9 and 4 < decibels.median() < 9


def test_workers_do_not_change_the_batches(music):
    config = model_config_from_yaml(load_yaml("tiny"), "test")
    source = items_of(music, config)
    alone, helped = (list(load_batches(source, Batching(2, 16), 1, range(1, 4), workers)) for workers in (0, 2))
    assert len(alone) == len(helped) == 3
    for one, other in zip(alone, helped, strict=True):
        assert all(torch.equal(one.stems[stem], other.stems[stem]) for stem in ("instrumental", "vocals"))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_is_one_line_whoever_reads_it(music, tmp_path, workers):
    copy = tmp_path / "vocals"
    shutil.copytree(music / "vocals", copy)
    run = trainer(tmp_path / "run", settings(music, vocals=[str(copy)], workers=workers))
    shutil.rmtree(copy)
    with pytest.raises(DataError, match=r"\.wav: can no longer be read") as caught:
        run.run()
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT as a POSIX terminal does")
def test_workers_outlive_ctrl_c_of_a_terminal(music, monkeypatch):
    """The terminal interrupts the workers as well, and the trainer needs their batches to finish its step."""
    source = items_of(music, model_config_from_yaml(load_yaml("tiny"), "test"))
    item, main = MixtureItems.item, os.getpid()

    def interrupted(self, *key):
        assert os.getpid() != main
        os.kill(os.getpid(), signal.SIGINT)
        return item(self, *key)

    monkeypatch.setattr(MixtureItems, "item", interrupted)
    assert len(list(load_batches(source, Batching(1, 16), 0, range(2), 1))) == 2


def test_last_step_is_validated_once(music, tmp_path):
    songs = {"songs": [str(music / "pairs")]}
    trainer(tmp_path, settings(music, max_steps=2, validate_every=2, validation=songs)).run()
    assert [line["step"] for line in log_lines(tmp_path) if "valid/sdr_vocals" in line] == [2]


def test_run_leaves_a_model_and_its_description(music, tmp_path):
    values = settings(music, max_steps=2, precision="bfloat16", validation={"songs": [str(music / "pairs")]})
    run = trainer(tmp_path / "run", values)
    run.run()
    model = load_model(tmp_path / "run" / LAST)
    assert torch.equal(model.state_dict()["out"], run.average.state()["out"])
    best = load_model(tmp_path / "run" / "best.safetensors")
    assert best.model_config == run.config
    description = yaml.safe_load((tmp_path / "run" / "config.json").read_text())
    assert description["train"]["precision"] == "bfloat16" and description["torch"] == torch.__version__
    last = log_lines(tmp_path / "run")[-1]
    assert {"step", "epoch", "time", "valid/sdr_vocals", "valid/sdr_instrumental"} <= set(last)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_the_bar_has_the_loss_from_the_first_step_on(music, monkeypatch):
    """Also before the first line of the log."""
    values = settings(music, max_steps=1, log_every=20)
    monkeypatch.setattr("sys.stderr", screen := Terminal())
    config, train = model_config_from_yaml(values, "test"), train_config_from_yaml(values, "test")
    run = Trainer(config, train, None, Group(CPU), progress=True)
    run.run()
    assert "1/1 [00:0" in screen.getvalue() and f"loss {run.sums['loss']:.4f}, lr" in screen.getvalue()


@pytest.mark.parametrize("closed", [True, False])
def test_a_run_without_stderr_has_no_bar(music, monkeypatch, closed):
    screen = Terminal()
    screen.close()
    monkeypatch.setattr("sys.stderr", screen if closed else None)
    run = trainer(None, settings(music))
    run.progress = True
    with run._bar() as bar:
        bar.update()


@pytest.mark.parametrize(
    ("asked", "workers", "cores", "expected"),
    [(None, 1, 2, 1), (None, 0, 2, 2), (None, 4, 2, 1), (None, 1, 8, 7), (None, 1, 32, 16), (3, 1, 2, 3)],
)
def test_threads_are_the_cores_that_loading_leaves(monkeypatch, asked, workers, cores, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("ft.training.run.usable_cores", lambda: cores)
    assert compute_threads(asked, workers, most=16)[0] == expected
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert compute_threads(asked, workers, most=5)[0] == (asked or 5)


def test_threads_are_set_for_the_run_and_named(monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="ft.training.run")
    before = torch.get_num_threads()
    monkeypatch.setattr("os.getloadavg", lambda: (99.0, 99.0, 99.0), raising=False)
    with computing(3, workers=1):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == before
    assert caplog.messages[0] == "threads that compute: 3 (`threads`)"
    assert "the machine is busy (a load of 99.0" in caplog.messages[1]


def test_existing_run_is_not_overwritten(music, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings(music, max_steps=1)))
    train_from_yaml(str(path), output=tmp_path / "run", device="cpu", progress=False)
    with pytest.raises(ConfigError, match="`resume`"):
        train_from_yaml(str(path), output=tmp_path / "run", device="cpu", progress=False)


def test_what_is_missing_is_named_before_the_first_step(music, tmp_path):
    with pytest.raises(DataError, match=r"train\.instrumentals"):
        trainer(tmp_path, {**load_yaml("tiny"), "train": {}})
    with pytest.raises(DataError, match=r"train\.vocals"):
        trainer(tmp_path, settings(music, vocals=[]))
    with pytest.raises(DataError, match=r"train\.voxaug\.force"):
        trainer(tmp_path, settings(music, vocals=[], pairs=[str(music / "pairs")]))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FtError, match=r"file/state\.safetensors: cannot be written \(Not a directory"):
        trainer(tmp_path / "file", settings(music))
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        trainer(tmp_path, settings(music, precision="float16"))
    with pytest.raises(ConfigError, match="less than one step"):
        trainer(tmp_path / "new", settings(music, epoch_size=3))
    assert not (tmp_path / "new").exists()
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        trainer(tmp_path, settings(music, learning_rat=1))


def test_a_later_stage_that_is_too_large_is_named_before_the_first_step(music, tmp_path):
    stages = [
        {"frames": 16, "last_epoch": number + 1, "batch_size": 2, "accumulation": 2 + 5 * number} for number in (0, 1)
    ]
    values = settings(music, stages=stages, extra_epochs=0)
    with pytest.raises(ConfigError, match="an epoch of 12 items is less than one step of 2 x 7"):
        trainer(tmp_path, values)
    values["train"]["max_steps"] = 3
    assert [steps for _, steps in trainer(tmp_path, values).planned()] == [3], "a stage that it never comes to may be"


@pytest.mark.filterwarnings("default")
def test_tensorboard_gets_the_values_of_the_log(music, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer(tmp_path, settings(music, max_steps=2, tensorboard=True)).run()
    events = EventAccumulator(str(tmp_path)).Reload()
    logged = [event.value for event in events.Scalars("train/loss")]
    assert logged == pytest.approx(losses(tmp_path), rel=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="waits for an NVIDIA GPU")
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_trains_and_resumes_on_a_gpu(music, tmp_path, precision):
    values, gpu = settings(music, max_steps=4, precision=precision), Group(torch.device("cuda"))
    run = trainer(tmp_path, values, gpu)
    run.run()
    again = trainer(tmp_path, values, gpu)
    again.restore()
    assert again.position == run.position
    assert all(torch.equal(a, b) for a, b in zip(run.network.parameters(), again.network.parameters(), strict=True))
    assert torch.isfinite(torch.tensor(losses(tmp_path))).all()


def test_devices():
    assert select_device("cpu") == select_device("CPU") == CPU
    with pytest.raises(ConfigError, match="expected auto, cpu or cuda"):
        select_device("tpu")
    with pytest.raises(ConfigError, match="CUDA devices seen"):
        select_device("cuda:77")


def test_an_interruption_of_the_last_validation_loses_no_step(music, tmp_path, monkeypatch):
    def interrupted(self, waited):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "validate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path, settings(music, max_steps=2)).run()
    resumed = trainer(tmp_path, settings(music))
    resumed.restore()
    assert resumed.position.step == 2


def test_the_command_that_goes_on_can_be_pasted(music, tmp_path, monkeypatch, caplog):
    def interrupted(self):
        raise Interrupted

    monkeypatch.setattr(Trainer, "run", interrupted)
    path = tmp_path / "two words.yaml"
    path.write_text(yaml.safe_dump(settings(music)))
    assignment = "train.stages=[{frames: 16, accumulation: 1}]"
    with pytest.raises(Interrupted):
        train_from_yaml(str(path), [assignment], output=tmp_path / "run", device="cpu", threads=2, progress=False)
    command = shlex.split(caplog.messages[-1].partition("go on with: ")[2])
    expected = ["--resume", "-o", str(tmp_path / "run"), "--set", assignment, "--device", "cpu", "--threads", "2"]
    assert command == ["ft", "train", str(path), *expected]


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT as a POSIX terminal does")
@pytest.mark.parametrize("moment", ["while processes agree", "after they have"])
def test_no_signal_is_lost_and_none_stops_a_process_alone(music, tmp_path, monkeypatch, moment):
    """A process begins to stop where all of them agree upon it, at the latest one step after the signal."""
    run, mean, update = trainer(tmp_path, settings(music)), Group.mean, WeightAverage.update
    before = signal.getsignal(signal.SIGINT)

    def interrupted_mean(self, values):
        if moment == "while processes agree" and run.position.step == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return mean(self, values)

    def interrupted_update(self, step):
        if moment == "after they have" and step == 1:
            os.kill(os.getpid(), signal.SIGINT)
            assert run.asked and not run.stopping
            assert signal.getsignal(signal.SIGINT) == before, "a second one ends at once"
        update(self, step)

    monkeypatch.setattr(Group, "mean", interrupted_mean)
    monkeypatch.setattr(WeightAverage, "update", interrupted_update)
    with pytest.raises(Interrupted):
        run.run()
    assert run.position.step == 2
    resumed = trainer(tmp_path, settings(music))
    resumed.restore()
    assert resumed.position.step == 2


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT as a POSIX terminal does")
def test_signals_to_the_whole_group_save_and_say_how_to_go_on(music, tmp_path):
    """SIGTERM, by which schedulers end jobs, and then Ctrl-C: both reach the processes that load items too."""
    path, run = tmp_path / "config.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(settings(music, epoch_size=40000, workers=1)))
    command, step = [sys.executable, "-m", "ft", "train", str(path), "-o", str(run), "--device", "cpu"], 0
    for number, more in ((signal.SIGTERM, []), (signal.SIGINT, ["--resume"])):
        process = subprocess.Popen([*command, *more], stderr=subprocess.PIPE, text=True, start_new_session=True)
        deadline = time.monotonic() + 120
        while (not (run / LOG).exists() or log_lines(run)[-1]["step"] <= step) and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 130
        assert f"ft train {path} --resume -o {run}" in errors
        assert "Traceback" not in errors
        resumed = trainer(run, settings(music, epoch_size=40000))
        resumed.restore()
        assert resumed.position.step > step
        step = resumed.position.step
