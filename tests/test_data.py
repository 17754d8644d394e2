"""Training data: what is drawn, how often, and what bad folders get."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from test_media import encode

from ft.audio.media import NoMedia
from ft.config import ModelConfig, Spectrogram
from ft.data.check import Root, find_tracks
from ft.data.examples import MixtureItems, ValidationItems, draw_vocals_wanted, read_crop
from ft.data.scan import Scan, audio_files
from ft.data.sources import Pool, Song, music_from_sources, pool_from_sources, songs_from_sources
from ft.errors import DataError
from ft.train_config import Augment, Source, TrainConfig, VoxAug

MODEL = ModelConfig(front=Spectrogram(n_fft=64, hop_length=32, bins=32))


def pool(*folders: Path, config: ModelConfig = MODEL, weights: tuple[float | None, ...] = ()) -> Pool:
    weights = weights or (None,) * len(folders)
    sources = [Source(str(folder), weight) for folder, weight in zip(folders, weights, strict=True)]
    return pool_from_sources(sources, Scan(config), need_peak=True)


def items(instrumentals: Pool, vocals: Pool, config: ModelConfig = MODEL, **train) -> MixtureItems:
    return MixtureItems(config, TrainConfig(**train), instrumentals, vocals)


def test_share_of_items_without_vocals():
    rng = np.random.default_rng(0)
    silent = sum(not draw_vocals_wanted(rng, VoxAug()) for _ in range(20_000)) / 20_000
    assert silent == pytest.approx(0.02 + 0.98 * 0.025, abs=0.005)


def test_channel_swap_and_mute_rates(write_constant):
    music = pool(write_constant("music/a.wav", 0.2, 0.1).parent)
    voice = pool(write_constant("voice/a.wav", 0.04, 0.02).parent)
    source = items(music, voice, voxaug=VoxAug(skip_vocals=0, drop_vocals=0))
    drawn = [source.item(0, index, frames=1) for index in range(4000)]
    swapped = np.mean([item.stems["instrumental"][0, 0] < item.stems["instrumental"][1, 0] for item in drawn])
    vocals = np.array([item.stems["vocals"][:, 0] for item in drawn])
    muted = (np.abs(vocals) < 1e-6).any(axis=1)
    own_swap = np.mean(
        [
            (voice[0] < voice[1]) != (item.stems["instrumental"][0, 0] < item.stems["instrumental"][1, 0])
            for voice, item in zip(vocals[~muted], np.array(drawn, object)[~muted], strict=True)
        ]
    )
    assert swapped == pytest.approx(0.5, abs=0.03)
    assert muted.mean() == pytest.approx(0.025, abs=0.01)
    assert own_swap == pytest.approx(0.5, abs=0.03)


def test_mixture_is_the_sum(music):
    source = items(pool(music / "instrumentals"), pool(music / "vocals"), voxaug=VoxAug(0, 0, 0, 0))
    item = source.item(0, 3, frames=200)
    assert np.abs(item.mixture - item.stems["instrumental"]).max() > 0.01
    silent = items(pool(music / "instrumentals"), pool(music / "vocals"), voxaug=VoxAug(skip_vocals=1)).item(0, 3, 200)
    assert np.array_equal(silent.mixture, silent.stems["instrumental"])


def test_item_depends_on_epoch_and_index_alone(music):
    options = Augment(
        level_db=-4, level_spread_db=3, vocal_speed=3, instrumental_speed=3, filter_db=3, reverb=1, pan=0.3
    )
    first, second = (items(pool(music / "instrumentals"), pool(music / "vocals"), augment=options) for _ in range(2))
    first.item(5, 5, 64)
    one, same, other = first.item(1, 2, 64), second.item(1, 2, 64), second.item(1, 3, 64)
    assert np.array_equal(one.mixture, same.mixture) and np.array_equal(
        one.stems["instrumental"], same.stems["instrumental"]
    )
    assert not np.array_equal(one.mixture, other.mixture)
    assert one.mixture.shape == (2, 63 * 32 + 64) and one.mixture.dtype == np.float32


def test_every_file_once_per_epoch_without_weights(write_constant):
    for number in range(5):
        write_constant(f"music/{number}.wav", number / 10, number / 10)
    folder = write_constant("voice/a.wav", 0, 0).parent
    source = items(pool(folder.parent / "music"), pool(folder))
    orders = []
    for epoch in range(2):
        seen = [round(float(source.item(epoch, index, 1).stems["instrumental"][0, 0]) * 10) for index in range(5)]
        assert sorted(seen) == [0, 1, 2, 3, 4]
        orders.append(seen)
    assert orders[0] != orders[1]


def test_weights_set_the_share_of_a_folder(write_constant):
    rare = write_constant("rare/a.wav", 0.1, 0.1).parent
    write_constant("often/a.wav", 0.2, 0.2)
    often = write_constant("often/b.wav", 0.2, 0.2).parent
    source = items(pool(rare, often, weights=(1, 3)), pool(rare))
    values = [source.item(0, index, 1).stems["instrumental"][0, 0] > 0.15 for index in range(3000)]
    assert np.mean(values) == pytest.approx(0.75, abs=0.03)


def test_mixup_blends_both_sides(write_constant):
    folder = write_constant("music/a.wav", 0.2, 0.2).parent
    write_constant("music/b.wav", 0.6, 0.6)
    source = items(pool(folder), pool(folder), voxaug=VoxAug(skip_vocals=1, mixup=1))
    values = np.array([source.item(0, index, 1).stems["instrumental"][0, 0] for index in range(300)])
    assert values.min() >= 0.2 - 1e-6 and values.max() <= 0.6 + 1e-6
    assert ((values > 0.25) & (values < 0.55)).mean() > 0.1


def test_level_is_what_was_asked_for(music):
    source = items(
        pool(music / "instrumentals"),
        pool(music / "vocals"),
        voxaug=VoxAug(0, 0, 0, 0),
        augment=Augment(level_db=-6),
    )
    item = source.item(0, 0, frames=2000)
    vocals = item.mixture - item.stems["instrumental"]
    ratio = 10 * np.log10(np.mean(vocals**2) / np.mean(item.stems["instrumental"] ** 2))
    assert ratio == pytest.approx(-6, abs=0.05)


def test_real_pairs_unless_forced(music):
    songs = music_from_sources(TrainConfig(pairs=(Source(str(music / "pairs")),)), Scan(MODEL))
    pairs = MixtureItems(MODEL, TrainConfig(voxaug=VoxAug(force=False, swap_channels=0)), songs, None)
    item = pairs.item(0, 0, frames=500)
    mixture, _ = soundfile.read(music / "pairs/song/mixture.flac", dtype="float32")
    instrumental, _ = soundfile.read(music / "pairs/song/instrumental.flac", dtype="float32")
    found = item.stems["instrumental"]
    start = next(s for s in range(len(mixture)) if np.array_equal(instrumental[s : s + 50].T, found[:, :50]))
    here = slice(start, start + found.shape[1])
    assert np.array_equal(instrumental[here].T, found)
    assert np.abs(mixture[here].T - item.mixture).max() < 1e-7
    forced = MixtureItems(MODEL, TrainConfig(voxaug=VoxAug(0, 0, 0)), songs, pool(music / "vocals"))
    item = forced.item(0, 0, frames=500)
    assert not np.array_equal(item.mixture, item.stems["instrumental"])


def test_pairs_and_instrumentals_share_the_draws_by_weight(music):
    folders = {"instrumentals": (Source(str(music / "instrumentals"), 1),), "pairs": (Source(str(music / "pairs"), 3),)}
    both = music_from_sources(TrainConfig(**folders), Scan(MODEL))
    rng = np.random.default_rng(0)
    share = np.mean([isinstance(both.draw(rng), Song) for _ in range(2000)])
    assert share == pytest.approx(0.75, abs=0.03)


def test_both_sides_of_a_pair_go_through_the_same_augmentation(music):
    """Where the vocals are silent, mixture and instrumental are equal, and stay so."""
    folder = music / "silent" / "song"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("mixture", "instrumental"):
        (folder / f"{name}.flac").write_bytes((music / "instrumentals" / "0.flac").read_bytes())
    songs = music_from_sources(TrainConfig(pairs=(Source(str(folder.parent)),)), Scan(MODEL))
    options = Augment(instrumental_speed=3, filter_db=4)
    source = MixtureItems(MODEL, TrainConfig(voxaug=VoxAug(force=False), augment=options), songs, None)
    plain = MixtureItems(MODEL, TrainConfig(voxaug=VoxAug(force=False)), songs, None)
    item = source.item(0, 1, frames=500)
    assert np.abs(item.mixture - item.stems["instrumental"]).max() < 1e-6
    assert np.abs(item.mixture - plain.item(0, 1, frames=500).mixture).max() > 1e-2


def test_validation_items_are_the_same_every_time(music):
    validation = ValidationItems(MODEL, 4, instrumentals=pool(music / "instrumentals"), vocals=pool(music / "vocals"))
    first, second = list(validation.items(64)), list(validation.items(64))
    assert all(np.array_equal(a.mixture, b.mixture) for a, b in zip(first, second, strict=True))
    assert all(np.abs(item.mixture - item.stems["instrumental"]).max() > 0 for item in first)


def test_other_rates_are_resampled(tmp_path):
    time = np.arange(48000) / 48000
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 1000 * time), 48000, subtype="FLOAT")
    (file,) = Scan(MODEL).read([tmp_path / "tone.wav"], need_peak=False)
    crop = read_crop(file, 4410, 22050, 44100, 2)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * (np.arange(22050) + 4410) / 44100)
    assert crop.shape == (2, 22050)
    assert np.abs(crop[0, 2000:-2000] - expected[2000:-2000]).max() < 1e-3
    assert np.array_equal(crop[0], crop[1])


def test_short_file_is_padded(write_constant):
    (file,) = Scan(MODEL).read([write_constant("a.wav", 0.1, 0.1, samples=10)], need_peak=False)
    crop = read_crop(file, 0, 100, 44100, 2)
    assert np.all(crop[:, :10] == np.float32(0.1)) and np.all(crop[:, 10:] == 0)


def test_peak_is_that_of_the_spectrogram_and_cached(music, tmp_path):
    config = ModelConfig()
    path = music / "instrumentals" / "0.flac"
    cache = tmp_path / "scan.json"
    (file,) = Scan(config, cache).read([path], need_peak=True)
    waveform, _ = soundfile.read(path, dtype="float32", always_2d=True)
    frames = np.lib.stride_tricks.sliding_window_view(waveform.T, 2048, axis=1)[:, ::1024]
    full = np.abs(np.fft.rfft(frames * np.hanning(2049)[:-1])).max()
    assert file.peak == pytest.approx(full, rel=0.02)
    known = json.loads(cache.read_text())
    (key,) = known
    cache.write_text(json.dumps({key: [123.0]}))
    assert Scan(config, cache).read([path], need_peak=True)[0].peak == 123.0
    other = dataclasses.replace(config, sample_rate=22050)
    assert Scan(other, cache).read([path], need_peak=True)[0].peak != 123.0


@pytest.mark.parametrize("text", ['{"half', "[]", '{"a": 1, "b": ["x"]}', "\udcff"])
def test_a_damaged_scan_is_found_out_again(text, tmp_path, write_constant):
    cache, path = tmp_path / "scan.json", write_constant("a.wav", 0.1, 0.1)
    cache.write_bytes(text.encode(errors="surrogateescape"))
    assert Scan(MODEL, cache).read([path], need_peak=True)[0].peak > 0
    assert len(json.loads(cache.read_text())) == 1


def test_bad_folders_are_named(tmp_path, music):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        audio_files(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("no audio")
    with pytest.raises(DataError, match="no audio files"):
        audio_files(tmp_path)
    (tmp_path / "broken.wav").write_bytes(b"RIFF but not really")
    (tmp_path / "empty.flac").write_bytes(b"")
    (tmp_path / "headerless.raw").write_bytes(bytes(100))
    with pytest.raises(DataError, match=r"broken\.wav.*empty\.flac.*headerless\.raw"):
        pool(tmp_path)
    song = tmp_path / "songs" / "one"
    song.mkdir(parents=True)
    soundfile.write(song / "mixture.wav", np.zeros((10, 2)), 44100)
    with pytest.raises(DataError, match="one: no vocals, and nothing to make it of; found mixture"):
        songs_from_sources([Source(str(tmp_path / "songs"))], Scan(MODEL))
    soundfile.write(song / "instrumental.wav", np.zeros((11, 2)), 44100)
    with pytest.raises(DataError, match="mixture 10 samples at 44100 Hz and instrumental 11 samples"):
        songs_from_sources([Source(str(tmp_path / "songs"))], Scan(MODEL))
    soundfile.write(song / "instrumental.wav", np.zeros((10, 2)), 48000)
    with pytest.raises(DataError, match="mixture 10 samples at 44100 Hz and instrumental 10 samples at 48000 Hz"):
        songs_from_sources([Source(str(tmp_path / "songs"))], Scan(MODEL))


@pytest.fixture
def mixed_formats(tmp_path, write_constant):
    """A folder of one FLAC and two files that FFmpeg reads, of a voice, and a song of such files."""
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 60_000)).astype(np.float32)
    (tmp_path / "music").mkdir()
    soundfile.write(tmp_path / "music/a.flac", sound.T, 48000, subtype="PCM_24")
    encode(tmp_path / "music/b.m4a", [sound], "alac", "ipod")
    encode(tmp_path / "music/c.mkv", [sound], "pcm_f32le", "matroska", video=True, late=0.3)
    for folder in ("one", "two"):
        for name in ("mixture.mka", "instrumental.m4a"):
            (tmp_path / "songs" / folder).mkdir(parents=True, exist_ok=True)
            format = "ipod" if name.endswith("m4a") else "matroska"
            encode(tmp_path / "songs" / folder / name, [sound], "alac", format)
    return tmp_path


def test_training_reads_what_separation_reads(mixed_formats):
    scan = Scan(MODEL, mixed_formats / "scan.json")
    files = scan.read(audio_files(mixed_formats / "music"), need_peak=True)
    assert [file.path.name for file in files] == ["a.flac", "b.m4a", "c.mkv"]
    assert {file.samples for file in files} == {60_000} and [file.peak for file in files[1:]] == pytest.approx(
        [files[0].peak] * 2, rel=1e-3
    )
    for start in (0, 12_345, 59_000):
        flac, *others = (read_crop(file, start, 2000, 48000, 2) for file in files)
        assert all(np.abs(crop - flac).max() < 1e-4 for crop in others)
    songs = songs_from_sources([Source(str(mixed_formats / "songs"))], scan)
    assert len(songs) == 2 and {file.samples for song in songs for file in song.files.values()} == {60_000}


def test_a_song_is_read_once_and_no_video_of_stems_or_without_sound(mixed_formats, caplog):
    music = mixed_formats / "music"
    for name in ("a.m4a", "b.stem.mp4"):
        (music / name).write_bytes((music / "b.m4a").read_bytes())
    with av.open(str(music / "d.mp4"), "w") as film:
        stream = film.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 64
        film.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        film.mux(stream.encode())
    assert [file.path.name for file in pool(music).entries] == ["a.flac", "b.m4a", "c.mkv"]
    assert "music: 2 files left out" in caplog.text and "1 videos left out, which hold no sound" in caplog.text


def test_what_is_there_of_a_truncated_file_is_taken(tmp_path):
    path = tmp_path / "music" / "a.wav"
    path.parent.mkdir()
    soundfile.write(path, np.full((10_000, 2), 0.25, np.float32), 44100, subtype="FLOAT")
    path.write_bytes(path.read_bytes()[:40_000])
    (file,) = pool(path.parent).entries
    assert 4000 < file.samples < 5000
    assert np.abs(read_crop(file, file.samples - 100, 100, 44100, 2)).min() > 0.2


def test_what_only_pyav_reads_is_left_out_aloud_without_it(mixed_formats, monkeypatch, caplog):
    def missing() -> None:
        raise NoMedia("PyAV is missing: pip install it")

    monkeypatch.setattr("ft.data.scan.import_av", missing)
    assert [file.path.name for file in pool(mixed_formats / "music").entries] == ["a.flac"]
    assert "music: 2 of 3 files left out: PyAV is missing: pip install it" in caplog.text
    with pytest.raises(DataError, match=r"no audio files in it;.*\. 4 of 4 files left out: PyAV is missing"):
        songs_from_sources([Source(str(mixed_formats / "songs"))], Scan(MODEL))
    report = find_tracks([Root(mixed_formats / "music")])
    assert [path.name for path in report.ignored] == ["b.m4a", "c.mkv"]


def test_file_that_vanishes_is_named(write_constant):
    path = write_constant("a/a.wav", 0.1, 0.1)
    source = items(pool(path.parent), pool(path.parent))
    path.unlink()
    with pytest.raises(DataError, match=r"a\.wav: can no longer be read"):
        source.item(0, 0, 4)


def test_augmentation_is_off_by_default():
    options = Augment()
    sizes = {"gain_db", "pitch_semitones", "tempo_percent", "equaliser_db", "clip_db"}
    sizes |= {"choir_voices", "choir_cents", "choir_ms"}
    assert not any(value for name, value in vars(options).items() if name not in sizes)
    assert {name for name, value in vars(options).items() if value} == sizes
    assert dataclasses.asdict(VoxAug())["mixup"] == 0


def test_linked_folders_are_searched_once(tmp_path, write_constant):
    write_constant("disk/far.wav", 0.1, 0.1)
    write_constant("music/near.wav", 0.1, 0.1)
    (tmp_path / "music/more").symlink_to(tmp_path / "disk")
    (tmp_path / "disk/back").symlink_to(tmp_path / "music")
    assert [path.name for path in audio_files(tmp_path / "music")] == ["far.wav", "near.wav"]


def test_peaks_are_kept_where_another_file_is_bad(tmp_path, write_constant):
    good = write_constant("a.wav", 0.5, 0.5)
    (tmp_path / "z.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"z\.wav"):
        Scan(MODEL, tmp_path / "scan.json").read([good, tmp_path / "z.wav"], need_peak=True)
    assert len(Scan(MODEL, tmp_path / "scan.json").known) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names of any bytes")
def test_a_name_that_is_no_text_is_a_name(tmp_path, write_constant):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.wav"))
    write_constant("plain.wav", 0.5, 0.25).rename(path)
    (file,) = Scan(MODEL).read([path], need_peak=True)
    assert file.samples == 4096 and file.peak > 0
    assert read_crop(file, 0, 100, 44100, 2)[:, 50] == pytest.approx([0.5, 0.25])
