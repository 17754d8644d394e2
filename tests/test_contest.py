"""Contests: the same data and budget for several networks and recipes."""

import json
import logging

import pytest
import yaml
from click.testing import CliRunner

from bench import contest_page
from bench.contest import budgeted, load_contest, main, seconds_per_step
from bench.contest_page import table
from ft.errors import ConfigError
from ft.models import bs_roformer
from ft.models.frame_transformer import FrameTransformer
from ft.train_config import Source, TrainConfig, Validation

BS_ROFORMER = bs_roformer.tiny().network


@pytest.fixture
def contest(tmp_path, music, example):
    base = {
        "front": {"n_fft": 256, "hop_length": 128, "bins": 32, "stereo": "mid-side"},
        "network": {"kind": "frame-transformer", "channels": 1, "multipliers": [1, 1], "heads": [1, 1], "expansion": 1},
        "train": {
            "instrumentals": [str(music / "instrumentals")],
            "vocals": [str(music / "vocals")],
            "validation": {"songs": [str(music / "pairs")]},
            "stages": [{"frames": 20, "batch_size": 2, "accumulation": 1}],
            "epoch_size": 100,
            "workers": 0,
            "ema": 0.9,
        },
    }
    rows = [
        {"name": "ours"},
        {"name": "no attention", "set": {"network.heads": [0, 0]}},
        {"name": "pre-trained", "pretrain": 0.4},
        {
            "name": "umx",
            "set": {"output": {"kind": "magnitude"}, "network": {"kind": "open-unmix", "hidden": 8, "layers": 1}},
        },
        {
            "name": "bs",
            "set": {
                "front": {"n_fft": 256, "hop_length": 128, "bins": 32, "values": "complex"},
                "output": {"kind": "complex-mask"},
                "network": {**BS_ROFORMER.numbers, "kind": "bs-roformer", "bands": [4, 4, 8, 16]},
            },
        },
    ]
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(base))
    path = tmp_path / "contest.yaml"
    path.write_text(yaml.safe_dump({"base": str(tmp_path / "base.yaml"), "rows": rows}))
    return path


def test_every_row_is_trained_and_scored_once(contest, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.INFO, logger="ft")  # a command of another test may have made it quiet
    report = tmp_path / "report.json"
    arguments = [str(contest), "-o", str(tmp_path / "runs"), "--steps", "3", "--device", "cpu", "--json", str(report)]
    done = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = json.loads(report.read_text())["rows"]
    assert [row["name"] for row in rows] == ["ours", "no attention", "pre-trained", "umx", "bs"]
    assert {row["steps"] for row in rows} == {3} and {row["examples"] for row in rows} == {6}
    assert all(row["seconds_per_step"] > 0 and row["gflop_per_step"] > 0 for row in rows)
    assert [row["pretraining_steps"] for row in rows] == [0, 0, 1, 0, 0]
    assert rows[2]["parameters"] == rows[0]["parameters"] and len({row["parameters"] for row in rows}) == 4
    weights = tmp_path / "runs" / "02" / "pretraining" / "last.safetensors"
    assert weights.exists() and f"begins with the weights of {weights}" in caplog.text
    assert all(set(row["sdr"]["song"]) == {"vocals", "instrumental"} for row in rows)
    assert len({row["sdr"]["song"]["vocals"] for row in rows}) >= 4
    weights = tmp_path / "runs" / "00" / "last.safetensors"
    written = weights.stat().st_mtime_ns
    again = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert table(json.loads(report.read_text())["rows"]) in again.output
    assert weights.stat().st_mtime_ns == written, "a row that is done is trained again"
    other = CliRunner().invoke(main, [*arguments[:4], "4", *arguments[5:]])
    assert other.exit_code == 1 and "another row, recipe or budget" in other.output
    # Killed once it was trained and before it was scored.
    (tmp_path / "runs/00/result.json").unlink()
    again = CliRunner().invoke(main, [*arguments, "--only", "ours"], catch_exceptions=False)
    assert again.exit_code == 0 and weights.stat().st_mtime_ns >= written
    assert json.loads(report.read_text())["rows"][0]["sdr"] == rows[0]["sdr"]


def test_the_page_is_what_the_reports_give():
    text = contest_page.PAGE.read_text(encoding="utf-8")
    assert text == contest_page.page(), "run `python -m bench.contest_page`"
    assert text.count("| as it is | base |") == 1


def test_a_budget_in_seconds_gives_slower_networks_fewer_steps(contest, tmp_path, monkeypatch):
    def taken(trainer):
        seconds_per_step(trainer)
        return 0.5 if isinstance(trainer.network, FrameTransformer) else 1.0

    monkeypatch.setattr("bench.contest.seconds_per_step", taken)
    report = tmp_path / "report.json"
    arguments = [str(contest), "-o", str(tmp_path / "runs"), "--seconds", "4", "--device", "cpu", "--json", str(report)]
    done = CliRunner().invoke(main, [*arguments, "--only", "ours", "--only", "umx"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert [row["steps"] for row in json.loads(report.read_text())["rows"]] == [8, 4]
    other = CliRunner().invoke(main, [*arguments, "--only", "theirs"])
    assert other.exit_code == 1 and "--only theirs: no such row; expected one of ours" in other.output


def test_the_rate_has_fallen_when_the_budget_is_spent():
    songs = Validation(songs=(Source("songs"),))
    train = budgeted(TrainConfig(warmup_steps=1000, patience=3, validation=songs), 50)
    assert (train.warmup_steps, train.decay_steps, train.max_steps, train.patience) == (5, 45, 50, None)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"base": "tiny", "rows": []}, "expected base, set and rows"),
        ({"base": "tiny", "rows": [{"name": "a"}, {"name": "a"}]}, "a name of its own"),
        ({"base": "tiny", "rows": [{"name": "a", "network": "demucs"}]}, "row a has network; expected set or pretrain"),
        ({"rows": [{"name": "a"}]}, "expected base, set and rows"),
        ({"base": "tiny", "rows": [{"name": "a"}]}, "row a has no train.validation.songs"),
        (
            {"base": "tiny", "rows": [{"name": "a", "set": {"network": {"kind": "open-unmix"}}, "pretrain": 0.5}]},
            "denoise with a network of kind open-unmix",
        ),
    ],
)
def test_what_is_no_contest_is_named(tmp_path, content, text):
    path = tmp_path / "contest.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match=text):
        load_contest(path)
