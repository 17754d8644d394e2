"""Pictures: what they show, the right way up, of one size for songs of any length, whole or not at all."""

import resource
import sys

import numpy as np
import PIL.Image
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ft.dsp import stft
from ft.errors import AudioError, Cancelled, ConfigError
from ft.songs import pictures
from ft.songs.parts import Outputs
from ft.songs.pictures import Columns, Pictures

NAMES = ("mask", "vocals", "instrumental")
RATE = 44100


@pytest.fixture(scope="module")
def song(example) -> dict[str, np.ndarray]:
    """The beginning of the example's mixture and stems (channels, samples)."""
    names = ("mixture", "vocals", "instrumental")
    files = {name: soundfile.read(example / f"{name}.flac", frames=100_000, dtype="float32")[0] for name in names}
    return {name: sound.T for name, sound in files.items()}


def read(path) -> np.ndarray:
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def pictures_of(folder, *names) -> Pictures:
    return Pictures({name: folder / f"{name}.png" for name in names}, RATE)


def add(made: Pictures, mixture: np.ndarray, sizes=(), **stems: np.ndarray) -> None:
    """Gives the stems in blocks of these sizes, of a mixture that came in blocks of others."""
    for _ in made.heard([mixture[:, :1000], mixture[:, 1000:]]):
        pass
    start = 0
    for size in (*sizes, mixture.shape[1]):
        made.add({name: stem[:, start : start + size] for name, stem in stems.items()})
        start += size


def drawn(folder, song, names=("mask",)) -> Pictures:
    made = pictures_of(folder, *names)
    with Outputs(made.files.values()) as outputs:
        add(made, **song)
        made.finish()
        outputs.commit()
    return made


def power(sound: np.ndarray) -> np.ndarray:
    """(frames, bins)."""
    return np.mean(np.abs(stft(sound, 2048, 1024).astype(complex)) ** 2, axis=0).T


@pytest.mark.parametrize("channels", [1, 2])
def test_all_stems_are_in_decibels_below_the_peak_of_the_mixture(song, channels, tmp_path):
    song = {name: sound[:channels] for name, sound in song.items()}
    made = pictures_of(tmp_path)
    add(made, sizes=(1, 5000, 0), **song)
    made.finish()
    for name in ("vocals", "instrumental"):
        expected = np.clip(10 * np.log10(power(song[name]) / power(song["mixture"]).max() + 1e-30), -80, 0)
        found = made.panels(name)[name]
        np.testing.assert_allclose(found, expected, atol=2e-3)
        assert found.min() == -80 and -40 < found.max() <= 0


def test_a_mask_is_the_share_of_the_instrumental_in_each_bin(song, tmp_path):
    """0.25 of a mixture, and no more than 1 where it is louder."""
    mixture = song["mixture"]
    for share, expected in ((0.25, 0.25), (3.0, 1.0), (0.0, 0.0)):
        made = pictures_of(tmp_path)
        add(made, mixture, vocals=(1 - np.float32(share)) * mixture, instrumental=np.float32(share) * mixture)
        made.finish()
        (mask,) = made.panels("mask").values()
        heard = power(mixture) > 1e-6
        np.testing.assert_allclose(mask[heard], expected, atol=1e-4)
        assert mask.max() <= 1


def test_a_model_of_any_stems_has_a_picture_of_each_and_masks_of_all_in_one(song, tmp_path):
    mixture = song["mixture"]
    stems = {"drums": np.float32(0.5) * mixture, "bass": np.float32(0.3) * mixture, "rest": np.float32(0.2) * mixture}
    made = drawn(tmp_path, {"mixture": mixture, **stems}, ["mask", *stems])
    assert list(made.panels("mask")) == ["mask of the drums", "mask of the bass", "mask of the rest"]
    sizes = {name: read(path).shape[:2] for name, path in made.files.items()}
    assert sizes["mask"][0] == pytest.approx(3 * sizes["drums"][0], rel=0.01) and len({*sizes.values()}) == 2


@given(sizes=st.lists(st.integers(0, 30), max_size=8))
@settings(deadline=None, max_examples=60)
def test_columns_are_the_means_of_as_many_frames_as_let_the_song_fit(sizes):
    frames = np.random.default_rng(0).uniform(0, 1, (sum(sizes), 3)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "COLUMNS", 8)
        patch.setattr(pictures, "N_FFT", 4)
        columns = Columns()
        for size, end in zip(sizes, np.cumsum(sizes), strict=True):
            columns.add(frames[end - size : end])
        found, each = columns.means(), columns.frames_per_column
    assert len(found) <= 8 and (each == 1 or len(found) > 4)
    expected = [frames[start : start + each].mean(axis=0) for start in range(0, len(frames), each)]
    np.testing.assert_allclose(found, np.reshape(expected, (-1, 3)), rtol=1e-5)


def test_a_picture_is_of_one_size_and_its_axis_as_long_as_the_song(song, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "COLUMNS", 64)
    lengths = []
    save = pictures.save_panels
    monkeypatch.setattr(pictures, "save_panels", lambda *args: (lengths.append(args[2]), save(*args)))
    parts = [{name: sound[:, :count] for name, sound in song.items()} for count in (9000, 100_000)]
    sizes = {read(drawn(tmp_path, part).files["mask"]).shape for part in parts}
    assert len(sizes) == 1
    assert lengths == pytest.approx([10 * 1024 / RATE, 99 * 1024 / RATE])


def test_low_frequencies_are_at_the_bottom_and_the_beginning_is_on_the_left(tmp_path):
    """An instrumental that is all there is of a low tone in the first quarter, beside one that is nothing."""
    tone = 0.5 * np.sin(2 * np.pi * 100 / RATE * np.arange(100_000, dtype=np.float32))[None]
    noise = 0.02 * np.random.default_rng(0).standard_normal((1, 100_000)).astype(np.float32)
    first = tone * np.pad(np.hanning(25_000), (0, 75_000)).astype(np.float32)
    images = []
    for share in (0, 1):
        song = {"mixture": first + noise, "vocals": first * (1 - share) + noise, "instrumental": first * share}
        images.append(read(drawn(tmp_path / str(share), song).files["mask"]))
    bright = np.argwhere((images[1] - images[0]).min(axis=2) > 128)
    height, width, _ = images[0].shape
    assert len(bright) > 0.02 * height * width
    assert (bright.min(axis=0) > (height / 2, 0)).all() and (bright.max(axis=0) < (height, width / 3)).all()


def test_silence_is_black(tmp_path):
    silence = np.zeros((2, 20_000), np.float32)
    made = pictures_of(tmp_path)
    add(made, silence, vocals=silence, instrumental=silence)
    assert (made.panels("vocals")["vocals"] == -80).all()
    assert (made.panels("mask")["mask of the instrumental"] == 0).all()


def test_a_full_disk_is_one_line_and_leaves_nothing(song, tmp_path):
    path = tmp_path / "song" / "mask.png"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    made = pictures_of(path.parent, "mask")
    add(made, **song)
    with pytest.raises(AudioError, match=f"^{path}: cannot write: File too large$"), Outputs([path]):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            made.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_without_matplotlib_the_message_is_the_line_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"pip install 'frame-transformer\[plots\]'"):
        pictures_of(tmp_path, "mask")


def test_drawing_can_be_stopped(song, tmp_path):
    """Before any picture, and nothing is left then."""

    def stops() -> None:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise Cancelled("stop")

    for limit in (1, 2):
        calls, made = 0, pictures_of(tmp_path / "new", *NAMES)
        add(made, **song)
        with pytest.raises(Cancelled), Outputs(made.files.values()):
            made.finish(stops)
        assert calls == limit and not list(tmp_path.iterdir())
