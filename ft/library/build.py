"""Builds the training library: sources in, a tree of WAV files, `MANIFEST.json` and `SOURCES.md` out.

The library is made of units (a package, the songs, the voices, a synthesised singer). When the last file of a unit is
written, a stamp beside it records what it was made from and what came out; a unit whose stamp still holds is skipped.

    train/instrumentals/<package>/         train/vocals/{eif,sung,spoken,synthesised,klettres}/
    train/instrumentals/eif{,_drums,_other,_cross}/    train/pairs/<song>/
    validation/instrumentals/<package>/    validation/vocals/    validation/pairs/<song>/
    test/instrumentals/<package>/          licences/
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from itertools import permutations
from pathlib import Path, PurePosixPath

from ft.library import recipes
from ft.library.deb import COPYRIGHT, extract_audio
from ft.library.manifest import hours_per_folder, write_manifest, write_text
from ft.library.recipes import Written
from ft.library.sound import duration
from ft.library.sources import AudioFile, Package, Sources, fetch_package, load_sources, verify
from ft.progress import Progress
from ft.sing import RECIPE as SINGER_RECIPE
from ft.sing.voice import load_world

MUSIC_BYTES = 400 * 1024
MOST_REUSE = 4.0
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

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context) if jobs > 1 else nullcontext() as pool:
        for unit in _units(library, audio, packages, sources, sing_minutes):
            stamp = stamps / f"{unit.name}.json"
            files = _read_stamp(stamp, library, unit, sources.recipe)
            if files is None:
                files = _run(unit, library, pool, collect)
                _replace_stamp(stamp, library, unit, sources.recipe, files)
            else:
                collect(files)
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
        made_from = {**asdict(package), "exclude": list(package.exclude)}
        del made_from["seconds"]
        fetch = partial(fetch_package, package, packages, library / ".packages")
        yield Unit(package.name, made_from, partial(_package_tasks, library, package, fetch))


def _audio_unit(
    name: str, audio: Path, files: tuple[AudioFile, ...], tasks: Sequence[Task], **settings: object
) -> Unit:
    def verified(scratch: Path) -> Iterator[Task]:
        for file in files:
            verify(audio / file.path, file.sha256, "Take the audio folder that belongs to this version.")
        yield from tasks

    return Unit(name, {"files": [asdict(file) for file in files], **settings}, verified)


def _sung_units(library: Path, audio: Path, files: tuple[AudioFile, ...], minutes: float) -> Iterator[Unit]:
    load_world()  # says at once if it is missing
    lengths = [duration(audio / file.path) for file in files]
    for file, seconds in zip(files, share_seconds(minutes * 60, lengths), strict=True):
        task = partial(recipes.synthesised, library, audio, file, seconds, f"{file.path}, synthesised")
        name = f"synthesised-{recipes.voice_name(file)}"
        yield _audio_unit(name, audio, (file,), [task], seconds=seconds, singer=SINGER_RECIPE)


def share_seconds(total: float, lengths: list[float]) -> list[float]:
    """How long each voice sings: all the same, but none more than four times as long as it was recorded.

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


def _package_tasks(library: Path, package: Package, fetch: Callable[[], Path], scratch: Path) -> Iterator[Task]:
    path = fetch()
    tracks = extract_audio(path, scratch, MUSIC_BYTES if package.kind == "music" else 0)
    source = f"{package.name}: {{}}"
    if package.kind == "clips":
        languages: dict[str, list[Path]] = {}
        for track in tracks:
            languages.setdefault(track.parent.parent.name, []).append(track)
        label = package.name.partition("-")[0]
        for language, clips in sorted(languages.items()):
            where = source.format(f"{clips[0].parent.parent.relative_to(scratch)}/")
            yield partial(
                recipes.clips,
                library,
                package.folder,
                f"{label}_{language}",
                sorted(clips),
                where,
                package.licence,
            )
    else:
        names: set[str] = set()
        for track in tracks:
            name = track.stem if track.stem not in names else f"{track.parent.name}-{track.stem}"
            names.add(name)
            if name in package.exclude:
                track.unlink()
                continue
            where = source.format(track.relative_to(scratch))
            yield partial(recipes.music, library, f"{package.folder}/{name}.wav", track, where, package.licence)
    if (scratch / COPYRIGHT).exists():
        (library / "licences").mkdir(exist_ok=True)
        (scratch / COPYRIGHT).replace(library / "licences" / f"{package.name}.txt")


def _run(unit: Unit, library: Path, pool: Executor | None, collect: Callable[[list[Written]], None]) -> list[Written]:
    scratch = library / f".{unit.name}.part"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    files: list[Written] = []
    futures: list[Future[list[Written]]] = []

    def finish(written: list[Written]) -> None:
        files.extend(written)
        collect(written)

    try:
        if pool is None:
            for task in unit.tasks(scratch):
                finish(task())
        else:
            for task in unit.tasks(scratch):
                futures.append(pool.submit(task))
            for future in futures:
                finish(future.result())
    finally:
        for future in futures:
            future.cancel()
        wait(future for future in futures if not future.cancelled())
        shutil.rmtree(scratch)
    return files


def _read_stamp(stamp: Path, library: Path, unit: Unit, recipe: int) -> list[Written] | None:
    if not stamp.exists():
        return None
    record = json.loads(stamp.read_text("utf-8"))
    files = [Written(**file) for file in record["files"]]
    whole = all(_size(library / file.path) == file.bytes for file in files)
    return files if whole and (record["recipe"], record["made_from"]) == (recipe, unit.made_from) else None


def _replace_stamp(stamp: Path, library: Path, unit: Unit, recipe: int, files: list[Written]) -> None:
    if stamp.exists():  # what the unit held before and does not hold any more
        before = {file["path"] for file in json.loads(stamp.read_text("utf-8"))["files"]}
        for path in before - {file.path for file in files}:
            (library / path).unlink(missing_ok=True)
    record = {"recipe": recipe, "made_from": unit.made_from, "files": [asdict(file) for file in files]}
    write_text(stamp, json.dumps(record, indent=1))


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.exists() else None
