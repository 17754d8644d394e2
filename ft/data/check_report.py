"""What `ft data check` found, as text, as JSON, and as a list of tracks to leave out."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ft.audio.source import INSTALL_MEDIA
from ft.data.check import MUCH_CLIPPING, MUCH_SILENCE, MUCH_VOCALS, Report, Shared, Track
from ft.files import atomic_write
from ft.songs.report import printable

SHOWN = 20
"""Lines of each kind that are printed; JSON holds all."""
_COLUMNS = ("files", "hours", "rates", "mono", "clipped", "silent", "unreadable")


def as_text(report: Report) -> Iterator[str]:
    """Gives a table of the folders, then what was found, the worst first, then the rate at which it was read."""
    yield from _table(report)
    sections = [
        ("cannot be read", list(report.unreadable.values())),
        ("the same recording in two splits", [_pair(each) for each in report.leaks]),
        (
            f"instrumentals with vocals above {report.vocals_db:.1f} dB of the sound in more than {MUCH_VOCALS:.0%} "
            "of the time",
            [f"{level:5.1f} dB  {path}" for path, level in report.suspected.items()],
        ),
        ("silent from beginning to end", [str(path) for path in report.silent]),
        ("silent stems of songs that have others, which is no fault", [str(path) for path in report.silent_stems]),
        (
            f"silent more than {MUCH_SILENCE:.0%} of the time",
            [
                f"{found.silent:5.0%}  {path}"
                for path, found in report.measures.items()
                if MUCH_SILENCE < found.silent < 1
            ],
        ),
        (
            f"clipping in more than {MUCH_CLIPPING:.0%} of the time",
            _sorted(report, lambda found: found.clipped, MUCH_CLIPPING),
        ),
        (
            "one channel is silent",
            [str(path) for path, found in report.measures.items() if found.channels == "one silent"],
        ),
        ("one recording several times in a split", [_group(group) for group in report.groups()]),
        (f"left out, as PyAV is missing ({INSTALL_MEDIA})", [str(path) for path in report.ignored]),
        ("folders of patches, not checked", [f"{path}: {count} files" for path, count in report.patches.items()]),
    ]
    for title, lines in sections:
        if lines:
            yield ""
            yield f"{title}: {len(lines)}"
            yield from (f"  {line}" for line in lines[:SHOWN])
            if len(lines) > SHOWN:
                yield f"  and {len(lines) - SHOWN} more (`json` lists all)"
    yield ""
    rate = report.seconds / max(report.wall_seconds, 1e-9)
    yield f"read {report.seconds / 3600:.2f} h in {report.wall_seconds:.0f} s, {rate:.0f} times real time"
    if report.screened:
        rate = report.screened / max(report.screen_seconds, 1e-9)
        yield (
            f"listened to {report.screened / 3600:.2f} h of {len(report.vocals) + len(report.clean)} instrumentals in "
            f"{report.screen_seconds:.0f} s, {rate:.0f} times real time"
        )


def as_json(report: Report) -> str:
    """Gives all that was found. Levels are in dB of full scale, None for silence; shares are of the time, 0 to 1."""
    document = {
        "seconds": report.seconds,
        "wall_seconds": report.wall_seconds,
        "screened_seconds": report.screened,
        "screen_wall_seconds": report.screen_seconds,
        "failed": report.failed,
        "files": [_file(report, track) for track in report.tracks],
        "shared": [
            {
                "first": str(each.first.path),
                "second": str(each.second.path),
                "splits": [each.first.split, each.second.split],
                "leaks": each.leaks,
                "share": round(each.share, 4),
                "offset_seconds": round(each.offset, 3),
                "seconds": round(each.seconds, 3),
            }
            for each in report.shared
        ],
        "vocals_db": round(report.vocals_db, 2) if report.screened else None,
        "suspected": {str(path): round(level, 2) for path, level in report.suspected.items()},
        "silent": [str(path) for path in report.silent],
        "silent_stems": [str(path) for path in report.silent_stems],
        "unreadable": {str(path): why for path, why in report.unreadable.items()},
        "ignored": [str(path) for path in report.ignored],
        "patches": {str(path): count for path, count in report.patches.items()},
    }
    return json.dumps(document, indent=2)


def excluded(report: Report) -> dict[Path, str]:
    """Gives the tracks to leave out, with the reason: what makes a check fail, and of a leak the side that trains."""
    reasons = dict.fromkeys(report.unreadable, "cannot be read")
    reasons |= dict.fromkeys(report.silent, "silent")
    reasons |= {path: f"vocals at {level:.1f} dB" for path, level in report.suspected.items()}
    order = ("train", "validation", "test")
    for each in report.leaks:
        drop, keep = sorted((each.first, each.second), key=lambda track: order.index(track.split))
        reasons.setdefault(drop.path, f"the same recording as {keep.path}")
    return dict(sorted(reasons.items()))


def write_exclude_file(path: Path, report: Report) -> int:
    """Writes the tracks to leave out as YAML, names without suffix by folder, and gives their number.

    The lists are of the form that `exclude` has in `ft/library/sources.yaml`. Raises OSError.
    """
    folders: dict[Path, list[tuple[str, str]]] = defaultdict(list)
    for track, reason in excluded(report).items():
        folders[track.parent].append((track.stem, reason))
    lines = ["# Tracks to leave out, as `ft data check` found them: names without suffix, by folder."]
    for folder, names in folders.items():
        lines.append(f"{_quoted(str(folder))}:")
        lines += [f"  - {_quoted(name)}  # {printable(reason)}" for name, reason in names]
    if not folders:
        lines.append("{}")
    with atomic_write(path) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sum(len(names) for names in folders.values())


def _quoted(text: str) -> str:
    """Text in quotes, with escapes where it holds bytes that are no UTF-8."""
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _table(report: Report) -> Iterator[str]:
    songs = {track.path.parent for track in report.tracks if track.role == "mixture"}
    groups: dict[tuple[Path, str], list[Track]] = defaultdict(list)
    for track in report.tracks:
        folder = track.path.parent
        groups[folder.parent if folder in songs else folder, track.split].append(track)
    rows: list[tuple[str, ...]] = [("folder", "split", *_COLUMNS)]
    rows += [(str(folder), split or "-", *_row(report, tracks)) for (folder, split), tracks in groups.items()]
    if len(groups) > 1:
        rows.append(("all", "", *_row(report, report.tracks)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        yield "  ".join((*left, *right))


def _row(report: Report, tracks: Sequence[Track]) -> tuple[str, ...]:
    paths = {track.path for track in tracks}
    found = [report.measures[path] for path in paths if path in report.measures]
    rates = Counter(each.sample_rate for each in found)
    return (
        str(len(paths)),
        f"{sum(each.seconds for each in found) / 3600:.2f}",
        "+".join(str(rate) for rate, _ in rates.most_common()) or "-",
        str(sum(each.channels in ("mono", "equal") for each in found)),
        str(sum(each.clipped > MUCH_CLIPPING for each in found)),
        f"{sum(each.silent * each.seconds for each in found) / max(sum(each.seconds for each in found), 1e-9):.0%}",
        str(sum(path in report.unreadable for path in paths)),
    )


def _sorted(report: Report, value: Any, least: float) -> list[str]:
    found = sorted(((value(each), path) for path, each in report.measures.items()), reverse=True)
    return [f"{share:5.0%}  {path}" for share, path in found if share > least]


def _pair(each: Shared) -> str:
    return (
        f"{each.first.path} ({each.first.split}) and {each.second.path} ({each.second.split}): "
        f"{each.share:.0%} of the landmarks, over {each.seconds:.0f} s"
    )


def _group(group: Sequence[Track]) -> str:
    names = ", ".join(str(track.path) for track in group[:3])
    return f"{len(group)} files: {names}" + (f" and {len(group) - 3} more" if len(group) > 3 else "")


def _file(report: Report, track: Track) -> dict[str, Any]:
    known: dict[str, Any] = {"path": str(track.path), "split": track.split, "role": track.role}
    if track.path in report.unreadable:
        return known | {"error": report.unreadable[track.path]}
    found = report.measures[track.path]
    known |= {
        "seconds": round(found.seconds, 3),
        "sample_rate": found.sample_rate,
        "channels": found.channels,
        "peak_db": _db(found.peak),
        "rms_db": _db(found.rms),
        "clipped": round(found.clipped, 4),
        "silent": round(found.silent, 4),
    }
    level = (report.vocals | report.clean).get(track.path)
    return known | ({} if level is None else {"vocals_db": round(level, 2)})


def _db(value: float) -> float | None:
    return round(float(20 * np.log10(value)), 2) if value > 0 else None
