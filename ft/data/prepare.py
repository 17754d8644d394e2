"""What `ft data prepare align` and `patches` do: folders of songs to aligned pairs, and to patch files."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ft.audio.wav import WavFile
from ft.config import Spectrogram
from ft.data.align import (
    LARGEST_RESIDUAL_DB,
    LONGEST_DELAY,
    SAMPLE_RATE,
    Alignment,
    Pair,
    aligned_blocks,
    find_alignment,
    stereo_blocks,
)
from ft.data.patches import SUFFIX, PatchGrid, cut_patches, folder_name, frames_of, write_patch
from ft.data.scan import sounds_below
from ft.errors import DataError, FtError

Array = NDArray[np.float32]
Kind = Literal["instrumentals", "pairs", "vocals", "mixes", "validation"]
KINDS: dict[Kind, str] = {
    "instrumentals": "",
    "pairs": "_PAIRS",
    "vocals": "_VOCALS",
    "mixes": "_MIXES",
    "validation": "_VALIDATION",
}
"""What is cut, and how the name of the folder of its patches ends."""
LONGEST = 220_000_000
"""Samples of a mix in one chunk; a longer one has several, each with a peak of its own."""
INSTRUMENTALS = ("instruments", "instrumentals")
Report = Callable[[str], object]
ORIGINAL = Spectrogram()
"""The STFT of the original's patches."""


def find_pairs(folder: Path) -> list[Pair]:
    """The pairs in a folder of `mixtures/` and `instruments/`, by the order of their names, or of folders with songs.

    Each has the name of its mixture, with the folders above it.

    Raises:
        DataError: none, one side has more files than the other, or two have one name.
    """
    side = next((folder / name for name in INSTRUMENTALS if (folder / name).is_dir()), None)
    if side is not None and (folder / "mixtures").is_dir():
        mixtures, instrumentals = sounds_below(folder / "mixtures"), sounds_below(side)
        if len(mixtures) != len(instrumentals):
            raise DataError(
                f"{folder}: {len(mixtures)} files in mixtures/ and {len(instrumentals)} in {side.name}/; "
                "expected as many, in the same order"
            )
        names = [_name(mixture.with_suffix(""), folder / "mixtures") for mixture in mixtures]
        return _distinct([Pair(*each) for each in zip(names, mixtures, instrumentals, strict=True)])
    pairs = []
    for mixture in (path for path in sounds_below(folder) if path.stem == "mixture"):
        partners = [path for path in sounds_below(mixture.parent) if path.stem == "instrumental"]
        if not partners:
            raise DataError(f"{mixture.parent}: a mixture without instrumental.*; expected both")
        pairs.append(Pair(_name(mixture.parent, folder), mixture, partners[0]))
    if not pairs:
        raise DataError(
            f"{folder}: no pairs in it; expected mixtures/ and instruments/, or songs of mixture.* and instrumental.*"
        )
    return _distinct(pairs)


def align_folder(
    folder: Path,
    output: Path,
    max_delay: float = LONGEST_DELAY,
    residual_db: float = LARGEST_RESIDUAL_DB,
    report: Report = print,
) -> list[str]:
    """Writes each pair as `output/<song>/mixture.wav`, `instrumental.wav` and `vocals.wav`, their difference.

    Songs that are there are left alone. A song's folder appears when it is whole.

    Returns:
        What was wrong with pairs that were not written.
    Raises:
        DataError: no pairs, or `output` cannot be written.
    """

    def write(pair: Pair) -> str:
        target = output / pair.song
        if target.exists():
            return "is there already"
        alignment = find_alignment(pair, max_delay, residual_db)
        _write_aligned(pair, alignment, target)
        return str(alignment)

    return _each(find_pairs(folder), write, output, report)


def _each(songs: Sequence[Pair], write: Callable[[Pair], str], target: Path, report: Report) -> list[str]:
    """Reports what `write` says of each song. Gives what is wrong with those that cannot be used."""
    bad = []
    for song in songs:
        try:
            report(f"{song.song}: {write(song)}")
        except OSError as error:
            raise DataError(f"{target}: cannot be written: {error.strerror or error}") from error
        except FtError as error:
            bad.append(str(error))
    return bad


def _write_aligned(pair: Pair, alignment: Alignment, target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, part, ignore_errors=True)
        files = [
            stack.enter_context(closing(WavFile(part / f"{name}.wav", 2, SAMPLE_RATE, "float")))
            for name in ("mixture", "instrumental", "vocals")
        ]
        for mixture, instrumental in aligned_blocks(pair, alignment):
            for file, block in zip(files, (mixture, instrumental, mixture - instrumental), strict=True):
                file.write(block)
        for file in files:
            file.finish()
        part.rename(target)


def write_patches(
    folder: Path,
    output: Path,
    kind: Kind,
    size: int = 2048,
    offset: int = 0,
    report: Report = print,
    max_delay: float = LONGEST_DELAY,
    residual_db: float = LARGEST_RESIDUAL_DB,
) -> list[str]:
    """Cuts songs into patch files, in a folder below `output` whose name says how. Those that are there are kept.

    Pairs are aligned first. Silent patches of vocals are left out.

    Args:
        size: frames of a patch.
        offset: frames by which neighbours overlap on each side.
        max_delay, residual_db: of pairs, as `find_alignment` takes them.
    Returns:
        What was wrong with songs that were left out.
    Raises:
        DataError: nothing to cut, two songs of one name, or `output` cannot be written.
    """
    if not 0 <= 2 * offset < size:
        raise DataError(f"`frames` {size} and `offset` {offset}: expected an offset of less than half of the frames")
    target = output / folder_name(ORIGINAL, SAMPLE_RATE, size, offset, KINDS[kind])
    aligned = kind in ("pairs", "validation")

    def write(song: Pair) -> str:
        alignment = find_alignment(song, max_delay, residual_db) if aligned else None
        return f"{_write_song(song, alignment, target, kind, PatchGrid(0, size, offset))} patches"

    return _each(find_pairs(folder) if aligned else _single(folder, kind), write, target, report)


def _single(folder: Path, kind: Kind) -> list[Pair]:
    """Songs of one file each, which stands on both sides; of folders with stems, those that are meant."""
    places = [folder / name for name in INSTRUMENTALS if kind == "instrumentals" and (folder / name).is_dir()]
    root = places[0] if places else folder
    files = sounds_below(root)
    stem = {"instrumentals": "instrumental", "vocals": "vocals"}.get(kind, "mixture")
    if any(path.stem == "mixture" for path in files):
        files = [path for path in files if path.stem == stem]
    if not files:
        raise DataError(f"{folder}: no audio files in it; expected {kind}")
    names = [_name(path.parent if path.stem == stem else path.with_suffix(""), root) for path in files]
    return _distinct([Pair(name, path, path) for name, path in zip(names, files, strict=True)])


def _write_song(song: Pair, alignment: Alignment | None, target: Path, kind: Kind, grid: PatchGrid) -> int:
    """Writes the patches of a song and counts them."""

    def blocks() -> Iterator[Array]:
        """Gives four channels of a pair: the mixture's and the instrumental's."""
        if alignment is None:
            yield from stereo_blocks(song.mixture)
        else:
            yield from (np.concatenate(both) for both in aligned_blocks(song, alignment))

    total = sum(block.shape[1] for block in blocks()) if kind == "mixes" else 0
    if total <= LONGEST:
        return _write_part(blocks, target / f"{song.song}_p", kind, grid)
    written = 0
    for number, start in enumerate(range(0, total, LONGEST)):
        part = partial(_between, blocks, start, start + LONGEST)
        written += _write_part(part, target / f"{song.song}_c{number}_p", kind, grid)
    return written


def _between(blocks: Callable[[], Iterator[Array]], start: int, stop: int) -> Iterator[Array]:
    position = 0
    for block in blocks():
        part = block[:, max(0, start - position) : max(0, stop - position)]
        position += block.shape[1]
        if part.shape[1]:
            yield part


def _write_part(blocks: Callable[[], Iterator[Array]], stem: Path, kind: Kind, grid: PatchGrid) -> int:
    frames, peak = 0, 0.0
    for spec in frames_of(blocks(), ORIGINAL.n_fft, ORIGINAL.hop_length):
        frames, peak = frames + spec.shape[2], max(peak, float(np.abs(spec).max(initial=0)))
    if not peak:  # silent: there is no scale
        return 0
    if kind == "vocals":  # of these the original keeps the highest sample
        peak = max(float(np.abs(block).max(initial=0)) for block in blocks())
    written = 0
    spectrogram = frames_of(blocks(), ORIGINAL.n_fft, ORIGINAL.hop_length)
    for number, patch in enumerate(cut_patches(spectrogram, replace(grid, frames=frames))):
        path = stem.with_name(f"{stem.name}{number}{SUFFIX}")
        if path.exists() or (kind == "vocals" and not patch.any()):
            continue
        more = {"vocals": np.bool_(True)} if kind == "mixes" else {}
        write_patch(path, peak, patch[:2], patch[2:] if len(patch) == 4 else None, **more)
        written += 1
    return written


def _distinct(pairs: list[Pair]) -> list[Pair]:
    """The pairs. Raises DataError for those of one name, as what is written of the second would be taken as there."""
    seen: dict[str, Path] = {}
    clashes = [
        f"{first} and {pair.mixture}: both would be {pair.song}"
        for pair in pairs
        if (first := seen.setdefault(pair.song, pair.mixture)) is not pair.mixture
    ]
    if clashes:
        raise DataError(f"{'; '.join(clashes)}; rename one of each")
    return pairs


def _name(path: Path, root: Path) -> str:
    """Gives what is below `root` as one name."""
    return "_".join(path.relative_to(root).parts) or root.resolve().name
