"""Stem files: what is written, and that nothing is left half done."""

import errno
import os
import re
import subprocess
import sys
import threading
import time
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

import ft.parts
import ft.stem_files
import ft.wav_file
from ft.audio import BLOCK_SAMPLES, AudioInfo, read_audio
from ft.errors import AudioError, Cancelled, EngineError
from ft.formats import stem_format
from ft.ogg import set_serial
from ft.options import SeparateOptions
from ft.stem_files import StemWriter, remove_parts
from ft.stem_part import part_paths
from ft.tags import Tags

ROOT = Path(__file__).parents[1]
STEMS = ("vocals", "instrumental")
KINDS = [("wav", "16"), ("wav", "24"), ("wav", "float"), ("flac", "16"), ("flac", "24")]
KINDS += [("ogg", None), ("opus", None), ("mp3", None)]


def noise(samples: int, channels: int = 2, seed: int = 0) -> np.ndarray:
    return (0.2 * np.random.default_rng(seed).standard_normal((channels, samples))).astype(np.float32)


def writer_of(folder, name="wav", bit_depth="16", channels=2, rate=8000, stems=STEMS, **changes) -> StemWriter:
    info = AudioInfo(Path("song.wav"), rate, channels, 1, "16")
    format = stem_format(SeparateOptions(format=name, bit_depth=bit_depth), info)
    return StemWriter({stem: folder / f"{stem}.{name}" for stem in stems}, channels, rate, format, **changes)


def written(writer: StemWriter, stems, step: int = 7777) -> dict[str, Path]:
    with writer:
        for start in range(0, next(iter(stems.values())).shape[1], step):
            writer.write({stem: waveform[:, start : start + step] for stem, waveform in stems.items()})
        writer.commit()
    return writer.files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["wav", "flac"])
@pytest.mark.parametrize(("bit_depth", "subtype", "step"), [("16", "PCM_16", 2**-15), ("24", "PCM_24", 2**-23)])
def test_integer_stems_are_rounded_to_the_nearest_step_of_their_own_scale(tmp_path, name, bit_depth, subtype, step):
    stems = {"vocals": noise(100_000), "instrumental": noise(100_000, seed=1)}
    writer = writer_of(tmp_path / "song", name, bit_depth, rate=44100)
    for stem, path in written(writer, stems).items():
        assert soundfile.info(path).subtype == subtype and soundfile.info(path).samplerate == 44100
        found, _ = soundfile.read(path, dtype="float64", always_2d=True)
        assert np.abs(found.T - stems[stem]).max() <= step / 2
    assert writer.gain == 1
    assert names(tmp_path / "song") == [f"instrumental.{name}", f"vocals.{name}"]


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_16_bit_input_comes_back_bit_for_bit(tmp_path, name):
    steps = np.arange(-(2**15), 2**15, dtype=np.int16)
    soundfile.write(tmp_path / "a.wav", steps, 8000)
    waveform, _ = read_audio(tmp_path / "a.wav")
    stems = {"vocals": waveform, "instrumental": np.zeros_like(waveform)}
    files = written(writer_of(tmp_path / "song", name, channels=1), stems)
    assert np.array_equal(soundfile.read(files["vocals"], dtype="int16")[0], steps)


@pytest.mark.parametrize(("name", "bit_depth"), KINDS)
@pytest.mark.parametrize("channels", [1, 2])
def test_rate_channels_and_length_are_kept(tmp_path, name, bit_depth, channels):
    """Of one sample, of odd lengths, and around the frames of the encoders."""
    for samples in (1, 2, 575, 576, 1151, 4097, 24001):
        waveform = noise(samples, channels)
        writer = writer_of(tmp_path, name, bit_depth, channels, 48000, ("vocals",))
        path = written(writer, {"vocals": waveform})["vocals"]
        found, rate = read_audio(path)
        assert (found.shape, rate) == (waveform.shape, 48000)
        if name in ("wav", "flac"):
            step = {"16": 2**-15, "24": 2**-23, "float": 0}[bit_depth]
            assert np.abs(found - waveform).max() <= step / 2


@given(samples=st.integers(1, 3000), rate=st.sampled_from([1000, 11025, 37800, 44100, 96000, 768_000]))
@settings(max_examples=40, deadline=None)
@pytest.mark.parametrize("name", ["opus", "mp3", "ogg"])
def test_a_rate_the_format_cannot_hold_gives_the_length_at_the_nearest(tmp_path_factory, name, samples, rate):
    writer = writer_of(tmp_path_factory.mktemp("song"), name, None, 1, rate, ("vocals",))
    path = written(writer, {"vocals": noise(samples, 1)}, 997)["vocals"]
    info = soundfile.info(path)
    expected = max(int(samples * info.samplerate / rate + 0.5), 1)
    assert (info.samplerate, info.frames) == (writer.format.sample_rate, expected)


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3"])
@pytest.mark.parametrize("channels", [1, 2])
def test_lossy_stems_begin_at_the_same_sample_and_sound_like_it(tmp_path, example, name, channels):
    waveform = read_audio(example / "mixture.flac")[0][:channels, 200_000:300_000]
    path = written(writer_of(tmp_path, name, None, channels, 44100, ("vocals",)), {"vocals": waveform})["vocals"]
    found, rate = read_audio(path)
    if rate != 44100:
        import soxr

        waveform = soxr.resample(waveform.T, 44100, rate, "VHQ").T.reshape(channels, -1)
    assert found.shape == waveform.shape

    def error(shift: int) -> float:
        part = slice(5000, -5000)
        return float(np.square(np.roll(found, shift, 1)[:, part] - waveform[:, part]).mean())

    power = float(np.square(waveform).mean())
    assert error(0) < 0.02 * power
    assert all(error(0) < error(shift) for shift in (-2, -1, 1, 2))


@pytest.mark.parametrize(("name", "bit_depth"), KINDS)
def test_the_same_stems_give_the_same_bytes(tmp_path, name, bit_depth):
    block, bytes_ = {"vocals": noise(30_000), "instrumental": noise(30_000, seed=1)}, []
    tags = Tags({"TITLE": ("Caesium",)})
    for folder in ("a", "b"):
        files = written(writer_of(tmp_path / folder, name, bit_depth, rate=48000, tags=tags), block)
        bytes_.append([path.read_bytes() for path in files.values()])
    assert bytes_[0] == bytes_[1]
    assert bytes_[0][0] != bytes_[0][1]


def test_what_would_clip_is_lowered_by_one_gain_for_all_stems(tmp_path):
    stems = {"vocals": 4 * noise(5000), "instrumental": noise(5000, seed=1)}
    peak = np.abs(stems["vocals"]).max()
    assert peak > 1
    for name, bit_depth, gain in (("wav", "16", 1 / peak), ("flac", "24", 1 / peak), ("wav", "float", 1)):
        writer = writer_of(tmp_path / bit_depth, name, bit_depth)
        for stem, path in written(writer, stems).items():
            np.testing.assert_allclose(read_audio(path)[0], gain * stems[stem], atol=5e-5)
        assert writer.gain == pytest.approx(gain)


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3"])
def test_lossy_stems_are_lowered_too_as_their_encoders_would_clip(tmp_path, name):
    tone = np.sin(2 * np.pi * 440 / 48000 * np.arange(48000, dtype=np.float32))[None]
    stems = {"vocals": 2 * tone, "instrumental": 0.5 * tone}
    writer = writer_of(tmp_path, name, None, 1, 48000)
    files = written(writer, stems)
    assert writer.gain == pytest.approx(0.5)
    for stem, path in files.items():
        found = read_audio(path)[0][:, 4800:-4800]
        assert np.abs(found).max() == pytest.approx(np.abs(stems[stem]).max() / 2, rel=0.03)


def test_the_peak_counts_at_the_rate_of_the_file(tmp_path):
    """Full scale squares overshoot when they are resampled; that is what would clip."""
    square = np.tile(np.repeat(np.float32([1, -1]), 50), (1, 100))
    writer = writer_of(tmp_path, "opus", None, 1, 44100, ("vocals",))
    written(writer, {"vocals": square})
    assert writer.peaks["vocals"] > 1.05 and writer.gain == pytest.approx(1 / writer.peaks["vocals"])


def test_full_scale_does_not_count_as_clipping(tmp_path):
    square = np.tile(np.float32([1, -1]), (2, 100))
    writer = writer_of(tmp_path / "song")
    files = written(writer, {"vocals": square, "instrumental": 0 * square})
    assert writer.gain == 1
    np.testing.assert_allclose(read_audio(files["vocals"])[0], square, atol=2**-15)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "bit_depth"), [("wav", "16"), ("wav", "float"), ("opus", None)])
def test_values_that_are_not_finite_never_become_a_file(tmp_path, value, name, bit_depth):
    """Not through a resampler either."""
    block = noise(100)
    block[1, 50] = value
    writer = writer_of(tmp_path / "song", name, bit_depth, rate=44100)
    with pytest.raises(EngineError, match=r"vocals\.\w+: values that are not finite"):
        written(writer, {"vocals": block, "instrumental": noise(100)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "bit_depth", "rate"), [("wav", "16", 8000), ("flac", "24", 8000), ("opus", None, 44100)]
)
def test_a_stem_alone_is_the_file_that_it_is_beside_the_other(tmp_path, name, bit_depth, rate):
    """At the level that both get, where the other one would clip: so the stems of two runs make up the mixture."""
    stems = {"vocals": noise(20_000), "instrumental": np.tile(np.repeat(np.float32([1, -1]), 50), (2, 200))}
    if rate == 8000:
        stems["instrumental"] *= 1.5
    both = writer_of(tmp_path / "both", name, bit_depth, rate=rate)
    together = written(both, stems)
    assert both.gain < 0.99 and both.peaks["vocals"] < 1
    for stem, path in together.items():
        alone = writer_of(tmp_path / stem, name, bit_depth, rate=rate, stems=(stem,))
        assert written(alone, stems)[stem].read_bytes() == path.read_bytes()
        assert names(tmp_path / stem) == [f"{stem}.{name}"]
        assert (alone.gain, alone.peaks) == (both.gain, both.peaks)


@pytest.mark.parametrize(("name", "bit_depth"), [("wav", "16"), ("wav", "24"), ("flac", "16"), ("mp3", None)])
def test_writing_can_be_stopped_at_any_moment(tmp_path, name, bit_depth):
    """Before each block of each stem, from the thread that asked for the files; nothing is left then."""
    calls, limit, threads = 0, -1, set()

    def check() -> None:
        nonlocal calls
        calls += 1
        threads.add(threading.current_thread())
        if calls == limit:
            raise Cancelled("stop")

    block = {stem: noise(4 * BLOCK_SAMPLES) for stem in STEMS}
    with writer_of(tmp_path / "whole", name, bit_depth, rate=48000) as writer:
        writer.write(block)
        writer.commit(check)
    assert calls >= (4 if name == "mp3" else 10) and threads == {threading.current_thread()}
    for last in (1, 2, 3, calls if name != "mp3" else 4):
        calls, limit = 0, last
        with writer_of(tmp_path / "new" / "song", name, bit_depth, rate=48000) as writer:
            writer.write(block)
            with pytest.raises(Cancelled):
                writer.commit(check)
        assert names(tmp_path) == ["whole"]


def test_parts_grow_beside_the_final_place_and_names_come_at_the_end(tmp_path):
    folder = tmp_path / "song"
    block = noise(100_000)
    for bit_depth, kept in (("16", 2), ("float", 1)):
        with writer_of(folder, bit_depth=bit_depth) as writer:
            parts = sorted(part.name for path in writer.files.values() for part in part_paths(path)[:kept])
            sizes = []
            for _ in range(3):
                writer.write({"vocals": block, "instrumental": block})
                assert [name for name in names(folder) if name not in ("vocals.wav", "instrumental.wav")] == parts
                sizes.append((folder / parts[kept - 1]).stat().st_size)
            assert sizes == sorted(sizes) and sizes[0] < sizes[2]
            writer.commit()
        assert names(folder) == ["instrumental.wav", "vocals.wav"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("bit_depth", ["16", "float"])
def test_what_ends_early_leaves_nothing(tmp_path, error, bit_depth):
    with pytest.raises(error), writer_of(tmp_path / "new" / "song", bit_depth=bit_depth) as writer:
        writer.write({"vocals": noise(10), "instrumental": noise(10)})
        raise error
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_before_stays_until_the_new_is_whole(tmp_path):
    (tmp_path / "vocals.wav").write_text("old")
    with pytest.raises(ValueError), writer_of(tmp_path) as writer:
        writer.write({"vocals": noise(10), "instrumental": noise(10)})
        raise ValueError
    assert names(tmp_path) == ["vocals.wav"]
    assert (tmp_path / "vocals.wav").read_text() == "old"


@pytest.mark.parametrize("method", ["encode", "check", "settle", "move"])
def test_a_failure_in_one_stem_leaves_neither(tmp_path, monkeypatch, method):
    owner, name = (ft.stem_files, "move_into_place") if method == "move" else (ft.stem_files.StemPart, method)
    works = getattr(owner, name)

    def fails_for_the_second(first, *others):
        path = others[0] if method == "move" else first.path
        if path.name.startswith("instrumental"):
            raise OSError(28, "No space left on device")
        works(first, *others)

    monkeypatch.setattr(owner, name, fails_for_the_second)
    with pytest.raises(AudioError, match=r"instrumental\.wav: cannot write: No space left on device"):
        written(writer_of(tmp_path / "song"), {"vocals": noise(10), "instrumental": noise(10)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
@pytest.mark.parametrize("failing", STEMS)
def test_encoders_of_other_stems_stop_when_one_fails(tmp_path, monkeypatch, error, failing):
    """Not at their ends: that may be minutes away."""
    encode, stopped = ft.stem_files.StemPart.encode, []

    def fails(part, gain):
        if part.path.name.startswith(failing):
            raise error
        try:
            encode(part, gain)
        except Cancelled as cancelled:
            stopped.append(cancelled)
            raise

    monkeypatch.setattr(ft.stem_files.StemPart, "encode", fails)
    block = noise(2_000_000)
    with writer_of(tmp_path / "song", "mp3", None, 2, 48000) as writer:
        writer.write({"vocals": block, "instrumental": block})
        with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else AudioError):
            writer.commit()
    assert len(stopped) == 1
    assert list(tmp_path.iterdir()) == []


LIMITED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_stem_files import noise, writer_of, written
import ft.stem_files
from ft.errors import FtError
from ft.stem_files import StemPart
from ft.tags import Cover, Tags, write_tags

folder, name, depth, size = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
encode = StemPart.encode
limits = []

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))

def limited_encode(part, gain):
    if limits:
        limit(limits[0])
    encode(part, gain)
    if not limits:
        limit(part.part.stat().st_size + 5000)

StemPart.encode = limited_encode
cover = Cover(b"\\xff\\xd8\\xff" + bytes(200_000), "image/jpeg")
for first, limits, tags in (
    (40_000, [40_000], None),  # the raw part
    (hard, [4000], None),  # what an encoder writes as it goes
    (hard, [size - 700], None),  # or when it is closed, of which libsndfile is silent
    (hard, [size - 1], None),
    (hard, [], Tags({{"TITLE": ("x",)}}, cover)),
):
    try:
        limit(limits[0] if limits and depth == "float" else first)  # which has no encoder
        writer = writer_of(folder / "new", name, None if depth == "None" else depth, 2, 48000, ("vocals",), tags=tags)
        written(writer, {{"vocals": noise(60_000)}})
        sys.stderr.write("no error\\n")
    except FtError as error:
        sys.stderr.write(f"ft: {{error}}\\n")
"""


REFUSED = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_stem_files import noise, writer_of, written
import ft.stem_part
from ft.errors import AudioError

ft.stem_part.require_room = lambda part: None  # as where another process made room just then
encode, (_, hard) = ft.stem_part.StemPart.encode, resource.getrlimit(resource.RLIMIT_FSIZE)

def limited(part, gain):
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    encode(part, gain)

ft.stem_part.StemPart.encode = limited
for name in ("flac", "ogg", "opus", "mp3"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    try:
        writer = writer_of(Path(sys.argv[1]) / "new", name, None, 2, 48000)
        written(writer, {{"vocals": noise(60_000), "instrumental": noise(60_000)}})
    except AudioError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of the size of files")
def test_what_the_system_says_is_told_where_libsndfile_does_not(tmp_path):
    script = REFUSED.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-c", script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and all(line.endswith(": cannot write: File too large") for line in lines)
    assert done.stderr == "" and names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit of the size of files")
@pytest.mark.parametrize(("name", "bit_depth"), KINDS)
def test_a_disk_that_fills_up_leaves_one_line_and_nothing_else(tmp_path, name, bit_depth):
    """Wherever it does, tags included; never a traceback of a callback, nor a word of a decoder given half a file."""
    files = written(writer_of(tmp_path / "a", name, bit_depth, 2, 48000, ("v",)), {"v": noise(60_000)})
    script = LIMITED.format(tests=str(Path(__file__).parent))
    command = [sys.executable, "-W", "error", "-c", script, tmp_path, name, bit_depth, files["v"].stat().st_size]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    expected = f"ft: {tmp_path / 'new' / 'vocals'}.{name}: cannot write: File too large\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "", 5 * expected)
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["ogg", "opus"])
def test_serial_numbers_are_those_of_the_sound_on_every_page(tmp_path, name):
    """And the pages are still whole to one who looks at their checksums."""
    from mutagen.ogg import OggPage

    path = written(writer_of(tmp_path, name, None, 1, 48000, ("v",)), {"v": noise(100_000, 1)})["v"]
    serials = []
    for serial in (None, 0, 0xFFFF_FFFF):
        if serial is not None:
            set_serial(path, serial)
        with path.open("rb") as file:
            pages = []
            while file.tell() < path.stat().st_size:
                start = file.tell()
                pages.append(OggPage(file))
                file.seek(start)
                assert file.read(pages[-1].size) == pages[-1].write()
        serials.append({page.serial for page in pages})
        assert len(pages) > 3 and read_audio(path)[0].shape == (1, 100_000)
    assert len(serials[0]) == 1 and serials[1:] == [{0}, {0xFFFF_FFFF}]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(AudioError, match="not made of whole Ogg pages"):
        set_serial(path, 1)


@pytest.mark.parametrize("name", ["flac", "ogg", "opus", "mp3"])
def test_a_file_that_an_encoder_left_incomplete_never_gets_its_name(tmp_path, monkeypatch, name):
    """Whatever the reason may be: 400 bytes are missing at the end."""
    encode = ft.stem_files.StemPart.encode

    def forgets(part, gain):
        encode(part, gain)
        os.truncate(part.part, part.part.stat().st_size - 400)

    monkeypatch.setattr(ft.stem_files.StemPart, "encode", forgets)
    with pytest.raises(AudioError, match=r"vocals\.\w+: (not whole after writing|cannot write)"):
        written(writer_of(tmp_path / "song", name, None, 2, 48000, ("vocals",)), {"vocals": noise(60_000)})
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(AudioError, match=r"song: cannot write there: Not a directory"),
        writer_of(tmp_path / "file" / "song"),
    ):
        pass
    assert names(tmp_path) == ["file"]


def test_a_folder_in_the_place_of_a_file_is_named_before_anything_is_made(tmp_path):
    (tmp_path / "instrumental.wav").mkdir()
    with (
        pytest.raises(AudioError, match=r"instrumental\.wav: is a folder; expected to write a file"),
        writer_of(tmp_path),
    ):
        pass
    assert names(tmp_path) == ["instrumental.wav"]


def test_names_may_be_as_long_as_the_file_system_allows_and_not_longer(tmp_path):
    format = stem_format(SeparateOptions(), AudioInfo(Path("a"), 8000, 1, 1, "16"))
    longest = tmp_path / "song" / ("ä" * 125 + "b.wav")
    assert len(os.fsencode(longest.name)) == 255
    written(StemWriter({"vocals": longest}, 1, 8000, format), {"vocals": noise(10, 1)})
    assert names(tmp_path / "song") == [longest.name]
    too_long = tmp_path / "new" / f"b{longest.name}"
    with pytest.raises(AudioError, match=r"bä+b\.wav: cannot write: File name too long"):
        written(StemWriter({"vocals": too_long}, 1, 8000, format), {"vocals": noise(10, 1)})
    with pytest.raises(AudioError, match=r"File name too long"):
        written(StemWriter({"vocals": tmp_path / "new" / ("c" * 256) / "v.wav"}, 1, 8000, format), {})
    assert names(tmp_path) == ["song"]


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
@pytest.mark.parametrize(("name", "bit_depth"), KINDS)
def test_names_that_are_no_text_are_written(tmp_path, name, bit_depth):
    folder = tmp_path / os.fsdecode(b"caf\xe9 \xff")
    writer = writer_of(folder, name, bit_depth, rate=48000, tags=Tags({"TITLE": ("x",)}))
    files = written(writer, {"vocals": noise(5000), "instrumental": noise(5000)})
    assert names(folder) == sorted(path.name for path in files.values()) and writer.warnings == []


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path):
    script = (
        f"import os, sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "from test_stem_files import noise, writer_of\n"
        "for folder, depth in (('a', '16'), ('b', 'float')):\n"
        "    writer = writer_of(Path(sys.argv[1]) / folder, bit_depth=depth)\n"
        "    writer.__enter__()\n"
        "    writer.write({'vocals': noise(10), 'instrumental': noise(10)})\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT)
    for folder, count in ((tmp_path / "a", 4), (tmp_path / "b", 2)):
        left = names(folder)
        assert len(left) == count and all(name.startswith(".ft-") and name.endswith(".part") for name in left)
        (folder / "mine.part").touch()
        (folder / "vocals.wav").touch()
        remove_parts([folder / "vocals.wav", folder / "instrumental.wav"])
        assert names(folder) == ["mine.part", "vocals.wav"]


KILLED = """
import os, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_stem_files import noise, writer_of, written
import ft.stem_files
from ft.tags import Tags

def killing(work):
    def killed(*arguments):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return work(*arguments)
    return killed

steps = [(ft.stem_files, "write_tags"), (ft.stem_files, "move_into_place")]
for method in ("open", "write", "finish", "encode", "check", "remove_raw", "settle"):
    steps.append((ft.stem_files.StemPart, method))
for owner, method in steps:
    setattr(owner, method, killing(getattr(owner, method)))
tags = Tags({{"TITLE": ("x",)}})
for left in range(100):
    process = os.fork()
    if process == 0:
        stems = {{"vocals": noise(5000), "instrumental": noise(5000, seed=1)}}
        writer = writer_of(Path(sys.argv[1]) / str(left), sys.argv[2], sys.argv[3], rate=48000, tags=tags)
        written(writer, stems, 2500)
        os._exit(0)
    if os.waitpid(process, 0)[1] == 0:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that are killed are forks of one")
@pytest.mark.parametrize(("name", "bit_depth"), [("wav", "float"), ("flac", "16")])
def test_a_run_that_is_killed_at_any_moment_leaves_whole_files_and_parts_that_are_found(tmp_path, name, bit_depth):
    script = KILLED.format(tests=str(Path(__file__).parent))
    subprocess.run([sys.executable, "-c", script, str(tmp_path), name, bit_depth], check=True, cwd=ROOT)
    *killed, whole = sorted(tmp_path.iterdir(), key=lambda path: int(path.name))
    files = [whole / f"{stem}.{name}" for stem in STEMS]
    assert names(whole) == sorted(path.name for path in files)
    before, between = set(), 0
    for folder in killed:
        before |= set(names(folder))
        remove_parts([folder / path.name for path in files])
        left = names(folder)
        between += len(left) == 1
        for found in left:
            assert (folder / found).read_bytes() == (whole / found).read_bytes()
    assert len(killed) > 15 and between == 1 and any(part.endswith(".part") for part in before)


def test_songs_of_several_threads_do_not_take_each_others_folders(tmp_path):
    """One song after another fails beside those that are written below the same new folder."""
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(40):
                with writer_of(tmp_path / "out" / f"{number % 2}" / f"{number}-{turn}") as writer:
                    writer.write({"vocals": noise(10), "instrumental": noise(10)})
                    if number < 2:
                        writer.commit()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(list(tmp_path.rglob("*.wav"))) == 160 and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("bit_depth", ["16", "24", "float"])
def test_sound_too_long_for_wav_becomes_rf64(tmp_path, monkeypatch, bit_depth):
    monkeypatch.setattr(ft.wav_file, "_LIMIT", 1000)
    for samples, expected in ((100, "WAV"), (1001, "RF64")):
        waveform = noise(samples, 1)
        files = written(writer_of(tmp_path, bit_depth=bit_depth, channels=1, stems=("v",)), {"v": waveform})
        assert soundfile.info(files["v"]).format == expected
        np.testing.assert_allclose(read_audio(files["v"])[0], waveform, atol=2**-15)


@pytest.mark.parametrize(("bit_depth", "size"), [("16", 44), ("24", 44)])
def test_the_header_of_integers_is_the_plain_one(tmp_path, bit_depth, size):
    """44 bytes, which every program reads, Python's own module among them."""
    waveform = noise(101, 1)
    path = written(writer_of(tmp_path, bit_depth=bit_depth, channels=1, stems=("v",)), {"v": waveform})["v"]
    width = int(bit_depth) // 8
    assert path.stat().st_size == size + 101 * width + 101 * width % 2
    with wave.open(str(path)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, width, 8000)
        assert file.getnframes() == 101


def test_other_programs_read_float_wav_and_rf64(tmp_path, monkeypatch):
    import av

    for limit in (1 << 32, 1000):
        monkeypatch.setattr(ft.wav_file, "_LIMIT", limit)
        waveform = 3 * noise(5001)
        path = written(writer_of(tmp_path, bit_depth="float", stems=("v",)), {"v": waveform})["v"]
        with av.open(str(path)) as file:
            blocks = [frame.to_ndarray().reshape(-1, 2).T for frame in file.decode(audio=0)]
        assert np.array_equal(np.concatenate(blocks, axis=1), waveform)


# ----------------------------------------------------------------------------------------- several runs with one output

OTHER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_stem_files import noise, writer_of
from ft.errors import AudioError

writer = writer_of(Path(sys.argv[1]), sys.argv[2], sys.argv[3] or None, rate=48000)
try:
    with writer:
        print("begun", flush=True)
        sys.stdin.readline()
        writer.write({{"vocals": noise(5000, seed=2), "instrumental": noise(5000, seed=3)}})
        writer.commit()
except AudioError as error:
    print(error, flush=True)
"""


@pytest.mark.parametrize(("name", "bit_depth"), [("wav", "16"), ("wav", "float"), ("flac", "16"), ("opus", None)])
@pytest.mark.parametrize("other_first", [True, False])
def test_of_two_processes_that_write_the_same_files_one_is_told_and_one_wins(tmp_path, name, bit_depth, other_first):
    """At whatever moment the second comes: at once, or when the first has written sound."""
    folder, sound = tmp_path / "song", {"vocals": noise(5000), "instrumental": noise(5000, seed=1)}
    expected = [{"vocals": noise(5000, seed=2), "instrumental": noise(5000, seed=3)}, sound][not other_first]
    wanted = written(writer_of(tmp_path / "alone", name, bit_depth, rate=48000), expected)
    command = [sys.executable, "-c", OTHER.format(tests=str(Path(__file__).parent)), folder, name, bit_depth or ""]

    def start() -> tuple[subprocess.Popen, str]:
        process = subprocess.Popen(
            list(map(str, command)), cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        return process, process.stdout.readline()

    line = rf"instrumental\.{name}: another run is writing it; wait for it, or choose another -o\n?$"
    if other_first:
        process, said = start()
        assert said == "begun\n"
        before = names(folder)
        with pytest.raises(AudioError, match=line), writer_of(folder, name, bit_depth, rate=48000):
            pass
        remove_parts([folder / "vocals.x"])  # which leaves alone what is in use
        assert names(folder) == before
        process.communicate("\n", timeout=30)
    else:
        with writer_of(folder, name, bit_depth, rate=48000) as writer:
            writer.write({stem: block[:, :3000] for stem, block in sound.items()})
            process, said = start()
            assert re.search(line, said)
            process.communicate(timeout=30)
            writer.write({stem: block[:, 3000:] for stem, block in sound.items()})
            writer.commit()
    assert names(folder) == sorted(path.name for path in wanted.values())
    for path in wanted.values():
        assert (folder / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("name", "bit_depth"), [("wav", "float"), ("flac", "16")])
def test_of_threads_that_write_the_same_files_one_wins_whole(tmp_path, monkeypatch, name, bit_depth):
    """All begin at once, and none ends before all have."""
    monkeypatch.setattr(ft.parts, "_PAUSE", 0.001)
    folder, won, told = tmp_path / "new" / "song", [], []
    begun, tried = threading.Barrier(4), threading.Barrier(4)

    def work(seed: int) -> None:
        begun.wait(10)
        writer = writer_of(folder, name, bit_depth, stems=STEMS[:: 1 if seed % 2 else -1])
        try:
            with writer:
                tried.wait(10)
                writer.write({"vocals": noise(9000, seed=seed), "instrumental": noise(9000, seed=9 * seed)})
                writer.commit()
            won.append(seed)
        except AudioError as error:
            told.append(str(error))
            tried.wait(10)

    for turn in range(10):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(told)) == (turn + 1, 3 * (turn + 1))
        assert names(folder) == [f"instrumental.{name}", f"vocals.{name}"]
        np.testing.assert_allclose(read_audio(folder / f"vocals.{name}")[0], noise(9000, seed=won[-1]), atol=2**-15)
    assert all("another run is writing it" in line for line in told)


def test_who_fails_takes_away_nothing_of_who_came_after(tmp_path, monkeypatch):
    """A run that fails between two names removes the file it gave one, but not another run's of the same name."""
    move, later = ft.stem_files.move_into_place, {"vocals": noise(50, seed=7)}

    def fails(part, path):
        if path.name.startswith("instrumental"):
            monkeypatch.undo()
            written(writer_of(tmp_path, stems=("vocals",)), later)
            raise OSError(5, "Input/output error")
        move(part, path)

    monkeypatch.setattr(ft.stem_files, "move_into_place", fails)
    with pytest.raises(AudioError, match="Input/output"):
        written(writer_of(tmp_path), {"vocals": noise(10), "instrumental": noise(10)})
    assert names(tmp_path) == ["vocals.wav"]
    np.testing.assert_allclose(read_audio(tmp_path / "vocals.wav")[0], later["vocals"], atol=2**-15)


def test_where_there_are_no_locks_songs_are_written_and_parts_of_others_stay(tmp_path, monkeypatch, caplog):
    def refuses(descriptor):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(ft.parts, "_lock", refuses)
    other = tmp_path / ".ft-0123456789ab.part"
    other.write_bytes(b"of a run that may be alive")
    with caplog.at_level("DEBUG", "ft"):
        written(writer_of(tmp_path), {"vocals": noise(10), "instrumental": noise(10)})
    assert names(tmp_path) == [other.name, "instrumental.wav", "vocals.wav"]
    assert other.read_bytes() == b"of a run that may be alive"
    assert "cannot be locked" in caplog.text


def test_songs_of_one_folder_do_not_take_each_others_parts_for_those_of_killed_runs(tmp_path):
    """Each that begins looks for such parts; what was just made and is not locked yet is looked at again."""
    errors: list[Exception] = []

    def work(number: int) -> None:
        try:
            for turn in range(60):
                with writer_of(tmp_path, stems=(f"{number}-{turn}",), bit_depth=("16", "float")[turn % 2]) as writer:
                    writer.write({f"{number}-{turn}": noise(10)})
                    if turn % 3:
                        writer.commit()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(names(tmp_path)) == 4 * 40 and not list(tmp_path.glob(".ft-*"))


def test_parts_of_killed_runs_go_whatever_they_were_of(tmp_path):
    """Of other formats, copies and pictures, when a song is begun in their folder; not what only looks like one."""
    parts = [".ft-0123456789ab.part", ".ft-0123456789ab.raw.part", ".ft-cccccccccccc.raw.part"]
    parts += [".ft-aaaaaaaaaaaa.page.1.part", ".ft-aaaaaaaaaaaa.page.12.part", ".ft-bbbbbbbbbbbb.page.3.part"]
    others = [".ft-0123456789ab.part.wav", ".ft-0123456789.part", "x.part", ".ft-0123456789ab.other.part", ".ft-output"]
    for name in parts + others:
        (tmp_path / name).touch()
    with writer_of(tmp_path) as writer:
        own = {part.name for path in writer.files.values() for part in part_paths(path)}
        assert set(names(tmp_path)) == own | set(others)
        (tmp_path / parts[0]).touch()
        remove_parts([tmp_path / "any.wav"])
        assert not (tmp_path / parts[0]).exists()
    assert names(tmp_path) == sorted(others)
    remove_parts([tmp_path / "missing" / "a.wav"])


def test_parts_are_found_in_a_folder_that_had_none_before(tmp_path):
    """What is known of a folder is not believed once anything in it changed."""
    long_ago = time.time() - 100
    os.utime(tmp_path, (long_ago, long_ago))
    remove_parts([tmp_path / "a.wav"])
    (tmp_path / ".ft-0123456789ab.part").touch()
    remove_parts([tmp_path / "a.wav"])
    assert names(tmp_path) == []
