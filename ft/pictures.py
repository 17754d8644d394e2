"""Pictures of a song's mask and spectrograms, as the original implementation draws them, in PNG.

A picture has one column a frame and one row a bin, the lowest bin on top. That of the mask has the left channel's mask
of the instrumental in red and the right channel's in green, 0..255 for 0..1. That of a stem is y = log10(|S|^2 + 1e-8),
brought from its lowest to its highest value to 0..255, with the louder channel in red, the left one in green and the
right one in blue. A mono song is drawn as two equal channels.

A song of more than `PAGE_FRAMES` frames gets several pictures, `mask.png`, `mask.2.png` and so on, each scaled for
itself: so memory does not grow with the song.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import numpy as np
from numpy.typing import NDArray

from ft.errors import AudioError, ConfigError
from ft.parts import Claim, part_name, remove, remove_parts

__all__ = ["Pictures", "remove_parts"]

Array = NDArray[np.float32]
Spec = NDArray[np.complex64]
Levels = NDArray[np.uint8]

PAGE_FRAMES = 16_384
"""At a hop of 1024 and 44.1 kHz six minutes; more columns than most programs show."""
MASK = "mask"
_READ_FRAMES = 512
"""Held at once while a page is drawn."""
INSTALL = "pip install 'frame-transformer[plots]'"


class Pictures:
    """Draws pictures while a song is separated; they get their names together, when all of them are whole.

    What a page needs before its highest value is known waits in unnamed files beside the pictures. Left without
    `commit`, nothing remains; what a killed process left goes when pictures are begun in the same folder. The part of a
    first page is the claim on all pages.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        """
        Args:
            files: the first page of each picture, by `mask` or the name of a stem.
        Raises:
            ConfigError: Pillow is not installed.
        """
        try:
            import PIL.Image
        except ImportError as error:
            raise ConfigError(f"--images: pictures need Pillow: {INSTALL}") from error
        self._image = PIL.Image.fromarray
        self.files = dict(files)
        self.pages: dict[str, list[Path]] = {name: [] for name in files}
        """Of each picture, in order; they are there after `commit`."""
        self._waiting: dict[str, IO[bytes]] = {}
        """The values of the page, float32 (frames, 1 or 2 channels, bins)."""
        self._claims: dict[str, Claim] = {}
        self._parts: list[tuple[str, Path, Path]] = []
        """Of pages that are drawn: the picture, where they are, and where they will be."""
        self._placed: list[tuple[str, Path]] = []
        self._frames = self._channels = self._bins = 0

    def __enter__(self) -> Self:
        """Claims the pictures. Raises AudioError where another run is drawing one of them, or it cannot be made."""
        remove_parts(self.files.values())
        try:
            for name, path in sorted(self.files.items(), key=lambda item: item[1]):
                try:
                    self._claims[name] = Claim(_part(path, 1), path)
                    self._waiting[name] = tempfile.TemporaryFile(dir=path.parent)
                except OSError as error:
                    raise _cannot_write(path, error) from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def add(self, mask: Array, spec: Spec) -> None:
        """The next frames of a song.

        Args:
            mask: of the instrumental (channels, frames, bins), 0..1.
            spec: the mixture's spectrogram of the same shape.
        Raises:
            AudioError: there is no room for them.
        """
        while (frames := mask.shape[1]) > 0:
            count = min(frames, PAGE_FRAMES - self._frames)
            self._write(mask[:, :count], spec[:, :count])
            self._frames += count
            if self._frames == PAGE_FRAMES:
                self._draw_page(_nothing)
            mask, spec = mask[:, count:], spec[:, count:]

    def finish(self, check: Callable[[], None] | None = None) -> None:
        """Draws what is left, so that the pictures only lack their names. Raises AudioError.

        Args:
            check: called again and again meanwhile; what it raises ends this.
        """
        if self._frames:
            self._draw_page(check or _nothing)

    def commit(self, check: Callable[[], None] | None = None) -> None:
        """Finishes and gives all pictures their names, first pages last.

        Pages beyond the last, of a longer song that these replace, go.

        Raises:
            AudioError: a page cannot be written; none of these is there then.
        """
        self.finish(check)
        while self._parts:
            name, part, path = self._parts[-1]
            try:
                if path == self.files[name]:
                    _remove_later_pages(path, len(self.pages[name]))
                self._claims[name].place(part, path)
            except OSError as error:
                raise _cannot_write(path, error) from error
            self._placed.append((name, path))
            self._parts.pop()
        self._placed.clear()
        self.close()

    def close(self) -> None:
        """Removes what was not committed, and the folders made for it."""
        with ExitStack() as stack:
            for claim in self._claims.values():  # the first one last, which made the folders
                stack.callback(claim.close)
            for name, path in self._placed:
                if os.name == "nt" or self._claims[name].is_at(self.files[name]) or self._is_claimed(name):
                    stack.callback(remove, path)
            for name, part, _ in self._parts:
                if self._is_claimed(name):
                    stack.callback(remove, part)
            for file in self._waiting.values():
                stack.callback(_close, file)
            self._claims, self._parts, self._placed, self._waiting = {}, [], [], {}

    def _is_claimed(self, name: str) -> bool:
        """Whether the first page of a picture has no name yet, so that all parts are still this run's."""
        return self._claims[name].is_at(_part(self.files[name], 1))

    def _write(self, mask: Array, spec: Spec) -> None:
        self._channels, _, self._bins = mask.shape
        for name, path in self.files.items():
            values = mask if name == MASK else _power(spec * (mask if name == "instrumental" else 1 - mask))
            try:
                self._waiting[name].write(np.ascontiguousarray(values.swapaxes(0, 1), np.float32).data)
            except OSError as error:
                raise _cannot_write(path, error) from error

    def _draw_page(self, check: Callable[[], None]) -> None:
        """Draws the frames that wait, and begins a new page."""
        for name, first in self.files.items():
            number = len(self.pages[name]) + 1
            path, part = _page(first, number), _part(first, number)
            self.pages[name].append(path)
            self._parts.append((name, part, path))
            try:
                image = self._levels(self._waiting[name], name, check)
                self._waiting[name].seek(0)
                self._waiting[name].truncate()
                self._image(image).save(part, format="PNG")
            except OSError as error:
                raise _cannot_write(path, error) from error
        self._frames = 0

    def _levels(self, file: IO[bytes], name: str, check: Callable[[], None]) -> Levels:
        """The picture (bins, frames, 3) of the values that wait."""
        lowest, highest = 0.0, 1.0
        if name != MASK:
            bounds = [(block.min(), block.max()) for block in self._blocks(file, check)]
            lowest, highest = float(min(low for low, _ in bounds)), float(max(high for _, high in bounds))
        span = highest - lowest if highest > lowest else math.inf
        image = np.zeros((self._bins, self._frames, 3), np.uint8)
        done = 0
        for block in self._blocks(file, check):
            values = (block.astype(np.float64) - lowest) * 255 / span  # of which the highest is 255 to the last digit
            levels = values.astype(np.uint8).transpose(2, 0, 1)
            left, right = levels[..., 0], levels[..., -1]
            planes = (left, right) if name == MASK else (np.maximum(left, right), left, right)
            for index, plane in enumerate(planes):
                image[:, done : done + len(block), index] = plane
            done += len(block)
        return image

    def _blocks(self, file: IO[bytes], check: Callable[[], None]) -> Iterator[Array]:
        """What waits, from its start: (frames, channels, bins)."""
        file.seek(0)
        frame = self._channels * self._bins
        while block := file.read(_READ_FRAMES * frame * 4):
            check()
            yield np.frombuffer(block, np.float32).reshape(-1, self._channels, self._bins)


def _page(first: Path, number: int) -> Path:
    """The page of this number, from 1 on, of the picture whose first page this is."""
    return first if number == 1 else first.with_name(f"{first.stem}.{number}{first.suffix}")


def _part(first: Path, number: int) -> Path:
    """Where a page grows of the picture whose first page this is."""
    return first.with_name(f"{part_name(first)}.page.{number}.part")


def _remove_later_pages(first: Path, last: int) -> None:
    """Removes the pages that a longer picture of this name had, which the new one replaces."""
    if not first.exists():
        return
    number = last + 1
    while _page(first, number).is_file():
        number += 1
    for later in range(number - 1, last, -1):  # from the last, so that one who is killed here leaves no gap
        _page(first, later).unlink()


def _nothing() -> None:
    pass


def _power(spec: Spec) -> Array:
    power: Array = np.log10(np.square(np.abs(spec)) + np.float32(1e-8))
    return power


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # of a full disk, which takes the rest no more
        file.close()


def _cannot_write(path: Path, error: OSError) -> AudioError:
    return AudioError(f"{path}: cannot write the picture: {error.strerror or error}")
