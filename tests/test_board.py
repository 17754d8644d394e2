"""TensorBoard's own reader finds in the events what was written: curves, pictures and sound."""

from __future__ import annotations

import dataclasses
import io
import logging
import sys

import numpy as np
import pytest
import soundfile
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ft.config import ConfigError, load_model_config
from ft.data.examples import Item
from ft.training.board import Board, draw_example

RATE, SAMPLES = 44100, 66150


@pytest.fixture(scope="module")
def item(example) -> Item:
    mixture, instrumental = (
        soundfile.read(example / f"{stem}.flac", dtype="float32", start=1000000, frames=SAMPLES)[0].T
        for stem in ("mixture", "instrumental")
    )
    return Item(mixture, instrumental, 0.0, True, 1.0)


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"audio": 0, "images": 0, "scalars": 0})
    return events.Reload()


def all_of_it(mixture: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(mixture.real)


def decoded(event) -> np.ndarray:
    waveform, rate = soundfile.read(io.BytesIO(event.encoded_audio_string), dtype="float32", always_2d=True)
    assert rate == RATE
    return waveform.T


def test_curves_come_back(tmp_path):
    board = Board(tmp_path, load_model_config("tiny"))
    for step in (1, 2):
        board.scalars({"train/loss": 1 / step, "lr": 0.5}, step)
    events = read(tmp_path)  # without closing: a run is watched while it goes on
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    assert set(events.Tags()["scalars"]) == {"train/loss", "lr"}
    board.close()


def test_resumed_runs_replace_what_was_taken_again(tmp_path):
    config = load_model_config("tiny")
    for number, (first, last) in enumerate([(0, 5), (3, 6)]):
        board = Board(tmp_path, config, step=first)
        for step in range(first + 1, last + 1):
            board.scalars({"train/loss": number}, step)
        board.close()
    assert [(event.step, event.value) for event in read(tmp_path).Scalars("train/loss")] == [
        (1, 0),
        (2, 0),
        (3, 0),
        (4, 1),
        (5, 1),
        (6, 1),
    ]


@pytest.mark.parametrize("mask_stem", ["vocals", "instrumental"])
def test_sound_is_that_of_the_masked_mixture(tmp_path, item, mask_stem, monkeypatch):
    """Through a mask of ones, the kept stem is the mixture below the highest bin, and the other one what is above."""
    monkeypatch.setattr("ft.training.board.draw_example", lambda *arguments: np.zeros((8, 8, 3), np.uint8))
    config = dataclasses.replace(load_model_config("tiny"), mask_stem=mask_stem)
    board = Board(tmp_path, config)
    for step in (10, 20):
        board.examples(all_of_it, [item, item], step)
    board.close()
    events = read(tmp_path)
    names = {f"{kind}{stem}" for kind in ("", "true ") for stem in ("vocals", "instrumental")} | {"true mixture"}
    assert set(events.Tags()["audio"]) == {f"example {number}/{name}" for number in (1, 2) for name in names}
    stems = {name: [decoded(event) for event in events.Audio(f"example 2/{name}")] for name in names}
    assert {name: len(sounds) for name, sounds in stems.items()} == {
        name: 1 if name.startswith("true") else 2 for name in names
    }
    step = 1 / 32768
    assert np.abs(stems["true mixture"][0] - item.mixture).max() <= step
    assert np.abs(stems["true vocals"][0] - (item.mixture - item.instrumental)).max() <= step
    assert np.abs(stems["vocals"][1] + stems["instrumental"][1] - item.mixture).max() <= 2 * step
    other = "instrumental" if mask_stem == "vocals" else "vocals"
    spectrum = np.abs(np.fft.rfft(stems[mask_stem][0] * np.hanning(SAMPLES)))
    highest = 64 * SAMPLES // 1024
    assert np.sum(spectrum[:, : highest - 200] ** 2) > 1e3 * np.sum(spectrum[:, highest + 200 :] ** 2)
    assert np.std(stems[mask_stem][0]) > 3 * np.std(stems[other][0])


def test_pictures_come_back(tmp_path, item):
    from PIL import Image

    board = Board(tmp_path, load_model_config("tiny"))
    board.examples(all_of_it, [item], 7)
    board.close()
    (event,) = read(tmp_path).Images("example 1")
    picture = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert event.step == 7
    assert picture.shape == (event.height, event.width, 3)
    assert picture.shape[0] > 500 and picture.std() > 30


def test_the_mask_is_in_the_picture(item):
    """White where it is 1, black where it is 0: a panel for a mask of ones, its right half for one of half as many."""
    audio = load_model_config("tiny").audio
    masks = [np.zeros((audio.bins, 100), np.float32) + np.arange(100) // start for start in (100, 50)]
    masks.append(np.ones_like(masks[0]))
    none, half, full = (draw_example({"mixture": item.mixture}, mask, audio).astype(int) for mask in masks)
    changed = [np.argwhere(np.abs(picture - none).sum(axis=2) > 700) for picture in (half, full)]
    assert len(changed[0]) == pytest.approx(len(changed[1]) / 2, rel=0.02)
    assert changed[0][:, 1].min() == pytest.approx(changed[1][:, 1].mean(), abs=5)
    assert changed[1][:, 0].min() > none.shape[0] / 2, "below the mixture"


def test_a_run_goes_on_without_matplotlib(tmp_path, item, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    board = Board(tmp_path, load_model_config("tiny"))
    with caplog.at_level(logging.WARNING, "ft.training.board"):
        board.examples(all_of_it, [item, item], 1)
        board.examples(all_of_it, [item], 2)
    board.close()
    assert [record.message for record in caplog.records] == [
        "no pictures for TensorBoard without matplotlib: pip install 'frame-transformer[plots]'"
    ]
    assert len(read(tmp_path).Audio("example 1/vocals")) == 2


def test_missing_tensorboard_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'frame-transformer\[train\]'"):
        Board(tmp_path, load_model_config("tiny"))
