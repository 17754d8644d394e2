"""Stems to write, and what writes them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from stubs import noise as noise

from ft.audio.encode import go_on
from ft.audio.formats import stem_format
from ft.audio.source import AudioInfo
from ft.options import SeparateOptions
from ft.songs.parts import Outputs
from ft.songs.writer import StemWriter

ROOT = Path(__file__).parents[1]
STEMS = ("vocals", "instrumental")
KINDS = [("wav", "16"), ("wav", "24"), ("wav", "float"), ("flac", "16"), ("flac", "24")]
KINDS += [("ogg", None), ("opus", None), ("mp3", None)]


class WholeWriter(StemWriter):
    """A writer of claimed files, which `commit` gives their names."""

    def __enter__(self):
        with ExitStack() as stack:
            self.outputs = stack.enter_context(Outputs(self.files.values()))
            super().__enter__()
            self._outputs = stack.pop_all()
        return self

    def __exit__(self, *error):
        super().__exit__(*error)
        self._outputs.__exit__(*error)

    def commit(self, check=go_on) -> None:
        self.finish(check)
        self.outputs.commit()


def writer_of(folder, name="wav", bit_depth="16", channels=2, rate=8000, stems=STEMS, **changes) -> WholeWriter:
    info = AudioInfo(Path("song.wav"), rate, channels, 1, "16")
    format = stem_format(SeparateOptions(format=name, bit_depth=bit_depth), info)
    return WholeWriter({stem: folder / f"{stem}.{name}" for stem in stems}, channels, rate, format, **changes)


def written(writer: WholeWriter, stems, step: int = 7777) -> dict[str, Path]:
    with writer:
        for start in range(0, next(iter(stems.values())).shape[1], step):
            writer.write({stem: waveform[:, start : start + step] for stem, waveform in stems.items()})
        writer.commit()
    return writer.files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
