"""Flags that several commands have, flags made of the fields of a dataclass, and a help that shows them in groups."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

import click
from click.core import ParameterSource

from ft.options import SeparateOptions, words_of

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

GROUPS = ("Input", "Output", "Quality", "Engine", "Other")
OTHER = GROUPS[-1]
HELP_COLUMN = 32
MAX_WIDTH = 110


def flag(name: str) -> str:
    """Gives the flag of an option.

    >>> flag("bit_depth")
    '--bit-depth'
    """
    return "--" + name.replace("_", "-")


def with_flags(text: str, command: click.Command | None = None) -> str:
    """Writes the options of a command, or of the one that runs, as flags where a text has them in backticks.

    Those of `SeparateOptions` are always known. Other words in backticks stay as they are.

    >>> with_flags("`bit_depth` 24: mp3 has none; use `with`")
    '--bit-depth 24: mp3 has none; use `with`'
    """
    if command is None and (context := click.get_current_context(silent=True)) is not None:
        command = context.command
    known = {item.name: flag(item.name) for item in fields(SeparateOptions)} | _flags(command) | {"output": "-o"}
    return re.sub(r"`(\w+)`", lambda found: known.get(found[1], found[0]), text)


def _flags(command: click.Command | None) -> dict[str, str]:
    """Gives the flags of a command, or of those of a group, by the names of its options and by their own."""
    found: dict[str, str] = {}
    if isinstance(command, click.Group):
        for each in command.commands.values():
            found |= _flags(each)
    for option in command.params if command is not None else ():
        words = [word for word in option.opts if word.startswith("--")]
        found |= {word.removeprefix("--").replace("-", "_"): word for word in words}
        if words:
            found.setdefault(str(option.name), words[0])
    return found


def choice(*words: str) -> click.Choice:
    """Takes one of some words, in any case."""
    return click.Choice(words, case_sensitive=False)


PATH = click.Path(path_type=Path)
MODEL = ("-m", "--model", "--engine")
"""What a model is called in every command, `--engine` for those who know it so."""
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
DEVICE = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda[:N].")
SET = click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Override one key, e.g. train.seed=1."
)


class GroupedOption(click.Option):
    """An option that stands under `group` in the help of a `GroupedCommand`."""

    def __init__(self, *arguments: Any, group: str = OTHER, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.group = group


_OTHER_NAMES = {
    "--force": "overwrite replace",
    "--skip-existing": "resume",
    "-o": "out outdir output-dir output-path store-dir",
    "--format": "output-format codec ext",
    "--format wav": "wav",
    "--format flac": "flac",
    "--format mp3": "mp3",
    "--bit-depth 24": "int24",
    "--bit-depth float": "float32",
    "--bit-depth": "pcm-type",
    "--bitrate": "mp3-bitrate output-bitrate",
    "--stem": "single-stem stems targets",
    "--name-template": "filename filename-format filename-template custom-output-names",
    "--model": "model-filename model-path name",
    "--ensemble": "extra-models",
    "--tta": "shifts",
    "--segment-seconds": "segment segment-size chunk-size chunk-duration",
    "--threads": "jobs workers",
    "--device cpu": "cpu force-cpu",
    "--device cuda": "gpu cuda",
    "--start": "offset",
    "--duration": "end length",
    "--images": "draw-spectro output-image",
    "a folder as INPUT, which is searched with all that is in it": "recursive",
}
SAME_MEANING = {name: here for here, names in _OTHER_NAMES.items() for name in names.split()}
"""What flags of demucs, python-audio-separator, MSST, spleeter, open-unmix and vocal-remover are called here."""


class GroupedCommand(click.Command):
    """A command whose help shows its options under their groups, all in the same two columns."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.context_settings.setdefault("max_content_width", MAX_WIDTH)

    def parse_args(self, context: click.Context, arguments: list[str]) -> list[str]:
        """Parses; a flag that is none here is answered with the one of the same meaning, or else of a similar name."""
        try:
            return super().parse_args(context, arguments)
        except click.NoSuchOption as error:
            meant = SAME_MEANING.get(error.option_name.lstrip("-").lower().replace("_", "-"))
            if meant is None:
                raise
            raise click.UsageError(f"No such option '{error.option_name}'. Did you mean '{meant}'?", context) from None

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {name: [] for name in GROUPS}
        for parameter in self.get_params(context):
            row = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
            if row is not None:
                # Equally wide, so that the texts of all groups begin in one column.
                rows = groups.setdefault(getattr(parameter, "group", OTHER), [])
                rows.append((row[0].ljust(HELP_COLUMN), row[1]))
        groups[OTHER] = groups.pop(OTHER)  # the last, whatever groups came between
        for name, rows in groups.items():
            if rows:
                with formatter.section(name):
                    formatter.write_dl(rows, HELP_COLUMN)


def grouped_option(*flags: str, group: str = OTHER, **settings: Any) -> Callable[[Decorated], Decorated]:
    """`click.option` of an option that stands under `group`."""
    return click.option(*flags, cls=GroupedOption, group=group, **settings)


def options_of(kind: type[Any]) -> Callable[[Decorated], Decorated]:
    """Gives a command one flag for each field of a dataclass, and what was given as the argument `options`.

    A field's metadata says what its flag needs: `help`, `group`, `metavar`, and in `shown` its default in words. Only
    what was given is passed to `kind`, whose own defaults hold for the rest.

    Raises:
        ConfigError: by the command, where `kind` raises it for what was given.
    """
    types = get_type_hints(kind)
    items = fields(kind)

    def decorate(function: Decorated) -> Decorated:
        @functools.wraps(function)
        def with_options(*arguments: Any, **values: Any) -> Any:
            context = click.get_current_context()
            chosen = {item.name: values.pop(item.name) for item in items}
            given = {name: value for name, value in chosen.items() if _is_given(context, name)}
            return function(*arguments, options=kind(**given), **values)

        wrapped: Any = with_options
        for item in reversed(items):  # the decorator that is applied last stands first
            wrapped = _option(item, types[item.name])(wrapped)
        return wrapped

    return decorate


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) not in (None, ParameterSource.DEFAULT)


def _option(item: Field[Any], annotation: Any) -> Callable[[Decorated], Decorated]:
    """Gives the flag of a field of type bool, int, float, str, a choice of texts, or one of these or None."""
    metadata = item.metadata
    text = metadata["help"] if metadata["shown"] is None else f"{metadata['help']} [default: {metadata['shown']}]"
    settings: dict[str, Any] = {"help": text, "group": metadata["group"], "metavar": metadata["metavar"]}
    types = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not NoneType]
    if words := words_of(annotation):
        settings["type"] = choice(*words)
    elif types == [bool]:
        settings |= {"is_flag": True, "default": False}
    else:
        (settings["type"],) = types
    return grouped_option(flag(item.name), item.name, **settings)
