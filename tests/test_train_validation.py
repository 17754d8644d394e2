"""Validation while training: songs are scored whole, and a network that breaks down never scores well."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from training import CPU, log_lines, settings, trainer

from ft.audio.open import read_audio
from ft.checkpoint import save_checkpoint
from ft.config import model_config_from_yaml
from ft.metrics import sdr
from ft.separate import Separator
from ft.settings import load_yaml, override
from ft.training.distributed import Group
from ft.training.run_folder import BEST
from ft.training.validation import Validation, score, song_sdrs


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

    class Halves:
        config = run.config

        def separate(self, mixture, sample_rate):
            seen.append((mixture.shape[1], sample_rate))
            return dict.fromkeys(self.config.all_stems, mixture / 2)

    assert song_sdrs(Halves(), run.data.songs[0]).keys() == {"vocals", "instrumental"}
    assert seen == [(2 * 44100, 44100)], "its seconds, at the rate of the model"


def test_what_is_scored_is_what_is_separated_later(music, tmp_path):
    """Also of a mask of the instrumental that does not reach to the top, of middle and side."""
    changes = ["output.of=rest", "front.bins=32", "front.stereo=mid-side", "front.scale=track-peak"]
    run = trainer(None, settings(music, *changes, validation={"songs": [str(music / "pairs")]}))
    scores = run.validation.scores(run.network.eval(), 16)
    save_checkpoint(tmp_path / "model.safetensors", run.network.state_dict(), run.config)
    mixture, true = (read_audio(music / "pairs" / "song" / f"{name}.flac")[0] for name in ("mixture", "instrumental"))
    with Separator(tmp_path / "model.safetensors") as separator:
        stems = separator.separate(mixture, 44100)
    assert scores["valid/sdr_instrumental"] == pytest.approx(sdr(stems["instrumental"], true), abs=1e-3)
    assert scores["valid/sdr_vocals"] == pytest.approx(sdr(stems["vocals"], mixture - true), abs=1e-3)


def test_the_best_is_best_in_the_stems_of_the_model(music):
    scores = {"valid/sdr_drums": 3.0, "valid/sdr_vocals": 5.0, "valid/sdr_others": 9.0, "valid/loss_pairs": 1.0}
    for stems, rest, wanted in (
        (["drums", "vocals"], "others", 4),
        (["instrumental"], "vocals", 5),
        (["bass"], "x", -1),
    ):
        changes = [f"model.stems={stems}", f"model.rest={rest}"]
        config = model_config_from_yaml(override(load_yaml("tiny"), changes), "test")
        validation = Validation(
            SimpleNamespace(songs=[]), SimpleNamespace(separates=True), config, Group(CPU), None, False
        )
        assert score(scores, validation.stems) == wanted


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
    assert score(scores, ["vocals"]) == -math.inf and (run.position.best, run.position.stale) == (-0.5, 1)
    assert (tmp_path / BEST).read_bytes() == best
    assert log_lines(tmp_path)[-1]["valid/loss_pairs"] is None
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line == "step 7: valid/loss_pairs not finite: these weights are no better"


def test_a_mask_that_is_not_finite_is_no_silent_song(music):
    run = trainer(None, settings(music, validation={"songs": [str(music / "pairs")]}))
    scores = run.validation.scores(lambda x: torch.full_like(x, float("nan")), 16)
    assert scores["valid/sdr_vocals"] == score(scores, ["vocals"]) == -math.inf
