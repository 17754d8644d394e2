"""Stems of any number: their folders, songs as data sets lay them out, what models make of them, and runs on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from training import losses, settings, trainer

from ft.config import ModelConfig, Output, Spectrogram, Waveform
from ft.data.cache import CachedItems
from ft.data.cache_build import build_cache
from ft.data.examples import ValidationItems
from ft.data.items import mixture_items
from ft.data.scan import Scan
from ft.data.sources import data_stems, songs_from_sources
from ft.errors import DataError
from ft.settings import override
from ft.train_config import Augment, Cache, Source, Stage, TrainConfig, VoxAug

STEMS = ("drums", "bass", "other", "vocals")
SHARES = dict(zip(STEMS[:3], (0.5, 0.2, 0.3), strict=True))
FOUR = ModelConfig(stems=STEMS, rest=None, front=Spectrogram(n_fft=64, hop_length=32))
TWO = ModelConfig(front=Spectrogram(n_fft=64, hop_length=32))
PLAIN = VoxAug(0, 0, 0, 0, force=False)
FRAMES = 100


@pytest.fixture(scope="module")
def musdb(example, tmp_path_factory) -> Path:
    """Two songs in the layout of MUSDB18-HQ: cut from the example, its instrumental shared out among three stems."""
    root = tmp_path_factory.mktemp("musdb")
    sound = {name: soundfile.read(example / f"{name}.flac", dtype="float32") for name in ("instrumental", "vocals")}
    for number, song in enumerate(("A - One", "B - Two")):
        (root / song).mkdir()
        part = slice((10 + 4 * number) * 44100, (14 + 4 * number) * 44100)
        stems = {name: sound["instrumental"][0][part] * np.float32(share) for name, share in SHARES.items()}
        stems["vocals"] = sound["vocals"][0][part]
        stems["mixture"] = sum(stems.values())
        for name, waveform in stems.items():
            soundfile.write(root / song / f"{name}.wav", waveform, 44100, subtype="FLOAT")
    return root


def folders(root: Path, **stems: str) -> dict[str, tuple[Source, ...]]:
    """A source of each stem, all of them of the songs below `root`."""
    return {name: (Source(str(root), stems=(name,)),) for name in stems or STEMS}


def test_songs_of_musdb_are_read_as_four_stems_and_as_two(musdb):
    source = (Source(str(musdb)),)
    for config, wanted in ((FOUR, STEMS), (TWO, ("instrumental", "vocals"))):
        train = TrainConfig(pairs=source, voxaug=PLAIN)
        item = mixture_items(config, train).item(0, 0, FRAMES)
        assert tuple(item.stems) == data_stems(train, config) == wanted
        assert item.mixture.shape == (2, FRAMES * 32 + 32) and np.abs(item.stems["vocals"]).max() > 0
    (four, two) = (songs_from_sources(source, Scan(config)) for config in (FOUR, TWO))
    assert len(four) == len(two) == 2
    four, two = (next(ValidationItems(c, 1, songs=s).items(FRAMES)) for c, s in ((FOUR, four), (TWO, two)))
    instrumental = four.stems["drums"] + four.stems["bass"] + four.stems["other"]
    np.testing.assert_allclose(two.stems["instrumental"], instrumental, atol=1e-6)
    np.testing.assert_allclose(two.mixture, four.mixture, atol=1e-6)
    np.testing.assert_allclose(four.stems["bass"] * 1.5, four.stems["other"], atol=1e-6)


def test_a_mixture_and_its_instrumental_keep_the_mixture(tmp_path, musdb):
    """A mastered mixture is what is heard; a voice that lies beside it is not what the instrumental leaves of it."""
    song = tmp_path / "song"
    song.mkdir()
    for number, name in enumerate(("mixture", "instrumental", "vocals")):
        soundfile.write(song / f"{name}.wav", np.full((9000, 2), 0.1 * (3 - number)), 44100, subtype="FLOAT")
    item = mixture_items(TWO, TrainConfig(pairs=(Source(str(tmp_path)),), voxaug=PLAIN)).item(0, 0, FRAMES)
    assert item.mixture[0, 0] == pytest.approx(0.3) and item.stems["instrumental"][0, 0] == pytest.approx(0.2)


@pytest.mark.parametrize("lacks", [[], ["mixture"]])
def test_the_rest_of_a_model_is_what_its_stems_leave(musdb, tmp_path, lacks):
    """Also of a song without its mixture; a folder in a song's is no song."""
    (tmp_path / "song" / "solo").mkdir(parents=True)
    for name in {"mixture", *STEMS} - {*lacks}:
        (tmp_path / "song" / f"{name}.wav").write_bytes((musdb / "A - One" / f"{name}.wav").read_bytes())
    (tmp_path / "song" / "solo" / "vocals.wav").write_bytes((musdb / "A - One" / "vocals.wav").read_bytes())
    config = dataclasses.replace(FOUR, stems=("drums",), rest="all but drums")
    rest, four = (
        next(ValidationItems(each, 1, songs=songs_from_sources([Source(str(tmp_path))], Scan(each))).items(FRAMES))
        for each in (config, FOUR)
    )
    np.testing.assert_allclose(rest.stems["all but drums"], four.mixture - four.stems["drums"], atol=1e-6)


def test_each_stem_is_drawn_from_its_own_folder_at_its_own_place(write_constant):
    values = {"drums": (0.1, 0.2), "bass": (0.01, 0.02, 0.03), "vocals": (0.001, 0.002)}
    for stem, numbers in values.items():
        for number in numbers:
            root = write_constant(f"{stem}/{number}.wav", number, number).parents[1]
    sources = {stem: (Source(str(root / stem)),) for stem in values}
    config = dataclasses.replace(FOUR, stems=tuple(values))
    source = mixture_items(config, TrainConfig(stems=sources, voxaug=VoxAug(0.25, 0, 0, 0)))
    assert source.count == 2, "an epoch has every file of the first stem once"
    items = [source.item(epoch, index, 4) for epoch in range(60) for index in range(2)]
    drawn = [tuple(round(float(item.stems[stem][0, 0]), 3) for stem in values) for item in items]
    assert {row[:2] for row in drawn} == {(a, b) for a in values["drums"] for b in values["bass"]}
    assert {row[2] for row in drawn} == {0, *values["vocals"]}, "skip_vocals is for the stem of that name"
    assert all({a[0], b[0]} == {*values["drums"]} for a, b in zip(drawn[::2], drawn[1::2], strict=True))
    assert np.mean([row[2] == 0 for row in drawn]) == pytest.approx(0.25, abs=0.12)


def test_stems_are_treated_each_for_itself(musdb):
    """And songs among them: the shares of drums and bass, which are the same sound, no longer are what they were."""
    train = TrainConfig(stems=folders(musdb), pairs=(Source(str(musdb)),), voxaug=PLAIN, augment=Augment(gain=1))
    source = mixture_items(FOUR, train)
    assert source.count == 4 and tuple(source.item(0, 0, FRAMES).stems) == STEMS
    for index in range(4):
        item = source.item(0, index, FRAMES)
        levels = [np.abs(item.stems[stem]).max() / SHARES[stem] for stem in SHARES]
        assert np.ptp(np.log10(np.maximum(levels, 1e-9))) > 0.01


def test_level_is_that_of_the_voice_over_all_others(musdb):
    train = TrainConfig(stems=folders(musdb), voxaug=PLAIN, augment=Augment(level_db=-6))
    item = mixture_items(FOUR, train).item(0, 0, 2000)
    rest = item.mixture - item.stems["vocals"]
    assert 10 * np.log10(np.mean(item.stems["vocals"] ** 2) / np.mean(rest**2)) == pytest.approx(-6, abs=0.05)


def test_songs_that_cannot_give_the_stems_are_named(musdb, tmp_path):
    (tmp_path / "song").mkdir()
    for name in ("mixture", "vocals"):
        (tmp_path / "song" / f"{name}.wav").write_bytes((musdb / "A - One" / f"{name}.wav").read_bytes())
    source = (Source(str(tmp_path)),)
    assert len(songs_from_sources(source, Scan(TWO))) == 1
    with pytest.raises(DataError, match="song: no drums, and nothing to make it of; found mixture, vocals"):
        songs_from_sources(source, Scan(FOUR))


def test_peaks_of_a_network_of_waveforms_are_those_of_samples(musdb):
    config = dataclasses.replace(TWO, front=Waveform(scale="track-peak"), output=Output("waveform"))
    (song, _) = songs_from_sources([Source(str(musdb))], Scan(config), need_peak=True)
    waveform, _ = soundfile.read(musdb / "A - One" / "mixture.wav")
    assert song.peak() == pytest.approx(np.abs(waveform).max(), rel=1e-6)


def test_a_cache_holds_four_stems_and_mixes_them_anew(musdb, tmp_path):
    train = TrainConfig(
        stems=folders(musdb), voxaug=PLAIN, augment=Augment(level_db=-6), stages=(Stage(FRAMES, 1, 4, 1),)
    )
    manifest = build_cache(FOUR, train, tmp_path, 8, per_shard=8)
    assert manifest.stems == STEMS
    stored = CachedItems(FOUR, dataclasses.replace(train, cache=Cache(str(tmp_path), remix=False)))
    order = np.random.default_rng((0, 0)).permutation(8)
    for index, number in enumerate(order):
        item, made = stored.item(0, index, FRAMES), mixture_items(FOUR, train).item(0, int(number), FRAMES)
        for stem, waveform in made.stems.items():
            assert np.abs(item.stems[stem] - waveform).max() <= 0.51 * np.abs(waveform).max() / 32767
    remixed = CachedItems(FOUR, dataclasses.replace(train, cache=Cache(str(tmp_path))))
    drawn = [remixed._draw(0, index, FRAMES).numbers for index in range(8)]
    assert sorted(numbers["drums"] for numbers in drawn) == list(range(8))
    assert any(len({*numbers.values()}) == 4 for numbers in drawn)
    assert tuple(remixed.item(0, 0, FRAMES).stems) == STEMS


@pytest.fixture
def four_stems(musdb) -> dict:
    """A run of four stems on all that there is of them."""
    changes = ["model.stems=[drums, bass, other, vocals]", "model.rest=null"]
    sources = {name: [{"folder": str(musdb), "stems": [name]}] for name in STEMS}
    values = settings(musdb, *changes, instrumentals=[], vocals=[], stems=sources, pairs=[str(musdb)])
    values["train"]["validation"] = {"songs": [str(musdb / "A - One")], "pairs": [str(musdb)], "items": 1}
    return override(values, ["train.voxaug.force=false", "train.losses={complex_l1: 1, si_sdr: 0.01}"])


def test_four_stems_are_trained_resumed_and_scored(four_stems, tmp_path):
    straight = trainer(tmp_path / "straight", override(four_stems, ["train.max_steps=3"]))
    straight.run()
    trainer(tmp_path / "parts", override(four_stems, ["train.max_steps=1", "train.validation={}"])).run()
    resumed = trainer(tmp_path / "parts", override(four_stems, ["train.max_steps=3"]))
    torch.manual_seed(999)
    resumed.restore()
    resumed.run()
    assert losses(tmp_path / "parts") == losses(tmp_path / "straight") and len(losses(tmp_path / "parts")) == 3
    state = resumed.network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in straight.network.state_dict().items())
    scores = straight.validate()
    assert {*scores} == {f"valid/sdr_{stem}" for stem in STEMS} | {"valid/loss_pairs"}
    assert straight.position.best == pytest.approx(np.mean([scores[f"valid/sdr_{stem}"] for stem in STEMS]))
