"""Flags that are made of a dataclass."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from ft.cli import main
from ft.cli.flags import GROUPS, SAME_MEANING, GroupedCommand, flag, grouped_option, options_of, with_flags
from ft.cli.separate import Request, _Report
from ft.cli.verbosity import set_verbosity
from ft.errors import ConfigError
from ft.options import SeparateOptions
from ft.songs.report import SongRecord

FIELDS = {item.name: item for item in fields(SeparateOptions)}
OTHER_VALUES = {
    "format": "flac",
    "bit_depth": "24",
    "bitrate": "192",
    "stem": "vocals",
    "two_stems": "vocals",
    "name_template": "{stem}/{song}.{ext}",
    "track": "2",
    "start": "1.5",
    "duration": "3",
    "windows": "original",
    "ensemble_by": "median",
    "device": "cpu",
    "runtime": "openvino",
    "memory": "pycuda",
    "segment_seconds": "4",
    "context_seconds": "0.5",
    "overlap": "0.1",
    "batch_size": "3",
    "threads": "2",
}
SWITCHES = {name for name, item in FIELDS.items() if item.default is False}


def command(**settings) -> click.Command:
    @click.command(cls=GroupedCommand, **settings)
    @click.argument("files", nargs=-1)
    @grouped_option("-o", "--output", group="Output", help="Folder.")
    @grouped_option("--raw", group="Pipes", help="Samples without a header.")
    @options_of(SeparateOptions)
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    def separate(files, output, raw, options, as_json):
        """Separate."""
        taken.append((files, output, options, as_json))

    taken: list = []
    separate.taken = taken  # type: ignore[attr-defined]
    return separate


def options_from(*arguments: str, **settings) -> SeparateOptions:
    made = command()
    result = CliRunner().invoke(made, arguments, catch_exceptions=False, **settings)
    assert result.exit_code == 0, result.output
    return made.taken[0][2]  # type: ignore[attr-defined]


def help_text() -> str:
    return CliRunner().invoke(command(), ["--help"], terminal_width=200).output


def test_every_field_has_a_flag_that_sets_it_alone():
    assert set(OTHER_VALUES) | SWITCHES == set(FIELDS)
    for name, item in FIELDS.items():
        words = [flag(name)] if name in SWITCHES else [flag(name), OTHER_VALUES[name]]
        if name == "bitrate":
            words += ["--format", "mp3"]
        options = options_from(*words)
        value = getattr(options, name)
        assert value != item.default
        assert value is True if name in SWITCHES else type(value)(OTHER_VALUES[name]) == value
        others = set(FIELDS) - {name, "format" if name == "bitrate" else name}
        assert all(getattr(options, other) == FIELDS[other].default for other in others)


def test_nothing_given_is_what_the_dataclass_says():
    assert options_from() == SeparateOptions()
    assert all(item.default is not MISSING for item in FIELDS.values())


def test_only_what_was_given_is_passed_on():
    seen: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SeparateOptions, "__init__", lambda self, **values: seen.update(values))
        options_from("--device", "auto", "--tta", "song.wav")
    assert seen == {"device": "auto", "tta": True}  # given, though as it is by default


def test_a_variable_and_a_default_map_are_given_too():
    made = command(context_settings={"auto_envvar_prefix": "FT", "default_map": {"threads": 3}})
    CliRunner().invoke(made, [], env={"FT_DEVICE": "cpu"}, catch_exceptions=False)
    options = made.taken[0][2]  # type: ignore[attr-defined]
    assert (options.device, options.threads) == ("cpu", 3)


def test_other_parameters_stay_as_they_are():
    made = command()
    CliRunner().invoke(made, ["a", "b", "-o", "out", "--json"], catch_exceptions=False)
    assert made.taken[0] == (("a", "b"), "out", SeparateOptions(), True)  # type: ignore[attr-defined]


def test_a_contradiction_is_the_projects_own_error():
    with pytest.raises(ConfigError, match="`bit_depth` float: flac") as error:
        CliRunner().invoke(command(), ["--format", "flac", "--bit-depth", "float"], catch_exceptions=False)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("words", [("--threads", "many"), ("--format", "aiff"), ("--start", "soon"), ("--nonsense",)])
def test_what_is_no_value_is_wrong_usage(words):
    result = CliRunner().invoke(command(), words)
    assert result.exit_code == 2 and words[-1] in result.output


def test_the_help_has_each_field_with_its_default_in_its_group():
    lines = help_text().splitlines()
    heads = [line[:-1] for line in lines if line and not line.startswith((" ", "Usage")) and line.endswith(":")]
    assert heads == [*GROUPS[:-1], "Pipes", "Other"]
    text = " ".join(" ".join(lines).split())
    sections = dict(zip(heads, _between(text, [f" {head}: " for head in heads]), strict=True))
    for name, item in FIELDS.items():
        section = sections[item.metadata["group"]]
        assert section.count(f"{flag(name)} ") == 1
        assert item.metadata["help"] in section
        if name not in SWITCHES:
            assert f"{item.metadata['help']} [default: {item.metadata['shown']}]" in section
    assert "-o, --output" in sections["Output"] and "--json" in sections["Other"] and "--help" in sections["Other"]
    assert "--raw" in sections["Pipes"]


def test_texts_of_all_groups_begin_in_one_column():
    columns = {
        line.index(text)
        for line in help_text().splitlines()
        for text in ("Take this audio track", "Format of the stems", "Average three", "Compute on", "Print JSON")
        if text in line
    }
    assert len(columns) == 1


def test_importing_it_loads_nothing_heavy():
    code = "import sys, ft.cli.flags; print({'numpy', 'soundfile', 'torch', 'yaml'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def _between(text: str, heads: list[str]) -> list[str]:
    starts = [text.index(head) for head in heads]
    return [text[start:end] for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


def test_flags_of_other_tools_lead_to_flags_that_exist():
    from ft.cli.separate import separate

    known = {name for parameter in separate.params for name in parameter.opts}
    for flags in SAME_MEANING.values():
        assert flags.split()[0] in known or flags.startswith("a folder")
    assert not {f"--{name}" for name in SAME_MEANING} & known


def test_numbers_of_numpy_are_numbers_and_choices_have_no_case():
    options = SeparateOptions(
        threads=np.int64(2), start=np.float32(1.5), force=np.True_, format="MP3", stem="Vocals", device="CUDA:1"
    )
    assert options == SeparateOptions(threads=2, start=1.5, force=True, format="mp3", stem="vocals", device="cuda:1")
    assert [type(value) for value in (options.threads, options.start, options.force)] == [int, float, bool]
    with pytest.raises(ConfigError, match="`threads`"):
        SeparateOptions(threads=np.array([1, 2]))
    with pytest.raises(ConfigError, match=r"`threads` 2\.5"):
        SeparateOptions(threads=np.float64(2.5))


def test_errors_name_options_and_the_command_line_their_flags(tmp_path):
    with pytest.raises(ConfigError, match=r"^`skip_existing` and `force` contradict each other"):
        SeparateOptions(skip_existing=True, force=True)
    result = CliRunner().invoke(main, ["separate", "song.wav", "--skip-existing", "--force"])
    assert result.stderr == "ft: --skip-existing and --force contradict each other; expected one of them\n"
    (tmp_path / "state.safetensors").touch()
    text = f"{tmp_path}: `resume`, `output` FOLDER, `rate`, `batch_size`; `with`"
    assert with_flags(text, main.commands["train"]) == f"{tmp_path}: --resume, -o FOLDER, `rate`, --batch-size; `with`"


def test_records_and_logs_name_flags(capsys):
    set_verbosity(verbose=False, quiet=False)
    logging.getLogger("ft.songs").warning("`bit_depth` float keeps the level")
    report = _Report(Request(inputs=(), output=Path("out"), options=SeparateOptions(), json=True))
    report.add(SongRecord(input="a.wav", status="failed", error="a.wav: `force` replaces it", warnings=("`track` 2",)))
    printed = capsys.readouterr()
    assert printed.err == "ft: --bit-depth float keeps the level\nft: a.wav: --force replaces it\n"
    record = json.loads(printed.out)
    assert (record["error"], record["warnings"]) == ("a.wav: --force replaces it", ["--track 2"])
