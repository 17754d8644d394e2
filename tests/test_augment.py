"""The augmentation of parts and mixtures: it does what it says, keeps the sum, and draws nothing where it is off."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import soundfile

from ft.config import ModelConfig, Spectrogram
from ft.data import augment
from ft.data.augment_codec import CODECS, through_codec, through_random_codec
from ft.data.augment_dynamics import compressor_gain, soft_clip_gain
from ft.data.augment_filters import biquad_response, equalise
from ft.data.augment_parts import Parts, Stretch, mixed, stretch
from ft.data.examples import MixtureItems
from ft.data.scan import Scan
from ft.data.sources import Remix, music_from_sources, pool_from_sources
from ft.errors import ConfigError, DataError
from ft.settings import load_yaml
from ft.train_config import Augment, Source, TrainConfig, VoxAug, train_config_from_yaml

RATE = 44100
MODEL = ModelConfig(front=Spectrogram(n_fft=64, hop_length=32, bins=32))
ALL = Augment(**dict.fromkeys(Augment().probabilities, 1.0))


@pytest.fixture(scope="module")
def song(example) -> np.ndarray:
    """Three seconds of the example's mixture (channels, samples)."""
    waveform, _ = soundfile.read(example / "mixture.flac", start=5 * RATE, frames=3 * RATE, dtype="float32")
    return np.ascontiguousarray(waveform.T)


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    time = np.arange(int(RATE * seconds)) / RATE
    return np.tile((0.5 * np.sin(2 * np.pi * hz * time)).astype(np.float32), (2, 1))


def pitch(waveform: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(waveform[0] * np.hanning(waveform.shape[1]), 1 << 18))
    return float(spectrum.argmax()) * RATE / (1 << 18)


def delay(late: np.ndarray, early: np.ndarray) -> int:
    """Samples by which the first channel of one comes behind that of the other."""
    size = 2 * early.shape[1]
    cross = np.fft.irfft(np.fft.rfft(late[0], size) * np.conj(np.fft.rfft(early[0], size)))
    found = int(cross.argmax())
    return found if found < size // 2 else found - size


def items(music, options: Augment, **train) -> MixtureItems:
    scan = Scan(MODEL)
    pools = [pool_from_sources([Source(str(music / name))], scan) for name in ("instrumentals", "vocals")]
    return MixtureItems(MODEL, TrainConfig(augment=options, **train), *pools)


@pytest.mark.parametrize("semitones", [-4, 0, 3])
def test_speed_moves_the_pitch(semitones):
    factor = 2 ** (semitones / 12)
    changed = augment.change_speed(tone(440, 2.0), factor, RATE)
    assert changed.shape == (2, RATE) and changed.dtype == np.float32
    assert pitch(changed) == pytest.approx(440 * factor, rel=2e-3)


def test_filter_of_no_spread_changes_nothing():
    noise = np.random.default_rng(0).standard_normal((2, 5000)).astype(np.float32)
    same = augment.random_filter(np.random.default_rng(1), noise, 0.0, RATE)
    assert np.abs(same - noise).max() < 1e-5
    changed = augment.random_filter(np.random.default_rng(1), noise, 6.0, RATE)
    assert np.abs(changed - noise).max() > 0.1 and np.isfinite(changed).all()


def test_reverb_adds_a_tail_that_starts_later():
    click = np.zeros((2, RATE), np.float32)
    click[:, 100] = 1
    wet = augment.reverberate(np.random.default_rng(0), click, RATE)
    assert np.array_equal(wet[:, :100], click[:, :100]) or np.abs(wet[:, :100]).max() < 1e-4
    assert wet[0, 100] == pytest.approx(1, abs=0.3)
    assert augment.rms(wet[:, 2000:10000]) > augment.rms(wet[:, 30000:40000]) > 0


def test_pan_keeps_the_louder_side():
    for seed in range(20):
        moved = augment.pan(np.random.default_rng(seed), tone(100), 0.5)
        peaks = np.abs(moved).max(axis=1)
        assert peaks.max() == pytest.approx(0.5, abs=1e-3) and peaks.min() + 1e-3 >= 0.25


def test_a_widened_voice_keeps_its_middle_and_gets_a_side():
    mono = np.tile(np.random.default_rng(0).standard_normal(RATE).astype(np.float32), (2, 1))
    for seed in range(5):
        wide = augment.widen(np.random.default_rng(seed), mono, RATE)
        np.testing.assert_allclose(wide.mean(axis=0), mono[0], atol=1e-6)
        side = augment.rms(wide[0] - wide[1]) / augment.rms(wide[0] + wide[1])
        assert 10 ** (-21 / 20) < side < 1.05
    assert np.array_equal(augment.widen(np.random.default_rng(0), mono[:1], RATE), mono[:1])


def test_a_pause_is_silent_inside_and_whole_outside():
    shares = []
    for seed in range(30):
        gain = augment.pause(np.random.default_rng(seed), np.ones((2, 3 * RATE), np.float32), RATE)[0]
        assert gain.min() >= 0 and gain.max() <= 1
        assert np.abs(np.diff(gain)).max() < 2 / (augment.PAUSE_FADE_SECONDS * RATE)
        shares.append(np.mean(gain == 0))
    assert 0.2 < np.mean(shares) < 0.6 and max(shares) <= 0.8


@pytest.mark.parametrize("samples", [1, 2, 3, 1000, 132096, 131072])
def test_fast_size_holds_the_samples(samples):
    size = augment.fast_size(samples)
    assert size >= samples and size < 2 * samples + 2


def test_pitch_and_tempo_are_independent():
    higher = stretch(tone(440, 2), Stretch(semitones=4), 2 * RATE, RATE)
    assert higher.shape == (2, 2 * RATE) and pitch(higher) == pytest.approx(440 * 2 ** (4 / 12), rel=5e-3)
    beats = np.zeros((2, 4 * RATE), np.float32)
    beats[:, RATE // 2 :: RATE] = 1  # one a second
    faster = stretch(beats, Stretch(tempo=1.25), 3 * RATE, RATE)
    loud = np.abs(faster[0]).reshape(-1, RATE // 20).max(axis=1)
    first, second = np.nonzero(loud > 0.3 * loud.max())[0][[0, -1]] / 20
    assert (second - first) * 1.25 == pytest.approx(round((second - first) * 1.25), abs=0.15)
    assert pitch(stretch(tone(440, 3), Stretch(tempo=1.25), 2 * RATE, RATE)) == pytest.approx(440, rel=5e-3)


def test_stretch_gives_the_same_twice(song):
    change = Stretch(1.1, -2)
    assert np.array_equal(stretch(song, change, 2 * RATE, RATE), stretch(song, change, 2 * RATE, RATE))


@pytest.mark.parametrize(
    ("kind", "at", "expected_db"),
    [
        ("low-pass", 100, 0), ("low-pass", 1000, -3), ("low-pass", 10000, -43),
        ("high-pass", 10000, 0), ("high-pass", 1000, -3), ("high-pass", 100, -40),
        ("low-shelf", 50, 6), ("low-shelf", 1000, 3), ("low-shelf", 15000, 0),
        ("high-shelf", 50, 0), ("high-shelf", 1000, 3), ("high-shelf", 15000, 6),
        ("peak", 50, 0), ("peak", 1000, 6), ("peak", 15000, 0),
    ],
)  # fmt: skip
def test_sections_have_their_gains(kind, at, expected_db):
    turn = np.array([2 * np.pi * at / RATE], np.float32)
    (gain,) = biquad_response(kind, 2 * np.pi * 1000 / RATE, 2**-0.5, 6.0, turn)
    assert 20 * np.log10(abs(gain)) == pytest.approx(expected_db, abs=1.0)


def test_equaliser_does_not_sound_before_its_input():
    click = np.zeros((2, RATE), np.float32)
    click[:, RATE // 2] = 1
    for seed in range(20):
        filtered = equalise(np.random.default_rng(seed), click, 9.0, RATE)
        assert np.abs(filtered[:, : RATE // 2 - 1]).max() < 1e-4
        assert np.abs(filtered - click).max() > 1e-3


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("end", [0, 1])
def test_codecs_keep_time_length_and_level(name, end, song):
    loud = song * np.float32(1.5 / np.abs(song).max())  # beyond full scale, where an encoder would clip
    encoded = through_codec(loud, name, CODECS[name][2][end], RATE)
    assert encoded.shape == song.shape and encoded.dtype == np.float32
    assert delay(encoded, loud) == 0
    error = augment.rms(encoded - loud) / augment.rms(loud)
    assert 1e-3 < error < 0.5


def test_codec_of_other_rates(song):
    assert through_random_codec(np.random.default_rng(0), song, 16000).shape == song.shape


def test_compressor_turns_down_what_is_loud():
    quiet, loud = tone(200, 1.0) * 0.05, tone(200, 1.0)
    mixture = np.concatenate((quiet, loud, quiet), axis=1)
    gain = compressor_gain(mixture, -6.0, 4.0, RATE)
    level_db = 20 * np.log10(augment.rms(loud) / augment.rms(mixture))
    assert gain[RATE // 2] == pytest.approx(1, abs=1e-3) and gain.max() <= 1
    assert 20 * np.log10(gain[3 * RATE // 2]) == pytest.approx(-(level_db + 6) * 3 / 4, abs=0.2)
    assert gain[2 * RATE + RATE // 10] < gain[2 * RATE + RATE // 2]  # it lets go slowly


def test_soft_clip_is_tanh_and_spares_what_is_small(song):
    gain = soft_clip_gain(song, 6.0)
    drive = 10 ** (6 / 20) / np.abs(song).max()
    assert np.allclose(song * gain, np.tanh(song * drive) / drive, atol=1e-5)
    assert np.all(soft_clip_gain(np.zeros((2, 10), np.float32), 6.0) == 1)


def test_choir_keeps_the_level_and_spreads_the_voice(song):
    parts = Parts(Augment(choir=1.0), RATE)
    mono = np.tile(song[:1], (2, 1))
    choir = parts.choir(np.random.default_rng(1), mono)
    assert augment.rms(choir) == pytest.approx(augment.rms(mono), rel=1e-3)
    assert augment.rms(choir[0] - choir[1]) > 0.05 * augment.rms(mono)


@pytest.mark.parametrize("name", Augment().probabilities)
def test_each_changes_items_and_by_the_seed_alone(name, music):
    plain = items(music, Augment(), voxaug=VoxAug(0, 0, 0, 0)).item(0, 1, 1000)
    item = items(music, Augment(**{name: 1.0}), voxaug=VoxAug(0, 0, 0, 0)).item(0, 1, 1000)
    same = items(music, Augment(**{name: 1.0}), voxaug=VoxAug(0, 0, 0, 0)).item(0, 1, 1000)
    assert item.mixture.shape == plain.mixture.shape and item.mixture.dtype == np.float32
    assert np.abs(item.mixture - plain.mixture).max() > 1e-4
    assert np.array_equal(item.mixture, same.mixture)
    assert np.array_equal(item.stems["instrumental"], same.stems["instrumental"])


def test_a_share_of_items_is_mono(music):
    """Mixture and instrumental both, in a stereo pair too, and nothing else of the item changes."""
    pairs = {"pairs": (Source(str(music / "pairs")),)}
    pool = music_from_sources(TrainConfig(**pairs), Scan(MODEL))
    found = []
    for mono in (0.0, 0.5):
        train = TrainConfig(augment=Augment(mono=mono, scale_db=6), voxaug=VoxAug(force=False), **pairs)
        source = MixtureItems(MODEL, train, pool, None)
        found.append([source.item(0, index, 100) for index in range(20)])
    folded = 0
    for stereo, item in zip(*found, strict=True):
        assert not np.array_equal(stereo.mixture[0], stereo.mixture[1])
        is_mono = np.array_equal(item.mixture[0], item.mixture[1])
        for name, wanted in stereo.stems.items():
            assert np.array_equal(item.stems[name], np.stack([wanted.mean(axis=0)] * 2) if is_mono else wanted)
        assert (item.peak, item.headroom) == (stereo.peak, stereo.headroom)
        folded += is_mono
    assert 3 < folded < 17


def test_items_of_a_seed_are_what_they_were(music):
    """Means of items, taken before the effects of `Parts` were there: a run that is resumed sees the same."""
    options = Augment(
        level_db=-4,
        level_spread_db=3,
        vocal_speed=3,
        instrumental_speed=3,
        filter_db=3,
        reverb=0.5,
        pan=0.3,
        scale_db=6,
    )
    source = items(music, options, voxaug=VoxAug(second_vocal=0.5, mixup=0.3))
    means = [
        float(np.abs(each).mean())
        for index in range(3)
        for item in [source.item(1, index, 500)]
        for each in (item.mixture, item.stems["instrumental"])
    ]
    assert means == pytest.approx([0.087771, 0.087771, 0.050083, 0.043458, 0.07708, 0.06873], rel=1e-3)


def test_mixture_is_the_sum_of_what_each_part_became(music):
    """With everything on: where no vocals are drawn, mixture and instrumental stay equal, and pairs do likewise."""
    silent = items(music, dataclasses.replace(ALL, mixture_codec=0.0), voxaug=VoxAug(skip_vocals=1))
    item = silent.item(0, 0, 1000)
    assert np.array_equal(item.mixture, item.stems["instrumental"])
    parts = Parts(dataclasses.replace(ALL, mixture_codec=0.0), RATE)
    changed, _ = parts.song(np.random.default_rng(0), {"drums": tone(300), "vocals": 0 * tone(300)})
    assert np.array_equal(mixed(changed), changed["drums"]) and not np.array_equal(changed["drums"], tone(300))


@pytest.mark.parametrize("shares", [{"instrumental": 0.6, "vocals": 0.4}, {"drums": 0.5, "bass": 0.3, "vocals": 0.2}])
def test_mastering_leaves_the_shares_of_the_parts(song, shares):
    """One gain for all; a codec leaves the vocals as they are, and its noise to the others."""
    stems = {name: song * np.float32(share) for name, share in shares.items()}
    for name in ("compress", "clip"):
        found = Parts(Augment(**{name: 1.0}), RATE).whole(np.random.default_rng(0), stems)
        assert all(np.abs(found[stem] - share * mixed(found)).max() < 1e-6 for stem, share in shares.items())
        assert np.abs(mixed(found) - song).max() > 1e-3
    found = Parts(Augment(mixture_codec=1.0), RATE).whole(np.random.default_rng(0), dict(stems))
    first, *others, vocals = (found[stem] - waveform for stem, waveform in stems.items())
    assert not vocals.any() and np.abs(mixed(found) - song).max() > 1e-3
    assert all(np.abs(noise - first).max() < 1e-6 for noise in others)


def test_scale_of_a_track_follows_the_gain(write_constant):
    folder = write_constant("music/a.wav", 0.2, 0.2).parent
    pool = pool_from_sources([Source(str(folder))], Scan(MODEL), need_peak=True)
    options = Augment(gain=1.0, gain_db=12.0)
    source = MixtureItems(MODEL, TrainConfig(augment=options, voxaug=VoxAug(1, 0, 0, 0)), pool, pool)
    plain = pool.entries[0].peak
    for index in range(5):
        item = source.item(0, index, 10)
        assert item.peak / plain == pytest.approx(item.mixture[0, 0] / 0.2, rel=1e-5)
        assert 0.25 <= item.peak / plain <= 4


def test_stems_of_several_songs_make_an_instrumental(write_constant):
    for number in (1, 2, 3):
        write_constant(f"songs/{number}/drums.wav", number / 100, number / 100)
        write_constant(f"songs/{number}/other.wav", number / 10, number / 10)
        root = write_constant(f"songs/{number}/vocals.wav", 0, 0).parent.parent
    train = TrainConfig(instrumentals=(Source(str(root), stems=("drums", "other")),))
    music = music_from_sources(train, Scan(MODEL), need_peak=True)
    assert len(music.entries) == 3 and all(isinstance(entry, Remix) for entry in music.entries)
    vocals = pool_from_sources([Source(str(root), stems=("vocals",))], Scan(MODEL))
    assert {file.path.stem for file in vocals.entries} == {"vocals"}
    source = MixtureItems(MODEL, TrainConfig(), music, vocals)
    drawn = {
        round(float(source.item(epoch, index, 4).stems["instrumental"][0, 0]), 2)
        for epoch in range(20)
        for index in (0, 1, 2)
    }
    assert drawn == {round(drums / 100 + other / 10, 2) for drums in (1, 2, 3) for other in (1, 2, 3)}
    peaks = {file.path: file.peak for entry in music.entries for file in (entry.file, *entry.others[0].entries)}
    assert source.item(0, 0, 4).peak > min(peaks.values())


def test_stems_that_are_not_there_are_named(music):
    with pytest.raises(DataError, match=r"no bass in it; expected files of that name, not 0, 1, 2"):
        pool_from_sources([Source(str(music / "vocals"), stems=("bass",))], Scan(MODEL))
    with pytest.raises(ConfigError, match="each name once"):
        Source("a", stems=("drums", "drums"))


def test_configurations_name_what_is_out_of_range():
    for wrong in ({"pitch": 2}, {"gain_db": -1}, {"tempo_percent": 80}, {"choir_voices": 0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            Augment(**wrong)
    original = train_config_from_yaml(load_yaml("original"), "original").augment
    assert not any(getattr(original, name) for name in original.probabilities)
