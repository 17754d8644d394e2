"""What a library is built from, in small: an audio folder, Debian packages and the list that names them."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import soundfile
import yaml

from ft.library.sources import Sources, load_sources

RATE = 44100
PACKAGE = "tunes_1.0_all.deb"


def make_deb(path: Path, files: dict[str, bytes]) -> None:
    """A Debian package that holds `files`, in this order."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:xz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    with path.open("wb") as file:
        file.write(b"!<arch>\n")
        for name, content in (("debian-binary", b"2.0\n"), ("data.tar.xz", data.getvalue())):
            file.write(f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode())
            file.write(content + b"\n" * (len(content) % 2))


def encoded(waveform: np.ndarray, sample_rate: int, suffix: str = "OGG") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, waveform, sample_rate, format=suffix, subtype="VORBIS", compression_level=0.0)
    return buffer.getvalue()


MIXED = {
    "voice": "vocadito/solo.wav",
    "level_db": -5,
    "start": 4,
    "tracks": ["train/instrumentals/tunes/tune.wav", "train/instrumentals/tunes/mono.wav"],
}


KEPT = ("pairs/kept", "mixed/tune", "mixed/mono")


class Material:
    """An audio folder, a folder of packages and the list that names them, all in small."""

    def __init__(self, folder: Path, example: Path) -> None:
        self.audio, self.packages, self.listed = folder / "audio", folder / "packages", folder / "sources.yaml"
        self.packages.mkdir(parents=True)
        mixture, _ = soundfile.read(example / "mixture.flac", dtype="float32", always_2d=True)
        vocals, _ = soundfile.read(example / "vocals.flac", dtype="float32", always_2d=True)
        groups = []
        for kind, songs in (("pair", ["kept"]), ("stem", ["one", "two"])):
            for number, song in enumerate(songs):
                for index, stem in enumerate(("vocals", "drums", "other")):
                    start = (2 * number + index) * RATE
                    self._put(f"eif/{song}/{stem}.ogg", encoded(mixture[start : start + (3 + number) * RATE], RATE))
            names = [f"eif/{song}/{stem}.ogg" for song in songs for stem in ("vocals", "drums", "other")]
            groups.append((kind, "CC0 1.0", "the band", names))
        for kind, name in (("sung", "voices/a/singer.ogg"), ("spoken", "voices/speaker.ogg")):
            self._put(name, encoded(vocals[: 2 * RATE, 0], RATE))
            groups.append((kind, "CC BY 4.0", f"the {kind} one", [name]))
        self._put("vocadito/solo.wav", b"")
        soundfile.write(self.audio / "vocadito/solo.wav", vocals[: 2 * RATE : 2, 0], RATE // 2)
        groups.append(("validation", "CC BY 4.0", "solo", ["vocadito/solo.wav"]))
        self.groups = [
            {"kind": kind, "licence": licence, "attribution": who, "files": {name: self._sum(name) for name in names}}
            for kind, licence, who, names in groups
        ]
        inner = io.BytesIO()
        with zipfile.ZipFile(inner, "w") as archive:
            archive.writestr("music/mono.ogg", encoded(mixture[: 21 * RATE, 0], RATE))
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (15 * 48000, 2))
        make_deb(
            self.packages / PACKAGE,
            {
                "usr/share/tunes/tune.ogg": encoded(mixture[: 22 * RATE], RATE),
                "usr/share/tunes/other/tune.ogg": encoded(mixture[: 21 * 48000], 48000),
                "usr/share/tunes/too_short.ogg": encoded(noise, 48000),
                "usr/share/tunes/too_small.ogg": encoded(np.zeros((30 * RATE, 2)), RATE),
                "usr/share/tunes/readme.txt": b"x" * 500_000,
                "usr/share/tunes/more.pk3": inner.getvalue(),
                "usr/share/doc/tunes/copyright": b"GPL-2+, by everybody\n",
            },
        )
        make_deb(
            self.packages / "letters_1.0_all.deb",
            {f"usr/share/letters/en/alpha/a-{n}.ogg": encoded(vocals[n * RATE : (n + 1) * RATE], RATE) for n in (5, 6)},
        )
        self.exclude: list[str] = []

    def _put(self, name: str, content: bytes) -> None:
        (self.audio / name).parent.mkdir(parents=True, exist_ok=True)
        (self.audio / name).write_bytes(content)

    def _sum(self, name: str) -> str:
        return hashlib.sha256((self.audio / name).read_bytes()).hexdigest()

    def sources(self) -> Sources:
        packages = [
            {
                "name": file.partition("_")[0],
                "file": file,
                "sha256": hashlib.sha256((self.packages / file).read_bytes()).hexdigest(),
                "folder": folder,
                "kind": kind,
                "licence": "GPL-2+",
                "attribution": "everybody",
                "exclude": self.exclude,
                "seconds": 60,
            }
            for file, folder, kind in (
                (PACKAGE, "train/instrumentals/tunes", "music"),
                ("letters_1.0_all.deb", "train/vocals/spoken", "clips"),
            )
        ]
        table = {"recipe": 1, "audio_seconds": 30, "packages": packages, "audio": self.groups, "mixed": MIXED}
        self.listed.write_text(yaml.safe_dump(table))
        return load_sources(self.listed)


def tree(library: Path) -> set[str]:
    return {str(path.relative_to(library)) for path in library.rglob("*.wav")}
