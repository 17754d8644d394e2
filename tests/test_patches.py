"""The original's patch files: how songs are cut, what is refused, and that training on them sees their spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ft.config import ModelConfig, Spectrogram
from ft.data.examples import MixtureItems
from ft.data.loading import collate
from ft.data.patches import PatchGrid, cut_patches, frames_of, read_patch, read_patch_info, waveform_of, write_patch
from ft.data.prepare import write_patches
from ft.data.scan import Scan
from ft.data.sources import Song, music_from_sources, pool_from_sources, songs_from_sources
from ft.errors import DataError
from ft.models.signal import Signal
from ft.train_config import Source, TrainConfig, VoxAug
from ft.training.tasks import mixture_of

MODEL = ModelConfig()
SIGNAL = Signal(MODEL)


@pytest.fixture(scope="module")
def waveform(example) -> np.ndarray:
    sound, _ = soundfile.read(example / "mixture.flac", dtype="float32", frames=6 * 44100 + 17)
    return np.ascontiguousarray(sound.T)


@pytest.fixture(scope="module")
def folders(music, tmp_path_factory) -> dict[str, Path]:
    """Patches of 64 frames of all that `music` holds."""
    root, told = tmp_path_factory.mktemp("patches"), []
    for kind, folder in (("instrumentals", "instrumentals"), ("vocals", "vocals"), ("pairs", "pairs")):
        assert write_patches(music / folder, root, kind, size=64, report=told.append) == []
    names = {"instrumentals": "", "vocals": "_VOCALS", "pairs": "_PAIRS"}
    return {kind: root / f"cs64_sr44100_hl1024_nf2048_of0{name}" for kind, name in names.items()}


def test_frames_are_those_of_a_centred_stft_without_the_one_behind_the_end(waveform):
    blocks = np.array_split(waveform, 5, axis=1)
    frames = np.concatenate(list(frames_of(blocks, 2048, 1024)), axis=2)
    expected = SIGNAL.transformed(torch.from_numpy(waveform), center=True).numpy()
    assert frames.shape == expected.shape == (2, 1025, 1 + waveform.shape[1] // 1024)
    assert np.abs(frames - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize(("frames", "size", "offset"), [(1000, 256, 0), (1024, 256, 0), (100, 64, 8), (5, 64, 0)])
def test_patches_are_the_padded_spectrogram(frames, size, offset):
    rng = np.random.default_rng(0)
    spec = (rng.normal(size=(2, 3, frames)) + 1j * rng.normal(size=(2, 3, frames))).astype(np.complex64)
    grid = PatchGrid(frames, size, offset)
    patches = list(cut_patches(np.array_split(spec, 7, axis=2), grid))
    assert len(patches) == -(-frames // (size - 2 * offset)) == grid.count
    padded = np.pad(spec, ((0, 0), (0, 0), grid.padding))
    for number, patch in enumerate(patches):
        assert np.array_equal(patch, padded[:, :, number * grid.roi : number * grid.roi + size])
    whole = np.concatenate([patch[:, :, offset : size - offset] for patch in patches], axis=2)
    assert np.array_equal(whole[:, :, :frames], spec) and not whole[:, :, frames:].any()


def test_written_patches_hold_the_song_and_its_peak(folders, music):
    sound, _ = soundfile.read(music / "instrumentals" / "0.flac", dtype="float32")
    spec = SIGNAL.transformed(torch.from_numpy(np.ascontiguousarray(sound.T)), center=True).numpy()
    paths = [folders["instrumentals"] / f"0_p{number}.npz" for number in range(3)]
    assert len(list(folders["instrumentals"].glob("0_p*"))) == 3 == -(-spec.shape[2] // 64)
    found = np.concatenate([read_patch(path, "X") for path in paths], axis=2)
    assert np.abs(found[:, :, : spec.shape[2]] - spec).max() < 1e-4
    assert [read_patch_info(path).peak for path in paths] == pytest.approx([np.abs(spec).max()] * 3, rel=1e-6)
    with np.load(paths[0], allow_pickle=False) as file:
        assert set(file.files) == {"X", "c"} and file["X"].dtype == np.complex64 and file["c"].shape == ()
    assert read_patch_info(next(folders["pairs"].iterdir())).is_pair
    voice, _ = soundfile.read(music / "vocals" / "1.wav", dtype="float32")
    assert read_patch_info(folders["vocals"] / "1_p0.npz").peak == pytest.approx(np.abs(voice).max(), rel=1e-6)


def test_second_run_writes_nothing(folders, music):
    before = {path: path.stat().st_mtime_ns for path in folders["instrumentals"].iterdir()}
    write_patches(music / "instrumentals", folders["instrumentals"].parent, "instrumentals", size=64)
    assert before == {path: path.stat().st_mtime_ns for path in folders["instrumentals"].iterdir()}


def test_silent_patches_of_vocals_are_left_out_and_long_mixes_cut(tmp_path, monkeypatch):
    voice = np.zeros((200 * 1024, 2), np.float32)
    voice[: 20 * 1024] = 0.1
    soundfile.write(tmp_path / "voice.wav", voice, 44100)
    write_patches(tmp_path, tmp_path / "out", "vocals", size=64)
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.npz")) == ["voice_p0.npz"]
    monkeypatch.setattr("ft.data.prepare.LONGEST", 150 * 1024)
    write_patches(tmp_path, tmp_path / "mixes", "mixes", size=64)
    names = sorted(path.name for path in (tmp_path / "mixes").rglob("*.npz"))
    assert names == ["voice_c0_p0.npz", "voice_c0_p1.npz", "voice_c0_p2.npz"]  # the second chunk is silent
    with np.load(tmp_path / "mixes" / "cs64_sr44100_hl1024_nf2048_of0_MIXES" / names[0], allow_pickle=False) as file:
        assert bool(file["vocals"])


def test_songs_of_one_name_are_refused(tmp_path):
    for name in ("a.wav", "a.flac"):
        soundfile.write(tmp_path / name, np.full((4096, 2), 0.1), 44100)
    with pytest.raises(DataError, match=r"a\.flac and .*a\.wav: both would be a"):
        write_patches(tmp_path, tmp_path / "out", "instrumentals", size=64)


def test_what_may_be_left_of_pairs_can_be_said(music, tmp_path):
    from click.testing import CliRunner

    from ft.cli import main

    command = ["-q", "data", "prepare", "patches", str(music / "pairs"), "-o", str(tmp_path), "--kind", "pairs"]
    result = CliRunner().invoke(main, [*command, "--residual-db", "-300", "--max-delay", "0.5"])
    assert result.exit_code == 1 and "--residual-db allows it" in result.stderr and not list(tmp_path.iterdir())


def test_spectra_of_the_waveform_are_those_of_the_patch(waveform):
    spec = np.concatenate(list(frames_of([waveform], 2048, 1024)), axis=2)[:, :, 20:120]
    again = SIGNAL.transformed(torch.from_numpy(waveform_of(spec, 1024))).numpy()
    assert again.shape == spec.shape
    error, peak = np.abs(again - spec), np.abs(spec).max()
    assert error.max() < 1e-4 * peak  # of the first and the last frame, of which one side is known from no other
    assert error[:, :, 1:-1].max() < 1e-6 * peak


def test_training_items_follow_the_original(folders):
    """A.9: X = Y + V as complex spectra; c is the file's, raised to the crop's peak where vocals were added."""
    scan = Scan(MODEL)
    music = music_from_sources(TrainConfig(instrumentals=(Source(str(folders["instrumentals"])),)), scan, True)
    vocals = pool_from_sources([Source(str(folders["vocals"]))], scan)
    source = MixtureItems(MODEL, TrainConfig(voxaug=VoxAug(0, 0, 0, 0)), music, vocals)
    specs = {path: read_patch(path, "X") for key in ("instrumentals", "vocals") for path in folders[key].iterdir()}

    def nearest(spec: np.ndarray, key: str) -> float:
        """Error against the nearest crop of a patch, without its outermost frames, relative to the crop."""
        errors = []
        for path in folders[key].iterdir():
            for start in range(64 - 32 + 1):
                crop = specs[path][:, :, start : start + 32]
                if np.abs(crop[:, :, [0, -1]]).max(axis=(0, 1)).all():  # no silence behind the song's end
                    errors.append(np.abs(spec - crop)[:, :, 1:-1].max() / np.abs(crop).max())
        return min(errors)

    hits = 0
    for index in range(4):
        item = source.item(0, index, frames=32)
        _, level = mixture_of(collate([item]), SIGNAL)
        mixture = SIGNAL.transformed(torch.from_numpy(item.mixture)).numpy()
        music_spec = SIGNAL.transformed(torch.from_numpy(item.stems["instrumental"].copy())).numpy()
        hits += nearest(music_spec, "instrumentals") < 1e-5
        hits += nearest(mixture - music_spec, "vocals") < 1e-4
        assert level.scale.item() == pytest.approx(max(item.peak, np.abs(mixture).max()), rel=1e-6)
        assert item.peak in {np.float32(read_patch_info(path).peak) for path in folders["instrumentals"].iterdir()}
    assert hits >= 6  # of 8: a crop with the end of a song in it is not looked for


def test_patches_with_y_are_pairs_unless_forced(folders):
    sources = (Source(str(folders["pairs"])),)
    for key in ("instrumentals", "pairs"):
        music = music_from_sources(TrainConfig(**{key: sources}), Scan(MODEL), need_peak=True)
        assert all(isinstance(entry, Song) for entry in music.entries)
    plain = MixtureItems(MODEL, TrainConfig(voxaug=VoxAug(force=False, swap_channels=0)), music, None).item(0, 0, 16)
    assert np.abs(plain.stems["vocals"]).max() > 1e-3
    forced = MixtureItems(MODEL, TrainConfig(voxaug=VoxAug(swap_channels=0)), music, None).item(0, 0, 16)
    assert np.array_equal(forced.mixture, forced.stems["instrumental"])
    with pytest.raises(DataError, match="without Y"):
        songs_from_sources([Source(str(folders["instrumentals"]))], Scan(MODEL))


def test_bad_patches_are_named_and_nothing_pickled_is_run(tmp_path, waveform):
    spec = np.concatenate(list(frames_of([waveform[:, :8192]], 2048, 1024)), axis=2)
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return ran.write_text, ("x",)

    path = tmp_path / "a.npz"
    for arrays, message in (
        ({"X": np.array([Evil()], object), "c": 1.0}, "X is object"),
        ({"X": spec, "c": np.array(Evil(), object)}, "not a patch file"),
        ({"X": spec}, "not a patch file"),
        ({"c": 1.0}, "X is missing"),
        ({"X": spec.real, "c": 1.0}, "X is float32"),
        ({"X": spec, "Y": spec[:, :, 1:], "c": 1.0}, "Y is complex64"),
        ({"X": spec, "c": float("nan")}, "c is nan"),
        ({"X": spec, "c": np.ones(2)}, "not a patch file.* not a number"),
        ({"X": spec, "c": 1j}, "not a patch file.* not a number"),
    ):
        np.savez(path, **arrays)
        with pytest.raises(DataError, match=message):
            read_patch_info(path)
    assert not ran.exists()
    write_patch(path, 1.0, spec)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="not a patch file"):
        read_patch_info(path)
    path.write_bytes(data[:5000] + bytes(1000) + data[6000:])
    with pytest.raises(DataError, match="cannot be read"):
        read_patch(path, "X")


def test_patches_of_another_stft_are_refused(folders, tmp_path):
    with pytest.raises(DataError, match=r"n_fft 2048.*the configuration has 1024"):
        pool_from_sources(
            [Source(str(folders["vocals"]))], Scan(ModelConfig(front=Spectrogram(n_fft=1024, hop_length=512)))
        )
    other = tmp_path / "cs64_sr44100_hl512_nf2048_of0"
    other.mkdir()
    (other / "a.npz").write_bytes(next(folders["vocals"].iterdir()).read_bytes())
    with pytest.raises(DataError, match="hop_length 512"):
        pool_from_sources([Source(str(other))], Scan(MODEL))
