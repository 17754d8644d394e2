"""Tags and covers: as other programs write them into songs, as other programs find them in stems."""

from __future__ import annotations

import base64
import shutil
import struct
import zlib
from pathlib import Path

import mutagen
import numpy as np
import pytest
import soundfile
from hypothesis import example as with_example
from hypothesis import given, settings
from hypothesis import strategies as st
from mutagen import id3
from mutagen.flac import FLAC, Picture
from mutagen.mp4 import MP4, MP4Cover, MP4FreeForm
from mutagen.oggopus import OggOpus
from mutagen.oggvorbis import OggVorbis
from stems import WholeWriter

from ft.audio.formats import encoder_settings, stem_format
from ft.audio.open import read_audio
from ft.audio.source import AudioInfo
from ft.audio.tag_names import NUMBERS, TAGS
from ft.audio.tags import Cover, Tags, read_tags, write_tags
from ft.options import SeparateOptions

FORMATS = ("wav", "flac", "ogg", "opus", "mp3")
SOURCES = ("flac", "ogg", "opus", "mp3", "m4a", "wav")
TEXTS = {
    "TITLE": ("Ceci n'est pas une chanson ✓",),
    "ARTIST": ("Björk", "曲師"),
    "ALBUM": ("Ελλάδα",),
    "ALBUMARTIST": ("Various",),
    "DATE": ("2019-05-01",),
    "GENRE": ("Jazz", "Hip-Hop"),
    "TRACKNUMBER": ("3",),
    "TRACKTOTAL": ("12",),
    "COMMENT": ("a comment\nof two lines",),
    "LYRICS": ("la la\nla",),
    "BPM": ("120",),
    "ARTISTSORT": ("Bjork",),
    "COMPILATION": ("1",),
    "MUSICBRAINZ_TRACKID": ("d9bbbbd8-9d4b-4c43-9c5e-6d0e7c1f2a3b",),
    "MUSICBRAINZ_ALBUMID": ("5b11f4ce-a62d-471e-81fc-a69a8278c7da",),
    "MY OWN": ("something",),
}


def png(size: int = 0) -> bytes:
    """A picture of one dot, and `size` bytes more in a chunk of its own."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    dot = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(bytes(4)))
    return b"\x89PNG\r\n\x1a\n" + dot + (chunk(b"teSt", bytes(size)) if size else b"") + chunk(b"IEND", b"")


FRONT, BACK = png(7), png()


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    """A folder with half a second of noise in every format, without tags."""
    folder = tmp_path_factory.mktemp("plain")
    sound = (0.2 * np.random.default_rng(0).standard_normal((24_001, 1))).astype(np.float32)
    soundfile.write(folder / "a.wav", sound, 48000, subtype="PCM_24")  # an odd number of bytes
    for name in ("flac", "ogg", "opus", "mp3"):
        format = stem_format(SeparateOptions(format=name), AudioInfo(Path("a"), 48000, 1, 1, "16"))
        with soundfile.SoundFile(folder / f"a.{name}", "w", 48000, 1, **encoder_settings(format, 1)) as file:
            file.write(sound)
    import av

    with av.open(str(folder / "a.m4a"), "w") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound.T.copy(), format="fltp", layout="mono")
        frame.sample_rate = 48000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return folder


def tagged(path: Path) -> None:
    """Puts TEXTS into a file as its format has them, and what belongs to the file and not the song."""
    if path.suffix in (".mp3", ".wav"):
        mutagen_id3(path)
    elif path.suffix == ".m4a":
        mutagen_mp4(path)
    else:
        file = {".flac": FLAC, ".ogg": OggVorbis, ".opus": OggOpus}[path.suffix](path)
        for name, values in TEXTS.items():
            file[name] = list(values)
        for name in ("REPLAYGAIN_TRACK_GAIN", "R128_TRACK_GAIN", "ENCODER", "ENCODED-BY", "LENGTH", "CUESHEET"):
            file[name] = "-3.0 dB"
        file["acoustid_fingerprint"] = "AQAA"
        pictures = []
        for kind, data in ((4, BACK), (3, FRONT)):
            picture = Picture()
            picture.type, picture.mime, picture.data = kind, "image/png", data
            pictures.append(picture)
        if path.suffix == ".flac":
            for picture in pictures:
                file.add_picture(picture)
        else:
            file["metadata_block_picture"] = [base64.b64encode(each.write()).decode() for each in pictures]
        file.save()


def mutagen_id3(path: Path) -> None:
    tag = id3.ID3()
    frames = {"TIT2": "TITLE", "TPE1": "ARTIST", "TALB": "ALBUM", "TPE2": "ALBUMARTIST", "TDRC": "DATE"}
    frames |= {"TCON": "GENRE", "TBPM": "BPM", "TSOP": "ARTISTSORT", "TCMP": "COMPILATION"}
    for frame, name in frames.items():
        tag.add(id3.Frames[frame](encoding=1, text=list(TEXTS[name])))
    tag.add(id3.TRCK(encoding=0, text=["3/12"]))
    tag.add(id3.COMM(encoding=1, lang="eng", desc="", text=list(TEXTS["COMMENT"])))
    tag.add(id3.COMM(encoding=0, lang="eng", desc="iTunNORM", text=["00000A"]))
    tag.add(id3.USLT(encoding=1, lang="eng", desc="", text=TEXTS["LYRICS"][0]))
    tag.add(id3.UFID(owner="http://musicbrainz.org", data=TEXTS["MUSICBRAINZ_TRACKID"][0].encode()))
    tag.add(id3.TXXX(encoding=0, desc="MusicBrainz Album Id", text=list(TEXTS["MUSICBRAINZ_ALBUMID"])))
    tag.add(id3.TXXX(encoding=0, desc="my own", text=list(TEXTS["MY OWN"])))
    for name in ("REPLAYGAIN_TRACK_GAIN", "replaygain_album_peak", "Acoustid Fingerprint", "iTunSMPB", "Encoded by"):
        tag.add(id3.TXXX(encoding=0, desc=name, text=["x"]))
    tag.add(id3.RVA2(desc="track", channel=1, gain=-3, peak=0.9))
    for frame in ("TSSE", "TENC", "TLEN"):
        tag.add(id3.Frames[frame](encoding=0, text=["1000"]))
    tag.add(id3.APIC(encoding=0, mime="image/png", type=4, desc="back", data=BACK))
    tag.add(id3.APIC(encoding=0, mime="image/png", type=3, desc="front", data=FRONT))
    if path.suffix == ".mp3":
        tag.save(path)
    else:
        file = mutagen.File(path)
        file.add_tags()
        for frame in tag.values():
            file.tags.add(frame)
        file.save()


def mutagen_mp4(path: Path) -> None:
    file = MP4(path)
    atoms = {"\xa9nam": "TITLE", "\xa9ART": "ARTIST", "\xa9alb": "ALBUM", "aART": "ALBUMARTIST", "\xa9day": "DATE"}
    atoms |= {"\xa9gen": "GENRE", "\xa9cmt": "COMMENT", "\xa9lyr": "LYRICS", "soar": "ARTISTSORT"}
    for atom, name in atoms.items():
        file[atom] = list(TEXTS[name])
    file["trkn"], file["tmpo"], file["cpil"] = [(3, 12)], [120], True
    free = {"MusicBrainz Track Id": "MUSICBRAINZ_TRACKID", "MusicBrainz Album Id": "MUSICBRAINZ_ALBUMID"}
    for desc, name in {**free, "my own": "MY OWN"}.items():
        file[f"----:com.apple.iTunes:{desc}"] = [MP4FreeForm(TEXTS[name][0].encode())]
    for desc in ("iTunNORM", "iTunSMPB", "replaygain_track_gain", "Acoustid Fingerprint"):
        file[f"----:com.apple.iTunes:{desc}"] = [MP4FreeForm(b"x")]
    file["\xa9too"] = "an encoder"
    file["covr"] = [MP4Cover(FRONT, MP4Cover.FORMAT_PNG), MP4Cover(BACK, MP4Cover.FORMAT_PNG)]
    file.save()


RATING = "traktor@native-instruments.de|204|7"
"""As Traktor writes it into FLAC: whose it is, 0..255, how often played."""
DJ = {
    "KEY": "8A",
    "BPM": "123.98",
    "ENERGYLEVEL": "7",
    "COMMENT": "8A - Energy 7",
    "MOOD": "Dark",
    "GROUPING": "peak time",
    "RATING": RATING,
    "LABEL": "Own Label",
    "REMIXER": "DJ One",
    "PRODUCER": "Producer One",
    "DJMIXER": "DJ Two",
}
"""What programs for DJs know of a song, by the names that we have for it."""
BLOB = base64.b64encode(b'{"source":"mixedinkey","tempo":123.98,"beats":[]}').decode()


def with_dj_tags(path: Path) -> None:
    """Writes DJ as Mixed In Key, Serato, Traktor, rekordbox and Picard do, each name in its case, and their blobs."""
    kind = path.suffix.lower()
    if kind in (".mp3", ".wav"):
        file = mutagen.File(path)
        if file.tags is None:
            file.add_tags()
        frames = {"TKEY": "KEY", "TBPM": "BPM", "TMOO": "MOOD", "TIT1": "GROUPING", "TPUB": "LABEL", "TPE4": "REMIXER"}
        for frame, name in frames.items():
            file.tags.add(id3.Frames[frame](encoding=1, text=[DJ[name]]))
        for desc, text in {"EnergyLevel": "7", "SERATO_PLAYCOUNT": "3", "TRAKTOR4": "x", "initialkey": "B"}.items():
            file.tags.add(id3.TXXX(encoding=0, desc=desc, text=[text]))
        file.tags.add(id3.COMM(encoding=0, lang="eng", desc="", text=[DJ["COMMENT"]]))
        file.tags.add(id3.COMM(encoding=0, lang="eng", desc="iTunNORM", text=["00000A"]))
        file.tags.add(id3.POPM(email="traktor@native-instruments.de", rating=204, count=7))
        file.tags.add(id3.TIPL(encoding=0, people=[["producer", DJ["PRODUCER"]], ["DJ-mix", DJ["DJMIXER"]]]))
        file.tags.add(id3.GEOB(encoding=0, mime="application/octet-stream", desc="Serato BeatGrid", data=b"1"))
    elif kind == ".m4a":
        file = MP4(path)
        file["\xa9cmt"], file["\xa9grp"], file["tmpo"] = [DJ["COMMENT"]], [DJ["GROUPING"]], [124]
        free = {"initialkey": "KEY", "BPM": "BPM", "energylevel": "ENERGYLEVEL", "MOOD": "MOOD", "rating": "RATING"}
        free |= {name: name for name in ("LABEL", "REMIXER", "PRODUCER", "DJMIXER")}
        for desc, name in free.items():
            file[f"----:com.apple.iTunes:{desc}"] = [MP4FreeForm(DJ[name].encode())]
        for owner in ("com.serato.dj:beatgrid", "com.serato.dj:markersv2", "com.mixedinkey.mixedinkey:energy"):
            file[f"----:{owner}"] = [MP4FreeForm(BLOB.encode())]
    else:
        file = mutagen.File(path)
        for name, value in DJ.items():
            file["initialkey" if name == "KEY" else name.lower()] = [value]
        for name in ("SERATO_BEATGRID", "serato_markers_v2", "TRAKTOR4", "CUEPOINTS", "energy"):
            file[name] = [BLOB]
    file.save()


def found_dj_tags(path: Path) -> dict[str, str]:
    """DJ as other programs look for it in a stem, and whatever else is there under its own name."""
    file = mutagen.File(path)
    if path.suffix not in (".mp3", ".wav"):
        found = {name.upper(): "; ".join(values) for name, values in file.tags.items() if name.upper() != "ENCODER"}
        assert found.pop("INITIALKEY") == found["KEY"]  # the one is read by some, the other by others
        return found
    places = {"TKEY": "KEY", "TBPM": "BPM", "TMOO": "MOOD", "TIT1": "GROUPING", "TPUB": "LABEL", "TPE4": "REMIXER"}
    places |= {"TXXX:EnergyLevel": "ENERGYLEVEL", "COMM::XXX": "COMMENT"}
    found = {}
    for key, frame in file.tags.items():
        if frame.FrameID == "POPM":
            found["RATING"] = f"{frame.email}|{frame.rating}|{frame.count}"
        elif frame.FrameID == "TIPL":
            found |= {{"dj-mix": "DJMIXER"}.get(role, role.upper()): name for role, name in frame.people}
        else:
            found[places.get(key, key)] = "; ".join(map(str, frame.text))
    return found


@pytest.mark.parametrize("target", FORMATS)
@pytest.mark.parametrize("source", SOURCES)
def test_what_djs_know_of_a_song_goes_from_every_format_into_every_other(plain, tmp_path, source, target):
    song = Path(shutil.copy(plain / f"a.{source}", tmp_path / f"SONG.{source.upper()}"))
    stem = Path(shutil.copy(plain / f"a.{target}", tmp_path))
    with_dj_tags(song)
    tags = read_tags(song)
    assert tags is not None
    write_tags(stem, target, tags)
    assert found_dj_tags(stem) == DJ
    assert read_tags(stem) == tags


def test_tags_are_read_under_the_names_of_others(plain, tmp_path):
    flac, mp3 = (Path(shutil.copy(plain / f"a.{name}", tmp_path)) for name in ("flac", "mp3"))
    others = {"Album Artist": "ALBUMARTIST", "Year": "DATE", "unsyncedlyrics": "LYRICS", "InitialKey": "KEY"}
    others |= {"TotalTracks": "TRACKTOTAL", "TotalDiscs": "DISCTOTAL"}
    file = FLAC(flac)
    for other in others:
        file[other] = [other]
    file.save()
    assert read_tags(flac).texts == {name: (other,) for other, name in others.items()}
    tag = id3.ID3()
    tag.add(id3.GRP1(encoding=0, text=["group"]))
    tag.add(id3.COMM(encoding=0, lang="eng", desc="ID3v1 Comment", text=["comment"]))
    tag.add(id3.TXXX(encoding=0, desc="MusicBrainz Track Id", text=["id"]))
    tag.save(mp3)
    assert read_tags(mp3).texts == {"GROUPING": ("group",), "COMMENT": ("comment",), "MUSICBRAINZ_TRACKID": ("id",)}


def test_a_tag_that_stands_twice_counts_where_it_is_best(plain, tmp_path):
    """Not twice: the exact BPM and not the whole number of it, the date and not its year."""
    flac, mp4, mp3 = (Path(shutil.copy(plain / f"a.{name}", tmp_path)) for name in ("flac", "m4a", "mp3"))
    file = FLAC(flac)
    file["YEAR"], file["DATE"] = ["2019"], ["2019-05-01"]
    file["TRACKNUMBER"], file["TOTALTRACKS"], file["TRACKTOTAL"] = ["3/12"], ["12"], ["12"]
    file.save()
    assert read_tags(flac).texts == {"DATE": ("2019-05-01",), "TRACKNUMBER": ("3",), "TRACKTOTAL": ("12",)}
    write_tags(mp3, "mp3", read_tags(flac))
    assert {key: str(frame) for key, frame in id3.ID3(mp3).items()} == {"TDRC": "2019-05-01", "TRCK": "3/12"}
    for order in (1, -1):
        both = [("tmpo", [124]), ("----:com.apple.iTunes:BPM", [MP4FreeForm(b"123.98")])][::order]
        file = MP4(mp4)
        file.clear()
        for key, value in both:
            file[key] = value
        file.save()
        assert read_tags(mp4).texts == {"BPM": ("123.98",)}


def test_what_no_frame_holds_is_text(plain, tmp_path):
    """Stars that are no POPM, and a total without a number."""
    path = Path(shutil.copy(plain / "a.mp3", tmp_path))
    tags = Tags({"RATING": ("80", RATING), "TRACKTOTAL": ("12",)})
    write_tags(path, "mp3", tags)
    assert {key: str(frame) for key, frame in id3.ID3(path).items() if key.startswith("TXXX")} == {
        "TXXX:RATING": "80",
        "TXXX:TRACKTOTAL": "12",
    }
    found = read_tags(path).texts
    assert {name: set(values) for name, values in found.items()} == {"RATING": {"80", RATING}, "TRACKTOTAL": {"12"}}


@pytest.mark.parametrize("source", SOURCES)
def test_what_describes_the_song_is_read_and_what_describes_the_file_is_not(plain, tmp_path, source):
    path = Path(shutil.copy(plain / f"a.{source}", tmp_path))
    assert read_tags(path) is None or source == "m4a"  # whose encoder's name is dropped
    tagged(path)
    tags = read_tags(path)
    assert tags is not None and tags.texts == TEXTS
    assert tags.cover == Cover(FRONT, "image/png")


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_found_by_ourselves_and_leaves_the_sound_alone(plain, tmp_path, format):
    path = Path(shutil.copy(plain / f"a.{format}", tmp_path))
    before, tags = read_audio(path)[0], Tags(TEXTS, Cover(FRONT, "image/png"))
    write_tags(path, format, tags)
    assert read_tags(path) == tags
    assert np.array_equal(read_audio(path)[0], before)
    if format == "wav":
        assert struct.unpack("<I", path.read_bytes()[4:8])[0] == path.stat().st_size - 8
        assert path.stat().st_size % 2 == 0


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_written_is_found_by_ffmpeg(plain, tmp_path, format):
    import av

    path = Path(shutil.copy(plain / f"a.{format}", tmp_path))
    write_tags(path, format, Tags(TEXTS, Cover(FRONT, "image/png")))
    with av.open(str(path)) as file:
        found = {name.lower(): value for name, value in {**file.metadata, **file.streams.audio[0].metadata}.items()}
        pictures = [bytes(packet) for stream in file.streams.video for packet in file.demux(stream) if packet.size]
        assert sum(frame.samples for frame in file.decode(audio=0)) > 0 or pictures
    assert found["title"] == TEXTS["TITLE"][0] and found["album"] == TEXTS["ALBUM"][0]
    assert found["artist"].startswith("Björk") and (format in ("mp3", "wav") or "曲師" in found["artist"])
    assert found.get("tracknumber", found.get("track", "")).startswith("3")
    assert found["my own"] == "something"
    assert pictures[:1] == [FRONT]


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40).map(str.strip).filter(bool)
NAMES = st.sampled_from([*TEXTS, *(tag.name for tag in TAGS), "X", "a=b", "Ä"]) | st.from_regex(
    r"[AB!}]( ?[AB!}]){0,3}", fullmatch=True
)


@pytest.mark.parametrize("format", FORMATS)
@given(texts=st.dictionaries(NAMES, st.lists(TEXT, min_size=1, max_size=3, unique=True)))
@with_example(texts={"TITLE": ["a", "b"], "COMMENT": ["x" * 70_000], "a=b": ["c"], "Ä": ["d"]})
@settings(max_examples=12, deadline=None)
def test_any_text_goes_through_every_format(plain, tmp_path_factory, format, texts):
    """From a FLAC file, which holds all of it, to itself."""
    folder = tmp_path_factory.mktemp("tags")
    source, target = (Path(shutil.copy(plain / f"a.{name}", folder / f"{name}.{name}")) for name in ("flac", format))
    file = FLAC(source)
    held = {name: values for name, values in texts.items() if name not in ("a=b", "Ä")}
    # Genres of ID3 may be numbers of a list, tracks come with their count, and these have one value.
    for name in ("GENRE", *NUMBERS, *NUMBERS.values(), "LYRICS", "DATE", "ORIGINALDATE", "MUSICBRAINZ_TRACKID"):
        held.pop(name, None)
    for name, values in held.items():
        file[name] = values
    file.save()
    tags = read_tags(source)
    if tags is not None:
        write_tags(target, format, tags)
        assert read_tags(target) == tags
    assert (tags.texts if tags else {}) == {name: tuple(values) for name, values in held.items()}


@pytest.mark.parametrize("format", FORMATS)
def test_covers_of_any_size_and_kind_do_no_harm(plain, tmp_path, format):
    """One that a FLAC block just holds, one that it does not, none, and a page that said that there is none."""
    largest = png((1 if format in ("ogg", "opus") else 14) << 20)  # mutagen takes seconds for those in Ogg
    for number, (data, kept) in enumerate([(largest, 1), (png(16 << 20), 0), (b"", 0), (b"<html>no", 0)]):
        source = Path(shutil.copy(plain / "a.mp3", tmp_path))
        tag = id3.ID3()
        tag.add(id3.TIT2(encoding=3, text=["title"]))
        tag.add(id3.APIC(encoding=3, mime="image/png", type=3, desc="", data=data))
        tag.save(source)
        tags = read_tags(source)
        assert tags is not None and (tags.cover is not None) == kept and tags.texts == {"TITLE": ("title",)}
        path = Path(shutil.copy(plain / f"a.{format}", tmp_path / f"{number}.{format}"))
        before = read_audio(path)[0]
        write_tags(path, format, tags)
        assert read_tags(path) == tags and np.array_equal(read_audio(path)[0], before)


def test_a_cover_that_is_no_front_is_better_than_none(plain, tmp_path):
    path = Path(shutil.copy(plain / "a.mp3", tmp_path))
    tag = id3.ID3()
    tag.add(id3.APIC(encoding=3, mime="image/jpg", type=0, desc="", data=b"\xff\xd8\xff\xe0 and so on"))
    tag.save(path)
    assert read_tags(path) == Tags({}, Cover(b"\xff\xd8\xff\xe0 and so on", "image/jpeg"))


@pytest.mark.parametrize("source", SOURCES)
def test_damaged_files_of_all_sorts_never_raise(plain, tmp_path, source):
    path = Path(shutil.copy(plain / f"a.{source}", tmp_path))
    tagged(path)
    data, random = path.read_bytes(), np.random.default_rng(0)
    size = 6000 if source != "m4a" else len(data)
    found = 0
    for _ in range(120):
        damaged = bytearray(data)
        for _ in range(random.integers(1, 8)):
            damaged[random.integers(size)] = random.integers(256)
        if random.random() < 0.3:
            del damaged[random.integers(len(damaged)) :]
        path.write_bytes(damaged)
        tags = read_tags(path)
        found += tags is not None and "TITLE" in tags.texts
    assert 10 < found < 120


def test_what_has_no_tags_gives_none(tmp_path):
    assert read_tags(tmp_path / "missing.mp3") is None
    assert read_tags(tmp_path) is None
    for name, data in (("a.mp3", b""), ("b.flac", bytes(1000)), ("c.m4a", b"\0\0\0\x08ftyp" * 9), ("d.txt", b"ID3")):
        (tmp_path / name).write_bytes(data)
        assert read_tags(tmp_path / name) is None


def test_rf64_is_left_as_it_is(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(100), 8000, format="RF64")
    before = (tmp_path / "a.wav").read_bytes()
    write_tags(tmp_path / "a.wav", "wav", Tags(TEXTS))
    assert (tmp_path / "a.wav").read_bytes() == before


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("source", ["m4a", "flac"])
def test_stems_get_the_tags_of_the_song(plain, tmp_path, name, source):
    song = Path(shutil.copy(plain / f"a.{source}", tmp_path))
    tagged(song)
    tags = read_tags(song)
    format = stem_format(SeparateOptions(format=name), AudioInfo(song, 48000, 1, 100, "16"))
    files = {stem: tmp_path / f"{stem}.{name}" for stem in ("vocals", "instrumental")}
    with WholeWriter(files, 1, 48000, format, tags=tags) as writer:
        writer.write(dict.fromkeys(files, np.zeros((1, 100), np.float32)))
        writer.commit()
    assert tags == Tags(TEXTS, Cover(FRONT, "image/png"))
    for stem, title in {"vocals": "(Vocals)", "instrumental": "(Instrumental)"}.items():
        found = read_tags(files[stem])
        assert found == Tags({**TEXTS, "TITLE": (f"{TEXTS['TITLE'][0]} {title}",)}, tags.cover)
        assert soundfile.info(files[stem]).frames == 100
    assert writer.warnings == []


def test_a_song_without_a_title_gets_none():
    tags = Tags({"ARTIST": ("Björk",)}, Cover(FRONT, "image/png"))
    assert tags.of_stem("vocals") == tags


def test_a_song_is_written_without_tags_that_cannot_be(tmp_path, monkeypatch):
    def fails(*arguments):
        raise ValueError("no such tag")

    monkeypatch.setattr("ft.songs.writer.write_tags", fails)
    format = stem_format(SeparateOptions(format="flac"), AudioInfo(Path("a"), 48000, 1, 100, "16"))
    with WholeWriter({"vocals": tmp_path / "v.flac"}, 1, 48000, format, tags=Tags(TEXTS)) as writer:
        writer.write({"vocals": np.zeros((1, 100), np.float32)})
        writer.commit()
    assert soundfile.info(tmp_path / "v.flac").frames == 100
    assert writer.warnings == [f"{tmp_path / 'v.flac'}: without tags, which cannot be written: no such tag"]
