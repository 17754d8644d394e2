"""A run that is resumed goes on as if it had never stopped, and early stopping ends one that gets no better."""

from __future__ import annotations

import dataclasses
import json
import logging
import math

import pytest
import torch
from training import log_lines, losses, settings, trainer

from ft.errors import CheckpointError, ConfigError
from ft.models.frame_transformer import tiny
from ft.settings import override
from ft.train_config import TrainConfig
from ft.training.distributed import Group
from ft.training.guard import TrainingError
from ft.training.log import LOG
from ft.training.run_folder import DESCRIPTION, STATE, RunFolder
from ft.training.state import load_state, save_state
from ft.training.trainer import Trainer


def run_in_parts(folder, values, *stops):
    """Runs to each number of steps in turn, each time by a new trainer after other random numbers were drawn."""
    for number, stop in enumerate(stops):
        run = trainer(folder, override(values, [f"train.max_steps={stop}"]))
        if number:
            torch.manual_seed(999)
            run.restore()
        run.run()
    return run


def assert_equal(one: Trainer, other: Trainer):
    for state, same in (
        (one.network.state_dict(), other.network.state_dict()),
        (one.average.state(), other.average.state()),
    ):
        assert all(torch.equal(value, same[name]) for name, value in state.items())


@pytest.mark.parametrize("workers", [0, 1])
def test_resumed_run_equals_one_that_never_stopped(music, tmp_path, workers):
    """Epochs have 3 steps: one stop lies in the middle of the first, one in the second. Dropout is on.

    The log has a line for two steps, and a stop between them.
    """
    values = settings(music, ema=0.9, workers=workers, precision="bfloat16", log_every=2)
    straight = run_in_parts(tmp_path / "straight", values, 6)
    resumed = run_in_parts(tmp_path / "stopped", values, 1, 4, 6)
    assert len(losses(tmp_path / "stopped")) == 3
    assert losses(tmp_path / "stopped") == losses(tmp_path / "straight")
    assert_equal(straight, resumed)


def test_resumed_run_keeps_the_scale_of_float16(music, tmp_path):
    """Only a GPU trains in float16; the scaler itself works anywhere, and its state is among what is saved."""
    runs = [trainer(tmp_path, settings(music, max_steps=1)) for _ in range(2)]
    for run in runs:
        run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    runs[0].run()
    assert runs[0].scaler.state_dict()["_growth_tracker"] == 1
    runs[1].restore()
    assert runs[1].scaler.state_dict() == runs[0].scaler.state_dict()


def test_float16_gradients_that_overflow_are_passed_over_until_the_scale_fits(music, tmp_path):
    run = trainer(tmp_path, settings(music, max_steps=2, losses={"magnitude_l1": 1e3}))
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    run.run()
    assert run.position.step == 2 and run.scaler.get_scale() < 2.0**127
    assert all(map(math.isfinite, losses(tmp_path)))


def test_states_of_before_several_processes_are_read(music, tmp_path):
    """They count micro-batches and not items, and hold an average of weights also where none was asked for."""
    run = trainer(tmp_path, settings(music, max_steps=2))
    run.run()
    run.average.values = run.network.state_dict()
    old = {"epoch": 0, "batch": 4, "step": 2, "best": -1.0}
    facts = {"position": old, "scaler": {}}
    save_state(tmp_path / STATE, run.network, run.average, run.optimizer, facts, run.group)
    resumed = trainer(tmp_path, settings(music, max_steps=3))
    resumed.restore()
    assert (resumed.position.items, resumed.position.step, resumed.position.best) == (8, 2, -1.0)
    resumed.run()
    assert len(losses(tmp_path)) == 3


def test_state_without_an_average_starts_one_from_the_weights(music, tmp_path):
    run = trainer(tmp_path, settings(music, max_steps=1))
    run.run()
    resumed = trainer(tmp_path, settings(music, ema=0.9))
    load_state(tmp_path / STATE, resumed.network, resumed.average, resumed.optimizer, resumed.group)
    assert torch.equal(resumed.average.state()["out"], run.network.out)


def test_another_batch_size_goes_on_behind_the_items_that_are_done(music, tmp_path):
    trainer(tmp_path, settings(music, max_steps=1)).run()
    stages = [{"frames": 16, "last_epoch": 2, "batch_size": 3, "accumulation": 1}]
    resumed = trainer(tmp_path, settings(music, stages=stages))
    resumed.restore()
    assert resumed.position.items == 6
    assert [index for _, index, _ in resumed.keys(resumed.train.stages[0], 0)] == [6, 7, 8]


def test_state_of_something_else_is_refused(music, tmp_path):
    trainer(tmp_path, settings(music, max_steps=1)).run()
    with pytest.raises(CheckpointError, match="another network"):
        trainer(tmp_path, settings(music, "network.expansion=1")).restore()
    with pytest.raises(CheckpointError, match="another optimizer, AdamW and not SGD"):
        trainer(tmp_path, settings(music, optimizer="sgd")).restore()
    with pytest.raises(CheckpointError, match=r"train\.task separate and not denoise"):
        trainer(tmp_path, settings(music, task="denoise")).restore()
    for change, line in (("output.of=rest", "output.of stems and not rest"),
                         ("front.hop_length=256", "front.hop_length 512 and not 256"),
                         ("model.rest=others", "model.rest instrumental and not others")):  # fmt: skip
        with pytest.raises(CheckpointError, match=line):
            trainer(tmp_path, settings(music, change)).restore()
    trainer(tmp_path, settings(music, "network.dropout=0.3")).restore()
    (tmp_path / STATE).write_bytes(b"no safetensors")
    with pytest.raises(CheckpointError, match="no state of a training run"):
        trainer(tmp_path, settings(music)).restore()


FIRST = {"audio": {"sample_rate": 44100, "channels": 2, "stereo": "left-right", "n_fft": 1024, "hop_length": 512,
                   "bins": 64, "normalize": "window", "extend_mask": 0},
         "model": {"in_channels": 2, "bins": 64, "input_power": 1.0, "standardize": False, "transformer": True,
                   "attention_conv": "grouped", "rotary": "learned", "activation": "squared-relu",
                   "feed_forward_mixing": False, "decoder_block": "wide", "qk_norm_order": "rotary-first",
                   "qk_norm": True, "mask": "magnitude"}}  # fmt: skip
"""What a run of the preset `tiny` wrote of itself in the first format, but for the sizes of its network."""


@pytest.mark.parametrize("mask_stem", ["vocals", "instrumental"])
def test_a_run_of_the_first_format_goes_on(music, tmp_path, caplog, mask_stem):
    """Where its configuration is the same in other words; not where its mask was another stem's."""
    caplog.set_level(logging.INFO, logger="ft.training")
    run = trainer(tmp_path, settings(music, max_steps=1))
    run.run()
    network = {**run.config.network.numbers, **FIRST["model"]}
    meaning = {f"audio.{key}": value for key, value in FIRST["audio"].items()}
    meaning |= {f"model.{key}": value for key, value in network.items() if "dropout" not in key}
    facts = {"position": dataclasses.asdict(run.position), "scaler": {}, "task": "separate"}
    facts["model"] = {**meaning, "model.mask_stem": mask_stem}
    save_state(tmp_path / STATE, run.network, run.average, run.optimizer, facts, run.group)
    description = json.loads((tmp_path / DESCRIPTION).read_text())
    outer = {"name": "tiny", "stems": ["vocals", "instrumental"], "license": "unknown", "mask_stem": mask_stem}
    description["model"] = {"audio": FIRST["audio"], "network": network, **outer}
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    resumed = trainer(tmp_path, settings(music, max_steps=2))
    if mask_stem == "instrumental":
        with pytest.raises(CheckpointError, match=r"output\.of rest and not stems"):
            resumed.restore()
        return
    resumed.restore()
    assert resumed.position == run.position
    assert [message for message in caplog.messages if "->" in message] == ["train.max_steps: 1 -> 2"]


def test_a_resumed_run_says_what_changed_and_keeps_what_it_was(music, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="ft.training")
    trainer(tmp_path, settings(music, max_steps=1)).run()
    first = (tmp_path / DESCRIPTION).read_text()
    description = json.loads(first)
    del description["train"]["augment"]["mono"], description["train"]["workers"]  # as of an older version
    (tmp_path / DESCRIPTION).write_text(json.dumps(description))
    changed = settings(music, "network.dropout=0.3", seed=7, max_steps=1)
    del changed["train"]["extra_epochs"]
    for _ in range(2):
        resumed = trainer(tmp_path, changed)
        resumed.restore()
        resumed.run()
    lines = [message for message in caplog.messages if "->" in message]
    assert sorted(lines) == [
        "network.dropout: 0.1 -> 0.3",
        "train.extra_epochs: 60 -> 0",
        "train.seed: 0 -> 7",
        "train.workers: 1 -> 0",
    ]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "train.extra_epochs: 60 -> 0",
        "other examples from here on than those of the run before, by train.seed",
    ]
    assert json.loads((tmp_path / "config.1.json").read_text()) == description
    assert json.loads((tmp_path / DESCRIPTION).read_text())["train"]["seed"] == 7
    assert not (tmp_path / "config.2.json").exists()


def test_a_description_that_cannot_be_read_is_kept_too(tmp_path, caplog):
    (tmp_path / DESCRIPTION).write_text("{")
    folder = RunFolder(tmp_path, tiny(), TrainConfig(), Group(torch.device("cpu")))
    folder.describe()
    assert (tmp_path / "config.1.json").read_text() == "{" and "cannot be compared with" in caplog.text
    assert folder.changes() == {}


def test_a_run_that_gets_no_better_ends_early(music, tmp_path, monkeypatch):
    """Also where it is stopped between the validations that are no better."""
    monkeypatch.setattr("ft.training.trainer.score", lambda scores, stems: -1.0)
    monkeypatch.setattr("ft.training.validation.Validation.scores", lambda *rest: {"valid/loss_pairs": 1.0})
    values = settings(music, patience=2, validate_every=1, validation={"pairs": [str(music / "pairs")]})
    straight = run_in_parts(tmp_path / "straight", values, 9)
    assert (straight.position.step, straight.position.stale) == (3, 2)
    resumed = run_in_parts(tmp_path / "stopped", values, 2, 9, 9)
    assert resumed.position == straight.position
    del values["train"]["validate_every"]  # at the end of each epoch of three steps, where a run is stopped too
    straight = run_in_parts(tmp_path / "epochs", values, 20)
    assert (straight.position.step, straight.position.stale) == (9, 2)
    resumed = run_in_parts(tmp_path / "epochs stopped", values, 3, 4, 6, 20, 20)
    assert resumed.position == straight.position
    with pytest.raises(ConfigError, match=r"train: patience: needs a score"):
        trainer(tmp_path / "without", settings(music, patience=2))


def test_a_resumed_log_has_each_step_once(music, tmp_path):
    """What was logged behind the last save goes, and so does a line that a crash cut."""
    trainer(tmp_path, settings(music, max_steps=2)).run()
    with (tmp_path / LOG).open("a") as log:
        log.write('{"step": 3, "epoch": 0, "train/loss": 1.0}\n{"step": 4, "ep')
    run_on = trainer(tmp_path, settings(music, max_steps=4))
    run_on.restore()
    run_on.run()
    steps = [line["step"] for line in log_lines(tmp_path) if "train/loss" in line]
    assert steps == [1, 2, 3, 4]


def test_a_full_disk_is_named_by_the_saver(music, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*arguments):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(CheckpointError, match=r"last\.safetensors: cannot be written: .*No space left"):
        trainer(tmp_path, settings(music, max_steps=1)).run()
    assert not [path for path in tmp_path.iterdir() if "safetensors" in path.name]


def test_a_step_too_large_for_the_device_is_named(music, tmp_path, monkeypatch):
    def step(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    run = trainer(tmp_path, settings(music))
    monkeypatch.setattr(run, "step", step)
    with pytest.raises(TrainingError, match=r"step 0: 2 x 16 frames do not fit .* lower the stage's batch_size"):
        run.run()


def test_what_would_validate_nothing_is_refused(music, tmp_path):
    for key, line in (("vocals", "without instrumentals"), ("instrumentals", "without vocals")):
        with pytest.raises(ConfigError, match=line):
            trainer(tmp_path, settings(music, validation={key: [str(music / key)]}))
