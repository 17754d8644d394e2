"""What tags are called in Vorbis comments, ID3v2.4 and MP4, for `ft/tags.py`.

Sources: xiph.org's list of field names, ID3v2.4.0 native frames, and the mapping tables of MusicBrainz Picard.
"""

from __future__ import annotations

FRAMES = {
    "TITLE": "TIT2",
    "SUBTITLE": "TIT3",
    "GROUPING": "TIT1",
    "ARTIST": "TPE1",
    "ALBUMARTIST": "TPE2",
    "CONDUCTOR": "TPE3",
    "REMIXER": "TPE4",
    "ALBUM": "TALB",
    "COMPOSER": "TCOM",
    "LYRICIST": "TEXT",
    "DATE": "TDRC",
    "ORIGINALDATE": "TDOR",
    "GENRE": "TCON",
    "MOOD": "TMOO",
    "BPM": "TBPM",
    "KEY": "TKEY",
    "LANGUAGE": "TLAN",
    "ISRC": "TSRC",
    "LABEL": "TPUB",
    "MEDIA": "TMED",
    "COPYRIGHT": "TCOP",
    "DISCSUBTITLE": "TSST",
    "COMPILATION": "TCMP",
    "TITLESORT": "TSOT",
    "ARTISTSORT": "TSOP",
    "ALBUMSORT": "TSOA",
    "ALBUMARTISTSORT": "TSO2",
    "COMPOSERSORT": "TSOC",
}
"""Text frames of ID3v2.4 that hold what a Vorbis comment of that name does."""
ATOMS = {
    "TITLE": "\xa9nam",
    "ARTIST": "\xa9ART",
    "ALBUMARTIST": "aART",
    "ALBUM": "\xa9alb",
    "COMPOSER": "\xa9wrt",
    "DATE": "\xa9day",
    "GENRE": "\xa9gen",
    "GROUPING": "\xa9grp",
    "COMMENT": "\xa9cmt",
    "LYRICS": "\xa9lyr",
    "DESCRIPTION": "desc",
    "COPYRIGHT": "cprt",
    "BPM": "tmpo",
    "COMPILATION": "cpil",
    "TITLESORT": "sonm",
    "ARTISTSORT": "soar",
    "ALBUMSORT": "soal",
    "ALBUMARTISTSORT": "soaa",
    "COMPOSERSORT": "soco",
}
"""The same of MP4."""
NUMBERS = {"TRACKNUMBER": ("TRACKTOTAL", "TRCK", "trkn"), "DISCNUMBER": ("DISCTOTAL", "TPOS", "disk")}
"""Numbers that ID3 and MP4 hold together with how many there are."""
MUSICBRAINZ = {
    "MUSICBRAINZ_ALBUMID": "MusicBrainz Album Id",
    "MUSICBRAINZ_ARTISTID": "MusicBrainz Artist Id",
    "MUSICBRAINZ_ALBUMARTISTID": "MusicBrainz Album Artist Id",
    "MUSICBRAINZ_RELEASEGROUPID": "MusicBrainz Release Group Id",
    "MUSICBRAINZ_RELEASETRACKID": "MusicBrainz Release Track Id",
    "MUSICBRAINZ_WORKID": "MusicBrainz Work Id",
    "MUSICBRAINZ_TRACKID": "MusicBrainz Track Id",
    "RELEASETYPE": "MusicBrainz Album Type",
    "RELEASESTATUS": "MusicBrainz Album Status",
    "RELEASECOUNTRY": "MusicBrainz Album Release Country",
}
"""Names of free text in ID3 and MP4 that are others than in Vorbis comments (Picard)."""
FREE = {other.upper(): name for name, other in MUSICBRAINZ.items()}
ALIASES = {"TOTALTRACKS": "TRACKTOTAL", "TOTALDISCS": "DISCTOTAL", "ALBUM ARTIST": "ALBUMARTIST", "YEAR": "DATE"}
"""Names that others use for the same."""
