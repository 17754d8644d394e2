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

from engines.pytorch import NetworkEngine
from ft.config import ConfigError, ModelConfig, Output
from ft.data.examples import Item
from ft.models.frame_transformer import tiny
from ft.separate import Separator
from ft.training.board import Board, draw_example

RATE, SAMPLES = 44100, 66150


@pytest.fixture(scope="module")
def item(example) -> Item:
    mixture, instrumental = (
        soundfile.read(example / f"{stem}.flac", dtype="float32", start=1000000, frames=SAMPLES)[0].T
        for stem in ("mixture", "instrumental")
    )
    return Item({"vocals": mixture - instrumental, "instrumental": instrumental}, 0.0, 1.0)


def read(folder) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"audio": 0, "images": 0, "scalars": 0})
    return events.Reload()


def all_of_it(config: ModelConfig) -> Separator:
    """Separates by a network whose mask keeps everything that it sees."""
    return Separator(NetworkEngine(lambda x: torch.full_like(x, 1e3), config))


def decoded(event) -> np.ndarray:
    waveform, rate = soundfile.read(io.BytesIO(event.encoded_audio_string), dtype="float32", always_2d=True)
    assert rate == RATE
    return waveform.T


def test_curves_come_back(tmp_path):
    board = Board(tmp_path, tiny())
    for step in (1, 2):
        board.scalars({"train/loss": 1 / step, "lr": 0.5}, step)
    events = read(tmp_path)  # without closing: a run is watched while it goes on
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    assert set(events.Tags()["scalars"]) == {"train/loss", "lr"}
    board.close()


def test_resumed_runs_replace_what_was_taken_again(tmp_path):
    config = tiny()
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


@pytest.mark.parametrize("of", ["stems", "rest"])
def test_sound_is_that_of_the_masked_mixture(tmp_path, item, of, monkeypatch):
    """Through a mask of ones, the kept stem is the mixture below the highest bin, and the other one what is above."""
    monkeypatch.setattr("ft.training.board.draw_example", lambda *arguments: np.zeros((8, 8, 3), np.uint8))
    config = dataclasses.replace(tiny(), output=Output("mask", of=of, above="rest" if of == "stems" else "stem"))
    board = Board(tmp_path, config)
    for step in (10, 20):
        board.examples(all_of_it(config), [item, item], step)
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
    assert np.abs(stems["true vocals"][0] - item.stems["vocals"]).max() <= step
    assert np.abs(stems["vocals"][1] + stems["instrumental"][1] - item.mixture).max() <= 2 * step
    kept, other = ("vocals", "instrumental") if of == "stems" else ("instrumental", "vocals")
    spectrum = np.abs(np.fft.rfft(stems[kept][0] * np.hanning(SAMPLES)))
    highest = 64 * SAMPLES // 1024
    assert np.sum(spectrum[:, : highest - 200] ** 2) > 1e3 * np.sum(spectrum[:, highest + 200 :] ** 2)
    assert np.std(stems[kept][0]) > 3 * np.std(stems[other][0])


def test_every_stem_is_shown(tmp_path, item):
    """Those of a model of three, beside the true ones that the data has; also what it takes for the rest."""
    config = dataclasses.replace(tiny(), stems=("drums", "vocals"), rest="others")
    board = Board(tmp_path, config)
    mask = torch.tensor([-1e3, 1e3]).reshape(1, 2, 1, 1, 1)
    network = NetworkEngine(lambda x: mask.expand(len(x), 2, *x.shape[1:]), config)
    board.examples(Separator(network), [item], 1)
    board.close()
    names = {"drums", "vocals", "others", "true mixture", "true vocals", "true instrumental"}
    assert {tag.partition("/")[2] for tag in read(tmp_path).Tags()["audio"]} == names
    (event,) = read(tmp_path).Images("example 1")
    assert event.height == 5 * 2 * 80, "mixture, true and estimated vocals, drums, and their share of the mixture"


def test_pictures_come_back(tmp_path, item):
    from PIL import Image

    board = Board(tmp_path, tiny())
    board.examples(all_of_it(tiny()), [item], 7)
    board.close()
    (event,) = read(tmp_path).Images("example 1")
    picture = np.asarray(Image.open(io.BytesIO(event.encoded_image_string)))
    assert event.step == 7
    assert picture.shape == (event.height, event.width, 3)
    assert picture.shape[0] > 500 and picture.std() > 30


def test_the_share_of_the_mixture_is_in_the_picture(item):
    """White where the stem is the mixture, black where it is silent: a panel, or its right half."""
    silent, half = np.zeros_like(item.mixture), item.mixture.copy()
    half[:, : SAMPLES // 2] = 0
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, item.mixture.shape).astype(np.float32)
    half_of_noise = noise * (half != 0)
    pictures = [
        draw_example({"mixture": noise, "stem": stem}, RATE).astype(int) for stem in (silent, half_of_noise, noise)
    ]
    none, *others = (picture[-picture.shape[0] // 3 :] for picture in pictures)
    changed = [np.argwhere(np.abs(picture - none).sum(axis=2) > 700) for picture in others]
    assert len(changed[0]) == pytest.approx(len(changed[1]) / 2, rel=0.05)
    assert changed[0][:, 1].min() == pytest.approx(changed[1][:, 1].mean(), abs=20)


def test_a_run_goes_on_without_matplotlib(tmp_path, item, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    board = Board(tmp_path, tiny())
    with caplog.at_level(logging.WARNING, "ft.training.board"):
        board.examples(all_of_it(tiny()), [item, item], 1)
        board.examples(all_of_it(tiny()), [item], 2)
    board.close()
    assert [record.message for record in caplog.records] == [
        "no pictures for TensorBoard without matplotlib: pip install 'frame-transformer[plots]'"
    ]
    assert len(read(tmp_path).Audio("example 1/vocals")) == 2


def test_missing_tensorboard_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'frame-transformer\[train\]'"):
        Board(tmp_path, tiny())
