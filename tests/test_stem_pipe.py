"""One stem as a stream: what its bytes are, when they come, and what becomes of a reader that goes away."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from stems import noise

from ft.errors import EngineError
from ft.songs.writer import StemPipe

HEADER = 44


def decoded(data: bytes, encoding: str, channels: int) -> np.ndarray:
    """Samples (channels, samples) of bare ones, at full scale 1."""
    if encoding == "24":
        values = np.frombuffer(data, np.uint8).reshape(-1, 3)
        values = np.pad(values, ((0, 0), (1, 0))).view("<i4")[:, 0] / 2**31
    else:
        values = np.frombuffer(data, {"16": "<i2", "s16le": "<i2"}.get(encoding, "<f4"))
        values = values / (2**15 if "16" in encoding else 1)
    return values.reshape(-1, channels).T


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(
    ("encoding", "step"), [("16", 2**-15), ("24", 2**-23), ("float", 0), ("f32le", 0), ("s16le", 2**-15)]
)
def test_the_stem_comes_out_after_at_most_one_header(encoding, step, channels):
    stream, waveform = io.BytesIO(), noise(3001, channels)
    pipe = StemPipe(stream, "vocals", channels, 44100, encoding)
    for start in range(0, 3001, 700):
        pipe.write({"vocals": waveform[:, start : start + 700], "instrumental": noise(700, channels, 1)})
    data = stream.getvalue()
    if encoding not in ("f32le", "s16le"):
        assert data[:4] == b"RIFF" and data[4:8] == data[40:44] == b"\xff\xff\xff\xff"
        assert int.from_bytes(data[24:28], "little") == 44100 and data[22] == channels
        data = data[HEADER:]
    assert np.abs(decoded(data, encoding, channels) - waveform).max() <= step / 2
    assert (pipe.clipped, pipe.samples) == (0, 3001)


def test_other_programs_read_the_stream():
    import av

    stream, waveform = io.BytesIO(), noise(5000)
    pipe = StemPipe(stream, "vocals", 2, 44100, "float")
    pipe.write({"vocals": waveform})
    stream.seek(0)
    with av.open(stream, format="wav") as file:
        found = np.concatenate([frame.to_ndarray().reshape(-1, 2).T for frame in file.decode(audio=0)], axis=1)
    assert np.array_equal(found, waveform)


@pytest.mark.parametrize(("encoding", "clipped"), [("16", 4), ("24", 4), ("s16le", 4), ("float", 0), ("f32le", 0)])
def test_integers_hold_values_at_full_scale_and_count_those_beyond(encoding, clipped):
    block = np.float32([[0, 1, -1, 1.5, -9], [1, 1.0001, 0.5, -2, -1]])
    stream = io.BytesIO()
    pipe = StemPipe(stream, "vocals", 2, 8000, encoding)
    pipe.write({"vocals": block})
    found = decoded(stream.getvalue()[0 if encoding.endswith("le") else HEADER :], encoding, 2)
    expected = np.clip(block, -1, 1) if clipped else block
    np.testing.assert_allclose(found, expected, atol=2**-15)
    assert np.array_equal(np.sign(found), np.sign(block))
    assert pipe.clipped == clipped


def test_each_block_leaves_at_once():
    """A reader gets the first block, header and all, before the second is written; also through Python's own buffer."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as reader, os.fdopen(write, "wb") as writer:
        pipe = StemPipe(writer, "vocals", 2, 8000, "16")
        for number in range(3):
            pipe.write({"vocals": noise(100)})
            assert len(os.read(reader.fileno(), 1 << 16)) == 400 + (HEADER if number == 0 else 0)


def test_more_than_a_pipe_holds_waits_for_the_reader():
    """Also where the pipe is one that does not block by itself."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    waveform = noise(200_000)
    with os.fdopen(read, "rb") as reader:
        found: list[bytes] = []
        thread = threading.Thread(target=lambda: found.append(reader.read()))
        thread.start()
        with os.fdopen(write, "wb") as writer:
            StemPipe(writer, "vocals", 2, 8000, "f32le").write({"vocals": waveform})
        thread.join()
    assert np.array_equal(decoded(found[0], "f32le", 2), waveform)


SCRIPT = """
import sys
import numpy as np
from ft.errors import FtError
from ft.songs.writer import StemPipe
pipe = StemPipe(sys.stdout.buffer, "vocals", 2, 8000, "16")
try:
    for _ in range(100):
        pipe.write({"vocals": np.zeros((2, 10_000), np.float32)})
except FtError as error:
    print("ft:", error, file=sys.stderr)
    sys.exit(1)
"""


def started(**streams) -> subprocess.Popen:
    command = [sys.executable, "-W", "error", "-c", SCRIPT]
    return subprocess.Popen(command, stderr=subprocess.PIPE, cwd=Path(__file__).parents[1], **streams)


def test_a_reader_that_goes_away_ends_it_in_one_line():
    process = started(stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.read(100_000)
    process.stdout.close()
    errors = process.stderr.read().decode()
    assert process.wait(timeout=30) == 1
    assert errors.count("\n") == 1 and errors.startswith("ft: stdout: the reader went away before the end"), errors
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a disk that is always full")
def test_a_full_disk_ends_it_in_one_line():
    with Path("/dev/full").open("wb") as full:
        _, errors = started(stdout=full).communicate(timeout=30)
    assert errors.decode() == "ft: stdout: cannot write: No space left on device\n"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_do_not_go_out(value):
    stream = io.BytesIO()
    block = noise(10)
    block[0, 3] = value
    with pytest.raises(EngineError, match="stdout: vocals has values that are not finite"):
        StemPipe(stream, "vocals", 2, 8000, "f32le").write({"vocals": block})
    assert stream.getvalue() == b""
