"""What tags are called in Vorbis comments, ID3v2.4 and MP4, for `ft/audio/tags.py`: one table, read both ways.

Sources: xiph.org's list of field names, ID3v2.4.0 native frames, the mapping tables of MusicBrainz Picard and Mp3tag,
and what Mixed In Key, Serato, Traktor and rekordbox write.
"""

from __future__ import annotations

from typing import NamedTuple


class Tag(NamedTuple):
    """A tag, and the places where it stands. One that is not in the table has its name in free text everywhere."""

    name: str
    """The name in a Vorbis comment, in an MP4 atom `----:com.apple.iTunes:...` and in an ID3 frame TXXX."""
    frame: str = ""
    """The frame of ID3v2.4; behind a colon the description of TXXX, the role in TIPL or the owner of UFID."""
    atom: str = ""
    """The atom of MP4."""
    others: tuple[str, ...] = ()
    """Places where it is read and not written."""


TAGS = (
    Tag("TITLE", "TIT2", "\xa9nam"),
    Tag("SUBTITLE", "TIT3"),
    Tag("GROUPING", "TIT1", "\xa9grp", ("id3:GRP1",)),
    Tag("ARTIST", "TPE1", "\xa9ART"),
    Tag("ALBUMARTIST", "TPE2", "aART", ("ALBUM ARTIST",)),
    Tag("CONDUCTOR", "TPE3"),
    Tag("REMIXER", "TPE4"),
    Tag("ALBUM", "TALB", "\xa9alb"),
    Tag("COMPOSER", "TCOM", "\xa9wrt"),
    Tag("LYRICIST", "TEXT"),
    Tag("PRODUCER", "TIPL:producer"),
    Tag("ENGINEER", "TIPL:engineer"),
    Tag("ARRANGER", "TIPL:arranger"),
    Tag("MIXER", "TIPL:mix"),
    Tag("DJMIXER", "TIPL:dj-mix"),
    Tag("DATE", "TDRC", "\xa9day", ("YEAR",)),
    Tag("ORIGINALDATE", "TDOR"),
    Tag("GENRE", "TCON", "\xa9gen"),
    Tag("MOOD", "TMOO"),
    Tag("BPM", "TBPM", "tmpo"),
    Tag("KEY", "TKEY", others=("INITIALKEY",)),
    Tag("ENERGYLEVEL", "TXXX:EnergyLevel"),
    Tag("RATING", "POPM"),
    Tag("COMMENT", "COMM", "\xa9cmt", ("id3:COMM:id3v1 comment",)),
    Tag("LYRICS", "USLT", "\xa9lyr", ("UNSYNCEDLYRICS",)),
    Tag("DESCRIPTION", atom="desc"),
    Tag("WORK", atom="\xa9wrk"),
    Tag("LANGUAGE", "TLAN"),
    Tag("ISRC", "TSRC"),
    Tag("LABEL", "TPUB"),
    Tag("MEDIA", "TMED"),
    Tag("COPYRIGHT", "TCOP", "cprt"),
    Tag("DISCSUBTITLE", "TSST"),
    Tag("COMPILATION", "TCMP", "cpil"),
    Tag("TITLESORT", "TSOT", "sonm"),
    Tag("ARTISTSORT", "TSOP", "soar"),
    Tag("ALBUMSORT", "TSOA", "soal"),
    Tag("ALBUMARTISTSORT", "TSO2", "soaa"),
    Tag("COMPOSERSORT", "TSOC", "soco"),
    Tag("TRACKNUMBER", "TRCK", "trkn"),
    Tag("TRACKTOTAL", others=("TOTALTRACKS", "TRACKNUMBER/", "id3:TRCK/", "mp4:trkn/")),
    Tag("DISCNUMBER", "TPOS", "disk"),
    Tag("DISCTOTAL", others=("TOTALDISCS", "DISCNUMBER/", "id3:TPOS/", "mp4:disk/")),
    Tag("MUSICBRAINZ_TRACKID", "UFID:http://musicbrainz.org", others=("MUSICBRAINZ TRACK ID",)),
    Tag("MUSICBRAINZ_ALBUMID", "TXXX:MusicBrainz Album Id"),
    Tag("MUSICBRAINZ_ARTISTID", "TXXX:MusicBrainz Artist Id"),
    Tag("MUSICBRAINZ_ALBUMARTISTID", "TXXX:MusicBrainz Album Artist Id"),
    Tag("MUSICBRAINZ_RELEASEGROUPID", "TXXX:MusicBrainz Release Group Id"),
    Tag("MUSICBRAINZ_RELEASETRACKID", "TXXX:MusicBrainz Release Track Id"),
    Tag("MUSICBRAINZ_WORKID", "TXXX:MusicBrainz Work Id"),
    Tag("RELEASETYPE", "TXXX:MusicBrainz Album Type"),
    Tag("RELEASESTATUS", "TXXX:MusicBrainz Album Status"),
    Tag("RELEASECOUNTRY", "TXXX:MusicBrainz Album Release Country"),
)
NUMBERS = {"TRACKNUMBER": "TRACKTOTAL", "DISCNUMBER": "DISCTOTAL"}
"""Numbers that may stand before a slash, and how many there are behind it."""
FRAMES = {tag.name: tag.frame for tag in TAGS}
"""Frame of ID3 by name; an empty one is TXXX with the name."""
VORBIS_NAMES = {"KEY": ("KEY", "INITIALKEY")}
"""Vorbis comments that hold the same: VirtualDJ and Engine DJ read KEY, and rekordbox, Serato, Traktor and Mixed In Key
INITIALKEY."""


def _places(tag: Tag) -> tuple[str, ...]:
    kind, _, description = tag.frame.partition(":")
    frame = description.upper() if kind == "TXXX" else f"id3:{tag.frame}"
    return tag.name, frame, f"mp4:{tag.atom}", *tag.others


PLACES = {place: (rank, tag.name) for tag in TAGS for rank, place in enumerate(_places(tag))}
"""Name by place: free text in capitals, `id3:` with a frame, `mp4:` with an atom, each with a slash where what stands
behind one is meant. Where several of them hold the same tag the one of the lowest rank counts: the BPM in free text of
an MP4, whose own atom is a whole number."""
