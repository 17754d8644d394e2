"""What the names of files say they hold."""

import pytest

from ft.stems import ALIASES, formula, recipe, stem_of, stem_of_song


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
