"""`ft evaluate`: songs in folders, stems of other tools, and what is left out and named."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from ft.checkpoint import save_checkpoint
from ft.cli import main
from ft.config import ModelConfig, Output, Spectrogram, Waveform
from ft.errors import AudioError, ConfigError
from ft.evaluation import evaluate as evaluation
from ft.evaluation.evaluate import EvaluateOptions, evaluate
from ft.evaluation.report import exit_code, report_lines, to_json
from ft.evaluation.rows import BASELINES, ceilings
from ft.evaluation.scores import METRICS, SHOWN, check_metrics, shown_metrics
from ft.evaluation.songs import find_song_folders, read_song
from ft.metrics import BssReferences, sdr
from ft.models import conv_tasnet, make_network
from ft.separate import Separator

RATE = 44100
ENERGY = ("sdr", "si_sdr")


@pytest.fixture(scope="session")
def stems(example):
    """Two seconds of the example: (2, samples) of each stem."""
    part = {"start": 441000, "frames": 2 * RATE, "dtype": "float32"}
    return {stem: soundfile.read(example / f"{stem}.flac", **part)[0].T for stem in ("vocals", "instrumental")}


def write(folder, rate=RATE, **waves):
    folder.mkdir(parents=True, exist_ok=True)
    for name, wave in waves.items():
        soundfile.write(folder / f"{name}.wav", wave.T, rate, subtype="FLOAT")
    return folder


@pytest.fixture
def songs(tmp_path, stems):
    """One song as MUSDB18-HQ has it, one as this project has it."""
    music = stems["instrumental"]
    parts = {"drums": 0.5 * music, "bass": 0.25 * music, "other": 0.25 * music}
    write(tmp_path / "songs/test/One", vocals=stems["vocals"], mixture=stems["vocals"] + music, **parts)
    write(tmp_path / "songs/test/Two", vocals=0.5 * stems["vocals"], instrumental=music)
    return tmp_path / "songs"


def options(**changes):
    return EvaluateOptions(**{"metrics": ENERGY, "baselines": (), **changes})


def of_the_truth(songs, **changes):
    """Options for which no model is needed: the stems themselves are the estimates."""
    return options(estimates=[songs / "test"], **changes)


def test_instrumental_is_the_sum_of_the_other_stems(songs, stems):
    (songs / "again").symlink_to(songs)  # a circle, which ends
    found = find_song_folders([songs, songs / "test/One"])
    assert [song.name for song in found] == ["test/One", "test/Two"]
    one, two = (read_song(song.path) for song in found)
    assert np.allclose(one.stems["instrumental"], stems["instrumental"], atol=1e-6)
    assert np.allclose(two.mixture, 0.5 * stems["vocals"] + stems["instrumental"], atol=1e-6)
    assert one.residual_db > 60 and one.sample_rate == RATE


def test_a_song_alone_has_the_name_of_its_folder(songs, tmp_path, monkeypatch):
    monkeypatch.chdir(songs / "test/One")
    assert [song.name for song in find_song_folders([Path()])] == ["One"]
    (tmp_path / "empty").mkdir()
    for folder, message in (("empty", "no song in it"), ("absent", "no such folder")):
        with pytest.raises(AudioError, match=message):
            find_song_folders([tmp_path / folder])


def test_mono_stems_count_for_both_channels(tmp_path, stems):
    write(tmp_path / "song", vocals=stems["vocals"][:1], instrumental=stems["instrumental"])
    song = read_song(tmp_path / "song")
    assert np.array_equal(song.stems["vocals"][1], stems["vocals"][0])
    assert song.mixture.shape == stems["vocals"].shape


@pytest.mark.parametrize("layout", ["{name}", "test/{name}", "{name}/mixture"])
def test_stems_of_other_tools_are_scored(songs, stems, tmp_path, layout):
    """Parts that add up to the instrumental, and names of other tools for it."""
    ours, music = 0.9 * stems["vocals"], stems["instrumental"]
    write(
        tmp_path / "theirs" / layout.format(name="One"),
        vocals=ours,
        drums=0.5 * music,
        bass=0.3 * music,
        other=0.1 * music,
    )
    write(tmp_path / "theirs" / layout.format(name="Two"), vocals=ours, accompaniment=0.9 * music)
    found = evaluate([songs], options(estimates=[tmp_path / "theirs"]))
    assert [row.name for row in found.rows] == ["theirs"]
    assert found.values("theirs", "instrumental", "sdr") == pytest.approx([20, 20], abs=1e-3)
    expected = [20, sdr(0.9 * stems["vocals"], 0.5 * stems["vocals"])]
    assert found.values("theirs", "vocals", "sdr") == pytest.approx(expected, abs=1e-3)
    known = found.aggregate("theirs", "vocals", "sdr")
    assert known["n"] == 2 and known["mean"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert exit_code(found) == 0


@pytest.mark.parametrize(
    ("vocals", "instrumental"),
    [
        ("1_One_(Vocals)", "1_One_(Instrumental)"),  # UVR, and into a folder for each model
        ("One_(Vocals)_model_bs_roformer", "One_(Instrumental)_model_bs_roformer"),  # python-audio-separator
        ("UVR/1_One_(Vocals)", "UVR/1_One_(Instrumental)"),
        ("One_vocals", "One_instrumental"),  # MSST
        ("One - Vocals", "One - No Vocals"),
        ("One/1_mixture_(Vocals)", "One/1_mixture_(Instrumental)"),
        ("htdemucs/One/vocals", "htdemucs/One/no_vocals"),  # demucs
        ("One/vocals", "One/accompaniment"),  # spleeter
        ("One/Vocals", "One/Karaoke"),
        ("One_Vocals", "One_Instruments"),  # vocal-remover
    ],
)
def test_names_of_the_field_are_understood(songs, stems, tmp_path, vocals, instrumental):
    for name, wave in ((vocals, 0.9 * stems["vocals"]), (instrumental, 0.9 * stems["instrumental"])):
        write((tmp_path / "theirs" / name).parent, **{Path(name).name: wave})
    others = (f"1_One (Live)_{word}" for word in ("(Vocals)", "vocals"))
    write(tmp_path / "theirs", **dict.fromkeys(others, stems["vocals"]))
    found = evaluate([songs], options(estimates=[tmp_path / "theirs"]))
    assert [song.problems == [] for song in found.songs] == [True, False]
    for stem in ("vocals", "instrumental"):
        assert found.values("theirs", stem, "sdr") == pytest.approx([20], abs=1e-3)


def test_a_file_that_nobody_named_is_in_no_figure(songs, stems, tmp_path):
    """Neither among true stems nor among estimates, whether or not it would be needed."""
    write(songs / "test/One", **{"One (full mix)": stems["vocals"]})
    write(tmp_path / "theirs/Two", **stems, **{"vocals copy": stems["vocals"]})
    found = evaluate([songs], options(estimates=[tmp_path / "theirs"]))
    assert "One (full mix).wav: no stem's name; expected one of mixture, vocals," in (found.songs[0].error or "")
    assert ["vocals copy.wav" in problem for problem in found.songs[1].problems] == [True]
    assert found.aggregate("theirs", "vocals", "sdr")["n"] == 0 and exit_code(found) == 1
    (songs / "test/One/One (full mix).wav").rename(songs / "test/One/._vocals.wav")  # hidden, as macOS leaves them
    assert read_song(songs / "test/One").made.files["vocals"] == "vocals.wav"


def test_what_was_summed_is_said(songs, stems, tmp_path):
    parts = {f"One_({name})": stems["instrumental"] / 2 for name in ("Guitar", "Drums")}
    write(tmp_path / "theirs/One", vocals=stems["vocals"], **parts)
    write(tmp_path / "theirs/Two", mixture=stems["vocals"] + stems["instrumental"], vocals=stems["vocals"])
    (songs / "test/One/drums.wav").rename(songs / "test/One/guitar 1.wav")
    (songs / "test/One/bass.wav").rename(songs / "test/One/guitar 2.wav")
    found = evaluate([songs], options(estimates=[tmp_path / "theirs"]))
    text = "\n".join(report_lines(found))
    assert "the songs, instrumental: guitar 1 + guitar 2 + other (1 song)" in text
    assert "theirs, instrumental: drums + guitar (1 song)" in text
    assert "theirs, instrumental: mixture - vocals (1 song)" in text
    one, two = to_json(found)["songs"]
    assert one["made_of"]["stems"] == {"vocals": "vocals", "instrumental": "guitar 1 + guitar 2 + other"}
    files = {"vocals": "vocals.wav", "drums": "One_(Drums).wav", "guitar": "One_(Guitar).wav"}
    assert one["estimates_made_of"]["theirs"]["files"] == files
    assert two["estimates_made_of"]["theirs"]["stems"]["instrumental"] == "mixture - vocals"


@pytest.mark.parametrize("missing", ["vocals", "instrumental"])
def test_a_stem_is_what_the_other_one_leaves_of_the_mixture(stems, tmp_path, missing):
    known = {name: wave for name, wave in stems.items() if name != missing}
    write(tmp_path / "song", mixture=stems["vocals"] + stems["instrumental"], **known)
    song = read_song(tmp_path / "song")
    for name, wave in stems.items():
        assert np.allclose(song.stems[name], wave, atol=1e-6)


@pytest.mark.parametrize("more", [-5, 5])
def test_ends_are_cut_or_filled_where_that_is_allowed(songs, stems, tmp_path, more):
    longer = {name: np.pad(wave, ((0, 0), (0, 5)), constant_values=0.5) for name, wave in stems.items()}
    longer = {name: wave[:, : 2 * RATE + more] for name, wave in longer.items()}
    write(tmp_path / "theirs/One", **longer)
    allowed = options(estimates=[tmp_path / "theirs"], length_tolerance=np.int64(5), metrics=("sdr", "v4_sdr"))
    found = evaluate([songs / "test/One"], allowed)
    assert exit_code(found) == 0 and found.values("theirs", "vocals", "sdr")[0] > 30
    known = to_json(found)["songs"][0]["estimates_made_of"]["theirs"]["samples_longer"]
    assert known == {"vocals.wav": more, "instrumental.wav": more}
    assert "theirs: cut, or silence added, at the end: up to 5 samples (1 song)" in "\n".join(report_lines(found))
    json.dumps(to_json(found))
    refused = evaluate([songs / "test/One"], dataclasses.replace(allowed, length_tolerance=4)).songs[0].problems
    assert all(f"{2 * RATE + more} samples; the song has {2 * RATE}; `length_tolerance` 5" in each for each in refused)
    assert len(refused) == 2


def test_estimates_that_cannot_be_told_apart_are_refused(songs, stems, tmp_path):
    for model in ("htdemucs", "mdx"):
        write(tmp_path / "theirs" / model / "One", **stems)
    with pytest.raises(AudioError, match=r"htdemucs/One and .*mdx/One: of one song"):
        evaluate([songs / "test/One"], options(estimates=[tmp_path / "theirs"]))
    names = ("One_(Vocals)_a", "One_(Vocals)_b", "One_(Instrumental)_a")
    write(tmp_path / "twice", **dict.fromkeys(names, stems["vocals"]))
    found = evaluate([songs / "test/One"], options(estimates=[tmp_path / "twice"]))
    assert "One_(Vocals)_a.wav and One_(Vocals)_b.wav; expected one file" in found.songs[0].problems[0]
    write(tmp_path / "none", **{"1_Two_(Vocals)": stems["vocals"]})
    with pytest.raises(AudioError, match=r"stems of none of the songs; .*no folder of stems"):
        evaluate([songs / "test/One"], options(estimates=[tmp_path / "none"]))


def test_estimates_that_do_not_fit_are_named_and_in_no_mean(songs, stems, tmp_path):
    theirs = tmp_path / "theirs"
    write(theirs / "One", vocals=stems["vocals"][:, :-5])
    write(theirs / "Two", vocals=0.4 * stems["vocals"])
    write(theirs / "Two", rate=48000, instrumental=stems["instrumental"])
    found = evaluate([songs], options(estimates=[theirs]))
    one, two = found.songs
    assert any("88195 samples; the song has 88200" in problem for problem in one.problems)
    assert any("no instrumental.*" in problem for problem in one.problems)
    assert any("48000 Hz; the song has 44100 Hz" in problem for problem in two.problems)
    assert found.aggregate("theirs", "vocals", "sdr")["n"] == 1
    assert found.aggregate("theirs", "instrumental", "sdr") == {"n": 0, "left_out": 2, "mean": None, "median": None}
    assert exit_code(found) == 1
    text = "\n".join(report_lines(found))
    assert "n=1" in text and text.count("88195 samples") == text.count("48000 Hz") == 1
    assert text.endswith("done: 2 of 2 songs, 2 of them failed")


def test_an_instrumental_that_lacks_a_stem_of_the_song_is_no_estimate(songs, stems, tmp_path):
    music = stems["instrumental"]
    write(tmp_path / "theirs/One", vocals=stems["vocals"], drums=0.5 * music, bass=0.25 * music)
    write(tmp_path / "theirs/Two", vocals=stems["vocals"], drums=0.5 * music, bass=0.5 * music)
    found = evaluate([songs], options(estimates=[tmp_path / "theirs"]))
    assert [problem for song in found.songs for problem in song.problems] == [
        f"theirs: {tmp_path / 'theirs/One'}: no other.*, which the song has; the others are not its instrumental"
    ]
    assert found.aggregate("theirs", "instrumental", "sdr")["n"] == 1
    assert found.aggregate("theirs", "vocals", "sdr")["n"] == 2


@pytest.mark.parametrize("where", ["read_song", "SongScorer"])
def test_a_song_too_large_for_memory_leaves_the_others(songs, monkeypatch, where):
    real = getattr(evaluation, where)

    def full(first, *others):
        if done:
            raise MemoryError
        done.append(1)
        return real(first, *others)

    done = []
    monkeypatch.setattr(evaluation, where, full)
    found = evaluate([songs], of_the_truth(songs))
    assert found.songs[0].error is None and found.aggregate("test", "vocals", "sdr")["n"] == 1
    assert str(songs / "test/Two") in found.songs[1].error and exit_code(found) == 1


def test_ideal_masks_of_different_transforms_have_rows_of_their_own():
    model = ModelConfig(front=Spectrogram(bins=256))

    def other(output: Output = model.output, rate: int = 44100, **front) -> ModelConfig:
        return dataclasses.replace(
            model, front=dataclasses.replace(model.front, **front), output=output, sample_rate=rate
        )

    changed = [other(rate=22050), other(bins=512), other(Output(above=8)), other(win_length=2046, hop_length=1023)]
    alike = [
        other(scale="window-peak"),
        other(Output(above=8), bins=512),
        ModelConfig(front=Waveform(), output=Output("waveform")),
    ]
    rows = list(ceilings(["ideal-ratio-mask"], [model, *changed, *alike]))
    assert len(rows) == len({row.name for row in rows}) == len({row.definition for row in rows}) == 5


def test_a_song_without_stems_fails_and_the_others_go_on(songs, tmp_path, stems):
    write(songs / "bad", vocals=stems["vocals"], drums=stems["vocals"][:, 1:])
    write(songs / "half", mixture=stems["vocals"])
    (songs / "odd").mkdir()
    (songs / "odd/vocals.wav").write_bytes(b"RIFF of nothing")
    found = evaluate([songs], of_the_truth(songs, baselines=("mixture",)))
    errors = {song.name: song.error for song in found.songs}
    assert errors["test/One"] is None and errors["test/Two"] is None
    assert "samples" in errors["bad"] and "no vocals" in errors["half"] and "odd" in errors["odd"]
    assert found.aggregate("mixture", "vocals", "sdr")["n"] == 2
    assert exit_code(found) == 1 and "3 of 5 songs failed" in "\n".join(report_lines(found))


def test_a_silent_reference_is_in_no_mean(songs, stems):
    quiet = 1e-5 * np.sign(stems["vocals"])
    write(songs / "test/Three", vocals=quiet, instrumental=stems["instrumental"])
    metrics = ("sdr", "v4_sdr", "v3_sdr", "bleedless")
    found = evaluate([songs / "test/Three"], of_the_truth(songs, baselines=("mixture",), metrics=metrics))
    scores = found.songs[0].rows["mixture"]
    assert scores["vocals"].left_out == dict.fromkeys(metrics, "the reference is silent")
    assert set(scores["instrumental"].scores) == {"sdr", "bleedless"}
    assert "the reference of vocals is silent" in scores["instrumental"].left_out["v4_sdr"]
    assert found.aggregate("mixture", "vocals", "sdr")["n"] == 0
    assert exit_code(found) == 0 and "the reference is silent" in "\n".join(report_lines(found))
    json.dumps(to_json(found), allow_nan=False)


def test_the_truth_has_no_infinite_mean(songs, stems, tmp_path):
    write(tmp_path / "theirs/Two", vocals=0.5 * stems["vocals"], instrumental=stems["instrumental"])
    found = evaluate(
        [songs / "test/Two"], options(estimates=[tmp_path / "theirs"], metrics=("sdr", "v4_sdr", "bleedless"))
    )
    scores = found.songs[0].rows["theirs"]["vocals"]
    assert "infinite" in scores.left_out["v4_sdr"] and scores.scores["bleedless"] == 100
    assert math.isfinite(found.aggregate("theirs", "vocals", "sdr")["mean"])


def test_engines_and_baselines_share_a_table(songs, tiny_checkpoint, tmp_path):
    """Models of two runtimes; the JSON says of both what ran, and holds every definition."""
    json_file, plot_file = tmp_path / "out.json", tmp_path / "out.png"
    command = ["-q", "evaluate", str(songs / "test/One"), "--json", str(json_file), "--plot", str(plot_file)]
    command += ["--model", "default-int8", "--engine", str(tiny_checkpoint), "--metrics", "sdr,l1_freq"]
    result = CliRunner().invoke(main, [*command, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    found = json.loads(json_file.read_text())
    assert found["schema"] == "ft-evaluate-1" and set(found["definitions"]) == {"sdr", "l1_freq"}
    names = [row["name"] for row in found["rows"]]
    assert names[:5] == [*BASELINES[:3], "default-int8", "tiny"]
    assert [name.split()[0] for name in names[5:]] == [*BASELINES[3:]] * 2  # at the STFT of each model
    engines = found["rows"][3:5]
    assert [row["engine"] for row in engines] == ["onnxruntime", "torch"]
    assert [row["precision"] for row in engines] == ["int8", "fp32"]
    assert all(len(row["sha256"]) == 64 for row in engines)
    scores = {name: found["aggregate"][name]["vocals"]["sdr"]["mean"] for name in names}
    assert scores["silence"] == pytest.approx(0, abs=1e-6)
    assert scores["tiny"] < scores["default-int8"] < scores[names[5]] < scores[names[6]]
    assert "n_fft" in found["rows"][-1]["stft"] and found["songs"][0]["samples"] == 2 * RATE
    assert found["songs"][0]["stems_to_mixture_db"] > 60
    assert plot_file.read_bytes().startswith(b"\x89PNG")
    for name in names:
        assert name in result.output


@pytest.fixture
def four_stems(tmp_path):
    """A checkpoint of a model that gives MUSDB18's stems, and no rest."""
    config = dataclasses.replace(conv_tasnet.tiny(), stems=("drums", "bass", "other", "vocals"), rest=None)
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "four.safetensors", make_network(config).state_dict(), config)
    return tmp_path / "four.safetensors"


def test_models_of_two_and_of_four_stems_stand_in_one_table(songs, four_stems, stems, tmp_path):
    """Of each stem that a song has; the instrumental of four stems is the sum of its parts."""
    both = options(models=["default-int8", str(four_stems)], baselines=BASELINES, metrics=("sdr",))
    found = evaluate([songs], both)
    assert exit_code(found) == 0 and found.stems == ["vocals", "instrumental", "drums", "bass", "other"]
    one, two = (song.rows for song in found.songs)
    assert list(one["four"]) == found.stems and list(two["four"]) == found.stems[:2]
    assert all("sdr" in one[row][stem].scores for row in ("silence", "mixture", "four") for stem in found.stems)
    assert one["default-int8"]["drums"].left_out == dict.fromkeys(both.metrics, "no estimate")
    assert one["ideal-ratio-mask"]["drums"].scores["sdr"] > one["mixture"]["drums"].scores["sdr"]
    alone = evaluate([songs], dataclasses.replace(both, models=["default-int8"], baselines=()))
    assert alone.stems == found.stems[:2]
    assert all(alone.songs[0].rows["default-int8"][stem] == one["default-int8"][stem] for stem in alone.stems)
    estimates = Separator(four_stems).separate(read_song(songs / "test/One").mixture, RATE)
    music = sum(estimates[part] for part in ("drums", "bass", "other"))
    assert one["four"]["instrumental"].scores["sdr"] == pytest.approx(sdr(music, stems["instrumental"]), abs=1e-3)
    assert to_json(found)["aggregate"]["four"]["drums"]["sdr"]["n"] == 1
    text = "\n".join(report_lines(found))
    assert "drums, 2 songs" in text and "the songs, instrumental: bass + drums + other (1 song)" in text
    only = evaluate([songs / "test/One"], dataclasses.replace(both, stems=("bass",), baselines=("silence",)))
    assert only.stems == ["bass"] and [*only.songs[0].rows["silence"]] == ["bass"]


def test_parts_of_other_tools_are_scored_as_museval_scores_four_stems(songs, stems, tmp_path):
    drums, bass = 0.4 * stems["instrumental"], 0.3 * stems["instrumental"][:, ::-1]
    parts = {"drums": drums, "bass": bass, "other": stems["instrumental"] - drums - bass}
    write(songs / "test/Three", vocals=stems["vocals"], **parts)
    theirs = {name: np.roll(wave, 20, axis=1) for name, wave in {"vocals": stems["vocals"], **parts}.items()}
    write(tmp_path / "theirs/Three", **theirs)
    found = evaluate([songs / "test/Three"], options(estimates=[tmp_path / "theirs"], metrics=("v3_sdr", "v3_sir")))
    scores = found.songs[0].rows["theirs"]
    truth = {"vocals": stems["vocals"], **parts}
    mono = [np.stack([wave.mean(axis=0)[None] for wave in waves.values()]) for waves in (truth, theirs)]
    expected = BssReferences(mono[0]).v3(mono[1], permute=False)
    for index, part in enumerate(parts, 1):
        assert scores[part].scores["v3_sir"] == pytest.approx(expected.sir[index], abs=1e-3)
    assert found.stems[:2] == ["vocals", "instrumental"] and exit_code(found) == 0


def test_an_estimate_that_is_no_sound_is_named(songs, stems, tmp_path):
    for name in ("One", "Two"):
        write(tmp_path / "theirs" / name, vocals=stems["vocals"] * np.nan, instrumental=stems["instrumental"])
    found = evaluate([songs], options(estimates=[tmp_path / "theirs"]))
    assert found.aggregate("theirs", "vocals", "sdr")["n"] == 0
    assert found.aggregate("theirs", "instrumental", "sdr")["n"] == 2
    assert "not finite" in found.songs[0].problems[0] and exit_code(found) == 1


def test_songs_of_one_name_are_told_apart(songs, stems, tmp_path):
    for name in ("a/One", "b/One", "c/a/One"):
        write(tmp_path / name, vocals=stems["vocals"], instrumental=stems["instrumental"])
    both = find_song_folders([tmp_path / "a", tmp_path / "b"])
    assert [song.name for song in both] == ["a/One", "b/One"]
    names = [song.name for song in find_song_folders([tmp_path / "a", tmp_path / "c/a"])]
    assert names[0].endswith(f"{tmp_path.name}/a/One") and names[1].endswith("/c/a/One") and len(set(names)) == 2
    assert not any(Path(name).is_absolute() for name in names)  # below a folder of estimates it is that of a song
    write(tmp_path / "theirs/One", **stems)
    write(tmp_path / "theirs/b/One", **stems)
    found = evaluate([tmp_path / "a", tmp_path / "b"], options(estimates=[tmp_path / "theirs"], stems=("vocals",)))
    assert [bool(song.problems) for song in found.songs] == [True, False]  # whose One is it?
    assert "theirs/a/One: no folder" in found.songs[0].problems[0]


def test_a_mixture_that_is_not_the_sum_is_said(songs, stems):
    loud = 1.2 * (stems["vocals"] + stems["instrumental"])
    write(songs / "test/Three", mixture=loud, **stems)
    found = evaluate([songs], of_the_truth(songs))
    assert [len(song.notes) for song in found.songs] == [0, 1, 0]
    assert "not the sum of its stems: what they miss is -16 dB" in found.songs[1].notes[0]
    text = "\n".join(report_lines(found))
    assert f"test/Three: {found.songs[1].notes[0]}" in text and exit_code(found) == 0
    assert to_json(found)["songs"][1]["notes"] == found.songs[1].notes


def test_picture_and_table_show_the_same(songs, monkeypatch, tmp_path):
    from matplotlib.figure import Figure

    from ft.evaluation.plot import save_plot

    drawn: list[str] = []

    def savefig(self, path: Path, **settings) -> None:
        drawn.extend(axes.get_xlabel() for axes in self.axes)
        path.touch()

    monkeypatch.setattr(Figure, "savefig", savefig)
    song = [songs / "test/One"]
    found = evaluate(song, options(estimates=[songs / "test"], metrics=("sdr", "v4_sir"), stems=("vocals",)))
    save_plot(tmp_path / "out.png", found)
    assert [label.split(",")[0] for label in drawn] == ["SDR", "v4 SIR"]
    assert "v4 SIR" in "\n".join(report_lines(found))
    assert shown_metrics(tuple(METRICS)) == list(SHOWN)


def test_interrupted_run_tells_what_was_done(songs):
    def stop(share: float) -> None:
        if share > 0.5:
            raise KeyboardInterrupt

    found = evaluate([songs], of_the_truth(songs), stop)
    assert found.interrupted and len(found.songs) == 1 and found.found == 2
    assert exit_code(found) == 130 and "interrupted: 1 of 2" in "\n".join(report_lines(found))


def test_wrong_options_are_refused(songs, tmp_path):
    with pytest.raises(ConfigError, match="no such metric"):
        check_metrics("sdr,sdrr")
    assert check_metrics("v4_sdr, sdr") == ("sdr", "v4_sdr") and check_metrics("all") == tuple(METRICS)
    for wrong in ({"baselines": ("nothing",)}, {"metrics": ()}):
        with pytest.raises(ConfigError, match="expected some of"):
            EvaluateOptions(**wrong)
    with pytest.raises(AudioError, match="no such folder"):
        evaluate([songs], options(estimates=[tmp_path / "absent"]))
    with pytest.raises(ConfigError, match="stems: 'guitar', expected some of vocals, instrumental, bass, drums, other"):
        evaluate([songs], of_the_truth(songs, stems=("guitar",)))
    runner = CliRunner()
    assert runner.invoke(main, ["evaluate", str(tmp_path / "absent")]).exit_code == 1
    (tmp_path / "taken").write_text("")
    command = ["evaluate", str(songs), "--metrics", "sdr", "--baselines", "silence", "--estimates", str(songs / "test")]
    result = runner.invoke(main, [*command, "--json", str(tmp_path / "taken/out.json")])
    assert result.exit_code == 1 and "cannot be written" in result.output and "silence" not in result.output
    result = runner.invoke(main, [*command, "--metrics", "L1_freq", "--stems", "Vocals", "--baselines", "SILENCE"])
    assert result.exit_code == 0 and "L1 freq" in result.output and "silence" in result.output
    assert "typo.onnx: no such file" in runner.invoke(main, [*command, "-m", "typo.onnx"]).output
    for wrong in (["--json", "a", "--plot", "a"], ["--device", "cpu"], ["--runtime", "TORCH"]):
        assert "Usage" in runner.invoke(main, [*command, *wrong]).output
    assert "is for --estimates" in runner.invoke(main, ["evaluate", str(songs), "--length-tolerance", "5"]).output
