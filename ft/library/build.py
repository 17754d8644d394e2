"""Builds the training library: sources in, a tree of WAV files, `MANIFEST.json` and `SOURCES.md` out.

The library is made of units (a package, the songs, the voices, a synthesised singer). When the last file of a unit is
written, a stamp beside it records what it was made from and what came out; a unit whose stamp still holds is skipped.

    train/instrumentals/<package>/         train/vocals/{eif,sung,spoken,synthesised,klettres}/
    train/instrumentals/eif{,_drums,_other,_cross}/    train/pairs/<song>/
    validation/instrumentals/<package>/    validation/vocals/    validation/pairs/<song>/    validation/mixed/<song>/
    test/instrumentals/<package>/          train/stems/<package>/<song>/    licences/
"""

from __future__ import annotations

import json
import logging
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, wait
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import permutations
from pathlib import Path, PurePosixPath

from ft.library import midi, recipes
from ft.library.deb import COPYRIGHT, extract_audio
from ft.library.manifest import hours_per_folder, write_manifest, write_text
from ft.library.recipes import Written
from ft.library.sound import duration
from ft.library.sources import Package, SourceFile, Sources, fetch_package, load_sources, verify
from ft.progress import Progress
from ft.sing import RECIPE as SINGER_RECIPE
from ft.sing.voice import load_world
from ft.workers import process_pool

logger = logging.getLogger(__name__)

MUSIC_BYTES = 400 * 1024
MOST_REUSE = 4.0
# Few of the voices are sung; what is made of them is nearer to singing than what is made of speech.
SUNG_SHARE = 0.25
VOICE_FOLDERS = {"sung": "train/vocals/sung", "spoken": "train/vocals/spoken", "validation": "validation/vocals"}
Task = Callable[[], list[Written]]


@dataclass(frozen=True)
class Unit:
    """A part of the library that is built whole.

    Attributes:
        made_from: what decides its content, in JSON's types; the stamp holds while it stays the same.
        tasks: gets an empty scratch folder, verifies the sources and yields what to run.
    """

    name: str
    made_from: object
    tasks: Callable[[Path], Iterator[Task]]


def build_library(
    library: Path,
    audio: Path,
    packages: Path | None = None,
    jobs: int = 2,
    sing_minutes: float = 0.0,
    sources: Sources | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Builds what is missing of the library, and returns the hours of audio in each of its folders.

    Args:
        audio: the audio folder, with `eif/`, `voices/` and `vocadito/`.
        packages: a folder with the Debian packages; None downloads them with apt-get.
        jobs: processes that decode and write.
        sing_minutes: how much singing to synthesise from the spoken voices.
        sources: another list of sources than the one of this package.
        progress: called with the seconds of audio that are there and about how many there will be.
    Raises:
        DataError: a source is missing or is not the one meant.
        AudioError: a source cannot be decoded.
    """
    sources = sources or load_sources()
    stamps = library / ".stamps"
    stamps.mkdir(parents=True, exist_ok=True)
    written: list[Written] = []
    total = sources.audio_seconds + sum(package.seconds for package in sources.packages) + 60 * sing_minutes

    def collect(files: list[Written]) -> None:
        written.extend(files)
        if progress is not None:
            done = sum(file.seconds for file in written)
            progress(done, max(total, done))

    running: deque[_Run] = deque()

    def finish_first() -> None:
        run = running.popleft()
        files = run.finish()
        _replace_stamp(stamps / f"{run.unit.name}.json", library, run.unit, sources.recipe, files)

    with process_pool(jobs) if jobs > 1 else nullcontext() as pool:
        try:
            units = _units(library, audio, packages, sources, sing_minutes)
            for group in (units, _mixed_unit(library, audio, sources)):  # these of files that the units have made
                for unit in group:
                    files = _read_stamp(stamps / f"{unit.name}.json", library, unit, sources.recipe)
                    if files is not None:
                        collect(files)
                        continue
                    running.append(_Run(unit, library, pool, collect))
                    while len(running) > (jobs if pool else 0):
                        finish_first()
                while running:
                    finish_first()
        finally:
            for run in running:
                run.close()
    write_manifest(library, written, sources)
    return hours_per_folder(written)


def _units(library: Path, audio: Path, packages: Path | None, sources: Sources, sing_minutes: float) -> Iterator[Unit]:
    pairs, songs = _songs(sources, "pair"), _songs(sources, "stem")
    yield _audio_unit(
        "pairs",
        audio,
        sources.of_kind("pair"),
        [partial(recipes.pair, library, "validation/pairs", audio, name, licence) for name, licence in pairs],
    )
    yield _audio_unit(
        "songs",
        audio,
        sources.of_kind("stem"),
        [partial(recipes.song, library, audio, name, licence) for name, licence in songs]
        + [partial(recipes.pair, library, "train/pairs", audio, name, licence) for name, licence in songs]
        + [
            partial(recipes.crossed_song, library, audio, beat, tune, licence)
            for (beat, licence), (tune, _) in permutations(songs, 2)
        ],
    )
    for kind, folder in VOICE_FOLDERS.items():
        files = sources.of_kind(kind)
        yield _audio_unit(kind, audio, files, [partial(recipes.voice, library, folder, audio, file) for file in files])
    if sing_minutes > 0:
        yield from _sung_units(library, audio, sources.of_kind("sung", "spoken"), sing_minutes)
    for package in sources.packages:
        if package.kind == "midi":
            yield from _midi_unit(library, package, sources.soundfont, packages)
            continue
        fetch = partial(fetch_package, package, packages, library / ".packages")
        yield Unit(package.name, _made_from(package), partial(_package_tasks, library, package, fetch))


def _made_from(package: Package) -> dict[str, object]:
    facts = {name: value for name, value in asdict(package).items() if name != "seconds"}
    return {**facts, "exclude": list(package.exclude)}


def _mixed_unit(library: Path, audio: Path, sources: Sources) -> Iterator[Unit]:
    mixed = sources.mixed
    if mixed is None:
        return
    (voice,) = (file for file in sources.audio if file.path == mixed.voice)
    packages = {package.folder: package.sha256 for package in sources.packages}
    level, start = mixed.level_db, mixed.start
    origins = {track: packages.get(str(PurePosixPath(track).parent)) for track in mixed.tracks}
    tasks = [partial(recipes.mixed_song, library, audio, voice, track, level, start) for track in mixed.tracks]
    yield _audio_unit("mixed", audio, (voice,), tasks, tracks=origins, level_db=level, start=start)


def _audio_unit(
    name: str, audio: Path, files: tuple[SourceFile, ...], tasks: Sequence[Task], **settings: object
) -> Unit:
    def verified(scratch: Path) -> Iterator[Task]:
        for file in files:
            verify(audio / file.path, file.sha256, "Take the audio folder that belongs to this version.")
        yield from tasks

    return Unit(name, {"files": [asdict(file) for file in files], **settings}, verified)


def _sung_units(library: Path, audio: Path, files: tuple[SourceFile, ...], minutes: float) -> Iterator[Unit]:
    load_world()  # says at once if it is missing
    for kind, share in (("sung", SUNG_SHARE), ("spoken", 1 - SUNG_SHARE)):
        voices = [file for file in files if file.kind == kind]
        lengths = [duration(audio / file.path) for file in voices]
        for file, seconds in zip(voices, share_seconds(minutes * 60 * share, lengths), strict=True):
            task = partial(recipes.synthesised, library, audio, file, seconds, f"{file.path}, synthesised")
            name = f"synthesised-{recipes.voice_name(file)}"
            yield _audio_unit(name, audio, (file,), [task], seconds=seconds, singer=SINGER_RECIPE)


def share_seconds(total: float, lengths: list[float]) -> list[float]:
    """Says how long each voice sings: all the same, but none more than four times as long as it was recorded.

    >>> share_seconds(100, [5, 100, 100])
    [20.0, 40.0, 40.0]
    """
    shares = [0.0] * len(lengths)
    left = total
    for rank, index in enumerate(sorted(range(len(lengths)), key=lambda i: lengths[i])):
        shares[index] = round(min(left / (len(lengths) - rank), MOST_REUSE * lengths[index]), 3)
        left -= shares[index]
    return shares


def _songs(sources: Sources, kind: str) -> list[tuple[str, str]]:
    return sorted({(PurePosixPath(file.path).parent.name, file.licence) for file in sources.of_kind(kind)})


def _midi_unit(library: Path, package: Package, soundfont: Package | None, packages: Path | None) -> Iterator[Unit]:
    if soundfont is None or (absent := midi.missing()) is not None:
        reason = "no soundfont is listed" if soundfont is None else absent
        logger.warning("%s: left out, as %s", package.name, reason)
        return

    def tasks(scratch: Path) -> Iterator[Task]:
        downloads = library / ".packages"
        (font,) = extract_audio(fetch_package(soundfont, packages, downloads), scratch / "font", suffixes=(".sf2",))
        _keep_copyright(library, scratch / "font", soundfont.name)
        for file in extract_audio(fetch_package(package, packages, downloads), scratch, suffixes=(".mid",)):
            if file.stem not in package.exclude:
                source = f"{package.name}: {file.relative_to(scratch)}"
                yield partial(midi.render, library, package.folder, file, font, source, package.licence)
        _keep_copyright(library, scratch, package.name)

    yield Unit(package.name, {**_made_from(package), "soundfont": soundfont.sha256}, tasks)


def _keep_copyright(library: Path, folder: Path, name: str) -> None:
    if (folder / COPYRIGHT).exists():
        (library / "licences").mkdir(exist_ok=True)
        (folder / COPYRIGHT).replace(library / "licences" / f"{name}.txt")


def _package_tasks(library: Path, package: Package, fetch: Callable[[], Path], scratch: Path) -> Iterator[Task]:
    path = fetch()
    tracks = extract_audio(path, scratch, MUSIC_BYTES if package.kind == "music" else 0)
    if package.kind == "clips":
        languages: dict[str, list[Path]] = {}
        for track in tracks:
            languages.setdefault(track.parent.parent.name, []).append(track)
        label = package.name.partition("-")[0]
        for language, clips in sorted(languages.items()):
            source = f"{package.name}: {clips[0].parent.parent.relative_to(scratch)}/"
            name = f"{label}_{language}"
            yield partial(recipes.clips, library, package.folder, name, sorted(clips), source, package.licence)
    else:
        names: set[str] = set()
        for track in tracks:
            name = track.stem if track.stem not in names else f"{track.parent.name}-{track.stem}"
            names.add(name)
            if name in package.exclude:
                track.unlink()
                continue
            source = f"{package.name}: {track.relative_to(scratch)}"
            yield partial(recipes.music, library, f"{package.folder}/{name}.wav", track, source, package.licence)
    _keep_copyright(library, scratch, package.name)


class _Run:
    """A unit that is being built: its tasks in a pool, or one after the other without one.

    The tasks of several units are in the pool at once, as a unit may be a single file.
    """

    def __init__(
        self, unit: Unit, library: Path, pool: Executor | None, collect: Callable[[list[Written]], None]
    ) -> None:
        self.unit, self.collect = unit, collect
        self.files: list[Written] = []
        self.futures: list[Future[list[Written]]] = []
        self.scratch = library / f".{unit.name}.part"
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        try:
            for task in unit.tasks(self.scratch):
                if pool is None:
                    self._add(task())
                else:
                    self.futures.append(pool.submit(task))
        except BaseException:
            self.close()
            raise

    def finish(self) -> list[Written]:
        """Waits for the files of the unit."""
        try:
            for future in self.futures:
                self._add(future.result())
        finally:
            self.close()
        return self.files

    def close(self) -> None:
        """Stops what has not begun, and removes the scratch folder."""
        for future in self.futures:
            future.cancel()
        wait(future for future in self.futures if not future.cancelled())
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _add(self, written: list[Written]) -> None:
        self.files.extend(written)
        self.collect(written)


def _read_stamp(stamp: Path, library: Path, unit: Unit, recipe: int) -> list[Written] | None:
    if not stamp.exists():
        return None
    record = json.loads(stamp.read_text("utf-8"))
    files = [Written(**file) for file in record["files"]]
    paths = {library / file.path: file.bytes for file in files}
    whole = all(path.exists() and path.stat().st_size == size for path, size in paths.items())
    return files if whole and (record["recipe"], record["made_from"]) == (recipe, unit.made_from) else None


def _replace_stamp(stamp: Path, library: Path, unit: Unit, recipe: int, files: list[Written]) -> None:
    if stamp.exists():  # what the unit held before and does not hold any more
        before = {file["path"] for file in json.loads(stamp.read_text("utf-8"))["files"]}
        for path in before - {file.path for file in files}:
            (library / path).unlink(missing_ok=True)
    record = {"recipe": recipe, "made_from": unit.made_from, "files": [asdict(file) for file in files]}
    write_text(stamp, json.dumps(record, indent=1))
