"""`ft train --dry-run`: what it prints is the run's own configuration, and what it measures is so."""

from __future__ import annotations

import contextlib
import re

import pytest
import torch
import yaml
from click.testing import CliRunner
from training import EXACT, settings, trainer

from ft.cli import main
from ft.config import model_config_from_yaml
from ft.models import completed
from ft.train_config import train_config_from_yaml
from ft.training.distributed import Group
from ft.training.dry_run import _LiveMemory, effective_yaml, measure, report


@pytest.mark.parametrize("found", ["tiny", "small"])
def test_printed_configuration_is_that_of_the_run(found, music):
    from ft.settings import load_yaml

    values = load_yaml(found) if found == "small" else settings(music, *EXACT, patience=None, init_from=None)
    config, train = model_config_from_yaml(values, "test"), train_config_from_yaml(values, "test")
    printed = yaml.safe_load(effective_yaml(config, train))
    assert model_config_from_yaml(printed, "printed") == completed(config)
    assert train_config_from_yaml(printed, "printed") == train


def test_dry_run_says_what_it_takes_and_writes_nothing(music, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = settings(music, ema=0.9, max_steps=1000, epoch_size=120)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    result = CliRunner().invoke(main, ["train", "config.yaml", "--dry-run", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    facts = re.findall(r"^# (\w+) +(.*)$", result.stdout, re.MULTILINE)
    assert [name for name, _ in facts] == ["parameters", "memory", "step", "run"]
    steps = int(re.match(r"([\d,]+) steps", facts[3][1])[1].replace(",", ""))
    assert steps == 1000
    assert yaml.safe_load(result.stdout)["train"]["ema"] == 0.9


def test_memory_is_that_of_the_tensors(music):
    found = measure(run := trainer(None, settings(music, ema=0.9)))
    count = sum(parameter.numel() for parameter in run.network.parameters())
    assert found.parameters == count
    assert found.weights == found.average == found.gradients == 4 * count
    assert 8 * count <= found.optimizer < 8 * count + 8 * 400  # two moments each, and a number of the step
    assert found.steps == 62 * 3
    less = measure(trainer(None, settings(music, checkpoint_gradients=True)))
    assert less.average == 0 and less.activations < 0.7 * found.activations


def test_every_stage_is_measured(music):
    """Memory is that of the largest, and time the sum over those that the run comes to."""
    shapes = [(8, 2), (32, 4), (8, 2), (32, 12)]
    stages = [
        {"frames": frames, "last_epoch": last, "batch_size": size, "accumulation": 1}
        for last, (frames, size) in enumerate(shapes, start=1)
    ]
    run = trainer(None, settings(music, stages=stages, max_steps=17))
    found = measure(run)
    assert [stage.steps for stage in found.stages] == [6, 3, 6, 2] and found.steps == 17
    first, second, third, _ = found.stages
    assert second.activations > 4 * first.activations and third.seconds_per_step == first.seconds_per_step
    assert found.activations == max(stage.activations for stage in found.stages) > 2 * second.activations
    assert found.seconds == pytest.approx(sum(stage.steps * stage.seconds_per_step for stage in found.stages))
    lines = [line for line in report(run.config, run.train, found).splitlines() if line.startswith("# step")]
    assert [line.rpartition(", ")[2] for line in lines] == [
        f"{steps} times at {frames} frames" for steps, (frames, _) in zip((6, 3, 6, 2), shapes, strict=True)
    ]


def test_one_of_several_processes_speaks(music, tmp_path, monkeypatch):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings(music)))
    monkeypatch.setattr("ft.training.dry_run.measure", lambda run: None)
    monkeypatch.setattr("ft.training.dry_run.report", lambda *found: "what was found")
    spoken = []
    for rank in (0, 1):
        group = Group(torch.device("cpu"), rank)
        one_of_several = contextlib.nullcontext(group)
        monkeypatch.setattr("ft.training.distributed.processes", lambda device, found=one_of_several: found)
        result = CliRunner().invoke(main, ["train", str(tmp_path / "config.yaml"), "--dry-run", "--device", "cpu"])
        assert result.exit_code == 0, result.output
        spoken.append(result.stdout)
    assert spoken == ["what was found\n", ""]


def test_live_memory_is_the_most_that_is_held_at_once():
    with _LiveMemory() as memory:
        first = torch.ones(1000)
        second = first + 1
        second.add_(1)
        first.view(10, 100)
        del first
        torch.zeros(500)
        third = second * 2
    assert memory.peak == 2 * 4000 and memory.live == 2 * 4000
    del second, third
    assert memory.live == 0
