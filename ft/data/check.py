"""`ft data check`: reads a library of audio once and says what would spoil a training run or an evaluation.

Files are read by several processes, each file in constant memory; what is kept of it are a few numbers and its
fingerprint, about 2 MB an hour. Only the search for vocals needs a model; it runs afterwards, in this process.
"""

from __future__ import annotations

import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ft.data.check_measure import Measure, try_measure
from ft.data.fingerprint import find_matches
from ft.data.scan import patch_files, source_files, unread_media
from ft.errors import AudioError, DataError
from ft.files import files_below
from ft.progress import Progress
from ft.stems import MIXTURE, stem_of
from ft.train_config import Source, TrainConfig
from ft.workers import each_done

Split = Literal["train", "validation", "test", ""]
Role = Literal["instrumental", "vocals", "mixture"]

SPLITS: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "valid": "validation",
    "validation": "validation",
    "val": "validation",
    "test": "test",
}
"""Folders whose name says what is below them."""
MUCH_SILENCE = 0.5
MUCH_CLIPPING = 0.01
MUCH_VOCALS = 0.1
"""Shares of the time above which a file is named."""
AUDIBLE_DB = -20.0
CLEAN_ABOVE = 20
"""One in so many tracks that are known to be without vocals may be above the level from which others are suspected."""


@dataclass(frozen=True)
class Root:
    """A folder to check, and what is said of it; what is not said follows from names (`split_of`, `role_of`)."""

    path: Path
    split: Split | None = None
    role: Role | None = None
    stems: tuple[str, ...] = ()
    """Only files of these names."""


@dataclass(frozen=True)
class Track:
    """A file as a part of the library."""

    path: Path
    split: Split
    role: Role


@dataclass(frozen=True)
class Shared:
    """Two tracks that hold the same recording."""

    first: Track
    second: Track
    share: float
    """Share of the landmarks of the shorter one (`ft.data.fingerprint.Match`); 1 where all samples are equal."""
    offset: float
    """Seconds by which it begins later in the second."""
    seconds: float

    @property
    def leaks(self) -> bool:
        """Whether the two are in different splits, so that one is judged by what the other taught."""
        return bool(self.first.split and self.second.split) and self.first.split != self.second.split


@dataclass
class Report:
    """What was found."""

    tracks: list[Track]
    measures: dict[Path, Measure] = field(default_factory=dict)
    """Holds what was measured of each file that could be read."""
    unreadable: dict[Path, str] = field(default_factory=dict)
    """Holds the line that says why each of the others could not be read."""
    shared: list[Shared] = field(default_factory=list)
    ignored: list[Path] = field(default_factory=list)
    """Sound that is left out, as PyAV is missing."""
    patches: dict[Path, int] = field(default_factory=dict)
    """Folders of patch files (`ft.data.patches`), which are not checked, and the number of these."""
    vocals: dict[Path, float] = field(default_factory=dict)
    """Levels that the vocals which the model hears in an instrumental exceed in more than a tenth of the time, in dB of
    the sound."""
    clean: dict[Path, float] = field(default_factory=dict)
    """Such levels of music that is known to be without vocals."""
    vocals_db: float = AUDIBLE_DB
    """The level above which an instrumental is suspected."""
    wall_seconds: float = 0.0
    screen_seconds: float = 0.0
    screened: float = 0.0
    """Seconds of audio that were listened to."""

    @property
    def seconds(self) -> float:
        """Sums the seconds of all files, each counted once."""
        return sum(measure.seconds for measure in self.measures.values())

    @property
    def silent(self) -> list[Path]:
        """Files without a single window of sound, but for `silent_stems`."""
        return [path for path in self._without_sound() if not self._in_a_song(path)]

    @property
    def silent_stems(self) -> list[Path]:
        """Gives the silent stems of songs that have others: nobody sings in this one, or nobody drums."""
        return [path for path in self._without_sound() if self._in_a_song(path)]

    def _without_sound(self) -> Iterator[Path]:
        return (path for path, measure in self.measures.items() if measure.silent == 1)

    def _in_a_song(self, path: Path) -> bool:
        """Whether a file is a stem by its name, and another one with sound, or that was not asked for, is beside it."""
        titles = [path.parent.name]
        return stem_of(path.stem, titles) not in (None, MIXTURE) and any(
            stem_of(other.stem, titles) and ((found := self.measures.get(other)) is None or found.silent < 1)
            for other in path.parent.iterdir()
            if other != path and other not in self.unreadable
        )

    @property
    def suspected(self) -> dict[Path, float]:
        """Instrumentals with vocals in more than a tenth of the time, with their level, the worst first."""
        worst = sorted(self.vocals.items(), key=lambda item: -item[1])
        return {path: level for path, level in worst if level > self.vocals_db}

    @property
    def leaks(self) -> list[Shared]:
        return [each for each in self.shared if each.leaks]

    @property
    def failed(self) -> bool:
        """Whether anything was found that should not go into training; the rest are remarks."""
        return bool(self.unreadable or self.silent or self.suspected or self.leaks)

    def groups(self) -> list[list[Track]]:
        """Tracks of one split that share recordings with each other, directly or through others."""
        linked: dict[Track, set[Track]] = defaultdict(set)
        for each in self.shared:
            if not each.leaks:
                linked[each.first].add(each.second)
                linked[each.second].add(each.first)
        groups, seen = [], set[Track]()
        for start in linked:
            group, to_visit = [], [start]
            while to_visit:
                track = to_visit.pop()
                if track not in seen:
                    seen.add(track)
                    group.append(track)
                    to_visit += linked[track]
            if group:
                groups.append(sorted(group, key=lambda track: track.path))
        return groups


def roots_of_config(train: TrainConfig) -> list[Root]:
    """The folders of a training configuration with what each is for. Those of songs hold files of every role."""
    valid = train.validation
    of_stems: list[tuple[Split, Role | None, Sequence[Source]]] = [
        ("train", "instrumental", train.instrumentals),
        ("train", "vocals", train.vocals),
        *(("train", role_of(Path(stem)), sources) for stem, sources in train.stems.items()),
        ("train", None, train.pairs),
        ("validation", "instrumental", valid.instrumentals),
        ("validation", "vocals", valid.vocals),
        ("validation", None, (*valid.pairs, *valid.songs)),
    ]
    return [
        Root(Path(source.folder), split, role, source.stems) for split, role, sources in of_stems for source in sources
    ]


def find_tracks(roots: Sequence[Root]) -> Report:
    """What there is below the folders, nothing of it read: audio files, each once for each split, and what is left out.

    Raises:
        DataError: a folder is missing, or holds neither audio nor patches.
    """
    tracks: dict[tuple[Path, Split], Track] = {}
    ignored: dict[Path, Path] = {}
    patches: dict[Path, Path] = {}
    for root in roots:
        own = patch_files(root.path)
        patches |= {path.resolve(): path for path in own}
        try:
            found = source_files(Source(str(root.path), stems=root.stems))
        except DataError:
            if not own:
                raise
            found = []
        for path in found:
            split = split_of(path) if root.split is None else root.split
            track = Track(path, split, role_of(path) if root.role is None else root.role)
            tracks.setdefault((path.resolve(), split), track)
        wanted = [path for path in files_below(root.path) if not root.stems or path.stem in root.stems]
        ignored |= {path.resolve(): path for path in unread_media(wanted)}
    named = {path for path, split in tracks if split}
    tracks = {key: track for key, track in tracks.items() if key[1] or key[0] not in named}
    return Report(
        sorted(tracks.values(), key=lambda track: (track.path, track.split)),
        ignored=sorted(ignored.values()),
        patches=dict(sorted(Counter(path.parent for path in patches.values()).items())),
    )


def split_of(path: Path) -> Split:
    """The split that the nearest folder of such a name above a file says; "" where none does.

    >>> split_of(Path("library/train/vocals/a.wav"))
    'train'
    """
    return next((SPLITS[name.lower()] for name in reversed(path.parts[:-1]) if name.lower() in SPLITS), "")


def role_of(path: Path) -> Role:
    """Says what a file is by its name, or by that of the nearest folder above it; an instrumental where none tells.

    >>> role_of(Path("songs/one/mixture.wav")), role_of(Path("vocals/choir/bass.wav")), role_of(Path("b.wav"))
    ('mixture', 'vocals', 'instrumental')
    """
    roles: dict[str | None, Role] = {"mixture": "mixture", "vocals": "vocals", "instrumental": "instrumental"}
    stems = (stem_of(path.stem, [path.parent.name]), *map(stem_of, reversed(path.parts[:-1])))
    return next((roles[stem] for stem in stems if stem in roles), "instrumental")


def check_library(
    roots: Sequence[Root],
    jobs: int = 1,
    progress: Callable[[float], object] = lambda share: None,
) -> Report:
    """Reads all files and compares them.

    Args:
        jobs: processes that read; with 1 this one does.
        progress: called with the share of bytes that is done, 0 to 1.
    Raises:
        DataError: a folder is missing or with neither audio nor patches, or a process that reads was killed.
    """
    start = time.perf_counter()
    report = find_tracks(roots)
    paths = list({track.path.resolve(): track.path for track in report.tracks}.values())
    sizes = {path: path.stat().st_size for path in paths}
    done, total = 0, max(sum(sizes.values()), 1)
    results = {}
    for path, result in each_done(try_measure, sorted(paths, key=lambda path: -sizes[path]), jobs, _begin):
        results[path] = result
        done += sizes[path]
        progress(done / total)
    known = {}  # in the order of the tracks, and by every path that leads to a file
    by_file = {path.resolve(): result for path, result in results.items()}
    for track in report.tracks:
        known[track.path] = by_file[track.path.resolve()]
    for path, found in known.items():
        if isinstance(found, Measure):
            report.measures[path] = found
        else:
            report.unreadable[path] = found
    report.shared = _shared(report)
    report.wall_seconds = time.perf_counter() - start
    return report


def screen_library(
    report: Report,
    model: str | None,
    sample: float | None,
    progress: Progress,
    vocals_db: float = AUDIBLE_DB,
    clean: Sequence[Path] = (),
) -> None:
    """Listens for vocals in the instrumentals of a report, with a model, and adds what it hears.

    Args:
        model: as `ft.separate.separator.Separator` takes it; None for the one that ships.
        sample: seconds of each file to listen to; None for all.
        progress: called with the seconds that are done and those there are.
        vocals_db: level of the predicted vocals, in dB of the mixture, from which they count.
        clean: folders of the report whose music is known to be without vocals. None of it is suspected; it raises
            `vocals_db` to what the model takes for vocals in it, but for one track in twenty. A model that leaves much
            of the music in its vocals says nothing without it.
    Raises:
        DataError: a folder of `clean` holds none of the instrumentals, or the model gives no vocals.
        FtError: the model cannot be opened or run.
    """
    from ft.data.check_screen import vocals_level
    from ft.separate import Separator

    start = time.perf_counter()
    chosen = {track.path: report.measures.get(track.path) for track in report.tracks if track.role == "instrumental"}
    lengths = {path: found.seconds for path, found in chosen.items() if found is not None and found.silent < 1}
    listened = {path: seconds if sample is None else min(seconds, sample) for path, seconds in lengths.items()}
    known: set[Path] = set()
    for folder in clean:
        below = {path for path in lengths if path.resolve().is_relative_to(folder.resolve())}
        if not below:
            raise DataError(f"{folder}: none of the instrumentals that are checked; expected a folder of them")
        known |= below
    total = sum(listened.values())
    with Separator(model) as separator:
        if "vocals" not in separator.config.all_stems:
            raise DataError(f"{separator.model}: gives {', '.join(separator.config.all_stems)}, expected vocals")
        for path, seconds in lengths.items():
            try:
                level = vocals_level(separator, path, seconds, sample, MUCH_VOCALS)
            except AudioError as error:
                report.unreadable[path] = str(error)
                continue
            (report.clean if path in known else report.vocals)[path] = level
            report.screened += listened[path]
            progress(report.screened, total)
    falling = sorted(report.clean.values(), reverse=True)
    report.vocals_db = max([vocals_db, *falling[len(falling) // CLEAN_ABOVE :][:1]])
    report.screen_seconds = time.perf_counter() - start


def _begin() -> None:
    """Lets Ctrl-C, which the terminal sends to all processes, end a worker without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _shared(report: Report) -> list[Shared]:
    """Tracks with a recording in common, but for the files of one song, which are meant to have."""
    tracks = [track for track in report.tracks if track.path in report.measures]
    measures = [report.measures[track.path] for track in tracks]
    found = {(each.first, each.second): each for each in find_matches([each.fingerprint for each in measures])}
    pairs = {key: (each.share, each.offset, each.seconds) for key, each in found.items()}
    equal: dict[str, list[int]] = defaultdict(list)
    for number, measure in enumerate(measures):
        if measure.silent < 1:
            equal[measure.digest].append(number)
    for numbers in equal.values():
        for place, first in enumerate(numbers):
            for second in numbers[place + 1 :]:
                pairs[first, second] = (1.0, 0.0, measures[first].seconds)
    songs = {track.path.parent for track in tracks if track.role == "mixture"}
    shared = [
        Shared(tracks[first], tracks[second], *values)
        for (first, second), values in pairs.items()
        if not (tracks[first].path.parent == tracks[second].path.parent in songs)
        or tracks[first].split != tracks[second].split
    ]
    return sorted(shared, key=lambda each: (-each.share, each.first.path, each.second.path))
