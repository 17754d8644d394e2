"""One function for each kind of file in the library; each writes files and returns what it wrote."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ft.library.sound import SAMPLE_RATE, read, without_silence, write
from ft.library.sources import SourceFile

MUSIC_SECONDS = 20.0
CLIPS_SECONDS = 120.0
CLIP_GAP_SECONDS = 0.12
CLIP_PEAK = 0.89


@dataclass(frozen=True)
class Written:
    """A file of the library. `path` is below it; `gain` is what kept the file from clipping."""

    path: str
    seconds: float
    bytes: int
    gain: float
    source: str
    licence: str


def save(library: Path, path: str, waveform: np.ndarray, source: str, licence: str, subtype: str = "PCM_16") -> Written:
    """Writes `(samples, channels)` to `path` below the library."""
    gain = write(waveform, library / path, subtype)
    return Written(path, round(len(waveform) / SAMPLE_RATE, 3), (library / path).stat().st_size, gain, source, licence)


def music(library: Path, path: str, track: Path, source: str, licence: str) -> list[Written]:
    """Writes a piece of music in stereo; nothing where it is shorter than 20 seconds. Removes `track`."""
    waveform = read(track)
    track.unlink()
    if len(waveform) < MUSIC_SECONDS * SAMPLE_RATE:
        return []
    stereo = np.repeat(waveform, 2, axis=1) if waveform.shape[1] == 1 else waveform[:, :2]
    return [save(library, path, stereo, source, licence)]


def voice(library: Path, folder: str, audio: Path, file: SourceFile) -> list[Written]:
    """Writes a voice as it is."""
    path = f"{folder}/{voice_name(file)}.wav"
    return [save(library, path, read(audio / file.path), file.path, file.licence)]


def voice_name(file: SourceFile) -> str:
    """`voices/vctk/p225.ogg` is `vctk_p225`."""
    return file.path.partition("/")[2].rpartition(".")[0].replace("/", "_")


def synthesised(library: Path, audio: Path, file: SourceFile, seconds: float, source: str) -> list[Written]:
    """Singing made from a recorded voice, in stereo; nothing where the voice cannot be used for it."""
    from ft.sing.singer import sing_songs

    recording = read(audio / file.path).mean(axis=1)
    sung = sing_songs(recording, SAMPLE_RATE, seconds, zlib.crc32(file.path.encode()), file.kind == "sung")
    if len(sung) == 0:
        return []
    path = f"train/vocals/synthesised/{voice_name(file)}.wav"
    return [save(library, path, sung, source, file.licence)]


def song(library: Path, audio: Path, name: str, licence: str) -> list[Written]:
    """Writes a song to train on: its instrumental, what that is made of, and its vocals without their pauses."""
    vocals, drums, other = (read(audio / f"eif/{name}/{stem}.ogg") for stem in ("vocals", "drums", "other"))
    folder, source = "train/instrumentals", f"eif/{name}"
    return [
        save(library, f"{folder}/eif/{name}.wav", drums + other, f"{source}/drums.ogg + other.ogg", licence),
        save(library, f"{folder}/eif_drums/{name}.wav", drums, f"{source}/drums.ogg", licence),
        save(library, f"{folder}/eif_other/{name}.wav", other, f"{source}/other.ogg", licence),
        save(library, f"train/vocals/eif/{name}.wav", without_silence(vocals), f"{source}/vocals.ogg", licence),
    ]


def crossed_song(library: Path, audio: Path, beat: str, tune: str, licence: str) -> list[Written]:
    """An instrumental that never was: the drums of one song under the rest of another, as long as the shorter."""
    drums, other = read(audio / f"eif/{beat}/drums.ogg"), read(audio / f"eif/{tune}/other.ogg")
    samples = min(len(drums), len(other))
    path = f"train/instrumentals/eif_cross/{beat}_drums_{tune}_other.wav"
    source = f"eif/{beat}/drums.ogg + eif/{tune}/other.ogg"
    return [save(library, path, drums[:samples] + other[:samples], source, licence)]


def pair(library: Path, folder: str, audio: Path, name: str, licence: str) -> list[Written]:
    """Writes a song as it is, in float: the mixture is exactly the sum of the stems."""
    vocals, drums, other = (read(audio / f"eif/{name}/{stem}.ogg") for stem in ("vocals", "drums", "other"))
    return _save_pair(library, f"{folder}/{name}", drums + other, vocals, f"eif/{name}/*.ogg", licence)


def mixed_song(
    library: Path, audio: Path, voice: SourceFile, track: str, level_db: float, start: float
) -> list[Written]:
    """A voice in the middle over a track of the library, in float, as a song with its stems; nothing is trained on it.

    Args:
        track: path below the library; what lies `start` seconds in, or its end where that is too near, is taken.
        level_db: the voice's RMS over the track's.
    """
    sung = np.repeat(read(audio / voice.path).mean(axis=1, keepdims=True), 2, axis=1)
    music = read(library / track)
    first = min(round(start * SAMPLE_RATE), max(len(music) - len(sung), 0))
    music = music[first : first + len(sung)]
    sung = sung[: len(music)]
    level = np.sqrt(np.mean(np.square(music)) / np.mean(np.square(sung))) * 10 ** (level_db / 20)
    vocals = (sung * level).astype(np.float32)
    folder, source = f"validation/mixed/{Path(track).stem}", f"{voice.path} + {track}"
    return _save_pair(library, folder, music, vocals, source, voice.licence)


def _save_pair(
    library: Path, folder: str, instrumental: np.ndarray, vocals: np.ndarray, source: str, licence: str
) -> list[Written]:
    waveforms = {"mixture": instrumental + vocals, "instrumental": instrumental, "vocals": vocals}
    return [
        save(library, f"{folder}/{part}.wav", waveform, source, licence, "FLOAT")
        for part, waveform in waveforms.items()
    ]


def clips(library: Path, folder: str, name: str, files: Sequence[Path], source: str, licence: str) -> list[Written]:
    """Short recordings of a voice one after the other, in mono, in files of about two minutes. Removes `files`."""
    gap = np.zeros((round(CLIP_GAP_SECONDS * SAMPLE_RATE), 1), np.float32)
    written: list[Written] = []
    parts: list[np.ndarray] = []
    for file in files:
        clip = without_silence(read(file).mean(axis=1, keepdims=True), -45.0, 0.25, 0.06)
        file.unlink()
        if len(clip):
            parts += [clip * np.float32(CLIP_PEAK / np.abs(clip).max()), gap]
        if parts and (sum(map(len, parts)) >= CLIPS_SECONDS * SAMPLE_RATE or file is files[-1]):
            path = f"{folder}/{name}_{len(written) + 1}.wav"
            written.append(save(library, path, np.concatenate(parts), source, licence))
            parts = []
    return written
