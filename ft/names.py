"""Names of the files that a song gets, from a template, and that no two files get the same one."""

from __future__ import annotations

import os
import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath

from ft.errors import AudioError, ConfigError
from ft.options import TEMPLATE, SeparateOptions

MASK = "mask"
IMAGE = "png"
_SEPARATORS = r"[/\\]" if os.name == "nt" else "/"

Identity = tuple[int, int]
"""Device and number of a file, the same by whatever path it is reached."""


@dataclass(frozen=True)
class Names:
    """What a template makes of songs.

    >>> names = Names.of(SeparateOptions(), ("vocals",), "default")
    >>> [file.as_posix() for file in names.of_song("One", PurePath("1999"))[0].values()]
    ['1999/One/vocals.wav']
    """

    template: str
    ext: str
    model: str
    stems: Mapping[str, str]
    """Those that are written, and what stands for each in the template."""
    mask: str | None
    """What stands for the picture of the mask; None without pictures."""

    @classmethod
    def of(
        cls,
        options: SeparateOptions,
        stems: Sequence[str],
        model: str,
        template: str = TEMPLATE,
        titles: Mapping[str, str] | None = None,
    ) -> Names:
        """The names that options ask for.

        Args:
            stems: those of the model.
            template: the one to take where the options have the usual one.
            titles: in place of the names of stems and "mask", with that template.
        Raises:
            ConfigError: the model has no such stem, or the template leads out of the output folder.
        """
        if options.stem is not None and options.stem not in stems:
            asked = options.stem or "''"
            raise ConfigError(f"--stem {asked}: the model has {', '.join(stems)}")
        if options.name_template != TEMPLATE:
            template, titles = options.name_template, None
        chosen = stems if options.stem is None else (options.stem,)
        named = {stem: (titles or {}).get(stem, stem) for stem in chosen}
        mask = (titles or {}).get(MASK, MASK) if options.images else None
        names = cls(template, options.format, model, named, mask)
        names._check()
        return names

    def _check(self) -> None:
        """Raises ConfigError for a template that cannot be used whatever the song."""
        problem = f"--name-template {self.template}: expected"
        for _, name, spec, conversion in string.Formatter().parse(self.template):
            if name is not None and (spec or conversion):
                raise ConfigError(f"{problem} {{{name}}} alone, without : or !")
        parts = re.split(_SEPARATORS, self.template)
        if re.match(r"[A-Za-z]:", self.template) or not parts[0]:
            raise ConfigError(f"{problem} a path below the folder of -o")
        if "\0" in self.template or any(part in ("", ".", "..") for part in parts):
            raise ConfigError(f"{problem} a name on each side of every /, none of them . or ..")
        for folder in (PurePath(), PurePath("folder")):
            files, images = self.of_song("song", folder)
            if len({*files.values(), *images.values()}) < len(files) + len(images):
                raise ConfigError(f"{problem} {{stem}}; files would collide")
            for file in files.values():
                if file.suffix.lower() != f".{self.ext}":
                    raise ConfigError(f"{problem} .{{ext}} at the end; --format is {self.ext}")

    def of_song(self, title: str, folder: PurePath) -> tuple[dict[str, PurePath], dict[str, PurePath]]:
        """The files of a song's stems and its pictures, below the output folder. Raises ConfigError."""
        files = {stem: self.file(title, folder, name, self.ext) for stem, name in self.stems.items()}
        if self.mask is None:
            return files, {}
        return files, {kind: self._image(title, folder, name) for kind, name in {MASK: self.mask, **self.stems}.items()}

    def file(self, title: str, folder: PurePath, stem: str, ext: str) -> PurePath:
        """What the template makes of a song. Raises ConfigError where that leads out of the output folder."""
        template, keeps_folder = self.template, "folder" not in self._fields
        if not folder.parts:  # "a/{folder}/b" is a/b there
            template = re.sub(r"(^|/)\{folder\}/", r"\1", template)
        values = {"song": title, "stem": stem, "model": self.model}
        safe = {name: as_one_name(value) for name, value in values.items()}
        path = PurePath(template.format(folder=folder.as_posix() if folder.parts else "", ext=ext, **safe))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ConfigError(f"--name-template {self.template}: {path} is not below the folder of -o")
        return folder / path if keeps_folder else path

    @cached_property
    def _fields(self) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}

    def _image(self, title: str, folder: PurePath, name: str) -> PurePath:
        """A picture's file, whatever the template leaves out."""
        path = self.file(title, folder, name, IMAGE)
        if "stem" not in self._fields:
            path = path.with_name(f"{path.name.removesuffix(f'.{IMAGE}')}.{name}.{IMAGE}")
        return path if path.suffix == f".{IMAGE}" else path.with_name(f"{path.name}.{IMAGE}")


def as_one_name(value: str) -> str:
    """The text as part of one name: it leads into no folder, and not out of one.

    >>> as_one_name("AC/DC"), as_one_name("..")
    ('AC_DC', '__')
    """
    value = re.sub(_SEPARATORS + "|\0", "_", value)
    return value if value.strip(".") else "_" * max(len(value), 1)


def identity(path: Path) -> Identity | None:
    """Of what stands there; None of nothing."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def real_path(path: Path) -> Path:
    """The path without links, as far as it leads anywhere; `Path.resolve` raises where links go in a circle."""
    return Path(os.path.realpath(path))


def check_outputs(outputs: Sequence[tuple[Path, Sequence[Path]]]) -> set[int]:
    """Which of the inputs are another one named again, so that both would write the same; these can be left out.

    Names are compared as file systems may that do not tell A from a, or one way to write an accent from another.

    Args:
        outputs: each input with the files it would get.
    Raises:
        AudioError: two inputs would get the same file, or one a file where another needs a folder, or where an input
            is.
    """
    inputs = {this: path for path, _ in outputs if (this := identity(path)) is not None}
    owners: dict[str, int] = {}
    doubles: set[int] = set()
    folders: dict[Path, Path] = {}
    for number, (path, files) in enumerate(outputs):
        for file in files:
            if file.parent not in folders:
                folders[file.parent] = real_path(file.parent)
            owner = owners.setdefault(_key(folders[file.parent] / file.name), number)
            other = outputs[owner][0]
            if owner != number and identity(other) is not None and identity(other) == identity(path):
                doubles.add(number)
                break
            if owner != number:
                raise AudioError(f"{other} and {path}: both would become {file}; {_HINT}")
            replaced = inputs.get(identity(file) or (-1, -1))
            if replaced is not None:
                raise AudioError(f"{path}: {file} would replace the input {replaced}; choose another folder with -o")
    _check_folders(outputs, owners, folders)
    return doubles


def _check_folders(
    outputs: Sequence[tuple[Path, Sequence[Path]]], owners: Mapping[str, int], folders: Mapping[Path, Path]
) -> None:
    """Raises AudioError where what would be a file for one input is a folder on the way to a file of another."""
    needed: dict[Path, Path] = {}
    for folder, real in folders.items():
        for each in (real, *real.parents):
            if needed.setdefault(each, folder) is not folder:
                break  # and what is above it was met before
    for real, folder in needed.items():
        owner = owners.get(_key(real))
        if owner is not None:
            other = next(path for path, files in outputs if any(file.parent == folder for file in files))
            raise AudioError(
                f"{outputs[owner][0]} and {other}: {real} would be a file of one and a folder of the other; {_HINT}"
            )


_HINT = "separate them one at a time with another -o, or choose another --name-template"


def _key(path: Path) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", os.fspath(path)).casefold())
