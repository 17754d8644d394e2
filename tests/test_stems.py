"""What the names of files say they hold."""

from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from ft.errors import ConfigError
from ft.options import SeparateOptions
from ft.songs import separate_file
from ft.stems import ALIASES, chosen, formula, recipe, stem_of, stem_of_song, with_sums

TWO = ("vocals", "instrumental")
FOUR = ("drums", "bass", "other", "vocals")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NO VOCALS", "instrumental"),
        ("Song (Live)_(Vocals)_model_bs_roformer_ep_317", "vocals"),
        ("Song_(Vocals)_a_(Vocals)_b", "vocals"),
        ("Song_(Vocals)_a_(Instrumental)_b", None),  # the backing vocals of vocals
        ("Song_(Vocals)_a_(Reverb)_b", None),
        ("vocals (1)", None),
        ("Song_(Vocals) (1)", None),
        ("vocals 2", None),
        ("no_drums", None),  # holds vocals
        ("backing_vocals", None),
        ("Song", None),
    ],
)
def test_a_name_is_known_or_it_is_not(name, expected):
    assert stem_of(name) == expected


def test_among_others_a_file_belongs_to_one_song():
    titles = ["1999", "One", "One (Instrumental)", "One 2", "99 One"]
    for title in titles:
        for name in (f"{title}_vocals", f"1_{title}_(Vocals)", f"1699999999_1_{title}_(Vocals)", f"{title} (vocals)"):
            assert [other for other in titles if stem_of_song(name, other) == "vocals"] == [title]


def test_every_name_stands_for_one_stem():
    names = [name for stem, others in ALIASES.items() for name in (stem, *others)]
    assert len(set(names)) == len(names)
    assert all(stem_of(name) == stem for stem, others in ALIASES.items() for name in (stem, *others))


def test_parts_are_part_of_the_instrumental_alone():
    known = ["drums", "guitar 1", "mixture"]
    assert formula(recipe("instrumental", known)) == "drums + guitar 1" and not recipe("vocals", known)
    assert formula(recipe("vocals", ["mixture", "instrumental"])) == "mixture - instrumental"
    assert not recipe("instrumental", ["vocals"]) and not recipe("vocals", ["mixture"])


@pytest.mark.parametrize(
    ("stems", "asked", "outputs"),
    [
        (TWO, {}, {"vocals": ("vocals",), "instrumental": ("instrumental",)}),
        (TWO, {"stem": "instrumental"}, {"instrumental": ("instrumental",)}),
        (TWO, {"stem": "no_vocals"}, {"no_vocals": ("instrumental",)}),
        (TWO, {"two_stems": "vocals"}, {"vocals": ("vocals",), "instrumental": ("instrumental",)}),
        (TWO, {"two_stems": "instrumental"}, {"instrumental": ("instrumental",), "vocals": ("vocals",)}),
        (FOUR, {"stem": "instrumental"}, {"instrumental": ("drums", "bass", "other")}),
        (FOUR, {"stem": "vocals+drums"}, {"vocals+drums": ("drums", "vocals")}),
        (FOUR, {"two_stems": "vocals"}, {"vocals": ("vocals",), "instrumental": ("drums", "bass", "other")}),
        (FOUR, {"two_stems": "drums"}, {"drums": ("drums",), "no_drums": ("bass", "other", "vocals")}),
        (FOUR, {"two_stems": "instrumental"}, {"instrumental": ("drums", "bass", "other"), "vocals": ("vocals",)}),
    ],
)
def test_outputs_are_stems_and_sums_of_stems(stems, asked, outputs):
    assert list(chosen(stems, **asked).items()) == list(outputs.items())
    blocks = with_sums({name: 2**number for number, name in enumerate(stems)}, outputs)
    assert all(blocks[name] == sum(blocks[part] for part in parts) for name, parts in outputs.items())
    if "two_stems" in asked:
        assert sum(blocks[name] for name in outputs) == sum(blocks[name] for name in stems)


@pytest.mark.parametrize(
    ("stems", "asked"),
    [(TWO, {"stem": "drums"}), (FOUR, {"two_stems": "piano"}), (("vocals",), {"two_stems": "vocals"})],
)
def test_a_stem_that_cannot_be_made_is_refused(stems, asked):
    ((option, stem),) = asked.items()
    with pytest.raises(ConfigError, match=f"^`{option}` {stem}: the model has {', '.join(stems)}$"):
        chosen(stems, **asked)
    with pytest.raises(ConfigError, match="`stem` '': the model"):
        chosen(stems, "")


class Shares:
    """Stands for a separator of a model of four stems, each of which is a known share of the mixture."""

    def __init__(self, **options):
        self.options, self.model, self.config = SeparateOptions(**options), "shares", SimpleNamespace(all_stems=FOUR)
        self.outputs = chosen(FOUR, self.options.stem, self.options.two_stems)
        self.engine = SimpleNamespace(describe=lambda: SimpleNamespace(name="stub", device="cpu", precision="fp32"))

    def ready(self):
        pass

    def levels(self, blocks, sample_rate):
        return None

    def stream(self, blocks, sample_rate, levels, **how):
        for block in blocks:
            yield {name: block * share for name, share in zip(FOUR, (0.1, 0.2, 0.3, 0.4), strict=True)}


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({"stem": "instrumental"}, {"instrumental": 0.6}),
        ({"two_stems": "vocals"}, {"vocals": 0.4, "instrumental": 0.6}),
        ({"two_stems": "drums"}, {"drums": 0.1, "no_drums": 0.9}),
    ],
)
def test_files_hold_the_sums_that_are_asked_for(tmp_path, options, shares):
    song = np.random.default_rng(1).uniform(-0.5, 0.5, (2, 4000)).astype(np.float32)
    soundfile.write(tmp_path / "song.wav", song.T, 8000, subtype="FLOAT")
    record = separate_file(Shares(**options), tmp_path / "song.wav", tmp_path / "out")
    assert list(record.files) == list(shares) and len(list((tmp_path / "out").rglob("*.wav"))) == len(shares)
    for name, share in shares.items():
        np.testing.assert_allclose(soundfile.read(record.files[name])[0].T, song * share, atol=1e-6)
