"""Pictures: what they show, the right way up, of one size for songs of any length, whole or not at all."""

import resource
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ft.config import AudioConfig
from ft.dsp import stft
from ft.errors import AudioError, Cancelled, ConfigError
from ft.songs import pictures
from ft.songs.pictures import Columns, Pictures, remove_parts

NAMES = ("mask", "vocals", "instrumental")
AUDIO = AudioConfig(n_fft=512, hop_length=256, bins=256)


@pytest.fixture(scope="module")
def frames(example) -> tuple[np.ndarray, np.ndarray]:
    """A mask and a spectrogram (channels, frames, bins) of the example song."""
    mixture = soundfile.read(example / "mixture.flac", frames=100_000, dtype="float32", always_2d=True)[0].T
    spec = stft(mixture, 512, 256).swapaxes(1, 2)
    mask = np.random.default_rng(0).uniform(0, 1, spec.shape).astype(np.float32)
    return mask, spec


def read(path) -> np.ndarray:
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def pictures_of(folder, *names) -> Pictures:
    return Pictures({name: folder / f"{name}.png" for name in names}, AUDIO)


def drawn(folder, mask, spec, names=("mask",), sizes=()) -> Pictures:
    """Pictures of frames that come in blocks of these sizes."""
    with pictures_of(folder, *names) as made:
        start = 0
        for size in (*sizes, mask.shape[1]):
            made.add(mask[:, start : start + size], spec[:, start : start + size])
            start += size
        made.commit()
    return made


@pytest.mark.parametrize("channels", [1, 2])
def test_all_stems_are_in_decibels_below_the_peak_of_the_mixture(frames, channels, tmp_path):
    mask, spec = (values[:channels] for values in frames)
    with pictures_of(tmp_path, *NAMES) as made:
        for part in (slice(0, 1), slice(1, 101), slice(101, 101), slice(101, None)):
            made.add(mask[:, part], spec[:, part])
        found = {name: made.values(name) for name in NAMES}
    np.testing.assert_allclose(found["mask"], mask.mean(axis=0), atol=1e-6)
    power = {"mixture": spec, "vocals": spec * (1 - mask), "instrumental": spec * mask}
    power = {name: np.mean(np.abs(values.astype(complex)) ** 2, axis=0) for name, values in power.items()}
    for name in ("vocals", "instrumental"):
        expected = 10 * np.log10(power[name] / power["mixture"].max())
        np.testing.assert_allclose(found[name], np.clip(expected, -80, 0), atol=1e-3)
        assert found[name].min() == -80 and -40 < found[name].max() < 0


@given(sizes=st.lists(st.integers(0, 30), max_size=8))
@settings(deadline=None, max_examples=60)
def test_columns_are_the_means_of_as_many_frames_as_let_the_song_fit(sizes):
    frames = np.random.default_rng(0).uniform(0, 1, (sum(sizes), 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "COLUMNS", 8)
        columns = Columns(3)
        for size, end in zip(sizes, np.cumsum(sizes), strict=True):
            columns.add(frames[end - size : end])
        found, each = columns.means(), columns.frames_per_column
    assert len(found) <= 8 and (each == 1 or len(found) > 4)
    expected = [frames[start : start + each].mean(axis=0) for start in range(0, len(frames), each)]
    np.testing.assert_allclose(found, np.reshape(expected, (-1, 3)), rtol=1e-5)


def test_a_picture_is_of_one_size_and_its_axis_as_long_as_the_song(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "COLUMNS", 64)
    lengths = []
    save = pictures.save_panels
    monkeypatch.setattr(pictures, "save_panels", lambda *args: (lengths.append(args[2]), save(*args)))
    mask, spec = frames
    sizes = {read(drawn(tmp_path, mask[:, :count], spec[:, :count]).files["mask"]).shape for count in (9, 391)}
    assert len(sizes) == 1
    assert lengths == pytest.approx([9 * 256 / 44100, 391 * 256 / 44100])


def test_low_frequencies_are_at_the_bottom_and_the_beginning_is_on_the_left(tmp_path):
    """A mask that is 1 below 350 Hz in the first quarter of the song, beside one that is 0."""
    mask = np.zeros((2, 400, 257), np.float32)
    spec = mask.astype(np.complex64)
    dark = read(drawn(tmp_path / "dark", mask, spec).files["mask"])
    mask[:, :100, :4] = 1
    bright = np.argwhere((read(drawn(tmp_path / "bright", mask, spec).files["mask"]) - dark).min(axis=2) > 128)
    height, width, _ = dark.shape
    assert len(bright) > 0.05 * height * width
    assert (bright.min(axis=0) > (height / 2, 0)).all() and (bright.max(axis=0) < (height, width / 3)).all()


def test_silence_is_black(tmp_path):
    silence = np.zeros((2, 10, 257), np.float32)
    with pictures_of(tmp_path, "vocals") as made:
        made.add(silence, silence.astype(np.complex64))
        assert (made.values("vocals") == -80).all()


def test_what_is_not_committed_leaves_nothing(frames, tmp_path):
    folder = tmp_path / "new" / "song"
    with pictures_of(folder, "mask") as made:
        made.add(*frames)
        assert [path for path in folder.iterdir() if path.suffix == ".part"]
        assert not list(folder.glob("*.png"))
    assert not list(tmp_path.iterdir())


def test_finished_pictures_only_lack_their_names(frames, tmp_path):
    path = tmp_path / "mask.png"
    path.write_text("of an earlier run")
    with pictures_of(tmp_path, "mask") as made:
        made.add(*frames)
        made.finish()
        (part,) = (each for each in tmp_path.iterdir() if each != path)
        drawn_before = part.read_bytes()
        assert path.read_text() == "of an earlier run"
        made.commit()
    assert path.read_bytes() == drawn_before and list(tmp_path.iterdir()) == [path]


KILLED = """
import os, sys, pathlib, numpy
from ft.config import AudioConfig
from ft.songs.pictures import Pictures
made = Pictures({"mask": pathlib.Path(sys.argv[1])}, AudioConfig(n_fft=64, hop_length=32, bins=32)).__enter__()
made.add(numpy.ones((2, 9, 33), numpy.float32), numpy.ones((2, 9, 33), numpy.complex64))
os._exit(9)
"""


def test_what_a_killed_run_left_is_removed(tmp_path):
    path = tmp_path / "mask.png"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == 9
    (part,) = tmp_path.iterdir()
    assert part.suffix == ".part"
    remove_parts([path])
    assert not list(tmp_path.iterdir())
    part.touch()
    with pictures_of(tmp_path, "vocals"):
        assert not part.exists()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_line_and_leaves_nothing(frames, tmp_path):
    path = tmp_path / "song" / "mask.png"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (
        pytest.raises(AudioError, match=f"^{path}: cannot write the picture: File too large$"),
        pictures_of(path.parent, "mask") as made,
    ):
        made.add(*frames)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            made.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_picture_whose_place_is_a_folder_is_an_error(frames, tmp_path):
    (tmp_path / "mask.png" / "inside").mkdir(parents=True)
    with pytest.raises(AudioError, match=r"mask\.png: cannot write the picture: Is a directory"):
        drawn(tmp_path, *frames)
    assert [path.name for path in tmp_path.iterdir()] == ["mask.png"]


def test_without_matplotlib_the_message_is_the_line_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'frame-transformer\[plots\]'"):
        pictures_of(tmp_path, "mask")


def test_pictures_that_another_run_is_drawing_are_left_to_it(frames, tmp_path):
    alone = drawn(tmp_path / "alone", *frames)
    folder = tmp_path / "song"
    mask, spec = frames
    with pictures_of(folder, "mask") as made:
        for part in (slice(0, 200), slice(200, None)):
            made.add(mask[:, part], spec[:, part])
            with (
                pytest.raises(AudioError, match=r"mask\.png: another run is writing it; wait for it"),
                pictures_of(folder, *NAMES),
            ):
                pass
            remove_parts(made.files.values())  # which leaves alone what is in use
        made.commit()
    assert [path.name for path in folder.iterdir()] == ["mask.png"]
    assert (folder / "mask.png").read_bytes() == alone.files["mask"].read_bytes()


def test_drawing_can_be_stopped(frames, tmp_path):
    """Before any picture, and nothing is left then."""

    def stops() -> None:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise Cancelled("stop")

    for limit in (1, 2):
        calls = 0
        with pytest.raises(Cancelled), pictures_of(tmp_path / "new", *NAMES) as made:
            made.add(*frames)
            made.finish(stops)
        assert calls == limit and not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_placed", [False, True])
def test_a_name_that_cannot_be_given_leaves_no_picture(frames, tmp_path, monkeypatch, is_placed):
    """Of the second, before it has its name or after."""
    place, placed = pictures.Claim.place, []

    def fails(claim):
        if placed and not is_placed:
            raise OSError(5, "Input/output error")
        place(claim)
        placed.append(claim)
        if len(placed) == 2:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(pictures.Claim, "place", fails)
    with pytest.raises(AudioError, match="Input/output error"):
        drawn(tmp_path / "new", *frames, ["mask", "vocals"])
    assert len(placed) == 1 + is_placed and not list(tmp_path.iterdir())
