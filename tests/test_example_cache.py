"""The cache of finished examples: equal to those made directly, mixed anew, whole or not at all."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from ft.config import ModelConfig, Spectrogram
from ft.data import cache_build
from ft.data.cache import CachedItems, read_cache_manifest, shard_path
from ft.data.cache_build import build_cache
from ft.data.items import mixture_items, open_batches, open_items
from ft.data.loading import Batching
from ft.errors import AudioError, ConfigError, DataError
from ft.train_config import Augment, Cache, Source, Stage, TrainConfig, VoxAug

MODEL = ModelConfig(front=Spectrogram(n_fft=64, hop_length=32, bins=32))
FRAMES = 100
PER_SHARD = 8
COUNT = 24


@pytest.fixture(scope="module")
def train(music) -> TrainConfig:
    return TrainConfig(
        instrumentals=(Source(str(music / "instrumentals")),),
        vocals=(Source(str(music / "vocals")),),
        augment=Augment(level_db=-6, level_spread_db=6, vocal_speed=2, filter_db=2, pan=0.3),
        voxaug=VoxAug(skip_vocals=0.2),
        stages=(Stage(FRAMES, 1, 4, 1),),
        seed=3,
    )


@pytest.fixture(scope="module")
def made(train, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    build_cache(MODEL, train, folder, COUNT, per_shard=PER_SHARD)
    return folder


@pytest.fixture
def cache(made, tmp_path) -> Path:
    """A copy that a test may damage."""
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def opened(folder: Path, train: TrainConfig, **settings) -> CachedItems:
    return CachedItems(MODEL, dataclasses.replace(train, cache=Cache(str(folder), **settings)))


def test_example_equals_the_one_made_directly(made, train):
    cached, direct = opened(made, train, remix=False), mixture_items(MODEL, train)
    order = np.random.default_rng((train.seed, 5)).permutation(COUNT)
    for index in range(COUNT):
        item, expected = cached.item(5, index, FRAMES), direct.item(0, int(order[index]), FRAMES)
        assert list(item.stems) == ["instrumental", "vocals"] == list(expected.stems)
        for stem, wanted in expected.stems.items():
            assert item.stems[stem].dtype == np.float32
            assert np.abs(item.stems[stem] - wanted).max() <= 0.51 * np.abs(wanted).max() / 32767
        assert item.peak == pytest.approx(expected.peak)
        assert item.headroom == pytest.approx(expected.headroom)


def test_examples_are_mixed_anew_and_depend_on_seed_epoch_and_index_alone(made, train):
    items, again = opened(made, train), opened(made, train)
    stored = opened(made, train, remix=False)
    order = np.random.default_rng((train.seed, 0)).permutation(COUNT)
    back = {int(number): index for index, number in enumerate(order)}
    again.item(7, 3, FRAMES)
    seen = set()
    for index in range(COUNT):
        item, same = items.item(1, index, FRAMES), again.item(1, index, FRAMES)
        assert all(np.array_equal(item.stems[stem], same.stems[stem]) for stem in item.stems)
        drawn = items._draw(1, index, FRAMES)
        number = drawn.numbers["instrumental"]
        source = stored.item(0, back[number], FRAMES).stems["instrumental"]
        assert np.array_equal(item.stems["instrumental"], source[::-1] if "instrumental" in drawn.swaps else source)
        other = stored.item(0, back[drawn.numbers["vocals"]], FRAMES)
        assert item.stems["vocals"].any() == other.stems["vocals"].any()
        seen.add(number)
    assert seen == set(range(COUNT))  # each instrumental once in an epoch
    assert not np.array_equal(items.item(2, 0, FRAMES).mixture, items.item(1, 0, FRAMES).mixture)


def test_levels_and_the_share_without_vocals_stay_those_of_the_configuration(made, train):
    items, stored = opened(made, train), opened(made, train, remix=False)

    def levels(source: CachedItems, epochs: int) -> np.ndarray:
        found = []
        for epoch in range(epochs):
            for index in range(COUNT):
                item = source.item(epoch, index, FRAMES)
                vocals, music = (np.sum(item.stems[stem] ** 2) for stem in ("vocals", "instrumental"))
                found.append(10 * np.log10(vocals / music) if vocals and music else np.nan)
        return np.array(found)

    remixed, original = levels(items, 30), levels(stored, 1)
    assert np.mean(np.isnan(remixed)) == pytest.approx(np.mean(np.isnan(original)), abs=0.06)
    assert np.nanmedian(remixed) == pytest.approx(np.nanmedian(original), abs=1.5)
    assert np.nanstd(remixed) == pytest.approx(np.nanstd(original), rel=0.25)


def test_a_voice_is_no_louder_for_its_pauses(train, tmp_path):
    """Voices of one level with pauses of any length: mixed anew, their loudest moments stay where they were."""
    sources = {"instrumentals": tmp_path / "music", "vocals": tmp_path / "voices"}
    for name, folder in sources.items():
        folder.mkdir()
        noise = np.random.default_rng(len(name)).uniform(-0.2, 0.2, (2 * 44100, 2))
        soundfile.write(folder / "a.wav", noise, 44100, subtype="FLOAT")
    options = {name: (Source(str(folder)),) for name, folder in sources.items()}
    voxaug = VoxAug(skip_vocals=0, drop_vocals=0, mute_channel=0)
    paused = dataclasses.replace(train, **options, augment=Augment(level_db=-6, pause=0.7), voxaug=voxaug)
    frames = 20 * FRAMES  # against which a pause is faded in and out soon
    paused = dataclasses.replace(paused, stages=(Stage(frames, 1, 4, 1),))
    build_cache(MODEL, paused, tmp_path / "cache", COUNT, per_shard=PER_SHARD)
    items = opened(tmp_path / "cache", paused)
    peaks, shares = [], []
    for index in range(COUNT):
        item = items.item(0, index, frames)
        voice = item.stems["vocals"]
        if np.abs(voice).max() > 0:
            peaks.append(20 * np.log10(np.abs(voice).max() / np.abs(item.stems["instrumental"]).max()))
            shares.append(np.mean(np.abs(voice) > 1e-6))
    assert min(shares) < 0.5 < max(shares)
    assert np.ptp(peaks) < 2.5 and np.mean(peaks) == pytest.approx(-6, abs=1)


@pytest.mark.parametrize("remix", [True, False])
def test_examples_are_mono_when_they_are_taken(made, train, remix, tmp_path):
    """Whole mixtures of them, of a cache that knows nothing of it."""
    mono = dataclasses.replace(train, augment=dataclasses.replace(train.augment, mono=0.5))
    stereo, items = opened(made, train, remix=remix), opened(made, mono, remix=remix)
    folded = 0
    for index in range(COUNT):
        item, plain = items.item(1, index, FRAMES), stereo.item(1, index, FRAMES)
        is_mono = not np.array_equal(item.mixture, plain.mixture)
        folded += is_mono
        for name, wanted in plain.stems.items():
            assert np.array_equal(item.stems[name], np.stack([wanted.mean(axis=0)] * 2) if is_mono else wanted)
    assert COUNT / 4 < folded < 3 * COUNT / 4
    again = build_cache(MODEL, mono, tmp_path, PER_SHARD, per_shard=PER_SHARD)
    assert again.made_from == stereo.manifest.made_from
    assert shard_path(tmp_path, 0).read_bytes() == shard_path(made, 0).read_bytes()


def test_what_marks_both_parts_is_not_mixed_anew(made, train):
    for name in ("compress", "clip", "mixture_codec"):
        marked = dataclasses.replace(train, augment=dataclasses.replace(train.augment, **{name: 0.5}))
        with pytest.raises(ConfigError, match=rf"train\.augment\.{name} with train\.cache.*remix: false"):
            opened(made, marked)
        with pytest.raises(ConfigError, match="another configuration"):  # that is, nothing else is wrong with it
            opened(made, marked, remix=False)


def test_batches_come_in_order_and_errors_in_their_turn(cache, train):
    items = opened(cache, train)
    batches = list(open_batches(items, Batching(4, FRAMES), 0, range(1, 4), workers=2))
    assert len(batches) == 3
    for number, batch in enumerate(batches, 1):
        for row in range(4):
            assert np.array_equal(batch.mixture[row], items.item(0, number * 4 + row, FRAMES).mixture)
    shares = [list(open_batches(items, Batching(2, FRAMES, rank, size=2), 0, range(2), workers=1)) for rank in (0, 1)]
    assert np.array_equal(shares[1][1].mixture[0], items.item(0, 6, FRAMES).mixture)
    assert np.array_equal(shares[0][1].mixture[0], items.item(0, 4, FRAMES).mixture)
    for path in cache.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(DataError, match=r"safetensors: can no longer be read"):
        next(iter(open_batches(items, Batching(4, FRAMES), 0, range(4), 1)))


def test_shorter_stages_cut_and_longer_ones_are_refused(made, train):
    short = dataclasses.replace(train, stages=(Stage(20, 1, 4, 1),))
    item = opened(made, short).item(0, 0, 20)
    assert item.mixture.shape == (2, 19 * 32 + 64)
    long = dataclasses.replace(train, stages=(Stage(FRAMES + 1, 1, 4, 1),))
    with pytest.raises(ConfigError, match="a stage of 101 frames"):
        opened(made, long)


def test_another_configuration_is_refused(made, train, music):
    other = dataclasses.replace(train, augment=dataclasses.replace(train.augment, pan=0.0))
    with pytest.raises(ConfigError, match=r"train\.augment\.pan is 0\.3 there and 0\.0 here"):
        opened(made, other)
    with pytest.raises(DataError, match=r"holds a cache of another configuration: train\.augment\.pan"):
        build_cache(MODEL, other, made, COUNT, per_shard=PER_SHARD)
    with pytest.raises(ConfigError, match=r"train\.instrumentals"):
        opened(made, dataclasses.replace(train, instrumentals=(Source(str(music / "pairs")),)))
    # What does not decide what examples are may differ.
    assert opened(made, dataclasses.replace(train, seed=9, learning_rate=1e-3)).count == COUNT


def test_truncated_missing_and_foreign_shards_are_refused_and_mended(cache, train):
    path = shard_path(cache, 1)
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    with pytest.raises(DataError, match=r"00001\.safetensors: truncated or damaged"):
        opened(cache, train)
    path.write_bytes(shard_path(cache, 0).read_bytes().replace(b'"ft_cache":"', b'"ft_cache":"f', 1))
    with pytest.raises(DataError, match=r"00001\.safetensors"):
        opened(cache, train)
    path.unlink()
    with pytest.raises(DataError, match=r"00001\.safetensors: missing; the cache is not whole"):
        opened(cache, train)
    untouched = shard_path(cache, 0).stat().st_mtime_ns
    build_cache(MODEL, train, cache, COUNT, per_shard=PER_SHARD)
    assert path.read_bytes() == data
    assert shard_path(cache, 0).stat().st_mtime_ns == untouched


def test_damaged_sound_is_named_when_it_is_read_and_mended(cache, train):
    items = opened(cache, train, remix=False)
    path = shard_path(cache, 2)
    data = bytearray(path.read_bytes())
    data[items.shards[2].offsets["instrumental"] + 1000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"00002\.safetensors: damaged in example 0"):
        for index in range(COUNT):
            items.item(0, index, FRAMES)
    build_cache(MODEL, train, cache, COUNT, per_shard=PER_SHARD)
    for index in range(COUNT):
        items.item(0, index, FRAMES)


def test_interrupted_and_growing_caches_hold_what_one_run_makes(made, train, tmp_path, monkeypatch):
    write, done = cache_build._write_shard, []

    def stop_after_two(*arguments):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(write(*arguments))

    monkeypatch.setattr(cache_build, "_write_shard", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        build_cache(MODEL, train, tmp_path, COUNT, per_shard=PER_SHARD)
    monkeypatch.undo()
    with pytest.raises(DataError, match="missing"):
        opened(tmp_path, train)
    build_cache(MODEL, train, tmp_path, PER_SHARD, per_shard=PER_SHARD)  # fewer are asked for than it is to have
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in made.iterdir())
    assert all(path.read_bytes() == (made / path.name).read_bytes() for path in tmp_path.iterdir())
    done.clear()
    monkeypatch.setattr(cache_build, "_write_shard", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        build_cache(MODEL, train, tmp_path, 3 * COUNT, per_shard=PER_SHARD)
    monkeypatch.undo()
    assert opened(tmp_path, train).count == COUNT  # as it was, until it has grown
    build_cache(MODEL, dataclasses.replace(train, seed=8), tmp_path, COUNT + 1, per_shard=PER_SHARD)
    assert read_cache_manifest(tmp_path).examples == COUNT + PER_SHARD
    direct = mixture_items(MODEL, train)
    grown = opened(tmp_path, train, remix=False)
    order = np.random.default_rng((train.seed, 0)).permutation(grown.count)
    expected = direct.item(0, COUNT + 3, FRAMES).stems["instrumental"]
    found = grown.item(0, list(order).index(COUNT + 3), FRAMES).stems["instrumental"]
    assert np.abs(found - expected).max() < 1e-4


def test_processes_make_the_same_shards(made, train, tmp_path):
    build_cache(MODEL, train, tmp_path, COUNT, per_shard=PER_SHARD, jobs=2)
    assert all(path.read_bytes() == (made / path.name).read_bytes() for path in tmp_path.glob("*.safetensors"))
    assert len(list(tmp_path.glob("*.safetensors"))) == COUNT // PER_SHARD


def test_full_disks_and_second_runs_are_named(train, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"GB are needed and .* free"):
        build_cache(MODEL, train, tmp_path, 10**7, seconds=60)
    assert not list(tmp_path.glob("*.safetensors"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(DataError, match="cannot be written: No space left"):
        build_cache(MODEL, train, tmp_path, COUNT, per_shard=PER_SHARD)
    assert not list(tmp_path.glob("*.safetensors*"))

    def second(*_):
        build_cache(MODEL, train, tmp_path, COUNT, per_shard=PER_SHARD)

    monkeypatch.setattr(cache_build, "_write_shard", second)
    with pytest.raises(AudioError, match="another run is writing it"):
        build_cache(MODEL, train, tmp_path, COUNT, per_shard=PER_SHARD)
    monkeypatch.undo()
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=1000))
    for count in (COUNT, 1):  # a cache that was begun does not shrink
        with pytest.raises(DataError, match=f"has {COUNT} examples to get: make room, or choose another -o"):
            build_cache(MODEL, train, tmp_path, count, per_shard=PER_SHARD)
    with pytest.raises(DataError, match="ask for fewer `examples`"):
        build_cache(MODEL, train, tmp_path, 10 * COUNT, per_shard=PER_SHARD)


def test_folders_without_a_cache_are_named(train, tmp_path):
    with pytest.raises(DataError, match="no cache in it"):
        open_items(MODEL, dataclasses.replace(train, cache=Cache(str(tmp_path))))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(
        DataError, match="format None, expected 2; remove it and make it with: ft data prepare cache CONFIG -o"
    ):
        opened(tmp_path, train)
    (tmp_path / "manifest.json").write_text("[")
    with pytest.raises(DataError, match="not the manifest"):
        opened(tmp_path, train)


def test_command_makes_what_training_takes(music, tmp_path):
    from click.testing import CliRunner

    from ft.cli import main
    from ft.config import model_config_from_yaml
    from ft.settings import load_yaml, override
    from ft.train_config import train_config_from_yaml

    words = [f"train.instrumentals={music / 'instrumentals'}", f"train.vocals={music / 'vocals'}"]
    words += ["train.stages=[{frames: 8, last_epoch: 1, batch_size: 2, accumulation: 1}]"]
    command = ["data", "prepare", "cache", "tiny", "-o", str(tmp_path / "cache"), "--examples", "3"]
    result = CliRunner().invoke(main, [*command, *(part for word in words for part in ("--set", word))])
    assert result.exit_code == 0, result.output
    assert "64 examples of 0.10 s" in result.output
    values = override(load_yaml("tiny"), [*words, f"train.cache={tmp_path / 'cache'}"])
    items = open_items(model_config_from_yaml(values, "tiny"), train_config_from_yaml(values, "tiny"))
    assert isinstance(items, CachedItems) and items.count == 64
