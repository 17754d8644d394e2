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

from ft.errors import ConfigError
from ft.options import TEMPLATE, SeparateOptions
from ft.stems import chosen

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
    """The stems that are written, and what stands for each in the template."""
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
        if options.name_template != TEMPLATE:
            template, titles = options.name_template, None
        outputs = chosen(stems, options.stem, options.two_stems)
        named = {stem: (titles or {}).get(stem, stem) for stem in outputs}
        mask = (titles or {}).get(MASK, MASK) if options.images else None
        names = cls(template, options.format, model, named, mask)
        names._check()
        return names

    def _check(self) -> None:
        """Raises ConfigError for a template that cannot be used whatever the song."""
        problem = f"`name_template` {self.template}: expected"
        for _, name, spec, conversion in string.Formatter().parse(self.template):
            if name is not None and (spec or conversion):
                raise ConfigError(f"{problem} {{{name}}} alone, without : or !")
        parts = re.split(_SEPARATORS, self.template)
        if re.match(r"[A-Za-z]:", self.template) or not parts[0]:
            raise ConfigError(f"{problem} a path below the folder of `output`")
        if "\0" in self.template or any(part in ("", ".", "..") for part in parts):
            raise ConfigError(f"{problem} a name on each side of every /, none of them . or ..")
        for folder in (PurePath(), PurePath("folder")):
            files, images = self.of_song("song", folder)
            if len({*files.values(), *images.values()}) < len(files) + len(images):
                raise ConfigError(f"{problem} {{stem}}; files would collide")
            for file in files.values():
                if file.suffix.lower() != f".{self.ext}":
                    raise ConfigError(f"{problem} .{{ext}} at the end; `format` is {self.ext}")

    def of_song(
        self, title: str, folder: PurePath, input_ext: str = ""
    ) -> tuple[dict[str, PurePath], dict[str, PurePath]]:
        """The files of a song's stems and its pictures, below the output folder. Raises ConfigError."""
        names = self.stems if self.mask is None else {MASK: self.mask, **self.stems}
        files = {stem: self.file(title, folder, names[stem], self.ext, input_ext) for stem in self.stems}
        if self.mask is None:
            return files, {}
        return files, {kind: self._image(title, folder, name, input_ext) for kind, name in names.items()}

    def file(self, title: str, folder: PurePath, stem: str, ext: str, input_ext: str) -> PurePath:
        """What the template makes of a song. Raises ConfigError where that leads out of the output folder."""
        template, keeps_folder = self.template, "folder" not in self._fields
        if not folder.parts:  # "a/{folder}/b" is a/b there
            template = re.sub(r"(^|/)\{folder\}/", r"\1", template)
        values = {"song": title, "stem": stem, "model": self.model, "input_ext": input_ext}
        safe = {name: as_one_name(value) for name, value in values.items()}
        path = PurePath(template.format(folder=folder.as_posix() if folder.parts else "", ext=ext, **safe))
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ConfigError(f"`name_template` {self.template}: {path} is not below the folder of `output`")
        return folder / path if keeps_folder else path

    @cached_property
    def _fields(self) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}

    def _image(self, title: str, folder: PurePath, name: str, input_ext: str) -> PurePath:
        """A picture's file, whatever the template leaves out."""
        path = self.file(title, folder, name, IMAGE, input_ext)
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
    """Gives the key of what stands there; None of nothing."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def real_path(path: Path) -> Path:
    """The path without links, as far as it leads anywhere; `Path.resolve` raises where links go in a circle."""
    return Path(os.path.realpath(path))


def check_outputs(outputs: Sequence[tuple[Path, Sequence[Path]]]) -> tuple[set[int], dict[int, str]]:
    """Finds the inputs that cannot get their files beside the others of a call.

    Names are compared as file systems may that do not tell A from a, or one way to write an accent from another.

    Args:
        outputs: each input with the files it would get.
    Returns:
        The numbers of inputs that are another one named again, which can be left out; and by their numbers why others
        must fail: two inputs would get one file, or one a file where another needs a folder, or where an input is.
    """
    inputs = {this: path for path, _ in outputs if (this := identity(path)) is not None}
    owners: dict[str, dict[int, Path]] = {}
    """The inputs of each file, with its name in their words."""
    doubles: set[int] = set()
    problems: dict[int, str] = {}
    folders: dict[Path, Path] = {}
    for number, (path, files) in enumerate(outputs):
        this = identity(path)
        for file in files:
            if file.parent not in folders:
                folders[file.parent] = real_path(file.parent)
            known = owners.setdefault(_key(folders[file.parent] / file.name), {})
            if this is not None and any(identity(outputs[other][0]) == this for other in known):
                doubles.add(number)
                break
            known[number] = file
            replaced = inputs.get(identity(file) or (-1, -1))
            if replaced is not None:
                problems[number] = f"{file} would replace the input {replaced}; choose another `output`"
    for known in owners.values():
        if len(known) > 1:
            paths = [outputs[number][0] for number in known]
            for number, file in known.items():
                others = _listed([path for path in paths if path is not outputs[number][0]])
                problems.setdefault(number, f"would become {file}, and so would {others}; {_hint(paths)}")
    _check_folders(outputs, owners, folders, problems)
    return doubles, {number: f"{outputs[number][0]}: {text}" for number, text in problems.items()}


def _check_folders(
    outputs: Sequence[tuple[Path, Sequence[Path]]],
    owners: Mapping[str, Mapping[int, Path]],
    folders: Mapping[Path, Path],
    problems: dict[int, str],
) -> None:
    """Adds the inputs of which one needs a file where another needs a folder on the way to its own."""
    needed: dict[Path, list[Path]] = {}
    for folder, real in folders.items():
        for each in (real, *real.parents):
            needed.setdefault(each, []).append(folder)
    for real, below in needed.items():
        for owner in owners.get(_key(real), {}):
            for number, (path, files) in enumerate(outputs):
                if any(file.parent in below for file in files):
                    problems.setdefault(owner, f"{real} would be its file and a folder for {path}; {_hint([])}")
                    other = outputs[owner][0]
                    problems.setdefault(number, f"{real} would be its folder and a file for {other}; {_hint([])}")


def _hint(paths: Sequence[Path]) -> str:
    """What keeps the files of these inputs apart: the part of a template that does, or other words."""
    for field, values in (
        ("input_ext", [path.suffix for path in paths]),
        ("folder", [path.absolute().parent.name for path in paths]),
    ):
        if paths and len({_key(PurePath(value)) for value in values}) == len(paths):
            return f"{{{field}}} in `name_template` tells them apart"
    return "rename one of them, or separate them one at a time with another `output`"


def _listed(paths: Sequence[Path]) -> str:
    shown = ", ".join(map(str, paths[:_SHOWN]))
    return shown if len(paths) <= _SHOWN else f"{shown} and {len(paths) - _SHOWN} more"


_SHOWN = 3


def _key(path: PurePath) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", os.fspath(path)).casefold())
