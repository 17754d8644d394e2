"""Dataclasses from plain values and from YAML.

The dataclasses are the truth: every key has its default and its check there, a YAML file lists only what it changes.
`model:`, `front:`, `output:`, `segment:` and `network:` describe a model (`ft.config.ModelConfig`), `train:` a training
run (`ft.train_config`). A preset is such a file in `ft/presets/`.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

from ft.errors import ConfigError, one_line

Section = TypeVar("Section")


def positive(section: Any, *names: str) -> None:
    """Raises ConfigError for the first of the named fields that is not above zero."""
    for name in names:
        if getattr(section, name) <= 0:
            raise ConfigError(f"{name}: {getattr(section, name)}, expected a number above 0")


def not_negative(section: Any, *names: str) -> None:
    """Raises ConfigError for the first of the named fields that is below zero."""
    for name in names:
        if getattr(section, name) < 0:
            raise ConfigError(f"{name}: {getattr(section, name)}, expected 0 or more")


def presets() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files("ft") / "presets"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_yaml(source: str | Path) -> dict[str, Any]:
    """The mapping in a preset (by name) or a YAML file.

    Raises:
        ConfigError: no such preset or file, or one that is no YAML mapping.
    """
    import yaml

    path = Path(source)
    try:
        if str(source) in presets():
            text = (resources.files("ft") / "presets" / f"{source}.yaml").read_text(encoding="utf-8")
        elif path.is_file():
            text = path.read_text(encoding="utf-8")
        else:
            raise ConfigError(f"{source}: no such file or preset; presets are {', '.join(presets())}")
        values = yaml.safe_load(text)
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source}: not text in UTF-8, expected a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not YAML: {one_line(error)}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: holds a {type(values).__name__}, expected sections such as model: and train:")
    return values


def override(values: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`values` with each `section.key=value` applied; the value is read as YAML. Raises ConfigError."""
    import copy

    import yaml

    result = copy.deepcopy(values)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path:
            raise ConfigError(f"--set {assignment}: expected section.key=value, e.g. train.learning_rate=3e-4")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--set {assignment}: the value is not YAML") from error
        *parents, key = path.split(".")
        node = result
        for parent in parents:
            if node.get(parent) is None:  # a section without keys, as in a file that says `train:` and no more
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise ConfigError(f"--set {assignment}: {parent} is a value and has no keys")
        node[key] = value
    return result


def check_keys(values: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    """Raises ConfigError for the first unknown key, with the nearest known one."""
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise ConfigError(f"{where}: unknown key '{key}'; did you mean '{near[0]}'?")


def build(cls: type[Section], values: Mapping[str, Any], where: str) -> Section:
    """An instance of the dataclass `cls` from plain values.

    Raises:
        ConfigError: an unknown key (the nearest valid one is named), a value of the wrong type, or a failed check.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: {values!r}, expected keys and values")
    hints = typing.get_type_hints(cls)
    check_keys(values, [f.name for f in dataclasses.fields(cls)], where)  # type: ignore[arg-type]
    arguments = {key: _coerce(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**arguments)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(where) else f"{where}: {message}") from error


def _coerce(kind: Any, value: Any, where: str) -> Any:
    """`value` as the annotated type. YAML reads 3e-4 as text, so numbers are read from text too; words have no case."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    value = _of_python(value)
    if origin is Literal:
        word = value.lower() if isinstance(value, str) else value
        if word not in arguments:
            raise ConfigError(f"{where}: {value!r}, expected {' or '.join(map(str, arguments))}")
        return word
    if origin in (typing.Union, types.UnionType):
        return _one_of(arguments, value, where)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {value!r}, expected keys and values")
        if arguments[1] is Any:
            return plain(dict(value))
        return {str(key): _coerce(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            value = [value]
        return tuple(_coerce(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if dataclasses.is_dataclass(kind):
        if isinstance(value, str) and hasattr(kind, "from_text"):
            return kind.from_text(value)
        return value if isinstance(value, kind) else build(kind, value, where)  # type: ignore[arg-type]
    return scalar(kind, value, where)


def _one_of(kinds: Sequence[Any], value: Any, where: str) -> Any:
    """`value` as one of several types: of dataclasses the one whose `kind` it names, else the first that takes it."""
    if value is None and type(None) in kinds:
        return None
    kinds = [kind for kind in kinds if kind is not type(None)]
    if dataclasses.is_dataclass(kinds[0]) and len(kinds) > 1:
        named = {typing.get_args(typing.get_type_hints(kind)["kind"])[0]: kind for kind in kinds}
        kind = value.get("kind", next(iter(named))) if isinstance(value, Mapping) else None
        return _coerce(named[_coerce(Literal[tuple(named)], kind, f"{where}: kind")], value, where)
    problems = []
    for kind in kinds:
        try:
            return _coerce(kind, value, where)
        except ConfigError as error:
            problems.append(str(error))
    expected = (problem.rpartition("expected ")[2] for problem in problems)
    raise ConfigError(f"{problems[0].rpartition('expected ')[0]}expected {' or '.join(expected)}")


def scalar(kind: Any, value: Any, where: str) -> Any:
    """`value` as int, float, bool or str. Raises ConfigError."""
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if kind is bool and isinstance(value, bool):
        return value
    if kind is str and isinstance(value, str | Path):
        return str(value)
    if kind in (int, float) and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = float("nan")
        if number == number and (kind is float or number.is_integer()):
            return kind(value if isinstance(value, int) else number)
    raise ConfigError(f"{where}: {value!r}, expected {names[kind]}")


def section(values: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    """The keys and values of a section; none where it is missing. Raises ConfigError."""
    found = values.get(name) or {}
    if not isinstance(found, Mapping):
        raise ConfigError(f"{where}: {name} is {found!r}, expected keys and values")
    return found


def plain(value: Any) -> Any:
    """What `dataclasses.asdict` gave as JSON and YAML hold it: lists, and numbers of Python.

    >>> plain({"heads": (4, 2)})
    {'heads': [4, 2]}
    """
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    value = _of_python(value)
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _of_python(value: Any) -> Any:
    """Numbers and arrays of NumPy as those of Python."""
    return value.tolist() if hasattr(value, "tolist") else value
