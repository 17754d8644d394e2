"""Learning rate and stages."""

from __future__ import annotations

import itertools

import pytest

from ft.errors import ConfigError
from ft.settings import load_yaml
from ft.train_config import Stage, TrainConfig, train_config_from_yaml
from ft.training.schedule import Schedule


def test_rate_never_falls_below_the_target():
    schedule = Schedule(base=1e-4, warmup_steps=10, decay_steps=20, target=1e-7, power=2)
    rates = [schedule(step) for step in range(200)]
    assert max(rates) == rates[10] == 1e-4
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert min(rates[11:]) == rates[30] == rates[-1] == 1e-7


def test_no_warm_up_and_no_decay():
    assert Schedule(1e-3, 0, 0)(0) == 1e-3


def test_stages_follow_the_epochs():
    for name in ("base", "original", "original-dense", "original-gelu"):
        train = train_config_from_yaml(load_yaml(name), name)
        assert [train.stage(epoch).frames for epoch in (0, 10, 11, 25, 26, 84)] == [256, 256, 512, 512, 512, 512]
        assert (train.stage(11).batch_size, train.stage(11).accumulation) == (1, 48)
        assert train.epochs == 85
    pre_training = train_config_from_yaml(load_yaml("denoise"), "denoise")
    assert [pre_training.stage(epoch).frames for epoch in (0, 30, 31, 49)] == [256, 256, 512, 512]
    assert pre_training.epochs == 50


def test_a_run_ends_after_the_last_epoch_of_its_last_stage():
    assert TrainConfig(stages=(Stage(last_epoch=1),)).epochs == 1
    stages = (Stage(128, 1), Stage(256, 3))
    train = TrainConfig(stages=stages)
    assert [train.stage(epoch).frames for epoch in range(train.epochs)] == [128, 256, 256]
    with pytest.raises(ConfigError, match="last_epoch: 0, expected 1 or more"):
        Stage(last_epoch=0)


def test_stages_must_rise():
    with pytest.raises(ConfigError, match="last_epoch"):
        TrainConfig(stages=(Stage(last_epoch=5), Stage(last_epoch=5)))
