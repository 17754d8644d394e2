"""Two processes that train one network equal one process with twice the batch, whole or sharded, stopped or not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import EXACT, log_lines, losses, settings, trainer

from ft.checkpoint import load_model
from ft.errors import ConfigError
from ft.training.distributed import Group, processes
from ft.training.run_folder import BEST, LAST, STATE

TESTS = Path(__file__).parent


def stages(batch_size: int) -> list[dict]:
    return [{"frames": 8, "last_epoch": 2, "batch_size": batch_size, "accumulation": 2}]


@pytest.fixture(scope="module")
def runs(music, tmp_path_factory) -> Path:
    """Two processes' runs, one item to each at once; `one` is that of one process with two at once."""
    folder = tmp_path_factory.mktemp("distributed")
    values = settings(
        music,
        *EXACT,
        ema=0.9,
        optimizer="sgd",  # others divide by the size of a gradient, and so raise rounding
        learning_rate=0.1,
        validate_every=2,
        validation={"pairs": [str(music / "pairs")], "items": 3},
        epoch_size=8,
        stages=stages(1),
    )
    (folder / "values.json").write_text(json.dumps(values))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    paths = os.pathsep.join([str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command += [str(TESTS / "distributed_runs.py"), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    values["train"] |= {"stages": stages(2), "max_steps": 2}
    trainer(folder / "one", values).run()
    return folder


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_equal_one_with_twice_the_batch(runs, parallel):
    """Losses, weights and validation, also where the two (`ddp`) were stopped within an epoch and went on."""
    assert losses(runs / parallel) == pytest.approx(losses(runs / "one"), abs=1e-5)
    assert len(losses(runs / parallel)) == 2
    for key in ("train/grad_norm", "valid/loss_pairs"):
        found, same = (
            [line[key] for line in log_lines(runs / name) if key in line and line["step"] == 2]
            for name in (parallel, "one")
        )
        assert len(found) == 1 and found == pytest.approx(same, abs=1e-5)
    one = load_model(runs / "one" / LAST).state_dict()
    for name, value in load_model(runs / parallel / LAST).state_dict().items():
        assert torch.allclose(value, one[name], atol=1e-5), name


def test_resumed_processes_equal_those_that_never_stopped(runs):
    """Exactly, with dropout: each process has its own random numbers again."""
    straight, stopped = runs / "straight", runs / "stopped"
    assert losses(stopped) == losses(straight) and len(losses(straight)) == 2
    weights = load_model(straight / LAST).state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in load_model(stopped / LAST).state_dict().items())


def test_a_signal_to_one_process_stops_both_after_the_same_step(runs):
    """One that stopped alone would gather what it saves while the other goes on."""
    found = sorted(path.name for path in (runs / "signalled").glob("interrupted-*"))
    assert found == ["interrupted-0-2", "interrupted-1-2"]


def test_one_process_writes_and_another_number_of_them_can_go_on(runs, caplog):
    """The state of a sharded network is whole."""
    files = {path.name for path in (runs / "ddp").iterdir()}
    assert files - {"scan.json", "config.1.json"} == {STATE, LAST, BEST, "log.jsonl", "config.json"}
    assert [line["step"] for line in log_lines(runs / "ddp") if "train/loss" in line] == [1, 2]
    values = json.loads((runs / "values.json").read_text())
    values["train"] |= {"stages": stages(2)}
    states = []
    for parallel in ("ddp", "fsdp", "one"):
        resumed = trainer(runs / parallel, values)
        resumed.restore()
        states.append(resumed)
    assert "saved by 2 processes and resumed by 1" in caplog.text
    for one in states[:2]:
        assert one.position.items == states[2].position.items and one.position.step == 2
        for found, expected in zip(one.optimizer.state.values(), states[2].optimizer.state.values(), strict=True):
            assert torch.allclose(found["momentum_buffer"], expected["momentum_buffer"], atol=1e-5)


def test_processes_take_a_gpu_each(monkeypatch):
    with processes("cpu") as group:
        assert group == Group(torch.device("cpu"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="--nproc-per-node 1"), processes("auto"):
        pass
    with pytest.raises(ConfigError, match="a GPU of its own"), processes("cuda:0"):
        pass
