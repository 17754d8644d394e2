"""Names of stems: the field's by those that are meant, and what the name of a file says it holds."""

from __future__ import annotations

import functools
import operator
import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ft.errors import ConfigError

STEMS = ("vocals", "instrumental")
MIXTURE = "mixture"
SILENT_PEAK = 1e-4
"""-80 dB of full scale: a stem that never exceeds it is silent, dither or not."""
ALIASES = {
    MIXTURE: ("mix", "mixtures"),
    "vocals": ("vocal", "voice", "acapella", "acappella", "a_cappella"),
    "instrumental": (
        *("instrumentals", "instruments", "inst", "accompaniment", "karaoke", "backing_track"),
        *("no_vocals", "no_vocal", "minus_vocals"),  # demucs --two-stems
    ),
    "drums": ("drum",),
    "bass": (),
    "other": ("others",),
    "guitar": ("guitars",),
    "piano": (),
    "keys": ("keyboard", "keyboards", "other_keys"),
    "synth": ("synths", "synthesizer"),
    "strings": ("bowed_strings",),
    "plucked": ("other_plucked",),
    "brass": (),
    "woodwinds": ("woodwind",),
    "wind": ("wind_inst",),
    "percussion": (),
    "residual": (),
}
"""Stems, and the other names that tools and data sets of the field give them; all but the first three are parts of an
instrumental. Names of which one holds another, as kick and drums, are left out: their sum would count it twice."""
_BY_NAME = {name: stem for stem, others in ALIASES.items() for name in (stem, *others)}
_IN_BRACKETS = re.compile(r"(?:^|_)\(([^()]*)\)(?=_|$)")


def stem_of(name: str, titles: Collection[str] = ()) -> str | None:
    """Says which stem the name of a file in a song's folder stands for; None where it is no name of the field.

    Letters have no case, and blanks, dots, hyphens and underscores are alike. A stem's name is known alone, behind a
    title, or in brackets behind anything; parts of an instrumental may be numbered.

    >>> [stem_of(name) for name in ("Vocals", "no_vocals", "1_Song_(Vocals)", "Song_(Bass)_htdemucs_ft", "guitar 2")]
    ['vocals', 'instrumental', 'vocals', 'bass', 'guitar 2']
    >>> [stem_of(name, ["Song"]) for name in ("Song - vocals", "Song - backing vocals", "Song (full mix)")]
    ['vocals', None, None]
    """
    rests = [rest for title in titles if (rest := _behind(name, title))]
    found = (_named(text) or _bracketed(text) for text in (*rests, _plain(name)))
    return next((stem for stem in found if stem), None)


def stem_of_song(name: str, title: str) -> str | None:
    """Says which stem of the song of a title a file stands for that lies among files of other songs.

    >>> [stem_of_song(name, "Song") for name in ("1_Song_(Vocals)", "Song_vocals", "Song 2_vocals", "vocals")]
    ['vocals', 'vocals', None, None]
    >>> [stem_of_song(name, "") for name in ("vocals", "Song_vocals")]
    ['vocals', None]
    """
    rest = _behind(name, title) or ""
    first = _IN_BRACKETS.match(rest)
    return _named(rest) or (_bracketed(rest) if first and _named(first[1]) else None)


def recipe(stem: str, known: Collection[str]) -> dict[str, int]:
    """Says which known sounds make up a stem, each with its sign; nothing where they do not suffice.

    That is the stem itself, by any name of the field, the sum of the instrumental's parts, what the other one of
    `STEMS` leaves of the mixture, or for no_drums all but the drums.

    >>> recipe("instrumental", ["vocals", "drums", "bass"]), recipe("instrumental", ["mixture", "vocals"])
    ({'drums': 1, 'bass': 1}, {'mixture': 1, 'vocals': -1})
    >>> recipe("no_drums", ["vocals", "drums", "bass"]), recipe("acapella", ["vocals", "drums", "bass"])
    ({'vocals': 1, 'bass': 1}, {'vocals': 1})
    """
    name = stem if stem in known else _BY_NAME.get(stem, stem)
    if name in known:
        return {name: 1}
    if name == "instrumental" and (parts := [each for each in known if each not in (MIXTURE, *STEMS)]):
        return dict.fromkeys(parts, 1)
    left = {*STEMS} - {name} if name in STEMS else {name.removeprefix("no_")} - {name}
    if not left or not left <= {*known}:
        return {}
    if MIXTURE in known:
        return {MIXTURE: 1} | dict.fromkeys(left, -1)
    return {} if name in STEMS else {each: 1 for each in known if each not in left}


def chosen(stems: Sequence[str], stem: str | None = None, two_stems: str | None = None) -> dict[str, tuple[str, ...]]:
    """Says which outputs a model's stems become, and of which each is the sum.

    Args:
        stems: those of the model, which together are the mixture.
        stem: the only one to give: one of the model, of its sums by a name of the field, or such with + between them.
        two_stems: as `stem`, for it and everything else.
    Raises:
        ConfigError: the model cannot give it, or it is all that the model has.

    >>> chosen(("vocals", "drums", "bass"), "drums+bass")
    {'drums+bass': ('drums', 'bass')}
    >>> chosen(("vocals", "drums", "bass"), two_stems="vocals")
    {'vocals': ('vocals',), 'instrumental': ('drums', 'bass')}
    >>> chosen(("vocals", "drums", "bass"), two_stems="drums")
    {'drums': ('drums',), 'no_drums': ('vocals', 'bass')}
    """
    asked, option = (stem, "stem") if two_stems is None else (two_stems, "two_stems")
    if asked is None:
        return {name: (name,) for name in stems}
    made = [recipe(name, stems) for name in asked.split("+")]
    own = tuple(name for name in stems if any(name in signs for signs in made))
    others = tuple(name for name in stems if name not in own)
    if not all(made) or (two_stems is not None and not others):
        raise ConfigError(f"`{option}` {asked or repr(asked)}: the model has {', '.join(stems)}")
    if two_stems is None:
        return {asked: own}
    rest = "instrumental" if set(others) == {*recipe("instrumental", stems)} else f"no_{asked}"
    return {asked: own, others[0] if len(others) == 1 else rest: others}


def with_sums(stems: Mapping[str, Any], outputs: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Adds to a block of stems what `chosen` makes of them.

    >>> with_sums({"vocals": 1.0, "drums": 2.0, "bass": 3.0}, {"instrumental": ("drums", "bass")})["instrumental"]
    5.0
    """
    sums = {
        name: functools.reduce(operator.add, map(stems.__getitem__, parts))
        for name, parts in outputs.items()
        if name not in stems
    }
    return {**stems, **sums}


def formula(signs: Mapping[str, int]) -> str:
    """Writes a recipe down.

    >>> formula({"mixture": 1, "vocals": -1})
    'mixture - vocals'
    """
    return "".join(f" {'+' if sign > 0 else '-'} {name}" for name, sign in signs.items()).removeprefix(" + ")


def _plain(text: str) -> str:
    return re.sub(r"[\s._-]+", "_", unicodedata.normalize("NFC", text).casefold()).strip("_")


def _behind(name: str, title: str) -> str | None:
    """What follows the title in a name, which may begin with numbers, as UVR counts its songs."""
    plain, numbers = f"{_plain(title)}_" if title else "", len(name) - len(re.sub(r"^(\d+_)+", "", name))
    for start in (0, *(index + 1 for index in range(numbers) if name[index] == "_")):
        if (text := _plain(name[start:])).startswith(plain):
            return text.removeprefix(plain)
    return None


def _named(text: str) -> str | None:
    stem = _BY_NAME.get(text)
    if stem is None and (numbered := re.fullmatch(r"(\D+?)_?(\d{1,2})", text)):
        part = _BY_NAME.get(numbered[1])
        stem = f"{part} {numbered[2]}" if part not in (None, MIXTURE, *STEMS) else None
    return stem


def _bracketed(text: str) -> str | None:
    """The stem in brackets. What brackets behind it say must be the same: a stem of a stem is neither of the two."""
    stems = [_named(found) for found in _IN_BRACKETS.findall(text)]
    stems = stems[next((index for index, stem in enumerate(stems) if stem), 0) :]
    return stems[0] if len(set(stems)) == 1 else None
