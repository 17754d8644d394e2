"""Pictures against the formulas of the original's, in pages, whole or not at all."""

import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import soundfile

from ft import pictures
from ft.dsp import stft
from ft.errors import AudioError, Cancelled, ConfigError
from ft.pictures import Pictures, remove_parts

NAMES = ("mask", "vocals", "instrumental")


@pytest.fixture(scope="module")
def frames(example) -> tuple[np.ndarray, np.ndarray]:
    """A mask and a spectrogram (channels, frames, bins) of the example song."""
    mixture = soundfile.read(example / "mixture.flac", frames=100_000, dtype="float32", always_2d=True)[0].T
    spec = stft(mixture, 512, 256).swapaxes(1, 2)
    mask = np.random.default_rng(0).uniform(0, 1, spec.shape).astype(np.float32)
    return mask, spec


def read(path) -> np.ndarray:
    with PIL.Image.open(path) as image:
        assert image.format == "PNG" and image.mode == "RGB"
        return np.asarray(image)


def drawn(folder, mask, spec, sizes=()) -> Pictures:
    """Pictures of frames that come in blocks of these sizes."""
    with Pictures({name: folder / f"{name}.png" for name in NAMES}) as made:
        start = 0
        for size in (*sizes, mask.shape[1]):
            made.add(mask[:, start : start + size], spec[:, start : start + size])
            start += size
        made.commit()
    return made


def expected_spectrogram(spec: np.ndarray) -> np.ndarray:
    """(bins, frames, 3) from (channels, frames, bins), as the formula says."""
    values = np.log10(np.abs(spec.astype(np.complex128)) ** 2 + 1e-8)
    levels = (values - values.min()) * 255 / (values.max() - values.min())
    left, right = levels[0].T, levels[-1].T
    return np.stack((np.maximum(left, right), left, right), axis=2)


def expected_mask(mask: np.ndarray) -> np.ndarray:
    left, right = mask[0].T * 255, mask[-1].T * 255
    return np.stack((left, right, np.zeros_like(left)), axis=2)


def same_levels(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the rounding of float32 at the border of two levels."""
    assert found.shape == expected.shape
    below = expected - found
    assert below.min() > -0.01 and below.max() < 1.01


@pytest.mark.parametrize("channels", [1, 2])
def test_pictures_are_those_of_the_formulas(frames, channels, tmp_path):
    mask, spec = (values[:channels] for values in frames)
    made = drawn(tmp_path, mask, spec, [1, 100, 0, 57])
    same_levels(read(tmp_path / "mask.png"), expected_mask(mask))
    same_levels(read(tmp_path / "instrumental.png"), expected_spectrogram(spec * mask))
    same_levels(read(tmp_path / "vocals.png"), expected_spectrogram(spec * (1 - mask)))
    assert made.pages == {name: [tmp_path / f"{name}.png"] for name in NAMES}
    assert read(tmp_path / "vocals.png").min() == 0 and read(tmp_path / "vocals.png").max() == 255


def test_blocks_do_not_matter(frames, tmp_path):
    drawn(tmp_path / "whole", *frames)
    drawn(tmp_path / "cut", *frames, [3] * 50)
    for name in NAMES:
        assert (tmp_path / "whole" / f"{name}.png").read_bytes() == (tmp_path / "cut" / f"{name}.png").read_bytes()


def test_long_songs_get_pages_each_scaled_for_itself(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "PAGE_FRAMES", 150)
    mask, spec = frames
    louder = spec * np.linspace(1, 100, spec.shape[1], dtype=np.float32)[:, None]
    made = drawn(tmp_path, mask, louder, [140, 20])
    assert [path.name for path in made.pages["vocals"]] == ["vocals.png", "vocals.2.png", "vocals.3.png"]
    for number, path in enumerate(made.pages["vocals"]):
        part = slice(150 * number, 150 * (number + 1))
        same_levels(read(path), expected_spectrogram(louder[:, part] * (1 - mask[:, part])))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        path.name for pages in made.pages.values() for path in pages
    )


def test_a_page_that_is_just_full_has_no_empty_one_behind_it(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "PAGE_FRAMES", frames[0].shape[1])
    assert [len(pages) for pages in drawn(tmp_path, *frames).pages.values()] == [1, 1, 1]


def test_silence_is_black(tmp_path):
    silence = np.zeros((2, 10, 5), np.float32)
    drawn(tmp_path, silence, silence.astype(np.complex64))
    assert not read(tmp_path / "vocals.png").any()


def test_what_is_not_committed_leaves_nothing(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "PAGE_FRAMES", 100)
    folder = tmp_path / "new" / "song"
    with Pictures({name: folder / f"{name}.png" for name in NAMES}) as made:
        made.add(*frames)
        assert [path for path in folder.iterdir() if path.suffix == ".part"]
        assert not list(folder.glob("*.png"))
    assert not list(tmp_path.iterdir())


def test_finished_pictures_only_lack_their_names(frames, tmp_path):
    path = tmp_path / "mask.png"
    with Pictures({"mask": path}) as made:
        made.add(*frames)
        made.finish()
        (part,) = tmp_path.iterdir()
        drawn_before = part.read_bytes()
        assert not path.exists()
        made.commit()
    assert path.read_bytes() == drawn_before and list(tmp_path.iterdir()) == [path]


KILLED = """
import os, sys, pathlib, numpy
from ft import pictures
pictures.PAGE_FRAMES = 4
made = pictures.Pictures({"mask": pathlib.Path(sys.argv[1])}).__enter__()
made.add(numpy.ones((2, 9, 5), numpy.float32), numpy.ones((2, 9, 5), numpy.complex64))
os._exit(9)
"""


def test_what_a_killed_run_left_is_removed(tmp_path):
    path = tmp_path / "mask.png"
    for clean in (lambda: remove_parts([path]), lambda: drawn(tmp_path, *[np.ones((2, 3, 5), np.float32)] * 2)):
        assert subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False).returncode == 9
        assert [part.suffix for part in tmp_path.iterdir()] == [".part", ".part"]
        clean()
        assert not list(tmp_path.glob("*.part")) and not list(tmp_path.glob(".ft-*"))


FULL = """
import resource, signal, sys, pathlib, numpy
from ft import pictures
from ft.errors import AudioError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
spec = numpy.ones((2, 3000, 65), numpy.complex64)
try:
    with pictures.Pictures({"vocals": pathlib.Path(sys.argv[1])}) as made:
        made.add(spec.real, spec)
except AudioError as error:
    print(error)
"""


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    path = tmp_path / "song" / "vocals.png"
    run = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    assert run.stdout == f"{path}: cannot write the picture: File too large\n" and run.stderr == ""
    assert not list(tmp_path.iterdir())


def test_a_picture_whose_place_is_a_folder_is_an_error(frames, tmp_path):
    (tmp_path / "mask.png" / "inside").mkdir(parents=True)
    with pytest.raises(AudioError, match=r"mask\.png: cannot write the picture: Is a directory"):
        drawn(tmp_path, *frames)
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_without_pillow_the_message_is_the_line_that_installs_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigError, match=r"pip install 'frame-transformer\[plots\]'"):
        Pictures({"mask": tmp_path / "mask.png"})


def test_pictures_that_another_run_is_drawing_are_left_to_it(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "PAGE_FRAMES", 150)
    alone = drawn(tmp_path / "alone", *frames)
    folder = tmp_path / "song"
    files = {name: folder / f"{name}.png" for name in NAMES}
    mask, spec = frames
    with Pictures(files) as made:
        for part in (slice(0, 200), slice(200, None)):
            made.add(mask[:, part], spec[:, part])
            with (
                pytest.raises(AudioError, match=r"instrumental\.png: another run is writing it; wait for it"),
                Pictures(files),
            ):
                pass
            remove_parts(files.values())  # which leaves alone what is in use
        made.commit()
    expected = {path.name: path.read_bytes() for pages in alone.pages.values() for path in pages}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected and len(expected) > 3


@pytest.mark.parametrize("is_whole", [True, False])
def test_pages_of_a_longer_song_before_go_with_it_and_no_others(frames, tmp_path, monkeypatch, is_whole):
    monkeypatch.setattr(pictures, "PAGE_FRAMES", 100)
    mask, spec = frames
    pages = len(drawn(tmp_path, mask, spec).pages["mask"])
    assert pages == 4
    others = {"mask.0.png", "mask.02.png", "mask.2.jpg", "mask2.2.png", "Mask.2.png", "mask.9.png", "mask.x.2.png"}
    for name in others:
        (tmp_path / name).touch()
    with Pictures({name: tmp_path / f"{name}.png" for name in NAMES}) as made:
        made.add(mask[:, :150], spec[:, :150])
        made.finish()
        if is_whole:
            made.commit()
    left = {path.name for path in tmp_path.iterdir()} - others
    numbers = ("", ".2") if is_whole else ("", ".2", ".3", ".4")
    assert left == {f"{name}{number}.png" for name in NAMES for number in numbers}
    assert all((tmp_path / name).exists() for name in others)


def test_drawing_can_be_stopped(frames, tmp_path):
    """At any block, and nothing is left then."""
    calls = 0

    def stops() -> None:
        nonlocal calls
        calls += 1
        if calls == limit:
            raise Cancelled("stop")

    for limit in (1, 2, 3, 5):
        calls = 0
        with pytest.raises(Cancelled), Pictures({name: tmp_path / "new" / f"{name}.png" for name in NAMES}) as made:
            made.add(*frames)
            made.finish(stops)
        assert calls == limit and not list(tmp_path.iterdir())


def test_a_name_that_cannot_be_given_leaves_no_page(frames, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "PAGE_FRAMES", 150)
    place, placed = pictures.Claim.place, []

    def fails(claim, part, path):
        if len(placed) == 7:
            raise OSError(5, "Input/output error")
        place(claim, part, path)
        placed.append(path)

    monkeypatch.setattr(pictures.Claim, "place", fails)
    with pytest.raises(AudioError, match="Input/output error"):
        drawn(tmp_path / "new", *frames)
    assert len(placed) == 7 and not list(tmp_path.iterdir())
