"""Validation while training: songs are scored whole, and a network that breaks down never scores well."""

from __future__ import annotations

import math

import numpy as np
import pytest
import soundfile
import torch
from training import log_lines, settings, trainer

from ft.training.run_folder import BEST
from ft.training.validation import score, song_sdrs


@pytest.mark.parametrize("rate", [22050, 48000])
def test_songs_of_another_rate_are_scored_to_their_end(tmp_path, rate):
    """The length of a file counts its own samples."""
    rng, samples = np.random.default_rng(0), 2 * rate
    instrumental = 0.1 * rng.standard_normal((samples, 2))
    (tmp_path / "songs" / "one").mkdir(parents=True)
    for name, wave in (("instrumental", instrumental), ("mixture", 2 * instrumental)):
        soundfile.write(tmp_path / "songs" / "one" / f"{name}.wav", wave, rate, subtype="FLOAT")
    values = settings(tmp_path / "songs", vocals=[], instrumentals=[], pairs=[str(tmp_path / "songs")])
    values["train"] |= {"validation": {"songs": [str(tmp_path / "songs")]}, "voxaug": {"force": False}}
    run, seen = trainer(None, values), []

    def half(mixture, scale):
        seen.append(mixture.shape[3])
        return torch.full(mixture.shape, 0.5)

    (found,) = song_sdrs(half, run.data.songs, run.config, run.device)
    assert set(found) == {"vocals", "instrumental"}
    hop = run.config.audio.hop_length
    assert sum(seen) == pytest.approx(2 * 44100 / hop, abs=2), "its seconds, at the rate of the model"


def test_a_song_without_a_voice_has_no_sdr_of_it(music, tmp_path):
    """And the mean is that of the others."""
    wave, rate = soundfile.read(music / "pairs" / "song" / "instrumental.flac")
    (tmp_path / "songs" / "silent").mkdir(parents=True)
    for name in ("mixture", "instrumental"):
        soundfile.write(tmp_path / "songs" / "silent" / f"{name}.flac", wave, rate)
    both = {"songs": [str(music / "pairs"), str(tmp_path / "songs")]}
    scores = []
    for validation in (both, {"songs": [str(music / "pairs")]}):
        run = trainer(None, settings(music, validation=validation))
        scores.append(run.validation.scores(lambda x: torch.zeros_like(x), 16))
    assert scores[0]["valid/sdr_vocals"] == pytest.approx(scores[1]["valid/sdr_vocals"])
    assert scores[0]["valid/sdr_instrumental"] != pytest.approx(scores[1]["valid/sdr_instrumental"])


def test_a_loss_that_is_not_finite_makes_the_network_none_of_the_best(music, tmp_path, monkeypatch, caplog):
    """Also where only one item in the set has such a loss, and the others have better ones than before."""
    validation = {"pairs": [str(music / "pairs")], "items": 3}
    run = trainer(tmp_path, settings(music, validation=validation))
    monkeypatch.setattr("ft.training.validation.item_losses", lambda *rest: [0.5, 0.5, 0.5])
    run.validate()
    best = (tmp_path / BEST).read_bytes()
    monkeypatch.setattr("ft.training.validation.item_losses", lambda *rest: [0.1, float("nan"), 0.1])
    run.position.step = 7
    scores = run.validate()
    assert score(scores) == -math.inf and (run.position.best, run.position.stale) == (-0.5, 1)
    assert (tmp_path / BEST).read_bytes() == best
    assert log_lines(tmp_path)[-1]["valid/loss_pairs"] is None
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line == "step 7: valid/loss_pairs not finite: these weights are no better"


def test_a_mask_that_is_not_finite_is_no_silent_song(music):
    run = trainer(None, settings(music, validation={"songs": [str(music / "pairs")]}))
    scores = run.validation.scores(lambda x: torch.full_like(x, float("nan")), 16)
    assert scores["valid/sdr_vocals"] == score(scores) == -math.inf
