"""The scripts that score whole songs and draw training curves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench import curve, song
from ft.config import load_model_config
from ft.errors import AudioError
from ft.metrics import sdr


def test_ideal_mask_is_the_ceiling_and_keeps_the_sum(example):
    stems, rate = song.read_song(example)
    ideal = song.ideal_ratio_mask(stems, load_model_config("base"))
    assert rate == 44100
    assert 6 < sdr(ideal["vocals"], stems["vocals"]) < 14
    assert abs(ideal["vocals"] + ideal["instrumental"] - stems["mixture"]).max() < 1e-6
    assert sdr(stems["mixture"], stems["vocals"]) == pytest.approx(-4.8, abs=0.1)


def test_missing_stem_is_named(tmp_path, example):
    (tmp_path / "mixture.flac").write_bytes((example / "mixture.flac").read_bytes())
    with pytest.raises(AudioError, match=r"no vocals\.\*"):
        song.read_song(tmp_path)


def test_curve_is_drawn_from_the_log(tmp_path: Path):
    lines = [{"step": step, "train/loss": 1 / step, "lr": 1e-3} for step in range(1, 5)]
    lines += [{"step": 2, "valid/sdr_vocals": 1.5}, {"step": 4, "valid/sdr_vocals": 1.25}]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)))
    assert curve.read_log(log)["valid/sdr_vocals"] == [(2, 1.5), (4, 1.25)]
    result = CliRunner().invoke(curve.main, [str(log), "-o", str(tmp_path / "curve.png")])
    assert result.exit_code == 0, result.output
    assert "best 1.50 dB at step 2, last 1.25 dB at step 4" in result.output
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
