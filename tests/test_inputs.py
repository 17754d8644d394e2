"""What is found for what was named, and what its files are called."""

from __future__ import annotations

import logging
import os
import unicodedata
from pathlib import Path, PurePath

import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from ft.errors import AudioError, ConfigError
from ft.options import SeparateOptions
from ft.songs.inputs import MARKER, STDIN, Song, existing, find_songs, to_do
from ft.songs.names import Names

STEMS = ("vocals", "instrumental")


@pytest.fixture
def library(tmp_path):
    """Makes empty files of the names given, and gives the folder."""

    def make(*names: str) -> Path:
        for name in names:
            path = tmp_path / "music" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        return tmp_path / "music"

    return make


def found(*paths, output=Path("out"), **options) -> list[Song]:
    return find_songs(paths, output, STEMS, SeparateOptions(**options), "net")


def failing(songs: list[Song]) -> list[Path]:
    return [song.path for song in songs if song.error is not None]


def names_of(songs, root) -> list[str]:
    return [song.path.relative_to(root).as_posix() for song in songs]


# ---------------------------------------------------------------------------------------------------------- searching


def test_a_folder_stands_for_the_audio_below_it_by_name(library):
    root = library("b.WAV", "a/x.flac", "a/c/video.mkv", "a/cover.jpg", "notes.txt", "z.m4a", "é ä/日本.opus")
    library(".b.wav", ".git/c.wav", "a/._e.mp3")  # hidden
    songs = found(root)
    assert names_of(songs, root) == ["a/c/video.mkv", "a/x.flac", "b.WAV", "z.m4a", "é ä/日本.opus"]
    assert [song.folder.as_posix() for song in songs] == ["a/c", "a", ".", ".", "é ä"]


def test_the_output_folder_is_not_searched_wherever_it_is_and_however_it_is_named(library, monkeypatch):
    root = library("a.wav", "stems/a/vocals.wav")
    (root / "link").symlink_to(root / "stems")
    monkeypatch.chdir(root)
    for output in (root / "stems", Path("stems"), root / "link", root / "x/../stems"):
        if ".." in output.parts:
            (root / "x").mkdir()
        assert names_of(found(root, output=output), root) == ["a.wav"]


def test_folders_of_earlier_runs_are_not_searched_and_that_is_said(library, caplog):
    root = library("a.wav", f"b/{MARKER}", "b/a/vocals.wav", "c/separated/a/vocals.wav", "c/separated.wav")
    with caplog.at_level(logging.INFO, logger="ft"):
        assert names_of(found(root), root) == ["a.wav", "c/separated.wav"]
    assert {record.args[0] for record in caplog.records} == {root / "b", root / "c/separated"}


def test_output_folders_among_what_was_named_are_left_out_as_with_a_star(library):
    root = library("separated/a/vocals.wav", "mine/a.wav")
    assert [song.path for song in found(root / "separated", root / "mine")] == [root / "mine/a.wav"]


@pytest.mark.parametrize("folder, output", [("separated", "out"), ("marked", "out"), ("same", "same")])
def test_nothing_but_an_output_folder_is_an_error(library, folder, output):
    root = library("separated/a/vocals.wav", "marked/a/vocals.wav", f"marked/{MARKER}", "same/a.wav")
    with pytest.raises(AudioError, match=r"nothing to separate.*output folders.*another `output`") as error:
        found(root / folder, output=root / output)
    assert "\n" not in str(error.value)


def test_a_folder_without_audio_is_an_error(library):
    root = library("notes.txt", "separated/a.wav")
    with pytest.raises(AudioError, match="music: no audio files"):
        found(root)


def test_a_folder_without_audio_among_others_fails_alone(library, tmp_path):
    root = library("a/x.wav")
    for name in ("empty", "void"):
        (tmp_path / name).mkdir()
    empty, named, song = found(tmp_path / "empty", tmp_path / "missing.wav", root)
    assert (song.path, song.error, named.error) == (root / "a/x.wav", None, None)
    assert empty.files == {} and empty.marks == ()
    with pytest.raises(AudioError, match="empty: no audio files in this folder") as error:
        to_do(empty, SeparateOptions(force=True))
    assert str(error.value) == empty.error
    with pytest.raises(AudioError, match=r"empty, .*void: no audio files in these folders") as error:
        found(tmp_path / "empty", tmp_path / "void")
    assert "\n" not in str(error.value)


def test_a_name_that_no_file_can_have_is_told_of_when_it_is_opened(library):
    name = Path("x" * 300)
    assert [song.path.name for song in found(name, library("a.wav"))] == [name.name, "a.wav"]


def test_links_in_circles_end_and_songs_keep_their_real_place(library):
    root = library("album/one.wav", "zoo/two.wav")
    (root / "album/up").symlink_to(root)
    (root / "aaa").symlink_to(root / "zoo")
    (root / "self").symlink_to("self")
    assert names_of(found(root), root) == ["album/one.wav", "zoo/two.wav"]


def test_links_to_themselves_on_the_way_are_told_of_later(library):
    root = library("a.wav")
    (root / "loop").symlink_to("loop")
    for path, output in (
        (root / "loop/a.wav", "out"),
        (root / "a.wav", root / "loop"),
        (root / "a.wav", root / "loop/x"),
    ):
        (song,) = found(path, output=Path(output))
        assert song.files["vocals"] == Path(output) / "a/vocals.wav" and existing(song) == "none"


def test_a_linked_folder_is_searched(library, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/song.wav").touch()
    root = library("a.wav")
    (root / "link").symlink_to(tmp_path / "elsewhere")
    assert names_of(found(root), root) == ["a.wav", "link/song.wav"]


def test_a_link_to_nothing_is_told_of_and_a_pipe_is_not_opened(library):
    root = library("a.wav")
    (root / "gone.wav").symlink_to(root / "nowhere.wav")
    (root / "self.wav").symlink_to("self.wav")
    os.mkfifo(root / "pipe.wav")
    assert names_of(found(root), root) == ["a.wav", "gone.wav", "self.wav"]


def test_a_folder_that_cannot_be_searched_fails_alone(library, monkeypatch):
    root = library("a.wav", "locked/b.wav")
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    bad, good = found(root)  # what is known to fail comes first
    assert good.error is None and good.path == root / "a.wav" and bad.files == {}
    with pytest.raises(AudioError, match="locked: cannot be searched: Permission denied"):
        existing(bad)


def test_a_file_named_is_taken_whatever_it_is(library, tmp_path):
    root = library("notes.txt", ".hidden.wav", "separated/vocals.wav")
    paths = [root / "notes.txt", root / ".hidden.wav", root / "separated/vocals.wav", tmp_path / "missing.wav", STDIN]
    songs = found(*paths)
    assert [song.path for song in songs] == paths and all(song.folder == PurePath() for song in songs)
    assert songs[-1].files["vocals"] == Path("out/stdin/vocals.wav")


def test_what_is_named_twice_counts_once(library, monkeypatch):
    root = library("a/x.wav", "y.wav")
    (root / "b").symlink_to(root / "a")
    (root / "x.wav").symlink_to(root / "a/x.wav")
    monkeypatch.chdir(root)
    paths = ["y.wav", "./y.wav", root / "y.wav", "a/../y.wav", "missing", "./missing", STDIN, STDIN]
    assert [str(song.path) for song in found(*map(Path, paths))] == ["y.wav", "missing", "-"]
    assert [song.path for song in found(root / "a/x.wav", root / "b/x.wav", root / "x.wav")] == [root / "a/x.wav"]
    assert names_of(found(root / "a", root / "a"), root) == ["a/x.wav"]


def test_no_file_is_opened_while_it_is_found(library, tmp_path, monkeypatch):
    root = library(*(f"artist {number % 4}/album {number}/{number}.mp3" for number in range(20)))

    def opened(*arguments, **settings):
        raise AssertionError(f"opened {arguments}")

    with monkeypatch.context() as patched:
        patched.setattr(soundfile, "SoundFile", opened)
        patched.setattr(Path, "open", opened)
        patched.setattr("builtins.open", opened)
        songs = found(root, output=tmp_path / "out")
    assert len(songs) == 20


# -------------------------------------------------------------------------------------------------------------- names


def test_folders_keep_their_structure(library):
    (song,) = found(library("artist/album/song.v2.flac"), output=Path("o"), format="flac")
    assert song.files == {stem: Path(f"o/artist/album/song.v2/{stem}.flac") for stem in STEMS}
    assert song.images == {}


@pytest.mark.parametrize(
    "template, name",
    [
        ("{song}_{stem}.{ext}", "a/b/song_vocals.wav"),
        ("{stem}/{song}.{ext}", "a/b/vocals/song.wav"),
        ("{stem}/{folder}/{song}.{ext}", "vocals/a/b/song.wav"),
        ("{folder}/{model}/{song} - {stem}.{ext}", "a/b/net/song - vocals.wav"),
        ("x-{folder}-{song}-{stem}.{ext}", "x-a/b-song-vocals.wav"),
        ("{song}/{stem}.WAV", "a/b/song/vocals.WAV"),
    ],
)
def test_a_template_names_the_files(library, template, name):
    (song,) = found(library("a/b/song.wav"), output=Path("o"), name_template=template)
    assert song.files["vocals"] == Path("o") / name


def test_the_folder_of_a_song_named_directly_is_the_one_it_lies_in(library):
    root = library("song.wav")
    for template in ("{folder}/{song}/{stem}.{ext}", "{song}/{folder}/{stem}.{ext}"):
        for named in (root, root / "song.wav"):
            (song,) = found(named, output=Path("o"), name_template=template)
            name = template.format(folder=root.name, song="song", stem="vocals", ext="wav")
            assert song.files["vocals"] == Path("o") / name
        (song,) = found(Path("-"), output=Path("o"), name_template=template)
        assert song.files["vocals"] == Path("o/stdin/vocals.wav")


@pytest.mark.parametrize(
    "template",
    [
        "../{song}/{stem}.{ext}",
        "{song}/../../{stem}.{ext}",
        "/tmp/{song}{stem}.{ext}",
        "C:/{song}{stem}.{ext}",
        "c:{song}{stem}.{ext}",
        "{song}//{stem}.{ext}",
        "{song}/{stem}/",
        "./{song}/{stem}.{ext}",
        "{folder}../{song}{stem}.{ext}",
        "{folder}{folder}/{song}{stem}.{ext}",
        "{song:/>9}{stem}.{ext}",
        "{song!r}{stem}.{ext}",
        "{song}{stem:.0}.{ext}",
        "{song}{stem}\0.{ext}",
        "{song}.{stem}.flac",
    ],
)
def test_a_template_that_leads_astray_is_wrong_usage(library, template):
    with pytest.raises(ConfigError, match=r"`name_template` .*(expected|not below)") as error:
        found(library("a.wav"), name_template=template)
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    "template",
    [
        "{song}{stem}",
        "{song}.{stem}",
        "{song}{stem}{ext}",
        "{stem}/{song}/.{ext}",
        "{song}{stem}.{ext} ",
        "{stem}.{song}",
    ],
)
def test_a_file_without_the_suffix_of_its_format_is_wrong_usage(library, template):
    with pytest.raises(ConfigError, match=r"expected \.{ext} at the end; `format` is mp3"):
        found(library("a.wav"), name_template=template, format="mp3")
    with pytest.raises(ConfigError, match=r"expected \.{ext} at the end"):
        found(library("a.wav"), name_template="{song}", stem="vocals")


def test_a_format_in_the_template_is_taken_where_it_is_true(library):
    (song,) = found(library("a.wav"), name_template="{song}.{stem}.flac", format="flac")
    assert song.files["vocals"] == Path("out/a.vocals.flac")


@given(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
        lambda name: name not in (".", "..")
    ),
    st.sampled_from(
        ["{song}/{stem}.{ext}", "{song}{stem}.wav", "{stem}/{song}.{ext}", "{model}/{folder}/{song}/{stem}.{ext}"]
    ),
)
def test_no_song_leads_out_of_the_output_folder(name, template):
    names = Names.of(SeparateOptions(name_template=template, images=True), STEMS, "../net")
    files, images = names.of_song(Path(name).stem, PurePath())
    for path in (*files.values(), *images.values()):
        assert not path.is_absolute() and ".." not in path.parts
        assert os.path.normpath(path) == str(path)
    assert len({*files.values(), *images.values()}) == 5


def test_songs_called_like_folders_stay_below_the_output_folder(library):
    root = library("plain.wav")
    for name in ("..wav", "...wav"):
        (root / name).touch()
        (song,) = found(root / name, output=Path("o"))
        assert all(path.parts[0] == "o" and set(path.parts[1]) <= {"_"} | set(name) for path in song.files.values())
        assert ".." not in song.files["vocals"].parts


def test_one_stem_alone_needs_no_stem_in_its_name(library):
    (song,) = found(library("a.wav"), stem="vocals", name_template="{song}.{ext}", images=True)
    assert song.files == {"vocals": Path("out/a.wav")}
    assert song.images == {"mask": Path("out/a.mask.png"), "vocals": Path("out/a.vocals.png")}
    for stem, said in (("drums", "drums"), ("", "''")):
        with pytest.raises(ConfigError, match=f"`stem` {said}: the model has vocals, instrumental"):
            found(library("a.wav"), stem=stem)


def test_images_stand_beside_the_stems(library):
    root = library("b/a.wav")
    (song,) = found(root, output=Path("o"), images=True)
    assert song.images == {kind: Path(f"o/b/a/{kind}.png") for kind in ("mask", *STEMS)}
    (song,) = found(root, output=Path("o"), images=True, name_template="{stem}-{song}.wav")
    assert song.images["mask"] == Path("o/b/mask-a.wav.png")


@pytest.mark.parametrize(
    "names",
    [
        ("a/Song.wav", "a/song.flac"),
        (f"a/{unicodedata.normalize('NFC', 'é')}.wav", f"a/{unicodedata.normalize('NFD', 'é')}.wav"),
        ("a/STRASSE.wav", "a/straße.wav"),
    ],
)
def test_two_songs_of_one_name_fail_before_the_others_begin(library, names):
    root = library("a/another.wav", *names)
    first, second, other = found(root)
    assert {first.path, second.path} == {root / name for name in names}
    assert str(first.path) in str(second.error) and str(second.path) in str(first.error)
    assert not first.outputs and not second.outputs and not first.marks
    assert other.error is None and other.files["vocals"] == Path("out/a/another/vocals.wav")
    assert [song.error for song in found(root / names[0], root / "a/another.wav")] == [None, None]


def test_the_suffix_of_the_input_tells_songs_of_one_name_apart(library):
    root = library("a/song.wav", "a/song.flac", "a/Song.WAV")
    assert all("rename one" in str(song.error) for song in found(root))
    pair = (root / "a/song.wav", root / "a/song.flac")
    assert all("{input_ext} in `name_template`" in str(song.error) for song in found(*pair))
    songs = found(*pair, name_template="{song}.{input_ext}/{stem}.{ext}", images=True)
    assert [song.error for song in songs] == [None, None]
    assert [song.files["vocals"].as_posix() for song in songs] == [
        f"out/{name}/vocals.wav" for name in ("song.wav", "song.flac")
    ]
    assert len({path for song in songs for path in song.outputs}) == 10


def test_songs_of_two_folders_collide_and_those_of_one_do_not(library):
    root = library("a/song.wav", "b/song.wav", "c/a/song.wav")
    assert failing(found(root)) == []
    assert [path.parent.name for path in failing(found(root / "a", root / "b"))] == ["a", "b"]
    flat = "{stem}/{song}.{ext}"
    named = found(root / "a/song.wav", root / "b/song.wav", name_template=flat)
    assert all("and so would" in str(song.error) and "{folder} in `name_template`" in str(song.error) for song in named)
    assert failing(found(root, name_template=flat)) == []


def test_all_songs_that_would_get_one_file_are_named_up_to_a_few(library):
    root = library(*(f"{number}/{number % 2}/a.wav" for number in range(7)))
    songs = found(*root.glob("*/*/a.wav"))
    assert len(failing(songs)) == 7 and all("and 3 more; rename one" in str(song.error) for song in songs)


def test_a_stem_of_one_song_collides_with_another_stem_of_another(library):
    options = SeparateOptions(name_template="{song}{stem}.{ext}")
    songs = find_songs([library("a.wav", "as.wav", "b.wav")], Path("out"), ("s", "ss"), options, "net")
    assert [path.name for path in failing(songs)] == ["a.wav", "as.wav"]
    assert all("would become out/ass.wav" in str(song.error) for song in songs[:2])


def test_a_file_of_one_song_cannot_be_a_folder_of_another(library):
    root = library("a.wav", "a.vocals.wav/b.wav", "c.wav")
    songs = found(root, name_template="{song}.{stem}.{ext}")
    assert [path.name for path in failing(songs)] == ["b.wav", "a.wav"]
    assert all("out/a.vocals.wav would be its" in str(song.error) for song in songs[:2])


def test_an_input_is_never_replaced(library):
    root = library("a.wav", "a/vocals.wav", "b.wav")
    (failed, *others) = found(root / "a.wav", root / "a/vocals.wav", root / "b.wav", output=root)
    assert failed.path == root / "a.wav" and failing(others) == []
    assert f"{root / 'a/vocals.wav'} would replace the input" in str(failed.error)
    (root / "link").symlink_to(root)
    for output in (root, root / "link"):
        (song,) = found(root / "a.wav", output=output, stem="vocals", name_template="{song}.{ext}")
        assert "would replace the input" in str(song.error)


# ----------------------------------------------------------------------------------------------------- what is there


def test_what_is_there_decides_what_is_done(tmp_path):
    song = Song(tmp_path / "a.wav", files={stem: tmp_path / f"{stem}.wav" for stem in STEMS})
    kept, forced, plain = SeparateOptions(skip_existing=True), SeparateOptions(force=True), SeparateOptions()
    assert existing(song) == "none" and to_do(song, plain) and to_do(song, kept) and to_do(song, forced)
    song.files["instrumental"].write_bytes(b"sound")
    assert existing(song) == "some" and to_do(song, kept) and to_do(song, forced)
    with pytest.raises(AudioError, match=r"instrumental\.wav is there already; `force`"):
        to_do(song, plain)
    song.files["vocals"].touch()
    assert existing(song) == "some" and to_do(song, kept)  # an empty file is no stem
    song.files["vocals"].write_bytes(b"sound")
    assert existing(song) == "all" and not to_do(song, kept) and to_do(song, forced)
    song.images["mask"] = tmp_path / "mask.png"
    assert existing(song) == "some"


def test_what_is_no_file_is_not_replaced_although_it_has_no_size(tmp_path):
    song = Song(Path("a.wav"), files={"vocals": tmp_path / "vocals.wav"})
    (tmp_path / "vocals.wav").symlink_to("nowhere")
    assert existing(song) == "none"
    (tmp_path / "vocals.wav").unlink()
    os.mkfifo(tmp_path / "vocals.wav")
    assert existing(song) == "all"


def test_an_output_that_is_a_folder_is_an_error_of_its_song(tmp_path):
    (tmp_path / "vocals.wav").mkdir()
    for options in ({}, {"force": True}, {"skip_existing": True}):
        with pytest.raises(AudioError, match=r"a\.wav: .*vocals\.wav is a folder"):
            to_do(Song(Path("a.wav"), files={"vocals": tmp_path / "vocals.wav"}), SeparateOptions(**options))


def test_what_cannot_be_there_is_not_there(tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file/vocals.wav", tmp_path / ("x" * 300), tmp_path / "none" / "vocals.wav"):
        assert existing(Song(Path("a.wav"), files={"vocals": path})) == "none"
