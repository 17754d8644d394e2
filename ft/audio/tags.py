"""Tags and cover art, from the song to its stems, with mutagen.

Between the formats tags travel under the names of Vorbis comments: the recommended ones of xiph.org and those of
MusicBrainz Picard. What describes the file and not the song stays behind: loudness (the levels of stems are others),
encoders, lengths, fingerprints, cue sheets, and what programs for DJs keep as text that is none: beat grids, markers.
Chapters and whatever else is no text are not carried either.
"""

from __future__ import annotations

import base64
import io
import logging
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ft.audio.tag_names import FRAMES, NUMBERS, PLACES, VORBIS_NAMES
from ft.errors import one_line
from ft.options import Format

logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_OF_THE_FILE = re.compile(
    r"REPLAYGAIN|R128_|MP3GAIN|ITUN|ENCOD|ACOUSTID|MUSICIP|CUESHEET|LENGTH$|CTDB|ACCURATERIP|"
    r"METADATA_BLOCK_PICTURE|COVERART|WAVEFORMATEXTENSIBLE|(MAJOR|MINOR)_(BRAND|VERSION)|COMPATIBLE_BRANDS|"
    r"SERATO|TRAKTOR|CUEPOINTS|BEATGRID"
)
_BLOB = re.compile(r"eyJ[A-Za-z0-9+/=\s]{20,}")
"""JSON in base64, as Mixed In Key writes beside the texts."""
_RATING = re.compile(r"([ -~]*)\|(\d{1,3})\|(\d{1,18})")
"""The frame POPM as text: whose rating, 0..255, how often played."""
_KEY = re.compile(r"[ -<>-}]+")
"""Names that a Vorbis comment may have."""
_MOST_TEXT, _MOST_VALUES = 1 << 20, 1000
"""Characters and values in all; what goes beyond is left out."""
_MOST_COVER = 15 << 20
"""Bytes; a FLAC block holds 16 MiB."""
_IMAGES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png", b"GIF8": "image/gif"}
"""How the pictures that players show begin."""
_FRONT = 3


@dataclass(frozen=True)
class Cover:
    """A picture of the front of an album."""

    data: bytes
    mime: str


@dataclass(frozen=True)
class Tags:
    """What a song is called and by whom, under the names of Vorbis comments, in capitals."""

    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    cover: Cover | None = None

    def of_stem(self, stem: str) -> Tags:
        """Gives the tags of a stem of the song, which the title names where there is one.

        >>> Tags({"TITLE": ("Song",)}).of_stem("vocals").texts
        {'TITLE': ('Song (Vocals)',)}
        """
        texts = dict(self.texts)
        if "TITLE" in texts:
            texts["TITLE"] = tuple(f"{title} ({stem.capitalize()})" for title in texts["TITLE"])
        return replace(self, texts=texts)


def read_tags(path: Path) -> Tags | None:
    """What can be read of the tags of a file of any kind; None where there is nothing."""
    try:
        file = _opened(path)
        if file is None or not file.tags:
            return None
        read = _mp4_texts if _kind(file) == "mp4" else _id3_texts if _kind(file) == "id3" else _vorbis_texts
        texts = _collected(_until_broken(read(file.tags)))
        cover = next(_until_broken(_covers(file)), None)
    except Exception:  # files of all sorts come here, and none of them is worth a song
        return None
    return Tags(texts, cover) if texts or cover else None


def write_tags(path: Path, format: Format, tags: Tags) -> None:
    """Puts tags into a finished file: Vorbis comments into flac, ogg and opus, ID3v2.4 into mp3 and wav (at its end).

    Samples are not touched. An RF64 file, or one that would become too large for WAV, is left as it is.

    Raises:
        OSError: the file cannot be written.
        mutagen.MutagenError, ValueError: the format refuses the tags.
    """
    from mutagen import MutagenError

    try:
        if format == "wav":
            _append_chunk(path, _id3(tags))
        elif format == "mp3":
            tag = _id3_tag(tags)
            if tag:
                tag.save(path, v2_version=4)
        else:
            _write_vorbis(path, format, tags)
    except MutagenError as error:
        if error.args and isinstance(error.args[0], OSError):  # mutagen wraps these, too
            raise error.args[0] from error
        raise


def _opened(path: Path) -> Any:
    """The file as mutagen sees it; None where it is no kind that has tags."""
    import mutagen
    from mutagen import aiff, flac, mp3, mp4, oggflac, oggopus, oggvorbis, wave

    kinds = [flac.FLAC, oggvorbis.OggVorbis, oggopus.OggOpus, oggflac.OggFLAC]
    return mutagen.File(path, [*kinds, mp3.MP3, mp4.MP4, aiff.AIFF, wave.WAVE])


def _kind(file: Any) -> str:
    from mutagen.id3 import ID3
    from mutagen.mp4 import MP4Tags

    return "mp4" if isinstance(file.tags, MP4Tags) else "id3" if isinstance(file.tags, ID3) else "vorbis"


def _until_broken(items: Iterator[_T]) -> Iterator[_T]:
    """What comes before the first error."""
    try:
        yield from items
    except Exception as error:  # mutagen raises whatever damaged tags make it meet; a song is worth more than they
        logger.debug("tags are read up to what is damaged: %s", one_line(error))


def _collected(pairs: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Values by name, without those that belong to the file, that are empty or twice there, or that are too many.

    Args:
        pairs: a place of `PLACES`, or the name of free text, and what stands there.
    """
    texts: dict[str, tuple[str, ...]] = {}
    ranks: dict[str, int] = {}
    room, count = _MOST_TEXT, 0
    for place, value in _totals_apart(pairs):
        rank, name = PLACES.get(place, (0, place))
        value = value.replace("\0", "").strip()
        # What is no text, such as halves of UTF-16 pairs, becomes what stands for such.
        value = value.encode("utf-8", "replace").decode()
        if not value or not _KEY.fullmatch(name) or _OF_THE_FILE.match(name) or _BLOB.fullmatch(value):
            continue
        if name.startswith(("id3:", "mp4:")):  # a frame that is not in the table
            continue
        if rank > ranks.get(name, rank) or len(value) > room or count >= _MOST_VALUES:
            continue
        if rank < ranks.get(name, rank):
            del texts[name]
        if value in texts.get(name, ()):
            continue
        room, count = room - len(value), count + 1
        texts[name], ranks[name] = (*texts.get(name, ()), value), rank
    return texts


def _totals_apart(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Gives them with 3/12 as the number 3 and a total of 12."""
    for place, value in pairs:
        if PLACES.get(place, (0, ""))[1] in NUMBERS:
            value, _, total = value.partition("/")
            yield f"{place}/", total
        yield place, value


def _vorbis_texts(tags: Any) -> Iterator[tuple[str, str]]:
    yield from ((name.strip().upper(), value) for name, value in tags)


def _id3_texts(tags: Any) -> Iterator[tuple[str, str]]:
    for frame in tags.values():
        kind = frame.FrameID
        if kind == "TXXX":
            yield from ((frame.desc.strip().upper(), str(text)) for text in frame.text)
        elif kind == "TIPL":
            yield from ((f"id3:TIPL:{role.lower()}", name) for role, name in frame.people)
        elif kind == "UFID":
            yield f"id3:UFID:{frame.owner}", frame.data.decode("ascii", "replace")
        elif kind == "POPM":
            yield "RATING", f"{frame.email}|{frame.rating}|{getattr(frame, 'count', 0)}"
        elif kind == "USLT":
            yield "id3:USLT", frame.text
        elif kind == "COMM":
            place = f"id3:COMM:{frame.desc.lower()}".rstrip(":")
            yield from ((place, str(text)) for text in frame.text)
        elif f"id3:{kind}" in PLACES:
            texts = frame.genres if kind == "TCON" else frame.text
            yield from ((f"id3:{kind}", str(text)) for text in texts)


def _mp4_texts(tags: Any) -> Iterator[tuple[str, str]]:
    for key, values in tags.items():
        kind, _, of = key.partition(":")
        owner, _, name = of.partition(":")
        if kind == "----" and owner.lower() == "com.apple.itunes":  # what others own is no text
            yield from ((name.strip().upper(), bytes(value).decode("utf-8", "replace")) for value in values)
        elif key == "cpil":
            yield "mp4:cpil", str(int(bool(values)))
        elif key in ("trkn", "disk"):
            yield from ((f"mp4:{key}", "/".join(str(number or "") for number in pair)) for pair in values[:1])
        elif f"mp4:{key}" in PLACES:
            yield from ((f"mp4:{key}", str(value)) for value in values)


def _covers(file: Any) -> Iterator[Cover]:
    """The pictures that can be used, the front cover first."""
    from mutagen.flac import Picture

    pictures: list[tuple[int, bytes]] = []
    if _kind(file) == "mp4":
        pictures = [(_FRONT, bytes(data)) for data in file.tags.get("covr", [])]
    elif _kind(file) == "id3":
        pictures = [(int(frame.type), frame.data) for frame in file.tags.getall("APIC")]
    else:
        pictures = [(picture.type, picture.data) for picture in getattr(file, "pictures", [])]
        for text in file.tags.get("metadata_block_picture", []):
            if len(text) <= 2 * _MOST_COVER:
                picture = Picture(base64.b64decode(text))
                pictures.append((picture.type, picture.data))
    for _, data in sorted(pictures, key=lambda picture: picture[0] != _FRONT):
        mime = next((mime for start, mime in _IMAGES.items() if data.startswith(start)), None)
        if mime is not None and len(data) <= _MOST_COVER:
            yield Cover(data, mime)


def _id3_tag(tags: Tags) -> Any:
    from mutagen import id3

    tag, texts = id3.ID3(), dict(tags.texts)
    for number, total in NUMBERS.items():
        if number in texts:
            texts[number] = ("/".join((texts[number][0], *texts.pop(total, ())[:1])),)
    for name, values in texts.items():
        _add_frames(tag, name, list(values))
    if tags.cover is not None:
        tag.add(id3.APIC(encoding=id3.Encoding.UTF8, mime=tags.cover.mime, type=_FRONT, desc="", data=tags.cover.data))
    return tag


def _add_frames(tag: Any, name: str, values: list[str]) -> None:
    from mutagen import id3

    kind, _, of = FRAMES.get(name, "").partition(":")
    utf8 = id3.Encoding.UTF8
    if kind == "POPM":
        for user, rating, count in (match.groups() for value in values if (match := _RATING.fullmatch(value))):
            tag.add(id3.POPM(email=user, rating=min(int(rating), 255), count=int(count)))
        kind, values = "", [value for value in values if not _RATING.fullmatch(value)]  # stars or percent of others
    if kind == "COMM":
        tag.add(id3.COMM(encoding=utf8, lang="XXX", desc="", text=values))
    elif kind == "USLT":
        tag.add(id3.USLT(encoding=utf8, lang="XXX", desc="", text="\n\n".join(values)))
    elif kind == "UFID":
        tag.add(id3.UFID(owner=of, data=values[0].encode("ascii", "replace")))
    elif kind == "TIPL":
        people = [person for frame in tag.getall("TIPL") for person in frame.people]
        tag.add(id3.TIPL(encoding=utf8, people=[*people, *([of, value] for value in values)]))
    elif kind in ("", "TXXX"):
        if values:
            tag.add(id3.TXXX(encoding=utf8, desc=of or name, text=values))
    else:
        tag.add(id3.Frames[kind](encoding=utf8, text=values))


def _id3(tags: Tags) -> bytes:
    file = io.BytesIO()
    tag = _id3_tag(tags)
    if tag:
        tag.save(file, v2_version=4, padding=lambda info: 0)
    return file.getvalue()


def _append_chunk(path: Path, data: bytes) -> None:
    """Adds ID3 to the end of a RIFF file, as other programs do (there is no standard of it)."""
    if not data:
        return
    with path.open("r+b") as file:
        start, size = struct.unpack("<4sI", file.read(8))
        chunk = struct.pack("<4sI", b"id3 ", len(data)) + data + bytes(len(data) % 2)
        if start == b"RIFF" and size + len(chunk) < 0xFFFF_FFFF:
            file.seek(8 + size)
            file.write(chunk)
            file.seek(4)
            file.write(struct.pack("<I", size + len(chunk)))


def _write_vorbis(path: Path, format: Format, tags: Tags) -> None:
    from mutagen.flac import FLAC, Picture
    from mutagen.oggopus import OggOpus
    from mutagen.oggvorbis import OggVorbis

    kinds: dict[str, Callable[[Path], Any]] = {"flac": FLAC, "ogg": OggVorbis, "opus": OggOpus}
    file = kinds[format](path)
    if file.tags is None:
        file.add_tags()
    for name, values in tags.texts.items():
        for comment in VORBIS_NAMES.get(name, (name,)):
            file.tags[comment] = list(values)
    if tags.cover is not None:
        picture = Picture()
        picture.type, picture.mime, picture.data = _FRONT, tags.cover.mime, tags.cover.data
        if format == "flac":
            file.add_picture(picture)
        else:
            file.tags["METADATA_BLOCK_PICTURE"] = [base64.b64encode(picture.write()).decode("ascii")]
    file.save()
