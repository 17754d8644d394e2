"""The shipped model: what the package promises of it. Its score over a whole song stands in its card."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.rows import model_inputs
from engines import load_engine
from export.gate import signal_to_noise
from ft.checkpoint import load_config
from ft.config import load_model_config
from ft.evaluation.songs import read_song
from ft.files import FP32_MODEL, INT8_MODEL
from ft.info import describe_model
from ft.metrics import sdr
from ft.models import completed
from ft.separate import Separator

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "ft" / "assets" / "default.onnx"
LARGEST_BYTES = 40_000_000


def test_size_licence_and_configuration():
    assert MODEL.stat().st_size <= LARGEST_BYTES
    facts = describe_model("default")
    assert facts["license"] == "MIT"
    assert facts["parameters"] == describe_model("small")["parameters"]
    assert load_config("default") == completed(load_model_config("small"))


@pytest.fixture(scope="module")
def separated(example) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    song = read_song(example)
    with Separator() as separator:
        return {"mixture": song.mixture, **song.stems}, separator.separate(song.mixture, song.sample_rate)


def test_the_int8_file_passed_its_gate():
    gate = describe_model(INT8_MODEL)["gate"]
    assert gate["mask_snr_db"] >= gate["mask_snr_limit_db"] == 25
    assert gate["sdr_loss_db"] <= gate["sdr_loss_limit_db"] == 0.2
    with load_engine(INT8_MODEL, device="cpu") as engine, load_engine(FP32_MODEL, device="cpu") as exact:
        assert (engine.describe().precision, exact.describe().precision) == ("int8", "fp32 (fp16 weights)")
        assert engine.describe().config == exact.describe().config
        batch = {"magnitude": model_inputs(engine.describe().config, 1, 259)}
        assert signal_to_noise(engine.run(batch), exact.run(batch)) > 35


def test_it_separates_the_example(separated):
    """Better than silence (0 dB), than the mixture (-4.8) and than the best constant mask (1.2) by a clear margin."""
    song, stems = separated
    assert sdr(stems["vocals"], song["vocals"]) > 2.0
    assert sdr(stems["instrumental"], song["instrumental"]) > 6.8


def test_stems_sum_to_the_mixture(separated):
    song, stems = separated
    assert np.abs(stems["vocals"] + stems["instrumental"] - song["mixture"]).max() < 1e-6


def test_a_song_in_mono_loses_little_against_the_middle_of_its_stereo_estimate(separated, example):
    """Less than 0.4 dB here; with a silent side it is 0.8, and up to 2.4 for other songs."""
    song, stems = separated
    mono = {name: sound.mean(axis=0, keepdims=True) for name, sound in song.items()}
    with Separator() as separator:
        alone = separator.separate(mono["mixture"], read_song(example).sample_rate)["vocals"]
    middle = stems["vocals"].mean(axis=0, keepdims=True)
    assert sdr(alone, mono["vocals"]) > sdr(middle, mono["vocals"]) - 0.4


def test_card_names_every_source_of_the_training_data():
    import yaml

    card = (MODEL.parent / "MODEL_CARD.md").read_text(encoding="utf-8")
    sources = yaml.safe_load((ROOT / "ft" / "library" / "sources.yaml").read_text(encoding="utf-8"))
    recipe = (ROOT / "ft" / "presets" / "small.yaml").read_text(encoding="utf-8")
    used = [package["name"] for package in sources["packages"] if f"library/{package['folder']}," in recipe]
    assert len(used) >= 7 and all(name in card for name in used)
    for word in ("CC0", "CC BY", "GPL", "caesium", "cannot"):
        assert word in card


def test_demonstration_runs(tmp_path):
    command = [sys.executable, "-m", "bench.demo"]
    environment = {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for name in ("vocals.wav", "instrumental.wav", "spectrograms.png"):
        (file,) = (tmp_path / "separated").rglob(name)
        assert str(file.relative_to(tmp_path)) in result.stdout
    assert re.search(r"times real time \(onnxruntime, .+, .+\)\n", result.stdout) and result.stdout.count("SDR of") == 2
    assert {path.name for path in tmp_path.iterdir()} == {"separated"}
